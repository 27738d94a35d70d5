//! The cookie state machine (B1) as plain data: events in, actions out; no lock, no clock, no I/O.
//!
//! ```text
//!              use              found                    invalidate
//! QUIESCENT -------> LOOKING_UP -----> ACTIVE <---------------------> INVALIDATING
//!    ^  ^               | refused        |  idle 10 s      cut over        | cut-over refused
//!    |  |               v                v                                 v
//!    |  +-- unuse -- FAILED        LRU_DISCARDING                     WITHDRAWING
//!    +----------------------- closed ----+----------------------------------+
//! any --relinquish--> (the step under way ends) --> RELINQUISHING --closed--> DROPPED
//! ```
//!
//! Differences from the kernel's machine, and why:
//!
//! - CREATING is missing: one backend call both looks up and creates.
//! - NO_DATA_TO_READ (row 111) is missing: the content map answers page by page from memory, so "there
//!   is nothing to read" is what [`extents`](super::CacheObject::extents) says of an empty object, and
//!   no flag has to be cleared in time for the second read to hit (N-C53, complaint 3).
//! - What an invalidation asks for is not a flag per state but two counters: `inval`, the number of
//!   invalidations so far, and `clean`, the last invalidation that the stored content is known to be
//!   newer than. **An object is shown to readers only while `clean == inval`** (N-C48). An
//!   invalidation during LOOKING_UP, while QUIESCENT, while the object is being closed or while the
//!   cache is gone only raises `inval`; the next time an object is found the rule cuts it over.
//!
//! At most one backend call (lookup, cut-over, close) is outstanding per cookie: each is answered by
//! the event of the same name before another one is asked for.

use std::time::Duration;

use super::{Found, Identity, Refusal, Relinquish};
use crate::clock::BootTime;

/// Where a cookie is in its life. The letter in listings is the kernel's (row 116).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum State {
    /// No object is open (`-`).
    Quiescent,
    /// The backend was asked for the object (`L`).
    LookingUp,
    /// The object is open (`A`).
    Active,
    /// The object is being cut over (`I`).
    Invalidating,
    /// The backend refused; uncached until the last user leaves (`F`).
    Failed,
    /// Unused for long enough: the object is being committed and closed (`U`).
    LruDiscarding,
    /// The object is being closed because the cache goes away or failed it (`W`).
    Withdrawing,
    /// The object is being closed for good (`R`).
    Relinquishing,
    /// The end (`D`).
    Dropped,
}

impl State {
    /// The letter of row 116's listing.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            State::Quiescent => '-',
            State::LookingUp => 'L',
            State::Active => 'A',
            State::Invalidating => 'I',
            State::Failed => 'F',
            State::LruDiscarding => 'U',
            State::Withdrawing => 'W',
            State::Relinquishing => 'R',
            State::Dropped => 'D',
        }
    }
}

/// What happens to a cookie.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Event {
    /// A user arrives. `healthy`: the cache admits new work.
    Use { healthy: bool },
    /// A user leaves.
    Unuse { now: BootTime },
    /// Answer to [`Action::Lookup`].
    LookedUp(Result<Found, Refusal>),
    /// Answer to [`Action::CutOver`] and [`Action::Relabel`].
    CutOver(Result<(), Refusal>),
    /// The gate is closed and nobody is inside (the shell has checked both under its lock).
    Drained,
    /// Answer to [`Action::Close`].
    Closed,
    /// The content up to now is void. `dio`: caching stays off until all users have left (row 105).
    Invalidate { identity: Identity, dio: bool },
    /// What is stored may predate an invalidation that an earlier cookie could not carry out.
    Distrust,
    /// The same content has a new name (row 108), or a new size (row 107).
    Update(Identity),
    /// The LRU entry's time has come.
    Expire { now: BootTime, delay: Duration },
    /// The cache goes away.
    Withdraw,
    /// A cache came.
    Attach,
    /// The owner is done with it.
    Relinquish(Relinquish),
}

/// What the shell has to do, in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Action {
    /// Ask the backend for the object.
    Lookup(Identity),
    /// Show the object to readers: open the gate.
    Publish,
    /// Show it no more: close the gate. Accesses under way go on, and find themselves out of date.
    Unpublish,
    /// Cut the object over.
    CutOver(Identity),
    /// Give the object another identity, keeping its content where possible.
    Relabel(Identity),
    /// The gate is closed: say [`Event::Drained`] once nobody is inside.
    AwaitDrain,
    /// Close the object.
    Close(Relinquish),
    /// Put the cookie on the LRU, to expire `delay` after this instant.
    AddToLru(BootTime),
    /// A use took the cookie off the LRU (counted only).
    LruRemoved,
    /// A relinquish took it off (counted only).
    LruDropped,
    /// Relinquished twice (row 109: warn and do nothing).
    DoubleRelinquish,
    /// Gone: wake whoever waits for the key. `distrust`: stored content could not be voided.
    Dropped { distrust: bool },
}

