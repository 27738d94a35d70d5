//! kill -9 at random moments: the next run on the same cache shows no wrong byte, and keeps what had
//! been stored.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use common::{Rng, demo, number, phases, stderr};

/// Kills in all, and how many run at a time: they mostly wait.
const KILLS: u64 = 20;
const LANES: u64 = 4;

/// A killed run that had filled for so long must have left something.
const FILLED: Duration = Duration::from_secs(1);

fn tree_of_small_files(root: &Path) {
    let mut rng = Rng(2);
    for i in 0..400 {
        let dir = root.join(format!("d{}", i % 20));
        fs::create_dir_all(&dir).unwrap();
        // Up to 60 KiB: several pages, some of them partial. One in 50 has several granules.
        let len = if i % 50 == 7 { 700_000 } else { rng.below(60 << 10) as usize };
        fs::write(dir.join(format!("f{i}")), rng.bytes(len)).unwrap();
    }
}

/// Starts a run, kills it `after` its first phase has begun; says how long it had been filling.
fn killed_run(tree: &Path, cache: &Path, delay_ms: u64, after: Duration) -> Duration {
    let mut run = demo(tree, cache);
    run.args(["--delay-per-file-ms", &delay_ms.to_string()]);
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("phase cold") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "ended before its first phase");
    }
    let began = Instant::now();
    thread::sleep(after);
    let filling = began.elapsed();
    child.kill().unwrap();
    child.wait().unwrap();
    // To the end, which comes when a process it had started for a phase has ended as well.
    let mut rest = Vec::new();
    said.read_to_end(&mut rest).unwrap();
    filling
}

fn kill_and_run_again(tree: &Path, cache: &Path, seed: u64) {
    let mut rng = Rng(seed);
    let after = Duration::from_millis(200 + rng.below(2300));
    // The slowest is killed in `cold`, the fastest may have come as far as `changed`.
    let delay_ms = [1, 4, 8, 20][rng.below(4) as usize];
    let filling = killed_run(tree, cache, delay_ms, after);
    let context = format!("seed {seed}: killed after {after:?}, {delay_ms} ms a file");
    println!("{context}");
    let output = demo(tree, cache).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{context}: {}", stderr(&output));
    let phases = phases(&output);
    for phase in &phases {
        assert_eq!(number(phase, "wrong_bytes"), 0, "{context}: {phase}");
    }
    assert_eq!(number(&phases[2], "origin_bytes"), 0, "{context}: {}", phases[2]);
    if filling >= FILLED {
        assert!(number(&phases[0], "disk_hit_bytes") > 0, "{context}: {}", phases[0]);
    }
}

#[test]
fn no_kill_leaves_a_wrong_byte() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    tree_of_small_files(&tree);
    let seed = std::env::var("NETFS_TEST_SEED").ok().map_or(0x5eed, |s| s.parse().unwrap());
    println!("NETFS_TEST_SEED={seed}");
    thread::scope(|scope| {
        for lane in 0..LANES {
            let (tree, dir) = (&tree, dir.path());
            scope.spawn(move || {
                for i in (lane..KILLS).step_by(LANES as usize) {
                    let cache = dir.join(format!("c{i}"));
                    kill_and_run_again(tree, &cache, seed + i);
                    fs::remove_dir_all(&cache).unwrap();
                    fs::remove_dir_all(cache.with_extension("origin")).unwrap();
                }
            });
        }
    });
}
