//! Files that somebody else removed while they were open here. Another file has the name now.
//!
//! Whoever was told, or asked, gets `ESTALE` from then on. After a silent removal the file goes on as it was
//! while a promise stands; what is written then reaches nobody, and every opener hears of it once.

use std::sync::Arc;

use netfs::{Durability, Errno, Error, File, Mount, clock::BootTime, remote::VolumeId};

use crate::{reference::FileRef, world::World};

/// How many are remembered.
const KEPT: usize = 3;

pub(crate) struct Removed {
    pub(crate) key: Vec<u8>,
    volume: VolumeId,
    at: BootTime,
    /// What it was.
    file: FileRef,
    /// This context knows.
    known: bool,
    pub(crate) openers: Vec<Orphan>,
}

/// An open file without a name.
pub(crate) struct Orphan {
    pub(crate) file: Arc<File>,
    pub(crate) writable: bool,
    /// Its fsync is content with the log.
    logs: bool,
    /// Its writes wait for the server: so they, too, tell of discarded bytes.
    waits: bool,
    /// Bytes were discarded before the removal, and it has not heard of that.
    pub(crate) lost: bool,
    /// Bytes were written after the removal, and it has not heard that they are lost.
    pub(crate) unheard: bool,
}

impl World {
    /// Somebody else puts another file in a file's place.
    pub(crate) fn remove(&mut self) {
        let of = self.rng.index(self.files.len());
        let path = self.files[of].path.clone();
        let key = self.fs.key(&path).expect("it exists");
        let silent = self.rng.chance(60);
        let size = self.rng.within(0..200_000);
        let change = || {
            let change = self.fs.change(&path);
            if silent { change.silently() } else { change }
        };
        change().remove().expect("it exists");
        change().create(size).expect("the name is free");
        self.names_fuzzy |= silent;
        let new = self.adopt(&path);
        let file = std::mem::replace(&mut self.files[of], new);
        let has_log = self.log.is_some();
        let openers = self.handles.extract_if(.., |h| h.of == of);
        let orphan = |h: crate::world::Handle| {
            let logs = has_log && h.level == Durability::Journal;
            let waits = h.level == Durability::Remote;
            let (file, writable, lost) = (h.file, h.writable, h.lost);
            Orphan { file, writable, logs, waits, lost, unheard: false }
        };
        let openers = openers.map(orphan).collect();
        let at = self.now();
        let volume = self.mounts_of(&path)[0].volume_id().clone();
        self.removed.push(Removed { key, volume, at, file, known: !silent, openers });
        if self.removed.len() > KEPT {
            self.removed.remove(0);
        }
        self.covered.note("removed");
        self.note(format!("{path} removed{}", if silent { " silently" } else { "" }));
        // As long as nobody knows.
        for _ in 0..self.rng.within(0..5) {
            self.use_removed();
        }
    }

    /// A name led to a file that has it no more.
    pub(crate) fn opened_removed(
        &mut self,
        mount: &Mount,
        file: File,
        writable: bool,
        level: Durability,
    ) {
        let logs = self.log.is_some() && level == Durability::Journal;
        let key = file.node().key().to_vec();
        let fuzzy = self.names_fuzzy;
        match self.removed.iter_mut().find(|r| r.key == key && r.volume == *mount.volume_id()) {
            Some(removed) if fuzzy => {
                let file = Arc::new(file);
                let waits = level == Durability::Remote;
                let (lost, unheard) = (false, false);
                removed.openers.push(Orphan { file, writable, logs, waits, lost, unheard });
            }
            // Forgotten here.
            None if fuzzy => {}
            _ => self.fail("a name leads to the wrong file"),
        }
    }

