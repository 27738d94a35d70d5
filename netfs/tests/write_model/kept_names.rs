//! Files of the tree that are open while their names go, by our doing and by others'.
//!
//! With another name left everything goes on. With none, whoever is told or asks gets `ESTALE`, and every opener
//! hears once of bytes that reach nobody. What nobody has open any more nobody is told of, and after this
//! context has removed the last name nothing of the file is in the log.

use netfs::{
    Durability, Errno, Error, File, Mount, Node, OpenOptions, clock::BootTime, remote::RenameHow,
};
use netfs_memory::{Effect, Fault, Op};

use crate::{
    modelling::cx,
    names::{NAMES, Place, TOP},
    tree::{Held, Key, split},
    volumes::LIMIT_MIN,
    world::World,
};

/// An open file whose name goes.
struct Kept {
    file: File,
    level: Durability,
    /// Bytes are lost, and it has not heard of that.
    unheard: bool,
}

struct KeptFile {
    path: String,
    key: Key,
    openers: Vec<Kept>,
    held: Held,
    /// Its last name went by our doing.
    ours: bool,
    /// Everybody here knows: nothing is read or written any more.
    known: bool,
    /// Whoever reads has to ask the server.
    must_ask: bool,
    at: BootTime,
}

/// Whose doing it is that a name goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Unlink,
    Rename,
    Others { silent: bool },
}

impl World {
    pub(crate) fn kept_names(&mut self) {
        if self.suspect || self.cache_hangs {
            return;
        }
        // What is left of harmless faults would let a write through where all are to be refused.
        self.calm();
        self.sync();
        let clean = self.netfs().memory().dirty == 0;
        let mount = self.rng.pick(&self.mounts);
        let Some((path, node)) = self.named(&mount) else { return };
        let is_that = |e: &crate::tree::Entry| e.key == node.key();
        if !self.tree.unsent.is_empty() || !self.tree.paths.0.get(&path).is_some_and(is_that) {
            return;
        }
        let Some(openers) = self.keep_open(&node) else { return };
        let key = node.key().to_vec();
        let held = self.tree.held[&key].clone();
        let at = self.now();
        let (ours, known, must_ask) = (false, false, false);
        let mut kept = KeptFile { path, key, openers, held, ours, known, must_ask, at };
        // What is written and cannot be uploaded for now is dirty when the name goes.
        let busy = (self.dirty_limit >= LIMIT_MIN && self.rng.chance(50))
            .then(|| self.fs.inject_in(0, Fault::on(Op::Write).errno(Errno::EAGAIN).always()));
        for _ in 0..self.rng.within(0..4) {
            if let Err(e) = self.write_kept(&mut kept) {
                self.fail(&format!("write before anything has happened: {e:?}"));
            }
        }
        let dirty = busy.is_some() && self.tree.unsent.contains(&kept.key);
        let logged = self.log_kept(&kept);
        if self.rng.chance(30) {
            self.link_kept(&mount, &node, &kept);
        }
        let done = self.take_name(&mount, &mut kept);
        if clean && dirty && kept.ours && self.rng.chance(70) {
            self.taken_along(&mut kept);
        }
        if let Some(busy) = busy {
            self.fs.remove_fault(&busy);
        }
        if done {
            let gone = !self.tree.paths.has_key(&kept.key);
            self.tree.lost_others |= gone && !kept.ours;
            kept.openers.iter_mut().for_each(|opener| opener.unheard = dirty && gone);
            self.note(format!("{} is open, gone {gone}, dirty {dirty}", kept.path));
            if kept.ours && logged && self.rng.chance(50) {
                drop((mount, node));
                return self.crash_kept(kept);
            }
            let uses = if kept.openers.is_empty() { 0 } else { self.rng.within(1..7) };
            for _ in 0..uses {
                if gone { self.use_gone(&mut kept) } else { self.use_linked(&mut kept) }
            }
        }
        self.end_kept(kept, &node);
    }

