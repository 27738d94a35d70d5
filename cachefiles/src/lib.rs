//! A persistent disk cache for netfs: verified pages in sparse files (kernel: cachefiles).

mod cache;
mod checksum;
mod committer;
mod content_map;
mod descriptors;
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
