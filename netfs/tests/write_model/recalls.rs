//! The server wants its promises back while writes, reads and uploads go on.

use std::time::Duration;

use futures_util::future::{Either, join_all, join3, select};
use netfs::{Errno, coherency::Recalled, remote::PromiseKind};
use netfs_memory::{Fault, Gate, Op, SnapshotAt};

use crate::{
    modelling::drive::drive,
    servers::Injected,
    view::Ranges,
    world::{STALL, World},
};

impl World {
    pub(crate) fn recall(&mut self) {
        let Some(h) = self.handle(true) else { return };
        if self.waits(h) {
            return self.write();
        }
        if self.rng.chance(30) && !self.suspect && !self.cache_hangs && !self.handles[h].lost {
            return self.recall_hung(h);
        }
        let of = self.handles[h].of;
        let path = self.files[of].path.clone();
        if self.rng.chance(50) {
            self.write();
        }
        self.local_state(of, false);
        let refused = (self.rng.chance(20) && !self.suspect)
            .then(|| self.fs.inject(Fault::on(Op::ReleasePromise).errno(Errno::EIO).times(1)));
        self.note(format!("recall of {path}"));
        let dirty = self.files[of].unsent.clone();
        let tickets = self.fs.recall(&path, PromiseKind::Write).expect("it exists");
        self.files[of].ask_again();
        let written = self.during(h, tickets, refused.as_ref());
        if let Some((outcomes, written)) = written {
            let released = outcomes.iter().any(|o| matches!(o, Recalled::Released));
            self.judge_recall(of, &outcomes, refused.as_ref());
            if released {
                self.all_was_uploaded(of, dirty, &written);
            }
        }
        if let Some(refused) = refused {
            self.fs.remove_fault(&refused);
        }
        self.local_state(of, false);
    }

    /// Writes and reads beside the recall. Returns how it ended, and what was written meanwhile.
    fn during(
        &mut self,
        h: usize,
        tickets: Vec<netfs::coherency::RecallTicket>,
        refused: Option<&Injected>,
    ) -> Option<(Vec<Recalled>, Ranges)> {
        let (of, file) = (self.handles[h].of, self.file(h));
        let count = self.rng.within(0..4);
        let writes: Vec<_> = (0..count).map(|_| self.write_span(of)).collect();
        let (offset, len) = self.rng.span(self.files[of].size());
        let before = self.files[of].views();
        let write = async {
            let mut results = Vec::new();
            for (offset, bytes) in &writes {
                results.push(file.write_at(*offset, bytes).await);
            }
            results
        };
        let mut buf = vec![0xaa; len as usize];
        let read = file.read_at(offset, &mut buf);
        let (outcomes, results, got) = self.drive(join3(join_all(tickets), write, read));
        self.note(format!("{outcomes:?}, refused {:?}", refused.map(Injected::hits)));
        let mut written = Ranges::default();
        for ((offset, bytes), result) in writes.iter().zip(&results) {
            self.wrote(of, *offset, bytes, result);
            if let Ok(n) = result {
                written.add(*offset as usize..*offset as usize + n);
            }
        }
        match got {
            Ok(n) => {
                buf.truncate(n);
                self.judge_mixed(&before, &writes, (offset as usize, len), &buf, of);
            }
            Err(e) => self.excuse("read", &e),
        }
        Some((outcomes, written))
    }

    fn judge_recall(&mut self, of: usize, outcomes: &[Recalled], refused: Option<&Injected>) {
        for outcome in outcomes {
            match outcome {
                Recalled::Released => self.covered.note("recall: released"),
                Recalled::ReleasedParked(errors) => {
                    self.covered.note("recall: parked");
                    if errors.is_empty() {
                        self.fail("bytes are parked, and nothing has failed");
                    }
                    self.excuse("recall", &errors[0]);
                }
                Recalled::Unreleased(errors) => {
                    self.covered.note("recall: not released");
                    if refused.is_none_or(|r| r.hits() == 0) {
                        self.excuse("recall", &errors[0]);
                    }
                }
                other => self.fail(&format!("{}: {other:?}", self.files[of].path)),
            }
        }
    }

