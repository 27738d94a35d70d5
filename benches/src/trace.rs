//! Traces of real I/O: what was read and written, in which file, where.
//!
//! ```text
//! open        a file, decompressed by its first bytes, hashed         input
//! read        any reader: lines of bounded length                     lines
//! detect      which format, by the first line                         format
//! parse       one module a format: a line to a record                 arc blocks csv/*
//! collect     records to a trace: file names to numbers, sizes        collect
//! generate    a trace from a few words instead of a file              generate
//! ```
//!
//! Parsing streams: the text is never held, only 24 bytes a request. Whatever is wrong with the input
//! is a [`TraceError`] that names trace, line, field and what was found.
//!
//! ```
//! use netfs_bench::trace::{self, Format, Op};
//! let text = "time,file,op,offset,bytes\n0.5,a,read,0,4096\n0.6,b,write,8192,100\n";
//! let trace = trace::read(text.as_bytes(), "example", None)?;
//! assert_eq!(trace.format, Format::Plain);
//! assert_eq!((trace.files[1].name.as_str(), trace.files[1].size), ("b", 8292));
//! assert_eq!(trace.requests[0].op, Op::Read);
//! # Ok::<(), netfs_bench::trace::TraceError>(())
//! ```

mod arc;
mod blocks;
mod collect;
mod csv;
mod error;
mod field;
mod format;
mod generate;
mod input;
mod lines;

use std::io::BufRead;

pub use error::TraceError;
pub use format::Format;
pub use generate::Spec;
pub use input::open;

use self::{collect::Collector, format::Parser, lines::Lines};

/// Unit of block-structured formats and of hit ratios: 4 KiB.
pub const PAGE: u64 = 4096;

/// Longest single request, in bytes. More is a damaged trace.
pub const REQUEST_BYTES_MAX: u64 = 1 << 30;

/// Most requests of one trace: they are held in memory, 24 bytes each.
pub const REQUESTS_MAX: usize = 200_000_000;

/// A whole trace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trace {
    /// How messages and reports call it: the path, or a generated trace's parameters.
    pub name: String,
    /// SHA-256 of the trace's file as it is (compressed, if it is), or of the parameters, in hex.
    pub sha256: String,
    /// What it was read as.
    pub format: Format,
    /// Seed of the files' content: from the sum, or the one a trace was generated with.
    pub seed: u64,
    /// The files, numbered in the order in which they appear.
    pub files: Vec<TraceFile>,
    /// Reads and writes, in the trace's order.
    pub requests: Vec<Request>,
    /// Lines that are neither: other SCSI commands, requests of no bytes.
    pub ignored: u64,
}

/// A file of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceFile {
    /// How the trace calls it.
    pub name: String,
    /// End of the largest request, in bytes.
    pub size: u64,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// Which file: an index into [`Trace::files`].
    pub file: u32,
    /// How many bytes: at least 1, at most [`REQUEST_BYTES_MAX`].
    pub len: u32,
    /// What for.
    pub op: Op,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads.
    Read,
    /// Writes.
    Write,
}

/// Reads a trace; `format` overrides what its first line says. `name` is for messages.
///
/// # Errors
/// See [`TraceError`]; also a trace without any request is one.
pub fn read(input: impl BufRead, name: &str, format: Option<Format>) -> Result<Trace, TraceError> {
    let mut lines = Lines::new(input, name);
    let mut collector = Collector::default();
    let mut parser = format.map(Parser::new);
    while let Some(line) = lines.next()? {
        let text = line.text;
        if text.is_empty() {
            continue;
        }
        let started = match &mut parser {
            Some(started) => started,
            None => parser.insert(Parser::detect(text).ok_or_else(|| line.unknown(name))?),
        };
        let parsed = started.line(text).and_then(|record| collector.add(record));
        parsed.map_err(|e| line.malformed(name, e))?;
    }
    let Some(parser) = parser else { return Err(TraceError::empty(name)) };
    collector.finish(name, &parser)
}

#[cfg(test)]
mod tests;
