//! Reading: every byte that leaves here was compared with its page's checksum after it was read.

use std::{
    io::IoSliceMut,
    sync::{Arc, atomic::Ordering},
};

use netfs::{
    folio::PAGE_SIZE,
    fscache::{CacheMiss, CacheRead, Refusal, TryRead},
};

use smallvec::SmallVec;

use super::{Object, files::refusal};
use crate::{
    content_map::{CRC_AREA, Chunk, MAP_AREA, Run, side_offset},
    descriptors::CountedFile,
    io::{Errno, Wait, is_not_now, read_full},
    stats::Counters,
    workers::{Lane, Pass},
};

/// How often a read starts over because the page changed under it.
const RETRIES: usize = 4;

/// Most pages that one system call reads where nothing is waited for: 512 KiB. So much, the kernel's
/// pages included, is still in a second-level cache of 1 MiB when its checksums are computed; of 1 MiB a
/// good part is not, and with 256 KiB the calls are dearer than what they save.
const INLINE_PAGES: u64 = 128;
/// The same where the disk is waited for: smaller calls made cold reads slower.
const WAITING_PAGES: u64 = 512;

/// Which of an object's bytes a read is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// Stored bytes, all of the range: where something else is known of it, or nothing, none is read.
    Data,
    /// And known zeros.
    DataOrZeros,
}

/// Why bytes were not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unread {
    /// Only by waiting.
    WouldBlock,
    /// Not at all.
    Miss(CacheMiss),
}

/// A page that could not be read.
struct Bad {
    page: u64,
    why: Unread,
    /// It was read and is not what was stored, as opposed to an error of the disk.
    damaged: bool,
}

impl From<CacheMiss> for Unread {
    fn from(miss: CacheMiss) -> Unread {
        Unread::Miss(miss)
    }
}

impl From<Refusal> for Unread {
    fn from(refusal: Refusal) -> Unread {
        Unread::Miss(match refusal {
            Refusal::Stale => CacheMiss::Stale,
            Refusal::IoError => CacheMiss::Io,
            other => CacheMiss::Refused(other),
        })
    }
}

impl Object {
    /// Reads what needs no waiting for.
    pub(super) fn read_inline(&self, offset: u64, into: &mut [u8], wanted: Wanted) -> TryRead {
        match self.read_verified(offset, into, wanted, Wait::No, None) {
            Ok(()) => {
                Counters::count(&self.shared().stats.inline_reads);
                TryRead::Done
            }
            Err(Unread::WouldBlock) => TryRead::WouldBlock,
            Err(Unread::Miss(miss)) => {
                if miss == CacheMiss::NotLoaded {
                    let end = offset.saturating_add(into.len() as u64);
                    let load = self.map.read().extents(offset..end).1;
                    self.start_loading(load);
                }
                TryRead::Miss(miss)
            }
        }
    }

    /// Queues a read; what does not fit is a miss.
    pub(super) fn queue_read(self: Arc<Self>, sub: CacheRead) {
        let passes =
            self.alive().and_then(|()| Ok((self.shared().gate.enter()?, self.gate.enter()?)));
        let passes = match passes {
            Ok(passes) => passes,
            Err(r) => {
                let Unread::Miss(miss) = Unread::from(self.refuse(r)) else { return };
                return sub.finish(Err(miss));
            }
        };
        let shared = Arc::clone(self.shared());
        let job = Box::new(move || {
            self.read_now(sub, passes);
        });
        // A refused job drops the sub, which ends it as withdrawn.
        let _ = shared.workers.submit(Lane::Urgent, job);
    }

    fn read_now(self: Arc<Self>, mut sub: CacheRead, passes: (Pass, Pass)) {
        Counters::count(&self.shared().stats.queued_reads);
        let (start, len) = (sub.offset(), sub.remaining() as u64);
        // What is not loaded after this is a miss below.
        let _ = self.load_chunks(start..start.saturating_add(len));
        let mut offset = start;
        // Held, so that the descriptor budget cannot take it away in the middle.
        let file = self.backing_file(false);
        let mut result = file.as_ref().map(drop).map_err(|r| Unread::from(*r));
        let file = file.ok().flatten();
        for buffer in sub.buffers() {
            if result.is_ok() {
                let (wanted, wait) = (Wanted::DataOrZeros, Wait::Yes);
                result = self.read_verified(offset, buffer, wanted, wait, file.as_deref());
            }
            offset = offset.saturating_add(buffer.len() as u64);
        }
        // Before the answer, or its receiver's next call could find no place.
        drop(passes);
        sub.finish(result.map_err(|end| match end {
            Unread::Miss(miss) => miss,
            // There was no file a moment ago, when the map was asked there was.
            Unread::WouldBlock => CacheMiss::Refused(Refusal::Busy),
        }));
    }

