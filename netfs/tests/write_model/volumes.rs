//! Two volumes in one context: the server of one is silent, and what is done to the other goes on.

use futures_util::future::{Either, select};
use netfs::Errno;
use netfs_memory::{Fault, Gate, SnapshotAt};

use crate::{modelling::cx, servers::split, world::World};

/// So much of a hung volume is dirty at most: nobody waits for room because of it.
const DIRTY_MAX: u64 = 2000;
/// Below this limit few bytes more than those may be all there is.
pub(crate) const LIMIT_MIN: u64 = 65_536;

impl World {
    pub(crate) fn hung_volume(&mut self) {
        if self.fs.volumes().len() < 2 || self.dirty_limit < LIMIT_MIN {
            return;
        }
        self.calm();
        if self.cache_hangs || !self.removed.is_empty() {
            return;
        }
        let of = self.rng.index(self.files.len());
        let path = self.files[of].path.clone();
        let Some(file) = self.fresh(of, &cx()) else { return };
        let (offset, len) = (self.rng.within(0..20_000), self.rng.within(1..DIRTY_MAX));
        let bytes = self.bytes(len);
        let result = self.drive(file.write_at(offset, &bytes));
        self.wrote(of, offset, &bytes, &result);
        let (volume, gate) = (split(&path).0, Gate::new());
        let fault = Fault::any().hold(&gate, SnapshotAt::Issue).always();
        let held = self.fs.inject_in(volume, fault);
        let before = self.origin_bytes(&path);
        let fsync = Box::pin(file.fsync());
        let result = match self.drive(select(fsync, Box::pin(gate.hit(1)))) {
            // It had been uploaded.
            Either::Left((result, _)) => result,
            Either::Right(((), fsync)) => {
                self.note(format!("volume {volume} hangs"));
                self.others_of_context(volume);
                gate.release();
                self.fs.remove_fault(&held);
                self.drive(fsync)
            }
        };
        gate.release();
        self.fs.remove_fault(&held);
        self.note(format!("volume {volume} answers; fsync of {path}: {result:?}"));
        match result {
            Ok(()) => self.uploaded(of, &before),
            Err(e) if e.errno() == Errno::ETIMEDOUT => {}
            Err(e) => self.excuse("fsync", &e),
        }
    }

    /// More than may be dirty: the flusher has to make room.
    fn write_much(&mut self) {
        let h = self.handle(true).expect("looked at just now");
        if self.waits(h) || self.dirty_limit > LIMIT_MIN {
            return self.write();
        }
        let (of, file) = (self.handles[h].of, self.file(h));
        let len = self.rng.within(LIMIT_MIN..3 * LIMIT_MIN);
        let (offset, bytes) = (self.rng.within(0..50_000), self.bytes(len));
        let result = self.drive(file.write_at(offset, &bytes));
        self.covered.note("volumes: more than may be dirty");
        self.wrote(of, offset, &bytes, &result);
    }

    /// What is done to the other volume's files ends.
    fn others_of_context(&mut self, hung: usize) {
        self.hung = Some(hung);
        for _ in 0..self.rng.within(2..7) {
            if self.handle(true).is_none() {
                break;
            }
            match self.rng.within(0..10) {
                0..4 => self.write(),
                8.. => self.write_much(),
                4 => self.append(),
                5 => self.set_len(),
                6 => self.flush_range(),
                _ => {
                    let h = self.handle(true).expect("looked at just now");
                    self.fsync_of(h);
                }
            }
            self.read_one(true);
            self.covered.note("volumes: others go on");
        }
        self.hung = None;
    }
}
