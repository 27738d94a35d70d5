//! An inode's shell.

use std::{
    future::poll_fn,
    task::{Poll, Waker},
};

use super::{VolumeCell, volume::WHOLE_FILE};
use crate::{
    clock::BootTime,
    coherency::{
        gate::ValidateGate,
        model::{
            Action, Decision, Epoch, InodeCoherency, KeySlot, ReplyKind, StaleReason, Validity,
        },
        zap::{Origin, Target, Ticket, Watched, ZapRegistration, Zapper, remember},
    },
    remote::{Facts, Version},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

/// One inode's coherency state.
///
/// Published are two words, written under the state lock. A reader loads `word` before `deadline`
/// and the volume's barrier last; the writer stores `deadline` before `word`. So a reader that sees
/// a promise's `word` sees its deadline or that of a later promise, and a reader that started after
/// an event returned sees the event.
pub(crate) struct InodeCell {
    word: AtomicU64,
    deadline: AtomicU64,
    volume: Arc<VolumeCell>,
    number: u64,
    watched: Arc<Watched>,
    state: Mutex<State>,
    pub(in crate::coherency) gate: Arc<ValidateGate>,
}

struct State {
    model: InodeCoherency,
    /// Who waits for drops to end.
    settling: Vec<Waker>,
}

/// What came of a reply.
#[must_use = "a drop has to be carried out, and a late reply must not be used"]
pub(crate) struct Applied {
    /// What was decided.
    pub(crate) action: Action,
    /// Whether the reply's attributes were (or were to be) adopted by `commit`.
    pub(crate) adopt: bool,
    /// With [`Action::Drop`]: to be resolved once pages and cookie are dropped.
    pub(crate) drop: Option<DropToken>,
}

impl InodeCell {
    /// An inode about which nothing is known. See [`InodeTable`](crate::coherency::InodeTable) for
    /// when to insert it.
    pub(crate) fn new(volume: Arc<VolumeCell>, key: &[u8]) -> Arc<InodeCell> {
        let model = InodeCoherency::new(KeySlot::of(key));
        Arc::new(InodeCell {
            word: AtomicU64::new(encode(&model).0),
            deadline: AtomicU64::new(0),
            number: volume.number_inode(),
            watched: Arc::default(),
            state: Mutex::new(State { model, settling: Vec::new() }),
            gate: ValidateGate::new(Arc::clone(volume.counters())),
            volume,
        })
    }

    /// The inode's volume.
    pub(crate) fn volume(&self) -> &Arc<VolumeCell> {
        &self.volume
    }

    /// The epoch of a request that is about to be issued.
    pub(crate) fn sample(&self) -> Epoch {
        self.volume.sample()
    }

    /// Whether cached data may be served now. The hit path: three loads, no lock; the clock is read
    /// only for a finite deadline (P-D2).
    pub(crate) fn valid_now(&self) -> Validity {
        let word = self.word.load(Ordering::SeqCst);
        let deadline = BootTime::from_nanos(self.deadline.load(Ordering::SeqCst));
        let covered = match word & TAG {
            OWN => false,
            COVERED => true,
            BROKEN => return Validity::Stale(StaleReason::Broken),
            DROPPING => return Validity::Stale(StaleReason::Dropping),
            DELETED => return Validity::Deleted,
            _ => return Validity::Stale(StaleReason::NoPromise),
        };
        let validity = self.volume.check(word >> TAG_BITS, covered);
        let expired = validity == Validity::Valid
            && deadline != BootTime::NEVER
            && !self.volume.clock().is_ahead(deadline);
        if expired { Validity::Stale(StaleReason::Expired) } else { validity }
    }

    /// Applies a reply to a request with this epoch.
    ///
    /// `commit` adopts the reply's attributes (if [`Decision::adopt`])
    /// under the cell's lock, before the new promise is published and after an old one was withdrawn
    /// if data is to be dropped: nobody sees the new version with the old size (A1.29, P-D26). It
    /// must be straight-line code.
    pub(crate) fn apply(
        self: &Arc<Self>,
        facts: &Facts,
        epoch: &Epoch,
        kind: ReplyKind,
        commit: impl FnOnce(&Decision),
    ) -> Applied {
        let now = self.volume.clock().now();
        let mut state = self.state.lock();
        let decision = {
            let mut volume = self.volume.lock();
            state.model.apply(&mut volume, facts, epoch, kind, now)
        };
        let drops = matches!(decision.action, Action::Drop(_));
        if drops {
            self.publish(&state.model);
            self.volume.counters().drops.inc();
        }
        if decision.action == Action::Late {
            self.volume.counters().late_replies.inc();
        }
        commit(&decision);
        self.publish(&state.model);
        drop(state);
        let drop = drops.then(|| DropToken { inode: Some(Arc::clone(self)) });
        Applied { action: decision.action, adopt: decision.adopt, drop }
    }

    /// This client itself moved the file from the version known last to `version` (unknown if the
    /// server did not say). `commit` adopts what the reply said, as that of [`apply`](Self::apply).
    pub(crate) fn own_write(&self, version: Option<Version>, commit: impl FnOnce()) {
        let mut state = self.state.lock();
        state.model.on_own_write(&mut self.volume.lock(), version);
        commit();
        self.publish(&state.model);
    }

    /// The same where the server's version did not move: it is what is known when `commit` runs.
    pub(crate) fn own_unversioned_write(&self, commit: impl FnOnce()) {
        let mut state = self.state.lock();
        let version = state.model.version().cloned();
        state.model.on_own_write(&mut self.volume.lock(), version);
        commit();
        self.publish(&state.model);
    }

    /// Own changes are on their way to the server until the guard is dropped: see
    /// [`InodeCoherency::begin_writing`].
    pub(crate) fn writing(self: &Arc<Self>) -> Writing {
        self.state.lock().model.begin_writing();
        Writing(Arc::clone(self))
    }

    /// Whether a reply was put off because own changes are on their way.
    pub(crate) fn is_unjudged(&self) -> bool {
        self.state.lock().model.is_unjudged()
    }

    /// Replies are judged from now on, whatever is on its way: it takes too long.
    pub(crate) fn judge_anyway(&self) {
        self.state.lock().model.judge_anyway();
    }

    /// Whether bytes of a reply with this version and epoch may be published to the page cache now.
    /// See [`InodeCoherency::is_current`].
    pub(crate) fn is_current(&self, version: Option<&Version>, epoch: &Epoch) -> bool {
        let mut state = self.state.lock();
        let volume = self.volume.lock();
        state.model.is_current(&volume, version, epoch)
    }

    /// The same for bytes of a versioned reply that are kept under `aux` now: the reply's version, or what
    /// own changes of other bytes have made of it.
    pub(crate) fn vouches(&self, aux: &[u8], epoch: &Epoch) -> bool {
        let mut state = self.state.lock();
        let volume = self.volume.lock();
        let known = state.model.version().filter(|version| version.as_bytes() == aux).cloned();
        known.is_some() && state.model.is_current(&volume, known.as_ref(), epoch)
    }

    /// Whether nothing happened since `epoch` that could make an answer from then untrue: no event and
    /// no change of the version.
    pub(crate) fn quiet_since(&self, epoch: &Epoch) -> bool {
        let state = self.state.lock();
        let volume = self.volume.lock();
        state.model.quiet_since(&volume, epoch)
    }

    /// Whether nobody else can have changed the file since `epoch`.
    pub(crate) fn is_alone_since(&self, epoch: &Epoch) -> bool {
        let now = self.volume.clock().now();
        let state = self.state.lock();
        let volume = self.volume.lock();
        state.model.is_alone_since(&volume, epoch, now)
    }

    /// Takes the promise back as a break would, for a change of mind inside this client.
    pub(crate) fn expire(&self) {
        let mut state = self.state.lock();
        let at = self.volume.lock().bump();
        state.model.on_break(at);
        self.publish(&state.model);
    }

    /// The version known last: the cookie's identity.
    pub(crate) fn version(&self) -> Option<Version> {
        self.state.lock().model.version().cloned()
    }

    /// Whether `aux` is the version known last, as an identity states it.
    pub(crate) fn has_version(&self, aux: &[u8]) -> bool {
        self.state.lock().model.version().is_some_and(|version| version.as_bytes() == aux)
    }

    /// A reply or an event said that the file is gone (P-D25: about this file, not about a name).
    pub(crate) fn mark_deleted(&self) -> Ticket {
        let mut state = self.state.lock();
        state.model.on_deleted();
        self.publish(&state.model);
        drop(state);
        let generation = self.volume.lock().bump();
        self.zap(generation)
    }

    /// A break with the number the volume gave it.
    pub(super) fn on_break(&self, at: u64) -> Ticket {
        let mut state = self.state.lock();
        state.model.on_break(at);
        self.publish(&state.model);
        drop(state);
        self.zap(at)
    }

    /// Takes all of the file away from all fronts.
    fn zap(&self, generation: u64) -> Ticket {
        self.volume.zappers.zap(Target::Inode(self.number), &WHOLE_FILE, generation)
    }

    /// Waits until no drop is in progress: between a drop's decision and its end the page cache has
    /// old data, which even a caller whose own check has just succeeded must not read.
    pub(crate) async fn settled(&self) {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            if !state.model.is_dropping() {
                return Poll::Ready(());
            }
            remember(&mut state.settling, cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Registers a front that maps pages of this inode. It checks [`valid_now`](Self::valid_now)
    /// after this on each fault, having read [`generation`](Self::generation) before.
    pub(crate) fn register_zapper(
        &self,
        origin: Origin,
        zapper: Arc<dyn Zapper>,
    ) -> ZapRegistration {
        self.volume.zappers.register(self.number, &self.watched, origin, zapper)
    }

    /// Takes a range (bytes) away from all fronts but `skip`, for a change inside this client; nobody waits for
    /// the answers. A file that no front has costs one load.
    #[inline]
    pub(crate) fn tell_fronts(&self, range: &std::ops::Range<u64>, skip: Option<Origin>) {
        if !self.watched.by_nobody() {
            let generation = self.volume.lock().bump();
            self.volume.zappers.tell(Target::Inode(self.number), range, generation, skip);
        }
    }

    /// The number of the last zap; grows.
    pub(crate) fn generation(&self) -> u64 {
        self.watched.generation.load(Ordering::Acquire)
    }

    /// What the model says, for comparison with what is published.
    #[cfg(test)]
    pub(in crate::coherency) fn model_validity(&self) -> Validity {
        let state = self.state.lock();
        let volume = self.volume.lock();
        state.model.valid(&volume, self.volume.clock().now())
    }

    fn publish(&self, model: &InodeCoherency) {
        let (word, deadline) = encode(model);
        if word & TAG == OWN || word & TAG == COVERED {
            self.deadline.store(deadline.as_nanos(), Ordering::SeqCst);
        }
        self.word.store(word, Ordering::SeqCst);
    }

    fn end_drop(&self, end: impl FnOnce(&mut InodeCoherency)) {
        let mut state: MutexGuard<'_, State> = self.state.lock();
        end(&mut state.model);
        self.publish(&state.model);
        let wakers = if state.model.is_dropping() {
            Vec::new()
        } else {
            std::mem::take(&mut state.settling)
        };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Own changes on their way.
#[must_use]
pub(crate) struct Writing(Arc<InodeCell>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.state.lock().model.end_writing();
    }
}

/// The published word: a tag, and above it the epoch of the promise.
const TAG_BITS: u32 = 3;
const TAG: u64 = (1 << TAG_BITS) - 1;
const NO_PROMISE: u64 = 0;
const BROKEN: u64 = 1;
const DROPPING: u64 = 2;
const DELETED: u64 = 3;
const OWN: u64 = 4;
const COVERED: u64 = 5;

fn encode(model: &InodeCoherency) -> (u64, BootTime) {
    match model.published() {
        Ok(held) => {
            let tag = if held.covered { COVERED } else { OWN };
            (held.seq << TAG_BITS | tag, held.deadline)
        }
        Err(Validity::Deleted) => (DELETED, BootTime::ZERO),
        Err(Validity::Stale(StaleReason::Dropping)) => (DROPPING, BootTime::ZERO),
        Err(Validity::Stale(StaleReason::Broken)) => (BROKEN, BootTime::ZERO),
        Err(_) => (NO_PROMISE, BootTime::ZERO),
    }
}

/// The obligation to drop what is cached. Until it is resolved the inode is
/// [`Dropping`](StaleReason::Dropping).
///
/// Dropped without [`done`](Self::done) (a cancelled task), the inode stays so, and the next reply
/// starts another drop.
#[must_use]
pub(crate) struct DropToken {
    inode: Option<Arc<InodeCell>>,
}

impl DropToken {
    /// Pages are dropped and the cookie is cut over. The promise that came with the drop is published
    /// now, unless an event has voided it or another drop is in progress.
    pub(crate) fn done(mut self) {
        if let Some(inode) = self.inode.take() {
            inode.end_drop(InodeCoherency::drop_done);
        }
    }
}

impl Drop for DropToken {
    fn drop(&mut self) {
        if let Some(inode) = self.inode.take() {
            inode.end_drop(InodeCoherency::drop_abandoned);
        }
    }
}
