//! The random steps.

use std::{sync::Arc, time::Duration};

use futures_util::future::{Either, join_all, select};
use netfs::{Errno, coherency::BreakReason};
use netfs_memory::{Effect, Fault, Gate, Op, SnapshotAt};

use crate::{
    modelling::{covered::Covered, cx},
    reference::Claim,
    world::{Got, How, World, hex, read},
};

impl World {
    /// One step: something happens, then a read is judged.
    pub(crate) fn random_step(&mut self) {
        match self.rng.within(0..1000) {
            0..300 => {}
            300..480 => self.change(),
            480..540 => self.event(),
            540..590 => self.open(),
            590..640 => self.pass_time(),
            640..680 => self.forget(),
            680..720 => self.cache_fault(),
            720..780 => self.origin_fault(),
            780..860 => self.overlap(),
            860..880 => self.names(),
            880..885 => self.snapshot(),
            885..893 => self.restart(),
            893..920 => self.ask_size(),
            920..940 => self.corrupt(),
            _ => self.drain(),
        }
        self.observe();
        self.read_one();
        if self.journal.step.is_multiple_of(16) {
            self.check_kept();
        }
        let breaches = self.fs.take_breaches();
        if !breaches.is_empty() {
            self.fail(&format!("adapter contract: {breaches:?}"));
        }
    }

    fn random_handle(&mut self) -> Option<usize> {
        (!self.handles.is_empty()).then(|| self.rng.index(self.handles.len()))
    }

    /// What to read of a handle's file.
    fn plan_read(&mut self, handle: usize) -> (How, u64, u64) {
        let size = self.reference.size(&self.handles[handle].key);
        let (offset, len) = self.rng.span(size);
        let whole = self.rng.chance(10);
        let (offset, len) = if whole { (0, size.min(1 << 20)) } else { (offset, len) };
        let how = match self.rng.within(0..20) {
            0 | 1 if self.single.contains(&self.handles[handle].key) => How::Single,
            0..=2 => How::Unbuffered,
            n => How::ALL[n as usize % 4],
        };
        (how, offset, len)
    }

    fn read_one(&mut self) {
        let Some(h) = self.random_handle() else { return self.open() };
        let (how, offset, len) = self.plan_read(h);
        let (file, key) = (Arc::clone(&self.handles[h].file), self.handles[h].key.clone());
        let claim = self.claim(&key);
        let got = self.drive(read(&file, how, offset, len));
        self.note_read(&key, &got);
        self.judge(&claim, got);
        if self.reference.is_gone(&key) && self.rng.chance(20) {
            self.handles.swap_remove(h);
        }
    }

    fn note_read(&mut self, key: &[u8], got: &Got) {
        let said = match &got.bytes {
            None => "would block".into(),
            Some(Ok(bytes)) => format!("{} bytes", bytes.len()),
            Some(Err(e)) => e.to_string(),
        };
        let kind = match &got.bytes {
            None => "would block",
            Some(Ok(bytes)) if bytes.is_empty() => "empty",
            Some(Ok(_)) => "bytes",
            Some(Err(_)) => "an error",
        };
        self.covered.note(format!("read {:?}: {kind}", got.how));
        let name = hex(key);
        self.note(format!("read {name} {:?} {}+{}: {said}", got.how, got.offset, got.len));
    }

    fn change(&mut self) {
        let paths = self.fs.files();
        if paths.is_empty() {
            return;
        }
        let path = self.rng.pick(&paths);
        let size = self.fs.size(&path).expect("it exists");
        let silent = self.rng.chance(40) && !self.told_only;
        let (at, len) = self.rng.span(size);
        let end = (at + len).min(2_000_000);
        let at = at.min(end);
        let change = self.fs.change(&path);
        let change = if silent { change.silently() } else { change };
        let (what, done) = match self.rng.within(0..7) {
            0 => ("rewrite", change.rewrite()),
            1 => ("rewrite_range", change.rewrite_range(at..end)),
            2 if size < 1_500_000 => ("append", change.append(len)),
            3 => ("truncate", change.truncate(at.min(1_500_000))),
            4 => ("punch", change.punch(at..end)),
            5 => ("rewrite_sized", change.rewrite_sized(at.min(1_500_000))),
            _ => ("touch", change.touch()),
        };
        done.expect("the change is possible");
        self.covered.note(format!("change: {what}"));
        let key = self.fs.key(&path).expect("it exists");
        let how = if silent { " silently" } else { "" };
        self.note(format!("{what} {}{how} {at}..{end}", hex(&key)));
        self.observe();
    }

    fn event(&mut self) {
        let reasons = [BreakReason::Callback, BreakReason::ServerReset, BreakReason::Disconnected];
        let reason = self.rng.pick(&reasons);
        match self.rng.within(0..10) {
            0 => drop(self.fs.break_all(reason)),
            1 => self.fs.scrub(reason),
            2 => self.fs.publish(true),
            _ => {
                let paths = self.fs.files();
                if let Some(path) = (!paths.is_empty()).then(|| self.rng.pick(&paths)) {
                    self.fs.send_break(&path).expect("it exists");
                }
            }
        }
        self.note("events");
    }

