//! What can be chosen about a cache.

use std::time::Duration;

/// What happens to the kernel's copy of cached data.
///
/// Everything the core hands out sits in its own folios already; what the kernel keeps besides is a
/// second copy of the same bytes. The default drops the copy of freshly *filled* data, which the core
/// has in a folio at that very moment, and leaves *read* data to the kernel, because that is what lets
/// a disk hit be answered on the caller's thread without waiting (after a restart, when the core's
/// memory was too small, or when the reader bypasses it).
///
/// `examples/double_caching.rs` measures it. On ext4 (Linux 6.18) filling and syncing was as fast or
/// faster when written data is dropped, because writeback starts at once; small files cost the same,
/// and nothing of it stays in the kernel. Dropping read data as well costs every inline hit: a
/// repeated read goes to the disk each time. `O_DIRECT` was no faster than either, and would need
/// aligned buffers; `POSIX_FADV_DONTNEED` works only after a sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum KernelCache {
    /// Leave it to the kernel's page cache, which gives it up under memory pressure.
    Keep,
    /// Written data is dropped once it is on disk (`RWF_DONTCACHE`), where the file system can: not
    /// on btrfs, tmpfs and overlayfs.
    #[default]
    DropWritten,
    /// Written and read data are dropped.
    Drop,
}

impl KernelCache {
    pub(crate) fn drops_reads(self) -> bool {
        self == KernelCache::Drop
    }

    pub(crate) fn drops_writes(self) -> bool {
        self != KernelCache::Keep
    }
}

/// The choices, checked.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) io_threads: usize,
    pub(crate) max_descriptors: Option<usize>,
    pub(crate) max_in_flight: usize,
    pub(crate) max_in_flight_per_object: usize,
    pub(crate) flush_interval: Duration,
    pub(crate) kernel_cache: KernelCache,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            io_threads: 4,
            max_descriptors: None,
            max_in_flight: 512,
            max_in_flight_per_object: 64,
            flush_interval: Duration::from_millis(100),
            kernel_cache: KernelCache::default(),
        }
    }
}
