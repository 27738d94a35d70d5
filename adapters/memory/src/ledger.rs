//! What was asked of the origin: counters, the call log, opens, and calls in flight.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

use bytes::Bytes;

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

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts {
            calls: std::array::from_fn(|i| self.calls[i].saturating_sub(earlier.calls[i])),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            holes: self.holes.saturating_sub(earlier.holes),
        }
    }
}

/// One call, as logged.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Call {
    /// What kind.
    pub op: Op,
    /// The file's path at that time; for a lookup the directory's. Bytes that are not UTF-8 are
    /// replaced.
    pub path: String,
    /// The name of a lookup.
    pub name: Option<String>,
    /// The range of a read.
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
}

/// What the core was told about a file's limits.
#[derive(Clone, Copy, Default)]
struct Asked {
    times: u64,
    rsize_max: u64,
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

    pub(crate) fn limits_told(&mut self, file: NodeId, rsize: u64, segments: usize) {
        let asked = self.limits.entry(file).or_default();
        asked.times += 1;
        asked.rsize_max = asked.rsize_max.max(rsize);
        asked.segments_max = asked.segments_max.max(segments);
    }

    /// Checks a read against every limit that was ever stated: with concurrent calls the origin cannot
    /// tell which answer a read was cut by, so only a read that no answer allows is a breach.
    pub(crate) fn check_read(&mut self, site: &Site, segments: usize) {
        let Some(range) = &site.range else { return };
        let len = range.end - range.start;
        if len == 0 {
            self.breach(format!("zero-length read of {} at {}", display(&site.path), range.start));
        }
        let Some(asked) = self.limits.get(&site.file).copied() else {
            return self
                .breach(format!("read of {} without asking its limits", display(&site.path)));
        };
        if len > asked.rsize_max {
            let max = asked.rsize_max;
            self.breach(format!("read of {len} bytes of {}, rsize {max}", display(&site.path)));
        }
        if segments > asked.segments_max {
            let max = asked.segments_max;
            self.breach(format!(
                "read of {segments} segments of {}, limit {max}",
                display(&site.path)
            ));
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
