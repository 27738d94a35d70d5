//! Events, zappers and tickets through the public handle.

use std::{
    ops::Range,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Wake, Waker},
};

use super::{
    super::{zap::CALLS_MAX, *},
    Client, STANDING, facts,
};
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
    inode.tell_fronts(&(4096..8192), Some(origin));
    assert_eq!((writer.calls(), reader.calls()), (0, 1));
    assert_eq!(reader.0.lock()[0].0, 4096..8192);
}

/// Neither takes a number of the volume's, nor its lock.
#[test]
fn a_change_of_a_file_without_fronts_tells_nobody() {
    let client = Client::new();
    let (inode, other) = (promised(&client, b"a"), promised(&client, b"b"));
    let (stranger, _, _registered) = map(&other);
    // A sample takes a number, too.
    let seq = client.volume.sample().seq;
    inode.tell_fronts(&(0..1), None);
    assert_eq!((client.volume.sample().seq, stranger.calls(), inode.generation()), (seq + 1, 0, 0));
    other.tell_fronts(&(0..1), None);
    assert_eq!((client.volume.sample().seq, stranger.calls()), (seq + 3, 1));
}

#[test]
fn a_front_that_never_answers_costs_a_bounded_list_and_one_range() {
    let client = Client::new();
    let inode = promised(&client, b"a");
    let (silent, _, registration) = map(&inode);
    for i in 0..100_000 {
        inode.tell_fronts(&(i..i + 1), None);
        assert!(registration.entries() <= CALLS_MAX + 1, "after {i}");
    }
    assert_eq!((silent.calls(), client.table.work()), (CALLS_MAX, 0));
    let ticket = client.events.server_break(b"a", BreakReason::Callback);
    assert_eq!(registration.entries(), CALLS_MAX + 1);
    drop(registration);
    assert!(ticket.is_done());
}

#[test]
fn what_waited_for_an_answer_is_told_by_one_call_for_all_of_it() {
    let client = Client::new();
    let inode = promised(&client, b"a");
    let (slow, _, registration) = map(&inode);
    let last = CALLS_MAX as u64 + 100;
    for i in 0..=last {
        inode.tell_fronts(&(i * 10..i * 10 + 5), None);
    }
    let generation = inode.generation();
    // In the middle of its own lock, for all we know: it is not called from there.
    let first = slow.0.lock().remove(0);
    first.2.done();
    assert_eq!(slow.calls(), CALLS_MAX - 1);
    assert_eq!(client.table.work(), 1);
    let (range, at, done) = slow.0.lock().pop().expect("called");
    assert_eq!((range, at), (CALLS_MAX as u64 * 10..last * 10 + 5, generation));
    // With room again each is told by itself.
    done.done();
    inode.tell_fronts(&(0..1), None);
    assert_eq!(slow.0.lock().last().map(|asked| asked.0.clone()), Some(0..1));
    slow.answer_all();
    assert_eq!((client.table.work(), registration.entries()), (0, 0));
}

#[test]
fn a_ticket_waits_for_all_that_was_told_before_it_and_for_nothing_later() {
    for before in [0, 1, CALLS_MAX - 1, CALLS_MAX, CALLS_MAX + 50] {
        let client = Client::new();
        let inode = promised(&client, b"a");
        let (slow, _, _registration) = map(&inode);
        (0..before).for_each(|_| inode.tell_fronts(&(0..1), None));
        let ticket = client.events.server_break(b"a", BreakReason::Callback);
        let behind = before >= CALLS_MAX;
        assert_eq!(slow.calls(), if behind { CALLS_MAX } else { before + 1 });
        let wakes = std::sync::Arc::new(Wakes(AtomicUsize::new(0)));
        let waker = Waker::from(std::sync::Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let mut waiting = pin!(ticket.clone());
        // The last one first: those of before are still missing.
        while slow.calls() > 0 {
            assert!(waiting.as_mut().poll(&mut cx).is_pending() && !ticket.is_done());
            let (_, _, done) = slow.0.lock().pop().expect("asked");
            done.done();
            assert!(wakes.0.swap(0, Ordering::SeqCst) > 0, "{before}");
            client.table.work();
        }
        assert!(waiting.as_mut().poll(&mut cx).is_ready(), "{before}");
        let ticket = client.events.server_break(b"a", BreakReason::Callback);
        inode.tell_fronts(&(0..1), None);
        drop(slow.0.lock().remove(0));
        assert!(ticket.is_done() && slow.calls() == 1);
    }
}

/// What is about to be told counts as told.
#[test]
fn a_ticket_does_not_resolve_between_an_answer_and_the_call_that_it_makes_room_for() {
    let client = Client::new();
    let inode = promised(&client, b"a");
    let (slow, _, registration) = map(&inode);
    (0..CALLS_MAX).for_each(|_| inode.tell_fronts(&(0..1), None));
    let ticket = client.events.server_break(b"a", BreakReason::Callback);
    slow.answer_all();
    assert_eq!((slow.calls(), ticket.is_done(), registration.entries()), (0, false, 1));
    // Nor does what comes in between get its own call before it.
    inode.tell_fronts(&(7..8), None);
    assert_eq!(client.table.work(), 1, "one for all answers");
    assert_eq!((slow.calls(), ticket.is_done()), (1, false));
    assert_eq!(slow.0.lock()[0].0, 0..u64::MAX);
    slow.answer_all();
    assert!(ticket.is_done());
}

/// The context has ended: what was to be told never is, until the front gives another answer.
#[test]
fn a_call_that_was_to_be_made_by_nobody_is_made_after_the_next_answer() {
    let client = Client::new();
    let inode = promised(&client, b"a");
    let (slow, _, _registration) = map(&inode);
    (0..=CALLS_MAX).for_each(|_| inode.tell_fronts(&(0..1), None));
    slow.0.lock().pop();
    client.table.work.lock().clear();
    assert_eq!(slow.calls(), CALLS_MAX - 1);
    slow.0.lock().pop();
    assert_eq!((client.table.work(), slow.calls()), (1, CALLS_MAX - 1));
}

#[test]
fn tickets_that_nobody_waits_for_any_more_are_forgotten() {
    let client = Client::new();
    let inode = promised(&client, b"a");
    let (_silent, _, registration) = map(&inode);
    let waker = Waker::from(std::sync::Arc::new(Wakes(AtomicUsize::new(0))));
    for _ in 0..1000 {
        let ticket = client.events.server_break(b"a", BreakReason::Callback);
        let mut cx = Context::from_waker(&waker);
        assert!(pin!(ticket).poll(&mut cx).is_pending());
    }
    assert!(registration.entries() <= CALLS_MAX + 2);
}
