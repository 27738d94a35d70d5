//! Zapping: taking mapped pages away from every front, and knowing when all have done so.
//!
//! A front that maps a file's pages somewhere the core cannot see (a kernel's page tables through
//! FUSE, a userfaultfd mapping) registers a [`Zapper`]. A break calls all of them and returns a
//! [`Ticket`]. The pages themselves stay cached (A2.05): the break may be spurious, and the truth
//! needs an RPC.
//!
//! So does whatever replaces or drops pages that a front may have: a write, a cut, a hole, a direct write,
//! bytes that are given up, another version that a check has found, an own change that met somebody else's. It
//! tells all fronts but the one that made the change ([`OpenOptions::origin`](crate::OpenOptions::origin)),
//! after the change, and before the call returns; nobody waits for the answers. A front with a copy of its own
//! (a kernel's page cache) hears of plain writes for its copy's sake, one that maps slices because a byte of a
//! slice never changes. Eviction is no change, and is not told.
//!
//! A front registers first and checks validity afterwards, on each fault; an event first makes the
//! file stale and walks the registrations afterwards. So whichever comes second sees the other: no
//! page is mapped unnoticed (A2.03, A2.04).

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use crate::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// A front that has pages of a file mapped.
pub trait Zapper: Send + Sync + 'static {
    /// Unmap what is mapped of `range` (bytes; of each page it touches), then answer through `done`.
    ///
    /// It is called from the thread that reports an event or makes a change, so it MUST NOT block, do I/O, or call
    /// back into the library: it queues the work. Several calls may be outstanding and may come in
    /// any order. `generation` grows with each event; a fault handler that read the file's
    /// generation before it checked validity MUST NOT map if a zap with a greater one has come since.
    fn zap(&self, range: Range<u64>, generation: u64, done: ZapDone);
}

/// Identifies a front, so that the originator of a change is not asked to zap its own pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Origin(u64);

impl Origin {
    /// An origin unlike any other of this process.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each call makes another one")]
    pub fn new() -> Origin {
        // Not through crate::sync: identities are not part of any interleaving under test.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Origin(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

/// A front's answer to one [`Zapper::zap`]. Dropping it counts as the answer, so a front that dies
/// holds nobody up.
pub struct ZapDone(Arc<Answer>);

impl ZapDone {
    /// The pages are unmapped.
    pub fn done(self) {
        drop(self);
    }
}

impl Drop for ZapDone {
    fn drop(&mut self) {
        self.0.give();
    }
}

impl fmt::Debug for ZapDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ZapDone(..)")
    }
}

/// One front's answer, given once: by the front, or for it when it deregisters.
struct Answer {
    given: AtomicBool,
    ticket: Arc<Mutex<Pending>>,
}

impl Answer {
    fn give(&self) {
        if self.given.swap(true, Ordering::AcqRel) {
            return;
        }
        let wakers = {
            let mut pending = self.ticket.lock();
            pending.left -= 1;
            if pending.left == 0 { std::mem::take(&mut pending.wakers) } else { Vec::new() }
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[derive(Default)]
struct Pending {
    left: usize,
    wakers: Vec<Waker>,
}

/// Resolves when every front has dropped what it had mapped of the broken files, or has gone away.
#[derive(Clone)]
#[must_use = "dropping a ticket is fine where nobody has to wait, but say so"]
pub struct Ticket(Arc<Mutex<Pending>>);

impl Ticket {
    /// A ticket for nothing.
    pub(crate) fn resolved() -> Ticket {
        Ticket(Arc::new(Mutex::new(Pending::default())))
    }

    /// Whether all have answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.lock().left == 0
    }
}

impl Future for Ticket {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut pending = self.0.lock();
        if pending.left == 0 {
            return Poll::Ready(());
        }
        remember(&mut pending.wakers, cx.waker());
        Poll::Pending
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({} answers missing)", self.0.lock().left)
    }
}

/// Adds a waker unless it is there already.
pub(super) fn remember(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|w| w.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

/// What to zap.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// One inode's registrations, by the inode's number.
    Inode(u64),
    /// Every registration of the volume.
    Volume,
}

/// The registrations of one volume. Only inodes with one are in it, so a volume-wide event walks
/// what is mapped and nothing else (A2.01).
#[derive(Default)]
pub(super) struct ZapRegistry {
    table: Mutex<Table>,
    /// Registrations, so that a write to a volume without any costs a load.
    count: AtomicU64,
}

#[derive(Default)]
struct Table {
    next: u64,
    inodes: HashMap<u64, Vec<Registered>>,
}

struct Registered {
    id: u64,
    origin: Origin,
    zapper: Arc<dyn Zapper>,
    generation: Arc<AtomicU64>,
    outstanding: Vec<Weak<Answer>>,
}

impl ZapRegistry {
    /// Registers a zapper; `generation` is the inode's, raised by each zap.
    pub(super) fn register(
        self: &Arc<Self>,
        inode: u64,
        generation: &Arc<AtomicU64>,
        origin: Origin,
        zapper: Arc<dyn Zapper>,
    ) -> ZapRegistration {
        let mut table = self.table.lock();
        table.next += 1;
        let id = table.next;
        let generation = Arc::clone(generation);
        let outstanding = Vec::new();
        let registered = Registered { id, origin, zapper, generation, outstanding };
        table.inodes.entry(inode).or_default().push(registered);
        // Before the front looks at a page: a change that is not told of by then is seen.
        self.count.fetch_add(1, Ordering::SeqCst);
        drop(table);
        ZapRegistration { registry: Arc::clone(self), inode, id }
    }

