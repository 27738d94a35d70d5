//! Operations, and how a replay file spells them.

use std::fmt;

/// What is done to the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Read {
        how: How,
        offset: u64,
        len: u64,
    },
    Write {
        offset: u64,
        len: u64,
    },
    Append {
        len: u64,
    },
    Truncate {
        size: u64,
    },
    Flush {
        offset: u64,
        len: u64,
    },
    Fsync,
    CloseOpen,
    DropMemory,
    Restart,
    /// The whole file through a second handle, and what the origin holds after an fsync.
    CheckAll,
}

/// How a read is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    Copy,
    Slices,
    Bypass,
    Unbuffered,
}

const HOWS: [(How, &str); 4] = [
    (How::Copy, "read"),
    (How::Slices, "slices"),
    (How::Bypass, "bypass"),
    (How::Unbuffered, "unbuffered"),
];

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Op::Read { how, offset, len } => {
                let name = HOWS.iter().find(|(h, _)| *h == how).map_or("read", |(_, name)| name);
                write!(f, "{name} {offset:#x} {len:#x}")
            }
            Op::Write { offset, len } => write!(f, "write {offset:#x} {len:#x}"),
            Op::Append { len } => write!(f, "append {len:#x}"),
            Op::Truncate { size } => write!(f, "truncate {size:#x}"),
            Op::Flush { offset, len } => write!(f, "flush {offset:#x} {len:#x}"),
            Op::Fsync => f.write_str("fsync"),
            Op::CloseOpen => f.write_str("close_open"),
            Op::DropMemory => f.write_str("drop_memory"),
            Op::Restart => f.write_str("restart"),
            Op::CheckAll => f.write_str("check_all"),
        }
    }
}

impl Op {
    /// The operation a line says.
    pub(crate) fn parse(line: &str) -> Option<Op> {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let mut number = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        if let Some((how, _)) = HOWS.iter().find(|(_, n)| *n == name) {
            return Some(Op::Read { how: *how, offset: number()?, len: number()? });
        }
        Some(match name {
            "write" => Op::Write { offset: number()?, len: number()? },
            "append" => Op::Append { len: number()? },
            "truncate" => Op::Truncate { size: number()? },
            "flush" => Op::Flush { offset: number()?, len: number()? },
            "fsync" => Op::Fsync,
            "close_open" => Op::CloseOpen,
            "drop_memory" => Op::DropMemory,
            "restart" => Op::Restart,
            "check_all" => Op::CheckAll,
            _ => return None,
        })
    }
}
