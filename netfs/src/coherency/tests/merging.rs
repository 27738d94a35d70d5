//! Concurrent validations: how many RPCs they need, and who may rely on which.
//!
//! Everything runs on one thread under a runtime that is stepped by hand: `Server` parks each RPC
//! until the test answers it.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
    task::{JoinHandle, yield_now},
};

use super::{super::*, Client, STANDING, facts};
use crate::{
    clock::Clock,
    error::{Errno, Error, Result},
    remote::{Facts, Promise, VolumeFacts},
    sync::{Arc, Mutex, atomic::AtomicUsize},
};

/// Answers to RPCs that are waiting, in order of issue.
#[derive(Default)]
struct Server {
    calls: AtomicUsize,
    waiting: Mutex<Vec<Rpc>>,
}

type Rpc = oneshot::Sender<Result<Facts>>;

impl Server {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Answers the RPC that waits longest.
    fn answer(&self, reply: Result<Facts>) {
        let rpc = self.waiting.lock().remove(0);
        assert!(rpc.send(reply).is_ok(), "nobody waits for the reply");
    }
}

struct Test {
    client: Client,
    server: Arc<Server>,
}

impl Test {
    fn new() -> (Runtime, Test) {
        let runtime = Builder::new_current_thread().build().expect("a runtime without I/O");
        (runtime, Test { client: Client::new(), server: Arc::default() })
    }

    /// Spawns a caller of `validate` with one RPC a flight.
    fn caller(&self, inode: &Arc<InodeCell>) -> JoinHandle<Result<()>> {
        self.caller_until(inode, None)
    }

    fn caller_until(
        &self,
        inode: &Arc<InodeCell>,
        wait: Option<Duration>,
    ) -> JoinHandle<Result<()>> {
        let deadline = wait.map(|wait| self.client.clock.now() + wait);
        let (server, cell) = (Arc::clone(&self.server), Arc::clone(inode));
        let check = move || async move {
            let epoch = cell.sample();
            server.calls.fetch_add(1, Ordering::SeqCst);
            let (tx, rx) = oneshot::channel();
            server.waiting.lock().push(tx);
            let facts = rx.await.map_err(|_| Error::new(Errno::EIO, "no answer"))??;
            let applied = cell.apply(&facts, &epoch, ReplyKind::Check, |_| {});
            applied.drop.into_iter().for_each(DropToken::done);
            Ok(())
        };
        let inode = Arc::clone(inode);
        tokio::spawn(
            async move { inode.validate(&Handle::current(), deadline, check, || ()).await },
        )
    }
}

/// Lets every task run until all wait.
async fn idle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

async fn ok(callers: impl IntoIterator<Item = JoinHandle<Result<()>>>) {
    for caller in callers {
        caller.await.expect("no panic").expect("validated");
    }
}

#[test]
fn p_d10_callers_that_come_together_share_one_rpc() {
    let (runtime, t) = Test::new();
    runtime.block_on(async {
        let inode = t.client.inode(b"a");
        let callers: Vec<_> = (0..20).map(|_| t.caller(&inode)).collect();
        idle().await;
        assert_eq!(t.server.calls(), 1);
        t.server.answer(Ok(facts(1, Promise::None)));
        ok(callers).await;
        assert_eq!(t.server.calls(), 1);
        let stats = t.client.counters.snapshot();
        assert_eq!((stats.validate, stats.validate_shared), (1, 19));
    });
}

#[test]
fn a_check_issued_before_a_caller_came_does_not_vouch_for_it_without_a_promise() {
    for (promise, rpcs) in [(Promise::None, 2), (STANDING, 1)] {
        let (runtime, t) = Test::new();
        runtime.block_on(async {
            let inode = t.client.inode(b"a");
            let early = t.caller(&inode);
            idle().await;
            let late: Vec<_> = (0..5).map(|_| t.caller(&inode)).collect();
            idle().await;
            assert_eq!(t.server.calls(), 1, "no second RPC while the first is in the air");
            t.server.answer(Ok(facts(1, promise)));
            ok([early]).await;
            idle().await;
            assert_eq!(t.server.calls(), rpcs, "the late ones share the next");
            assert_eq!(
                late.iter().filter(|c| c.is_finished()).count(),
                if rpcs == 1 { 5 } else { 0 }
            );
            if rpcs == 2 {
                t.server.answer(Ok(facts(1, promise)));
            }
            ok(late).await;
            assert_eq!(t.server.calls(), rpcs);
        });
    }
}

