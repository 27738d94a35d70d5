//! What the log of dirty bytes has of a volume becomes dirty again, before the volume's mount is handed out.
//!
//! Records are folded file by file: later bytes over earlier ones, cuts and holes in their order, without
//! what was settled. What is left is written through the page cache, on behalf of its writers, and is on the
//! flusher's list then. The records stay in the log until an upload settles them, so a crash in between, or
//! a second replay, changes nothing.

mod fold;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;
use fold::Fold;

use super::mount::{Mount, Node, admit};
use crate::{
    context::Core,
    dirtylog::{DirtyLog, Entry, OwnerId, Position, Record},
    errand,
    error::{Errno, Error, Result},
    file::{OpenOptions, WriteOptions},
    remote::{Cx, VolumeId},
    sync::{Arc, Mutex},
    timer,
    writeback::{
        conflict::{Conflict, ConflictPolicy},
        is_personal,
        log::Journal,
    },
};

/// With whose credentials the bytes of an owner are uploaded.
pub(crate) type ReplayAs = Arc<dyn Fn(OwnerId) -> Option<Cx> + Send + Sync>;

/// What a replay brought back ([`Mount::replayed`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// Files that have dirty bytes again.
    pub files: u64,
    /// How many.
    pub bytes: u64,
    /// Of the files: those whose version on the server is not the one the log knew. Somebody else, or this
    /// client just before it ended, has changed them since. The [policy](crate::ConflictPolicy) says what becomes of
    /// the log's bytes.
    pub conflicts: u64,
    /// Files that are not on the server any more, by key, and how many bytes were lost with each: those that no
    /// [`KeepBoth`](crate::ConflictPolicy::KeepBoth) hook has saved.
    pub gone: Vec<(Bytes, u64)>,
}

/// What was in the log when the context began, and not replayed yet.
#[derive(Default)]
pub(crate) struct Earlier {
    upto: Position,
    files: Mutex<BTreeSet<(VolumeId, Bytes)>>,
    /// Of those, the ones a replay has begun: what it has brought to the server since is no conflict.
    begun: Mutex<BTreeSet<(VolumeId, Bytes)>>,
    /// What replays have come to so far, also those that failed later: nobody would be told of a loss again.
    told: Mutex<BTreeMap<VolumeId, Replayed>>,
}

/// Reads the log once.
pub(crate) fn open(log: Arc<dyn DirtyLog>) -> Result<(Journal, Earlier)> {
    let (mut needed, mut upto) = (BTreeSet::new(), Position::default());
    let mut files = BTreeSet::new();
    for record in log.replay()? {
        let (at, record) = record?;
        upto = at;
        if matches!(record.entry, Entry::Extent { .. }) {
            needed.insert(at);
            files.insert((record.volume, record.key));
        }
    }
    Ok((
        Journal::new(log, needed, upto),
        Earlier { upto, files: Mutex::new(files), ..Earlier::default() },
    ))
}

impl Mount {
    /// Makes what the log has of this volume dirty again: once, by whichever mount of it comes first.
    pub(crate) async fn replay(&self, cx: &Cx) -> Result<Replayed> {
        let core = Arc::clone(self.volume().core());
        if core.journal.is_none() {
            return Ok(Replayed::default());
        }
        self.find_out_whether_replayable(&core, cx).await?;
        if core.earlier.has(self.volume_id()) {
            let (mount, replay_cx) = (self.clone(), cx.clone());
            let work = async move { mount.replay_in_turn(&replay_cx).await };
            let work = errand::accompany(&core.driver, work);
            let over = || Err(Error::new(Errno::ETIMEDOUT, "not replayed in time; mount again"));
            match cx.deadline() {
                Some(deadline) => timer::until(&core.driver, &*core.clock, deadline, work)
                    .await
                    .unwrap_or_else(over)?,
                None => work.await?,
            }
        }
        Ok(self.replayed())
    }

