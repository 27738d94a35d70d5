//! What was asked of the origin: counters, the call log, opens, and calls in flight.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

use bytes::Bytes;
use netfs::remote::IoLimits;

use crate::{
    fault::Op,
    origin::Site,
    tree::{NodeId, display},
};

/// Most calls, events and breaches kept for [`MemoryFs::take_calls`](crate::MemoryFs::take_calls) and
/// the like; older ones are dropped, so that a test that never looks does not fill memory.
const LOG_MAX: usize = 1 << 16;

/// How often the origin was called and what it sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    calls: [u64; Op::ALL.len()],
    bytes: u64,
    holes: u64,
    uploaded: u64,
    written: u64,
}

impl Counts {
    /// Calls of one kind, failed ones included.
    #[must_use]
    pub fn calls(&self, op: Op) -> u64 {
        self.calls[op as usize]
    }

    /// Calls of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.calls.iter().sum()
    }

    /// Bytes of file data sent; holes reported as such do not count.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes reported as holes.
    #[must_use]
    pub fn hole_bytes(&self) -> u64 {
        self.holes
    }

    /// Bytes of file data received in writes, whatever became of them.
    #[must_use]
    pub fn uploaded(&self) -> u64 {
        self.uploaded
    }

    /// Bytes of those that were applied.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts {
            calls: std::array::from_fn(|i| self.calls[i].saturating_sub(earlier.calls[i])),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            holes: self.holes.saturating_sub(earlier.holes),
            uploaded: self.uploaded.saturating_sub(earlier.uploaded),
            written: self.written.saturating_sub(earlier.written),
        }
    }
}

/// One call, as logged.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Call {
    /// What kind.
    pub op: Op,
    /// The file's path at that time; for a lookup or a change of names the directory's (for a link the
    /// file's). Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// The name of a lookup or a change of names; of a move the old one.
    pub name: Option<String>,
    /// The range of a read, a write, and the like.
    pub range: Option<Range<u64>>,
    /// On whose behalf.
    pub uid: u32,
    /// Number of the open it rode on, counted from 1, if any.
    pub open: Option<u64>,
}

/// An event the origin sent, as logged.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A break of one file.
    Break {
        /// The file's key.
        key: Bytes,
    },
    /// A break of the whole volume.
    BreakAll,
    /// The volume's contents became untrustworthy.
    Scrub,
    /// The volume moved to another snapshot.
    SnapshotMoved,
    /// A file was deleted.
    Deleted {
        /// The file's key.
        key: Bytes,
    },
}

/// Opens granted and given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Opens {
    /// Tokens given out.
    pub opened: u64,
    /// Tokens dropped again.
    pub dropped: u64,
}

impl Opens {
    /// Tokens out now.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.opened - self.dropped
    }
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) counts: Counts,
    per_file: HashMap<NodeId, Counts>,
    calls: VecDeque<Call>,
    events: VecDeque<Event>,
    breaches: VecDeque<String>,
    pub(crate) in_flight: usize,
    pub(crate) opens: Opens,
    limits: HashMap<NodeId, Asked>,
    /// Ranges of the writes in flight, by number.
    writing: HashMap<NodeId, Vec<(u64, Range<u64>)>>,
    last_write: u64,
}

/// What the core was told about a file's limits.
#[derive(Clone, Copy, Default)]
struct Asked {
    times: u64,
    rsize_max: u64,
    wsize_max: u64,
    size_max: u64,
    segments_max: usize,
}

impl Ledger {
    pub(crate) fn call(&mut self, site: &Site) {
        self.counts.calls[site.op as usize] += 1;
        self.per_file.entry(site.file).or_default().calls[site.op as usize] += 1;
        self.in_flight += 1;
        push(
            &mut self.calls,
            Call {
                op: site.op,
                path: display(&site.path),
                name: site.name.as_deref().map(display),
                range: site.range.clone(),
                uid: site.uid,
                open: site.open,
            },
        );
    }

    pub(crate) fn sent(&mut self, file: NodeId, bytes: u64, holes: u64) {
        let per_file = self.per_file.entry(file).or_default();
        for counts in [&mut self.counts, per_file] {
            counts.bytes += bytes;
            counts.holes += holes;
        }
    }

