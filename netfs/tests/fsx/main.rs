//! The file-system exerciser: one file, one user, random operations, and after each of them the file must
//! be exactly what a plain array of bytes says.
//!
//! The mix of operations and the rules for sizes and ends of file are those of the `fsx` that kernel file
//! systems are tested with: reads clipped at the end of the file, writes that extend it over a hole of
//! zeros, truncations up and down, and in between everything that makes a cache forget: fsyncs, closing and
//! opening again, dropping memory, a restart on the same disk cache. Nobody else writes; so there is
//! nothing to allow, and any difference is a bug.
//!
//! `NETFS_FSX_OPS` operations a seed (default 100,000), `NETFS_FSX_SEED` and `NETFS_FSX_SEEDS` for other
//! ones. A failure writes its operations to a file, one a line; `NETFS_FSX_REPLAY=file` runs just these,
//! so that lines can be taken out until only those are left that matter.

mod exerciser;
mod op;
mod origin;
#[path = "../modelling/rng.rs"]
#[expect(dead_code, reason = "the model tests choose in more ways")]
mod rng;
mod subject;

use exerciser::Exerciser;
use op::Op;
use origin::OriginKind;
use subject::{CacheKind, Style};

const OPS: u64 = 100_000;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

fn exercise(origin: OriginKind, cache: CacheKind, seed: u64, share: u64) {
    if let Ok(path) = std::env::var("NETFS_FSX_REPLAY") {
        return replay(&path, origin, cache);
    }
    let first = number("NETFS_FSX_SEED").unwrap_or(seed);
    for seed in first..first + number("NETFS_FSX_SEEDS").unwrap_or(1) {
        let mut fsx = Exerciser::new(Style::of(origin, cache, seed));
        for _ in 0..number("NETFS_FSX_OPS").unwrap_or(OPS) / share {
            fsx.random();
        }
        eprintln!("fsx: {origin:?}, cache {cache:?}, seed {seed}: {}", fsx.finish());
    }
}

/// Runs the operations of a file, if they were made for this origin and this cache.
fn replay(path: &str, origin: OriginKind, cache: CacheKind) {
    let text = std::fs::read_to_string(path).expect("the replay file can be read");
    let mut lines = text.lines();
    let style = lines.next().and_then(Style::parse).expect("the first line is the style");
    if (style.origin, style.cache) != (origin, cache) {
        return;
    }
    let mut fsx = Exerciser::new(style);
    for (i, line) in lines.enumerate() {
        let op = Op::parse(line).unwrap_or_else(|| panic!("line {}: no operation: {line}", i + 2));
        fsx.run(op);
    }
    eprintln!("fsx: {path} went through: {}", fsx.finish());
}

#[test]
fn every_byte_is_what_a_plain_file_would_hold_without_a_disk() {
    exercise(OriginKind::Memory, CacheKind::None, 1, 1);
}

#[test]
fn every_byte_is_what_a_plain_file_would_hold_on_the_memory_backend() {
    exercise(OriginKind::Memory, CacheKind::Memory, 2, 1);
}

#[test]
fn every_byte_is_what_a_plain_file_would_hold_on_a_cache_directory() {
    exercise(OriginKind::Memory, CacheKind::Directory, 3, 1);
}

/// A real file system under the adapter: each fsync is one of the disk.
#[test]
fn every_byte_is_what_a_plain_file_would_hold_of_a_local_tree() {
    exercise(OriginKind::Local, CacheKind::Directory, 4, 2);
}

#[test]
fn a_replay_file_says_what_was_done() {
    let style = Style::of(OriginKind::Memory, CacheKind::Memory, 77);
    assert_eq!(Style::parse(&style.to_string()), Some(style.clone()));
    let mut fsx = Exerciser::new(style.clone());
    (0..500).for_each(|_| fsx.random());
    let lines = fsx.replay();
    let mut again = Exerciser::new(style);
    for line in lines.lines().skip(1) {
        again.run(Op::parse(line).expect(line));
    }
    assert_eq!(again.replay(), lines);
}