    /// Reads `into.len()` bytes at `offset`, verified; from `file`, or the one that is open.
    pub(super) fn read_verified(
        &self,
        offset: u64,
        mut into: &mut [u8],
        wanted: Wanted,
        wait: Wait,
        file: Option<&CountedFile>,
    ) -> Result<(), Unread> {
        self.alive()?;
        let mut at = offset;
        while !into.is_empty() {
            let n = self.read_run(at, into, wanted, wait, file)?;
            into = &mut into[n..];
            at += n as u64;
        }
        // A cut-over while we read: the bytes may be of either version (row 106).
        self.alive()?;
        Ok(())
    }

    /// Reads from `offset` to the end of the run of pages it lies in. Says how many bytes that were.
    fn read_run(
        &self,
        offset: u64,
        into: &mut [u8],
        wanted: Wanted,
        wait: Wait,
        file: Option<&CountedFile>,
    ) -> Result<usize, Unread> {
        let first = offset / PAGE_SIZE as u64;
        let skip = usize::try_from(offset % PAGE_SIZE as u64).unwrap_or(0);
        let want_pages = (skip + into.len()).div_ceil(PAGE_SIZE) as u64;
        let max = if wait == Wait::Yes { WAITING_PAGES } else { INLINE_PAGES };
        for _ in 0..RETRIES {
            let run = match wanted {
                Wanted::Data => self.map.read().run_of_data(first, want_pages, max)?,
                Wanted::DataOrZeros => self.map.read().run(first, want_pages.min(max))?,
            };
            let n = (run.pages * PAGE_SIZE - skip).min(into.len());
            let into = &mut into[..n];
            if run.zero {
                into.fill(0);
                return Ok(n);
            }
            let read = match file {
                Some(file) => self.read_pages(file, first, skip, into, wait, &run),
                None => {
                    let file = self.cell.get().ok_or(Unread::WouldBlock)?;
                    self.read_pages(&file, first, skip, into, wait, &run)
                }
            };
            let Err(Bad { page, why, damaged }) = read else { return Ok(n) };
            if why == Unread::WouldBlock {
                return Err(why);
            }
            let index = usize::try_from(page - first).unwrap_or(0);
            if self.map.write().is_corrupt(page, run.seq_of(index)) {
                if damaged {
                    Counters::count(&self.shared().stats.corrupt_pages);
                }
                tracing::warn!(name = self.slot.name().file, page, ?why, "bad page");
                self.mark_dirty();
                return Err(why);
            }
        }
        Err(CacheMiss::Refused(Refusal::Busy).into())
    }

    /// Reads pages and compares their checksums: whole ones where they belong, a part of one through a
    /// page of our own.
    fn read_pages(
        &self,
        file: &CountedFile,
        page: u64,
        skip: usize,
        into: &mut [u8],
        wait: Wait,
        run: &Run,
    ) -> Result<(), Bad> {
        let after = (skip + into.len()) % PAGE_SIZE;
        if skip == 0 && after == 0 {
            return self.read_whole(file, page, [&mut [], into, &mut []], wait, run);
        }
        let one = skip + into.len() < PAGE_SIZE;
        let (mut head_page, mut tail_page) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
        let head_len = if skip != 0 || one { (PAGE_SIZE - skip).min(into.len()) } else { 0 };
        let tail_len = if one { 0 } else { after };
        let (head, rest) = into.split_at_mut(head_len);
        let (middle, tail) = rest.split_at_mut(rest.len() - tail_len);
        let whole = |used: usize| if used == 0 { 0 } else { PAGE_SIZE };
        let pieces = [&mut head_page[..whole(head_len)], middle, &mut tail_page[..whole(tail_len)]];
        self.read_whole(file, page, pieces, wait, run)?;
        head.copy_from_slice(&head_page[skip..skip + head.len()]);
        tail.copy_from_slice(&tail_page[..tail.len()]);
        Ok(())
    }

