//! Writing the content map back, and ending an object.

use std::{
    fs::File,
    io::IoSlice,
    sync::{Arc, atomic::Ordering},
};

use netfs::fscache::{Refusal, Relinquish};

use super::{Label, Object, OnDisk, files::refusal};
use crate::{
    content_map::{CRC_SEGMENT_PAGES, DirtyChunk, MAP_AREA, side_offset},
    descriptors::CountedFile,
    header::MapPlace,
    io::{Errno, IoResult, KernelCopy, write_full},
};

/// The xattr that holds the content map of an object small enough.
pub(crate) const MAP_XATTR: &str = "user.netfs.map";

/// How far a write-back came.
enum Flushed {
    /// All is on disk.
    All,
    /// The map lives elsewhere from now on: once more.
    MapMoved,
}

impl Object {
    /// The committer's turn. A failure is counted; the map counts as changed again and is written
    /// with the next change or the next commit, not over and over.
    pub(crate) fn flush_in_background(self: &Arc<Self>) {
        self.queued.store(false, Ordering::Release);
        if let Err(why) = self.flush() {
            self.refuse(why);
        }
    }

    /// Writes the changed parts of the map back. On the cache's own threads only.
    pub(super) fn flush(self: &Arc<Self>) -> Result<(), Refusal> {
        let mut disk = self.slot.disk();
        self.flush_under_lock(&mut disk)
    }

    fn flush_under_lock(self: &Arc<Self>, disk: &mut OnDisk) -> Result<(), Refusal> {
        if self.is_dead() {
            return Ok(());
        }
        loop {
            // What was forgotten in a chunk that is not loaded must be so on disk, too.
            let postponed = self.map.read().postponed();
            postponed.into_iter().try_for_each(|number| self.load_chunk(number))?;
            let (dirty, label) = {
                let mut map = self.map.write();
                if !map.postponed().is_empty() {
                    // Changed since: the label of now must not be stated over that chunk as it is.
                    continue;
                }
                (map.take_dirty(self.place()), self.label())
            };
            let ours =
                matches!(*disk, OnDisk::Ours { generation, .. } if generation == self.incarnation);
            let named = !ours || self.stored.lock().as_ref() == Some(&label);
            if dirty.is_empty() && named {
                return Ok(());
            }
            match self.write_out(disk, dirty, &label) {
                Ok(Flushed::All) => return Ok(()),
                // Once at most: it does not move back.
                Ok(Flushed::MapMoved) => {}
                Err(why) => {
                    self.map.write().redirty();
                    tracing::warn!(
                        name = self.slot.name().file,
                        ?why,
                        "cannot write a content map"
                    );
                    return Err(why);
                }
            }
        }
    }

    /// The map and the label of one moment, in the order that [`label`](super::label) gives.
    fn write_out(
        self: &Arc<Self>,
        disk: &mut OnDisk,
        dirty: Vec<DirtyChunk>,
        label: &Label,
    ) -> Result<Flushed, Refusal> {
        let file = self.file_under_lock(disk, Some(label))?.ok_or(Refusal::IoError)?;
        self.disown(&file, label).map_err(refusal)?;
        let mut side = None;
        if label.map == MapPlace::Side {
            side = self.write_side(dirty)?;
        } else if !self.write_inline(&file, &dirty, label)? {
            return Ok(Flushed::MapMoved);
        }
        let renamed = self.stored.lock().as_ref() != Some(label);
        if label.modifying || !renamed {
            return Ok(Flushed::All);
        }
        // An attribute may outrun the side file to the medium, and a power loss leave the new name with the
        // old map, whose checksums the old pages match. Attributes of one file keep their order.
        if let Some(side) = side {
            self.shared().io.sync_data(&side).map_err(refusal)?;
        }
        self.put_header(&file, label.clone()).map_err(refusal)?;
        Ok(Flushed::All)
    }

