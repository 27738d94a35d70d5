//! Volumes (kernel: volume cookies): what the cookies of one remote volume share.
//!
//! A volume lives as long as its owner wants, whether a cache is there or not. While one is attached,
//! an [`Attachment`] ties the two together: it makes the volume's directory in the cache (in the
//! background; the first cookie lookup waits for it, row 95) and counts the backend calls under way,
//! so that a withdrawal knows when the last one has ended (N-C44).

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tokio::sync::{Notify, OnceCell};

use super::{
    CacheBackend, CacheVolume, Cookie, CookieInfo, CookieSlot, DuplicateKey, Identity, Refusal,
    Relinquish, access::Gate, cache::FsCache,
};
use crate::{
    remote::VolumeId,
    sync::{Arc, Mutex},
};

/// A remote volume as the cache knows it.
pub(crate) struct Volume {
    pub(super) fscache: Arc<FsCache>,
    id: VolumeId,
    coherency: Bytes,
    inner: Mutex<Inner>,
    /// Notified when a cookie is dropped, when an attachment ends, and when the volume is gone.
    changed: Arc<Notify>,
}

struct Inner {
    attachment: Option<Arc<Attachment>>,
    /// The newest cookie of each key; it may have been relinquished.
    cookies: HashMap<Bytes, Arc<Cookie>>,
    /// Relinquished cookies whose key was taken over before they were closed, oldest first.
    closing: Vec<Arc<Cookie>>,
    /// Keys whose stored content could not be voided before their cookie went away (N-C48).
    distrusted: HashSet<Bytes>,
    life: Life,
}

/// How far a volume's life has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// Its owner has it.
    Live,
    /// Given up; cookies or calls to the cache are left.
    Relinquished,
    /// Given up and closed.
    Gone,
    /// The context went away with it. Its owner may be giving it up at the same moment, or later.
    Aborted,
}

/// Why a volume that is given up has nothing left to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    /// Its owner gave it up before: a mistake.
    Twice,
    /// The context has let go of everything already.
    Aborted,
}

impl Inner {
    /// Cookies that have not been dropped.
    fn count(&self) -> usize {
        self.cookies.len() + self.closing.len()
    }

    /// Whether nothing of it is left to end.
    fn is_gone(&self) -> bool {
        matches!(self.life, Life::Gone | Life::Aborted)
    }
}

/// A line of row 116's volume listing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VolumeInfo {
    /// Which volume.
    pub id: VolumeId,
    /// Cookies that exist.
    pub cookies: usize,
    /// Backend calls under way, not counting accesses by readers.
    pub calls: u64,
    /// The cache it is attached to.
    pub cache: Option<String>,
    /// Relinquished, and not all closed yet.
    pub relinquished: bool,
}

impl Volume {
    pub(super) fn new(
        fscache: Arc<FsCache>,
        id: VolumeId,
        coherency: Bytes,
        backend: Option<Arc<dyn CacheBackend>>,
    ) -> Arc<Volume> {
        let volume = Arc::new(Volume {
            fscache,
            id,
            coherency,
            inner: Mutex::new(Inner {
                attachment: None,
                cookies: HashMap::new(),
                closing: Vec::new(),
                distrusted: HashSet::new(),
                life: Life::Live,
            }),
            changed: Arc::new(Notify::new()),
        });
        if let Some(backend) = backend {
            volume.attach(backend);
        }
        volume
    }

    /// Which volume this is.
    pub(crate) fn id(&self) -> &VolumeId {
        &self.id
    }

    /// A cookie for the file `key` (row 98: never fails for lack of a cache).
    ///
    /// A key of 0 or more than 255 bytes, or an identity with more than 255 bytes of coherency data,
    /// gives an empty slot (row 97, N-C52). If the key's last cookie has been relinquished and is not
    /// closed yet, the new one is made at once and its lookup waits for the old one to be closed
    /// (N-C47); its users wait no longer than they wait for any lookup.
    ///
    /// # Errors
    /// [`DuplicateKey`] if a live cookie has the key (row 100).
    pub(crate) fn acquire_cookie(
        self: &Arc<Self>,
        key: &[u8],
        identity: Identity,
    ) -> Result<CookieSlot, DuplicateKey> {
        let counters = self.fscache.counters();
        counters.acquires.inc();
        if key.is_empty() || key.len() > 255 || identity.aux.len() > 255 {
            return Ok(CookieSlot::none());
        }
        let key = Bytes::copy_from_slice(key);
        let mut inner = self.inner.lock();
        let before = inner.cookies.get(&key).cloned();
        if before.as_ref().is_some_and(|c| !c.is_relinquished()) {
            drop(inner);
            counters.cookie_collisions.inc();
            tracing::warn!(volume = self.id.as_str(), key = ?key, "cookie key already in use");
            return Err(DuplicateKey { volume: self.id.clone(), key });
        }
        if inner.life != Life::Live {
            return Ok(CookieSlot::none());
        }
        let live = inner.attachment.is_some();
        let cookie = Cookie::new(Arc::clone(self), key.clone(), identity, live, before);
        let before = inner.cookies.insert(key, Arc::clone(&cookie));
        inner.closing.extend(before);
        drop(inner);
        counters.acquires_ok.inc();
        counters.cookies.inc();
        Ok(CookieSlot::new(cookie))
    }

