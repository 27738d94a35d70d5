//! All orders of events, within bounds: a breadth-first walk over (machine, world), where the world is
//! a plain model of what the shell and the backend do and checks every step.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;

use super::*;

const DELAY: Duration = Duration::from_nanos(1);
/// It is always this late; time passes by making everything that is remembered older, so that worlds
/// that differ only in the date are one.
const NOW: BootTime = BootTime::from_nanos(2);
const LONG_AGO: BootTime = BootTime::from_nanos(1);

fn ident(n: u8) -> Identity {
    const NAMES: [&[u8]; 2] = [b"a", b"b"];
    Identity { aux: Bytes::from_static(NAMES[usize::from(n)]), size: 1 }
}

/// What is stored under the key: whose it claims to be, and how old its oldest byte is (the number of
/// invalidations that had happened when it was written; `None`: nothing is in it).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Stored {
    identity: Identity,
    oldest: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Call {
    Lookup(Identity),
    CutOver(Identity),
    Relabel(Identity),
    Close(Relinquish),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    machine: Machine,
    stored: Option<Stored>,
    call: Option<Call>,
    gate_open: bool,
    accesses: u8,
    users: u32,
    /// Invalidations so far, the truth about what may still be served.
    era: u64,
    updates: u8,
    last_unuse: BootTime,
    /// The latest a user looked at the clock when it left.
    left: BootTime,
    on_lru: bool,
    live: bool,
    /// A DIO invalidation happened and the users of then have not all left.
    dio: bool,
    /// Some backend call was refused.
    refused: bool,
    /// The last user came while the cache was ill, so no lookup was started for it.
    unhealthy: bool,
    /// A lookup succeeded.
    touched: bool,
    relinquished: Option<Relinquish>,
    dropped: bool,
}

#[derive(Clone, Debug)]
enum Move {
    Use {
        healthy: bool,
    },
    Unuse,
    /// By a user that looked at the clock long ago and comes only now.
    UnuseLate,
    Tick,
    Expire,
    Begin,
    End,
    Fill,
    Answer {
        ok: bool,
    },
    Invalidate {
        to: u8,
        dio: bool,
    },
    Update {
        to: u8,
    },
    Withdraw,
    Attach,
    Relinquish(Relinquish),
}

impl World {
    fn start(stored: Option<Stored>, live: bool) -> World {
        World {
            machine: Machine::new(ident(0), live),
            stored,
            call: None,
            gate_open: false,
            accesses: 0,
            users: 0,
            era: 0,
            updates: 0,
            last_unuse: NOW,
            left: LONG_AGO,
            on_lru: false,
            live,
            dio: false,
            refused: false,
            unhealthy: false,
            touched: false,
            relinquished: None,
            dropped: false,
        }
    }

    fn moves(&self) -> Vec<Move> {
        let mut m = Vec::new();
        let may = |on: bool, mv: Move, m: &mut Vec<Move>| {
            if on {
                m.push(mv);
            }
        };
        may(self.users < 2, Move::Use { healthy: true }, &mut m);
        may(self.users == 0 && !self.refused, Move::Use { healthy: false }, &mut m);
        may(self.users > 0, Move::Unuse, &mut m);
        may(self.users > 0, Move::UnuseLate, &mut m);
        may(
            self.users == 0 && (self.last_unuse, self.left) != (LONG_AGO, LONG_AGO),
            Move::Tick,
            &mut m,
        );
        may(self.on_lru, Move::Expire, &mut m);
        may(self.gate_open && self.accesses == 0, Move::Begin, &mut m);
        may(self.accesses > 0, Move::End, &mut m);
        may(self.gate_open, Move::Fill, &mut m);
        may(self.call.is_some(), Move::Answer { ok: true }, &mut m);
        may(
            self.call.as_ref().is_some_and(|c| !matches!(c, Call::Close(_))),
            Move::Answer { ok: false },
            &mut m,
        );
        if self.era < 2 {
            for (to, dio) in [(0, false), (1, false), (1, true)] {
                m.push(Move::Invalidate { to, dio });
            }
        }
        may(self.updates < 1 && self.era < 2, Move::Update { to: 1 }, &mut m);
        may(self.live, Move::Withdraw, &mut m);
        may(!self.live, Move::Attach, &mut m);
        if self.relinquished.is_none() {
            m.push(Move::Relinquish(Relinquish::Keep));
            m.push(Move::Relinquish(Relinquish::Retire));
        }
        m
    }

    fn unuse(&mut self, now: BootTime) {
        self.users -= 1;
        if self.users == 0 {
            self.last_unuse = self.left;
            self.dio = false;
        }
        self.step(Event::Unuse { now });
    }

