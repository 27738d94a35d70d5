//! The server behind every [`MemoryFs`](crate::MemoryFs): one lock around tree, settings, faults and
//! ledger, and the path that each call takes through it.
//!
//! A call is decided and (unless told otherwise) answered, or its change made, under the lock when it
//! arrives; then it waits outside the lock for the link's latency and for gates. The lock is never held across an await, nor
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
    remote::{Attr, Change, Cx, Facts, FileKind, OpenIntent, OpenToken, Version, VolumeId},
};
use parking_lot::{Condvar, Mutex};

use crate::{
    fault::{FaultPlan, Op, Verdict},
    file::Opened,
    hash,
    ledger::{Event, Ledger},
    settings::{Settings, SnapshotAt, VersionKind},
    tree::{KEY_LEN, Node, NodeId, Tree},
};

/// Where a client's events go, once it has attached.
pub(crate) type EventSlot = Mutex<Option<VolumeEvents>>;

/// A client, as its calls name it.
pub(crate) type Client = Weak<EventSlot>;

pub(crate) struct Origin {
    pub(crate) volume_id: VolumeId,
    clock: Arc<dyn Clock>,
    pub(crate) state: Mutex<State>,
    /// A call has begun or ended.
    pub(crate) moved: Condvar,
    clients: Mutex<Vec<Client>>,
}

pub(crate) struct State {
    pub(crate) tree: Tree,
    /// The next snapshot of a read-only volume, while one is prepared.
    pub(crate) staged: Option<Tree>,
    pub(crate) settings: Settings,
    pub(crate) faults: FaultPlan,
    pub(crate) ledger: Ledger,
    /// How often the server was started, which makes its verifier.
    pub(crate) starts: u64,
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
    /// Pieces of memory of a read or write.
    pub(crate) segments: usize,
    pub(crate) uid: u32,
    pub(crate) open: Option<u64>,
}

impl Site {
    pub(crate) fn new(op: Op, file: NodeId, cx: &Cx) -> Site {
        let open = cx.token().get::<Opened>().map(Opened::number);
        let (path, uid) = (Bytes::new(), cx.cred().uid);
        Site { op, file, path, name: None, range: None, segments: 0, uid, open }
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

/// What a change came to: what its reply is made of, and what the other clients are told.
pub(crate) struct Acted<T> {
    pub(crate) value: T,
    pub(crate) events: Vec<Event>,
}

/// An event that a change leads to.
struct Notice {
    event: Event,
    /// The client that made the change is told too.
    to_all: bool,
}

/// Counts a call until it is dropped.
pub(crate) struct InFlight {
    origin: Arc<Origin>,
    /// File and number of a write.
    write: Option<(NodeId, u64)>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let ledger = &mut self.origin.state.lock().ledger;
        ledger.in_flight -= 1;
        if let Some((file, number)) = self.write {
            ledger.end_write(file, number);
        }
        self.origin.moved.notify_all();
    }
}

/// A call that has arrived.
struct Arrived {
    verdict: Verdict,
    at: SnapshotAt,
    wait: Duration,
    in_flight: InFlight,
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
        let state = State { tree, staged, settings, faults, ledger, starts: 1, link_free };
        Origin {
            volume_id,
            clock,
            state: Mutex::new(state),
            moved: Condvar::new(),
            clients: Mutex::default(),
        }
    }

    /// Takes one call that looks up to the moment its reply arrives.
    pub(crate) async fn call<T>(
        self: &Arc<Self>,
        mut site: Site,
        answer: impl Fn(&State) -> Result<T>,
    ) -> Reply<T> {
        let (arrived, early) = {
            let mut state = self.state.lock();
            let arrived = self.arrive(&mut state, &mut site);
            let early = (arrived.at == SnapshotAt::Issue).then(|| answer(&state));
            (arrived, early)
        };
        self.wait(&arrived).await;
        let answer = match (arrived.verdict.errno, early) {
            (Some(errno), _) => Err(fault(errno, &site)),
            (None, Some(early)) => early,
            (None, None) => answer(&self.state.lock()),
        };
        Reply { answer, verdict: arrived.verdict, in_flight: arrived.in_flight }
    }

    /// Takes one call of client `by` that changes something up to the moment its reply arrives. The other
    /// clients are told as soon as the change is made, before the reply leaves.
    pub(crate) async fn modify<T>(
        self: &Arc<Self>,
        mut site: Site,
        by: &Client,
        act: impl FnOnce(&mut State, &Verdict) -> Result<Acted<T>>,
    ) -> Reply<T> {
        let (arrived, mut act, early) = {
            let mut state = self.state.lock();
            let arrived = self.arrive(&mut state, &mut site);
            let mut act = Some(act);
            let early = (arrived.at == SnapshotAt::Issue)
                .then(|| act.take().map(|act| state.act(&site, &arrived.verdict, act)))
                .flatten();
            (arrived, act, early)
        };
        let early = early.map(|(answer, notices)| {
            self.tell(&notices, by);
            answer
        });
        self.wait(&arrived).await;
        let late = act.take().map(|act| {
            let acted = self.state.lock().act(&site, &arrived.verdict, act);
            self.tell(&acted.1, by);
            acted.0
        });
        // One of the two was made. (A server that did neither would say so.)
        let made = early.or(late).unwrap_or_else(|| Err(fault(Errno::EIO, &site)));
        let answer = match arrived.verdict.lost_reply {
            Some(errno) => Err(fault(errno, &site)),
            None => made,
        };
        Reply { answer, verdict: arrived.verdict, in_flight: arrived.in_flight }
    }

