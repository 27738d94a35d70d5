//! What all mounts of one volume share.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::{
    coherency::{
        InodeCell, InodeTable, LocalState, RecallTicket, Ticket, VolumeCell, VolumeEvents,
    },
    context::Core,
    driver::Handle,
    fscache,
    inode::Inode,
    remote::VolumeId,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    writeback::{conflict::ConflictPolicy, park::ParkedFiles, recall, room::Share},
};

/// How often (1 ms apart) a volume that looks in use is tried again.
const PREDECESSOR_TRIES: usize = 200;
/// Keys remembered after a scrub.
const VOUCHED_MAX: usize = 1 << 16;

/// The kernel's superblock-wide state, by volume.
pub(crate) struct Volume {
    core: Arc<Core>,
    id: VolumeId,
    cell: Arc<VolumeCell>,
    /// Opened by the first mount; `None` inside: no cache can be had.
    fscache: OnceCell<Option<Arc<fscache::Volume>>>,
    coherency: Bytes,
    /// Every live inode by key. Weak: openers, nodes and the keep-alive cache own inodes. Events find
    /// inodes here, so an inode is inserted before the epoch of its first request counts (A1.22).
    table: Arc<Table>,
    /// Keeps recently used inodes (and with them attributes and pages) alive.
    keep: moka::sync::Cache<u64, Arc<Inode>>,
    /// Keys whose stored objects were voided since the scrub of that number.
    vouched: Mutex<HashMap<Bytes, u64>>,
    /// Live mounts: the keep-alive cache owns inodes, which own the volume, so it must be emptied when
    /// the last mount goes.
    pub(super) mounts: AtomicUsize,
    conflict_policy: Mutex<Option<ConflictPolicy>>,
    pub(crate) parked: ParkedFiles,
    /// Its part of what may be dirty in the context.
    pub(crate) share: Arc<Share>,
    /// Files are found again by their keys, so a log of dirty bytes is of use.
    replayable: AtomicBool,
    /// One replay at a time. Each volume has its own: a server that hangs keeps no other from being mounted.
    pub(super) replaying: Arc<tokio::sync::Mutex<()>>,
}

struct Table {
    inodes: Mutex<HashMap<Bytes, Known>>,
    driver: Handle,
}

/// An inode's place in the table: its id, itself while it lives, and its coherency cell.
type Known = (u64, Weak<Inode>, Arc<InodeCell>);

/// What a new inode took the place of.
struct Displaced {
    /// It is to void records of the deleted file's.
    logged: bool,
    /// A deleted one and the table's entry, to be dropped outside the table's lock.
    _gone: (Option<Arc<Inode>>, Option<Known>),
}

impl Table {
    fn live(&self, key: &[u8]) -> Option<Arc<Inode>> {
        self.inodes.lock().get(key)?.1.upgrade()
    }
}

impl InodeTable for Table {
    fn find(&self, key: &[u8]) -> Option<Arc<InodeCell>> {
        // The cell alone: taking a strong inode here could make an event handler run its drop.
        self.inodes.lock().get(key).map(|(_, _, cell)| Arc::clone(cell))
    }

    fn recall(&self, key: &[u8], zap: Ticket) -> Option<RecallTicket> {
        // The last reference, if that is what this one becomes, is dropped by the driver.
        Some(recall::begin(self.live(key)?, zap))
    }

    fn later(&self, work: Box<dyn FnOnce() + Send>) {
        drop(self.driver.spawn(async move { work() }));
    }

    fn local_state(&self, key: &[u8]) -> Option<LocalState> {
        let inode = self.live(key)?;
        let state = inode.local_state();
        let driver = inode.core.driver.clone();
        drop(driver.spawn(async move { drop(inode) }));
        Some(state)
    }
}

