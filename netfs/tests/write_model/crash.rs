//! Durability levels, the log of dirty bytes, and crashes at any moment.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::{Either, select};
use netfs::{
    Durability, Errno, Error, Netfs, OpenOptions, Result,
    dirtylog::{DirtyLog, LogFault, MemLog, Position, Record, Records},
    remote::BoxFuture,
};
use netfs_memory::{Fault, Gate, Op, SnapshotAt};

use crate::{
    modelling::cx,
    modes::Asked,
    servers::{real, split},
    world::World,
};

/// The log of a world, over all its lives.
pub(crate) struct Log {
    pub(crate) log: Arc<MemLog>,
    life: Arc<Life>,
    /// It fails: calls that need it may.
    pub(crate) fails: bool,
}

/// What one context has of the log. What is left of a context that has crashed reaches it no more.
struct Life {
    log: Arc<MemLog>,
    over: AtomicBool,
}

impl Log {
    pub(crate) fn new() -> Log {
        let log = MemLog::new();
        Log { life: Life::new(&log), log, fails: false }
    }

    /// For the next context.
    pub(crate) fn begin(&mut self) -> Arc<dyn DirtyLog> {
        self.end();
        self.life = Life::new(&self.log);
        Arc::clone(&self.life) as _
    }

    fn end(&self) {
        self.life.over.store(true, Ordering::SeqCst);
    }

    /// The machine stops: what is not durable now is lost.
    fn crash(&mut self) {
        self.end();
        self.log.restart();
        self.fails = false;
    }
}

impl Life {
    fn new(log: &Arc<MemLog>) -> Arc<Life> {
        Arc::new(Life { log: Arc::clone(log), over: AtomicBool::new(false) })
    }

    fn check(&self) -> Result<()> {
        match self.over.load(Ordering::SeqCst) {
            true => Err(Error::new(Errno::EIO, "this machine has stopped")),
            false => Ok(()),
        }
    }
}

impl DirtyLog for Life {
    fn append(&self, record: Record) -> Result<Position> {
        self.check()?;
        self.log.append(record)
    }

    fn durable(self: Arc<Self>, upto: Position) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            self.check()?;
            Arc::clone(&self.log).durable(upto).await
        })
    }

    fn checkpoint(&self, upto: Position) -> Result<()> {
        self.check()?;
        self.log.checkpoint(upto)
    }

    fn replay(&self) -> Result<Records> {
        self.log.replay()
    }
}

impl World {
    /// How the next file is opened.
    pub(crate) fn how(&mut self, writable: bool) -> (OpenOptions, Durability, bool) {
        let level = match self.rng.within(0..10) {
            0..4 => Durability::Memory,
            4..8 => Durability::Journal,
            8 if writable => Durability::Remote,
            _ => Durability::Memory,
        };
        let flushes = self.rng.chance(80);
        let how = OpenOptions::new().read(true).write(writable).durability(level);
        (how.close_flush(flushes), level, flushes)
    }

    /// Whether an fsync through this handle brings the bytes to the log.
    pub(crate) fn logs(&self, h: usize) -> bool {
        self.log.is_some() && self.handles[h].level == Durability::Journal
    }

    /// Whether writes through this handle wait for the server.
    pub(crate) fn waits(&self, h: usize) -> bool {
        self.handles[h].level == Durability::Remote
    }

    /// Whoever waits for the server in a write hears of discarded bytes there, unless the write is refused:
    /// so it hears of them before.
    pub(crate) fn hears_first(&mut self, h: usize) -> bool {
        let hears = self.waits(h) && self.handles[h].lost;
        if hears {
            let result = self.drive(self.file(h).fsync());
            self.note(format!("fsync, to hear of a loss: {result:?}"));
            self.told_of_loss(h, &result);
        }
        hears
    }

    /// A write through a handle that waits for the server has returned; `taken` bytes had been counted before.
    pub(crate) fn waited_for(
        &mut self,
        of: usize,
        offset: u64,
        bytes: &[u8],
        taken: u64,
        result: &Result<usize>,
    ) {
        let path = self.files[of].path.clone();
        self.note(format!("write that waits {path} {offset}+{}: {result:?}", bytes.len()));
        self.covered.note("write: waited for the server");
        let taken = (self.bytes_taken() - taken) as usize;
        self.landed(of, offset, (bytes, taken), Asked { direct: false, waits: true }, result);
    }

    /// An fsync through `h` returned well.
    pub(crate) fn synced(&mut self, h: usize, before: &[u8]) {
        let of = self.handles[h].of;
        if self.logs(h) {
            self.covered.note("fsync: in the log");
            self.files[of].durable.fsynced();
        } else {
            self.uploaded(of, before);
        }
    }