    /// On the driver: a caller that does not poll it must not keep other mounts of the volume waiting.
    async fn replay_in_turn(&self, cx: &Cx) -> Result<()> {
        let core = Arc::clone(self.volume().core());
        let Some(journal) = &core.journal else { return Ok(()) };
        let _one = self.volume().replaying.lock().await;
        for (key, fold) in self.folds(&core, journal)? {
            self.replay_file(&core, &key, fold, cx).await?;
            let file = (self.volume_id().clone(), key);
            core.earlier.files.lock().remove(&file);
            core.earlier.begun.lock().remove(&file);
        }
        let done = self.replayed();
        tracing::info!(volume = self.volume_id().as_str(), ?done, "the log was replayed");
        Ok(())
    }

    fn tell(&self, core: &Core, tell: impl FnOnce(&mut Replayed)) {
        tell(core.earlier.told.lock().entry(self.volume_id().clone()).or_default());
    }

    /// The records of a file that is gone are of no use.
    fn give_up(&self, core: &Core, key: &Bytes, fold: &Fold) -> Result<()> {
        let (Some(journal), Some(upto)) = (&core.journal, fold.positions.last()) else {
            return Ok(());
        };
        let entry = Entry::Settled { upto: *upto, range: 0..u64::MAX };
        let (volume, key) = (self.volume_id().clone(), key.clone());
        let record = Record { volume, key, owner: OwnerId(0), version: None, entry };
        journal.give_up(record, &fold.positions)
    }

    /// What the log brought back when the volume was mounted, with what came of mounts that failed before; nothing
    /// without a [log](crate::Builder::dirty_log).
    #[must_use]
    pub fn replayed(&self) -> Replayed {
        let told = self.volume().core().earlier.told.lock();
        told.get(self.volume_id()).cloned().unwrap_or_default()
    }

