//! What the log of dirty bytes has of a volume becomes dirty again, before the volume's mount is handed out.
//!
//! Records are folded file by file: later bytes over earlier ones, cuts and holes in their order, without
//! what was settled. What is left is written through the page cache, on behalf of its writers, and is on the
//! flusher's list then. The records stay in the log until an upload settles them, so a crash in between, or
//! a second replay, changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
};

use bytes::Bytes;

use super::mount::{Mount, Node, admit};
use crate::{
    context::Core,
    dirtylog::{DirtyLog, Entry, OwnerId, Position, Record},
    error::{Errno, Error, Result},
    file::OpenOptions,
    remote::{Cx, Version, VolumeId},
    sync::{Arc, Mutex},
    writeback::log::Journal,
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
    /// client just before it ended, has changed them since; the log's bytes are laid over.
    pub conflicts: u64,
    /// Files that are not on the server any more, by key, and how many bytes were lost with each.
    pub gone: Vec<(Bytes, u64)>,
}

/// What was in the log when the context began, and not replayed yet.
#[derive(Default)]
pub(crate) struct Earlier {
    upto: Position,
    files: Mutex<BTreeSet<(VolumeId, Bytes)>>,
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
    Ok((Journal::new(log, needed, upto), Earlier { upto, files: Mutex::new(files) }))
}

/// What the records of one file come to.
#[derive(Default)]
struct Fold {
    /// By offset, disjoint.
    pieces: BTreeMap<u64, FoldPiece>,
    /// Of the last extent.
    version: Option<Version>,
    /// Of all extents.
    positions: Vec<Position>,
}

#[derive(Clone)]
struct FoldPiece {
    data: Bytes,
    owner: OwnerId,
    at: Position,
}

impl Fold {
    fn add(&mut self, at: Position, record: Record) {
        match record.entry {
            Entry::Extent { offset, data } => {
                self.positions.push(at);
                self.version = record.version;
                let end = offset.saturating_add(data.len() as u64);
                self.remove(&(offset..end), Position(u64::MAX));
                if end > offset {
                    self.pieces.insert(offset, FoldPiece { data, owner: record.owner, at });
                }
            }
            Entry::SetSize(size) => self.remove(&(size..u64::MAX), at),
            Entry::Hole(range) => self.remove(&range, at),
            Entry::Settled { upto, range } => self.remove(&range, upto),
        }
    }

    /// Forgets `range` of what was written up to `upto`.
    fn remove(&mut self, range: &Range<u64>, upto: Position) {
        let touching = |(start, piece): (&u64, &FoldPiece)| {
            let end = start + piece.data.len() as u64;
            (end > range.start && piece.at <= upto).then_some(*start)
        };
        let starts: Vec<u64> = self.pieces.range(..range.end).filter_map(touching).collect();
        for start in starts {
            let Some(piece) = self.pieces.remove(&start) else { continue };
            let end = start + piece.data.len() as u64;
            if start < range.start {
                let data = piece.data.slice(..(range.start - start) as usize);
                self.pieces.insert(start, FoldPiece { data, ..piece.clone() });
            }
            if end > range.end {
                let data = piece.data.slice((range.end - start) as usize..);
                self.pieces.insert(range.end, FoldPiece { data, ..piece });
            }
        }
    }

    fn bytes(&self) -> u64 {
        self.pieces.values().map(|piece| piece.data.len() as u64).sum()
    }
}

