//! Which files are flushed when nobody asks.
//!
//! A file stays listed, and alive, as long as it has dirty bytes, or the log has records of it. The flusher goes round the files while
//! more than the background limit is dirty, or somebody waits for memory, and takes those whose oldest bytes
//! are over age. A file whose upload failed is left alone for a while, longer each time.

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::Notify;

use super::{
    flush::{Wait, flush_or_pass},
    groups::What,
    is_transient,
};
use crate::{
    clock::BootTime,
    context::Core,
    error::Result,
    inode::Inode,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    timer,
};

/// First pause after a failed upload of a file, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The dirty files of one context.
#[derive(Default)]
pub(crate) struct Flusher {
    files: Mutex<BTreeMap<u64, Dirty>>,
    wake: Notify,
    /// Whoever waits for memory hears of every round.
    pub(crate) cleaned: Notify,
    pressed: AtomicUsize,
    /// The context has ended. Changed under the lock of `files`: a file listed after that would keep the
    /// context alive, and be kept by it, for ever.
    over: AtomicBool,
}

struct Dirty {
    inode: Arc<Inode>,
    /// A round that the flusher began has not ended.
    at_work: bool,
    /// Failed so often in a row; not tried before.
    failed: u32,
    not_before: BootTime,
}

impl Flusher {
    /// A file has dirty bytes.
    pub(crate) fn note(&self, inode: &Arc<Inode>) {
        inode.pin();
        let mut files = self.files.lock();
        let new = !files.contains_key(&inode.id) && !self.over.load(Ordering::Relaxed);
        if new {
            let inode = Arc::clone(inode);
            let (at_work, not_before) = (false, BootTime::ZERO);
            files.insert(inode.id, Dirty { inode, at_work, failed: 0, not_before });
        }
        drop(files);
        if new {
            self.wake.notify_one();
        }
    }

    /// More is dirty than should be.
    pub(crate) fn kick(&self) {
        self.wake.notify_one();
    }

    /// A round over some file has ended: memory may be free, and the file may be looked at again.
    pub(super) fn round_over(&self) {
        self.cleaned.notify_waiters();
        self.wake.notify_one();
    }

    /// Somebody waits for memory, until the guard is dropped.
    pub(crate) fn press(&self) -> Pressed<'_> {
        self.pressed.fetch_add(1, Ordering::AcqRel);
        self.wake.notify_one();
        Pressed(self)
    }

    /// All dirty files.
    pub(crate) fn dirty_files(&self) -> Vec<Arc<Inode>> {
        self.files.lock().values().map(|d| Arc::clone(&d.inode)).collect()
    }

    /// Forgets everything (the end of the context). Returns the dirty bytes given up.
    pub(crate) fn clear(&self) -> u64 {
        let mut listed = self.files.lock();
        self.over.store(true, Ordering::Relaxed);
        let files = std::mem::take(&mut *listed);
        drop(listed);
        files.values().map(|d| d.inode.pages.dirty_bytes()).sum()
    }

    /// A file that is clean, and of which nothing is in the log, is listed no longer.
    fn tidy(&self, inode: &Arc<Inode>, ended_well: bool, now: BootTime) {
        let mut files = self.files.lock();
        let done = inode.owes_nothing();
        let gone = if done { files.remove(&inode.id) } else { None };
        if let Some(dirty) = files.get_mut(&inode.id) {
            // A log that did not void the records of a clean file is left alone for a while, too.
            let ended_well = ended_well && inode.pages.dirty_bytes() > 0;
            dirty.failed = if ended_well { 0 } else { dirty.failed + 1 };
            let pause = BACK_OFF.0 * 2u32.pow(dirty.failed.min(10)) / 2;
            dirty.not_before =
                now + if ended_well { Duration::ZERO } else { pause.min(BACK_OFF.1) };
        }
        drop(files);
        drop(gone);
        // Written to between the look and the removal.
        if done && !inode.owes_nothing() {
            self.note(inode);
        }
    }

    fn due(&self, core: &Core, now: BootTime) -> Vec<Arc<Inode>> {
        let pressed = self.pressed.load(Ordering::Acquire) > 0;
        let all = pressed || core.folios.room().dirty() > core.options.dirty_background;
        let files = self.files.lock();
        let listed: Vec<Arc<Inode>> = files
            .values()
            .filter(|d| d.not_before <= now && !d.at_work)
            .map(|d| Arc::clone(&d.inode))
            .collect();
        drop(files);
        let expire = core.options.dirty_expire;
        let old = |inode: &Arc<Inode>| inode.pages.dirty_for(expire, now);
        // What has become clean without an upload (it was cut) is only to be taken off the list, and out of
        // the log.
        let clean = |inode: &Arc<Inode>| inode.pages.dirty_bytes() == 0;
        let due = |inode: &Arc<Inode>| {
            // Somebody else is at it: it would be passed by, again and again.
            !inode.wb.is_busy() && (all || old(inode) || clean(inode))
        };
        listed.into_iter().filter(due).collect()
    }

    /// The flusher begins a round over a file, or has ended it.
    fn at_work(&self, inode: &Inode, at_work: bool) {
        if let Some(dirty) = self.files.lock().get_mut(&inode.id) {
            dirty.at_work = at_work;
        }
        if !at_work {
            self.wake.notify_one();
        }
    }
}

