//! The place on disk that the incarnations of one object share: its names and what is there.

use std::{fs::File, sync::Arc};

use bytes::Bytes;
use netfs::fscache::{Identity, Refusal};
use parking_lot::{Mutex, MutexGuard};

use super::SIZE_MAX;
use crate::{
    cache::Shared,
    header::AUX_MAX,
    io::{Errno, FileId, IoResult},
    layout::ObjectName,
    volume::Volume,
};

/// What is at an object's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnDisk {
    /// Nothing.
    Nothing,
    /// The backing file of this generation.
    Ours {
        /// The generation in its header.
        generation: u64,
        /// Which file it is.
        id: FileId,
    },
    /// Something that is to be replaced.
    Other,
}

/// The place.
pub(crate) struct Slot {
    volume: Arc<Volume>,
    key: Bytes,
    name: ObjectName,
    disk: Mutex<OnDisk>,
}

/// Whether an object can have this identity here.
pub(crate) fn check_identity(identity: &Identity) -> Result<(), Refusal> {
    if identity.aux.len() > AUX_MAX || identity.size > SIZE_MAX {
        return Err(Refusal::Unsupported);
    }
    Ok(())
}

impl Slot {
    /// The place of `key` in a volume.
    pub(crate) fn new(volume: Arc<Volume>, key: Bytes, name: ObjectName) -> Slot {
        Slot { volume, key, name, disk: Mutex::new(OnDisk::Nothing) }
    }

    /// The whole cache.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.volume.shared()
    }

    /// The volume's identity string.
    pub(crate) fn volume_id(&self) -> &str {
        self.volume.id()
    }

    /// The object's key.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Its names.
    pub(crate) fn name(&self) -> &ObjectName {
        &self.name
    }

    /// What is there; held while it is changed.
    pub(crate) fn disk(&self) -> MutexGuard<'_, OnDisk> {
        self.disk.lock()
    }

    /// The directory the names are in, made if need be.
    pub(crate) fn fan_dir(&self, create: bool) -> IoResult<File> {
        let shared = self.shared();
        match shared.io.open_dir(self.volume.dir(), &self.name.fan) {
            Ok(dir) => Ok(dir),
            Err(Errno::NOENT) if !create => Err(Errno::NOENT),
            Err(Errno::NOENT) => self.make_fan_dir(),
            // A file or a link where the directory should be.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                shared.bury(self.volume.dir(), &self.name.fan)?;
                if create { self.make_fan_dir() } else { Err(Errno::NOENT) }
            }
            Err(e) => Err(e),
        }
    }

    fn make_fan_dir(&self) -> IoResult<File> {
        let io = &self.shared().io;
        match io.make_dir(self.volume.dir(), &self.name.fan) {
            Ok(()) | Err(Errno::EXIST) => io.open_dir(self.volume.dir(), &self.name.fan),
            Err(e) => Err(e),
        }
    }

    /// Makes a backing file with its header under the object's name, in place of whatever is there. An
    /// earlier incarnation's side file goes first: its chunks would look like damaged ones of ours.
    pub(super) fn create(
        &self,
        disk: &mut OnDisk,
        generation: u64,
        header: &[u8],
    ) -> IoResult<File> {
        let shared = self.shared();
        let fan = self.fan_dir(true)?;
        self.remove_name(&fan, &self.name.side)?;
        let file = shared.publish(&fan, &self.name.file, &|file| {
            shared.io.set_xattr(file, crate::header::OBJECT_XATTR, header)
        })?;
        *disk = OnDisk::Ours { generation, id: shared.io.id(&file)? };
        Ok(file)
    }

    /// Removes what is at the name unless it belongs to `generation` or a later one.
    pub(crate) fn remove_older(&self, generation: u64) {
        let mut disk = self.disk();
        let stays = matches!(*disk, OnDisk::Ours { generation: g, .. } if g >= generation);
        if !stays {
            self.remove(&mut disk);
        }
    }

    /// Removes what is at the name.
    pub(crate) fn remove(&self, disk: &mut OnDisk) {
        if *disk == OnDisk::Nothing {
            return;
        }
        *disk = match self.fan_dir(false).and_then(|fan| self.remove_names(&fan)) {
            Ok(()) | Err(Errno::NOENT) => OnDisk::Nothing,
            Err(e) => {
                // It stays to be replaced; its header or checksums give it away until then.
                tracing::warn!(name = self.name.file, "cannot remove a cache file: {e}");
                OnDisk::Other
            }
        };
    }

    fn remove_names(&self, fan: &File) -> IoResult<()> {
        self.remove_name(fan, &self.name.file)?;
        self.remove_name(fan, &self.name.side)
    }

    /// Nothing there is fine.
    fn remove_name(&self, fan: &File, name: &str) -> IoResult<()> {
        match self.shared().io.unlink(fan, name) {
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => self.shared().bury(fan, name),
            other => other,
        }
    }

    /// The object is closed: its key may be looked up again.
    pub(crate) fn release(&self) {
        self.volume.forget_slot(self);
    }
}

impl Drop for Slot {
    /// The object was dropped without being closed.
    fn drop(&mut self) {
        self.release();
    }
}
