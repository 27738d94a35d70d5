//! Random writing beside a plain reference: after every step what is read must be what the reference
//! allows, and nothing that was written may be missing.
//!
//! # The rule
//!
//! The reference keeps, for each file, the states a reader may be shown: one for each change somebody else
//! made that this context need not know of yet, **each with every byte written here laid over it**. A
//! read of at most 1 MiB shows one of them, whole; which of the older ones may still be shown is as in the
//! model test of the read side (promises, events, what has been seen). Sizes as well.
//!
//! It also keeps which bytes nothing says to be on the server yet. When somebody else changes such a byte,
//! ours comes out on top, unless it had been sent before: where the origin held our value at that moment
//! the reference leaves open which of the two it is, until the next upload that succeeded.
//!
//! - `write_at` that returned `n` has written `n` bytes, one that failed has written nothing; `append` goes to
//!   the end of a state that may be shown.
//! - After an fsync, `close`, `sync` or `shutdown` that succeeded the origin holds **exactly** the newest
//!   state: every byte written here, unless somebody else changed it after it had been sent. So it does
//!   whenever nothing is dirty. `flush_range`: the same for its range.
//! - An upload that met somebody else's change, `set_len`, `discard_dirty`, `invalidate` and every event
//!   leave only the newest state.
//! - Errors need a fault of the origin that explains them; once faults are gone one `sync` succeeds, and
//!   then everything else does. After a permanent failure of an fsync writes fail with the same error until
//!   then. Whoever had the file open hears of discarded bytes once.
//! - **Durability.** After an fsync at level journal a crash at any moment, and the mount after it, leave each
//!   byte it covered, or what was written over it later, or what somebody else did to it on the server; every
//!   other byte is exactly as the server has it. So it is if the replay fails, is cut off or is repeated.
//!   What an upload, a cut, a hole or a discard that returned well has made old never comes back (what an upload
//!   has brought there may, as long as the log fails, and so nothing is voided).
//!   A write at level remote that returned well is on the origin; one that failed is there or not.
//! - **Recalls.** After `Released` nothing is dirty that was when the promise was asked for; bytes are parked
//!   only if something failed or hung. `local_state` is right at once, also while an upload hangs.
//! - **Conflict policies.** With `Fail`, and with a hook that fails, nothing is sent, fsync and writes fail and
//!   our bytes are read until they are discarded or merged. A hook of `KeepBoth` is given exactly our bytes; then the
//!   file is the server's, but for what was written while the hook was at work.
//! - **Parked files** give their own error to fsync and writes until an upload or a discard; other files go on
//!   until half of the memory is taken. An expired writer's bytes go as another writer's.
//! - A file that somebody removed answers `ESTALE` as soon as this context was told or has asked; what was
//!   written to it after that reaches nobody, every opener hears of it once, and nothing else suffers.
//! - A hole, zeros, a reservation that were done are exactly that, on the origin too; written bytes in them are gone.
//!   What failed has done nothing, unless a lost reply or `EIO` left it open: then it is as the origin says.
//! - A write that waits (synchronous, write-through, [`Remote`](netfs::Durability)) and one past the caches: when it has
//!   returned `n`, the origin holds these `n` bytes and no restart of it takes them. Of one past the caches that was cut
//!   short exactly the first `n` are there; more only where no answer said so (N-C38, N-C39).
//! - Write groups: no version of the origin's file, and nothing that a restart of it would leave, has a byte of a
//!   later group and lacks one of an earlier (N-C29, N-C42). A group that was flushed is there.
//! - A close uploads what there is, unless it was opened without or only for reading; what has failed it tells in any
//!   case. What a replay brings back is uploaded as its owner.
//! - Two volumes: what hangs or is parked in one keeps nobody of the other waiting. Mounts come and go; what is open
//!   or dirty goes on.
//! - A file whose last name has gone, by us or others, with a handle open: as one that was removed; the last close takes
//!   what was written along, and a crash finds nothing of it in the log.
//! - Others' modes, owners and times are shown once this context was told or has asked.
//! - Hints and other budgets change nothing.
//! - Names: `names.rs`. What is in a file follows its key, whatever names it has.
//! - Faults of the cache explain nothing: they never show.
//! - Slices handed out never change. The adapter contract is never broken (`take_breaches`).
//!
//! `NETFS_MODEL_STEPS`, `NETFS_MODEL_SEED`, `NETFS_MODEL_RUNS`: see `modelling/runs.rs`; `scripts/model.sh` as for
//! the read side.

mod attributes;
mod closes;
mod crash;
mod durable;
mod groups;
mod kept_names;
#[path = "../modelling/mod.rs"]
mod modelling;
mod modes;
mod mounts;
mod names;
mod opens;
mod others;
mod owners;
mod policies;
mod racing;
mod recalls;
mod reference;
mod refused;
mod removed;
mod server;
mod servers;
mod space;
mod steps;
mod tree;
mod view;
mod volumes;
mod world;