    fn pass_time(&mut self) {
        let secs = self.rng.pick(&[1, 2, 5, 11, 21, 61, 200]);
        self.clock.advance(Duration::from_secs(secs));
        self.note(format!("{secs} s pass"));
    }

    fn forget(&mut self) {
        if self.rng.chance(50) {
            self.netfs().drop_memory();
            return self.note("drop_memory");
        }
        let Some(h) = self.random_handle() else { return };
        self.handles[h].file.invalidate();
        let key = self.handles[h].key.clone();
        self.reference.ask_again(&key);
        self.note(format!("invalidate {}", hex(&key)));
    }

    fn drain(&mut self) {
        if !self.cache_hangs {
            self.drive(self.netfs().drain_fills());
        }
    }

    fn cache_fault(&mut self) {
        if self.rng.chance(50) {
            self.disk.behave();
            self.cache_hangs = false;
            return self.note("cache behaves");
        }
        if let Some(what) = self.disk.misbehave(&mut self.rng) {
            self.covered.note("fault of the cache");
            // A fill of a busy cache is tried again as time passes, which it does not while one drains.
            self.cache_hangs |= what.contains("hangs") || what.contains("Busy");
            self.note(what);
        }
    }

    fn corrupt(&mut self) {
        let Some(h) = self.random_handle() else { return };
        let key = self.handles[h].key.clone();
        let size = self.reference.size(&key);
        let volume = self.mounts[0].volume_id().clone();
        if self.disk.corrupt(&mut self.rng, &volume, &key, size) {
            self.covered.note("fault: a stored page was damaged");
            self.note("corrupted a stored page");
        }
    }

    fn origin_fault(&mut self) {
        if self.explained > 0 || self.rng.chance(30) {
            self.fs.clear_faults();
            if self.explained == u32::MAX {
                self.quiesce();
                self.explained = 0;
            }
            return self.note("origin behaves");
        }
        // Two harmless ones together are none: a server that asks for four retries in a row is given up.
        self.fs.clear_faults();
        let n = self.rng.within(1..4);
        let harmless = [
            Effect::Short(1),
            Effect::Short(4095),
            Effect::Short(5000),
            Effect::Retry(0),
            Effect::Retry(4096),
            Effect::ClearTail(u64::MAX),
            Effect::Eof(u64::MAX),
        ];
        let failures = Effect::failures();
        let fails = self.rng.chance(50);
        let effect = if fails { self.rng.pick(&failures) } else { self.rng.pick(&harmless) };
        self.note(format!("{n} times {effect:?}"));
        let fault = match (&effect, self.rng.within(0..4)) {
            (Effect::Errno(_), 0) => Fault::any().effect(Effect::Errno(Errno::EIO)),
            (Effect::Errno(_), 1) => Fault::on(Op::Validate).effect(effect),
            _ => Fault::on(Op::Read).effect(effect),
        };
        self.covered.note(if fails {
            "fault of the origin"
        } else {
            "fault of the origin, harmless"
        });
        let _ = self.fs.inject(fault.times(n));
        if fails {
            self.explained = u32::MAX;
        }
    }

    /// Waits until everything the origin answered has been collected. What ended wakes a task of the
    /// one driver thread; a few calls through that thread later it has run.
    fn quiesce(&self) {
        self.fs.wait_idle();
        for _ in 0..3 {
            // Its answer does not matter.
            let _ = self.drive(self.mounts[0].statfs(&cx()));
        }
    }

    /// Reads that a change overtakes: replies come late, with what was true when they were asked for.
    fn overlap(&mut self) {
        let Some(h) = self.random_handle() else { return };
        let (file, key) = (Arc::clone(&self.handles[h].file), self.handles[h].key.clone());
        let gate = Gate::new();
        let at = self.rng.pick(&[SnapshotAt::Issue, SnapshotAt::Issue, SnapshotAt::Release]);
        let held_call = self.rng.within(0..4);
        let fault = match held_call {
            0 => Fault::on(Op::Validate).hold(&gate, at),
            1 => Fault::on(Op::Read).hold_after(self.rng.within(1..20_000), &gate),
            _ => Fault::on(Op::Read).hold(&gate, at),
        };
        self.covered.note("reads overtaken by changes");
        let held = self.fs.inject(fault.times(self.rng.within(1..4)));
        let mut claims: Vec<Claim> = Vec::new();
        let mut reads = Vec::new();
        for _ in 0..self.rng.within(1..4) {
            let (how, offset, len) = self.plan_read(h);
            self.note(format!("overlapping {how:?} {offset}+{len} of {}", hex(&key)));
            claims.push(self.claim(&key));
            let file = Arc::clone(&file);
            reads.push(async move { read(&file, how, offset, len).await });
        }
        let all = Box::pin(join_all(reads));
        let mut hung_twice = false;
        let got = match self.drive(select(all, Box::pin(gate.hit(1)))) {
            Either::Left((got, _)) => got,
            Either::Right(((), all)) => {
                for _ in 0..self.rng.within(0..3) {
                    if self.rng.chance(80) {
                        self.change()
                    } else {
                        self.event()
                    }
                    self.observe();
                }
                if self.rng.chance(20) {
                    self.clock.advance(Duration::from_secs(121));
                    self.note("the held call is given up");
                    // Two hung attempts at one range are all it tries, and one check.
                    hung_twice = gate.hits() > 1 || held_call == 0;
                }
                gate.release();
                self.drive(all)
            }
        };
        gate.release();
        self.fs.remove_fault(&held);
        self.observe();
        for (claim, got) in claims.iter().zip(got) {
            self.note_read(&key, &got);
            if hung_twice && self.explained == 0 {
                self.explained = 1;
            }
            self.judge(claim, got);
        }
    }

