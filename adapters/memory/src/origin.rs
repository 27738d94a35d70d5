//! The server behind every [`MemoryFs`](crate::MemoryFs): one lock around tree, settings, faults and
//! ledger, and the path that each call takes through it.
//!
//! A call is decided and (unless told otherwise) answered under the lock when it arrives; then it waits
//! outside the lock for the link's latency and for gates. The lock is never held across an await, nor
//! while events are sent or hooks run.

use std::{
    ops::Range,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use netfs::{
    Errno, Error, Result,
    clock::{BootTime, Clock},
    coherency::{BreakReason, Ticket, VolumeEvents},
    remote::{Attr, Cx, Facts, OpenToken, VolumeId},
};
use parking_lot::{Condvar, Mutex};

use crate::{
    fault::{FaultPlan, Op, Verdict},
    file::Opened,
    ledger::{Event, Ledger},
    settings::{Settings, SnapshotAt, VersionKind},
    tree::{KEY_LEN, Node, NodeId, Tree},
};

/// Where a client's events go, once it has attached.
pub(crate) type EventSlot = Mutex<Option<VolumeEvents>>;

pub(crate) struct Origin {
    pub(crate) volume_id: VolumeId,
    clock: Arc<dyn Clock>,
    pub(crate) state: Mutex<State>,
    /// A call has begun or ended.
    pub(crate) moved: Condvar,
    clients: Mutex<Vec<Weak<EventSlot>>>,
}

pub(crate) struct State {
    pub(crate) tree: Tree,
    /// The next snapshot of a read-only volume, while one is prepared.
    pub(crate) staged: Option<Tree>,
    pub(crate) settings: Settings,
    pub(crate) faults: FaultPlan,
    pub(crate) ledger: Ledger,
    /// When the link has sent what it was given so far.
    link_free: BootTime,
}

/// One call: what is asked, of which file, by whom.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) op: Op,
    pub(crate) file: NodeId,
    pub(crate) path: Bytes,
    pub(crate) name: Option<Bytes>,
    pub(crate) range: Option<Range<u64>>,
    pub(crate) uid: u32,
    pub(crate) open: Option<u64>,
}

impl Site {
    pub(crate) fn new(op: Op, file: NodeId, cx: &Cx) -> Site {
        let open = cx.token().get::<Opened>().map(Opened::number);
        let (path, uid) = (Bytes::new(), cx.cred().uid);
        Site { op, file, path, name: None, range: None, uid, open }
    }
}

/// A call's answer, after all waiting; what is left of its verdict; and its place in the count of calls
/// in flight.
pub(crate) struct Reply<T> {
    pub(crate) answer: Result<T>,
    pub(crate) verdict: Verdict,
    pub(crate) in_flight: InFlight,
}

impl<T> Reply<T> {
    /// The answer of a call that has nothing more to deliver.
    pub(crate) fn end(self) -> Result<T> {
        drop(self.in_flight);
        self.answer
    }
}

/// Counts a call until it is dropped.
pub(crate) struct InFlight(Arc<Origin>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state.lock().ledger.in_flight -= 1;
        self.0.moved.notify_all();
    }
}

impl Origin {
    pub(crate) fn new(
        volume_id: VolumeId,
        clock: Arc<dyn Clock>,
        tree: Tree,
        settings: Settings,
        faults: FaultPlan,
    ) -> Origin {
        let (staged, ledger, link_free) = (None, Ledger::default(), BootTime::ZERO);
        let state = State { tree, staged, settings, faults, ledger, link_free };
        Origin {
            volume_id,
            clock,
            state: Mutex::new(state),
            moved: Condvar::new(),
            clients: Mutex::default(),
        }
    }

