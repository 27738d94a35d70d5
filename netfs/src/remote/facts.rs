//! What a reply said about a file.

use std::{fmt, time::Duration};

use smallvec::SmallVec;

/// An opaque version of a file's content: equal means unchanged, different means changed, and there
/// is no order. (AFS data version, NFS change attribute, etag, a `statx` tuple.)
///
/// At most 200 bytes are kept as they are, so that a version fits a cache object's identity; an
/// adapter with longer ones (an etag, say) hashes them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version(SmallVec<[u8; 32]>);

impl Version {
    /// Longest version in bytes.
    pub const MAX: usize = 200;

    /// From bytes, big-endian where they are numbers. Returns `None` if empty or longer than
    /// [`Version::MAX`].
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Version> {
        (!bytes.is_empty() && bytes.len() <= Self::MAX).then(|| Version(bytes.into()))
    }

    /// From a number, such as an AFS data version or an NFS change attribute.
    #[must_use]
    pub fn from_u64(n: u64) -> Version {
        Version(SmallVec::from_slice(&n.to_be_bytes()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("v:")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What kind of file it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TimeSpec {
    /// Seconds; may be negative.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nsec: u32,
}

/// A file's attributes as a server stated them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// What kind of file it is.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
    /// Allocated bytes.
    pub allocated: u64,
    /// Permission bits (0o7777).
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file, else 0.
    pub rdev: u64,
    /// A number that identifies the file within its volume.
    pub ino: u64,
    /// Last access.
    pub atime: TimeSpec,
    /// Last data change.
    pub mtime: TimeSpec,
    /// Last attribute change.
    pub ctime: TimeSpec,
}

impl Attr {
    /// Attributes of a file with everything but kind and size at a plain default (mode 0644, or
    /// 0755 for a directory, owner 0, one link).
    #[must_use]
    pub fn plain(kind: FileKind, size: u64) -> Attr {
        Attr {
            kind,
            size,
            allocated: size.checked_next_multiple_of(4096).unwrap_or(size),
            mode: if kind == FileKind::Dir { 0o755 } else { 0o644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            ino: 0,
            atime: TimeSpec::default(),
            mtime: TimeSpec::default(),
            ctime: TimeSpec::default(),
        }
    }
}

/// Which accesses a server's standing promise covers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PromiseKind {
    /// Others may read but not change it.
    Read,
    /// Nobody else may touch it (a write delegation).
    Write,
}

/// How long the server vouches for what it just said, counted from when the request was *issued*.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Promise {
    /// Not at all: every access asks again (etags, plain objects).
    #[default]
    None,
    /// For `lifetime`, treated as over `margin` before its end (a TTL; an AFS callback with 10 s).
    Until {
        /// Lifetime as the server stated it, from the request's issue.
        lifetime: Duration,
        /// Safety margin before the end (A1.10).
        margin: Duration,
    },
    /// For an interval that starts at `min`, doubles each time the file is found unchanged after it,
    /// up to `max`, and falls back to `min` on a change (the NFS attribute cache, A6.06).
    Adaptive {
        /// Shortest interval.
        min: Duration,
        /// Longest interval.
        max: Duration,
    },
    /// Until the server takes it back (a delegation).
    UntilBroken {
        /// What it covers.
        kind: PromiseKind,
    },
}

/// What a reply said about the file's whole volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VolumeFacts {
    /// A promise that covers every file of a read-only volume (A1.36).
    pub promise: Promise,
    /// The reply confirms the volume as it was when the request was issued, so a volume event before
    /// that is settled (A1.04).
    pub checked: bool,
}

/// What a reply said. Empty facts are legal: a reply without a version never reaches the disk cache.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// The content's version.
    pub version: Option<Version>,
    /// The file's size, if stated (attributes imply it).
    pub size: Option<u64>,
    /// All attributes, if stated.
    pub attr: Option<Attr>,
    /// How long the server vouches for this.
    pub promise: Promise,
    /// What was said about the volume.
    pub volume: Option<VolumeFacts>,
}

impl Facts {
    /// Facts with a version and nothing else.
    #[must_use]
    pub fn version(version: Version) -> Facts {
        Facts { version: Some(version), ..Facts::default() }
    }

    /// Adds attributes (and with them the size).
    #[must_use]
    pub fn with_attr(mut self, attr: Attr) -> Facts {
        self.size = Some(attr.size);
        self.attr = Some(attr);
        self
    }

    /// Adds the size alone.
    #[must_use]
    pub fn with_size(mut self, size: u64) -> Facts {
        self.size = Some(size);
        self
    }

    /// Adds a promise.
    #[must_use]
    pub fn with_promise(mut self, promise: Promise) -> Facts {
        self.promise = promise;
        self
    }

    /// The size the reply stated, directly or in its attributes.
    #[must_use]
    pub fn stated_size(&self) -> Option<u64> {
        self.attr.map(|a| a.size).or(self.size)
    }
}