    fn apply(&mut self, mv: &Move) {
        match mv {
            Move::Use { healthy } => {
                self.users += 1;
                self.last_unuse = NOW;
                self.unhealthy = !healthy;
                self.step(Event::Use { healthy: *healthy });
            }
            Move::Unuse => {
                self.left = NOW;
                self.unuse(NOW);
            }
            Move::UnuseLate => self.unuse(LONG_AGO),
            Move::Tick => {
                (self.last_unuse, self.left) = (LONG_AGO, LONG_AGO);
                self.machine.last_left = self.machine.last_left.map(|_| LONG_AGO);
                self.machine.idle_since = self.machine.idle_since.map(|_| LONG_AGO);
            }
            Move::Expire => {
                self.on_lru = false;
                self.step(Event::Expire { now: NOW, delay: DELAY });
                if self.machine.state == State::LruDiscarding {
                    assert_eq!(self.users, 0, "N-C45: an in-use cookie is not expired");
                    assert_eq!(self.last_unuse, LONG_AGO, "N-C46: expired too early");
                }
            }
            Move::Begin => self.accesses += 1,
            Move::End => {
                self.accesses -= 1;
                if self.accesses == 0 && !self.gate_open {
                    self.step(Event::Drained);
                }
            }
            Move::Fill => {
                let era = self.era;
                if let Some(stored) = &mut self.stored {
                    stored.oldest = Some(stored.oldest.map_or(era, |o| o.min(era)));
                }
            }
            Move::Answer { ok } => self.answer(*ok),
            Move::Invalidate { to, dio } => {
                self.era += 1;
                self.dio |= *dio && self.users > 0;
                let before = self.machine.inval();
                self.step(Event::Invalidate { identity: ident(*to), dio: *dio });
                assert!(self.machine.inval() > before, "N-C49");
            }
            Move::Update { to } => {
                self.updates += 1;
                // What the owner changed has reached the object only if it is open.
                let changed = self.machine.identity != ident(*to);
                self.era += u64::from(changed && !self.gate_open);
                self.step(Event::Update(ident(*to)));
            }
            Move::Withdraw => {
                self.live = false;
                self.step(Event::Withdraw);
            }
            Move::Attach => {
                self.live = true;
                self.step(Event::Attach);
            }
            Move::Relinquish(how) => {
                self.relinquished = Some(*how);
                self.step(Event::Relinquish(*how));
            }
        }
    }

    /// The backend answers.
    fn answer(&mut self, ok: bool) {
        self.refused |= !ok;
        let empty = |identity| Some(Stored { identity, oldest: None });
        let event = match (self.call.take(), ok) {
            (Some(Call::Lookup(identity)), true) => {
                self.touched = true;
                let same = self.stored.as_ref().is_some_and(|s| s.identity == identity);
                let found = match &self.stored {
                    Some(_) if same => Found::Existing,
                    Some(_) => Found::ReplacedStale,
                    None => Found::Created,
                };
                if !same {
                    self.stored = empty(identity);
                }
                Event::LookedUp(Ok(found))
            }
            (Some(Call::Lookup(_)), false) => Event::LookedUp(Err(Refusal::Busy)),
            (Some(Call::CutOver(identity)), true) => {
                self.stored = empty(identity);
                Event::CutOver(Ok(()))
            }
            (Some(Call::Relabel(identity)), true) => {
                if let Some(stored) = &mut self.stored {
                    stored.identity = identity;
                }
                Event::CutOver(Ok(()))
            }
            (Some(Call::CutOver(_) | Call::Relabel(_) | Call::Close(_)), false) => {
                Event::CutOver(Err(Refusal::IoError))
            }
            (Some(Call::Close(how)), true) => {
                if how == Relinquish::Retire {
                    self.stored = None;
                }
                Event::Closed
            }
            (None, _) => return,
        };
        self.step(event);
    }

    fn step(&mut self, event: Event) {
        for action in self.machine.step(event) {
            match action {
                Action::Lookup(identity) => self.call(Call::Lookup(identity)),
                Action::CutOver(identity) => self.call(Call::CutOver(identity)),
                Action::Relabel(identity) => self.call(Call::Relabel(identity)),
                Action::Close(how) => {
                    assert!(!self.gate_open && self.accesses == 0, "N-C44: closed under a reader");
                    self.call(Call::Close(how));
                }
                Action::Publish => self.gate_open = true,
                Action::Unpublish => self.gate_open = false,
                Action::AwaitDrain => {
                    if self.accesses == 0 {
                        self.step(Event::Drained);
                    }
                }
                Action::AddToLru(_) => {
                    assert!(!self.on_lru, "one entry a cookie");
                    self.on_lru = true;
                }
                Action::Dropped { distrust } => self.check_dropped(distrust),
                Action::DoubleRelinquish => panic!("relinquished once"),
                Action::LruRemoved | Action::LruDropped => {}
            }
        }
    }

