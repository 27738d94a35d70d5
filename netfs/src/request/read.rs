//! The state machine of one read (B6, B7): subrequests from issue to their end.
//!
//! Rules it keeps:
//!
//! - **R1** Subrequests partition the request's range at all times (N-C6).
//! - **R2** A cache result that is not complete goes to the server, never to the reader (rows 28, 29,
//!   N-C2). A source changes from cache to server, never back.
//! - **R3** A short server read continues from where it stopped; without progress it ends with
//!   `ENODATA` (row 31, N-C9). Tries without progress are bounded ([`MAX_IDLE_TRIES`]): upstream had
//!   no bound (row 34).
//! - **R4** After a failure or a demand for a retry nothing new is issued (row 16); retries start when
//!   nothing is in flight (N-C14).
//! - **R5** The first error stands (N-C10). What was never issued is cancelled, not failed: only
//!   readers that need the failed bytes hear of the error.

use std::ops::Range;

use super::plan::{Slice, Source};
use crate::{
    error::{Errno, Error},
    remote::{IoLimits, Outcome},
};

/// Tries in a row that may end without a byte of progress.
pub(crate) const MAX_IDLE_TRIES: u8 = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Planned,
    /// Bytes from the front that are settled and may be published before the end.
    InFlight(u64),
    Done,
    NeedRetry,
    Failed,
    Cancelled,
}

/// One subrequest. A retry makes new ones; what moved before stays behind as a `Done` one.
#[derive(Clone, Debug)]
pub(crate) struct Sub {
    pub(crate) range: Range<u64>,
    pub(crate) source: Source,
    pub(crate) copy_to_cache: bool,
    state: State,
    idle_tries: u8,
}

/// What a finished subrequest means for its memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// All bytes are there.
    Settled,
    /// The first `from` bytes are there; the rest is to be zeroed by the driver (rows 8, 9).
    ZeroTail,
    /// What is missing will be asked for again: keep the memory, as that of this sub.
    KeepForRetry(usize),
    /// Given up.
    Failed,
}

/// What a range has come to.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// Something is still missing.
    Pending,
    /// Every byte is in memory; the subs that brought them.
    Settled(Vec<usize>),
    /// Some bytes failed.
    Failed(Error),
    /// Some bytes were never asked for.
    Cancelled,
}

/// A run that is to be asked for again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Retry {
    /// Whose leftover memory the run consists of, in file order.
    pub(crate) from: Vec<usize>,
    /// The new subs that share it, in file order.
    pub(crate) into: Vec<usize>,
}

/// One read request.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    subs: Vec<Sub>,
    /// Ends of the memory segments (folios) below the range, for `max_segments`.
    segment_ends: Vec<u64>,
    error: Option<Error>,
    retried: bool,
}

impl ReadRequest {
    /// A request for the slices of a plan, split to the server's limits. `segment_ends` are the file
    /// offsets at which memory segments end, ascending.
    pub(crate) fn new(slices: &[Slice], segment_ends: Vec<u64>, limits: &IoLimits) -> ReadRequest {
        let mut req = ReadRequest { subs: Vec::new(), segment_ends, error: None, retried: false };
        for s in slices {
            match s.source {
                Source::Server => {
                    req.push_split(s.range.clone(), s.copy_to_cache, 0, limits);
                }
                _ => {
                    req.push(s.range.clone(), s.source, s.copy_to_cache, 0);
                }
            }
        }
        req
    }

    fn push(&mut self, range: Range<u64>, source: Source, copy_to_cache: bool, idle: u8) -> usize {
        let state = State::Planned;
        self.subs.push(Sub { range, source, copy_to_cache, state, idle_tries: idle });
        self.subs.len() - 1
    }

    fn push_split(
        &mut self,
        range: Range<u64>,
        copy_to_cache: bool,
        idle: u8,
        limits: &IoLimits,
    ) -> Vec<usize> {
        let mut at = range.start;
        let mut made = Vec::new();
        while at < range.end {
            let end = self.clip(at, range.end, limits);
            made.push(self.push(at..end, Source::Server, copy_to_cache, idle));
            at = end;
        }
        made
    }

    /// Where a server call that starts at `at` has to end.
    fn clip(&self, at: u64, end: u64, limits: &IoLimits) -> u64 {
        let mut stop = end.min(at.saturating_add(limits.rsize.max(1)));
        let first = self.segment_ends.partition_point(|&e| e <= at);
        let last = first.saturating_add(limits.max_segments.max(1) - 1);
        if let Some(&seg_end) = self.segment_ends.get(last) {
            stop = stop.min(seg_end);
        }
        let align = u64::from(limits.align.max(1));
        if stop < end && stop - stop % align > at {
            stop -= stop % align; // so that the next call starts aligned
        }
        assert!(stop > at, "every call makes progress");
        stop
    }

