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
//! Changing it:
//!
//! ```
//! use netfs::remote::{Cred, Cx, NewFile, RemoteFile, RemoteFs, Stability, WriteSub};
//! use netfs_local::LocalFs;
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path();
//! let fs = LocalFs::builder(path).writable(true).open()?;
//! let me = Cx::new(Cred::current());
//! # pollster::block_on(async {
//! let root = fs.clone().root(me.clone()).await?.file;
//! let made = fs.clone().create(root, "note".into(), NewFile::File(0o644), me.clone()).await?;
//! let (sub, done) = WriteSub::detached(0, b"hello", me.clone());
//! made.found.file.clone().write(sub).await;
//! let written = done.wait();
//! // Until the commit it may be lost with the power. The same verifier says that it was not.
//! let (verifier, _) = made.found.file.commit(0..5, me).await?;
//! assert_eq!(written.stability, Stability::Unstable(verifier));
//! # Ok::<(), netfs::Error>(())
//! # })?;
//! assert_eq!(std::fs::read(path.join("note"))?, b"hello");
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
//! - **Without a name**: files are found by their keys ([`RemoteFs::by_key`](netfs::remote::RemoteFs::by_key), which
//!   `Durability::Journal` needs) where the kernel opens files by handle (a filesystem of this kernel, and
//!   `CAP_DAC_READ_SEARCH`) and the volume's identity lasts. [`File::durability`](netfs::File::durability) tells.
//! - **Rights** are the kernel's answer for this process's own credentials, mode bits and POSIX ACLs for
//!   everybody else's.
//! - **Open files** without a name go on: who has one open reads, writes and syncs it until the last one
//!   closes it, as long as there are [descriptors](Builder::descriptors) for opens; on a network mount as its
//!   server lets it.
//! - Symbolic links are reported, never followed. Mount points below the tree are not crossed (`EXDEV`):
//!   serve what is mounted there as a tree of its own.
//!
//! # Changing the tree
//!
//! Only with [`Builder::writable`]; by default every change is `EROFS`.
//!
//! - **Who acts** is this process: the kernel judges it as it judges any program. For other credentials
//!   mode bits, ACLs, ownership and sticky directories are checked here first, and if this process is root
//!   what is made for them is made by a thread with their credentials, so that it is theirs and the kernel judges
//!   it. (The kernel lets a process that does that leave no core dumps, unless it asks for them again:
//!   `PR_SET_DUMPABLE`.) Rights are also needed at each write, not only at the open: a file that
//!   a mode without `w` was given meanwhile can be written by root only.
//! - **Modes** of new files are what was asked for, whatever the process's umask (in a directory with a default ACL:
//!   what that leaves of it); those of new directories only where a time of birth tells that they are new. Set-id bits count as far as the kernel lets the caller
//!   have them; those of directories are inherited only.
//! - **Durability**: a write is `fdatasync`ed if the caller waits for that; else it is reported as
//!   unstable, until a commit, which syncs the file. A sync that fails changes the verifier, so that
//!   everything uncommitted is sent again. Sizes, allocations and holes are synced at once; names, owners,
//!   modes and times last as the filesystem makes them last by itself.
//! - **Versions of changes** are the tuples just before and just after, where they count: before by the
//!   rules above, after only where the kernel never leaves a timestamp in place that was asked for (ext4,
//!   xfs, btrfs and tmpfs since Linux 6.13, found out when the tree is opened) and says that there are no
//!   writers. Elsewhere the reply has no version, and the next validation gives one. Our own changes raise
//!   inotify events like anybody's, so a promise does not outlive them.
//! - A write or a hole that the filesystem cannot make is the kernel's errno, `EOPNOTSUPP` for example.
//!
//! # What it cannot see
//!
//! - A process that opens a file, changes it and closes it again within one of our own changes of that file,
//!   between the two tuples: microseconds, or as long as the kernel takes for the bytes. The change is then
//!   taken for a part of ours: what is cached of other parts of the file counts as unchanged although it
//!   is not, until the next change. Let nobody else write files that are written through here, or keep
//!   them from the cache.
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
mod change;
mod create;
mod file;
mod fs;
mod grain;
mod handles;
mod identity;
mod kind;
mod lru;
mod names;
mod opened;
mod pool;
mod read;
mod readdir;
mod stamps;
mod stat;
mod sys;
mod tree;
mod unsynced;
mod watch;
mod write;

pub use builder::Builder;
pub use file::LocalFile;
pub use fs::{LocalFs, Usage};
