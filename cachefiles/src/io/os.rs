//! The operating system's own calls.

use std::{
    fs::File,
    io::{IoSlice, IoSliceMut},
    os::fd::AsRawFd,
};

use rustix::{
    fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags},
    io::ReadWriteFlags,
};
use xattr::FileExt;

use super::{Errno, FileId, Io, IoResult, KernelCopy, Wait};

/// `RWF_DONTCACHE` (Linux 6.14), which rustix does not name yet.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// Buffers a vectored call takes at most (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OsIo;

impl OsIo {
    fn open(at: &File, name: &str, flags: OFlags) -> IoResult<File> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(File::from(fs::openat(at, name, flags, Mode::RUSR | Mode::WUSR)?))
    }
}

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

fn read_flags(wait: Wait, copy: KernelCopy) -> ReadWriteFlags {
    let mut flags = ReadWriteFlags::empty();
    if wait == Wait::No {
        flags |= ReadWriteFlags::NOWAIT;
    }
    if copy == KernelCopy::Drop {
        flags |= DONTCACHE;
    }
    flags
}

impl Io for OsIo {
    fn open_dir(&self, at: &File, name: &str) -> IoResult<File> {
        Self::open(at, name, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn make_dir(&self, at: &File, name: &str) -> IoResult<()> {
        fs::mkdirat(at, name, Mode::RWXU)
    }

    fn open_file(&self, at: &File, name: &str) -> IoResult<File> {
        Self::open(at, name, OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY)
    }

    fn temp_file(&self, at: &File) -> IoResult<File> {
        Self::open(at, ".", OFlags::RDWR | OFlags::TMPFILE)
    }

    fn create_file(&self, at: &File, name: &str) -> IoResult<File> {
        Self::open(at, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn link(&self, file: &File, at: &File, name: &str) -> IoResult<()> {
        // AT_EMPTY_PATH needs a privilege on older kernels; /proc needs to be mounted.
        match fs::linkat(file, "", at, name, AtFlags::EMPTY_PATH) {
            Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                fs::linkat(CWD, path, at, name, AtFlags::SYMLINK_FOLLOW)
            }
            other => other,
        }
    }

    fn rename(&self, from_at: &File, from: &str, to_at: &File, to: &str) -> IoResult<()> {
        fs::renameat(from_at, from, to_at, to)
    }

    fn unlink(&self, at: &File, name: &str) -> IoResult<()> {
        fs::unlinkat(at, name, AtFlags::empty())
    }

    fn remove_dir(&self, at: &File, name: &str) -> IoResult<()> {
        fs::unlinkat(at, name, AtFlags::REMOVEDIR)
    }

    fn list(&self, dir: &File) -> IoResult<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(dir)? {
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn id(&self, file: &File) -> IoResult<FileId> {
        let st = fs::fstat(file)?;
        let regular = FileType::from_raw_mode(st.st_mode) == FileType::RegularFile;
        Ok(FileId { dev: st.st_dev, ino: st.st_ino, regular })
    }

    fn get_xattr(&self, file: &File, name: &str) -> IoResult<Option<Vec<u8>>> {
        FileExt::get_xattr(file, name).map_err(|e| errno(&e))
    }

    fn set_xattr(&self, file: &File, name: &str, value: &[u8]) -> IoResult<()> {
        FileExt::set_xattr(file, name, value).map_err(|e| errno(&e))
    }

    fn read(
        &self,
        file: &File,
        into: &mut [IoSliceMut<'_>],
        offset: u64,
        wait: Wait,
        copy: KernelCopy,
    ) -> IoResult<usize> {
        let n = into.len().min(IOV_MAX);
        rustix::io::preadv2(file, &mut into[..n], offset, read_flags(wait, copy))
    }

    fn write(
        &self,
        file: &File,
        from: &[IoSlice<'_>],
        offset: u64,
        copy: KernelCopy,
    ) -> IoResult<usize> {
        let flags = read_flags(Wait::Yes, copy);
        rustix::io::pwritev2(file, &from[..from.len().min(IOV_MAX)], offset, flags)
    }

    fn sync_data(&self, file: &File) -> IoResult<()> {
        fs::fdatasync(file)
    }
}
