//! One open object of a [`MemCache`].

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{FaultPoint, MemCache, Page, StoredFile};
use crate::{
    folio::PAGE_SIZE,
    fscache::{
        CacheMiss, CacheObject, CacheRead, CacheWrite, Extent, ExtentKind, Extents, Identity,
        Refusal, Relinquish, TryRead,
    },
    remote::VolumeId,
    sync::{Arc, Mutex},
};

const PAGE: u64 = PAGE_SIZE as u64;

pub(super) struct MemObject {
    cache: Arc<MemCache>,
    volume: VolumeId,
    key: Bytes,
    incarnation: u64,
    /// Kept apart because a dead object still has to answer.
    identity: Mutex<Identity>,
}

impl MemObject {
    pub(super) fn new(
        cache: Arc<MemCache>,
        volume: VolumeId,
        key: Bytes,
        incarnation: u64,
    ) -> Arc<MemObject> {
        let identity = Identity { aux: Bytes::new(), size: 0 };
        let identity = Mutex::new(identity);
        let object = Arc::new(MemObject { cache, volume, key, incarnation, identity });
        if let Some(identity) = object.with(|file| file.identity.clone()) {
            *object.identity.lock() = identity;
        }
        object
    }

    /// The stored file, if it is still this object's.
    fn with<T>(&self, f: impl FnOnce(&mut StoredFile) -> T) -> Option<T> {
        let mut store = self.cache.store.lock();
        let file = store.volumes.get_mut(&self.volume)?.files.get_mut(&self.key)?;
        (file.open && file.incarnation == self.incarnation).then(|| f(file))
    }

    fn copy_out(&self, offset: u64, into: &mut [u8]) -> Result<(), CacheMiss> {
        if let Some(miss) = self.cache.faults.read_miss() {
            return Err(miss);
        }
        self.cache.admit().map_err(CacheMiss::Refused)?;
        self.with(|file| copy_pages(file, offset, into)).unwrap_or(Err(CacheMiss::Stale))?;
        self.cache.store.lock().stats.read_bytes += into.len() as u64;
        Ok(())
    }

