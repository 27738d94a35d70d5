//! The faults in force, and the decision for one call.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use netfs::{
    Errno,
    remote::{Change, Facts, Version},
};

use super::{Conflict, Effect, Fault, Gate, Lie, Op, rule::Chance};
use crate::{hash, origin::Site, settings::SnapshotAt};

/// The faults in force, in the order they are tried.
#[derive(Clone, Default, Debug)]
#[must_use = "a plan does nothing until it is given to an origin"]
pub struct FaultPlan {
    active: Vec<Active>,
    last_id: u64,
    /// Gates that may hold calls: also those of faults that have hit for the last time.
    gates: Vec<Gate>,
}

#[derive(Clone, Debug)]
struct Active {
    id: u64,
    fault: Fault,
    hits: Arc<AtomicU64>,
    /// For chance: how often each (operation, file, offset) was asked for.
    asked: HashMap<(Op, u64, u64), u64>,
}

/// A fault that was injected: how often it has hit, and the way to remove it.
#[derive(Clone, Debug)]
pub struct Injected {
    pub(crate) id: u64,
    hits: Arc<AtomicU64>,
}

impl Injected {
    /// How many calls it has hit.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Acquire)
    }
}

impl FaultPlan {
    /// No faults.
    pub fn new() -> FaultPlan {
        FaultPlan::default()
    }

    /// The same with one more fault.
    pub fn with(mut self, fault: Fault) -> FaultPlan {
        let _ = self.add(fault);
        self
    }

    pub(crate) fn add(&mut self, fault: Fault) -> Injected {
        self.last_id += 1;
        let hits = Arc::new(AtomicU64::new(0));
        self.gates.retain(|gate| !gate.is_released());
        self.gates.extend(gates(&fault));
        let injected = Injected { id: self.last_id, hits: Arc::clone(&hits) };
        self.active.push(Active { id: self.last_id, fault, hits, asked: HashMap::new() });
        injected
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.active.retain(|a| a.id != id);
    }

    /// Lets every call go that one of the plan's faults holds.
    pub(crate) fn release(&self) {
        self.gates.iter().for_each(Gate::release);
    }

    /// Decides one call and counts it.
    pub(crate) fn decide(&mut self, site: &Site) -> Verdict {
        for i in 0..self.active.len() {
            let active = &mut self.active[i];
            let Some(verdict) = active.decide(site) else { continue };
            if active.fault.times == Some(0) {
                self.active.remove(i);
            }
            return verdict;
        }
        Verdict::default()
    }
}

impl Active {
    fn decide(&mut self, site: &Site) -> Option<Verdict> {
        if !self.matches(site) {
            return None;
        }
        let verdict = match self.fault.chance {
            Some(chance) => Verdict::of([self.draw(chance, site)?]),
            None => Verdict::of(self.fault.effects.iter()),
        };
        if self.fault.skip > 0 {
            self.fault.skip -= 1;
            return None;
        }
        match &mut self.fault.times {
            Some(0) => return None,
            Some(left) => *left -= 1,
            None => {}
        }
        self.hits.fetch_add(1, Ordering::AcqRel);
        Some(verdict)
    }

    fn matches(&self, site: &Site) -> bool {
        let f = &self.fault;
        let touches = |r: &std::ops::Range<u64>| {
            site.range.as_ref().is_some_and(|s| s.start < r.end && r.start < s.end)
        };
        let by_chance = f.chance.is_some();
        (f.ops.is_empty() || f.ops.contains(&site.op))
            && f.file.as_ref().is_none_or(|p| *p == site.path)
            && f.name.as_ref().is_none_or(|n| site.name.as_ref() == Some(n))
            && f.range.as_ref().is_none_or(touches)
            && f.uid.is_none_or(|uid| uid == site.uid)
            && (by_chance || f.effects.iter().all(|e| e.fits(site.op)))
    }

    /// One of the effects, or none, by a hash that does not depend on the order of concurrent calls.
    fn draw(&mut self, chance: Chance, site: &Site) -> Option<&Effect> {
        let start = site.range.as_ref().map_or(0, |r| r.start);
        let asked = self.asked.entry((site.op, site.file, start)).or_insert(0);
        *asked += 1;
        let draw = hash::combine(&[chance.seed, site.op as u64, site.file, start, *asked]);
        if draw % 1_000_000 >= chance.rate_ppm {
            return None;
        }
        let fitting: Vec<&Effect> = self.fault.effects.iter().filter(|e| e.fits(site.op)).collect();
        let pick = hash::mix(draw).checked_rem(fitting.len() as u64)?;
        fitting.get(usize::try_from(pick).ok()?).copied()
    }
}

fn gates(fault: &Fault) -> impl Iterator<Item = Gate> {
    fault.effects.iter().filter_map(|effect| match effect {
        Effect::Hold { gate, .. } => Some(gate.clone()),
        _ => None,
    })
}

/// What happens to one call.
#[derive(Default, Debug)]
pub(crate) struct Verdict {
    pub(crate) errno: Option<Errno>,
    pub(crate) delay: Duration,
    pub(crate) hold: Option<Hold>,
    pub(crate) lies: Vec<Lie>,
    /// One of the effects that shape the data of a read or a write.
    pub(crate) shape: Option<Effect>,
    /// What the reply says instead of what was done.
    pub(crate) lost_reply: Option<Errno>,
    pub(crate) bump: bool,
    pub(crate) conflicts: Vec<Conflict>,
    /// What is stated as the version before.
    before: Option<Option<Version>>,
}

#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) gate: Gate,
    pub(crate) at: SnapshotAt,
    pub(crate) after: u64,
}

impl Verdict {
    fn of<'a>(effects: impl IntoIterator<Item = &'a Effect>) -> Verdict {
        let mut verdict = Verdict::default();
        for effect in effects {
            match effect {
                Effect::Errno(errno) => verdict.errno = Some(*errno),
                Effect::Delay(delay) => verdict.delay += *delay,
                Effect::Hold { gate, at, after } => {
                    verdict.hold = Some(Hold { gate: gate.clone(), at: *at, after: *after });
                }
                Effect::Facts(lie) => verdict.lies.push(lie.clone()),
                Effect::LostReply => verdict.lost_reply = Some(Errno::ETIMEDOUT),
                Effect::DoneBut(errno) => verdict.lost_reply = Some(*errno),
                Effect::Bump => verdict.bump = true,
                Effect::Conflict(conflict) => verdict.conflicts.push(conflict.clone()),
                Effect::Before(version) => verdict.before = Some(version.clone()),
                shape => verdict.shape = Some(shape.clone()),
            }
        }
        verdict
    }

    /// Tells the reply's lies about a file.
    pub(crate) fn lie(&self, facts: &mut Facts) {
        self.lies.iter().for_each(|lie| lie.tell(facts));
    }

    /// Tells the reply's lies about a change.
    pub(crate) fn tell(&self, change: &mut Change) {
        self.lie(&mut change.after);
        if let Some(before) = &self.before {
            change.before.clone_from(before);
        }
    }

    /// The gate to pass before the reply, unless it comes in the middle of the data.
    pub(crate) fn hold_first(&self) -> Option<&Hold> {
        self.hold.as_ref().filter(|h| h.after == 0)
    }
}
