//! Benchmarks of netfs.
//!
//! | module | what |
//! |---|---|
//! | [`turns`] | measuring two things in turns: what makes a ratio honest on a shared machine |
//! | [`trace`] | traces of real I/O, read and generated |
//! | [`replay`] | a trace through the whole stack, every byte compared |
//! | [`micro`] | the table of `netfs bench micro`: hits, fills, opening and idling, each against its limit |

pub mod micro;
pub mod replay;
pub mod trace;
pub mod turns;
