//! The reader's side of the page cache.

use std::ops::Range;

use smallvec::SmallVec;

use super::{
    GATHER_MAX, MAX_REPLANS, Slices, Who,
    ahead::Ahead,
    fetch::{Fetch, Plan, Span, Target, Transient, len_of, version_of},
    layout,
    tally::Tally,
};
use crate::{
    context::FillPolicy,
    errand,
    error::{Errno, Error, Result},
    folio::{Folio, GRANULE, Held, LockedFolio, Lookup, MissReason, Origin, memory::FillBuf},
    fscache::{Access, Cookie, Extents, Found},
    inode::Inode,
    request::plan::{self, Slice as Planned},
    sizes::Sizes,
    sync::Arc,
    timer,
    waits::WaitKind,
};

/// What sort of run is fetched.
#[derive(Clone, Copy)]
struct Run {
    /// A folio of which only what was written is known.
    partial: bool,
    /// Nobody has asked for it yet.
    ahead: bool,
}

/// What gathering came to.
enum Gathered {
    Done(Slices),
    /// The file changed meanwhile: what was gathered may mix versions.
    Changed,
}

/// What waiting for folios came to.
enum Waited {
    Uptodate,
    /// One was let go without an error: plan again.
    LetGo,
    Failed(Arc<Folio>, Error),
}

/// One reader at work.
pub(crate) struct Reader<'a> {
    pub(crate) who: &'a Who,
    /// The file's cookie, if it has one.
    pub(crate) cookie: Option<&'a Arc<Cookie>>,
    /// What to fetch ahead, if this read is part of a stream, and who starts it.
    pub(crate) ahead: Option<(&'a Arc<Ahead>, Range<u64>)>,
}

