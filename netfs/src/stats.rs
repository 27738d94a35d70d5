//! Counters: what happened, how many bytes came from where, and a reason for every miss.
//!
//! Names follow the kernel's (rows 147 and 148) where it has one; the doc line of each counter gives
//! the kernel's abbreviation. Counting is a relaxed add; for the counters of the hit path it is a plain
//! one, on a cache line of the calling thread's own (`striped`).

mod striped;

use std::sync::atomic::{AtomicU64, Ordering};

use striped::{HotCounter, Striped};

/// A counter off the hit path.
#[derive(Default, Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn inc(&self) {
        self.add(1);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ident,)*) => {
        /// The live counters of one context.
        #[derive(Default, Debug)]
        pub(crate) struct Counters {
            /// Reads answered wholly from memory that was read before, and their bytes: the counters
            /// `memory_hits`, `memory_hit_bytes` and `read_bytes` in one step.
            whole_hits: Striped<2>,
            $($(#[doc = $doc])+ pub(crate) $name: $kind,)*
        }

        /// A snapshot of the counters since the context was built.
        #[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats { $($(#[doc = $doc])+ pub $name: u64,)* }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                let mut stats = Stats { $($name: self.$name.read(),)* };
                let [hits, bytes] = self.whole_hits.read_each();
                stats.memory_hits += hits;
                stats.memory_hit_bytes += bytes;
                stats.read_bytes += bytes;
                stats
            }
        }

        impl Stats {
            /// Every counter with its name, for tables and machine-readable output.
            #[must_use]
            pub fn fields(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            /// What was counted since `earlier`.
            #[must_use]
            pub fn since(&self, earlier: &Stats) -> Stats {
                Stats { $($name: self.$name.saturating_sub(earlier.$name),)* }
            }
        }
    };
}

