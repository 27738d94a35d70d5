//! Steps of the server, of the cache's disk, and of the end.

use std::time::Duration;

use netfs::{Durability, Errno};
use netfs_memory::{Effect, Fault, Op};

use crate::{
    modelling::{covered::Covered, cx},
    world::{World, limits},
};

impl World {
    /// What was acknowledged as unstable is lost; we must send it again.
    pub(crate) fn restart_server(&mut self) {
        let before: Vec<_> = self.files.iter().map(|f| self.origin_bytes(&f.path)).collect();
        self.fs.restart();
        self.files.iter_mut().for_each(|f| f.told());
        self.tree.ask_again();
        for (of, before) in before.iter().enumerate() {
            let origin = self.origin_bytes(&self.files[of].path);
            if std::mem::take(&mut self.files[of].given_up) {
                let now = self.now();
                self.files[of].theirs(before, origin, now);
                continue;
            }
            let judged = self.files[of].still_there(&origin);
            self.check(judged);
        }
        self.covered.note("restart of the server");
        self.note("the server restarts");
    }

    pub(crate) fn renegotiate(&mut self) {
        let of = self.rng.index(self.files.len());
        let limits = limits(&mut self.rng, self.files[of].unit);
        let path = self.files[of].path.clone();
        self.fs.configure_file(&path, |s| s.limits = Some(limits)).expect("it exists");
        self.note(format!("{path}: rsize {}, wsize {}", limits.rsize, limits.wsize));
    }

    pub(crate) fn fault(&mut self) {
        if self.suspect && self.rng.chance(60) {
            return self.calm();
        }
        match self.rng.within(0..10) {
            0..4 => self.harmless(),
            4..7 => self.failing(),
            _ => self.permanent(),
        }
    }

    /// The cache fails; nobody may notice.
    pub(crate) fn cache_fault(&mut self) {
        if self.rng.chance(50) {
            return self.cache_behaves();
        }
        if self.rng.chance(30) {
            let of = self.rng.index(self.files.len());
            let key = self.fs.key(&self.files[of].path).expect("it exists");
            let volume = self.mounts_of(&self.files[of].path)[0].volume_id().clone();
            if self.disk.corrupt(&mut self.rng, &volume, &key, self.files[of].size()) {
                self.covered.note("a stored byte is damaged");
                self.note("a stored byte is damaged");
            }
            return;
        }
        if let Some(said) = self.disk.misbehave(&mut self.rng) {
            self.cache_hangs |= said.contains("hangs");
            self.covered.note("fault of the cache");
            self.note(said);
        }
    }

    pub(crate) fn cache_behaves(&mut self) {
        self.disk.behave();
        self.cache_hangs = false;
        self.note("the cache behaves");
    }

    pub(crate) fn drain(&mut self) {
        if self.cache_hangs {
            self.cache_behaves();
        }
        self.drive(self.netfs().drain_fills());
    }

    fn harmless(&mut self) {
        let effect = self.rng.pick(&[
            Effect::Short(1),
            Effect::Short(4095),
            Effect::Short(5000),
            Effect::Retry(0),
            Effect::Retry(4096),
            Effect::Bump,
            Effect::Before(None),
        ]);
        let op = match &effect {
            Effect::Short(_) | Effect::Retry(_) => self.rng.pick(&[Op::Read, Op::Write]),
            _ => self.rng.pick(&[Op::Write, Op::SetSize, Op::Commit]),
        };
        let n = self.rng.within(1..4);
        self.note(format!("{n} times {op:?} {effect:?}"));
        self.covered.note(format!("fault, harmless: {op:?}"));
        let idle = matches!(effect, Effect::Retry(0));
        let injected = self.fs.inject(Fault::on(op).effect(effect).times(n));
        // Many of those in a row are an error.
        if idle && let Some(before) = self.idle_retries.replace(injected) {
            self.fs.remove_fault(&before);
        }
    }

    fn failing(&mut self) {
        let n = self.rng.within(1..5);
        let (op, effect) = match self.rng.within(0..8) {
            0 => (Op::Read, self.rng.pick(&Effect::failures())),
            1 => (Op::Validate, Effect::Errno(Errno::EIO)),
            2 => (Op::Commit, self.rng.pick(&[Effect::Errno(Errno::ENOSPC), Effect::LostReply])),
            3 => (Op::SetSize, self.rng.pick(&[Effect::Errno(Errno::EIO), Effect::LostReply])),
            4 => (Op::Write, Effect::Errno(self.rng.pick(&[Errno::EAGAIN, Errno::ECONNRESET]))),
            _ => (Op::Write, self.rng.pick(&Effect::write_failures())),
        };
        self.note(format!("{n} times {op:?} {effect:?}"));
        self.covered.note(format!("fault: {op:?}"));
        let _ = self.fs.inject(Fault::on(op).effect(effect).times(n));
        self.suspect = true;
    }

