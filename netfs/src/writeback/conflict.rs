//! What becomes of dirty bytes when somebody else has changed the file.
//!
//! When is that known? Whenever a reply brings another version while bytes are dirty, and from the versions
//! that the replies to our own changes name (see [`chain`](super::chain)). While such a call of ours is under
//! way another version may be ours: what was met then is judged at its end
//! ([`own_changes`](Conflicts::own_changes)).

use std::{fmt, ops::Range};

use bytes::Bytes;

use super::{flush::OnTheirWay, is_personal};
use crate::{
    error::{Errno, Error, Result},
    folio::{Sent, Slice, Unit, Which},
    inode::Inode,
    remote::{BoxFuture, Version, VolumeId},
    sync::{Arc, Mutex, atomic::Ordering},
};

/// What to do with bytes that were written here and are not on the server when somebody else has changed the
/// file there. Per context ([`Builder::conflict_policy`](crate::Builder::conflict_policy)), per mounted volume
/// ([`Mount::set_conflict_policy`](crate::Mount::set_conflict_policy)) or per file
/// ([`File::set_conflict_policy`](crate::File::set_conflict_policy)); the nearest one counts.
///
/// Every conflict is counted ([`Stats::write_conflicts`](crate::Stats::write_conflicts)) and logged with both
/// versions, whatever the policy.
///
/// **What cannot be known.** Without a lock the server may be changed between our look and our upload. So
/// [`Fail`](ConflictPolicy::Fail) and [`KeepBoth`](ConflictPolicy::KeepBoth) ask the server before each round
/// unless a promise stands; a change that comes later than that is only seen in the upload's reply, if the
/// server says which version each write found (NFS does, AFS does, plain object stores do not): then the bytes
/// are merged already, and every opener's next [`fsync`](crate::File::fsync) says so once. A server without
/// versions never shows a conflict at all; an upload whose reply was lost looks like somebody else's change.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use netfs::{Conflict, ConflictHook, ConflictPolicy, Netfs, Result, remote::BoxFuture};
///
/// /// Keeps what would have overwritten somebody else's bytes.
/// #[derive(Default)]
/// struct Copies(Mutex<Vec<(Vec<u8>, u64, Vec<u8>)>>);
///
/// impl ConflictHook for Copies {
///     fn keep(self: Arc<Self>, conflict: Conflict) -> BoxFuture<'static, Result<()>> {
///         Box::pin(async move {
///             let pieces = conflict.dirty().map(|(at, bytes)| (conflict.key().to_vec(), at, bytes.to_vec()));
///             self.0.lock().expect("no panic while held").extend(pieces);
///             Ok(()) // saved: netfs gives the bytes up, the file is as the server has it
///         })
///     }
/// }
///
/// let netfs = Netfs::builder().conflict_policy(ConflictPolicy::KeepBoth(Arc::<Copies>::default())).build()?;
/// # netfs.blocking_shutdown(std::time::Duration::from_secs(5));
/// # Ok::<(), netfs::Error>(())
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum ConflictPolicy {
    /// Byte by byte the last upload wins: their version is read, our bytes are laid over it.
    #[default]
    Merge,
    /// Our bytes are kept and not sent. `fsync`, `close` and new writes fail with an `ESTALE` that names both
    /// versions, until somebody [discards](crate::File::discard_dirty) the bytes or chooses
    /// [`Merge`](ConflictPolicy::Merge) for the file.
    Fail,
    /// The hook is given our bytes. What it says it has saved is given up here: the file is as the server has
    /// it. If it fails this is [`Fail`](ConflictPolicy::Fail), and every flush asks it again; but if the file
    /// was [removed](Conflict::removed) the bytes are given up then, as without a hook.
    KeepBoth(Arc<dyn ConflictHook>),
}

impl ConflictPolicy {
    pub(crate) fn is_merge(&self) -> bool {
        matches!(self, ConflictPolicy::Merge)
    }
}

impl fmt::Debug for ConflictPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConflictPolicy::Merge => "Merge",
            ConflictPolicy::Fail => "Fail",
            ConflictPolicy::KeepBoth(_) => "KeepBoth",
        })
    }
}

