//! Promises, as the references see them.

use std::time::Duration;

use netfs::{
    clock::BootTime,
    remote::{Promise, PromiseKind},
};

use super::rng::Rng;

/// How long the server vouches for what a reply said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// Until the next read: every reader asks.
    None,
    /// At most so long after the reply was asked for.
    For(Duration),
    /// Until an event.
    UntilTold,
}

impl Life {
    pub(crate) fn of(promise: &Promise) -> Life {
        match promise {
            Promise::None => Life::None,
            Promise::Until { lifetime, margin } => Life::For(*lifetime - *margin),
            Promise::Adaptive { max, .. } => Life::For(*max),
            Promise::UntilBroken { .. } => Life::UntilTold,
            other => panic!("the reference knows no {other:?}"),
        }
    }

    /// Whether a reply from before `ended` can still be vouched for at `now`.
    pub(crate) fn covers(self, ended: BootTime, now: BootTime) -> bool {
        match self {
            Life::None => false,
            Life::For(life) => now < ended + life,
            Life::UntilTold => true,
        }
    }
}

/// One of those a server gives.
pub(crate) fn promise(rng: &mut Rng) -> Promise {
    let secs = Duration::from_secs;
    match rng.within(0..6) {
        0 => Promise::None,
        1 => Promise::Until { lifetime: secs(30), margin: secs(10) },
        2 => Promise::Until { lifetime: secs(5), margin: secs(0) },
        3 => Promise::Adaptive { min: secs(3), max: secs(60) },
        _ => Promise::UntilBroken { kind: PromiseKind::Read },
    }
}