    /// False if the map has to go to a side file, everything of it: the attribute space is smaller than what
    /// was found at the start.
    fn write_inline(
        &self,
        file: &CountedFile,
        dirty: &[DirtyChunk],
        label: &Label,
    ) -> Result<bool, Refusal> {
        let Some(chunk) = dirty.first() else { return Ok(true) };
        match self.shared().io.set_xattr(file, MAP_XATTR, &chunk.map) {
            Ok(()) => Ok(true),
            Err(Errno::NOSPC | Errno::RANGE | Errno::TOOBIG) => {
                // The header goes first: a map that is looked for in the wrong place is an empty one.
                let moved = Label { map: MapPlace::Side, modifying: true, ..label.clone() };
                self.put_header(file, moved).map_err(refusal)?;
                let mut map = self.map.write();
                self.label.write().map = MapPlace::Side;
                map.redirty();
                Ok(false)
            }
            Err(e) => Err(refusal(e)),
        }
    }

    /// Checksums before the map that says they are there.
    fn write_side(&self, dirty: Vec<DirtyChunk>) -> Result<Option<File>, Refusal> {
        let io = &*self.shared().io;
        if dirty.is_empty() {
            return match self.open_side_file() {
                Err(Errno::NOENT | Errno::STALE) => Ok(None),
                other => other.map(Some).map_err(refusal),
            };
        }
        let (side, fresh) = self.with_descriptors(|| match self.open_side_file() {
            Err(Errno::NOENT | Errno::STALE) => Ok((self.create_side_file()?, true)),
            other => Ok((other?, false)),
        })?;
        // One that went missing took along what was clean.
        let dirty = if fresh { self.take_everything() } else { dirty };
        let put = |bytes: &[u8], offset| {
            write_full(io, &side, &mut [IoSlice::new(bytes)], offset, KernelCopy::Keep)
                .map_err(refusal)
        };
        for chunk in dirty {
            let base = side_offset(chunk.number);
            for (segment, bytes) in chunk.segments {
                put(&bytes, base + MAP_AREA as u64 + segment * CRC_SEGMENT_PAGES * 4)?;
            }
            put(&chunk.map, base)?;
        }
        Ok(Some(side))
    }

    fn take_everything(&self) -> Vec<DirtyChunk> {
        let mut map = self.map.write();
        map.redirty();
        map.take_dirty(self.place())
    }

    /// `ENOENT`: there is none. `ESTALE`: what is there is no regular file.
    pub(super) fn open_side_file(&self) -> IoResult<File> {
        let io = &self.shared().io;
        let fan = self.slot.fan_dir(false)?;
        let file = match io.open_file(&fan, &self.slot.name().side) {
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::NODEV) => {
                return Err(Errno::STALE);
            }
            other => other?,
        };
        if io.id(&file)?.regular { Ok(file) } else { Err(Errno::STALE) }
    }

    fn create_side_file(&self) -> IoResult<File> {
        let fan = self.slot.fan_dir(true)?;
        self.shared().publish(&fan, &self.slot.name().side, &|_| Ok(()))
    }

    /// Ends the object: its map is on disk, or its files are gone, when this returns.
    pub(super) fn close_now(self: &Arc<Self>, how: Relinquish) {
        {
            let mut disk = self.slot.disk();
            if self.is_dead() {
                return;
            }
            if how == Relinquish::Keep
                && let Err(why) = self.flush_under_lock(&mut disk)
            {
                self.refuse(why);
            }
            self.dead.store(true, Ordering::Release);
            let ours =
                matches!(*disk, OnDisk::Ours { generation, .. } if generation == self.incarnation);
            // An older incarnation's file may still be waiting for its removal.
            if how == Relinquish::Retire || !ours {
                self.slot.remove(&mut disk);
            }
        }
        self.cell.clear();
        self.slot.release();
    }

    /// Alive, or being written back for the last time by a withdrawal.
    pub(super) fn alive_or_withdrawing(&self) -> Result<(), Refusal> {
        if self.is_dead() { Err(Refusal::Stale) } else { Ok(()) }
    }
}
