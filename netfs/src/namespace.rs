//! Volumes, mounts and nodes: the inode table, names, attributes and access rights.
//!
//! - A [`Volume`] is what all mounts of one [`VolumeId`](crate::remote::VolumeId) share: coherency
//!   state, inode table, cookies.
//! - A [`Mount`] is one adapter with its own connection, credentials and name cache.
//! - A [`Node`] is an inode seen through a mount.
//!
//! Changes of names by this client are in `change`.
//!
//! Names, attributes and rights are cached exactly as long as the coherency state of the inode they
//! belong to vouches for them; without a promise every question goes to the server.

mod access;
mod blocking;
mod change;
mod dentry;
mod held;
mod mount;
mod open;
mod replay;
mod volume;

pub use blocking::BlockingMount;
pub use mount::{DirListEntry, Mount, Node};
pub use replay::Replayed;
pub(crate) use replay::{Earlier, ReplayAs, open as open_log};
pub(crate) use volume::Volume;
