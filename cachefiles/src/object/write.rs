//! Storing pages: data first, then bits and checksums in memory, the map on disk last.

use std::{
    io::IoSlice,
    sync::{Arc, atomic::Ordering},
};

use netfs::{
    folio::PAGE_SIZE,
    fscache::{CacheWrite, Refusal},
};

use super::{Object, files::refusal};
use crate::{io::write_full, stats::Counters, workers::Lane};

impl Object {
    /// Queues a write; refused at once if too much is in flight.
    pub(super) fn queue_write(self: Arc<Self>, sub: CacheWrite) {
        let passes = self
            .check_write(&sub)
            .and_then(|()| Ok((self.shared().gate.enter()?, self.gate.enter()?)));
        let passes = match passes {
            Ok(passes) => passes,
            Err(r) => return sub.finish(Err(self.refuse(r))),
        };
        let shared = Arc::clone(self.shared());
        let job = Box::new(move || {
            let result = self.write_now(&sub).map_err(|r| self.refuse(r));
            // Before the answer, or its receiver's next call could find no place.
            drop(passes);
            sub.finish(result);
        });
        // A refused job drops the sub, which ends it as withdrawn.
        let _ = shared.workers.submit(Lane::Fill, job);
    }

    fn check_write(&self, sub: &CacheWrite) -> Result<(), Refusal> {
        self.alive()?;
        if sub.generation() != self.generation.load(Ordering::Acquire) {
            return Err(Refusal::Stale);
        }
        let whole = sub.data().iter().all(|s| s.len() % PAGE_SIZE == 0);
        if !whole || sub.is_empty() || !sub.offset().is_multiple_of(PAGE_SIZE as u64) {
            return Err(Refusal::Unsupported);
        }
        Ok(())
    }

    fn write_now(self: &Arc<Self>, sub: &CacheWrite) -> Result<(), Refusal> {
        self.alive()?;
        let first = sub.offset() / PAGE_SIZE as u64;
        let pages = first..first.saturating_add((sub.len() / PAGE_SIZE) as u64);
        if pages.end > self.map.read().pages() {
            return Err(Refusal::Unsupported);
        }
        self.load_chunks(sub.offset()..sub.offset() + sub.len() as u64)?;
        let ticket = {
            let mut map = self.map.write();
            // Under the lock that a new identity takes: what begins before it and is not cancelled by it is of
            // pages that did not change.
            if sub.generation() != self.generation.load(Ordering::Acquire) {
                return Err(Refusal::Stale);
            }
            map.begin_write(pages)?
        };
        let stored = self.store(sub);
        let crcs = stored.as_ref().ok().map(Vec::as_slice);
        let readable = {
            let mut map = self.map.write();
            // Under the map's lock, so that a cut-over before it is seen here.
            let crcs = crcs.filter(|_| !self.is_dead());
            map.end_write(ticket, crcs)
        };
        self.mark_dirty();
        stored?;
        if readable { Ok(()) } else { Err(Refusal::Stale) }
    }

    /// Writes the data and returns the checksums of its pages.
    fn store(self: &Arc<Self>, sub: &CacheWrite) -> Result<Vec<u32>, Refusal> {
        let shared = self.shared();
        let file = self.backing_file(true)?.ok_or(Refusal::IoError)?;
        let first = sub.offset() / PAGE_SIZE as u64;
        let pages = sub.data().iter().flat_map(|s| s.chunks_exact(PAGE_SIZE));
        let crcs = pages.zip(first..).map(|(bytes, n)| self.binding.page(n, bytes)).collect();
        let mut slices: Vec<IoSlice<'_>> = sub.data().iter().map(|s| IoSlice::new(s)).collect();
        write_full(&*shared.io, &file, &mut slices, sub.offset(), shared.write_copy())
            .map_err(refusal)?;
        Counters::add(&shared.stats.write_bytes, sub.len());
        Ok(crcs)
    }
}