    /// Counts a call and decides on its faults.
    fn arrive(self: &Arc<Self>, state: &mut State, site: &mut Site) -> Arrived {
        if let Ok(node) = state.tree.node(site.file) {
            site.path = node.path.clone();
        }
        state.ledger.call(site);
        let write = match site.op {
            Op::Read => {
                state.ledger.check_transfer(site);
                None
            }
            Op::Write => Some((site.file, state.ledger.begin_write(site))),
            _ => None,
        };
        let verdict = state.faults.decide(site);
        let at = verdict.hold.as_ref().map_or(state.settings.snapshot_at, |h| {
            if h.after == 0 { h.at } else { SnapshotAt::Issue }
        });
        let wait = state.settings.link.latency + verdict.delay;
        let in_flight = InFlight { origin: Arc::clone(self), write };
        Arrived { verdict, at, wait, in_flight }
    }

    async fn wait(&self, arrived: &Arrived) {
        self.moved.notify_all();
        self.pause(arrived.wait).await;
        if let Some(hold) = arrived.verdict.hold_first() {
            hold.gate.pass().await;
        }
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
        let handles = self.handles(None);
        handles.iter().filter_map(|to| deliver(to, event, reason)).collect()
    }

    /// Tells of a change that client `by` made. An event that nobody hears is not logged.
    fn tell(&self, notices: &[Notice], by: &Client) {
        for Notice { event, to_all } in notices {
            let handles = self.handles((!to_all).then_some(by));
            if handles.is_empty() {
                continue;
            }
            self.state.lock().ledger.event(event.clone());
            for to in &handles {
                // Nobody waits for the answers: the reply leaves when it leaves.
                drop(deliver(to, event, BreakReason::Callback));
            }
        }
    }

    /// The clients' handles. They are cloned out: an upcall must not run under a lock of ours.
    pub(crate) fn handles(&self, except: Option<&Client>) -> Vec<VolumeEvents> {
        let clients = self.clients.lock();
        let wanted = clients.iter().filter(|c| except.is_none_or(|e| !c.ptr_eq(e)));
        let slots: Vec<_> = wanted.filter_map(Weak::upgrade).collect();
        drop(clients);
        slots.iter().filter_map(|slot| slot.lock().clone()).collect()
    }

    /// A new open of `file`.
    pub(crate) fn open_token(self: &Arc<Self>, file: NodeId, intent: OpenIntent) -> OpenToken {
        let (number, keeps) = {
            let mut state = self.state.lock();
            let keeps = state.settings.keep_opened;
            if keeps {
                state.tree.opened(file);
            }
            state.ledger.opens.opened += 1;
            (state.ledger.opens.opened, keeps)
        };
        OpenToken::new(Opened { origin: Arc::clone(self), number, file, intent, keeps })
    }
}

impl State {
    /// Makes a change, with what a third party does at the same moment.
    fn act<T>(
        &mut self,
        site: &Site,
        verdict: &Verdict,
        act: impl FnOnce(&mut State, &Verdict) -> Result<Acted<T>>,
    ) -> (Result<T>, Vec<Notice>) {
        if let Some(errno) = verdict.errno {
            return (Err(fault(errno, site)), Vec::new());
        }
        let mut notices = self.conflicts(site.file, verdict, false);
        let answer = act(self, verdict).map(|acted| {
            let to_all = self.settings.break_originator;
            notices.extend(acted.events.into_iter().map(|event| Notice { event, to_all }));
            acted.value
        });
        notices.extend(self.conflicts(site.file, verdict, true));
        if verdict.bump && answer.is_ok() {
            // It was there a moment ago; a file that is not has no version to move.
            let _ = self.tree.bump(site.file);
        }
        (answer, notices)
    }

    /// What third parties do to `file`, before or after a change. A file that is gone, or that is no
    /// file, they leave alone.
    fn conflicts(&mut self, file: NodeId, verdict: &Verdict, after: bool) -> Vec<Notice> {
        let mut notices = Vec::new();
        for conflict in verdict.conflicts.iter().filter(|c| c.after == after) {
            let Ok(node) = self.tree.node(file) else { continue };
            if node.kind != FileKind::File {
                continue;
            }
            let (seed, version) = (node.id, node.now.version + 1);
            let edited = self.tree.edit(file, false, &conflict.range, |content| {
                content.put_pattern(conflict.range.clone(), seed, version);
                Ok(())
            });
            if conflict.tell && edited.is_ok() {
                let event = self.broken(file).ok();
                notices.extend(event.map(|event| Notice { event, to_all: true }));
            }
        }
        notices
    }

    /// The event that a file changed.
    pub(crate) fn broken(&self, id: NodeId) -> Result<Event> {
        Ok(Event::Break { key: key_bytes(&self.tree.node(id)?.key) })
    }

    /// The version of a file, as the server states it.
    pub(crate) fn version(&self, node: &Node) -> Option<Version> {
        self.versions(node).state(node.id, node.now.version)
    }

    /// What the reply to a change says, made from the version it found.
    pub(crate) fn change(&self, before: Option<Version>, node: &Node) -> Change {
        let mut after = self.facts(node);
        if !self.settings.attr_in_changes {
            (after.attr, after.size) = (None, None);
        }
        Change::new(before.filter(|_| self.settings.states_before), after)
    }

    /// Another one after each start.
    pub(crate) fn verifier(&self) -> Bytes {
        Bytes::copy_from_slice(&hash::mix(self.starts).to_be_bytes())
    }

    /// What a reply says about `node`.
    pub(crate) fn facts(&self, node: &Node) -> Facts {
        Facts {
            version: self.version(node),
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
