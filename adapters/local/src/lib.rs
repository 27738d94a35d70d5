//! A directory tree as the remote of [netfs](netfs): a slow disk, an existing NFS or sshfs mount.
mod access;
mod builder;
mod file;
mod fs;
mod handles;
mod identity;
mod kind;
mod lru;
mod pool;
mod read;
mod readdir;
mod stamps;
mod stat;
mod sys;
mod tree;
mod watch;

pub use builder::Builder;
pub use file::LocalFile;
pub use fs::{LocalFs, Usage};
