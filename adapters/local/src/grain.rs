//! Whether a file's ctime, once it was asked for, is never left in place by a change.
//!
//! Kernels since 6.13 promise that for ext4, xfs, btrfs and tmpfs ("multigrain timestamps"): `statx` marks
//! the stamp as seen, and the next change takes a finer one. Then a tuple that was just read stands for
//! exactly what the file held, however young it is. It is found out by trying, not by version numbers.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::{
    fs::{Mode, OFlags},
    time::{ClockId, clock_gettime},
};

use crate::stat::Stat;

/// Tries before it is called unknown: each fails only if the clock ticks within it.
const TRIES: usize = 16;

/// Tries it in the directory `dir`, on a file without a name. False if that cannot be made there.
pub(crate) fn is_fine(dir: BorrowedFd<'_>) -> bool {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(dir, c".", flags, Mode::from_raw_mode(0o600)) else {
        return false;
    };
    (0..TRIES).find_map(|_| two_writes(file.as_fd())).unwrap_or(false)
}

/// Whether two writes in one tick of the coarse clock are told apart; `None` if it ticked or failed.
fn two_writes(file: BorrowedFd<'_>) -> Option<bool> {
    let tick = || {
        let t = clock_gettime(ClockId::RealtimeCoarse);
        (t.tv_sec, t.tv_nsec)
    };
    let start = tick();
    let mut stamps = [None; 2];
    for stamp in &mut stamps {
        rustix::io::pwrite(file, b"x", 0).ok()?;
        *stamp = Some(Stat::of(file, false).ok()?.attr.ctime);
    }
    (tick() == start).then_some(stamps[0] != stamps[1])
}