    fn read_into(&self, sub: &mut CacheRead) -> Result<(), CacheMiss> {
        self.cache.faults.refusal(FaultPoint::Read).map_err(CacheMiss::Refused)?;
        let mut at = sub.offset();
        for buf in sub.buffers() {
            self.copy_out(at, buf)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    fn store(&self, sub: &CacheWrite) -> Result<(), Refusal> {
        self.cache.faults.refusal(FaultPoint::Write)?;
        self.cache.admit()?;
        let whole = sub.data().iter().all(|s| s.len().is_multiple_of(PAGE_SIZE));
        if !whole || !sub.offset().is_multiple_of(PAGE) {
            return Err(Refusal::Unsupported);
        }
        self.with(|file| {
            if sub.generation() != file.generation {
                return Err(Refusal::Stale);
            }
            let first = sub.offset() / PAGE;
            let pages = sub.data().iter().flat_map(|s| s.chunks_exact(PAGE_SIZE));
            for (page, data) in (first..).zip(pages) {
                if page * PAGE < file.identity.size {
                    file.pages.insert(page, Page::Data(data.into()));
                }
            }
            Ok(())
        })
        .unwrap_or(Err(Refusal::Stale))?;
        self.cache.store.lock().stats.write_bytes += sub.len() as u64;
        Ok(())
    }
}

fn forget(file: &mut StoredFile, range: &Range<u64>) {
    if !range.is_empty() {
        let touched = range.start / PAGE..range.end.div_ceil(PAGE);
        file.pages.retain(|page, _| !touched.contains(page));
    }
}

/// All bytes, or a miss. A damaged page is forgotten.
fn copy_pages(file: &mut StoredFile, offset: u64, mut into: &mut [u8]) -> Result<(), CacheMiss> {
    let mut at = offset;
    while !into.is_empty() {
        let start = usize::try_from(at % PAGE).unwrap_or(0);
        let n = into.len().min(PAGE_SIZE - start);
        let (head, rest) = into.split_at_mut(n);
        match file.pages.get(&(at / PAGE)) {
            Some(Page::Data(data)) => head.copy_from_slice(&data[start..start + n]),
            Some(Page::Zero) => head.fill(0),
            Some(Page::Corrupt) => {
                file.pages.remove(&(at / PAGE));
                return Err(CacheMiss::Corrupt);
            }
            None => return Err(CacheMiss::Absent),
        }
        at += n as u64;
        into = rest;
    }
    Ok(())
}

impl CacheObject for MemObject {
    fn generation(&self) -> u64 {
        self.with(|file| file.generation).unwrap_or(self.incarnation)
    }

    fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    fn extents(&self, range: Range<u64>) -> Extents {
        let mut out = Extents::new();
        if range.is_empty() {
            return out;
        }
        if self.cache.faults.map_missing() {
            out.push(Extent { range, kind: ExtentKind::NotLoaded });
            return out;
        }
        let absent = |range| Extent { range, kind: ExtentKind::Absent };
        self.with(|file| {
            let mut at = range.start;
            while at < range.end {
                let end = ((at / PAGE + 1) * PAGE).min(range.end);
                let kind = match file.pages.get(&(at / PAGE)) {
                    Some(Page::Data(_) | Page::Corrupt) => ExtentKind::Data,
                    Some(Page::Zero) => ExtentKind::Zero,
                    None => ExtentKind::Absent,
                };
                match out.last_mut() {
                    Some(last) if last.kind == kind => last.range.end = end,
                    _ => out.push(Extent { range: at..end, kind }),
                }
                at = end;
            }
        });
        if out.is_empty() {
            out.push(absent(range));
        }
        out
    }

    fn try_read(&self, offset: u64, into: &mut [u8]) -> TryRead {
        if !self.cache.faults.inline() {
            return TryRead::WouldBlock;
        }
        self.cache.store.lock().stats.inline_reads += 1;
        match self.copy_out(offset, into) {
            Ok(()) => TryRead::Done,
            Err(miss) => TryRead::Miss(miss),
        }
    }

    fn read(self: Arc<Self>, mut sub: CacheRead) {
        let this = Arc::clone(&self);
        self.cache.faults.pass_then(FaultPoint::Read, move || {
            this.cache.store.lock().stats.queued_reads += 1;
            let result = this.read_into(&mut sub);
            sub.finish(result);
        });
    }

    fn write(self: Arc<Self>, sub: CacheWrite) {
        if self.cache.faults.is_busy() {
            return sub.finish(Err(Refusal::Busy));
        }
        let this = Arc::clone(&self);
        self.cache.faults.pass_then(FaultPoint::Write, move || {
            let result = this.store(&sub);
            sub.finish(result);
        });
    }

    fn mark_zero(&self, range: Range<u64>) {
        self.with(|file| {
            if !range.start.is_multiple_of(PAGE) {
                return;
            }
            // Only whole pages, or up to the end of the file.
            let end = range.end.min(file.identity.size);
            let whole = end == file.identity.size || end.is_multiple_of(PAGE);
            let last = if whole { end.div_ceil(PAGE) } else { end / PAGE };
            file.pages.extend((range.start / PAGE..last).map(|page| (page, Page::Zero)));
        });
    }

    fn forget(&self, range: Range<u64>) {
        self.with(|file| forget(file, &range));
    }

    fn cut_over(&self, identity: Identity) -> Result<Arc<dyn CacheObject>, Refusal> {
        self.cache.faults.block(FaultPoint::CutOver)?;
        self.cache.admit()?;
        let generation = self.cache.next_generation();
        self.with(|file| {
            // From here on this object's incarnation is nobody's.
            (file.incarnation, file.generation) = (generation, generation);
            file.identity = identity;
            file.pages.clear();
        })
        .ok_or(Refusal::Stale)?;
        let (volume, key) = (self.volume.clone(), self.key.clone());
        Ok(MemObject::new(Arc::clone(&self.cache), volume, key, generation))
    }

    fn begin_modify(self: Arc<Self>) -> BoxFuture<'static, Result<(), Refusal>> {
        Box::pin(async move {
            self.cache.faults.pass(FaultPoint::BeginModify).await?;
            self.cache.admit()?;
            self.with(|file| file.modifying = true).ok_or(Refusal::Stale)
        })
    }

    fn end_modify(&self) {
        self.with(|file| file.modifying = false);
    }

    fn set_identity(&self, identity: Identity, changed: &[Range<u64>]) -> Result<(), Refusal> {
        self.cache.faults.count(FaultPoint::SetIdentity)?;
        self.cache.admit()?;
        let generation = self.cache.next_generation();
        self.with(|file| {
            let (before, after) = (file.identity.size, identity.size);
            if before != after {
                let old_tail = (!before.is_multiple_of(PAGE)).then_some(before / PAGE);
                file.pages.retain(|&page, _| (page + 1) * PAGE <= after && Some(page) != old_tail);
            }
            changed.iter().for_each(|range| forget(file, range));
            (file.identity, file.generation) = (identity.clone(), generation);
        })
        .ok_or(Refusal::Stale)?;
        *self.identity.lock() = identity;
        Ok(())
    }

    fn commit(self: Arc<Self>) -> BoxFuture<'static, Result<(), Refusal>> {
        // Stored is stored: there is nothing that a restart would lose.
        Box::pin(async move { self.with(|_| ()).ok_or(Refusal::Stale) })
    }

    fn close(self: Arc<Self>, how: Relinquish) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // A refusal has no meaning for a close.
            let _ = self.cache.faults.pass(FaultPoint::Close).await;
            if self.with(|file| file.open = false).is_none() {
                return;
            }
            let mut store = self.cache.store.lock();
            store.stats.objects_open = store.stats.objects_open.saturating_sub(1);
            let volume = store.volumes.get_mut(&self.volume);
            if let (Relinquish::Retire, Some(volume)) = (how, volume) {
                volume.files.remove(&self.key);
            }
        })
    }
}