/// How often bytes that came in meanwhile are handed over, too.
const HAND_OVERS_MAX: usize = 4;

/// Saves bytes that met somebody else's change: [`ConflictPolicy::KeepBoth`].
pub trait ConflictHook: Send + Sync + 'static {
    /// Saves `conflict.dirty()` somewhere else; `Ok` says that it has.
    ///
    /// Runs on a driver thread, so it MUST NOT block; other files of any mount may be used. No upload of this
    /// file is under way or begins meanwhile, so it MUST NOT flush this very file or change its size or name.
    /// It has as long as a call to the server may take ([`Builder::remote_timeout`](crate::Builder::remote_timeout)).
    ///
    /// # Errors
    /// Any: nothing was saved. The bytes stay dirty.
    fn keep(self: Arc<Self>, conflict: Conflict) -> BoxFuture<'static, Result<()>>;
}

/// Dirty bytes of a file that somebody else has changed.
#[derive(Debug)]
pub struct Conflict {
    volume: VolumeId,
    key: Bytes,
    ours: Option<Version>,
    theirs: Option<Version>,
    removed: bool,
    dirty: Vec<(u64, Slice)>,
}

impl Conflict {
    pub(crate) fn of_removed(
        volume: VolumeId,
        key: Bytes,
        ours: Option<Version>,
        pieces: impl Iterator<Item = (u64, Bytes)>,
    ) -> Conflict {
        let dirty = pieces.map(|(at, bytes)| (at, Slice::of_bytes(bytes))).collect();
        Conflict { volume, key, ours, theirs: None, removed: true, dirty }
    }

    /// The file's volume.
    #[must_use]
    pub fn volume(&self) -> &VolumeId {
        &self.volume
    }

    /// The file's key within it. A file may have several names, or none by now.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The version our bytes were written over; `None` for a removed file of a server without versions.
    #[must_use]
    pub fn ours(&self) -> Option<&Version> {
        self.ours.as_ref()
    }

    /// The file does not exist any more: somebody else removed it, or moved another one over its name (as
    /// editors do to save). If the bytes are not saved now they are lost.
    #[must_use]
    pub fn removed(&self) -> bool {
        self.removed
    }

    /// The version the server has now, if a reply has named it.
    #[must_use]
    pub fn theirs(&self) -> Option<&Version> {
        self.theirs.as_ref()
    }

    /// Our bytes: offsets and contents, ascending and disjoint. A snapshot that no later write changes.
    pub fn dirty(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.dirty.iter().map(|(at, slice)| (*at, &slice[..]))
    }

    /// How many bytes that are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.dirty.iter().map(|(_, slice)| slice.len() as u64).sum()
    }
}

/// Whose versions met.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Met {
    base: Version,
    theirs: Option<Version>,
}

impl Met {
    fn error(&self) -> Error {
        let Met { base, theirs } = self;
        let theirs = theirs.as_ref().map_or("one nobody named".to_owned(), |v| format!("{v:?}"));
        let told = format!(
            "somebody else has changed the file from {base:?} to {theirs}; what was written here is kept"
        );
        Error::new(Errno::ESTALE, told)
    }
}

/// One inode's conflicts.
#[derive(Default)]
pub(crate) struct Conflicts(Mutex<State>);

#[derive(Default)]
struct State {
    policy: Option<ConflictPolicy>,
    /// Calls of ours under way that move the version.
    own: u32,
    /// Met meanwhile, not judged yet: the version before, and those seen.
    unjudged: Option<(Version, Vec<Version>)>,
    /// What dirty bytes have met; never with the policy to merge.
    met: Option<Met>,
}

impl Conflicts {
    /// Another version than `base` was seen while bytes were dirty. Whether that is a conflict already.
    ///
    /// A leaf: called within the coherency cell's critical section, so that no version is seen between a call
    /// of ours and its judgement.
    pub(crate) fn met(&self, base: &Version, theirs: Option<&Version>, merge: bool) -> bool {
        let mut state = self.0.lock();
        if let (1.., Some(theirs)) = (state.own, theirs) {
            let (_, seen) = state.unjudged.get_or_insert_with(|| (base.clone(), Vec::new()));
            seen.push(theirs.clone());
            return false;
        }
        state.note(base, theirs, merge);
        true
    }