/// See [`Flusher::press`].
pub(crate) struct Pressed<'a>(&'a Flusher);

impl Drop for Pressed<'_> {
    fn drop(&mut self) {
        self.0.pressed.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Uploads a file and keeps the list.
pub(crate) async fn flush_listed(inode: &Arc<Inode>, wait: Wait) -> Result<()> {
    let result = flush_or_pass(inode, What::Range(0..u64::MAX), wait).await;
    // One that was passed by says nothing of how its uploads go.
    if !matches!(result, Ok(false)) {
        inode.core.flusher.tidy(inode, result.is_ok(), inode.now());
    }
    result.map(drop)
}

/// A round that nobody waits for: one that hangs holds up no other file.
fn begin_round(inode: Arc<Inode>) {
    let core = Arc::clone(&inode.core);
    core.flusher.at_work(&inode, true);
    let work = async move {
        if let Err(error) = flush_listed(&inode, Wait::No).await {
            tracing::warn!(%error, "writeback failed; the bytes are kept");
        }
        inode.core.flusher.at_work(&inode, false);
    };
    drop(core.driver.spawn(work));
}

/// The flusher's task.
pub(crate) async fn run(core: Weak<Core>) {
    loop {
        let Some(core) = core.upgrade() else { return };
        core.folios.let_go_returned();
        let now = core.clock.now();
        let due = core.flusher.due(&core, now);
        if due.is_empty() {
            let tick = core.options.dirty_expire / 4;
            let idle = core.flusher.files.lock().is_empty();
            let (flusher, clock) = (Arc::clone(&core.flusher), Arc::clone(&core.clock));
            // Asleep it keeps nothing alive.
            drop(core);
            if idle {
                flusher.wake.notified().await;
            } else {
                let woken = flusher.wake.notified();
                let tick = clock.sleep_until(now + tick.min(BACK_OFF.0));
                futures_util::future::select(std::pin::pin!(woken), tick).await;
            }
            continue;
        }
        due.into_iter().for_each(begin_round);
    }
}

/// One round over all files.
pub(crate) async fn sync(core: &Arc<Core>) -> Result<()> {
    let files = core.flusher.dirty_files();
    let rounds = files.iter().map(|inode| flush_listed(inode, Wait::Turn));
    futures_util::future::join_all(rounds).await.into_iter().collect()
}

/// Uploads all there is, until `deadline`.
pub(crate) async fn flush_all(core: &Arc<Core>, deadline: BootTime) {
    loop {
        let files = core.flusher.dirty_files();
        if files.is_empty() {
            return;
        }
        let rounds = files.iter().map(|inode| flush_listed(inode, Wait::Turn));
        let all = futures_util::future::join_all(rounds);
        let Some(results) = timer::until(&core.driver, &*core.clock, deadline, all).await else {
            return;
        };
        let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        if errors.is_empty() {
            // What came in meanwhile; soon nothing does any more. A log that does not forget is not waited for.
            if core.flusher.dirty_files().iter().all(|inode| inode.pages.dirty_bytes() == 0) {
                return;
            }
            continue;
        }
        if !errors.iter().any(is_transient) {
            return;
        }
        let again = core.clock.now() + BACK_OFF.0;
        if deadline <= again {
            return;
        }
        core.clock.sleep_until(again).await;
    }
}
