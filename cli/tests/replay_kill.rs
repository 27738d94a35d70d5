//! kill -9 during a replay: the next run on the same cache shows no wrong byte, and hits what had been
//! stored.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{Rng, number, stderr};
use serde_json::Value;

/// Kills in all, and how many run at a time: they mostly wait for their slow origin.
const KILLS: u64 = 50;
const LANES: u64 = 5;

/// A killed run that had filled for so long must have left something.
const FILLED: Duration = Duration::from_secs(1);

const REQUESTS: u64 = 700;

fn replay(cache: &Path, seed: u64) -> Command {
    let spec =
        format!("zipf+scan+loop,requests={REQUESTS},files=24,writes={},seed={seed}", seed % 2);
    let mut command = Command::new(env!("CARGO_BIN_EXE_netfs"));
    command.args(["bench", "replay", "--json", "--generate", &spec, "--cache-dir"]).arg(cache);
    command
}

/// Starts a run with a slow origin and kills it after so many requests; says how long it had been
/// filling.
fn killed_run(cache: &Path, seed: u64, requests: u64) -> Duration {
    let mut run = replay(cache, seed);
    run.args(["--origin-rate", "8MiB", "--say-every", "1"]);
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut wait_for = |what: &str| {
        let mut line = String::new();
        while !line.contains(what) {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "ended before {what:?}");
        }
    };
    wait_for("phase all");
    let began = Instant::now();
    wait_for(&format!("netfs: {requests} of "));
    let filling = began.elapsed();
    child.kill().unwrap();
    child.wait().unwrap();
    said.read_to_end(&mut Vec::new()).unwrap();
    filling
}

/// Returns whether the run had filled for long enough to leave something.
fn kill_and_run_again(cache: &Path, seed: u64) -> bool {
    let requests = 1 + Rng(seed).below(REQUESTS - 1);
    let filling = killed_run(cache, seed, requests);
    let context = format!("seed {seed}: killed after {requests} requests, {filling:?}");
    println!("{context}");
    let output = replay(cache, seed).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{context}: {}", stderr(&output));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(number(&all, "wrong_bytes"), 0, "{context}: {all}");
    let filled = filling >= FILLED;
    if filled {
        assert!(number(&all, "disk_hit_bytes") > 0, "{context}: {all}");
    }
    filled
}

#[test]
fn no_kill_leaves_a_wrong_byte() {
    let dir = tempfile::tempdir().unwrap();
    let seed = std::env::var("NETFS_TEST_SEED").ok().map_or(0x5eed, |s| s.parse().unwrap());
    println!("NETFS_TEST_SEED={seed}");
    let filled = AtomicU64::new(0);
    thread::scope(|scope| {
        for lane in 0..LANES {
            let (dir, filled) = (dir.path(), &filled);
            scope.spawn(move || {
                for i in (lane..KILLS).step_by(LANES as usize) {
                    let cache = dir.join(format!("c{i}"));
                    let enough = kill_and_run_again(&cache, seed + i);
                    filled.fetch_add(u64::from(enough), Ordering::Relaxed);
                    fs::remove_dir_all(&cache).unwrap();
                }
            });
        }
    });
    let filled = filled.into_inner();
    assert!(filled >= KILLS / 5, "only {filled} runs filled for long enough to say anything");
}
