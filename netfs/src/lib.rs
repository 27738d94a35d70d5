//! The Linux netfs library and fscache, rebuilt in user space.
//!
//! A network filesystem client implements [`remote::RemoteFs`] and [`remote::RemoteFile`] and gets a page
//! cache, coherency, and (with a backend such as the `cachefiles` crate) a persistent disk cache. Fronts
//! use [`Mount`], [`Node`] and [`File`].
//!
//! - [`Netfs`] owns the budget, the disk cache and the driver threads; [`Netfs::mount`] attaches an
//!   adapter.
//! - [`Mount::walk`], [`Mount::open`], then [`File::read_at`]: from memory on the caller's thread, from
//!   disk with one inline read, from the server in the background.
//! - [`coherency`] decides what may be served; adapters only report facts and events.
//! - [`fscache`] has the traits of a disk cache and two backends without a disk, for tests.
//! - [`Netfs::stats`] says where every byte came from.
//!
//! The crate's `README` has a complete adapter; `ARCHITECTURE.md` explains the house.
//!
//! ```
//! use netfs::{Netfs, remote::{Cred, Cx}};
//! use netfs_memory::MemoryFs; // an origin for tests; yours would speak to a server
//!
//! let netfs = Netfs::builder().memory_bytes(16 << 20).build()?;
//! let origin = MemoryFs::builder().bytes("greeting", "Hello!").build()?;
//! let cx = Cx::new(Cred::new(1000, 1000));
//! let mount = netfs.blocking_mount(origin, &cx)?;
//! let file = mount.blocking().open("greeting", &cx)?;
//! let mut buf = [0; 16];
//! assert_eq!(file.blocking().read_at(0, &mut buf)?, 6);
//! assert_eq!(&buf[..6], b"Hello!");
//! # Ok::<(), netfs::Error>(())
//! ```

pub mod clock;
pub mod coherency;
mod context;
pub mod dirtylog;
mod driver;
mod errand;
pub mod error;
mod file;
pub mod folio;
pub mod fscache;
mod inode;
#[cfg(all(test, shuttle))]
mod interleavings;
mod iomode;
mod namespace;
pub mod policy;
mod read;
pub mod remote;
mod request;
mod sizes;
pub mod stats;
mod sync;
mod timer;
mod waits;
mod write;
mod writeback;

pub use context::{Builder, FillPolicy, Netfs, Undone};
pub use error::{Errno, Error, Result};
pub use file::{
    Advice, Blocking, Durability, Evicted, File, MemoryUse, OpenOptions, ReadOptions, Sync,
    TryReadAt, Unclosed, WriteGroup, WriteOptions,
};
pub use fscache::FillWhenFull;
pub use namespace::{BlockingMount, DirListEntry, Mount, Node, Replayed};
pub use read::Slices;
pub use sizes::Sizes;
pub use stats::Stats;
pub use waits::{WaitInfo, WaitKind};
pub use write::hole::FallocateMode;
pub use writeback::conflict::{Conflict, ConflictHook, ConflictPolicy};

/// The README's adapter, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
