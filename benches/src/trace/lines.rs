//! Lines of bounded length, counted.

use std::io::{self, BufRead, Read};

use super::error::{Malformed, TraceError};

/// Longest line. Real ones have at most a few hundred bytes.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// Reads line by line into one buffer.
pub(super) struct Lines<'a, R> {
    input: R,
    trace: &'a str,
    buf: Vec<u8>,
    number: u64,
}

/// A line without its end.
pub(super) struct Line<'a> {
    pub(super) text: &'a [u8],
    pub(super) number: u64,
}

impl<R: BufRead> Lines<'_, R> {
    pub(super) fn new(input: R, trace: &str) -> Lines<'_, R> {
        Lines { input, trace, buf: Vec::new(), number: 0 }
    }

    /// The next line, trimmed; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Line<'_>>, TraceError> {
        self.buf.clear();
        // One more than allowed, so that a line of exactly the bound can be told from a longer one.
        let mut bounded = (&mut self.input).take(LINE_BYTES_MAX + 1);
        let read = bounded.read_until(b'\n', &mut self.buf);
        let n = read.map_err(|e| broken(e, self.trace, self.number))?;
        if n == 0 {
            return Ok(None);
        }
        self.number += 1;
        let line = Line { text: self.buf.trim_ascii(), number: self.number };
        if self.buf.len() as u64 > LINE_BYTES_MAX {
            let long = Malformed::new("line", "longer than 16 KiB", &self.buf);
            return Err(line.malformed(self.trace, long));
        }
        Ok(Some(line))
    }
}

impl Line<'_> {
    pub(super) fn malformed(&self, trace: &str, wrong: Malformed) -> TraceError {
        let Malformed { field, what, found } = wrong;
        TraceError::Malformed { trace: trace.to_owned(), line: self.number, field, what, found }
    }

    /// The first line is of no known format.
    pub(super) fn unknown(&self, trace: &str) -> TraceError {
        let what = "of no known format (--format names one)";
        self.malformed(trace, Malformed::new("line", what, self.text))
    }
}

/// An error of the operating system has its number; one of a decompressor has none.
fn broken(source: io::Error, trace: &str, line: u64) -> TraceError {
    let trace = trace.to_owned();
    if source.raw_os_error().is_some() {
        return TraceError::Io { trace, source };
    }
    TraceError::Damaged { trace, line, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_trimmed_and_bounded() {
        let mut lines = Lines::new(&b"a b\r\n\n  c"[..], "t");
        let mut seen = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            seen.push((line.number, String::from_utf8_lossy(line.text).into_owned()));
        }
        assert_eq!(seen, [(1, "a b".to_owned()), (2, String::new()), (3, "c".to_owned())]);

        let fits = vec![b'x'; LINE_BYTES_MAX as usize];
        assert!(Lines::new(&fits[..], "t").next().unwrap().is_some());
        let long = [b"1\n".to_vec(), vec![b'x'; 1 << 20]].concat();
        let mut lines = Lines::new(&long[..], "t");
        lines.next().unwrap();
        let error = lines.next().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.starts_with("t: line 2: line: longer than 16 KiB, found \"xxx"), "{error}");
        assert!(error.len() < 200, "{error}");
    }
}
