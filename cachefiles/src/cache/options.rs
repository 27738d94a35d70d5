//! What can be chosen about a cache.

use std::time::Duration;

/// What happens to the kernel's copy of cached data: everything the core hands out sits in its own
/// folios already, so what the kernel keeps is a second copy of the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum KernelCache {
    /// Leave it to the kernel's page cache, which gives it up under memory pressure.
    #[default]
    Keep,
    /// Written data is dropped once it is on disk (`RWF_DONTCACHE`), where the file system can.
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
