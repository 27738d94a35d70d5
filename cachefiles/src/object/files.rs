//! Opening an object's backing file and its side file.

use std::{fs::File, sync::Arc};

use netfs::fscache::Refusal;

use super::{Label, Object, OnDisk};
use crate::{
    descriptors::CountedFile,
    header::{OBJECT_XATTR, ObjectHeader},
    io::{Errno, IoResult, is_not_now},
};

/// How a system call's failure is told to the core.
pub(crate) fn refusal(e: Errno) -> Refusal {
    match e {
        Errno::NOSPC | Errno::DQUOT => Refusal::NoSpace,
        Errno::MFILE | Errno::NFILE => Refusal::Descriptors,
        Errno::FBIG => Refusal::Unsupported,
        _ => Refusal::IoError,
    }
}

impl Object {
    /// The backing file; made if nothing is stored yet and `create` is set. On I/O threads only.
    pub(super) fn backing_file(
        self: &Arc<Self>,
        create: bool,
    ) -> Result<Option<Arc<CountedFile>>, Refusal> {
        if let Some(file) = self.cell.get() {
            return Ok(Some(file));
        }
        let mut disk = self.slot.disk();
        let label = create.then(|| self.label());
        self.file_under_lock(&mut disk, label.as_ref())
    }

    /// The same for who holds the slot's disk state already. A file that is made gets the label.
    pub(super) fn file_under_lock(
        self: &Arc<Self>,
        disk: &mut OnDisk,
        create: Option<&Label>,
    ) -> Result<Option<Arc<CountedFile>>, Refusal> {
        if let Some(file) = self.cell.get() {
            return Ok(Some(file));
        }
        // Under the lock: an incarnation that was cut over must not replace its successor's file.
        self.alive_or_withdrawing()?;
        let ours =
            matches!(*disk, OnDisk::Ours { generation, .. } if generation == self.incarnation);
        let label = match (ours, create) {
            (false, None) => return Ok(None),
            (true, _) => None,
            (false, Some(label)) => Some(label),
        };
        let place = self.shared().descriptors.make_room();
        let file = self.with_descriptors(|| match label {
            Some(label) => self.create_file(disk, label),
            None => self.reopen(disk),
        })?;
        Ok(Some(self.shared().descriptors.adopt(self, file, place)))
    }

    fn create_file(&self, disk: &mut OnDisk, label: &Label) -> IoResult<File> {
        let header = self.header(label.clone()).encode(self.slot.volume_id());
        let file = self.slot.create(disk, self.incarnation, &header)?;
        *self.stored.lock() = Some(label.clone());
        Ok(file)
    }

    /// Opens the file again after its descriptor was needed elsewhere. It must still be the same one;
    /// if it is not, everything is forgotten and what is there will be replaced.
    fn reopen(&self, disk: &mut OnDisk) -> IoResult<File> {
        let OnDisk::Ours { id, .. } = *disk else { return Err(Errno::STALE) };
        let io = &self.shared().io;
        let opened = self.slot.fan_dir(false).and_then(|fan| {
            let file = io.open_file(&fan, &self.slot.name().file)?;
            let header = io.get_xattr(&file, OBJECT_XATTR)?.unwrap_or_default();
            let same = io.id(&file)? == id
                && ObjectHeader::decode(&header, self.slot.volume_id())
                    .is_ok_and(|h| h.generation == self.incarnation && h.nonce == self.nonce);
            if same { Ok(file) } else { Err(Errno::STALE) }
        });
        if let Err(e) = opened
            && !is_not_now(e)
        {
            tracing::warn!(name = self.slot.name().file, "a cache file changed under us: {e}");
            crate::stats::Counters::count(&self.shared().stats.corrupt_objects);
            self.map.write().forget(0..u64::MAX);
            *disk = OnDisk::Other;
        }
        opened
    }

    /// Opens something as [`Descriptors::open`](crate::descriptors::Descriptors::open) does.
    pub(super) fn with_descriptors<T>(
        &self,
        open: impl FnMut() -> IoResult<T>,
    ) -> Result<T, Refusal> {
        self.shared().descriptors.open(open).map_err(refusal)
    }
}