impl Reader<'_> {
    fn inode(&self) -> &Arc<Inode> {
        &self.who.inode
    }

    /// Why bytes that come from the server were not in a cache. A disk read may just have failed for
    /// them; what memory never had, the disk may have had until it was looked up and found to be of
    /// another version.
    fn miss_origin(&self, range: &Range<u64>) -> Origin {
        if let Some(failed) = self.inode().disk_misses.take(range) {
            return failed;
        }
        match self.inode().pages.miss_reason(range.clone()) {
            MissReason::Capacity => Origin::Capacity,
            MissReason::Coherency => Origin::Coherency,
            MissReason::Cold => match self.cookie.and_then(|c| c.replaced()) {
                Some(Found::ReplacedStale) => Origin::Coherency,
                Some(Found::ReplacedCorrupt) => Origin::Corruption,
                _ => Origin::Cold,
            },
        }
    }

    /// Pages of `[offset, offset + len)` clipped to the file's size, at most [`GATHER_MAX`] bytes, all
    /// from one version of the file. The inode has been validated by the caller.
    pub(crate) async fn gather(&mut self, offset: u64, len: u64) -> Result<Slices> {
        if let Gathered::Done(slices) = self.gather_now(offset, len).await? {
            return Ok(slices);
        }
        // Uploads overtake it: it may have to queue with them.
        let (who, cookie) = (self.who.clone(), self.cookie.cloned());
        let ahead = self.ahead.take().map(|(ahead, window)| (Arc::clone(ahead), window));
        let again = async move {
            let ahead = ahead.as_ref().map(|(ahead, window)| (ahead, window.clone()));
            let mut reader = Reader { who: &who, cookie: cookie.as_ref(), ahead };
            let mut quiet = who.quiet();
            loop {
                who.again(&mut quiet).await?;
                if let Gathered::Done(slices) = reader.gather_now(offset, len).await? {
                    return Ok(slices);
                }
            }
        };
        errand::accompany(&self.inode().core.driver, again).await
    }

    async fn gather_now(&mut self, offset: u64, len: u64) -> Result<Gathered> {
        let mark = self.who.settled().await?;
        let sizes = self.inode().sizes.load();
        let end = sizes.i_size.min(offset.saturating_add(len.min(GATHER_MAX)));
        if offset >= end {
            return Ok(Gathered::Done(Slices::new()));
        }
        self.gather_once(offset..end, &sizes, mark).await
    }

    async fn gather_once(
        &mut self,
        range: Range<u64>,
        sizes: &Sizes,
        mark: u64,
    ) -> Result<Gathered> {
        let mut started = Vec::new();
        for _ in 0..MAX_REPLANS {
            let Some(held) = self.hold(&range, sizes, &mut started).await? else {
                // The budget is exhausted.
                return self.gather_privately(range, sizes, mark).await;
            };
            match self.wait(&held).await? {
                Waited::Uptodate => {
                    let slices = self.inode().pages.slices_held(&held, &range);
                    if self.inode().unchanged(mark) {
                        self.inode().count_read(&held, &range);
                        return Ok(Gathered::Done(slices));
                    }
                    return Ok(Gathered::Changed);
                }
                // Also if a write or its upload has moved the sizes: what was planned for those of before
                // is of no use any more.
                Waited::LetGo
                    if !self.inode().unchanged(mark)
                        || self.inode().sizes.load() != *sizes
                        || self.inode().cell.is_unjudged() =>
                {
                    return Ok(Gathered::Changed);
                }
                Waited::LetGo => {}
                Waited::Failed(folio, e) => {
                    let ours = started.iter().any(|f| Arc::ptr_eq(f, &folio));
                    if ours || !is_personal(&e) {
                        return Err(e);
                    }
                    // Somebody else was refused for their own credentials. They may ask again and
                    // lock the folio first again, so we ask past the index.
                    return self.gather_privately(range, sizes, mark).await;
                }
            }
        }
        Ok(Gathered::Changed)
    }

    /// Reads through memory of our own, with our own credentials.
    async fn gather_privately(
        &self,
        range: Range<u64>,
        sizes: &Sizes,
        mark: u64,
    ) -> Result<Gathered> {
        let read = self.transient(&range, sizes).await?;
        if read.replan || !self.inode().unchanged(mark) {
            return Ok(Gathered::Changed);
        }
        let start = plan::page_out(&range).start;
        let tally = Tally::of(&read.sources, &range);
        let slices = trim(read.reaching(range.end - start)?, start, &range);
        // What was written here is not there yet. A write that got there meanwhile moved the mark before
        // its bytes became clean.
        let slices = self.inode().pages.with_dirt_over(slices, &range);
        if !self.inode().unchanged(mark) {
            return Ok(Gathered::Changed);
        }
        tally.count(self.inode());
        Ok(Gathered::Done(slices))
    }

    /// Every folio of `range`, missing ones started (and added to `ours`). `None` if there is no memory
    /// for them.
    async fn hold(
        &mut self,
        range: &Range<u64>,
        sizes: &Sizes,
        ours: &mut Vec<Arc<Folio>>,
    ) -> Result<Option<SmallVec<[Held; 8]>>> {
        let pages = &self.inode().pages;
        let mut held: SmallVec<[Held; 8]> = SmallVec::new();
        let mut at = range.start;
        while at < range.end {
            let (folio, uptodate) = match pages.get(at) {
                Lookup::Uptodate(folio) => (folio, true),
                Lookup::Locked(folio) => (folio, false),
                Lookup::Absent | Lookup::Partial => {
                    let window = self.window(&(at..range.end), sizes);
                    let Some(started) = self.start(&window, sizes, false).await? else {
                        return Ok(None);
                    };
                    let here = started.iter().find(|f| f.range().contains(&at)).cloned();
                    ours.extend(started);
                    // Somebody else may have locked the page first: look again.
                    let Some(folio) = here else { continue };
                    (folio, false)
                }
            };
            at = folio.range().end;
            // What this very read has brought is no hit, even if it is there at a second look.
            let found = uptodate && !ours.iter().any(|f| Arc::ptr_eq(f, &folio));
            held.push(Held { folio, found });
        }
        // After what the reader waits for has been asked for, and once however often it plans again.
        if let Some((ahead, window)) = self.ahead.take() {
            ahead.push(self.who, self.cookie, window.start.max(at)..window.end);
        }
        Ok(Some(held))
    }

    /// Waits until all are unlocked.
    async fn wait(&self, held: &[Held]) -> Result<Waited> {
        for Held { folio, .. } in held {
            if folio.is_uptodate() {
                continue;
            }
            let _wait = self.inode().waiting(WaitKind::Folio, folio.range());
            self.within_deadline(folio.wait_unlocked()).await?;
            if !folio.is_uptodate() {
                let failed = |e| Waited::Failed(Arc::clone(folio), e);
                return Ok(folio.error().map_or(Waited::LetGo, failed));
            }
        }
        Ok(Waited::Uptodate)
    }

    /// Bounds a wait by the caller's deadline; the work goes on without the caller.
    async fn within_deadline<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let Some(deadline) = self.who.cx.deadline() else { return Ok(work.await) };
        let core = &self.inode().core;
        timer::until(&core.driver, &*core.clock, deadline, work)
            .await
            .ok_or_else(|| Error::new(Errno::ETIMEDOUT, "the read's deadline passed"))
    }

    /// The window to fetch for a miss: by policy, then widened by the adapter (never shrunk, N-C7),
    /// page-aligned and inside the file.
    fn window(&self, missing: &Range<u64>, sizes: &Sizes) -> Range<u64> {
        let options = &self.inode().core.options;
        let granule = GRANULE as u64;
        let base = match options.fill {
            FillPolicy::Granule => {
                let start = missing.start / granule * granule;
                let end = missing.end.checked_next_multiple_of(granule).unwrap_or(missing.end);
                start..end
            }
            FillPolicy::Auto | FillPolicy::Exact => plan::page_out(missing),
        };
        let mut wide = base.clone();
        self.who.remote.expand(&mut wide);
        let valid = wide.start <= base.start && wide.end >= base.end;
        let bounded = valid && wide.end - wide.start <= base.end - base.start + 16 * granule;
        let fits = |w: &Range<u64>| w.end - w.start <= self.inode().core.folios.budget() / 2;
        let window = if bounded { wide } else { base };
        // A window out of proportion to the budget would evict itself.
        let window = if fits(&window) { window } else { missing.clone() };
        let file_end = plan::page_out(&(0..sizes.i_size)).end;
        let window = plan::page_out(&window);
        window.start..window.end.min(file_end)
    }

    /// Starts fetching every missing page of a window. Returns the folios locked here, or `None` if
    /// there is no memory.
    pub(super) async fn start(
        &self,
        window: &Range<u64>,
        sizes: &Sizes,
        ahead: bool,
    ) -> Result<Option<Vec<Arc<Folio>>>> {
        let pages = &self.inode().pages;
        let absent = pages.absent_runs(window.clone()).into_iter().map(|run| (run, false));
        let mut runs: SmallVec<[_; 4]> = absent.collect();
        if !ahead && pages.dirty_bytes() > 0 {
            runs.extend(pages.partial_in(window.clone()).into_iter().map(|place| (place, true)));
        }
        if runs.is_empty() {
            return Ok(Some(Vec::new()));
        }
        self.inode().core.check_open()?;
        let access = self.access().await;
        let mut started = Vec::new();
        for (run, partial) in runs {
            let kind = Run { partial, ahead };
            match self.start_run(&run, sizes, access.as_ref(), kind) {
                Some(folios) => started.extend(folios),
                None if started.is_empty() => return Ok(None),
                None => break,
            }
        }
        Ok(Some(started))
    }

    /// The disk cache's object, waiting at most `cache_wait` for it to be found.
    pub(crate) async fn access(&self) -> Option<Arc<Access>> {
        let cookie = self.cookie?;
        if self.inode().cache_hung() {
            return None;
        }
        let access = match cookie.try_begin() {
            Some(access) => access,
            None => {
                // Its timers need the driver; the caller may run anywhere.
                let cookie = Arc::clone(cookie);
                let begun = self.inode().core.driver.spawn(async move { cookie.begin(None).await });
                begun.await.ok()?.ok()?
            }
        };
        self.inode().usable(access).map(Arc::new)
    }

    /// Plans one run, allocates its memory, locks its folios, and starts it.
    fn start_run(
        &self,
        run: &Range<u64>,
        sizes: &Sizes,
        access: Option<&Arc<Access>>,
        Run { partial, ahead }: Run,
    ) -> Option<Vec<Arc<Folio>>> {
        let inode = self.inode();
        // Before anything is looked at: what the cache says holds for this epoch.
        let epoch = inode.cell.sample();
        let of = version_of(access);
        let slices = plan_run(run, sizes, access);
        let parts = layout::parts(&slices);
        let ranges: Vec<_> = parts.iter().map(|p| p.range.clone()).collect();
        // All memory before any folio is locked (never wait for memory while holding one).
        let folios = &inode.core.folios;
        let window = if partial {
            // In the very place of the one that is there, whatever the plan cuts it into.
            folios.alloc_fetch(std::slice::from_ref(run), u64::MAX, len_of(run))?
        } else {
            folios.alloc_fetch(&ranges, sizes.i_size, GRANULE)?
        };
        inode.core.counters.read_folio.inc();
        // What somebody else locked meanwhile is missing here: the run may fall apart.
        let locked = inode.pages.lock_window(window);
        let mut all = Vec::with_capacity(locked.len());
        let reason = self.miss_origin(run);
        let mut rest = locked.into_iter().peekable();
        while let Some(first) = rest.next() {
            let start = first.folio.offset();
            let mut end = start;
            let mut buf = FillBuf::empty();
            let mut spans = Vec::new();
            let mut next = Some(first);
            while let Some(LockedFolio { folio, fill }) = next {
                let range = folio.range();
                end = range.end;
                buf.append(fill);
                all.push(Arc::clone(&folio));
                let origin = origin_at(&parts, range.start, reason);
                spans.push(Span { range, target: Target::Folio(folio), origin });
                next = rest.next_if(|l| l.folio.offset() == end);
            }
            let slices = clip(&slices, &(start..end));
            let limits = self.who.remote.limits();
            let access = access.cloned();
            let (sizes, of) = (*sizes, of.clone());
            let plan = Plan { slices, sizes, epoch, access, of, limits, ahead };
            Fetch::new(self.who.clone(), plan, spans, buf).start();
        }
        Some(all)
    }

    /// Reads `range` through memory that is not indexed. Page-aligned inside; the result starts at the
    /// range's page and may be longer than asked.
    pub(crate) async fn transient(&self, range: &Range<u64>, sizes: &Sizes) -> Result<Transient> {
        let inode = self.inode();
        inode.core.check_open()?;
        inode.core.counters.transient_reads.inc();
        let pages = plan::page_out(range);
        let access = self.access().await;
        let epoch = inode.cell.sample();
        let of = version_of(access.as_ref());
        let slices = plan_run(&pages, sizes, access.as_ref());
        let reason = self.miss_origin(&pages);
        let limits = self.who.remote.limits();
        let sizes = *sizes;
        let plan = Plan { slices, sizes, epoch, access, of, limits, ahead: false };
        let new = inode.core.folios.transient(len_of(&pages));
        let (fill, mem) = FillBuf::whole(new, len_of(&pages));
        let span = Span { range: pages, target: Target::Transient(mem), origin: reason };
        run_transient(Fetch::new(self.who.clone(), plan, vec![span], fill), self).await
    }
}