    /// The log begins to fail, or stops.
    pub(crate) fn log_fault(&mut self) {
        let Some(log) = &mut self.log else { return };
        if log.fails {
            return self.calm();
        }
        let fault =
            self.rng.pick(&[LogFault::Full, LogFault::Full, LogFault::Sick, LogFault::Hang]);
        log.log.inject(Some(fault));
        log.fails = true;
        // A full one is no reason to fail.
        self.suspect |= fault != LogFault::Full;
        // Full, it still takes what voids.
        let stay = fault != LogFault::Full;
        self.files.iter_mut().for_each(|f| f.records_may_stay |= stay);
        self.covered.note(format!("fault of the log: {fault:?}"));
        self.note(format!("the log: {fault:?}"));
    }

    pub(crate) fn log_behaves(&mut self) {
        if let Some(log) = &mut self.log {
            log.log.inject(None);
            log.fails = false;
        }
    }

    /// The machine stops, perhaps in the middle of an upload. The next life finds the log, the cache's disk
    /// and the server as they are.
    pub(crate) fn crash(&mut self) {
        match self.rng.within(0..4) {
            0 => self.fsync(),
            1 => self.log_some(),
            2 => self.log_twins(),
            _ => {}
        }
        if self.rng.chance(40) {
            self.begin_upload();
        }
        self.covered.note("crash");
        self.note("crash");
        self.end_life();
        self.meanwhile();
        self.tree_as_on_server();
        for _ in 0..self.rng.within(0..3) {
            self.false_start();
        }
        self.start();
        self.judge_replay();
    }

    /// Writes, and has it in the log, where some opener's fsync goes there.
    fn log_some(&mut self) {
        let logs = |h: &usize| self.handles[*h].writable && self.logs(*h);
        let Some(h) = (0..self.handles.len()).find(logs) else { return };
        let (of, file) = (self.handles[h].of, self.file(h));
        let (offset, bytes) = self.write_span(of);
        let result = self.drive(file.write_at(offset, &bytes));
        self.wrote(of, offset, &bytes, &result);
        self.fsync_of(h);
    }

    /// Has bytes of two files in the log that have the same key, in two volumes.
    fn log_twins(&mut self) {
        if self.suspect || self.log.as_ref().is_none_or(|log| log.fails) {
            return self.log_some();
        }
        let twin = |of: usize| {
            let path = &self.files[of].path;
            self.files.iter().position(|f| split(&f.path).0 == 1 && real(&f.path) == path)
        };
        let twins = (0..self.files.len()).filter_map(|of| Some([of, twin(of)?]));
        let twins: Vec<_> = twins.collect();
        if twins.is_empty() {
            return self.log_some();
        }
        let how = OpenOptions::new().read(true).write(true).durability(Durability::Journal);
        for of in self.rng.pick(&twins) {
            let Some(file) = self.fresh_how(of, &how, &cx()) else { return };
            let (offset, bytes) = self.write_span(of);
            let result = self.drive(file.write_at(offset, &bytes));
            self.wrote(of, offset, &bytes, &result);
            match self.drive(file.fsync()) {
                Ok(()) => self.files[of].durable.fsynced(),
                Err(e) => self.excuse("fsync", &e),
            }
        }
        self.covered.note("crash: two volumes in the log");
    }

    /// Leaves an upload hanging.
    fn begin_upload(&mut self) {
        if self.suspect || self.may_have_lost_files() {
            return;
        }
        self.write();
        let gate = Gate::new();
        let at = self.rng.pick(&[SnapshotAt::Issue, SnapshotAt::Release]);
        let op = self.rng.pick(&[Op::Write, Op::Write, Op::Commit]);
        let _ = self.fs.inject(Fault::on(op).hold(&gate, at).times(1));
        let before: Vec<_> = self.files.iter().map(|f| self.origin_bytes(&f.path)).collect();
        self.gate = Some(gate.clone());
        let netfs = self.take_netfs();
        let hung = match self.drive(select(Box::pin(netfs.sync()), Box::pin(gate.hit(1)))) {
            Either::Left((Ok(()), _)) => {
                (0..self.files.len()).for_each(|of| self.uploaded(of, &before[of]));
                self.tree_is_uploaded();
                false
            }
            Either::Left((Err(e), _)) => self.fail(&format!("sync before a crash: {e:?}")),
            // Whoever waits dies too.
            Either::Right(_) => true,
        };
        self.put_netfs(netfs);
        if hung {
            self.covered.note("crash: in the middle of an upload");
            self.note(format!("{op:?} hangs at {at:?}"));
            for _ in 0..self.rng.within(0..3) {
                self.write();
            }
        }
        self.gate = None;
    }

    pub(crate) fn end_life(&mut self) {
        if let Some(log) = &mut self.log {
            log.crash();
        }
        self.disk.behave();
        self.cache_hangs = false;
        self.handles.clear();
        self.open_groups.clear();
        self.removed.clear();
        self.unmount();
        let netfs = self.take_netfs();
        self.covered.context(&netfs.stats());
        self.kill(netfs);
        self.disk.restart(true);
        // What it has sent, and what of that would survive.
        self.check_groups();
        for of in 0..self.files.len() {
            self.nothing_lost(of);
        }
    }

