//! Requests as pure state machines: no I/O, no clock, no locks, no threads.
//!
//! - [`plan`] decides where each byte of a window comes from (rows 21, 22, 47);
//! - [`read`] follows the subrequests of one read to their end: issue, collect, retry
//!   (rows 24, 28 to 38);
//! - [`write`] follows those of one upload (rows 70 to 87).
//!
//! The drivers in [`crate::read`] and [`crate::writeback`] perform what these decide and feed results back. Everything here
//! can be stepped by a test, one event at a time, in any order.

pub(crate) mod plan;
pub(crate) mod ranges;
pub(crate) mod read;
pub(crate) mod write;
