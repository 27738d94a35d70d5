//! Writing the content map back, and ending an object.

use std::{
    fs::File,
    io::IoSlice,
    sync::{Arc, atomic::Ordering},
};

use netfs::fscache::{Refusal, Relinquish};

use super::{Object, OnDisk, files::refusal};
use crate::{
    content_map::{CRC_SEGMENT_PAGES, DirtyChunk, MAP_AREA, side_offset},
    header::OBJECT_XATTR,
    io::{Errno, IoResult, KernelCopy, write_full},
};

/// The xattr that holds the content map of an object small enough.
pub(crate) const MAP_XATTR: &str = "user.netfs.map";

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
        let dirty = self.map.write().take_dirty(self.place());
        if dirty.is_empty() {
            return Ok(());
        }
        let written = self.write_map(disk, dirty);
        if let Err(why) = written {
            self.map.write().redirty();
            tracing::warn!(name = self.slot.name().file, ?why, "cannot write a content map");
        }
        written
    }

    fn write_map(
        self: &Arc<Self>,
        disk: &mut OnDisk,
        dirty: Vec<DirtyChunk>,
    ) -> Result<(), Refusal> {
        let file = self.file_under_lock(disk, true)?.ok_or(Refusal::IoError)?;
        let io = &self.shared().io;
        if self.side.load(Ordering::Acquire) {
            return self.write_side(dirty);
        }
        let Some(chunk) = dirty.first() else { return Ok(()) };
        match io.set_xattr(&file, MAP_XATTR, &chunk.map) {
            Ok(()) => Ok(()),
            // The attribute space is smaller than what was found at the start: move to a side file.
            // The header goes first: a map that is looked for in the wrong place is an empty one.
            Err(Errno::NOSPC | Errno::RANGE | Errno::TOOBIG) => {
                self.side.store(true, Ordering::Release);
                let header = self.header().encode(self.slot.volume_id());
                if let Err(e) = io.set_xattr(&file, OBJECT_XATTR, &header) {
                    // The header still says inline, so that is where the next try begins.
                    self.side.store(false, Ordering::Release);
                    return Err(refusal(e));
                }
                let dirty = self.take_everything();
                self.write_side(dirty)
            }
            Err(e) => Err(refusal(e)),
        }
    }

    /// Checksums before the map that says they are there.
    fn write_side(&self, dirty: Vec<DirtyChunk>) -> Result<(), Refusal> {
        let io = &*self.shared().io;
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
        Ok(())
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
                matches!(*disk, OnDisk::Ours { generation, .. } if generation == self.generation);
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