/// The actions of one event.
pub(crate) type Actions = smallvec::SmallVec<[Action; 4]>;

/// One cookie's state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Machine {
    state: State,
    /// A cache is attached.
    live: bool,
    n_active: u32,
    /// What the object should be about.
    identity: Identity,
    /// What the last lookup, cut-over or relabel was asked for.
    asked: Identity,
    /// What the last one that succeeded was asked for: the name of what is stored.
    stored: Identity,
    /// Invalidations so far (row 104's inval_counter; never wraps, N-C49).
    inval: u64,
    /// The stored content is newer than this many of them.
    clean: u64,
    /// `inval` when the outstanding lookup, cut-over or close was asked for.
    asked_at: u64,
    /// An invalidation that did not change the identity, or changed it back, has not been carried out
    /// yet: nothing but this flag keeps another cookie from finding the old bytes under their old name.
    distrust: bool,
    /// Row 105: off until the last user leaves.
    disabled: bool,
    /// A withdrawal came while a backend call was outstanding.
    withdraw: bool,
    /// Another cache came while a lookup was outstanding that the last one's withdrawal did not wait
    /// for: it had not reached the cache. What it is refused with says nothing about the new one.
    again: bool,
    relinquish: Option<Relinquish>,
    /// The object failed us: do not look it up again for the present users.
    failed: bool,
    /// Waiting for [`Event::Drained`].
    draining: bool,
    /// How the outstanding close was asked for.
    closing: Option<Relinquish>,
    /// The last close deleted what was stored.
    deleted: bool,
    /// Since when nobody uses it.
    idle_since: Option<BootTime>,
    /// When a user was last known to leave. Users look at the clock before they come here, so one that
    /// looked earlier may come later: the delay counts from the latest look (N-C46).
    last_left: Option<BootTime>,
    /// The shell's LRU has an entry (at most one per cookie, however often it is used).
    on_lru: bool,
}

