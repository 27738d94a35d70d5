//! Reads end to end: memory origin, core, in-memory disk cache.

mod common;

#[path = "read/ahead.rs"]
mod ahead;

use std::time::Duration;

use common::{Bench, cx};
use netfs::{
    FillPolicy, MemoryUse, ReadOptions, TryReadAt,
    clock::{Clock, SystemClock},
    fscache::MemCache,
    remote::{Cred, Cx, IoLimits, Promise, PromiseKind},
};
use netfs_memory::{Fault, Gate, Link, MemoryFs, Op};

fn until_broken() -> Promise {
    Promise::UntilBroken { kind: PromiseKind::Read }
}

#[test]
fn a_cold_read_then_a_memory_hit_then_a_disk_hit_after_restart() {
    let fs = MemoryFs::builder().promise(until_broken()).file("dir/a", 1_000_003).build().unwrap();
    let disk = MemCache::new();
    let bench = Bench::new(&fs, Some(disk.clone()));
    bench.check("dir/a", 0, 1_000_003);
    let cold = fs.counts().bytes();
    assert_eq!(cold, 1_000_003);
    bench.check("dir/a", 0, 1_000_003);
    assert_eq!(fs.counts().bytes(), cold, "memory hit");
    let stats = bench.stats();
    assert_eq!(stats.miss_cold_bytes, 1_000_003);
    assert_eq!(stats.memory_hit_bytes, 1_000_003);
    bench.drain();
    bench.shutdown();

    let bench = Bench::new(&fs, Some(disk.restart()));
    bench.check("dir/a", 0, 1_000_003);
    assert_eq!(fs.counts().bytes(), cold, "disk hit: {:?}", bench.stats());
    assert_eq!(bench.stats().disk_hit_bytes, 1_000_003);
}

#[test]
fn a_memory_hit_needs_no_waiting() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 300_000).build().unwrap();
    let bench = Bench::with(&fs, None, |b| b.readahead_max(0));
    let file = bench.open("a");
    let mut buf = vec![0; 5000];
    assert_eq!(file.try_read(0, &mut buf), TryReadAt::WouldBlock);
    file.blocking().read_at(0, &mut buf).unwrap();
    assert_eq!(file.try_read(290_000, &mut buf), TryReadAt::WouldBlock);
    file.blocking().read_at(299_000, &mut buf).unwrap();
    assert_eq!(file.try_read(299_000, &mut buf), TryReadAt::Done(1000));
    fs.verify("a", 299_000, &buf[..1000]).unwrap();
    assert_eq!(file.try_read(300_000, &mut buf), TryReadAt::Done(0));
    assert_eq!(file.try_read(u64::MAX - 10, &mut buf), TryReadAt::Done(0));
}

#[test]
fn p_d01_a_break_makes_the_next_read_see_the_change() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 100_000).build().unwrap();
    let bench = Bench::new(&fs, Some(MemCache::new()));
    bench.check("a", 0, 100_000);
    fs.change("a").rewrite().unwrap();
    bench.check("a", 0, 100_000);
    fs.change("a").truncate(7).unwrap();
    bench.check("a", 0, 100_000);
    fs.change("a").append(50_000).unwrap();
    bench.check("a", 0, 100_000);
    assert!(bench.stats().miss_coherency_bytes > 0);
}

#[test]
fn p_d15_a_spurious_break_drops_nothing() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 100_000).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    bench.check("a", 0, 100_000);
    fs.send_break("a").unwrap();
    let mut buf = vec![0; 100_000];
    assert_eq!(file.blocking().read_at(0, &mut buf).unwrap(), 100_000);
    assert_eq!(fs.counts().bytes(), 100_000);
    assert_eq!(fs.counts().calls(Op::Validate), 1);
    fs.send_break("a").unwrap();
    bench.check("a", 0, 100_000);
    assert_eq!(fs.counts().bytes(), 100_000);
    assert_eq!(fs.counts().calls(Op::Validate), 1, "the open's own reply confirmed the file");
}

