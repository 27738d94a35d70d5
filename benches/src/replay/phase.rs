//! A phase's report.

use netfs::Stats;
use serde::{Deserialize, Serialize};

use super::{ReplayError, Writes, session::Session, tally::Tally};
use crate::trace::Op;

/// The core's eviction policy.
const POLICY: &str = "s3-fifo";

/// What a phase came to; the fields of the JSON object.
///
/// Bytes of reads are classed once: `memory_hit` + `disk_hit` + `zero` + all `miss` = `bytes`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Phase {
    /// `all`, or `before` and `after` a restart.
    pub phase: String,
    /// The trace's path, or its parameters.
    pub trace: String,
    /// SHA-256 of its file, or of the parameters.
    pub trace_sha256: String,
    /// What it was read as.
    pub format: String,
    /// Reads and writes.
    pub requests: u64,
    /// Reads.
    pub reads: u64,
    /// Writes: each a change at the origin, unless `writes_skipped`.
    pub writes: u64,
    /// Whether writes did nothing.
    pub writes_skipped: bool,
    /// Bytes the writes changed (or would have).
    pub written_bytes: u64,
    /// Bytes the reads asked for.
    pub bytes: u64,
    /// Bytes that differed from the origin.
    pub wrong_bytes: u64,
    /// Bytes in memory when asked for (`readahead_hit_bytes` among them).
    pub memory_hit_bytes: u64,
    /// Bytes from the disk cache.
    pub disk_hit_bytes: u64,
    /// Zeros made locally.
    pub zero_bytes: u64,
    /// Bytes not local when asked for, because they had never been cached.
    pub miss_cold_bytes: u64,
    /// The same because they had been evicted.
    pub miss_capacity_bytes: u64,
    /// The same because the file had changed.
    pub miss_coherency_bytes: u64,
    /// The same because the disk's copy was damaged.
    pub miss_corruption_bytes: u64,
    /// The same because the cache was not to be used.
    pub miss_bypass_bytes: u64,
    /// The same because the disk cache failed or was too slow.
    pub miss_fault_bytes: u64,
    /// Bytes that readahead had brought from the origin before they were first asked for.
    pub readahead_hit_bytes: u64,
    /// Bytes evicted from memory before anybody had read them.
    pub wasted_bytes: u64,
    /// Bytes the origin sent.
    pub origin_bytes: u64,
    /// Of the 4 KiB blocks the reads touched, the share that was local. Unknown with several threads.
    pub block_hit_ratio: Option<f64>,
    /// Share of the reads of which every byte was local. Unknown with several threads.
    pub request_hit_ratio: Option<f64>,
    /// Share of `bytes` that was local when asked for.
    pub byte_hit_ratio: f64,
    /// `origin_bytes` / `bytes`: 1 is no better than no cache.
    pub origin_bytes_per_asked_byte: f64,
    /// Folios evicted from memory.
    pub evictions: u64,
    /// Most memory in use after any read, of `memory_bytes`.
    pub peak_memory_bytes: u64,
    /// Most memory outside the budget after any read: evicted, but still being copied to disk.
    pub pinned_bytes: u64,
    /// `reads` / `seconds`.
    pub requests_per_s: f64,
    /// How long one read took.
    pub latency_us: Latency,
    /// Time in reads (of several threads, the busiest one's), without comparing and without waiting for
    /// the background.
    pub seconds: f64,
    /// Threads that read.
    pub threads: u64,
    /// Budget of the page cache.
    pub memory_bytes: u64,
    /// How much a miss fetches.
    pub fill: String,
    /// How memory is reclaimed.
    pub policy: String,
    /// Seed of the files' content.
    pub seed: u64,
    /// Version of this program.
    pub version: String,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Latency {
    /// Half of the reads took at most this long.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
}

impl Phase {
    pub(super) fn new(
        phase: &str,
        session: &Session<'_>,
        tally: &Tally,
        stats: &Stats,
    ) -> Result<Phase, ReplayError> {
        let (trace, config) = (session.origin.trace, session.config);
        let alone = config.threads <= 1;
        let seconds = tally.busy.as_secs_f64();
        let bytes = tally.bytes as f64;
        let us = |q| round(tally.latency.value_at_quantile(q) as f64 / 1e3);
        let known = |a: u64, b: u64| alone.then(|| round(ratio(a as f64, b as f64)));
        Ok(Phase {
            phase: phase.to_owned(),
            trace: trace.name.clone(),
            trace_sha256: trace.sha256.clone(),
            format: trace.format.name().to_owned(),
            requests: tally.reads + tally.writes,
            reads: tally.reads,
            writes: tally.writes,
            writes_skipped: config.writes == Writes::Skip
                && trace.requests.iter().any(|r| r.op == Op::Write),
            written_bytes: tally.written_bytes,
            bytes: tally.bytes,
            wrong_bytes: tally.wrong_bytes,
            memory_hit_bytes: stats.memory_hit_bytes + stats.readahead_hit_bytes,
            disk_hit_bytes: stats.disk_hit_bytes,
            zero_bytes: stats.zero_bytes,
            miss_cold_bytes: stats.miss_cold_bytes,
            miss_capacity_bytes: stats.miss_capacity_bytes,
            miss_coherency_bytes: stats.miss_coherency_bytes,
            miss_corruption_bytes: stats.miss_corruption_bytes,
            miss_bypass_bytes: stats.miss_bypass_bytes,
            miss_fault_bytes: stats.miss_fault_bytes,
            readahead_hit_bytes: stats.readahead_hit_bytes,
            wasted_bytes: stats.wasted_bytes,
            origin_bytes: stats.origin_bytes,
            block_hit_ratio: known(tally.block_hits, tally.block_reads),
            request_hit_ratio: known(tally.request_hits, tally.reads),
            byte_hit_ratio: round(ratio(local_bytes(stats) as f64, bytes)),
            origin_bytes_per_asked_byte: round(ratio(stats.origin_bytes as f64, bytes)),
            evictions: stats.evictions,
            peak_memory_bytes: tally.peak_memory,
            pinned_bytes: tally.peak_pinned,
            requests_per_s: round(ratio(tally.reads as f64, seconds)),
            latency_us: Latency { p50: us(0.5), p99: us(0.99), p999: us(0.999) },
            seconds: round(seconds),
            threads: config.threads as u64,
            memory_bytes: config.memory_bytes,
            fill: config.fill.name().to_owned(),
            policy: POLICY.to_owned(),
            seed: trace.seed,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

/// Bytes that were in memory or on disk when they were asked for.
pub(super) fn local_bytes(stats: &Stats) -> u64 {
    stats.memory_hit_bytes + stats.readahead_hit_bytes + stats.disk_hit_bytes + stats.zero_bytes
}

/// 0 where there is nothing to divide by.
fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

/// To a millionth: more digits are noise.
fn round(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}
