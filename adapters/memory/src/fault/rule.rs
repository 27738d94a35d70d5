//! Which calls a fault hits.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use netfs::{Errno, remote::Version};

use super::{Conflict, Effect, Gate, Lie, Op, OverLong};
use crate::settings::SnapshotAt;

/// A fault: which calls it hits, how often, and what it does to them.
///
/// Without a count it hits **once**; see [`times`](Fault::times) and [`always`](Fault::always).
#[derive(Clone, Debug)]
#[must_use = "a fault does nothing until it is injected"]
pub struct Fault {
    pub(super) ops: Vec<Op>,
    pub(super) file: Option<Bytes>,
    pub(super) name: Option<Bytes>,
    pub(super) range: Option<Range<u64>>,
    pub(super) uid: Option<u32>,
    pub(super) skip: u64,
    /// How often it still hits; `None` = for ever.
    pub(super) times: Option<u64>,
    pub(super) chance: Option<Chance>,
    pub(super) effects: Vec<Effect>,
}

/// Hit by chance, with one of the effects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance {
    pub(super) seed: u64,
    /// Of a million calls.
    pub(super) rate_ppm: u64,
}

impl Fault {
    /// Hits calls of this kind.
    pub fn on(op: Op) -> Fault {
        Fault { ops: vec![op], ..Fault::any() }
    }

    /// Hits calls of every kind that its effects fit.
    pub fn any() -> Fault {
        Fault {
            ops: Vec::new(),
            file: None,
            name: None,
            range: None,
            uid: None,
            skip: 0,
            times: Some(1),
            chance: None,
            effects: Vec::new(),
        }
    }

    /// Hits a share of reads by chance, for ever, each with one of `effects` that fits. `rate` is from 0
    /// to 1. [`or`](Fault::or) adds other calls.
    ///
    /// Chance is a hash of seed, file, offset and how often that offset was asked for, so it does not
    /// depend on the order in which concurrent calls arrive: the same seed gives the same faults.
    pub fn random(seed: u64, rate: f64, effects: Vec<Effect>) -> Fault {
        let rate_ppm = (rate.clamp(0.0, 1.0) * 1e6) as u64;
        let chance = Some(Chance { seed, rate_ppm });
        Fault { chance, effects, times: None, ..Fault::on(Op::Read) }
    }

    /// Also hits calls of this kind.
    pub fn or(mut self, op: Op) -> Fault {
        self.ops.push(op);
        self
    }

    /// Only calls on the file that has this path then; for lookups, listings and changes of names that is
    /// the directory (of a move: where it starts), but for a link the file.
    pub fn file(mut self, path: impl AsRef<[u8]>) -> Fault {
        let names = path.as_ref().split(|&b| b == b'/').filter(|n| !n.is_empty());
        self.file = Some(Bytes::from(names.collect::<Vec<_>>().join(&b'/')));
        self
    }

    /// Only lookups and changes of this name.
    pub fn name(mut self, name: impl AsRef<[u8]>) -> Fault {
        self.name = Some(Bytes::copy_from_slice(name.as_ref()));
        self
    }

    /// Only reads, writes and the like that touch this range of the file.
    pub fn range(mut self, range: Range<u64>) -> Fault {
        self.range = Some(range);
        self
    }

    /// Only calls by this user.
    pub fn uid(mut self, uid: u32) -> Fault {
        self.uid = Some(uid);
        self
    }

    /// Lets the first `n` matching calls pass.
    pub fn skip(mut self, n: u64) -> Fault {
        self.skip = n;
        self
    }

    /// Only the `n`th matching call, the first being 1.
    pub fn nth(self, n: u64) -> Fault {
        self.skip(n.saturating_sub(1)).times(1)
    }

    /// Hits this many calls.
    pub fn times(mut self, n: u64) -> Fault {
        self.times = Some(n);
        self
    }

    /// Hits every matching call until it is removed.
    pub fn always(mut self) -> Fault {
        self.times = None;
        self
    }

    /// Adds an effect. Several apply together; of several that shape the data the last counts.
    pub fn effect(mut self, effect: Effect) -> Fault {
        self.effects.push(effect);
        self
    }

    /// The call fails.
    pub fn errno(self, errno: Errno) -> Fault {
        self.effect(Effect::Errno(errno))
    }

    /// The call takes this much longer.
    pub fn delay(self, delay: Duration) -> Fault {
        self.effect(Effect::Delay(delay))
    }

    /// The call hangs at the gate.
    pub fn hold(self, gate: &Gate, at: SnapshotAt) -> Fault {
        self.effect(Effect::Hold { gate: gate.clone(), at, after: 0 })
    }

    /// The read or write delivers or acknowledges `bytes` and then hangs at the gate.
    pub fn hold_after(self, bytes: u64, gate: &Gate) -> Fault {
        let (gate, at) = (gate.clone(), SnapshotAt::Issue);
        self.effect(Effect::Hold { gate, at, after: bytes })
    }

    /// The reply's facts are not true.
    pub fn lie(self, lie: Lie) -> Fault {
        self.effect(Effect::Facts(lie))
    }

    /// The read or write stops after `bytes`.
    pub fn short(self, bytes: u64) -> Fault {
        self.effect(Effect::Short(bytes))
    }

    /// The read or write makes no progress.
    pub fn zero_progress(self) -> Fault {
        self.effect(Effect::Short(0))
    }

    /// The read stops after `bytes` and claims the end of the file.
    pub fn eof(self, bytes: u64) -> Fault {
        self.effect(Effect::Eof(bytes))
    }

    /// The read or write stops after `bytes` and asks for a retry.
    pub fn retry(self, bytes: u64) -> Fault {
        self.effect(Effect::Retry(bytes))
    }

    /// The read stops after `bytes` and says that the rest is zeros.
    pub fn clear_tail(self, bytes: u64) -> Fault {
        self.effect(Effect::ClearTail(bytes))
    }

    /// The sub of the read or write is dropped after `bytes`.
    pub fn drop_sub(self, bytes: u64) -> Fault {
        self.effect(Effect::DropSub(bytes))
    }

    /// The read delivers, or the write applies, `bytes` and then fails.
    pub fn fail_after(self, bytes: u64, errno: Errno) -> Fault {
        self.effect(Effect::FailAfter(bytes, errno))
    }

    /// The change is made and its reply is lost.
    pub fn lost_reply(self) -> Fault {
        self.effect(Effect::LostReply)
    }

    /// The change is made, and the call fails all the same.
    pub fn done_but(self, errno: Errno) -> Fault {
        self.effect(Effect::DoneBut(errno))
    }

    /// The version moves once more after the change.
    pub fn bump(self) -> Fault {
        self.effect(Effect::Bump)
    }

    /// A third party gives `range` new content just before the change, and tells everybody.
    pub fn conflict_before(self, range: Range<u64>) -> Fault {
        self.effect(Effect::Conflict(Conflict { range, after: false, tell: true }))
    }

    /// The same just after it.
    pub fn conflict_after(self, range: Range<u64>) -> Fault {
        self.effect(Effect::Conflict(Conflict { range, after: true, tell: true }))
    }

    /// The reply states this version as the one before the change.
    pub fn before(self, version: Option<Version>) -> Fault {
        self.effect(Effect::Before(version))
    }

    /// The read delivers, or the write acknowledges, too much.
    pub fn over_long(self, how: OverLong) -> Fault {
        self.effect(Effect::OverLong(how))
    }
}
