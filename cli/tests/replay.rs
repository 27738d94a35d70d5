//! `netfs bench replay` as a user runs it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use common::{number, stderr};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn replay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netfs"));
    command.args(["bench", "replay"]);
    command
}

/// The phases of a run that must have succeeded, without a wrong byte.
#[track_caller]
fn reports(output: &Output) -> Vec<Value> {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let phases: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for phase in &phases {
        assert_eq!(number(phase, "wrong_bytes"), 0, "{phase}");
    }
    phases
}

/// An NFS trace: each of three files read twice in 16 KiB pieces, with a write in the middle.
fn nfs_trace(dir: &Path) -> PathBuf {
    let mut text = String::from("time_s,client,server,file,op,offset,bytes\n");
    for round in 0..2 {
        for file in ["aa", "bb", "cc"] {
            for piece in 0..20 {
                let offset = piece * 16384;
                text += &format!("1.{round},c,s,{file},read,{offset},16384\n");
            }
        }
        if round == 0 {
            text += "1.5,c,s,bb,write,5,100\n";
        }
    }
    let path = dir.join("nfs.csv");
    fs::write(&path, text).unwrap();
    path
}

const FILE: u64 = 20 * 16384;

#[test]
fn after_a_restart_the_disk_has_what_did_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let trace = nfs_trace(dir.path());
    let output = replay().arg(&trace).args(["--json", "--restart-at", "50"]).output().unwrap();
    let [before, after] = &reports(&output)[..] else { panic!() };
    assert_eq!((&before["phase"], &after["phase"]), (&"before".into(), &"after".into()));
    assert_eq!((number(before, "requests"), number(after, "requests")), (60, 61));
    assert_eq!((number(before, "bytes"), number(before, "origin_bytes")), (3 * FILE, 3 * FILE));
    assert_eq!((number(after, "writes"), number(after, "written_bytes")), (1, 100));
    assert_eq!(number(after, "disk_hit_bytes"), 2 * FILE, "{after}");
    assert_eq!(number(after, "origin_bytes"), FILE, "{after}");
    let fields = [
        "phase",
        "trace",
        "trace_sha256",
        "format",
        "requests",
        "reads",
        "writes",
        "bytes",
        "wrong_bytes",
        "memory_hit_bytes",
        "disk_hit_bytes",
        "zero_bytes",
        "miss_cold_bytes",
        "miss_capacity_bytes",
        "miss_coherency_bytes",
        "miss_corruption_bytes",
        "miss_bypass_bytes",
        "miss_fault_bytes",
        "readahead_hit_bytes",
        "origin_bytes",
        "block_hit_ratio",
        "request_hit_ratio",
        "byte_hit_ratio",
        "origin_bytes_per_asked_byte",
        "evictions",
        "peak_memory_bytes",
        "pinned_bytes",
        "requests_per_s",
        "latency_us",
        "seconds",
        "memory_bytes",
        "fill",
        "policy",
        "seed",
        "version",
    ];
    for field in fields {
        assert!(!after[field].is_null(), "{field} in {after}");
    }
    for percentile in ["p50", "p99", "p999"] {
        assert!(after["latency_us"][percentile].is_f64(), "{after}");
    }
    assert_eq!(after["format"], "nfs");
}

#[test]
fn a_second_run_on_a_kept_cache_starts_warm() {
    let dir = tempfile::tempdir().unwrap();
    let (trace, cache) = (nfs_trace(dir.path()), dir.path().join("cache"));
    let run = || {
        let mut command = replay();
        command.arg(&trace).args(["--json", "--writes", "skip", "--cache-dir"]).arg(&cache);
        reports(&command.output().unwrap()).remove(0)
    };
    let first = run();
    assert_eq!((number(&first, "disk_hit_bytes"), number(&first, "origin_bytes")), (0, 3 * FILE));
    assert_eq!(first["writes_skipped"], true);
    let second = run();
    assert_eq!(number(&second, "disk_hit_bytes"), 3 * FILE, "{second}");
    assert_eq!((number(&second, "origin_bytes"), &second["byte_hit_ratio"]), (0, &1.0.into()));
}

#[test]
fn without_a_kept_cache_nothing_stays_and_people_get_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let (trace, tmp) = (nfs_trace(dir.path()), dir.path().join("tmp"));
    fs::create_dir(&tmp).unwrap();
    for more in [&[][..], &["--cache-dir", "none"], &["--threads", "3"]] {
        let mut command = replay();
        command.arg(&trace).args(more).env("TMPDIR", &tmp).current_dir(&tmp);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let table = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[0].ends_with("(nfs): 120 reads and 1 writes in 3 files of 960 KiB"),
            "{table}"
        );
        assert_eq!(lines[1], "each write is another client's change at the origin");
        assert!(lines[2].starts_with("phase ") && lines[3].starts_with("all "), "{table}");
        assert_eq!(lines[2].len(), lines[3].len(), "{table}");
        assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0, "{more:?} left something");
    }
}

