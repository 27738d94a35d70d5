//! Events, zappers and tickets through the public handle.

use std::{
    ops::Range,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Wake, Waker},
};

use super::{super::*, Client, STANDING, facts};
use crate::{
    clock::{BootTime, Clock},
    remote::PromiseKind,
    sync::{Arc, Mutex},
};

/// A front that writes down what it was asked and answers when told to.
#[derive(Default)]
struct Recorder(Mutex<Vec<Asked>>);

type Asked = (Range<u64>, u64, ZapDone);

impl Zapper for Recorder {
    fn zap(&self, range: Range<u64>, generation: u64, done: ZapDone) {
        self.0.lock().push((range, generation, done));
    }
}

impl Recorder {
    fn calls(&self) -> usize {
        self.0.lock().len()
    }

    fn answer_all(&self) {
        let asked = std::mem::take(&mut *self.0.lock());
        asked.into_iter().for_each(|(_, _, done)| done.done());
    }
}

fn promised(client: &Client, key: &[u8]) -> Arc<InodeCell> {
    let inode = client.inode(key);
    let epoch = inode.sample();
    let applied = inode.apply(&facts(1, STANDING), &epoch, ReplyKind::Check, |_| {});
    assert_eq!((applied.action, inode.valid_now()), (Action::Keep, Validity::Valid));
    inode
}

fn map(inode: &InodeCell) -> (Arc<Recorder>, Origin, ZapRegistration) {
    let (recorder, origin) = (Arc::new(Recorder::default()), Origin::new());
    let registration = inode.register_zapper(origin, Arc::clone(&recorder) as Arc<dyn Zapper>);
    (recorder, origin, registration)
}

struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn events_are_counted_known_file_or_not_and_reach_the_right_file_only() {
    let client = Client::new();
    let (a, b) = (promised(&client, b"a"), promised(&client, b"b"));
    assert!(client.events.server_break(b"nobody", BreakReason::Callback).is_done());
    assert_eq!(a.valid_now(), Validity::Valid);
    assert!(client.events.server_break(b"a", BreakReason::Callback).is_done());
    assert_eq!(a.valid_now(), Validity::Stale(StaleReason::Broken));
    assert_eq!(b.valid_now(), Validity::Valid);
    assert!(client.events.server_recall(b"b", PromiseKind::Read).is_done());
    assert_eq!(b.valid_now(), Validity::Stale(StaleReason::Broken));
    assert_eq!(client.counters.snapshot().breaks, 3);
}

#[test]
fn each_event_makes_files_stale_for_its_own_reason() {
    let client = Client::new();
    let inode = promised(&client, b"a");
    let renew = || {
        let epoch = inode.sample();
        let applied = inode.apply(&facts(1, STANDING), &epoch, ReplyKind::Check, |_| {});
        applied.drop.into_iter().for_each(DropToken::done);
        assert_eq!(inode.valid_now(), Validity::Valid);
    };
    drop(client.events.server_break_all(BreakReason::Callback));
    assert_eq!(inode.valid_now(), Validity::Stale(StaleReason::VolumeBroken));
    renew();
    client.events.snapshot_moved();
    assert_eq!(inode.valid_now(), Validity::Stale(StaleReason::SnapshotMoved));
    renew();
    client.events.scrub(BreakReason::Notify);
    assert_eq!(inode.valid_now(), Validity::Stale(StaleReason::Scrubbed));
    renew();
    client.events.deleted(b"a");
    assert_eq!(inode.valid_now(), Validity::Deleted);
    assert_eq!(client.counters.snapshot().drops, 1);
}

#[test]
fn p_d07_a_break_for_a_file_not_in_the_table_catches_its_lookup() {
    for deleted in [false, true] {
        let client = Client::new();
        let epoch = client.volume.sample();
        if deleted {
            client.events.deleted(b"new");
        } else {
            drop(client.events.server_break(b"new", BreakReason::Callback));
        }
        let inode = client.inode(b"new");
        let applied = inode.apply(&facts(1, STANDING), &epoch, ReplyKind::Other, |_| {});
        assert_eq!(applied.action, Action::KeepNoPromise);
        assert_ne!(inode.valid_now(), Validity::Valid);
    }
}

#[test]
fn p_d02_the_hit_path_reads_the_clock_only_for_deadlines() {
    /// Counts how often it is asked.
    struct Counting(AtomicUsize);
    impl Clock for Counting {
        fn now(&self) -> BootTime {
            self.0.fetch_add(1, Ordering::SeqCst);
            BootTime::from_nanos(1)
        }
        fn sleep_until(&self, _: BootTime) -> futures_util::future::BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }
    let clock = Arc::new(Counting(AtomicUsize::new(0)));
    let volume = VolumeCell::new("v", Arc::clone(&clock) as Arc<dyn Clock>, Arc::default());
    let inode = InodeCell::new(volume, b"a");
    let epoch = inode.sample();
    let _ = inode.apply(&facts(1, STANDING), &epoch, ReplyKind::Check, |_| {
        let asked = clock.0.load(Ordering::SeqCst);
        // Under the cell's own lock: the hit path must not want it.
        assert_ne!(inode.valid_now(), Validity::Valid);
        assert_eq!(clock.0.load(Ordering::SeqCst), asked);
    });
    let asked = clock.0.load(Ordering::SeqCst);
    assert_eq!(inode.valid_now(), Validity::Valid);
    assert_eq!(clock.0.load(Ordering::SeqCst), asked);
}

