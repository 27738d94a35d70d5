//! One front's pages of one file: what it was told of them, and what it has answered.

use std::{fmt, ops::Range};

use smallvec::SmallVec;

use super::{Origin, Watched, ZapRegistry, ticket::Waited};
use crate::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicBool, Ordering},
};

/// Calls of one front about one file without an answer. Enough for one that works them off in order; one that is
/// further behind gains nothing from hearing of each change by itself.
pub(in crate::coherency) const CALLS_MAX: usize = 16;

/// A front that has pages of a file mapped.
pub trait Zapper: Send + Sync + 'static {
    /// Unmap what is mapped of `range` (bytes; of each page it touches), then answer through `done`.
    ///
    /// It is called from the thread that reports an event or makes a change (or, with what had to wait for an
    /// answer, from one of the context's), so it MUST NOT block, do I/O, or call
    /// back into the library: it queues the work. Several calls may be outstanding and may come in
    /// any order; what happens beyond some number of them is told by one call for all of it, after an answer.
    /// `generation` grows with each event; a fault handler that read the file's
    /// generation before it checked validity MUST NOT map if a zap with a greater one has come since.
    fn zap(&self, range: Range<u64>, generation: u64, done: ZapDone);
}

/// A front's answer to one [`Zapper::zap`]. Dropping it counts as the answer, so a front that dies
/// holds nobody up. It may be given under any lock of the front's: it never calls the front.
pub struct ZapDone {
    front: Arc<Front>,
    call: u64,
}

impl ZapDone {
    /// The pages are unmapped.
    pub fn done(self) {
        drop(self);
    }
}

impl Drop for ZapDone {
    fn drop(&mut self) {
        self.front.answer(self.call);
    }
}

impl fmt::Debug for ZapDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ZapDone(..)")
    }
}

/// What a call says.
#[derive(Clone, Debug)]
pub(super) struct Zap {
    pub(super) range: Range<u64>,
    pub(super) generation: u64,
}

impl Zap {
    /// Both at once.
    fn widen(&mut self, other: &Zap) {
        self.range.start = self.range.start.min(other.range.start);
        self.range.end = self.range.end.max(other.range.end);
        self.generation = self.generation.max(other.generation);
    }
}

/// Which calls are outstanding. Pure. Calls have numbers; what waits to be told has that of the call it will be,
/// however much is added to it meanwhile.
#[derive(Default, Debug)]
struct Told {
    /// Ascending; at most [`CALLS_MAX`].
    calls: SmallVec<[u64; CALLS_MAX]>,
    next: u64,
    /// Only while there is no room for a call, or one is about to be made of it.
    waiting: Option<Zap>,
    gone: bool,
}

impl Told {
    /// Notes what there is to tell; returns its number, and whether it is to be told now.
    fn tell(&mut self, zap: &Zap) -> (u64, bool) {
        if self.gone {
            return (self.next, false);
        }
        match &mut self.waiting {
            Some(waiting) => waiting.widen(zap),
            None if self.calls.len() == CALLS_MAX => self.waiting = Some(zap.clone()),
            None => return (self.begin(), true),
        }
        (self.next, false)
    }

    fn begin(&mut self) -> u64 {
        let call = self.next;
        self.next += 1;
        self.calls.push(call);
        call
    }

    /// An answer has come. Whether there is something to tell in its place.
    fn answer(&mut self, call: u64) -> bool {
        self.calls.retain(|other| *other != call);
        self.waiting.is_some()
    }

    /// What has waited, as a call.
    fn take(&mut self) -> Option<(Zap, u64)> {
        let room = self.calls.len() < CALLS_MAX;
        let zap = self.waiting.take_if(|_| room)?;
        Some((zap, self.begin()))
    }

    /// Whether all up to this number is answered.
    fn has_answered(&self, upto: u64) -> bool {
        let told = self.waiting.is_none() || upto < self.next;
        let answered = self.calls.first().is_none_or(|first| *first > upto);
        self.gone || (told && answered)
    }

