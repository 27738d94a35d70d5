//! Issuing: zeros and pages the kernel has are done inline by whoever pumps; the rest is handed to the
//! adapter or to the cache's own threads.

use super::*;

impl Fetch {
    pub(super) fn issue(&mut self, index: usize) {
        self.grow();
        match self.req.sub(index).source {
            Source::Zero => self.issue_zero(index),
            Source::Cache => self.issue_cache(index),
            Source::Server => self.issue_server(index),
        }
    }

    fn issue_zero(&mut self, index: usize) {
        let sub = self.req.sub(index);
        let (start, len) = (sub.range.start, sub.range.end - sub.range.start);
        let counters = &self.who.inode.core.counters;
        counters.zero_fill.inc();
        if let Some(mut buf) = self.bufs[index].take() {
            let n = buf.len();
            buf.zero(n);
            buf.advance(n);
        }
        // A known hole of the cached version needs that version; zeros past the end only the size.
        let checked = start < self.plan.sizes.server_limit();
        self.tags[index] = Some(self.cache_tag(checked));
        self.req.finished(index, &Outcome::Done, len);
    }

    fn cache_tag(&self, checked: bool) -> Tag {
        Tag { epoch: self.plan.epoch, version: self.plan.of.clone(), checked, late: false }
    }

    /// First without waiting, on this thread; only if the disk must be waited for, on the cache's.
    fn issue_cache(&mut self, index: usize) {
        let counters = &self.who.inode.core.counters;
        counters.cache_read.inc();
        self.tags[index] = Some(self.cache_tag(true));
        let start = self.req.sub(index).range.start;
        let (Some(access), Some(mut buf)) = (self.plan.access.clone(), self.bufs[index].take())
        else {
            self.cache_ended(index, Err((CacheMiss::Absent, FillBuf::empty())));
            return;
        };
        match read_inline(&access, start, &mut buf) {
            TryRead::Done => {
                let n = buf.len();
                buf.advance(n);
                self.cache_ended(index, Ok(()));
            }
            TryRead::Miss(miss) => self.cache_ended(index, Err((miss, buf))),
            TryRead::WouldBlock => {
                let sink = Arc::clone(&self.sink);
                let object = Arc::clone(access.object());
                object.read(CacheRead::new(start, buf, move |result| {
                    sink.cache_done(index, result);
                    // The access keeps the object open until its read has ended.
                    drop(access);
                }));
            }
        }
    }

    pub(super) fn cache_ended(&mut self, index: usize, result: Result<(), (CacheMiss, FillBuf)>) {
        let counters = &self.who.inode.core.counters;
        let len = self.req.sub(index).range.end - self.req.sub(index).range.start;
        match result {
            Ok(()) => {
                counters.cache_read_done.inc();
                self.req.finished(index, &Outcome::Done, len);
            }
            Err((miss, buf)) => {
                counters.cache_read_failed.inc();
                self.bufs[index] = Some(buf);
                self.note_miss(index, miss);
                // Row 28: to the server, with the credentials the request kept.
                self.req.finished(index, &Outcome::Retry, 0);
            }
        }
    }

    fn issue_server(&mut self, index: usize) {
        let inode = &self.who.inode;
        let Some(buf) = self.bufs[index].take() else { return };
        let range = self.req.sub(index).range.clone();
        if inode.abandoned_over(&range) >= ABANDONED_MAX {
            // Each would hold its memory for as long as the server stays silent.
            let e = Error::new(
                Errno::ETIMEDOUT,
                "earlier reads of these bytes are still unanswered; is the server alive?",
            );
            drop(buf);
            self.req.finished(index, &Outcome::Failed(e), 0);
            return;
        }
        inode.core.counters.download.inc();
        // Before the request leaves (P-D4): a break from here on keeps its promise from being used.
        let epoch = inode.cell.sample();
        self.tags[index] = Some(Tag { epoch, version: None, checked: true, late: false });
        let sink = Arc::clone(&self.sink) as _;
        let sub = ReadSub::new(index, range.start, buf, self.who.cx.clone(), sink);
        let read = Arc::clone(&self.who.remote).read(sub);
        inode.core.driver.spawn(read);
    }
}

/// Reads a run of cached pages without waiting, straight into the folios.
fn read_inline(access: &Access, start: u64, buf: &mut FillBuf) -> TryRead {
    let mut at = start;
    for slice in buf.slices_mut() {
        match access.object().try_read(at, slice) {
            TryRead::Done => at += slice.len() as u64,
            other => return other,
        }
    }
    TryRead::Done
}
