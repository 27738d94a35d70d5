//! One file of a volume, shared by all its mounts and openers.
//!
//! Life of a reply, the order that keeps old bytes from being served:
//!
//! 1. The caller samples an epoch, then issues the request.
//! 2. [`Inode::apply`] asks the coherency cell. Attributes and sizes are committed inside the cell's
//!    critical section, before a new promise is published (P-D26).
//! 3. On `Drop` the inode is marked as changing (`begin != end`) before the sizes move; the cookie is
//!    cut over, then the pages are dropped, then the mark is taken back and the promise published.
//!    A reader checks the mark before and after it gathers pages, so no reader sees new sizes with
//!    old bytes or the other way round.
//! 4. A folio is published only if its bytes' version is the inode's current one, decided under the
//!    index lock; dropping pages takes the same lock, so a fetch that raced with a change can never
//!    install old data.

mod disk_misses;
mod object;
mod own;

use bytes::Bytes;
use disk_misses::DiskMisses;
use tokio::sync::Notify;

use crate::{
    clock::BootTime,
    coherency::{Action, Epoch, InodeCell, ReplyKind, Validity},
    context::Core,
    error::{Errno, Error, Result},
    folio::{Folio, FolioIndex, Held},
    fscache::{Access, Cookie, CookieSlot, Identity, Relinquish},
    iomode::IoMode,
    namespace::Volume,
    remote::{Attr, Cx, DynFile, Facts, FileKind, Version},
    sizes::{SizeCell, Sizes},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    waits::{Wait, WaitInfo, WaitKind},
    writeback::{Writeback, is_gone, quiet::Overtaken},
};

/// Replies in a row that may be older than what is known before a validation gives up (P-D71).
pub(crate) const MAX_LATE: usize = 8;

pub(crate) struct Inode {
    pub(crate) core: Arc<Core>,
    pub(crate) volume: Arc<Volume>,
    pub(crate) key: Bytes,
    pub(crate) id: u64,
    pub(crate) cell: Arc<InodeCell>,
    pub(crate) sizes: SizeCell,
    pub(crate) pages: Arc<FolioIndex>,
    pub(crate) io: Arc<IoMode>,
    pub(crate) wb: Writeback,
    pub(crate) disk_misses: DiskMisses,
    pin: object::Pin,
    attr: Mutex<Option<Attr>>,
    /// Moves when owner, mode or change time move: what cached access answers depend on.
    attr_gen: AtomicU64,
    /// Content changes begun and ended (see the module docs); equal when none is under way.
    change_begin: AtomicU64,
    change_end: AtomicU64,
    change_over: Notify,
    /// `None` until data are first needed: looking at attributes must not open cache objects (A6.04).
    cookie: Mutex<Option<CookieSlot>>,
    size_known: AtomicBool,
    /// The version moved and nobody has said how large the new one is: its bytes must not be cut or
    /// padded at the old size.
    size_doubtful: AtomicBool,
    symlink: Mutex<Option<(Epoch, Option<Version>, Bytes)>>,
    /// Server reads given up at a deadline whose reply may still come.
    abandoned: Mutex<Vec<(std::ops::Range<u64>, Wait)>>,
    hung_cache_reads: AtomicU64,
    /// Open files.
    opens: AtomicU64,
    /// This client removed its last name.
    pub(crate) unlinked: AtomicBool,
}

/// An open file, counted.
pub(crate) struct OpenCount(Arc<Inode>);

impl OpenCount {
    pub(crate) fn new(inode: &Arc<Inode>) -> OpenCount {
        inode.opens.fetch_add(1, Ordering::AcqRel);
        OpenCount(Arc::clone(inode))
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        let last = self.0.opens.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.0.unlinked.load(Ordering::Acquire) {
            self.0.remove();
        }
    }
}

/// A read of the disk cache that was given up and has not returned.
pub(crate) struct HungRead {
    inode: Arc<Inode>,
    _wait: Wait,
}

