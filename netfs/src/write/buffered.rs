//! Writes into the page cache.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    error::{Errno, Error, Result},
    folio::{GRANULE, Group, PAGE_SIZE, Piece, Step, Written, cache::NewFolio},
    fscache::Cookie,
    inode::Inode,
    iomode::Mode,
    read::{Who, buffered::Reader},
    request::plan,
    sync::Arc,
    waits::WaitKind,
    writeback::{
        Writing,
        flush::{Wait, flush},
        room::Taken,
    },
};

/// Bytes of one step of a long write: other writers come to their turn in between.
const CHUNK: usize = 1 << 20;
/// Tries in a row that bring no byte in, before a write gives up.
const IDLE_MAX: usize = 64;

/// One writer at work. Its file's write lock is held.
pub(crate) struct Buffered<'a> {
    pub(crate) who: &'a Who,
    pub(crate) cookie: Option<&'a Arc<Cookie>>,
    pub(crate) writing: &'a Writing,
    pub(crate) group: Option<Group>,
    /// What holds the bytes of the write, if the caller lends them.
    pub(crate) lent: Option<&'a Bytes>,
    /// The open may read: what is around a write can be fetched.
    pub(crate) may_read: bool,
    /// The bytes were accepted before a restart.
    pub(crate) replays: bool,
}

