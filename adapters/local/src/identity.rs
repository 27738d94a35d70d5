//! Names that last: which tree this is ([`VolumeId`]) and which file ([`file_key`]).

use std::{fmt::Write as _, fs, io, os::fd::BorrowedFd};

use netfs::{Errno, Error, Result, remote::VolumeId};

use crate::{
    kind::FsKind,
    stat::{MountId, Stat, mount_id},
    sys,
};

/// The key of a file: inode number, then what tells apart two files that get the same number one
/// after the other: the filesystem's own handle, which has a generation, or the time of birth.
///
/// Handles are used on filesystems of this kernel only: a network filesystem's handle is the server's,
/// which may have several for one file.
pub(crate) fn file_key(kind: FsKind, st: &Stat, handle: Option<&sys::FileHandle>) -> Vec<u8> {
    let mut key = st.attr.ino.to_be_bytes().to_vec();
    if kind.dev_in_key {
        key.extend_from_slice(&st.dev.0.to_be_bytes());
        key.extend_from_slice(&st.dev.1.to_be_bytes());
    }
    match (handle, st.btime) {
        (Some(h), _) if kind.host_clock => key.extend_from_slice(&h.to_bytes()),
        (_, Some(t)) => {
            key.extend_from_slice(&t.sec.to_be_bytes());
            key.extend_from_slice(&t.nsec.to_be_bytes());
        }
        _ => {}
    }
    key
}

/// The filesystem's handle in a key that [`file_key`] made with one. `None` if there is none in it.
pub(crate) fn handle_in(kind: FsKind, key: &[u8]) -> Option<sys::FileHandle> {
    let numbers = if kind.dev_in_key { 16 } else { 8 };
    sys::FileHandle::from_bytes(key.get(numbers..)?)
}

/// The tree's identity: its filesystem's and its root directory's.
///
/// Where inode numbers last, that is the filesystem's UUID (or the network mount's source) and the
/// key of the root directory, so that every mount of the tree has the same identity and none is
/// needed to keep the path. Elsewhere an inode number means something only until the unmount, so the
/// identity is the mount's.
pub(crate) fn volume_id(
    kind: FsKind,
    root: BorrowedFd<'_>,
    uuid: Option<Vec<u8>>,
    root_key: &[u8],
) -> Result<VolumeId> {
    let source = if kind.lasting_ids {
        match uuid.or_else(|| statfs_id(root)) {
            Some(uuid) => Some(format!("fs:{}", hex(&uuid))),
            None => mount_source(root).map(|s| format!("src:{s}")),
        }
    } else {
        None
    };
    let fs_part = match source {
        Some(s) => s,
        None => mount_identity(root)?,
    };
    VolumeId::new(&format!("local:{fs_part}:{}", hex(root_key))).map_err(|e| {
        Error::new(
            e.errno(),
            "the mount's source makes a volume id too long: set one with volume_id()",
        )
    })
}

/// `f_fsid`, if the filesystem fills it in.
fn statfs_id(root: BorrowedFd<'_>) -> Option<Vec<u8>> {
    // statvfs packs the two words of the fsid into one number.
    let fsid = rustix::fs::fstatvfs(root).ok()?.f_fsid;
    (fsid != 0).then(|| fsid.to_be_bytes().to_vec())
}

/// What the tree was mounted from ("server:/export"), for filesystems without an id of their own.
fn mount_source(root: BorrowedFd<'_>) -> Option<String> {
    let id = mount_entry_id(root)?;
    let info = fs::read("/proc/self/mountinfo").ok()?;
    source_in(&String::from_utf8_lossy(&info), id)
}

/// The id that mountinfo uses.
fn mount_entry_id(root: BorrowedFd<'_>) -> Option<u64> {
    let flags = rustix::fs::AtFlags::EMPTY_PATH;
    let stx = rustix::fs::statx(root, c"", flags, rustix::fs::StatxFlags::MNT_ID).ok()?;
    (stx.stx_mask & rustix::fs::StatxFlags::MNT_ID.bits() != 0).then_some(stx.stx_mnt_id)
}

