//! Setting up a [`LocalFs`].

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, OnceLock, atomic::AtomicUsize},
    time::Duration,
};

use netfs::{
    Error, Result,
    error::Errno,
    remote::{FileKind, IoLimits, VolumeId},
};
use rustix::fs::{Mode, OFlags};

use crate::{
    LocalFs,
    access::Own,
    file::LocalFile,
    grain,
    handles::Handles,
    identity,
    kind::FsKind,
    pool::Pool,
    read::IOV_MAX,
    stamps::Stamps,
    stat::Stat,
    sys,
    tree::{Promises, Tree},
    unsynced::Unsynced,
};

/// Longest promise that inotify may back: it misses stores through a shared mapping, which stay
/// unseen that long at most.
const WATCHED_MAX: Duration = Duration::from_secs(1);

/// Options of a [`LocalFs`]; made by [`LocalFs::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    path: PathBuf,
    volume_id: Option<VolumeId>,
    limits: IoLimits,
    descriptors: usize,
    threads: usize,
    watches: Option<usize>,
    promise: Duration,
    ttl: Option<Duration>,
    clock_skew: Duration,
    ask_writers: bool,
    by_handle: bool,
    writable: bool,
}

impl Builder {
    pub(crate) fn new(path: PathBuf) -> Builder {
        Builder {
            path,
            volume_id: None,
            // Four granules of 256 KiB: a slow disk's seek is paid once for all of them.
            limits: IoLimits { max_segments: IOV_MAX, ..IoLimits::default() },
            descriptors: 512,
            threads: 16,
            watches: None,
            promise: WATCHED_MAX,
            ttl: None,
            clock_skew: Duration::from_secs(600),
            ask_writers: true,
            by_handle: true,
            writable: false,
        }
    }

    /// Names the tree. With this the caller vouches that inode numbers below it stand for the same
    /// files for good, which is not assumed of FUSE, SMB, 9p and overlay mounts: there the default
    /// identity ends with the mount.
    #[must_use]
    pub fn volume_id(mut self, id: VolumeId) -> Builder {
        self.volume_id = Some(id);
        self
    }

    /// Whether the tree may be changed through this adapter (default: no). What one only wants to read
    /// faster should not change by a mistake; without this every change is `EROFS`.
    #[must_use]
    pub fn writable(mut self, yes: bool) -> Builder {
        self.writable = yes;
        self
    }

    /// Most bytes of one write (default 1 MiB).
    #[must_use]
    pub fn wsize(mut self, bytes: u64) -> Builder {
        self.limits.wsize = bytes.max(1);
        self
    }

    /// Most bytes of one read (default 1 MiB).
    #[must_use]
    pub fn rsize(mut self, bytes: u64) -> Builder {
        self.limits.rsize = bytes.max(1);
        self
    }

    /// Most descriptors kept for files nobody has open, and as many again for open ones, and for written ones
    /// that wait for a sync (default 512). Past it a file is opened anew for each use, and synced with each
    /// write.
    #[must_use]
    pub fn descriptors(mut self, max: usize) -> Builder {
        self.descriptors = max;
        self
    }

    /// Most threads for system calls (default 16). This is how many reads a slow disk sees at once. Changes of one
    /// file have one of them at a time, and its syncs another.
    #[must_use]
    pub fn threads(mut self, max: usize) -> Builder {
        self.threads = max;
        self
    }

    /// Most inotify watches (default: a quarter of what `/proc/sys/fs/inotify/max_user_watches`
    /// permits, at most 65536). 0: no promises.
    #[must_use]
    pub fn watches(mut self, max: usize) -> Builder {
        self.watches = Some(max);
        self
    }

    /// Lifetime of the promises that inotify backs (default and most: 1 s). Zero: none, every use
    /// asks the tree.
    #[must_use]
    pub fn promise(mut self, lifetime: Duration) -> Builder {
        self.promise = lifetime.min(WATCHED_MAX);
        self
    }

    /// Vouches for every reply for so long, on any filesystem, without watching: for trees that are
    /// known to change rarely. What changes meanwhile is served stale until then. Default: not.
    #[must_use]
    pub fn ttl(mut self, lifetime: Duration) -> Builder {
        self.ttl = Some(lifetime);
        self
    }

    /// How far the clock of a network filesystem's server may be from ours (default 10 minutes).
    /// Files changed more recently than that get a version only once they have been seen unchanged.
    #[must_use]
    pub fn clock_skew(mut self, most: Duration) -> Builder {
        self.clock_skew = most;
        self
    }

