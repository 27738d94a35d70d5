//! What is known of each kind of filesystem: whose clock stamps its files, whether its inode numbers
//! last, whether inotify sees every change.

/// Properties of the filesystem below the tree. An unknown kind gets the careful value of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FsKind {
    /// Timestamps come from this kernel's clock, so a stamp's age can be told by it. False where
    /// another host may change files and stamp them by a clock that nobody here can read.
    pub(crate) host_clock: bool,
    /// Every change passes through this kernel and inotify reports it (stores through a shared
    /// mapping excepted).
    pub(crate) events: bool,
    /// A file keeps its inode number as long as it lives, over unmounts and restarts.
    pub(crate) lasting_ids: bool,
    /// All timestamps have a granularity of up to two seconds.
    pub(crate) coarse: bool,
    /// Inode numbers are only unique together with `st_dev` (overlayfs without xino).
    pub(crate) dev_in_key: bool,
}

/// A filesystem of this kernel without anything remarkable.
const LOCAL: FsKind =
    FsKind { host_clock: true, events: false, lasting_ids: true, coarse: false, dev_in_key: false };
/// Local, and inotify is to be relied on.
const WATCHED: FsKind = FsKind { events: true, ..LOCAL };
/// Shared with other hosts, with inode numbers that last.
const SHARED: FsKind = FsKind { host_clock: false, ..LOCAL };
/// Nothing is known.
const UNKNOWN: FsKind = FsKind { lasting_ids: false, ..SHARED };
/// FAT: no inode numbers of its own, two-second stamps.
const FAT: FsKind = FsKind { lasting_ids: false, coarse: true, ..LOCAL };

impl FsKind {
    /// By `f_type` of `statfs(2)`.
    pub(crate) fn of(f_type: u64) -> FsKind {
        match f_type {
            // ext2/3/4, xfs, btrfs, tmpfs
            0xEF53 | 0x5846_5342 | 0x9123_683E | 0x0102_1994 => WATCHED,
            // f2fs, bcachefs, zfs, squashfs, erofs, iso9660, udf
            0xF2F5_2010 | 0xCA45_1A4E | 0x2FC1_2FC1 | 0x7371_7368 | 0xE0F5_E1E2 | 0x9660
            | 0x1501_3346 => LOCAL,
            // overlayfs: a change below it, in the upper directory, passes inotify by
            0x794C_7630 => FsKind { lasting_ids: false, dev_in_key: true, ..LOCAL },
            // msdos/vfat, exfat
            0x4D44 | 0x2011_BAB0 => FAT,
            // nfs, ceph, gfs2, ocfs2
            0x6969 | 0x00C3_6400 | 0x0116_1970 | 0x7461_636F => SHARED,
            // fuse (sshfs), smb, 9p, afs and whatever comes
            _ => UNKNOWN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_filesystem_is_trusted_with_nothing() {
        let k = FsKind::of(0x1234_5678);
        assert!(!k.host_clock && !k.events && !k.lasting_ids);
    }

    #[test]
    fn only_four_kinds_are_watched() {
        assert!(FsKind::of(0xEF53).events && FsKind::of(0x0102_1994).events);
        assert!(!FsKind::of(0x6969).events && !FsKind::of(0x794C_7630).events);
    }
}
