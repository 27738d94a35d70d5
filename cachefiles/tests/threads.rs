//! Many threads on few objects with one descriptor: fills, reads, zeros, forgetting, cut-overs and
//! commits at the same time. Whatever is read belongs to the identity of the object it was read from.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use common::*;
use netfs::fscache::{CacheBackend, CacheObject};
use parking_lot::Mutex;

/// Inline map and side file.
const SIZES: [u64; 2] = [40 * 4096 - 17, 6000 * 4096];
const THREADS: u64 = 4;
const OPS: u64 = 1500;
/// Known zeros from here on; never filled.
const ZEROS: u64 = 32;

fn step(slot: &Mutex<Arc<dyn CacheObject>>, random: u64, hits: &AtomicU64) {
    let object = Arc::clone(&slot.lock());
    let size = object.identity().size;
    let version = u64::from(object.identity().aux[0]);
    let (first, count) = (random / 16 % 30, 1 + random / 512 % 2);
    match random % 16 {
        0 => {
            let next = identity(&[(version as u8).wrapping_add(1)], size);
            // Somebody else may have been faster.
            if let Ok(new) = object.cut_over(next) {
                *slot.lock() = new;
            }
        }
        1 => object.forget(first * 4096..(first + count) * 4096),
        2 => object.mark_zero(ZEROS * 4096..(ZEROS + 4) * 4096),
        3 => drop(pollster::block_on(object.commit())),
        4..8 => {
            // Refused while another write holds the pages, or after a cut-over.
            let bytes = content(version, first * 4096, count as usize * 4096, size);
            let _ = write(&object, first * 4096, &bytes);
        }
        _ => {
            let zeros = random.is_multiple_of(5);
            let start = if zeros {
                ZEROS * 4096 + random / 7 % 8192
            } else {
                first * 4096 + random / 7 % 4000
            };
            let len = 1 + (random / 11 % 6000) as usize;
            let Ok(bytes) = read_any(&object, start, len) else { return };
            let mut want = content(version, start, len, size);
            if zeros {
                want.fill(0);
            } else if start + len as u64 > ZEROS * 4096 {
                return;
            }
            assert!(bytes == want, "wrong bytes of version {version} at {start}");
            hits.fetch_add(1, Relaxed);
        }
    }
}

#[test]
fn concurrent_use_never_mixes_versions() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::with(
        builder(dir.path())
            .max_descriptors(1)
            .flush_interval(std::time::Duration::from_micros(100)),
    );
    let objects = SIZES
        .map(|size| Mutex::new(bed.object(size.to_string().as_bytes(), &identity(&[0], size)).0));
    let hits = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (objects, hits) = (&objects, &hits);
            scope.spawn(move || {
                let mut state = thread + 1;
                for _ in 0..OPS {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                    step(&objects[(state >> 60) as usize % 2], state >> 20, hits);
                }
            });
        }
    });
    assert!(hits.load(Relaxed) > 100, "hits: {hits:?}");
    assert_eq!(bed.cache.stats().corrupt_pages, 0, "a race was taken for corruption");
}