#[test]
fn without_a_promise_every_read_asks_and_sees_silent_changes() {
    let fs = MemoryFs::builder().promise(Promise::None).file("a", 100_000).build().unwrap();
    let bench = Bench::new(&fs, None);
    bench.check("a", 0, 100_000);
    bench.check("a", 0, 100_000);
    assert_eq!(fs.counts().bytes(), 100_000, "validated, not fetched");
    fs.change("a").silently().rewrite().unwrap();
    bench.check("a", 0, 100_000);
}

#[test]
fn a_break_while_the_fetch_is_in_flight_installs_nothing_old() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 100_000).build().unwrap();
    let bench = Bench::new(&fs, Some(MemCache::new()));
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).hold(&gate, netfs_memory::SnapshotAt::Issue));
    let file = bench.open("a");
    std::thread::scope(|s| {
        let reader = s.spawn(|| {
            let mut buf = vec![0; 100_000];
            file.blocking().read_at(0, &mut buf).unwrap();
            buf
        });
        gate.wait_hit();
        fs.change("a").rewrite().unwrap();
        gate.release();
        // It began before the change: either version will do, but not a mix.
        let bytes = reader.join().unwrap();
        assert_eq!(bytes.len(), 100_000);
    });
    bench.check("a", 0, 100_000);
}

#[test]
fn concurrent_readers_of_one_missing_range_share_one_fetch() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 200_000).build().unwrap();
    let bench = Bench::new(&fs, None);
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).hold(&gate, netfs_memory::SnapshotAt::Issue));
    let file = bench.open("a");
    std::thread::scope(|s| {
        let readers: Vec<_> = (0..8)
            .map(|_| {
                s.spawn(|| {
                    let mut buf = vec![0; 200_000];
                    assert_eq!(file.blocking().read_at(0, &mut buf).unwrap(), 200_000);
                    fs.verify("a", 0, &buf).unwrap();
                })
            })
            .collect();
        gate.wait_hit();
        gate.release();
        readers.into_iter().for_each(|r| r.join().unwrap());
    });
    assert_eq!(fs.counts().calls(Op::Read), 1);
}

#[test]
fn bypass_leaves_nothing_in_memory_and_uses_the_disk() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 700_001).build().unwrap();
    let bench = Bench::new(&fs, Some(MemCache::new()));
    let file = bench.open("a");
    let options = ReadOptions { memory: MemoryUse::Bypass, ..ReadOptions::default() };
    let mut buf = vec![0; 700_001];
    for round in 0..2 {
        assert_eq!(file.blocking().read_at_with(0, &mut buf, options).unwrap(), 700_001);
        fs.verify("a", 0, &buf).unwrap();
        bench.drain();
        if round == 0 {
            assert_eq!(fs.counts().bytes(), 700_001);
        }
    }
    assert_eq!(fs.counts().bytes(), 700_001, "second round from disk {:#?}", bench.stats());
    assert_eq!(bench.netfs().memory().indexed, 0);
}

#[test]
fn row_46_unbuffered_skips_both_caches_and_zero_length_is_zero() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 300_000).build().unwrap();
    fs.configure(|s| s.limits = IoLimits { rsize: 50_000, ..IoLimits::default() });
    let bench = Bench::new(&fs, Some(MemCache::new()));
    let file = bench.open("a");
    let options = ReadOptions { unbuffered: true, ..ReadOptions::default() };
    let mut buf = vec![0; 400_000];
    for _ in 0..2 {
        assert_eq!(file.blocking().read_at_with(10, &mut buf, options).unwrap(), 299_990);
        fs.verify("a", 10, &buf[..299_990]).unwrap();
    }
    assert_eq!(fs.counts().bytes(), 2 * 299_990);
    assert_eq!(file.blocking().read_at_with(0, &mut [], options).unwrap(), 0);
    assert_eq!(bench.netfs().memory().indexed, 0);
    assert_eq!(bench.stats().cache_write, 0);
}