impl Drop for HungRead {
    fn drop(&mut self) {
        self.inode.hung_cache_reads.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a reply's bytes may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// They belong to the inode's current version.
    Use,
    /// They are older than what is known: fetch again.
    Late,
}

impl Inode {
    pub(crate) fn new(volume: Arc<Volume>, key: Bytes) -> Arc<Inode> {
        let core = Arc::clone(volume.core());
        Arc::new(Inode {
            id: core.next_inode_id(),
            cell: InodeCell::new(Arc::clone(volume.cell()), &key),
            sizes: SizeCell::new(Sizes::default()),
            pages: core.folios.new_index_of(&volume.share),
            io: Arc::default(),
            wb: Writeback::default(),
            disk_misses: DiskMisses::default(),
            pin: object::Pin::default(),
            attr: Mutex::new(None),
            attr_gen: AtomicU64::new(0),
            change_begin: AtomicU64::new(0),
            change_end: AtomicU64::new(0),
            change_over: Notify::new(),
            cookie: Mutex::new(None),
            size_known: AtomicBool::new(false),
            size_doubtful: AtomicBool::new(false),
            symlink: Mutex::new(None),
            abandoned: Mutex::new(Vec::new()),
            hung_cache_reads: AtomicU64::new(0),
            opens: AtomicU64::new(0),
            unlinked: AtomicBool::new(false),
            core,
            volume,
            key,
        })
    }

    pub(crate) fn now(&self) -> BootTime {
        self.core.clock.now()
    }

    pub(crate) fn attr(&self) -> Option<Attr> {
        // Size and times run ahead of the server's while bytes are dirty, as in a kernel.
        let attr = (*self.attr.lock())?;
        let wrote = self.wrote_at();
        let (mtime, ctime) = (wrote.unwrap_or(attr.mtime), wrote.unwrap_or(attr.ctime));
        Some(Attr { size: self.sizes.load().i_size, mtime, ctime, ..attr })
    }

    pub(crate) fn kind(&self) -> Option<FileKind> {
        self.attr.lock().map(|a| a.kind)
    }

    pub(crate) fn attr_gen(&self) -> u64 {
        self.attr_gen.load(Ordering::Acquire)
    }

    /// A mark that no content change is under way, for [`Inode::unchanged`]; `None` while one is.
    pub(crate) fn stable(&self) -> Option<u64> {
        let end = self.change_end.load(Ordering::Acquire);
        (self.change_begin.load(Ordering::Acquire) == end).then_some(end)
    }

    /// The same, after whatever change is under way.
    pub(crate) async fn settled_mark(&self) -> u64 {
        loop {
            let over = self.change_over.notified();
            if let Some(mark) = self.stable() {
                return mark;
            }
            let _wait = self.waiting(WaitKind::Change, 0..0);
            over.await;
        }
    }

    /// Whether anybody has it open.
    pub(crate) fn is_open(&self) -> bool {
        self.opens.load(Ordering::Acquire) > 0
    }

    fn begin_change(&self) {
        self.change_begin.fetch_add(1, Ordering::AcqRel);
    }

    fn end_change(&self) {
        self.change_end.fetch_add(1, Ordering::Release);
        self.change_over.notify_waiters();
    }

    /// How many content changes have begun.
    pub(crate) fn changes(&self) -> u64 {
        self.change_begin.load(Ordering::Acquire)
    }

    /// Whether nothing changed since `mark` was taken.
    pub(crate) fn unchanged(&self, mark: u64) -> bool {
        // The loads of page bytes before this must not sink below it.
        crate::sync::atomic::fence(Ordering::Acquire);
        self.change_begin.load(Ordering::Acquire) == mark
    }

    /// Applies what a reply said. `keep` are folios of the reply's own request: they survive a drop,
    /// because whether their bytes are the new version's is decided when they are published.
    pub(crate) fn apply(&self, facts: &Facts, epoch: &Epoch, keep: &[Arc<Folio>]) -> Verdict {
        self.apply_as(ReplyKind::Other, facts, epoch, keep)
    }

