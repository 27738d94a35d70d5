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
        how: Way,
        offset: u64,
        len: u64,
    },
    Space {
        what: Space,
        offset: u64,
        len: u64,
    },
    Evict {
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

/// How a write is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Buffered,
    /// Returns when it is on stable storage.
    Sync,
    Direct,
}

/// What `fallocate` is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Space {
    Punch,
    Zero,
    ZeroKeepSize,
    Allocate,
    AllocateKeepSize,
}

const WAYS: [(Way, &str); 3] =
    [(Way::Buffered, "write"), (Way::Sync, "sync_write"), (Way::Direct, "direct_write")];

const SPACES: [(Space, &str); 5] = [
    (Space::Punch, "punch"),
    (Space::Zero, "zero"),
    (Space::ZeroKeepSize, "zero_keep_size"),
    (Space::Allocate, "allocate"),
    (Space::AllocateKeepSize, "allocate_keep_size"),
];

fn name_of<T: PartialEq>(names: &[(T, &'static str)], what: &T) -> &'static str {
    names.iter().find(|(n, _)| n == what).map_or("?", |(_, name)| name)
}

fn named<T: Copy>(names: &[(T, &str)], name: &str) -> Option<T> {
    names.iter().find(|(_, n)| *n == name).map(|(what, _)| *what)
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
                write!(f, "{} {offset:#x} {len:#x}", name_of(&HOWS, &how))
            }
            Op::Write { how, offset, len } => {
                write!(f, "{} {offset:#x} {len:#x}", name_of(&WAYS, &how))
            }
            Op::Space { what, offset, len } => {
                write!(f, "{} {offset:#x} {len:#x}", name_of(&SPACES, &what))
            }
            Op::Evict { offset, len } => write!(f, "evict {offset:#x} {len:#x}"),
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
        if let Some(how) = named(&HOWS, name) {
            return Some(Op::Read { how, offset: number()?, len: number()? });
        }
        if let Some(how) = named(&WAYS, name) {
            return Some(Op::Write { how, offset: number()?, len: number()? });
        }
        if let Some(what) = named(&SPACES, name) {
            return Some(Op::Space { what, offset: number()?, len: number()? });
        }
        Some(match name {
            "evict" => Op::Evict { offset: number()?, len: number()? },
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
