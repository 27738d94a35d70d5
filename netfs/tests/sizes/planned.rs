//! Reads that were planned over a hole which is none any more when they come to it.

use std::sync::Arc;

use netfs::{
    FallocateMode, FillPolicy, MemoryUse, ReadOptions,
    fscache::{CacheBackend, CacheMiss, MemCache},
    remote::{Promise, PromiseKind},
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use super::{common::Bench, tools::*};

const PAGE: usize = 4096;

/// Four pages: the first is not cached, the third is a hole that the cache knows of.
fn bed(fill: FillPolicy) -> (Arc<MemoryFs>, Arc<MemCache>, Bench) {
    let promise = Promise::UntilBroken { kind: PromiseKind::Read };
    let fs = MemoryFs::builder().promise(promise).file("f", 4 * PAGE as u64).build();
    let (fs, cache) = (fs.expect("build"), MemCache::new());
    let backend = Arc::clone(&cache) as Arc<dyn CacheBackend>;
    // One driver thread, and a patient reader: what is stored of one try is found by the next.
    let bench = Bench::with(&fs, Some(backend), |b| {
        b.fill(fill)
            .readahead_max(0)
            .driver_threads(1)
            .cache_wait(std::time::Duration::from_secs(60))
    });
    let file = open(&bench, "f");
    read(&file, 0, 4 * PAGE);
    bench.drain();
    let page = PAGE as u64;
    file.blocking().fallocate(2 * page, page, FallocateMode::PunchHole).expect("punched");
    file.blocking().evict(0, page).expect("evicted");
    bench.netfs().drop_memory();
    (fs, cache, bench)
}

/// Has `reader` ask the server for the first page, with the third one planned as zeros and not come to, because the
/// second is to be asked for again; meanwhile `uploads` brings bytes of ours to the third page.
fn beside(
    fs: &MemoryFs,
    cache: &MemCache,
    bench: &Bench,
    reader: fn(&netfs::File),
    uploads: impl FnOnce(),
) {
    let failed = || bench.stats().cache_read_failed;
    cache.faults().fail_reads(Some(CacheMiss::Absent));
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Release).times(1));
    let before = failed();
    std::thread::scope(|s| {
        let beside = s.spawn(|| reader(&open(bench, "f")));
        gate.wait_hit();
        while failed() == before {
            std::thread::yield_now();
        }
        cache.faults().fail_reads(None);
        uploads();
        gate.release();
        beside.join().expect("no panic");
    });
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 250) as u8 + 1).collect()
}

#[test]
fn n_c48_a_hole_is_not_read_over_what_was_uploaded_meanwhile() {
    let (fs, cache, bench) = bed(FillPolicy::Exact);
    let (file, ours) = (open(&bench, "f"), bytes(4 * PAGE - 20));
    // One folio, known but for a few bytes.
    write(&file, 10, &ours);
    let reader = |file: &netfs::File| drop(read(file, 0, 5));
    beside(&fs, &cache, &bench, reader, || {
        file.blocking().flush_range(2 * PAGE as u64, PAGE as u64).expect("uploaded");
    });
    let there = read(&file, 2 * PAGE, PAGE);
    assert!(there == ours[2 * PAGE - 10..3 * PAGE - 10], "{:?}..", &there[..8]);
    file.blocking().fsync().expect("fsync");
    assert!(server(&fs, "f")[10..4 * PAGE - 10] == ours);
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c48_a_hole_is_not_stored_over_what_was_uploaded_meanwhile() {
    let (fs, cache, bench) = bed(FillPolicy::Granule);
    let (file, ours) = (open(&bench, "f"), bytes(PAGE));
    write(&file, 2 * PAGE, &ours);
    let reader = |file: &netfs::File| {
        let options = ReadOptions { memory: MemoryUse::Bypass, ..ReadOptions::default() };
        let mut buf = [0; 5];
        assert_eq!(file.blocking().read_at_with(0, &mut buf, options).expect("read"), 5);
    };
    beside(&fs, &cache, &bench, reader, || file.blocking().fsync().expect("fsync"));
    bench.drain();
    bench.netfs().drop_memory();
    let there = read(&file, 2 * PAGE, PAGE);
    assert!(there == ours, "{:?}..", &there[..8]);
    drop(file);
    bench.shutdown();
}
