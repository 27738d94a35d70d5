//! Random histories against a simulated server that keeps its promises.
//!
//! The oracle is the server: it holds the true content of each file as a number that grows with each
//! change, knows which promises it gave, and breaks them before a change becomes visible (A1.23).
//! Requests are issued, processed and answered in any order. After every step, whatever the client
//! would serve must be what the server has.

use std::time::Duration;

use proptest::prelude::*;

use super::{super::*, Client};
use crate::{
    clock::{BootTime, Clock},
    remote::{Attr, Facts, FileKind, Promise, PromiseKind, Version, VolumeFacts},
    sync::Arc,
};

const FILES: usize = 2;
const PAGES: usize = 2;
const LIFETIME: Duration = Duration::from_secs(30);
const MARGIN: Duration = Duration::from_secs(10);

/// How the protocol of a run works.
#[derive(Clone, Copy, Debug)]
struct Protocol {
    promise: PromiseStyle,
    versions: Versions,
    /// A read-only volume: changes come as releases of snapshots, under one volume promise.
    snapshots: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PromiseStyle {
    None,
    /// AFS: a lifetime, and broken on a change.
    Callback,
    /// NFS: until recalled.
    Delegation,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Versions {
    Always,
    /// Reads do not tell.
    ChecksOnly,
    Never,
}

#[derive(Clone, Debug)]
enum Op {
    /// Ask about a file, as a validation or as a lookup.
    Ask {
        file: usize,
        check: bool,
    },
    /// Read a page.
    Read {
        file: usize,
        page: usize,
    },
    /// The server processes the nth request.
    Process(usize),
    /// The nth answered request's reply arrives.
    Deliver(usize),
    /// The nth read whose reply was applied publishes its bytes, if it still may.
    Publish(usize),
    /// The nth drop in progress ends, or its task is lost.
    EndDrop(usize, bool),
    /// Content changes.
    Change(usize),
    /// Only attributes change: the version stays.
    Chmod(usize),
    /// A break without reason.
    Spurious(usize),
    /// The server restarts and forgets its promises.
    Reset,
    /// Restored from a backup: other content under the same versions.
    Restore,
    /// The inode leaves the table, and its cached pages with it.
    Evict(usize),
    Advance(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let file = 0..FILES;
    prop_oneof![
        6 => (file.clone(), any::<bool>()).prop_map(|(file, check)| Op::Ask { file, check }),
        4 => (file.clone(), 0..PAGES).prop_map(|(file, page)| Op::Read { file, page }),
        8 => (0..6_usize).prop_map(Op::Process),
        8 => (0..6_usize).prop_map(Op::Deliver),
        6 => (0..3_usize).prop_map(Op::Publish),
        4 => (0..3_usize, prop::bool::weighted(0.8)).prop_map(|(n, done)| Op::EndDrop(n, done)),
        3 => file.clone().prop_map(Op::Change),
        1 => file.clone().prop_map(Op::Chmod),
        1 => file.clone().prop_map(Op::Spurious),
        1 => Just(Op::Reset),
        1 => Just(Op::Restore),
        1 => file.prop_map(Op::Evict),
        2 => (1..25_u64).prop_map(Op::Advance),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    let promise = prop_oneof![
        Just(PromiseStyle::None),
        Just(PromiseStyle::Callback),
        Just(PromiseStyle::Delegation)
    ];
    let versions =
        prop_oneof![Just(Versions::Always), Just(Versions::ChecksOnly), Just(Versions::Never)];
    (promise, versions, any::<bool>()).prop_map(|(promise, versions, snapshots)| Protocol {
        promise,
        versions,
        snapshots,
    })
}

/// A file as the server has it.
#[derive(Clone, Copy, Default)]
struct Truth {
    /// Grows with each change of content.
    content: u64,
    /// What the server calls it: the same for two contents after a restore.
    version: u64,
    /// Grows with each change of attributes.
    mode: u32,
    /// When the promise given for it ends.
    promised: Option<BootTime>,
}

/// What the client has of a file.
#[derive(Default)]
struct Cached {
    inode: Option<Arc<InodeCell>>,
    pages: [Option<u64>; PAGES],
    mode: Option<u32>,
    /// What the last successful check saw, at least: a caller that it satisfied may read any time
    /// later, promise or not, but nothing older.
    floor: Moment,
    /// Set at a drop's decision: pages cached before it are still there until it ends.
    drops: Vec<(DropToken, [bool; PAGES])>,
}

/// A moment in the life of a file on the server.
#[derive(Clone, Copy, Default)]
struct Moment {
    content: u64,
    mode: u32,
}

/// Bytes of a reply that was applied.
struct Fetched {
    file: usize,
    page: usize,
    inode: Arc<InodeCell>,
    version: Option<Version>,
    epoch: Epoch,
    content: u64,
}

#[derive(Clone)]
struct Request {
    file: usize,
    page: Option<usize>,
    kind: ReplyKind,
    epoch: Epoch,
    at_issue: Moment,
    reply: Option<Reply>,
}

#[derive(Clone)]
struct Reply {
    facts: Facts,
    content: u64,
    snapshot: u64,
}

struct World {
    protocol: Protocol,
    client: Client,
    truth: [Truth; FILES],
    cached: [Cached; FILES],
    requests: Vec<Request>,
    fetched: Vec<Fetched>,
    /// The server's snapshot, the one the adapter knows, and when the volume promise ends.
    snapshot: u64,
    known_snapshot: u64,
    volume_promised: Option<BootTime>,
}

fn key(file: usize) -> [u8; 1] {
    [u8::try_from(file).unwrap_or(0)]
}

impl World {
    fn new(protocol: Protocol) -> World {
        World {
            protocol,
            client: Client::new(),
            truth: [Truth { content: 1, version: 1, mode: 1, promised: None }; FILES],
            cached: Default::default(),
            requests: Vec::new(),
            fetched: Vec::new(),
            snapshot: 0,
            known_snapshot: 0,
            volume_promised: None,
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Ask { file, check } => {
                let kind = if check { ReplyKind::Check } else { ReplyKind::Other };
                self.issue(file, None, kind);
            }
            Op::Read { file, page } => self.issue(file, Some(page), ReplyKind::Other),
            Op::Process(n) => self.process(n),
            Op::Deliver(n) => self.deliver(n),
            Op::Publish(n) => self.publish(n),
            Op::EndDrop(n, done) => self.end_drop(n, done),
            Op::Change(file) => self.change(file),
            Op::Chmod(file) => {
                self.take_promises_back(file);
                self.truth[file].mode += 1;
            }
            Op::Spurious(file) => {
                self.truth[file].promised = None;
                drop(self.client.events.server_break(&key(file), BreakReason::Callback));
            }
            Op::Reset => {
                self.truth.iter_mut().for_each(|t| t.promised = None);
                self.volume_promised = None;
                drop(self.client.events.server_break_all(BreakReason::ServerReset));
            }
            Op::Restore => {
                self.client.events.scrub(BreakReason::Notify);
                self.truth.iter_mut().for_each(|t| t.content += 1);
            }
            Op::Evict(file) => {
                self.client.table.inodes.lock().remove(&key(file)[..]);
                self.cached[file] = Cached::default();
            }
            Op::Advance(secs) => self.client.clock.advance(Duration::from_secs(secs)),
        }
    }

    fn issue(&mut self, file: usize, page: Option<usize>, kind: ReplyKind) {
        // A lookup has no inode to sample from; the volume's epoch is the same thing.
        let epoch = self.client.volume.sample();
        let truth = &self.truth[file];
        let at_issue = Moment { content: truth.content, mode: truth.mode };
        self.requests.push(Request { file, page, kind, epoch, at_issue, reply: None });
    }

    /// The server breaks what it promised and waits for the answers, then changes.
    fn take_promises_back(&mut self, file: usize) {
        let now = self.client.clock.now();
        if self.protocol.snapshots {
            if self.volume_promised.take().is_some_and(|until| until > now) {
                drop(self.client.events.server_break_all(BreakReason::Callback));
            }
            self.snapshot += 1;
        } else if self.truth[file].promised.take().is_some_and(|until| until > now) {
            drop(self.client.events.server_break(&key(file), BreakReason::Callback));
        }
    }

    fn change(&mut self, file: usize) {
        self.take_promises_back(file);
        self.truth[file].content += 1;
        self.truth[file].version += 1;
        self.truth[file].mode += 1;
    }

    fn process(&mut self, n: usize) {
        let waiting: Vec<usize> =
            (0..self.requests.len()).filter(|&i| self.requests[i].reply.is_none()).collect();
        let Some(&i) = waiting.get(n % waiting.len().max(1)) else { return };
        let (file, is_read) = (self.requests[i].file, self.requests[i].page.is_some());
        let issued_at = self.requests[i].epoch.issued_at;
        let reply = self.answer(file, is_read, issued_at);
        self.requests[i].reply = Some(reply);
    }

    fn answer(&mut self, file: usize, is_read: bool, issued_at: BootTime) -> Reply {
        // A real server counts from when it answers, which is later than what the client assumes.
        let now = self.client.clock.now();
        assert!(now >= issued_at);
        let (promise, until) = match self.protocol.promise {
            PromiseStyle::None => (Promise::None, None),
            PromiseStyle::Callback => {
                (Promise::Until { lifetime: LIFETIME, margin: MARGIN }, Some(now + LIFETIME))
            }
            PromiseStyle::Delegation => {
                (Promise::UntilBroken { kind: PromiseKind::Read }, Some(BootTime::NEVER))
            }
        };
        let truth = &mut self.truth[file];
        let versioned = match self.protocol.versions {
            Versions::Always => true,
            Versions::ChecksOnly => !is_read,
            Versions::Never => false,
        };
        let mut attr = Attr::plain(FileKind::File, truth.content);
        attr.mode = truth.mode;
        let mut facts = Facts {
            version: versioned.then(|| Version::from_u64(truth.version)),
            ..Facts::default().with_attr(attr)
        };
        if self.protocol.snapshots {
            facts.volume = Some(VolumeFacts { promise, checked: true });
            self.volume_promised = self.volume_promised.max(until);
        } else {
            facts.promise = promise;
            truth.promised = truth.promised.max(until);
        }
        Reply { facts, content: truth.content, snapshot: self.snapshot }
    }

    fn deliver(&mut self, n: usize) {
        let answered: Vec<usize> =
            (0..self.requests.len()).filter(|&i| self.requests[i].reply.is_some()).collect();
        let Some(&i) = answered.get(n % answered.len().max(1)) else { return };
        let request = self.requests.swap_remove(i);
        let Some(reply) = request.reply else { return };
        if reply.snapshot > self.known_snapshot {
            self.known_snapshot = reply.snapshot;
            self.client.events.snapshot_moved();
        }
        let inode = self.client.inode(&key(request.file));
        let cached = &mut self.cached[request.file];
        cached.inode = Some(Arc::clone(&inode));
        let mode = reply.facts.attr.map(|a| a.mode);
        let applied = inode.apply(&reply.facts, &request.epoch, request.kind, |decision| {
            if decision.adopt {
                cached.mode = mode;
            }
        });
        if let Some(token) = applied.drop {
            cached.drops.push((token, cached.pages.map(|page| page.is_some())));
        }
        if applied.action == Action::Late {
            return;
        }
        if request.kind == ReplyKind::Check && applied.action != Action::Deleted {
            let floor = &mut cached.floor;
            floor.content = floor.content.max(request.at_issue.content);
            floor.mode = floor.mode.max(request.at_issue.mode);
        }
        if let Some(page) = request.page {
            let (version, epoch) = (reply.facts.version, request.epoch);
            let (file, content) = (request.file, reply.content);
            self.fetched.push(Fetched { file, page, inode, version, epoch, content });
        }
    }

    fn publish(&mut self, n: usize) {
        if self.fetched.is_empty() {
            return;
        }
        let got = self.fetched.swap_remove(n % self.fetched.len());
        let cached = &mut self.cached[got.file];
        let evicted = !cached.inode.as_ref().is_some_and(|inode| Arc::ptr_eq(inode, &got.inode));
        if !evicted && got.inode.is_current(got.version.as_ref(), &got.epoch) {
            cached.pages[got.page] = Some(got.content);
            // It is new: drops decided before are not about it.
            cached.drops.iter_mut().for_each(|(_, old)| old[got.page] = false);
        }
    }

    fn end_drop(&mut self, n: usize, done: bool) {
        let file = n % FILES;
        let cached = &mut self.cached[file];
        if cached.drops.is_empty() {
            return;
        }
        let (token, old) = cached.drops.remove(n % cached.drops.len());
        if done {
            for page in (0..PAGES).filter(|&page| old[page]) {
                cached.pages[page] = None;
            }
            token.done();
        }
    }

    fn assert_served_is_true(&self) {
        for (file, (cached, truth)) in self.cached.iter().zip(&self.truth).enumerate() {
            let Some(inode) = &cached.inode else { continue };
            let validity = inode.valid_now();
            assert_eq!(validity, inode.model_validity(), "published is not what the model says");
            // Nobody reads while data is being dropped, or a drop was abandoned.
            let readable = validity != Validity::Stale(StaleReason::Dropping);
            for content in &cached.pages {
                let content = content.filter(|_| readable).unwrap_or(truth.content);
                assert!(content >= cached.floor.content, "file {file}: older than its last check");
            }
            assert!(cached.mode >= Some(cached.floor.mode), "file {file}: old attributes");
            if validity != Validity::Valid {
                continue;
            }
            for (page, content) in cached.pages.iter().enumerate() {
                let content = content.unwrap_or(truth.content);
                assert_eq!(content, truth.content, "file {file} page {page} would be served stale");
            }
            assert_eq!(cached.mode, Some(truth.mode), "file {file}: stale attributes");
        }
    }

    /// Once nothing else is in flight, two checks (the second because the first may bring news of a
    /// snapshot or end in a drop) make a file valid where the protocol promises anything.
    fn assert_recovers(&mut self) {
        self.requests.clear();
        self.fetched.clear();
        for file in 0..FILES {
            for _ in 0..2 {
                self.issue(file, None, ReplyKind::Check);
                self.process(0);
                self.deliver(0);
                while !self.cached[file].drops.is_empty() {
                    let n = file + FILES * self.cached[file].drops.len();
                    self.end_drop(n, true);
                }
                self.assert_served_is_true();
            }
            let valid = self.cached[file].inode.as_ref().map(|i| i.valid_now());
            if self.protocol.promise != PromiseStyle::None {
                assert_eq!(valid, Some(Validity::Valid), "file {file} does not become valid");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn p_d01_nothing_stale_is_ever_served(
        protocol in protocol(),
        ops in prop::collection::vec(op(), 1..100),
    ) {
        let mut world = World::new(protocol);
        for op in &ops {
            world.step(op);
            world.assert_served_is_true();
        }
        world.assert_recovers();
    }
}
