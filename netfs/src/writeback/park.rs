//! Files whose upload failed for good.
//!
//! Their bytes stay, dirty and readable, until an upload succeeds, they are cut off, or their owner discards
//! them. Meanwhile new writes to the file get the error, and the bytes count apart from what writers of
//! other files wait for ([`room`](super::room)). When parked files take half of the memory, no volume that
//! has one takes another write: what cannot be uploaded must not fill the memory file by file.

use std::collections::BTreeMap;

use crate::{
    error::{Error, Result},
    inode::Inode,
    sync::Mutex,
};

/// The parked files of one volume, and why.
#[derive(Default)]
pub(crate) struct ParkedFiles(Mutex<BTreeMap<u64, Error>>);

impl ParkedFiles {
    /// Why one of them is.
    fn any(&self) -> Option<Error> {
        self.0.lock().values().next().cloned()
    }
}

impl Inode {
    /// What is dirty cannot be uploaded, because of `error`. No effect if nothing is dirty.
    ///
    /// Whoever makes the last dirty byte clean calls [`unpark_if_clean`](Inode::unpark_if_clean) afterwards:
    /// so whichever comes second sees the other, and no clean file stays parked.
    pub(crate) fn park(&self, error: &Error) {
        self.wb.change_parked(|parked| {
            if self.pages.dirty_bytes() > 0 {
                *parked = Some(error.clone());
                self.book_parked(parked.as_ref());
            }
        });
    }

    /// All that was dirty is on the server.
    pub(crate) fn unpark(&self) {
        self.wb.change_parked(|parked| {
            if parked.take().is_some() {
                self.book_parked(None);
            }
        });
    }

    pub(crate) fn unpark_if_clean(&self) {
        self.wb.change_parked(|parked| {
            if self.pages.dirty_bytes() == 0 && parked.take().is_some() {
                self.book_parked(None);
            }
        });
    }

    /// Nothing is left that could not be uploaded, or met somebody else's change.
    pub(crate) fn nothing_dirty(&self) {
        self.unpark_if_clean();
        self.wb.conflicts.settle();
    }

    /// Under the lock of what it books, so that two changes do not overtake each other.
    fn book_parked(&self, error: Option<&Error>) {
        self.pages.set_parked(error.is_some());
        let mut files = self.volume.parked.0.lock();
        match error {
            Some(error) => files.insert(self.id, error.clone()),
            None => files.remove(&self.id),
        };
    }

    /// Refuses a write while the file, or too much of other files of the volume, is parked.
    pub(crate) fn check_not_parked(&self) -> Result<()> {
        if let Some(error) = self.wb.parked() {
            return Err(error);
        }
        if !self.core.folios.room().parked_too_much() {
            return Ok(());
        }
        self.volume.parked.any().map_or(Ok(()), Err)
    }
}
