//! What a hit costs: `cargo run --release -p netfs-bench --example hits`. One JSON object a case.

use std::{cell::Cell, fs::File as StdFile, os::unix::fs::FileExt, sync::Arc, time::Duration};

use cachefiles::CacheDir;
use netfs::{
    FillWhenFull, MemoryUse, Netfs, ReadOptions, TryReadAt,
    remote::{Cred, Cx, Promise},
};
use netfs_bench::compare;
use netfs_memory::MemoryFs;
use parking_lot::RwLock;

const SIZE: u64 = 64 << 20;
const ROUNDS: usize = 9;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let promise =
        Promise::Until { lifetime: Duration::from_secs(36_000), margin: Duration::from_secs(10) };
    let origin = MemoryFs::builder().promise(promise).file("a", SIZE).build()?;
    let netfs = Netfs::builder()
        .memory_bytes(256 << 20)
        .cache(CacheDir::builder(dir.path().join("cache")).open()?)
        .fill_queue(64 << 20, FillWhenFull::Wait { max: Duration::from_secs(10) })
        .build()?;
    let cx = Cx::new(Cred::new(0, 0));
    let mount = netfs.blocking_mount(origin, &cx)?;
    let file = mount.blocking().open("a", &cx)?;
    let mut all = vec![0; SIZE as usize];
    file.blocking().read_at(0, &mut all)?;
    pollster::block_on(netfs.drain_fills());
    file.blocking().read_at(0, &mut all)?; // every byte has been read once

    let seed = Cell::new(1u64);
    let next = |len: u64| {
        seed.set(seed.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        (seed.get() >> 33) % ((SIZE - len) / 4096) * 4096
    };
    let index = RwLock::new((0..SIZE / 4096).map(|i| Some(Arc::new(i))).collect::<Vec<_>>());
    let row = compare(
        "mem-ref-4k",
        ROUNDS,
        100_000,
        || file.try_read_slices(next(4096), 4096),
        || index.read()[(next(4096) / 4096) as usize].clone(),
    );
    println!("{}", row.json());

    for (case, len, batch) in [("mem-copy-4k", 4096, 50_000), ("mem-copy-1m", 1 << 20, 200)] {
        let mut ours = vec![0; len];
        let mut limit = vec![0; len];
        let row = compare(
            case,
            ROUNDS,
            batch,
            || assert_eq!(file.try_read(next(len as u64), &mut ours), TryReadAt::Done(len)),
            || limit.copy_from_slice(&all[next(len as u64) as usize..][..len]),
        );
        println!("{}", row.json());
    }

    netfs.drop_memory();
    let plain = StdFile::create_new(dir.path().join("plain"))?;
    plain.write_all_at(&all, 0)?;
    let plain = StdFile::open(dir.path().join("plain"))?;
    let options = ReadOptions { memory: MemoryUse::Bypass, ..ReadOptions::default() };
    for (case, len, batch) in [("disk-4k", 4096, 20_000), ("disk-1m", 1 << 20, 200)] {
        let mut ours = vec![0; len];
        let mut limit = vec![0; len];
        let row = compare(
            case,
            ROUNDS,
            batch,
            || file.blocking().read_at_with(next(len as u64), &mut ours, options),
            || plain.read_exact_at(&mut limit, next(len as u64)),
        );
        println!("{}", row.json());
    }
    assert_eq!(netfs.stats().origin_bytes, SIZE, "hits only");
    drop(file);
    netfs.blocking_shutdown(Duration::from_secs(10));
    Ok(())
}
