//! A directory tree as the remote of [`netfs`]: a slow disk, an existing NFS or sshfs mount.
//!
//! ```
//! use netfs::remote::{Cred, Cx, ReadSub, RemoteFile, RemoteFs};
//! use netfs_local::LocalFs;
//! # let dir = tempfile::tempdir()?;
//! # std::fs::write(dir.path().join("greeting"), "hello")?;
//! # let path = dir.path();
//! let fs = LocalFs::builder(path).open()?;
//! fs.settle(); // files just written have no version yet
//!
//! let me = Cx::new(Cred::current());
//! # pollster::block_on(async {
//! let root = fs.clone().root(me.clone()).await?.file;
//! let reply = fs.clone().lookup(root, "greeting".into(), me.clone()).await?;
//! let greeting = reply.found.expect("it was just written").file;
//!
//! let (sub, done) = ReadSub::detached(0, 5, me);
//! greeting.read(sub).await;
//! let (finished, bytes) = done.wait();
//! assert_eq!(bytes, b"hello");
//! assert!(finished.facts.version.is_some());
//! # Ok::<(), netfs::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it says, and when
//!
//! - **Versions** are (inode, size, mtime, ctime), reported only once they are *settled*: once no write
//!   that happened already, or happens later, can hide behind the same timestamps. Until then, a
//!   fraction of a second after a change, replies carry no version, and nothing of them is stored.
//! - **One reply, one version**: each read stands between two `statx`. If they differ it is done over,
//!   and at last served without a version.
//! - **Promises** are made only on ext4, xfs, btrfs and tmpfs, where inotify reports every change made by
//!   this kernel, and last a second at most. Everywhere else every use asks the tree, unless
//!   [`Builder::ttl`] says otherwise.
//! - **Keys** are the inode number with the filesystem's generation of it. Where inode numbers do not last
//!   (FUSE, SMB, 9p, overlayfs, FAT), the *volume's* identity ends with the mount, so that nothing cached
//!   is ever taken for another file's; [`Builder::volume_id`] overrides that.
//! - **Rights** are the kernel's answer for this process's own credentials, mode bits and POSIX ACLs for
//!   everybody else's.
//! - Symbolic links are reported, never followed. Mount points below the tree are not crossed (`EXDEV`):
//!   serve what is mounted there as a tree of its own.
//!
//! # What it cannot see
//!
//! - Stores through a shared writable mapping raise no inotify event: they are seen when the promise
//!   ends. While the kernel can be asked ([`Builder::ask_writers`]) nothing first read during the
//!   mapping's life is stored. On tmpfs a store to a page that was read through the mapping before
//!   moves no timestamp at all: do not serve a tmpfs tree whose files are changed through mappings.
//! - Where the kernel cannot be asked (somebody else's files, no `CAP_LEASE`; network filesystems), a
//!   single `write` call that is in progress for more than a second.
//! - A change that brings size *and* all timestamps back on a filesystem that lets ctime be set (sshfs
//!   shows mtime as ctime).

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
