//! From a file to a descriptor, without a descriptor per file.
//!
//! A bounded number of descriptors is kept open, most recently used. One that was closed is had again
//! by the filesystem's own handle where the kernel permits that (`open_by_handle_at`, which survives
//! renames), else by name from the directory the file was found in; then the key is compared, so that
//! a name that meanwhile stands for another file is `ESTALE`, never another file's bytes.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use netfs::{Errno, Error, Result, remote::FileKind};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::{file::LocalFile, identity, kind::FsKind, lru::Lru, opened::Opened, stat::Stat, sys};

/// What a descriptor is good for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Use {
    /// `O_PATH`: naming, `statx`, `readlink`.
    Path,
    /// Open for reading.
    Data,
}

/// Descriptors by the file's key and what they are good for.
type OpenFds = Lru<(Arc<[u8]>, Use), Arc<OwnedFd>>;

/// The descriptors in hand and the ways to get one again.
pub(crate) struct Handles {
    kind: FsKind,
    max: usize,
    open: Mutex<OpenFds>,
    /// Those that opens hold.
    pub(crate) opened: Opened,
    /// A descriptor of the filesystem for `open_by_handle_at`, where that is permitted.
    mount: Option<OwnedFd>,
    root_dev: (u32, u32),
}

/// A file as it was just found: a descriptor, its key, the filesystem's handle.
pub(crate) struct Located {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) st: Stat,
    pub(crate) key: Arc<[u8]>,
    pub(crate) handle: Option<sys::FileHandle>,
}

impl Handles {
    pub(crate) fn new(
        kind: FsKind,
        max: usize,
        mount: Option<OwnedFd>,
        root_dev: (u32, u32),
    ) -> Handles {
        let max = max.max(2);
        let (open, opened) = (Mutex::new(Lru::new()), Opened::default());
        Handles { kind, max, open, opened, mount, root_dev }
    }

    /// Descriptors kept now, the root's aside.
    pub(crate) fn kept(&self) -> usize {
        self.open.lock().len()
    }

    /// What an open descriptor is of.
    pub(crate) fn identify(&self, fd: OwnedFd) -> io::Result<Located> {
        let st = Stat::of(fd.as_fd(), !self.kind.host_clock)?;
        let handle = if self.kind.host_clock { sys::name_to_handle(fd.as_fd()).ok() } else { None };
        let key = identity::file_key(self.kind, &st, handle.as_ref()).into();
        Ok(Located { fd: Arc::new(fd), st, key, handle })
    }

