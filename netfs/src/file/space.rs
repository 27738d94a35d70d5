//! [`File`]'s calls about the space of ranges.

use super::{File, Sync};
use crate::{
    error::{Errno, Error, Result},
    iomode::Mode,
    sync::Arc,
    write::{
        buffered::check_end,
        hole::{self, FallocateMode},
    },
};

/// What is written at a time where the server makes no holes.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl File {
    /// `fallocate(2)`: reserves space for `len` bytes at `offset`, or makes zeros of them, on the server and
    /// here. Where the server makes no holes, zeros are written instead, into memory as
    /// [`write_at`](File::write_at) does; where it cannot reserve space the call fails.
    ///
    /// ```
    /// use netfs::{FallocateMode, Netfs, remote::{Cred, Cx}};
    /// use netfs_memory::MemoryFs;
    ///
    /// let netfs = Netfs::builder().memory_bytes(16 << 20).build()?;
    /// let origin = MemoryFs::builder().bytes("f", "0123456789").build()?;
    /// let cx = Cx::new(Cred::new(0, 0));
    /// let mount = netfs.blocking_mount(origin.clone(), &cx)?;
    /// let file = mount.blocking().open_rw("f", &cx)?;
    /// file.blocking().punch_hole(2, 3)?;
    /// file.blocking().fallocate(8, 4, FallocateMode::ZeroRange { keep_size: false })?;
    /// origin.verify("f", 0, b"01\0\0\0567\0\0\0\0")?;
    /// # drop((file, mount));
    /// # assert!(netfs.blocking_shutdown(std::time::Duration::from_secs(5)).is_nothing());
    /// # Ok::<(), netfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `EBADF` if the file was not opened for writing, `EINVAL` for an empty range or one past 2^63-1, `EFBIG`
    /// past the largest file of the server, `EOPNOTSUPP` if it cannot reserve space, `ESTALE` if the file was
    /// deleted, and what the server answered. Then nothing has changed, except that
    /// [`ZeroRange`](FallocateMode::ZeroRange) may have made its zeros without having been able to let the file
    /// grow, or (where zeros are written) a part of them.
    pub async fn fallocate(&self, offset: u64, len: u64, mode: FallocateMode) -> Result<()> {
        self.check_writable()?;
        if len == 0 {
            return Err(Error::new(Errno::EINVAL, "an empty range"));
        }
        check_end(&self.who, offset, len)?;
        let range = offset..offset + len;
        let inode = &self.who.inode;
        inode.core.check_open()?;
        // Held by the calls to the server, too: they may outlast this one.
        let one = Arc::new(self.who.alone_in_time().await?);
        // Where the file ends decides what is done.
        inode.ensure_valid(&self.who.remote, &self.who.cx).await?;
        let locks = || {
            let (who, one) = (self.who.clone(), Arc::clone(&one));
            async move { who.held(one, Mode::Buffered, 0..u64::MAX).await }
        };
        let keep_size = match mode {
            FallocateMode::Allocate { keep_size } => {
                return hole::allocate(&self.who, range, keep_size, locks()).await;
            }
            FallocateMode::PunchHole => true,
            FallocateMode::ZeroRange { keep_size } => keep_size,
        };
        match hole::punch(&self.who, range.clone(), locks()).await {
            Err(e) if e.errno() == Errno::EOPNOTSUPP => self.write_zeros(range.clone()).await?,
            done => done?,
        }
        if keep_size {
            return Ok(());
        }
        hole::extend(&self.who, range.end, locks()).await
    }

    /// Writes zeros into the part of `range` within the file. The write lock is held.
    async fn write_zeros(&self, range: std::ops::Range<u64>) -> Result<()> {
        let mut at = range.start;
        let end = range.end.min(self.who.inode.sizes.load().i_size);
        while at < end {
            let n = (end - at).min(ZEROS.len() as u64) as usize;
            at += self.write_zeros_at(at, &ZEROS[..n]).await?;
        }
        if range.start < end {
            self.wait_as_opened(&(range.start..end), Sync::None).await?;
        }
        Ok(())
    }

    /// Makes a hole of `len` bytes at `offset`; the size stays.
    ///
    /// # Errors
    /// As [`fallocate`](File::fallocate).
    pub async fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        self.fallocate(offset, len, FallocateMode::PunchHole).await
    }

    /// Makes zeros of `len` bytes at `offset`; the file grows to their end if need be.
    ///
    /// # Errors
    /// As [`fallocate`](File::fallocate).
    pub async fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        self.fallocate(offset, len, FallocateMode::ZeroRange { keep_size: false }).await
    }
}
