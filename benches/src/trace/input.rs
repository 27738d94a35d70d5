//! Opening a trace's file: its sum, and what it is compressed with.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::{Format, Trace, TraceError, read};

/// First bytes of a gzip member (RFC 1952, 2.3.1) and of a Zstandard frame (RFC 8878, 3.1.1), the latter
/// also of a skippable one.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Reads the trace in a file (or pipe); `.gz` and `.zst` are known by their first bytes, whatever the
/// name. `format` overrides what the first line says.
///
/// # Errors
/// See [`TraceError`].
pub fn open(path: &Path, format: Option<Format>) -> Result<Trace, TraceError> {
    let name = path.display().to_string();
    let io = |source| TraceError::Io { trace: name.clone(), source };
    let mut file = Summed { inner: File::open(path).map_err(io)?, sum: Sha256::new() };
    let mut trace = decompressed(BufReader::new(&mut file), &name, format)?;
    // What follows the last line belongs to the sum, too.
    io::copy(&mut file, &mut io::sink()).map_err(io)?;
    let sum = file.sum.finalize();
    trace.sha256 = hex(&sum);
    trace.seed = seed(&sum);
    Ok(trace)
}

fn decompressed(
    mut input: impl BufRead,
    name: &str,
    format: Option<Format>,
) -> Result<Trace, TraceError> {
    let io = |source| TraceError::Io { trace: name.to_owned(), source };
    let start = input.fill_buf().map_err(io)?;
    if start.starts_with(&GZIP) {
        return read(BufReader::new(MultiGzDecoder::new(input)), name, format);
    }
    let skippable = start.get(1..4).is_some_and(|rest| rest == ZSTD_SKIPPABLE);
    if start.starts_with(&ZSTD) || (skippable && start[0] & 0xf0 == 0x50) {
        let decoder = zstd::Decoder::with_buffer(input).map_err(io)?;
        return read(BufReader::new(decoder), name, format);
    }
    read(input, name, format)
}

/// A reader that hashes what passes.
struct Summed<R> {
    inner: R,
    sum: Sha256,
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.sum.update(&buf[..n]);
        Ok(n)
    }
}

/// The sum of some text, as of a file with that content.
pub(super) fn sum_of(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn hex(sum: &[u8]) -> String {
    sum.iter().map(|b| format!("{b:02x}")).collect()
}

/// 32 bits, which every reader of JSON keeps exactly.
fn seed(sum: &[u8]) -> u64 {
    sum.iter().take(4).fold(0, |seed, &b| seed << 8 | u64::from(b))
}
