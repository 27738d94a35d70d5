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
//!
//! **A front that is slow to answer** costs as much as one that is not. Of one file it has at most `CALLS_MAX`
//! calls without an answer; what there is to tell it beyond that is one range, which grows, and is told once an
//! answer makes room (`front`). Tickets (`ticket`) count in what was told, not in calls: one resolves when
//! every front has answered all it was told up to then.

mod front;
mod ticket;

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    ops::Range,
    sync::OnceLock,
};

#[cfg(test)]
pub(super) use front::CALLS_MAX;
use front::{Front, Zap};
pub use front::{ZapDone, Zapper};
use smallvec::SmallVec;
pub use ticket::Ticket;
pub(super) use ticket::remember;

use super::events::InodeTable;
use crate::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicU64, Ordering},
};

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

/// What an inode knows of its fronts without asking the registry.
#[derive(Default)]
pub(super) struct Watched {
    /// The number of the last zap.
    pub(super) generation: AtomicU64,
    /// Registrations, so that a change of a file without any costs a load.
    fronts: AtomicU64,
}

impl Watched {
    /// Whether nobody has registered.
    ///
    /// A front that has looked at a page before the change this is asked for had registered by then, and the
    /// lock around page or state that the change took after it brings the number here. In the strongest order
    /// all the same, which costs nothing for a load: some of what fronts look at is published without a lock.
    pub(super) fn by_nobody(&self) -> bool {
        self.fronts.load(Ordering::SeqCst) == 0
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
    inodes: Mutex<HashMap<u64, Vec<Arc<Front>>>>,
    /// Who makes the calls that an answer makes room for.
    table: OnceLock<Weak<dyn InodeTable>>,
}

/// Some fronts, as a rule one or two.
type Fronts = SmallVec<[Arc<Front>; 2]>;

impl ZapRegistry {
    /// Says who makes calls later; see [`VolumeCell::bind`](super::VolumeCell::bind).
    pub(super) fn bind(&self, table: Weak<dyn InodeTable>) {
        let _ = self.table.set(table);
    }

    /// Registers a zapper of the inode `number`.
    pub(super) fn register(
        self: &Arc<Self>,
        number: u64,
        watched: &Arc<Watched>,
        origin: Origin,
        zapper: Arc<dyn Zapper>,
    ) -> ZapRegistration {
        let registry = Arc::clone(self);
        let front = Front::new(registry, Arc::clone(watched), origin, zapper);
        self.inodes.lock().entry(number).or_default().push(Arc::clone(&front));
        // Before the front looks at a page: a change that is not told of by then is seen.
        watched.fronts.fetch_add(1, Ordering::SeqCst);
        ZapRegistration { registry: Arc::clone(self), inode: number, front }
    }

    /// Zaps, and returns a ticket for the answers.
    pub(super) fn zap(&self, target: Target, range: &Range<u64>, generation: u64) -> Ticket {
        let zap = Zap { range: range.clone(), generation };
        let told = self.find(target, generation).into_iter().map(|front| {
            let upto = front.tell(&zap);
            (front, upto)
        });
        Ticket::new(told.collect())
    }

    /// The same without a ticket, and not for `skip`.
    pub(super) fn tell(
        &self,
        target: Target,
        range: &Range<u64>,
        generation: u64,
        skip: Option<Origin>,
    ) {
        let zap = Zap { range: range.clone(), generation };
        for front in self.find(target, generation) {
            if skip != Some(front.origin) {
                front.tell(&zap);
            }
        }
    }

    /// Whom a zap is about, with their inodes' generations raised. They are told with no lock held.
    fn find(&self, target: Target, generation: u64) -> Fronts {
        let inodes = self.inodes.lock();
        let fronts: Fronts = match target {
            Target::Inode(number) => inodes.get(&number).into_iter().flatten().cloned().collect(),
            Target::Volume => inodes.values().flatten().cloned().collect(),
        };
        for front in &fronts {
            front.watched.generation.fetch_max(generation, Ordering::AcqRel);
        }
        fronts
    }

    /// Does `work` on a thread that holds none of a front's locks.
    fn later(&self, work: impl FnOnce() + Send + 'static) {
        match self.table.get().and_then(Weak::upgrade) {
            Some(table) => table.later(Box::new(work)),
            // The volume is gone, and with it who could have a lock that matters.
            None => work(),
        }
    }

    fn deregister(&self, number: u64, front: &Arc<Front>) {
        let gone = {
            let mut inodes = self.inodes.lock();
            let Entry::Occupied(mut entry) = inodes.entry(number) else { return };
            let fronts = entry.get_mut();
            let at = fronts.iter().position(|other| Arc::ptr_eq(other, front));
            let gone = at.map(|at| fronts.swap_remove(at));
            if fronts.is_empty() {
                entry.remove();
            }
            gone
        };
        // Outside the lock: a waker may run anything.
        if let Some(front) = gone {
            front.watched.fronts.fetch_sub(1, Ordering::SeqCst);
            front.leave();
        }
    }
}

/// Keeps a [`Zapper`] registered. Dropping it deregisters and answers for it whatever is outstanding.
pub struct ZapRegistration {
    registry: Arc<ZapRegistry>,
    inode: u64,
    front: Arc<Front>,
}

impl Drop for ZapRegistration {
    fn drop(&mut self) {
        self.registry.deregister(self.inode, &self.front);
    }
}

impl fmt::Debug for ZapRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZapRegistration(inode {}, {:?})", self.inode, self.front)
    }
}

#[cfg(all(test, not(shuttle)))]
impl ZapRegistration {
    /// How many things are kept for this front.
    pub(super) fn entries(&self) -> usize {
        self.front.entries()
    }
}