    /// From here on the version may move by ourselves, until the guard has [ended](OwnChanges::end).
    pub(crate) fn own_changes<'a>(&'a self, inode: &'a Inode) -> OwnChanges<'a> {
        self.0.lock().own += 1;
        OwnChanges { conflicts: self, inode, ended: false }
    }

    fn current(&self) -> Option<Met> {
        self.0.lock().met.clone()
    }

    /// The conflict is over, one way or another.
    pub(crate) fn settle(&self) {
        self.0.lock().met = None;
    }
}

impl State {
    /// The base stays the first one's, for that is what the bytes were written over.
    fn note(&mut self, base: &Version, theirs: Option<&Version>, merge: bool) {
        if merge {
            return;
        }
        let met = self.met.get_or_insert_with(|| Met { base: base.clone(), theirs: None });
        met.theirs = theirs.cloned();
    }
}

/// See [`Conflicts::own_changes`]. Dropped without [`end`](OwnChanges::end), nothing that was met was ours.
pub(crate) struct OwnChanges<'a> {
    conflicts: &'a Conflicts,
    inode: &'a Inode,
    ended: bool,
}

impl OwnChanges<'_> {
    /// The call has ended; these are the versions it led to.
    pub(crate) fn end(mut self, ours: &[Version]) {
        self.judge(ours);
    }

    fn judge(&mut self, ours: &[Version]) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let merge = self.inode.conflict_policy().is_merge();
        let mut state = self.conflicts.0.lock();
        state.own -= 1;
        if state.own > 0 {
            return;
        }
        let Some((base, seen)) = state.unjudged.take() else { return };
        let Some(theirs) = seen.iter().rfind(|version| !ours.contains(version)) else { return };
        state.note(&base, Some(theirs), merge);
        drop(state);
        self.inode.count_conflict(&base, Some(theirs));
    }
}

impl Drop for OwnChanges<'_> {
    fn drop(&mut self) {
        self.judge(&[]);
    }
}

impl Inode {
    /// The file's policy, or its volume's, or the context's.
    pub(crate) fn conflict_policy(&self) -> ConflictPolicy {
        let own = self.wb.conflicts.0.lock().policy.clone();
        own.unwrap_or_else(|| self.volume.policy_in_force())
    }

    /// A replay is about to make bytes dirty that were written over `base`. It is counted already.
    pub(crate) fn met_before_replay(&self, base: &Version, theirs: &Version) {
        let merge = self.conflict_policy().is_merge();
        _ = self.wb.conflicts.met(base, Some(theirs), merge);
    }

    /// Another policy for this file. With the one to merge, what was parked for a conflict is uploaded again.
    pub(crate) fn set_conflict_policy(&self, policy: Option<ConflictPolicy>) {
        self.wb.conflicts.0.lock().policy = policy;
        self.merge_if_allowed();
    }

    /// With the policy to merge nothing stays parked for a conflict.
    pub(crate) fn merge_if_allowed(&self) {
        if self.conflict_policy().is_merge() && self.wb.conflicts.current().is_some() {
            self.wb.conflicts.settle();
            self.unpark();
        }
    }

    /// Replies to an upload showed that somebody else wrote before it: what was sent is on the server.
    pub(super) fn merged_with(&self, base: &Version, theirs: Option<&Version>) {
        self.count_conflict(base, theirs);
        if self.conflict_policy().is_merge() {
            return;
        }
        let met = Met { base: base.clone(), theirs: theirs.cloned() };
        self.wb.conflicts.0.lock().note(base, theirs, false);
        let told =
            format!("{}, but for what was being uploaded: that lies over theirs", met.error());
        self.wb.note_lost(Error::new(Errno::ESTALE, told));
    }
}

/// Before bytes of a file are taken for an upload; its turn is held. An error says that they must not be.
pub(super) async fn before_upload(inode: &Arc<Inode>) -> Result<()> {
    let policy = inode.conflict_policy();
    if policy.is_merge() || inode.pages.dirty_bytes() == 0 {
        inode.wb.conflicts.settle();
        return Ok(());
    }
    validate(inode).await?;
    let Some(met) = inode.wb.conflicts.current() else { return Ok(()) };
    match policy {
        ConflictPolicy::KeepBoth(hook) => keep_both(inode, hook, met).await,
        _ => Err(met.error()),
    }
}

