//! One folio: its place in the file, its memory, its state and who waits for it.
//!
//! ```text
//!            lock_window                publish
//!   (absent) -----------> LOCKED ------------------> UPTODATE -- evicted, cleared --> (absent)
//!       |                    |  fail, clear, remove      |  ^
//!       | write              +-----------> FAILED        |  | whole by writes
//!       +--------------------------------------------- PARTIAL
//! ```
//!
//! A folio is locked by state, never by a guard, and leaves LOCKED once. FAILED is out of the index for
//! good. What was written into a folio and is not on the server is its [`Dirt`]: a PARTIAL folio is
//! defined in those bytes only; a LOCKED one has them in an overlay, which is laid over what arrives; a
//! dirty UPTODATE one is not evicted.

use std::{
    future::Future,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use super::{
    PAGE_SIZE, Slice,
    budget::{self, Account},
    dirt::Dirt,
    index::FolioIndex,
    memory::FolioMem,
    unread::{Unread, bytes_in},
    waiters::{WaitKey, Waiters},
};
use crate::{
    error::Error,
    policy::{Entry, FREQUENCY_MAX, Token},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

/// Being filled. Exactly one request does that.
const LOCKED: u32 = 1;
/// Filled; the memory no longer changes. Set with release after the last byte was written.
const UPTODATE: u32 = 2;
/// Out of the index without ever having been uptodate.
const FAILED: u32 = 4;
/// Not filled, not being filled: only the bytes of its dirt are defined.
const PARTIAL: u32 = 8;
/// Has dirt. Set and cleared while the index is held exclusively.
const DIRTY: u32 = 16;

/// Low bits of the access word: the frequency. The rest: where the last read ended, in the folio.
const FREQUENCY_BITS: u32 = 2;

/// How a folio left its locked state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unlocked {
    /// Its content is there.
    Uptodate,
    /// Its fetch failed or it was invalidated meanwhile: plan again.
    Failed,
}

/// A piece of a file in memory: a power of two bytes, naturally aligned in the file.
pub(crate) struct Folio {
    offset: u64,
    mem: Arc<FolioMem>,
    len: u32,
    state: AtomicU32,
    /// Frequency for the policy and the end of the last read. Lost updates only blur the policy.
    access: AtomicU32,
    /// The policy's token; read and written under the policy's lock only.
    token: AtomicU32,
    key: u64,
    index: Weak<FolioIndex>,
    waiters: Waiters,
    /// A page's first read is a hit or miss of what brought it, later ones are memory hits.
    unread: Unread,
    /// What brought the content, and how many bytes of it can be read (low 24 bits).
    brought: AtomicU32,
    /// Why the fetch failed, for those who waited for it.
    error: Mutex<Option<Error>>,
    /// Changed only while the index is held exclusively.
    dirt: Mutex<Option<Box<Dirt>>>,
}

/// Where a folio's content came from, for the statistics of its first read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Origin {
    /// Zeros made here.
    Zero = 1,
    /// The disk cache.
    Disk = 2,
    /// The server: never cached before.
    Cold = 3,
    /// The server: had been evicted, or the disk cache lacked it.
    Capacity = 4,
    /// The server: had been dropped because the file changed.
    Coherency = 5,
    /// The server: the disk cache's copy was damaged.
    Corruption = 6,
    /// The server: the reader did not want it from a cache.
    Bypass = 7,
    /// The server: the disk cache failed or was too slow.
    Fault = 8,
}

impl Origin {
    fn from_raw(raw: u32) -> Option<Origin> {
        use Origin::{Bypass, Capacity, Coherency, Cold, Corruption, Disk, Fault, Zero};
        let all = [Zero, Disk, Cold, Capacity, Coherency, Corruption, Bypass, Fault];
        all.into_iter().find(|o| *o as u32 == raw)
    }
}

const READABLE_BITS: u32 = 24;
const READABLE_MASK: u32 = (1 << READABLE_BITS) - 1;
/// Brought by readahead.
const AHEAD: u32 = 1 << 31;

