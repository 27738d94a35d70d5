//! A log of written bytes that are not on the server yet, on storage of this machine.
//!
//! With a log ([`Builder::dirty_log`](crate::Builder::dirty_log)), an fsync of a file that was opened at
//! [`Durability::Journal`](crate::Durability::Journal) makes its records durable and returns; the upload
//! follows. After a crash the next mount of the volume finds the records and makes the bytes dirty again
//! before anybody can read the file. [`MemLog`] is one for tests.
//!
//! # What an implementation guarantees
//!
//! - **Order.** [`append`](DirtyLog::append) hands out growing positions; [`replay`](DirtyLog::replay)
//!   returns records in that order, and never one without all those before it that were not checkpointed:
//!   what a crash leaves is a front part. A torn or altered record ends the replay with an error.
//! - **Durable means durable.** Once [`durable`](DirtyLog::durable) has returned well, every record up to
//!   that position survives the end of the process and of the machine. If it fails, whether they do is
//!   unknown, and it MUST go on failing for those positions: never "well" after an error (the page cache of
//!   an operating system forgets a failed write; a log must not).
//! - **Voiding always finds room.** [`Entry::Extent`] may be refused for lack of room (`ENOSPC`), the other
//!   entries never: they are small, and they are what keeps older bytes from coming back.
//! - **No secrets.** A record says who wrote by a number ([`OwnerId`]); credentials, tokens and keys are
//!   never given to a log.
//! - **No waiting in `append` and `checkpoint`**: they copy or queue. Only `durable` takes time.
//! - **Every error is returned.** The core then uploads before it acknowledges anything, or fails the call.

mod mem;

use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
pub use mem::{LogFault, MemLog};

use crate::{
    error::Result,
    remote::{Version, VolumeId},
};

/// A record's place in the log; grows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position(pub u64);

/// Who wrote: the user id of the writer's [`Cred`](crate::remote::Cred). No secret, and no right by itself:
/// the program that replays decides with whose credentials the bytes are uploaded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OwnerId(pub u32);

/// What happened to a file.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// These bytes were written at `offset`. They may share memory with the page cache: a log that keeps
    /// them in memory SHOULD copy them.
    Extent {
        /// Where the first byte goes.
        offset: u64,
        /// The bytes.
        data: Bytes,
        /// Their [write group](crate::File::write_group), if they have one: those of a file come to the server in
        /// the order of their groups after a replay, too (N-C29).
        group: Option<u64>,
    },
    /// The file ends here now, on the server too: bytes of earlier records beyond it are gone.
    SetSize(u64),
    /// This range has become a hole, on the server too.
    Hole(Range<u64>),
    /// What records up to `upto` say of `range` is on the server, or was given up, and must not come back.
    Settled {
        /// The last record it is about.
        upto: Position,
        /// Which bytes.
        range: Range<u64>,
    },
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Extent { offset, data, .. } => write!(f, "Extent({offset}+{})", data.len()),
            Entry::SetSize(size) => write!(f, "SetSize({size})"),
            Entry::Hole(range) => write!(f, "Hole({range:?})"),
            Entry::Settled { upto, range } => write!(f, "Settled({} {range:?})", upto.0),
        }
    }
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The file's volume.
    pub volume: VolumeId,
    /// The file, by the adapter's key.
    pub key: Bytes,
    /// Whose bytes.
    pub owner: OwnerId,
    /// The server's version of the file as known then: if it is another one at replay, somebody (perhaps
    /// this client, just before the crash) has changed the file since.
    pub version: Option<Version>,
    /// What happened.
    pub entry: Entry,
}

/// What [`DirtyLog::replay`] returns.
pub type Records = Box<dyn Iterator<Item = Result<(Position, Record)>> + Send>;

/// A log of written bytes. See the [module](self) for what an implementation guarantees.
///
/// One log belongs to one [`Netfs`](crate::Netfs) at a time.
///
/// ```
/// use netfs::dirtylog::{DirtyLog, Entry, MemLog, OwnerId, Record};
/// use netfs::remote::VolumeId;
/// let log = MemLog::new();
/// let entry = Entry::Extent { offset: 0, data: "saved".into(), group: None };
/// let (volume, key) = (VolumeId::new("server,export")?, "file 7".into());
/// let at = log.append(Record { volume, key, owner: OwnerId(1000), version: None, entry })?;
/// pollster::block_on(log.clone().durable(at))?;
/// log.restart(); // what was not durable is gone
/// assert_eq!(log.replay()?.count(), 1);
/// log.checkpoint(at)?;
/// assert_eq!(log.replay()?.count(), 0);
/// # Ok::<(), netfs::Error>(())
/// ```
pub trait DirtyLog: Send + Sync + 'static {
    /// Adds a record. It is durable only after [`durable`](DirtyLog::durable) of its position. MUST NOT wait.
    ///
    /// # Errors
    /// `ENOSPC` (for an extent only): the log is full until more is checkpointed. Any other: the log is sick;
    /// the record is not in it.
    fn append(&self, record: Record) -> Result<Position>;

    /// Makes every record up to `upto` durable. Several may be under way at once.
    ///
    /// # Errors
    /// Whether the records are durable is unknown; see the [module](self).
    fn durable(self: Arc<Self>, upto: Position) -> BoxFuture<'static, Result<()>>;

    /// Records up to `upto` are not needed any more. That may be forgotten by a crash: then a replay returns
    /// some of them again, but none that a durable [`Entry::Settled`] voids without that. MUST NOT wait.
    ///
    /// # Errors
    /// The records may still be there; the core goes on.
    fn checkpoint(&self, upto: Position) -> Result<()>;

    /// The records that are there and not checkpointed, oldest first.
    ///
    /// # Errors
    /// The log cannot be read. An item that is an error ends the records: what follows it cannot be told.
    fn replay(&self) -> Result<Records>;
}
