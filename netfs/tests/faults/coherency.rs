//! Events, promises and late replies.

use netfs::{Errno, coherency::BreakReason, fscache::MemCache, remote::Promise};
use netfs_memory::{Fault, Gate, Op, SnapshotAt};

use super::{clocked, cx, fails, origin, read, reads, secs};
use crate::common::Bench;

const SIZE: usize = 300_000;

#[test]
fn p_d01_a_break_is_followed_by_a_check_before_any_byte() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    read(&file, 0, SIZE).unwrap();
    let before = fs.counts();
    fs.send_break("a").unwrap();
    assert_eq!(file.try_read(0, &mut [0; 10]), netfs::TryReadAt::WouldBlock);
    assert!(file.try_read_slices(0, 10).is_none());
    read(&file, 0, 10).unwrap();
    assert_eq!(fs.counts().since(&before).calls(Op::Validate), 1);
    read(&file, 0, 10).unwrap();
    assert_eq!(fs.counts().since(&before).calls(Op::Validate), 1, "the check brought a promise");
}

#[test]
fn p_d04_a_promise_counts_from_when_it_was_asked_for() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let (bench, clock) = clocked(&fs, None);
    let file = bench.open("a");
    read(&file, 0, SIZE).unwrap();
    let ttl = Promise::Until { lifetime: secs(30), margin: secs(0) };
    fs.configure(|s| s.promise = ttl);
    fs.send_break("a").unwrap();
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Validate).hold(&gate, SnapshotAt::Issue));
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, 10).unwrap());
        gate.wait_hit();
        clock.advance(secs(20));
        gate.release();
        reader.join().unwrap();
    });
    let asked = fs.counts().calls(Op::Validate);
    clock.advance(secs(9));
    read(&file, 0, 10).unwrap();
    assert_eq!(fs.counts().calls(Op::Validate), asked, "29 s after the issue");
    clock.advance(secs(1));
    read(&file, 0, 10).unwrap();
    assert_eq!(fs.counts().calls(Op::Validate), asked + 1, "30 s after the issue it is over");
}

#[test]
fn p_d05_a_break_in_flight_keeps_the_promise_from_being_used() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    read(&file, 0, SIZE).unwrap();
    fs.send_break("a").unwrap();
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Validate).hold(&gate, SnapshotAt::Issue));
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, 10).unwrap());
        gate.wait_hit();
        fs.change("a").rewrite_sized(1000).unwrap();
        gate.release();
        reader.join().unwrap();
    });
    bench.check("a", 0, SIZE);
}

#[test]
fn p_d06_a_break_before_the_issue_does_not_matter() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    fs.send_break("a").unwrap();
    read(&file, 0, SIZE).unwrap();
    let before = fs.counts();
    read(&file, 0, SIZE).unwrap();
    assert_eq!(fs.counts().since(&before).total(), 0);
}

#[test]
fn p_d07_a_break_during_the_first_lookup_counts() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let bench = Bench::new(&fs, None);
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Lookup).hold(&gate, SnapshotAt::Issue));
    let node = std::thread::scope(|s| {
        let looker = s.spawn(|| pollster::block_on(bench.mount.walk("a", &cx())).unwrap());
        gate.wait_hit();
        fs.change("a").rewrite_sized(1000).unwrap();
        gate.release();
        looker.join().unwrap()
    });
    let before = fs.counts();
    let attr = pollster::block_on(bench.mount.getattr(&node, &cx())).unwrap();
    assert_eq!(attr.size, 1000, "the size of the late reply is not believed");
    assert_eq!(fs.counts().since(&before).calls(Op::Getattr), 1);
}

#[test]
fn p_d08_a_scrub_or_snapshot_in_flight_keeps_the_promise_from_being_used() {
    for scrub in [true, false] {
        let fs = origin().file("a", SIZE as u64).build().unwrap();
        let bench = Bench::new(&fs, None);
        let file = bench.open("a");
        let gate = Gate::new();
        fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue));
        std::thread::scope(|s| {
            let reader = s.spawn(|| read(&file, 0, SIZE).unwrap());
            gate.wait_hit();
            fs.change("a").silently().rewrite().unwrap();
            if scrub {
                fs.scrub(BreakReason::Callback)
            } else {
                fs.publish(true)
            }
            gate.release();
            reader.join().unwrap();
        });
        bench.check("a", 0, SIZE);
    }
}

#[test]
fn after_a_scrub_an_equal_version_vouches_for_nothing() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let bench = Bench::new(&fs, Some(MemCache::new()));
    bench.check("a", 0, SIZE);
    bench.drain();
    // Restored from a backup: other bytes under the version that is known.
    fs.change("a").silently().keeping_version().rewrite().unwrap();
    fs.scrub(BreakReason::Callback);
    bench.check("a", 0, SIZE);
    bench.drain();
    bench.netfs().drop_memory();
    bench.check("a", 0, SIZE);
}

#[test]
fn p_d10_many_readers_of_a_broken_file_make_one_check() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    read(&file, 0, SIZE).unwrap();
    fs.send_break("a").unwrap();
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Validate).hold(&gate, SnapshotAt::Issue));
    let before = fs.counts();
    std::thread::scope(|s| {
        let readers: Vec<_> = (0..8).map(|_| s.spawn(|| read(&file, 0, SIZE).unwrap())).collect();
        gate.wait_hit();
        gate.release();
        for reader in readers {
            fs.verify("a", 0, &reader.join().unwrap()).unwrap();
        }
    });
    assert_eq!(fs.counts().since(&before).calls(Op::Validate), 1);
    assert_eq!(fs.counts().since(&before).calls(Op::Read), 0);
}

