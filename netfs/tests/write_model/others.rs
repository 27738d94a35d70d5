//! What others do to the files.

use std::ops::Range;

use netfs::{Error, coherency::BreakReason, remote::IoLimits};
use netfs_memory::{Conflict, Effect, Fault, Op};

use crate::world::World;

impl World {
    /// Somebody else changes a file.
    pub(crate) fn change(&mut self) {
        let of = self.rng.index(self.files.len());
        let wide = self.files[of].unit > 1;
        let silent = !wide && self.rng.chance(50) && self.files[of].choices() < 5;
        self.change_of(of, silent);
    }

    pub(crate) fn change_of(&mut self, of: usize, silent: bool) {
        self.nothing_dirty();
        if self.files[of].unit > 1 && !self.files[of].unsent.is_empty() {
            return;
        }
        let path = self.files[of].path.clone();
        let size = self.fs.size(&path).expect("it exists");
        let (at, len) = self.rng.span(size);
        let end = (at + len).min(500_000);
        let at = at.min(end);
        let change = self.fs.change(&path);
        let change = if silent { change.silently() } else { change };
        let (what, done) = match self.rng.within(0..10) {
            0 => ("rewrite", change.rewrite()),
            1..5 => ("rewrite_range", change.rewrite_range(at..end)),
            5 if size < 500_000 => ("append", change.append(len.min(50_000))),
            6 => ("truncate", change.truncate(at)),
            7 => ("punch", change.punch(at..end)),
            8 => ("rewrite_sized", change.rewrite_sized(at)),
            _ => ("touch", change.touch()),
        };
        let version = done.expect("the change is possible").version;
        let (before, after) = self.content(&path, version - 1).expect("young");
        let now = self.now();
        self.files[of].theirs(&before, after, now);
        if !silent {
            self.files[of].told();
        }
        self.covered.note(format!("change: {what}"));
        self.note(format!("{what} {path}{} {at}..{end}", if silent { " silently" } else { "" }));
    }

    /// A version of a file, and the next one, if they are not too old.
    pub(crate) fn content(&self, path: &str, version: u64) -> Option<(Vec<u8>, Vec<u8>)> {
        Some((self.version(path, version)?, self.version(path, version + 1)?))
    }

    /// A version of a file, if it is not too old.
    pub(crate) fn version(&self, path: &str, version: u64) -> Option<Vec<u8>> {
        let snapshot = self.fs.snapshot_of(path, version).expect("it exists")?;
        Some(snapshot.content.read(0, snapshot.content.size() as usize))
    }

    pub(crate) fn event(&mut self) {
        let reasons = [BreakReason::Callback, BreakReason::ServerReset, BreakReason::Disconnected];
        let reason = self.rng.pick(&reasons);
        match self.rng.within(0..6) {
            0 => self.fs.break_all(reason),
            1 => self.fs.scrub(reason),
            _ => {
                let of = self.rng.index(self.files.len());
                self.fs.send_break(&self.files[of].path).expect("it exists");
                self.files[of].told();
                return self.note(format!("break {}", self.files[of].path));
            }
        }
        self.files.iter_mut().for_each(|f| f.told());
        self.tree.ask_again();
        self.note("events for all");
    }

    /// Somebody else changes a file within one of our calls.
    pub(crate) fn conflict(&mut self) {
        let Some(h) = self.handle(true) else { return };
        let of = self.handles[h].of;
        if self.files[of].unit > 1 {
            return;
        }
        // Old versions are not kept for ever: few calls.
        if self.files[of].unsent.iter().count() > 20 || self.handles[h].lost || self.logs(h) {
            return self.fsync();
        }
        let path = self.files[of].path.clone();
        let limits = IoLimits { wsize: 1 << 20, ..IoLimits::default() };
        self.fs.configure_file(&path, |s| s.limits = Some(limits)).expect("it exists");
        let start = self.rng.within(0..200_000);
        let range = start..start + self.rng.within(64..20_000);
        let (after, tell) = (self.rng.chance(50), self.rng.chance(30));
        let resize = !self.suspect && self.rng.chance(30);
        let op =
            if resize { Op::SetSize } else { self.rng.pick(&[Op::Write, Op::Write, Op::Commit]) };
        self.note(format!("{op:?} on {path} meets a change of {range:?}, after it: {after}"));
        let since = self.fs.snapshot(&path).expect("it exists").version;
        let effect = Effect::Conflict(Conflict { range: range.clone(), after, tell });
        let fault = self.fs.inject_at(&path, Fault::on(op).effect(effect).times(1));
        let file = self.file(h);
        let to = self.rng.within(0..250_000);
        let result =
            self.drive(async { if resize { file.set_len(to).await } else { file.fsync().await } });
        self.fs.remove_fault(&fault);
        self.fs.wait_idle();
        self.note(format!(
            "{}: {result:?}",
            if resize { format!("set_len {to}") } else { "fsync".into() }
        ));
        if resize && after && result.is_ok() {
            self.files[of].resized(to);
        }
        if fault.hits() > 0 {
            self.covered.note(format!("conflict: {op:?}, after it: {after}"));
            self.met(of, since, &range);
            if tell || !after && !self.suspect {
                self.files[of].ask_again();
            }
        }
        self.judge_conflict(of, (resize && !after).then_some(to), resize, result);
    }

    fn judge_conflict(
        &mut self,
        of: usize,
        resized: Option<u64>,
        resize: bool,
        result: Result<(), Error>,
    ) {
        match result {
            Ok(()) if resize => {
                if let Some(to) = resized {
                    self.files[of].resized(to);
                }
            }
            Ok(()) => {
                let origin = self.origin_bytes(&self.files[of].path);
                let judged = self.files[of].settle(&origin);
                self.check(judged);
            }
            Err(e) => self.excuse("a call that met a change", &e),
        }
    }

    /// Takes in somebody else's change of `range`, made since the version `since`.
    fn met(&mut self, of: usize, since: u64, range: &Range<u64>) {
        let path = self.files[of].path.clone();
        let newest = self.files[of].newest().bytes.clone();
        let is_theirs = |(a, b): &(Vec<u8>, Vec<u8>)| {
            let byte = |of: &[u8], i: usize| of.get(i).copied().unwrap_or(0);
            let moved = |i: &usize| byte(a, *i) != byte(b, *i);
            let all: Vec<usize> = (0..a.len().max(b.len())).filter(moved).collect();
            let inside = all.iter().all(|i| range.contains(&(*i as u64)));
            let ours = all.iter().filter(|i| byte(&newest, **i) == byte(b, **i)).count();
            inside && all.len() as u64 * 5 > (range.end - range.start) * 4 && ours * 2 < all.len()
        };
        let versions = since..self.fs.snapshot(&path).expect("it exists").version;
        let mut contents = versions.filter_map(|version| self.content(&path, version));
        let Some((before, after)) = contents.find(is_theirs) else {
            drop(contents);
            self.fail("the change of somebody else's is not among the versions");
        };
        drop(contents);
        let now = self.now();
        self.files[of].theirs(&before, after, now);
    }
}
