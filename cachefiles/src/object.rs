//! One cached object: [`Object`] is one incarnation of it (its identity moves with its owner's own
//! changes, `label`), [`Slot`] the place on disk its incarnations share.
//!
//! Lock order: a slot's disk state, then an object's file cell, then its content map, then its label. Map
//! and label are locked for memory work only; the disk state is held across system calls and therefore
//! only ever taken on the cache's own threads.

mod files;
mod flush;
mod label;
mod read;
mod slot;
mod write;

use std::{
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::future::BoxFuture;
use netfs::fscache::{
    CacheObject, CacheRead, CacheWrite, Extents, Identity, Refusal, Relinquish, TryRead,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

pub(crate) use files::refusal;
pub(crate) use flush::MAP_XATTR;
use label::Label;
pub(crate) use slot::{OnDisk, Slot, check_identity};

use read::Wanted;

use crate::{
    cache::Shared,
    checksum::Binding,
    content_map::{ContentMap, Place, worst_inline},
    descriptors::FileCell,
    header::{MapPlace, ObjectHeader},
    stats::Counters,
    workers::{Gate, Lane},
};

/// Largest object: 16 TiB, the largest file of ext4. It also bounds what a content map may grow to.
pub(crate) const SIZE_MAX: u64 = 1 << 44;

/// One incarnation of an object.
pub(crate) struct Object {
    me: Weak<Object>,
    slot: Arc<Slot>,
    /// The generation in the header: what the pages' checksums are bound to.
    incarnation: u64,
    /// What writes have to name: the incarnation, and one more for each new identity.
    generation: AtomicU64,
    nonce: u64,
    binding: Binding,
    map: RwLock<ContentMap>,
    label: RwLock<Label>,
    /// The label in the file's header, if there is a file of ours. Changed by who holds the slot's disk
    /// state.
    stored: Mutex<Option<Label>>,
    /// The disk is known to vouch for nothing, until the modification ends.
    marked: AtomicBool,
    cell: FileCell,
    /// Cut over, retired or closed: nothing it still does has an effect.
    dead: AtomicBool,
    /// Waits in the committer's list.
    queued: AtomicBool,
    /// A part of the map is being loaded.
    loading: AtomicBool,
    gate: Arc<Gate>,
}

impl Object {
    /// An object of which nothing is stored, of a later generation than `after`.
    pub(crate) fn fresh(
        slot: Arc<Slot>,
        identity: Identity,
        after: u64,
        modifying: bool,
    ) -> Arc<Object> {
        let (now, nonce) = slot.shared().new_incarnation();
        let side = worst_inline(identity.size.div_ceil(4096)) > slot.shared().inline_max();
        let map = ContentMap::empty(identity.size);
        let header = ObjectHeader {
            generation: now.max(after.saturating_add(1)),
            nonce,
            map: if side { MapPlace::Side } else { MapPlace::Inline },
            key: slot.key().to_vec(),
            identity,
            modifying,
            editions: 0,
        };
        Self::with_header(slot, header, map, None)
    }

    /// The object that the header of its file describes.
    pub(crate) fn found(slot: Arc<Slot>, header: ObjectHeader, map: ContentMap) -> Arc<Object> {
        let stored = Label::of(&header);
        Self::with_header(slot, header, map, Some(stored))
    }

    fn with_header(
        slot: Arc<Slot>,
        header: ObjectHeader,
        map: ContentMap,
        stored: Option<Label>,
    ) -> Arc<Object> {
        let binding = Binding::new(slot.volume_id(), slot.key(), header.generation, header.nonce);
        let gate = Gate::new(slot.shared().options().max_in_flight_per_object);
        Counters::count(&slot.shared().stats.objects_open);
        Arc::new_cyclic(|me| Object {
            me: me.clone(),
            slot,
            incarnation: header.generation,
            generation: AtomicU64::new(header.generation),
            nonce: header.nonce,
            binding,
            map: RwLock::new(map),
            label: RwLock::new(Label::of(&header)),
            stored: Mutex::new(stored),
            marked: AtomicBool::new(false),
            cell: FileCell::default(),
            dead: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            loading: AtomicBool::new(false),
            gate,
        })
    }

    /// Where its open file is.
    pub(crate) fn file_cell(&self) -> &FileCell {
        &self.cell
    }

    fn shared(&self) -> &Arc<Shared> {
        self.slot.shared()
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Whether calls have an effect.
    fn alive(&self) -> Result<(), Refusal> {
        if self.shared().is_withdrawn() {
            return Err(Refusal::Withdrawn);
        }
        if self.is_dead() { Err(Refusal::Stale) } else { Ok(()) }
    }

    fn place(&self) -> Place {
        Place { side: self.is_side(), binding: self.binding }
    }

    /// Has the committer write the changed map back.
    fn mark_dirty(&self) {
        if !self.queued.swap(true, Ordering::AcqRel)
            && let Some(me) = self.me.upgrade()
        {
            self.shared().committer.register(me);
        }
    }

    fn refuse(&self, why: Refusal) -> Refusal {
        Counters::count(&self.shared().stats.refusals);
        why
    }

    /// Runs `job` on an I/O thread and answers through a future; refused if the cache is withdrawn.
    fn run<T: Send + 'static>(
        self: Arc<Self>,
        withdrawn: T,
        job: impl FnOnce(&Arc<Object>) -> T + Send + 'static,
    ) -> BoxFuture<'static, T> {
        let (answer, answered) = oneshot::channel();
        let shared = Arc::clone(self.shared());
        let queued = shared.workers.submit(
            Lane::Urgent,
            Box::new(move || {
                // Nobody may be waiting any more; the work was wanted all the same.
                let _ = answer.send(job(&self));
            }),
        );
        Box::pin(async move {
            match queued {
                Ok(()) => answered.await.unwrap_or(withdrawn),
                Err(_) => withdrawn,
            }
        })
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.shared().stats.objects_open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl CacheObject for Object {
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn identity(&self) -> Identity {
        self.label.read().identity.clone()
    }

    fn extents(&self, range: Range<u64>) -> Extents {
        let (extents, load) = self.map.read().extents(range);
        self.start_loading(load);
        extents
    }

    fn try_read(&self, offset: u64, into: &mut [u8]) -> TryRead {
        self.read_inline(offset, into, Wanted::DataOrZeros)
    }

    fn try_read_data(&self, offset: u64, into: &mut [u8]) -> TryRead {
        self.read_inline(offset, into, Wanted::Data)
    }

    fn read(self: Arc<Self>, sub: CacheRead) {
        self.queue_read(sub);
    }

    fn write(self: Arc<Self>, sub: CacheWrite) {
        self.queue_write(sub);
    }

    fn mark_zero(&self, range: Range<u64>) {
        if self.alive().is_ok() {
            self.map.write().mark_zero(range);
            self.mark_dirty();
        }
    }

    fn forget(&self, range: Range<u64>) {
        if self.alive().is_ok() {
            self.map.write().forget(range);
            self.mark_dirty();
        }
    }

    fn cut_over(&self, identity: Identity) -> Result<Arc<dyn CacheObject>, Refusal> {
        self.alive().map_err(|r| self.refuse(r))?;
        slot::check_identity(&identity).map_err(|r| self.refuse(r))?;
        let modifying = self.label.read().modifying;
        let next = Object::fresh(Arc::clone(&self.slot), identity, self.generation(), modifying);
        // Of two cut-overs at once the second finds the object dead.
        if self.dead.swap(true, Ordering::AcqRel) {
            return Err(self.refuse(Refusal::Stale));
        }
        let (slot, old, kept) = (Arc::clone(&self.slot), self.me.clone(), next.incarnation);
        let job = Box::new(move || {
            slot.remove_older(kept);
            if let Some(old) = old.upgrade() {
                old.cell.clear();
            }
        });
        // Not queued because the cache is being withdrawn: the old identity on disk gives it away.
        let _ = self.shared().workers.submit(Lane::Urgent, job);
        Ok(next)
    }

    fn begin_modify(self: Arc<Self>) -> BoxFuture<'static, Result<(), Refusal>> {
        self.begin()
    }

    fn end_modify(&self) {
        self.end();
    }

    fn set_identity(&self, identity: Identity, changed: &[Range<u64>]) -> Result<(), Refusal> {
        self.relabel(identity, changed).map_err(|r| self.refuse(r))
    }

    fn commit(self: Arc<Self>) -> BoxFuture<'static, Result<(), Refusal>> {
        self.run(Err(Refusal::Withdrawn), |object| {
            object.alive().and_then(|()| object.flush()).map_err(|r| object.refuse(r))
        })
    }

    fn close(self: Arc<Self>, how: Relinquish) -> BoxFuture<'static, ()> {
        self.run((), move |object| object.close_now(how))
    }
}
