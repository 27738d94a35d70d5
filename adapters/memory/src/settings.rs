//! What the origin promises, allows and how fast it is.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use netfs::{
    Errno,
    remote::{IoLimits, Promise, StatFs, Version, VolumeFacts},
};

use crate::hash;

/// What kind of versions the server gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum VersionKind {
    /// A number, like an AFS data version or an NFS change attribute.
    #[default]
    Number,
    /// Opaque bytes without order, like an etag.
    Etag,
    /// None: the protocol has no versions, so nothing may reach the disk cache.
    None,
}

impl VersionKind {
    /// How the server states data version `version` of the file numbered `file`.
    #[must_use]
    pub fn state(self, file: u64, version: u64) -> Option<Version> {
        match self {
            VersionKind::Number => Some(Version::from_u64(version)),
            VersionKind::Etag => {
                let tag = format!("\"{:016x}\"", hash::combine(&[file, version]));
                Version::new(tag.as_bytes())
            }
            VersionKind::None => None,
        }
    }
}

/// At which moment of a delayed call the server looks at its files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SnapshotAt {
    /// When the call arrives: a delayed reply carries old data, a delayed write is already in force. The
    /// harder case, so the default.
    #[default]
    Issue,
    /// When the reply leaves: a delayed write is not in force yet.
    Release,
}

/// How fast the server answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Link {
    /// Time every call takes.
    pub latency: Duration,
    /// Bytes a second of file data, shared by all calls; `None` = unlimited.
    pub bytes_per_second: Option<u64>,
}

impl Link {
    /// A link of this latency and unlimited bandwidth.
    #[must_use]
    pub fn latency(latency: Duration) -> Link {
        Link { latency, bytes_per_second: None }
    }

    /// The same with a bandwidth.
    #[must_use]
    pub fn with_bytes_per_second(mut self, rate: u64) -> Link {
        self.bytes_per_second = Some(rate.max(1));
        self
    }

    /// How long `bytes` are on the way.
    pub(crate) fn transfer(&self, bytes: u64) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Changes the window a read is widened to, given the file's path: see
/// [`RemoteFile::expand`](netfs::remote::RemoteFile::expand).
pub type ExpandHook = Arc<dyn Fn(&[u8], &mut Range<u64>) + Send + Sync>;

/// Gives the limits of a call, from the file's path and how often they were asked for before: an
/// origin that renegotiates.
pub type LimitsHook = Arc<dyn Fn(&[u8], u64) -> IoLimits + Send + Sync>;

/// The origin's settings, changed at any time through [`MemoryFs::configure`](crate::MemoryFs::configure).
#[derive(Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Promise of every reply. Default: until broken, for reading.
    pub promise: Promise,
    /// Volume facts of every reply. Default: none.
    pub volume: Option<VolumeFacts>,
    /// Kind of versions.
    pub versions: VersionKind,
    /// Whether changes of attributes and names move the file's version too (an NFS change attribute
    /// does, an AFS data version does not). Default: no.
    pub attr_moves_version: bool,
    /// Whether read replies state all attributes; else only version and size. Default: yes.
    pub attr_in_reads: bool,
    /// Limits of a call.
    pub limits: IoLimits,
    /// Whether a write that is larger than the limits allow when it arrives is refused (`EINVAL`). Default: no;
    /// it is only a breach if none of the limits that were ever told allowed it. With a `limits_hook`: no effect.
    pub refuse_oversized: bool,
    /// Asked instead of `limits` if set.
    pub limits_hook: Option<LimitsHook>,
    /// Widens windows.
    pub expand: Option<ExpandHook>,
    /// How fast the server is. Default: at once.
    pub link: Link,
    /// When a delayed call looks at the files, or changes them.
    pub snapshot_at: SnapshotAt,
    /// Read replies come in pieces of this many bytes, each reported as progress; so do the
    /// acknowledgements of writes, which are applied as a whole.
    pub chunk: u64,
    /// Whether holes are reported as such; else they are sent as zeros. Default: yes.
    pub report_holes: bool,
    /// Whether mode, owner and group are enforced. Default: yes.
    pub check_access: bool,
    /// Most entries of one readdir reply. At least 1.
    pub readdir_page: usize,
    /// Answer of `statfs`; by default made from the tree.
    pub statfs: Option<StatFs>,
    /// The volume's coherency data.
    pub volume_coherency: Bytes,
    /// Whether clients may change nothing (`EROFS`). Third parties may. Default: no.
    pub read_only: bool,
    /// Whether writes that do not ask for stable storage wait for a commit, and are lost by
    /// [`restart_server`](crate::MemoryFs::restart_server) until then. Default: no.
    pub unstable: bool,
    /// Most bytes of data in all files together that a client's write may lead to: a write stops where
    /// it is reached and fails. Default: none.
    pub quota_bytes: Option<u64>,
    /// How a write past the quota fails: `ENOSPC` (the default), or `EDQUOT`.
    pub quota_errno: Errno,
    /// Whether replies to changes state the version before. Default: yes.
    pub states_before: bool,
    /// Whether replies to changes state all attributes; else only the version. Default: yes.
    pub attr_in_changes: bool,
    /// Whether the client that makes a change is told of it by an event like all others, as by a server
    /// that does not know who it is. Default: no.
    pub break_originator: bool,
    /// Whether a close must upload what was written ([`RemoteFile::close_must_flush`]). Default: yes.
    ///
    /// [`RemoteFile::close_must_flush`]: netfs::remote::RemoteFile::close_must_flush
    pub close_must_flush: bool,
    /// Whether a file whose last name goes lives on until the last of its opens ends, as on a local disk or with
    /// NFSv4's `OPEN4_RESULT_PRESERVE_UNLINKED`; else it is `ESTALE` at once, as with NFSv3. Counts for files that
    /// are opened from then on. Default: no.
    pub keep_opened: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            promise: Promise::UntilBroken { kind: netfs::remote::PromiseKind::Read },
            volume: None,
            versions: VersionKind::default(),
            attr_moves_version: false,
            attr_in_reads: true,
            limits: IoLimits::default(),
            refuse_oversized: false,
            limits_hook: None,
            expand: None,
            link: Link::default(),
            snapshot_at: SnapshotAt::default(),
            chunk: u64::MAX,
            report_holes: true,
            check_access: true,
            readdir_page: 256,
            statfs: None,
            volume_coherency: Bytes::new(),
            read_only: false,
            unstable: false,
            quota_bytes: None,
            quota_errno: Errno::ENOSPC,
            states_before: true,
            attr_in_changes: true,
            break_originator: false,
            close_must_flush: true,
            keep_opened: false,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("promise", &self.promise)
            .field("volume", &self.volume)
            .field("versions", &self.versions)
            .field("limits", &self.limits)
            .field("link", &self.link)
            .field("snapshot_at", &self.snapshot_at)
            .finish_non_exhaustive()
    }
}

/// What differs for one file; `None` = as the whole origin.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct FileSettings {
    /// Promise of the file's replies.
    pub promise: Option<Promise>,
    /// Kind of its versions.
    pub versions: Option<VersionKind>,
    /// Limits of a call.
    pub limits: Option<IoLimits>,
    /// Whether its holes are reported as such.
    pub report_holes: Option<bool>,
}
