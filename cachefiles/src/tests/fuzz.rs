//! The fuzzers' entry points without a fuzzer: over their corpora, valid inputs, and random bytes.

use std::path::Path;

use proptest::prelude::*;

use crate::fuzzing;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 4] = [
    ("header", fuzzing::header),
    ("content_map", fuzzing::content_map),
    ("side_file", fuzzing::side_file),
    ("name", fuzzing::name),
];

fn target(name: &str) -> fn(&[u8]) {
    TARGETS.iter().find(|(n, _)| *n == name).expect("a target of that name").1
}

#[test]
fn n_c56_the_corpora_break_nothing() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, run) in TARGETS {
        let files: Vec<_> = std::fs::read_dir(fuzz.join(name))
            .unwrap_or_else(|e| panic!("the corpus of {name}: {e}"))
            .map(|entry| entry.expect("listed").path())
            .collect();
        assert!(!files.is_empty(), "the corpus of {name} is empty");
        for file in files {
            run(&std::fs::read(&file).expect("read"));
        }
    }
}

#[test]
fn n_c56_valid_inputs_cut_and_changed_anywhere_break_nothing() {
    for (name, _, bytes) in fuzzing::seeds() {
        let run = target(name);
        run(&bytes);
        for at in 0..bytes.len().min(400) {
            run(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            run(&changed);
            changed[at] = 0xff;
            run(&changed);
        }
    }
}

proptest! {
    #[test]
    fn n_c56_any_bytes_break_nothing(
        which in 0..TARGETS.len(),
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        TARGETS[which].1(&bytes);
    }

    /// Bytes spliced into valid inputs come further than bytes from nowhere.
    #[test]
    fn n_c56_splices_of_valid_inputs_break_nothing(
        pick in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        with in proptest::collection::vec(any::<u8>(), 0..40),
        cut in 0usize..40,
    ) {
        let seeds = fuzzing::seeds();
        let (name, _, mut bytes) = seeds[pick.index(seeds.len())].clone();
        let at = at.index(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, with);
        target(name)(&bytes);
    }
}

/// Writes the seeds to the corpora, for whoever changes the format:
/// `NETFS_WRITE_SEEDS=1 cargo test -p cachefiles the_corpora_hold_the_seeds`.
#[test]
fn the_corpora_hold_the_seeds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, name, bytes) in fuzzing::seeds() {
        let path = fuzz.join(target).join(name);
        if std::env::var_os("NETFS_WRITE_SEEDS").is_some() {
            std::fs::write(&path, &bytes).expect("written");
        }
        assert!(std::fs::read(&path).is_ok_and(|b| b == bytes), "{}: out of date", path.display());
    }
}
