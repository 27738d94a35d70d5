//! What makes a cookie move: events through the machine, and the backend calls it asks for.

use std::ops::Range;

use smallvec::SmallVec;

use super::{Cookie, Held, Inner, Live};
use crate::{
    clock::BootTime,
    fscache::{
        CacheObject, Found, Identity, Opened, Refusal, Relinquish,
        cookie_state::{Action, Event},
        volume::Attachment,
    },
    sync::{Arc, atomic::Ordering},
};

/// What is left to do when the state lock has been released.
enum Work {
    Lookup(Identity),
    /// `keep`: try to keep the content but these bytes under the new identity first.
    CutOver {
        identity: Identity,
        keep: Option<Vec<Range<u64>>>,
        object: Arc<dyn CacheObject>,
        attachment: Arc<Attachment>,
    },
    Close(Relinquish, Held),
    AddToLru(BootTime),
    DoubleRelinquish,
    Dropped {
        distrust: bool,
    },
}

type Todo = SmallVec<[Work; 2]>;

impl Cookie {
    /// Puts one event through the machine, after `with` has changed what goes with it under the same
    /// lock, and does what the machine says.
    pub(super) fn step(self: &Arc<Self>, event: Event, with: impl FnOnce(&mut Inner)) {
        let mut todo = Todo::new();
        let late;
        {
            let mut inner = self.inner.lock();
            with(&mut inner);
            self.apply(&mut inner, event, &mut todo);
            // A lookup that ends after the context has gone brings what nobody wants.
            late = if inner.aborted { inner.held.take() } else { None };
        }
        drop(late);
        self.finish(todo);
    }

    /// The last access has ended, and the gate is closed.
    pub(super) fn access_drained(self: &Arc<Self>) {
        let mut todo = Todo::new();
        {
            let mut inner = self.inner.lock();
            // It may have been opened again meanwhile, or even closed for another reason: what counts
            // is what holds now.
            if self.gate.is_drained() {
                self.apply(&mut inner, Event::Drained, &mut todo);
            }
        }
        self.finish(todo);
    }

    pub(in crate::fscache) fn attach(self: &Arc<Self>) {
        self.step(Event::Attach, |_| ());
    }

    pub(in crate::fscache) fn withdraw(self: &Arc<Self>) {
        self.step(Event::Withdraw, |_| ());
    }

    pub(in crate::fscache) fn expire(self: &Arc<Self>, now: BootTime) {
        let delay = self.volume.fscache.config().lru_delay;
        self.step(Event::Expire { now, delay }, |_| ());
    }

    /// Steps the machine and does what has to happen under the lock.
    fn apply(&self, inner: &mut Inner, event: Event, todo: &mut Todo) {
        let before = inner.machine.state();
        let mut next = Some(event);
        while let Some(event) = next.take() {
            for action in inner.machine.step(event) {
                match action {
                    Action::AwaitDrain if self.gate.is_drained() => next = Some(Event::Drained),
                    Action::AwaitDrain => {} // the last access says so
                    Action::Unpublish => {
                        self.gate.close();
                        *self.published.write() = None;
                    }
                    Action::Publish => self.publish(inner),
                    other => self.defer(inner, other, todo),
                }
            }
        }
        // Release: whoever learns that the invalidation has returned finds older accesses void.
        self.inval.store(inner.machine.inval(), Ordering::Release);
        if inner.machine.state() != before {
            inner.since = self.volume.fscache.now();
        }
    }

    fn publish(&self, inner: &Inner) {
        let Some(held) = inner.held.as_ref().filter(|_| !inner.aborted) else { return };
        *self.published.write() = Some(Arc::new(Live {
            object: Arc::clone(&held.object),
            attachment: Arc::clone(held.hold.attachment()),
            inval: inner.machine.inval(),
        }));
        self.gate.open();
    }

    fn defer(&self, inner: &mut Inner, action: Action, todo: &mut Todo) {
        let counters = self.volume.fscache.counters();
        match action {
            Action::Lookup(identity) => todo.push(Work::Lookup(identity)),
            Action::CutOver(identity) => todo.extend(inner.cut_over(identity, None)),
            Action::Relabel(identity) => {
                let changed = std::mem::take(&mut inner.changed);
                todo.extend(inner.cut_over(identity, Some(changed)));
            }
            Action::Close(how) => todo.extend(inner.held.take().map(|h| Work::Close(how, h))),
            Action::AddToLru(since) => todo.push(Work::AddToLru(since)),
            Action::LruRemoved => counters.lru_removed.inc(),
            Action::LruDropped => counters.lru_dropped.inc(),
            Action::DoubleRelinquish => todo.push(Work::DoubleRelinquish),
            Action::Dropped { distrust } => todo.push(Work::Dropped { distrust }),
            Action::Publish | Action::Unpublish | Action::AwaitDrain => {} // done under the lock
        }
    }

    fn finish(self: &Arc<Self>, todo: Todo) {
        self.changed.notify_waiters();
        for work in todo {
            self.run(work);
        }
    }