#[test]
fn a_trace_may_come_from_a_pipe_or_be_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let trace = fs::read(nfs_trace(dir.path())).unwrap();
    let mut child = replay()
        .args(["-", "--json", "--cache-dir", "none"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&trace).unwrap();
    assert_eq!(number(&reports(&child.wait_with_output().unwrap())[0], "reads"), 120);

    let spec = "zipf+loop,requests=300,files=9,seed=4";
    let run =
        || replay().args(["--json", "--cache-dir", "none", "--generate", spec]).output().unwrap();
    let (one, two) = (reports(&run()).remove(0), reports(&run()).remove(0));
    assert_eq!((&one["format"], &one["seed"]), (&"generated".into(), &4.into()));
    for field in ["trace", "trace_sha256", "bytes", "memory_hit_bytes", "origin_bytes"] {
        assert_eq!(one[field], two[field], "{field}");
    }
}

#[test]
fn wrong_bytes_are_named_and_end_in_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let trace = nfs_trace(dir.path());
    let mut command = replay();
    command.arg(&trace).args(["--json", "--writes", "skip", "--lie-at", "61"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let wrong = number(&all, "wrong_bytes");
    assert!((3 * FILE * 99 / 100..=3 * FILE).contains(&wrong), "{all}");
    let said = stderr(&output);
    assert!(said.contains("WRONG: file \"aa\" first wrong byte at offset 0 (163"), "{said}");
    assert!(said.contains("wrong bytes were served"), "{said}");
}

#[test]
fn malformed_traces_and_words_that_make_no_sense_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.csv");
    fs::write(&bad, "time,file,op,offset,bytes\n0,a,read,0,10\n0,a,read,-7,10\n").unwrap();
    let good = nfs_trace(dir.path());
    let (bad, good) = (bad.to_str().unwrap(), good.to_str().unwrap());
    for (words, code, expected) in [
        (
            &[bad][..],
            2,
            "bad.csv: line 3: offset: must be a whole number from 0 to 2^63-1, found \"-7\"",
        ),
        (&["/dev/null"], 2, "/dev/null: line 1: request: there is none"),
        (&[good, "--format", "arc"], 2, "nfs.csv: line 1: first block: must be a whole number"),
        (&["/no/such/trace"], 3, "cannot read the trace /no/such/trace"),
        (&[good, "--format", "excel"], 2, "possible values: auto, arc"),
        (&[good, "--fill", "much"], 2, "possible values: granule, exact, auto"),
        (&[good, "--restart-at", "0"], 2, "1..=99"),
        (&[good, "--memory-bytes", "1k"], 2, "256 KiB"),
        (&[good, "--generate", "zipf"], 2, "cannot be used with"),
        (&["--generate", "zipf,colour=7"], 2, "no parameter \"colour\""),
        (&[], 2, "required"),
    ] {
        let output = replay().args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{words:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn a_cache_in_use_is_refused_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let _owner = cachefiles::CacheDir::builder(&cache).open().unwrap();
    let output = replay().args(["generated", "--cache-dir"]).arg(&cache).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("use another directory"), "{}", stderr(&output));
}

#[test]
fn an_interrupted_replay_removes_its_temporary_files() {
    let tmp = tempfile::tempdir().unwrap();
    // Slow enough to be still at it.
    let mut child = replay()
        .args(["generated", "--json", "--origin-rate", "4MiB", "--say-every", "1"])
        .env("TMPDIR", tmp.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("requests done") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "ended before its first request");
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("interrupted"), "{rest}");
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0, "temporary files were left");
}

#[test]
fn the_real_nfs_trace_is_served_rightly_across_a_restart() {
    let Some(traces) = std::env::var_os("NETFS_TRACES") else {
        eprintln!("NETFS_TRACES is not set: the real NFS trace was not replayed");
        return;
    };
    let trace = Path::new(&traces).join("nfs-animation-set0.csv.zst");
    let output = replay().arg(&trace).args(["--json", "--restart-at", "50"]).output().unwrap();
    let [before, after] = &reports(&output)[..] else { panic!() };
    assert_eq!(number(before, "requests") + number(after, "requests"), 8998);
    assert!(number(after, "disk_hit_bytes") > 0, "{after}");
}