counters! {
    /// Bytes of reads answered from memory.
    memory_hit_bytes: HotCounter,
    /// Reads answered wholly from memory on the caller's thread.
    memory_hits: HotCounter,
    /// Bytes readers got from the disk cache.
    disk_hit_bytes: HotCounter,
    /// Bytes from the server that were in memory before anybody read any of their page: readahead, or
    /// the fetch of a neighbour, had brought them. Counted is what each page's first reader got of it;
    /// whatever is read of the page after that, if only its other bytes, is a memory hit.
    readahead_hit_bytes: Counter,
    /// Bytes of whole pages (the file's last one up to its end) that were evicted from memory before
    /// anybody had read any of them: fetched for nothing. Pages dropped because the file changed do not
    /// count, nor the unread bytes of a page that was read in part.
    wasted_bytes: Counter,
    /// Bytes of zeros made locally for readers (beyond the zero point, known holes).
    zero_bytes: HotCounter,
    /// Bytes the server sent.
    origin_bytes: Counter,
    /// Bytes readers asked for and got.
    read_bytes: HotCounter,
    /// Bytes written through the page cache.
    write_bytes: Counter,
    /// Of those, bytes of [`write_bytes_at`](crate::File::write_bytes_at) that became folios without a copy.
    write_lent_bytes: Counter,
    /// Writes that had to wait because too much was dirty.
    write_throttled: Counter,
    /// Upload calls issued (UL).
    upload: Counter,
    /// Bytes the server acknowledged.
    upload_bytes: Counter,
    /// Rounds of sending again what the server had not taken (wq).
    upload_retry: Counter,
    /// Uploads and dirty bytes that met somebody else's change of the file.
    write_conflicts: Counter,
    /// Written bytes that were saved elsewhere and given up, because they met somebody else's change.
    write_kept_bytes: Counter,
    /// Written bytes given up because their file was removed.
    write_removed_bytes: Counter,
    /// Promises that were recalled by the server and given back.
    recalls: Counter,
    /// Bytes appended to the log of dirty bytes.
    log_bytes: Counter,
    /// Times the log of dirty bytes failed: bytes were uploaded instead, or a call failed.
    log_failed: Counter,
    /// Bytes that the log brought back after a restart.
    replayed_bytes: Counter,
    /// Bytes that the log had of files which are not on the server any more.
    replay_lost_bytes: Counter,
    /// DIO and unbuffered reads (DR).
    dio_reads: Counter,
    /// Writes past both caches.
    dio_writes: Counter,
    /// Readahead requests (RA).
    readahead: Counter,
    /// Read requests for a missing folio (RF).
    read_folio: Counter,
    /// Reads of a whole object (RS).
    read_single: Counter,
    /// Zero-filled slices (ZR).
    zero_fill: Counter,
    /// Server read calls issued (DL).
    download: Counter,
    /// Server read calls that ended well (ds).
    download_done: Counter,
    /// Server read calls that failed (df).
    download_failed: Counter,
    /// Server read calls that came back short and were continued (di).
    download_instead: Counter,
    /// Cache reads issued (RD).
    cache_read: HotCounter,
    /// Cache reads that ended well (rs).
    cache_read_done: HotCounter,
    /// Cache reads that failed and went to the server instead (rf).
    cache_read_failed: Counter,
    /// Cache writes issued (WR).
    cache_write: Counter,
    /// Cache writes that ended well (ws).
    cache_write_done: Counter,
    /// Cache writes refused or failed (wf).
    cache_write_failed: Counter,
    /// Bytes copied to the disk cache.
    cache_write_bytes: Counter,
    /// Read requests that went through a retry (rq).
    read_retry_requests: Counter,
    /// Subrequests issued again (rs).
    read_retry_subs: Counter,
    /// Replies whose facts were older than what was known already: reissued.
    late_replies: Counter,
    /// Subs abandoned at a deadline.
    abandoned: Counter,
    /// Validation calls to the server.
    validate: Counter,
    /// Callers that shared another caller's validation.
    validate_shared: Counter,
    /// Cached data dropped because the version had moved.
    drops: Counter,
    /// Break events from servers, for known and unknown files.
    breaks: Counter,
    /// Missed bytes never cached before.
    miss_cold_bytes: Counter,
    /// Missed bytes that had been evicted or were refused for want of room.
    miss_capacity_bytes: Counter,
    /// Missed bytes dropped because the version moved or the promise was lost with it.
    miss_coherency_bytes: Counter,
    /// Missed bytes that failed their checksum.
    miss_corruption_bytes: Counter,
    /// Missed bytes the caller asked not to take from the cache.
    miss_bypass_bytes: Counter,
    /// Missed bytes because the cache disk failed, was too slow, or refused.
    miss_fault_bytes: Counter,
    /// Folios evicted from memory.
    evictions: Counter,
    /// Bytes evicted from memory.
    evicted_bytes: Counter,
    /// Reads served through memory outside the cache because the budget was exhausted.
    transient_reads: Counter,
    /// Downloaded bytes that were offered to the disk cache and are not in it: the fill queue was full or
    /// shut down, the object could not be opened in time, or the cache refused them.
    fill_dropped_bytes: Counter,
    /// Bytes of fills dropped because the file changed before they were written.
    fill_stale_bytes: Counter,
    /// Times a request waited for room in the fill queue.
    fill_waits: Counter,
    /// Directory entry lookups answered from the dentry cache.
    dentry_hits: Counter,
    /// Lookups answered "does not exist" from the negative cache.
    negative_hits: Counter,
    /// Lookups sent to the server.
    lookups: Counter,
    /// Attribute reads answered from the cache.
    attr_hits: Counter,
    /// Access checks answered from the cache.
    access_hits: Counter,
    /// Cookies (n).
    cookies: Counter,
    /// Volumes (v).
    volumes: Counter,
    /// Volume key collisions (vcol).
    volume_collisions: Counter,
    /// Cookie acquires (Acquire n).
    acquires: Counter,
    /// Cookie acquires that succeeded (ok).
    acquires_ok: Counter,
    /// Cookie key collisions.
    cookie_collisions: Counter,
    /// Unused cookies put on the LRU (LRU n).
    lru_added: Counter,
    /// Unused cookies expired (exp).
    lru_expired: Counter,
    /// Unused cookies taken off the LRU by a new use (rmv).
    lru_removed: Counter,
    /// Unused cookies dropped from the LRU by a relinquish (drp).
    lru_dropped: Counter,
    /// Invalidations (Invals n).
    invalidates: Counter,
    /// Coherency updates (Updates n).
    updates: Counter,
    /// Resizes (rsz).
    resizes: Counter,
    /// Resizes that could not be done (rsn).
    resizes_failed: Counter,
    /// Relinquished cookies (Relinqs n).
    relinquishes: Counter,
    /// Retired cookies (rtr).
    retires: Counter,
    /// Cookies dropped at relinquish without an object (drop).
    relinquish_drops: Counter,
    /// Waits on the cache that ran into their bound; the server was asked instead.
    cache_wait_timeouts: Counter,
    /// Cache objects found with another identity.
    objects_stale: Counter,
    /// Cache objects found damaged.
    objects_corrupt: Counter,
    /// Calls the cache refused.
    cache_refusals: Counter,
}

impl Counters {
    /// A read of so many bytes that were all in memory and had been read before.
    #[inline]
    pub(crate) fn whole_hit(&self, bytes: u64) {
        self.whole_hits.add_each([1, bytes]);
    }
}

impl Stats {
    /// Bytes asked for that did not come from memory or disk.
    #[must_use]
    pub fn miss_bytes(&self) -> u64 {
        self.miss_reasons().iter().map(|(_, n)| n).sum()
    }

    /// Missed bytes by reason.
    #[must_use]
    pub fn miss_reasons(&self) -> [(&'static str, u64); 6] {
        [
            ("cold", self.miss_cold_bytes),
            ("capacity", self.miss_capacity_bytes),
            ("coherency", self.miss_coherency_bytes),
            ("corruption", self.miss_corruption_bytes),
            ("bypass", self.miss_bypass_bytes),
            ("fault", self.miss_fault_bytes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_hit_is_a_hit_its_bytes_and_bytes_read() {
        let c = Counters::default();
        c.whole_hit(7);
        c.whole_hit(5);
        let stats = c.snapshot();
        assert_eq!((stats.memory_hits, stats.memory_hit_bytes, stats.read_bytes), (2, 12, 12));
    }

    #[test]
    fn since_subtracts_every_field() {
        let c = Counters::default();
        c.breaks.add(3);
        let before = c.snapshot();
        c.breaks.inc();
        assert_eq!(c.snapshot().since(&before).breaks, 1);
    }
}