    /// Reads whole pages into pieces of whole pages, with one system call, and compares checksums.
    fn read_whole(
        &self,
        file: &CountedFile,
        page: u64,
        mut pieces: [&mut [u8]; 3],
        wait: Wait,
        run: &Run,
    ) -> Result<(), Bad> {
        let want: usize = pieces.iter().map(|p| p.len()).sum();
        let got = {
            // Only for the call: it moves their beginnings on as it goes.
            let mut slices: SmallVec<[IoSliceMut<'_>; 3]> =
                pieces.iter_mut().filter(|p| !p.is_empty()).map(|p| IoSliceMut::new(p)).collect();
            self.transfer(file, &mut slices, page, wait)
        };
        let got = got.map_err(|why| Bad { page, why, damaged: false })?;
        if got < want {
            // A hole at the end or a truncated file (N-C58). Not waiting it may just be cold.
            let why = if wait == Wait::No { Unread::WouldBlock } else { CacheMiss::Io.into() };
            return Err(Bad { page: page + (got / PAGE_SIZE) as u64, why, damaged: true });
        }
        let whole = pieces.iter().flat_map(|piece| piece.chunks_exact(PAGE_SIZE));
        for (number, bytes) in (page..).zip(whole) {
            // A page without a checksum to compare with is none that may be served.
            let crc = run.crcs.get(usize::try_from(number - page).unwrap_or(usize::MAX));
            if Some(&self.binding.page(number, bytes)) != crc {
                return Err(Bad { page: number, why: CacheMiss::Corrupt.into(), damaged: true });
            }
        }
        Ok(())
    }

    fn transfer(
        &self,
        file: &CountedFile,
        slices: &mut [IoSliceMut<'_>],
        page: u64,
        wait: Wait,
    ) -> Result<usize, Unread> {
        let shared = self.shared();
        let offset = page * PAGE_SIZE as u64;
        let got = if wait == Wait::Yes {
            read_full(&*shared.io, file, slices, offset, shared.read_copy())
        } else if shared.nowait() {
            shared.io.read(file, slices, offset, wait, shared.read_copy())
        } else {
            return Err(Unread::WouldBlock);
        };
        match got {
            Ok(n) => {
                Counters::add(&shared.stats.read_bytes, n);
                Ok(n)
            }
            Err(Errno::AGAIN | Errno::INTR) => Err(Unread::WouldBlock),
            Err(Errno::OPNOTSUPP) if wait == Wait::No => {
                shared.give_up_nowait();
                Err(Unread::WouldBlock)
            }
            Err(_) => Err(CacheMiss::Io.into()),
        }
    }

    /// Has a chunk of the map loaded, without waiting.
    pub(super) fn start_loading(&self, chunk: Option<u64>) {
        let Some(number) = chunk else { return };
        if self.alive().is_err() {
            return;
        }
        if self.loading.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(me) = self.me.upgrade() else { return };
        let job = Box::new(move || {
            // Not now: whoever asks again finds it not loaded, and starts over.
            let _ = me.load_chunk(number);
            me.loading.store(false, Ordering::Release);
        });
        // A withdrawn cache loads nothing; the answer was "not loaded" already.
        let _ = self.shared().workers.submit(Lane::Urgent, job);
    }

    /// Loads what is not loaded of the chunks `range` lies in. On I/O threads only.
    ///
    /// # Errors
    /// Some of it cannot be loaded now. It stays as it is on disk, and is not known until it is.
    pub(super) fn load_chunks(
        self: &Arc<Self>,
        range: std::ops::Range<u64>,
    ) -> Result<(), Refusal> {
        let mut chunks = self.map.read().chunks_of(&range);
        chunks.try_for_each(|number| self.load_chunk(number))
    }

    /// Loads a chunk from the side file. What cannot be read or trusted is empty from then on; that
    /// the process has no descriptor or memory to spare says nothing about it.
    pub(crate) fn load_chunk(self: &Arc<Self>, number: u64) -> Result<(), Refusal> {
        let (pages, edition) = {
            let map = self.map.read();
            if !map.needs_load(number) {
                return Ok(());
            }
            (map.pages_stored_in(number), map.editions().on_disk(number))
        };
        let chunk = match self.read_chunk(number, edition, pages) {
            Ok(chunk) => chunk,
            Err(Unloaded::NotNow(e)) => return Err(refusal(e)),
            Err(Unloaded::Damaged) => {
                // If somebody else has loaded it, it may have been written since.
                if self.map.read().needs_load(number) {
                    Counters::count(&self.shared().stats.corrupt_pages);
                }
                None
            }
        };
        let chunk = chunk.unwrap_or_else(|| Chunk::empty(pages));
        self.map.write().install(number, chunk);
        Ok(())
    }

    /// `None`: never written, and no own change has touched it.
    fn read_chunk(&self, number: u64, edition: u64, pages: u64) -> Result<Option<Chunk>, Unloaded> {
        let io = &*self.shared().io;
        let file = match self.shared().descriptors.open(|| self.open_side_file()) {
            Err(Errno::NOENT) if edition == 0 => return Ok(None),
            Err(Errno::NOENT) => return Err(Unloaded::Damaged),
            other => other?,
        };
        let mut map = vec![0; MAP_AREA];
        let mut crcs = vec![0; CRC_AREA.min(usize::try_from(pages * 4).unwrap_or(CRC_AREA))];
        let mut slices = [IoSliceMut::new(&mut map), IoSliceMut::new(&mut crcs)];
        let offset = side_offset(number);
        let got = read_full(io, &file, &mut slices, offset, self.shared().read_copy())?;
        // Never written is a hole or past the end: zeros, or nothing.
        if edition == 0 && map[..got.min(MAP_AREA)].iter().all(|b| *b == 0) {
            return Ok(None);
        }
        crcs.truncate(got.saturating_sub(MAP_AREA));
        let map = &map[..got.min(MAP_AREA)];
        let chunk = Chunk::decode(map, Some(&crcs), (number, edition), pages, self.place());
        chunk.map(Some).map_err(|_| Unloaded::Damaged)
    }
}

/// Why a chunk was not loaded.
enum Unloaded {
    /// It cannot be read or trusted.
    Damaged,
    /// The process lacks something that has nothing to do with the file.
    NotNow(Errno),
}

impl From<Errno> for Unloaded {
    fn from(e: Errno) -> Unloaded {
        if is_not_now(e) { Unloaded::NotNow(e) } else { Unloaded::Damaged }
    }
}
