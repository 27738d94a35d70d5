//! What a replay found, as JSON and as a table.

use netfs_bench::{
    replay::{Phase, Writes},
    trace::{Op, Trace},
};

use crate::{failure::Failure, output::print, units};

/// Prints phases as they are done.
pub(super) struct Printer {
    json: bool,
}

impl Printer {
    pub(super) fn new(json: bool) -> Printer {
        Printer { json }
    }

    /// Above the first phase; nothing in JSON.
    pub(super) fn header(&self, trace: &Trace, writes: Writes) -> Result<(), Failure> {
        if self.json {
            return Ok(());
        }
        let Trace { name, format, requests, files, ignored, .. } = trace;
        let write_count = requests.iter().filter(|r| r.op == Op::Write).count();
        print(&format!(
            "{name} ({format}): {} reads and {write_count} writes in {} files of {}",
            requests.len() - write_count,
            files.len(),
            units::bytes(files.iter().fold(0, |sum: u64, f| sum.saturating_add(f.size))),
        ))?;
        match (write_count, writes) {
            (0, _) => {}
            (_, Writes::Change) => print("each write is another client's change at the origin")?,
            (_, Writes::Skip) => print("writes are left out")?,
        }
        if *ignored > 0 {
            print(&format!("{ignored} lines are neither reads nor writes of any bytes"))?;
        }
        print(&format!(
            "{:<7} {:>8} {:>10} {:>9} {:>9} {:>9} {:>7} {:>7} {:>10} {:>10} {:>10} {:>7} {:>6}",
            "phase",
            "requests",
            "bytes",
            "reads/s",
            "p50",
            "p99",
            "bytes%",
            "reqs%",
            "memory",
            "disk",
            "origin",
            "o/asked",
            "wrong"
        ))
    }

    pub(super) fn phase(&self, phase: &Phase) -> Result<(), Failure> {
        if self.json { print(&to_json(phase)?) } else { print(&row(phase)) }
    }
}

fn row(phase: &Phase) -> String {
    let percent = |ratio: f64| format!("{:.1}", ratio * 100.0);
    let latency = |us: f64| units::seconds_short(us / 1e6);
    format!(
        "{:<7} {:>8} {:>10} {:>9.0} {:>9} {:>9} {:>7} {:>7} {:>10} {:>10} {:>10} {:>7.2} {:>6}",
        phase.phase,
        phase.requests,
        units::bytes(phase.bytes),
        phase.requests_per_s,
        latency(phase.latency_us.p50),
        latency(phase.latency_us.p99),
        percent(phase.byte_hit_ratio),
        phase.request_hit_ratio.map_or("-".to_owned(), percent),
        units::bytes(phase.memory_hit_bytes),
        units::bytes(phase.disk_hit_bytes),
        units::bytes(phase.origin_bytes),
        phase.origin_bytes_per_asked_byte,
        phase.wrong_bytes,
    )
}

fn to_json(phase: &Phase) -> Result<String, Failure> {
    serde_json::to_string(phase)
        .map_err(|e| Failure::Internal(format!("cannot write {}: {e}", phase.phase)))
}
