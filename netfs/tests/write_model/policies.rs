//! What becomes of dirty bytes that somebody else's change has met, by policy.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::{Either, select};
use netfs::{
    Conflict, ConflictHook, ConflictPolicy, Errno, Error, File, Mount, Result, remote::BoxFuture,
};
use netfs_memory::{Fault, Op};
use tokio::sync::Notify;

use crate::{
    modelling::{cx, drive::drive, life::Life, rng::Rng},
    servers::Injected,
    world::{STALL, World},
};

type Piece = (u64, Vec<u8>);

/// Keeps what it is given, unless it is to fail.
#[derive(Default)]
struct Hook {
    broken: AtomicBool,
    /// It takes its time, once.
    slow: AtomicBool,
    asked: Notify,
    told: Notify,
    kept: Mutex<Vec<Piece>>,
}

impl ConflictHook for Hook {
    fn keep(self: Arc<Self>, conflict: Conflict) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            if self.broken.load(Ordering::Relaxed) {
                return Err(Error::new(Errno::ENOSPC, "no room for copies"));
            }
            let pieces = conflict.dirty().map(|(at, bytes)| (at, bytes.to_vec()));
            *self.kept.lock().expect("lock") = pieces.collect();
            if self.slow.swap(false, Ordering::Relaxed) {
                self.asked.notify_one();
                self.told.notified().await;
            }
            Ok(())
        })
    }
}

impl Hook {
    /// It saves nothing, until it is told to.
    fn reset(&self) {
        self.broken.store(true, Ordering::Relaxed);
        self.slow.store(false, Ordering::Relaxed);
        self.kept.lock().expect("lock").clear();
    }

    fn policy(self: &Arc<Self>, kind: Kind) -> ConflictPolicy {
        match kind {
            Kind::Merge => ConflictPolicy::Merge,
            Kind::Fail => ConflictPolicy::Fail,
            Kind::KeepBoth => ConflictPolicy::KeepBoth(Arc::clone(self) as _),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Merge,
    Fail,
    KeepBoth,
}

const KINDS: [Kind; 5] = [Kind::Merge, Kind::Fail, Kind::Fail, Kind::KeepBoth, Kind::KeepBoth];

/// What a policy is set on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    File,
    Mount,
    Context,
}

/// The policy of a context. But for the steps here its mounts have one of their own: to merge.
pub(crate) struct OfContext {
    kind: Kind,
    hook: Arc<Hook>,
}

impl OfContext {
    pub(crate) fn merge() -> OfContext {
        OfContext { kind: Kind::Merge, hook: Arc::default() }
    }

    pub(crate) fn random(rng: &mut Rng) -> OfContext {
        let of_context = OfContext { kind: rng.pick(&KINDS), hook: Arc::default() };
        // It counts for what a replay brings back: nothing of that is given up.
        of_context.hook.reset();
        of_context
    }

    pub(crate) fn policy(&self) -> ConflictPolicy {
        self.hook.policy(self.kind)
    }
}

impl World {
    /// The policy that a volume has between the steps here.
    pub(crate) fn rest(&self, mount: &Mount) {
        let merge = self.of_context.kind != Kind::Merge;
        mount.set_conflict_policy(merge.then_some(ConflictPolicy::Merge));
    }

    /// Sets policies such that the nearest one is on `level`.
    fn set_policies(&mut self, level: Level, file: &File, mount: &Mount) -> (Kind, Arc<Hook>) {
        let (kind, hook) = match level {
            Level::Context => (self.of_context.kind, Arc::clone(&self.of_context.hook)),
            _ => (self.rng.pick(&KINDS), Arc::default()),
        };
        let other = Arc::<Hook>::default().policy(self.rng.pick(&KINDS));
        let on_mount = match level {
            Level::File => self.rng.chance(60).then_some(other),
            Level::Mount => Some(hook.policy(kind)),
            Level::Context => None,
        };
        mount.set_conflict_policy(on_mount);
        file.set_conflict_policy((level == Level::File).then(|| hook.policy(kind)));
        hook.reset();
        (kind, hook)
    }

