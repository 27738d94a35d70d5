//! What a crash leaves of one file, by the levels of durability: the reference's part. The steps are in
//! `crash.rs`.

use std::ops::Range;

use crate::view::Ranges;

/// Bytes written here since somebody was told that the server has them, or that they are gone.
///
/// Of each byte a crash may leave what the last fsync at level journal covered, or anything that was written
/// over it later: a failed fsync may have brought that to the log, the flusher to the server. A byte that no
/// such fsync covered is as the server has it, unless the log has it.
#[derive(Clone, Default)]
pub(crate) struct Durable {
    /// What the last fsync at level journal covered, byte by byte.
    sure: Vec<Option<u8>>,
    /// What came after, oldest first.
    layers: Vec<Layer>,
    /// Cuts and holes were made, and the log did not take them: what they took away, of the layers before.
    unlogged: Vec<(Range<usize>, u64)>,
    /// Counts the layers.
    next: u64,
}

#[derive(Clone)]
struct Layer {
    number: u64,
    at: usize,
    bytes: Vec<u8>,
    /// Written here. Else it is what the byte may also be, because somebody else changed it on the server
    /// when ours may have been there already, or because a write may have failed half-way.
    ours: bool,
    /// An fsync at level journal may have brought it to the log before it failed.
    tried: bool,
}

impl Layer {
    fn end(&self) -> usize {
        self.at + self.bytes.len()
    }

    fn byte(&self, at: usize) -> Option<u8> {
        at.checked_sub(self.at).and_then(|i| self.bytes.get(i)).copied()
    }

    /// What is left of it outside a range.
    fn without(self, start: usize, end: usize) -> Vec<Layer> {
        let parts = [self.at..self.end().min(start), self.at.max(end)..self.end()];
        let part = |range: Range<usize>| Layer {
            number: self.number,
            at: range.start,
            bytes: self.bytes[range.start - self.at..range.end - self.at].to_vec(),
            ours: self.ours,
            tried: self.tried,
        };
        parts.into_iter().filter(|range| !range.is_empty()).map(part).collect()
    }
}

impl Durable {
    pub(crate) fn wrote(&mut self, at: usize, bytes: &[u8]) {
        self.push(at, bytes.to_vec(), true);
    }

    /// What is there may also be this.
    pub(crate) fn may_also_be(&mut self, at: usize, bytes: Vec<u8>) {
        self.push(at, bytes, false);
    }

    fn push(&mut self, at: usize, bytes: Vec<u8>, ours: bool) {
        let number = self.next;
        self.next += 1;
        if !bytes.is_empty() {
            self.layers.push(Layer { number, at, bytes, ours, tried: false });
        }
    }

    /// An fsync at level journal has returned well.
    pub(crate) fn fsynced(&mut self) {
        let mut kept: Vec<Layer> = Vec::new();
        for (gone, before) in std::mem::take(&mut self.unlogged) {
            // The log knows now.
            let after = self.layers.partition_point(|layer| layer.number < before);
            let after = self.layers.split_off(after);
            self.forget(gone.start, gone.end);
            self.layers.extend(after);
        }
        for layer in std::mem::take(&mut self.layers) {
            if !layer.ours {
                kept.push(layer);
                continue;
            }
            let (start, end) = (layer.at, layer.end());
            kept = kept.into_iter().flat_map(|l| l.without(start, end)).collect();
            self.sure.resize(self.sure.len().max(end), None);
            for (place, byte) in self.sure[start..end].iter_mut().zip(&layer.bytes) {
                *place = Some(*byte);
            }
        }
        self.layers = kept;
    }

    /// An fsync at level journal has failed, or nobody can tell what it covered.
    pub(crate) fn tried(&mut self) {
        self.layers.iter_mut().for_each(|layer| layer.tried = true);
    }

    /// Nothing of a range comes back: it is on the server, and somebody was told so, or it is gone.
    pub(crate) fn forget(&mut self, start: usize, end: usize) {
        let len = self.sure.len();
        self.sure[start.min(len)..end.min(len)].fill(None);
        let layers = std::mem::take(&mut self.layers);
        self.layers = layers.into_iter().flat_map(|l| l.without(start, end)).collect();
    }

    pub(crate) fn clear(&mut self) {
        *self = Durable::default();
    }

