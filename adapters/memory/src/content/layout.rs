//! What one version of a file holds: pattern, literal bytes and holes.

use std::{fmt, ops::Range};

use bytes::Bytes;

use super::{
    Mismatch,
    pieces::{Piece, Pieces, Source, clamp},
};

/// The content of one version of a file.
///
/// A sorted list of pieces; what no piece covers is a hole and reads as zeros. Cheap to copy: bytes and
/// most of the list are shared.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Content {
    size: u64,
    pieces: Pieces,
}

/// A run of bytes of one sort.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Run {
    /// Stored bytes, pattern or literal.
    Data(Range<u64>),
    /// Never written: zeros, and the server knows it.
    Hole(Range<u64>),
}

impl Content {
    /// A file that is one hole.
    #[must_use]
    pub fn hole(size: u64) -> Content {
        Content { size, pieces: Pieces::default() }
    }

    /// A file that is all pattern.
    #[must_use]
    pub fn pattern(seed: u64, version: u64, size: u64) -> Content {
        let mut content = Content::hole(size);
        content.put_pattern(0..size, seed, version);
        content
    }

    /// A file of these bytes.
    #[must_use]
    pub fn literal(bytes: impl Into<Bytes>) -> Content {
        let mut content = Content::default();
        content.put_bytes(0, bytes);
        content
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that are not hole.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.pieces.covered()
    }

    /// Replaces `range` by pattern, growing the file if it reaches past the end.
    pub fn put_pattern(&mut self, range: Range<u64>, seed: u64, version: u64) {
        self.put(range, Some(Source::Pattern { seed, version }));
    }

    /// Replaces the bytes at `offset`, growing the file if they reach past the end.
    pub fn put_bytes(&mut self, offset: u64, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let end = offset.saturating_add(bytes.len() as u64);
        self.put(offset..end, Some(Source::Literal { bytes, origin: offset }));
    }

    /// Makes `range` a hole, growing the file if it reaches past the end.
    pub fn put_hole(&mut self, range: Range<u64>) {
        self.put(range, None);
    }

