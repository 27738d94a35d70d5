//! What the model tests of the read side and of the write side share: a test draws worlds from seeds
//! ([`runs`]), makes random steps in them, and says at a difference what led to it ([`journal`]).

#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod covered;
pub(crate) mod disk;
pub(crate) mod drive;
pub(crate) mod journal;
pub(crate) mod kept;
pub(crate) mod life;
pub(crate) mod rng;
pub(crate) mod runs;
pub(crate) mod watch;

use netfs::remote::{Cred, Cx};

/// The superuser, no deadline.
pub(crate) fn cx() -> Cx {
    Cx::new(Cred::new(0, 0))
}