#[test]
fn p_d13_p_d14_a_volume_break_makes_every_file_ask() {
    for reason in [BreakReason::Callback, BreakReason::ServerReset, BreakReason::Disconnected] {
        let fs = origin().files("d", 5, 10_000).build().unwrap();
        let bench = Bench::new(&fs, None);
        let files: Vec<_> = (0..5).map(|i| bench.open(&format!("d/{i}"))).collect();
        files.iter().for_each(|f| drop(read(f, 0, 10_000).unwrap()));
        for i in 0..5 {
            fs.change(format!("d/{i}")).silently().rewrite().unwrap();
        }
        fs.break_all(reason);
        for (i, file) in files.iter().enumerate() {
            fs.verify(format!("d/{i}"), 0, &read(file, 0, 10_000).unwrap()).unwrap();
        }
    }
}

#[test]
fn p_d15_a_spurious_break_keeps_pages_and_object() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let bench = Bench::new(&fs, Some(MemCache::new()));
    bench.check("a", 0, SIZE);
    bench.drain();
    let _ = reads(&fs);
    fs.send_break("a").unwrap();
    bench.check("a", 0, SIZE);
    assert!(bench.stats().memory_hit_bytes >= SIZE as u64);
    bench.netfs().drop_memory();
    bench.check("a", 0, SIZE);
    assert!(bench.stats().disk_hit_bytes >= SIZE as u64);
    assert_eq!(reads(&fs), []);
}

#[test]
fn p_d16_after_a_version_change_no_old_page_or_cache_byte_is_read() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let cache = MemCache::new();
    let bench = Bench::new(&fs, Some(cache.clone()));
    bench.check("a", 0, SIZE);
    bench.drain();
    fs.change("a").rewrite().unwrap();
    // Only a part is read, so the disk has old bytes of the rest unless they were cut over.
    bench.check("a", 100, 10);
    bench.netfs().drop_memory();
    bench.check("a", 0, SIZE);
    bench.drain();
    fs.change("a").rewrite().unwrap();
    bench.shutdown();
    Bench::new(&fs, Some(cache.restart())).check("a", 0, SIZE);
}

#[test]
fn p_d24_a_deleted_file_is_estale_without_a_call() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let bench = Bench::new(&fs, Some(MemCache::new()));
    let file = bench.open("a");
    read(&file, 0, SIZE).unwrap();
    fs.change("a").remove().unwrap();
    let before = fs.counts();
    fails(read(&file, 0, 10), Errno::ESTALE);
    fails(read(&file, SIZE as u64 - 1, 10), Errno::ESTALE);
    assert_eq!(file.blocking().read_single().unwrap_err().errno(), Errno::ESTALE);
    assert_eq!(fs.counts().since(&before).total(), 0);
}

#[test]
fn p_d25_the_servers_word_that_a_file_is_gone_is_remembered() {
    let fs = origin().file("a", SIZE as u64).file("b", 10).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    read(&file, 0, SIZE).unwrap();
    fs.change("a").silently().remove().unwrap();
    fs.break_all(BreakReason::Callback);
    fails(read(&file, 0, 10), Errno::ESTALE);
    let before = fs.counts();
    fails(read(&file, 0, 10), Errno::ESTALE);
    assert_eq!(fs.counts().since(&before).total(), 0);

    let other = bench.open("b");
    let root = bench.mount.root();
    assert!(pollster::block_on(bench.mount.lookup(&root, b"nothing", &cx())).unwrap().is_none());
    read(&other, 0, 10).unwrap();
}

#[test]
fn p_d25_a_read_that_finds_a_file_gone_tells_all_readers_of_it() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let bench = Bench::with(&fs, None, |b| b.fill(netfs::FillPolicy::Exact).readahead_max(0));
    let file = bench.open("a");
    read(&file, 0, 10).unwrap();
    fs.change("a").silently().remove().unwrap();
    read(&file, 0, 10).expect("nobody knows");
    fails(read(&file, SIZE as u64 - 10, 10), Errno::ESTALE);
    fails(read(&file, 0, 10), Errno::ESTALE);
}

#[test]
fn p_d41_p_d71_a_late_reply_neither_shrinks_the_file_nor_brings_old_bytes() {
    for op in [Op::Getattr, Op::Validate] {
        let fs = origin().file("a", 1000).build().unwrap();
        let bench = Bench::new(&fs, None);
        let file = bench.open("a");
        read(&file, 0, 1000).unwrap();
        fs.send_break("a").unwrap();
        let gate = Gate::new();
        fs.inject(Fault::on(op).hold(&gate, SnapshotAt::Issue));
        std::thread::scope(|s| {
            let late = s.spawn(|| match op {
                Op::Getattr => {
                    pollster::block_on(bench.mount.getattr(&file.node(), &cx())).map(drop)
                }
                _ => read(&file, 0, 10).map(drop),
            });
            gate.wait_hit();
            fs.change("a").rewrite_sized(SIZE as u64).unwrap();
            if op == Op::Getattr {
                bench.check("a", 0, SIZE);
                assert_eq!(file.sizes().i_size, SIZE as u64);
            }
            gate.release();
            late.join().unwrap().unwrap();
        });
        if op == Op::Getattr {
            assert_eq!(file.sizes().i_size, SIZE as u64, "rolled back");
        }
        bench.check("a", 0, SIZE);
    }
}

#[test]
fn a_late_read_is_asked_again() {
    let fs = origin().file("a", SIZE as u64).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue));
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, SIZE).unwrap());
        gate.wait_hit();
        fs.change("a").rewrite().unwrap();
        // The new version becomes known before the old bytes arrive.
        pollster::block_on(bench.mount.getattr(&file.node(), &cx())).unwrap();
        gate.release();
        fs.verify("a", 0, &reader.join().unwrap()).expect("old bytes were let in");
    });
    bench.check("a", 0, SIZE);
}