impl Volume {
    pub(crate) fn new(core: Arc<Core>, id: VolumeId, coherency: Bytes) -> Arc<Volume> {
        let table = Table { inodes: Mutex::default(), driver: core.driver.clone() };
        let table = Arc::new(table);
        let (clock, counters) = (Arc::clone(&core.clock), Arc::clone(&core.counters));
        let cell = VolumeCell::new(id.as_str(), clock, counters);
        let weak: Weak<Table> = Arc::downgrade(&table);
        cell.bind(weak);
        let fscache = OnceCell::new();
        let keep = moka::sync::Cache::builder().max_capacity(core.options.inode_capacity).build();
        let mounts = AtomicUsize::new(0);
        let share = core.folios.room().share();
        Arc::new(Volume {
            core,
            id,
            cell,
            fscache,
            coherency,
            table,
            keep,
            vouched: Mutex::default(),
            mounts,
            conflict_policy: Mutex::default(),
            parked: ParkedFiles::default(),
            share,
            replayable: AtomicBool::new(false),
            replaying: Arc::default(),
        })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn cell(&self) -> &Arc<VolumeCell> {
        &self.cell
    }

    pub(crate) fn id(&self) -> &VolumeId {
        &self.id
    }

    /// What its files do about conflicts, if they have no policy of their own.
    pub(crate) fn policy_in_force(&self) -> ConflictPolicy {
        let own = self.conflict_policy.lock().clone();
        own.unwrap_or_else(|| self.core.options.conflict_policy.clone())
    }

    pub(super) fn set_conflict_policy(&self, policy: Option<ConflictPolicy>) {
        *self.conflict_policy.lock() = policy;
        // Of conflicts that stand the next flush of each file finds that they are to be merged; until then
        // its writers are told.
        self.for_each_inode(|inode| inode.merge_if_allowed());
    }

    pub(crate) fn events(&self) -> VolumeEvents {
        VolumeEvents::new(Arc::clone(&self.cell))
    }

    pub(crate) fn is_replayable(&self) -> bool {
        self.replayable.load(Ordering::Acquire)
    }

    pub(crate) fn set_replayable(&self) {
        self.replayable.store(true, Ordering::Release);
    }

    pub(crate) fn fscache(&self) -> Option<&Arc<fscache::Volume>> {
        self.fscache.get()?.as_ref()
    }

    /// Opens the volume in the disk cache, once. Runs on the driver.
    pub(super) async fn open_cache(&self) {
        self.fscache.get_or_init(|| self.acquire_cache()).await;
    }

    async fn acquire_cache(&self) -> Option<Arc<fscache::Volume>> {
        let fscache = &self.core.fscache;
        fscache.backend()?;
        // A predecessor of the same id may be on its way out: its last owner gives it up right after
        // we found it dead.
        for _ in 0..PREDECESSOR_TRIES {
            match fscache.acquire_volume(self.id.clone(), self.coherency.clone()).await {
                Ok(volume) => return Some(volume),
                Err(fscache::VolumeError::InUse(_)) => {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "volume is not cached on disk");
                    return None;
                }
            }
        }
        tracing::warn!(
            volume = self.id.as_str(),
            "volume is in use by another context; not cached"
        );
        None
    }

    /// The inode of `key`, made if need be.
    pub(crate) fn inode(self: &Arc<Self>, key: &[u8]) -> Arc<Inode> {
        let (inode, gone) = self.find_or_insert(key);
        if gone.as_ref().is_some_and(|displaced| displaced.logged) {
            self.core.flusher.note(&inode);
        }
        // Outside the table lock: a last reference's drop takes it too.
        drop(gone);
        self.keep.insert(inode.id, Arc::clone(&inode));
        inode
    }

    /// The live inode of `key`, or a new one and what it took the place of.
    fn find_or_insert(self: &Arc<Self>, key: &[u8]) -> (Arc<Inode>, Option<Displaced>) {
        let mut inodes = self.table.inodes.lock();
        let known = inodes.get(key).and_then(|(_, inode, _)| inode.upgrade());
        let deleted = match known {
            Some(live) if live.check_exists().is_ok() => return (live, None),
            // A server that uses the key of a deleted file again means another file.
            deleted => deleted,
        };
        let key = Bytes::copy_from_slice(key);
        let inode = Inode::new(Arc::clone(self), key.clone());
        // Before anybody can write to it.
        let logged = deleted.as_ref().is_some_and(|deleted| inode.log_inherit(deleted));
        let entry = (inode.id, Arc::downgrade(&inode), Arc::clone(&inode.cell));
        let before = inodes.insert(key, entry);
        (inode, Some(Displaced { logged, _gone: (deleted, before) }))
    }

    /// A mount is gone; with the last one goes everything nobody else holds.
    pub(super) fn mount_gone(&self) {
        if self.mounts.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.keep.invalidate_all();
            self.keep.run_pending_tasks();
        }
    }

    /// Whether objects stored under `key` may date from before the last scrub; asking settles it, the
    /// caller voids them.
    pub(crate) fn distrusts(&self, key: &Bytes) -> bool {
        let scrub = self.cell.scrub_seq();
        if scrub == 0 {
            return false;
        }
        let mut vouched = self.vouched.lock();
        if vouched.get(key).is_some_and(|&since| since >= scrub) {
            return false;
        }
        // Bounded: a key that finds no room is voided again next time, which only costs a fetch.
        if vouched.len() < VOUCHED_MAX || vouched.contains_key(key) {
            vouched.insert(key.clone(), scrub);
        }
        true
    }

    /// The live inode of `key`, if there is one.
    pub(super) fn find(&self, key: &[u8]) -> Option<Arc<Inode>> {
        self.table.inodes.lock().get(key).and_then(|(_, inode, _)| inode.upgrade())
    }

    /// Called when an inode dies; a successor under the same key stays.
    pub(crate) fn forget_inode(&self, id: u64, key: &Bytes) {
        let mut inodes = self.table.inodes.lock();
        if inodes.get(key).is_some_and(|(other, _, _)| *other == id) {
            inodes.remove(key);
        }
    }

    pub(crate) fn for_each_inode(&self, visit: impl Fn(&Inode)) {
        let live: Vec<Arc<Inode>> =
            self.table.inodes.lock().values().filter_map(|(_, i, _)| i.upgrade()).collect();
        live.iter().for_each(|inode| visit(inode));
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let Some(volume) = self.fscache.take().flatten() else { return };
        let fscache = Arc::clone(&self.core.fscache);
        let (how, patience) = (fscache::Relinquish::Keep, self.core.options.close_patience);
        self.core.driver.spawn(async move {
            if let Err(error) = fscache.relinquish_volume(&volume, how, patience).await {
                tracing::warn!(%error, "closing a volume");
            }
        });
    }
}