impl Mount {
    /// Makes what the log has of this volume dirty again: once, by whichever mount of it comes first.
    pub(crate) async fn replay(&self, cx: &Cx) -> Result<Replayed> {
        let core = Arc::clone(self.volume().core());
        let Some(journal) = &core.journal else { return Ok(Replayed::default()) };
        let _one = core.replaying.lock().await;
        self.find_out_whether_replayable(&core, cx).await?;
        let mut done = Replayed::default();
        for (key, fold) in self.folds(&core, journal)? {
            self.replay_file(&core, &key, fold, cx, &mut done).await?;
            core.earlier.files.lock().remove(&(self.volume_id().clone(), key));
        }
        if done != Replayed::default() {
            *self.volume().replayed.lock() = done.clone();
            tracing::info!(volume = self.volume_id().as_str(), ?done, "the log was replayed");
        }
        Ok(done)
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

    /// What the log brought back when the volume was mounted; nothing without a
    /// [log](crate::Builder::dirty_log).
    #[must_use]
    pub fn replayed(&self) -> Replayed {
        self.volume().replayed.lock().clone()
    }

    /// A log is of no use where files cannot be found again by their keys.
    async fn find_out_whether_replayable(&self, core: &Core, cx: &Cx) -> Result<()> {
        let key = Bytes::copy_from_slice(self.root().remote.key());
        match self.on_driver(self.fs().by_key(key, cx.clone())).await {
            Ok(_) => self.volume().set_replayable(),
            Err(error) if error.errno() == Errno::EOPNOTSUPP => {
                let id = self.volume_id();
                if core.earlier.files.lock().iter().any(|(volume, _)| volume == id) {
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

    async fn replay_file(
        &self,
        core: &Core,
        key: &Bytes,
        fold: Fold,
        cx: &Cx,
        done: &mut Replayed,
    ) -> Result<()> {
        let bytes = fold.bytes();
        let epoch = self.volume().cell().sample();
        let found = match self.on_driver(self.fs().by_key(key.clone(), cx.clone())).await {
            Ok(found) => found,
            Err(error) if matches!(error.errno(), Errno::ESTALE | Errno::ENOENT) => {
                if bytes > 0 {
                    tracing::error!(?key, bytes, "a file that the log has bytes of was deleted");
                    core.counters.replay_lost_bytes.add(bytes);
                    done.gone.push((key.clone(), bytes));
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
        {
            done.conflicts += 1;
            core.counters.write_conflicts.inc();
            tracing::warn!(
                ?key,
                ?known,
                ?now,
                "a file has changed since the log's bytes were written"
            );
        }
        self.write_again(core, &node, &fold, cx).await?;
        // Not before all of it is in memory: an upload of the first half must not settle the second.
        node.inode.log_replayed(fold.positions);
        done.files += 1;
        done.bytes += bytes;
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
            let cx = theirs.unwrap_or_else(|| cx.clone());
            let how = OpenOptions::new().write(true);
            files.insert(owner, self.open_any(node, &how, true, &cx).await?);
        }
        for (offset, piece) in &fold.pieces {
            let Some(file) = files.get(&piece.owner.0) else { continue };
            let (mut at, mut rest) = (*offset, &piece.data[..]);
            while !rest.is_empty() {
                let n = file.write_at(at, rest).await?;
                (at, rest) = (at + n as u64, &rest[n..]);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Earlier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Earlier({} files)", self.files.lock().len())
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    fn fold(entries: impl IntoIterator<Item = Entry>) -> Vec<(u64, Vec<u8>)> {
        let mut fold = Fold::default();
        for (at, entry) in (1..).zip(entries) {
            let volume = VolumeId::new("v").expect("valid");
            let record =
                Record { volume, key: "k".into(), owner: OwnerId(0), version: None, entry };
            fold.add(Position(at), record);
        }
        fold.pieces.into_iter().map(|(offset, piece)| (offset, piece.data.to_vec())).collect()
    }

    fn extent(offset: u64, data: &'static str) -> Entry {
        Entry::Extent { offset, data: data.into() }
    }

    #[test]
    fn records_take_effect_in_their_order() {
        let later_over_earlier = fold([extent(0, "aaaaaa"), extent(2, "bb")]);
        assert_eq!(later_over_earlier, [(0, b"aa".into()), (2, b"bb".into()), (4, b"aa".into())]);
        let cut = fold([extent(0, "aaaaaa"), Entry::SetSize(3), extent(5, "b")]);
        assert_eq!(cut, [(0, b"aaa".into()), (5, b"b".into())]);
        let hole = fold([extent(0, "aaaaaa"), Entry::Hole(1..3)]);
        assert_eq!(hole, [(0, b"a".into()), (3, b"aaa".into())]);
    }

    #[test]
    fn what_was_settled_does_not_come_back_and_what_came_later_does() {
        let settled = |upto, range| Entry::Settled { upto: Position(upto), range };
        let left = fold([extent(0, "aaaa"), extent(2, "bb"), settled(1, 0..u64::MAX)]);
        assert_eq!(left, [(2, b"bb".into())]);
        let left = fold([extent(0, "aaaa"), settled(1, 1..3)]);
        assert_eq!(left, [(0, b"a".into()), (3, b"a".into())]);
    }
}
