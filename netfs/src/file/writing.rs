//! [`File`]'s writing half.

use tokio::sync::OwnedMutexGuard;

use super::{File, check_range};
use crate::{
    error::{Errno, Error, Result},
    iomode::Mode,
    sync::Arc,
    timer,
    write::{
        buffered::{Buffered, check_end},
        resize,
    },
    writeback::{
        flush::{Wait, flush, quiesce},
        flusher::flush_listed,
        is_transient,
    },
};

/// First pause of an fsync whose upload failed for a passing reason, and the longest, in milliseconds.
const PAUSES_MS: (u64, u64) = (100, 10_000);

impl File {
    /// Writes `bytes` at `offset`, into memory; returns how many. Short only where something failed after
    /// some bytes, which the next call reports.
    ///
    /// The bytes are on the server's stable storage once [`fsync`](File::fsync) has returned well, not
    /// before. Writes of one file are in the order of their calls; readers of this context see them at once.
    /// When too much is dirty the call waits, in turn, until it has been uploaded.
    ///
    /// # Errors
    /// `EBADF` if the file was not opened for writing, `EFBIG` past the largest file of the server,
    /// `EINVAL` past 2^63-1, `ESTALE` if it was deleted, and the error of an upload that failed for good:
    /// until one succeeds, or [`discard_dirty`](File::discard_dirty).
    pub async fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<usize> {
        self.check_writable()?;
        check_end(&self.who, offset, bytes.len() as u64)?;
        let _one = self.alone().await?;
        self.write_locked(offset, bytes).await
    }

    /// Writes all of `bytes` at the end of the file as it is known here; returns where they went.
    ///
    /// # Errors
    /// As [`write_at`](File::write_at). What fails after some bytes leaves those at the end of the file.
    pub async fn append(&self, bytes: &[u8]) -> Result<u64> {
        self.check_writable()?;
        let inode = &self.who.inode;
        let _one = self.alone().await?;
        inode.ensure_valid(&self.who.remote, &self.who.cx).await?;
        let offset = inode.sizes.load().i_size;
        check_end(&self.who, offset, bytes.len() as u64)?;
        let mut done = 0;
        while done < bytes.len() {
            done += self.write_locked(offset + done as u64, &bytes[done..]).await?;
        }
        Ok(offset)
    }

    async fn write_locked(&self, offset: u64, bytes: &[u8]) -> Result<usize> {
        let inode = &self.who.inode;
        inode.core.check_open()?;
        if let Some(error) = inode.wb.parked() {
            return Err(error);
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let _mode = self
            .who
            .enter(Mode::Buffered, offset..offset.saturating_add(bytes.len() as u64))
            .await?;
        inode.ensure_valid(&self.who.remote, &self.who.cx).await?;
        let writer = Buffered { who: &self.who, cookie: self.cookie(), writing: &self.writing };
        writer.write(offset, bytes).await
    }

    /// Brings everything written to this file, by whomever, to the server's stable storage.
    ///
    /// Failures that may pass (the network, a busy server) are tried again, with pauses, until the deadline
    /// of the opener's [`Cx`](crate::remote::Cx); without one for as long as it takes.
    ///
    /// # Errors
    /// What the server answered. The bytes are kept and the next call tries again. Bytes that somebody
    /// [discarded](File::discard_dirty) are reported once to each opener.
    pub async fn fsync(&self) -> Result<()> {
        self.flush_range(0, u64::MAX).await
    }

    /// The same for what was written to `len` bytes at `offset`.
    ///
    /// # Errors
    /// As [`fsync`](File::fsync).
    pub async fn flush_range(&self, offset: u64, len: u64) -> Result<()> {
        let inode = &self.who.inode;
        if let Some(lost) = inode.wb.take_lost(&self.writing) {
            return Err(lost);
        }
        let range = offset..offset.saturating_add(len);
        let mut pause = PAUSES_MS.0;
        loop {
            let whole = range == (0..u64::MAX);
            let round = async {
                if whole {
                    flush_listed(inode, Wait::Turn).await
                } else {
                    flush(inode, range.clone(), Wait::Turn).await
                }
            };
            // The upload goes on without us.
            let result = self.who.by_deadline(round).await;
            let error = match result {
                // Bytes may have been given up while this waited for its turn, or by its own round:
                // this is the call that tells.
                Ok(()) => return inode.wb.take_lost(&self.writing).map_or(Ok(()), Err),
                Err(error) if !is_transient(&error) => {
                    return Err(inode.wb.take_lost(&self.writing).unwrap_or(error));
                }
                Err(error) => error,
            };
            let again = inode.now() + std::time::Duration::from_millis(pause);
            if inode.core.check_open().is_err()
                || self.who.cx.deadline().is_some_and(|d| d <= again)
            {
                return Err(error);
            }
            pause = (pause * 2).min(PAUSES_MS.1);
            let core = &inode.core;
            timer::sleep(&core.driver, &*core.clock, again).await;
        }
    }

    /// Cuts the file, or extends it by zeros, here and on the server.
    ///
    /// # Errors
    /// As [`write_at`](File::write_at), and what the server answered; then nothing has changed.
    pub async fn set_len(&self, size: u64) -> Result<()> {
        self.check_writable()?;
        check_end(&self.who, size, 0)?;
        let one = self.alone().await?;
        self.who.inode.core.check_open()?;
        let mode = self.who.enter(Mode::Buffered, 0..u64::MAX).await?;
        resize::set_size(&self.who, size, (one, mode)).await
    }

    /// Gives up what was written and is not on the server, if it could not be uploaded: the file is as the
    /// server has it. Every opener hears of the loss once, from its next [`fsync`](File::fsync).
    ///
    /// Returns how many bytes were given up: 0 if nothing had failed.
    pub async fn discard_dirty(&self) -> u64 {
        let inode = &self.who.inode;
        let _one = inode.wb.write.lock().await;
        let _quiet = quiesce(inode).await;
        let Some(error) = inode.wb.parked() else { return 0 };
        let bytes = inode.pages.dirty_bytes();
        inode.discard_dirty();
        inode.wb.note_lost(error);
        bytes
    }

    /// Uploads what was written, then closes the file (close-to-open). Dropping a `File` leaves what was
    /// written to the flusher.
    ///
    /// # Errors
    /// As [`fsync`](File::fsync); the bytes are kept, and any opener of the file can try again.
    pub async fn close(self) -> Result<()> {
        self.fsync().await
    }

    /// The file's write lock.
    async fn alone(&self) -> Result<OwnedMutexGuard<()>> {
        let lock = Arc::clone(&self.who.inode.wb.write);
        self.who.by_deadline(async { Ok(lock.lock_owned().await) }).await
    }

    fn check_writable(&self) -> Result<()> {
        if !self.writable {
            return Err(Error::new(Errno::EBADF, "the file was not opened for writing"));
        }
        self.who.inode.check_exists()?;
        check_range(0, 0)
    }
}
