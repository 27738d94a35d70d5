//! One read request, from plan to end.
//!
//! A fetch owns the memory it fills: locked folios of the index, or transient memory that only its
//! own reader sees. The state machine in [`crate::request::read`] says what to do; this file does it.
//! Every locked folio is unlocked exactly once, at the latest when the fetch is dropped (N-C11).

mod issue;
mod origin;
mod publish;

use std::{ops::Range, time::Duration};

use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot};

use super::{
    Slices, Who,
    intent::Intent,
    sink::{Event, Sink},
};
use crate::{
    clock::BootTime,
    coherency::Epoch,
    error::{Errno, Error, Result},
    folio::{
        Folio, Origin, Slice,
        memory::{FillBuf, FolioMem},
    },
    fscache::{Access, CacheMiss, CacheRead, FillTag, Identity, TryRead},
    inode::Verdict,
    remote::{Finished, IoLimits, Outcome, ReadSub, Version},
    request::{
        plan::{self, Slice as Planned, Source},
        read::{Ended, Fate, ReadRequest},
    },
    sizes::Sizes,
    sync::Arc,
    waits::WaitKind,
    writeback::is_gone,
};

/// Unanswered reads of the same bytes beyond which no further one is sent.
const ABANDONED_MAX: usize = 2;

/// A piece of memory a fetch fills, and the folio it belongs to (none = transient).
pub(super) struct Span {
    pub(super) range: Range<u64>,
    pub(super) target: Target,
    pub(super) origin: Origin,
}

/// Whose memory a span is.
pub(super) enum Target {
    /// A locked folio of the index.
    Folio(Arc<Folio>),
    /// Memory only this fetch's reader sees.
    Transient(Arc<FolioMem>),
}

impl Span {
    pub(super) fn folio(&self) -> Option<&Arc<Folio>> {
        match &self.target {
            Target::Folio(folio) => Some(folio),
            Target::Transient(_) => None,
        }
    }

    /// Whether nobody writes to the memory any more.
    fn is_settled(&self) -> bool {
        match &self.target {
            Target::Folio(folio) => folio.is_uptodate(),
            Target::Transient(mem) => mem.is_settled(),
        }
    }

    /// The first `n` bytes, which are settled.
    fn slice(&self, n: usize) -> Slice {
        match &self.target {
            Target::Folio(folio) => folio.slice_filled(0..n),
            Target::Transient(mem) => Slice::settled(Arc::clone(mem), 0..n),
        }
    }
}

/// Downloaded bytes on their way to the disk cache.
struct Fill {
    offset: u64,
    data: Slice,
    tag: FillTag,
}

/// What is known about where a sub's bytes came from.
#[derive(Clone)]
struct Tag {
    epoch: Epoch,
    version: Option<Version>,
    /// Whether `version` says anything (zeros beyond the end have none).
    checked: bool,
    late: bool,
}

/// What the starter decides.
pub(super) struct Plan {
    pub(super) slices: Vec<Planned>,
    pub(super) sizes: Sizes,
    pub(super) epoch: Epoch,
    pub(super) access: Option<Arc<Access>>,
    /// The version that the cache's object was about before it was asked what it has ([`version_of`]).
    pub(super) of: Option<Version>,
    pub(super) limits: IoLimits,
    /// Nobody has asked for it yet.
    pub(super) ahead: bool,
}

/// What the object is about. To be asked before it is asked what it has: an own change moves the content first and
/// the name last, so an old name may come with new content, which is planned again, and never the other way round
/// (a hole of before, taken for one of now, would be zeros over what was written).
pub(super) fn version_of(access: Option<&Arc<Access>>) -> Option<Version> {
    access.and_then(|access| Version::new(&access.object().identity().aux))
}

/// How a transient fetch ended: its bytes, up to the first that is missing.
pub(super) type TransientResult = Result<Transient>;

/// What bytes came from; the ranges do not overlap, and some may be empty.
pub(super) type Sources = SmallVec<[(Range<u64>, Origin); 4]>;

pub(crate) struct Transient {
    /// What was read, from the start of the range, contiguous.
    pub(super) slices: Slices,
    /// What brought each byte.
    pub(super) sources: Sources,
    /// The bytes came late, or of different versions, or not before the first timeout: plan again.
    pub(super) replan: bool,
    /// Why the slices end before the range does.
    error: Option<Error>,
}

impl Transient {
    /// The slices, if they reach at least `len` bytes; else what kept the rest from coming. Bytes
    /// that failed must not look like the end of the file.
    pub(super) fn reaching(self, len: u64) -> Result<Slices> {
        let got: u64 = self.slices.iter().map(|s| s.len() as u64).sum();
        match self.error {
            Some(e) if got < len => Err(e),
            _ => Ok(self.slices),
        }
    }
}

