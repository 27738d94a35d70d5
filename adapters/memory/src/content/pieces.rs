//! The sorted pieces of a file's content, cheap to copy and to change.
//!
//! Each version of a file keeps its own content, so a file of many small writes would cost as much per
//! write as it has pieces if they were one array. They lie in leaves that versions share: a change copies
//! the leaves it touches and the list of leaves.

use std::{fmt, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};

/// A run of bytes from one source.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) range: Range<u64>,
    pub(super) source: Source,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Source {
    Pattern {
        seed: u64,
        version: u64,
    },
    /// The byte at file offset `o` is `bytes[o - origin]`.
    Literal {
        bytes: Bytes,
        origin: u64,
    },
}

/// Most pieces of a leaf.
const LEAF_MAX: usize = 128;

/// Literals up to this size together are joined when they meet, so that small writes next to each other
/// do not stay a piece each. It bounds what such a write copies.
const JOIN_MAX: u64 = 16 * 1024;

/// Pieces in order, without overlaps; no leaf is empty.
#[derive(Clone, Default)]
pub(super) struct Pieces {
    leaves: Vec<Arc<Vec<Piece>>>,
    /// Bytes that some piece covers.
    covered: u64,
}

impl Pieces {
    pub(super) fn covered(&self) -> u64 {
        self.covered
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.leaves.iter().flat_map(|leaf| leaf.iter())
    }

    /// The first piece that ends after `at`.
    pub(super) fn from(&self, at: u64) -> Option<&Piece> {
        let leaf = self.leaves.get(self.leaves.partition_point(|l| end(l) <= at))?;
        leaf.get(leaf.partition_point(|p| p.range.end <= at))
    }

    /// Covers `range`, which is not empty, by `source` instead of what was there; by nothing if `None`.
    pub(super) fn put(&mut self, range: &Range<u64>, source: Option<Source>) {
        let touched = self.touched(range);
        let old: u64 = self.leaves[touched.clone()].iter().map(|l| covered(l)).sum();
        let mut pieces = self.rest_before(&touched, range.start);
        let after = self.rest_after(&touched, range.end);
        if let Some(source) = source {
            push(&mut pieces, Piece { range: range.clone(), source });
        }
        let mut after = after.into_iter();
        // Only the first may meet the new piece.
        if let Some(first) = after.next() {
            push(&mut pieces, first);
        }
        pieces.extend(after);
        self.covered = self.covered - old + covered(&pieces);
        let leaves: Vec<_> =
            pieces.chunks(chunk_len(pieces.len())).map(|c| Arc::new(c.to_vec())).collect();
        self.leaves.splice(touched, leaves);
    }

    /// The leaves to make anew: those that overlap `range`, or one that it is next to.
    fn touched(&self, range: &Range<u64>) -> Range<usize> {
        let first = self.leaves.partition_point(|l| end(l) <= range.start);
        let last = self.leaves.partition_point(|l| start(l) < range.end);
        if first < last {
            return first..last;
        }
        // In a gap: into the leaf before, whose last piece it may continue, or else the first one.
        let at = first.saturating_sub(1);
        at..self.leaves.len().min(at + 1)
    }

    /// Of the touched leaves what lies before `at`.
    fn rest_before(&self, touched: &Range<usize>, at: u64) -> Vec<Piece> {
        let Some(leaf) = self.leaves[touched.clone()].first() else { return Vec::new() };
        let before = leaf.iter().take_while(|p| p.range.start < at);
        before.map(|p| p.trimmed(p.range.start..p.range.end.min(at))).collect()
    }

    /// Of the touched leaves what lies after `at`.
    fn rest_after(&self, touched: &Range<usize>, at: u64) -> Vec<Piece> {
        let Some(leaf) = self.leaves[touched.clone()].last() else { return Vec::new() };
        let from = leaf.partition_point(|p| p.range.end <= at);
        leaf[from..].iter().map(|p| p.trimmed(p.range.start.max(at)..p.range.end)).collect()
    }
}

/// The same pieces; how they lie in leaves does not count.
impl PartialEq for Pieces {
    fn eq(&self, other: &Pieces) -> bool {
        self.covered == other.covered && self.iter().eq(other.iter())
    }
}

impl Eq for Pieces {}

