//! What the log's records of one file come to.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;

use crate::{
    dirtylog::{Entry, OwnerId, Position, Record},
    remote::Version,
};

/// What the records of one file come to.
#[derive(Default)]
pub(super) struct Fold {
    /// By offset, disjoint.
    pub(super) pieces: BTreeMap<u64, FoldPiece>,
    /// Of the last extent.
    pub(super) version: Option<Version>,
    /// Of all extents.
    pub(super) positions: Vec<Position>,
}

#[derive(Clone)]
pub(super) struct FoldPiece {
    pub(super) data: Bytes,
    pub(super) owner: OwnerId,
    pub(super) group: Option<u64>,
    at: Position,
}

impl Fold {
    pub(super) fn add(&mut self, at: Position, record: Record) {
        match record.entry {
            Entry::Extent { offset, data, group } => {
                self.positions.push(at);
                self.version = record.version;
                let end = offset.saturating_add(data.len() as u64);
                self.remove(&(offset..end), Position(u64::MAX));
                if end > offset {
                    self.pieces.insert(offset, FoldPiece { data, owner: record.owner, group, at });
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
        // The pieces are disjoint: of those that begin before the range only the last one can reach into it.
        let first =
            self.pieces.range(..=range.start).next_back().map_or(range.start, |(at, _)| *at);
        let starts: Vec<u64> = self.pieces.range(first..range.end).filter_map(touching).collect();
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

    pub(super) fn bytes(&self) -> u64 {
        self.pieces.values().map(|piece| piece.data.len() as u64).sum()
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::remote::VolumeId;

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
        Entry::Extent { offset, data: data.into(), group: None }
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