    fn keep_open(&mut self, node: &Node) -> Option<Vec<Kept>> {
        let mut openers = Vec::new();
        for _ in 0..self.rng.within(1..4) {
            let mount = self.rng.pick(&self.mounts);
            let level = self.rng.pick(&[Durability::Memory, Durability::Journal]);
            let how = OpenOptions::new().read(true).write(true).durability(level);
            let how = how.close_flush(self.rng.chance(70));
            match self.drive(mount.open_node_with(node, &how, &cx())) {
                Ok(file) => openers.push(Kept { file, level, unheard: false }),
                // Somebody else has removed it before, silently.
                Err(e) => {
                    self.file_error("open of a name", node.key(), &e);
                    return None;
                }
            }
        }
        Some(openers)
    }

    /// Writes through one of the openers; says how that ended.
    fn write_kept(&mut self, kept: &mut KeptFile) -> Result<(), Error> {
        let o = self.rng.index(kept.openers.len());
        let (offset, len) = (self.rng.within(0..5000), self.rng.within(1..4000));
        let bytes = self.bytes(len);
        let result = self.drive(kept.openers[o].file.write_at(offset, &bytes));
        self.note(format!("write to kept {} {offset}+{len}: {result:?}", kept.path));
        let n = result?;
        // Between its parts it may have turned out that the file is gone.
        if n != bytes.len() && self.tree.paths.has_key(&kept.key) {
            self.fail("a short write");
        }
        let (at, held) = (offset as usize, &mut kept.held.bytes);
        held.resize(held.len().max(at + n), 0);
        held[at..at + n].copy_from_slice(&bytes[..n]);
        if self.tree.paths.has_key(&kept.key) {
            self.tree.held.insert(kept.key.clone(), kept.held.clone());
            self.tree.unsent.insert(kept.key.clone());
        }
        Ok(())
    }

    /// The last one that has it open takes along what was written to it.
    fn taken_along(&mut self, kept: &mut KeptFile) {
        kept.openers.clear();
        self.covered.note("kept, gone: taken along");
        let dirty = self.netfs().memory().dirty;
        if dirty > 0 {
            self.fail(&format!("{dirty} bytes are left of a file that nobody can open"));
        }
    }

    /// Has what was written in the log, perhaps.
    fn log_kept(&mut self, kept: &KeptFile) -> bool {
        let logs = |opener: &&Kept| opener.level == Durability::Journal;
        let works = self.log.as_ref().is_some_and(|log| !log.fails);
        let Some(opener) = kept.openers.iter().find(logs).filter(|_| works) else { return false };
        if self.rng.chance(30) {
            return false;
        }
        if let Err(e) = self.drive(opener.file.fsync()) {
            self.fail(&format!("fsync of {} to the log: {e:?}", kept.path));
        }
        true
    }

    /// The machine stops when the last name is gone by our doing: nothing of the file is in the log.
    fn crash_kept(&mut self, kept: KeptFile) {
        drop(kept);
        self.covered.note("kept, gone: crash");
        self.note("crash");
        self.end_life();
        self.tree_as_on_server();
        self.start();
        self.judge_replay();
    }

    /// Gives it another name.
    fn link_kept(&mut self, mount: &Mount, node: &Node, kept: &KeptFile) {
        let path = self.path();
        let Some(place) = self.place(mount, &path) else { return };
        let linked = self.drive(mount.link(node, &place.node, split(&path).1.as_bytes(), &cx()));
        self.note(format!("link of kept {} to {path}: {linked:?}", kept.path));
        self.look_at_tree(false);
        if linked.is_ok() {
            self.tree.is_known(&place.key);
        }
    }

    /// The name goes. False: it did not.
    fn take_name(&mut self, mount: &Mount, kept: &mut KeptFile) -> bool {
        let by = self.rng.pick(&[
            By::Unlink,
            By::Unlink,
            By::Rename,
            By::Others { silent: false },
            By::Others { silent: true },
        ]);
        let path = kept.path.clone();
        kept.at = self.now();
        let done = match by {
            By::Others { silent } => {
                let change = self.fs.change(&format!("{TOP}/{path}"));
                let change = if silent { change.silently() } else { change };
                change.remove().expect("it is there");
                self.look_at_tree(!silent);
                kept.known = !silent;
                true
            }
            By::Unlink | By::Rename => self.take_ours(mount, by, kept),
        };
        if done {
            self.covered.note(format!("kept across: {by:?}"));
            let left = if self.tree.paths.has_key(&kept.key) { "another name" } else { "none" };
            self.covered.note(format!("kept across, left: {left}"));
        }
        done
    }

