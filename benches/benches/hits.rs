//! Memory hits under criterion, for work on the hit path: `cargo bench -p netfs-bench`. What counts is
//! the table of `netfs bench micro`, which has the limits; this shows where a change went.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use netfs_bench::micro::HotFile;

const SIZE: u64 = 64 << 20;
const PAGE: u64 = 4096;

/// Page after page in an order without a pattern: 40,503 is odd, so all are visited.
fn pages() -> impl FnMut() -> u64 {
    let mut at = 0;
    move || {
        at = (at + 40_503) % (SIZE / PAGE);
        at * PAGE
    }
}

fn hits(c: &mut Criterion) {
    let hot = HotFile::new(SIZE).expect("a file in memory");
    let file = hot.file();
    let mut next = pages();
    c.bench_function("mem-ref-4k", |b| b.iter(|| file.try_read_slices(next(), PAGE)));
    for (name, len) in [("mem-copy-4k", PAGE), ("mem-copy-1m", 1 << 20)] {
        let mut group = c.benchmark_group("copies");
        group.throughput(Throughput::Bytes(len));
        let mut into = vec![0; len as usize];
        group.bench_function(name, |b| {
            b.iter(|| black_box(file.try_read(next() % (SIZE - len + 1), &mut into)));
        });
        group.finish();
    }
}

criterion_group!(benches, hits);
criterion_main!(benches);
