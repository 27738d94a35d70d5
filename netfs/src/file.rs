//! [`File`]: an open file, the one interface all fronts use.

mod advise;
mod blocking;
mod options;
mod space;
mod write_options;
mod writing;

use std::{fmt, ops::Range, sync::OnceLock};

pub use advise::{Advice, Evicted};
pub use blocking::Blocking;
use bytes::Bytes;
pub use options::{Durability, OpenOptions, Sync};
pub use write_options::{WriteGroup, WriteOptions};
pub use writing::Unclosed;
pub(crate) use writing::persist_as;

use crate::{
    coherency::Validity,
    error::{Errno, Error, Result},
    folio::Origin,
    fscache::{CacheMiss, Cookie, CookieUse, TryRead},
    inode::OpenCount,
    iomode::Mode,
    namespace::Node,
    read::{self, GATHER_MAX, Slices, Who, ahead::Ahead, buffered::Reader, readahead::Streams},
    remote::{Attr, Cx, DynRemoteFs, FileKind},
    request::plan,
    sizes::Sizes,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    writeback::{
        Writing,
        flush::{Wait, flush},
    },
};

/// Whether a read leaves its pages in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MemoryUse {
    /// Keep what is read in the page cache.
    #[default]
    Fill,
    /// Leave no copy in memory: disk hits go straight into the caller's buffer.
    Bypass,
}

/// How to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReadOptions {
    /// Whether the read's pages stay in memory.
    pub memory: MemoryUse,
    /// Past both caches, from the server (row 46). It waits for buffered I/O of the file that is under way, no
    /// longer than four times [`remote_timeout`](crate::Builder::remote_timeout) (`ETIMEDOUT`).
    pub unbuffered: bool,
}

/// Answer of [`File::try_read`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryReadAt {
    /// So many bytes were read (0 = end of file).
    Done(usize),
    /// Not from memory or without waiting: use [`File::read_at`].
    WouldBlock,
}

/// Answer of [`File::try_write`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryWriteAt {
    /// So many bytes were written: all.
    Done(usize),
    /// Nothing was written: use [`File::write_at`].
    WouldBlock,
}

/// An open file. Share it by reference or in an `Arc`; all methods take `&self`.
///
/// Bytes returned by one call of up to 1 MiB are of one version of the file. Once a call to
/// [`VolumeEvents::server_break`](crate::coherency::VolumeEvents::server_break) has returned, a read
/// that starts afterwards never returns older bytes unless the server confirmed them since (P-D1).
pub struct File {
    /// Set once the file has one: it may get its first version only after it was opened. Before
    /// `who`: the use ends before the inode may go and relinquish the cookie.
    cookie: OnceLock<(Arc<Cookie>, CookieUse)>,
    who: Who,
    streams: Mutex<Streams>,
    ahead: Arc<Ahead>,
    how: OpenOptions,
    /// The server lets it read, whether it was opened for that or not: what is around a write can be fetched.
    may_fetch: bool,
    /// Reads through the caches are for this open: it is for reading, and not direct.
    reads_cached: bool,
    /// See `advise`.
    advice: AtomicU8,
    writing: Writing,
    /// Last: it counts until all else is gone.
    _open: OpenCount,
}

/// What an open was granted.
#[derive(Clone, Copy)]
pub(crate) struct Granted<'a> {
    /// The client it was opened through.
    pub(crate) by: &'a Arc<dyn DynRemoteFs>,
    /// Reading, too.
    pub(crate) reads: bool,
}

impl File {
    pub(crate) fn new(node: Node, cx: Cx, how: OpenOptions, granted: Granted<'_>) -> File {
        let who = Who { inode: node.inode, remote: node.remote, cx, origin: how.origin };
        let writing = Writing::opened(&who, how.writes());
        who.inode.wb.recalls.opened(granted.by, &who.remote, &who.cx);
        let may_fetch = granted.reads;
        let (streams, ahead) = (Mutex::default(), Arc::default());
        let reads_cached = how.read && !how.direct;
        let (cookie, advice) = (OnceLock::new(), AtomicU8::new(0));
        let _open = OpenCount::new(&who.inode);
        let file = File {
            cookie,
            who,
            streams,
            ahead,
            how,
            may_fetch,
            reads_cached,
            advice,
            writing,
            _open,
        };
        // So that the lookup is under way by the time of the first read.
        file.cookie();
        file
    }

    fn cookie(&self) -> Option<&Arc<Cookie>> {
        if let Some((cookie, _)) = self.cookie.get() {
            return Some(cookie);
        }
        let cookie = self.who.inode.cookie()?;
        let used = cookie.use_cookie(false);
        Some(&self.cookie.get_or_init(|| (cookie, used)).0)
    }

