//! Cookies: one file's tie to the cache, and the accesses that go through it.
//!
//! A cookie wraps the pure [`Machine`] in a lock, does what the machine says, and lets readers in:
//!
//! - **Readers** ([`Cookie::try_begin`]) never take the state lock: they enter the [`Gate`] and clone
//!   the published object. What they read counts only if [`Access::is_current`] says so *afterwards*:
//!   an invalidation does not wait for accesses under way, it makes them worthless (row 106).
//! - **Events** take the state lock for the machine's step and for opening or closing the gate. Backend
//!   calls are made after it has been released: cut-overs on the calling thread (they are immediate),
//!   lookups and closes on the driver.
//!
//! Lock order: cookie state, then the published object. Neither is held across a backend call or an
//! await. The volume's lock is never taken under them.

mod claims;
mod drive;
#[cfg(all(test, shuttle))]
mod interleavings;
mod slot;

use std::{fmt, ops::Range};

use bytes::Bytes;
pub(crate) use claims::Claim;
use claims::Claims;
pub(crate) use slot::{CookieSlot, CookieUse};
use tokio::sync::Notify;

use super::{
    CacheObject, Found, Identity, Refusal, Relinquish,
    access::Gate,
    cookie_state::{Event, Machine, State},
    volume::{Attachment, Hold, Volume},
};
use crate::{
    clock::BootTime,
    remote::VolumeId,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    waits::{Wait, WaitInfo, WaitKind},
};

/// A live cookie has the key already (row 100).
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("a cookie for key {key:?} is live in volume {volume:?}; share it")]
pub struct DuplicateKey {
    /// The volume.
    pub volume: VolumeId,
    /// The key.
    pub key: Bytes,
}

impl fmt::Debug for DuplicateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DuplicateKey({:?}, {:?})", self.volume, self.key)
    }
}

/// A line of row 116's cookie listing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CookieInfo {
    /// The key.
    pub key: Bytes,
    /// Where it is in its life; [`State::letter`] is the kernel's letter.
    pub state: State,
    /// Users (opens, pins).
    pub n_active: u32,
    /// Users that said they would modify.
    pub n_modifying: u32,
    /// Accesses under way.
    pub n_accesses: u64,
    /// Invalidations so far.
    pub inval_counter: u64,
    /// Caching is off until all users have left (N-C50).
    pub disabled: bool,
    /// Since when it has been in this state: the age of whatever is being waited for (N-C78).
    pub since: BootTime,
    /// What the object should be about.
    pub identity: Identity,
}

/// One file's tie to the cache.
pub(crate) struct Cookie {
    volume: Arc<Volume>,
    key: Bytes,
    inner: Mutex<Inner>,
    /// Open while an object is published.
    gate: Gate,
    published: RwLock<Option<Arc<Live>>>,
    /// Copy of the machine's counter for readers; raised before an invalidation returns.
    inval: AtomicU64,
    /// How the last lookup that replaced an object came to do so.
    replaced: Mutex<Option<Found>>,
    relinquished: AtomicBool,
    /// Notified after every change of state.
    changed: Notify,
}

struct Inner {
    machine: Machine,
    held: Option<Held>,
    /// The key's last owner, until it is known to be closed (N-C47).
    before: Option<Arc<Cookie>>,
    n_modifying: u32,
    claims: Claims,
    /// What the own change under way wrote.
    changed: Vec<Range<u64>>,
    since: BootTime,
    /// What the backend last refused with.
    refusal: Refusal,
    /// The context is gone (see [`Cookie::abort`]): whatever the machine says, nothing is shown or
    /// waited for any more.
    aborted: bool,
}

/// The object the cookie has.
struct Held {
    object: Arc<dyn CacheObject>,
    hold: Hold,
}

/// The object as readers get it.
struct Live {
    object: Arc<dyn CacheObject>,
    attachment: Arc<Attachment>,
    inval: u64,
}

enum Attempt {
    Begun(Access),
    Wait,
    No(Refusal),
}