/// Type and source of mount `id` in the text of `/proc/self/mountinfo`, printable and without '/'.
fn source_in(mountinfo: &str, id: u64) -> Option<String> {
    let line =
        mountinfo.lines().find(|l| l.split(' ').next().and_then(|n| n.parse().ok()) == Some(id))?;
    let mut tail = line.split(" - ").nth(1)?.split(' ');
    let (fs_type, source) = (tail.next()?, tail.next()?);
    if matches!(source, "none" | "" | "-") {
        return None;
    }
    let mut out = format!("{fs_type}:");
    for b in source.bytes() {
        if b.is_ascii_graphic() && b != b'/' && b != b'%' {
            out.push(char::from(b));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{b:02x}");
        }
    }
    Some(out)
}

/// One mount of one boot. A mount id that may be reused is good for this process only.
fn mount_identity(root: BorrowedFd<'_>) -> Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|e| Error::io(e, "reading the boot id: set an identity with volume_id()"))?;
    let id = mount_id(root).map_err(|e| Error::io(e, "asking for the tree's mount id"))?;
    match id {
        Some(MountId { id, unique: true }) => Ok(format!("mnt:{}:{id}", boot.trim())),
        Some(MountId { id, unique: false }) => {
            Ok(format!("mnt:{}:{id}:{}", boot.trim(), once().map_err(no_random)?))
        }
        None => Ok(format!("mnt:{}:{}", boot.trim(), once().map_err(no_random)?)),
    }
}

fn no_random(e: io::Error) -> Error {
    Error::io(e, "making an identity for the mount: set one with volume_id()")
}

/// A name nobody had before.
fn once() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// The filesystem's UUID by ioctl; `fd` must be open for reading. `None` where it has none.
pub(crate) fn uuid(fd: BorrowedFd<'_>) -> Option<Vec<u8>> {
    sys::fs_uuid(fd).ok().filter(|u| u.iter().any(|b| *b != 0))
}

/// Checks a name that is about to be looked up: one component that cannot lead out of its directory.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    let bad = name.is_empty() || name == b"." || name == b"..";
    if bad || name.iter().any(|b| matches!(b, b'/' | 0)) {
        return Err(Error::new(Errno::EINVAL, "not a file name: empty, dots, or with '/' or NUL"));
    }
    if name.len() > 255 {
        return Err(Error::new(Errno::ENAMETOOLONG, "a file name has at most 255 bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
        36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
        41 35 0:50 / /data rw shared:7 master:2 - nfs4 filer:/export/a\\040b rw,vers=4.2\n\
        42 35 0:51 / /tmp rw - tmpfs none rw\n";

    #[test]
    fn a_mounts_source_is_found_by_its_id_and_is_printable() {
        assert_eq!(source_in(MOUNTINFO, 36).as_deref(), Some("ext3:%2fdev%2froot"));
        let nfs = source_in(MOUNTINFO, 41);
        assert_eq!(nfs.as_deref(), Some("nfs4:filer:%2fexport%2fa\\040b"));
        assert!(VolumeId::new(&nfs.unwrap()).is_ok());
    }

    #[test]
    fn a_mount_without_a_source_has_no_identity_of_its_own() {
        assert_eq!(source_in(MOUNTINFO, 42), None);
        assert_eq!(source_in(MOUNTINFO, 43), None);
        assert_eq!(source_in("36\n36 - \n36 - x", 36), None);
    }

    #[test]
    fn a_key_of_any_bytes_has_a_handle_or_none() {
        let kind = FsKind::of(0xEF53);
        for len in 0..300 {
            let handle = handle_in(kind, &vec![7; len]);
            assert_eq!(handle.is_some(), (13..=140).contains(&len), "{len}");
            assert!(handle.is_none_or(|h| h.to_bytes() == vec![7; len - 8]));
        }
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            assert_eq!(check_name(bad).unwrap_err().errno(), Errno::EINVAL, "{bad:?}");
        }
        assert_eq!(check_name(&[b'x'; 256]).unwrap_err().errno(), Errno::ENAMETOOLONG);
        for good in [&b"..."[..], b"\xff\n", &[b'x'; 255]] {
            assert!(check_name(good).is_ok());
        }
    }
}