    pub(crate) fn of_file(&self, file: NodeId) -> Counts {
        self.per_file.get(&file).copied().unwrap_or_default()
    }

    pub(crate) fn event(&mut self, event: Event) {
        push(&mut self.events, event);
    }

    pub(crate) fn breach(&mut self, what: String) {
        push(&mut self.breaches, what);
    }

    pub(crate) fn take_calls(&mut self) -> Vec<Call> {
        self.calls.drain(..).collect()
    }

    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    pub(crate) fn take_breaches(&mut self) -> Vec<String> {
        self.breaches.drain(..).collect()
    }

    /// How often limits were asked for before.
    pub(crate) fn limits_asked(&self, file: NodeId) -> u64 {
        self.limits.get(&file).map_or(0, |a| a.times)
    }

    pub(crate) fn limits_told(&mut self, file: NodeId, limits: &IoLimits) {
        let asked = self.limits.entry(file).or_default();
        asked.times += 1;
        asked.rsize_max = asked.rsize_max.max(limits.rsize);
        asked.wsize_max = asked.wsize_max.max(limits.wsize);
        asked.size_max = asked.size_max.max(limits.max_size);
        asked.segments_max = asked.segments_max.max(limits.max_segments);
    }

    /// So many bytes of a write were applied.
    pub(crate) fn written(&mut self, file: NodeId, bytes: u64) {
        let per_file = self.per_file.entry(file).or_default();
        for counts in [&mut self.counts, per_file] {
            counts.written += bytes;
        }
    }

    /// Counts a write and its place among those in flight; returns the number to end it with.
    pub(crate) fn begin_write(&mut self, site: &Site) -> u64 {
        self.check_transfer(site);
        self.last_write += 1;
        let Some(range) = site.range.clone() else { return self.last_write };
        let per_file = self.per_file.entry(site.file).or_default();
        for counts in [&mut self.counts, per_file] {
            counts.uploaded += range.end - range.start;
        }
        let path = display(&site.path);
        let limit = self.limits.get(&site.file).map_or(u64::MAX, |a| a.size_max);
        if range.end > limit {
            self.breach(format!("write of {path} up to {}, largest size {limit}", range.end));
        }
        let others = self.writing.entry(site.file).or_default();
        let met = others.iter().find(|(_, r)| r.start < range.end && range.start < r.end).cloned();
        others.push((self.last_write, range.clone()));
        if let Some((_, other)) = met {
            self.breach(format!("write of {path} at {range:?} while {other:?} is being written"));
        }
        self.last_write
    }

    pub(crate) fn end_write(&mut self, file: NodeId, number: u64) {
        if let Some(writing) = self.writing.get_mut(&file) {
            writing.retain(|(n, _)| *n != number);
            if writing.is_empty() {
                self.writing.remove(&file);
            }
        }
    }

    /// Checks a read or write against every limit that was ever stated: with concurrent calls the origin
    /// cannot tell which answer it was cut by, so only what no answer allows is a breach.
    pub(crate) fn check_transfer(&mut self, site: &Site) {
        let Some(range) = &site.range else { return };
        let (path, op) = (display(&site.path), site.op.name());
        let len = range.end - range.start;
        if len == 0 {
            self.breach(format!("zero-length {op} of {path} at {}", range.start));
        }
        let Some(asked) = self.limits.get(&site.file).copied() else {
            return self.breach(format!("{op} of {path} without asking its limits"));
        };
        let (name, max) = match site.op {
            Op::Write => ("wsize", asked.wsize_max),
            _ => ("rsize", asked.rsize_max),
        };
        if len > max {
            self.breach(format!("{op} of {len} bytes of {path}, {name} {max}"));
        }
        let (segments, max) = (site.segments, asked.segments_max);
        if segments > max {
            self.breach(format!("{op} of {segments} segments of {path}, limit {max}"));
        }
    }
}

fn push<T>(log: &mut VecDeque<T>, entry: T) {
    if log.len() == LOG_MAX {
        log.pop_front();
    }
    log.push_back(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_keep_the_newest_entries_and_are_bounded() {
        let mut log = VecDeque::new();
        (0..=LOG_MAX).for_each(|i| push(&mut log, i));
        assert_eq!((log.len(), log.front(), log.back()), (LOG_MAX, Some(&1), Some(&LOG_MAX)));
    }
}