    fn take_ours(&mut self, mount: &Mount, by: By, kept: &mut KeptFile) -> bool {
        let path = kept.path.clone();
        let Some(place) = self.place(mount, &path) else { return false };
        let from = if by == By::Rename { self.new_file(mount) } else { None };
        if by == By::Rename && from.is_none() {
            return false;
        }
        let before = self.tree.paths.clone();
        // The answer is lost, perhaps.
        let op = if by == By::Unlink { Op::Remove } else { Op::Rename };
        let lost = self.rng.chance(20);
        let fault = lost.then(|| self.fs.inject(Fault::on(op).effect(Effect::LostReply).times(1)));
        let name = split(&path).1.as_bytes();
        let result = self.drive(async {
            match &from {
                None => mount.unlink(&place.node, name, &cx()).await,
                Some((other, from)) => {
                    let from = (&other.node, split(from).1.as_bytes());
                    let how = RenameHow::Replace;
                    mount.rename(from, (&place.node, name), how, &cx()).await
                }
            }
        });
        let hit = fault.as_ref().is_some_and(|fault| fault.hits() > 0);
        fault.iter().for_each(|fault| self.fs.remove_fault(fault));
        self.note(format!("{by:?} of kept {path}, lost {hit}: {result:?}"));
        self.look_at_tree(false);
        let done = self.tree.paths != before;
        match &result {
            Ok(()) if !done => self.fail("it was not done"),
            Ok(()) => {
                let places = [Some(&place), from.as_ref().map(|(other, _)| other)];
                places.iter().flatten().for_each(|place| self.tree.is_known(&place.key));
                if !self.tree.paths.has_key(&kept.key) {
                    kept.ours = true;
                    self.tree.ours_gone.push(kept.key.clone());
                }
            }
            Err(e) if hit && e.errno() == Errno::ETIMEDOUT => {}
            // The names known here may be older ones.
            Err(e) if !done && (e.errno() == Errno::ENOENT || e.errno() == Errno::ESTALE) => {}
            Err(e) => self.fail(&format!("{by:?} of {path}: {e:?}")),
        }
        kept.must_ask = done;
        done
    }

    /// A file to be moved over it.
    fn new_file(&mut self, mount: &Mount) -> Option<(Place, String)> {
        let path = NAMES.iter().find(|name| self.tree.paths.kind(name).is_none())?;
        let place = self.place(mount, path)?;
        let made = self.drive(mount.create(&place.node, path.as_bytes(), 0o644, &cx()));
        self.look_at_tree(false);
        if made.is_err() {
            return None;
        }
        self.tree.is_known(&place.key);
        Some((place, (*path).to_owned()))
    }

    /// It has another name.
    fn use_linked(&mut self, kept: &mut KeptFile) {
        let o = self.rng.index(kept.openers.len());
        match self.rng.within(0..4) {
            0 | 1 => {
                if let Err(e) = self.write_kept(kept) {
                    self.fail(&format!("a write to a file with another name: {e:?}"));
                }
                self.covered.note("kept, linked: write");
            }
            2 => {
                let (result, got) = self.read_kept(&kept.openers[o].file);
                if result.is_err() || got != kept.held.bytes {
                    self.fail(&format!("a read of a file with another name: {result:?}"));
                }
            }
            _ => {
                let result = self.drive(kept.openers[o].file.flush_range(0, u64::MAX));
                if let Err(e) = result {
                    self.fail(&format!("a flush of a file with another name: {e:?}"));
                }
                self.covered.note("kept, linked: flushed");
                self.tree.unsent.remove(&kept.key);
                self.holds(&kept.key, &kept.held.bytes);
            }
        }
    }

