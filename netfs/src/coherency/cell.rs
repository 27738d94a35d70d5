//! The concurrent shell of the model: locks around it, and atomics that publish its outcome so that
//! the hit path needs neither lock nor clock.
//!
//! Lock order: `InodeCell` state, then `VolumeCell` state; the registry of zappers stands alone.
//! Each is held for straight-line code only, never while anything else is called, except that
//! [`InodeCell::apply`] runs the core's `commit` under the inode's.

mod inode;
mod volume;

#[cfg(test)]
pub(super) use inode::DropToken;
pub(crate) use inode::{InodeCell, Writing};
pub(crate) use volume::VolumeCell;