/// Asks the server as whichever writer it answers (A3.11). Not by way of the check that readers share: that one
/// may be waiting for the turn.
async fn validate(inode: &Arc<Inode>) -> Result<()> {
    let mut refused = None;
    for (remote, cx) in inode.wb.owners() {
        match inode.ensure_valid_in_turn(&remote, cx).await {
            Err(error) if is_personal(&error) => _ = refused.get_or_insert(error),
            answered => return answered,
        }
    }
    refused.map_or(Ok(()), Err)
}

async fn keep_both(inode: &Arc<Inode>, hook: Arc<dyn ConflictHook>, met: Met) -> Result<()> {
    let versions = (Some(met.base.clone()), met.theirs.clone());
    hand_over(inode, hook, versions, false).await.map_err(|error| match error {
        NotKept::Hook(error) => {
            let told = format!("{}; saving it elsewhere failed: {error}", met.error());
            Error::new(Errno::ESTALE, told)
        }
        NotKept::Log(error) => error,
    })
}

/// Somebody else has removed the file: with the policy to keep both, the hook gets what was written to it. Says
/// whether it has saved all of it.
pub(super) async fn keep_removed(inode: &Arc<Inode>) -> bool {
    // By ourselves: nobody else's change meets ours.
    if inode.unlinked.load(Ordering::Acquire) {
        return false;
    }
    let ConflictPolicy::KeepBoth(hook) = inode.conflict_policy() else { return false };
    // Who was in the middle of a write may bring some more in.
    for _ in 0..HAND_OVERS_MAX {
        if inode.pages.dirty_bytes() == 0 {
            return true;
        }
        let versions = (inode.cell.version(), None);
        match hand_over(inode, Arc::clone(&hook), versions, true).await {
            Ok(()) => {}
            // Saved; a replay will find that the file is gone.
            Err(NotKept::Log(error)) => {
                tracing::debug!(%error, "the log keeps bytes that were saved")
            }
            Err(NotKept::Hook(error)) => {
                tracing::warn!(key = ?inode.key, %error, "what was written to a removed file was not saved");
                return false;
            }
        }
    }
    inode.pages.dirty_bytes() == 0
}

/// Why bytes are not the hook's.
enum NotKept {
    /// It has not saved them.
    Hook(Error),
    /// It has, and they are given up here; a crash might bring them back.
    Log(Error),
}

/// Gives the hook what is dirty, and then gives it up.
async fn hand_over(
    inode: &Arc<Inode>,
    hook: Arc<dyn ConflictHook>,
    (ours, theirs): (Option<Version>, Option<Version>),
    removed: bool,
) -> std::result::Result<(), NotKept> {
    // Until all is settled: what the hook has must not be logged once more, behind the mark.
    let _held = inode.log_hold();
    let logged = inode.log_mark();
    // Taken as for an upload: what is written from here on is not the hook's, and stays.
    let mut sent = inode.pages.take_dirty_of(&(0..u64::MAX), u64::MAX, Which::All, Unit::EXACT);
    sent.sort_by_key(|piece| piece.range.start);
    let ranges: Vec<Range<u64>> = sent.iter().map(|piece| piece.range.clone()).collect();
    let mut taken = OnTheirWay::new(inode, ranges.clone());
    let dirty = sent.into_iter().map(|Sent { range, data, .. }| (range.start, data)).collect();
    let (volume, key) = (inode.volume.id().clone(), inode.key.clone());
    let conflict = Conflict { volume, key, ours, theirs, removed, dirty };
    let bytes = conflict.bytes();
    inode.core.answered(hook.keep(conflict)).await.map_err(NotKept::Hook)?;
    taken.end();
    inode.gave_up(&ranges);
    inode.wb.conflicts.settle();
    inode.core.counters.write_kept_bytes.add(bytes);
    // All of it is given up, whatever range this flush is about: a crash must not bring it back.
    inode.log_settle(logged, &(0..u64::MAX)).await.map_err(NotKept::Log)
}
