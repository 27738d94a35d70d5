//! fscache: volumes and cookies between the page cache and a disk cache.
//!
//! ```text
//! inode --CookieSlot--> Cookie --Access--> CacheObject     one file        (cookie.rs)
//!                         |                    |
//! mount ------------> Volume -Attachment-> CacheVolume     one volume      (volume.rs)
//!                         |                    |
//! Netfs ------------> FsCache ----------> CacheBackend     one cache       (cache.rs, backend.rs)
//! ```
//!
//! The left side lives as long as its owner; the right side comes and goes. A cookie opens its object
//! when its first user comes, closes it some time after the last has left (`lru`), and survives the
//! cache being withdrawn and another one attached. What happens when is decided by a pure state
//! machine (`cookie_state`); `access` counts who is calling the backend; downloaded data reaches
//! the object through the `fill` queue. [`NullCache`] and [`MemCache`] are backends without a disk.
//!
//! Three promises hold whatever the cache does:
//!
//! 1. After `Cookie::invalidate` returns, no byte from before is served (N-C48).
//! 2. Nobody waits for the cache longer than they chose to; then the server is asked (complaint 1).
//! 3. After `FsCache::withdraw` returns, no backend call is running or can start (N-C44).

mod access;
pub mod backend;
mod cache;
mod cookie;
mod cookie_state;
mod fill;
mod lru;
mod mem;
mod null;
#[cfg(test)]
mod testing;
mod volume;

pub use backend::{
    BackendStats, CacheBackend, CacheMiss, CacheObject, CacheRead, CacheVolume, CacheWrite, Extent,
    ExtentKind, Extents, Found, Identity, Opened, Refusal, Relinquish, TryRead,
};
pub(crate) use cache::FsCache;
pub use cache::{FsCacheConfig, StillBusy, VolumeError};
pub(crate) use cookie::{Access, Cookie, CookieSlot, CookieUse};
pub use cookie::{CookieInfo, DuplicateKey};
pub use cookie_state::State as CookieState;
pub use fill::{FillConfig, FillWhenFull};
pub(crate) use fill::{FillQueue, FillTag, StillOk};
pub use mem::{FaultPoint, MemCache, MemFaults};
pub use null::NullCache;
pub(crate) use volume::Volume;
pub use volume::VolumeInfo;