    fn apply_as(
        &self,
        kind: ReplyKind,
        facts: &Facts,
        epoch: &Epoch,
        keep: &[Arc<Folio>],
    ) -> Verdict {
        let mut changing = false;
        // What dirty bytes were written over; another version then is somebody else's.
        let base = if self.pages.dirty_bytes() > 0 { self.cell.version() } else { None };
        let merge = base.is_none() || self.conflict_policy().is_merge();
        let mut conflict = false;
        let applied = self.cell.apply(facts, epoch, kind, |decision| {
            // A size that moves under an unmoved version is as good as another version.
            let resized = decision.adopt
                && self.size_known.load(Ordering::Relaxed)
                && facts.stated_size().is_some_and(|s| s != self.sizes.load().remote_i_size);
            if matches!(decision.action, Action::Drop(_)) || resized {
                changing = true;
                self.begin_change();
            }
            if let (Action::Drop(_), Some(base)) = (&decision.action, &base)
                && facts.version.as_ref().is_some_and(|theirs| theirs != base)
            {
                conflict = self.wb.conflicts.met(base, facts.version.as_ref(), merge);
            }
            if decision.adopt {
                self.commit_facts(facts);
            }
            if facts.stated_size().is_some() && decision.adopt {
                self.size_doubtful.store(false, Ordering::Release);
            } else if matches!(decision.action, Action::Drop(_)) {
                self.size_doubtful.store(true, Ordering::Release);
            }
        });
        if let (true, Some(base)) = (conflict, &base) {
            self.count_conflict(base, facts.version.as_ref());
        }
        if changing {
            self.drop_content(keep);
            self.end_change();
        } else if applied.adopt {
            self.update_cookie();
        }
        // Only now may a promise that came with the new version be seen.
        if let Some(token) = applied.drop {
            token.done();
        }
        match applied.action {
            Action::Late | Action::Deleted => Verdict::Late,
            _ => Verdict::Use,
        }
    }

    /// This client changed the file, from the version known last to what `facts` say. What memory holds
    /// stays; a reader that gathers past memory begins again (the mark moves). The disk's object does not:
    /// where it is known what was changed, see [`own_change_of`](Inode::own_change_of).
    pub(crate) fn own_change(&self, facts: &Facts) {
        self.begin_change();
        self.cell.own_write(facts.version.clone(), || self.commit_own(facts));
        self.update_cookie();
        self.end_change();
    }

    /// What the reply to a change of ours says besides the version.
    fn commit_own(&self, facts: &Facts) {
        self.commit_attr(facts);
        // A reader that met a version of ours before we heard of it may have left the size open.
        if let Some(size) = facts.stated_size().filter(|_| self.size_doubtful()) {
            self.sizes.server_says(size, || self.pages.dirty_end());
            self.size_doubtful.store(false, Ordering::Release);
        }
    }

    /// The same for a change whose reply named the version that was known before: the server's versions
    /// are too coarse to tell. What the disk has under that version is not the file any more.
    pub(crate) fn own_unversioned_change(&self) {
        self.begin_change();
        self.cell.own_write(self.cell.version(), || ());
        self.cut_over();
        self.end_change();
    }

    /// Somebody else changed the file too, nobody knows in which order: nothing is vouched for any more.
    ///
    /// The version known last is forgotten with it. Its bytes, on their way from the server or on disk,
    /// lack what was just written: they must not take the place of pages that have become clean, and a
    /// reader that was let in before must not find them.
    pub(crate) fn others_wrote(&self) {
        self.begin_change();
        self.cell.own_write(None, || ());
        self.cell.expire();
        self.cut_over();
        self.fronts_forget(0..u64::MAX);
        self.end_change();
    }

    /// Fronts that have some of `range` are to ask for it again, all of them.
    fn fronts_forget(&self, range: std::ops::Range<u64>) {
        self.cell.tell_fronts(&range, None);
    }

    fn cut_over(&self) {
        if let Some(cookie) = self.live_cookie() {
            cookie.invalidate(self.wanted_identity(), false);
        }
    }

