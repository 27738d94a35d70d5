//! Files with bytes that the kernel has and the disk may not.
//!
//! The kernel tells of a failed write-out once, on descriptors that were open before it. So one is kept from
//! before the first such write until the sync that covers the last; and because the pages of a failed
//! write-out count as clean afterwards, a failed sync changes the verifier, which makes the core send
//! everything again that no commit has covered.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use netfs::{Error, Result};
use parking_lot::Mutex;

struct Entry {
    fd: Arc<OwnedFd>,
    /// Writes that have begun, and that have ended: a sync covers those that had ended before it began.
    begun: u64,
    ended: u64,
}

/// The files of one tree with bytes to be synced. Writes of one file come one after the other, and so do its syncs
/// ([`Lane`](crate::pool::Lane)), but both at once: a sync holds up no write.
pub(crate) struct Unsynced {
    files: Mutex<HashMap<Arc<[u8]>, Entry>>,
    max: usize,
    verifier: AtomicU64,
}

/// A write that a sync has to cover; it ends with this.
pub(crate) struct Noted<'a> {
    unsynced: &'a Unsynced,
    key: Arc<[u8]>,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        // None after a sync that failed: it has changed the verifier, so this write is sent again.
        if let Some(entry) = self.unsynced.files.lock().get_mut(&self.key) {
            entry.ended += 1;
        }
    }
}

impl Unsynced {
    /// For at most `max` files.
    pub(crate) fn new(max: usize) -> Unsynced {
        Unsynced {
            files: Mutex::default(),
            max,
            // Another one for each tree that is opened: bytes of an earlier process are not ours to vouch
            // for.
            verifier: AtomicU64::new(RandomState::new().build_hasher().finish()),
        }
    }

    /// To be asked for before the write that is reported with it: if a sync fails meanwhile, the write may be
    /// lost with what that was for.
    pub(crate) fn verifier(&self) -> Bytes {
        Bytes::copy_from_slice(&self.verifier.load(Ordering::Acquire).to_be_bytes())
    }

    /// To be called before a write. `None` if too many files wait for a sync: this write must be synced by
    /// itself.
    pub(crate) fn note(
        &self,
        key: &Arc<[u8]>,
        open: impl FnOnce() -> Result<OwnedFd>,
    ) -> Result<Option<Noted<'_>>> {
        let noted = || Some(Noted { unsynced: self, key: Arc::clone(key) });
        {
            let mut files = self.files.lock();
            if let Some(entry) = files.get_mut(key) {
                entry.begun += 1;
                return Ok(noted());
            }
            if files.len() >= self.max {
                return Ok(None);
            }
        }
        // Outside the lock: an open may take long. No other write of the file is under way.
        let fd = Arc::new(open()?);
        self.files.lock().insert(Arc::clone(key), Entry { fd, begun: 1, ended: 0 });
        Ok(noted())
    }

    /// Syncs what was written to the file; returns the verifier.
    pub(crate) fn sync(&self, key: &Arc<[u8]>) -> Result<Bytes> {
        self.sync_by(key, |fd| rustix::fs::fdatasync(fd))
    }

    fn sync_by(
        &self,
        key: &Arc<[u8]>,
        sync: impl FnOnce(&OwnedFd) -> rustix::io::Result<()>,
    ) -> Result<Bytes> {
        let noted = self.files.lock().get(key).map(|e| (Arc::clone(&e.fd), e.ended));
        let Some((fd, ended)) = noted else { return Ok(self.verifier()) };
        let synced = sync(&fd);
        let mut files = self.files.lock();
        // Nothing that began has ended only after the sync began, or not at all.
        let all = |e: &Entry| e.begun == ended;
        let covered = synced.is_err() || files.get(key).is_some_and(all);
        let done = if covered { files.remove(key) } else { None };
        drop(files);
        // Closed outside the lock: on a network mount a close may wait.
        drop((done, fd));
        if let Err(e) = synced {
            self.verifier.fetch_add(1, Ordering::AcqRel);
            return Err(Error::io(e.into(), "syncing a file of the local tree"));
        }
        Ok(self.verifier())
    }

    /// Files that wait for a sync.
    pub(crate) fn len(&self) -> usize {
        self.files.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Arc<[u8]> {
        name.as_bytes().into()
    }

    fn file() -> Result<OwnedFd> {
        Ok(tempfile::tempfile().expect("a file").into())
    }

    fn is_noted(noted: Result<Option<Noted<'_>>>) -> bool {
        noted.expect("no error").is_some()
    }

    #[test]
    fn a_file_waits_until_a_sync_covers_its_last_write() {
        let unsynced = Unsynced::new(2);
        assert!(is_noted(unsynced.note(&key("a"), file)));
        assert!(is_noted(unsynced.note(&key("a"), || panic!("it is open"))));
        assert!(is_noted(unsynced.note(&key("b"), file)));
        assert!(!is_noted(unsynced.note(&key("c"), || panic!("no room"))));
        let verifier = unsynced.verifier();
        assert_eq!(unsynced.sync(&key("a")).unwrap(), verifier);
        assert_eq!(unsynced.sync(&key("other")).unwrap(), verifier);
        assert_eq!(unsynced.len(), 1);
    }

    #[test]
    fn a_write_during_a_sync_waits_for_the_next() {
        let unsynced = Unsynced::new(2);
        assert!(is_noted(unsynced.note(&key("a"), file)));
        let synced = unsynced.sync_by(&key("a"), |_| {
            assert!(is_noted(unsynced.note(&key("a"), || panic!("it is open"))));
            Ok(())
        });
        assert!(synced.is_ok());
        assert_eq!(unsynced.len(), 1);
        unsynced.sync(&key("a")).unwrap();
        assert_eq!(unsynced.len(), 0);
    }

    /// Its bytes may have come after the sync.
    #[test]
    fn a_sync_that_begins_within_a_write_does_not_cover_it() {
        let unsynced = Unsynced::new(2);
        let writing = unsynced.note(&key("a"), file).unwrap();
        unsynced.sync(&key("a")).unwrap();
        assert_eq!(unsynced.len(), 1);
        let during = unsynced.sync_by(&key("a"), |_| {
            drop(writing);
            Ok(())
        });
        assert!(during.is_ok());
        assert_eq!(unsynced.len(), 1);
        unsynced.sync(&key("a")).unwrap();
        assert_eq!(unsynced.len(), 0);
    }

    /// A pipe cannot be synced: it stands for a disk that failed.
    #[test]
    fn a_failed_sync_changes_the_verifier() {
        let unsynced = Unsynced::new(2);
        let verifier = unsynced.verifier();
        let pipe = || Ok(std::io::pipe().expect("a pipe").0.into());
        let writing = unsynced.note(&key("a"), pipe).unwrap();
        assert!(unsynced.sync(&key("a")).is_err());
        drop(writing);
        assert_ne!(unsynced.sync(&key("a")).unwrap(), verifier, "what was lost must be sent again");
        assert_eq!(unsynced.len(), 0);
    }
}
