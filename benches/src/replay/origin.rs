//! The trace's files as an origin.

use std::sync::Arc;

use netfs_memory::{Link, MemoryFs, Snapshot};

use super::{Config, ReplayError, Writes};
use crate::trace::{Request, Trace};

/// Moves when equal traces get other files or content: what was cached before is then cold.
const LAYOUT: u32 = 1;

/// The origin of one replay. It lives on while the cache in front of it is restarted.
pub(super) struct Origin<'a> {
    pub(super) trace: &'a Trace,
    pub(super) fs: Arc<MemoryFs>,
    pub(super) writes: Writes,
}

impl<'a> Origin<'a> {
    pub(super) fn build(trace: &'a Trace, config: &Config) -> Result<Origin<'a>, ReplayError> {
        let Trace { sha256, format, seed, files, .. } = trace;
        // One sum read as two formats is two sets of files.
        let volume = format!("trace:{sha256}:{format}:{LAYOUT}");
        let mut builder = MemoryFs::builder().seed(*seed).volume_id(&volume);
        if let Some(rate) = config.origin_rate {
            builder = builder.link(Link::default().with_bytes_per_second(rate));
        }
        for (number, file) in files.iter().enumerate() {
            builder = builder.file(path(number), file.size);
        }
        let fs = builder.build().map_err(ReplayError::netfs("make the trace's files"))?;
        Ok(Origin { trace, fs, writes: config.writes })
    }

    /// What file number `file` holds now.
    pub(super) fn content(&self, file: u32) -> Result<Arc<Snapshot>, ReplayError> {
        let snapshot = self.fs.snapshot(path(file as usize));
        snapshot.map_err(ReplayError::netfs("look at the origin"))
    }

    /// Another client writes: the range gets the next version's content, then the promise is broken.
    pub(super) fn change(&self, request: &Request) -> Result<(), ReplayError> {
        let range = request.offset..request.offset + u64::from(request.len);
        let change = self.fs.change(path(request.file as usize));
        let done = change.rewrite_range(range);
        // No front holds mappings here, so nobody waits for the tickets.
        done.map(drop).map_err(ReplayError::netfs("change a file of the origin"))
    }

    /// See [`Config::lie_at`].
    pub(super) fn lie(&self) -> Result<(), ReplayError> {
        for file in 0..self.trace.files.len() {
            let change = self.fs.change(path(file)).silently().keeping_version();
            let done = change.rewrite();
            done.map(drop).map_err(ReplayError::netfs("change a file of the origin"))?;
        }
        Ok(())
    }
}

/// Where file number `file` is in the origin. Its name in the trace may be no name for a file.
pub(super) fn path(file: usize) -> String {
    format!("{}/{}", file / 4096, file % 4096)
}
