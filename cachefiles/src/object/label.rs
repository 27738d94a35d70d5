//! What an object is called: its identity, and whether its owner is changing the file (row 126).
//!
//! In memory the label moves at once, together with the map. The disk follows, under the slot's lock, so
//! that a process that ends anywhere leaves a header that is right or that nobody accepts:
//!
//! 1. Before the disk learns of anything that is not so under the identity it states, the header says
//!    "being modified" ([`Object::mark_now`]; [`flush`](super::flush) makes sure).
//! 2. The map goes to disk, with everything forgotten that was changed.
//! 3. Only then the header states the new identity, if the owner has ended.
//!
//! The label and the map are locked together where they have to agree: map first.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use futures_util::future::BoxFuture;
use netfs::fscache::{Identity, Refusal};

use super::{Object, OnDisk, files::refusal, slot};
use crate::{
    content_map::worst_inline,
    descriptors::CountedFile,
    header::{MapPlace, OBJECT_XATTR, ObjectHeader},
    io::IoResult,
};

/// What a header says that may change while the object is open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Label {
    /// The identity the content belongs to.
    pub(crate) identity: Identity,
    /// It vouches for nothing.
    pub(crate) modifying: bool,
    /// Where the map is; it may move to the side file, never back.
    pub(crate) map: MapPlace,
    /// What the editions of the map's chunks come to.
    pub(crate) editions: u64,
}

impl Label {
    /// What a header says.
    pub(super) fn of(header: &ObjectHeader) -> Label {
        let ObjectHeader { identity, modifying, map, editions, .. } = header;
        let (modifying, map, editions) = (*modifying, *map, *editions);
        Label { identity: identity.clone(), modifying, map, editions }
    }
}

impl Object {
    pub(super) fn label(&self) -> Label {
        self.label.read().clone()
    }

    pub(super) fn is_side(&self) -> bool {
        self.label.read().map == MapPlace::Side
    }

    /// The header that states `label`.
    pub(super) fn header(&self, label: Label) -> ObjectHeader {
        ObjectHeader {
            generation: self.incarnation,
            nonce: self.nonce,
            map: label.map,
            identity: label.identity,
            modifying: label.modifying,
            editions: label.editions,
            key: self.slot.key().to_vec(),
        }
    }

    /// Writes the header, unless the disk has it. The caller holds the slot's disk state.
    pub(super) fn put_header(&self, file: &CountedFile, label: Label) -> IoResult<()> {
        let mut stored = self.stored.lock();
        if stored.as_ref() == Some(&label) {
            return Ok(());
        }
        let header = self.header(label.clone()).encode(self.slot.volume_id());
        self.shared().io.set_xattr(file, OBJECT_XATTR, &header)?;
        *stored = Some(label);
        Ok(())
    }

    /// The disk must not vouch for `label` yet, nor for what it says so far, if that is another: says so
    /// in the header. The caller holds the slot's disk state.
    pub(super) fn disown(&self, file: &CountedFile, label: &Label) -> IoResult<()> {
        let stored = self.stored.lock().clone();
        match stored {
            Some(stored) if stored == *label || stored.modifying => Ok(()),
            _ => self.put_header(file, Label { modifying: true, ..label.clone() }),
        }
    }

    pub(super) fn begin(self: Arc<Self>) -> BoxFuture<'static, Result<(), Refusal>> {
        let allowed = {
            let _map = self.map.write();
            self.label.write().modifying = true;
            self.alive()
        };
        if allowed.is_ok() && self.marked.load(Ordering::Acquire) {
            return Box::pin(async { Ok(()) });
        }
        self.run(Err(Refusal::Withdrawn), |object| {
            object.mark_now().map_err(|why| object.refuse(why))
        })
    }

    /// Whatever the disk has at the object's name vouches for nothing when this returns.
    fn mark_now(self: &Arc<Self>) -> Result<(), Refusal> {
        let mut disk = self.slot.disk();
        self.alive()?;
        let ours =
            matches!(*disk, OnDisk::Ours { generation, .. } if generation == self.incarnation);
        if ours {
            if let Some(file) = self.file_under_lock(&mut disk, None)? {
                let label = Label { modifying: true, ..self.label() };
                self.disown(&file, &label).map_err(refusal)?;
            }
        } else {
            // An older incarnation's file that is waiting for its removal.
            self.slot.remove(&mut disk);
            if *disk != OnDisk::Nothing {
                return Err(Refusal::IoError);
            }
        }
        let label = self.label.read();
        self.marked.store(label.modifying, Ordering::Release);
        if !label.modifying {
            // It ended while this was on its way here: the mark goes again.
            drop(label);
            self.mark_dirty();
        }
        Ok(())
    }

    pub(super) fn end(&self) {
        {
            let _map = self.map.write();
            let mut label = self.label.write();
            if !label.modifying {
                return;
            }
            label.modifying = false;
            self.marked.store(false, Ordering::Release);
        }
        if self.alive().is_ok() {
            self.mark_dirty();
        }
    }

    pub(super) fn relabel(
        &self,
        identity: Identity,
        changed: &[Range<u64>],
    ) -> Result<(), Refusal> {
        slot::check_identity(&identity)?;
        {
            let mut map = self.map.write();
            let mut label = self.label.write();
            self.alive()?;
            let (_, edition) = self.shared().new_incarnation();
            map.own_change(identity.size, changed, edition)?;
            label.editions = map.editions().sum();
            if worst_inline(map.pages()) > self.shared().inline_max() && label.map != MapPlace::Side
            {
                label.map = MapPlace::Side;
                map.redirty();
            }
            // Writes that have not begun are of before.
            self.generation.fetch_add(1, Ordering::AcqRel);
            // Also where nobody said so before: it may not be found under a name it did not have.
            (label.identity, label.modifying) = (identity, true);
        }
        self.mark_dirty();
        Ok(())
    }
}