    /// The file as a node, for attribute calls.
    #[must_use]
    pub fn node(&self) -> Node {
        Node { inode: Arc::clone(&self.who.inode), remote: Arc::clone(&self.who.remote) }
    }

    /// The file's sizes as last known, without asking the server.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.who.inode.sizes.load()
    }

    /// Attributes as last known, without asking the server
    /// ([`Mount::getattr`](crate::Mount::getattr) asks).
    #[must_use]
    pub fn attr(&self) -> Option<Attr> {
        self.who.inode.attr()
    }

    /// How it was opened.
    #[must_use]
    pub fn options(&self) -> &OpenOptions {
        &self.how
    }

    /// The durability level in force: the one it was [opened](OpenOptions::durability) at. But `Memory` instead of
    /// `Journal` without a [log](crate::Builder::dirty_log), where the adapter finds no file by its key
    /// ([`RemoteFs::by_key`](crate::remote::RemoteFs::by_key)), and once this client has removed the file's last name:
    /// then an fsync uploads.
    #[must_use]
    pub fn durability(&self) -> Durability {
        let inode = &self.who.inode;
        let gone = inode.unlinked.load(Ordering::Acquire);
        let logs = inode.core.journal.is_some() && inode.volume.is_replayable() && !gone;
        match self.how.durability {
            Durability::Journal if !logs => Durability::Memory,
            level => level,
        }
    }

    /// The same calls for threads.
    #[must_use]
    pub fn blocking(&self) -> Blocking<'_> {
        Blocking(self)
    }

    /// Answers from memory, or from the disk cache if the kernel has the pages at hand; otherwise
    /// says so. Never waits, allocates nothing on a memory hit.
    ///
    /// Short only at the end of the file or after 1 MiB.
    pub fn try_read(&self, offset: u64, buf: &mut [u8]) -> TryReadAt {
        match self.memory_hit(offset, buf) {
            Some(n) => TryReadAt::Done(n),
            None => self.disk_hit(offset, buf).map_or(TryReadAt::WouldBlock, TryReadAt::Done),
        }
    }

    /// Reads at an offset; returns how many bytes. Short only at the end of the file (an unbuffered
    /// read also where the server failed after some bytes, N-C16).
    ///
    /// Dropping the future only detaches: the fetch goes on for other readers.
    ///
    /// # Errors
    /// `EBADF` if the file was not opened for reading, `ESTALE` if it was deleted on the server (or somebody else changes it faster than it can be read),
    /// `ETIMEDOUT` at the deadline of the opener's [`Cx`], `EINVAL` for a range past the largest
    /// offset, or what the server returned for the bytes asked for.
    pub async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if let Some(n) = self.memory_hit(offset, buf) {
            return Ok(n);
        }
        self.read_at_with(offset, buf, self.advised()).await
    }

    /// [`read_at`](File::read_at) with options.
    ///
    /// # Errors
    /// As [`read_at`](File::read_at).
    pub async fn read_at_with(
        &self,
        offset: u64,
        buf: &mut [u8],
        options: ReadOptions,
    ) -> Result<usize> {
        match self.bypass_hit(offset, buf, options) {
            Some(n) => Ok(n),
            None => self.read_slowly(offset, buf, options).await,
        }
    }

    /// A disk hit straight into the caller's buffer, for a read that wants to leave no copy in memory.
    fn bypass_hit(&self, offset: u64, buf: &mut [u8], options: ReadOptions) -> Option<usize> {
        let wanted = options.memory == MemoryUse::Bypass && !options.unbuffered;
        if !wanted || buf.is_empty() || buf.len() as u64 > GATHER_MAX {
            return None;
        }
        self.disk_hit(offset, buf)
    }

    async fn read_slowly(
        &self,
        offset: u64,
        buf: &mut [u8],
        options: ReadOptions,
    ) -> Result<usize> {
        let options = self.check_readable(options)?;
        check_range(offset, buf.len() as u64)?;
        if options.memory == MemoryUse::Bypass && !options.unbuffered {
            return self.read_bypass(offset, buf).await;
        }
        let mut done = 0;
        while done < buf.len() {
            let (at, want) = (offset + done as u64, (buf.len() - done) as u64);
            let slices = self.slices(at, want, options, done == 0).await?;
            let before = done;
            for slice in &slices {
                buf[done..done + slice.len()].copy_from_slice(slice);
                done += slice.len();
            }
            // Short: the end. Asking again might find the file grown, and mix two versions.
            if ((done - before) as u64) < want.min(GATHER_MAX) {
                break;
            }
        }
        Ok(done)
    }

    /// Reads without copying: pinned, immutable pieces of the page cache in file order, up to `len`
    /// bytes and at most 1 MiB. Empty at the end of the file. What happens to the file later does not
    /// change them.
    ///
    /// # Errors
    /// As [`read_at`](File::read_at).
    pub async fn read_slices(&self, offset: u64, len: u64) -> Result<Slices> {
        let options = self.check_readable(ReadOptions::default())?;
        check_range(offset, len)?;
        if let Some(slices) = self.try_read_slices(offset, len) {
            return Ok(slices);
        }
        self.slices(offset, len, options, true).await
    }

    /// [`read_slices`](File::read_slices) if all of it is in memory, without waiting.
    #[must_use]
    pub fn try_read_slices(&self, offset: u64, len: u64) -> Option<Slices> {
        let inode = &*self.who.inode;
        let mark = self.hit_mark()?;
        let end = inode.sizes.i_size().min(offset.saturating_add(len.min(GATHER_MAX)));
        let want = end.saturating_sub(offset);
        let slice = match inode.pages.slice_uptodate(offset, want) {
            // Not even an empty piece: "no slices" is how a caller knows the end.
            Some(slice) if want > 0 => slice,
            _ => return self.slices_now(offset, want, mark),
        };
        if !inode.unchanged(mark) {
            return None;
        }
        self.count_hit(offset, want);
        let mut out = Slices::new();
        out.push(slice);
        Some(out)
    }

    /// What does not lie in one folio: apart, so that the one piece of most hits is made in its place.
    #[cold]
    fn slices_now(&self, offset: u64, want: u64, mark: u64) -> Option<Slices> {
        let inode = &*self.who.inode;
        let mut out = Slices::new();
        let want_len = usize::try_from(want).ok()?;
        let got = inode.pages.slices_uptodate(offset, want_len, &mut out);
        if got < want_len || !inode.unchanged(mark) {
            return None;
        }
        if want > 0 {
            self.count_hit(offset, want);
        }
        Some(out)
    }

    /// The whole content of a directory or symbolic link kept as one object (row 44).
    ///
    /// # Errors
    /// `EFBIG` above 64 MiB, else as [`read_at`](File::read_at).
    pub async fn read_single(&self) -> Result<Bytes> {
        self.check_readable(ReadOptions::default())?;
        read::single::read(&self.who, self.cookie()).await
    }

    /// Fails unless the file is open for reading; else says how this open reads.
    fn check_readable(&self, options: ReadOptions) -> Result<ReadOptions> {
        if !self.how.read {
            return Err(Error::new(Errno::EBADF, "the file was not opened for reading"));
        }
        Ok(ReadOptions { unbuffered: options.unbuffered || self.how.direct, ..options })
    }

    /// Forgets everything cached of this file, in memory and on disk; the next read asks the server.
    pub fn invalidate(&self) {
        self.who.inode.invalidate();
    }

    /// A mark for a hit, if the state of the file allows one.
    #[inline]
    fn hit_mark(&self) -> Option<u64> {
        let inode = &self.who.inode;
        if !self.reads_cached || !inode.io.buffered_now() {
            return None;
        }
        let mark = inode.stable().filter(|_| !inode.size_doubtful())?;
        (inode.cell.valid_now() == Validity::Valid).then_some(mark)
    }

    fn memory_hit(&self, offset: u64, buf: &mut [u8]) -> Option<usize> {
        let inode = &*self.who.inode;
        let mark = self.hit_mark()?;
        let want = inode.sizes.i_size().saturating_sub(offset).min(buf.len() as u64);
        let n = usize::try_from(want).ok()?;
        if inode.pages.copy_uptodate(offset, &mut buf[..n]) < n || !inode.unchanged(mark) {
            return None;
        }
        self.count_hit(offset, want);
        Some(n)
    }

    #[inline]
    fn count_hit(&self, offset: u64, len: u64) {
        let inode = &*self.who.inode;
        if !inode.pages.has_unread() {
            inode.core.counters.whole_hit(len);
            return;
        }
        inode.core.counters.memory_hits.inc();
        inode.core.counters.read_bytes.add(len);
        let range = offset..offset.saturating_add(len);
        // Only what nobody had read before moves a stream on: hot pages cost no decision.
        if inode.pages.count_first_read(range.clone()) > 0
            && let Some(window) = self.note_stream(&range)
        {
            self.ahead.push(&self.who, self.cookie(), window);
        }
    }

    fn note_stream(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let inode = &self.who.inode;
        let tuning = &self.tuning();
        if !tuning.is_on() {
            return None;
        }
        // Servers take signed offsets.
        let limit = inode.sizes.load().server_limit().min(i64::MAX as u64);
        let past = inode.pages.ahead_so_far();
        // Whole pages: of a page that is read in small pieces only the first one is reported.
        let pages = plan::page_out(range);
        self.streams.lock().on_read(&pages, limit, tuning, past)
    }

    /// One inline disk read, only where nothing is in memory and nobody is fetching.
    fn disk_hit(&self, offset: u64, buf: &mut [u8]) -> Option<usize> {
        let inode = &self.who.inode;
        let mark = self.hit_mark()?;
        let size = inode.sizes.load().i_size;
        let want = size.saturating_sub(offset).min(buf.len() as u64).min(GATHER_MAX);
        let n = usize::try_from(want).ok()?;
        let access = inode.usable(self.cookie()?.try_begin()?)?;
        if inode.cache_hung() {
            return None;
        }
        if inode.pages.any_in(offset..offset + want) {
            return None;
        }
        let read = access.object().try_read_data(offset, &mut buf[..n]);
        // What was never stored is no failed read.
        let absent = |miss: &CacheMiss| matches!(miss, CacheMiss::Absent | CacheMiss::NotLoaded);
        if let TryRead::Miss(miss) = read
            && !absent(&miss)
        {
            inode.core.counters.cache_read.inc();
            inode.core.counters.cache_read_failed.inc();
            inode.disk_misses.note(offset..offset + want, Origin::of_miss(miss));
        }
        if read != TryRead::Done || !inode.unchanged(mark) {
            return None;
        }
        inode.core.counters.cache_read.inc();
        inode.core.counters.cache_read_done.inc();
        inode.core.counters.disk_hit_bytes.add(want);
        inode.core.counters.read_bytes.add(want);
        Some(n)
    }

    async fn slices(
        &self,
        offset: u64,
        len: u64,
        options: ReadOptions,
        validate: bool,
    ) -> Result<Slices> {
        if options.unbuffered {
            // N-C17: it sees what was written before.
            let range = offset..offset.saturating_add(len);
            if self.who.inode.pages.has_dirty(&range) {
                let sent = flush(&self.who.inode, range, Wait::Turn);
                self.who.by_call_deadline(sent).await.unwrap_or_else(|| {
                    let told =
                        "what was written to the range has not been uploaded; nothing was read";
                    Err(Error::new(Errno::ETIMEDOUT, told))
                })?;
            }
            let slices = read::direct::read(&self.who, offset, len).await?;
            self.count_read(slices.iter().map(|s| s.len() as u64).sum());
            return Ok(slices);
        }
        if len == 0 {
            return Ok(Slices::new());
        }
        let inode = &self.who.inode;
        let _mode = self.who.enter(Mode::Buffered, offset..offset.saturating_add(len)).await?;
        if validate {
            inode.ensure_valid(&self.who.remote, &self.who.cx).await?;
        }
        let size = inode.sizes.load().i_size;
        let end = size.min(offset.saturating_add(len.min(GATHER_MAX)));
        let window = if end > offset { self.note_stream(&(offset..end)) } else { None };
        let ahead = window.map(|window| (&self.ahead, window));
        let mut reader = Reader { who: &self.who, cookie: self.cookie(), ahead };
        let slices = reader.gather(offset, len).await?;
        self.count_read(slices.iter().map(|s| s.len() as u64).sum());
        Ok(slices)
    }

    async fn read_bypass(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let inode = &self.who.inode;
        let range = offset..offset.saturating_add(buf.len() as u64);
        let _mode = self.who.enter(Mode::Buffered, range).await?;
        inode.ensure_valid(&self.who.remote, &self.who.cx).await?;
        let reader = Reader { who: &self.who, cookie: self.cookie(), ahead: None };
        let mut done = 0;
        while done < buf.len() {
            let want = (buf.len() - done).min(GATHER_MAX as usize);
            let n = reader.bypass(offset + done as u64, &mut buf[done..]).await?;
            done += n;
            // Short: the end (see `read_at_with`).
            if n < want {
                break;
            }
        }
        self.count_read(done as u64);
        Ok(done)
    }

    fn count_read(&self, bytes: u64) {
        self.who.inode.core.counters.read_bytes.add(bytes);
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.who.inode.kind().unwrap_or(FileKind::File);
        write!(f, "File(inode {}, {kind:?}, {:?})", self.who.inode.id, self.sizes())
    }
}

fn check_range(offset: u64, len: u64) -> Result<()> {
    if offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Error::new(
            Errno::EINVAL,
            "the range ends past the largest file offset (2^63-1)",
        ));
    }
    Ok(())
}
