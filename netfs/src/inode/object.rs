//! What this client itself does to a file, as its disk cache object hears of it.
//!
//! ```text
//! first byte dirty   pin           the cookie is in use, so the object stays open (row 63)
//! before a round     begin_modify  on disk it is found by nobody any more (row 126)
//! after the round    own_change_of ours alone: it forgets what was written and takes the new version (row 108);
//!                                  else it is cut over (own_unversioned_change, others_wrote)
//! clean              end_modify    it may be found again, and the pin is dropped (row 64)
//! ```
//!
//! Whatever goes wrong with the object costs its content, never a write (rows 81, N-C34, N-C35).

use std::ops::Range;

use bytes::Bytes;

use super::Inode;
use crate::{
    coherency::Epoch,
    fscache::{CookieUse, Identity, StillOk},
    remote::Facts,
    sync::{Arc, Mutex},
};

/// The use of the cookie that dirty bytes make (N-C40).
#[derive(Default)]
pub(super) struct Pin(Mutex<Option<CookieUse>>);

impl Pin {
    /// Ends it, whatever is dirty: the inode is going.
    pub(super) fn end(&self) {
        // The use ends outside the lock.
        let used = self.0.lock().take();
        drop(used);
    }
}

impl Inode {
    /// The file has dirty bytes. Called after each write: whoever unpins at the same time sees the bytes, or
    /// has unpinned before.
    pub(crate) fn pin(&self) {
        if self.volume.fscache().is_none() || self.pin.0.lock().is_some() {
            return;
        }
        let Some(cookie) = self.live_cookie() else { return };
        let used = cookie.use_cookie(true);
        let mut pin = self.pin.0.lock();
        let spare = if pin.is_none() { pin.replace(used) } else { Some(used) };
        drop(pin);
        drop(spare);
    }

    /// The server is about to get bytes of ours. The caller has the file's turn.
    pub(crate) async fn begin_modify(&self) {
        if let Some(cookie) = self.live_cookie() {
            cookie.begin_modify().await;
        }
    }

    /// Nothing is on its way any more. The caller has the file's turn. While anything is dirty the object
    /// stays pinned and marked: the next round follows.
    pub(crate) fn end_modify(&self) {
        let mut pin = self.pin.0.lock();
        if self.pages.dirty_bytes() > 0 {
            return;
        }
        let used = pin.take();
        drop(pin);
        if let Some(cookie) = self.live_cookie() {
            cookie.end_modify();
        }
        drop(used);
    }

    /// The core's test of a fill whose bytes were asked for, or taken from memory, at `epoch`.
    pub(crate) fn vouching(
        self: &Arc<Self>,
        epoch: Epoch,
    ) -> Box<dyn Fn(&Identity) -> StillOk + Send> {
        // Weak: a fill under way must not keep the inode.
        let (cell, inode) = (Arc::clone(&self.cell), Arc::downgrade(self));
        Box::new(move |of| {
            if cell.vouches(&of.aux, &epoch) {
                return StillOk::Yes;
            }
            // Version and object move one after the other.
            let changing = inode.upgrade().is_some_and(|inode| inode.stable().is_none());
            // What ended between the two looks is seen by this one.
            if changing || cell.vouches(&of.aux, &epoch) { StillOk::Later } else { StillOk::No }
        })
    }

    /// This client changed exactly the bytes of `changed`, from the version known last to what `facts` say.
    /// `also`: what that means for the sizes, which are to move with the version. Memory and the object keep all
    /// else. Returns what the object is about now, if the server has said.
    pub(crate) fn own_change_of(
        &self,
        facts: &Facts,
        also: impl FnOnce(),
        changed: &[Range<u64>],
    ) -> Option<Identity> {
        self.begin_change();
        let mut size = 0;
        self.cell.own_write(facts.version.clone(), || {
            // With the version: who compares the object's identity in between must not find half of it.
            also();
            self.commit_own(facts);
            size = self.sizes.load().remote_i_size;
        });
        let version = facts.version.as_ref().filter(|_| !self.size_doubtful());
        let identity =
            version.map(|v| Identity { aux: Bytes::copy_from_slice(v.as_bytes()), size });
        if let (Some(cookie), Some(identity)) = (self.live_cookie(), &identity) {
            cookie.modified(identity.clone(), changed);
        }
        // Without an identity, or where a reply has brought another version since, it is cut over.
        self.update_cookie();
        self.end_change();
        identity
    }
}
