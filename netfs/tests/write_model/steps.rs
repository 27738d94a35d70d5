//! The random steps of our own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use netfs::{Errno, Error, File, MemoryUse, ReadOptions, WriteOptions};

use crate::{
    modelling::{cx, kept::concat},
    servers::split,
    world::World,
};

/// No file becomes longer by our doing.
pub(crate) const END_MAX: u64 = 300_000;

impl World {
    /// One step: something happens, then a read is judged.
    pub(crate) fn random_step(&mut self) {
        match self.rng.within(0..1420) {
            0..260 => self.write(),
            260..266 => self.policy(),
            266..276 => self.recall(),
            276..281 => self.refused(),
            281..285 => self.expired(),
            285..299 => self.crash(),
            299..310 => self.log_fault(),
            310..350 => self.append(),
            350..440 => self.fsync(),
            440..470 => self.flush_range(),
            470..520 => self.set_len(),
            520..610 => self.change(),
            610..625 => self.conflict(),
            625..631 => self.remove(),
            631..645 => self.use_removed(),
            645..665 => self.event(),
            665..695 => self.pass_time(),
            695..730 => self.forget(),
            730..750 => self.sync(),
            750..795 => self.open(),
            795..810 => self.close(),
            810..850 => self.overtaken(),
            850..880 => self.burst(),
            880..920 => self.fault(),
            920..940 => self.cache_fault(),
            940..946 => self.restart(),
            946..954 => self.restart_server(),
            954..968 => self.renegotiate(),
            968..982 => self.discard(),
            982..992 => self.ask_size(),
            992..1000 => self.drain(),
            1000..1050 => self.space(),
            1050..1100 => self.write_some_way(),
            1100..1125 => self.hint(),
            1125..1170 => self.group(),
            1170..1250 => self.names(),
            1250..1310 => self.open_some_way(),
            1310..1320 => self.remount(),
            1320..1328 => self.hung_volume(),
            1328..1336 => self.close_unflushed(),
            1336..1342 => self.owners(),
            1342..1372 => self.change_attributes(),
            1372..1412 => self.kept_names(),
            1412..1420 => self.policy(),
            _ => unreachable!("within the range"),
        }
        self.read_one(true);
        self.nothing_dirty();
        self.check_groups();
        if self.journal.step.is_multiple_of(16) {
            self.check_kept();
        }
        let breaches = self.fs.take_breaches();
        if !breaches.is_empty() {
            self.fail(&format!("adapter contract: {breaches:?}"));
        }
    }

    /// A random handle, for writing or any.
    pub(crate) fn handle(&mut self, writable: bool) -> Option<usize> {
        let fits = |h: &usize| {
            let handle = &self.handles[*h];
            let reachable = self.hung != Some(split(&self.files[handle.of].path).0);
            (handle.writable || !writable) && reachable
        };
        let fit: Vec<usize> = (0..self.handles.len()).filter(fits).collect();
        (!fit.is_empty()).then(|| self.rng.pick(&fit))
    }

    pub(crate) fn file(&self, handle: usize) -> Arc<File> {
        Arc::clone(&self.handles[handle].file)
    }

    /// A range to write to: mostly small, on edges, over the end, overlapping what was written.
    pub(crate) fn write_span(&mut self, of: usize) -> (u64, Vec<u8>) {
        let (offset, len) = self.rng.span(self.files[of].size());
        let offset = match self.files[of].unsent.end() as u64 {
            0 => offset,
            end if self.rng.chance(25) => end.saturating_sub(self.rng.within(0..6000)),
            _ => offset,
        };
        let offset = offset.min(END_MAX);
        let most = if self.rng.chance(10) { END_MAX } else { 20_000 };
        let len = len.min(most).min(END_MAX - offset);
        (offset, self.bytes(len))
    }

