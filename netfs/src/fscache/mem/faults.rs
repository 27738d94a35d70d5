//! The switches that make a [`MemCache`](super::MemCache) misbehave.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::{
    fscache::{CacheMiss, Refusal},
    sync::Mutex,
};

/// The calls that can be made to hang or refuse.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FaultPoint {
    /// Opening a volume.
    AcquireVolume,
    /// Opening an object.
    Lookup,
    /// Reading (the waiting kind; a hanging cache answers non-blocking reads with "would block").
    Read,
    /// Writing.
    Write,
    /// Cutting an object over. Held, it keeps the calling thread, which an honest cache never does.
    CutOver,
    /// Changing an identity: it can refuse but not hang.
    SetIdentity,
    /// Marking an object as being modified.
    BeginModify,
    /// Closing an object: it can hang but not refuse.
    Close,
}

/// Switches; each stays as it was set until it is set again. All may be used while the cache is busy.
#[derive(Default)]
pub struct MemFaults(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    points: HashMap<FaultPoint, Point>,
    sick: Option<Refusal>,
    read_miss: Option<CacheMiss>,
    never_inline: bool,
    not_loaded: bool,
    writes_max: Option<usize>,
}

#[derive(Default)]
struct Point {
    held: bool,
    waiting: Vec<Waiter>,
    refusal: Option<Refusal>,
    calls: u64,
}

type Waiter = Box<dyn FnOnce() + Send>;

impl MemFaults {
    /// Makes calls at `point` fail with `refusal`; `None` = work again.
    pub fn refuse(&self, point: FaultPoint, refusal: Option<Refusal>) {
        self.0.lock().points.entry(point).or_default().refusal = refusal;
    }

    /// Makes calls at `point` hang until [`release`](MemFaults::release).
    pub fn hold(&self, point: FaultPoint) {
        self.0.lock().points.entry(point).or_default().held = true;
    }

    /// Lets the calls that hang at `point` go on, and later ones through.
    pub fn release(&self, point: FaultPoint) {
        let waiting = {
            let mut inner = self.0.lock();
            let point = inner.points.entry(point).or_default();
            point.held = false;
            std::mem::take(&mut point.waiting)
        };
        waiting.into_iter().for_each(|go| go());
    }

    /// Lets the call go on that has been hanging at `point` longest; the others stay.
    pub fn release_oldest(&self, point: FaultPoint) {
        let go = {
            let mut inner = self.0.lock();
            let waiting = &mut inner.points.entry(point).or_default().waiting;
            if waiting.is_empty() { None } else { Some(waiting.remove(0)) }
        };
        if let Some(go) = go {
            go();
        }
    }

    /// Calls that hang at `point` now.
    #[must_use]
    pub fn waiting(&self, point: FaultPoint) -> usize {
        self.0.lock().points.get(&point).map_or(0, |p| p.waiting.len())
    }

    /// Calls made at `point` so far.
    #[must_use]
    pub fn calls(&self, point: FaultPoint) -> u64 {
        self.0.lock().points.get(&point).map_or(0, |p| p.calls)
    }

    /// Makes the whole cache ill: it says so in `health` and refuses everything new.
    pub fn sick(&self, refusal: Option<Refusal>) {
        self.0.lock().sick = refusal;
    }

    /// Makes all reads fail with this miss; `None` = work again.
    pub fn fail_reads(&self, miss: Option<CacheMiss>) {
        self.0.lock().read_miss = miss;
    }

    /// Makes non-blocking reads answer "would block", as a cold disk does.
    pub fn never_inline(&self, on: bool) {
        self.0.lock().never_inline = on;
    }

    /// Makes content maps answer "not loaded".
    pub fn not_loaded(&self, on: bool) {
        self.0.lock().not_loaded = on;
    }

    /// Makes it too busy for more than so many writes at a time: while that many hang, others are
    /// refused. `None` = no bound.
    pub fn writes_max(&self, most: Option<usize>) {
        self.0.lock().writes_max = most;
    }

    /// Whether one write more is too much.
    pub(super) fn is_busy(&self) -> bool {
        let inner = self.0.lock();
        let hanging = inner.points.get(&FaultPoint::Write).map_or(0, |p| p.waiting.len());
        inner.writes_max.is_some_and(|most| hanging >= most)
    }

    pub(super) fn sickness(&self) -> Option<Refusal> {
        self.0.lock().sick
    }

    pub(super) fn read_miss(&self) -> Option<CacheMiss> {
        self.0.lock().read_miss
    }

    pub(super) fn map_missing(&self) -> bool {
        self.0.lock().not_loaded
    }

    /// Whether a non-blocking read may be answered.
    pub(super) fn inline(&self) -> bool {
        let inner = self.0.lock();
        !inner.never_inline && !inner.points.get(&FaultPoint::Read).is_some_and(|p| p.held)
    }

    /// What a call that is not (or no longer) hanging has to answer.
    pub(super) fn refusal(&self, point: FaultPoint) -> Result<(), Refusal> {
        self.0.lock().points.get(&point).and_then(|p| p.refusal).map_or(Ok(()), Err)
    }

    /// The same for calls that cannot hang: counts them.
    pub(super) fn count(&self, point: FaultPoint) -> Result<(), Refusal> {
        self.pass_then(point, || ());
        self.refusal(point)
    }

    /// The same for calls that are over when they return: keeps the thread.
    pub(super) fn block(&self, point: FaultPoint) -> Result<(), Refusal> {
        let (go, gone) = std::sync::mpsc::channel();
        self.pass_then(point, move || {
            // The receiver is right here.
            let _ = go.send(());
        });
        // The sender is dropped unused only with the whole cache.
        gone.recv().map_err(|_| Refusal::Withdrawn)?;
        self.refusal(point)
    }

    /// For calls that return a future.
    pub(super) async fn pass(&self, point: FaultPoint) -> Result<(), Refusal> {
        let (go, gone) = oneshot::channel();
        self.pass_then(point, move || {
            // The call may have been dropped meanwhile.
            let _ = go.send(());
        });
        // The sender is dropped unused only with the whole cache.
        gone.await.map_err(|_| Refusal::Withdrawn)?;
        self.refusal(point)
    }

    /// For calls with a completion of their own: runs `go` now, or when released.
    pub(super) fn pass_then(&self, point: FaultPoint, go: impl FnOnce() + Send + 'static) {
        {
            let mut inner = self.0.lock();
            let point = inner.points.entry(point).or_default();
            point.calls += 1;
            if point.held {
                point.waiting.push(Box::new(go));
                return;
            }
        }
        go();
    }
}