    /// A log is of no use where files cannot be found again by their keys.
    async fn find_out_whether_replayable(&self, core: &Core, cx: &Cx) -> Result<()> {
        let key = Bytes::copy_from_slice(self.root().remote.key());
        match self.on_driver(self.fs().by_key(key, cx.clone())).await {
            Ok(_) => self.volume().set_replayable(),
            Err(error) if error.errno() == Errno::EOPNOTSUPP => {
                if core.earlier.has(self.volume_id()) {
                    let told =
                        "the log has bytes of this volume, whose adapter finds no file by key";
                    return Err(Error::new(Errno::EOPNOTSUPP, told));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn folds(&self, core: &Core, journal: &Journal) -> Result<BTreeMap<Bytes, Fold>> {
        let mut folds = BTreeMap::<Bytes, Fold>::new();
        let id = self.volume_id();
        let wanted: BTreeSet<Bytes> = {
            let files = core.earlier.files.lock();
            files.iter().filter(|(volume, _)| volume == id).map(|(_, key)| key.clone()).collect()
        };
        if wanted.is_empty() {
            return Ok(folds);
        }
        for record in journal.log().replay()? {
            let (at, record) = record?;
            if at <= core.earlier.upto && record.volume == *id && wanted.contains(&record.key) {
                folds.entry(record.key.clone()).or_default().add(at, record);
            }
        }
        Ok(folds)
    }

    async fn replay_file(&self, core: &Core, key: &Bytes, fold: Fold, cx: &Cx) -> Result<()> {
        let bytes = fold.bytes();
        let epoch = self.volume().cell().sample();
        let found = match self.on_driver(self.fs().by_key(key.clone(), cx.clone())).await {
            Ok(found) => found,
            Err(error) if matches!(error.errno(), Errno::ESTALE | Errno::ENOENT) => {
                if bytes > 0 && !self.kept(core, key, &fold).await {
                    tracing::error!(?key, bytes, "a file that the log has bytes of was deleted");
                    core.counters.replay_lost_bytes.add(bytes);
                    self.tell(core, |done| done.gone.push((key.clone(), bytes)));
                }
                return self.give_up(core, key, &fold);
            }
            Err(error) => return Err(error),
        };
        let theirs = found.facts.version.clone();
        let (node, _) = admit(self.volume(), found, &epoch)?;
        if bytes == 0 {
            node.inode.log_replayed(fold.positions);
            return Ok(());
        }
        if let (Some(known), Some(now)) = (&fold.version, &theirs)
            && known != now
            && core.earlier.begun.lock().insert((self.volume_id().clone(), key.clone()))
        {
            self.tell(core, |done| done.conflicts += 1);
            core.counters.write_conflicts.inc();
            tracing::warn!(
                ?key,
                ?known,
                ?now,
                "a file has changed since the log's bytes were written"
            );
            // Before any of them can be sent.
            node.inode.met_before_replay(known, now);
        }
        core.earlier.begun.lock().insert((self.volume_id().clone(), key.clone()));
        self.write_again(core, &node, &fold, cx).await?;
        // Not before all of it is in memory: an upload of the first half must not settle the second.
        node.inode.log_replayed(fold.positions);
        self.tell(core, |done| (done.files, done.bytes) = (done.files + 1, done.bytes + bytes));
        core.counters.replayed_bytes.add(bytes);
        Ok(())
    }
}

impl Mount {
    /// Through the page cache, as each piece's owner.
    async fn write_again(&self, core: &Core, node: &Node, fold: &Fold, cx: &Cx) -> Result<()> {
        let owners: BTreeSet<u32> = fold.pieces.values().map(|piece| piece.owner.0).collect();
        let mut files = BTreeMap::new();
        for owner in owners {
            let theirs = core.replay_as.as_ref().and_then(|of| of(OwnerId(owner)));
            let (mounts, cx) = (cx, theirs.unwrap_or_else(|| cx.clone()));
            let how = OpenOptions::new().write(true).replaying();
            let opened = match self.open_any(node, &how, true, &cx).await {
                // The owner may have lost the right since; bytes that were accepted are not lost by that.
                Err(error) if is_personal(&error) => self.open_any(node, &how, true, mounts).await,
                opened => opened,
            };
            files.insert(owner, opened?);
        }
        // A replay that failed half-way begins anew, with the first group.
        node.inode.wb.left_group(None);
        // Those of no group are in no order to those of groups, and groups come in theirs.
        let mut pieces: Vec<_> = fold.pieces.iter().collect();
        pieces.sort_by_key(|(_, piece)| piece.group);
        for (offset, piece) in pieces {
            let Some(file) = files.get(&piece.owner.0) else { continue };
            let group = piece.group.map(|number| file.write_group_again(number));
            let options = WriteOptions { group: group.as_ref(), ..WriteOptions::default() };
            let (mut at, mut rest) = (*offset, &piece.data[..]);
            while !rest.is_empty() {
                let n = file.write_at_with(at, rest, options).await?;
                (at, rest) = (at + n as u64, &rest[n..]);
            }
        }
        Ok(())
    }

    /// A file that is gone: with the policy to keep both its hook is asked to save what the log has of it.
    async fn kept(&self, core: &Core, key: &Bytes, fold: &Fold) -> bool {
        let ConflictPolicy::KeepBoth(hook) = self.volume().policy_in_force() else { return false };
        let pieces = fold.pieces.iter().map(|(at, piece)| (*at, piece.data.clone()));
        let volume = self.volume_id().clone();
        let conflict = Conflict::of_removed(volume, key.clone(), fold.version.clone(), pieces);
        let saved = core.answered(hook.keep(conflict)).await;
        match &saved {
            Ok(()) => core.counters.write_kept_bytes.add(fold.bytes()),
            Err(error) => tracing::warn!(?key, %error, "the hook has not saved it"),
        }
        saved.is_ok()
    }
}

impl Earlier {
    /// Whether anything of the volume is yet to be replayed.
    fn has(&self, of: &VolumeId) -> bool {
        self.files.lock().iter().any(|(volume, _)| volume == of)
    }
}

impl fmt::Debug for Earlier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Earlier({} files)", self.files.lock().len())
    }
}