    /// The cookies that exist, for listings (row 116).
    pub(crate) fn cookies(&self) -> Vec<CookieInfo> {
        self.cookie_list().iter().map(|c| c.describe()).collect()
    }

    /// A line about this volume, for listings (row 116).
    pub(crate) fn describe(&self) -> VolumeInfo {
        let inner = self.inner.lock();
        let attachment = inner.attachment.clone();
        let (cookies, relinquished) = (inner.count(), inner.life != Life::Live);
        drop(inner);
        VolumeInfo {
            id: self.id.clone(),
            cookies,
            calls: attachment.as_ref().map_or(0, |a| a.calls.count()),
            cache: attachment.map(|a| a.backend.name()),
            relinquished,
        }
    }

    /// Attaches a cache. Cookies in use look their objects up at once. No effect if one is attached.
    pub(super) fn attach(self: &Arc<Self>, backend: Arc<dyn CacheBackend>) {
        let attachment = Arc::new(Attachment {
            backend,
            id: self.id.clone(),
            coherency: self.coherency.clone(),
            volume: OnceCell::new(),
            objects: Gate::opened(),
            calls: Gate::opened(),
            changed: Arc::clone(&self.changed),
        });
        {
            let mut inner = self.inner.lock();
            if inner.life != Life::Live || inner.attachment.is_some() {
                return;
            }
            inner.attachment = Some(Arc::clone(&attachment));
        }
        // Row 95: the volume is made in the background; lookups wait for it through `volume()`.
        self.fscache.spawn(async move {
            if let Some(_call) = attachment.call() {
                // A failure is met again, and reported, by the first lookup.
                let _ = attachment.volume().await;
            }
        });
        for cookie in self.cookie_list() {
            cookie.attach();
        }
    }

    /// Withdraws the cache from this volume (row 114): users go on uncached, objects are committed
    /// and closed. Returns when no backend call is running or can start (N-C44).
    pub(super) async fn withdraw(self: &Arc<Self>) {
        let Some(attachment) = self.inner.lock().attachment.take() else { return };
        attachment.objects.close();
        for cookie in self.cookie_list() {
            cookie.withdraw();
        }
        self.end_attachment(attachment, Relinquish::Keep).await;
    }

    /// Gives the volume up: relinquishes the cookies that are left, waits until all are closed, then
    /// tells the cache (`Retire`: everything stored is deleted). Another volume with this id can be
    /// acquired afterwards.
    pub(super) async fn relinquish(self: &Arc<Self>, how: Relinquish) {
        match self.begin_relinquish() {
            Ok(()) => {}
            Err(Over::Aborted) => return,
            Err(Over::Twice) => {
                tracing::warn!(volume = self.id.as_str(), "volume relinquished twice");
                return;
            }
        }
        for cookie in self.cookie_list() {
            if !cookie.is_relinquished() {
                cookie.relinquish(Relinquish::Keep);
            }
        }
        self.wait_until(|inner| inner.count() == 0).await;
        // A withdrawal may have taken it meanwhile; then that one ends it.
        let attachment = self.inner.lock().attachment.take();
        if let Some(attachment) = attachment {
            self.end_attachment(attachment, how).await;
        }
        self.inner.lock().life = Life::Gone;
        self.changed.notify_waiters();
    }

    /// From here on the volume gives no cookies and moves into no cache.
    pub(super) fn begin_relinquish(&self) -> Result<(), Over> {
        let mut inner = self.inner.lock();
        match inner.life {
            Life::Live => {
                inner.life = Life::Relinquished;
                Ok(())
            }
            Life::Relinquished | Life::Gone => Err(Over::Twice),
            Life::Aborted => Err(Over::Aborted),
        }
    }

    /// See [`FsCache::abort`].
    pub(super) fn abort(&self) {
        let (attachment, cookies) = {
            let mut inner = self.inner.lock();
            inner.life = Life::Aborted;
            let mut cookies: Vec<_> = inner.cookies.drain().map(|(_, c)| c).collect();
            cookies.append(&mut inner.closing);
            (inner.attachment.take(), cookies)
        };
        if let Some(attachment) = &attachment {
            attachment.objects.close();
        }
        cookies.iter().for_each(|cookie| cookie.abort());
        self.changed.notify_waiters();
    }