    /// Returns when nothing of it is at work any more.
    fn kill(&mut self, netfs: Netfs) {
        drop(netfs);
        self.fs.clear_faults();
        self.wait_for_the_dead();
        self.fs.wait_idle();
        self.suspect = false;
    }

    /// What was acknowledged is still on the server.
    fn nothing_lost(&mut self, of: usize) {
        let origin = self.origin_bytes(&self.files[of].path);
        if !self.files[of].given_up {
            let judged = self.files[of].still_there(&origin);
            self.check(judged);
        }
    }

    /// What others do while nobody is here.
    fn meanwhile(&mut self) {
        // What was sent of the tree's files and not committed nobody sends again.
        if self.rng.chance(30) || !self.tree.unsent.is_empty() {
            self.covered.note("crash: of the server too");
            self.note("the server restarts");
            self.fs.restart();
            (0..self.files.len()).for_each(|of| self.nothing_lost(of));
        }
        for _ in 0..self.rng.within(0..3) {
            self.change();
        }
        if self.rng.chance(15) {
            self.replace_file();
        }
    }

    /// A context that dies before it has begun, or soon after.
    fn false_start(&mut self) {
        let (netfs, what) = (self.build(), self.rng.within(0..3));
        let volume = self.rng.index(self.fs.volumes().len());
        self.note(format!("a start that comes to nothing, {what}, of volume {volume}"));
        let client = Arc::clone(&self.fs.volumes()[volume]);
        let (skip, gate) = (self.rng.within(0..4), Gate::new());
        let cx = cx();
        let mount = Box::pin(netfs.mount(client, &cx));
        match what {
            0 => {
                self.covered.note("crash: replayed, and again");
                drop(self.drive(mount).expect("mount"));
            }
            1 => {
                let fault = Fault::on(Op::Lookup).errno(Errno::ETIMEDOUT).skip(skip).times(1);
                let _ = self.fs.inject(fault);
                let mounted = self.drive(mount);
                self.covered.note(format!("crash: a replay that fails: {}", mounted.is_err()));
            }
            _ => {
                let at = SnapshotAt::Issue;
                let fault = Fault::on(Op::Lookup).hold(&gate, at).skip(skip).times(1);
                let _ = self.fs.inject(fault);
                let hung = self.drive(select(mount, Box::pin(gate.hit(1))));
                let hung = matches!(hung, Either::Right(_));
                self.covered.note(format!("crash: in the middle of a replay: {hung}"));
            }
        }
        if let Some(log) = &mut self.log {
            log.crash();
        }
        self.kill(netfs);
        self.disk.restart(true);
    }

    /// Everything that was promised is there, and nothing else.
    pub(crate) fn judge_replay(&mut self) {
        let mut conflicts = 0;
        for of in 0..self.files.len() {
            let path = self.files[of].path.clone();
            let told = self.mounts_of(&path)[0].replayed();
            self.note(format!("{path}, replayed: {told:?}"));
            let gone: Vec<_> = told.gone.iter().map(|(key, _)| key.to_vec()).collect();
            conflicts += told.conflicts;
            if split(&path).0 == 0 && self.tree.ours_gone.iter().any(|key| gone.contains(key)) {
                self.fail("the log has bytes of a file that this context has removed");
            }
            if gone.contains(&self.fs.key(&path).expect("it exists")) {
                self.fail(&format!("{path} is there, and its bytes were given up"));
            }
            // What the flusher uploads from here on is what is read.
            let origin = self.origin_bytes(&path);
            let got = self.whole(&path);
            let log = self.log.is_some();
            let needed = self.files[of].durable.only_logged(&origin);
            if told.bytes < needed as u64 {
                self.fail(&format!("{path}: {needed} bytes were only in the log; {told:?}"));
            }
            if needed > 0 {
                self.covered.note("crash: bytes from the log");
            }
            let judged = self.files[of].revived(&origin, got, log);
            self.files[of].records_may_stay = false;
            self.check(judged);
        }
        if conflicts > 0 {
            self.covered.note("crash: a conflict at the replay");
        }
    }

    /// All there is of a file, through the first mount.
    fn whole(&self, path: &str) -> Vec<u8> {
        let mut buf = vec![0xaa; 1 << 20];
        let read = self.drive(async {
            let mount = &self.mounts_of(path)[0];
            let node = mount.walk(real(path), &cx()).await?;
            mount.open(&node, &cx()).await?.read_at(0, &mut buf).await
        });
        match read {
            Ok(n) => buf.truncate(n),
            Err(e) => self.fail(&format!("{path} cannot be read after a crash: {e:?}")),
        }
        buf
    }

    /// Another file has the name; what the log has of the old one is of no use.
    fn replace_file(&mut self) {
        let of = self.rng.index(self.files.len());
        let path = self.files[of].path.clone();
        self.fs.change(&path).remove().expect("it exists");
        self.fs.change(&path).create(self.rng.within(0..200_000)).expect("the name is free");
        self.files[of] = self.adopt(&path);
        self.covered.note("crash: a file is gone");
        self.note(format!("{path} is another file"));
    }
}
