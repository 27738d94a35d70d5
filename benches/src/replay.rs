//! A trace replayed through the whole stack, every byte compared.
//!
//! ```text
//!   trace --> worker --> File::read_at --> page cache --> disk cache --> origin (adapters/memory)
//!               |                                                          |
//!               `------------- compares with the content function ---------'
//! ```
//!
//! Each file of the trace is one file of an in-process origin whose content is a function of file,
//! version and offset. Tree, seed and volume id come from the trace, so another run on the same cache
//! directory meets the same files and starts warm.
//!
//! **Time.** The trace's times are not replayed: requests follow each other at once. With one thread each
//! waits until everything earlier ones started (readahead, copying to the disk cache) has landed, so that
//! hits do not depend on timing; that wait counts in no figure. (What is left to chance is the order in
//! which a miss and its own readahead land: where memory is short, reclaim may then take another folio,
//! and two runs differ by a few tenths of a percent.) With more threads nobody waits, and the requests of
//! one file stay on one thread, in order.
//!
//! **What is a hit.** A byte that was in memory or on disk when its request began (a request longer than
//! 1 MiB is read in steps of 1 MiB, each of which counts on its own).
//!
//! **Writes.** The core only reads yet. A write of the trace is made at the origin, as another client's,
//! and the origin breaks its promise ([`Writes::Change`]): the file's version moves and what is cached of
//! it is dropped. A run with changes starts from version 1 again, so what an earlier run cached of changed
//! files is stale then and is fetched anew. It is never wrong, for version n is the same content in every
//! run: the file after the first n - 1 writes of the trace to it.

mod blocks;
mod config;
mod origin;
mod phase;
mod session;
mod tally;
mod worker;

use std::ops::Range;

pub use config::{Config, Fill, ReplayError, Watch, Writes};
pub use phase::{Latency, Phase};

use self::{origin::Origin, session::Session};
use crate::trace::Trace;

/// Replays a trace and hands out each phase's report when it is done: `all`, or with
/// [`Config::restart_at`] first `before` and then `after`.
///
/// # Errors
/// See [`ReplayError`]. Wrong bytes are no error: they are counted in the reports.
pub fn replay(
    trace: &Trace,
    config: &Config,
    watch: &dyn Watch,
    mut report: impl FnMut(Phase),
) -> Result<(), ReplayError> {
    let origin = Origin::build(trace, config)?;
    for (name, part) in phases(trace.requests.len(), config.restart_at) {
        let session = Session::open(&origin, config)?;
        let phase = session.phase(name, part, watch);
        // Closed in any case: the next phase, or whoever removes the directory, must find it free.
        session.close(watch);
        report(phase?);
    }
    Ok(())
}

/// The phases' parts of `requests`.
fn phases(requests: usize, restart_at: Option<u8>) -> Vec<(&'static str, Range<usize>)> {
    let Some(percent) = restart_at else { return vec![("all", 0..requests)] };
    let at = requests * usize::from(percent.min(100)) / 100;
    vec![("before", 0..at), ("after", at..requests)]
}

#[cfg(test)]
mod tests;
