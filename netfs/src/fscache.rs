//! fscache: volumes and cookies between the page cache and a disk cache.

pub mod backend;

pub use backend::{
    BackendStats, CacheBackend, CacheMiss, CacheObject, CacheRead, CacheVolume, CacheWrite, Extent,
    ExtentKind, Extents, Found, Identity, Opened, Refusal, Relinquish, TryRead,
};