    pub(crate) fn sub(&self, index: usize) -> &Sub {
        &self.subs[index]
    }

    pub(crate) fn subs(&self) -> &[Sub] {
        &self.subs
    }

    /// Whether a retry happened.
    pub(crate) fn retried(&self) -> bool {
        self.retried
    }

    /// The next sub to issue, in file order; it counts as in flight from here. `None` while paused
    /// (R4) or when all are issued.
    pub(crate) fn next_issue(&mut self) -> Option<usize> {
        if self.error.is_some() || self.subs.iter().any(|s| s.state == State::NeedRetry) {
            return None;
        }
        let next = (0..self.subs.len())
            .filter(|&i| self.subs[i].state == State::Planned)
            .min_by_key(|&i| self.subs[i].range.start)?;
        self.subs[next].state = State::InFlight(0);
        Some(next)
    }

    /// The first `transferred` bytes of a sub in flight are settled.
    pub(crate) fn progress(&mut self, index: usize, transferred: u64) {
        let sub = &mut self.subs[index];
        if let State::InFlight(n) = &mut sub.state {
            *n = (*n).max(transferred.min(sub.range.end - sub.range.start));
        }
    }

    /// A sub has ended. `transferred` bytes from its front are in memory.
    pub(crate) fn finished(&mut self, index: usize, outcome: &Outcome, transferred: u64) -> Ended {
        let sub = &mut self.subs[index];
        debug_assert!(matches!(sub.state, State::InFlight(_)), "a sub ends once");
        let len = sub.range.end - sub.range.start;
        if transferred > len {
            return self
                .fail(index, Error::new(Errno::EIO, "more bytes arrived than were asked for"));
        }
        if sub.source == Source::Cache {
            // Whatever the cache's trouble is, the server has the bytes (R2).
            let whole = transferred == len && matches!(outcome, Outcome::Done);
            sub.state = if whole { State::Done } else { State::NeedRetry };
            return if whole { Ended::Settled } else { Ended::KeepForRetry(index) };
        }
        match outcome {
            Outcome::Failed(e) => self.fail(index, e.clone()),
            _ if transferred == len => {
                sub.state = State::Done;
                Ended::Settled
            }
            Outcome::Eof | Outcome::ClearTail => {
                sub.state = State::Done;
                Ended::ZeroTail
            }
            Outcome::Done if transferred == 0 => self.fail(
                index,
                Error::new(Errno::ENODATA, "the server sent nothing and did not say end of file"),
            ),
            Outcome::Done | Outcome::Retry => self.want_retry(index, transferred),
        }
    }

    fn want_retry(&mut self, index: usize, transferred: u64) -> Ended {
        let sub = &mut self.subs[index];
        sub.idle_tries = if transferred > 0 { 0 } else { sub.idle_tries + 1 };
        if sub.idle_tries >= MAX_IDLE_TRIES {
            let e = Error::new(
                Errno::EIO,
                format!("the server asked for a retry {MAX_IDLE_TRIES} times without progress"),
            );
            return self.fail(index, e);
        }
        if transferred > 0 {
            // What moved stays as a sub of its own; the rest waits for its retry.
            let rest = sub.range.start + transferred..sub.range.end;
            let copy = sub.copy_to_cache;
            sub.range.end = rest.start;
            sub.state = State::Done;
            let i = self.push(rest, Source::Server, copy, 0);
            self.subs[i].state = State::NeedRetry;
            return Ended::KeepForRetry(i);
        }
        sub.state = State::NeedRetry;
        Ended::KeepForRetry(index)
    }

    fn fail(&mut self, index: usize, error: Error) -> Ended {
        self.subs[index].state = State::Failed;
        self.error.get_or_insert(error);
        Ended::Failed
    }

    /// A sub was given up from outside (a deadline passed).
    pub(crate) fn abandon(&mut self, index: usize, error: Error) {
        if matches!(self.subs[index].state, State::InFlight(_)) {
            self.fail(index, error);
        }
    }

    /// Whether a sub's end is still expected (it may have been abandoned).
    pub(crate) fn is_in_flight(&self, index: usize) -> bool {
        matches!(self.subs[index].state, State::InFlight(_))
    }

