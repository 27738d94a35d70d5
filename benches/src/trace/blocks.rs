//! Block list: one decimal block number a line; lines with `*` are ignored. Reads only.

use super::{
    Op, PAGE,
    collect::Record,
    error::Malformed,
    field::{Fields, scaled},
};

pub(super) fn line(line: &[u8]) -> Result<Record<'_>, Malformed> {
    if line.contains(&b'*') {
        return Ok(Record::Nothing);
    }
    let mut fields = Fields::words(line);
    let block = fields.number("block")?;
    fields.end()?;
    let offset = scaled("block", block, PAGE)?;
    Ok(Record::Request { file: b"", op: Op::Read, offset, len: PAGE })
}
