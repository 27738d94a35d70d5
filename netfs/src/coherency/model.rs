//! The pure validity model: plain structs and methods, no clock, no locks, no I/O.
//!
//! # Order
//!
//! Versions compare for equality only, so order has to come from somewhere else. Each volume has one
//! sequence of 64-bit numbers (it never wraps, so P-D9 cannot arise). Every event (break, volume
//! break, scrub, snapshot move), every version change, and every [`Epoch`] takes the next number. A
//! request takes its epoch *before* it is issued; so whatever has a greater number happened after
//! the request was issued, and a reply can say nothing about it.
//!
//! Three rules follow, and everything else is bookkeeping:
//!
//! 1. A promise is installed only if nothing that could void it has a greater number than the
//!    reply's epoch (A1.28), and it holds only while nothing does.
//! 2. A reply with another version than the current one, whose epoch is smaller than the number of
//!    the last version change, may be the older of the two: [`Action::Late`], nothing of it is used.
//! 3. Bytes are published only under the version they came with (see
//!    [`InodeCoherency::is_current`]).
//!
//! # Parts
//!
//! [`VolumeCoherency`] has the sequence, the volume's events and its promise; [`InodeCoherency`] one
//! file's version and promise; [`promise`] turns what a server promised into a deadline.

mod inode;
pub(super) mod promise;
mod volume;

pub(crate) use inode::InodeCoherency;
pub(crate) use volume::{KeySlot, VolumeCoherency};

use crate::clock::BootTime;

/// Where in the volume's order a request was issued, and when. Sampled before the request is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Epoch {
    pub(super) seq: u64,
    pub(super) issued_at: BootTime,
}

/// Whether cached data may be served without asking the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Validity {
    /// Yes.
    Valid,
    /// Not before the server has been asked.
    Stale(StaleReason),
    /// The file is gone: `ESTALE`, without asking.
    Deleted,
}

/// Why cached data may not be served as it is (A1.11).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum StaleReason {
    /// The server never promised anything, or its reply came too late to.
    NoPromise,
    /// The promise is over, or within its margin.
    Expired,
    /// The server broke the promise.
    Broken,
    /// A volume event that each file has to be checked for itself (A1.25).
    VolumeBroken,
    /// The volume's own promise is missing or over: one check of any of its files renews it (A1.36).
    VolumeLapsed,
    /// The volume moved to a newer snapshot.
    SnapshotMoved,
    /// The volume's contents became untrustworthy.
    Scrubbed,
    /// The version changed, and what was cached is being dropped just now.
    Dropping,
}

/// What asked: it decides what silence about the version means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReplyKind {
    /// A validation: it is expected to settle whether cached data may be kept. If it cannot (no
    /// version, no standing promise), the data goes.
    Check,
    /// Any other reply (lookup, read, readdir). If it is silent about the version it settles nothing.
    Other,
}

/// Why cached data has to go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum DropReason {
    /// The version is another one.
    VersionChanged,
    /// The volume was scrubbed since the last check: dropped even if the version is equal (A1.15).
    Scrubbed,
    /// No version, and no promise that lasted until now: nothing says the data is still right.
    Unverified,
    /// An earlier drop was abandoned half-way.
    Unfinished,
}

/// What to do with what is cached, and with the reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Cached data stays, and the reply's promise was installed.
    Keep,
    /// Cached data stays; no promise came of this reply (there was none, an event came since the
    /// epoch, or a newer reply's promise stands).
    KeepNoPromise,
    /// Cached data has to be dropped; until that is done the file is
    /// [`Dropping`](StaleReason::Dropping). The reply's bytes may be used if
    /// [`is_current`](InodeCoherency::is_current) says so.
    Drop(DropReason),
    /// The reply may be older than what is known: use nothing of it and issue the request again
    /// (P-D71). Callers bound how often.
    Late,
    /// The file is known to be deleted: use nothing.
    Deleted,
}

/// What [`InodeCoherency::apply`] decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Decision {
    /// What to do with cached data.
    pub(crate) action: Action,
    /// Whether the reply's attributes and size are newer than those adopted last. If not they must
    /// be ignored even though the version is equal: mode and owner may have changed without it.
    pub(crate) adopt: bool,
}

#[cfg(test)]
mod tests;
