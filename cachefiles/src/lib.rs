//! A persistent disk cache for netfs: verified pages in sparse files (kernel: cachefiles).
//!
//! [`CacheDir`] implements [`netfs::fscache::CacheBackend`] over one directory. What it promises:
//!
//! - **Never a wrong byte.** Each stored page of 4 KiB has a checksum bound to its object, place and
//!   incarnation, compared on every read from disk. Whatever is done to the files, a reader gets the
//!   bytes that were stored under the identity it asked for, or a miss.
//! - **Never in the way.** A full, broken or hung disk shows as misses and refusals. The disk is
//!   waited for on the cache's own threads only, and what is in flight is bounded.
//! - **Survives** the end of the process at any moment, and being copied (`cp -a`, `tar --xattrs -S`).
//!
//! ```
//! use std::sync::{Arc, mpsc};
//!
//! use bytes::Bytes;
//! use cachefiles::CacheDir;
//! use netfs::{
//!     folio::Slice,
//!     fscache::{CacheBackend, CacheWrite, Identity, TryRead},
//!     remote::VolumeId,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let cache = CacheDir::builder(dir.path().join("cache")).open()?;
//! pollster::block_on(async {
//!     let id = VolumeId::new("example,server,export")?;
//!     let volume = Arc::clone(&cache).acquire_volume(id, Bytes::new()).await.expect("volume");
//!     // A file of 10 bytes at version "v1"; its only page is stored zero-padded.
//!     let identity = Identity { aux: Bytes::from_static(b"v1"), size: 10 };
//!     let object = volume.lookup(Bytes::from_static(b"key"), identity).await.expect("object").object;
//!     let mut page = vec![0; 4096];
//!     page[..10].copy_from_slice(b"0123456789");
//!     let (done, stored) = mpsc::channel();
//!     let data = vec![Slice::from_bytes(&page)];
//!     Arc::clone(&object).write(CacheWrite::new(0, data, object.generation(), move |result| {
//!         let _ = done.send(result);
//!     }));
//!     assert_eq!(stored.recv(), Ok(Ok(())));
//!     let mut bytes = [0; 4];
//!     if object.try_read(3, &mut bytes) == TryRead::Done {
//!         assert_eq!(&bytes, b"3456");
//!     } // else: the file system cannot read without waiting; `read` queues it
//!     Arc::clone(&cache).withdraw().await;
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! })
//! # }
//! ```
//!
//! # Where things are
//!
//! | module | what |
//! |---|---|
//! | `cache` | opening, options, probing, the directory's lock and superblock, deleting and publishing |
//! | `volume` | a volume's directory and header; lookup |
//! | `object` | reading, writing, cut-over and write-back of one object |
//! | `content_map` | which pages are stored, and their checksums; how that is encoded |
//! | `header`, `checksum`, `layout` | headers, page checksums and what they are bound to, names |
//! | `workers`, `committer`, `descriptors` | I/O threads, write-back of metadata, descriptor budget |
//! | `io` | every system call, behind a trait |
//!
//! The format on disk is described byte by byte in `docs/format.md`; it is format 0, not stable yet.

mod cache;
mod checksum;
mod committer;
mod content_map;
mod descriptors;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod io;
mod layout;
mod object;
mod stats;
#[cfg(test)]
mod tests;
mod volume;
mod workers;

pub use cache::{Builder, CacheDir, KernelCache, LinkMethod, OpenError, Probe};