    /// Subs in flight.
    pub(crate) fn in_flight(&self) -> Vec<usize> {
        (0..self.subs.len()).filter(|&i| matches!(self.subs[i].state, State::InFlight(_))).collect()
    }

    fn idle(&self) -> bool {
        !self.subs.iter().any(|s| matches!(s.state, State::InFlight(_)))
    }

    /// If the stream is quiet and something wants a retry: turns each contiguous run into server
    /// subs under renegotiated limits (row 33, N-C13). With an error standing, retries are cancelled.
    pub(crate) fn begin_retry(&mut self, limits: &IoLimits) -> Vec<Retry> {
        if !self.idle() || self.error.is_some() {
            return Vec::new();
        }
        let mut wanting: Vec<usize> =
            (0..self.subs.len()).filter(|&i| self.subs[i].state == State::NeedRetry).collect();
        wanting.sort_by_key(|&i| self.subs[i].range.start);
        let mut out: Vec<Retry> = Vec::new();
        let mut at = 0;
        while at < wanting.len() {
            let mut end = at + 1;
            while end < wanting.len() && self.adjoins(wanting[end - 1], wanting[end]) {
                end += 1;
            }
            out.push(self.retry_run(&wanting[at..end], limits));
            at = end;
        }
        self.retried |= !out.is_empty();
        out
    }

    fn adjoins(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.subs[a], &self.subs[b]);
        a.range.end == b.range.start && a.copy_to_cache == b.copy_to_cache
    }

    fn retry_run(&mut self, run: &[usize], limits: &IoLimits) -> Retry {
        let range = self.subs[run[0]].range.start..self.subs[run[run.len() - 1]].range.end;
        let idle = run.iter().map(|&i| self.subs[i].idle_tries).max().unwrap_or(0);
        // A cache page that could not be read is stored anew.
        let copy =
            run.iter().any(|&i| self.subs[i].copy_to_cache || self.subs[i].source == Source::Cache);
        for &i in run {
            let sub = &mut self.subs[i];
            sub.range.end = sub.range.start; // empty: covers nothing any more (R1)
            sub.state = State::Done;
        }
        let into = self.push_split(range, copy, idle, limits);
        Retry { from: run.to_vec(), into }
    }

    /// What has become of `range`.
    pub(crate) fn fate(&self, range: &Range<u64>) -> Fate {
        let mut by = Vec::new();
        let mut pending = false;
        let mut cancelled = false;
        for (i, s) in self.subs.iter().enumerate() {
            if s.range.start >= range.end || s.range.end <= range.start || s.range.is_empty() {
                continue;
            }
            by.push(i);
            match s.state {
                State::Done => {}
                // What ends where the sub does waits for its end: only that tells whether the server
                // sent more than was asked for (N-C12).
                State::InFlight(n) => {
                    pending |= range.end >= s.range.end || s.range.start + n < range.end;
                }
                State::Planned | State::NeedRetry if self.error.is_some() => cancelled = true,
                State::Planned | State::NeedRetry => pending = true,
                State::Cancelled => cancelled = true,
                State::Failed => return Fate::Failed(self.first_error()),
            }
        }
        match (cancelled, pending) {
            (_, true) => Fate::Pending,
            (true, false) => Fate::Cancelled,
            (false, false) => Fate::Settled(by),
        }
    }

    fn first_error(&self) -> Error {
        self.error.clone().unwrap_or_else(|| Error::new(Errno::EIO, "read failed"))
    }

    /// The first error, if any.
    pub(crate) fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Whether everything has ended: nothing in flight, nothing left to issue or retry (N-C15). With
    /// an error standing, what was not issued is cancelled here.
    pub(crate) fn complete(&mut self) -> bool {
        if !self.idle() {
            return false;
        }
        if self.error.is_some() {
            for s in &mut self.subs {
                if matches!(s.state, State::Planned | State::NeedRetry) {
                    s.state = State::Cancelled;
                }
            }
        }
        !self.subs.iter().any(|s| matches!(s.state, State::Planned | State::NeedRetry))
    }

    /// Bytes from the range's start up to the first that is not there (row 36, N-C16).
    pub(crate) fn contiguous_prefix(&self) -> u64 {
        let mut done: Vec<&Sub> = self.subs.iter().filter(|s| !s.range.is_empty()).collect();
        done.sort_by_key(|s| s.range.start);
        let Some(first) = done.first() else { return 0 };
        let start = first.range.start;
        let mut end = start;
        for s in done {
            if s.state != State::Done || s.range.start != end {
                break;
            }
            end = s.range.end;
        }
        end - start
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
