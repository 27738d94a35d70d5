//! N-C78: every wait has an owner and an age that can be listed, whatever hangs.

use std::time::Duration;

use netfs::{
    Errno, WaitKind,
    clock::Clock,
    fscache::{CookieState, FaultPoint, MemCache},
};
use netfs_memory::{Fault, Gate, Op, SnapshotAt};

use super::{clocked, eventually, fails, open_as, origin, read, secs, settle};
use crate::common::{Bench, cx};

const SIZE: u64 = 300_000;

fn kinds(bench: &Bench) -> Vec<WaitKind> {
    let mut kinds: Vec<_> = bench.netfs().waits().iter().map(|w| w.kind).collect();
    kinds.sort();
    kinds
}

#[test]
fn n_c78_readers_and_their_request_are_listed_while_the_server_hangs() {
    let fs = origin().file("a", SIZE).build().expect("build");
    let (bench, clock) = clocked(&fs, None);
    let file = open_as(&bench, "a", &cx()).expect("open");
    let gate = Gate::new();
    let _ = fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue));
    clock.advance(secs(5));
    let began = clock.now();
    std::thread::scope(|s| {
        let readers = [0, 1].map(|_| s.spawn(|| read(&file, 10_000, 5000)));
        gate.wait_hit();
        let all = [WaitKind::Folio, WaitKind::Folio, WaitKind::Request];
        eventually("both readers wait", || kinds(&bench) == all);
        clock.advance(secs(30));
        for wait in bench.netfs().waits() {
            assert_eq!(wait.key, file.node().key());
            assert_eq!(&wait.volume, bench.mount.volume_id());
            assert!(wait.range.start <= 10_000 && wait.range.end >= 15_000, "{wait:?}");
            assert_eq!((wait.since, clock.now().since(wait.since)), (began, secs(30)));
        }
        gate.release();
        readers.into_iter().for_each(|r| drop(r.join().expect("no panic").expect("read")));
    });
    settle(&bench);
    eventually("nothing is waited for", || bench.netfs().waits().is_empty());
}

#[test]
fn n_c78_a_read_that_was_given_up_is_listed_until_its_reply_comes() {
    let fs = origin().file("a", SIZE).build().expect("build");
    let (bench, clock) = clocked(&fs, None);
    let file = open_as(&bench, "a", &cx()).expect("open");
    let gate = Gate::new();
    let _ = fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue).times(2));
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, 4096));
        // Two attempts, each given up when its time is over.
        while !reader.is_finished() {
            clock.advance(secs(1));
            std::thread::yield_now();
        }
        fails(reader.join().expect("no panic"), Errno::ETIMEDOUT);
    });
    let given_up = [WaitKind::AbandonedRead; 2];
    eventually("both are listed", || kinds(&bench) == given_up);
    gate.release();
    eventually("their replies came", || bench.netfs().waits().is_empty());
}

#[test]
fn n_c78_a_check_that_hangs_is_listed() {
    let fs = origin().file("a", SIZE).build().expect("build");
    let (bench, clock) = clocked(&fs, None);
    let file = open_as(&bench, "a", &cx()).expect("open");
    fs.send_break("a").expect("told");
    let gate = Gate::new();
    let _ = fs.inject(Fault::on(Op::Validate).hold(&gate, SnapshotAt::Issue));
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, 4096));
        gate.wait_hit();
        assert_eq!(kinds(&bench), [WaitKind::Validate]);
        let wait = bench.netfs().waits().remove(0);
        assert_eq!((&wait.key[..], wait.range, wait.since), (file.node().key(), 0..0, clock.now()));
        gate.release();
        reader.join().expect("no panic").expect("read");
    });
}

/// N-C76: what hangs on disk is listed, and readers of it and of other files go on without.
#[test]
fn n_c76_n_c78_what_a_hung_disk_holds_up_is_listed_and_holds_up_no_reader() {
    let fs = origin().file("a", SIZE).file("b", SIZE).build().expect("build");
    let cache = MemCache::new();
    let (bench, clock) = clocked(&fs, Some(cache.clone()));
    bench.check("a", 0, SIZE as usize);
    bench.drain();
    bench.netfs().drop_memory();
    cache.faults().hold(FaultPoint::Read);
    let file = open_as(&bench, "a", &cx()).expect("open");
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, 4096));
        eventually("the disk is asked", || cache.faults().waiting(FaultPoint::Read) == 1);
        eventually("both wait", || kinds(&bench) == [WaitKind::Folio, WaitKind::Request]);
        clock.advance(Duration::from_millis(1001));
        reader.join().expect("no panic").expect("from the server");
    });
    assert_eq!(kinds(&bench), [WaitKind::HungCacheRead]);
    bench.check("a", 100_000, 100_000);
    cache.faults().hold(FaultPoint::Lookup);
    let other = open_as(&bench, "b", &cx()).expect("open");
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&other, 0, 4096));
        eventually("the disk is asked", || cache.faults().waiting(FaultPoint::Lookup) == 1);
        while !reader.is_finished() {
            clock.advance(Duration::from_millis(21));
            std::thread::yield_now();
        }
        reader.join().expect("no panic").expect("from the server");
    });
    let cookies = bench.netfs().list_cookies().remove(0).1;
    let waiting = cookies.iter().find(|c| c.key == other.node().key()).expect("listed");
    assert_eq!(waiting.state, CookieState::LookingUp);
    assert!(clock.now().since(waiting.since) >= Duration::from_millis(20));
    for point in [FaultPoint::Read, FaultPoint::Lookup] {
        cache.faults().release(point);
    }
    eventually("the disk has answered", || bench.netfs().waits().is_empty());
}