#[test]
fn p_d01_a_break_in_flight_sends_late_callers_to_the_server_again() {
    let (runtime, t) = Test::new();
    runtime.block_on(async {
        let inode = t.client.inode(b"a");
        let early = t.caller(&inode);
        idle().await;
        drop(t.client.events.server_break(b"a", BreakReason::Callback));
        let late = t.caller(&inode);
        idle().await;
        t.server.answer(Ok(facts(1, STANDING)));
        ok([early]).await;
        idle().await;
        assert!(!late.is_finished());
        t.server.answer(Ok(facts(2, STANDING)));
        ok([late]).await;
        assert_eq!(inode.valid_now(), Validity::Valid);
    });
}

#[test]
fn a_caller_that_goes_away_only_detaches() {
    let (runtime, t) = Test::new();
    runtime.block_on(async {
        let inode = t.client.inode(b"a");
        let owner = t.caller(&inode);
        let sharer = t.caller(&inode);
        idle().await;
        owner.abort();
        idle().await;
        t.server.answer(Ok(facts(1, STANDING)));
        ok([sharer]).await;
        assert_eq!((t.server.calls(), inode.valid_now()), (1, Validity::Valid));
    });
}

#[test]
fn a_deadline_bounds_the_callers_wait_and_not_the_flight() {
    let (runtime, t) = Test::new();
    runtime.block_on(async {
        let inode = t.client.inode(b"a");
        let hasty = t.caller_until(&inode, Some(Duration::from_secs(1)));
        let patient = t.caller(&inode);
        idle().await;
        t.client.clock.advance(Duration::from_secs(1));
        let error = hasty.await.expect("no panic").expect_err("the deadline has passed");
        assert_eq!(error.errno(), Errno::ETIMEDOUT);
        assert!(!patient.is_finished());
        t.server.answer(Ok(facts(1, STANDING)));
        ok([patient]).await;
        idle().await;
        assert_eq!(t.client.clock.sleepers(), 0, "no timer left behind");
    });
}

#[test]
fn an_error_reaches_all_who_share_it_except_a_refusal_of_somebody_elses_credentials() {
    let (runtime, t) = Test::new();
    runtime.block_on(async {
        let inode = t.client.inode(b"a");
        let callers = [t.caller(&inode), t.caller(&inode)];
        idle().await;
        t.server.answer(Err(Error::new(Errno::ETIMEDOUT, "server silent")));
        for caller in callers {
            let error = caller.await.expect("no panic").expect_err("shared");
            assert_eq!(error.errno(), Errno::ETIMEDOUT);
        }
        assert_eq!(t.server.calls(), 1);
        let [owner, sharer] = [t.caller(&inode), t.caller(&inode)];
        idle().await;
        t.server.answer(Err(Error::new(Errno::EACCES, "not for you")));
        let error = owner.await.expect("no panic").expect_err("refused");
        assert_eq!(error.errno(), Errno::EACCES);
        idle().await;
        t.server.answer(Ok(facts(1, Promise::None)));
        ok([sharer]).await;
        assert_eq!(t.server.calls(), 3);
    });
}

#[test]
fn p_d24_a_deleted_file_is_refused_without_an_rpc() {
    let (runtime, t) = Test::new();
    runtime.block_on(async {
        let inode = t.client.inode(b"a");
        let during = t.caller(&inode);
        idle().await;
        t.client.events.deleted(b"a");
        t.server.answer(Ok(facts(1, STANDING)));
        let after = t.caller(&inode);
        for caller in [during, after] {
            let error = caller.await.expect("no panic").expect_err("deleted");
            assert_eq!(error.errno(), Errno::ESTALE);
        }
        assert_eq!(t.server.calls(), 1);
    });
}