    fn run(self: &Arc<Self>, work: Work) {
        let fscache = &self.volume.fscache;
        match work {
            Work::Lookup(identity) => {
                let answer = Answer::new(self, Event::LookedUp(Err(Refusal::Withdrawn)));
                fscache.spawn(async move {
                    let result = answer.cookie.look_up(identity).await;
                    answer.looked_up(result);
                });
            }
            Work::CutOver { identity, keep, object, attachment } => {
                self.cut_over(identity, keep.as_deref(), &object, &attachment);
            }
            Work::Close(how, held) => {
                let answer = Answer::new(self, Event::Closed);
                fscache.spawn(async move {
                    // Calls are admitted as long as somebody holds an object.
                    let call = held.hold.attachment().call();
                    held.object.close(how).await;
                    drop((call, held.hold));
                    drop(answer);
                });
            }
            Work::AddToLru(since) => fscache.lru().add(fscache, since, self),
            Work::DoubleRelinquish => {
                tracing::warn!(key = ?self.key, "cookie relinquished twice");
            }
            Work::Dropped { distrust } => {
                self.volume.cookie_dropped(self, distrust);
                self.changed.notify_waiters();
            }
        }
    }

    /// Opens the object. Row 95: waits for the volume; N-C47: and for the key's last owner.
    async fn look_up(self: &Arc<Self>, identity: Identity) -> Result<(Opened, Held), Refusal> {
        let before = self.inner.lock().before.clone();
        if let Some(before) = before {
            before.dropped().await;
            self.inner.lock().before = None;
        }
        if self.volume.take_distrust(&self.key) {
            self.step(Event::Distrust, |_| ());
        }
        let attachment = self.volume.attachment().ok_or(Refusal::Withdrawn)?;
        let hold = attachment.hold().ok_or(Refusal::Withdrawn)?;
        let _call = attachment.call().ok_or(Refusal::Withdrawn)?;
        attachment.backend.health()?;
        let volume = attachment.volume().await?;
        let opened = volume.lookup(self.key.clone(), identity).await?;
        let held = Held { object: Arc::clone(&opened.object), hold };
        Ok((opened, held))
    }

    fn cut_over(
        self: &Arc<Self>,
        identity: Identity,
        keep: Option<&[Range<u64>]>,
        object: &Arc<dyn CacheObject>,
        attachment: &Arc<Attachment>,
    ) {
        let answer = Answer::new(self, Event::CutOver(Err(Refusal::IoError)));
        let call = attachment.call();
        let kept = keep.map(|changed| object.set_identity(identity.clone(), changed));
        let result = match kept {
            Some(Ok(())) => Ok(Arc::clone(object)),
            Some(Err(refusal)) => {
                let refusal = self.volume.fscache.refused(refusal);
                tracing::debug!(key = ?self.key, ?refusal, "an object keeps its name: cut over");
                object.cut_over(identity)
            }
            None => object.cut_over(identity),
        };
        drop(call);
        answer.cut_over(result);
    }
}

impl Inner {
    fn cut_over(&self, identity: Identity, keep: Option<Vec<Range<u64>>>) -> Option<Work> {
        let held = self.held.as_ref()?;
        let (object, attachment) = (Arc::clone(&held.object), Arc::clone(held.hold.attachment()));
        Some(Work::CutOver { identity, keep, object, attachment })
    }
}

/// The event a backend call owes the machine. It comes even if the call never ends because its task is
/// dropped (shutdown) or unwinds: a cookie never waits for an answer that cannot come.
struct Answer {
    cookie: Arc<Cookie>,
    /// What is said if nobody says better.
    event: Option<Event>,
}

impl Answer {
    fn new(cookie: &Arc<Cookie>, event: Event) -> Answer {
        Answer { cookie: Arc::clone(cookie), event: Some(event) }
    }

    fn looked_up(mut self, result: Result<(Opened, Held), Refusal>) {
        self.event = None;
        let fscache = &self.cookie.volume.fscache;
        match result {
            Ok((opened, held)) => {
                let counters = fscache.counters();
                let replaced = match opened.found {
                    Found::ReplacedStale => Some(&counters.objects_stale),
                    Found::ReplacedCorrupt => Some(&counters.objects_corrupt),
                    Found::Existing | Found::Created => None,
                };
                if let Some(counter) = replaced {
                    counter.inc();
                    *self.cookie.replaced.lock() = Some(opened.found);
                }
                let event = Event::LookedUp(Ok(opened.found));
                self.cookie.step(event, |inner| inner.held = Some(held));
            }
            Err(refusal) => {
                let refusal = fscache.refused(refusal);
                tracing::debug!(key = ?self.cookie.key, ?refusal, "cache lookup refused");
                let event = Event::LookedUp(Err(refusal));
                self.cookie.step(event, |inner| inner.refusal = refusal);
            }
        }
    }

    fn cut_over(mut self, result: Result<Arc<dyn CacheObject>, Refusal>) {
        self.event = None;
        match result {
            Ok(object) => self.cookie.step(Event::CutOver(Ok(())), |inner| {
                if let Some(held) = &mut inner.held {
                    held.object = object;
                }
            }),
            Err(refusal) => {
                let refusal = self.cookie.volume.fscache.refused(refusal);
                tracing::debug!(key = ?self.cookie.key, ?refusal, "cache cut-over refused");
                let event = Event::CutOver(Err(refusal));
                self.cookie.step(event, |inner| inner.refusal = refusal);
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            self.cookie.step(event, |_| ());
        }
    }
}