impl Buffered<'_> {
    pub(super) fn inode(&self) -> &Arc<Inode> {
        &self.who.inode
    }

    /// Writes all of `bytes` at `offset`, or says how many of them, if at least one, went in before
    /// something failed.
    pub(crate) async fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let (at, rest) = (offset + done as u64, &bytes[done..]);
            // A long one in parts that end where folios do: those it covers are written as a whole.
            let part =
                if rest.len() > CHUNK { CHUNK - (at % GRANULE as u64) as usize } else { CHUNK };
            let chunk = &rest[..rest.len().min(part).min(self.at_once())];
            match self.write_chunk(at, chunk).await {
                Ok(Wrote { bytes, all }) => {
                    done += bytes;
                    if !all {
                        // The next chunk does not follow.
                        break;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        // Those whose folios this has replaced, among others.
        self.inode().core.folios.let_go_returned();
        Ok(done)
    }

    fn at_once(&self) -> usize {
        usize::try_from(self.inode().core.folios.room().step()).unwrap_or(usize::MAX)
    }

    /// Writes as much of the front of `bytes` as there is room for.
    async fn write_chunk(&self, offset: u64, bytes: &[u8]) -> Result<Wrote> {
        let inode = self.inode();
        let taken = self.take_room(bytes.len() as u64).await?;
        let bytes = within_room(offset, bytes, &taken);
        let mut chunk = Chunk::new(self.who, taken, offset);
        // It may be because uploads failed for good that there is room.
        self.check_not_parked()?;
        let result = self.who.by_deadline(self.copy_in(&mut chunk, bytes)).await;
        let done = chunk.done;
        drop(chunk);
        // What came in after the last flush of a shutdown is lost: nobody may think it is not.
        inode.core.check_open()?;
        match result {
            Err(error) if done == 0 => Err(error),
            _ => Ok(Wrote { bytes: done, all: done == bytes.len() }),
        }
    }

    pub(super) fn check_not_parked(&self) -> Result<()> {
        if self.replays { Ok(()) } else { self.inode().check_not_parked() }
    }

    /// Waits, in turn, until not too much is dirty.
    async fn take_room(&self, bytes: u64) -> Result<Taken> {
        let Inode { core, pages, .. } = &**self.inode();
        if let Some(taken) = pages.share().try_take(bytes) {
            return Ok(taken);
        }
        core.counters.write_throttled.inc();
        let _wait = self.inode().waiting(WaitKind::DirtyRoom, 0..0);
        let _pressed = core.flusher.press();
        self.who.by_deadline(pages.share().take(bytes)).await
    }

    /// Step by step.
    async fn copy_in(&self, chunk: &mut Chunk<'_>, bytes: &[u8]) -> Result<()> {
        let inode = self.inode();
        let writer = inode.wb.writer(self.writing, &self.who.remote, &self.who.cx);
        let (offset, now, group) = (chunk.offset, inode.now(), self.group);
        inode.wrote(now);
        let whole = Piece { offset, bytes, lent: self.lent, writer, group, now };
        let mut idle = 0;
        while chunk.done < bytes.len() {
            match self.steps(chunk, &whole, &mut idle).await? {
                Some(First::Flush(range)) => flush(inode, range, Wait::Turn).await?,
                Some(First::HoldLess) => self.hold_less().await?,
                Some(First::Memory(run, end)) => self.await_memory(run, end).await?,
                None => {}
            }
        }
        Ok(())
    }

    /// As far as it goes in one I/O mode; says what has to be done before it goes on. (Not here: who waits
    /// for an upload in a mode stops all that want the other, and these all readers.)
    async fn steps(
        &self,
        chunk: &mut Chunk<'_>,
        whole: &Piece<'_>,
        idle: &mut usize,
    ) -> Result<Option<First>> {
        let range = whole.offset..whole.offset + whole.bytes.len() as u64;
        let _mode = self.who.enter(Mode::Buffered, range).await?;
        self.inode().ensure_valid(&self.who.remote, &self.who.cx).await?;
        while chunk.done < whole.bytes.len() {
            let rest = whole.after(chunk.done);
            if !self.inode().pages.share().may_hold(0) {
                return Ok(Some(First::HoldLess));
            }
            let (step, first) = match self.step(&rest).await? {
                Stepped::Wrote(bytes) => (bytes, None),
                Stepped::Not(first) => (0, Some(first)),
            };
            if let Some(First::Memory(..)) = first {
                return Ok(first);
            }
            *idle = if step == 0 { *idle + 1 } else { 0 };
            chunk.done += step;
            if *idle > IDLE_MAX {
                let told = "what is written to changes faster than it can be written; try again";
                return Err(Error::new(Errno::EAGAIN, told));
            }
            if first.is_some() {
                return Ok(first);
            }
        }
        Ok(None)
    }

    /// Writes the front of `rest`, or does what has to be done first (then 0).
    async fn step(&self, rest: &Piece<'_>) -> Result<Stepped> {
        let pages = &self.inode().pages;
        let step = match pages.write_step(rest) {
            Step::Covered(place) => self.write_over(&place, rest),
            step => step,
        };
        let wrote = match step {
            Step::Wrote(bytes) => bytes,
            Step::Covered(_) => 0,
            Step::Absent(run) => return Ok(self.write_new(run, rest)),
            Step::Shared(folio) => {
                let Some(mem) = self.memory_like(&folio) else { return no_memory(folio.range()) };
                pages.unshare(&folio, mem);
                0
            }
            Step::NeedsOverlay(folio) => {
                let Some(mem) = self.memory_like(&folio) else { return no_memory(folio.range()) };
                pages.attach_overlay(&folio, mem, rest.now);
                0
            }
            // Without the right to read, or memory to read into (fetches that hang have it): what is known of
            // the folio goes to the server, then it is gone.
            Step::ReadFirst(range) if !self.may_fetch(&range) => {
                return Ok(Stepped::Not(First::Flush(range)));
            }
            Step::ReadFirst(range) => {
                // Room for it first: without any the reader goes round the page cache, and the folio
                // stays as it is.
                if self.memory(&range, u64::MAX, |_| None).is_none() {
                    return no_memory(range);
                }
                let mut reader = Reader { who: self.who, cookie: self.cookie, ahead: None };
                reader.gather(range.start, range.end - range.start).await?;
                0
            }
            Step::OtherGroup(range) => return Ok(Stepped::Not(First::Flush(range))),
        };
        Ok(Stepped::Wrote(wrote))
    }

    fn may_fetch(&self, range: &Range<u64>) -> bool {
        self.may_read && self.inode().core.folios.room().may_fetch(range.end - range.start)
    }

    /// Writes all of the folio in `place`: into other memory, or, if there is none to be had at once, into what
    /// it has.
    fn write_over(&self, place: &Range<u64>, rest: &Piece<'_>) -> Step {
        let Inode { core, pages, .. } = &**self.inode();
        let (runs, lend) = (std::slice::from_ref(place), |place| rest.lend(place));
        let new = core.folios.alloc_lent(runs, place.end, GRANULE, lend).and_then(|mut w| w.pop());
        let Some(NewFolio { offset, mem }) = new else { return pages.write_into(rest) };
        pages.replace(Written::new(offset, mem, rest, false), rest)
    }

    /// Writes where there is no folio: into new ones, before anybody sees them.
    fn write_new(&self, run: Range<u64>, rest: &Piece<'_>) -> Stepped {
        let inode = self.inode();
        let end = rest.offset + rest.bytes.len() as u64;
        let Some(window) = self.memory(&run, end, |place| rest.lend(place)) else {
            return Stepped::Not(First::Memory(run, end));
        };
        // What is dropped from here on may change what the file has around the write.
        let data_gen = inode.pages.data_gen();
        let zero_point = inode.sizes.load().zero_point;
        let make = |NewFolio { offset, mem }| Written::new(offset, mem, rest, offset >= zero_point);
        let new = window.into_iter().map(make).filter(|w| w.bytes() > 0).collect();
        Stepped::Wrote(inode.pages.insert_written(new, rest, data_gen))
    }
}

/// What a step came to.
enum Stepped {
    /// So many bytes are in.
    Wrote(usize),
    /// None: this has to be done before.
    Not(First),
}

/// What a write waits for, in no I/O mode.
enum First {
    /// This is to be uploaded.
    Flush(Range<u64>),
    /// The volume's dirty bytes hold too much memory: some of it is to become clean.
    HoldLess,
    /// There is no memory for this run, of which what is behind the second is not needed.
    Memory(Range<u64>, u64),
}

/// For all of the folio at `run`.
fn no_memory(run: Range<u64>) -> Result<Stepped> {
    Ok(Stepped::Not(First::Memory(run, u64::MAX)))
}

/// What a chunk came to.
struct Wrote {
    bytes: usize,
    /// As many as there was room for: the next ones may follow.
    all: bool,
}

/// The front of `bytes` that there is room for: up to where a page ends, so that no page is uploaded in parts.
fn within_room<'a>(offset: u64, bytes: &'a [u8], taken: &Taken) -> &'a [u8] {
    let most = usize::try_from(taken.bytes()).unwrap_or(usize::MAX);
    if bytes.len() <= most {
        return bytes;
    }
    let last = ((offset + most as u64) % PAGE_SIZE as u64) as usize;
    &bytes[..if last < most { most - last } else { most }]
}

