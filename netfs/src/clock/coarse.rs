//! A cheap "is this deadline still ahead?" for the hit path, right whenever it says yes.
//!
//! Reading `CLOCK_BOOTTIME` waits for the time stamp counter; that alone takes longer than the rest of a
//! memory hit. The kernel's coarse clocks are plain loads, but they lag behind, and none of them counts
//! the time of a suspend and is steady as well. So:
//!
//! - **K-1** The difference between the coarse real-time and monotonic clocks is constant, to the
//!   nanosecond, except when somebody sets the time or the machine was suspended (both clocks are made
//!   from the same words). While it is what it was when the offset from monotonic to boot time was
//!   measured, that offset still holds. When it is not, or a tick fell between the two readings, the
//!   answer is no.
//! - **K-2** A coarse clock lags by a tick, and by a few if the processor that keeps the time is held up;
//!   from Linux 5.18 on every processor's own tick bounds that. Older kernels are not asked. [`SLACK`] is
//!   an order of magnitude above that bound: a deadline that is not further away than it gets no for an
//!   answer.
//!
//! "No" means: ask the exact clock. So a promise is not used after its deadline, and one that has less
//! than [`SLACK`] to go costs an exact reading.
//!
//! One case is outside K-2: a virtual machine that its host stops for longer than [`SLACK`], without a
//! suspend that the guest is told of. For the ticks it then takes the guest's timekeeper to catch up, a
//! coarse clock shows the time before the stop. Applications of such a guest see that of every coarse
//! clock; the exact clock, which most other decisions here use, is not affected.

// Process-wide facts of the machine, not state that a model checker should explore.
use std::sync::{
    OnceLock,
    atomic::{AtomicI64, Ordering},
};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// What a deadline must be ahead of the coarse clock: far more than that can lag (K-2).
const SLACK: i64 = 1_000_000_000;
/// A difference that two clocks never have.
const UNKNOWN: i64 = i64::MIN;

/// Whether `deadline`, in nanoseconds of boot time, is ahead for sure.
pub(super) fn surely_ahead(deadline: u64) -> bool {
    static OFFSETS: Offsets = Offsets::unknown();
    if !lag_is_bounded() {
        return false;
    }
    // In this order: a suspend between the two shows in the difference.
    let (mono, real) = (read(ClockId::MonotonicCoarse), read(ClockId::RealtimeCoarse));
    match OFFSETS.judge(mono, real, deadline) {
        Some(ahead) => ahead,
        None => {
            OFFSETS.measure();
            false
        }
    }
}

/// What is known of the clocks' offsets.
struct Offsets {
    /// Real-time minus monotonic when `boot` was measured.
    real: AtomicI64,
    /// Boot time minus monotonic. It only grows; stored before the `real` it belongs to, so that
    /// whoever sees that sees this or a later one.
    boot: AtomicI64,
    /// One measures at a time: else an older offset might be left under a newer difference.
    measuring: Mutex<()>,
}

impl Offsets {
    const fn unknown() -> Offsets {
        Offsets {
            real: AtomicI64::new(UNKNOWN),
            boot: AtomicI64::new(0),
            measuring: Mutex::new(()),
        }
    }

    /// `None` if the offsets may have changed.
    fn judge(&self, mono: i64, real: i64, deadline: u64) -> Option<bool> {
        if real.wrapping_sub(mono) != self.real.load(Ordering::Acquire) {
            return None;
        }
        let boot = mono.saturating_add(self.boot.load(Ordering::Relaxed));
        let soonest = u64::try_from(boot.saturating_add(SLACK)).unwrap_or(u64::MAX);
        Some(soonest < deadline)
    }

    /// Measures the offsets, unless somebody else does.
    fn measure(&self) {
        let Some(_alone) = self.measuring.try_lock() else { return };
        let difference = || {
            let mono = read(ClockId::MonotonicCoarse);
            read(ClockId::RealtimeCoarse).wrapping_sub(mono)
        };
        let before = difference();
        // The earlier monotonic reading makes the offset too large, which is the safe side.
        let mono = read(ClockId::Monotonic);
        let boot = read(ClockId::Boottime);
        if difference() == before {
            self.boot.store(boot.saturating_sub(mono), Ordering::Relaxed);
            self.real.store(before, Ordering::Release);
        }
    }
}

/// Nanoseconds; a time out of their range never compares as ahead.
fn read(id: ClockId) -> i64 {
    let ts = clock_gettime(id);
    ts.tv_sec.saturating_mul(1_000_000_000).saturating_add(ts.tv_nsec)
}

/// Whether this kernel bounds the lag of its coarse clocks (K-2).
fn lag_is_bounded() -> bool {
    static BOUNDED: OnceLock<bool> = OnceLock::new();
    *BOUNDED.get_or_init(|| {
        let release = rustix::system::uname();
        is_since_5_18(&release.release().to_string_lossy())
    })
}

fn is_since_5_18(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 18),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Boot time is 7 s ahead of monotonic time, real time 1000 s.
    fn known() -> Offsets {
        let offsets = Offsets::unknown();
        offsets.boot.store(7 * SECOND as i64, Ordering::Relaxed);
        offsets.real.store(1000 * SECOND as i64, Ordering::Relaxed);
        offsets
    }

    fn judge(offsets: &Offsets, mono: u64, real: u64, deadline: u64) -> Option<bool> {
        offsets.judge((mono * SECOND) as i64, (real * SECOND) as i64, deadline)
    }

    #[test]
    fn k1_nothing_is_said_before_the_first_measurement() {
        assert_eq!(judge(&Offsets::unknown(), 5, 5, u64::MAX), None);
    }

    #[test]
    fn k1_a_suspend_or_a_clock_that_was_set_is_noticed() {
        let far = 1_000_000 * SECOND;
        assert_eq!(judge(&known(), 5, 1005, far), Some(true));
        assert_eq!(judge(&known(), 5, 1006, far), None, "suspended for a second, or set forward");
        assert_eq!(judge(&known(), 5, 900, far), None, "set back");
    }

    #[test]
    fn k2_a_deadline_within_the_slack_is_left_to_the_exact_clock() {
        // Boot time is 12 s.
        assert_eq!(judge(&known(), 5, 1005, 12 * SECOND), Some(false));
        assert_eq!(judge(&known(), 5, 1005, 13 * SECOND), Some(false));
        assert_eq!(judge(&known(), 5, 1005, 13 * SECOND + 1), Some(true));
        assert_eq!(judge(&known(), 5, 1005, 0), Some(false));
    }

    #[test]
    fn p_d03_what_is_surely_ahead_is_ahead_of_the_exact_clock() {
        let mut sure = 0;
        for i in 0..2000u64 {
            let deadline = read(ClockId::Boottime) as u64 + i * 2_000_000;
            if surely_ahead(deadline) {
                sure += 1;
                assert!((read(ClockId::Boottime) as u64) < deadline);
                assert!(i > 400, "not within the slack, of which a tick may be gone");
            }
        }
        // Most are seconds away: it would be of no use if it never knew.
        assert!(sure > 0 || !lag_is_bounded());
    }

    #[test]
    fn k2_kernels_without_the_bound_are_told_by_their_release() {
        assert!(["5.18.0", "5.19-rc1", "6.1.0-13-amd64", "10.0"].into_iter().all(is_since_5_18));
        assert!(!["5.17.9", "4.19.0", "5", "", "x.y"].into_iter().any(is_since_5_18));
    }
}
