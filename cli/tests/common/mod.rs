//! What the tests of the binary share: generated trees, running it, its reports.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

/// Reproducible chance.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// A tree with everything that is awkward: holes, empty files, names of any bytes and of full length,
/// depth, links, several granules, sizes around a page.
pub(crate) fn awkward_tree(root: &Path) {
    let mut rng = Rng(1);
    let deep = root.join("a/b/c/d/e/f/g");
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir(root.join("empty-dir")).unwrap();
    let mut put = |path: &Path, len: usize| fs::write(path, rng.bytes(len)).unwrap();
    put(&root.join("three-mib"), 3 << 20);
    put(&root.join("empty"), 0);
    put(&deep.join("deepest"), 70_000);
    put(&root.join("n".repeat(255)), 10_000);
    put(&root.join(OsStr::from_bytes(b"not\xff\xfeutf8\n\x80")), 20_000);
    for (i, len) in [1, 4095, 4096, 4097, 262_143, 262_144, 262_145].into_iter().enumerate() {
        put(&root.join(format!("a/b/size{i}")), len);
    }
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len((5 << 20) + 123).unwrap();
    sparse.write_all_at(b"island", 2 << 20).unwrap();
    std::os::unix::fs::symlink("three-mib", root.join("link")).unwrap();
    std::os::unix::fs::symlink("no/such/place", root.join("a/dangling")).unwrap();
}

/// The binary with the words for a JSON demo of `dir`.
pub(crate) fn demo(dir: &Path, cache: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netfs"));
    command.args(["demo", "--json", "--dir"]).arg(dir).arg("--cache-dir").arg(cache);
    command
}

/// Its phases: four JSON objects in order.
#[track_caller]
pub(crate) fn phases(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let phases: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names: Vec<_> = phases.iter().map(|p| p["phase"].as_str().unwrap()).collect();
    assert_eq!(names, ["cold", "warm", "restart", "changed"], "{}", stderr(output));
    phases
}

/// A number of a phase's report.
#[track_caller]
pub(crate) fn number(phase: &Value, field: &str) -> u64 {
    phase[field].as_u64().unwrap_or_else(|| panic!("{field} in {phase}"))
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Regular files of a tree: relative path and content.
pub(crate) fn contents(root: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut out = std::collections::BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path().strip_prefix(root).unwrap().to_owned();
                out.insert(path, fs::read(entry.path()).unwrap());
            }
        }
    }
    out
}
