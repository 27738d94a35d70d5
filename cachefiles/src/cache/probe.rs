//! Finding out what the file system below the cache can do, by trying it.

use std::{
    fs::File,
    io::{IoSlice, IoSliceMut},
    path::Path,
};

use super::OpenError;
use crate::{
    checksum::ZERO_PAGE,
    header::OBJECT_XATTR,
    io::{Errno, Io, KernelCopy, Wait},
    layout::GRAVEYARD,
    object::MAP_XATTR,
};

/// Largest inline map that is tried: larger values get slow to set everywhere.
const INLINE_TRIES: [usize; 5] = [16 * 1024, 8 * 1024, 3 * 1024, 1024, 256];
/// The largest object header: its fixed part, coherency data and key.
const HEADER_MAX: usize = 68 + 200 + 255;

/// How a complete file gets its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LinkMethod {
    /// A nameless file (`O_TMPFILE`) is linked.
    TempFile,
    /// A file with a temporary name is renamed: the fallback where the other does not work.
    Rename,
}

/// What the file system below a cache can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Probe {
    /// Largest content map, in bytes, that is kept in an extended attribute; larger ones go to side
    /// files. 0: none fits.
    pub inline_map_max: usize,
    /// How files are published.
    pub link: LinkMethod,
    /// Reads that do not wait (`RWF_NOWAIT`) work; without them every disk hit goes to the I/O
    /// threads.
    pub nowait: bool,
    /// `RWF_DONTCACHE` works for reads.
    pub dont_cache_read: bool,
    /// `RWF_DONTCACHE` works for writes.
    pub dont_cache_write: bool,
}

impl Probe {
    /// Tries everything on a file in `dir`. The file has no name any more; closing it frees its blocks,
    /// which takes milliseconds where the file system tells the disk of each (`discard`), and seconds
    /// if the disk is busy: not something an opener should wait for.
    pub(super) fn run(
        io: &dyn Io,
        dir: &File,
        path: &Path,
    ) -> Result<(Probe, Option<File>), OpenError> {
        let error = |source: Errno| OpenError::Io {
            what: "try out the file system",
            path: path.join(GRAVEYARD),
            source: source.into(),
        };
        // Left by a crash in the middle of this, or nothing.
        super::graveyard::remove(io, dir, "probe").map_err(error)?;
        super::graveyard::remove(io, dir, "probe-link").map_err(error)?;
        let file = match io.create_file(dir, "probe") {
            Err(e) if is_full(e) => return Ok((Probe::UNKNOWN, None)),
            other => other.map_err(error)?,
        };
        let inline_map_max = probe_xattrs(io, &file)
            .map_err(|e| OpenError::NoXattr { path: path.to_owned(), source: e.into() })?;
        let write = |copy| io.write(&file, &[IoSlice::new(&ZERO_PAGE)], 0, copy);
        match write(KernelCopy::Keep) {
            Err(e) if !is_full(e) => return Err(error(e)),
            _ => {}
        }
        let mut page = ZERO_PAGE;
        let mut read =
            |wait, copy| io.read(&file, &mut [IoSliceMut::new(&mut page)], 0, wait, copy);
        let nowait = matches!(read(Wait::No, KernelCopy::Keep), Ok(_) | Err(Errno::AGAIN));
        let dont_cache_read = read(Wait::Yes, KernelCopy::Drop).is_ok();
        let dont_cache_write = write(KernelCopy::Drop).is_ok();
        io.unlink(dir, "probe").map_err(error)?;
        let linked = io.temp_file(dir).and_then(|temp| io.link(&temp, dir, "probe-link"));
        let link = if linked.is_ok() { LinkMethod::TempFile } else { LinkMethod::Rename };
        super::graveyard::remove(io, dir, "probe-link").map_err(error)?;
        let probe = Probe { inline_map_max, link, nowait, dont_cache_read, dont_cache_write };
        Ok((probe, Some(file)))
    }

    /// What works everywhere, for a disk so full that nothing can be tried on it: what it holds can be
    /// read all the same. Reads that do not wait are given up by the first that fails.
    const UNKNOWN: Probe = Probe {
        inline_map_max: 0,
        link: LinkMethod::Rename,
        nowait: true,
        dont_cache_read: false,
        dont_cache_write: false,
    };
}

/// The disk has no room now, which says nothing about what it can do.
fn is_full(e: Errno) -> bool {
    matches!(e, Errno::NOSPC | Errno::DQUOT)
}

fn probe_xattrs(io: &dyn Io, file: &File) -> Result<usize, Errno> {
    match io.set_xattr(file, OBJECT_XATTR, &[1; HEADER_MAX]) {
        // Either the disk is full or it never takes so much; then nothing will ever be stored.
        Err(e) if is_full(e) => return Ok(0),
        other => other?,
    }
    let fits = |size: &usize| {
        // Twice, because replacing a value may need room for both.
        (0..2).all(|i| io.set_xattr(file, MAP_XATTR, &vec![i; *size]).is_ok())
    };
    Ok(INLINE_TRIES.iter().copied().find(fits).unwrap_or(0))
}