    /// Whether nobody has registered.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Zaps, and returns a ticket for the answers. The zappers are called with no lock held.
    pub(super) fn zap(
        &self,
        target: Target,
        range: &Range<u64>,
        generation: u64,
        skip: Option<Origin>,
    ) -> Ticket {
        let ticket = Ticket::resolved();
        let mut calls = Vec::new();
        {
            let mut table = self.table.lock();
            match target {
                Target::Inode(inode) => {
                    let registered = table.inodes.get_mut(&inode).into_iter().flatten();
                    registered.for_each(|r| r.prepare(&ticket, generation, skip, &mut calls));
                }
                Target::Volume => {
                    let registered = table.inodes.values_mut().flatten();
                    registered.for_each(|r| r.prepare(&ticket, generation, skip, &mut calls));
                }
            }
            ticket.0.lock().left = calls.len();
        }
        for (zapper, done) in calls {
            zapper.zap(range.clone(), generation, done);
        }
        ticket
    }

    fn deregister(&self, inode: u64, id: u64) {
        let gone = {
            let mut table = self.table.lock();
            let Some(list) = table.inodes.get_mut(&inode) else { return };
            let gone = list.iter().position(|r| r.id == id).map(|at| list.swap_remove(at));
            if list.is_empty() {
                table.inodes.remove(&inode);
            }
            self.count.fetch_sub(u64::from(gone.is_some()), Ordering::SeqCst);
            gone
        };
        // Outside the lock: a waker may run anything.
        let answers = gone.map(|r| r.outstanding).unwrap_or_default();
        answers.iter().filter_map(Weak::upgrade).for_each(|answer| answer.give());
    }
}

impl Registered {
    /// Records the answer to wait for, before anyone can be called or deregister.
    fn prepare(
        &mut self,
        ticket: &Ticket,
        generation: u64,
        skip: Option<Origin>,
        calls: &mut Vec<(Arc<dyn Zapper>, ZapDone)>,
    ) {
        self.generation.fetch_max(generation, Ordering::AcqRel);
        if skip == Some(self.origin) {
            return;
        }
        let given = AtomicBool::new(false);
        let answer = Arc::new(Answer { given, ticket: Arc::clone(&ticket.0) });
        self.outstanding.retain(|a| a.strong_count() > 0);
        self.outstanding.push(Arc::downgrade(&answer));
        calls.push((Arc::clone(&self.zapper), ZapDone(answer)));
    }
}

/// Keeps a [`Zapper`] registered. Dropping it deregisters and answers for it whatever is outstanding.
pub struct ZapRegistration {
    registry: Arc<ZapRegistry>,
    inode: u64,
    id: u64,
}

impl Drop for ZapRegistration {
    fn drop(&mut self) {
        self.registry.deregister(self.inode, self.id);
    }
}

impl fmt::Debug for ZapRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZapRegistration({}/{})", self.inode, self.id)
    }
}