    /// The promise was given back: nothing is dirty that was when it was asked for.
    fn all_was_uploaded(&mut self, of: usize, mut dirty: Ranges, written: &Ranges) {
        written.iter().for_each(|range| dirty.remove(&range));
        let origin = self.origin_bytes(&self.files[of].path);
        for range in dirty.iter() {
            let judged = self.files[of].settle_range(&range, &origin);
            self.check(judged.map_err(|why| format!("a promise was given back, but {why}")));
        }
    }

    /// A recall during an upload that hangs: it answers in time, and the bytes stay.
    fn recall_hung(&mut self, h: usize) {
        let (of, file) = (self.handles[h].of, self.file(h));
        let path = self.files[of].path.clone();
        if self.logs(h) || !self.removed.is_empty() {
            return self.fsync();
        }
        self.calm();
        let offset = self.rng.within(0..200_000);
        let bytes = self.bytes(100);
        let result = self.drive(file.write_at(offset, &bytes));
        self.wrote(of, offset, &bytes, &result);
        let (gate, at) = (Gate::new(), self.rng.pick(&[SnapshotAt::Issue, SnapshotAt::Release]));
        let held = self.fs.inject_at(&path, Fault::on(Op::Write).hold(&gate, at).always());
        let before = self.origin_bytes(&path);
        let flushed = std::sync::Arc::clone(&file);
        let fsync = Box::pin(async move { flushed.fsync().await });
        let fsync = match self.drive(select(fsync, Box::pin(gate.hit(1)))) {
            // It had been uploaded.
            Either::Left((result, _)) => {
                gate.release();
                self.fs.remove_fault(&held);
                match result {
                    Ok(()) => self.uploaded(of, &before),
                    Err(e) => self.excuse("fsync", &e),
                }
                return;
            }
            Either::Right(((), fsync)) => fsync,
        };
        self.note(format!("an upload of {path} hangs at {at:?}; recall"));
        self.local_state(of, true);
        let tickets = self.fs.recall(&path, PromiseKind::Write).expect("it exists");
        self.local_state(of, true);
        self.files[of].ask_again();
        // Readers go on.
        let mut buf = [0xaa; 100];
        let read = self.drive(file.read_at(offset, &mut buf));
        if !matches!(&read, Ok(n) if buf[..*n] == bytes[..*n] && *n == 100) {
            self.fail(&format!("read while the file is recalled: {read:?}"));
        }
        let outcomes = drive(join_all(tickets), STALL, |_| {
            self.clock.advance(Duration::from_millis(500));
        });
        self.note(format!("{outcomes:?}"));
        for outcome in &outcomes {
            let Recalled::ReleasedParked(errors) = outcome else {
                self.fail("an upload hung, and nothing is parked");
            };
            if errors.iter().any(|e| e.errno() != Errno::ETIMEDOUT) {
                self.fail("an upload hung, and that is not why the bytes are parked");
            }
        }
        self.covered.note("recall: while an upload hangs");
        let refused = self.drive(file.write_at(offset, &bytes));
        if !refused.as_ref().is_err_and(|e| e.errno() == Errno::ETIMEDOUT) {
            self.fail(&format!("a write into what is parked: {refused:?}"));
        }
        gate.release();
        self.fs.remove_fault(&held);
        let result = self.drive(fsync);
        self.note(format!("the server answers; its fsync: {result:?}"));
        match result {
            Ok(()) => self.uploaded(of, &before),
            Err(e) => self.excuse("fsync", &e),
        }
    }

    /// What the context says at once of its state. `dirty`: there must be bytes.
    fn local_state(&mut self, of: usize, dirty: bool) {
        let file = &self.files[of];
        let page_out =
            |r: std::ops::Range<usize>| r.end.next_multiple_of(4096) - r.start / 4096 * 4096;
        // What is on its way and was written again meanwhile counts twice.
        let most = 2 * file.unsent.iter().map(page_out).sum::<usize>();
        for state in self.fs.local_states(&file.path).expect("it exists") {
            let end = file.unsent.end() as u64;
            // How long the server's file is the context may not have heard.
            let wrong = dirty && state.size < end
                || state.dirty > most as u64
                || state.dirty == 0 && dirty
                || state.mtime.is_none() && state.dirty > 0;
            if wrong {
                self.fail(&format!(
                    "{}: {state:?}, should be {end} bytes, at most {most} dirty",
                    file.path
                ));
            }
        }
        self.covered.note("local_state");
    }
}
