//! [`File`]'s writing half.

use std::{io::IoSlice, ops::Range};

use bytes::Bytes;

use super::{
    Durability, File, Sync, TryWriteAt, check_range,
    write_options::{WriteGroup, WriteOptions},
};
use crate::{
    errand,
    error::{Errno, Error, Result},
    folio::{Group, Slice},
    inode::Inode,
    iomode::Mode,
    read::Who,
    sync::Arc,
    timer,
    write::{
        buffered::{Buffered, check_end},
        direct::{self, At},
        quick, resize,
    },
    writeback::{
        conflict::ConflictPolicy,
        flush::{Wait, flush_what, in_turn, quiesce},
        flusher::flush_listed,
        groups::What,
        is_transient,
    },
};

/// First pause of an fsync whose upload failed for a passing reason, and the longest, in milliseconds.
const PAUSES_MS: (u64, u64) = (100, 10_000);

/// What is written: pieces one after the other.
enum Source<'a> {
    Borrowed(&'a [IoSlice<'a>]),
    Owned(Bytes),
}

impl Source<'_> {
    fn len(&self) -> Option<u64> {
        match self {
            Source::Borrowed(parts) => {
                parts.iter().try_fold(0u64, |sum, p| sum.checked_add(p.len() as u64))
            }
            Source::Owned(bytes) => Some(bytes.len() as u64),
        }
    }

    /// For a server call, which keeps its bytes for as long as it takes: the caller's own are copied.
    fn into_slices(self) -> Vec<Slice> {
        match self {
            Source::Borrowed(parts) => {
                parts.iter().filter(|p| !p.is_empty()).map(|p| Slice::from_bytes(p)).collect()
            }
            Source::Owned(bytes) => vec![Slice::of_bytes(bytes)],
        }
    }
}

impl File {
    /// Writes `bytes` at `offset`, into memory; returns how many. Short only where something failed after
    /// some bytes, which the next call reports.
    ///
    /// The bytes are on the server's stable storage once [`fsync`](File::fsync) has returned well, not
    /// before, unless the file was [opened](crate::OpenOptions) so that every write is. Writes of one file are
    /// in the order of their calls; readers of this context see them at once. When too much is dirty the call
    /// waits, in turn, until it has been uploaded.
    ///
    /// # Errors
    /// `EBADF` if the file was not opened for writing, `EFBIG` past the largest file of the server,
    /// `EINVAL` past 2^63-1, `ESTALE` if it was deleted, and the error of an upload that failed for good:
    /// until one succeeds, or [`discard_dirty`](File::discard_dirty).
    ///
    /// A write that waits for the server returns what an fsync would: the bytes stay, in memory and for every
    /// reader, and a later fsync tries again.
    pub async fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<usize> {
        if self.write_quickly(offset, bytes) {
            return Ok(bytes.len());
        }
        self.write_at_with(offset, bytes, WriteOptions::default()).await
    }

    /// A [`write_at`](File::write_at) that never waits, for threads that must not: short ones (less than 16 KiB)
    /// into pages that are in memory, while nothing else is under way. Either all of the bytes are written, or
    /// nothing has changed: then [`write_at`](File::write_at) writes them, or says why it cannot. (Beside the
    /// [end](crate::Netfs::shutdown) of the context they may be in and yet not be promised.)
    ///
    /// Fronts that have the pages are told as of any write, on this thread.
    pub fn try_write(&self, offset: u64, bytes: &[u8]) -> TryWriteAt {
        match self.write_quickly(offset, bytes) {
            true => TryWriteAt::Done(bytes.len()),
            false => TryWriteAt::WouldBlock,
        }
    }

    pub(super) fn write_quickly(&self, offset: u64, bytes: &[u8]) -> bool {
        // The cookie is in use from the first dirty byte on.
        let _cookie = self.cookie();
        self.how.writes_plainly() && quick::write(&self.who, &self.writing, offset, bytes)
    }

