//! Who may use the directory: the superblock that says it is a cache, and the owner's lock.

use std::{
    fs::{DirBuilder, File, Permissions},
    io::{ErrorKind, IoSlice, IoSliceMut, Read},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use rustix::fs::{FlockOperation, Mode, OFlags};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U32, U64},
};

use super::OpenError;
use crate::{
    header::{FORMAT, crc_matches, seal},
    io::{Errno, Io, KernelCopy, read_full, write_full},
    layout::{CACHE, GRAVEYARD, LOCK, SUPERBLOCK},
};

const MAGIC: [u8; 8] = *b"netfsdir";

/// Every version of the format starts with these sixteen bytes in this order, so that a library can
/// tell another version from damage.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawSuperblock {
    magic: [u8; 8],
    format: U32,
    crc: U32,
    reserved: [U64; 6],
}

/// Opens and locks the directory, and makes it a cache if it is empty.
pub(super) fn claim(io: &dyn Io, path: &Path) -> Result<(File, DirLock), OpenError> {
    let error =
        |what| move |source: std::io::Error| OpenError::Io { what, path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            return Err(error("make the directory")(e));
        }
        _ => {}
    }
    // As a directory, because opening a pipe would wait for its other end.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).map(File::from);
    let root = root.map_err(|e| error("open the directory")(e.into()))?;
    check_contents(io, &root, path)?;
    root.set_permissions(Permissions::from_mode(0o700)).map_err(error("set the mode"))?;
    let lock = lock(io, &root, path)?;
    match read(io, &root) {
        Some(Ok(())) => {}
        Some(Err(found)) => {
            return Err(OpenError::Format { path: path.to_owned(), found, reads: FORMAT });
        }
        None => start_fresh(io, &root).map_err(|e| error("make a cache")(e.into()))?,
    }
    Ok((root, lock))
}

/// A directory with anything of somebody else's in it is not touched.
fn check_contents(io: &dyn Io, root: &File, path: &Path) -> Result<(), OpenError> {
    let names = io.list(root).map_err(|e| OpenError::Io {
        what: "list the directory",
        path: path.to_owned(),
        source: e.into(),
    })?;
    let ours = names.iter().any(|n| n == SUPERBLOCK);
    let empty = names.iter().all(|n| n == LOCK || n == "lost+found");
    if ours || empty { Ok(()) } else { Err(OpenError::NotACache { path: path.to_owned() }) }
}

/// The directory is ours as long as this lives.
pub(super) struct DirLock(File);

impl DirLock {
    /// Another descriptor of the lock, as a process that is forked has one.
    #[cfg(test)]
    pub(super) fn try_clone(&self) -> std::io::Result<File> {
        self.0.try_clone()
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // By name, because a process that was forked meanwhile holds a copy of the descriptor, and closing
        // ours alone would leave the directory locked. On failure closing has to do.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

fn lock(io: &dyn Io, root: &File, path: &Path) -> Result<DirLock, OpenError> {
    let error = |source: Errno| OpenError::Io {
        what: "lock the directory",
        path: path.to_owned(),
        source: source.into(),
    };
    let file = match io.open_file(root, LOCK) {
        Err(Errno::NOENT) => match io.create_file(root, LOCK) {
            // Somebody else was faster.
            Err(Errno::EXIST) => io.open_file(root, LOCK),
            other => other,
        },
        other => other,
    };
    let mut file = file.map_err(error)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = [0; 32];
            let n = file.read(&mut holder).unwrap_or(0);
            let holder = String::from_utf8_lossy(&holder[..n]).trim().to_owned();
            let holder = if holder.is_empty() {
                "another process".into()
            } else {
                format!("process {holder}")
            };
            return Err(OpenError::Locked { path: path.to_owned(), holder });
        }
        Err(e) => return Err(error(e)),
    }
    let file = DirLock(file);
    let text = format!("{:<20}\n", std::process::id());
    match write_full(io, &file.0, &mut [IoSlice::new(text.as_bytes())], 0, KernelCopy::Keep) {
        // On a full disk the lock holds all the same; only the message to others lacks our number.
        Ok(()) | Err(Errno::NOSPC | Errno::DQUOT) => Ok(file),
        Err(e) => Err(error(e)),
    }
}

/// `None`: there is none, or it is damaged. `Some(Err(version))`: another version's.
fn read(io: &dyn Io, root: &File) -> Option<Result<(), u32>> {
    let file = io.open_file(root, SUPERBLOCK).ok()?;
    let mut bytes = [0; size_of::<RawSuperblock>()];
    let got = read_full(io, &file, &mut [IoSliceMut::new(&mut bytes)], 0, KernelCopy::Keep).ok()?;
    let raw = RawSuperblock::read_from_bytes(bytes.get(..got)?).ok()?;
    if raw.magic != MAGIC || !crc_matches(&bytes, raw.crc) {
        return None;
    }
    Some(if raw.format.get() == FORMAT { Ok(()) } else { Err(raw.format.get()) })
}

/// Nothing below a damaged superblock is trusted: all of it is deleted. The damaged superblock goes
/// when nothing else is left, and the new one comes last, so that a crash in between starts over: a
/// directory with content and no superblock would count as somebody else's.
fn start_fresh(io: &dyn Io, root: &File) -> Result<(), Errno> {
    for name in [GRAVEYARD, CACHE, SUPERBLOCK] {
        super::graveyard::remove(io, root, name)?;
    }
    let raw = RawSuperblock {
        magic: MAGIC,
        format: U32::new(FORMAT),
        crc: U32::ZERO,
        reserved: [U64::ZERO; 6],
    };
    let file = io.create_file(root, SUPERBLOCK)?;
    let bytes = seal(raw.as_bytes().to_vec());
    write_full(io, &file, &mut [IoSlice::new(&bytes)], 0, KernelCopy::Keep)
}
