//! One state of a file that a reader may be shown, byte by byte.

use std::ops::Range;

/// Sorted ranges that neither overlap nor touch.
#[derive(Clone, Default, Debug)]
pub(crate) struct Ranges(Vec<Range<usize>>);

impl Ranges {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn end(&self) -> usize {
        self.0.last().map_or(0, |r| r.end)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.0.iter().cloned()
    }

    pub(crate) fn add(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let mut joined = range;
        self.0.retain(|r| {
            let touches = r.start <= joined.end && joined.start <= r.end;
            if touches {
                joined = joined.start.min(r.start)..joined.end.max(r.end);
            }
            !touches
        });
        let at = self.0.partition_point(|r| r.start < joined.start);
        self.0.insert(at, joined);
    }

    pub(crate) fn remove(&mut self, range: &Range<usize>) {
        let around =
            |r: Range<usize>| [r.start..r.end.min(range.start), r.start.max(range.end)..r.end];
        let parts = std::mem::take(&mut self.0).into_iter().flat_map(around);
        self.0 = parts.filter(|r| !r.is_empty()).collect();
    }

    pub(crate) fn inside(&self, range: &Range<usize>) -> Vec<Range<usize>> {
        let cut = |r: Range<usize>| r.start.max(range.start)..r.end.min(range.end);
        self.iter().map(cut).filter(|r| !r.is_empty()).collect()
    }
}

/// The file after so many changes by others, with every byte written here over it.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) bytes: Vec<u8>,
    /// Somebody cut the file while it was open whether bytes past the cut had been sent before: any
    /// size from here to the length of `bytes` is right.
    pub(crate) least: usize,
    /// Somebody changed bytes of which it is open whether ours had been sent before: what they are if so.
    theirs: Vec<(usize, Vec<u8>)>,
    /// What writes that failed while they waited for the server may have written.
    perhaps: Vec<(usize, Vec<u8>)>,
}

impl View {
    /// What the server has, and nothing else.
    pub(crate) fn of(bytes: Vec<u8>) -> View {
        View { least: bytes.len(), bytes, theirs: Vec::new(), perhaps: Vec::new() }
    }

    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[at..end].copy_from_slice(bytes);
        self.least = self.least.max(end);
        self.settle(&(at..end));
    }

    pub(crate) fn resize(&mut self, size: usize) {
        self.bytes.resize(size, 0);
        self.least = size;
        self.settle(&(size..usize::MAX));
    }

    /// A write failed while it waited for the server: these bytes are there, or they are not.
    pub(crate) fn may_have_written(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        // Past the end of the file it is either as long as that, or as it was.
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.perhaps.push((at, bytes.to_vec()));
    }

    /// What may have been written to the state before this one may have been written to this one.
    pub(crate) fn take_perhaps(&mut self, of: &View) {
        self.perhaps.clone_from(&of.perhaps);
    }

    /// Nothing is open in `range`.
    pub(crate) fn settle(&mut self, range: &Range<usize>) {
        for pieces in [&mut self.theirs, &mut self.perhaps] {
            for (at, bytes) in std::mem::take(pieces) {
                let end = at + bytes.len();
                for part in [at..end.min(range.start), at.max(range.end)..end] {
                    if !part.is_empty() {
                        pieces.push((part.start, bytes[part.start - at..part.end - at].to_vec()));
                    }
                }
            }
        }
    }

    pub(crate) fn is_open(&self, at: usize) -> bool {
        let open = |(start, bytes): &(usize, Vec<u8>)| *start <= at && at < start + bytes.len();
        self.theirs.iter().any(open) || self.perhaps.iter().any(open)
    }

    pub(crate) fn may_also_be(&mut self, at: usize, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.theirs.push((at, bytes));
        }
    }

    /// Whether somebody else may have cut off what was here.
    pub(crate) fn may_be_gone(&self, at: usize) -> bool {
        let zero = |(start, bytes): &(usize, Vec<u8>)| {
            at.checked_sub(*start).and_then(|i| bytes.get(i)) == Some(&0)
        };
        let perhaps = |(start, bytes): &(usize, Vec<u8>)| *start <= at && at < start + bytes.len();
        self.theirs.iter().any(zero) || self.perhaps.iter().any(perhaps)
    }

    pub(crate) fn may_be(&self, at: usize, byte: u8) -> bool {
        let same = |(start, bytes): &(usize, Vec<u8>)| {
            at.checked_sub(*start).and_then(|i| bytes.get(i)) == Some(&byte)
        };
        // Past the end: zeros, if somebody shows so much.
        let open = self.theirs.iter().chain(&self.perhaps);
        self.bytes.get(at).copied().unwrap_or(0) == byte || { open }.any(same)
    }

    /// Whether `got` is what a read of `len` bytes at `offset` may return.
    pub(crate) fn explains(&self, offset: usize, len: usize, got: &[u8]) -> Result<(), String> {
        let want = |size: usize| size.saturating_sub(offset).min(len);
        let (least, most) = (want(self.least), want(self.bytes.len()));
        if !(least..=most).contains(&got.len()) {
            return Err(format!("{least}..={most} bytes, the file has {}", self.bytes.len()));
        }
        if got.is_empty() || got == &self.bytes[offset..offset + got.len()] {
            return Ok(());
        }
        match (0..got.len()).find(|i| !self.may_be(offset + i, got[*i])) {
            None => Ok(()),
            Some(i) => {
                let run = (i..got.len()).take_while(|i| !self.may_be(offset + i, got[*i])).count();
                let (want, got) = (self.bytes[offset + i], got[i]);
                Err(format!("byte {} is {got}, not {want} ({run} wrong)", offset + i))
            }
        }
    }

    /// Takes over what the origin holds in `range`, which nobody here has in another form. What it does not
    /// hold any more was cut off by somebody else after it had been sent: zeros, if the file reaches
    /// over it (`unsent_end`: as far as it does by what is not there yet).
    pub(crate) fn adopt(&mut self, range: &Range<usize>, origin: &[u8], unsent_end: usize) {
        let range = range.start..range.end.min(self.bytes.len());
        for at in range.clone() {
            self.bytes[at] = origin.get(at).copied().unwrap_or(0);
        }
        self.settle(&range);
        if range.end > origin.len() {
            self.bytes.truncate(origin.len().max(unsent_end));
            self.least = self.least.min(self.bytes.len());
        }
    }
}
