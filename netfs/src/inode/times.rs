//! The time a file shows for what was written here, while the server has not said which it is.
//!
//! It is this machine's time of the last change of data made here, as a kernel's clients show it. From when the
//! bytes are on the server it would be the server's, but that is known only once a reply has stated attributes
//! that were asked for after them: the reply to the upload itself, or the next one. Until then the attributes
//! known last are older than what has been shown, and time does not go back.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Inode;
use crate::{
    clock::BootTime,
    remote::{Facts, TimeSpec},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// One inode's part.
#[derive(Default)]
pub(super) struct Times {
    /// Boot time of the last change of data; 0: none, or times were set since.
    wrote_at: AtomicU64,
    /// Which one was told about last, and as of when: who asks twice gets the same answer.
    told: Mutex<Option<(u64, TimeSpec)>>,
    /// The server has got bytes of ours since it stated the attributes that are known. Stored within the
    /// coherency cell's critical section only, as the attributes are: a reply that was asked for before the
    /// change is not adopted after it.
    behind: AtomicBool,
}

impl Inode {
    /// Data of the file are changed here at `now`.
    pub(crate) fn wrote(&self, now: BootTime) {
        self.times.wrote_at.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// Its times are the server's again, whatever is dirty.
    pub(crate) fn forget_write_time(&self) {
        self.times.wrote_at.store(0, Ordering::Relaxed);
    }

    /// A change of ours was made, and these are the attributes the server has stated after it, if any. Called
    /// within the coherency cell's critical section.
    pub(super) fn changed_to(&self, facts: &Facts) {
        self.commit_attr(facts);
        self.times.behind.store(facts.attr.is_none(), Ordering::Release);
    }

    /// Attributes were stated that were asked for after every change of ours that was made. Called within the
    /// coherency cell's critical section.
    pub(super) fn times_stated(&self) {
        self.times.behind.store(false, Ordering::Release);
    }

    /// When the file was last written to here, while the server does not have it or has not said.
    pub(crate) fn wrote_at(&self) -> Option<TimeSpec> {
        let at = self.times.wrote_at.load(Ordering::Relaxed);
        // In this order: a round notes that attributes are behind before it makes bytes clean. (And whoever asks
        // looks at the attributes last: they are there before they count as stated.)
        let unsaid = self.pages.dirty_bytes() > 0 || self.times.behind.load(Ordering::Acquire);
        if at == 0 || !unsaid {
            return None;
        }
        let mut told = self.times.told.lock();
        if let Some((_, time)) = told.filter(|(of, _)| *of == at) {
            return Some(time);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ago = self.now().since(BootTime::from_nanos(at));
        let time = now.saturating_sub(ago);
        let sec = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let time = TimeSpec { sec, nsec: time.subsec_nanos() };
        *told = Some((at, time));
        Some(time)
    }
}