    /// Completes when a relinquished volume has been closed.
    pub(super) async fn gone(&self) {
        self.wait_until(|inner| inner.is_gone()).await;
    }

    pub(super) fn is_relinquished(&self) -> bool {
        self.inner.lock().life != Life::Live
    }

    pub(super) fn is_gone(&self) -> bool {
        self.inner.lock().is_gone()
    }

    pub(super) fn attachment(&self) -> Option<Arc<Attachment>> {
        self.inner.lock().attachment.clone()
    }

    /// Whether stored content under `key` predates an invalidation; asking takes the note away, so
    /// the caller now has to remember it.
    pub(super) fn take_distrust(&self, key: &Bytes) -> bool {
        self.inner.lock().distrusted.remove(key)
    }

    /// A cookie reached its end.
    pub(super) fn cookie_dropped(&self, cookie: &Arc<Cookie>, distrust: bool) {
        let mut inner = self.inner.lock();
        let is_it = |c: &Arc<Cookie>| Arc::ptr_eq(c, cookie);
        inner.closing.retain(|c| !is_it(c));
        if inner.cookies.get(cookie.key()).is_some_and(is_it) {
            inner.cookies.remove(cookie.key());
            // One that never looked anything up ends before the one whose key it took: that one is
            // what the next cookie has to wait for again (N-C47).
            if let Some(i) = inner.closing.iter().rposition(|c| c.key() == cookie.key()) {
                let before = inner.closing.remove(i);
                inner.cookies.insert(cookie.key().clone(), before);
            }
        }
        if distrust {
            inner.distrusted.insert(cookie.key().clone());
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    fn cookie_list(&self) -> Vec<Arc<Cookie>> {
        let inner = self.inner.lock();
        inner.cookies.values().chain(&inner.closing).cloned().collect()
    }

    async fn end_attachment(&self, attachment: Arc<Attachment>, how: Relinquish) {
        // Objects first: closing them is a call.
        attachment.objects.close();
        self.wait_until(|_| attachment.objects.is_drained()).await;
        attachment.calls.close();
        self.wait_until(|_| attachment.calls.is_drained()).await;
        if let Some(volume) = attachment.volume.get() {
            Arc::clone(volume).relinquish(how).await;
        }
    }

    async fn wait_until(&self, mut done: impl FnMut(&Inner) -> bool) {
        loop {
            // Made before the check, so a change in between is not missed.
            let changed = self.changed.notified();
            if done(&self.inner.lock()) {
                return;
            }
            changed.await;
        }
    }
}

/// One volume on one cache.
pub(crate) struct Attachment {
    pub(super) backend: Arc<dyn CacheBackend>,
    id: VolumeId,
    coherency: Bytes,
    volume: OnceCell<Arc<dyn CacheVolume>>,
    /// Cookies that hold an object or are getting one.
    objects: Gate,
    /// Backend calls under way, other than readers' accesses (those are counted by their cookie).
    calls: Gate,
    /// The volume's: notified when one of the gates has drained.
    changed: Arc<Notify>,
}

impl Attachment {
    /// The volume in the cache, opened by whoever asks first. A failure is not remembered: the next
    /// lookup tries again.
    pub(super) async fn volume(&self) -> Result<Arc<dyn CacheVolume>, Refusal> {
        let open =
            || Arc::clone(&self.backend).acquire_volume(self.id.clone(), self.coherency.clone());
        self.volume.get_or_try_init(open).await.map(Arc::clone)
    }

    /// Counts a backend call in; `None` once the cache is withdrawn.
    pub(super) fn call(self: &Arc<Self>) -> Option<Call> {
        self.calls.enter().then(|| Call(Arc::clone(self)))
    }

    /// Counts in a cookie that is about to have an object; `None` once a withdrawal has begun.
    pub(super) fn hold(self: &Arc<Self>) -> Option<Hold> {
        self.objects.enter().then(|| Hold(Arc::clone(self)))
    }
}

/// A backend call under way.
pub(super) struct Call(Arc<Attachment>);

impl Drop for Call {
    fn drop(&mut self) {
        if self.0.calls.exit() {
            self.0.changed.notify_waiters();
        }
    }
}

/// A cookie's object on an attachment. While there is one, calls are admitted: closing is a call.
pub(super) struct Hold(Arc<Attachment>);

impl Hold {
    pub(super) fn attachment(&self) -> &Arc<Attachment> {
        &self.0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.objects.exit() {
            self.0.changed.notify_waiters();
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
