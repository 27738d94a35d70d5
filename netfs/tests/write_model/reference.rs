//! The plain reference of one file: the states a reader may be shown, oldest first, and which bytes may
//! not be on the server yet. It knows nothing of folios, rounds or cookies. The rule is in `main.rs`.

use std::ops::Range;

use netfs::{Error, clock::BootTime};

use crate::{
    attributes::Shown,
    durable::Durable,
    groups::Track,
    modelling::life::Life,
    view::{Ranges, View},
};

pub(crate) struct FileRef {
    pub(crate) path: String,
    pub(crate) life: Life,
    /// Each differs from the one before by a change of somebody else's; with the time when that one
    /// ended. The first is the oldest that may still be shown.
    views: Vec<(View, Option<BootTime>)>,
    /// Views forgotten so far.
    forgotten: usize,
    /// Bytes written here that nothing says to be on stable storage.
    pub(crate) unsent: Ranges,
    /// Bytes were given up here that the server may have, uncommitted: its restart may take them.
    pub(crate) given_up: bool,
    /// The server's upload unit. With more than 1 what others write beside dirty bytes may be overwritten: then they
    /// write while nothing is dirty, and everybody is told.
    pub(crate) unit: u32,
    /// Its write groups.
    pub(crate) track: Option<Track>,
    /// What a crash leaves.
    pub(crate) durable: Durable,
    /// The log fails, or has failed since it was last seen to void records. Of a file that was not written to since
    /// it was logged they stay, and nobody hears of it: they say what the server has. The flusher comes back to
    /// them; a crash before that may lay them over what somebody else has written since.
    pub(crate) records_may_stay: bool,
    pub(crate) attributes: Shown,
}

/// Taken when a read starts.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    oldest: usize,
}

impl FileRef {
    pub(crate) fn new(path: &str, life: Life, bytes: Vec<u8>, unit: u32) -> FileRef {
        let views = vec![(View::of(bytes), None)];
        let path = path.to_owned();
        FileRef {
            path,
            life,
            views,
            forgotten: 0,
            unsent: Ranges::default(),
            given_up: false,
            unit,
            track: None,
            durable: Durable::default(),
            records_may_stay: false,
            attributes: Shown::default(),
        }
    }

    pub(crate) fn newest(&self) -> &View {
        &self.views[self.views.len() - 1].0
    }

    fn newest_mut(&mut self) -> &mut View {
        let last = self.views.len() - 1;
        &mut self.views[last].0
    }

    pub(crate) fn size(&self) -> u64 {
        self.newest().bytes.len() as u64
    }

    /// How many states there are to choose from.
    pub(crate) fn choices(&self) -> usize {
        self.views.len()
    }

    pub(crate) fn views(&self) -> Vec<View> {
        self.views.iter().map(|(view, _)| view.clone()).collect()
    }

    pub(crate) fn claim(&self, now: BootTime) -> Claim {
        let vouched = |ended: &Option<BootTime>| ended.is_none_or(|e| self.life.covers(e, now));
        let first = self.views.iter().position(|(_, ended)| vouched(ended)).unwrap_or(0);
        Claim { oldest: self.forgotten + first }
    }

    /// What is older than this is not shown any more.
    fn seen(&mut self, index: usize) {
        let gone = index.saturating_sub(self.forgotten).min(self.views.len() - 1);
        self.views.drain(..gone);
        self.forgotten += gone;
    }

    /// Only the newest state may be shown from now on.
    pub(crate) fn ask_again(&mut self) {
        self.seen(usize::MAX);
    }

    /// An event, or the end of a context: nothing older is shown.
    pub(crate) fn told(&mut self) {
        self.ask_again();
        self.attributes.told();
    }

    pub(crate) fn wrote(&mut self, at: u64, bytes: &[u8]) {
        self.attributes.forget_mtime();
        let at = at as usize;
        self.views.iter_mut().for_each(|(view, _)| view.write(at, bytes));
        self.unsent.add(at..at + bytes.len());
        self.durable.wrote(at, bytes);
        if let Some(track) = &mut self.track {
            track.forget(at..at + bytes.len());
        }
    }

    pub(crate) fn resized(&mut self, size: u64) {
        self.attributes.forget_mtime();
        self.track = None;
        self.views.iter_mut().for_each(|(view, _)| view.resize(size as usize));
        self.unsent.remove(&(size as usize..usize::MAX));
        self.durable.cut(size as usize);
        // What the server answered says whether somebody else had changed the file.
        self.ask_again();
    }

