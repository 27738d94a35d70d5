//! Measures what it costs to keep the kernel from caching a second copy of cached data.
//!
//! ```text
//! cargo run --release -p cachefiles --example double_caching -- [DIR] [MIB]
//! ```
//!
//! Prints one JSON object a line. For each mode of the cache: how fast it takes fills, what share of
//! the data the kernel still holds once it is on disk (a read that does not wait answers from it),
//! how fast inline and queued reads are, and what the kernel holds after those. For comparison, the
//! same I/O on a plain file with `O_DIRECT`, and with `POSIX_FADV_DONTNEED` after the fill.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Instant,
};

use bytes::Bytes;
use cachefiles::{CacheDir, KernelCache};
use netfs::{
    folio::Slice,
    fscache::{CacheBackend, CacheObject, CacheRead, CacheWrite, Identity, Relinquish, TryRead},
    remote::VolumeId,
};
use rustix::fs::{Advice, OFlags};

type Failure = Box<dyn std::error::Error + Send + Sync>;
const BLOCK: usize = 256 * 1024;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let parent = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let blocks = args.next().map_or(Ok(256), |a| a.parse::<u64>())? * (1 << 20) / BLOCK as u64;
    let dir = tempfile::tempdir_in(parent)?;
    for mode in [KernelCache::Keep, KernelCache::DropWritten, KernelCache::Drop] {
        cache(&dir.path().join(format!("{mode:?}")), mode, blocks)?;
        small_files(&dir.path().join(format!("{mode:?}-small")), mode, 2000)?;
    }
    direct(&dir.path().join("direct"), blocks)?;
    dont_need(&dir.path().join("dontneed"), blocks)
}

fn report(what: &str, value: f64) -> String {
    format!("\"{what}\":{value:.3}")
}

fn gb_per_s(blocks: u64, since: Instant) -> f64 {
    (blocks * BLOCK as u64) as f64 / since.elapsed().as_secs_f64() / 1e9
}

fn cache(path: &Path, mode: KernelCache, blocks: u64) -> Result<(), Failure> {
    let cache = CacheDir::builder(path).kernel_cache(mode).open()?;
    let object = pollster::block_on(open(&cache, blocks))?;
    let block = Slice::from_bytes(&pattern());
    let start = Instant::now();
    for window in (0..blocks).collect::<Vec<_>>().chunks(16) {
        let (tx, rx) = mpsc::channel();
        for n in window {
            let tx = tx.clone();
            let (at, data) = (n * BLOCK as u64, vec![block.clone()]);
            Arc::clone(&object).write(CacheWrite::new(at, data, object.generation(), move |r| {
                // The receiver outlives all its senders.
                let _ = tx.send(r);
            }));
        }
        drop(tx);
        for result in rx {
            result.map_err(|r| format!("fill refused: {r:?}"))?;
        }
    }
    let fill = gb_per_s(blocks, start);
    // Once it is on disk the kernel is free to drop it.
    rustix::fs::syncfs(File::open(path)?)?;
    let synced = gb_per_s(blocks, start);
    let resident = resident(&object, blocks);
    let start = Instant::now();
    for n in 0..blocks {
        let (tx, rx) = mpsc::channel();
        Arc::clone(&object).read(CacheRead::detached(n * BLOCK as u64, BLOCK, move |r| {
            // The receiver waits for it.
            let _ = tx.send(r.map(drop));
        }));
        rx.recv()?.map_err(|m| format!("missed: {m:?}"))?;
    }
    let queued = gb_per_s(blocks, start);
    let after = self::resident(&object, blocks);
    let start = Instant::now();
    let mut into = vec![0; BLOCK];
    let mut inline = 0;
    for n in 0..blocks {
        inline += u64::from(object.try_read(n * BLOCK as u64, &mut into) == TryRead::Done);
    }
    println!(
        "{{\"mode\":\"{mode:?}\",\"mib\":{},{},{},{},{},{},{},{}}}",
        (blocks * BLOCK as u64) >> 20,
        report("fill_gb_per_s", fill),
        report("fill_and_sync_gb_per_s", synced),
        report("resident_after_sync", resident),
        report("queued_read_gb_per_s", queued),
        report("resident_after_read", after),
        report("inline_share", inline as f64 / blocks as f64),
        report("inline_pass_gb_per_s", gb_per_s(blocks, start)),
    );
    pollster::block_on(object.close(Relinquish::Retire));
    Ok(())
}