    /// Cuts the file, or lets it grow by a hole.
    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            self.pieces.put(&(size..self.size), None);
        }
        self.size = size;
    }

    /// The runs of `range` in order, ending at the end of the file.
    pub fn runs(&self, range: Range<u64>) -> impl Iterator<Item = Run> {
        let end = range.end.min(self.size);
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let run = match self.piece_from(at) {
                Some(p) if p.range.start <= at => Run::Data(at..p.range.end.min(end)),
                Some(p) => Run::Hole(at..p.range.start.min(end)),
                None => Run::Hole(at..end),
            };
            let (Run::Data(r) | Run::Hole(r)) = &run;
            at = r.end;
            Some(run)
        })
    }

    /// Writes the bytes from `offset` on into `buf`; past the end of the file they are zero.
    pub fn fill(&self, offset: u64, buf: &mut [u8]) {
        let end = offset.saturating_add(buf.len() as u64);
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let piece = self.piece_from(at).filter(|p| p.range.start < end);
            let Some(piece) = piece else { return rest.fill(0) };
            let gap = clamp(piece.range.start.saturating_sub(at), rest.len());
            let (hole, after) = rest.split_at_mut(gap);
            hole.fill(0);
            at += gap as u64;
            let n = clamp(piece.range.end - at, after.len());
            let (data, after) = after.split_at_mut(n);
            piece.fill(at, data);
            at += n as u64;
            rest = after;
        }
    }

    /// The bytes of `range`, zeros past the end of the file.
    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        self.fill(offset, &mut buf);
        buf
    }

    /// Checks bytes read at `offset`; past the end of the file zeros are expected.
    ///
    /// # Errors
    /// The first byte that is wrong.
    pub fn verify(&self, offset: u64, bytes: &[u8]) -> Result<(), Mismatch> {
        super::compare(offset, bytes, |at, block| self.fill(at, block))
    }

    /// Makes `range` what it is in `other`, as far as that file reaches.
    pub(crate) fn copy_range(&mut self, other: &Content, range: Range<u64>) {
        let range = range.start..range.end.min(other.size);
        let mut at = range.start;
        while at < range.end {
            let piece = other.piece_from(at).filter(|p| p.range.start < range.end);
            let Some(piece) = piece else { return self.put_hole(at..range.end) };
            let data = piece.range.start.max(at)..piece.range.end.min(range.end);
            self.put_hole(at..data.start);
            at = data.end;
            self.put(data, Some(piece.source.clone()));
        }
    }

    /// The first piece that ends after `at`.
    fn piece_from(&self, at: u64) -> Option<&Piece> {
        self.pieces.from(at)
    }

    fn put(&mut self, range: Range<u64>, source: Option<Source>) {
        if range.is_empty() {
            return;
        }
        self.size = self.size.max(range.end);
        self.pieces.put(&range, source);
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes", self.size)?;
        self.pieces.iter().try_for_each(|piece| write!(f, ", {piece:?}"))?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Pattern(Range<u64>, u64),
        Bytes(u64, Vec<u8>),
        Hole(Range<u64>),
        Resize(u64),
        /// A range of another file.
        Copy(Range<u64>),
    }

    /// What [`Step::Copy`] copies from: a hole, literal bytes, a hole, pattern.
    fn other() -> Content {
        let mut content = Content::hole(200);
        content.put_bytes(50, vec![7; 30]);
        content.put_pattern(120..200, 9, 3);
        content
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0u64..300, 0u64..100).prop_map(|(a, n)| a..a + n)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (range(), 0u64..5).prop_map(|(r, v)| Step::Pattern(r, v)),
            (0u64..300, vec(any::<u8>(), 0..60)).prop_map(|(o, b)| Step::Bytes(o, b)),
            range().prop_map(Step::Hole),
            (0u64..400).prop_map(Step::Resize),
            range().prop_map(Step::Copy),
        ]
    }

    /// The plain reference: a vector of (byte, is data).
    fn apply_plainly(plain: &mut Vec<(u8, bool)>, step: &Step) {
        let mut put = |r: Range<u64>, f: &dyn Fn(u64) -> (u8, bool)| {
            for o in r {
                let o = o as usize;
                plain.resize(plain.len().max(o + 1), (0, false));
                plain[o] = f(o as u64);
            }
        };
        match step {
            Step::Pattern(r, v) => put(r.clone(), &|o| (crate::content::byte(9, *v, o), true)),
            Step::Bytes(at, b) => {
                put(*at..at + b.len() as u64, &|o| (b[(o - at) as usize], true));
            }
            Step::Hole(r) => put(r.clone(), &|_| (0, false)),
            Step::Resize(n) => plain.resize(*n as usize, (0, false)),
            Step::Copy(r) => put(r.start..r.end.min(200), &|o| match o {
                50..80 => (7, true),
                120..200 => (crate::content::byte(9, 3, o), true),
                _ => (0, false),
            }),
        }
    }

    fn apply(content: &mut Content, step: Step) {
        match step {
            Step::Pattern(r, v) => content.put_pattern(r, 9, v),
            Step::Bytes(at, b) => content.put_bytes(at, b),
            Step::Hole(r) => content.put_hole(r),
            Step::Resize(n) => content.resize(n),
            Step::Copy(r) => content.copy_range(&other(), r),
        }
    }

    proptest! {
        #[test]
        fn content_equals_a_plain_vector(
            steps in vec(step(), 1..20), from in 0u64..450, len in 0usize..450
        ) {
            let mut content = Content::default();
            let mut plain = Vec::new();
            for step in steps {
                apply_plainly(&mut plain, &step);
                apply(&mut content, step);
                prop_assert_eq!(content.size(), plain.len() as u64);
                let data = plain.iter().filter(|(_, data)| *data).count() as u64;
                prop_assert_eq!(content.data_bytes(), data);
            }
            let expected: Vec<u8> = (from..from + len as u64)
                .map(|o| plain.get(o as usize).map_or(0, |(b, _)| *b))
                .collect();
            prop_assert_eq!(content.read(from, len), expected);
            let mut at = from;
            for run in content.runs(from..from + len as u64) {
                let (r, data) = match run {
                    Run::Data(r) => (r, true),
                    Run::Hole(r) => (r, false),
                };
                prop_assert!(r.start == at && !r.is_empty());
                prop_assert!(r.clone().all(|o| plain[o as usize].1 == data));
                at = r.end;
            }
            prop_assert_eq!(at, (from + len as u64).min(content.size()).max(from));
        }
    }

    #[test]
    fn the_end_of_the_address_space_is_no_trap() {
        let content = Content::pattern(1, 1, u64::MAX);
        let runs: Vec<Run> = content.runs(u64::MAX - 10..u64::MAX).collect();
        assert_eq!(runs, [Run::Data(u64::MAX - 10..u64::MAX)]);
        assert_eq!(content.read(u64::MAX - 1, 1)[0], crate::content::byte(1, 1, u64::MAX - 1));
    }
}
