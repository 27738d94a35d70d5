//! The Linux netfs library and fscache, rebuilt in user space.

pub mod clock;
pub mod coherency;
pub mod error;
pub mod folio;
pub mod fscache;
mod iomode;
pub mod policy;
pub mod remote;
mod request;
mod sizes;
pub mod stats;
mod sync;

pub use error::{Errno, Error, Result};
