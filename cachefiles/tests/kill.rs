//! kill -9 at any moment (N-C57): every object the next run finds is absent, known to be stale, or
//! right.

mod common;

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use common::*;
use netfs::fscache::CacheObject;

const CHILD: &str = "NETFS_TEST_KILL_CHILD";
const KEYS: u64 = 12;
const SIZES: [u64; 3] = [5000, 300_000, 30 << 20];

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Content is a function of (key, version): the version is the identity's aux.
fn seed(key: u64, version: u64) -> u64 {
    key * 1000 + version
}

fn work(dir: &Path, start: u64) {
    let mut rng = Rng(start);
    let bed = Bed::with(builder(dir).flush_interval(Duration::from_micros(200)).max_descriptors(3));
    let mut open: Vec<Option<(Arc<dyn CacheObject>, u64)>> = (0..KEYS).map(|_| None).collect();
    for op in 0u64.. {
        let key = rng.below(KEYS);
        let size = SIZES[(key % 3) as usize];
        let slot = &mut open[key as usize];
        match (rng.below(10), slot.take()) {
            (_, None) => {
                let version = rng.below(3);
                let id = identity(&version.to_be_bytes(), size);
                *slot = Some((bed.object(format!("k{key}").as_bytes(), &id).0, version));
            }
            (0, Some((object, _))) => close(object),
            (1, Some((object, version))) => {
                let version = version + 1;
                let id = identity(&version.to_be_bytes(), size);
                *slot = Some((object.cut_over(id).expect("cut over"), version));
            }
            (2, Some((object, version))) => {
                object.forget(0..rng.below(size));
                *slot = Some((object, version));
            }
            (_, Some((object, version))) => {
                let pages = size.div_ceil(4096);
                let first = rng.below(pages);
                let count = (1 + rng.below(40)).min(pages - first) as usize;
                fill(&object, seed(key, version), first * 4096, count * 4096);
                *slot = Some((object, version));
            }
        }
        println!("op {op}");
        std::io::stdout().flush().expect("parent reads");
    }
}

#[test]
fn child() {
    if let Ok(what) = std::env::var(CHILD) {
        let (start, dir) = what.split_once(' ').expect("seed and directory");
        work(Path::new(dir), start.parse().expect("seed"));
    }
}

/// The identity in a file's header, by the format's document.
fn stored_identity(path: &Path) -> (u64, u64) {
    let header = xattr::get(path, "user.netfs.hdr").expect("xattr").expect("published complete");
    let number = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("8 bytes"));
    (number(60), number(32))
}

#[test]
fn n_c57_after_a_kill_every_object_is_absent_stale_or_right() {
    let dir = tempfile::tempdir().expect("dir");
    let mut hits = 0u64;
    for round in 0..20u64 {
        let mut child = Command::new(std::env::current_exe().expect("test binary"))
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, format!("{round} {}", dir.path().display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let stop = 1 + Rng(round * 7919).below(400);
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ops =
            lines.map_while(Result::ok).filter(|l| l.contains("op ")).take(stop as usize).count();
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(ops as u64, stop, "the child of round {round} ended by itself");
        hits += verify(dir.path(), round);
    }
    assert!(hits > 500, "what was stored survives: {hits} pages");
}

fn verify(dir: &Path, round: u64) -> u64 {
    let bed = Bed::open(dir);
    let mut hits = 0;
    for key in 0..KEYS {
        let name = format!("k{key}");
        let Some(path) = find(dir, &format!("D{name}")) else { continue };
        let (version, size) = stored_identity(&path);
        let id = identity(&version.to_be_bytes(), size);
        let (object, _) = bed.object(name.as_bytes(), &id);
        for page in 0..size.div_ceil(4096) {
            let len = 4096.min(size - page * 4096) as usize;
            if let Ok(bytes) = read_any(&object, page * 4096, len) {
                let want = content(seed(key, version), page * 4096, len, size);
                assert!(bytes == want, "round {round}: wrong bytes in {name} page {page}");
                hits += 1;
            }
        }
        close(object);
    }
    bed.end();
    hits
}