pub(super) struct Fetch {
    who: Who,
    req: ReadRequest,
    plan: Plan,
    bufs: Vec<Option<FillBuf>>,
    tags: Vec<Option<Tag>>,
    spans: Vec<Span>,
    next_span: usize,
    sink: Arc<Sink>,
    rx: mpsc::UnboundedReceiver<Event>,
    /// Folios handed to `apply`, so that a version change does not throw away its own bytes.
    folios: Vec<Arc<Folio>>,
    /// Error of spans given up without one that readers should see (first timeout, shutdown).
    quiet: bool,
    fills: Vec<Fill>,
    /// Disk reads that failed, and how their bytes count now.
    missed: Vec<(Range<u64>, Origin)>,
    /// While `fills` may get or has something.
    intent: Option<Intent>,
    transient: Option<oneshot::Sender<TransientResult>>,
    /// Until this fetch is dropped, [`Netfs::settled`](crate::Netfs::settled) waits for it.
    _under_way: Intent,
}

impl Fetch {
    /// `bufs` is the permission for all spans together, in file order; its length is that of the
    /// plan's slices.
    pub(super) fn new(who: Who, plan: Plan, spans: Vec<Span>, mut buf: FillBuf) -> Fetch {
        let ends = spans.iter().map(|s| s.range.end).collect();
        let req = ReadRequest::new(&plan.slices, ends, &plan.limits);
        let bufs =
            req.subs().iter().map(|s| Some(buf.split_to(len_of(&s.range)))).collect::<Vec<_>>();
        let (sink, rx) = Sink::new(Arc::clone(&who.inode));
        let folios = spans.iter().filter_map(|s| s.folio().cloned()).collect();
        let tags = vec![None; bufs.len()];
        let under_way = who.inode.core.fetches.begin();
        Fetch {
            who,
            req,
            plan,
            bufs,
            tags,
            spans,
            next_span: 0,
            sink,
            rx,
            folios,
            quiet: false,
            fills: Vec::new(),
            missed: Vec::new(),
            intent: None,
            transient: None,
            _under_way: under_way,
        }
    }

    /// Where the result of a transient fetch goes.
    pub(super) fn transient(&mut self) -> oneshot::Receiver<TransientResult> {
        let (tx, rx) = oneshot::channel();
        self.transient = Some(tx);
        rx
    }

    /// Does what needs no waiting; hands the rest to the driver.
    pub(super) fn start(mut self) {
        self.pump();
        if self.is_over() {
            self.end();
            return;
        }
        let driver = self.who.inode.core.driver.clone();
        driver.spawn(self.run());
    }

    /// Issues all that may be issued and publishes what is complete.
    fn pump(&mut self) {
        loop {
            while let Some(index) = self.req.next_issue() {
                self.issue(index);
            }
            let limits = self.who.remote.limits();
            let retries = self.req.begin_retry(&limits);
            if retries.is_empty() {
                break;
            }
            for retry in retries {
                let mut run = FillBuf::empty();
                for from in retry.from {
                    if let Some(left) = self.bufs[from].take() {
                        run.append(left);
                    }
                }
                self.grow();
                for into in retry.into {
                    self.who.inode.core.counters.read_retry_subs.inc();
                    let n = len_of(&self.req.sub(into).range);
                    self.bufs[into] = Some(run.split_to(n));
                }
            }
        }
        self.publish();
    }

    /// One slot per sub: retries add subs.
    fn grow(&mut self) {
        let n = self.req.subs().len();
        self.bufs.resize_with(n, || None);
        self.tags.resize(n, None);
    }

    async fn run(mut self) {
        let _wait = self.who.inode.waiting(WaitKind::Request, self.range());
        while !self.is_over() {
            let deadline = self.now() + self.patience();
            let clock = Arc::clone(&self.who.inode.core.clock);
            tokio::select! {
                event = self.rx.recv() => match event {
                    Some(event) => self.on_event(event),
                    None => break, // cannot be: we hold a sender
                },
                () = clock.sleep_until(deadline) => self.on_timeout(),
            }
            // Drain what else has come before deciding anything.
            while let Ok(event) = self.rx.try_recv() {
                self.on_event(event);
            }
            self.pump();
            self.push_fills().await;
        }
        self.end();
        self.push_fills().await;
    }

    fn range(&self) -> Range<u64> {
        let start = self.spans.first().map_or(0, |s| s.range.start);
        start..self.spans.last().map_or(start, |s| s.range.end)
    }