    /// Cut here and on the server; the log does not know.
    pub(crate) fn resized_unlogged(&mut self, size: u64) {
        self.unlogged(size as usize..usize::MAX, |file| file.resized(size));
    }

    /// A hole was made: what was written to it is gone with everything else.
    pub(crate) fn punched(&mut self, hole: &Range<usize>) {
        self.attributes.forget_mtime();
        self.track = None;
        self.views.iter_mut().for_each(|(view, _)| view.punch(hole));
        self.unsent.remove(hole);
        self.durable.forget(hole.start, hole.end);
        self.ask_again();
    }

    /// The same; the log does not know.
    pub(crate) fn punched_unlogged(&mut self, hole: &Range<usize>) {
        self.unlogged(hole.clone(), |file| file.punched(hole));
    }

    fn unlogged(&mut self, gone: Range<usize>, change: impl Fn(&mut FileRef)) {
        let mut durable = std::mem::take(&mut self.durable);
        durable.may_come_back(gone);
        change(self);
        self.durable = durable;
    }

    /// A hole was made and nobody said so. Of many small writes those nearest to each other are sent with what is
    /// between them: so that may come back with them.
    pub(crate) fn perhaps_punched(&mut self, before: &[u8], after: Vec<u8>, now: BootTime) {
        const NEAR: usize = 8192;
        let written: Vec<_> = self.unsent.iter().collect();
        let gaps = written.windows(2).map(|two| two[0].end..two[1].start.min(before.len()));
        let gaps: Vec<_> = gaps.filter(|gap| (1..NEAR).contains(&gap.len())).collect();
        self.theirs(before, after, now);
        for gap in gaps {
            self.newest_mut().may_also_be(gap.start, before[gap].to_vec());
        }
    }

    /// The file may be shown to end with the server's `size` bytes, or the last one that was written.
    pub(crate) fn may_end_at(&mut self, size: usize) {
        let end = size.max(self.unsent.end());
        let view = self.newest_mut();
        view.least = view.least.min(end);
    }

    /// The server let the file grow to `size`, if it was not that long.
    pub(crate) fn reserved(&mut self, size: u64) {
        self.attributes.forget_mtime();
        let shorter = |view: &View| (view.bytes.len() as u64) < size;
        for (view, _) in &mut self.views {
            if shorter(view) {
                view.resize(size as usize);
            }
            view.least = view.least.max(size as usize);
        }
        self.ask_again();
    }

    /// How long the file may be shown to be, of each state.
    pub(crate) fn sizes(&self, claim: Claim) -> Vec<Range<u64>> {
        let first = claim.oldest.saturating_sub(self.forgotten);
        let sizes = |(view, _): &(View, _)| view.least as u64..view.bytes.len() as u64;
        self.views[first..].iter().map(sizes).collect()
    }

    /// Somebody else made `after` of `before`. Bytes of ours that were not on the server are laid over;
    /// of those that were there it is open whether we know.
    pub(crate) fn theirs(&mut self, before: &[u8], after: Vec<u8>, now: BootTime) {
        self.attributes.forget_mtime();
        self.track = None;
        self.durable.theirs(before, &after);
        let ours = self.newest();
        let mut view = View::of(after.clone());
        view.bytes.resize(after.len().max(self.unsent.end()), 0);
        let mut kept_end = 0;
        for range in self.unsent.iter() {
            view.bytes[range.clone()].copy_from_slice(&ours.bytes[range.clone()]);
            let mut run: (usize, Vec<u8>) = (0, Vec::new());
            for at in range {
                let theirs = after.get(at).copied().unwrap_or(0);
                let sent = before.get(at) == Some(&ours.bytes[at]) || ours.is_open(at);
                if !sent {
                    kept_end = at + 1;
                } else {
                    if run.0 + run.1.len() != at {
                        let (start, bytes) = std::mem::take(&mut run);
                        view.may_also_be(start, bytes);
                        run.0 = at;
                    }
                    run.1.push(theirs);
                }
            }
            view.may_also_be(run.0, run.1);
        }
        view.least = view.least.max(kept_end);
        let last = self.views.len() - 1;
        self.views[last].1 = Some(now);
        self.views.push((view, None));
    }

    /// Somebody was told that everything written here is on the server, which holds `origin`: then it must
    /// be what is shown, and nothing else ever comes back.
    pub(crate) fn settle(&mut self, origin: &[u8]) -> Result<(), String> {
        self.settle_untold(origin)?;
        if !self.records_may_stay {
            self.durable.clear();
        }
        Ok(())
    }

