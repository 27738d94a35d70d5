//! Publishing: what becomes of the bytes once they are there.

use super::*;

impl Fetch {
    /// Decides the fate of spans in file order: complete ones become readable, failed ones are let
    /// go. A folio is published only if all its bytes are of one version and that is the inode's
    /// current one; the check runs under the index lock, which dropping pages also takes.
    pub(super) fn publish(&mut self) {
        let mut failed = Vec::new();
        while let Some(span) = self.spans.get(self.next_span) {
            let fate = self.req.fate(&span.range);
            if let Fate::Pending = fate {
                break;
            }
            self.next_span += 1;
            let Some(folio) = span.folio().cloned() else { continue };
            let inode = &self.who.inode;
            match fate {
                Fate::Settled(subs) => {
                    folio.set_origin(
                        self.origin_of(span),
                        self.readable(&span.range),
                        self.plan.ahead,
                    );
                    // Before readers see the folio: a drain after their read covers it.
                    let stores = subs.iter().any(|&i| self.req.sub(i).copy_to_cache);
                    if stores && self.intent.is_none() {
                        self.intent = Some(inode.core.intents.begin());
                    }
                    // Before anybody can write to the folio: what is stored is what was fetched (W6).
                    let mut fill = if folio.is_dirty() { None } else { self.fill_of(&subs, span) };
                    let may = || self.may_publish(&span.range, &subs);
                    if inode.pages.publish_letting_go(&folio, &mut fill, may) {
                        self.fills.extend(fill);
                    }
                }
                Fate::Failed(error) => {
                    // Who waits for what was read ahead asks again, and hears of its own failure.
                    if !self.quiet && !self.plan.ahead {
                        folio.set_error(error);
                    }
                    failed.push(folio);
                }
                Fate::Cancelled | Fate::Pending => failed.push(folio),
            }
        }
        // The last first: a reader that is told of the first finds no later one still about to fail,
        // so that what it reads next does not get the same error (N-C10).
        for folio in failed.iter().rev() {
            self.who.inode.pages.fail(folio);
        }
    }

    /// Bytes of a span that readers can get.
    fn readable(&self, range: &Range<u64>) -> u32 {
        let end = range.end.min(self.plan.sizes.i_size);
        u32::try_from(end.saturating_sub(range.start)).unwrap_or(u32::MAX)
    }

    fn may_publish(&self, range: &Range<u64>, subs: &[usize]) -> bool {
        let cell = &self.who.inode.cell;
        let mut version: Option<&Option<Version>> = None;
        for &i in subs {
            let Some(tag) = &self.tags[i] else { return false };
            if !tag.checked {
                continue;
            }
            if tag.late || version.is_some_and(|v| *v != tag.version) {
                return false;
            }
            version = Some(&tag.version);
            // An object that was cut over is not trusted any more, even under an equal version (after
            // a scrub, A1.15). The cut-over comes before the pages are dropped, so what passes here
            // in spite of it is dropped by it.
            if self.req.sub(i).source != Source::Server && !self.object_stands() {
                return false;
            }
            if !cell.is_current(tag.version.as_ref(), &tag.epoch) {
                return false;
            }
        }
        if self.who.inode.size_doubtful() {
            return false;
        }
        // Padding was made for where the plan knew the server's bytes to end: they must still end there.
        // Where the file ends does not matter: what a write put behind them is laid over the padding.
        let now = self.who.inode.sizes.load().server_limit();
        let planned = self.plan.sizes.server_limit();
        range.end <= now.min(planned) || now == planned
    }

    /// Whether the cache object the plan was made from has not been invalidated since.
    fn object_stands(&self) -> bool {
        self.plan.access.as_ref().is_some_and(|a| a.is_current())
    }

    /// What the server sent, on its way to the disk cache (row 7), if it is to go there.
    fn fill_of(&self, subs: &[usize], span: &Span) -> Option<Fill> {
        let access = self.plan.access.as_ref()?;
        subs.iter().find(|&&i| self.req.sub(i).copy_to_cache)?;
        let tag = subs.iter().filter_map(|&i| self.tags[i].as_ref()).find(|t| t.checked)?;
        // A reply without a version never reaches the disk cache.
        let version = tag.version.clone()?;
        let size = self.plan.sizes.i_size;
        let end = span.range.end.min(plan::page_out(&(0..size)).end);
        let n = end.checked_sub(span.range.start).filter(|&n| n > 0)?;
        let aux = bytes::Bytes::copy_from_slice(version.as_bytes());
        let epoch = tag.epoch;
        let tag = FillTag {
            identity: Identity { aux, size: self.plan.sizes.remote_i_size },
            inval_counter: access.inval_counter(),
            still_ok: self.who.inode.vouching(epoch),
        };
        Some(Fill { offset: span.range.start, data: span.slice(len_of(&(0..n))), tag })
    }

    /// With `FillWhenFull::Wait`, downloads go no faster than the cache disk takes them.
    pub(super) async fn push_fills(&mut self) {
        let intent = self.intent.take();
        let Some(access) = &self.plan.access else { return };
        for Fill { offset, data, tag } in std::mem::take(&mut self.fills) {
            let fills = &self.who.inode.core.fills;
            fills.push(access.cookie(), offset, vec![data], tag).await;
        }
        drop(intent);
    }

    pub(super) fn transient_result(&mut self) -> TransientResult {
        let mut slices = Slices::new();
        // While an abandoned attempt may still write to the memory nobody reads any of it.
        let settled = self.spans.iter().all(Span::is_settled);
        let mut left = if settled { self.req.contiguous_prefix() } else { 0 };
        let mut replan = false;
        let mut fills = Vec::new();
        for span in &self.spans {
            if let Fate::Settled(subs) = self.req.fate(&span.range) {
                replan |= !self.may_publish(&span.range, &subs);
                if !replan {
                    fills.extend(self.fill_of(&subs, span));
                }
            }
            let n = left.min(span.range.end - span.range.start);
            if n > 0 {
                slices.push(span.slice(len_of(&(0..n))));
            }
            left -= n;
        }
        self.fills = fills;
        let error = self.req.error().cloned();
        // The first timeout is nobody's error: it is tried once more in fresh memory.
        replan |= self.quiet && error.is_some();
        match error {
            Some(e) if slices.is_empty() && !replan => Err(e),
            error => Ok(Transient { slices, sources: self.sources(), replan, error }),
        }
    }
}