    /// Somebody else changes a file whose dirty bytes have a policy; nothing is sent in between.
    pub(crate) fn policy(&mut self) {
        self.calm();
        let of = self.rng.index(self.files.len());
        let lost = self.handles.iter().any(|h| h.of == of && h.lost);
        // Beside dirty bytes nobody else writes to a file with wide units.
        if self.cache_hangs || lost || self.files[of].unit > 1 {
            return;
        }
        let Some(file) = self.fresh(of, &cx()) else { return };
        // Its version is known from here on.
        self.all_reads(of, &file);
        let level = self.rng.pick(&[Level::File, Level::Mount, Level::Context]);
        let mount = self.mount_for(&self.files[of].path.clone());
        let (kind, hook) = self.set_policies(level, &file, &mount);
        self.note(format!("{kind:?} by the {level:?}"));
        // Nothing is sent before the change is known here.
        let busy = Fault::on(Op::Write).errno(Errno::EAGAIN).always();
        let busy = self.fs.inject_at(&self.files[of].path, busy);
        self.write_some(of, &file);
        let ours = self.files[of].newest().bytes.clone();
        // Who has no promise is asked before the upload; who has one is told.
        let silent = self.files[of].life == Life::None && self.rng.chance(50);
        self.change_of(of, silent);
        self.files[of].ask_again();
        let mut busy = Some(busy);
        if kind != Kind::KeepBoth || self.rng.chance(50) {
            if kind != Kind::Merge {
                let result = self.drive(file.fsync());
                if !result.as_ref().is_err_and(|e| e.errno() == Errno::ESTALE) {
                    self.fail(&format!("fsync of what met a change: {result:?}"));
                }
            }
            busy.take().iter().for_each(|busy| self.fs.remove_fault(busy));
        }
        self.covered.note(format!("policy of the {level:?}: {kind:?}"));
        let sent = self.sent(of);
        match kind {
            Kind::Merge => {}
            Kind::Fail => self.failed(of, &file, sent),
            Kind::KeepBoth => self.kept_both(of, &file, &hook, (sent, &ours), busy),
        }
        file.set_conflict_policy(None);
        self.rest(&mount);
        let before = self.origin_bytes(&self.files[of].path);
        let result = self.drive(file.fsync());
        match result {
            Ok(()) => self.uploaded(of, &before),
            Err(e) => self.fail(&format!("fsync with the policy to merge: {e:?}")),
        }
    }

    fn sent(&self, of: usize) -> u64 {
        let counts = self.fs.file_counts(&self.files[of].path).expect("it exists");
        counts.calls(Op::Write) + counts.calls(Op::Commit)
    }

    fn write_some(&mut self, of: usize, file: &File) {
        for _ in 0..self.rng.within(1..4) {
            let (offset, len) = (self.rng.within(0..100_000), self.rng.within(1..300));
            let bytes = self.bytes(len);
            let result = self.drive(file.write_at(offset, &bytes));
            self.wrote(of, offset, &bytes, &result);
        }
    }

    /// Nothing was sent, and every call says why, until the owner decides.
    fn failed(&mut self, of: usize, file: &File, sent: u64) {
        let stale = |e: &Error| e.errno() == Errno::ESTALE;
        self.note("Fail");
        for _ in 0..2 {
            let result = self.drive(file.fsync());
            if self.sent(of) != sent {
                self.fail("what met a change was sent");
            }
            if !result.as_ref().is_err_and(stale) {
                self.fail(&format!("fsync of what met a change: {result:?}"));
            }
        }
        let result = self.drive(file.write_at(0, b"more"));
        if !result.as_ref().is_err_and(stale) {
            self.fail(&format!("write to what met a change: {result:?}"));
        }
        self.all_reads(of, file);
        if self.rng.chance(50) {
            // Merged, by the caller.
            return self.covered.note("policy: Fail, then merged");
        }
        let result = self.drive(file.discard_dirty());
        if !result.as_ref().is_ok_and(|n| *n > 0) {
            self.fail(&format!("discard of what met a change: {result:?}"));
        }
        let origin = self.origin_bytes(&self.files[of].path);
        self.files[of].lost(origin);
        self.handles.iter_mut().filter(|h| h.of == of).for_each(|h| h.lost = true);
        let told = self.drive(file.fsync());
        if !told.as_ref().is_err_and(stale) {
            self.fail(&format!("told of a loss: {told:?}"));
        }
        self.all_reads(of, file);
        self.covered.note("policy: Fail, then discarded");
    }