    /// The file ends at `size` now, here as on the server; `adopt` takes over what it said.
    pub(crate) fn cut(&self, size: u64, adopt: impl FnOnce()) {
        self.begin_change();
        self.sizes.resized(size);
        // The version moves before the pages go: what a fetch publishes in between is of before, and goes
        // with them; later it is not current any more.
        adopt();
        self.pages.truncate(size);
        // A reply may have put the end behind what was dirty until now.
        self.sizes.resized(size);
        if self.pages.dirty_bytes() == 0 {
            // What could not be uploaded was cut off.
            self.nothing_dirty();
        }
        self.end_change();
    }

    /// Gives up what is dirty. Nothing is on its way.
    pub(crate) fn discard_dirty(&self) {
        self.begin_change();
        // Some of it may have come to the server without an answer to say so, nor a version to show it.
        self.cell.expire();
        self.cut_over();
        self.pages.cut_dirty();
        self.wb.conflicts.settle();
        let size = self.sizes.load().remote_i_size;
        self.sizes.discarded(size, || 0);
        self.fronts_forget(0..u64::MAX);
        self.end_change();
        self.unpark_if_clean();
    }

    fn commit_facts(&self, facts: &Facts) {
        if let Some(size) = facts.stated_size() {
            self.sizes.server_says(size, || self.pages.dirty_end());
            self.size_known.store(true, Ordering::Relaxed);
        }
        self.commit_attr(facts);
    }

