//! What a reader got is counted as what it came from in the end, not as what was planned.

use std::sync::Arc;

use netfs::{
    File, FillPolicy, MemoryUse, ReadOptions, Stats,
    fscache::{CacheMiss, MemCache},
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use super::{origin, read};
use crate::common::Bench;

const SIZE: usize = 300_001;
const PAGE: u64 = 4096;
const BYPASS: ReadOptions = ReadOptions { memory: MemoryUse::Bypass, unbuffered: false };

/// The counter of a reason.
type Counted = fn(&Stats) -> u64;

/// "a" is on disk and not in memory.
fn on_disk() -> (Arc<MemoryFs>, Arc<MemCache>, Bench) {
    let cache = MemCache::new();
    let fs = origin().file("a", SIZE as u64).file("b", 600_000).build().expect("build");
    let bench = Bench::with(&fs, Some(cache.clone()), |b| b.memory_bytes(1 << 20));
    bench.check("a", 0, SIZE);
    bench.drain();
    bench.netfs().drop_memory();
    (fs, cache, bench)
}

/// What a read of all of "a" counted.
fn counted(bench: &Bench, fs: &MemoryFs, read: impl FnOnce(&File, &mut [u8]) -> usize) -> Stats {
    let file = bench.open("a");
    let before = bench.stats();
    let mut buf = vec![0xaa; SIZE];
    assert_eq!(read(&file, &mut buf), SIZE);
    fs.verify("a", 0, &buf).expect("content");
    let s = bench.stats().since(&before);
    let hits = s.memory_hit_bytes + s.readahead_hit_bytes + s.disk_hit_bytes + s.zero_bytes;
    assert_eq!((hits + s.miss_bytes(), s.read_bytes), (SIZE as u64, SIZE as u64), "{s:?}");
    s
}

fn bypass(file: &File, buf: &mut [u8]) -> usize {
    file.blocking().read_at_with(0, buf, BYPASS).expect("the server has it")
}

/// Reads while a fetch of "b" that the server does not answer has nearly all of the memory.
fn without_memory(bench: &Bench, fs: &MemoryFs) -> Stats {
    let gate = Gate::new();
    let b = bench.open("b");
    fs.inject(Fault::on(Op::Read).file("b").hold(&gate, SnapshotAt::Issue).always());
    let stats = std::thread::scope(|s| {
        let other = s.spawn(|| read(&b, 0, 600_000));
        gate.wait_hit();
        let stats = counted(bench, fs, |file, buf| file.blocking().read_at(0, buf).expect("read"));
        gate.release();
        other.join().expect("no panic").expect("released");
        stats
    });
    fs.clear_faults();
    assert!(stats.transient_reads > 0, "it was to have no memory: {stats:?}");
    stats
}

#[test]
fn n_c02_bytes_of_a_failed_disk_read_count_under_its_reason_without_memory_and_past_it() {
    let cases: [(CacheMiss, Counted); 4] = [
        (CacheMiss::Corrupt, |s| s.miss_corruption_bytes),
        (CacheMiss::Io, |s| s.miss_fault_bytes),
        (CacheMiss::Stale, |s| s.miss_coherency_bytes),
        (CacheMiss::Absent, |s| s.miss_capacity_bytes),
    ];
    for (miss, missed) in cases {
        for inline in [true, false] {
            for transient in [true, false] {
                let (fs, cache, bench) = on_disk();
                cache.faults().fail_reads(Some(miss));
                cache.faults().never_inline(!inline);
                let s = match transient {
                    true => without_memory(&bench, &fs),
                    false => counted(&bench, &fs, bypass),
                };
                let what = format!("{miss:?}, inline {inline}, transient {transient}: {s:?}");
                assert_eq!((missed(&s), s.disk_hit_bytes), (SIZE as u64, 0), "{what}");
            }
        }
    }
}

#[test]
fn disk_hits_without_memory_and_past_it_count_as_such() {
    for inline in [true, false] {
        let (fs, cache, bench) = on_disk();
        cache.faults().never_inline(!inline);
        assert_eq!(without_memory(&bench, &fs).disk_hit_bytes, SIZE as u64);
        assert_eq!(counted(&bench, &fs, bypass).disk_hit_bytes, SIZE as u64);
    }
}

/// The first attempt finds the damage and the cache forgets the page: whoever asks the server for it
/// knows why.
#[test]
fn a_damaged_page_that_an_inline_read_found_counts_as_damaged() {
    for past_memory in [true, false] {
        let (fs, cache, bench) = on_disk();
        let (volume, key) = (bench.mount.volume_id().clone(), fs.key("a").expect("it exists"));
        assert!(cache.corrupt(&volume, &key, 50_000));
        let s = counted(&bench, &fs, |file, buf| match past_memory {
            true => bypass(file, buf),
            false => {
                assert_eq!(file.try_read(0, buf), netfs::TryReadAt::WouldBlock);
                file.blocking().read_at(0, buf).expect("the server has it")
            }
        });
        let expected = (PAGE, SIZE as u64 - PAGE);
        assert_eq!((s.miss_corruption_bytes, s.disk_hit_bytes), expected, "{past_memory}: {s:?}");
    }
}

/// What a neighbour's miss brought is a hit for the first reader of each page, be it one that leaves
/// nothing in memory; whoever reads a page again takes nothing of the others.
#[test]
fn first_reads_are_of_pages_also_past_memory() {
    let fs = origin().file("a", SIZE as u64).build().expect("build");
    let bench = Bench::with(&fs, None, |b| b.fill(FillPolicy::Granule).readahead_max(0));
    let file = bench.open("a");
    let step = |at: u64, options: ReadOptions| {
        let before = bench.stats();
        let mut buf = [0; 100];
        assert_eq!(file.blocking().read_at_with(at, &mut buf, options).expect("read"), 100);
        let s = bench.stats().since(&before);
        (s.miss_cold_bytes, s.readahead_hit_bytes, s.memory_hit_bytes)
    };
    assert_eq!(step(0, ReadOptions::default()), (100, 0, 0), "the miss");
    for _ in 0..70 {
        assert_eq!(step(100, ReadOptions::default()), (0, 0, 100), "of the same page");
    }
    assert_eq!(step(PAGE, BYPASS), (0, 100, 0), "the next page, for the first time");
    assert_eq!(step(PAGE + 200, ReadOptions::default()), (0, 0, 100));
    assert_eq!(step(2 * PAGE - 30, ReadOptions::default()), (0, 70, 30), "both");
    assert_eq!(step(2 * PAGE, BYPASS), (0, 0, 100));
}
