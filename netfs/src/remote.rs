//! What a network filesystem client implements: [`RemoteFs`] (the namespace and the connection) and
//! [`RemoteFile`] (one file). The kernel's name for the pair is `netfs_request_ops`.
//!
//! **Adapters report facts, the core decides.** Every reply carries [`Facts`]: the version, size,
//! attributes and promise the server stated. An adapter keeps handles, stateids and connections and
//! nothing else: no attribute cache, no "is it still valid", no readahead.
//!
//! The contract, in one place:
//!
//! - An adapter MUST report every reply's facts exactly as the server stated them, and MUST NOT
//!   invent a version. Versions are compared for equality only.
//! - A promise counts from the moment the core *issued* the request; an adapter MUST pass the
//!   lifetime the server stated, not a deadline computed from the reply's arrival.
//! - When its server sends an event (a callback break, a recall), the adapter MUST call
//!   [`VolumeEvents`] before it answers the server, and MUST NOT wait
//!   for the returned ticket before answering.
//! - Futures MUST be `'static` and run on any thread of the core's driver. They MAY be dropped at any
//!   await (shutdown); a dropped sub counts as cancelled.
//! - Errors MUST carry the errno the server meant. `ENOENT` says "this name does not exist" and
//!   `ESTALE` "this file is gone"; an unreachable server is neither (use `ETIMEDOUT`, `EHOSTUNREACH`).

mod cx;
mod erased;
mod facts;
mod names;
mod sub;
mod write;

use std::{any::Any, fmt, ops::Range, sync::Arc};

pub use bytes::Bytes;
pub use cx::{Cred, Cx, OpenToken};
pub(crate) use erased::{DynFile, DynFound, DynRemoteFs, Erased};
pub use facts::{Attr, Facts, FileKind, Promise, PromiseKind, TimeSpec, Version, VolumeFacts};
pub use futures_util::future::BoxFuture;
pub use names::{Created, NameChange, NewFile, RenameHow, SetAttr, SetTime};
pub(crate) use sub::SubSink;
pub use sub::{Finished, Outcome, ReadSub};
pub(crate) use write::WriteSink;
pub use write::{Change, Stability, WriteFinished, WriteOutcome, WriteSub};

pub use crate::coherency::{BreakReason, VolumeEvents};
use crate::error::{Errno, Error, Result};

/// Identity of a volume: the server's identity and the export or volume on it.
///
/// It MUST be the same for every mount of the same volume and MUST NOT contain mount options: two
/// mounts that differ in options share inodes and cache. Printable, 1 to 255 bytes, no `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId(Arc<str>);

impl VolumeId {
    /// Checks and wraps an identity string.
    ///
    /// # Errors
    /// `EINVAL` if it is empty, longer than 255 bytes, contains `/`, or is not printable.
    pub fn new(id: &str) -> Result<VolumeId> {
        let printable = id.chars().all(|c| !c.is_control() && c != '/');
        if id.is_empty() || id.len() > 255 || !printable {
            return Err(Error::new(
                Errno::EINVAL,
                format!("volume id {id:?}: use 1 to 255 printable bytes without '/'"),
            ));
        }
        Ok(VolumeId(id.into()))
    }

    /// The identity string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeId({})", self.0)
    }
}

/// A file found in the namespace, with what the reply said about it.
pub struct Found<F> {
    /// The file. The core compares [`RemoteFile::key`] and keeps one inode per key and volume.
    pub file: Arc<F>,
    /// What the reply said.
    pub facts: Facts,
}

/// What a lookup reply said: the name's file, or that the name does not exist, and (if the protocol
/// tells) the directory's own facts at that moment.
pub struct LookupReply<F> {
    /// The file the name stands for; `None` = the server said the name does not exist.
    pub found: Option<Found<F>>,
    /// Facts about the directory the name was looked up in, if the reply had them.
    pub dir: Option<Facts>,
}

/// One directory entry.
pub struct DirEntry<F> {
    /// The name: any bytes but NUL and `/`.
    pub name: Bytes,
    /// Opaque position after this entry, for the next [`RemoteFs::readdir`]. Never 0.
    pub cookie: u64,
    /// What kind of file it is.
    pub kind: FileKind,
    /// A number that identifies the file within its volume, for `d_ino`.
    pub ino: u64,
    /// The file and its facts, where `plus` was asked for and the server gave them.
    pub plus: Option<Found<F>>,
}

/// A run of directory entries.
pub struct DirPage<F> {
    /// Entries in the server's order.
    pub entries: Vec<DirEntry<F>>,
    /// True if nothing follows the last entry.
    pub eof: bool,
    /// Facts about the directory, if the reply had them.
    pub dir: Option<Facts>,
}