impl Cookie {
    pub(super) fn new(
        volume: Arc<Volume>,
        key: Bytes,
        identity: Identity,
        live: bool,
        before: Option<Arc<Cookie>>,
    ) -> Arc<Cookie> {
        let since = volume.fscache.now();
        let inner = Inner {
            machine: Machine::new(identity, live),
            held: None,
            before,
            n_modifying: 0,
            claims: Claims::default(),
            changed: Vec::new(),
            since,
            refusal: Refusal::Disabled,
            aborted: false,
        };
        Arc::new(Cookie {
            volume,
            key,
            inner: Mutex::new(inner),
            gate: Gate::closed(),
            published: RwLock::new(None),
            inval: AtomicU64::new(0),
            replaced: Mutex::default(),
            relinquished: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// The key.
    pub(crate) fn key(&self) -> &Bytes {
        &self.key
    }

    /// Invalidations so far: a fill is tagged with it, and bytes read under another value are void.
    pub(crate) fn inval_counter(&self) -> u64 {
        self.inval.load(Ordering::Acquire)
    }

    /// Why the disk cache has nothing of a file it once had: its object was replaced when it was
    /// looked up. `None` if that never happened.
    pub(crate) fn replaced(&self) -> Option<Found> {
        *self.replaced.lock()
    }

    /// What the object should be about.
    pub(crate) fn identity(&self) -> Identity {
        self.inner.lock().machine.identity().clone()
    }

    /// Counts a user in (row 101) and starts the lookup if no object is open. Never waits.
    pub(crate) fn use_cookie(self: &Arc<Self>, will_modify: bool) -> CookieUse {
        let healthy = self.volume.attachment().is_some_and(|a| a.backend.health().is_ok());
        self.step(Event::Use { healthy }, |inner| inner.n_modifying += u32::from(will_modify));
        CookieUse::new(Arc::clone(self), will_modify)
    }

    /// Begins an access if the object is there: the hit path. Takes no lock that is held for longer
    /// than a pointer copy, and never waits.
    ///
    /// `None`: not open (ask [`Cookie::begin`] whether waiting helps), or the cache is out of service.
    #[must_use]
    pub(crate) fn try_begin(self: &Arc<Self>) -> Option<Access> {
        self.enter().and_then(Result::ok)
    }

    /// Begins an access, waiting while the object is being looked up or cut over (row 110): until
    /// `deadline`, but never longer than `cache_wait`.
    ///
    /// # Errors
    /// Why the server has to be asked: [`Refusal::TimedOut`] (counted; the lookup goes on and serves
    /// later reads), [`Refusal::Disabled`], what the lookup was refused with, or the cache's ill health.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        deadline: Option<BootTime>,
    ) -> Result<Access, Refusal> {
        // Without a look at the clock where no wait is needed.
        match self.attempt() {
            Attempt::Begun(access) => return Ok(access),
            Attempt::No(refusal) => return Err(refusal),
            Attempt::Wait => {}
        }
        let _wait = self.waiting(WaitKind::CacheLookup, 0..0);
        let fscache = &self.volume.fscache;
        let bound = fscache.now() + fscache.config().cache_wait;
        let result = self.begin_by(deadline.map_or(bound, |d| d.min(bound))).await;
        if result.as_ref().is_err_and(|r| *r == Refusal::TimedOut) {
            fscache.counters().cache_wait_timeouts.inc();
        }
        result
    }

    /// The same, waiting until `deadline` however long that is: for background work.
    pub(super) async fn begin_by(self: &Arc<Self>, deadline: BootTime) -> Result<Access, Refusal> {
        let begun = async {
            loop {
                // Made before the attempt, so a change in between is not missed.
                let changed = self.changed.notified();
                match self.attempt() {
                    Attempt::Begun(access) => return Ok(access),
                    Attempt::No(refusal) => return Err(refusal),
                    Attempt::Wait => changed.await,
                }
            }
        };
        self.volume.fscache.until(deadline, begun).await.unwrap_or(Err(Refusal::TimedOut))
    }

    /// Enters a wait about this cookie's file in the listing, until the guard is dropped.
    pub(super) fn waiting(&self, kind: WaitKind, range: Range<u64>) -> Wait {
        let (volume, key) = (self.volume.id().clone(), self.key.clone());
        let fscache = &self.volume.fscache;
        fscache.waits().enter(WaitInfo { kind, volume, key, range, since: fscache.now() })
    }

    /// Makes everything stored so far void (row 104). When this returns no byte from before is given
    /// out any more: accesses under way are no longer current, and new ones see an empty object. What
    /// cannot be cut over now (a lookup is under way, nothing is open) is cut over before anyone sees
    /// it.
    ///
    /// `dio`: caching also stays off until the last user has left (row 105).
    pub(crate) fn invalidate(self: &Arc<Self>, identity: Identity, dio: bool) {
        self.volume.fscache.counters().invalidates.inc();
        self.step(Event::Invalidate { identity, dio }, |_| ());
    }

    /// The owner is about to change the file (row 126): when this returns, the object is marked on disk as
    /// being modified, or nothing of it is left. Waits no longer than `cache_wait` for a lookup and as
    /// long for the mark; a lookup that takes longer finds out at the end of the change that it has found
    /// nothing.
    pub(crate) async fn begin_modify(self: &Arc<Self>) {
        let Ok(access) = self.begin(None).await else { return };
        let fscache = &self.volume.fscache;
        let until = fscache.now() + fscache.config().cache_wait;
        let mark = Arc::clone(access.object()).begin_modify();
        let refusal = match fscache.until(until, mark).await {
            Some(Ok(())) => return,
            Some(Err(refusal)) => refusal,
            None => Refusal::TimedOut,
        };
        let refusal = fscache.refused(refusal);
        tracing::debug!(key = ?self.key, ?refusal, "cannot mark an object as being modified");
        drop(access);
        self.invalidate(self.identity(), false);
    }

    /// The changes have ended.
    pub(crate) fn end_modify(self: &Arc<Self>) {
        if let Some(access) = self.try_begin() {
            access.object().end_modify();
        }
    }

    /// The owner has changed the file: all but the pages that `changed` touches is the same under its new
    /// identity (rows 107 and 108). When this returns no older byte of those pages is given out any more
    /// nor stored by a fill offered before. An object that is not open, or cannot take another name, loses
    /// its content; so does one that has the name already, which then says nothing.
    pub(crate) fn modified(self: &Arc<Self>, identity: Identity, changed: &[Range<u64>]) {
        let before = self.identity();
        if before == identity {
            return self.invalidate(identity, false);
        }
        let counters = self.volume.fscache.counters();
        counters.updates.inc();
        if before.size != identity.size {
            counters.resizes.inc();
            if !matches!(self.inner.lock().machine.state(), State::Active | State::Invalidating) {
                counters.resizes_failed.inc();
            }
        }
        self.step(Event::Update(identity), |inner| {
            inner.claims.void(changed);
            inner.changed = changed.to_vec();
        });
    }

    /// The same content under a new identity (row 108), as its user states it at the end.
    #[cfg(test)]
    pub(crate) fn update(self: &Arc<Self>, identity: Identity) {
        if self.identity() != identity {
            self.modified(identity, &[]);
        }
    }

    /// Ends the cookie (row 109): the object is committed, or with `Retire` deleted, and closed in the
    /// background. A second call warns and does nothing.
    pub(crate) fn relinquish(self: &Arc<Self>, how: Relinquish) {
        let counters = self.volume.fscache.counters();
        if !self.relinquished.swap(true, Ordering::AcqRel) {
            counters.relinquishes.inc();
            if how == Relinquish::Retire {
                counters.retires.inc();
            }
        }
        self.step(Event::Relinquish(how), |_| ());
    }

    /// Lets go of the object without committing it (see [`FsCache::abort`](super::FsCache::abort)).
    pub(super) fn abort(&self) {
        let (published, held, before) = {
            let mut inner = self.inner.lock();
            inner.aborted = true;
            self.gate.close();
            (self.published.write().take(), inner.held.take(), inner.before.take())
        };
        drop((published, held, before));
        self.changed.notify_waiters();
    }

    /// A line of the listing (row 116).
    pub(crate) fn describe(&self) -> CookieInfo {
        let inner = self.inner.lock();
        CookieInfo {
            key: self.key.clone(),
            state: inner.machine.state(),
            n_active: inner.machine.n_active(),
            n_modifying: inner.n_modifying,
            n_accesses: self.gate.count(),
            inval_counter: inner.machine.inval(),
            disabled: inner.machine.is_disabled(),
            since: inner.since,
            identity: inner.machine.identity().clone(),
        }
    }

    /// Whether [`relinquish`](Cookie::relinquish) has been called.
    pub(crate) fn is_relinquished(&self) -> bool {
        self.relinquished.load(Ordering::Acquire)
    }

    /// Completes when the cookie and every earlier owner of its key have been closed.
    pub(crate) async fn dropped(self: Arc<Self>) {
        let mut next = Some(self);
        while let Some(cookie) = next {
            loop {
                let changed = cookie.changed.notified();
                if cookie.inner.lock().machine.state() == State::Dropped {
                    break;
                }
                changed.await;
            }
            // One that never looked anything up has not waited for its own predecessor.
            next = cookie.inner.lock().before.take();
        }
    }

    fn unuse(self: &Arc<Self>, modifying: bool) {
        let now = self.volume.fscache.now();
        self.step(Event::Unuse { now }, |inner| {
            inner.n_modifying = inner.n_modifying.saturating_sub(u32::from(modifying));
        });
    }

    /// Enters the gate and takes the published object. `None`: nothing is published.
    fn enter(self: &Arc<Self>) -> Option<Result<Access, Refusal>> {
        if !self.gate.enter() {
            return None;
        }
        // From here on `Access` counts itself out, also where nothing is published any more.
        let mut access = Access { cookie: Arc::clone(self), live: None };
        access.live.clone_from(&self.published.read());
        let live = access.live.as_ref()?;
        // Row 115: a cache that met an I/O error loses all its users with their next operation.
        match live.attachment.backend.health() {
            Ok(()) => Some(Ok(access)),
            Err(refusal) => Some(Err(self.volume.fscache.refused(refusal))),
        }
    }

    fn attempt(self: &Arc<Self>) -> Attempt {
        loop {
            match self.enter() {
                Some(Ok(access)) => return Attempt::Begun(access),
                Some(Err(refusal)) => return Attempt::No(refusal),
                None => {}
            }
            let inner = self.inner.lock();
            if inner.aborted {
                return Attempt::No(Refusal::Withdrawn);
            }
            if inner.machine.is_pending() {
                return Attempt::Wait;
            }
            if inner.machine.is_published() {
                // It was published between the two looks; under this lock the gate is open.
                continue;
            }
            let failed = inner.machine.state() == State::Failed;
            return Attempt::No(if failed { inner.refusal } else { Refusal::Disabled });
        }
    }
}

/// An access under way: the object cannot be closed while it lives.
///
/// It does not keep an invalidation from happening: bytes read through it count only if
/// [`is_current`](Access::is_current) is true *after* they have been read.
pub(crate) struct Access {
    cookie: Arc<Cookie>,
    /// `None` only while `Cookie::enter` is deciding.
    live: Option<Arc<Live>>,
}

impl Access {
    /// The object.
    pub(crate) fn object(&self) -> &Arc<dyn CacheObject> {
        match &self.live {
            Some(live) => &live.object,
            None => unreachable!("an access is handed out with its object"),
        }
    }

    /// The cookie.
    pub(crate) fn cookie(&self) -> &Arc<Cookie> {
        &self.cookie
    }

    /// The invalidation counter the object was published under.
    pub(crate) fn inval_counter(&self) -> u64 {
        self.live.as_ref().map_or(0, |live| live.inval)
    }

    /// Whether no invalidation has happened since. If not, what was read is void (row 106: the
    /// kernel's `ESTALE`).
    pub(crate) fn is_current(&self) -> bool {
        self.cookie.inval_counter() == self.inval_counter()
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        // The object goes first: after the last exit it may be closed.
        self.live = None;
        if self.cookie.gate.exit() {
            self.cookie.access_drained();
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