/// A part of a write on its way into memory. Its end, also that of a write whose caller goes away in the
/// middle, settles what it took and tells of what is in.
pub(super) struct Chunk<'a> {
    who: &'a Who,
    taken: Taken,
    /// What had ever become dirty of the file before it.
    before: u64,
    offset: u64,
    /// Bytes that are in.
    pub(super) done: usize,
}

impl<'a> Chunk<'a> {
    pub(super) fn new(who: &'a Who, taken: Taken, offset: u64) -> Chunk<'a> {
        Chunk { who, taken, before: who.inode.pages.dirtied_ever(), offset, done: 0 }
    }
}

impl Drop for Chunk<'_> {
    fn drop(&mut self) {
        let inode = &self.who.inode;
        let Inode { core, pages, sizes, .. } = &**inode;
        pages.share().settle(&self.taken, pages.dirtied_ever() - self.before);
        if self.done == 0 {
            return;
        }
        sizes.wrote(self.offset + self.done as u64, || pages.dirty_end());
        core.counters.write_bytes.add(self.done as u64);
        let written = self.offset..self.offset + self.done as u64;
        inode.log_wrote(written.clone());
        core.flusher.note(inode);
        inode.cell.tell_fronts(&written, self.who.origin);
        if core.folios.room().dirty() > core.options.dirty_background {
            core.flusher.kick();
        }
    }
}

/// The largest file a write may make.
pub(crate) fn check_end(who: &Who, offset: u64, len: u64) -> Result<()> {
    // What is no larger than the file is not asked about.
    if offset.checked_add(len).is_some_and(|end| end <= who.inode.sizes.i_size()) {
        return Ok(());
    }
    let most = who.remote.limits().max_size.min(i64::MAX as u64);
    let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64);
    let end = end.ok_or_else(|| Error::new(Errno::EINVAL, "the range ends past 2^63-1"))?;
    if end > most {
        let told = format!("byte {end} is past the largest file this server takes ({most})");
        return Err(Error::new(Errno::EFBIG, told));
    }
    // The last page must be one.
    plan::page_out(&(offset..end)).end.checked_add(1).map(drop).ok_or_else(|| Errno::EFBIG.into())
}