/// Numbers about a filesystem, in bytes and files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Total size in bytes.
    pub bytes_total: u64,
    /// Free bytes.
    pub bytes_free: u64,
    /// Bytes free to an unprivileged user.
    pub bytes_available: u64,
    /// Total files.
    pub files_total: u64,
    /// Free files.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_max: u32,
}

/// What the caller wants to do with a file, as bits of `access(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AccessMask(u8);

impl AccessMask {
    /// Execute a file or search a directory.
    pub const EXEC: AccessMask = AccessMask(1);
    /// Write.
    pub const WRITE: AccessMask = AccessMask(2);
    /// Read.
    pub const READ: AccessMask = AccessMask(4);

    /// Both masks together.
    #[must_use]
    pub fn union(self, other: AccessMask) -> AccessMask {
        AccessMask(self.0 | other.0)
    }

    /// Whether every right of `other` is in `self`.
    #[must_use]
    pub fn contains(self, other: AccessMask) -> bool {
        self.0 & other.0 == other.0
    }

    /// The `R_OK | W_OK | X_OK` bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }
}

/// Why a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum OpenIntent {
    /// For reading.
    Read,
    /// For writing only.
    Write,
    /// For both.
    ReadWrite,
}

impl OpenIntent {
    /// Whether bytes will be read.
    #[must_use]
    pub fn reads(self) -> bool {
        matches!(self, OpenIntent::Read | OpenIntent::ReadWrite)
    }

    /// Whether bytes will be written.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(self, OpenIntent::Write | OpenIntent::ReadWrite)
    }
}

/// Limits of one server call, asked for each request and again on each retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoLimits {
    /// Most bytes of one read. At least 1.
    pub rsize: u64,
    /// Most bytes of one write. At least 1.
    pub wsize: u64,
    /// Largest size a file may have; writing beyond is `EFBIG`.
    pub max_size: u64,
    /// Most memory segments of one call (a folio is at least one segment).
    pub max_segments: usize,
    /// Reads should start at a multiple of this, a power of two; 1 = anywhere. A hint: at file ends and after short
    /// reads the core asks for what is missing.
    pub align: u32,
    /// Writes should cover whole multiples of this, a power of two; 1 = exactly what was written. A hint, for
    /// servers that would read the rest of a block first: bytes around dirty ones are sent along where
    /// they are known here, vouched for, clean, and inside the file. With more than 1, what somebody else writes at the same time into
    /// the same block may be overwritten, as with any client that writes whole pages.
    pub upload_unit: u32,
}

impl Default for IoLimits {
    fn default() -> Self {
        IoLimits {
            rsize: 1 << 20,
            wsize: 1 << 20,
            max_size: i64::MAX as u64,
            max_segments: usize::MAX,
            align: 1,
            upload_unit: 1,
        }
    }
}

