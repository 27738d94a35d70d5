//! What holds of every trace that is read, whatever the bytes: shared by the fuzzer and by the test that
//! does without one (`benches/tests/trace_corpus.rs`).

use netfs_bench::trace::{self, Format, REQUEST_BYTES_MAX, Trace};

/// By its first line, and as each format in turn.
pub(crate) fn trace(data: &[u8]) {
    let named = Format::NAMES.iter().map(|name| name.parse::<Format>().ok());
    for format in std::iter::once(None).chain(named) {
        match trace::read(data, "fuzzed", format) {
            Ok(trace) => check(&trace),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn check(trace: &Trace) {
    assert!(!trace.requests.is_empty());
    for request in &trace.requests {
        let file = &trace.files[request.file as usize];
        let len = u64::from(request.len);
        assert!((1..=REQUEST_BYTES_MAX).contains(&len));
        assert!(request.offset.checked_add(len).is_some_and(|end| end <= file.size));
    }
}
