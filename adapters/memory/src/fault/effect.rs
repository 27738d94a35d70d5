//! What a fault does to a call.

use std::{fmt, sync::Arc, time::Duration};

use netfs::{
    Errno,
    remote::{Facts, Promise, Version},
};

use super::{Gate, Op};
use crate::settings::SnapshotAt;

/// What a fault does to the call it hits.
///
/// Effects from [`Short`](Effect::Short) to [`OverLong`](Effect::OverLong) shape a read's data and hit
/// reads only; the others fit every call, except that [`Facts`](Effect::Facts) needs a reply with facts
/// (not `access` and `statfs`). A fault does not match a call that one of its effects does not fit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// The call fails with this errno.
    Errno(Errno),
    /// The call takes this much longer.
    Delay(Duration),
    /// The call hangs until the gate lets it go: a server that is down, or, with
    /// [`SnapshotAt::Issue`], a late reply with old data. The call's own deadline is not looked at.
    Hold {
        /// Who lets it go.
        gate: Gate,
        /// Whether the reply says what was true when the call arrived or when it is let go.
        at: SnapshotAt,
        /// For reads: bytes delivered before it hangs. If not 0, the reply is of issue time, because a
        /// reply has one version.
        after: u64,
    },
    /// The reply's facts are not true.
    Facts(Lie),
    /// A read stops after so many bytes and says nothing about it: a short read. 0 = no progress.
    Short(u64),
    /// A read stops after so many bytes and claims the end of the file.
    Eof(u64),
    /// A read stops after so many bytes and asks for a retry.
    Retry(u64),
    /// A read stops after so many bytes and says that the rest is zeros.
    ClearTail(u64),
    /// A read's sub is dropped after so many bytes without being finished.
    DropSub(u64),
    /// A read delivers so many bytes and then fails.
    FailAfter(u64, Errno),
    /// A read delivers more than was asked for.
    OverLong(OverLong),
}

impl Effect {
    /// Effects on reads that cost retries only: a correct reader returns the right bytes and no error
    /// as long as its retry limit is not reached.
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

    pub(super) fn fits(&self, op: Op) -> bool {
        match self {
            Effect::Errno(_) | Effect::Delay(_) => true,
            Effect::Hold { after, .. } => *after == 0 || op == Op::Read,
            Effect::Facts(_) => !matches!(op, Op::Access | Op::Statfs),
            _ => op == Op::Read,
        }
    }
}

/// How a read delivers too much.
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
