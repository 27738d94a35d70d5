//! The fill queue: downloaded data on its way to the cache, in the background.
//!
//! Bounded in bytes, because queued slices pin folios: when it is full, data is dropped (and counted)
//! or the request that brought it waits, never without bound. Nothing here can fail a read.
//!
//! **A fill carries what it is true of** ([`FillTag`]): the identity its bytes were fetched or uploaded
//! under, the cookie's invalidation counter when the fetch was issued, and the core's own test (its epoch
//! rule), asked right before the write. When it is offered it claims its pages; an own change of the file
//! moves the identity and voids the claims on what it wrote, so that fills of other pages go on under the new
//! one. The write itself carries the object's generation, so one that is overtaken by a cut-over or
//! an own change while it is on its way has no effect either; after an own change it is tried again.
//!
//! **What is queued is stored**, or an error says why not, and is counted. The fill holds its object
//! open from the moment it is offered; a cache that is too busy for it is asked again. `store` has
//! the way from the queue to the cache, `ticket` what is counted at its end.

mod store;
mod ticket;

use std::{collections::BTreeMap, fmt, time::Duration};

use store::Fill;
use ticket::Ticket;
use tokio::sync::{Notify, Semaphore};

use super::{Cookie, Identity, cache::FsCache};
use crate::{
    folio::Slice,
    sync::{Arc, Mutex},
    waits::WaitKind,
};

/// What to do with downloaded data when the queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FillWhenFull {
    /// Do not cache it; counted as `fill_dropped_bytes`.
    Drop,
    /// Make the request wait for room, at most this long; then drop. What has found room waits as long
    /// for its object to open and for a cache that is too busy for it.
    Wait {
        /// The longest wait.
        max: Duration,
    },
}

/// Settings of the queue that copies downloaded data to the cache in the background.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FillConfig {
    /// Most bytes queued or being written. 64 MiB: a second of a slow disk.
    pub bytes_max: u64,
    /// Most writes handed to the cache at once. 16: enough to keep an SSD busy.
    pub writes_max: usize,
    /// How long a fill waits for its cookie's object, and for a cache that is too busy for it; with
    /// [`FillWhenFull::Wait`] at least as long as for room. 1 s: much longer than a reader waits, so
    /// that the first fills of a file survive a slow lookup.
    pub object_wait: Duration,
    /// After this long a write no longer counts against `writes_max` (its bytes still count): a hung
    /// object must not keep the others from being filled (N-C76). 5 s. So on a disk that is merely slow
    /// more writes than that are under way, and some may find the cache too busy for a while.
    pub stuck_after: Duration,
    /// When full.
    pub when_full: FillWhenFull,
}

impl FillConfig {
    /// How long a fill tries to reach its object.
    fn patience(&self) -> Duration {
        match self.when_full {
            FillWhenFull::Drop => self.object_wait,
            FillWhenFull::Wait { max } => self.object_wait.max(max),
        }
    }
}

impl Default for FillConfig {
    fn default() -> Self {
        FillConfig {
            bytes_max: 64 << 20,
            writes_max: 16,
            object_wait: Duration::from_secs(1),
            stuck_after: Duration::from_secs(5),
            when_full: FillWhenFull::Drop,
        }
    }
}

/// Whether a fill's bytes may be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StillOk {
    /// They may.
    Yes,
    /// Nor will they.
    No,
    /// The file is just changing, and the object's name perhaps with it: to be asked again.
    Later,
}

/// What a fill's bytes are true of.
pub(crate) struct FillTag {
    /// The file's identity according to the reply that brought the bytes.
    pub(crate) identity: Identity,
    /// [`Cookie::inval_counter`] sampled before the fetch was issued.
    pub(crate) inval_counter: u64,
    /// Asked right before each attempt to write: may these bytes be kept in an object of this identity
    /// (theirs, or what an own change made of it)? (A fill whose epoch is old is kept only if a validate
    /// issued after the event confirmed its version.)
    pub(crate) still_ok: Box<dyn Fn(&Identity) -> StillOk + Send>,
}

/// What became of a fill offered to the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pushed {
    /// It will be tried.
    Queued,
    /// No room; counted.
    Dropped,
    /// Not whole pages, or the queue is shut down (counted).
    Refused,
}

/// See the [module](self).
#[derive(Clone)]
pub(crate) struct FillQueue(Arc<Shared>);

struct Shared {
    fscache: Arc<FsCache>,
    config: FillConfig,
    state: Mutex<State>,
    /// Places among the writes; closed when a shutdown runs out of patience.
    writes: Arc<Semaphore>,
    /// Notified whenever a fill ends.
    ended: Notify,
}

