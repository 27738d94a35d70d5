//! The state machine of one upload (B8, server stream): subrequests from issue to their end.
//!
//! Rules it keeps:
//!
//! - **R1** Subrequests partition the dirty runs they were made from; none spans two runs (row 72), none
//!   is empty or larger than the limits allow at the time it is issued (N-C31).
//! - **R2** A short write is continued from where it stopped when nothing is in flight (row 80, N-C31). Tries without progress are bounded ([`MAX_IDLE_TRIES`]).
//! - **R3** After a failure nothing new is issued (row 16). The first error stands (N-C10). What was
//!   not acknowledged is told by [`WriteRequest::unwritten`]: it stays dirty (unlike rows 77, 78).
//! - **R4** A serial request has one sub in flight, so that what an error leaves on the server is a
//!   contiguous prefix (row 87).

use std::ops::Range;

use super::read::MAX_IDLE_TRIES;
use crate::{
    error::{Errno, Error},
    remote::{IoLimits, WriteOutcome},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Planned,
    InFlight,
    Done,
    NeedRetry,
    Failed,
    Cancelled,
}

/// One subrequest. A retry makes new ones; what was acknowledged before stays behind as a `Done` one.
#[derive(Clone, Debug)]
struct Sub {
    range: Range<u64>,
    state: State,
    idle_tries: u8,
}

impl Sub {
    fn planned(range: Range<u64>, idle_tries: u8) -> Sub {
        Sub { range, state: State::Planned, idle_tries }
    }
}

/// One upload.
#[derive(Debug)]
pub(crate) struct WriteRequest {
    subs: Vec<Sub>,
    /// Ends of the memory segments (folios), for `max_segments`.
    segment_ends: Vec<u64>,
    serial: bool,
    error: Option<Error>,
}

impl WriteRequest {
    /// An upload of `runs` (ascending, not touching). `segment_ends` are the file offsets at which memory
    /// segments end, ascending.
    pub(crate) fn new(runs: &[Range<u64>], segment_ends: Vec<u64>, serial: bool) -> WriteRequest {
        let planned = |run: &Range<u64>| Sub::planned(run.clone(), 0);
        let subs = runs.iter().filter(|run| !run.is_empty()).map(planned).collect();
        WriteRequest { subs, segment_ends, serial, error: None }
    }

    /// Where a call that starts at `at` has to end.
    fn clip(&self, at: u64, end: u64, limits: &IoLimits) -> u64 {
        let mut stop = end.min(at.saturating_add(limits.wsize.max(1)));
        let first = self.segment_ends.partition_point(|&e| e <= at);
        let last = first.saturating_add(limits.max_segments.max(1) - 1);
        if let Some(&segment_end) = self.segment_ends.get(last) {
            stop = stop.min(segment_end);
        }
        stop
    }

    /// The bytes a sub is to write.
    pub(crate) fn range(&self, index: usize) -> Range<u64> {
        self.subs[index].range.clone()
    }

    /// The next sub to issue, in file order and as large as `limits` allow; it counts as in flight from here.
    /// `None` if there is none now: an error stands, a retry waits for quiet (R2), or a serial one is out.
    pub(crate) fn next_issue(&mut self, limits: &IoLimits) -> Option<usize> {
        let paused = self.subs.iter().any(|s| s.state == State::NeedRetry);
        if self.error.is_some() || paused || (self.serial && self.in_flight() > 0) {
            return None;
        }
        let planned = (0..self.subs.len()).filter(|&i| self.subs[i].state == State::Planned);
        let next = planned.min_by_key(|&i| self.subs[i].range.start)?;
        let Range { start, end } = self.range(next);
        let stop = self.clip(start, end, limits);
        let sub = &mut self.subs[next];
        sub.state = State::InFlight;
        sub.range.end = stop;
        if stop < end {
            let rest = Sub::planned(stop..end, sub.idle_tries);
            self.subs.push(rest);
        }
        Some(next)
    }

    /// A sub has ended with `written` bytes of its front acknowledged. Returns what of it is on the
    /// server now.
    pub(crate) fn finished(
        &mut self,
        index: usize,
        outcome: &WriteOutcome,
        written: u64,
    ) -> Range<u64> {
        let sub = &mut self.subs[index];
        debug_assert_eq!(sub.state, State::InFlight, "a sub ends once");
        let written = written.min(sub.range.end - sub.range.start);
        let stop = sub.range.start + written;
        let (acknowledged, rest) = (sub.range.start..stop, stop..sub.range.end);
        sub.range.end = stop;
        sub.state = State::Done;
        let idle = if written > 0 { 0 } else { sub.idle_tries + 1 };
        if let WriteOutcome::Failed(error) = outcome {
            self.fail(rest, error.clone());
        } else if rest.is_empty() {
            // All of it.
        } else if idle >= MAX_IDLE_TRIES {
            let told = format!("the server took no byte in {MAX_IDLE_TRIES} tries");
            self.fail(rest, Error::new(Errno::EIO, told));
        } else {
            self.subs.push(Sub { range: rest, state: State::NeedRetry, idle_tries: idle });
        }
        acknowledged
    }

    fn fail(&mut self, rest: Range<u64>, error: Error) {
        self.subs.push(Sub { range: rest, state: State::Failed, idle_tries: 0 });
        self.error.get_or_insert(error);
    }

    /// Subs in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.subs.iter().filter(|s| s.state == State::InFlight).count()
    }

    /// How often in a row what waits for a retry was sent without progress, 0 if nothing waits: how
    /// long to wait before [`begin_retry`](WriteRequest::begin_retry).
    pub(crate) fn retry_waits(&self) -> Option<u8> {
        let wanting = self.subs.iter().filter(|s| s.state == State::NeedRetry);
        let tries = wanting.map(|s| s.idle_tries).max()?;
        (self.in_flight() == 0 && self.error.is_none()).then_some(tries)
    }

    /// If nothing is in flight and something waits for a retry: plans it.
    pub(crate) fn begin_retry(&mut self) -> bool {
        if self.retry_waits().is_none() {
            return false;
        }
        let wanting = self.subs.iter_mut().filter(|s| s.state == State::NeedRetry);
        wanting.for_each(|sub| sub.state = State::Planned);
        true
    }

    /// The first error, if any.
    pub(crate) fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Whether everything has ended. With an error standing, what was not issued is cancelled here.
    pub(crate) fn complete(&mut self) -> bool {
        if self.in_flight() > 0 {
            return false;
        }
        let waiting = |s: &&mut Sub| matches!(s.state, State::Planned | State::NeedRetry);
        if self.error.is_some() {
            self.subs.iter_mut().filter(waiting).for_each(|s| s.state = State::Cancelled);
        }
        !self.subs.iter_mut().any(|s| waiting(&s))
    }

    /// What the server has not acknowledged, in file order.
    pub(crate) fn unwritten(&self) -> Vec<Range<u64>> {
        let missing = self.subs.iter().filter(|s| s.state != State::Done && !s.range.is_empty());
        let mut ranges: Vec<_> = missing.map(|s| s.range.clone()).collect();
        ranges.sort_by_key(|r| r.start);
        ranges
    }
}

#[cfg(all(test, not(shuttle)))]
#[path = "write_tests.rs"]
mod tests;
