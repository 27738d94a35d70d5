//! Reads that leave no copy in memory (`ReadOptions::memory = Bypass`): disk hits go inline into the
//! caller's buffer; what the disk lacks is fetched, stored on disk, and handed over.

use std::{ops::Range, sync::OnceLock};

use tokio::sync::oneshot;

use super::{
    GATHER_MAX,
    buffered::{Reader, trim},
    fetch::len_of,
    tally::Tally,
};
use crate::{
    context::FillPolicy,
    errand,
    error::{Errno, Error, Result},
    folio::{GRANULE, Lookup, Origin, Slice, memory::FillBuf},
    fscache::{Access, CacheRead, ExtentKind, TryRead},
    request::plan,
    sync::Arc,
    timer,
    waits::WaitKind,
};

impl Reader<'_> {
    /// Fills `buf` from `offset` with bytes of one version of the file; returns how many. The inode
    /// has been validated by the caller.
    pub(crate) async fn bypass(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if let Some(n) = self.bypass_now(offset, buf).await? {
            return Ok(n);
        }
        // Uploads overtake it: it may have to queue with them.
        let (who, cookie) = (self.who.clone(), self.cookie.cloned());
        let mut own = vec![0; buf.len().min(GATHER_MAX as usize)];
        let again = async move {
            let reader = Reader { who: &who, cookie: cookie.as_ref(), ahead: None };
            let mut quiet = who.quiet();
            loop {
                who.again(&mut quiet).await?;
                if let Some(n) = reader.bypass_now(offset, &mut own).await? {
                    own.truncate(n);
                    return Ok(own);
                }
            }
        };
        let got = errand::accompany(&self.who.inode.core.driver, again).await?;
        buf[..got.len()].copy_from_slice(&got);
        Ok(got.len())
    }

    /// `None`: the file changed meanwhile.
    async fn bypass_now(&self, offset: u64, buf: &mut [u8]) -> Result<Option<usize>> {
        let inode = &self.who.inode;
        let mark = self.who.settled().await?;
        let size = inode.sizes.load().i_size;
        let end = size.min(offset.saturating_add((buf.len() as u64).min(GATHER_MAX)));
        if offset >= end {
            return Ok(Some(0));
        }
        let n = len_of(&(offset..end));
        let read = self.bypass_once(offset, &mut buf[..n]).await?;
        let Some(tally) = read.filter(|_| inode.unchanged(mark)) else { return Ok(None) };
        tally.count(inode);
        Ok(Some(n))
    }

    /// Says where the bytes came from; `None`: plan again.
    async fn bypass_once(&self, offset: u64, buf: &mut [u8]) -> Result<Option<Tally>> {
        let inode = &self.who.inode;
        let end = offset + buf.len() as u64;
        let access = self.access().await;
        let (mut at, mut tally) = (offset, Tally::default());
        while at < end {
            let here = len_of(&(offset..at));
            if let Lookup::Uptodate(folio) = inode.pages.get(at) {
                let stop = folio.range().end.min(end);
                let within = len_of(&(folio.offset()..at))..len_of(&(folio.offset()..stop));
                buf[here..here + len_of(&(at..stop))]
                    .copy_from_slice(&inode.pages.slice_of(&folio, within));
                tally.found(folio, at..stop);
                at = stop;
                continue;
            }
            if let Some(place) = inode.pages.dirty_place(at) {
                // Only memory knows what was written here: through it.
                let n = len_of(&(at..place.end.min(end)));
                let mut reader = Reader { who: self.who, cookie: self.cookie, ahead: None };
                let slices = Box::pin(reader.gather(at, n as u64)).await?;
                let mut to = here;
                for slice in &slices {
                    buf[to..to + slice.len()].copy_from_slice(slice);
                    to += slice.len();
                }
                if to < here + n {
                    return Ok(None); // the file has shrunk
                }
                at += n as u64;
                continue;
            }
            let run = self.run_at(at..end, access.as_ref());
            let into = &mut buf[here..here + len_of(&(at..run.0.end))];
            let local = match (run.1, &access) {
                (ExtentKind::Zero, _) => {
                    into.fill(0);
                    Some(Origin::Zero)
                }
                (ExtentKind::Data, Some(access)) => {
                    self.fill_from_disk(access, at, into).await.then_some(Origin::Disk)
                }
                _ => None,
            };
            match local {
                Some(origin) => tally.add(origin, into.len() as u64),
                None => match self.fill_from_server(&run.0, into).await? {
                    Some(fetched) => tally.append(fetched),
                    None => return Ok(None),
                },
            }
            at = run.0.end;
        }
        Ok(Some(tally))
    }

    /// The first run of `range`: up to where the cache's knowledge or memory changes.
    fn run_at(&self, range: Range<u64>, access: Option<&Arc<Access>>) -> (Range<u64>, ExtentKind) {
        let (mut stop, kind) = match access {
            Some(access) => {
                let extents = access.object().extents(range.clone());
                extents.first().map_or((range.end, ExtentKind::Absent), |e| (e.range.end, e.kind))
            }
            None => (range.end, ExtentKind::Absent),
        };
        // Pages in memory save the trip.
        let mut page = plan::page_out(&(range.start..range.start + 1)).end;
        while page < stop {
            let pages = &self.who.inode.pages;
            if matches!(pages.get(page), Lookup::Uptodate(_)) || pages.dirty_place(page).is_some() {
                stop = page;
                break;
            }
            page += crate::folio::PAGE_SIZE as u64;
        }
        (range.start..stop.clamp(range.start + 1, range.end), kind)
    }

    /// Inline if the kernel has the pages; else the cache's own threads read into memory of their
    /// own, which is copied. A miss of any kind is `false`.
    async fn fill_from_disk(&self, access: &Arc<Access>, at: u64, into: &mut [u8]) -> bool {
        let counters = &self.who.inode.core.counters;
        counters.cache_read.inc();
        let read = match access.object().try_read(at, into) {
            TryRead::Done => Ok(()),
            TryRead::Miss(miss) => Err(Origin::of_miss(miss)),
            TryRead::WouldBlock => {
                let queued = self.queued_read(access, at, into.len()).await;
                queued.map(|bytes| into.copy_from_slice(&bytes))
            }
        };
        match read {
            Ok(()) => counters.cache_read_done.inc(),
            Err(why) => {
                counters.cache_read_failed.inc();
                self.who.inode.disk_misses.note(at..at + into.len() as u64, why);
            }
        }
        read.is_ok()
    }

    /// A read on the cache's own threads, waited for at most `cache_read_timeout`; or why there is none.
    async fn queued_read(
        &self,
        access: &Arc<Access>,
        at: u64,
        len: usize,
    ) -> Result<Slice, Origin> {
        let inode = &self.who.inode;
        let (tx, rx) = oneshot::channel();
        let range = at..at + len as u64;
        let _wait = inode.waiting(WaitKind::Request, range.clone());
        // Set when the reader gives up; it lasts until the read has let go of it too.
        let hung = Arc::new(OnceLock::new());
        let (hold, while_it_hangs) = (Arc::clone(access), Arc::clone(&hung));
        let (buf, mem) = FillBuf::whole(inode.core.folios.transient(len), len);
        let read = CacheRead::new(at, buf, move |result| {
            drop(hold);
            let bytes = result.map(|()| Slice::settled(mem, 0..len)).map_err(|(miss, _)| miss);
            // The reader may have given up.
            let _ = tx.send(bytes);
            drop(while_it_hangs);
        });
        Arc::clone(access.object()).read(read);
        let core = &inode.core;
        let until = core.clock.now() + core.options.cache_read_timeout;
        let mut rx = rx;
        if let Some(result) = timer::until(&core.driver, &*core.clock, until, &mut rx).await {
            // A cache that drops a read unanswered has failed.
            return result.map_err(|_| Origin::Fault)?.map_err(Origin::of_miss);
        }
        let _ = hung.set(inode.cache_read_hangs(range));
        rx.close();
        // It may have ended at the last moment.
        rx.try_recv().map_err(|_| Origin::Fault)?.map_err(Origin::of_miss)
    }

    /// Fetches a run (by the fill policy, so that the disk cache gets whole granules) and copies it.
    /// `None`: plan again.
    async fn fill_from_server(&self, run: &Range<u64>, into: &mut [u8]) -> Result<Option<Tally>> {
        let inode = &self.who.inode;
        let sizes = inode.sizes.load();
        let granule = GRANULE as u64;
        let wide = match inode.core.options.fill {
            FillPolicy::Granule => {
                let end = run.end.checked_next_multiple_of(granule).unwrap_or(run.end);
                run.start / granule * granule..end.min(sizes.i_size)
            }
            FillPolicy::Auto | FillPolicy::Exact => run.clone(),
        };
        if run.end > sizes.i_size {
            return Ok(None);
        }
        let read = self.transient(&wide, &sizes).await?;
        if read.replan {
            return Ok(None);
        }
        let start = plan::page_out(&wide).start;
        let tally = Tally::of(&read.sources, run);
        let slices = read.reaching(run.end - start)?;
        let mut at = 0;
        for slice in trim(slices, start, run) {
            let n = slice.len().min(into.len() - at);
            into[at..at + n].copy_from_slice(&slice[..n]);
            at += n;
        }
        if at < into.len() {
            return Err(Error::new(Errno::EIO, "the server's read ended before the asked range"));
        }
        Ok(Some(tally))
    }
}
