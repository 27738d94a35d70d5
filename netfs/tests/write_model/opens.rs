//! Files opened in some way: for appending, cut, past the caches, so that every write waits for the server.
//!
//! Each is used for a while and let go of within its step.

use netfs::{Durability, Errno, Error, File, OpenOptions, ReadOptions, Sync, WriteOptions};

use crate::{modelling::cx, modes::Asked, servers::real, world::World};

/// How a file was opened.
#[derive(Clone, Copy, Debug)]
struct How {
    read: bool,
    write: bool,
    append: bool,
    direct: bool,
    /// Every write waits for the server.
    waits: bool,
}

impl World {
    /// Opens a file in some way and uses it.
    pub(crate) fn open_some_way(&mut self) {
        let of = self.rng.index(self.files.len());
        let path = self.files[of].path.clone();
        let (read, write) =
            self.rng.pick(&[(true, true), (true, true), (false, true), (true, false)]);
        let append = write && self.rng.chance(30);
        let direct = self.rng.chance(30);
        let sync = self.rng.pick(&[Sync::None, Sync::None, Sync::Data, Sync::Full]);
        let through = self.rng.chance(20);
        let levels = [Durability::Memory, Durability::Journal, Durability::Remote];
        let durability = self.rng.pick(&levels);
        let truncate = write && !append && !self.suspect && self.rng.chance(20);
        let close_flush = self.rng.chance(70);
        let how = How {
            read,
            write,
            append,
            direct,
            waits: sync > Sync::None || through || durability == Durability::Remote,
        };
        let options = OpenOptions::new()
            .read(read)
            .write(write)
            .append(append)
            .create(write && self.rng.chance(30))
            .truncate(truncate)
            .direct(direct)
            .sync(sync)
            .write_through(through)
            .durability(durability)
            .close_flush(close_flush);
        self.is_not_made_anew(&path);
        let mount = self.mount_for(&path);
        let opened = self.drive(mount.open_with(real(&path), &options, &cx()));
        self.note(format!("open {path} {how:?}, truncate {truncate}: {:?}", opened.as_ref().err()));
        let file = match opened {
            Ok(file) => file,
            Err(e) if self.names_fuzzy && e.errno() == Errno::ESTALE => return,
            Err(e) => return self.excuse("open_with", &e),
        };
        if self.fs.key(&path).is_ok_and(|key| key != file.node().key()) {
            // Another file had the name, and nobody has said so.
            if !self.names_fuzzy {
                self.fail("a name leads to the wrong file");
            }
            return;
        }
        self.covered.note(format!("open: append {append}, direct {direct}, waits {}", how.waits));
        if truncate {
            self.covered.note("open: truncate");
            self.files[of].resized(0);
        }
        self.use_opened(of, &file, how);
        if self.rng.chance(60) {
            self.close_opened(of, file, close_flush && (how.write || how.append));
        }
    }

    /// What is there cannot be made.
    fn is_not_made_anew(&mut self, path: &str) {
        if !self.rng.chance(20) {
            return;
        }
        let mount = self.mount_for(path);
        let options = OpenOptions::new().write(true).create_new(true);
        match self.drive(mount.open_with(real(path), &options, &cx())) {
            Ok(_) => self.fail("a file that is there was made"),
            Err(e) if e.errno() == Errno::EEXIST => self.covered.note("open: EEXIST"),
            Err(e) => self.excuse("create_new", &e),
        }
    }

    fn use_opened(&mut self, of: usize, file: &File, how: How) {
        for _ in 0..self.rng.within(1..5) {
            match self.rng.within(0..10) {
                0..4 => self.write_opened(of, file, how),
                4 | 5 => self.append_opened(of, file, how),
                6..9 => self.read_opened(of, file, how),
                _ => self.change(),
            }
        }
    }

