//! One fill on its way from the queue to the cache.
//!
//! In order: the object (nearly always open already), a place among the writes, the write. A fill that
//! waits for its object has no place, so a lookup that hangs holds up nobody else (N-C76).

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{FillTag, Shared, StillOk, Ticket, ticket::End};
use crate::{
    folio::{PAGE_SIZE, Slice},
    fscache::{Access, CacheWrite, Cookie, CookieUse, Refusal, cookie::Claim},
    sync::Arc,
};

/// Pause before a cache that was too busy is asked again, unless another fill ends first. It may be
/// busy with reads, whose ends nobody tells us.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Fill {
    cookie: Arc<Cookie>,
    /// Keeps the object open, or opens it again, after the file's last user has left.
    user: CookieUse,
    /// Taken when the fill is offered, if the object is open: then not even the end of the cookie
    /// comes between the fill and its object.
    access: Option<Access>,
    claim: Claim,
    offset: u64,
    data: Vec<Slice>,
    tag: FillTag,
}

impl Fill {
    /// Boxed: it is handed back and forth while there is no room.
    pub(super) fn new(
        cookie: &Arc<Cookie>,
        offset: u64,
        data: Vec<Slice>,
        tag: FillTag,
    ) -> Box<Fill> {
        let user = cookie.use_cookie(false);
        let access = cookie.try_begin();
        let len: u64 = data.iter().map(|s| s.len() as u64).sum();
        let claim = cookie.claim(offset..offset.saturating_add(len), &tag.identity);
        Box::new(Fill { cookie: Arc::clone(cookie), user, access, claim, offset, data, tag })
    }

    pub(super) fn len(&self) -> u64 {
        self.data.iter().map(|s| s.len() as u64).sum()
    }

    pub(super) fn is_whole_pages(&self) -> bool {
        self.offset.is_multiple_of(PAGE_SIZE as u64)
            && self.data.iter().all(|s| s.len().is_multiple_of(PAGE_SIZE))
    }
}

/// A fill with its object. In the order its parts are let go of: whoever sees the room it leaves finds
/// the object without it.
struct Store {
    access: Access,
    claim: Claim,
    _user: CookieUse,
    offset: u64,
    data: Vec<Slice>,
    tag: FillTag,
    ticket: Ticket,
}

impl Store {
    fn may_be_kept(&self) -> StillOk {
        if self.access.inval_counter() != self.tag.inval_counter {
            return StillOk::No;
        }
        let still_ok = (self.tag.still_ok)(&self.access.object().identity());
        // After the identity: an own change voids claims first.
        if self.claim.is_void() { StillOk::No } else { still_ok }
    }

    /// Whether a write that was refused as out of date was only overtaken by an own change of other pages.
    fn is_only_overtaken(&self, generation: u64) -> bool {
        self.access.object().generation() != generation
            && self.access.is_current()
            && !self.claim.is_void()
    }
}

impl Shared {
    /// Stores one fill. Whatever comes between, its ticket counts what became of it.
    pub(super) async fn run(self: Arc<Self>, fill: Box<Fill>, ticket: Ticket) {
        let Some(mut store) = self.with_object(fill, ticket).await else { return };
        let mut busy_until = None;
        loop {
            // Made before the attempt, so an end in between is not missed.
            let ended = self.ended.notified();
            // Closed: a shutdown has given up what is queued, and counted it.
            let Ok(place) = Arc::clone(&self.writes).acquire_owned().await else { return };
            store = match self.attempt(store, place).await {
                Some(store) => store,
                None => return,
            };
            let now = self.fscache.now();
            let until = *busy_until.get_or_insert(now + self.config.patience());
            if now >= until {
                return lost(&store, Refusal::Busy);
            }
            self.fscache.until(until.min(now + BUSY_PAUSE), ended).await;
        }
    }

    /// Waits for the fill's object.
    async fn with_object(&self, fill: Box<Fill>, ticket: Ticket) -> Option<Store> {
        let Fill { cookie, user, access, claim, offset, data, tag } = *fill;
        let access = match access {
            Some(access) => access,
            None => match cookie.begin_by(self.fscache.now() + self.config.patience()).await {
                Ok(access) => access,
                Err(refusal) => {
                    tracing::debug!(key = ?cookie.key(), ?refusal, "fill dropped: no cache object");
                    return None;
                }
            },
        };
        Some(Store { access, claim, _user: user, offset, data, tag, ticket })
    }

    /// Hands a fill to the cache. It comes back if it is to be tried again.
    async fn attempt(
        self: &Arc<Self>,
        mut store: Store,
        place: OwnedSemaphorePermit,
    ) -> Option<Store> {
        let counters = self.fscache.counters();
        let object = Arc::clone(store.access.object());
        // Before the questions: what comes after them, an own change or an invalidation, changes it.
        let generation = object.generation();
        match store.may_be_kept() {
            StillOk::Yes => {}
            StillOk::No => {
                store.ticket.set_end(End::Stale);
                return None;
            }
            StillOk::Later => return Some(store),
        }
        counters.cache_write.inc();
        if !store.access.is_current() {
            store.ticket.set_end(End::Stale);
            counters.cache_write_failed.inc();
            return None;
        }
        let (said, mut ended) = oneshot::channel();
        let (shared, offset, data) = (Arc::clone(self), store.offset, store.data.clone());
        let sub = CacheWrite::new(offset, data, generation, move |result| {
            // The cache's thread: the access ends only now, so the object is not closed under it.
            let again = shared.written(store, generation, result);
            if let Err(Some(store)) = said.send(again) {
                lost(&store, Refusal::Busy);
            }
        });
        object.write(sub);
        // A write that hangs gives its place to others; its bytes go on counting.
        let stuck = self.fscache.now() + self.config.stuck_after;
        match self.fscache.until(stuck, &mut ended).await {
            Some(said) => said.ok().flatten(),
            None => {
                drop(place);
                ended.await.ok().flatten()
            }
        }
    }

    /// What the cache said to a write. A fill it was too busy for, or that an own change of other pages has
    /// overtaken, is given back.
    fn written(
        &self,
        mut store: Store,
        generation: u64,
        result: Result<(), Refusal>,
    ) -> Option<Store> {
        let counters = self.fscache.counters();
        let Err(refusal) = result else {
            counters.cache_write_done.inc();
            counters.cache_write_bytes.add(store.ticket.bytes());
            store.ticket.set_end(End::Stored);
            return None;
        };
        counters.cache_write_failed.inc();
        match self.fscache.refused(refusal) {
            Refusal::Busy => return Some(store),
            Refusal::Stale if store.is_only_overtaken(generation) => return Some(store),
            Refusal::Stale => store.ticket.set_end(End::Stale),
            refusal => lost(&store, refusal),
        }
        None
    }
}

/// Says why a fill is not stored; its ticket counts it.
fn lost(store: &Store, refusal: Refusal) {
    tracing::debug!(key = ?store.access.cookie().key(), ?refusal, "fill dropped: not stored");
}