impl Piece {
    fn trimmed(&self, range: Range<u64>) -> Piece {
        Piece { range, source: self.source.clone() }
    }

    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The piece's bytes, if it is a literal.
    fn literal(&self) -> Option<&[u8]> {
        let Source::Literal { bytes, origin } = &self.source else { return None };
        let at = |o: u64| clamp(o - origin, bytes.len());
        Some(&bytes[at(self.range.start)..at(self.range.end)])
    }

    pub(super) fn fill(&self, offset: u64, buf: &mut [u8]) {
        match &self.source {
            Source::Pattern { seed, version } => super::fill(*seed, *version, offset, buf),
            Source::Literal { bytes, origin } => {
                let from = clamp(offset - origin, bytes.len());
                buf.copy_from_slice(&bytes[from..from + buf.len()]);
            }
        }
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = &self.range;
        match &self.source {
            Source::Pattern { version, .. } => write!(f, "{range:?} version {version}"),
            Source::Literal { .. } => write!(f, "{range:?} literal"),
        }
    }
}

/// Appends a piece that lies after all others, joined with the last one if both are small literals.
fn push(pieces: &mut Vec<Piece>, next: Piece) {
    if let Some(last) = pieces.last_mut()
        && last.range.end == next.range.start
        && last.len() + next.len() <= JOIN_MAX
        && let (Some(a), Some(b)) = (last.literal(), next.literal())
    {
        let mut bytes = BytesMut::with_capacity(a.len() + b.len());
        bytes.extend_from_slice(a);
        bytes.extend_from_slice(b);
        let range = last.range.start..next.range.end;
        let source = Source::Literal { bytes: bytes.freeze(), origin: range.start };
        *last = Piece { range, source };
        return;
    }
    pieces.push(next);
}

fn start(leaf: &[Piece]) -> u64 {
    leaf.first().map_or(0, |p| p.range.start)
}

fn end(leaf: &[Piece]) -> u64 {
    leaf.last().map_or(0, |p| p.range.end)
}

fn covered(pieces: &[Piece]) -> u64 {
    pieces.iter().map(Piece::len).sum()
}

/// Pieces in each leaf when `n` are spread evenly over as few leaves as they need.
fn chunk_len(n: usize) -> usize {
    n.div_ceil(n.div_ceil(LEAF_MAX).max(1)).max(1)
}

/// `n`, at most `max`.
pub(super) fn clamp(n: u64, max: usize) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(bytes: &[u8], origin: u64) -> Option<Source> {
        Some(Source::Literal { bytes: Bytes::copy_from_slice(bytes), origin })
    }

    #[test]
    fn small_literals_side_by_side_are_few_pieces_whatever_their_order() {
        let orders: [Box<dyn Iterator<Item = u64>>; 2] =
            [Box::new(0..100_000), Box::new((0..100_000).rev())];
        for order in orders {
            let mut pieces = Pieces::default();
            for i in order {
                let at = i * 8;
                pieces.put(&(at..at + 8), literal(&at.to_le_bytes(), at));
            }
            assert_eq!(pieces.covered(), 800_000);
            assert!(pieces.iter().count() <= 2 * 800_000 / JOIN_MAX as usize + 1);
            let mut buf = [0; 8];
            for at in (0..800_000u64).step_by(8) {
                pieces.from(at).unwrap().fill(at, &mut buf);
                assert_eq!(buf, at.to_le_bytes());
            }
        }
    }

    /// A version more costs what it touches, not what the file has.
    #[test]
    fn a_change_shares_all_leaves_but_those_it_touches() {
        let mut pieces = Pieces::default();
        for i in 0..100_000u64 {
            // Scattered: each is a piece of its own.
            let at = i * 48_271 % 100_003 * 64;
            pieces.put(&(at..at + 8), literal(&at.to_le_bytes(), at));
        }
        assert_eq!(pieces.iter().count(), 100_000);
        assert!(pieces.leaves.iter().all(|l| !l.is_empty() && l.len() <= LEAF_MAX));
        let before = pieces.clone();
        pieces.put(&(320_000..320_100), None);
        let shared = |l: &&Arc<Vec<Piece>>| before.leaves.iter().any(|b| Arc::ptr_eq(b, l));
        let anew = pieces.leaves.iter().filter(|l| !shared(l)).count();
        assert!(anew <= 2, "{anew} leaves were copied");
        assert!(before != pieces && before.covered() > pieces.covered());
    }
}
