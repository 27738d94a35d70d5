//! Every system call the cache makes on its directory, behind one trait.
//!
//! The rest of the crate never calls the operating system for files itself. That has two uses: a
//! fault-injecting implementation can stand in for [`OsIo`] (a full disk, an error, a torn write at a
//! chosen call), and the rules that keep the cache inside its directory live in one place: each name
//! is a single component looked up relative to a directory that is held open, and symbolic links are
//! never followed.

#[cfg(test)]
pub(crate) mod hooked;
mod os;

use std::{
    fs::File,
    io::{IoSlice, IoSliceMut},
};

pub(crate) use os::OsIo;
pub(crate) use rustix::io::Errno;

/// What a system call answered.
pub(crate) type IoResult<T> = Result<T, Errno>;

/// Whether a call failed for want of something that has nothing to do with the file it was about, and that may
/// be there the next time. Any other failure is the file's: it cannot be read, and is replaced (N-C56).
pub(crate) fn is_not_now(e: Errno) -> bool {
    matches!(e, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR | Errno::AGAIN)
}

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// `RWF_NOWAIT`: `EAGAIN` or a short read instead of waiting.
    No,
    /// Wait.
    Yes,
}

/// What happens to the kernel's copy of the bytes after the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KernelCopy {
    /// It stays in the kernel's page cache as long as the kernel likes.
    Keep,
    /// `RWF_DONTCACHE`: dropped once it is clean and nobody else uses it.
    Drop,
}

/// What kind of file a descriptor is, and which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileId {
    /// Device number.
    pub(crate) dev: u64,
    /// Inode number.
    pub(crate) ino: u64,
    /// A regular file, not a directory, pipe, device or socket.
    pub(crate) regular: bool,
}

/// The calls. Names are single path components.
pub(crate) trait Io: Send + Sync + 'static {
    /// Opens a directory; not through a symbolic link.
    fn open_dir(&self, at: &File, name: &str) -> IoResult<File>;
    /// Makes a directory, mode 0700. `EEXIST` if the name is taken.
    fn make_dir(&self, at: &File, name: &str) -> IoResult<()>;
    /// Opens an existing file for reading and writing; not through a symbolic link, and never waiting
    /// for the other end of a pipe.
    fn open_file(&self, at: &File, name: &str) -> IoResult<File>;
    /// Makes a file that has no name yet, mode 0600.
    fn temp_file(&self, at: &File) -> IoResult<File>;
    /// Makes a file, mode 0600. `EEXIST` if the name is taken.
    fn create_file(&self, at: &File, name: &str) -> IoResult<File>;
    /// Gives a nameless file a name. `EEXIST` if it is taken.
    fn link(&self, file: &File, at: &File, name: &str) -> IoResult<()>;
    /// Renames, replacing what has the new name (unless that is a directory).
    fn rename(&self, from_at: &File, from: &str, to_at: &File, to: &str) -> IoResult<()>;
    /// Removes a name that is not a directory.
    fn unlink(&self, at: &File, name: &str) -> IoResult<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, at: &File, name: &str) -> IoResult<()>;
    /// The names in a directory, without `.` and `..`; names that are not UTF-8 are left out.
    fn list(&self, dir: &File) -> IoResult<Vec<String>>;
    /// Which file this is.
    fn id(&self, file: &File) -> IoResult<FileId>;
    /// An extended attribute, `None` if it is not there.
    fn get_xattr(&self, file: &File, name: &str) -> IoResult<Option<Vec<u8>>>;
    /// Sets an extended attribute, atomically replacing the old value.
    fn set_xattr(&self, file: &File, name: &str, value: &[u8]) -> IoResult<()>;
    /// Reads at an offset; may be short.
    fn read(
        &self,
        file: &File,
        into: &mut [IoSliceMut<'_>],
        offset: u64,
        wait: Wait,
        copy: KernelCopy,
    ) -> IoResult<usize>;
    /// Writes at an offset; may be short.
    fn write(
        &self,
        file: &File,
        from: &[IoSlice<'_>],
        offset: u64,
        copy: KernelCopy,
    ) -> IoResult<usize>;
    /// Brings a file's bytes to stable storage.
    fn sync_data(&self, file: &File) -> IoResult<()>;
}

/// Reads until `into` is full; the count is smaller only at the file's end.
pub(crate) fn read_full(
    io: &dyn Io,
    file: &File,
    mut into: &mut [IoSliceMut<'_>],
    mut offset: u64,
    copy: KernelCopy,
) -> IoResult<usize> {
    let mut total = 0;
    while !into.is_empty() {
        match io.read(file, into, offset, Wait::Yes, copy) {
            Ok(0) => break,
            Ok(n) => {
                total += n;
                offset += n as u64;
                IoSliceMut::advance_slices(&mut into, n);
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(total)
}

/// Writes all of `from`.
pub(crate) fn write_full(
    io: &dyn Io,
    file: &File,
    mut from: &mut [IoSlice<'_>],
    mut offset: u64,
    copy: KernelCopy,
) -> IoResult<()> {
    while !from.is_empty() {
        match io.write(file, from, offset, copy) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                offset += n as u64;
                IoSlice::advance_slices(&mut from, n);
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