    fn call(&mut self, call: Call) {
        assert_eq!(self.call, None, "one backend call at a time");
        self.call = Some(call);
    }

    fn check_dropped(&mut self, distrust: bool) {
        self.dropped = true;
        let Some(stored) = &self.stored else { return };
        if self.relinquished == Some(Relinquish::Retire) && self.live {
            assert!(self.refused, "N-C51: retired but still stored");
        }
        // The next cookie of this key would find it under the identity we last stood for.
        let void = stored.oldest.is_some_and(|o| o < self.era);
        // (Bytes of an identity that this cookie never stood for are what their name says.)
        let ours = self.touched || stored.identity == ident(0);
        if void && ours && stored.identity == self.machine.identity {
            assert!(distrust, "N-C48: void bytes left for the next cookie to find");
        }
    }

    fn check(&self) {
        let m = &self.machine;
        assert_eq!(m.n_active, self.users, "N-C43");
        assert_eq!(self.gate_open, m.is_published(), "the gate follows the machine");
        assert_eq!(self.on_lru, m.on_lru, "the machine knows of its LRU entry");
        if self.gate_open {
            assert!(!self.dio, "N-C50: served while disabled");
            assert_eq!(m.state, State::Active);
            let stored = self.stored.as_ref().expect("an open object");
            assert!(stored.oldest.is_none_or(|o| o >= self.era), "N-C48: void bytes are served");
            assert_eq!(stored.identity, m.identity, "served under another identity");
        }
        if self.call.is_none() && !m.draining {
            self.check_at_rest();
        }
    }

    /// Nothing is under way, so nothing more will happen by itself.
    fn check_at_rest(&self) {
        let m = &self.machine;
        let at_rest = [State::Quiescent, State::Active, State::Failed, State::Dropped];
        assert!(at_rest.contains(&m.state), "stuck in {:?}", m.state);
        if self.relinquished.is_some() {
            assert_eq!(m.state, State::Dropped, "relinquish never ends");
        } else if !self.live {
            assert_eq!(m.state, State::Quiescent, "withdrawal never ends");
        } else if self.users > 0 && m.state != State::Active {
            let ill = self.unhealthy && m.state == State::Quiescent;
            assert!(self.refused || ill, "N-C45: a lookup was lost");
        }
        if m.state == State::Active && self.users == 0 {
            assert!(self.on_lru, "an unused object would stay open for ever");
        }
        assert!(!m.is_pending(), "readers would wait for nothing");
    }
}

fn walk(start: World) -> usize {
    let mut seen = HashSet::from([start.clone()]);
    let mut queue = VecDeque::from([start]);
    while let Some(world) = queue.pop_front() {
        for mv in world.moves() {
            let mut next = world.clone();
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                next.apply(&mv);
                next.check();
                next.unhealthy &= next.machine.state == State::Quiescent;
            }));
            if outcome.is_err() {
                panic!("{mv:?} in {world:?}");
            }
            if !next.dropped && seen.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    seen.len()
}

/// N-C43 to N-C46 and N-C48 to N-C51 in every order of events.
#[test]
fn n_c48_no_order_of_events_serves_a_void_byte_or_loses_a_lookup() {
    let mut total = 0;
    for stored in [None, Some(ident(0)), Some(ident(1))] {
        let stored = stored.map(|identity| Stored { identity, oldest: Some(0) });
        total += walk(World::start(stored, true));
    }
    eprintln!("{total} states");
    assert!(total > 10_000, "the walk must not have been cut short: {total} states");
}

#[test]
fn a_second_relinquish_only_warns() {
    let mut m = Machine::new(ident(0), false);
    assert_eq!(
        m.step(Event::Relinquish(Relinquish::Keep)).as_slice(),
        [Action::Dropped { distrust: false }]
    );
    let again = m.step(Event::Relinquish(Relinquish::Retire));
    assert_eq!(again.as_slice(), [Action::DoubleRelinquish]);
}

#[test]
fn n_c48_distrust_inherited_from_an_earlier_cookie_cuts_the_object_over() {
    let mut m = Machine::new(ident(0), true);
    assert_eq!(m.step(Event::Use { healthy: true }).as_slice(), [Action::Lookup(ident(0))]);
    assert!(m.step(Event::Distrust).is_empty());
    let actions = m.step(Event::LookedUp(Ok(Found::Existing)));
    assert_eq!(actions.as_slice(), [Action::Unpublish, Action::CutOver(ident(0))]);
}
