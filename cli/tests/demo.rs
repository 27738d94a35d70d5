//! `netfs demo` as a user runs it.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
};

use common::{awkward_tree, contents, demo, number, phases, stderr};
use rustix::process::{Pid, Signal, kill_process};

/// Bytes of the files below `now` that `before` has not, or has otherwise.
fn changed_bytes(before: &Path, now: &Path) -> u64 {
    let old = contents(before);
    let new = contents(now);
    new.iter()
        .filter(|(path, bytes)| old.get(*path) != Some(bytes))
        .map(|(_, b)| b.len() as u64)
        .sum()
}

#[test]
fn every_phase_is_right_and_restart_is_served_wholly_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, cache) = (dir.path().join("tree"), dir.path().join("cache"));
    fs::create_dir(&tree).unwrap();
    awkward_tree(&tree);
    let bytes: u64 = contents(&tree).values().map(|c| c.len() as u64).sum();
    let files = contents(&tree).len() as u64;

    let output = demo(&tree, &cache).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let [cold, warm, restart, changed] = &phases(&output)[..] else { unreachable!() };
    for phase in [cold, warm, restart] {
        assert_eq!(number(phase, "bytes"), bytes, "{phase}");
        assert_eq!(number(phase, "files"), files, "{phase}");
    }
    for phase in [cold, warm, restart, changed] {
        assert_eq!(number(phase, "wrong_bytes"), 0, "{phase}\n{}", stderr(&output));
        for field in ["seconds", "gb_per_s", "hit_ratio"] {
            assert!(phase[field].is_f64(), "{field} in {phase}");
        }
        let misses: u64 =
            phase["miss_reasons"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        let hits = number(phase, "memory_hit_bytes") + number(phase, "disk_hit_bytes");
        assert_eq!(hits + misses, number(phase, "bytes"), "{phase}");
    }
    assert_eq!(number(cold, "memory_hit_bytes") + number(cold, "disk_hit_bytes"), 0, "{cold}");
    assert_eq!(number(warm, "memory_hit_bytes"), bytes, "all of it fits into memory: {warm}");
    assert_eq!(number(restart, "origin_bytes"), 0, "{restart}");
    assert_eq!(number(restart, "disk_hit_bytes"), bytes, "{restart}");
    assert_eq!(restart["hit_ratio"].as_f64(), Some(1.0), "{restart}");

    let altered = changed_bytes(&tree, &dir.path().join("cache.origin"));
    let fetched = number(changed, "origin_bytes");
    assert!(fetched > 0 && fetched <= altered, "{fetched} fetched, {altered} altered");
    // Of what keeps its inode the cache knows that it once had it; the rest is new to it.
    for reason in ["coherency", "cold"] {
        assert!(number(&changed["miss_reasons"], reason) > 0, "{changed}");
    }
}

#[test]
fn a_second_run_on_a_kept_cache_starts_with_disk_hits() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, cache) = (dir.path().join("tree"), dir.path().join("cache"));
    fs::create_dir(&tree).unwrap();
    awkward_tree(&tree);
    assert!(demo(&tree, &cache).status().unwrap().success());
    // What the first run altered is copied anew, nothing else.
    let altered = changed_bytes(&dir.path().join("cache.origin"), &tree);
    let output = demo(&tree, &cache).output().unwrap();
    let [cold, .., changed] = &phases(&output)[..] else { unreachable!() };
    let fetched = number(cold, "origin_bytes");
    assert!(fetched > 0 && fetched <= altered, "{fetched} fetched, {altered} altered");
    assert!(number(cold, "disk_hit_bytes") >= number(cold, "bytes") - altered, "{cold}");
    assert_eq!(number(changed, "wrong_bytes"), 0, "{changed}");
}

#[test]
fn a_wrong_byte_is_found_named_and_ends_in_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["tree", "reference"] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("big"), vec![7; 3 << 20]).unwrap();
        fs::write(at(name).join("same"), "same").unwrap();
    }
    let mut altered = vec![7; 3 << 20];
    altered[2_345_678] = 8;
    fs::write(at("reference").join("big"), altered).unwrap();
    fs::write(at("reference").join("missing"), "12345").unwrap();
    let output =
        demo(&at("tree"), &at("cache")).arg("--reference").arg(at("reference")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    for phase in &phases(&output)[..3] {
        assert_eq!(number(phase, "wrong_bytes"), 1 + 5, "{phase}");
    }
    let said = stderr(&output);
    assert!(said.contains("big first wrong byte at offset 2345678 (1 bytes)"), "{said}");
    assert!(said.contains("missing is missing (5 bytes)"), "{said}");
}

#[test]
fn without_a_cache_dir_nothing_stays_and_special_files_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, tmp) = (dir.path().join("tree"), dir.path().join("tmp"));
    fs::create_dir(&tree).unwrap();
    fs::create_dir(&tmp).unwrap();
    fs::write(tree.join("file"), "content").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_netfs"))
        .args(["demo", "--dir"])
        .arg(&tree)
        .env("TMPDIR", &tmp)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    let first: Vec<_> = table.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(first, ["phase", "cold", "warm", "restart", "changed"], "{table}");
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0, "temporary files were left");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("skipped socket: a special file"), "{said}");
}

#[test]
fn an_interrupted_run_removes_its_temporary_files() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, tmp) = (dir.path().join("tree"), dir.path().join("tmp"));
    fs::create_dir(&tree).unwrap();
    fs::create_dir(&tmp).unwrap();
    awkward_tree(&tree);
    let mut child = Command::new(env!("CARGO_BIN_EXE_netfs"))
        .args(["demo", "--json", "--delay-per-file-ms", "100", "--dir"])
        .arg(&tree)
        .env("TMPDIR", &tmp)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while said.read_line(&mut line).unwrap() > 0 && !line.contains("phase cold") {
        line.clear();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("interrupted"), "{rest}");
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0, "temporary files were left");
}

#[test]
fn a_cache_in_use_is_refused_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, cache) = (dir.path().join("tree"), dir.path().join("cache"));
    fs::create_dir(&tree).unwrap();
    let _owner = cachefiles::CacheDir::builder(&cache).open().unwrap();
    let output = demo(&tree, &cache).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = stderr(&output);
    assert!(said.contains("in use by") && said.contains("use another directory"), "{said}");
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let not_a_dir = demo(&file, &dir.path().join("c")).output().unwrap();
    assert_eq!(not_a_dir.status.code(), Some(2), "{}", stderr(&not_a_dir));
    let own_cache = demo(&dir.path().join("c"), &dir.path().join("c")).output().unwrap();
    assert_eq!(own_cache.status.code(), Some(3), "it does not exist: {}", stderr(&own_cache));
    fs::create_dir(dir.path().join("c")).unwrap();
    let own_cache = demo(&dir.path().join("c"), &dir.path().join("c")).output().unwrap();
    assert_eq!(own_cache.status.code(), Some(2), "{}", stderr(&own_cache));
    let mut small = demo(dir.path(), &dir.path().join("d"));
    let small = small.args(["--memory-bytes", "4k"]).output().unwrap();
    assert_eq!(small.status.code(), Some(2), "{}", stderr(&small));
}
