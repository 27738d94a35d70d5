//! The Linux netfs library and fscache, rebuilt in user space.

pub mod clock;
pub mod coherency;
mod context;
pub mod error;
mod file;
pub mod folio;
pub mod fscache;
mod inode;
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

pub use context::{Builder, FillPolicy, Netfs};
pub use error::{Errno, Error, Result};
pub use file::{Blocking, File, MemoryUse, ReadOptions, TryReadAt};
pub use fscache::FillWhenFull;
pub use namespace::{DirListEntry, Mount, Node};
pub use read::Slices;
pub use sizes::Sizes;
pub use stats::Stats;