impl Machine {
    pub(crate) fn new(identity: Identity, live: bool) -> Machine {
        Machine {
            state: State::Quiescent,
            live,
            n_active: 0,
            asked: identity.clone(),
            stored: identity.clone(),
            identity,
            inval: 0,
            clean: 0,
            asked_at: 0,
            distrust: false,
            disabled: false,
            withdraw: false,
            again: false,
            relinquish: None,
            failed: false,
            draining: false,
            closing: None,
            deleted: false,
            idle_since: None,
            last_left: None,
            on_lru: false,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn n_active(&self) -> u32 {
        self.n_active
    }

    pub(crate) fn inval(&self) -> u64 {
        self.inval
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// Whether waiting may bring an object: something is under way that ends in one.
    pub(crate) fn is_pending(&self) -> bool {
        let under_way = match self.state {
            State::LookingUp | State::Invalidating => true,
            // A new lookup follows the close if somebody is waiting for one.
            State::LruDiscarding | State::Withdrawing => {
                self.live && self.n_active > 0 && !self.failed
            }
            _ => false,
        };
        under_way && self.relinquish.is_none() && !self.disabled && !self.withdraw
    }

    /// Whether readers are let in: the shell has the gate open exactly then.
    pub(crate) fn is_published(&self) -> bool {
        self.state == State::Active && !self.disabled
    }

    /// Applies one event.
    pub(crate) fn step(&mut self, event: Event) -> Actions {
        let mut out = Actions::new();
        match event {
            Event::Use { healthy } => self.use_cookie(healthy, &mut out),
            Event::Unuse { now } => self.unuse(now, &mut out),
            Event::LookedUp(result) => self.looked_up(result, &mut out),
            Event::CutOver(result) => self.cut_over_done(result, &mut out),
            Event::Drained => self.drained(&mut out),
            Event::Closed => self.closed(&mut out),
            Event::Invalidate { identity, dio } => self.invalidate(identity, dio, &mut out),
            Event::Distrust => {
                self.inval += 1;
                self.distrust = true;
            }
            Event::Update(identity) => self.update(identity, &mut out),
            Event::Expire { now, delay } => self.expire(now, delay, &mut out),
            Event::Withdraw => self.withdraw(&mut out),
            Event::Attach => {
                self.live = true;
                // A call to the withdrawn cache has ended by now; one under way is for this one.
                self.withdraw = false;
                self.again = self.state == State::LookingUp;
                if self.state == State::Failed {
                    self.rest_quiescent(&mut out);
                } else {
                    self.look_up_if_wanted(&mut out);
                }
            }
            Event::Relinquish(how) => self.relinquish(how, &mut out),
        }
        debug_assert!(self.clean <= self.inval, "content cannot be newer than the last event");
        out
    }

    fn use_cookie(&mut self, healthy: bool, out: &mut Actions) {
        self.n_active += 1;
        if self.idle_since.take().is_some() && self.state == State::Active {
            out.push(Action::LruRemoved);
        }
        if self.state == State::LruDiscarding && self.draining && self.relinquish.is_none() {
            // Not closed yet, only waiting for stragglers: keep the object.
            self.draining = false;
            self.settle(out);
        } else if healthy {
            self.look_up_if_wanted(out);
        }
    }

    fn unuse(&mut self, now: BootTime, out: &mut Actions) {
        debug_assert!(self.n_active > 0, "unused more often than used (N-C43)");
        self.n_active = self.n_active.saturating_sub(1);
        self.last_left = self.last_left.max(Some(now));
        if self.n_active > 0 {
            return;
        }
        self.idle_since = self.last_left;
        let was_disabled = std::mem::take(&mut self.disabled);
        match self.state {
            State::Active if was_disabled => self.settle(out),
            State::Active => self.add_to_lru(out),
            State::Failed => self.rest_quiescent(out),
            _ => self.failed = false,
        }
    }

    fn looked_up(&mut self, result: Result<Found, Refusal>, out: &mut Actions) {
        debug_assert_eq!(self.state, State::LookingUp, "a lookup nobody asked for");
        if result.is_ok() {
            self.stored.clone_from(&self.asked);
        }
        match result {
            Ok(Found::Existing) => self.settle(out),
            Ok(_) => {
                // New and empty, so newer than every invalidation known when it was asked for.
                self.cleaned();
                self.settle(out);
            }
            Err(_) => {
                self.withdraw = false;
                let again = std::mem::take(&mut self.again);
                if self.relinquish.is_some() {
                    self.drop_now(out);
                } else if self.n_active > 0 && self.live && !again {
                    self.failed = true;
                    self.state = State::Failed;
                } else {
                    self.rest_quiescent(out);
                }
            }
        }
    }

    fn cut_over_done(&mut self, result: Result<(), Refusal>, out: &mut Actions) {
        debug_assert_eq!(self.state, State::Invalidating, "a cut-over nobody asked for");
        match result {
            Ok(()) => {
                self.stored.clone_from(&self.asked);
                self.cleaned();
                self.settle(out);
            }
            Err(_) => {
                // What the object holds is void and could not be replaced: close and delete it. That
                // goes for a relabel too: it has the new content under the old name.
                self.failed = true;
                self.inval += u64::from(self.clean == self.inval);
                self.start_close(State::Withdrawing, out);
            }
        }
    }

    /// An object is open and no backend call is outstanding: decide what it is for.
    fn settle(&mut self, out: &mut Actions) {
        if self.relinquish.is_some() {
            self.start_close(State::Relinquishing, out);
        } else if self.withdraw {
            self.withdraw = false;
            self.start_close(State::Withdrawing, out);
        } else if self.clean < self.inval {
            self.cut_over(out);
        } else {
            self.state = State::Active;
            if !self.disabled {
                out.push(Action::Publish);
            }
            if self.n_active == 0 {
                self.add_to_lru(out);
            }
        }
    }

    fn cut_over(&mut self, out: &mut Actions) {
        self.state = State::Invalidating;
        self.ask();
        out.push(Action::Unpublish);
        out.push(Action::CutOver(self.identity.clone()));
    }

    /// Notes what the backend call about to be asked for is based on.
    fn ask(&mut self) {
        self.asked = self.identity.clone();
        self.asked_at = self.inval;
    }

    /// What is stored is newer than everything the last call was based on.
    fn cleaned(&mut self) {
        self.clean = self.asked_at;
        self.distrust &= self.clean < self.inval;
    }

    fn start_close(&mut self, state: State, out: &mut Actions) {
        self.state = state;
        self.draining = true;
        out.push(Action::Unpublish);
        out.push(Action::AwaitDrain);
    }

    fn drained(&mut self, out: &mut Actions) {
        if !std::mem::take(&mut self.draining) {
            return;
        }
        let void = self.clean < self.inval || self.relinquish == Some(Relinquish::Retire);
        let how = if void { Relinquish::Retire } else { Relinquish::Keep };
        self.asked_at = self.inval;
        self.closing = Some(how);
        out.push(Action::Close(how));
    }

    fn closed(&mut self, out: &mut Actions) {
        debug_assert!(self.closing.is_some(), "a close nobody asked for");
        if self.closing.take() == Some(Relinquish::Retire) {
            self.deleted = true;
            self.cleaned();
        }
        self.withdraw = false;
        if self.relinquish.is_some() {
            self.finish_relinquish(out);
        } else if self.failed && self.n_active > 0 && self.live {
            self.state = State::Failed;
        } else {
            self.rest_quiescent(out);
        }
    }

    fn rest_quiescent(&mut self, out: &mut Actions) {
        self.state = State::Quiescent;
        self.failed = false;
        self.look_up_if_wanted(out);
    }

    fn look_up_if_wanted(&mut self, out: &mut Actions) {
        if self.state == State::Quiescent
            && self.live
            && self.n_active > 0
            && self.relinquish.is_none()
        {
            self.look_up(out);
        }
    }

    fn look_up(&mut self, out: &mut Actions) {
        self.state = State::LookingUp;
        self.deleted = false;
        self.again = false;
        self.ask();
        out.push(Action::Lookup(self.identity.clone()));
    }

    fn invalidate(&mut self, identity: Identity, dio: bool, out: &mut Actions) {
        self.inval += 1;
        self.distrust |= [&self.identity, &self.asked, &self.stored].contains(&&identity);
        self.identity = identity;
        self.disabled |= dio && self.n_active > 0;
        if self.state == State::Active {
            self.cut_over(out);
        }
    }

    fn update(&mut self, identity: Identity, out: &mut Actions) {
        if identity == self.identity {
            return;
        }
        self.identity = identity;
        if self.state == State::Active && !self.disabled {
            self.state = State::Invalidating;
            self.ask();
            out.push(Action::Unpublish);
            out.push(Action::Relabel(self.identity.clone()));
            return;
        }
        // What changed the content cannot have reached an object that is not open for users, so the
        // object's bytes do not belong to the new identity.
        self.inval += 1;
        if self.state == State::Active {
            self.cut_over(out);
        }
    }

    fn add_to_lru(&mut self, out: &mut Actions) {
        if let (Some(since), false) = (self.idle_since, self.on_lru) {
            self.on_lru = true;
            out.push(Action::AddToLru(since));
        }
    }

    fn expire(&mut self, now: BootTime, delay: Duration, out: &mut Actions) {
        self.on_lru = false;
        if self.state != State::Active || self.n_active > 0 {
            return;
        }
        match self.idle_since {
            // Used again since the entry was made: its time has not come (N-C46).
            Some(since) if since + delay > now => self.add_to_lru(out),
            _ => self.start_close(State::LruDiscarding, out),
        }
    }

    fn withdraw(&mut self, out: &mut Actions) {
        self.live = false;
        match self.state {
            State::Active => self.start_close(State::Withdrawing, out),
            State::LookingUp | State::Invalidating => self.withdraw = true,
            State::LruDiscarding if self.draining => self.state = State::Withdrawing,
            State::Failed => self.rest_quiescent(out),
            _ => {}
        }
    }

    fn relinquish(&mut self, how: Relinquish, out: &mut Actions) {
        if self.relinquish.is_some() {
            out.push(Action::DoubleRelinquish);
            return;
        }
        self.relinquish = Some(how);
        if self.on_lru && self.idle_since.is_some() && self.state == State::Active {
            out.push(Action::LruDropped);
        }
        match self.state {
            State::Active => self.start_close(State::Relinquishing, out),
            State::Quiescent | State::Failed => self.finish_relinquish(out),
            // The call under way ends first.
            _ => {}
        }
    }

    /// No object is open: what is stored may still have to be deleted (N-C51), which takes a lookup.
    fn finish_relinquish(&mut self, out: &mut Actions) {
        let delete = self.relinquish == Some(Relinquish::Retire) || self.distrust;
        if delete && !self.deleted && self.live {
            self.look_up(out);
        } else {
            self.drop_now(out);
        }
    }

    fn drop_now(&mut self, out: &mut Actions) {
        self.state = State::Dropped;
        out.push(Action::Dropped { distrust: self.distrust });
    }
}

#[cfg(test)]
mod tests;