    fn names(&mut self) {
        let paths = self.fs.files();
        let silent = self.rng.chance(25) && !self.told_only;
        let fresh = format!("d/new-{}", self.journal.step);
        let create = paths.len() < 6 || self.rng.chance(30);
        let path = if create { fresh.clone().into_bytes() } else { self.rng.pick(&paths) };
        let change = self.fs.change(&path);
        let change = if silent { change.silently() } else { change };
        let (what, done) = match self.rng.within(0..4) {
            _ if create => ("create", change.create(self.rng.within(0..300_000))),
            0 => ("remove", change.remove()),
            1 => ("rename over", change.rename(self.rng.pick(&paths))),
            _ => ("rename", change.rename(&fresh)),
        };
        let name = String::from_utf8_lossy(&path).into_owned();
        if done.is_err() {
            return;
        }
        self.names_fuzzy |= silent;
        self.note(format!("{what} {name}{}", if silent { " silently" } else { "" }));
        self.observe();
        if what == "remove" && self.rng.chance(70) {
            let change = self.fs.change(&path);
            let change = if silent { change.silently() } else { change };
            change.create(self.rng.within(0..300_000)).expect("the name is free");
            self.note(format!("create {name} again"));
        }
        if create || what == "remove" {
            for path in self.fs.files() {
                if !self.fs.key(&path).is_ok_and(|k| self.reference.knows(&k)) {
                    self.adopt(&path);
                }
            }
        }
    }

    fn snapshot(&mut self) {
        self.fs.stage();
        for _ in 0..self.rng.within(0..4) {
            self.change();
        }
        let tell = self.rng.chance(70) || self.told_only;
        self.fs.publish(tell);
        self.note(format!("snapshot published, told: {tell}"));
    }

    fn ask_size(&mut self) {
        let Some(h) = self.random_handle() else { return };
        let (node, key) = (self.handles[h].file.node(), self.handles[h].key.clone());
        let mount = self.rng.pick(&self.mounts);
        let claim = self.claim(&key);
        let asked = self.drive(mount.getattr(&node, &cx())).map(|attr| attr.size);
        if let Err(why) = self.reference.judge_size(&claim, &asked, self.explained > 0) {
            self.fail(&why);
        }
    }

    fn restart(&mut self) {
        let kill = self.rng.chance(50);
        self.note(if kill { "kill" } else { "shut down" });
        self.covered.note(if kill { "restart after a kill" } else { "restart" });
        self.stop(kill);
        self.disk.restart(kill);
        self.start();
    }

    fn stop(&mut self, kill: bool) {
        self.fs.clear_faults();
        self.explained = 0;
        self.handles.clear();
        self.mounts.clear();
        let netfs = self.netfs.take().expect("running");
        self.covered.context(&netfs.stats());
        if kill {
            drop(netfs);
        } else {
            self.disk.behave();
            self.cache_hangs = false;
            let left = self.drive(netfs.shutdown(Duration::from_secs(20)));
            if !left.is_nothing() {
                self.fail("a healthy cache was left with fills at shutdown");
            }
        }
        self.disk.behave();
        self.cache_hangs = false;
    }

    /// At the end everything must be readable: no folio was left locked, no fetch hangs.
    pub(crate) fn end(mut self) -> Covered {
        self.disk.behave();
        self.cache_hangs = false;
        self.fs.clear_faults();
        self.fs.wait_idle();
        self.clock.advance(Duration::from_secs(500));
        self.observe();
        for h in 0..self.handles.len() {
            let (file, key) = (Arc::clone(&self.handles[h].file), self.handles[h].key.clone());
            for how in [How::At, How::At, How::Unbuffered] {
                let claim = self.claim(&key);
                self.explained = u32::from(self.explained > 0 && how == How::At);
                let got = self.drive(read(&file, how, 0, 1 << 20));
                self.judge(&claim, got);
            }
        }
        self.check_kept();
        self.stop(false);
        self.covered
    }
}
