//! Bytes that the server refuses for good, and writers whose credentials it accepts no longer.

use std::sync::Arc;

use netfs::{
    Errno, File, OpenOptions,
    remote::{Cred, Cx},
};
use netfs_memory::{Fault, Op};

use crate::{
    modelling::cx,
    servers::{Injected, real, split},
    world::World,
};

/// Somebody else than the superuser.
pub(crate) const OTHER: u32 = 1000;

impl World {
    /// An open file that nothing else in the model knows, so that its fsync uploads and hears of no loss of
    /// before.
    pub(crate) fn fresh(&mut self, of: usize, cx: &Cx) -> Option<File> {
        self.fresh_how(of, &OpenOptions::new().read(true).write(true), cx)
    }

    /// The same, opened in some way.
    pub(crate) fn fresh_how(&mut self, of: usize, how: &OpenOptions, cx: &Cx) -> Option<File> {
        let path = self.files[of].path.clone();
        let mount = self.mount_for(&path);
        let opened = self.drive(mount.open_with(real(&path), how, cx));
        match opened {
            Ok(file) if self.fs.key(&path).is_ok_and(|key| key == file.node().key()) => Some(file),
            _ if self.names_fuzzy => None,
            other => self.fail(&format!("open {path}: {other:?}")),
        }
    }

    /// Several files are parked, each for its own reason. Others go on, until too much is.
    pub(crate) fn refused(&mut self) {
        self.calm();
        if self.cache_hangs {
            return;
        }
        // Much of one volume, perhaps, and then somebody writes to the other one.
        let only = (self.fs.volumes().len() > 1 && self.rng.chance(40)).then(|| self.rng.index(2));
        let volume = |of: &usize| split(&self.files[*of].path).0;
        let files = 0..self.files.len();
        let (mut of, mut others): (Vec<usize>, Vec<usize>) =
            files.partition(|of| only.is_none_or(|only| only == volume(of)));
        let count = if only.is_some() { 3 } else { self.rng.within(1..4) as usize };
        let mut parked: Vec<(usize, File, Errno, Injected)> = Vec::new();
        for _ in 0..count {
            let of = of.swap_remove(self.rng.index(of.len()));
            let Some(file) = self.fresh(of, &cx()) else { continue };
            let errors = [Errno::ENOSPC, Errno::EDQUOT, Errno::EIO, Errno::EROFS];
            let errno = self.rng.pick(&errors);
            let fault = Fault::on(Op::Write).errno(errno).always();
            let fault = self.fs.inject_at(&self.files[of].path, fault);
            let big = only.is_some() || self.rng.chance(50);
            if self.park(of, &file, errno, big) {
                parked.push((of, file, errno, fault));
            } else {
                self.fs.remove_fault(&fault);
            }
        }
        others.append(&mut of);
        self.others_go_on(&others, &parked);
        for (of, file, errno, fault) in parked {
            self.end_park(of, &file, errno, &fault);
        }
        self.nothing_is_parked();
    }

    fn park(&mut self, of: usize, file: &File, errno: Errno, big: bool) -> bool {
        let path = self.files[of].path.clone();
        let offset = self.rng.within(0..5000);
        let len = if big { self.rng.within(50_000..250_000) } else { self.rng.within(1..500) };
        let bytes = self.bytes(len);
        // It may find no memory, and wait for a while.
        self.cache_hangs = true;
        let result = self.drive(file.write_at(offset, &bytes));
        self.cache_hangs = false;
        self.note(format!("{path} will refuse with {errno:?}; write {offset}+{len}: {result:?}"));
        match result {
            Ok(n) => self.files[of].wrote(offset, &bytes[..n]),
            // Other files' are too much, or the flusher came first.
            Err(_) if self.netfs().memory().parked > 0 => return false,
            Err(e) => self.fail(&format!("write before anything was refused: {e:?}")),
        }
        for _ in 0..2 {
            let result = self.drive(file.fsync());
            if !result.as_ref().is_err_and(|e| e.errno() == errno) {
                self.fail(&format!("fsync of {path}: {result:?}, refused with {errno:?}"));
            }
        }
        let result = self.drive(file.write_at(offset, &bytes[..1]));
        if !result.as_ref().is_err_and(|e| e.errno() == errno) {
            self.fail(&format!("write to {path}: {result:?}, refused with {errno:?}"));
        }
        self.covered.note(format!("parked: {errno:?}"));
        self.all_reads(of, file);
        true
    }

    /// All of a file is as the reference says.
    pub(crate) fn all_reads(&mut self, of: usize, file: &File) {
        let claim = self.files[of].claim(self.now());
        let mut buf = vec![0xaa; 1 << 20];
        let got = self.drive(file.read_at(0, &mut buf)).map(|n| {
            buf.truncate(n);
            buf
        });
        let judged = self.files[of].judge(claim, (0, 1 << 20), &got, false);
        self.check(judged);
    }

