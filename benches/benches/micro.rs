//! The cases of `netfs bench micro` under criterion, all but `idle`, for work on one of them: what counts
//! is the table, which has the limits; this shows where a change went.
//!
//! `cargo bench -p netfs-bench`, `... -- disk` for some of them, `... -- --test` to see that they run.
//! Sets are smaller than the table's, so that setting them up takes seconds.

use std::{
    cell::RefCell,
    hint::black_box,
    path::PathBuf,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use netfs_bench::micro::{ColdFile, HotFile, ManyObjects, StoredFile, on_two_threads};

const SIZE: u64 = 64 << 20;
const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
/// Objects of the two caches of `open-scale`.
const MANY: usize = 2000;
const FEW: usize = 20;

/// Page after page in an order without a pattern: 40,503 is odd, so all are visited.
fn pages() -> impl FnMut() -> u64 {
    let mut at = 0;
    move || {
        at = (at + 40_503) % (SIZE / PAGE);
        at * PAGE
    }
}

/// On a disk: `/tmp` is memory on many machines.
fn scratch() -> PathBuf {
    let disk = PathBuf::from("/var/tmp");
    if disk.is_dir() { disk } else { std::env::temp_dir() }
}

fn memory(c: &mut Criterion) {
    let hot = HotFile::new(SIZE).expect("a file in memory");
    let mut next = pages();
    c.bench_function("mem-ref-4k", |b| b.iter(|| hot.reference(next())));
    let unread = HotFile::with_unread(SIZE).expect("a file in memory");
    c.bench_function("mem-ref-4k-unread", |b| b.iter(|| unread.reference(next())));
    drop(unread);
    let offsets = [0; 2].map(|_| (0..10_000).map(|_| next()).collect::<Vec<u64>>());
    c.bench_function("mem-ref-4k-2t", |b| {
        b.iter_custom(|times| {
            let slice = Duration::from_millis(10);
            let nanos = on_two_threads(&offsets, slice, |offset| hot.reference(offset));
            Duration::from_secs_f64(nanos * times as f64 / 1e9)
        });
    });
    for (name, len) in [("mem-copy-4k", PAGE), ("mem-copy-1m", MIB)] {
        let mut group = c.benchmark_group("copies");
        group.throughput(Throughput::Bytes(len));
        let mut into = vec![0; len as usize];
        group.bench_function(name, |b| {
            b.iter(|| black_box(hot.file().try_read(next() % (SIZE - len + 1), &mut into)));
        });
        group.finish();
    }
}

fn disk(c: &mut Criterion) {
    let stored = StoredFile::new(&scratch(), SIZE).expect("a file on disk");
    let into = RefCell::new(vec![0; MIB as usize]);
    let read = |offset: u64, len: u64| {
        let mut into = into.borrow_mut();
        let read = stored.read(offset, &mut into[..len as usize]);
        assert_eq!(read.expect("from the cache"), len as usize);
    };
    let mut group = c.benchmark_group("disk");
    group.throughput(Throughput::Bytes(MIB));
    let mut turn = (0..SIZE).step_by(MIB as usize).cycle();
    let mut in_order = || turn.next().unwrap_or_default();
    group.bench_function("disk-1m", |b| b.iter(|| read(in_order(), MIB)));
    group.sample_size(10);
    group.bench_function("disk-cold-1m", |b| {
        b.iter_custom(|times| {
            stored.drop_kernel_pages().expect("the kernel drops them");
            let start = Instant::now();
            // Each pass over the file is cold only once.
            let pass = times.min(SIZE / MIB);
            (0..pass).for_each(|n| read(n * MIB, MIB));
            start.elapsed().mul_f64(times as f64 / pass as f64)
        });
    });
    group.sample_size(100);
    group.throughput(Throughput::Bytes(PAGE));
    let mut next = pages();
    group.bench_function("disk-4k", |b| b.iter(|| read(next(), PAGE)));
    group.finish();
}

fn fill(c: &mut Criterion) {
    let cold = ColdFile::new(&scratch(), SIZE / 4).expect("an origin");
    let mut group = c.benchmark_group("miss-fill");
    group.throughput(Throughput::Bytes(SIZE / 4)).sample_size(10);
    group.bench_function("filling", |b| {
        b.iter_custom(|times| (0..times).map(|_| cold.fill().expect("filled").0).sum());
    });
    group.bench_function("without-a-cache", |b| {
        b.iter_custom(|times| (0..times).map(|_| cold.read().expect("read")).sum());
    });
    group.finish();
}

fn open(c: &mut Criterion) {
    let objects = ManyObjects::new(&scratch(), MANY).expect("an origin");
    let mut group = c.benchmark_group("open-scale");
    group.sample_size(10);
    for count in [MANY, FEW] {
        let cache = objects.cache(&count.to_string(), count).expect("filled");
        let mut file = 0;
        group.bench_function(count.to_string(), |b| {
            b.iter_custom(|times| {
                let first_hit = |_| {
                    file = (file + 1) % FEW;
                    let (time, hit) = objects.open_and_hit(&cache, file).expect("a hit");
                    assert_eq!(hit, PAGE, "from disk");
                    time
                };
                (0..times).map(first_hit).sum()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, memory, disk, fill, open);
criterion_main!(benches);
