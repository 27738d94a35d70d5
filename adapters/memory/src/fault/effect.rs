//! What a fault does to a call.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use netfs::{
    Errno,
    remote::{Facts, Promise, Version},
};

use super::{Gate, Op};
use crate::settings::SnapshotAt;

/// What a fault does to the call it hits.
///
/// Some effects shape the data of a read or a write, or belong to calls that change something; the others
/// fit every call, except that [`Facts`](Effect::Facts) needs a reply with facts (not `access`, `statfs`
/// and `release_promise`). A fault does not match a call that one of its effects does not fit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// The call fails with this errno; nothing was changed.
    Errno(Errno),
    /// The call takes this much longer.
    Delay(Duration),
    /// The call hangs until the gate lets it go: a server that is down, or, with
    /// [`SnapshotAt::Issue`], a late reply with old data. The call's own deadline is not looked at.
    Hold {
        /// Who lets it go.
        gate: Gate,
        /// Whether the reply says what was true when the call arrived or when it is let go; whether a
        /// change is made before the call hangs or after.
        at: SnapshotAt,
        /// For reads and writes: bytes delivered or acknowledged before it hangs. If not 0, the reply is
        /// of issue time, because a reply has one version.
        after: u64,
    },
    /// The reply's facts are not true: those after the change, if it is one.
    Facts(Lie),
    /// A read or write stops after so many bytes and says nothing about it. 0 = no progress.
    Short(u64),
    /// A read stops after so many bytes and claims the end of the file.
    Eof(u64),
    /// A read or write stops after so many bytes and asks for a retry.
    Retry(u64),
    /// A read stops after so many bytes and says that the rest is zeros.
    ClearTail(u64),
    /// A read's or write's sub is dropped after so many bytes without being finished.
    DropSub(u64),
    /// A read delivers, or a write applies, so many bytes and then fails.
    FailAfter(u64, Errno),
    /// A read delivers more than was asked for. Of a write, [`OverLong::Advance`] acknowledges more than
    /// was given.
    OverLong(OverLong),
    /// A change is made in full and its reply is lost: the call fails with `ETIMEDOUT`, after a
    /// [`Hold`](Effect::Hold) if there is one.
    LostReply,
    /// A change is made in full, and the call fails with this errno all the same: a disk that failed half-way,
    /// say, so that nobody knows.
    DoneBut(Errno),
    /// The version moves once more right after a change of one file, without any change and untold: what
    /// the next call finds is not what this one left.
    Bump,
    /// A third party changes the file right before or after a change of it.
    Conflict(Conflict),
    /// The reply to a change of one file states this version as the one before it, or none.
    Before(Option<Version>),
}

/// What a third party does while a client changes a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The range that gets new [pattern](crate::content), of the version it makes; the file grows if need
    /// be.
    pub range: Range<u64>,
    /// Whether it comes just after the client's change instead of just before.
    pub after: bool,
    /// Whether every client is told, the one that makes the change included.
    pub tell: bool,
}

impl Effect {
    /// Effects on reads and writes that cost retries only: a correct core moves the right bytes and
    /// reports no error as long as its retry limit is not reached.
    #[must_use]
    pub fn recoverable() -> Vec<Effect> {
        vec![
            Effect::Short(1),
            Effect::Short(4095),
            Effect::Short(4096),
            Effect::Retry(0),
            Effect::Retry(5000),
        ]
    }

    /// Effects on reads that may make a read fail, but never return wrong bytes.
    #[must_use]
    pub fn failures() -> Vec<Effect> {
        vec![
            Effect::Errno(Errno::EIO),
            Effect::Errno(Errno::ETIMEDOUT),
            Effect::Short(0),
            Effect::DropSub(0),
            Effect::DropSub(4096),
            Effect::FailAfter(4096, Errno::EIO),
            Effect::OverLong(OverLong::Advance(1)),
            Effect::OverLong(OverLong::Write(4096)),
        ]
    }

    /// Effects on writes that may make a write fail, or leave open what became of it; none loses
    /// acknowledged bytes.
    #[must_use]
    pub fn write_failures() -> Vec<Effect> {
        vec![
            Effect::Errno(Errno::EIO),
            Effect::Errno(Errno::ENOSPC),
            Effect::Errno(Errno::ETIMEDOUT),
            Effect::Short(0),
            Effect::DropSub(0),
            Effect::DropSub(4096),
            Effect::FailAfter(1, Errno::ENOSPC),
            Effect::FailAfter(4096, Errno::EIO),
            Effect::LostReply,
        ]
    }

    pub(super) fn fits(&self, op: Op) -> bool {
        match self {
            Effect::Errno(_) | Effect::Delay(_) => true,
            Effect::Hold { after, .. } => *after == 0 || op.moves_data(),
            Effect::Facts(_) => !matches!(op, Op::Access | Op::Statfs | Op::ReleasePromise),
            Effect::Short(_)
            | Effect::Retry(_)
            | Effect::DropSub(_)
            | Effect::FailAfter(..)
            | Effect::OverLong(OverLong::Advance(_)) => op.moves_data(),
            Effect::Eof(_) | Effect::ClearTail(_) | Effect::OverLong(_) => op == Op::Read,
            Effect::LostReply | Effect::DoneBut(_) => op.changes_file() || op.changes_names(),
            Effect::Bump | Effect::Conflict(_) | Effect::Before(_) => op.changes_file(),
        }
    }
}

/// How a read delivers, or a write acknowledges, too much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OverLong {
    /// It advances so many bytes past the end of what was asked.
    Advance(usize),
    /// It writes so many bytes past the end of what was asked.
    Write(usize),
    /// It reports a hole that reaches so many bytes past the end of what was asked.
    Hole(usize),
}

/// How a reply's facts are not true.
#[derive(Clone)]
#[non_exhaustive]
pub enum Lie {
    /// They are empty.
    Nothing,
    /// They have no version.
    NoVersion,
    /// They state this version.
    Version(Version),
    /// They state this size.
    Size(u64),
    /// They state this promise.
    Promise(Promise),
    /// Anything else.
    Custom(Arc<dyn Fn(&mut Facts) + Send + Sync>),
}

impl Lie {
    pub(crate) fn tell(&self, facts: &mut Facts) {
        match self {
            Lie::Nothing => *facts = Facts::default(),
            Lie::NoVersion => facts.version = None,
            Lie::Version(version) => facts.version = Some(version.clone()),
            Lie::Size(size) => {
                facts.size = Some(*size);
                if let Some(attr) = &mut facts.attr {
                    attr.size = *size;
                }
            }
            Lie::Promise(promise) => facts.promise = *promise,
            Lie::Custom(change) => change(facts),
        }
    }
}

impl fmt::Debug for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lie::Nothing => f.write_str("Nothing"),
            Lie::NoVersion => f.write_str("NoVersion"),
            Lie::Version(v) => write!(f, "Version({v:?})"),
            Lie::Size(n) => write!(f, "Size({n})"),
            Lie::Promise(p) => write!(f, "Promise({p:?})"),
            Lie::Custom(_) => f.write_str("Custom(..)"),
        }
    }
}
