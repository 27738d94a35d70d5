//! What a phase found, as JSON and as a row of a table.

use std::collections::BTreeMap;

use netfs::Stats;
use serde::{Deserialize, Serialize};

use crate::{failure::Failure, output::print, units};

/// The result of one phase; the fields of the JSON object.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct PhaseReport {
    /// `cold`, `warm`, `restart` or `changed`.
    pub(crate) phase: String,
    /// Regular files read.
    pub(crate) files: u64,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// Time of reading through the cache, and until everything was stored.
    pub(crate) seconds: f64,
    /// `bytes` / `seconds`, in 10^9 bytes a second.
    pub(crate) gb_per_s: f64,
    /// Share of `bytes` that came from memory or the disk cache, 0 to 1.
    pub(crate) hit_ratio: f64,
    /// Bytes from memory.
    pub(crate) memory_hit_bytes: u64,
    /// Bytes from the disk cache.
    pub(crate) disk_hit_bytes: u64,
    /// Bytes the origin sent.
    pub(crate) origin_bytes: u64,
    /// Bytes that differed from the origin.
    pub(crate) wrong_bytes: u64,
    /// Why bytes did not come from the cache: reason to bytes. `readahead`: the origin sent them before
    /// they were asked for.
    pub(crate) miss_reasons: BTreeMap<String, u64>,
}

impl PhaseReport {
    /// From what was read and what the cache counted meanwhile.
    pub(crate) fn new(
        phase: &str,
        files: u64,
        bytes: u64,
        seconds: f64,
        stats: &Stats,
    ) -> PhaseReport {
        let hits = stats.memory_hit_bytes + stats.disk_hit_bytes;
        PhaseReport {
            phase: phase.to_owned(),
            files,
            bytes,
            seconds: round(seconds),
            gb_per_s: round(ratio(bytes as f64 / 1e9, seconds)),
            hit_ratio: round(ratio(hits as f64, bytes as f64)),
            memory_hit_bytes: stats.memory_hit_bytes,
            disk_hit_bytes: stats.disk_hit_bytes,
            origin_bytes: stats.origin_bytes,
            wrong_bytes: 0,
            miss_reasons: miss_reasons(stats),
        }
    }

    fn row(&self) -> String {
        format!(
            "{:<8} {:>7} {:>10} {:>8} {:>9} {:>6.1} % {:>10} {:>10} {:>10} {:>6}",
            self.phase,
            self.files,
            units::bytes(self.bytes),
            units::seconds(self.seconds),
            units::rate(self.gb_per_s),
            self.hit_ratio * 100.0,
            units::bytes(self.memory_hit_bytes),
            units::bytes(self.disk_hit_bytes),
            units::bytes(self.origin_bytes),
            self.wrong_bytes,
        )
    }
}

/// What was read ahead is no hit here: a first pass over a tree shows what a cold cache is worth.
fn miss_reasons(stats: &Stats) -> BTreeMap<String, u64> {
    let ahead = ("readahead", stats.readahead_hit_bytes);
    stats.miss_reasons().into_iter().chain([ahead]).map(|(why, n)| (why.to_owned(), n)).collect()
}

/// 0 where there is nothing to divide by.
fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

/// To a millionth: more digits are noise.
fn round(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}

/// Prints phases as they are done.
pub(crate) struct Printer {
    json: bool,
}

impl Printer {
    pub(crate) fn new(json: bool) -> Printer {
        Printer { json }
    }

    /// Above the first phase; nothing in JSON.
    pub(crate) fn header(&self) -> Result<(), Failure> {
        if self.json {
            return Ok(());
        }
        let head = format!(
            "{:<8} {:>7} {:>10} {:>8} {:>9} {:>8} {:>10} {:>10} {:>10} {:>6}",
            "phase", "files", "bytes", "time", "speed", "hits", "memory", "disk", "origin", "wrong"
        );
        print(&head)
    }

    pub(crate) fn phase(&self, report: &PhaseReport) -> Result<(), Failure> {
        if self.json { print(&to_json(report)?) } else { print(&report.row()) }
    }
}

/// One line of JSON.
pub(crate) fn to_json(report: &PhaseReport) -> Result<String, Failure> {
    serde_json::to_string(report)
        .map_err(|e| Failure::Internal(format!("cannot write {}: {e}", report.phase)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> PhaseReport {
        PhaseReport::new("cold", 3, 2_000_000_000, 0.5, &Stats::default())
    }

    #[test]
    fn json_has_every_field_in_order_and_reads_back() {
        let json = to_json(&report()).unwrap();
        let order = [
            "phase",
            "files",
            "bytes",
            "seconds",
            "gb_per_s",
            "hit_ratio",
            "memory_hit_bytes",
            "disk_hit_bytes",
            "origin_bytes",
            "wrong_bytes",
            "miss_reasons",
        ];
        let mut at = 0;
        for field in order {
            let key = format!("\"{field}\":");
            at += json[at..].find(&key).unwrap_or_else(|| panic!("{field} in {json}"));
        }
        assert_eq!(serde_json::from_str::<PhaseReport>(&json).unwrap(), report());
        assert!(json.contains("\"gb_per_s\":4.0"), "{json}");
    }

    #[test]
    fn nothing_read_is_no_division_by_zero() {
        let empty = PhaseReport::new("cold", 0, 0, 0.0, &Stats::default());
        assert_eq!((empty.gb_per_s, empty.hit_ratio), (0.0, 0.0));
    }
}
