//! A volume's shell.

use std::sync::OnceLock;

use super::InodeCell;
use crate::{
    clock::{BootTime, Clock},
    coherency::{
        BreakReason,
        events::InodeTable,
        gate::ValidateGate,
        model::{Epoch, KeySlot, StaleReason, Validity, VolumeCoherency},
        recall::{LocalState, RecallTicket},
        zap::{Target, Ticket, ZapRegistry},
    },
    stats::Counters,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// All bytes of a file.
pub(super) const WHOLE_FILE: std::ops::Range<u64> = 0..u64::MAX;

/// A volume's coherency state, shared by all its inodes and the adapters' event handles.
pub(crate) struct VolumeCell {
    published: Published,
    state: Mutex<VolumeCoherency>,
    table: OnceLock<Weak<dyn InodeTable>>,
    pub(super) zappers: Arc<ZapRegistry>,
    /// Merges the checks that renew the volume's promise.
    pub(in crate::coherency) gate: Arc<ValidateGate>,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    name: Box<str>,
    next_inode: AtomicU64,
}

/// What the hit path reads. Written under the state lock; rarely, so readers share the line.
#[derive(Default)]
#[repr(align(128))]
struct Published {
    own_barrier: AtomicU64,
    covered_barrier: AtomicU64,
    snapshot_at: AtomicU64,
    scrub_at: AtomicU64,
    deadline: AtomicU64,
}

impl VolumeCell {
    /// A volume about which nothing is known. `name` is for logs.
    pub(crate) fn new(name: &str, clock: Arc<dyn Clock>, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(VolumeCell {
            published: Published::default(),
            state: Mutex::new(VolumeCoherency::new()),
            table: OnceLock::new(),
            zappers: Arc::new(ZapRegistry::default()),
            gate: ValidateGate::new(Arc::clone(&counters)),
            clock,
            counters,
            name: name.into(),
            next_inode: AtomicU64::new(1),
        })
    }

    /// Says where events find inodes. Once per volume, before the adapter gets its event handle;
    /// later calls change nothing.
    pub(crate) fn bind(&self, table: Weak<dyn InodeTable>) {
        self.zappers.bind(Weak::clone(&table));
        let _ = self.table.set(table);
    }

    /// The epoch of a request that is about to be issued. Also for a lookup, whose inode is not
    /// known yet.
    pub(crate) fn sample(&self) -> Epoch {
        // Time first: a promise may count from before the request, never from after it.
        let now = self.clock.now();
        self.state.lock().sample(now)
    }

    /// The number of the last scrub; 0 = none.
    pub(crate) fn scrub_seq(&self) -> u64 {
        self.published.scrub_at.load(Ordering::SeqCst)
    }

    /// The clock all deadlines of the volume are measured by.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The counters events are counted in.
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// For logs.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A break of one file. Recorded before the table is searched; see [`InodeTable`].
    pub(in crate::coherency) fn on_break(&self, key: &[u8]) -> Ticket {
        self.counters.breaks.inc();
        let at = self.state.lock().on_key_break(KeySlot::of(key));
        match self.find(key) {
            Some(inode) => inode.on_break(at),
            None => Ticket::resolved(),
        }
    }

    /// A recall: a break, and whatever has to be done before the promise is given back.
    pub(in crate::coherency) fn on_recall(&self, key: &[u8]) -> RecallTicket {
        let zap = self.on_break(key);
        let table = self.table.get().and_then(Weak::upgrade);
        let begun = table.and_then(|table| table.recall(key, zap.clone()));
        begun.unwrap_or_else(|| RecallTicket::new(zap, None))
    }

    pub(in crate::coherency) fn local_state(&self, key: &[u8]) -> Option<LocalState> {
        self.table.get()?.upgrade()?.local_state(key)
    }

    /// A break of the whole volume.
    pub(in crate::coherency) fn on_break_all(&self, reason: BreakReason) -> Ticket {
        self.on_event(|state| state.on_break_all(reason))
    }

    /// A scrub.
    pub(in crate::coherency) fn on_scrub(&self) -> Ticket {
        self.on_event(VolumeCoherency::on_scrub)
    }

    /// A move to a newer snapshot.
    pub(in crate::coherency) fn on_snapshot_moved(&self) -> Ticket {
        self.on_event(VolumeCoherency::on_snapshot_moved)
    }

    /// A file is gone. If it is unknown, a lookup of it in flight gets no promise.
    pub(in crate::coherency) fn on_deleted(&self, key: &[u8]) -> Ticket {
        self.counters.breaks.inc();
        self.state.lock().on_key_break(KeySlot::of(key));
        match self.find(key) {
            Some(inode) => inode.mark_deleted(),
            None => Ticket::resolved(),
        }
    }

    fn on_event(&self, event: impl FnOnce(&mut VolumeCoherency) -> u64) -> Ticket {
        self.counters.breaks.inc();
        let mut state = self.lock();
        let at = event(&mut state);
        drop(state);
        // Stale first, zap second: a fault that comes between is refused, one before is zapped.
        self.zappers.zap(Target::Volume, &WHOLE_FILE, at)
    }

    fn find(&self, key: &[u8]) -> Option<Arc<InodeCell>> {
        self.table.get()?.upgrade()?.find(key)
    }

    /// A number for a new inode of this volume.
    pub(super) fn number_inode(&self) -> u64 {
        self.next_inode.fetch_add(1, Ordering::Relaxed)
    }

    /// The state, published when the guard goes.
    pub(super) fn lock(&self) -> VolumeGuard<'_> {
        VolumeGuard { cell: self, state: self.state.lock() }
    }

    /// Whether a promise of this epoch still holds, as far as the volume is concerned. Lock-free.
    pub(super) fn check(&self, seq: u64, covered: bool) -> Validity {
        let p = &self.published;
        if covered {
            // The deadline before the barrier: a reset between the two loads is seen.
            let deadline = BootTime::from_nanos(p.deadline.load(Ordering::SeqCst));
            if seq < p.covered_barrier.load(Ordering::SeqCst) {
                return Validity::Stale(self.voided_by(seq));
            }
            if deadline != BootTime::NEVER && !self.clock.is_ahead(deadline) {
                return Validity::Stale(StaleReason::VolumeLapsed);
            }
            return Validity::Valid;
        }
        if seq < p.own_barrier.load(Ordering::SeqCst) {
            return Validity::Stale(self.voided_by(seq));
        }
        Validity::Valid
    }

    /// Names the event that voided a promise (off the hit path).
    fn voided_by(&self, seq: u64) -> StaleReason {
        if seq < self.published.scrub_at.load(Ordering::SeqCst) {
            StaleReason::Scrubbed
        } else if seq < self.published.snapshot_at.load(Ordering::SeqCst) {
            StaleReason::SnapshotMoved
        } else {
            StaleReason::VolumeBroken
        }
    }

    fn publish(&self, state: &VolumeCoherency) {
        let p = &self.published;
        // What takes validity away before what gives it.
        store(&p.scrub_at, state.scrub_at);
        store(&p.snapshot_at, state.snapshot_at);
        store(&p.covered_barrier, state.covered_barrier());
        store(&p.own_barrier, state.own_barrier());
        store(&p.deadline, state.deadline().as_nanos());
    }
}

/// Stores only what differs: most replies change nothing here, and readers keep their cache line.
fn store(to: &AtomicU64, value: u64) {
    if to.load(Ordering::Relaxed) != value {
        to.store(value, Ordering::SeqCst);
    }
}

/// The volume's state, locked; what changed is published before it is unlocked.
pub(super) struct VolumeGuard<'a> {
    cell: &'a VolumeCell,
    state: MutexGuard<'a, VolumeCoherency>,
}

impl std::ops::Deref for VolumeGuard<'_> {
    type Target = VolumeCoherency;
    fn deref(&self) -> &VolumeCoherency {
        &self.state
    }
}

impl std::ops::DerefMut for VolumeGuard<'_> {
    fn deref_mut(&mut self) -> &mut VolumeCoherency {
        &mut self.state
    }
}

impl Drop for VolumeGuard<'_> {
    fn drop(&mut self) {
        self.cell.publish(&self.state);
    }
}
