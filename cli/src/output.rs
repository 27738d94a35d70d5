//! Results on standard output.

use std::{
    io::{self, Write},
    path::Path,
};

use crate::failure::Failure;

/// A line on standard output, at once: a reader may be waiting for it.
pub(crate) fn print(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(Failure::io("write to", Path::new("standard output")))
}