#[derive(Default)]
struct State {
    bytes: u64,
    /// No more is taken.
    shut: bool,
    /// What is left has been counted as dropped.
    given_up: bool,
    /// Fills that have not ended, by the round they were queued in. [`FillQueue::drain`] starts a new
    /// round and waits for the older ones, so fills that keep coming cannot keep it waiting.
    round: u64,
    pending: BTreeMap<u64, u64>,
}

impl FillQueue {
    pub(crate) fn new(fscache: Arc<FsCache>, config: FillConfig) -> FillQueue {
        let writes = Arc::new(Semaphore::new(config.writes_max.max(1)));
        FillQueue(Arc::new(Shared {
            fscache,
            config,
            state: Mutex::default(),
            writes,
            ended: Notify::new(),
        }))
    }

    /// Offers data that starts at `offset` of the file (whole pages, the last zero-padded). Waits for
    /// room only as [`FillWhenFull`] says.
    pub(crate) async fn push(
        &self,
        cookie: &Arc<Cookie>,
        offset: u64,
        data: Vec<Slice>,
        tag: FillTag,
    ) -> Pushed {
        let mut fill = Fill::new(cookie, offset, data, tag);
        let FillWhenFull::Wait { max } = self.0.config.when_full else {
            return self.try_fill(fill).unwrap_or_else(|fill| self.drop_fill(&fill));
        };
        fill = match self.try_fill(fill) {
            Ok(pushed) => return pushed,
            Err(fill) => fill,
        };
        let fscache = &self.0.fscache;
        fscache.counters().fill_waits.inc();
        let _wait = cookie.waiting(WaitKind::FillRoom, offset..offset + fill.len());
        let deadline = fscache.now() + max;
        loop {
            // Made before the attempt, so room made in between is not missed.
            let ended = self.0.ended.notified();
            fill = match self.try_fill(fill) {
                Ok(pushed) => return pushed,
                Err(fill) => fill,
            };
            if fscache.until(deadline, ended).await.is_none() {
                return self.try_fill(fill).unwrap_or_else(|fill| self.drop_fill(&fill));
            }
        }
    }

    /// The same without ever waiting: what finds no room is dropped.
    pub(crate) fn try_push(
        &self,
        cookie: &Arc<Cookie>,
        offset: u64,
        data: Vec<Slice>,
        tag: FillTag,
    ) -> Pushed {
        let fill = Fill::new(cookie, offset, data, tag);
        self.try_fill(fill).unwrap_or_else(|fill| self.drop_fill(&fill))
    }

    /// Completes when everything queued before the call has ended, written or not.
    pub(crate) async fn drain(&self) {
        let round = {
            let mut state = self.0.state.lock();
            state.round += 1;
            state.round
        };
        loop {
            let ended = self.0.ended.notified();
            if self.0.state.lock().pending.range(..round).next().is_none() {
                return;
            }
            ended.await;
        }
    }

    /// Bytes queued or being written.
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.0.state.lock().bytes
    }

    /// Takes no more fills and waits, at most `patience`, for those there are. Returns the bytes that
    /// had not been written by then; they are counted as dropped.
    pub(crate) async fn shutdown(&self, patience: Duration) -> u64 {
        self.0.state.lock().shut = true;
        // Those who wait for room learn that none will do: they have their objects open.
        self.0.ended.notify_waiters();
        let fscache = &self.0.fscache;
        let deadline = fscache.now() + patience;
        if fscache.until(deadline, self.drain()).await.is_some() {
            return 0;
        }
        let left = self.0.give_up();
        // Those that are not being written yet let go of their objects, which are to be closed now.
        self.0.writes.close();
        left
    }

    /// Queues the fill, or gives it back if there is no room.
    fn try_fill(&self, fill: Box<Fill>) -> Result<Pushed, Box<Fill>> {
        let bytes = fill.len();
        if bytes == 0 || !fill.is_whole_pages() {
            return Ok(Pushed::Refused);
        }
        let ticket = {
            let mut state = self.0.state.lock();
            if state.shut {
                self.0.fscache.counters().fill_dropped_bytes.add(bytes);
                return Ok(Pushed::Refused);
            }
            // One fill larger than the whole queue is let in alone, else it could never be cached.
            if state.bytes > 0 && state.bytes + bytes > self.0.config.bytes_max {
                return Err(fill);
            }
            state.bytes += bytes;
            let round = state.round;
            *state.pending.entry(round).or_default() += 1;
            Ticket::new(Arc::clone(&self.0), round, bytes)
        };
        let shared = Arc::clone(&self.0);
        self.0.fscache.spawn(async move { shared.run(fill, ticket).await });
        Ok(Pushed::Queued)
    }

    fn drop_fill(&self, fill: &Fill) -> Pushed {
        self.0.fscache.counters().fill_dropped_bytes.add(fill.len());
        Pushed::Dropped
    }
}

impl fmt::Debug for FillQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FillQueue({} bytes)", self.queued_bytes())
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