    /// Whether to ask the kernel, before each read, if anybody has the file open for writing
    /// (default: yes, where it permits: files of our own, or `CAP_LEASE`). With it bytes of a write in
    /// flight are never taken for settled ones.
    ///
    /// The question is a read lease that is held for a microsecond. A process that in that
    /// microsecond opens the file for writing waits for its end, or gets `EWOULDBLOCK` if it said
    /// `O_NONBLOCK`; this process may see an extra `SIGURG`, which is ignored by default.
    #[must_use]
    pub fn ask_writers(mut self, yes: bool) -> Builder {
        self.ask_writers = yes;
        self
    }

    /// Whether closed files are found again by `open_by_handle_at` where that is permitted (default:
    /// yes). Otherwise by directory and name, and a renamed file must be looked up again; and there is no
    /// [`RemoteFs::by_key`](netfs::remote::RemoteFs::by_key).
    #[must_use]
    pub fn by_handle(mut self, yes: bool) -> Builder {
        self.by_handle = yes;
        self
    }

    /// Opens the tree. This blocks on the filesystem.
    ///
    /// # Errors
    /// The kernel's, if `path` cannot be opened; `ENOTDIR` if it is no directory; `EINVAL` if no
    /// identity can be made for it (then set one with [`volume_id`](Builder::volume_id)).
    pub fn open(self) -> Result<Arc<LocalFs>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let what = || format!("opening the tree {}", self.path.display());
        let root = rustix::fs::open(&self.path, flags, Mode::empty())
            .map_err(|e| Error::io(e.into(), what()))?;
        let kind = FsKind::of(
            rustix::fs::fstatfs(&root).map_err(|e| Error::io(e.into(), what()))?.f_type as u64,
        );
        // For what O_PATH cannot do. A directory that may be searched but not read goes without.
        let readable = readable(&root);
        let st = Stat::of(root.as_fd(), !kind.host_clock).map_err(|e| Error::io(e, what()))?;
        let uuid = readable.as_ref().and_then(|fd| identity::uuid(fd.as_fd()));
        let leases = self.ask_writers && kind.host_clock;
        let mount = readable.filter(|fd| self.by_handle && kind.host_clock && handles_work(fd));
        let handles = Handles::new(kind, self.descriptors, mount, st.dev);
        let located = handles.identify(root).map_err(|e| Error::io(e, what()))?;
        if located.st.attr.kind != FileKind::Dir {
            return Err(Error::new(Errno::ENOTDIR, what()));
        }
        let volume_id = match self.volume_id.clone() {
            Some(id) => id,
            None => identity::volume_id(kind, located.fd.as_fd(), uuid, &located.key)?,
        };
        let fine = self.writable && leases && grain::is_fine(located.fd.as_fd());
        let tree = Arc::new(Tree {
            kind,
            volume_id,
            limits: self.limits,
            handles: Arc::new(handles),
            stamps: Stamps::new(kind, st.attr.ctime, self.clock_skew).fine(fine),
            pool: Pool::new(self.threads),
            own: Own::current(),
            leases,
            promises: self.promises(kind),
            watcher: OnceLock::new(),
            writable: self.writable,
            lasting: kind.lasting_ids || self.volume_id.is_some(),
            unsynced: Unsynced::new(self.descriptors),
        });
        let root = LocalFile::root(&tree, located.fd, located.key);
        let opens = Arc::new(AtomicUsize::new(0));
        Ok(Arc::new(LocalFs { tree, root, opens, opens_max: self.descriptors }))
    }

    fn promises(&self, kind: FsKind) -> Promises {
        if let Some(ttl) = self.ttl {
            return Promises::Ttl(ttl);
        }
        let watches = self.watches.unwrap_or_else(default_watches);
        if !kind.events || watches == 0 || self.promise.is_zero() {
            return Promises::None;
        }
        Promises::Watched { lifetime: self.promise, watches }
    }
}

fn readable(root: &OwnedFd) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(root, c".", flags, Mode::empty()).ok()
}

/// Whether this process may open files by handle on the filesystem of `fd`.
fn handles_work(fd: &OwnedFd) -> bool {
    sys::name_to_handle(fd.as_fd()).and_then(|h| sys::open_by_handle(fd.as_fd(), &h)).is_ok()
}

fn default_watches() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches")
        .ok()
        .and_then(|s| s.trim().parse::<usize>().ok())
        // A kernel without inotify, or no /proc: a number that is modest anywhere.
        .unwrap_or(8192);
    (limit / 4).min(65536)
}
