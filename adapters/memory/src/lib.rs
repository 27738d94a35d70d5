//! An in-process origin for `netfs`: the server and its network, in a struct.
//!
//! [`MemoryFs`] implements [`RemoteFs`](netfs::remote::RemoteFs) over a tree that a test builds and then
//! changes behind the cache's back. File content is a [pure function](content) of file, version and
//! offset, so any byte of any version can be checked. Versions, promises, events, latency, access rights
//! and every kind of misbehaviour are parameters; nothing depends on the time of day, on global
//! randomness or (without a latency) on any runtime.
//!
//! | to | use |
//! |---|---|
//! | build a tree | [`MemoryFs::builder`] |
//! | change it as a third party, with or without an event | [`MemoryFs::change`] |
//! | know what should be read | [`MemoryFs::expected`], [`MemoryFs::verify`], [`MemoryFs::snapshot`] |
//! | set promises, versions, limits, latency | [`MemoryFs::configure`], [`MemoryFs::configure_file`] |
//! | break, scrub, switch snapshots | [`MemoryFs::send_break`], [`MemoryFs::break_all`], [`MemoryFs::scrub`], [`MemoryFs::stage`] |
//! | write, make and move files as a client | the traits' own calls; other [clients](MemoryFs::client) are told |
//! | keep writes uncommitted, and lose them | [`Settings::unstable`], [`MemoryFs::restart_server`] |
//! | run out of space, refuse changes | [`Settings::quota_bytes`], [`Settings::read_only`] |
//! | let a third party meet a client's write | [`Effect::Conflict`], [`Effect::Bump`] |
//! | make calls fail, lie, stop short or hang | [`MemoryFs::inject`] with [`Fault`] and [`Gate`] |
//! | count and list calls | [`MemoryFs::counts`], [`MemoryFs::take_calls`], [`MemoryFs::wait_until`] |
//! | see the core break the adapter contract | [`MemoryFs::take_breaches`] |
//!
//! To test a restart of the cache keep the [`MemoryFs`] and attach the new context to it. In another
//! process, build the same tree with the same seed and make the same changes: keys, versions and content
//! are then the same. Different changes under one seed are not: version 2 would mean two contents.
//!
//! ```
//! use netfs::remote::{Cred, Cx, Outcome, ReadSub, RemoteFile, WriteOutcome, WriteSub};
//! use netfs_memory::{Fault, MemoryFs, Op};
//!
//! let fs = MemoryFs::builder().file("dir/a", 10_000).bytes("hello", "Hello!").build()?;
//!
//! // What the core does: read through the adapter.
//! let read = |offset, len| {
//!     let (sub, done) = ReadSub::detached(offset, len, Cx::new(Cred::new(1000, 1000)));
//!     let file = fs.file("dir/a").expect("it exists");
//!     let call = file.read(sub);
//!     futures_util::FutureExt::now_or_never(call).expect("no latency was set");
//!     done.wait()
//! };
//! let (finished, bytes) = read(4096, 4096);
//! assert!(matches!(finished.outcome, Outcome::Done));
//! fs.verify("dir/a", 4096, &bytes).expect("the right bytes");
//!
//! // A third party rewrites the file, and the next read stops after 100 bytes.
//! fs.change("dir/a").rewrite()?;
//! fs.inject(Fault::on(Op::Read).file("dir/a").short(100));
//! let (finished, bytes) = read(4096, 4096);
//! assert_eq!(finished.transferred, 100);
//! fs.verify("dir/a", 4096, &bytes).expect("the new bytes");
//! assert_eq!(fs.counts().calls(Op::Read), 2);
//!
//! // The core writes; the reply is lost, but the bytes are there.
//! fs.inject(Fault::on(Op::Write).lost_reply());
//! let (sub, done) = WriteSub::detached(0, b"new", Cx::new(Cred::new(0, 0)));
//! futures_util::FutureExt::now_or_never(fs.file("dir/a")?.write(sub)).expect("no latency was set");
//! assert!(matches!(done.wait().outcome, WriteOutcome::Failed(_)));
//! assert_eq!(fs.expected("dir/a", 0, 3)?, b"new");
//! # Ok::<(), netfs::Error>(())
//! ```

mod builder;
mod change;
pub mod content;
mod fault;
mod file;
mod fs;
mod hash;
mod ledger;
mod names;
mod origin;
mod remote;
mod rights;
mod settings;
mod tree;
mod write;

pub use builder::Builder;
pub use change::{Change, Changed};
pub use fault::{Conflict, Effect, Fault, FaultPlan, Gate, Injected, Lie, Op, OverLong};
pub use file::MemoryFile;
pub use fs::MemoryFs;
pub use ledger::{Call, Counts, Event, Opens};
pub use settings::{ExpandHook, FileSettings, LimitsHook, Link, Settings, SnapshotAt, VersionKind};
pub use tree::Snapshot;
