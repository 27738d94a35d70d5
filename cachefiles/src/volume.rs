//! One volume: a directory of objects below `cache/`.

mod lookup;

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use netfs::fscache::{CacheVolume, Identity, Opened, Refusal, Relinquish};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    cache::Shared,
    header::{VOLUME_XATTR, encode_volume},
    io::{Errno, IoResult},
    layout::{ObjectName, volume_name},
    object::Slot,
    stats::Counters,
    workers::Lane,
};

/// A volume that is open.
pub(crate) struct Volume {
    shared: Arc<Shared>,
    id: String,
    dir: File,
    /// Open objects by the name of their file: no two of them ever share one.
    open: Mutex<HashMap<String, Weak<Slot>>>,
    relinquished: AtomicBool,
}

impl Volume {
    /// Opens or makes the volume's directory. Another volume's, a damaged one or one with other
    /// coherency data is discarded first (N-C72). On I/O threads only.
    pub(crate) fn open(shared: Arc<Shared>, id: &str, aux: &[u8]) -> IoResult<Volume> {
        let name = volume_name(id);
        let want = encode_volume(id, aux);
        let dir = match Self::open_existing(&shared, &name, &want)? {
            Some(dir) => dir,
            None => Self::create(&shared, &name, &want)?,
        };
        Ok(Volume {
            shared,
            id: id.to_owned(),
            dir,
            open: Mutex::default(),
            relinquished: AtomicBool::new(false),
        })
    }

    fn open_existing(shared: &Shared, name: &str, want: &[u8]) -> IoResult<Option<File>> {
        match shared.io.open_dir(&shared.cache_dir, name) {
            Ok(dir) => {
                let header = shared.io.get_xattr(&dir, VOLUME_XATTR).unwrap_or_default();
                if header.is_some_and(|h| h == want) {
                    return Ok(Some(dir));
                }
                shared.bury(&shared.cache_dir, name)?;
                Ok(None)
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                shared.bury(&shared.cache_dir, name)?;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Complete before it has its name, so that a crash leaves no volume without a header.
    fn create(shared: &Shared, name: &str, header: &[u8]) -> IoResult<File> {
        let temp = shared.grave_name();
        shared.io.make_dir(&shared.graveyard, &temp)?;
        let dir = shared.io.open_dir(&shared.graveyard, &temp)?;
        shared.io.set_xattr(&dir, VOLUME_XATTR, header)?;
        shared.io.rename(&shared.graveyard, &temp, &shared.cache_dir, name)?;
        Ok(dir)
    }

    /// The cache it is in.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Its identity string.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &File {
        &self.dir
    }

    /// Takes the place of `key`, unless an open object has it.
    fn claim(self: &Arc<Self>, key: Bytes) -> Result<Arc<Slot>, Refusal> {
        let name = ObjectName::new(&key);
        let mut open = self.open.lock();
        match open.entry(name.file.clone()) {
            Entry::Occupied(taken) if taken.get().strong_count() > 0 => Err(Refusal::InUse),
            entry => {
                let slot = Arc::new(Slot::new(Arc::clone(self), key, name));
                entry.insert_entry(Arc::downgrade(&slot));
                Ok(slot)
            }
        }
    }

    /// The key of a slot may be looked up again.
    pub(crate) fn forget_slot(&self, slot: &Slot) {
        let mut open = self.open.lock();
        if let Entry::Occupied(entry) = open.entry(slot.name().file.clone())
            && std::ptr::eq(entry.get().as_ptr(), slot)
        {
            entry.remove();
        }
    }

    fn alive(&self) -> Result<(), Refusal> {
        if self.shared.is_withdrawn() || self.relinquished.load(Ordering::Acquire) {
            return Err(Refusal::Withdrawn);
        }
        Ok(())
    }

    fn relinquish_now(&self, how: Relinquish) {
        if self.relinquished.swap(true, Ordering::AcqRel) {
            return;
        }
        if how == Relinquish::Retire
            && let Err(e) = self.shared.bury(&self.shared.cache_dir, &volume_name(&self.id))
        {
            tracing::warn!(volume = self.id, "cannot delete a volume: {e}");
            Counters::count(&self.shared.stats.refusals);
        }
        self.shared.volumes.lock().remove(&self.id);
    }
}

impl CacheVolume for Volume {
    fn lookup(
        self: Arc<Self>,
        key: Bytes,
        identity: Identity,
    ) -> BoxFuture<'static, Result<Opened, Refusal>> {
        let shared = Arc::clone(&self.shared);
        let (answer, answered) = oneshot::channel();
        let queued = self.alive().and_then(|()| {
            let pass = shared.gate.enter()?;
            shared.workers.submit(
                Lane::Urgent,
                Box::new(move || {
                    let _pass = pass;
                    // If nobody waits any more the object is dropped and its key is free again.
                    let _ = answer.send(self.lookup_now(key, identity));
                }),
            )
        });
        Box::pin(async move {
            let found = match queued {
                Ok(()) => answered.await.unwrap_or(Err(Refusal::Withdrawn)),
                Err(refusal) => Err(refusal),
            };
            if found.is_err() {
                Counters::count(&shared.stats.refusals);
            }
            found
        })
    }

    fn relinquish(self: Arc<Self>, how: Relinquish) -> BoxFuture<'static, ()> {
        let (answer, answered) = oneshot::channel::<()>();
        let shared = Arc::clone(&self.shared);
        let queued = shared.workers.submit(
            Lane::Urgent,
            Box::new(move || {
                self.relinquish_now(how);
                drop(answer);
            }),
        );
        Box::pin(async move {
            if queued.is_ok() {
                // The sender is dropped, not used: done is done.
                let _ = answered.await;
            }
        })
    }
}
