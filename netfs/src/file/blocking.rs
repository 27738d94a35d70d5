//! [`File`]'s calls for threads: the same implementation, waited for on the spot.

use bytes::Bytes;

use super::{File, ReadOptions};
use crate::{error::Result, read::Slices};

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
            None => self.read_at_with(offset, buf, ReadOptions::default()),
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
}