    /// Takes one call up to the moment its reply arrives. `segments` is a read's count of buffers.
    pub(crate) async fn call<T>(
        self: &Arc<Self>,
        mut site: Site,
        segments: usize,
        answer: impl Fn(&State) -> Result<T>,
    ) -> Reply<T> {
        let (verdict, wait, at, early, in_flight) = {
            let mut state = self.state.lock();
            if let Ok(node) = state.tree.node(site.file) {
                site.path = node.path.clone();
            }
            state.ledger.call(&site);
            if site.op == Op::Read {
                state.ledger.check_read(&site, segments);
            }
            let verdict = state.faults.decide(&site);
            let at = verdict.hold.as_ref().map_or(state.settings.snapshot_at, |h| {
                if h.after == 0 { h.at } else { SnapshotAt::Issue }
            });
            let early = (at == SnapshotAt::Issue).then(|| answer(&state));
            let wait = state.settings.link.latency + verdict.delay;
            (verdict, wait, at, early, InFlight(Arc::clone(self)))
        };
        self.moved.notify_all();
        self.pause(wait).await;
        if let Some(hold) = verdict.hold_first() {
            hold.gate.pass().await;
        }
        let answer = match (verdict.errno, early) {
            (Some(errno), _) => Err(fault(errno, &site)),
            (None, Some(early)) => early,
            (None, None) => {
                debug_assert_eq!(at, SnapshotAt::Release);
                answer(&self.state.lock())
            }
        };
        Reply { answer, verdict, in_flight }
    }

    /// Waits for `bytes` to come over the link, after what other calls have put on it.
    pub(crate) async fn transfer(&self, bytes: u64) {
        let end = {
            let mut state = self.state.lock();
            let time = state.settings.link.transfer(bytes);
            if time.is_zero() {
                return;
            }
            let end = state.link_free.max(self.clock.now()) + time;
            state.link_free = end;
            end
        };
        self.clock.sleep_until(end).await;
    }

    async fn pause(&self, time: Duration) {
        if !time.is_zero() {
            self.clock.sleep_until(self.clock.now() + time).await;
        }
    }

    /// Adds a client that wants events.
    pub(crate) fn add_client(&self, slot: &Arc<EventSlot>) {
        let mut clients = self.clients.lock();
        clients.retain(|c| c.strong_count() > 0);
        clients.push(Arc::downgrade(slot));
    }

    /// Logs an event and sends it to every client.
    pub(crate) fn send(&self, event: &Event, reason: BreakReason) -> Vec<Ticket> {
        self.state.lock().ledger.event(event.clone());
        let slots: Vec<_> = self.clients.lock().iter().filter_map(Weak::upgrade).collect();
        // The handle is cloned out: an upcall must not run under a lock of ours.
        let handles = slots.iter().filter_map(|slot| slot.lock().clone());
        handles.collect::<Vec<_>>().iter().filter_map(|to| deliver(to, event, reason)).collect()
    }

    /// A new open of `file`.
    pub(crate) fn open_token(self: &Arc<Self>) -> OpenToken {
        let mut state = self.state.lock();
        state.ledger.opens.opened += 1;
        OpenToken::new(Opened::new(Arc::clone(self), state.ledger.opens.opened))
    }
}

impl State {
    /// What a reply says about `node`.
    pub(crate) fn facts(&self, node: &Node) -> Facts {
        Facts {
            version: self.versions(node).state(node.id, node.now.version),
            size: Some(node.now.content.size()),
            attr: Some(node.attr()),
            promise: node.settings.promise.unwrap_or(self.settings.promise),
            volume: self.settings.volume,
        }
    }

    /// What a read reply says about `node`.
    pub(crate) fn read_facts(&self, node: &Node) -> Facts {
        let facts = self.facts(node);
        let attr: Option<Attr> = facts.attr.filter(|_| self.settings.attr_in_reads);
        Facts { attr, ..facts }
    }

    pub(crate) fn versions(&self, node: &Node) -> VersionKind {
        node.settings.versions.unwrap_or(self.settings.versions)
    }

    /// The tree that changes go to.
    pub(crate) fn editable(&mut self) -> &mut Tree {
        self.staged.as_mut().unwrap_or(&mut self.tree)
    }
}

fn deliver(to: &VolumeEvents, event: &Event, reason: BreakReason) -> Option<Ticket> {
    match event {
        Event::Break { key } => Some(to.server_break(key, reason)),
        Event::BreakAll => Some(to.server_break_all(reason)),
        Event::Scrub => {
            to.scrub(reason);
            None
        }
        Event::SnapshotMoved => {
            to.snapshot_moved();
            None
        }
        Event::Deleted { key } => {
            to.deleted(key);
            None
        }
    }
}

fn fault(errno: Errno, site: &Site) -> Error {
    let path = crate::tree::display(&site.path);
    Error::new(errno, format!("memory origin: injected failure of {} {path:?}", site.op.name()))
}

/// A key as the events carry it.
pub(crate) fn key_bytes(key: &[u8; KEY_LEN]) -> Bytes {
    Bytes::copy_from_slice(key)
}