    /// The file was cut.
    pub(crate) fn cut(&mut self, size: usize) {
        self.forget(size, usize::MAX);
        self.sure.truncate(size);
    }

    /// The file was cut, or a hole was made, and the log may not know: what was there may come back.
    pub(crate) fn may_come_back(&mut self, gone: Range<usize>) {
        let end = self.layers.iter().map(Layer::end).max().unwrap_or(0).max(self.sure.len());
        self.may_also_be(gone.start, vec![0; end.min(gone.end).saturating_sub(gone.start)]);
        self.unlogged.push((gone, self.next));
        self.tried();
    }

    /// Somebody else changed the file on the server. Ours is gone from there where it was there already.
    pub(crate) fn theirs(&mut self, before: &[u8], after: &[u8]) {
        let byte = |of: &[u8], at: usize| of.get(at).copied().unwrap_or(0);
        let mut runs: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut sent = |at: usize, ours: Option<u8>| {
            let there = ours.is_none() || before.get(at) == ours.as_ref();
            if !there || before.get(at) == after.get(at) {
                return;
            }
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() == at => run.push(byte(after, at)),
                _ => runs.push((at, vec![byte(after, at)])),
            }
        };
        for layer in &self.layers {
            // What is open stays open.
            let byte = |b: u8| layer.ours.then_some(b);
            layer.bytes.iter().enumerate().for_each(|(i, b)| sent(layer.at + i, byte(*b)));
        }
        for (at, ours) in self.sure.iter().enumerate() {
            if ours.is_some() {
                sent(at, *ours);
            }
        }
        runs.into_iter().for_each(|(at, bytes)| self.may_also_be(at, bytes));
    }

    fn may_be_there(&self, at: usize, byte: u8) -> bool {
        self.layers.iter().any(|l| l.byte(at) == Some(byte))
    }

    fn may_be_logged(&self, at: usize, byte: u8) -> bool {
        self.layers.iter().any(|l| l.tried && l.byte(at) == Some(byte))
    }

    /// Bytes that only the log can have.
    pub(crate) fn only_logged(&self, origin: &[u8]) -> usize {
        let only = |(at, sure): &(usize, &Option<u8>)| {
            let covered = self.layers.iter().any(|l| l.byte(*at).is_some());
            sure.is_some() && !covered && origin.get(*at) != sure.as_ref()
        };
        self.sure.iter().enumerate().filter(only).count()
    }

    /// Judges what is read of the file after a crash and the mount that followed, when the server has
    /// `origin`. Returns what is dirty again, as far as that can be told.
    pub(crate) fn judge(&mut self, origin: &[u8], got: &[u8], log: bool) -> Result<Ranges, String> {
        let ours = self.layers.iter().filter(|l| l.tried && log).map(Layer::end);
        let most = ours.chain([origin.len(), self.sure.len()]).max().unwrap_or(0);
        if !(origin.len()..=most).contains(&got.len()) {
            let origin = origin.len();
            return Err(format!("{} bytes after a crash, not {origin}..={most}", got.len()));
        }
        let mut sure = vec![None; got.len()];
        for at in 0..got.len().max(self.sure.len()) {
            let there = origin.get(at).copied().unwrap_or(0);
            let shown = got.get(at).copied().unwrap_or(0);
            let covered = self.sure.get(at).copied().flatten();
            let as_there = covered.is_none_or(|byte| byte == there && at < got.len());
            let right = if shown == there {
                as_there || self.may_be_there(at, there)
            } else {
                covered == Some(shown) || log && self.may_be_logged(at, shown)
            };
            if !right {
                return Err(format!(
                    "byte {at} is {shown} after a crash; fsynced {covered:?}, on the server {there}"
                ));
            }
            // The log may have brought back what happens to be the same.
            let logged = covered == Some(shown) || log && self.may_be_logged(at, shown);
            if at < got.len() && (shown != there || logged) {
                sure[at] = Some(shown);
            }
        }
        (self.sure, self.layers, self.unlogged) = (sure, Vec::new(), Vec::new());
        Ok(self.covered())
    }

    fn covered(&self) -> Ranges {
        let (mut ranges, mut at) = (Ranges::default(), 0);
        for run in self.sure.chunk_by(|a, b| a.is_some() == b.is_some()) {
            if run[0].is_some() {
                ranges.add(at..at + run.len());
            }
            at += run.len();
        }
        ranges
    }
}
