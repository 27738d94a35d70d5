//! A cache that fails, hangs or lies never shows in what is read.

use netfs::{
    Errno, FillWhenFull,
    fscache::{CacheMiss, FaultPoint, MemCache, Refusal},
};
use netfs_memory::{Fault, Gate, Op, SnapshotAt};

use super::{clocked, fails, open_as, origin, read, reads, secs, settle, user};
use crate::common::Bench;

const SIZE: usize = 700_001;

/// A file that is on disk and not in memory.
fn on_disk(cache: &std::sync::Arc<MemCache>) -> (std::sync::Arc<netfs_memory::MemoryFs>, Bench) {
    let fs = origin().file("a", SIZE as u64).file("b", SIZE as u64).build().expect("build");
    let bench = Bench::new(&fs, Some(cache.clone()));
    bench.check("a", 0, SIZE);
    bench.check("b", 0, SIZE);
    bench.drain();
    bench.netfs().drop_memory();
    let _ = fs.take_calls();
    (fs, bench)
}

#[test]
fn n_c02_a_failing_cache_read_is_a_server_read() {
    let misses = [
        CacheMiss::Absent,
        CacheMiss::NotLoaded,
        CacheMiss::Corrupt,
        CacheMiss::Stale,
        CacheMiss::Io,
    ];
    for miss in misses {
        for inline in [true, false] {
            let cache = MemCache::new();
            let (fs, bench) = on_disk(&cache);
            cache.faults().fail_reads(Some(miss));
            cache.faults().never_inline(!inline);
            bench.check("a", 0, SIZE);
            assert!(!reads(&fs).is_empty(), "{miss:?}");
            assert!(bench.stats().cache_read_failed > 0);
            cache.faults().fail_reads(None);
            bench.netfs().drop_memory();
            bench.check("a", 0, SIZE);
        }
    }
}

#[test]
fn n_c02_a_cache_that_refuses_everything_changes_nothing() {
    let points = [
        FaultPoint::AcquireVolume,
        FaultPoint::Lookup,
        FaultPoint::Read,
        FaultPoint::Write,
        FaultPoint::CutOver,
        FaultPoint::SetIdentity,
    ];
    for point in points {
        for refusal in [Refusal::IoError, Refusal::NoSpace, Refusal::Busy, Refusal::Stale] {
            let fs = origin().file("a", 300_000).build().unwrap();
            let cache = MemCache::new();
            cache.faults().refuse(point, Some(refusal));
            cache.faults().never_inline(true);
            // A cache that says it is busy is asked again for as long as this: for ever, here.
            let bench = Bench::with(&fs, Some(cache.clone()), |b| {
                b.fill_queue(8 << 20, FillWhenFull::Drop)
            });
            bench.check("a", 0, 300_000);
            bench.drain();
            bench.netfs().drop_memory();
            bench.check("a", 0, 300_000);
            fs.change("a").rewrite_sized(200_000).unwrap();
            bench.check("a", 0, 300_000);
            bench.drain();
            bench.netfs().drop_memory();
            bench.check("a", 0, 300_000);
        }
    }
}

#[test]
fn a_damaged_page_is_fetched_again_and_stored_anew() {
    let cache = MemCache::new();
    let (fs, bench) = on_disk(&cache);
    let (volume, key) = (bench.mount.volume_id().clone(), fs.key("a").unwrap());
    assert!(cache.corrupt(&volume, &key, 300_000));
    bench.check("a", 0, SIZE);
    assert!(bench.stats().miss_corruption_bytes > 0, "{:?}", bench.stats());
    bench.drain();
    bench.netfs().drop_memory();
    let _ = reads(&fs);
    bench.check("a", 0, SIZE);
    assert_eq!(reads(&fs), [], "the page was stored again");
}

#[test]
fn n_c04_a_cache_read_that_a_change_overtakes_is_not_used_afterwards() {
    let cache = MemCache::new();
    let (fs, bench) = on_disk(&cache);
    let file = bench.open("a");
    cache.faults().hold(FaultPoint::Read);
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, SIZE));
        while cache.faults().waiting(FaultPoint::Read) == 0 {
            std::thread::yield_now();
        }
        fs.change("a").rewrite().unwrap();
        cache.faults().release(FaultPoint::Read);
        reader.join().unwrap().unwrap();
    });
    bench.check("a", 0, SIZE);
    bench.drain();
    bench.netfs().drop_memory();
    bench.check("a", 0, SIZE);
}

#[test]
fn n_c20_p_d55_a_late_reply_is_never_stored() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let cache = MemCache::new();
    let bench = Bench::new(&fs, Some(cache.clone()));
    let file = bench.open("a");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue).always());
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, SIZE));
        gate.wait_hit();
        fs.change("a").rewrite().unwrap();
        gate.release();
        reader.join().unwrap().unwrap();
    });
    fs.clear_faults();
    bench.check("a", 0, 1000);
    bench.drain();
    drop(file);
    bench.shutdown();
    let bench = Bench::new(&fs, Some(cache.restart()));
    bench.check("a", 0, SIZE);
}

