//! What the integration tests share.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::{sync::Arc, time::Duration};

use netfs::{
    Builder, File, Mount, Netfs, Stats,
    fscache::{CacheBackend, FillWhenFull},
    remote::{Cred, Cx},
};
use netfs_memory::MemoryFs;

/// The superuser, no deadline.
pub fn cx() -> Cx {
    Cx::new(Cred::new(0, 0))
}

/// A context with one mount of a memory origin.
pub struct Bench {
    netfs: Option<Netfs>,
    pub mount: Mount,
    pub fs: Arc<MemoryFs>,
}

impl Bench {
    pub fn new(fs: &Arc<MemoryFs>, cache: Option<Arc<dyn CacheBackend>>) -> Bench {
        Bench::with(fs, cache, |b| b)
    }

    pub fn with(
        fs: &Arc<MemoryFs>,
        cache: Option<Arc<dyn CacheBackend>>,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Bench {
        let wait = FillWhenFull::Wait { max: Duration::from_secs(60) };
        let mut builder = Netfs::builder().memory_bytes(16 << 20).fill_queue(8 << 20, wait);
        if let Some(cache) = cache {
            builder = builder.cache(cache);
        }
        let netfs = configure(builder).build().expect("build");
        let mount = pollster::block_on(netfs.mount(Arc::clone(fs), &cx())).expect("mount");
        Bench { netfs: Some(netfs), mount, fs: Arc::clone(fs) }
    }

    pub fn netfs(&self) -> &Netfs {
        self.netfs.as_ref().expect("not shut down")
    }

    pub fn into_netfs(mut self) -> Netfs {
        self.netfs.take().expect("once")
    }

    pub fn stats(&self) -> Stats {
        self.netfs().stats()
    }

    pub fn open(&self, path: &str) -> File {
        let node = pollster::block_on(self.mount.walk(path, &cx())).expect("walk");
        pollster::block_on(self.mount.open(&node, &cx())).expect("open")
    }

    /// Reads and compares with what the origin holds now.
    #[track_caller]
    pub fn check(&self, path: &str, offset: u64, len: usize) {
        let file = self.open(path);
        let mut buf = vec![0xaa; len];
        let n = file.blocking().read_at(offset, &mut buf).expect("read");
        let size = self.fs.size(path).expect("size");
        let want = size.saturating_sub(offset).min(len as u64);
        assert_eq!(n as u64, want, "length of {path} at {offset}");
        self.fs.verify(path, offset, &buf[..n]).expect("content");
    }

    pub fn drain(&self) {
        pollster::block_on(self.netfs().drain_fills());
    }

    pub fn shutdown(mut self) {
        let netfs = self.netfs.take().expect("once");
        assert!(netfs.blocking_shutdown(Duration::from_secs(20)).is_nothing());
    }
}