    /// Uses a file that is gone.
    pub(crate) fn use_removed(&mut self) {
        let open = |r: &usize| !self.removed[*r].openers.is_empty();
        let gone: Vec<usize> = (0..self.removed.len()).filter(open).collect();
        if gone.is_empty() {
            return;
        }
        let r = if self.rng.chance(50) { gone[gone.len() - 1] } else { self.rng.pick(&gone) };
        let o = self.rng.index(self.removed[r].openers.len());
        let opener = &self.removed[r].openers[o];
        let (file, writable) = (Arc::clone(&opener.file), opener.writable);
        let hears_first = opener.lost && opener.waits;
        match self.rng.within(0..6) {
            0 => self.read_removed(r, &file),
            1..4 if writable && !hears_first => self.write_removed(r, &file),
            4 if writable => {
                let result = self.drive(file.set_len(100));
                self.note(format!("set_len of removed {r}: {result:?}"));
                match result {
                    Ok(()) => self.fail("a removed file was cut"),
                    Err(e) => self.is_gone(r, "set_len", &e),
                }
            }
            _ => self.sync_removed(r, o, &file),
        }
    }

    fn read_removed(&mut self, r: usize, file: &File) {
        let (offset, len) = self.rng.span(self.removed[r].file.size());
        let mut buf = vec![0xaa; len as usize];
        let began = self.now();
        let claim = self.removed[r].file.claim(began);
        let result = self.drive(file.read_at(offset, &mut buf));
        self.note(format!("read of removed {r} {offset}+{len}: {result:?}"));
        match result {
            Ok(n) => {
                if len > 0 {
                    self.may_go_on(r, "read", began);
                }
                buf.truncate(n);
                let judged = self.removed[r].file.judge(claim, (offset, len), &Ok(buf), false);
                self.check(judged);
            }
            Err(e) => self.is_gone(r, "read", &e),
        }
    }

    fn write_removed(&mut self, r: usize, file: &File) {
        let offset = self.rng.within(0..50_000);
        let len = self.rng.within(1..9000);
        let bytes = self.bytes(len);
        let began = self.now();
        let result = self.drive(file.write_at(offset, &bytes));
        self.note(format!("write to removed {r} {offset}+{len}: {result:?}"));
        match result {
            Ok(n) => {
                self.may_go_on(r, "write", began);
                self.covered.note("removed: written to");
                let removed = &mut self.removed[r];
                removed.file.wrote(offset, &bytes[..n]);
                removed.openers.iter_mut().for_each(|o| o.unheard = true);
            }
            Err(e) => self.is_gone(r, "write", &e),
        }
    }

    fn sync_removed(&mut self, r: usize, o: usize, file: &File) {
        let result = self.drive(file.fsync());
        self.note(format!("fsync of removed {r}: {result:?}"));
        let opener = &mut self.removed[r].openers[o];
        let (lost, unheard) = (std::mem::take(&mut opener.lost), opener.unheard);
        let logs = opener.logs;
        match result {
            // Whose bytes the log has hears of it when they are to be uploaded.
            Ok(()) if lost || unheard && !logs => {
                self.fail("bytes are lost and this opener was not told")
            }
            Ok(()) => {}
            Err(e) => {
                // One answer may tell of both losses: then it is the later one's.
                if e.errno() == Errno::ESTALE {
                    self.covered.note("removed: told of the loss");
                    self.removed[r].openers[o].unheard = false;
                }
                if !lost {
                    self.is_gone(r, "fsync", &e);
                }
            }
        }
    }

    /// Whether, to a call of that time, a removed file may still look as if it were there.
    fn may_go_on(&self, r: usize, what: &str, began: BootTime) {
        let removed = &self.removed[r];
        if removed.known || !removed.file.life.covers(removed.at, began) {
            let (known, life, at) = (removed.known, removed.file.life, removed.at);
            let why = format!("known {known}, {life:?} from {at:?}, now {began:?}");
            self.fail(&format!("{what} of a file that should be known to be gone: {why}"));
        }
    }

    fn is_gone(&mut self, r: usize, what: &str, error: &Error) {
        self.covered.note(format!("removed: {what}: an error"));
        match error.errno() {
            Errno::ESTALE => self.removed[r].known = true,
            _ if self.suspect => {}
            _ => self.fail(&format!("{what} of removed {r}: {error:?}")),
        }
    }
}