#[test]
fn p_d10_one_rpc_makes_a_broken_snapshot_volume_clean_for_all_its_files() {
    const KEYS: [&[u8]; 3] = [b"a", b"b", b"c"];
    let (runtime, t) = Test::new();
    let mut whole = facts(1, Promise::None);
    whole.volume = Some(VolumeFacts { promise: STANDING, checked: true });
    runtime.block_on(async {
        let inodes = KEYS.map(|key| t.client.inode(key));
        for inode in &inodes {
            let epoch = inode.sample();
            let _ = inode.apply(&whole, &epoch, ReplyKind::Check, |_| {});
        }
        for reason in [BreakReason::Callback, BreakReason::ServerReset] {
            let before = t.server.calls();
            drop(t.client.events.server_break_all(reason));
            let callers: Vec<_> = inodes.iter().map(|inode| t.caller(inode)).collect();
            idle().await;
            let concurrent = t.server.calls() - before;
            // A reset has to be checked file by file.
            let expected = if reason == BreakReason::Callback { 1 } else { KEYS.len() };
            assert_eq!(concurrent, expected, "{reason:?}");
            (0..concurrent).for_each(|_| t.server.answer(Ok(whole.clone())));
            ok(callers).await;
            assert_eq!(t.server.calls() - before, expected, "{reason:?}");
            assert!(inodes.iter().all(|inode| inode.valid_now() == Validity::Valid));
        }
    });
}

#[test]
fn a_failed_renewal_of_the_volume_is_tried_by_each_file_for_itself() {
    let (runtime, t) = Test::new();
    let mut whole = facts(1, Promise::None);
    whole.volume = Some(VolumeFacts { promise: STANDING, checked: true });
    runtime.block_on(async {
        let inodes = [t.client.inode(b"a"), t.client.inode(b"b")];
        for inode in &inodes {
            let epoch = inode.sample();
            let _ = inode.apply(&whole, &epoch, ReplyKind::Check, |_| {});
        }
        drop(t.client.events.server_break_all(BreakReason::Callback));
        let callers = [t.caller(&inodes[0]), t.caller(&inodes[1])];
        idle().await;
        t.server.answer(Err(Error::new(Errno::ETIMEDOUT, "lost")));
        idle().await;
        assert_eq!(t.server.calls(), 3);
        t.server.answer(Ok(whole.clone()));
        t.server.answer(Ok(whole.clone()));
        ok(callers).await;
    });
}

#[test]
fn a_caller_waits_for_the_drop_its_check_caused_and_redoes_an_abandoned_one() {
    let (runtime, t) = Test::new();
    runtime.block_on(async {
        let inode = t.client.inode(b"a");
        let epoch = inode.sample();
        let _ = inode.apply(&facts(1, Promise::None), &epoch, ReplyKind::Check, |_| {});
        let epoch = inode.sample();
        let change = inode.apply(&facts(2, Promise::None), &epoch, ReplyKind::Other, |_| {});
        let caller = t.caller(&inode);
        idle().await;
        t.server.answer(Ok(facts(2, Promise::None)));
        idle().await;
        assert!(!caller.is_finished(), "old data is still being dropped");
        assert_eq!(t.server.calls(), 1, "waiting needs no RPC");
        drop(change.drop);
        idle().await;
        assert!(!caller.is_finished(), "the drop was abandoned");
        t.server.answer(Ok(facts(2, Promise::None)));
        ok([caller]).await;
        assert_eq!(t.server.calls(), 2);
    });
}

#[test]
fn a_runtime_that_stops_leaves_an_error_and_a_free_gate() {
    let (runtime, t) = Test::new();
    let inode = t.client.inode(b"a");
    let handle = runtime.handle().clone();
    drop(runtime);
    for _ in 0..2 {
        let check = || async { Ok(()) };
        let error =
            pollster::block_on(inode.validate(&handle, None, check, || ())).expect_err("no driver");
        assert_eq!(error.errno(), Errno::ECANCELED);
    }
}

/// N-C78: whoever waits for a drop that others carry out says so, as long as it takes.
#[test]
fn n_c78_a_caller_that_waits_for_a_drop_says_so() {
    let (runtime, t) = Test::new();
    runtime.block_on(async {
        let inode = t.client.inode(b"a");
        let mut drops = [1, 2].map(|version| {
            let epoch = inode.sample();
            inode.apply(&facts(version, STANDING), &epoch, ReplyKind::Check, |_| {}).drop
        });
        let drop_of_the_first = drops[1].take().expect("another version");
        let listed = Arc::new(());
        let (cell, note) = (Arc::clone(&inode), Arc::clone(&listed));
        let caller = tokio::spawn(async move {
            let check = || async { Ok(()) };
            cell.validate(&Handle::current(), None, check, || Arc::clone(&note)).await
        });
        idle().await;
        assert!(!caller.is_finished());
        assert_eq!(Arc::strong_count(&listed), 3, "the test's, the caller's, and the wait");
        drop_of_the_first.done();
        ok([caller]).await;
        assert_eq!(Arc::strong_count(&listed), 1);
    });
}
