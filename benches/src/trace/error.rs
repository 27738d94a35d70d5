//! What can be wrong with a trace.

use std::io;

/// Longest part of the input that a message repeats.
const SHOWN: usize = 60;

/// Why a trace could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// A line that does not follow its format.
    #[error("{trace}: line {line}: {field}: {what}, found {found:?}")]
    Malformed {
        /// The trace.
        trace: String,
        /// Which line, from 1.
        line: u64,
        /// Which field of it.
        field: &'static str,
        /// What is wrong with it, or what was expected.
        what: &'static str,
        /// What stands there instead (shortened).
        found: String,
    },
    /// The compressed data is damaged or ends too early.
    #[error("{trace}: damaged compressed data after line {line}: {source}")]
    Damaged {
        /// The trace.
        trace: String,
        /// How many lines were fine.
        line: u64,
        /// What the decompressor said.
        source: io::Error,
    },
    /// There is no request in it.
    #[error("{trace}: line 1: request: there is none, found the end of the file")]
    Empty {
        /// The trace.
        trace: String,
    },
    /// More than [`REQUESTS_MAX`](super::REQUESTS_MAX) requests: cut the trace.
    #[error("{trace}: more than {max} requests: cut it into parts")]
    TooLong {
        /// The trace.
        trace: String,
        /// How many are possible.
        max: usize,
    },
    /// Not a format there is, or not parameters of a generated trace.
    #[error("{0}")]
    Unknown(String),
    /// The operating system refused.
    #[error("cannot read {trace}: {source}")]
    Io {
        /// The trace.
        trace: String,
        /// The answer.
        source: io::Error,
    },
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) field: &'static str,
    pub(super) what: &'static str,
    pub(super) found: String,
}

impl Malformed {
    pub(super) fn new(field: &'static str, what: &'static str, found: &[u8]) -> Malformed {
        Malformed { field, what, found: shown(found) }
    }
}

impl TraceError {
    pub(super) fn empty(trace: &str) -> TraceError {
        TraceError::Empty { trace: trace.to_owned() }
    }
}

/// The beginning of `bytes`, printable.
fn shown(bytes: &[u8]) -> String {
    let cut = bytes.get(..SHOWN).unwrap_or(bytes);
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if cut.len() < bytes.len() {
        text.push_str("...");
    }
    text
}