    /// A server that takes nothing more: the error stays until it does.
    fn permanent(&mut self) {
        let Some(h) = self.handle(true) else { return };
        if self.handles[h].level != Durability::Memory {
            return;
        }
        self.calm();
        let (of, file) = (self.handles[h].of, self.file(h));
        let errno = self.rng.pick(&[Errno::ENOSPC, Errno::EDQUOT, Errno::EIO]);
        let path = self.files[of].path.clone();
        let (offset, bytes) = (self.rng.within(0..5000), self.bytes(100));
        let result = self.drive(file.write_at(offset, &bytes));
        self.wrote(of, offset, &bytes, &result);
        self.note(format!("writes to {path} fail with {errno:?}"));
        let _ = self.fs.inject(Fault::on(Op::Write).errno(errno).always());
        self.suspect = true;
        if self.netfs().memory().dirty == 0 || self.handles[h].lost {
            return;
        }
        self.covered.note("fault: permanent");
        let (synced, written) =
            (self.drive(file.fsync()), self.drive(file.write_at(offset, &bytes)));
        match (synced, written) {
            // What was written had been uploaded in the background.
            (Ok(()), _) => {
                let origin = self.origin_bytes(&path);
                let judged = self.files[of].settle(&origin);
                self.check(judged);
                self.files[of].wrote(offset, &bytes);
            }
            (Err(a), Err(b)) if a.errno() == errno && b.errno() == errno => {}
            (a, b) => self.fail(&format!("{errno:?}: fsync {a:?}, the next write {b:?}")),
        }
    }

    /// The origin behaves, and nothing is left of what it did: one upload of all succeeds.
    pub(crate) fn calm(&mut self) {
        self.fs.clear_faults();
        self.log_behaves();
        // What is uploaded from here on is voided.
        self.files.iter_mut().for_each(|f| f.records_may_stay = false);
        self.fs.wait_idle();
        // What ended wakes a task of the one driver thread; a few calls through that thread later it has
        // run. Their answers do not matter.
        for _ in 0..3 {
            let _ = self.drive(self.mounts[0].statfs(&cx()));
        }
        self.suspect = false;
        self.note("the origin behaves");
        self.sync();
    }

    pub(crate) fn restart(&mut self) {
        self.covered.note("restart");
        if self.rng.chance(70) {
            self.calm();
        }
        self.stop();
        self.disk.restart(false);
        self.start();
        self.judge_replay();
    }

    /// The end of a process, which uploads what it has.
    fn stop(&mut self) {
        self.cache_behaves();
        self.handles.clear();
        self.open_groups.clear();
        self.removed.clear();
        self.unmount();
        let netfs = self.take_netfs();
        self.covered.context(&netfs.stats());
        let undone = self.drive(netfs.shutdown(Duration::from_secs(20)));
        self.note(format!("shutdown: {undone}"));
        self.log_behaves();
        self.fs.clear_faults();
        self.wait_for_the_dead();
        self.fs.wait_idle();
        if undone.dirty_bytes > 0 && !self.suspect {
            self.fail("written bytes were lost at shutdown");
        }
        self.files.iter_mut().for_each(|f| f.durable.tried());
        for of in 0..self.files.len() {
            let origin = self.origin_bytes(&self.files[of].path);
            if undone.dirty_bytes == 0 {
                let judged = self.files[of].settle(&origin);
                self.check(judged);
            }
            if self.log.is_none() {
                self.files[of].lost(origin);
            }
        }
        if undone.dirty_bytes == 0 {
            self.tree_is_uploaded();
        }
        self.tree_as_on_server();
        self.suspect = false;
    }

    /// At the end everything must be readable and on the server.
    pub(crate) fn end(mut self) -> Covered {
        self.calm();
        self.cache_behaves();
        self.clock.advance(Duration::from_secs(500));
        for _ in 0..10 {
            self.read_one(true);
        }
        self.check_kept();
        self.stop();
        self.covered
    }
}