/// Pages that a reader was the first to read some of.
pub(super) struct FirstRead {
    pub(super) pages: u32,
    /// What the reader got of them.
    pub(super) bytes: u64,
    pub(super) origin: Origin,
}

impl Folio {
    /// A locked folio over `mem`.
    pub(super) fn locked(
        offset: u64,
        mem: Arc<FolioMem>,
        index_id: u64,
        index: Weak<FolioIndex>,
    ) -> Arc<Folio> {
        Folio::new(offset, mem, index_id, index, LOCKED, None)
    }

    /// A folio that was written to: all of it is defined, or only what its dirt says.
    pub(super) fn written(
        offset: u64,
        mem: Arc<FolioMem>,
        index_id: u64,
        index: Weak<FolioIndex>,
        uptodate: bool,
        dirt: Box<Dirt>,
    ) -> Arc<Folio> {
        let state = DIRTY | if uptodate { UPTODATE } else { PARTIAL };
        Folio::new(offset, mem, index_id, index, state, Some(dirt))
    }

    fn new(
        offset: u64,
        mem: Arc<FolioMem>,
        index_id: u64,
        index: Weak<FolioIndex>,
        state: u32,
        dirt: Option<Box<Dirt>>,
    ) -> Arc<Folio> {
        // At most a granule: an arena block, checked there.
        let len = mem.len() as u32;
        Arc::new(Folio {
            offset,
            mem,
            len,
            state: AtomicU32::new(state),
            access: AtomicU32::new(0),
            token: AtomicU32::new(Token::NONE.to_raw()),
            key: mix(index_id, offset / PAGE_SIZE as u64),
            index,
            waiters: Waiters::default(),
            unread: Unread::none(),
            brought: AtomicU32::new(0),
            error: Mutex::new(None),
            dirt: Mutex::new(dirt),
        })
    }

