//! From what a server promised to a deadline.

use std::time::Duration;

use crate::{clock::BootTime, remote::Promise};

/// A promise that was installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::coherency) struct Held {
    /// The epoch of the reply it came with: anything later voids it.
    pub(in crate::coherency) seq: u64,
    /// When it is over, margin taken off; [`BootTime::NEVER`] = when broken.
    pub(in crate::coherency) deadline: BootTime,
    /// It holds only while the volume's own promise holds, too.
    pub(in crate::coherency) covered: bool,
    /// Nobody else may touch the file, since the reply of this epoch.
    pub(in crate::coherency) alone_since: Option<u64>,
}

/// The running interval of an adaptive promise (A6.06).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Interval {
    length: Duration,
    /// When this length was chosen. It doubles once the file is found unchanged a length later;
    /// replies in between only renew the deadline.
    since: BootTime,
}

/// Whether a deadline is still ahead. Exactly at it, it is over (P-D3).
pub(in crate::coherency) fn lasts(deadline: BootTime, now: BootTime) -> bool {
    deadline == BootTime::NEVER || now < deadline
}

/// The interval after the file was found unchanged (`previous`) or changed (`None`) at `now`.
pub(super) fn next_interval(
    previous: Option<Interval>,
    (min, max): (Duration, Duration),
    now: BootTime,
) -> Interval {
    let max = max.max(min);
    match previous {
        Some(i) if now >= i.since + i.length => {
            Interval { length: i.length.saturating_mul(2).clamp(min, max), since: now }
        }
        Some(i) => Interval { length: i.length.clamp(min, max), since: i.since },
        None => Interval { length: min, since: now },
    }
}

/// When a promise of a request issued at `issued_at` is over; `None` if nothing was promised.
///
/// It counts from the issue, not from the reply (A1.09): the server may have answered at once and
/// the reply been delayed.
pub(super) fn deadline(
    promise: &Promise,
    issued_at: BootTime,
    interval: &mut Option<Interval>,
) -> Option<BootTime> {
    match *promise {
        Promise::None => None,
        Promise::Until { lifetime, margin } => Some(issued_at + lifetime - margin),
        Promise::Adaptive { min, max } => {
            let next = next_interval(*interval, (min, max), issued_at);
            *interval = Some(next);
            Some(issued_at + next.length)
        }
        Promise::UntilBroken { .. } => Some(BootTime::NEVER),
    }
}
