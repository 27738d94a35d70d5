//! Writes into the page cache.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    error::{Errno, Error, Result},
    folio::{
        Folio, GRANULE, Group, PAGE_SIZE, Piece, Step, Written, cache::NewFolio, memory::NewMem,
    },
    fscache::Cookie,
    inode::Inode,
    iomode::Mode,
    read::{Who, buffered::Reader},
    request::plan,
    sync::Arc,
    timer,
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
}

impl Buffered<'_> {
    fn inode(&self) -> &Arc<Inode> {
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
                Ok(n) => {
                    done += n;
                    if n < chunk.len() {
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

    async fn write_chunk(&self, offset: u64, bytes: &[u8]) -> Result<usize> {
        let inode = self.inode();
        let taken = self.take_room(bytes.len() as u64).await?;
        let before = inode.pages.dirtied_ever();
        let mut chunk = Chunk { who: self.who, taken, before, offset, done: 0 };
        // It may be because uploads failed for good that there is room.
        inode.check_not_parked()?;
        let result = self.who.by_deadline(self.copy_in(&mut chunk, bytes)).await;
        let done = chunk.done;
        drop(chunk);
        // What came in after the last flush of a shutdown is lost: nobody may think it is not.
        inode.core.check_open()?;
        match result {
            Err(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }

    /// Waits, in turn, until not too much is dirty.
    async fn take_room(&self, bytes: u64) -> Result<Taken> {
        let core = &self.inode().core;
        if let Some(taken) = core.folios.room().try_take(bytes) {
            return Ok(taken);
        }
        core.counters.write_throttled.inc();
        let _pressed = core.flusher.press();
        self.who.by_deadline(core.folios.room().take(bytes)).await
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
            if let Some(range) = self.steps(chunk, &whole, &mut idle).await? {
                flush(inode, range, Wait::Turn).await?;
            }
        }
        Ok(())
    }

    /// As far as it goes in one I/O mode; says what has to be uploaded before it goes on. (Not here: who waits
    /// for an upload in a mode stops all that want the other, and these all readers.)
    async fn steps(
        &self,
        chunk: &mut Chunk<'_>,
        whole: &Piece<'_>,
        idle: &mut usize,
    ) -> Result<Option<Range<u64>>> {
        let range = whole.offset..whole.offset + whole.bytes.len() as u64;
        let _mode = self.who.enter(Mode::Buffered, range).await?;
        self.inode().ensure_valid(&self.who.remote, &self.who.cx).await?;
        while chunk.done < whole.bytes.len() {
            let rest = whole.after(chunk.done);
            let (step, flush_first) = match self.step(&rest).await? {
                Stepped::Wrote(bytes) => (bytes, None),
                Stepped::FlushFirst(range) => (0, Some(range)),
            };
            *idle = if step == 0 { *idle + 1 } else { 0 };
            chunk.done += step;
            if *idle > IDLE_MAX {
                let told = "what is written to changes faster than it can be written; try again";
                return Err(Error::new(Errno::EAGAIN, told));
            }
            if flush_first.is_some() {
                return Ok(flush_first);
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
            Step::Absent(run) => self.write_new(run, rest).await?,
            Step::Shared(folio) => {
                let mem = self.memory_like(&folio).await?;
                pages.unshare(&folio, mem);
                0
            }
            Step::NeedsOverlay(folio) => {
                let mem = self.memory_like(&folio).await?;
                pages.attach_overlay(&folio, mem, rest.now);
                0
            }
            // Without the right to read: what is known of the folio goes to the server, then it is gone.
            Step::ReadFirst(range) if !self.may_read => return Ok(Stepped::FlushFirst(range)),
            Step::ReadFirst(range) => {
                // Room for it first: without any the reader goes round the page cache, and the folio
                // stays as it is.
                drop(self.memory(&range, u64::MAX, |_| None).await?);
                let mut reader = Reader { who: self.who, cookie: self.cookie, ahead: None };
                reader.gather(range.start, range.end - range.start).await?;
                0
            }
            Step::OtherGroup(range) => return Ok(Stepped::FlushFirst(range)),
        };
        Ok(Stepped::Wrote(wrote))
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
    async fn write_new(&self, run: Range<u64>, rest: &Piece<'_>) -> Result<usize> {
        let inode = self.inode();
        let end = rest.offset + rest.bytes.len() as u64;
        let window = self.memory(&run, end, |place| rest.lend(place)).await?;
        // What is dropped from here on may change what the file has around the write.
        let data_gen = inode.pages.data_gen();
        let zero_point = inode.sizes.load().zero_point;
        let make = |NewFolio { offset, mem }| Written::new(offset, mem, rest, offset >= zero_point);
        let new = window.into_iter().map(make).filter(|w| w.bytes() > 0).collect();
        Ok(inode.pages.insert_written(new, rest, data_gen))
    }

    async fn memory_like(&self, folio: &Arc<Folio>) -> Result<NewMem> {
        let new = self.memory(&folio.range(), u64::MAX, |_| None).await?;
        // Where readers have all memory there may be a page and not more.
        let like = new.into_iter().map(|n| n.mem).find(|mem| mem.len() == folio.len());
        Ok(like.unwrap_or_else(|| self.inode().core.folios.transient(folio.len())))
    }

    /// Memory for `run`, waiting (with no lock but the file's write lock) until enough is clean.
    async fn memory(
        &self,
        run: &Range<u64>,
        end: u64,
        lend: impl Fn(Range<u64>) -> Option<Bytes>,
    ) -> Result<Vec<NewFolio>> {
        let core = &self.inode().core;
        let runs = std::slice::from_ref(run);
        if let Some(window) = core.folios.alloc_lent(runs, end, GRANULE, &lend) {
            return Ok(window);
        }
        let pressed = core.flusher.press();
        // As long as a call to the server may take, from the last upload that brought something there.
        let patience = core.options.remote_timeout;
        let mut until = core.clock.now() + patience;
        let mut before = core.folios.room().cleaned_ever();
        while core.clock.now() < until {
            core.check_open()?;
            self.inode().check_not_parked()?;
            let cleaned = core.flusher.cleaned.notified();
            if let Some(window) = core.folios.alloc_lent(runs, end, GRANULE, &lend) {
                return Ok(window);
            }
            if core.folios.room().dirty() == 0 {
                // Readers have it all: less at a time.
                let page = run.start..run.start + PAGE_SIZE as u64;
                let least = core.folios.alloc_window(&[page], end, PAGE_SIZE);
                if let Some(window) = least.filter(|_| run.end - run.start > PAGE_SIZE as u64) {
                    return Ok(window);
                }
            }
            let soon = core.clock.now() + A_WHILE;
            timer::until(&core.driver, &*core.clock, soon, cleaned).await;
            let cleaned_ever = core.folios.room().cleaned_ever();
            if std::mem::replace(&mut before, cleaned_ever) != cleaned_ever {
                until = core.clock.now() + patience;
            }
        }
        drop(pressed);
        Err(Error::new(Errno::ENOMEM, "the memory budget is exhausted by what cannot be uploaded"))
    }
}

/// What a step came to.
enum Stepped {
    /// So many bytes are in.
    Wrote(usize),
    /// This has to be uploaded before.
    FlushFirst(Range<u64>),
}

/// A part of a write on its way into memory. Its end, also that of a write whose caller goes away in the
/// middle, settles what it took and tells of what is in.
struct Chunk<'a> {
    who: &'a Who,
    taken: Taken,
    /// What had ever become dirty of the file before it.
    before: u64,
    offset: u64,
    /// Bytes that are in.
    done: usize,
}

impl Drop for Chunk<'_> {
    fn drop(&mut self) {
        let inode = &self.who.inode;
        let Inode { core, pages, sizes, .. } = &**inode;
        let room = core.folios.room();
        room.settle(&self.taken, pages.dirtied_ever() - self.before);
        if self.done == 0 {
            return;
        }
        sizes.wrote(self.offset + self.done as u64, || pages.dirty_end());
        core.counters.write_bytes.add(self.done as u64);
        let written = self.offset..self.offset + self.done as u64;
        inode.log_wrote(written.clone());
        core.flusher.note(inode);
        inode.cell.tell_fronts(&written, self.who.origin);
        if room.dirty() > core.options.dirty_background {
            core.flusher.kick();
        }
    }
}

/// How long a writer without memory waits for news before it looks again.
const A_WHILE: std::time::Duration = std::time::Duration::from_millis(100);

/// The largest file a write may make.
pub(crate) fn check_end(who: &Who, offset: u64, len: u64) -> Result<()> {
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