    pub(crate) fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..len.div_ceil(8)).flat_map(|_| self.rng.next().to_le_bytes()).collect();
        bytes.truncate(len as usize);
        bytes
    }

    /// An error that nothing explains ends the test.
    pub(crate) fn excuse(&mut self, what: &str, error: &Error) {
        self.covered.note(format!("{what}: an error"));
        if !self.suspect {
            self.fail(&format!("{what}: an error that no fault explains: {error:?}"));
        }
    }

    pub(crate) fn write(&mut self) {
        let Some(h) = self.handle(true) else { return self.open() };
        if self.hears_first(h) {
            return;
        }
        let (of, file) = (self.handles[h].of, self.file(h));
        let (offset, bytes) = self.write_span(of);
        let taken = self.bytes_taken();
        let result = if self.rng.chance(40) {
            let lent = Bytes::from(bytes.clone());
            self.drive(file.write_bytes_at(offset, lent, WriteOptions::default()))
        } else {
            self.drive(file.write_at(offset, &bytes))
        };
        if self.waits(h) {
            return self.waited_for(of, offset, &bytes, taken, &result);
        }
        self.wrote(of, offset, &bytes, &result);
    }

    pub(crate) fn wrote(
        &mut self,
        of: usize,
        offset: u64,
        bytes: &[u8],
        result: &Result<usize, Error>,
    ) {
        let (path, len) = (self.files[of].path.clone(), bytes.len());
        self.note(format!("write {path} {offset}+{len}: {result:?}"));
        match result {
            Ok(n) => {
                if *n > len || *n == 0 && len > 0 {
                    self.fail("so many bytes were not given");
                }
                if *n < len && !self.suspect {
                    self.explain_short(of, offset + *n as u64, &bytes[*n..]);
                }
                self.covered.note("write: done");
                self.files[of].wrote(offset, &bytes[..*n]);
            }
            Err(e) => self.excuse("write", e),
        }
    }

    /// A write stopped half-way, and nothing explains it: the next one should say why.
    fn explain_short(&self, of: usize, offset: u64, rest: &[u8]) -> ! {
        let memory = self.netfs().memory();
        let writer = self.handles.iter().find(|h| h.of == of && h.writable);
        let next = writer.map(|h| self.drive(h.file.write_at(offset, rest)));
        self.fail(&format!("a short write; the next one: {next:?}; {memory:?}"));
    }

    pub(crate) fn append(&mut self) {
        let Some(h) = self.handle(true) else { return };
        if self.hears_first(h) {
            return;
        }
        let (of, file) = (self.handles[h].of, self.file(h));
        // One that waits and fails does not say where its bytes went.
        if self.files[of].size() > END_MAX || self.waits(h) && self.suspect {
            return;
        }
        let len = self.rng.within(1..9000);
        let bytes = self.bytes(len);
        let claim = self.files[of].claim(self.now());
        let taken = self.bytes_taken();
        let result = self.drive(file.append(&bytes));
        let path = self.files[of].path.clone();
        self.note(format!("append {path} {len}: {result:?}"));
        match result {
            Ok(at) => {
                let n = at.end - at.start;
                if n > len || n < len && !self.suspect || n == 0 {
                    self.fail("a short append");
                }
                self.covered.note("append: done");
                let judged = self.files[of].judge_size(claim, at.start);
                self.check(judged);
                if self.waits(h) {
                    return self.waited_for(of, at.start, &bytes, taken, &Ok(n as usize));
                }
                self.files[of].wrote(at.start, &bytes[..n as usize]);
            }
            Err(e) => self.excuse("append", &e),
        }
    }

    /// Judges an upload of the whole file.
    pub(crate) fn uploaded(&mut self, of: usize, before: &[u8]) {
        let origin = self.origin_bytes(&self.files[of].path);
        let file = &mut self.files[of];
        if file.unsent.iter().any(|r| before.get(r.clone()) != origin.get(r)) {
            // The replies have told of whatever somebody else did before.
            file.ask_again();
        }
        let judged = file.settle(&origin);
        self.check(judged);
    }

    pub(crate) fn fsync(&mut self) {
        if let Some(h) = self.handle(false) {
            self.fsync_of(h);
        }
    }

    pub(crate) fn fsync_of(&mut self, h: usize) {
        let (of, file) = (self.handles[h].of, self.file(h));
        let before = self.origin_bytes(&self.files[of].path);
        let data_only = self.rng.chance(30);
        let result = self
            .drive(async { if data_only { file.fdatasync().await } else { file.fsync().await } });
        let path = self.files[of].path.clone();
        let name = if data_only { "fdatasync" } else { "fsync" };
        self.note(format!("{name} {path}: {result:?}"));
        if self.told_of_loss(h, &result) {
            return;
        }
        match result {
            Ok(()) => {
                self.covered.note(format!("{name}: done"));
                self.synced(h, &before);
            }
            Err(e) => {
                self.files[of].durable.tried();
                self.excuse("fsync", &e);
            }
        }
    }

    /// Whether this opener had to hear of discarded bytes first: then it did.
    pub(crate) fn told_of_loss(&mut self, h: usize, result: &Result<(), Error>) -> bool {
        let lost = std::mem::take(&mut self.handles[h].lost);
        if lost && result.is_ok() {
            self.fail("bytes were discarded and this opener was not told");
        }
        if lost {
            // It did its work first; how that went it does not say.
            let of = self.handles[h].of;
            self.files[of].durable.tried();
        }
        lost
    }

    pub(crate) fn flush_range(&mut self) {
        let Some(h) = self.handle(false) else { return };
        let (of, file) = (self.handles[h].of, self.file(h));
        let (offset, len) = self.rng.span(self.files[of].size());
        let result = self.drive(file.flush_range(offset, len));
        let path = self.files[of].path.clone();
        self.note(format!("flush_range {path} {offset}+{len}: {result:?}"));
        if self.told_of_loss(h, &result) {
            return;
        }
        match result {
            Ok(()) => {
                let origin = self.origin_bytes(&path);
                let range = offset as usize..(offset + len) as usize;
                let judged = self.files[of].settle_range(&range, &origin);
                self.check(judged);
            }
            Err(e) => self.excuse("flush_range", &e),
        }
    }

    fn close(&mut self) {
        let Some(h) = self.handle(false) else { return };
        let handle = self.handles.swap_remove(h);
        let of = handle.of;
        let before = self.origin_bytes(&self.files[of].path);
        let Ok(file) = Arc::try_unwrap(handle.file) else { return };
        let result = self.drive(file.close()).map_err(Error::from);
        let path = self.files[of].path.clone();
        self.note(format!("close {path}: {result:?}"));
        match result {
            Ok(()) if handle.lost => self.fail("bytes were discarded and close did not tell"),
            Ok(()) if handle.flushes => self.uploaded(of, &before),
            Ok(()) if !handle.writable => self.covered.note("close: of a reader"),
            Ok(()) => self.covered.note("close: nothing flushed"),
            Err(_) if handle.lost => {}
            Err(e) => self.excuse("close", &e),
        }
    }

    pub(crate) fn sync(&mut self) {
        let before: Vec<_> = self.files.iter().map(|f| self.origin_bytes(&f.path)).collect();
        let mut result = self.drive(self.netfs().sync());
        self.note(format!("sync: {result:?}"));
        if self.may_have_lost_files() && result.as_ref().is_err_and(|e| e.errno() == Errno::ESTALE)
        {
            // It told of files that are gone. Nothing is left to tell of.
            result = self.drive(self.netfs().sync());
            self.note(format!("sync again: {result:?}"));
        }
        match result {
            Ok(()) => {
                (0..self.files.len()).for_each(|of| self.uploaded(of, &before[of]));
                self.tree_is_uploaded();
            }
            Err(e) => self.excuse("sync", &e),
        }
    }

    /// Whether an upload may tell that its file is gone.
    pub(crate) fn may_have_lost_files(&self) -> bool {
        !self.removed.is_empty() || self.tree.lost_some
    }

    /// When nothing is dirty, the origin has it all.
    pub(crate) fn nothing_dirty(&mut self) {
        if !self.is_running() || self.netfs().memory().dirty > 0 {
            return;
        }
        self.tree_is_uploaded();
        for of in 0..self.files.len() {
            if !self.files[of].unsent.is_empty() {
                let origin = self.origin_bytes(&self.files[of].path);
                let judged = self.files[of].settle_untold(&origin);
                self.check(judged.map_err(|why| format!("nothing is dirty, but {why}")));
            }
        }
    }

    pub(crate) fn set_len(&mut self) {
        let Some(h) = self.handle(true) else { return };
        let (of, file) = (self.handles[h].of, self.file(h));
        let size = self.files[of].size();
        let to = match self.rng.within(0..4) {
            0 => self.rng.within(0..END_MAX),
            1 => size.saturating_sub(self.rng.within(0..5000)),
            _ => (size + self.rng.within(0..9000)).saturating_sub(4500),
        };
        let to = to.min(END_MAX);
        let before = self.fs.snapshot(&self.files[of].path).expect("it exists");
        let result = self.drive(file.set_len(to));
        let path = self.files[of].path.clone();
        self.note(format!("set_len {path} {size} -> {to}: {result:?}"));
        match result {
            Ok(()) => {
                self.covered.note("set_len: done");
                self.files[of].resized(to);
            }
            Err(e) => {
                self.excuse("set_len", &e);
                if is_of_the_log(&e) {
                    self.covered.note("set_len: the log failed");
                    return self.files[of].resized_unlogged(to);
                }
                // It was done, perhaps, and nobody could say so.
                let versions = before.version..self.fs.snapshot(&path).expect("it exists").version;
                let mut contents = versions.filter_map(|version| self.content(&path, version));
                let cut =
                    |(a, b): &(Vec<u8>, Vec<u8>)| a.len() as u64 != to && b.len() as u64 == to;
                if let Some((before, after)) = contents.find(cut) {
                    let now = self.now();
                    self.files[of].theirs(&before, after, now);
                }
                self.files[of].ask_again();
            }
        }
    }

    fn discard(&mut self) {
        let Some(h) = self.handle(true) else { return };
        let (of, file) = (self.handles[h].of, self.file(h));
        let Ok(bytes) = self.drive(file.discard_dirty()) else { return };
        let path = self.files[of].path.clone();
        self.note(format!("discard_dirty {path}: {bytes}"));
        if bytes == 0 {
            return;
        }
        if !self.suspect {
            self.fail("bytes were discarded although nothing had failed");
        }
        self.covered.note("discard: done");
        self.handles.iter_mut().filter(|h| h.of == of).for_each(|h| h.lost = true);
        let origin = self.origin_bytes(&path);
        self.files[of].lost(origin);
    }

    fn forget(&mut self) {
        if self.rng.chance(60) {
            self.netfs().drop_memory();
            return self.note("drop_memory");
        }
        let Some(h) = self.handle(false) else { return };
        self.file(h).invalidate();
        let of = self.handles[h].of;
        self.files[of].told();
        self.note(format!("invalidate {}", self.files[of].path));
    }

    fn pass_time(&mut self) {
        let secs = self.rng.pick(&[1, 2, 5, 11, 31, 61, 200]);
        self.clock.advance(Duration::from_secs(secs));
        self.note(format!("{secs} s pass"));
    }

    fn ask_size(&mut self) {
        let Some(h) = self.handle(false) else { return };
        let (of, node) = (self.handles[h].of, self.file(h).node());
        let claim = self.files[of].claim(self.now());
        let mount = self.mount_for(&self.files[of].path.clone());
        match self.drive(mount.getattr(&node, &cx())) {
            Ok(attr) => {
                let judged = self.files[of].judge_size(claim, attr.size);
                self.check(judged);
            }
            Err(e) => self.excuse("getattr", &e),
        }
    }

    /// Reads in some way. `flush`: perhaps in one that uploads first.
    pub(crate) fn read_one(&mut self, flush: bool) {
        let Some(h) = self.handle(false) else { return self.open() };
        let (of, file) = (self.handles[h].of, self.file(h));
        let (mut offset, mut len) = self.rng.span(self.files[of].size());
        if self.rng.chance(8) {
            (offset, len) = (0, END_MAX);
        }
        let claim = self.files[of].claim(self.now());
        let mut buf = vec![0xaa; len as usize];
        let how = self.rng.within(0..if flush { 10 } else { 9 });
        let bypass = ReadOptions { memory: MemoryUse::Bypass, ..ReadOptions::default() };
        let direct = ReadOptions { unbuffered: true, ..ReadOptions::default() };
        let (name, got) = match how {
            0..4 => ("At", self.drive(file.read_at(offset, &mut buf))),
            4 | 5 => ("Bypass", self.drive(file.read_at_with(offset, &mut buf, bypass))),
            9 => ("Unbuffered", self.drive(file.read_at_with(offset, &mut buf, direct))),
            _ => {
                let slices = self.drive(file.read_slices(offset, len));
                let n = slices.map(|slices| {
                    buf = concat(&slices);
                    self.kept.push(slices, buf.clone());
                    buf.len()
                });
                ("Slices", n)
            }
        };
        let said = got.as_ref().map_err(ToString::to_string);
        self.note(format!("read {name} {} {offset}+{len}: {said:?}", self.files[of].path));
        self.covered
            .note(format!("read {name}: {}", if got.is_ok() { "done" } else { "an error" }));
        let mut cut_short = false;
        let got = got.map(|n| {
            buf.truncate(n);
            cut_short = name == "Unbuffered" && n > 0 && n < len as usize;
            buf
        });
        // An unbuffered read counts what came before the first failure (N-C16).
        let len = if cut_short && self.suspect {
            got.as_ref().map_or(len, |b| b.len() as u64)
        } else {
            len
        };
        let judged = self.files[of].judge(claim, (offset, len), &got, self.suspect);
        self.check(judged.map_err(|why| {
            let origin = self.origin_bytes(&self.files[of].path);
            let told = self.files[of].still_there(&origin);
            format!("{why}\n  the origin: {told:?}, {} bytes; {:?}", origin.len(), self.sizes(h))
        }));
    }

    fn sizes(&self, h: usize) -> netfs::Sizes {
        self.handles[h].file.sizes()
    }

    pub(crate) fn check_kept(&self) {
        if !self.kept.are_as_they_were() {
            self.fail("slices handed out have changed");
        }
    }
}

/// Whether a change past the page cache was done, and only the log did not take it.
pub(crate) fn is_of_the_log(error: &Error) -> bool {
    error.to_string().contains("log")
}