    /// The hook is given exactly our bytes; then the file is the server's. `busy`: nothing can be sent, and
    /// nothing has failed for good.
    fn kept_both(
        &mut self,
        of: usize,
        file: &File,
        hook: &Arc<Hook>,
        (sent, ours): (u64, &[u8]),
        busy: Option<Injected>,
    ) {
        if busy.is_none() && self.rng.chance(40) {
            self.note("KeepBoth, broken");
            let result = self.drive(file.fsync());
            let stale = result.as_ref().is_err_and(|e| e.errno() == Errno::ESTALE);
            if !stale || self.sent(of) != sent {
                self.fail(&format!("fsync with a hook that fails: {result:?}"));
            }
            self.covered.note("policy: a hook that fails");
            self.all_reads(of, file);
        }
        hook.broken.store(false, Ordering::Relaxed);
        let dirty = self.files[of].unsent.clone();
        let result = self.fsync_by_hook(of, file, hook, busy);
        self.note(format!("KeepBoth: {result:?}"));
        let kept = hook.kept.lock().expect("lock").clone();
        if kept.is_empty() {
            self.fail("the hook was not asked");
        }
        if let Err(e) = &result {
            self.fail(&format!("fsync of what the hook has saved: {e:?}"));
        }
        for at in dirty.iter().flatten() {
            let piece = kept.iter().find_map(|(start, bytes)| {
                at.checked_sub(*start as usize).and_then(|i| bytes.get(i))
            });
            if piece != ours.get(at) {
                self.fail(&format!("the hook was given {piece:?} at {at}, not {:?}", ours.get(at)));
            }
        }
        self.all_reads(of, file);
        self.covered.note("policy: KeepBoth");
    }

    /// Asks the hook; perhaps something is written while it works. That is not its, and stays.
    fn fsync_by_hook(
        &mut self,
        of: usize,
        file: &File,
        hook: &Hook,
        busy: Option<Injected>,
    ) -> Result<()> {
        // After a hook that failed nothing can be written until all is saved.
        let slow = self.rng.chance(50) && self.netfs().memory().parked == 0;
        hook.slow.store(slow, Ordering::Relaxed);
        let fsync = Box::pin(file.fsync());
        let (result, theirs, written) = match self
            .drive(select(fsync, Box::pin(hook.asked.notified())))
        {
            Either::Left((result, _)) => (result, self.origin_bytes(&self.files[of].path), None),
            Either::Right(((), fsync)) => {
                let theirs = self.origin_bytes(&self.files[of].path);
                // What is written now is to be sent.
                busy.iter().for_each(|busy| self.fs.remove_fault(busy));
                let (offset, len) = (self.rng.within(0..100_000), self.rng.within(1..300));
                let bytes = self.bytes(len);
                // If it finds no room, the hook is what that waits for.
                let wrote = drive(file.write_at(offset, &bytes), STALL, |_| {
                    self.clock.advance(Duration::from_millis(10));
                    hook.told.notify_one();
                });
                hook.told.notify_one();
                (self.drive(fsync), theirs, Some((offset, bytes, wrote)))
            }
        };
        busy.iter().for_each(|busy| self.fs.remove_fault(busy));
        hook.slow.store(false, Ordering::Relaxed);
        if !hook.kept.lock().expect("lock").is_empty() {
            self.files[of].lost(theirs);
        }
        if let Some((offset, bytes, wrote)) = written {
            self.covered.note("policy: written to meanwhile");
            self.wrote(of, offset, &bytes, &wrote);
        }
        result
    }
}