    /// The same where nobody was told: after a crash, what the log had before may come back.
    pub(crate) fn settle_untold(&mut self, origin: &[u8]) -> Result<(), String> {
        self.newest().explains(0, usize::MAX, origin).map_err(|why| {
            format!("{}: the origin holds {} bytes, should be: {why}", self.path, origin.len())
        })?;
        *self.newest_mut() = View::of(origin.to_vec());
        self.unsent = Ranges::default();
        Ok(())
    }

    /// The same for a range.
    pub(crate) fn settle_range(
        &mut self,
        range: &Range<usize>,
        origin: &[u8],
    ) -> Result<(), String> {
        if !self.records_may_stay {
            self.durable.forget(range.start, range.end);
        }
        for part in self.unsent.inside(range) {
            let wrong = |at: &usize| match origin.get(*at) {
                Some(byte) => !self.newest().may_be(*at, *byte),
                None => !self.newest().may_be_gone(*at),
            };
            if let Some(at) = part.clone().find(wrong) {
                return Err(format!("{}: byte {at} is not on the origin", self.path));
            }
            self.unsent.remove(&part);
            let end = self.unsent.end();
            self.newest_mut().adopt(&part, origin, end);
        }
        Ok(())
    }

    /// Whatever was on stable storage is on the origin still.
    pub(crate) fn still_there(&self, origin: &[u8]) -> Result<(), String> {
        let view = self.newest();
        let kept = |at: &usize| self.unsent.inside(&(*at..*at + 1)).is_empty();
        let lost = (0..origin.len().min(view.bytes.len()))
            .filter(|at| !view.may_be(*at, origin[*at]))
            .find(kept);
        lost.map_or(Ok(()), |at| Err(format!("{}: the restarted server has lost {at}", self.path)))
    }

    /// What was not on the server is lost.
    pub(crate) fn lost(&mut self, origin: Vec<u8>) {
        self.attributes.forget_mtime();
        self.track = None;
        self.ask_again();
        self.given_up = true;
        *self.newest_mut() = View::of(origin);
        self.unsent = Ranges::default();
        self.durable.clear();
    }

    /// After a crash and a mount `got` is read, when the server has `origin`.
    pub(crate) fn revived(&mut self, origin: &[u8], got: Vec<u8>, log: bool) -> Result<(), String> {
        let judged = self.durable.judge(origin, &got, log);
        let dirty = judged.map_err(|why| format!("{}: {why}", self.path))?;
        let durable = std::mem::take(&mut self.durable);
        self.lost(got);
        (self.durable, self.unsent) = (durable, dirty);
        Ok(())
    }

    /// Judges what a read returned when it has ended.
    pub(crate) fn judge(
        &mut self,
        claim: Claim,
        (offset, len): (u64, u64),
        got: &Result<Vec<u8>, Error>,
        explained: bool,
    ) -> Result<(), String> {
        let bytes = match got {
            Ok(bytes) if len == 0 && bytes.is_empty() => return Ok(()),
            Ok(bytes) => bytes,
            Err(_) if explained => return Ok(()),
            Err(e) => return Err(format!("an error that no fault explains: {e:?}")),
        };
        let fits = |view: &View| view.explains(offset as usize, len as usize, bytes);
        self.match_view(claim, fits).map_err(|why| {
            format!("{}: {} bytes at {offset} (asked {len}): {why}", self.path, bytes.len())
        })?;
        Ok(())
    }

    pub(crate) fn judge_size(&mut self, claim: Claim, size: u64) -> Result<(), String> {
        let fits = |view: &View| match view.least as u64..=view.bytes.len() as u64 {
            sizes if sizes.contains(&size) => Ok(()),
            sizes => Err(format!("{sizes:?}")),
        };
        self.match_view(claim, fits).map_err(|why| format!("{}: size {size}: {why}", self.path))
    }

    fn match_view(
        &mut self,
        claim: Claim,
        fits: impl Fn(&View) -> Result<(), String>,
    ) -> Result<(), String> {
        let first = claim.oldest.saturating_sub(self.forgotten);
        let mut wrong = Vec::new();
        for i in first..self.views.len() {
            match fits(&self.views[i].0) {
                Ok(()) => {
                    // What one reader has seen no later reader goes back behind.
                    self.seen(self.forgotten + i);
                    return Ok(());
                }
                Err(why) => wrong.push(format!("state {}: {why}", self.forgotten + i)),
            }
        }
        let stale = self.views[..first].iter().any(|(view, _)| fits(view).is_ok());
        let stale = if stale { "; it is of an older state" } else { "" };
        Err(format!("of no state{stale}; unsent {:?}\n  {}", self.unsent, wrong.join("\n  ")))
    }
}