use modelling::{disk::DiskKind, runs::run};
use world::World;

const MUSTS: &[&str] = &[
    "write: done",
    "append: done",
    "fsync: done",
    "fdatasync: done",
    "fsync: an error",
    "close: nothing flushed",
    "close: of a reader",
    "close: without a flush",
    "close: tells of a failed upload",
    "set_len: done",
    "discard: done",
    "restart",
    "overtaken",
    "conflict: Write, after it: false",
    "conflict: Write, after it: true",
    "removed: written to",
    "removed: told of the loss",
    "burst",
    "crash",
    "crash: in the middle of an upload",
    "crash: in the middle of a replay: true",
    "crash: a replay that fails: true",
    "crash: replayed, and again",
    "crash: bytes from the log",
    "crash: a conflict at the replay",
    "crash: a file is gone",
    "crash: of the server too",
    "fsync: in the log",
    "fault of the log: Full",
    "fault of the log: Sick",
    "fault of the log: Hang",
    "write: waited for the server",
    "recall: released",
    "recall: parked",
    "recall: not released",
    "recall: while an upload hangs",
    "local_state",
    "parked: ENOSPC",
    "parked: EDQUOT",
    "parked: EIO",
    "parked: EROFS",
    "parked: others go on",
    "parked: until it was taken",
    "parked: discarded",
    "expired: 0",
    "expired: 1",
    "expired: both",
    "policy of the File: Fail",
    "policy of the File: KeepBoth",
    "policy of the Mount: Fail",
    "policy of the Mount: KeepBoth",
    "policy of the Context: Fail",
    "policy of the Context: KeepBoth",
    "policy: Fail, then merged",
    "policy: Fail, then discarded",
    "policy: KeepBoth",
    "policy: written to meanwhile",
    "policy: a hook that fails",
    "stats write_throttled",
    "stats write_lent_bytes",
    "stats write_conflicts",
    "stats upload_retry",
    "stats evictions",
    "hole: done",
    "hole: the file grew first",
    "zeros: written",
    "zeros: the file grew",
    "allocate: done",
    "Allocate: Cannot",
    "Deallocate: Refused",
    "Deallocate: Unknown(LostReply)",
    "Deallocate: Unknown(DoneBut",
    "write, waiting: done",
    "write, waiting: an error",
    "write, direct: done",
    "write, direct: short",
    "write, direct: more than was said",
    "write: several ways",
    "group: written in",
    "group: over",
    "group: flushed",
    "group: versions",
    "advise",
    "evict",
    "start_writeback",
    "set_budget: true",
    "open: append true, direct false",
    "open: append true, direct true",
    "open: append by an offset",
    "open: truncate",
    "open: EEXIST",
    "open: EBADF",
    "create: done",
    "create: nobody knew",
    "mkdir: done",
    "symlink: done",
    "link: done",
    "rename: done",
    "rename: nobody knew",
    "rename, exchange: done",
    "unlink: done",
    "rmdir: done",
    "set_attr: done",
    "names of others: 4",
    "readdir",
    "readlink",
    "write to a name: uploaded",
    "kept across: Unlink",
    "kept across: Rename",
    "kept across: Others { silent: false }",
    "kept across: Others { silent: true }",
    "kept across, left: another name",
    "kept, linked: write",
    "kept, linked: flushed",
    "kept, gone: written to",
    "kept, gone: told of the loss",
    "kept, gone: nobody is told",
    "kept, gone: crash",
    "kept, gone: taken along",
    "chmod by others: silent false",
    "chmod by others: silent true",
    "chown by others: silent false",
    "chown by others: silent true",
    "utimes by others",
    "attributes: with a time",
    "access: true",
    "access: false",
    "replayed as 1000, written by 1000",
    "replayed as 0, written by 1000",
    "mounts of a volume: 2",
    "mounts of a volume: 3",
    "mounted anew: closed false, dirty true",
    "mounted anew: closed true, dirty true",
    "volumes: 2",
    "volumes: others go on",
    "volumes: more than may be dirty",
    "crash: two volumes in the log",
];

#[test]
fn every_byte_written_is_shown_and_kept_without_a_disk() {
    run::<World>(DiskKind::None, 11_000, 34, MUSTS);
}

#[test]
fn every_byte_written_is_shown_and_kept_on_the_memory_backend() {
    run::<World>(DiskKind::Memory, 12_000, 33, MUSTS);
}

#[test]
fn every_byte_written_is_shown_and_kept_on_a_cache_directory() {
    run::<World>(DiskKind::Directory, 13_000, 33, MUSTS);
}