/// The namespace of one volume over one connection. See the [module](self) for the contract.
///
/// Each method is one server operation on behalf of `cx.cred()`. Those that a read-only protocol cannot
/// have come with a default that refuses.
pub trait RemoteFs: Send + Sync + Sized + 'static {
    /// The adapter's file object.
    type File: RemoteFile;

    /// Which volume this is.
    fn volume_id(&self) -> VolumeId;

    /// Version of everything the volume caches on disk: if it differs from the stored one the volume's
    /// cached objects are discarded. Usually empty.
    fn volume_coherency(&self) -> Bytes {
        Bytes::new()
    }

    /// The volume's root directory. Called once per mount.
    fn root(self: Arc<Self>, cx: Cx) -> BoxFuture<'static, Result<Found<Self::File>>>;

    /// The file whose [`RemoteFile::key`] is `key`, without a name (NFS: by its handle), with fresh facts.
    /// `ESTALE` if there is none any more. A key MUST NOT find another file than the one it was of (NFS: the
    /// handle's generation tells them apart): what a crash left in the log of a file that is removed by then
    /// would be laid over the other one.
    ///
    /// By default there is no such call. Then a [log](crate::dirtylog) is of no use: after a restart nobody
    /// could find the file again, so an fsync uploads.
    fn by_key(
        self: Arc<Self>,
        key: Bytes,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Found<Self::File>>> {
        let _ = (key, cx);
        unsupported()
    }

    /// Gives the adapter the handle through which it reports server events. Called once per mount,
    /// before any other method of it; keep the last handle. An adapter without callbacks ignores it.
    fn attach(&self, events: VolumeEvents) {
        drop(events);
    }

    /// Looks up one name (never `.`, `..`, empty, or with `/` or NUL) in `dir`.
    ///
    /// "No such name" is a successful reply with `found: None`; an `Err` is never cached.
    fn lookup(
        self: Arc<Self>,
        dir: Arc<Self::File>,
        name: Bytes,
        cx: Cx,
    ) -> BoxFuture<'static, Result<LookupReply<Self::File>>>;

    /// Entries of `dir` after position `cookie` (0 = from the start), at least one unless at the end;
    /// without `.` and `..`. With `plus` the server may add each entry's file and facts.
    fn readdir(
        self: Arc<Self>,
        dir: Arc<Self::File>,
        cookie: u64,
        plus: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<DirPage<Self::File>>>;

    /// Fresh attributes: the reply MUST have [`Facts::attr`]. By default what
    /// [`RemoteFile::validate`] says, for protocols where both are the same call.
    fn getattr(
        self: Arc<Self>,
        file: Arc<Self::File>,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Facts>> {
        file.validate(cx)
    }

    /// The target of a symbolic link, with the link's facts if the reply had them. By default there
    /// are no links (`EINVAL`).
    fn readlink(
        self: Arc<Self>,
        file: Arc<Self::File>,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(Bytes, Option<Facts>)>> {
        let _ = (file, cx);
        Box::pin(async { Err(Error::new(Errno::EINVAL, "this adapter has no symbolic links")) })
    }

    /// Whether `cx.cred()` has every right in `mask`. `Ok(false)` is the server's word; `Err` means
    /// it was not found out.
    fn access(
        self: Arc<Self>,
        file: Arc<Self::File>,
        mask: AccessMask,
        cx: Cx,
    ) -> BoxFuture<'static, Result<bool>>;

    /// Opens a file; the token (an NFS stateid, say) rides in the `Cx` of every later call on this
    /// open and is dropped when the open and its last I/O have ended.
    ///
    /// By default there is no such call, and the volume is read-only: an adapter that can write grants
    /// opens for writing, and refuses them (`EROFS`) where its server does not let it.
    fn open(
        self: Arc<Self>,
        file: Arc<Self::File>,
        intent: OpenIntent,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(OpenToken, Option<Facts>)>> {
        let _ = (file, cx);
        Box::pin(async move {
            if intent.writes() { Err(read_only_error()) } else { Ok((OpenToken::none(), None)) }
        })
    }

    /// Makes what `what` says under `name` in `dir`, owned by `cx.cred()`.
    ///
    /// A name that exists is `EEXIST`. By default the volume is read-only (`EROFS`), here and in all the
    /// calls below that change names.
    fn create(
        self: Arc<Self>,
        dir: Arc<Self::File>,
        name: Bytes,
        what: NewFile,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Created<Self::File>>> {
        let _ = (dir, name, what, cx);
        read_only()
    }

    /// Gives `file` another name (a hard link).
    fn link(
        self: Arc<Self>,
        file: Arc<Self::File>,
        dir: Arc<Self::File>,
        name: Bytes,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>> {
        let _ = (file, dir, name, cx);
        read_only()
    }

    /// Removes a name: of a directory, which must be empty (`ENOTEMPTY`), if `dir_wanted`, else of
    /// anything else (`EISDIR`, `ENOTDIR`).
    fn remove(
        self: Arc<Self>,
        dir: Arc<Self::File>,
        name: Bytes,
        dir_wanted: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>> {
        let _ = (dir, name, dir_wanted, cx);
        read_only()
    }

    /// Moves a name, as `renameat2(2)`: replaces what stands there, unless `how` says otherwise.
    fn rename(
        self: Arc<Self>,
        from: (Arc<Self::File>, Bytes),
        to: (Arc<Self::File>, Bytes),
        how: RenameHow,
        cx: Cx,
    ) -> BoxFuture<'static, Result<NameChange>> {
        let _ = (from, to, how, cx);
        read_only()
    }

    /// Changes attributes other than the size ([`RemoteFile::set_size`]).
    fn set_attr(
        self: Arc<Self>,
        file: Arc<Self::File>,
        set: SetAttr,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Change>> {
        let _ = (file, set, cx);
        read_only()
    }

    /// Space and file counts.
    fn statfs(self: Arc<Self>, cx: Cx) -> BoxFuture<'static, Result<StatFs>> {
        drop(cx);
        Box::pin(async { Err(Error::new(Errno::EOPNOTSUPP, "this adapter has no statfs")) })
    }
}

/// One file on the server. See the [module](self) for the contract.
pub trait RemoteFile: Any + Send + Sync {
    /// The file's identity within its volume, 1 to 255 bytes, big-endian where it has numbers: the
    /// same on every host and after every restart. Where the server can tell a file from a later one of
    /// the same name, the key does too (it includes a generation or uniquifier); where names are all
    /// there is, the version tells them apart. Longer identities (object names) are hashed.
    fn key(&self) -> &[u8];

    /// Limits of a call now. Asked per request and again before each retry, so an adapter may
    /// renegotiate.
    fn limits(&self) -> IoLimits {
        IoLimits::default()
    }

    /// May widen the window of bytes about to be fetched (row 20); MUST NOT shrink it: a window that
    /// lost bytes is ignored.
    fn expand(&self, window: &mut Range<u64>) {
        let _ = window;
    }

    /// Fetches `sub.range()` into `sub.buffers()`.
    ///
    /// The adapter MUST report progress with [`ReadSub::advance`], [`ReadSub::write`] or
    /// [`ReadSub::hole`], report the reply's facts, and end with [`ReadSub::finish`] exactly once (a
    /// dropped sub counts as cancelled). It never gets a zero-length sub, and never one that reaches
    /// past the end of file known to the core; the file may have shrunk since, so an adapter checks,
    /// ends with [`Outcome::Eof`] where the bytes end, and reports the new facts. A sub that reads a directory or symbolic link as one
    /// object ([`File::read_single`](crate::File::read_single)) covers all of it, whatever
    /// [`limits`](RemoteFile::limits) says of `rsize`.
    fn read(self: Arc<Self>, sub: ReadSub) -> BoxFuture<'static, ()>;

    /// Asks the server whether the file changed: at most one RPC. The core merges concurrent callers.
    ///
    /// The reply's facts MUST include version and size where the protocol has them.
    fn validate(self: Arc<Self>, cx: Cx) -> BoxFuture<'static, Result<Facts>>;

    /// Writes `sub.buffers()` at `sub.offset()`, growing the file if need be.
    ///
    /// The adapter MUST report what the server acknowledged with [`WriteSub::advance`], what the reply
    /// said with [`WriteSub::change`], and end with [`WriteSub::finish`] exactly once (a dropped sub
    /// counts as failed). Several subs of one file may be under way at once; they never overlap. It never
    /// gets an empty sub, nor one longer than [`IoLimits::wsize`]. By default the file is read-only
    /// (`EROFS`), here and in the calls below.
    fn write(self: Arc<Self>, sub: WriteSub) -> BoxFuture<'static, ()> {
        Box::pin(async move { sub.fail(read_only_error()) })
    }

    /// Brings what was written [unstably](WriteSub::unstable) in `range` to stable storage; returns the
    /// server's verifier. Only for adapters that report unstable writes.
    fn commit(
        self: Arc<Self>,
        range: Range<u64>,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(Bytes, Option<Change>)>> {
        let _ = (range, cx);
        read_only()
    }

    /// Cuts the file, or lets it grow by zeros.
    fn set_size(self: Arc<Self>, size: u64, cx: Cx) -> BoxFuture<'static, Result<Change>> {
        let _ = (size, cx);
        read_only()
    }

    /// Reserves space for `range` and, unless `keep_size`, grows the file to its end, as
    /// `fallocate(2)`. A server that cannot says `EOPNOTSUPP`, here and in
    /// [`deallocate`](RemoteFile::deallocate): the core then writes zeros where that means the same.
    fn allocate(
        self: Arc<Self>,
        range: Range<u64>,
        keep_size: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Change>> {
        let _ = (range, keep_size, cx);
        unsupported()
    }

    /// Makes a hole of `range`, without changing the size.
    fn deallocate(
        self: Arc<Self>,
        range: Range<u64>,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Change>> {
        let _ = (range, cx);
        unsupported()
    }

    /// Whether a close of the open that `cx` carries the token of must upload what was written, so that whoever
    /// opens the file next sees it (close-to-open). No where nobody else can open it meanwhile without this
    /// client's being told first (NFS: with a write delegation): then it is left to the flusher. By default
    /// yes. Asked for each [`File::close`](crate::File::close); MUST NOT block.
    fn close_must_flush(&self, cx: &Cx) -> bool {
        let _ = cx;
        true
    }

    /// Gives back a promise that the server recalled (an NFS delegation): after everything that had to
    /// be written was. Called on the object that was opened last, if anybody has it any more: an adapter that
    /// holds a promise SHOULD keep the file's object with it. With several mounts of the volume each is
    /// called, for nobody says whose promise was recalled: without one this MUST do nothing, successfully.
    fn release_promise(self: Arc<Self>, cx: Cx) -> BoxFuture<'static, Result<()>> {
        let _ = cx;
        Box::pin(async { Ok(()) })
    }
}

fn read_only_error() -> Error {
    Error::new(Errno::EROFS, "this adapter cannot write")
}

fn read_only<T: Send + 'static>() -> BoxFuture<'static, Result<T>> {
    Box::pin(async { Err(read_only_error()) })
}

fn unsupported<T: Send + 'static>() -> BoxFuture<'static, Result<T>> {
    Box::pin(async { Err(Error::new(Errno::EOPNOTSUPP, "this adapter cannot do that")) })
}