    fn leave(&mut self) {
        *self = Told { gone: true, next: self.next, ..Told::default() };
    }
}

/// A registration.
pub(super) struct Front {
    pub(super) origin: Origin,
    pub(super) watched: Arc<Watched>,
    zapper: Arc<dyn Zapper>,
    /// For its way to other threads. A cycle, which ends with the registration.
    registry: Arc<ZapRegistry>,
    told: Mutex<Told>,
    /// Tickets that somebody waits for.
    waited: Mutex<Vec<Weak<Waited>>>,
    /// What waits is about to be told.
    telling: AtomicBool,
}

impl Front {
    pub(super) fn new(
        registry: Arc<ZapRegistry>,
        watched: Arc<Watched>,
        origin: Origin,
        zapper: Arc<dyn Zapper>,
    ) -> Arc<Front> {
        let (told, waited, telling) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        Arc::new(Front { origin, watched, zapper, registry, told, waited, telling })
    }

    /// Tells it, now or as soon as there is room. Returns the number to ask
    /// [`has_answered`](Front::has_answered) for.
    pub(super) fn tell(self: &Arc<Self>, zap: &Zap) -> u64 {
        let (call, now) = self.told.lock().tell(zap);
        if now {
            self.call(zap.clone(), call);
        }
        call
    }

    /// With no lock held.
    fn call(self: &Arc<Self>, zap: Zap, call: u64) {
        let done = ZapDone { front: Arc::clone(self), call };
        self.zapper.zap(zap.range, zap.generation, done);
    }

    fn answer(self: &Arc<Self>, call: u64) {
        let more = self.told.lock().answer(call);
        self.wake();
        // Not from here: the front may hold the very lock that its zapper takes.
        if more && !self.telling.swap(true, Ordering::AcqRel) {
            let telling = Telling(Some(Arc::clone(self)));
            self.registry.later(move || telling.tell());
        }
    }

    /// It has gone away.
    pub(super) fn leave(&self) {
        self.told.lock().leave();
        self.wake();
    }

    fn wake(&self) {
        let waited = std::mem::take(&mut *self.waited.lock());
        waited.iter().filter_map(Weak::upgrade).for_each(|waited| waited.wake());
    }

    /// Whether all it was told up to this number is answered.
    pub(super) fn has_answered(&self, upto: u64) -> bool {
        self.told.lock().has_answered(upto)
    }

    /// The same the other way round; if not all is, the next answer wakes `who`.
    pub(super) fn watch(&self, upto: u64, who: &Arc<Waited>) -> bool {
        let mut waited = self.waited.lock();
        // Looked at under this lock: an answer that comes later finds who waits.
        let missing = !self.told.lock().has_answered(upto);
        if missing {
            let who = Arc::downgrade(who);
            waited.retain(|other| other.strong_count() > 0 && !Weak::ptr_eq(other, &who));
            waited.push(who);
        }
        missing
    }

    #[cfg(all(test, not(shuttle)))]
    pub(super) fn entries(&self) -> usize {
        let told = self.told.lock();
        told.calls.len() + usize::from(told.waiting.is_some()) + self.waited.lock().len()
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Front({:?}, {:?})", self.origin, self.told.lock())
    }
}

/// What waits is about to be told: at most one of a front at a time. One that never comes to it, by a driver
/// that ends, leaves that to the next answer.
struct Telling(Option<Arc<Front>>);

impl Telling {
    fn tell(mut self) {
        let Some(front) = self.0.take() else { return };
        // Before the look: an answer that comes after it makes another one of these.
        front.telling.store(false, Ordering::Release);
        let next = front.told.lock().take();
        if let Some((zap, call)) = next {
            front.call(zap, call);
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if let Some(front) = &self.0 {
            front.telling.store(false, Ordering::Release);
        }
    }
}
