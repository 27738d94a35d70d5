//! Steps in which things happen at the same time.

use futures_util::future::{Either, join_all, join3, select};
use netfs::Errno;
use netfs_memory::{Fault, Gate, Op, SnapshotAt};

use crate::{view::View, world::World};

impl World {
    /// An upload that hangs while we write, read, and others change the file.
    pub(crate) fn overtaken(&mut self) {
        let Some(h) = self.handle(true) else { return };
        let (of, file) = (self.handles[h].of, self.file(h));
        if self.waits(h) {
            return self.write();
        }
        if self.files[of].unsent.is_empty() {
            let (offset, bytes) = self.write_span(of);
            let result = self.drive(file.write_at(offset, &bytes));
            self.wrote(of, offset, &bytes, &result);
        }
        let gate = Gate::new();
        let at = self.rng.pick(&[SnapshotAt::Issue, SnapshotAt::Release]);
        let op = self.rng.pick(&[Op::Write, Op::Write, Op::Commit]);
        let held = self.fs.inject(Fault::on(op).hold(&gate, at).times(1));
        self.covered.note("overtaken");
        self.note(format!("{op:?} on {} held at {at:?}", self.files[of].path));
        self.gate = Some(gate.clone());
        let fsync = Box::pin(async move { file.fsync().await });
        self.files[of].durable.tried();
        let result = match self.drive(select(fsync, Box::pin(gate.hit(1)))) {
            Either::Left((result, _)) => result,
            Either::Right(((), fsync)) => {
                for _ in 0..self.rng.within(1..5) {
                    match self.rng.within(0..4) {
                        0 => self.change(),
                        1 => self.write(),
                        _ => self.read_one(false),
                    }
                }
                gate.release();
                self.drive(fsync)
            }
        };
        gate.release();
        self.files[of].durable.tried();
        self.gate = None;
        self.fs.remove_fault(&held);
        self.note(format!("its fsync: {result:?}"));
        if let Err(e) = result
            && !std::mem::take(&mut self.handles[h].lost)
        {
            self.excuse("fsync", &e);
        }
        if self.rng.chance(50) {
            self.fsync();
        }
    }

    /// Writes, reads and uploads of one file at the same time.
    pub(crate) fn burst(&mut self) {
        let (Some(h), Some(r)) = (self.handle(true), self.handle(false)) else { return };
        if self.waits(h) {
            return self.write();
        }
        let (of, file) = (self.handles[h].of, self.file(h));
        let same = self.handles[r].of == of;
        let reader = if same { self.file(r) } else { self.file(h) };
        let path = self.files[of].path.clone();
        self.covered.note("burst");
        self.note(format!("burst on {path}"));
        let writes: Vec<_> = (0..self.rng.within(1..6)).map(|_| self.write_span(of)).collect();
        let reads: Vec<_> =
            (0..self.rng.within(1..4)).map(|_| self.rng.span(self.files[of].size())).collect();
        let (before, netfs) = (self.files[of].views(), self.netfs());
        let drop_memory = self.journal.step.is_multiple_of(3);
        let upload = async {
            let done = netfs.sync().await;
            if drop_memory {
                netfs.drop_memory();
            }
            done
        };
        let written = async {
            let mut results = Vec::new();
            for (offset, bytes) in &writes {
                results.push(file.write_at(*offset, bytes).await);
            }
            results
        };
        let read = join_all(reads.iter().map(|(offset, len)| {
            let reader = &reader;
            async move {
                let mut buf = vec![0xaa; *len as usize];
                let n = reader.read_at(*offset, &mut buf).await?;
                buf.truncate(n);
                Ok::<_, netfs::Error>(buf)
            }
        }));
        let (synced, results, got) = self.drive(join3(upload, written, read));
        for ((offset, bytes), result) in writes.iter().zip(&results) {
            self.wrote(of, *offset, bytes, result);
        }
        if let Err(e) = synced
            && (!self.may_have_lost_files() || e.errno() != Errno::ESTALE)
        {
            self.excuse("sync", &e);
        }
        for ((offset, len), got) in reads.iter().zip(got) {
            self.note(format!("burst read {offset}+{len}: {:?}", got.as_ref().map(Vec::len)));
            match got {
                Ok(got) => self.judge_mixed(&before, &writes, (*offset as usize, *len), &got, of),
                Err(e) => self.excuse("read", &e),
            }
        }
    }

    /// Each byte is from before or of one of the writes.
    pub(crate) fn judge_mixed(
        &self,
        before: &[View],
        writes: &[(u64, Vec<u8>)],
        (offset, len): (usize, u64),
        got: &[u8],
        of: usize,
    ) {
        let want = |size: usize| size.saturating_sub(offset).min(len as usize);
        let least = before.iter().map(|v| want(v.least)).min().unwrap_or(0);
        let most = self.files[of].views().iter().map(|v| want(v.bytes.len())).max().unwrap_or(0);
        if got.len() < least || got.len() > most {
            self.fail(&format!("{} bytes at {offset}, not {least}..={most}", got.len()));
        }
        let of_write = |at: usize, byte: u8| {
            let value = |(start, bytes): &(u64, Vec<u8>)| {
                at.checked_sub(*start as usize).and_then(|i| bytes.get(i)).copied()
            };
            writes.iter().any(|w| value(w) == Some(byte))
        };
        let wrong = |i: &usize| {
            let (at, byte) = (offset + i, got[*i]);
            !before.iter().any(|v| v.may_be(at, byte)) && !of_write(at, byte)
        };
        if let Some(i) = (0..got.len()).find(wrong) {
            self.fail(&format!("byte {} is {}, of nobody", offset + i, got[i]));
        }
    }
}