    /// [`write_at`](File::write_at) with options.
    ///
    /// # Errors
    /// As [`write_at`](File::write_at); `EINVAL` for a write group of another file, or one that is over.
    pub async fn write_at_with(
        &self,
        offset: u64,
        bytes: &[u8],
        options: WriteOptions<'_>,
    ) -> Result<usize> {
        let parts = [IoSlice::new(bytes)];
        self.write_any(At::Offset(offset), Source::Borrowed(&parts), options).await.map(len_of)
    }

    /// Writes several pieces, one after the other from `offset`, as one write: nobody else's write to the file
    /// comes between them.
    ///
    /// # Errors
    /// As [`write_at_with`](File::write_at_with).
    pub async fn write_vectored_at(
        &self,
        offset: u64,
        parts: &[IoSlice<'_>],
        options: WriteOptions<'_>,
    ) -> Result<usize> {
        self.write_any(At::Offset(offset), Source::Borrowed(parts), options).await.map(len_of)
    }

    /// Writes bytes that the caller lends. An unbuffered write sends them as they are; into memory too they are
    /// not copied where they cover a whole folio of 16 KiB or more: that part of the buffer is the folio then.
    /// The rest (the edges of a write that does not begin and end where folios do) is copied. What is written
    /// there later replaces the folio; nobody ever writes to the caller's bytes.
    ///
    /// **What a buffer is kept for.** As long as any folio of it is in memory (until it is evicted, replaced or
    /// dropped, and not before it has been uploaded) or anybody reads or sends it, and then until the context
    /// next makes room in memory, writes, uploads or evicts. The memory budget counts the folios, not the buffer: a folio
    /// of 16 KiB keeps a buffer of any size alive. Lend buffers that are written as a whole, and use
    /// [`write_at`](File::write_at) for small parts of large ones. Bytes of mapped memory MUST stay readable and
    /// unchanged as long.
    ///
    /// **Where it ends.** On any thread of the context or of its callers, with no lock held. What the buffer's
    /// owner does in its `Drop` must not wait for work of this library.
    ///
    /// # Errors
    /// As [`write_at_with`](File::write_at_with).
    pub async fn write_bytes_at(
        &self,
        offset: u64,
        bytes: Bytes,
        options: WriteOptions<'_>,
    ) -> Result<usize> {
        self.write_any(At::Offset(offset), Source::Owned(bytes), options).await.map(len_of)
    }

    /// Writes at the end of the file as it is known here; returns where the bytes are. Fewer than given only
    /// where something failed after some, which the next call reports.
    ///
    /// # Errors
    /// As [`write_at`](File::write_at).
    pub async fn append(&self, bytes: &[u8]) -> Result<Range<u64>> {
        let parts = [IoSlice::new(bytes)];
        self.write_any(At::End, Source::Borrowed(&parts), WriteOptions::default()).await
    }

    /// The next write group of this file: what is written in it comes to the server's stable storage before
    /// anything that is written in a later one, and after everything in the earlier ones (N-C29).
    ///
    /// ```
    /// # use netfs::{Netfs, WriteOptions, remote::{Cred, Cx}};
    /// # use netfs_memory::MemoryFs;
    /// # let netfs = Netfs::builder().memory_bytes(16 << 20).build()?;
    /// # let origin = MemoryFs::builder().bytes("db", "").build()?;
    /// # let cx = Cx::new(Cred::new(0, 0));
    /// # let mount = netfs.blocking_mount(origin.clone(), &cx)?;
    /// let file = mount.blocking().open_rw("db", &cx)?;
    /// let (pages, root) = (file.write_group(), file.write_group());
    /// file.blocking().write_at_with(4096, b"a page", WriteOptions::in_group(&pages))?;
    /// file.blocking().write_at_with(0, b"see 4096", WriteOptions::in_group(&root))?;
    /// pages.blocking_flush()?; // the page is on the server, the root still in memory
    /// origin.verify("db", 4096, b"a page")?;
    /// origin.verify("db", 0, &[0; 8])?;
    /// # drop((file, mount, pages, root));
    /// # assert!(netfs.blocking_shutdown(std::time::Duration::from_secs(5)).is_nothing());
    /// # Ok::<(), netfs::Error>(())
    /// ```
    #[must_use]
    pub fn write_group(&self) -> WriteGroup {
        WriteGroup::begin(self.who.clone())
    }

    pub(crate) fn write_group_again(&self, number: u64) -> WriteGroup {
        WriteGroup::again(self.who.clone(), number)
    }

    async fn write_any(
        &self,
        at: At,
        source: Source<'_>,
        options: WriteOptions<'_>,
    ) -> Result<Range<u64>> {
        self.check_writable()?;
        let inode = &self.who.inode;
        let too_long = || Error::new(Errno::EINVAL, "longer than any file");
        let len = source.len().ok_or_else(too_long)?;
        if let At::Offset(offset) = at {
            check_end(&self.who, offset, len)?;
        }
        let group = options.group.map(|group| group.of(inode)).transpose()?;
        let at = if self.how.append { At::End } else { at };
        if (self.how.direct || options.unbuffered) && len > 0 {
            return direct::write(&self.who, at, source.into_slices(), group).await;
        }
        let one = self.who.alone().await?;
        inode.core.check_open()?;
        if !self.how.replays {
            inode.check_not_parked()?;
        }
        let offset = self.who.place(at, len).await?;
        if len == 0 {
            return Ok(offset..offset);
        }
        let entered = inode.enter_group(group)?;
        let done = self.write_buffered(offset, &source, group).await?;
        drop((entered, one));
        let written = offset..offset + done;
        self.wait_as_opened(&written, options.sync).await?;
        Ok(written)
    }

    /// A write to `written` has been made in memory: what it has yet to wait for.
    pub(super) async fn wait_as_opened(&self, written: &Range<u64>, sync: Sync) -> Result<()> {
        if self.how.sync_level().max(sync) > Sync::None || self.how.write_through {
            return persist(self, What::Range(written.clone())).await;
        }
        self.who.write_through_recall(written.start, written.end - written.start).await;
        Ok(())
    }

    /// Zeros, with the file's write lock. Returns how many, at least one.
    pub(super) async fn write_zeros_at(&self, offset: u64, zeros: &[u8]) -> Result<u64> {
        if let Some(error) = self.who.inode.wb.parked() {
            return Err(error);
        }
        let parts = [IoSlice::new(zeros)];
        self.write_buffered(offset, &Source::Borrowed(&parts), None).await
    }

    /// Into memory, with the file's write lock. Returns how many bytes, at least one.
    async fn write_buffered(
        &self,
        offset: u64,
        source: &Source<'_>,
        group: Option<Group>,
    ) -> Result<u64> {
        let (cookie, writing, may_read) = (self.cookie(), &self.writing, self.may_fetch);
        let (parts, lent): (&[IoSlice<'_>], _) = match source {
            Source::Borrowed(parts) => (parts, None),
            Source::Owned(bytes) => (&[IoSlice::new(bytes)], Some(bytes)),
        };
        let replays = self.how.replays;
        let writer = Buffered { who: &self.who, cookie, writing, group, lent, may_read, replays };
        let mut done = 0;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            match writer.write(offset + done, part).await {
                Ok(n) => {
                    done += n as u64;
                    if n < part.len() {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Brings everything written to this file, by whomever, to the server's stable storage; at level
    /// [`Journal`](crate::Durability::Journal) to the context's log, if that takes it.
    ///
    /// Failures that may pass (the network, a busy server) are tried again, with pauses, until the deadline
    /// of the opener's [`Cx`](crate::remote::Cx); without one for as long as it takes.
    ///
    /// # Errors
    /// What the server answered. The bytes are kept and the next call tries again. Bytes that somebody
    /// [discarded](File::discard_dirty) are reported once to each opener.
    pub async fn fsync(&self) -> Result<()> {
        if self.how.durability == Durability::Journal && self.who.inode.log_fsync(&self.who).await {
            return self.told_of_loss(Ok(()));
        }
        persist(self, What::Range(0..u64::MAX)).await
    }

    /// `fdatasync(2)`: as [`fsync`](File::fsync). Servers keep sizes and times with the data, so that there is
    /// nothing to leave out.
    ///
    /// # Errors
    /// As [`fsync`](File::fsync).
    pub async fn fdatasync(&self) -> Result<()> {
        self.fsync().await
    }

    /// The same for what was written to `len` bytes at `offset`; to all that follows for `u64::MAX`.
    ///
    /// # Errors
    /// As [`fsync`](File::fsync); `EINVAL` for an offset past 2^63-1.
    pub async fn flush_range(&self, offset: u64, len: u64) -> Result<()> {
        check_range(offset, 0)?;
        persist(self, What::Range(offset..offset.saturating_add(len))).await
    }

    /// Has what was written to `len` bytes at `offset` uploaded soon, without waiting for it: a hint, as
    /// `sync_file_range(2)` with `SYNC_FILE_RANGE_WRITE`. Hints that have not begun are one, over all of their
    /// ranges and what lies between. Whether that succeeds [`fsync`](File::fsync) says.
    ///
    /// # Errors
    /// `EINVAL` for a range past 2^63-1.
    pub fn start_writeback(&self, offset: u64, len: u64) -> Result<()> {
        check_range(offset, len)?;
        let inode = &self.who.inode;
        if len > 0 && inode.pages.dirty_bytes() > 0 && inode.wb.hint(offset..offset + len) {
            let (core, inode) = (Arc::clone(&inode.core), Arc::clone(inode));
            core.driver.spawn(async move { hinted(&inode).await });
        }
        Ok(())
    }

    /// Cuts the file, or extends it by zeros, here and on the server.
    ///
    /// # Errors
    /// As [`write_at`](File::write_at), and what the server answered; then nothing has changed.
    pub async fn set_len(&self, size: u64) -> Result<()> {
        self.check_writable()?;
        check_end(&self.who, size, 0)?;
        let who = self.who.clone();
        let locks = async move {
            let one = who.alone_in_time().await?;
            who.inode.core.check_open()?;
            who.held(Arc::new(one), Mode::Buffered, 0..u64::MAX).await
        };
        resize::set_size(&self.who, size, locks).await
    }

    /// Gives up what was written and is not on the server, if it could not be uploaded: the file is as the
    /// server has it. Every opener hears of the loss once, from its next [`fsync`](File::fsync).
    ///
    /// Returns how many bytes were given up: 0 if nothing had failed.
    ///
    /// # Errors
    /// `ETIMEDOUT` if an upload of the file is under way and has not ended by the deadline of the opener's
    /// [`Cx`](crate::remote::Cx), or within the timeout for a call to the server: what is on its way cannot be
    /// called back. Then nothing was given up.
    pub async fn discard_dirty(&self) -> Result<u64> {
        let (who, inode) = (self.who.clone(), Arc::clone(&self.who.inode));
        let locks = async move {
            let locks = async { (who.alone().await, quiesce(&who.inode).await) };
            let (one, quiet) = who.by_call_deadline(locks).await.ok_or_else(|| {
                let told = "an upload of the file has not ended; nothing was discarded";
                Error::new(Errno::ETIMEDOUT, told)
            })?;
            Ok((one?, quiet))
        };
        let discard = move |locks| async move {
            let _locks = locks;
            let Some(error) = inode.wb.parked() else { return Ok(0) };
            let _held = inode.log_hold();
            inode.log_discard().await?;
            let bytes = inode.pages.dirty_bytes();
            inode.discard_dirty();
            inode.end_modify();
            inode.wb.note_lost(error);
            Ok(bytes)
        };
        errand::run(&self.who.inode.core.driver, locks, discard).await
    }

    /// What becomes of bytes of this file that are dirty when somebody else changes it, whoever wrote them and
    /// however it was opened; `None`: as its mount says. With
    /// [`Merge`](crate::ConflictPolicy::Merge), bytes that were parked for a conflict are uploaded again.
    pub fn set_conflict_policy(&self, policy: Option<ConflictPolicy>) {
        self.who.inode.set_conflict_policy(policy);
    }

    /// Uploads what was written, then closes the file (close-to-open), unless it was opened
    /// [without](crate::OpenOptions::close_flush) or only for reading, or the adapter says that
    /// [nobody else can see the file](crate::remote::RemoteFile::close_must_flush). Dropping a `File` leaves
    /// what was written to the flusher.
    ///
    /// # Errors
    /// As [`fsync`](File::fsync), with the file, which is still open: the bytes are kept, so that it can be
    /// closed again, [discarded](File::discard_dirty), or dropped.
    pub async fn close(self) -> std::result::Result<(), Unclosed> {
        let flushes = self.how.close_flush && self.who.remote.close_must_flush(&self.who.cx);
        let done = if !self.how.writes() {
            // Others' bytes, and errors, are theirs.
            self.told_of_loss(Ok(()))
        } else if flushes {
            self.flush_range(0, u64::MAX).await
        } else {
            // What has failed already is told all the same.
            self.told_of_loss(self.who.inode.wb.parked().map_or(Ok(()), Err))
        };
        done.map_err(|error| Unclosed { file: Box::new(self), error })
    }

    /// [`close`](File::close) for threads.
    ///
    /// # Errors
    /// As [`close`](File::close).
    pub fn blocking_close(self) -> std::result::Result<(), Unclosed> {
        pollster::block_on(self.close())
    }

    /// A loss that the opener has not heard of, else `result`: that of a failed upload comes again next time.
    fn told_of_loss(&self, result: Result<()>) -> Result<()> {
        self.who.inode.wb.take_lost(&self.writing).map_or(result, Err)
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        if !self.how.writes() {
            return Err(Error::new(Errno::EBADF, "the file was not opened for writing"));
        }
        self.who.inode.check_exists()?;
        check_range(0, 0)
    }
}

/// Writes out what was hinted at until now.
async fn hinted(inode: &Arc<Inode>) {
    let _turn = quiesce(inode).await;
    let Some(range) = inode.wb.take_hint() else { return };
    // Its errors are kept with the file.
    if let Err(error) = in_turn(inode, What::Range(range), false).await {
        tracing::debug!(%error, "writeback that was hinted at failed");
    }
}

/// A file whose [`close`](File::close) has failed, and why. As an error it is that one.
#[derive(Debug)]
pub struct Unclosed {
    /// Still open.
    pub file: Box<File>,
    /// Of the upload.
    pub error: Error,
}

impl Unclosed {
    /// The error's number.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.error.errno()
    }
}

impl std::fmt::Display for Unclosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Unclosed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<Unclosed> for Error {
    /// The file is dropped: what was written is left to the flusher.
    fn from(unclosed: Unclosed) -> Error {
        unclosed.error
    }
}

fn len_of(range: Range<u64>) -> usize {
    // As long as the caller's slice at most.
    (range.end - range.start) as usize
}

/// Has it uploaded, however often it takes as long as failures may pass, up to the caller's deadline. A loss that
/// the opener has not heard of is told now, whatever came of the upload: older ones, and if this very round
/// gave bytes up or laid them over somebody else's.
async fn persist(file: &File, what: What) -> Result<()> {
    let uploaded = persist_as(&file.who, what).await;
    file.told_of_loss(uploaded)
}

pub(crate) async fn persist_as(who: &Who, what: What) -> Result<()> {
    let inode = &who.inode;
    let mut pause = PAUSES_MS.0;
    loop {
        let round = async {
            match &what {
                What::Range(range) if *range == (0..u64::MAX) => {
                    flush_listed(inode, Wait::Turn).await
                }
                what => flush_what(inode, what.clone(), Wait::Turn).await,
            }
        };
        // The upload goes on without us.
        let error = match who.by_deadline(round).await {
            Ok(()) => return Ok(()),
            Err(error) if !is_transient(&error) => return Err(error),
            Err(error) => error,
        };
        let again = inode.now() + std::time::Duration::from_millis(pause);
        if inode.core.check_open().is_err() || who.cx.deadline().is_some_and(|d| d <= again) {
            return Err(error);
        }
        pause = (pause * 2).min(PAUSES_MS.1);
        let core = &inode.core;
        timer::sleep(&core.driver, &*core.clock, again).await;
    }
}