    /// First byte in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// The bytes of the file it covers.
    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len() as u64
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.state.load(Ordering::Acquire) & LOCKED != 0
    }

    /// Whether the content is there. Stays true after the folio has left the index.
    pub(crate) fn is_uptodate(&self) -> bool {
        self.state.load(Ordering::Acquire) & UPTODATE != 0
    }

    /// Whether only the bytes of its dirt are defined.
    pub(crate) fn is_partial(&self) -> bool {
        self.state.load(Ordering::Acquire) & PARTIAL != 0
    }

    /// Whether something of it is not on the server yet.
    pub(crate) fn is_dirty(&self) -> bool {
        self.state.load(Ordering::Acquire) & DIRTY != 0
    }

    /// Looks at the dirt. Stable while the index is held.
    pub(super) fn with_dirt<R>(&self, look: impl FnOnce(Option<&Dirt>) -> R) -> R {
        look(self.dirt.lock().as_deref())
    }

    /// Changes the dirt and the state's bit with it. The index MUST be held exclusively.
    pub(super) fn change_dirt<R>(&self, change: impl FnOnce(&mut Option<Box<Dirt>>) -> R) -> R {
        let mut dirt = self.dirt.lock();
        let result = change(&mut dirt);
        if dirt.is_some() {
            self.state.fetch_or(DIRTY, Ordering::Release);
        } else {
            self.state.fetch_and(!DIRTY, Ordering::Release);
        }
        result
    }

    /// Every byte of a partial folio is defined now. The index MUST be held exclusively.
    pub(super) fn completed(&self) {
        self.state.fetch_or(UPTODATE, Ordering::Release);
        self.state.fetch_and(!PARTIAL, Ordering::Release);
    }

    /// Takes over what another folio in the same place knew of its readers.
    pub(super) fn inherit(&self, from: &Folio) {
        self.access.store(from.access.load(Ordering::Relaxed), Ordering::Relaxed);
        self.brought.store(from.brought.load(Ordering::Relaxed), Ordering::Relaxed);
        self.unread.take_over(&from.unread);
    }

    /// A piece of the folio, without a copy. `range` is relative to the folio. The index MUST be held:
    /// memory that nobody has a slice of may be written to by whoever holds it exclusively.
    ///
    /// # Panics
    /// If the folio is not uptodate or shorter: bugs of this crate.
    pub(super) fn slice(&self, range: Range<usize>) -> Slice {
        assert!(self.is_uptodate(), "slice of a folio that is not uptodate");
        Slice::settled(Arc::clone(&self.mem), range)
    }

    /// The same for the fetch that has filled the folio and not published it yet: nobody writes to that
    /// memory before.
    ///
    /// # Panics
    /// If the memory is not complete or shorter: bugs of this crate.
    pub(crate) fn slice_filled(&self, range: Range<usize>) -> Slice {
        assert!(self.mem.is_complete(), "slice of a folio that is not filled");
        Slice::settled(Arc::clone(&self.mem), range)
    }

    /// Resolves when the folio is no longer locked. Any number may wait; dropping the future is fine.
    pub(crate) fn wait_unlocked(self: &Arc<Self>) -> WaitUnlocked {
        WaitUnlocked { folio: Arc::clone(self), key: None }
    }

    /// Notes where the content came from and how many of its bytes readers can get (the padding of
    /// the last page is no content), and whether readahead brought it. Before it is published.
    pub(crate) fn set_origin(&self, origin: Origin, readable: u32, ahead: bool) {
        let ahead = if ahead { AHEAD } else { 0 };
        let readable = readable.min(self.len);
        let word = ahead | (origin as u32) << READABLE_BITS | readable;
        self.brought.store(word, Ordering::Relaxed);
        self.unread.set(readable as usize);
    }

    /// A reader has got `range` (relative to the folio): what of it counts as first read.
    pub(super) fn take_first_read(&self, range: &Range<usize>) -> Option<FirstRead> {
        let taken = self.unread.take(range);
        if taken == 0 {
            return None;
        }
        let origin = Origin::from_raw((self.brought() & !AHEAD) >> READABLE_BITS)?;
        Some(FirstRead { pages: taken.count_ones(), bytes: bytes_in(taken, range), origin })
    }

    /// The folio is gone: all that nobody has read counts as nobody's.
    pub(super) fn take_rest(&self) -> Option<FirstRead> {
        self.take_first_read(&(0..(self.brought() & READABLE_MASK) as usize))
    }

    /// Whether readahead brought it.
    pub(super) fn was_ahead(&self) -> bool {
        self.brought() & AHEAD != 0
    }

    /// Pages no reader has had yet.
    pub(super) fn unread_pages(&self) -> u32 {
        self.unread.count()
    }

    fn brought(&self) -> u32 {
        self.brought.load(Ordering::Relaxed)
    }

    /// Says why the fetch failed, before the folio is given up.
    pub(crate) fn set_error(&self, error: Error) {
        self.error.lock().get_or_insert(error);
    }

    /// Why the fetch failed, if it did for a reason that concerns whoever waited.
    pub(crate) fn error(&self) -> Option<Error> {
        self.error.lock().clone()
    }

    pub(super) fn mem(&self) -> &FolioMem {
        &self.mem
    }

    pub(super) fn mem_arc(&self) -> &Arc<FolioMem> {
        &self.mem
    }

    pub(super) fn index(&self) -> &Weak<FolioIndex> {
        &self.index
    }

    pub(super) fn token(&self) -> Token {
        Token::from_raw(self.token.load(Ordering::Relaxed))
    }

    pub(super) fn set_token(&self, token: Token) {
        self.token.store(token.to_raw(), Ordering::Relaxed);
    }

    /// Notes a read of `range` (relative to the folio) for the policy.
    ///
    /// A read that begins where the last one ended is the same pass over the file going on: it does
    /// not count, else a scan in small steps would make every folio look hot. A saturated folio is
    /// not written to, so that its cache line stays shared among readers.
    pub(super) fn touch(&self, range: Range<usize>) {
        let access = self.access.load(Ordering::Relaxed);
        let frequency = access & u32::from(FREQUENCY_MAX);
        if frequency == u32::from(FREQUENCY_MAX) {
            return;
        }
        let goes_on = (access >> FREQUENCY_BITS) as usize == range.start;
        let frequency = frequency + u32::from(!goes_on);
        self.access.store((range.end as u32) << FREQUENCY_BITS | frequency, Ordering::Relaxed);
    }

    /// Leaves the locked state; false if someone else did that before. The caller MUST
    /// [`wake`](Folio::wake) afterwards, holding no lock.
    pub(super) fn settle(&self, how: Unlocked) -> bool {
        let to = match how {
            Unlocked::Uptodate => UPTODATE,
            Unlocked::Failed => FAILED,
        };
        let mut state = self.state.load(Ordering::Acquire);
        while state & LOCKED != 0 {
            let new = state & !LOCKED | to;
            let order = (Ordering::AcqRel, Ordering::Acquire);
            match self.state.compare_exchange(state, new, order.0, order.1) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Wakes everybody who waits for the folio. After [`settle`](Folio::settle).
    pub(super) fn wake(&self) {
        self.waiters.wake_all();
    }

    /// Accounts memory that has left the index or never will be in it: pinned by whoever still holds
    /// it, or, while its fetch is still writing, abandoned.
    pub(super) fn account_removed(&self) {
        let to = if self.mem.is_settled() { Account::Pinned } else { Account::Abandoned };
        if let Some(charge) = self.mem.charge() {
            charge.move_to(to);
        }
    }

    fn unlocked(&self) -> Option<Unlocked> {
        match self.state.load(Ordering::Acquire) {
            s if s & LOCKED != 0 => None,
            s if s & UPTODATE != 0 => Some(Unlocked::Uptodate),
            _ => Some(Unlocked::Failed),
        }
    }
}

impl Entry for Arc<Folio> {
    fn key(&self) -> u64 {
        self.key
    }

    fn weight(&self) -> u64 {
        budget::cost(self.len() as u64)
    }

    fn frequency(&self) -> u8 {
        self.access.load(Ordering::Relaxed) as u8 & FREQUENCY_MAX
    }

    fn set_frequency(&self, frequency: u8) {
        let access = self.access.load(Ordering::Relaxed) & !u32::from(FREQUENCY_MAX);
        self.access.store(access | u32::from(frequency.min(FREQUENCY_MAX)), Ordering::Relaxed);
    }

    fn evictable(&self) -> bool {
        self.state.load(Ordering::Acquire) == UPTODATE
    }
}

impl std::fmt::Debug for Folio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Folio({:?}, state {:#x})", self.range(), self.state.load(Ordering::Relaxed))
    }
}

/// A folio that a reader holds while it waits for others.
pub(crate) struct Held {
    pub(crate) folio: Arc<Folio>,
    /// Whether it was uptodate when the reader came to it: a hit, whoever brought it.
    pub(crate) found: bool,
}

/// What each of `held`, which cover `range` in file order, contributes to it.
///
/// They may overlap: between two looks at the index one may have been evicted and its place taken by a
/// larger folio, which the next look finds. Its share begins where the last one's ended.
pub(crate) fn shares<'a>(
    held: &'a [Held],
    range: &Range<u64>,
) -> impl Iterator<Item = (&'a Held, Range<u64>)> {
    let (mut at, end) = (range.start, range.end);
    held.iter().filter_map(move |held| {
        let share = at.max(held.folio.offset())..held.folio.range().end.min(end);
        at = at.max(share.end);
        (!share.is_empty()).then_some((held, share))
    })
}

/// See [`Folio::wait_unlocked`].
pub(crate) struct WaitUnlocked {
    folio: Arc<Folio>,
    key: Option<WaitKey>,
}

impl Future for WaitUnlocked {
    type Output = Unlocked;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Unlocked> {
        let this = &mut *self;
        if let Some(how) = this.folio.unlocked() {
            return Poll::Ready(how);
        }
        let folio = &this.folio;
        // The state is looked at again with the waiter list locked: see `Waiters`.
        if folio.waiters.register(&mut this.key, cx.waker(), || folio.is_locked()) {
            return Poll::Pending;
        }
        folio.unlocked().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for WaitUnlocked {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.folio.waiters.forget(key);
        }
    }
}

/// A well mixed 64-bit name for page `page` of index `index_id` (splitmix64's finaliser).
fn mix(index_id: u64, page: u64) -> u64 {
    let mut x = index_id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ page;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