#[test]
fn p_d26_new_attributes_are_committed_while_nobody_may_read_the_old_pages() {
    let client = Client::new();
    let inode = promised(&client, b"a");
    let epoch = inode.sample();
    let mut during = None;
    let applied = inode.apply(&facts(2, STANDING), &epoch, ReplyKind::Other, |decision| {
        during = Some((decision.adopt, inode.valid_now()));
    });
    assert_eq!(during, Some((true, Validity::Stale(StaleReason::Dropping))));
    assert_eq!(inode.valid_now(), Validity::Stale(StaleReason::Dropping));
    applied.drop.into_iter().for_each(DropToken::done);
    assert_eq!(inode.valid_now(), Validity::Valid);
}

#[test]
fn settled_waits_for_the_last_drop() {
    let client = Client::new();
    let inode = promised(&client, b"a");
    let mut tokens = Vec::new();
    for version in [2, 3] {
        let epoch = inode.sample();
        let applied = inode.apply(&facts(version, STANDING), &epoch, ReplyKind::Check, |_| {});
        tokens.extend(applied.drop);
    }
    let wakes = std::sync::Arc::new(Wakes(AtomicUsize::new(0)));
    let waker = Waker::from(std::sync::Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    let mut settled = pin!(inode.settled());
    assert!(settled.as_mut().poll(&mut cx).is_pending());
    for (token, woken) in tokens.into_iter().zip([0, 1]) {
        assert!(settled.as_mut().poll(&mut cx).is_pending());
        token.done();
        assert_eq!(wakes.0.load(Ordering::SeqCst), woken);
    }
    assert!(settled.as_mut().poll(&mut cx).is_ready());
}

#[test]
fn a_ticket_waits_for_every_front_and_wakes_its_waiter() {
    let client = Client::new();
    let inode = promised(&client, b"a");
    let other = promised(&client, b"b");
    let fronts = [map(&inode), map(&inode)];
    let stranger = map(&other);
    let before = inode.generation();
    let ticket = client.events.server_break(b"a", BreakReason::Callback);
    assert!(inode.generation() > before);
    let wakes = std::sync::Arc::new(Wakes(AtomicUsize::new(0)));
    let waker = Waker::from(std::sync::Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    let mut waiting = pin!(ticket.clone());
    assert_eq!(waiting.as_mut().poll(&mut cx), Poll::Pending);
    fronts[0].0.answer_all();
    assert!(!ticket.is_done());
    fronts[1].0.answer_all();
    assert_eq!((ticket.is_done(), wakes.0.load(Ordering::SeqCst)), (true, 1));
    assert_eq!(waiting.as_mut().poll(&mut cx), Poll::Ready(()));
    assert_eq!(stranger.0.calls(), 0);
}

#[test]
fn a_front_that_goes_away_holds_nobody_up() {
    let client = Client::new();
    let inode = promised(&client, b"a");
    let (alive, _, _alive) = map(&inode);
    let (dead, _, registration) = map(&inode);
    let ticket = client.events.server_break_all(BreakReason::ServerReset);
    alive.answer_all();
    assert!(!ticket.is_done());
    drop(registration);
    assert!(ticket.is_done());
    // Its late answer is not counted twice, and it is not asked again.
    let second = client.events.server_break(b"a", BreakReason::Callback);
    assert_eq!(dead.calls(), 1);
    dead.answer_all();
    assert!(!second.is_done());
    alive.answer_all();
    assert!(second.is_done());
}

#[test]
fn a_volume_event_zaps_what_is_mapped_in_the_volume() {
    let client = Client::new();
    let fronts: Vec<_> = [b"a", b"b"].iter().map(|key| map(&promised(&client, *key))).collect();
    let _ = promised(&client, b"c");
    let ticket = client.events.server_break_all(BreakReason::Callback);
    client.events.scrub(BreakReason::Notify);
    client.events.snapshot_moved();
    for (recorder, ..) in &fronts {
        assert_eq!(recorder.calls(), 3);
        let calls = recorder.0.lock();
        assert!(calls.is_sorted_by(|a, b| a.1 < b.1), "generations grow");
        drop(calls);
        assert!(!ticket.is_done());
        recorder.answer_all();
    }
    assert!(ticket.is_done());
}

#[test]
fn the_originator_of_a_change_is_not_asked() {
    let client = Client::new();
    let inode = promised(&client, b"a");
    let (writer, origin, _writer) = map(&inode);
    let (reader, _, _reader) = map(&inode);
    let ticket = inode.zap(&(4096..8192), Some(origin));
    assert_eq!((writer.calls(), reader.calls()), (0, 1));
    assert_eq!(reader.0.lock()[0].0, 4096..8192);
    reader.answer_all();
    assert!(ticket.is_done());
}
