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
    /// Counts writes: a sync that began before the last one does not cover it.
    writes: u64,
}

/// The files of one tree with bytes to be synced.
pub(crate) struct Unsynced {
    files: Mutex<HashMap<Arc<[u8]>, Entry>>,
    max: usize,
    verifier: AtomicU64,
    /// One sync of a file at a time: an error is told to one of them only.
    turns: Turns,
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
            turns: Turns::new(),
        }
    }

    /// To be asked for before the write that is reported with it: if a sync fails meanwhile, the write may be
    /// lost with what that was for.
    pub(crate) fn verifier(&self) -> Bytes {
        Bytes::copy_from_slice(&self.verifier.load(Ordering::Acquire).to_be_bytes())
    }

    /// To be called before a write. False if too many files wait for a sync: this write must be synced by
    /// itself.
    pub(crate) fn note(
        &self,
        key: &Arc<[u8]>,
        open: impl FnOnce() -> Result<OwnedFd>,
    ) -> Result<bool> {
        {
            let mut files = self.files.lock();
            if let Some(entry) = files.get_mut(key) {
                entry.writes += 1;
                return Ok(true);
            }
            if files.len() >= self.max {
                return Ok(false);
            }
        }
        // Outside the lock: an open may take long. Writers of one file take turns, so no other comes.
        let fd = Arc::new(open()?);
        self.files.lock().insert(Arc::clone(key), Entry { fd, writes: 1 });
        Ok(true)
    }

    /// Syncs what was written to the file; returns the verifier. `writers` are the turns of those who
    /// write: a sync must not begin between a write's note and its bytes, it would be taken to cover them.
    pub(crate) fn sync(&self, key: &Arc<[u8]>, writers: &Turns) -> Result<Bytes> {
        self.sync_by(key, writers, |fd| rustix::fs::fdatasync(fd))
    }

    fn sync_by(
        &self,
        key: &Arc<[u8]>,
        writers: &Turns,
        sync: impl FnOnce(&OwnedFd) -> rustix::io::Result<()>,
    ) -> Result<Bytes> {
        let _turn = self.turns.take(key);
        let noted = {
            let _no_write = writers.take(key);
            self.files.lock().get(key).map(|e| (Arc::clone(&e.fd), e.writes))
        };
        let Some((fd, writes)) = noted else { return Ok(self.verifier()) };
        let synced = sync(&fd);
        let mut files = self.files.lock();
        let covered = synced.is_err() || files.get(key).is_some_and(|e| e.writes == writes);
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

/// Locks of files, shared by those whose keys hash alike.
pub(crate) struct Turns {
    hasher: RandomState,
    locks: [Mutex<()>; 64],
}

impl Turns {
    pub(crate) fn new() -> Turns {
        Turns { hasher: RandomState::new(), locks: [const { Mutex::new(()) }; 64] }
    }

    /// Waits until nobody else has the file.
    pub(crate) fn take(&self, key: &[u8]) -> parking_lot::MutexGuard<'_, ()> {
        self.locks[self.hasher.hash_one(key) as usize % self.locks.len()].lock()
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

    #[test]
    fn a_file_waits_until_a_sync_covers_its_last_write() {
        let unsynced = Unsynced::new(2);
        assert!(unsynced.note(&key("a"), file).unwrap());
        assert!(unsynced.note(&key("a"), || panic!("it is open")).unwrap());
        assert!(unsynced.note(&key("b"), file).unwrap());
        assert!(!unsynced.note(&key("c"), || panic!("no room")).unwrap());
        let verifier = unsynced.verifier();
        let writers = Turns::new();
        assert_eq!(unsynced.sync(&key("a"), &writers).unwrap(), verifier);
        assert_eq!(unsynced.sync(&key("other"), &writers).unwrap(), verifier);
        assert_eq!(unsynced.len(), 1);
    }

    #[test]
    fn a_write_during_a_sync_waits_for_the_next() {
        let (unsynced, writers) = (Unsynced::new(2), Turns::new());
        assert!(unsynced.note(&key("a"), file).unwrap());
        let synced = unsynced.sync_by(&key("a"), &writers, |_| {
            assert!(unsynced.note(&key("a"), || panic!("it is open")).unwrap());
            Ok(())
        });
        assert!(synced.is_ok());
        assert_eq!(unsynced.len(), 1);
    }

    /// It would be taken to cover bytes that are not there yet.
    #[test]
    fn a_sync_does_not_begin_within_a_write() {
        let (unsynced, writers) = (Unsynced::new(2), Turns::new());
        let writing = writers.take(&key("a"));
        assert!(unsynced.note(&key("a"), file).unwrap());
        std::thread::scope(|s| {
            let sync = s.spawn(|| unsynced.sync(&key("a"), &writers));
            // Whether it came so far or not: it has not taken the note.
            std::thread::yield_now();
            assert!(unsynced.note(&key("a"), || panic!("it is open")).unwrap());
            drop(writing);
            sync.join().unwrap().unwrap();
        });
        assert_eq!(unsynced.len(), 0);
    }

    /// A pipe cannot be synced: it stands for a disk that failed.
    #[test]
    fn a_failed_sync_changes_the_verifier() {
        let unsynced = Unsynced::new(2);
        let verifier = unsynced.verifier();
        let pipe = || Ok(std::io::pipe().expect("a pipe").0.into());
        assert!(unsynced.note(&key("a"), pipe).unwrap());
        let writers = Turns::new();
        assert!(unsynced.sync(&key("a"), &writers).is_err());
        assert_ne!(
            unsynced.sync(&key("a"), &writers).unwrap(),
            verifier,
            "what was lost must be sent again"
        );
    }
}