#[test]
fn cached_bytes_never_reach_a_user_who_may_not_read_them() {
    let fs = MemoryFs::builder()
        .promise(until_broken())
        .file("a", 10_000)
        .mode("a", 0o600)
        .owner("a", 7, 7)
        .build()
        .unwrap();
    let bench = Bench::new(&fs, None);
    let owner = Cx::new(Cred::new(7, 7));
    let other = Cx::new(Cred::new(8, 8));
    let mut buf = vec![0; 10_000];
    let node = pollster::block_on(bench.mount.walk("a", &owner)).unwrap();
    let file = pollster::block_on(bench.mount.open(&node, &owner)).unwrap();
    file.blocking().read_at(0, &mut buf).unwrap();
    let refused = pollster::block_on(bench.mount.open(&node, &other)).unwrap_err();
    assert_eq!(refused.errno(), netfs::Errno::EACCES);
}

#[test]
fn slices_stay_what_they_were() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 100_000).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    let before = fs.expected("a", 0, 100_000).unwrap();
    let slices = file.blocking().read_slices(0, 100_000).unwrap();
    fs.change("a").rewrite().unwrap();
    bench.check("a", 0, 100_000);
    let kept: Vec<u8> = slices.iter().flat_map(|s| s.to_vec()).collect();
    assert_eq!(kept, before);
}

#[test]
fn a_hung_server_read_is_abandoned_and_tried_once_more() {
    let clock = netfs::clock::StepClock::new();
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 100_000).build().unwrap();
    let netfs = netfs::Netfs::builder()
        .clock(std::sync::Arc::new(clock.clone()))
        .remote_timeout(Duration::from_secs(30))
        .driver_threads(1)
        .build()
        .unwrap();
    let mount = pollster::block_on(netfs.mount(fs.clone(), &cx())).unwrap();
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).times(1).hold(&gate, netfs_memory::SnapshotAt::Issue));
    let node = pollster::block_on(mount.walk("a", &cx())).unwrap();
    let file = pollster::block_on(mount.open(&node, &cx())).unwrap();
    // Alarms of the calls so far may still be on their way out.
    while clock.sleepers() > 0 {
        std::thread::yield_now();
    }
    std::thread::scope(|s| {
        let reader = s.spawn(|| {
            let mut buf = vec![0; 100_000];
            let n = file.blocking().read_at(0, &mut buf).unwrap();
            fs.verify("a", 0, &buf[..n]).unwrap();
        });
        gate.wait_hit();
        // The first attempt's timer is set: its time passes, and none of the second one's.
        while clock.sleepers() == 0 {
            std::thread::yield_now();
        }
        clock.advance(Duration::from_secs(31));
        reader.join().unwrap();
    });
    assert_eq!(netfs.stats().abandoned, 1);
    gate.release();
}

#[test]
fn a_dropped_context_lets_go_of_its_cache_directory() {
    let dir = tempfile::tempdir().unwrap();
    // Dropping never waits: a task that is just running on a driver thread lets go when it yields.
    let patience = SystemClock.now() + Duration::from_secs(20);
    let open = || loop {
        match cachefiles::CacheDir::builder(dir.path().join("cache")).open() {
            Err(e) => assert!(SystemClock.now() < patience, "somebody keeps the directory: {e}"),
            Ok(cache) => return cache,
        }
        std::thread::yield_now();
    };
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 3_000_000).build().unwrap();
    for _ in 0..3 {
        let cache = open();
        let bench = Bench::new(&fs, Some(cache));
        let file = bench.open("a");
        let mut buf = vec![0; 3_000_000];
        assert_eq!(file.blocking().read_at(0, &mut buf).unwrap(), buf.len());
        fs.verify("a", 0, &buf).unwrap();
        // Fills, the file and the mount are still alive when the context goes.
        drop(bench.into_netfs());
        let mut buf = vec![0; 10];
        assert!(file.blocking().read_at(2_000_000, &mut buf).is_ok_and(|n| n == 10), "from memory");
    }
    drop(open());
}

#[test]
fn a_restart_on_disk_serves_everything_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 3_000_000).build().unwrap();
    for round in 0..3u64 {
        let cache = cachefiles::CacheDir::builder(dir.path().join("cache")).open().unwrap();
        let bench = Bench::new(&fs, Some(cache));
        bench.check("a", 0, 3_000_000);
        bench.drain();
        assert_eq!(bench.stats().disk_hit_bytes, if round == 0 { 0 } else { 3_000_000 });
        bench.shutdown();
    }
    assert_eq!(fs.counts().bytes(), 3_000_000);
}