    /// How long to wait for the next sign of life.
    fn patience(&self) -> Duration {
        let options = &self.who.inode.core.options;
        let waits_for_cache =
            self.req.in_flight().iter().any(|&i| self.req.sub(i).source == Source::Cache);
        if waits_for_cache { options.cache_read_timeout } else { options.remote_timeout }
    }

    fn now(&self) -> BootTime {
        self.who.inode.now()
    }

    fn is_over(&mut self) -> bool {
        self.req.complete() && self.next_span == self.spans.len()
    }

    fn on_event(&mut self, event: Event) {
        let index = event.index();
        if !self.req.is_in_flight(index) {
            // It was given up while this was on its way here.
            if event.is_end() {
                self.sink.was_given_up(index);
            }
            return;
        }
        match event {
            Event::Progress { index, transferred, facts } => {
                if let Some(tag) = &mut self.tags[index] {
                    tag.version = facts.version;
                }
                self.req.progress(index, transferred);
            }
            Event::Server { index, result } => self.server_ended(index, result),
            Event::Cache { index, result } => self.cache_ended(index, result),
        }
    }

    fn server_ended(&mut self, index: usize, result: Finished) {
        let Finished { outcome, transferred, facts, rest: mut leftover } = result;
        let counters = Arc::clone(&self.who.inode.core.counters);
        let Some(mut tag) = self.tags[index].clone() else { return };
        let early = tag.version.take();
        tag.version = facts.version.clone();
        let failed = matches!(outcome, Outcome::Failed(_));
        if let Outcome::Failed(error) = &outcome
            && is_gone(error)
        {
            self.who.inode.mark_deleted();
        }
        if !failed {
            tag.late = self.who.inode.apply(&facts, &tag.epoch, &self.folios) == Verdict::Late;
        }
        if early.is_some() && early != tag.version {
            // Facts given early were not the final ones: take back what was published on them.
            let range = self.req.sub(index).range.clone();
            self.who.inode.drop_range(range);
        }
        let ended = self.req.finished(index, &outcome, transferred);
        match ended {
            Ended::Settled => counters.download_done.inc(),
            Ended::ZeroTail => {
                let n = leftover.len();
                leftover.zero(n);
                leftover.advance(n);
                counters.download_done.inc();
            }
            Ended::KeepForRetry(owner) => {
                counters.download_instead.inc();
                self.grow();
                if owner != index {
                    self.tags[owner] = Some(tag.clone());
                }
                self.bufs[owner] = Some(leftover);
            }
            Ended::Failed => counters.download_failed.inc(),
        }
        self.tags[index] = Some(tag);
    }

    /// Nothing came for a whole timeout: give up what is in flight. Its memory stays with it; readers
    /// plan again with fresh folios, unless an attempt over the same bytes had been given up before.
    fn on_timeout(&mut self) {
        let inode = Arc::clone(&self.who.inode);
        self.quiet = true;
        let cache_first =
            self.req.in_flight().iter().any(|&i| self.req.sub(i).source == Source::Cache);
        for index in self.req.in_flight() {
            let sub = self.req.sub(index);
            let (range, cache) = (sub.range.clone(), sub.source == Source::Cache);
            if cache_first && !cache {
                continue; // only the cache's shorter patience is over
            }
            inode.core.counters.abandoned.inc();
            // Noted before it is given up: its late end finds the account open.
            let hung = cache.then(|| {
                inode.disk_misses.note(range.clone(), Origin::Fault);
                inode.cache_read_hangs(range.clone())
            });
            if !cache && !inode.abandon(range.clone()) {
                self.quiet = false;
            }
            self.sink.give_up(index, range, hung);
            let e = Error::new(Errno::ETIMEDOUT, "the server did not answer a read in time, twice");
            self.req.abandon(index, e);
        }
    }

    fn end(&mut self) {
        let counters = &self.who.inode.core.counters;
        if self.req.retried() {
            counters.read_retry_requests.inc();
        }
        if let Some(tx) = self.transient.take() {
            self.intent = Some(self.who.inode.core.intents.begin());
            // What was never issued is filled by nobody: its permissions end here, not when the fetch
            // is dropped, for the reader may be faster.
            self.bufs.clear();
            let result = self.transient_result();
            // The reader may have gone away.
            let _ = tx.send(result);
        }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        // Only a driver that is shutting down drops a fetch with folios still locked.
        for span in self.spans.iter().skip(self.next_span) {
            if let Some(folio) = span.folio() {
                folio.set_error(Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down"));
                self.who.inode.pages.fail(folio);
            }
        }
    }
}

/// Length of a range that lies in memory.
pub(super) fn len_of(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}
