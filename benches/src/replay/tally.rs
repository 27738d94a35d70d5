//! What a thread counts itself.

use std::time::Duration;

use hdrhistogram::Histogram;
use netfs::folio::MemoryUsage;

use super::ReplayError;
use crate::trace::Request;

/// Longest latency told apart, in nanoseconds: ten minutes.
const LATENCY_MAX: u64 = 600_000_000_000;

pub(super) struct Tally {
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) wrong_bytes: u64,
    pub(super) request_hits: u64,
    pub(super) block_hits: u64,
    pub(super) block_reads: u64,
    pub(super) peak_memory: u64,
    pub(super) peak_pinned: u64,
    /// Time in requests; of several threads, the busiest one's.
    pub(super) busy: Duration,
    /// Nanoseconds a request.
    pub(super) latency: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> Result<Tally, ReplayError> {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX, 3);
        let latency = latency.map_err(|e| ReplayError::Internal(format!("histogram: {e}")))?;
        Ok(Tally {
            reads: 0,
            writes: 0,
            bytes: 0,
            written_bytes: 0,
            wrong_bytes: 0,
            request_hits: 0,
            block_hits: 0,
            block_reads: 0,
            peak_memory: 0,
            peak_pinned: 0,
            busy: Duration::ZERO,
            latency,
        })
    }

    pub(super) fn read(&mut self, request: &Request, busy: Duration) {
        self.reads += 1;
        self.bytes += u64::from(request.len);
        self.busy += busy;
        let nanos = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(nanos);
    }

    pub(super) fn blocks(&mut self, hits: u64, all: u64, whole: bool) {
        self.block_hits += hits;
        self.block_reads += all;
        self.request_hits += u64::from(whole);
    }

    pub(super) fn peaks(&mut self, usage: &MemoryUsage) {
        self.peak_memory = self.peak_memory.max(usage.budgeted);
        self.peak_pinned = self.peak_pinned.max(usage.pinned);
    }

    /// Adds another thread's.
    pub(super) fn add(&mut self, other: &Tally) -> Result<(), ReplayError> {
        self.reads += other.reads;
        self.writes += other.writes;
        self.bytes += other.bytes;
        self.written_bytes += other.written_bytes;
        self.wrong_bytes += other.wrong_bytes;
        self.request_hits += other.request_hits;
        self.block_hits += other.block_hits;
        self.block_reads += other.block_reads;
        self.peak_memory = self.peak_memory.max(other.peak_memory);
        self.peak_pinned = self.peak_pinned.max(other.peak_pinned);
        self.busy = self.busy.max(other.busy);
        let added = self.latency.add(&other.latency);
        added.map_err(|e| ReplayError::Internal(format!("histogram: {e}")))
    }
}