    /// Looks up one name. The result is kept for its next use.
    ///
    /// # Errors
    /// `EXDEV` where another filesystem is mounted; else the kernel's.
    pub(crate) fn find(&self, dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Located> {
        let found = self.identify(open_path(dir, name)?)?;
        // Keys are unique in one filesystem only. (A btrfs subvolume is another filesystem without
        // being another mount.)
        if found.st.dev != self.root_dev && !self.kind.dev_in_key {
            return Err(io::Error::from_raw_os_error(libc::EXDEV));
        }
        self.keep((Arc::clone(&found.key), Use::Path), &found.fd);
        Ok(found)
    }

    /// The file that a descriptor is of, whatever stands under its name by now. The result is kept for its
    /// next use, without the descriptor.
    pub(crate) fn found_as(&self, fd: BorrowedFd<'_>) -> io::Result<Located> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = self.identify(rustix::fs::open(proc_path(fd), flags, Mode::empty())?)?;
        self.keep((Arc::clone(&found.key), Use::Path), &found.fd);
        Ok(found)
    }

    /// The file of a key, without a name. The result is kept for its next use.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where files are not opened by handle, `EINVAL` for what is no key, `ESTALE` if there is no such
    /// file any more.
    pub(crate) fn by_key(&self, key: &[u8]) -> Result<Located> {
        let Some(mount) = &self.mount else {
            return Err(Error::new(Errno::EOPNOTSUPP, "files cannot be opened by handle here"));
        };
        let Some(handle) = identity::handle_in(self.kind, key) else {
            return Err(Error::new(Errno::EINVAL, "not the key of a file in a local tree"));
        };
        let located = open_handle(mount.as_fd(), &handle).and_then(|fd| self.identify(fd));
        let located = located.map_err(handle_error)?;
        // Another file now, or one of another filesystem; or it only exists until somebody closes it.
        let elsewhere = located.st.dev != self.root_dev && !self.kind.dev_in_key;
        if *located.key != *key || elsewhere || located.st.unlinked() {
            return Err(stale());
        }
        self.keep((Arc::clone(&located.key), Use::Path), &located.fd);
        Ok(located)
    }

    /// An `O_PATH` descriptor of the file.
    ///
    /// # Errors
    /// `ESTALE` if it is gone; else the kernel's.
    pub(crate) fn path(&self, file: &LocalFile) -> Result<Arc<OwnedFd>> {
        self.in_hand(file).map_or_else(|| self.reopen(file), Ok)
    }

    /// A descriptor of a regular file or directory, open for reading.
    pub(crate) fn data(&self, file: &LocalFile) -> Result<Arc<OwnedFd>> {
        let key = (file.shared_key(), Use::Data);
        if let Some(fd) = self.open.lock().get(&key) {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(self.open_data(file)?);
        self.keep(key, &fd);
        Ok(fd)
    }

    /// A new descriptor of the file for reading, that nobody else has.
    pub(crate) fn open_data(&self, file: &LocalFile) -> Result<OwnedFd> {
        let path = self.path(file)?;
        open_for_reading(path.as_fd(), file.kind())
            .map_err(|e| Error::io(e, "opening a file of the local tree for reading"))
    }

    /// Closes what is kept of a file: a descriptor keeps a deleted file's blocks.
    pub(crate) fn forget(&self, key: &Arc<[u8]>) {
        let closed = {
            let mut open = self.open.lock();
            let path = open.remove(&(Arc::clone(key), Use::Path));
            (path, open.remove(&(Arc::clone(key), Use::Data)))
        };
        // Closed outside the lock: on a network mount a close may wait.
        drop(closed);
    }

    fn in_hand(&self, file: &LocalFile) -> Option<Arc<OwnedFd>> {
        if let Some(root) = file.pinned() {
            return Some(Arc::clone(root));
        }
        let key = file.shared_key();
        // An open's first: there is no other way to a file without a name.
        let opened = self.opened.get(&key);
        opened.or_else(|| self.open.lock().get(&(key, Use::Path)).map(|fd| Arc::clone(fd)))
    }

    fn keep(&self, key: (Arc<[u8]>, Use), fd: &Arc<OwnedFd>) {
        let mut closed = Vec::new();
        let mut open = self.open.lock();
        closed.extend(open.insert(key, Arc::clone(fd)));
        while open.len() > self.max {
            closed.extend(open.pop().map(|(_, fd)| fd));
        }
        drop(open);
        drop(closed);
    }

    /// Opens the file anew, whatever is in hand.
    pub(crate) fn reopen(&self, file: &LocalFile) -> Result<Arc<OwnedFd>> {
        if let (Some(mount), Some(handle)) = (&self.mount, file.handle()) {
            let fd = open_handle(mount.as_fd(), handle).map_err(handle_error)?;
            let fd = Arc::new(fd);
            self.keep((file.shared_key(), Use::Path), &fd);
            return Ok(fd);
        }
        self.reopen_by_name(file)
    }

    /// Walks up to the nearest directory in hand, then down again by name.
    fn reopen_by_name(&self, file: &LocalFile) -> Result<Arc<OwnedFd>> {
        let Some((mut parent, name)) = file.place() else {
            return Err(stale());
        };
        let mut steps = vec![(file.shared_key(), name)];
        let mut dir = loop {
            if let Some(fd) = self.in_hand(&parent) {
                break fd;
            }
            let Some((up, name)) = parent.place() else { return Err(stale()) };
            steps.push((parent.shared_key(), name));
            parent = up;
        };
        while let Some((key, name)) = steps.pop() {
            let found = self.find(dir.as_fd(), &name).map_err(|e| match e.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => stale(),
                _ => Error::io(e, "opening a file of the local tree by its name"),
            })?;
            if found.key != key {
                return Err(stale());
            }
            dir = found.fd;
        }
        Ok(dir)
    }
}

/// Tries of an open by handle that meets the making of another file.
const HANDLE_TRIES: usize = 100;

/// Opens a file by its handle. While the kernel is just making another file of the same inode number it says
/// `ENOMEM`, where it says `ESTALE` a moment later: not to be taken for either at once.
fn open_handle(mount: BorrowedFd<'_>, handle: &sys::FileHandle) -> io::Result<OwnedFd> {
    for _ in 1..HANDLE_TRIES {
        match sys::open_by_handle(mount, handle) {
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) => std::thread::yield_now(),
            opened => return opened,
        }
    }
    sys::open_by_handle(mount, handle)
}

fn handle_error(e: io::Error) -> Error {
    // ESTALE is the rule; a file that is just being deleted may be missing in other words.
    match e.raw_os_error() {
        Some(libc::ESTALE | libc::ENOENT) => stale(),
        _ => Error::io(e, "opening a file of the local tree by its handle"),
    }
}

/// The file is gone, or no longer where it was found.
pub(crate) fn stale() -> Error {
    Error::new(
        Errno::ESTALE,
        "the file was deleted or replaced in the local tree; look it up again",
    )
}

/// The `/proc` name of a descriptor, which leads to its inode whatever its name is now.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Opens one component below `dir`: never up, never through a symbolic link, never into another mount.
fn open_path(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let opened = match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
        // Before Linux 5.6, or a seccomp filter older than the call. `name` is one component, so
        // NOFOLLOW is all it takes to stay below; another mount is caught by its device number.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            rustix::fs::openat(dir, name, flags, Mode::empty())
        }
        other => other,
    };
    opened.map_err(Into::into)
}

/// Opens for writing what another descriptor stands for, a regular file. It is not kept: a file that is open
/// for writing has no version ([`Stamps`](crate::stamps::Stamps), S2).
pub(crate) fn open_for_writing(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(proc_path(fd), flags, Mode::empty())?)
}

/// Opens for reading what an `O_PATH` descriptor stands for. Only files and directories: opening a
/// FIFO or a device has effects.
fn open_for_reading(fd: BorrowedFd<'_>, kind: FileKind) -> io::Result<OwnedFd> {
    let dir = match kind {
        FileKind::File => OFlags::empty(),
        FileKind::Dir => OFlags::DIRECTORY,
        _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | dir;
    let path = proc_path(fd);
    match rustix::fs::open(&path, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner may leave atime alone.
        Err(rustix::io::Errno::PERM) => Ok(rustix::fs::open(&path, flags, Mode::empty())?),
        other => other.map_err(Into::into),
    }
}