    fn others_go_on(&mut self, others: &[usize], parked: &[(usize, File, Errno, Injected)]) {
        if parked.is_empty() {
            return;
        }
        let memory = self.netfs().memory();
        let Some(file) = self.fresh(others[0], &cx()) else { return };
        let (of, offset, bytes) = (others[0], self.rng.within(0..5000), self.bytes(10));
        let volume = |of: usize| split(&self.files[of].path).0;
        let elsewhere = parked.iter().all(|(parked, ..)| volume(*parked) != volume(of));
        let before = self.origin_bytes(&self.files[of].path);
        let result = self.drive(file.write_at(offset, &bytes));
        self.note(format!(
            "write beside parked files: {result:?}, {} of {}",
            memory.parked, memory.budget
        ));
        match &result {
            // Too much concerns the volumes that have some of it.
            Ok(10) if memory.parked <= memory.budget / 2 || elsewhere => {
                self.covered.note("parked: others go on");
                if memory.parked > memory.budget / 2 {
                    self.covered.note("parked: too much, elsewhere");
                }
                self.files[of].wrote(offset, &bytes);
                let result = self.drive(file.fsync());
                if result.is_err() {
                    self.fail(&format!("fsync of another file: {result:?}"));
                }
                self.uploaded(of, &before);
            }
            // What counts is the memory, which is more than the bytes.
            Err(e) if memory.indexed > memory.budget / 2 && !elsewhere => {
                if !parked.iter().any(|(_, _, errno, _)| e.errno() == *errno) {
                    self.fail("an error of nobody's");
                }
                self.covered.note("parked: too much");
            }
            _ => self.fail(&format!("write to another file: {result:?}; {memory:?}")),
        }
    }

    fn end_park(&mut self, of: usize, file: &File, errno: Errno, fault: &Injected) {
        let path = self.files[of].path.clone();
        if self.rng.chance(50) {
            self.fs.remove_fault(fault);
            let before = self.origin_bytes(&path);
            let result = self.drive(file.fsync());
            self.note(format!("{path} takes them: {result:?}"));
            if result.is_err() {
                self.fail("the server takes everything again");
            }
            self.covered.note("parked: until it was taken");
            return self.uploaded(of, &before);
        }
        let result = self.drive(file.discard_dirty());
        self.note(format!("discard of {path}: {result:?}"));
        if !result.is_ok_and(|n| n > 0) {
            self.fail("nothing was discarded");
        }
        self.fs.remove_fault(fault);
        self.handles.iter_mut().filter(|h| h.of == of).for_each(|h| h.lost = true);
        let origin = self.origin_bytes(&path);
        self.files[of].lost(origin);
        self.covered.note("parked: discarded");
        let told = self.drive(file.fsync());
        let then = self.drive(file.fsync());
        if !told.as_ref().is_err_and(|e| e.errno() == errno) || then.is_err() {
            self.fail(&format!("told of a loss: {told:?}, then {then:?}"));
        }
        self.all_reads(of, file);
    }

    fn nothing_is_parked(&mut self) {
        let memory = self.netfs().memory();
        if memory.parked > 0 {
            self.fail(&format!("parked for nothing: {memory:?}"));
        }
    }

    /// One of the writers of a file is not accepted any more: another one's credentials do, and if nobody's
    /// do the bytes stay.
    pub(crate) fn expired(&mut self) {
        self.calm();
        let of = self.rng.index(self.files.len());
        let path = self.files[of].path.clone();
        if self.cache_hangs || self.handles.iter().any(|h| h.of == of && h.lost) {
            return;
        }
        self.set_mode_of(of, 0o666);
        let other = Cx::new(Cred::new(OTHER, OTHER));
        let (Some(a), Some(b)) = (self.fresh(of, &cx()), self.fresh(of, &other)) else { return };
        let files = [Arc::new(a), Arc::new(b)];
        // Whoever else has the file open is the superuser.
        let gone = self.rng.within(0..3);
        let error = self.rng.pick(&[Errno::EKEYEXPIRED, Errno::EACCES, Errno::EPERM]);
        for file in [&files[0], &files[1], &files[0]] {
            let (offset, len) = (self.rng.within(0..20_000), self.rng.within(1..1000));
            let bytes = self.bytes(len);
            let result = self.drive(file.write_at(offset, &bytes));
            self.note(format!("write {path} {offset}+{len} as one of two: {result:?}"));
            match result {
                Ok(n) => self.files[of].wrote(offset, &bytes[..n]),
                Err(e) => self.fail(&format!("write: {e:?}")),
            }
        }
        let fault = |uid| self.fs.inject(Fault::on(Op::Write).uid(uid).errno(error).always());
        let mut faults = Vec::new();
        if gone != 1 {
            faults.push(fault(0));
        }
        if gone != 0 {
            faults.push(fault(OTHER));
        }
        let before = self.origin_bytes(&path);
        let result = self.drive(files[1].fsync());
        self.note(format!("{gone} not accepted ({error:?}), fsync: {result:?}"));
        match result {
            // With nobody left it had been uploaded before.
            Ok(()) => {
                self.covered.note(format!("expired: {gone}"));
                self.uploaded(of, &before);
            }
            Err(e) if gone == 2 && e.errno() == error => {
                self.covered.note("expired: both");
                self.all_reads(of, &files[0]);
            }
            other => self.fail(&format!("fsync with {gone} not accepted: {other:?}")),
        }
        faults.iter().for_each(|fault| self.fs.remove_fault(fault));
        let before = self.origin_bytes(&path);
        let result = self.drive(files[0].fsync());
        if result.is_err() {
            self.fail(&format!("both are accepted again: {result:?}"));
        }
        self.uploaded(of, &before);
    }
}