/// Starts a transient fetch and waits for it, bounded by the reader's deadline.
pub(super) async fn run_transient(mut fetch: Fetch, reader: &Reader<'_>) -> Result<Transient> {
    let result = fetch.transient();
    fetch.start();
    let gone = |_| Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down");
    reader.within_deadline(result).await?.map_err(gone)?
}

fn plan_run(run: &Range<u64>, sizes: &Sizes, access: Option<&Arc<Access>>) -> Vec<Planned> {
    let known = run.start..run.end.min(sizes.i_size);
    let extents: Option<Extents> =
        access.filter(|_| !known.is_empty()).map(|a| a.object().extents(known));
    plan::plan(run.clone(), sizes, extents.as_ref())
}

/// The part of a plan inside `range`.
fn clip(slices: &[Planned], range: &Range<u64>) -> Vec<Planned> {
    slices
        .iter()
        .filter_map(|s| {
            let r = s.range.start.max(range.start)..s.range.end.min(range.end);
            (!r.is_empty()).then(|| Planned { range: r, ..s.clone() })
        })
        .collect()
}

fn origin_at(parts: &[layout::Part], at: u64, reason: Origin) -> Origin {
    let part = parts.iter().find(|p| p.range.contains(&at));
    part.map_or(reason, |p| Origin::of_source(p.source, reason))
}

/// The part of `slices`, which lie one after the other from `start`, that is inside `range`.
pub(super) fn trim(slices: Slices, start: u64, range: &Range<u64>) -> Slices {
    let mut at = start;
    let mut out = Slices::new();
    for slice in slices {
        let here = at..at + slice.len() as u64;
        let cut = here.start.max(range.start)..here.end.min(range.end);
        if !cut.is_empty() {
            out.push(slice.part(len_of(&(here.start..cut.start))..len_of(&(here.start..cut.end))));
        }
        at = here.end;
    }
    out
}

/// Errors that concern only the credentials of whoever got them.
fn is_personal(e: &Error) -> bool {
    matches!(e.errno(), Errno::EACCES | Errno::EPERM)
}
