//! N-C78: every wait has an owner and an age that can be listed, whatever hangs.

use std::time::Duration;

use netfs::{
    Errno, Error, File, FillWhenFull, MemoryUse, ReadOptions, WaitInfo, WaitKind,
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

/// The only wait of that kind.
#[track_caller]
fn the_one(bench: &Bench, kind: WaitKind) -> WaitInfo {
    let mut waits = bench.netfs().waits();
    waits.retain(|wait| wait.kind == kind);
    assert_eq!(waits.len(), 1, "{waits:?}");
    waits.remove(0)
}

fn read_with(file: &File, offset: u64, len: usize, options: ReadOptions) -> Result<(), Error> {
    let mut buf = vec![0; len];
    file.blocking().read_at_with(offset, &mut buf, options).map(drop)
}

/// Lets go of what is held when a test ends, also by failing: its threads are joined then.
struct AtLast<F: Fn()>(F);

impl<F: Fn()> Drop for AtLast<F> {
    fn drop(&mut self) {
        (self.0)();
    }
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
    // The reader may have its bytes before its request has ended.
    eventually("only the disk read is left", || kinds(&bench) == [WaitKind::HungCacheRead]);
    bench.check("a", 100_000, 100_000);
    cache.faults().hold(FaultPoint::Lookup);
    let other = open_as(&bench, "b", &cx()).expect("open");
    std::thread::scope(|s| {
        let failed = || {
            if std::thread::panicking() {
                cache.faults().release(FaultPoint::Lookup);
            }
        };
        let _end = AtLast(failed);
        let reader = s.spawn(|| read(&other, 0, 4096));
        eventually("the disk is asked", || cache.faults().waiting(FaultPoint::Lookup) == 1);
        let began = clock.now();
        eventually("the lookup is listed", || kinds(&bench).contains(&WaitKind::CacheLookup));
        let wait = the_one(&bench, WaitKind::CacheLookup);
        assert_eq!((&wait.key[..], wait.range, wait.since), (other.node().key(), 0..0, began));
        assert_eq!(&wait.volume, bench.mount.volume_id());
        while !reader.is_finished() {
            clock.advance(Duration::from_millis(21));
            std::thread::yield_now();
        }
        reader.join().expect("no panic").expect("from the server");
    });
    eventually("the lookup is not waited for any more", || {
        kinds(&bench) == [WaitKind::HungCacheRead]
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

#[test]
fn n_c78_a_reader_of_one_io_mode_that_waits_for_the_other_is_listed() {
    let fs = origin().file("a", SIZE).build().expect("build");
    let (bench, clock) = clocked(&fs, None);
    let file = open_as(&bench, "a", &cx()).expect("open");
    let direct = ReadOptions { unbuffered: true, ..ReadOptions::default() };
    let (one, other) = ((ReadOptions::default(), 5000..9096), (direct, 100_000..100_100));
    for (first, second) in [(&one, &other), (&other, &one)] {
        let gate = Gate::new();
        let _ = fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue));
        let start = |(options, range): &(ReadOptions, std::ops::Range<u64>)| {
            read_with(&file, range.start, (range.end - range.start) as usize, *options)
        };
        std::thread::scope(|s| {
            let _end = AtLast(|| gate.release());
            let holds = s.spawn(|| start(first));
            gate.wait_hit();
            assert!(!kinds(&bench).contains(&WaitKind::IoMode), "it has the file");
            let waits = s.spawn(|| start(second));
            eventually("the other one waits", || kinds(&bench).contains(&WaitKind::IoMode));
            let wait = the_one(&bench, WaitKind::IoMode);
            assert_eq!((&wait.key[..], wait.range), (file.node().key(), second.1.clone()));
            assert_eq!(wait.since, clock.now());
            gate.release();
            [holds, waits].into_iter().for_each(|r| r.join().expect("no panic").expect("read"));
        });
        assert!(!kinds(&bench).contains(&WaitKind::IoMode));
        bench.netfs().drop_memory();
    }
}

#[test]
fn n_c78_a_reader_that_waits_for_a_change_to_be_carried_out_is_listed() {
    let fs = origin().file("a", SIZE).build().expect("build");
    let cache = MemCache::new();
    let (bench, clock) = clocked(&fs, Some(cache.clone()));
    let file = open_as(&bench, "a", &cx()).expect("open");
    read(&file, 0, 4096).expect("its object is open now");
    cache.faults().hold(FaultPoint::CutOver);
    std::thread::scope(|s| {
        let _end = AtLast(|| cache.faults().release(FaultPoint::CutOver));
        let change = s.spawn(|| file.invalidate());
        eventually("it is cut over", || cache.faults().waiting(FaultPoint::CutOver) == 1);
        let reader = s.spawn(|| read(&file, 0, 4096));
        eventually("the reader waits", || kinds(&bench) == [WaitKind::Change]);
        let wait = the_one(&bench, WaitKind::Change);
        assert_eq!((&wait.key[..], wait.range, wait.since), (file.node().key(), 0..0, clock.now()));
        cache.faults().release(FaultPoint::CutOver);
        change.join().expect("no panic");
        reader.join().expect("no panic").expect("read");
    });
    assert!(!kinds(&bench).contains(&WaitKind::Change));
}

#[test]
fn n_c78_a_request_that_waits_for_room_in_the_fill_queue_is_listed() {
    let fs = origin().file("a", SIZE).build().expect("build");
    let cache = MemCache::new();
    let bench = Bench::with(&fs, Some(cache.clone()), |b| {
        let wait = FillWhenFull::Wait { max: secs(3600) };
        b.fill_queue(4096, wait).readahead_max(0)
    });
    let file = open_as(&bench, "a", &cx()).expect("open");
    cache.faults().hold(FaultPoint::Write);
    let _end = AtLast(|| cache.faults().release(FaultPoint::Write));
    // The first fill is let in alone; the second read's finds no room. Neither reader waits for that.
    read(&file, 0, 4096).expect("read");
    eventually("the first is being stored", || cache.faults().waiting(FaultPoint::Write) == 1);
    read(&file, 8192, 8192).expect("read");
    eventually("the second one waits", || kinds(&bench).contains(&WaitKind::FillRoom));
    let wait = the_one(&bench, WaitKind::FillRoom);
    assert_eq!((&wait.key[..], wait.range), (file.node().key(), 8192..16_384));
    assert_eq!(&wait.volume, bench.mount.volume_id());
    cache.faults().release(FaultPoint::Write);
    eventually("there is room", || bench.netfs().waits().is_empty());
}

/// Each hung read is a line of its own, about its own bytes, until that very read returns.
#[test]
fn n_c78_hung_reads_of_the_disk_are_listed_each_with_its_range() {
    let fs = origin().file("a", SIZE).build().expect("build");
    let cache = MemCache::new();
    let (bench, clock) = clocked(&fs, Some(cache.clone()));
    bench.check("a", 0, SIZE as usize);
    bench.drain();
    let file = open_as(&bench, "a", &cx()).expect("open");
    let hung = || -> Vec<_> {
        let waits = bench.netfs().waits().into_iter();
        waits.filter(|w| w.kind == WaitKind::HungCacheRead).map(|w| w.range).collect()
    };
    for memory in [MemoryUse::Fill, MemoryUse::Bypass] {
        let options = ReadOptions { memory, ..ReadOptions::default() };
        bench.netfs().drop_memory();
        cache.faults().hold(FaultPoint::Read);
        std::thread::scope(|s| {
            let failed = || {
                if std::thread::panicking() {
                    cache.faults().release(FaultPoint::Read)
                }
            };
            let _end = AtLast(failed);
            let readers = [0, 40_960].map(|offset| {
                let already = cache.faults().waiting(FaultPoint::Read);
                let reader = s.spawn({
                    let file = &file;
                    move || read_with(file, offset, 4096, options)
                });
                eventually("the disk is asked", || {
                    cache.faults().waiting(FaultPoint::Read) == already + 1
                });
                reader
            });
            let requests = || kinds(&bench).iter().filter(|k| **k == WaitKind::Request).count();
            eventually("both are listed as waiting", || requests() == 2);
            while !readers.iter().all(|r| r.is_finished()) {
                clock.advance(Duration::from_millis(100));
                std::thread::yield_now();
            }
            readers.into_iter().for_each(|r| r.join().expect("no panic").expect("from the server"));
        });
        let mut ranges = hung();
        ranges.sort_by_key(|range| range.start);
        assert_eq!(ranges, [0..4096, 40_960..45_056], "{memory:?}");
        cache.faults().release_oldest(FaultPoint::Read);
        eventually("the first has returned", || hung().len() == 1);
        let left = hung().first().cloned();
        assert_eq!(left, Some(40_960..45_056), "{memory:?}");
        cache.faults().release(FaultPoint::Read);
        eventually("both have returned", || hung().is_empty());
        // The disk is asked again.
        settle(&bench);
        bench.drain();
        bench.netfs().drop_memory();
        let _ = super::reads(&fs);
        read_with(&file, 0, 4096, options).expect("read");
        assert_eq!(super::reads(&fs), []);
    }
}

/// Its reader has returned long ago: a shutdown takes what waits for room with it.
#[test]
fn a_shutdown_stores_what_still_waits_for_room_in_the_fill_queue() {
    let fs = origin().file("a", SIZE).build().expect("build");
    let cache = MemCache::new();
    let bench = Bench::with(&fs, Some(cache.clone()), |b| {
        let wait = FillWhenFull::Wait { max: secs(3600) };
        b.fill_queue(4096, wait).readahead_max(0)
    });
    let file = open_as(&bench, "a", &cx()).expect("open");
    let (volume, key) = (bench.mount.volume_id().clone(), fs.key("a").expect("it exists"));
    cache.faults().hold(FaultPoint::Write);
    let _end = AtLast(|| cache.faults().release(FaultPoint::Write));
    read(&file, 0, 4096).expect("read");
    eventually("the first is being stored", || cache.faults().waiting(FaultPoint::Write) == 1);
    read(&file, 8192, 8192).expect("read");
    eventually("the second one waits", || kinds(&bench).contains(&WaitKind::FillRoom));
    let netfs = bench.into_netfs();
    std::thread::scope(|s| {
        let _end = AtLast(|| cache.faults().release(FaultPoint::Write));
        let end = s.spawn(|| netfs.blocking_shutdown(secs(60)));
        let past_the_caches = ReadOptions { unbuffered: true, ..ReadOptions::default() };
        eventually("nothing new is begun", || {
            let read = read_with(&file, 100_000, 1, past_the_caches);
            read.is_err_and(|e| e.errno() == Errno::ESHUTDOWN)
        });
        // It waits for as long as it takes; twice, as the second is stored after the first.
        eventually("all is stored", || {
            cache.faults().release_oldest(FaultPoint::Write);
            end.is_finished()
        });
        assert!(end.join().expect("no panic").is_nothing());
    });
    assert_eq!(cache.stored(&volume, &key).map(|(_, pages)| pages), Some(3));
}
