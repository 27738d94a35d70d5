//! The three sizes of a file, always read together (row 50, N-C23).
//!
//! Upstream kept them in three words and tore (CVE-2026-64160). Here a sequence counter makes a
//! snapshot of all three consistent without a lock on the read side.

use std::ops::Range;

use crate::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering, fence},
};

/// A consistent snapshot of a file's sizes, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sizes {
    /// The size a reader sees: the server's, or larger while local writes are buffered.
    pub i_size: u64,
    /// The server's size (row 48).
    pub remote_i_size: u64,
    /// From here on the server is known to hold no data, so nothing is asked for (row 49).
    pub zero_point: u64,
}

impl Sizes {
    /// The sizes of a file that has no local changes.
    #[must_use]
    pub fn clean(size: u64) -> Sizes {
        Sizes { i_size: size, remote_i_size: size, zero_point: size }
    }

    /// Where server data ends: nothing at or past this is downloaded (N-C5).
    #[must_use]
    pub fn server_limit(&self) -> u64 {
        self.zero_point.min(self.i_size)
    }
}

/// The published sizes of one inode.
#[derive(Default)]
pub(crate) struct SizeCell {
    /// Odd while a writer is between its stores.
    seq: AtomicU64,
    i_size: AtomicU64,
    remote_i_size: AtomicU64,
    zero_point: AtomicU64,
    writer: Mutex<()>,
}

impl SizeCell {
    pub(crate) fn new(sizes: Sizes) -> SizeCell {
        let cell = SizeCell::default();
        cell.update(|s| *s = sizes);
        cell
    }

    /// The size a reader sees, alone: one word cannot tear.
    #[inline]
    pub(crate) fn i_size(&self) -> u64 {
        self.i_size.load(Ordering::Acquire)
    }

    /// All three, from one moment.
    pub(crate) fn load(&self) -> Sizes {
        loop {
            let before = self.seq.load(Ordering::Acquire);
            let sizes = Sizes {
                i_size: self.i_size.load(Ordering::Relaxed),
                remote_i_size: self.remote_i_size.load(Ordering::Relaxed),
                zero_point: self.zero_point.load(Ordering::Relaxed),
            };
            // Orders the loads above before the re-read of the sequence below.
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.seq.load(Ordering::Relaxed) == before {
                return sizes;
            }
            // A writer only does three stores: spin is shorter than any wait.
            spin();
        }
    }

    /// What the server says the size is. Local writes beyond it stay (they have not got there yet):
    /// `dirty_end` tells where they end.
    pub(crate) fn server_says(&self, size: u64, dirty_end: impl FnOnce() -> u64) {
        self.update(|sizes| {
            *sizes = Sizes { i_size: size.max(dirty_end()), ..Sizes::clean(size) };
        });
    }

    /// A local write ends at `end`, after its bytes are in memory (N-C37). What of it is not dirty any more
    /// was [`sent`](SizeCell::sent), and may have been cut by others since.
    pub(crate) fn wrote(&self, end: u64, dirty_end: impl FnOnce() -> u64) {
        self.update(|sizes| sizes.i_size = sizes.i_size.max(end.min(dirty_end())));
    }

    /// The server has all up to `end` of what was sent: it is to be asked for that again once it has
    /// left memory (row 49, N-C22). Before any of it becomes clean.
    pub(crate) fn sent(&self, end: u64) {
        self.update(|sizes| {
            sizes.i_size = sizes.i_size.max(end);
            sizes.remote_i_size = sizes.remote_i_size.max(end);
            sizes.zero_point = sizes.zero_point.max(end);
        });
    }

    /// The file was cut or extended, here and on the server.
    pub(crate) fn resized(&self, size: u64) {
        self.update(|sizes| {
            let zero_point = sizes.zero_point.min(size);
            *sizes = Sizes { i_size: size, remote_i_size: size, zero_point };
        });
    }

    /// The file was extended, here and on the server, by zeros: they are not asked for.
    pub(crate) fn grew(&self, size: u64) {
        self.update(|sizes| {
            sizes.i_size = sizes.i_size.max(size);
            sizes.remote_i_size = sizes.remote_i_size.max(size);
        });
    }

    /// The server has a hole there. One that reaches the end of its data is that end (row 49, N-C22).
    pub(crate) fn punched(&self, hole: &Range<u64>) {
        self.update(|sizes| {
            if hole.end >= sizes.zero_point.min(sizes.remote_i_size) {
                sizes.zero_point = sizes.zero_point.min(hole.start);
            }
        });
    }

    /// Local writes were given up, or cut off, but for those up to `dirty_end`: else the file is as the server
    /// has it.
    pub(crate) fn discarded(&self, dirty_end: impl FnOnce() -> u64) {
        self.update(|sizes| {
            let size = sizes.remote_i_size;
            let zero_point = sizes.zero_point.min(size);
            *sizes = Sizes { i_size: size.max(dirty_end()), remote_i_size: size, zero_point };
        });
    }

    /// Changes them together. Writers exclude one another; the zero point never exceeds what is known
    /// of the server (N-C22).
    pub(crate) fn update(&self, change: impl FnOnce(&mut Sizes)) {
        let _alone = self.writer.lock();
        let mut sizes = Sizes {
            i_size: self.i_size.load(Ordering::Relaxed),
            remote_i_size: self.remote_i_size.load(Ordering::Relaxed),
            zero_point: self.zero_point.load(Ordering::Relaxed),
        };
        change(&mut sizes);
        let seq = self.seq.load(Ordering::Relaxed);
        self.seq.store(seq + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.i_size.store(sizes.i_size, Ordering::Release);
        self.remote_i_size.store(sizes.remote_i_size, Ordering::Relaxed);
        self.zero_point.store(sizes.zero_point, Ordering::Relaxed);
        self.seq.store(seq + 2, Ordering::Release);
    }
}

#[cfg(not(shuttle))]
fn spin() {
    std::hint::spin_loop();
}

#[cfg(shuttle)]
fn spin() {
    shuttle::thread::yield_now();
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn n_c23_snapshots_never_tear() {
        let cell = SizeCell::new(Sizes::clean(0));
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                // An interpreter is slow.
                for n in 1..if cfg!(miri) { 300 } else { 200_000 } {
                    cell.update(|z| *z = Sizes { i_size: n, remote_i_size: n, zero_point: n });
                }
                stop.store(true, Ordering::Release);
            });
            while !stop.load(Ordering::Acquire) {
                let z = cell.load();
                assert!(z.i_size == z.remote_i_size && z.i_size == z.zero_point, "{z:?}");
            }
        });
    }

    #[test]
    fn n_c05_server_limit_is_the_smaller_of_size_and_zero_point() {
        let z = Sizes { i_size: 10, remote_i_size: 8, zero_point: 8 };
        assert_eq!(z.server_limit(), 8);
        assert_eq!(Sizes { zero_point: 20, ..z }.server_limit(), 10);
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use super::*;
    use crate::sync::Arc;

    #[test]
    fn n_c23_snapshots_never_tear_in_any_interleaving() {
        shuttle::check_random(
            || {
                let cell = Arc::new(SizeCell::new(Sizes::clean(0)));
                let writer = Arc::clone(&cell);
                let t = shuttle::thread::spawn(move || {
                    for n in 1..4 {
                        writer.update(|z| *z = Sizes::clean(n));
                    }
                });
                for _ in 0..3 {
                    let z = cell.load();
                    assert!(z.i_size == z.remote_i_size && z.i_size == z.zero_point);
                }
                t.join().expect("writer");
            },
            2000,
        );
    }
}