    fn write_opened(&mut self, of: usize, file: &File, how: How) {
        let (offset, bytes) = self.write_span(of);
        if !how.write {
            return self.may_not_write(file, &bytes);
        }
        if how.append {
            return self.append_opened(of, file, how);
        }
        let asked = Asked { direct: how.direct, waits: how.waits };
        self.write_with(of, file, (offset, &bytes), WriteOptions::default(), asked);
    }

    fn may_not_write(&mut self, file: &File, bytes: &[u8]) {
        match self.drive(file.write_at(0, bytes)) {
            Err(e) if e.errno() == Errno::EBADF => self.covered.note("open: EBADF"),
            other => self.fail(&format!("a write to a file opened for reading: {other:?}")),
        }
    }

    /// Goes to the end of a state that may be shown, whatever offset is named.
    fn append_opened(&mut self, of: usize, file: &File, how: How) {
        if !how.write || self.files[of].size() > crate::steps::END_MAX {
            return;
        }
        let claim = self.files[of].claim(self.now());
        let sizes = self.files[of].sizes(claim);
        let len = self.rng.within(1..9000);
        let bytes = self.bytes(len);
        let asked = Asked { direct: how.direct, waits: how.waits };
        if let [size] = &sizes[..]
            && size.start == size.end
            && how.append
            && self.rng.chance(50)
        {
            // There is one end: a write to anywhere goes there.
            self.covered.note("open: append by an offset");
            let at = self.rng.within(0..10_000);
            return self.write_landing(of, file, (at, size.start, &bytes), asked);
        }
        let taken = self.bytes_taken();
        let result = self.drive(file.append(&bytes));
        let taken = (self.bytes_taken() - taken) as usize;
        let path = self.files[of].path.clone();
        self.note(format!("append {path} {len}, {how:?}: {result:?}"));
        match result {
            Ok(at) => {
                let n = at.end - at.start;
                if n > len || n < len && !self.suspect || n == 0 || n as usize != taken {
                    self.fail("a short append");
                }
                let judged = self.files[of].judge_size(claim, at.start);
                self.check(judged);
                self.landed(of, at.start, (&bytes, taken), asked, &Ok(taken));
            }
            Err(e) => {
                // Nobody said where: only what was not written at all can be judged.
                if taken > 0 || how.direct {
                    let at = file.sizes().i_size.saturating_sub(taken as u64);
                    self.landed(of, at, (&bytes, taken), asked, &Err(e));
                } else {
                    self.excuse("append", &e);
                }
            }
        }
    }

    fn read_opened(&mut self, of: usize, file: &File, how: How) {
        let (offset, len) = self.rng.span(self.files[of].size());
        let claim = self.files[of].claim(self.now());
        let mut buf = vec![0xaa; len as usize];
        let unbuffered = self.rng.chance(20);
        let options = ReadOptions { unbuffered, ..ReadOptions::default() };
        let got = self.drive(file.read_at_with(offset, &mut buf, options));
        let path = self.files[of].path.clone();
        self.note(format!("read {path} {offset}+{len}, {how:?}: {got:?}"));
        if !how.read {
            if !got.is_err_and(|e| e.errno() == Errno::EBADF) {
                self.fail("a read of a file opened for writing");
            }
            return;
        }
        self.covered.note(format!("open: read, direct {}", how.direct || unbuffered));
        let direct = how.direct || unbuffered;
        let mut want = len;
        let got = got.map(|n| {
            buf.truncate(n);
            // What came before the first failure counts (N-C16).
            if direct && self.suspect && n > 0 {
                want = n as u64;
            }
            buf
        });
        let judged = self.files[of].judge(claim, (offset, want), &got, self.suspect);
        self.check(judged);
    }

    fn close_opened(&mut self, of: usize, file: File, flush: bool) {
        let before = self.origin_bytes(&self.files[of].path);
        let result = self.drive(file.close());
        self.note(format!("close, flush {flush}: {result:?}"));
        match result {
            Ok(()) if flush => self.uploaded(of, &before),
            Ok(()) => {}
            Err(e) => self.excuse("close", &Error::from(e)),
        }
    }
}
