//! Counters.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use netfs::fscache::BackendStats;

/// The numbers of one cache. They only inform: every order is relaxed.
#[derive(Default, Debug)]
pub(crate) struct Counters {
    /// Objects open now.
    pub(crate) objects_open: AtomicU64,
    /// Backing files held open now.
    pub(crate) descriptors: AtomicUsize,
    /// Bytes read from disk.
    pub(crate) read_bytes: AtomicU64,
    /// Bytes written to disk.
    pub(crate) write_bytes: AtomicU64,
    /// Reads answered on the caller's thread.
    pub(crate) inline_reads: AtomicU64,
    /// Reads that went to the I/O threads.
    pub(crate) queued_reads: AtomicU64,
    /// Pages and map chunks that failed their checksum.
    pub(crate) corrupt_pages: AtomicU64,
    /// Objects replaced for another identity.
    pub(crate) stale_objects: AtomicU64,
    /// Objects replaced because they could not be trusted.
    pub(crate) corrupt_objects: AtomicU64,
    /// Calls refused, and write-backs of metadata that failed.
    pub(crate) refusals: AtomicU64,
}

impl Counters {
    /// Adds one.
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// Adds bytes.
    pub(crate) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }

    /// All numbers.
    pub(crate) fn snapshot(&self) -> BackendStats {
        let mut stats = BackendStats::default();
        stats.objects_open = self.objects_open.load(Relaxed);
        stats.descriptors = self.descriptors.load(Relaxed) as u64;
        stats.read_bytes = self.read_bytes.load(Relaxed);
        stats.write_bytes = self.write_bytes.load(Relaxed);
        stats.inline_reads = self.inline_reads.load(Relaxed);
        stats.queued_reads = self.queued_reads.load(Relaxed);
        stats.corrupt_pages = self.corrupt_pages.load(Relaxed);
        stats.stale_objects = self.stale_objects.load(Relaxed);
        stats.corrupt_objects = self.corrupt_objects.load(Relaxed);
        stats.refusals = self.refusals.load(Relaxed);
        stats
    }
}
