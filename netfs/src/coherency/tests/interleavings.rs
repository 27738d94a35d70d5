//! Interleavings of the shell under the shuttle model checker.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p netfs --lib --target-dir target/shuttle interleavings`

use std::ops::Range;

use shuttle::thread;

use super::{
    super::{zap::CALLS_MAX, *},
    Client, STANDING, facts,
};
use crate::{
    remote::{Facts, Promise, Version, VolumeFacts},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

const RUNS: usize = 3000;

/// Explores interleavings of `test`, both at random and with few preemptions.
fn explore(test: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(test, RUNS);
    shuttle::check_pct(test, RUNS, 3);
}

/// A server that breaks its promises before a change is visible (A1.23), and gives none meanwhile.
#[derive(Default)]
struct Server(AtomicU64);

impl Server {
    const CHANGING: u64 = 1;
    const CHANGED: u64 = 2;

    fn change(&self, client: &Client, key: &[u8]) {
        self.0.store(Self::CHANGING, Ordering::SeqCst);
        drop(client.events.server_break(key, BreakReason::Callback));
        self.0.store(Self::CHANGED, Ordering::SeqCst);
    }

    fn ask(&self) -> Facts {
        match self.0.load(Ordering::SeqCst) {
            Self::CHANGED => facts(2, STANDING),
            Self::CHANGING => facts(1, Promise::None),
            _ => facts(1, STANDING),
        }
    }
}

/// Once the change is visible, whoever is told "valid" has the new version.
fn assert_no_old_promise(inode: &InodeCell) {
    if inode.valid_now() == Validity::Valid {
        assert_eq!(inode.version(), Some(Version::from_u64(2)));
    }
}

fn apply(inode: &Arc<InodeCell>, version: u64, epoch: &Epoch) -> Action {
    let applied = inode.apply(&facts(version, STANDING), epoch, ReplyKind::Check, |_| {});
    applied.drop.into_iter().for_each(DropToken::done);
    applied.action
}

#[test]
fn p_d07_a_break_that_races_with_a_lookup_never_leaves_a_promise_for_old_data() {
    for known_before in [false, true] {
        explore(move || {
            let (client, server) = (Arc::new(Client::new()), Arc::new(Server::default()));
            if known_before {
                // The break may find this inode, which is evicted and made anew meanwhile.
                let _ = client.inode(b"a");
            }
            let (c, s) = (Arc::clone(&client), Arc::clone(&server));
            let change = thread::spawn(move || s.change(&c, b"a"));
            let epoch = client.volume.sample();
            let reply = server.ask();
            client.table.inodes.lock().remove(&b"a"[..]);
            let inode = client.inode(b"a");
            let _ = inode.apply(&reply, &epoch, ReplyKind::Other, |_| {});
            change.join().expect("server");
            assert_no_old_promise(&inode);
        });
    }
}

#[test]
fn p_d01_a_reader_that_starts_after_an_event_never_finds_the_old_promise() {
    for whole_volume in [false, true] {
        explore(move || {
            let client = Arc::new(Client::new());
            let inode = client.inode(b"a");
            let epoch = inode.sample();
            apply(&inode, 1, &epoch);
            // The reply to this one is processed at any moment around the event.
            let old = inode.sample();
            let broken = Arc::new(AtomicBool::new(false));
            let (c, b) = (Arc::clone(&client), Arc::clone(&broken));
            let server = thread::spawn(move || {
                if whole_volume {
                    drop(c.events.server_break_all(BreakReason::Callback));
                } else {
                    drop(c.events.server_break(b"a", BreakReason::Callback));
                }
                b.store(true, Ordering::SeqCst);
            });
            let i = Arc::clone(&inode);
            let replies = thread::spawn(move || apply(&i, 1, &old));
            let after = broken.load(Ordering::SeqCst);
            let validity = inode.valid_now();
            assert!(!after || validity != Validity::Valid, "{validity:?}");
            server.join().expect("server");
            replies.join().expect("replies");
            assert_ne!(inode.valid_now(), Validity::Valid);
        });
    }
}

/// Everything that happens to a volume or a file without an answer of ours.
const EVENTS: [fn(&VolumeEvents); 4] = [
    |events| drop(events.server_break(b"a", BreakReason::Callback)),
    |events| drop(events.server_break_all(BreakReason::Callback)),
    |events| events.scrub(BreakReason::Notify),
    VolumeEvents::snapshot_moved,
];

/// P-D5, P-D8: a reply that was asked for before an event brings no promise, however the two meet. P-D6: one
/// that is asked for after it does. P-D9: the numbers that tell these apart are never taken for each other,
/// also where two events come at once.
#[test]
fn p_d05_p_d08_p_d09_an_event_of_any_kind_in_flight_leaves_no_promise_and_the_next_reply_one() {
    for (n, event) in EVENTS.into_iter().enumerate() {
        let beside = EVENTS[(n + 1) % EVENTS.len()];
        explore(move || {
            let client = Arc::new(Client::new());
            let inode = client.inode(b"a");
            let epoch = inode.sample();
            apply(&inode, 1, &epoch);
            let in_flight = inode.sample();
            let events = [event, beside].map(|event| {
                let client = Arc::clone(&client);
                thread::spawn(move || event(&client.events))
            });
            let replied = Arc::clone(&inode);
            let reply = thread::spawn(move || drop(apply(&replied, 1, &in_flight)));
            events.into_iter().for_each(|event| event.join().expect("event"));
            reply.join().expect("reply");
            assert_ne!(inode.valid_now(), Validity::Valid);
            // After a scrub the first one only drops what there is.
            for _ in 0..2 {
                let epoch = inode.sample();
                apply(&inode, 1, &epoch);
            }
            assert_eq!(inode.valid_now(), Validity::Valid);
        });
    }
}

#[test]
fn p_d06_a_reply_asked_for_after_a_break_brings_its_promise_whatever_else_is_on_its_way() {
    explore(|| {
        let (client, server) = (Arc::new(Client::new()), Arc::new(Server::default()));
        let inode = client.inode(b"a");
        let epoch = inode.sample();
        apply(&inode, 1, &epoch);
        let late = inode.sample();
        let told = Arc::new(AtomicBool::new(false));
        let (c, s, t) = (Arc::clone(&client), Arc::clone(&server), Arc::clone(&told));
        let change = thread::spawn(move || {
            s.change(&c, b"a");
            t.store(true, Ordering::SeqCst);
        });
        let other = Arc::clone(&inode);
        let overtaken = thread::spawn(move || drop(apply(&other, 1, &late)));
        let after = told.load(Ordering::SeqCst);
        let epoch = inode.sample();
        let reply = server.ask();
        let applied = inode.apply(&reply, &epoch, ReplyKind::Check, |_| {});
        applied.drop.into_iter().for_each(DropToken::done);
        if after {
            assert_eq!(inode.valid_now(), Validity::Valid);
        }
        change.join().expect("server");
        overtaken.join().expect("reply");
        assert_no_old_promise(&inode);
    });
}

#[test]
fn p_d26_a_version_and_its_size_are_committed_together() {
    explore(|| {
        let client = Arc::new(Client::new());
        let inode = client.inode(b"a");
        let size = Arc::new(AtomicU64::new(0));
        let commit = |inode: &Arc<InodeCell>, size: &AtomicU64, version: u64| {
            let epoch = inode.sample();
            let applied = inode.apply(&facts(version, STANDING), &epoch, ReplyKind::Check, |d| {
                if d.adopt {
                    size.store(version, Ordering::SeqCst);
                }
            });
            applied.drop.into_iter().for_each(DropToken::done);
        };
        commit(&inode, &size, 1);
        let writers = [2, 3].map(|version| {
            let (inode, size) = (Arc::clone(&inode), Arc::clone(&size));
            thread::spawn(move || commit(&inode, &size, version))
        });
        let before = inode.version();
        let seen = size.load(Ordering::SeqCst);
        if before == inode.version() {
            assert_eq!(before, Some(Version::from_u64(seen)), "another version's size");
        }
        writers.into_iter().for_each(|w| w.join().expect("writer"));
        assert_eq!(inode.version(), Some(Version::from_u64(size.load(Ordering::SeqCst))));
    });
}

#[test]
fn p_d16_nobody_is_told_valid_while_data_is_dropped() {
    explore(|| {
        let client = Arc::new(Client::new());
        let inode = client.inode(b"a");
        let epoch = inode.sample();
        apply(&inode, 1, &epoch);
        // What the page cache holds: the version of its pages.
        let pages = Arc::new(AtomicU64::new(1));
        let size = Arc::new(AtomicU64::new(1));
        let (i, p, s) = (Arc::clone(&inode), Arc::clone(&pages), Arc::clone(&size));
        let writer = thread::spawn(move || {
            let epoch = i.sample();
            let applied = i.apply(&facts(2, STANDING), &epoch, ReplyKind::Check, |_| {
                s.store(2, Ordering::SeqCst);
            });
            p.store(2, Ordering::SeqCst);
            applied.drop.into_iter().for_each(DropToken::done);
        });
        let seen = size.load(Ordering::SeqCst);
        if inode.valid_now() == Validity::Valid && seen == 2 {
            assert_eq!(pages.load(Ordering::SeqCst), 2, "new size, old pages, and called valid");
        }
        writer.join().expect("writer");
        assert_eq!(inode.valid_now(), Validity::Valid);
    });
}

#[test]
fn a_break_during_a_drop_is_not_forgotten_when_the_drop_ends() {
    explore(|| {
        let client = Arc::new(Client::new());
        let inode = client.inode(b"a");
        let epoch = inode.sample();
        apply(&inode, 1, &epoch);
        let epoch = inode.sample();
        let applied = inode.apply(&facts(2, STANDING), &epoch, ReplyKind::Check, |_| {});
        let c = Arc::clone(&client);
        let server = thread::spawn(move || {
            drop(c.events.server_break(b"a", BreakReason::Callback));
        });
        applied.drop.into_iter().for_each(DropToken::done);
        server.join().expect("server");
        assert_eq!(inode.valid_now(), Validity::Stale(StaleReason::Broken));
    });
}

#[test]
fn a_covered_file_never_outlives_a_reset() {
    explore(|| {
        let client = Arc::new(Client::new());
        let inode = client.inode(b"a");
        let other = client.inode(b"b");
        let mut whole = facts(1, Promise::None);
        whole.volume = Some(VolumeFacts { promise: STANDING, checked: true });
        let epoch = inode.sample();
        let _ = inode.apply(&whole, &epoch, ReplyKind::Check, |_| {});
        let reset = Arc::new(AtomicBool::new(false));
        let (c, r, w) = (Arc::clone(&client), Arc::clone(&reset), whole.clone());
        let server = thread::spawn(move || {
            drop(c.events.server_break_all(BreakReason::ServerReset));
            r.store(true, Ordering::SeqCst);
            // Another file's check renews the volume's promise.
            let epoch = other.sample();
            let _ = other.apply(&w, &epoch, ReplyKind::Check, |_| {});
        });
        let after = reset.load(Ordering::SeqCst);
        let validity = inode.valid_now();
        assert!(!after || validity != Validity::Valid);
        server.join().expect("server");
        assert_ne!(inode.valid_now(), Validity::Valid);
    });
}

/// A front as a fault handler works: it maps only if the file is valid and no zap came since.
struct Front {
    mapped: AtomicBool,
    zapped_to: AtomicU64,
    /// The fault lock.
    fault: crate::sync::Mutex<()>,
}

impl Zapper for Front {
    fn zap(&self, _: Range<u64>, generation: u64, done: ZapDone) {
        let _fault = self.fault.lock();
        self.zapped_to.fetch_max(generation, Ordering::SeqCst);
        self.mapped.store(false, Ordering::SeqCst);
        done.done();
    }
}

#[test]
fn a2_03_no_page_stays_mapped_unnoticed_when_a_mapping_races_with_a_break() {
    for whole_volume in [false, true] {
        explore(move || {
            let client = Arc::new(Client::new());
            let inode = client.inode(b"a");
            let epoch = inode.sample();
            apply(&inode, 1, &epoch);
            let c = Arc::clone(&client);
            let server = thread::spawn(move || {
                let ticket = if whole_volume {
                    c.events.server_break_all(BreakReason::Callback)
                } else {
                    c.events.server_break(b"a", BreakReason::Callback)
                };
                assert!(ticket.is_done(), "the front answers at once");
            });
            let front = Arc::new(Front {
                mapped: AtomicBool::new(false),
                zapped_to: AtomicU64::new(0),
                fault: crate::sync::Mutex::new(()),
            });
            let zapper = Arc::clone(&front) as Arc<dyn Zapper>;
            let registration = inode.register_zapper(Origin::new(), zapper);
            let generation = inode.generation();
            if inode.valid_now() == Validity::Valid {
                let _fault = front.fault.lock();
                if front.zapped_to.load(Ordering::SeqCst) <= generation {
                    front.mapped.store(true, Ordering::SeqCst);
                }
            }
            server.join().expect("server");
            assert!(!front.mapped.load(Ordering::SeqCst), "mapped after the break's ticket");
            drop(registration);
        });
    }
}

#[test]
fn a2_04_tickets_resolve_whatever_fronts_do() {
    /// Keeps what it is asked and never answers by itself.
    #[derive(Default)]
    struct Silent(crate::sync::Mutex<Vec<ZapDone>>);
    impl Zapper for Silent {
        fn zap(&self, _: Range<u64>, _: u64, done: ZapDone) {
            self.0.lock().push(done);
        }
    }
    explore(|| {
        let client = Arc::new(Client::new());
        let inode = client.inode(b"a");
        let (leaver, stayer) = (Arc::new(Silent::default()), Arc::new(Silent::default()));
        let leaving = inode.register_zapper(Origin::new(), Arc::clone(&leaver) as Arc<dyn Zapper>);
        let _staying = inode.register_zapper(Origin::new(), Arc::clone(&stayer) as Arc<dyn Zapper>);
        let c = Arc::clone(&client);
        let server = thread::spawn(move || c.events.server_break(b"a", BreakReason::Callback));
        let leave = thread::spawn(move || drop(leaving));
        let ticket = server.join().expect("server");
        leave.join().expect("leaver");
        assert!(!ticket.is_done(), "one has not answered");
        let asked = std::mem::take(&mut *stayer.0.lock());
        drop(asked);
        assert!(ticket.is_done());
        // A late answer of the one that left changes nothing.
        let late = std::mem::take(&mut *leaver.0.lock());
        drop(late);
        assert!(ticket.is_done());
    });
}

#[test]
fn a2_04_a_front_that_is_behind_hears_of_everything_before_a_ticket_resolves() {
    /// Notes what it is asked.
    #[derive(Default)]
    struct Slow(crate::sync::Mutex<(u64, Vec<ZapDone>)>);
    impl Zapper for Slow {
        fn zap(&self, range: Range<u64>, _: u64, done: ZapDone) {
            let mut asked = self.0.lock();
            asked.0 = asked.0.max(range.end);
            asked.1.push(done);
        }
    }
    impl Slow {
        fn heard_of(&self, end: u64) -> bool {
            self.0.lock().0 >= end
        }
        /// Answers, as it may, under its own lock.
        fn answer(&self) -> bool {
            let mut asked = self.0.lock();
            let some = !asked.1.is_empty();
            asked.1.clear();
            some
        }
    }
    explore(|| {
        let client = Arc::new(Client::new());
        let inode = client.inode(b"a");
        let slow = Arc::new(Slow::default());
        let _here = inode.register_zapper(Origin::new(), Arc::clone(&slow) as Arc<dyn Zapper>);
        (0..CALLS_MAX).for_each(|_| inode.tell_fronts(&(0..1), None));
        let (c, s, i) = (Arc::clone(&client), Arc::clone(&slow), Arc::clone(&inode));
        let writer = thread::spawn(move || i.tell_fronts(&(0..2), None));
        let server = thread::spawn(move || {
            let ticket = c.events.server_break(b"a", BreakReason::Callback);
            assert!(!ticket.is_done() || s.heard_of(u64::MAX));
            ticket
        });
        for _ in 0..3 {
            slow.answer();
            client.table.work();
        }
        writer.join().expect("writer");
        let ticket = server.join().expect("server");
        while slow.answer() | (client.table.work() > 0) {}
        assert!(slow.heard_of(u64::MAX) && ticket.is_done());
    });
}