#[test]
fn n_c44_after_shutdown_the_cache_is_not_called() {
    let cache = MemCache::new();
    let (_fs, bench) = on_disk(&cache);
    let file = bench.open("a");
    let points = [FaultPoint::Lookup, FaultPoint::Read, FaultPoint::Write, FaultPoint::CutOver];
    bench.shutdown();
    let before = points.map(|p| cache.faults().calls(p));
    fails(read(&file, 0, SIZE), Errno::ESHUTDOWN);
    assert_eq!(points.map(|p| cache.faults().calls(p)), before);
}

#[test]
fn n_c53_what_was_stored_is_hit_once_memory_lets_go_of_it() {
    let fs = origin().build().unwrap();
    fs.change("new").create(SIZE as u64).unwrap();
    let bench = Bench::new(&fs, Some(MemCache::new()));
    bench.check("new", 0, SIZE);
    bench.drain();
    bench.netfs().drop_memory();
    let _ = reads(&fs);
    bench.check("new", 0, SIZE);
    assert_eq!(reads(&fs), []);
}

#[test]
fn n_c76_a_hung_cache_delays_one_reader_once() {
    let fs = origin().file("a", 300_000).file("b", 300_000).build().unwrap();
    let cache = MemCache::new();
    let (bench, clock) = clocked(&fs, Some(cache.clone()));
    bench.check("a", 0, 300_000);
    bench.drain();
    bench.netfs().drop_memory();
    let _ = reads(&fs);
    let file = bench.open("a");
    cache.faults().hold(FaultPoint::Read);
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, 300_000).unwrap());
        while !reader.is_finished() {
            if cache.faults().waiting(FaultPoint::Read) > 0 {
                clock.advance(secs(1));
            }
            std::thread::yield_now();
        }
        fs.verify("a", 0, &reader.join().unwrap()).unwrap();
    });
    assert!(!reads(&fs).is_empty(), "the server was asked instead");
    // Another object, and this one again: nobody waits, though time stands still.
    bench.check("b", 0, 300_000);
    bench.netfs().drop_memory();
    bench.check("a", 0, 300_000);
    cache.faults().release(FaultPoint::Read);
    settle(&bench);
    bench.netfs().drop_memory();
    bench.check("a", 0, 300_000);
}

#[test]
fn n_c76_a_hung_lookup_is_waited_for_at_most_cache_wait() {
    let fs = origin().file("a", 300_000).build().unwrap();
    let cache = MemCache::new();
    let (bench, clock) = clocked(&fs, Some(cache.clone()));
    cache.faults().hold(FaultPoint::Lookup);
    let file = bench.open("a");
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, 300_000).unwrap());
        while !reader.is_finished() {
            clock.advance(std::time::Duration::from_millis(20));
            std::thread::yield_now();
        }
        fs.verify("a", 0, &reader.join().unwrap()).unwrap();
    });
    cache.faults().release(FaultPoint::Lookup);
}

#[test]
fn p_d54_bytes_of_an_abandoned_write_do_not_come_back() {
    let fs = origin().file("a", 300_000).build().unwrap();
    let cache = MemCache::new();
    let bench = Bench::new(&fs, Some(cache.clone()));
    cache.faults().hold(FaultPoint::Write);
    bench.check("a", 0, 300_000);
    while cache.faults().waiting(FaultPoint::Write) == 0 {
        std::thread::yield_now();
    }
    fs.change("a").rewrite().unwrap();
    bench.check("a", 0, 10);
    cache.faults().release(FaultPoint::Write);
    bench.drain();
    bench.netfs().drop_memory();
    bench.check("a", 0, 300_000);
    bench.shutdown();
    Bench::new(&fs, Some(cache.restart())).check("a", 0, 300_000);
}

#[test]
fn p_d57_memory_under_a_cache_write_is_not_reused() {
    let fs = origin().file("a", 1 << 20).build().unwrap();
    let cache = MemCache::new();
    let bench = Bench::with(&fs, Some(cache.clone()), |b| b.memory_bytes(1 << 20));
    cache.faults().hold(FaultPoint::Write);
    for _ in 0..3 {
        bench.check("a", 0, 1 << 20);
        bench.netfs().drop_memory();
    }
    cache.faults().release(FaultPoint::Write);
    bench.drain();
    bench.netfs().drop_memory();
    bench.check("a", 0, 1 << 20);
}

#[test]
fn p_d59_a_cache_error_is_made_good_with_the_openers_credentials() {
    let fs = origin().file("a", 300_000).mode("a", 0o600).owner("a", 7, 7).build().unwrap();
    let cache = MemCache::new();
    let bench = Bench::new(&fs, Some(cache.clone()));
    let file = open_as(&bench, "a", &user(7)).unwrap();
    read(&file, 0, 300_000).unwrap();
    bench.drain();
    bench.netfs().drop_memory();
    let _ = fs.take_calls();
    cache.faults().fail_reads(Some(CacheMiss::Io));
    fs.verify("a", 0, &read(&file, 0, 300_000).unwrap()).unwrap();
    let calls: Vec<_> = fs.take_calls().into_iter().filter(|c| c.op == Op::Read).collect();
    assert!(
        !calls.is_empty() && calls.iter().all(|c| c.uid == 7 && c.open == Some(1)),
        "{calls:?}"
    );
}
