//! The real file system with a hook before each call that may fail it, or hold it up: for tests.

use std::{
    fs::File,
    io::{IoSlice, IoSliceMut},
    sync::Arc,
};

use super::{Errno, FileId, Io, IoResult, KernelCopy, OsIo, Wait};

/// Most bytes a waiting read brings: no multiple of a page.
const SHORT_READ: usize = 100_001;

/// A call that is about to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// Opening a file or directory, or making a directory.
    Open,
    /// Making a file with a name.
    Create,
    /// Making a file without a name.
    TempFile,
    /// Linking, renaming, unlinking.
    Name,
    /// Getting an attribute.
    GetXattr,
    /// Setting an attribute to a value of so many bytes.
    SetXattr(usize),
    /// A read.
    Read(Wait),
    /// A write.
    Write,
    /// Bringing what was written to the medium.
    Sync,
}

/// Answers a call in the file system's stead with an error, or lets it through.
pub(crate) type Hook = Arc<dyn Fn(Call) -> IoResult<()> + Send + Sync>;

/// The real file system behind a hook.
pub(crate) struct HookedIo(pub(crate) Hook);

impl Io for HookedIo {
    fn open_dir(&self, at: &File, name: &str) -> IoResult<File> {
        (self.0)(Call::Open)?;
        OsIo.open_dir(at, name)
    }

    fn make_dir(&self, at: &File, name: &str) -> IoResult<()> {
        (self.0)(Call::Open)?;
        OsIo.make_dir(at, name)
    }

    fn open_file(&self, at: &File, name: &str) -> IoResult<File> {
        (self.0)(Call::Open)?;
        OsIo.open_file(at, name)
    }

    fn temp_file(&self, at: &File) -> IoResult<File> {
        (self.0)(Call::TempFile)?;
        OsIo.temp_file(at)
    }

    fn create_file(&self, at: &File, name: &str) -> IoResult<File> {
        (self.0)(Call::Create)?;
        OsIo.create_file(at, name)
    }

    fn link(&self, file: &File, at: &File, name: &str) -> IoResult<()> {
        (self.0)(Call::Name)?;
        OsIo.link(file, at, name)
    }

    fn rename(&self, from_at: &File, from: &str, to_at: &File, to: &str) -> IoResult<()> {
        (self.0)(Call::Name)?;
        OsIo.rename(from_at, from, to_at, to)
    }

    fn unlink(&self, at: &File, name: &str) -> IoResult<()> {
        (self.0)(Call::Name)?;
        OsIo.unlink(at, name)
    }

    fn remove_dir(&self, at: &File, name: &str) -> IoResult<()> {
        (self.0)(Call::Name)?;
        OsIo.remove_dir(at, name)
    }

    fn list(&self, dir: &File) -> IoResult<Vec<String>> {
        OsIo.list(dir)
    }

    fn id(&self, file: &File) -> IoResult<FileId> {
        OsIo.id(file)
    }

    fn get_xattr(&self, file: &File, name: &str) -> IoResult<Option<Vec<u8>>> {
        (self.0)(Call::GetXattr)?;
        OsIo.get_xattr(file, name)
    }

    fn set_xattr(&self, file: &File, name: &str, value: &[u8]) -> IoResult<()> {
        (self.0)(Call::SetXattr(value.len()))?;
        OsIo.set_xattr(file, name, value)
    }

    fn read(
        &self,
        file: &File,
        into: &mut [IoSliceMut<'_>],
        offset: u64,
        wait: Wait,
        copy: KernelCopy,
    ) -> IoResult<usize> {
        (self.0)(Call::Read(wait))?;
        match into.iter_mut().find(|piece| !piece.is_empty()) {
            // A file system may read less than it was asked for, and go on when it is asked again.
            Some(piece) if wait == Wait::Yes => {
                let n = piece.len().min(SHORT_READ);
                OsIo.read(file, &mut [IoSliceMut::new(&mut piece[..n])], offset, wait, copy)
            }
            _ => OsIo.read(file, into, offset, wait, copy),
        }
    }

    fn write(
        &self,
        file: &File,
        from: &[IoSlice<'_>],
        offset: u64,
        copy: KernelCopy,
    ) -> IoResult<usize> {
        (self.0)(Call::Write)?;
        OsIo.write(file, from, offset, copy)
    }

    fn sync_data(&self, file: &File) -> IoResult<()> {
        (self.0)(Call::Sync)?;
        OsIo.sync_data(file)
    }
}

/// A disk that is full, or gone.
pub(crate) fn fail_when(
    armed: &Arc<std::sync::atomic::AtomicBool>,
    with: Errno,
    which: impl Fn(Call) -> bool + Send + Sync + 'static,
) -> Hook {
    let armed = Arc::clone(armed);
    Arc::new(move |call| {
        let fails = armed.load(std::sync::atomic::Ordering::SeqCst) && which(call);
        if fails { Err(with) } else { Ok(()) }
    })
}
