//! The formats with a header and commas.

use super::{
    Op,
    collect::{Record, SECTOR},
    error::Malformed,
    field::{Fields, scaled},
};

/// Headers, by which these formats are known.
pub(super) const PLAIN: &[u8] = b"time,file,op,offset,bytes";
pub(super) const NFS: &[u8] = b"time_s,client,server,file,op,offset,bytes";
pub(super) const VSCSI: &[u8] = b"version,time,op,size,lbn";
pub(super) const TECTONIC: &[u8] = b"op_time,block_id,block_id_size,io_size,io_offset,user_name,\
    user_namespace,op_name,op_count,host_name,rs_shard_id";

/// `time,file,op,offset,bytes`.
pub(super) fn plain(line: &[u8]) -> Result<Record<'_>, Malformed> {
    let mut fields = Fields::csv(line);
    fields.time("time")?;
    access(fields)
}

/// `time_s,client,server,file,op,offset,bytes`: NFS READs and WRITEs.
pub(super) fn nfs(line: &[u8]) -> Result<Record<'_>, Malformed> {
    let mut fields = Fields::csv(line);
    fields.time("time_s")?;
    fields.name("client")?;
    fields.name("server")?;
    access(fields)
}

/// `file,op,offset,bytes`.
fn access(mut fields: Fields<'_>) -> Result<Record<'_>, Malformed> {
    let file = fields.name("file")?;
    let op = fields.text("op")?;
    let op = match op {
        b"read" | b"r" | b"R" | b"READ" => Op::Read,
        b"write" | b"w" | b"W" | b"WRITE" => Op::Write,
        _ => return Err(Malformed::new("op", "must be read or write", op)),
    };
    let offset = fields.number("offset")?;
    let len = fields.number("bytes")?;
    fields.end()?;
    Ok(Record::Request { file, op, offset, len })
}

/// `version,time,op,size,lbn`: SCSI commands to one virtual disk; `op` is the opcode in hexadecimal,
/// `lbn` in sectors.
pub(super) fn vscsi(line: &[u8]) -> Result<Record<'_>, Malformed> {
    let mut fields = Fields::csv(line);
    fields.number("version")?;
    fields.time("time")?;
    let text = fields.text("op")?;
    let hex = std::str::from_utf8(text).ok().filter(|t| !t.starts_with('+'));
    let opcode = hex.and_then(|t| u8::from_str_radix(t, 16).ok());
    let what = "must be a SCSI opcode in hexadecimal";
    let opcode = opcode.ok_or_else(|| Malformed::new("op", what, text))?;
    let len = fields.number("size")?;
    let lbn = fields.number("lbn")?;
    fields.end()?;
    let op = match opcode {
        0x08 | 0x28 | 0xa8 | 0x88 => Op::Read, // READ(6), (10), (12), (16)
        0x0a | 0x2a | 0xaa | 0x8a => Op::Write, // WRITE(6), (10), (12), (16)
        _ => return Ok(Record::Ignored),
    };
    let offset = scaled("lbn", lbn, SECTOR)?;
    Ok(Record::Request { file: b"", op, offset, len })
}

/// Meta Tectonic: the cacheable object is the block, `getChunkData.*` reads it and `putChunk.*` writes.
pub(super) fn tectonic(line: &[u8]) -> Result<Record<'_>, Malformed> {
    let mut fields = Fields::csv(line);
    fields.time("op_time")?;
    let file = fields.name("block_id")?;
    fields.number("block_id_size")?;
    let len = fields.number("io_size")?;
    let offset = fields.number("io_offset")?;
    fields.text("user_name")?;
    fields.text("user_namespace")?;
    let op = fields.text("op_name")?;
    fields.number("op_count")?;
    fields.text("host_name")?;
    fields.text("rs_shard_id")?;
    fields.end()?;
    let op = match op.split(|&b| b == b'.').next() {
        Some(b"getChunkData") => Op::Read,
        Some(b"putChunk") => Op::Write,
        _ => {
            let what = "must be getChunkData.* or putChunk.*";
            return Err(Malformed::new("op_name", what, op));
        }
    };
    Ok(Record::Request { file, op, offset, len })
}
