//! `statx` in the library's terms, and the tuple that stands for a file's version.

use std::{io, os::fd::BorrowedFd};

use netfs::remote::{Attr, FileKind, TimeSpec, Version};
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};

/// `STATX_MNT_ID_UNIQUE`: a mount id that is never reused (Linux 6.8).
const MNT_ID_UNIQUE: u32 = 0x4000;

/// One `statx` of one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stat {
    pub(crate) attr: Attr,
    pub(crate) dev: (u32, u32),
    pub(crate) btime: Option<TimeSpec>,
}

/// The mount a file was reached through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MountId {
    pub(crate) id: u64,
    /// The number is never given to another mount until the next boot.
    pub(crate) unique: bool,
}

impl Stat {
    /// Attributes of an open file (any kind of descriptor). With `force` a network filesystem asks
    /// its server instead of its attribute cache.
    pub(crate) fn of(fd: BorrowedFd<'_>, force: bool) -> io::Result<Stat> {
        let mut flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        if force {
            flags |= AtFlags::STATX_FORCE_SYNC;
        }
        let want = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stx = rustix::fs::statx(fd, c"", flags, want)?;
        let has_btime = stx.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Stat {
            attr: attr(&stx),
            dev: (stx.stx_dev_major, stx.stx_dev_minor),
            btime: has_btime.then(|| time(stx.stx_btime)),
        })
    }

    /// Whether both were taken of the same content: nothing that a write changes differs.
    pub(crate) fn same_content(&self, other: &Stat) -> bool {
        self.tuple() == other.tuple()
    }

    /// Inode, size, mtime, ctime as big-endian bytes. Whether it may be used as a version is for
    /// [`Stamps`](crate::stamps::Stamps) to say.
    pub(crate) fn tuple(&self) -> [u8; 40] {
        let a = &self.attr;
        let mut out = [0; 40];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&a.ino.to_be_bytes());
        put(&a.size.to_be_bytes());
        for t in [a.mtime, a.ctime] {
            put(&t.sec.to_be_bytes());
            put(&t.nsec.to_be_bytes());
        }
        out
    }

    /// The tuple as a version.
    pub(crate) fn version(&self) -> Option<Version> {
        Version::new(&self.tuple())
    }

    /// No name refers to the file any more.
    pub(crate) fn unlinked(&self) -> bool {
        self.attr.nlink == 0
    }
}

/// The mount of an open file, if the kernel tells (Linux 5.8).
pub(crate) fn mount_id(fd: BorrowedFd<'_>) -> io::Result<Option<MountId>> {
    let ask = |flag: StatxFlags| rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, flag);
    let unique = StatxFlags::from_bits_retain(MNT_ID_UNIQUE);
    let stx = ask(unique)?;
    if stx.stx_mask & MNT_ID_UNIQUE != 0 {
        return Ok(Some(MountId { id: stx.stx_mnt_id, unique: true }));
    }
    let stx = ask(StatxFlags::MNT_ID)?;
    let known = stx.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    Ok(known.then_some(MountId { id: stx.stx_mnt_id, unique: false }))
}

/// The library's name for a file type; an unknown one is treated as a device nobody can read.
pub(crate) fn kind(t: FileType) -> FileKind {
    match t {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::CharacterDevice | FileType::Unknown => FileKind::CharDevice,
    }
}

fn time(t: StatxTimestamp) -> TimeSpec {
    TimeSpec { sec: t.tv_sec, nsec: t.tv_nsec.min(999_999_999) }
}

fn attr(stx: &Statx) -> Attr {
    Attr {
        kind: kind(FileType::from_raw_mode(stx.stx_mode.into())),
        size: stx.stx_size,
        allocated: stx.stx_blocks.saturating_mul(512),
        mode: u32::from(stx.stx_mode) & 0o7777,
        nlink: stx.stx_nlink,
        uid: stx.stx_uid,
        gid: stx.stx_gid,
        rdev: rustix::fs::makedev(stx.stx_rdev_major, stx.stx_rdev_minor),
        ino: stx.stx_ino,
        atime: time(stx.stx_atime),
        mtime: time(stx.stx_mtime),
        ctime: time(stx.stx_ctime),
    }
}