    fn commit_attr(&self, facts: &Facts) {
        if let Some(new) = facts.attr {
            let mut attr = self.attr.lock();
            let moved = attr.is_none_or(|old| {
                (old.mode, old.uid, old.gid, old.ctime) != (new.mode, new.uid, new.gid, new.ctime)
            });
            *attr = Some(new);
            if moved {
                self.attr_gen.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Cookie first, then pages (A1.16): a reader that finds the pages gone must not find the old
    /// object behind them.
    fn drop_content(&self, keep: &[Arc<Folio>]) {
        if let Some(cookie) = self.live_cookie() {
            // Even under an equal identity: after a scrub the same version vouches for nothing (A1.15).
            cookie.invalidate(self.wanted_identity(), false);
        }
        self.pages.clear_keeping(keep);
        self.disk_misses.clear();
        *self.symlink.lock() = None;
        self.fronts_forget(0..u64::MAX);
    }

    /// Brings the cookie to the inode's identity; an object of another identity is cut over.
    fn update_cookie(&self) {
        let Some(cookie) = self.live_cookie() else { return };
        let wanted = self.wanted_identity();
        if cookie.identity() != wanted {
            cookie.invalidate(wanted, false);
        }
    }

    /// Without a version nothing on disk can be vouched for: an empty aux matches no version.
    fn wanted_identity(&self) -> Identity {
        self.identity().unwrap_or(Identity { aux: Bytes::new(), size: 0 })
    }

    /// The cookie, if there is one by now.
    pub(crate) fn live_cookie(&self) -> Option<Arc<Cookie>> {
        self.cookie.lock().as_ref().and_then(|slot| slot.cookie().cloned())
    }

    /// What a cached object must be to be served now.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let version = self.cell.version()?;
        let size = self.sizes.load().remote_i_size;
        Some(Identity { aux: Bytes::copy_from_slice(version.as_bytes()), size })
    }

    /// The cookie, acquired at the first need for data. None without a cache, or a version that
    /// would make an identity.
    pub(crate) fn cookie(&self) -> Option<Arc<Cookie>> {
        let volume = self.volume.fscache()?;
        let mut slot = self.cookie.lock();
        if slot.is_none() {
            // Under the lock: a change from here on finds the cookie and brings it up to date.
            let identity = self.identity()?;
            match volume.acquire_cookie(&self.key, identity.clone()) {
                Ok(acquired) => {
                    // What the disk holds from before a scrub is not to be trusted, whatever its version.
                    if self.volume.distrusts(&self.key) {
                        acquired.invalidate(identity, false);
                    }
                    *slot = Some(acquired);
                }
                // The last inode of this key is just letting go: uncached for now, tried again later.
                Err(error) => tracing::debug!(%error, "no cookie yet"),
            }
        }
        slot.as_ref().and_then(|slot| slot.cookie().cloned())
    }

    /// The disk cache's object if it is live and belongs to the inode's current identity.
    pub(crate) fn usable(&self, access: Access) -> Option<Access> {
        let of = access.object().identity();
        let current = of.size == self.sizes.load().remote_i_size && self.cell.has_version(&of.aux);
        current.then_some(access)
    }

    /// Makes sure that what is cached may be used by a reader that starts now: at most one call to
    /// the server, shared with concurrent callers.
    pub(crate) async fn ensure_valid(self: &Arc<Self>, remote: &DynFile, cx: &Cx) -> Result<()> {
        match self.cell.valid_now() {
            Validity::Valid => return Ok(()),
            Validity::Deleted => return Err(deleted_error()),
            Validity::Stale(_) => {}
        }
        self.core.check_open()?;
        let (inode, remote, call_cx) = (Arc::clone(self), Arc::clone(remote), cx.clone());
        let check = move || async move { inode.validate(&remote, call_cx, Overtaken::Check).await };
        let dropping = || self.waiting(WaitKind::Change, 0..0);
        self.cell.validate(&self.core.driver, cx.deadline(), check, dropping).await
    }

    /// One check of our own, for who has the file's turn of writeback: one that is shared may wait for the turn.
    pub(crate) async fn ensure_valid_in_turn(&self, remote: &DynFile, cx: Cx) -> Result<()> {
        match self.cell.valid_now() {
            Validity::Valid => Ok(()),
            Validity::Deleted => Err(deleted_error()),
            Validity::Stale(_) => self.validate(remote, cx, Overtaken::InTurn).await,
        }
    }

    async fn validate(&self, remote: &DynFile, cx: Cx, who: Overtaken) -> Result<()> {
        let _wait = self.waiting(WaitKind::Validate, 0..0);
        let mut quiet = self.quiet(who, MAX_LATE);
        loop {
            let epoch = self.cell.sample();
            let check = self.core.answered(Arc::clone(remote).validate(cx.clone()));
            match check.await {
                Ok(facts) => {
                    if self.apply_as(ReplyKind::Check, &facts, &epoch, &[]) == Verdict::Use {
                        return Ok(());
                    }
                }
                Err(e) if is_gone(&e) => {
                    self.mark_deleted();
                    return Err(deleted_error());
                }
                Err(e) => return Err(e),
            }
            if !quiet.again().await {
                break;
            }
        }
        // An upload is tried again by itself.
        let errno = if who == Overtaken::InTurn { Errno::EAGAIN } else { Errno::ESTALE };
        Err(Error::new(errno, "the file changes faster than it can be checked; try again"))
    }

    /// Whether the size is that of another version than the current one.
    pub(crate) fn size_doubtful(&self) -> bool {
        self.size_doubtful.load(Ordering::Acquire)
    }

    /// Asks the server for the size of a version that came without one.
    pub(crate) async fn learn_size(self: &Arc<Self>, remote: &DynFile, cx: &Cx) -> Result<()> {
        self.core.check_open()?;
        let (inode, remote, cx) = (Arc::clone(self), Arc::clone(remote), cx.clone());
        let check = async move { inode.validate(&remote, cx, Overtaken::Check).await };
        let check = self.core.driver.spawn(check);
        check.await.map_err(|_| Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down"))?
    }

    /// Fails once the file is known to be deleted.
    pub(crate) fn check_exists(&self) -> Result<()> {
        match self.cell.valid_now() {
            Validity::Deleted => Err(deleted_error()),
            _ => Ok(()),
        }
    }

    /// The server says the file is gone (A1.14): further accesses are `ESTALE`.
    pub(crate) fn mark_deleted(&self) {
        drop(self.cell.mark_deleted());
    }

    /// Drops all pages from memory; the cache object stays.
    pub(crate) fn drop_pages(&self) {
        self.begin_change();
        self.pages.evict_all();
        self.end_change();
    }

    /// Drops the pages of a range from memory.
    pub(crate) fn drop_range(&self, range: std::ops::Range<u64>) {
        self.begin_change();
        self.pages.remove_range(range);
        self.end_change();
    }

    /// Forgets everything cached, in memory and on disk (an application's or administrator's wish).
    pub(crate) fn invalidate(&self) {
        self.begin_change();
        self.cell.expire();
        if let Some(cookie) = self.live_cookie() {
            let identity = cookie.identity();
            cookie.invalidate(identity, false);
        }
        self.pages.clear_keeping(&[]);
        self.disk_misses.clear();
        *self.symlink.lock() = None;
        self.fronts_forget(0..u64::MAX);
        self.end_change();
    }

    pub(crate) fn cached_symlink(&self) -> Option<Bytes> {
        let slot = self.symlink.lock();
        let (epoch, version, target) = slot.as_ref()?;
        self.cell.is_current(version.as_ref(), epoch).then(|| target.clone())
    }

    pub(crate) fn store_symlink(&self, epoch: Epoch, version: Option<Version>, target: Bytes) {
        *self.symlink.lock() = Some((epoch, version, target));
    }

    /// Enters a wait about this file in the listing, until the guard is dropped.
    pub(crate) fn waiting(&self, kind: WaitKind, range: std::ops::Range<u64>) -> Wait {
        let (volume, key) = (self.volume.id().clone(), self.key.clone());
        self.core.waits.enter(WaitInfo { kind, volume, key, range, since: self.now() })
    }

    /// Notes a read given up at its deadline; `false` if one over the same bytes is still out: then
    /// the second attempt has failed too.
    pub(crate) fn abandon(&self, range: std::ops::Range<u64>) -> bool {
        let wait = self.waiting(WaitKind::AbandonedRead, range.clone());
        let mut list = self.abandoned.lock();
        let free = !list.iter().any(|(r, _)| r.start < range.end && range.start < r.end);
        list.push((range, wait));
        free
    }

    /// How many reads of some of these bytes were given up and are still out.
    pub(crate) fn abandoned_over(&self, range: &std::ops::Range<u64>) -> usize {
        let list = self.abandoned.lock();
        list.iter().filter(|(r, _)| r.start < range.end && range.start < r.end).count()
    }

    /// The late reply of an abandoned read has come (or its sub was dropped).
    pub(crate) fn abandoned_ended(&self, range: &std::ops::Range<u64>) {
        let mut list = self.abandoned.lock();
        let at = list.iter().position(|(r, _)| r == range);
        let ended = at.map(|i| list.swap_remove(i));
        drop(list);
        drop(ended);
    }

    /// Notes a cache read that was given up. While the note lives, which MUST be until the read has
    /// returned, the disk is not asked for this file.
    pub(crate) fn cache_read_hangs(self: &Arc<Self>, range: std::ops::Range<u64>) -> HungRead {
        self.hung_cache_reads.fetch_add(1, Ordering::AcqRel);
        let wait = self.waiting(WaitKind::HungCacheRead, range);
        HungRead { inode: Arc::clone(self), _wait: wait }
    }

    pub(crate) fn cache_hung(&self) -> bool {
        self.hung_cache_reads.load(Ordering::Acquire) > 0
    }

    /// Counts a read answered from held folios.
    pub(crate) fn count_read(&self, held: &[Held], range: &std::ops::Range<u64>) {
        self.pages.count_held(held, range);
    }
}

fn deleted_error() -> Error {
    Error::new(Errno::ESTALE, "the file was deleted on the server; look its name up again")
}

impl Drop for Inode {
    fn drop(&mut self) {
        self.pin.end();
        if let Some(slot) = self.cookie.get_mut().take() {
            let gone = self.cell.valid_now() == Validity::Deleted;
            slot.relinquish(if gone { Relinquish::Retire } else { Relinquish::Keep });
        }
        self.pages.clear_keeping(&[]);
        self.unpark();
        self.volume.forget_inode(self.id, &self.key);
    }
}
