//! Files that are closed without a flush.

use netfs::{Durability, Errno, Error, OpenOptions};
use netfs_memory::{Fault, Gate, Op, SnapshotAt};

use crate::{modelling::cx, world::World};

impl World {
    /// A close that uploads nothing returns while the server is silent. What is known to have failed it tells.
    pub(crate) fn close_unflushed(&mut self) {
        self.calm();
        let of = self.rng.index(self.files.len());
        if self.cache_hangs || self.handles.iter().any(|h| h.of == of && h.lost) {
            return;
        }
        let level = self.rng.pick(&[Durability::Memory, Durability::Journal]);
        let how = OpenOptions::new().read(true).write(true).close_flush(false).durability(level);
        let Some(file) = self.fresh_how(of, &how, &cx()) else { return };
        let (offset, len) = (self.rng.within(0..20_000), self.rng.within(1..3000));
        let bytes = self.bytes(len);
        let path = self.files[of].path.clone();
        let (refused, gate) = (self.rng.chance(40), Gate::new());
        let fault = Fault::on(Op::Write).always();
        let fault = match refused {
            true => fault.errno(Errno::ENOSPC),
            false => fault.hold(&gate, SnapshotAt::Issue),
        };
        let fault = self.fs.inject_at(&path, fault);
        let result = self.drive(file.write_at(offset, &bytes));
        self.wrote(of, offset, &bytes, &result);
        // At level journal that one may be content with the log.
        let failed = refused && self.drive(file.flush_range(0, u64::MAX)).is_err();
        let result = self.drive(file.close()).map_err(Error::from);
        self.note(format!("close of {path} without a flush, failed {failed}: {result:?}"));
        match &result {
            Ok(()) if !failed => self.covered.note("close: without a flush"),
            Err(e) if refused && e.errno() == Errno::ENOSPC => {
                self.covered.note("close: tells of a failed upload");
            }
            other => self.fail(&format!("close without a flush: {other:?}")),
        }
        gate.release();
        self.fs.remove_fault(&fault);
        let Some(file) = self.fresh(of, &cx()) else { return };
        self.all_reads(of, &file);
        let before = self.origin_bytes(&path);
        match self.drive(file.fsync()) {
            Ok(()) => self.uploaded(of, &before),
            Err(e) => self.fail(&format!("the server takes everything again: {e:?}")),
        }
    }
}
