//! Benchmarks of netfs.
//!
//! | module | what |
//! |---|---|
//! | [`turns`] | measuring two things in turns: what makes a ratio honest on a shared machine |
//! | [`micro`] | the table of `netfs bench micro`: hits, fills, opening and idling, each against its limit |

pub mod micro;
pub mod turns;
