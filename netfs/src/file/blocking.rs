//! [`File`]'s calls for threads: the same implementation, waited for on the spot.

use std::{io::IoSlice, ops::Range};

use bytes::Bytes;

use super::{Evicted, File, ReadOptions, WriteOptions};
use crate::{error::Result, read::Slices, write::hole::FallocateMode};

/// Blocking face of a [`File`]. Do not use it on a thread that drives async tasks.
#[derive(Clone, Copy, Debug)]
pub struct Blocking<'a>(pub(super) &'a File);

impl Blocking<'_> {
    /// See [`File::read_at`].
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        match self.0.memory_hit(offset, buf) {
            Some(n) => Ok(n),
            None => self.read_at_with(offset, buf, self.0.advised()),
        }
    }

    /// See [`File::read_at_with`].
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn read_at_with(&self, offset: u64, buf: &mut [u8], options: ReadOptions) -> Result<usize> {
        // Without the trappings of waiting where nothing has to be waited for.
        match self.0.bypass_hit(offset, buf, options) {
            Some(n) => Ok(n),
            None => pollster::block_on(self.0.read_slowly(offset, buf, options)),
        }
    }

    /// See [`File::read_slices`].
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn read_slices(&self, offset: u64, len: u64) -> Result<Slices> {
        pollster::block_on(self.0.read_slices(offset, len))
    }

    /// See [`File::read_single`].
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn read_single(&self) -> Result<Bytes> {
        pollster::block_on(self.0.read_single())
    }

    /// See [`File::write_at`].
    ///
    /// # Errors
    /// As [`File::write_at`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<usize> {
        // Without the trappings of waiting where nothing has to be waited for.
        if self.0.write_quickly(offset, bytes) {
            return Ok(bytes.len());
        }
        self.write_at_with(offset, bytes, WriteOptions::default())
    }

    /// See [`File::append`].
    ///
    /// # Errors
    /// As [`File::append`].
    pub fn append(&self, bytes: &[u8]) -> Result<Range<u64>> {
        pollster::block_on(self.0.append(bytes))
    }

    /// See [`File::write_at_with`].
    ///
    /// # Errors
    /// As [`File::write_at_with`].
    pub fn write_at_with(
        &self,
        offset: u64,
        bytes: &[u8],
        options: WriteOptions<'_>,
    ) -> Result<usize> {
        pollster::block_on(self.0.write_at_with(offset, bytes, options))
    }

    /// See [`File::write_vectored_at`].
    ///
    /// # Errors
    /// As [`File::write_vectored_at`].
    pub fn write_vectored_at(
        &self,
        offset: u64,
        parts: &[IoSlice<'_>],
        options: WriteOptions<'_>,
    ) -> Result<usize> {
        pollster::block_on(self.0.write_vectored_at(offset, parts, options))
    }

    /// See [`File::write_bytes_at`].
    ///
    /// # Errors
    /// As [`File::write_bytes_at`].
    pub fn write_bytes_at(
        &self,
        offset: u64,
        bytes: Bytes,
        options: WriteOptions<'_>,
    ) -> Result<usize> {
        pollster::block_on(self.0.write_bytes_at(offset, bytes, options))
    }

    /// See [`File::set_len`].
    ///
    /// # Errors
    /// As [`File::set_len`].
    pub fn set_len(&self, size: u64) -> Result<()> {
        pollster::block_on(self.0.set_len(size))
    }

    /// See [`File::fallocate`].
    ///
    /// # Errors
    /// As [`File::fallocate`].
    pub fn fallocate(&self, offset: u64, len: u64, mode: FallocateMode) -> Result<()> {
        pollster::block_on(self.0.fallocate(offset, len, mode))
    }

    /// See [`File::punch_hole`].
    ///
    /// # Errors
    /// As [`File::fallocate`].
    pub fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        pollster::block_on(self.0.punch_hole(offset, len))
    }

    /// See [`File::zero_range`].
    ///
    /// # Errors
    /// As [`File::fallocate`].
    pub fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        pollster::block_on(self.0.zero_range(offset, len))
    }

    /// See [`File::evict`].
    ///
    /// # Errors
    /// As [`File::evict`].
    pub fn evict(&self, offset: u64, len: u64) -> Result<Evicted> {
        pollster::block_on(self.0.evict(offset, len))
    }

    /// See [`File::fsync`].
    ///
    /// # Errors
    /// As [`File::fsync`].
    pub fn fsync(&self) -> Result<()> {
        pollster::block_on(self.0.fsync())
    }

    /// See [`File::fdatasync`].
    ///
    /// # Errors
    /// As [`File::fsync`].
    pub fn fdatasync(&self) -> Result<()> {
        pollster::block_on(self.0.fdatasync())
    }

    /// See [`File::flush_range`].
    ///
    /// # Errors
    /// As [`File::flush_range`].
    pub fn flush_range(&self, offset: u64, len: u64) -> Result<()> {
        pollster::block_on(self.0.flush_range(offset, len))
    }

    /// See [`File::discard_dirty`].
    ///
    /// # Errors
    /// As there.
    pub fn discard_dirty(&self) -> Result<u64> {
        pollster::block_on(self.0.discard_dirty())
    }
}
