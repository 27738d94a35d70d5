//! The trace fuzzer's check without a fuzzer: over its corpus, and what lies next to it.

#[path = "../../fuzz/fuzz_targets/check/trace.rs"]
mod check;

use std::path::Path;

#[test]
fn the_corpus_and_what_is_next_to_it_break_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/trace");
    let entries = std::fs::read_dir(corpus).expect("the corpus is there");
    let files: Vec<_> = entries.map(|entry| entry.expect("listed").path()).collect();
    assert!(!files.is_empty());
    for file in files {
        let bytes = std::fs::read(&file).expect("read");
        check::trace(&bytes);
        for at in 0..bytes.len() {
            check::trace(&bytes[..at]);
            for with in [b',', b'\n', b'-', b'9', 0xff] {
                let mut changed = bytes.clone();
                changed[at] = with;
                check::trace(&changed);
            }
        }
    }
}