async fn open(cache: &Arc<CacheDir>, blocks: u64) -> Result<Arc<dyn CacheObject>, Failure> {
    let volume = Arc::clone(cache).acquire_volume(VolumeId::new("bench")?, Bytes::new()).await;
    let identity = Identity { aux: Bytes::new(), size: blocks * BLOCK as u64 };
    let volume = volume.map_err(|r| format!("volume refused: {r:?}"))?;
    let opened = volume.lookup(Bytes::from_static(b"object"), identity).await;
    Ok(opened.map_err(|r| format!("lookup refused: {r:?}"))?.object)
}

/// Objects of 8 KiB, one after the other, from lookup to close.
fn small_files(path: &Path, mode: KernelCache, count: u64) -> Result<(), Failure> {
    let cache = CacheDir::builder(path).kernel_cache(mode).open()?;
    let volume = Arc::clone(&cache).acquire_volume(VolumeId::new("bench")?, Bytes::new());
    let volume = pollster::block_on(volume).map_err(|r| format!("volume refused: {r:?}"))?;
    let block = Slice::from_bytes(&pattern()[..8192]);
    let start = Instant::now();
    for n in 0..count {
        let key = Bytes::from(n.to_string());
        let identity = Identity { aux: Bytes::new(), size: 8192 };
        let object = pollster::block_on(Arc::clone(&volume).lookup(key, identity))
            .map_err(|r| format!("lookup refused: {r:?}"))?
            .object;
        let (tx, rx) = mpsc::channel();
        let data = vec![block.clone()];
        Arc::clone(&object).write(CacheWrite::new(0, data, object.generation(), move |r| {
            // The receiver waits for it.
            let _ = tx.send(r);
        }));
        rx.recv()?.map_err(|r| format!("fill refused: {r:?}"))?;
        pollster::block_on(object.close(Relinquish::Keep));
    }
    let filled = start.elapsed().as_secs_f64();
    rustix::fs::syncfs(File::open(path)?)?;
    println!(
        "{{\"mode\":\"{mode:?}\",\"objects\":{count},{},{}}}",
        report("us_per_object", filled * 1e6 / count as f64),
        report("us_per_object_with_sync", start.elapsed().as_secs_f64() * 1e6 / count as f64),
    );
    Ok(())
}

fn pattern() -> Vec<u8> {
    (0..BLOCK as u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

/// The share of blocks whose first page the kernel holds, by asking for one byte of each.
fn resident(object: &Arc<dyn CacheObject>, blocks: u64) -> f64 {
    let there = |n: &u64| object.try_read(n * BLOCK as u64, &mut [0]) == TryRead::Done;
    (0..blocks).filter(there).count() as f64 / blocks as f64
}

fn direct(path: &Path, blocks: u64) -> Result<(), Failure> {
    let flags = i32::try_from(OFlags::DIRECT.bits())?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let file = options.custom_flags(flags).open(path);
    let Ok(file) = file else {
        println!("{{\"mode\":\"O_DIRECT\",\"supported\":false}}");
        return Ok(());
    };
    let mut room = vec![0; BLOCK + 4096];
    let skip = room.as_ptr().align_offset(4096);
    let buffer = &mut room[skip..skip + BLOCK];
    buffer.copy_from_slice(&pattern());
    let start = Instant::now();
    for n in 0..blocks {
        file.write_all_at(buffer, n * BLOCK as u64)?;
    }
    let write = gb_per_s(blocks, start);
    let start = Instant::now();
    for n in 0..blocks {
        file.read_exact_at(buffer, n * BLOCK as u64)?;
    }
    println!(
        "{{\"mode\":\"O_DIRECT\",{},{}}}",
        report("write_gb_per_s", write),
        report("read_gb_per_s", gb_per_s(blocks, start))
    );
    Ok(())
}

fn dont_need(path: &Path, blocks: u64) -> Result<(), Failure> {
    let file = File::create(path)?;
    let block = pattern();
    let start = Instant::now();
    for n in 0..blocks {
        file.write_all_at(&block, n * BLOCK as u64)?;
    }
    let write = gb_per_s(blocks, start);
    rustix::fs::fdatasync(&file)?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    println!(
        "{{\"mode\":\"fadvise DONTNEED\",{},{}}}",
        report("write_gb_per_s", write),
        report("write_sync_and_drop_gb_per_s", gb_per_s(blocks, start))
    );
    Ok(())
}
