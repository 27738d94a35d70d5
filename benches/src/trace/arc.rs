//! ARC `.lis`: `first count ignored number`, decimal, blanks between. Reads only.

use super::{
    Op, PAGE,
    collect::{Record, SECTOR},
    error::Malformed,
    field::{Fields, scaled},
};

/// Blocks of 512 bytes.
pub(super) fn sectors(line: &[u8]) -> Result<Record<'_>, Malformed> {
    record(line, SECTOR)
}

/// Blocks of unstated size, taken as pages.
pub(super) fn pages(line: &[u8]) -> Result<Record<'_>, Malformed> {
    record(line, PAGE)
}

fn record(line: &[u8], unit: u64) -> Result<Record<'_>, Malformed> {
    let mut fields = Fields::words(line);
    let first = fields.number("first block")?;
    let count = fields.number("number of blocks")?;
    fields.number("ignored")?;
    fields.number("request number")?;
    fields.end()?;
    let offset = scaled("first block", first, unit)?;
    let len = scaled("number of blocks", count, unit)?;
    Ok(Record::Request { file: b"", op: Op::Read, offset, len })
}