    fn read_kept(&self, file: &File) -> (Result<usize, Error>, Vec<u8>) {
        let mut buf = vec![0xaa; 20_000];
        let result = self.drive(file.read_at(0, &mut buf));
        buf.truncate(*result.as_ref().unwrap_or(&0));
        (result, buf)
    }

    /// Its last name is gone.
    fn use_gone(&mut self, kept: &mut KeptFile) {
        let o = self.rng.index(kept.openers.len());
        let began = self.now();
        match self.rng.within(0..6) {
            0 | 1 => {
                let (result, got) = self.read_kept(&kept.openers[o].file);
                match result {
                    Ok(_) if kept.must_ask => {
                        self.fail("a read of a file this context has removed")
                    }
                    Ok(_) if got != kept.held.bytes => self.fail("a read of other bytes"),
                    Ok(_) => self.may_still_be(kept, began, "read"),
                    Err(e) => self.is_known_gone(kept, "read", &e),
                }
            }
            2 | 3 => match self.write_kept(kept) {
                Ok(()) => {
                    if !kept.must_ask {
                        self.may_still_be(kept, began, "write");
                    } else if kept.known {
                        self.fail("a write to what is known to be gone");
                    }
                    self.covered.note("kept, gone: written to");
                    self.tree.lost_some = true;
                    kept.openers.iter_mut().for_each(|opener| opener.unheard = true);
                }
                Err(e) => self.is_known_gone(kept, "write", &e),
            },
            _ => {
                let result = self.drive(kept.openers[o].file.flush_range(0, u64::MAX));
                self.note(format!("flush of kept {}: {result:?}", kept.path));
                let unheard = std::mem::take(&mut kept.openers[o].unheard);
                match result {
                    Ok(()) if unheard => self.fail("bytes are lost and this opener was not told"),
                    Ok(()) => {}
                    Err(e) => {
                        if unheard {
                            self.covered.note("kept, gone: told of the loss");
                        }
                        self.is_known_gone(kept, "flush", &e);
                    }
                }
            }
        }
    }

    fn may_still_be(&self, kept: &KeptFile, began: BootTime, what: &str) {
        if kept.known || !self.tree.life.covers(kept.at, began) {
            self.fail(&format!("{what} of a file that should be known to be gone"));
        }
    }

    fn is_known_gone(&mut self, kept: &mut KeptFile, what: &str, error: &Error) {
        if error.errno() != Errno::ESTALE {
            self.fail(&format!("{what} of a file without a name: {error:?}"));
        }
        self.covered.note(format!("kept, gone: {what}: ESTALE"));
        kept.known = true;
    }

    /// Nobody has it open any more.
    fn end_kept(&mut self, mut kept: KeptFile, node: &Node) {
        let gone = !self.tree.paths.has_key(&kept.key);
        for opener in kept.openers.drain(..) {
            if self.rng.chance(50) {
                continue;
            }
            let result = self.drive(opener.file.close()).map_err(Error::from);
            match result {
                Ok(()) => {}
                Err(e) if gone && e.errno() == Errno::ESTALE => {}
                Err(e) => self.fail(&format!("close of {}: {e:?}", kept.path)),
            }
        }
        if !gone {
            let mount = self.rng.pick(&self.mounts);
            let file = self.drive(mount.open_rw(node, &cx()));
            let (result, got) = match file {
                Ok(file) => self.read_kept(&file),
                Err(e) => return self.file_error("open of a name", &kept.key, &e),
            };
            if result.is_err() || got != kept.held.bytes {
                self.fail(&format!("{} when it was closed: {result:?}", kept.path));
            }
        }
        let others = !self.removed.is_empty() || self.tree.lost_others;
        if kept.ours && !others {
            self.covered.note("kept, gone: nobody is told");
            if let Err(e) = self.drive(self.netfs().sync()) {
                self.fail(&format!("sync, after the last opener has closed the file: {e:?}"));
            }
        }
    }
}