#[test]
fn a_key_that_is_used_again_after_a_deletion_is_another_file() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 10_000).build().unwrap();
    let bench = Bench::new(&fs, Some(MemCache::new()));
    bench.check("a", 0, 10_000);
    let held = bench.open("a");
    let (key, root) = (fs.key("a").unwrap(), fs.key("").unwrap());
    fs.send_deleted(&key);
    fs.send_break_key(&root, netfs::coherency::BreakReason::Callback);
    let mut buf = [0; 10];
    let gone = held.blocking().read_at(0, &mut buf).unwrap_err();
    assert_eq!(gone.errno(), netfs::Errno::ESTALE);
    // The server, whose keys are names, has a file under that name again.
    bench.check("a", 0, 10_000);
    assert_eq!(held.blocking().read_at(0, &mut buf).unwrap_err().errno(), netfs::Errno::ESTALE);
}

/// Server bytes that were there when they were asked for, because a stream was read ahead, are told from
/// those a reader waited for.
#[test]
fn readahead_is_counted_as_what_its_readers_saw() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 1 << 20).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    let mut buf = vec![0; 16 << 10];
    for i in 0..64u64 {
        assert_eq!(file.blocking().read_at(i << 14, &mut buf).unwrap(), buf.len());
        fs.verify("a", i << 14, &buf).unwrap();
        // What was started ahead has landed before the next read.
        pollster::block_on(bench.netfs().settled());
    }
    let stats = bench.stats();
    assert_eq!(stats.origin_bytes, 1 << 20, "each byte once");
    let waited = 16 << 10;
    assert_eq!(stats.miss_cold_bytes, waited, "the first read");
    assert_eq!(stats.readahead_hit_bytes, (1 << 20) - waited, "all others");
    assert_eq!(stats.wasted_bytes, 0);
    assert!((5..30).contains(&stats.readahead), "few large requests: {}", stats.readahead);
}

#[test]
fn random_small_reads_fetch_their_pages_only() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 1 << 30).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    let mut buf = [0; 4096];
    for i in 1..200u64 {
        let at = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (1 << 30) / 4096 * 4096;
        assert_eq!(file.blocking().read_at(at, &mut buf).unwrap(), 4096);
    }
    let stats = bench.stats();
    assert_eq!((stats.origin_bytes, stats.readahead), (199 * 4096, 0));
}

#[test]
fn what_is_fetched_and_evicted_unread_is_counted() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 8 << 20).build().unwrap();
    let bench = Bench::with(&fs, None, |b| b.fill(FillPolicy::Granule).memory_bytes(1 << 20));
    let file = bench.open("a");
    for i in (0..32u64).rev() {
        assert_eq!(file.blocking().read_at(i << 18, &mut [0; 4096]).unwrap(), 4096);
    }
    let wasted = bench.stats().wasted_bytes;
    assert!(
        wasted >= 25 * ((256 << 10) - 4096),
        "{wasted} of 32 granules of which a page was read"
    );
}

#[test]
fn once_settled_no_readahead_is_under_way() {
    let slow = Link::latency(Duration::from_millis(5));
    let fs =
        MemoryFs::builder().promise(until_broken()).link(slow).file("a", 8 << 20).build().unwrap();
    let bench = Bench::new(&fs, Some(MemCache::new()));
    let file = bench.open("a");
    let mut buf = vec![0; 64 << 10];
    // Misses and hits: both start readahead.
    for at in (0..4 << 20).step_by(buf.len()) {
        file.blocking().read_at(at, &mut buf).unwrap();
        pollster::block_on(bench.netfs().settled());
        assert_eq!((fs.in_flight(), bench.netfs().memory().in_flight), (0, 0), "after {at}");
    }
    assert!(bench.stats().readahead > 2, "{:?}", bench.stats());
    assert_eq!(bench.stats().cache_write_bytes, fs.counts().bytes(), "stored as well");
}
