//! The whole core, from a reader's call over folios and fetches to a server and back, under the model
//! checker. A reader that is never answered shows as a deadlock.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p netfs --lib --target-dir target/shuttle interleavings`
//!
//! The sizes are small, for a model has to be run often: a file of a few pages, and eviction by the
//! page cache's own rule but on demand. What these tests cannot see is what happens within one call of
//! tokio's channels and locks, which is one step here, and reorderings of memory operations.

mod ahead;
mod changes;
mod direct;
mod ending;
mod logs;
mod origin;
mod overtaken;
mod readers;
mod recalls;
mod unpolled;
mod writers;

use std::time::Duration;

use origin::{Answers, Connection, Origin, content};

use crate::{
    Builder, File, FillPolicy, Mount, Netfs, OpenOptions,
    clock::StepClock,
    driver::{Handle, block_on},
    file::Granted,
    folio::FolioCache,
    fscache::CacheBackend,
    remote::{Cred, Cx},
    sync::Arc,
};

const PAGE: u64 = 4096;

/// Explores interleavings of `test`, both at random and with few preemptions.
fn explore(runs: usize, test: impl Fn() + Send + Sync + Copy + 'static) {
    use shuttle::{
        Config, Runner,
        scheduler::{PctScheduler, RandomScheduler},
    };
    let mut config = Config::new();
    // The whole core in one poll is deeper than the default of some ten pages.
    config.stack_size = 1 << 19;
    Runner::new(RandomScheduler::new(runs), config.clone()).run(test);
    Runner::new(PctScheduler::new(3, runs), config).run(test);
}

/// One file on a server, and a client of it.
struct World {
    netfs: Netfs,
    mount: Mount,
    origin: Arc<Origin>,
    clock: StepClock,
    /// Last: everything else has been let go of by then.
    ended: Ended,
}

/// Waits until the driver's tasks have ended, which they do once the `Netfs` is gone. Then nothing may
/// be left: no locked folio, no pinned byte.
struct Ended(Handle, Arc<FolioCache>);

impl Drop for Ended {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.settle();
            let left = self.1.usage();
            assert_eq!((left.budgeted, left.pinned, left.transient, left.folios), (0, 0, 0, 0));
        }
    }
}

impl World {
    fn new(pages: u64, rsize: u64, answers: Answers) -> World {
        World::with(pages, rsize, answers, None)
    }

    fn with(
        pages: u64,
        rsize: u64,
        answers: Answers,
        cache: Option<Arc<dyn CacheBackend>>,
    ) -> World {
        World::build(pages, rsize, answers, cache, |b| b.fill(FillPolicy::Exact).readahead_max(0))
    }

    /// The same, with readahead and windows as users have them.
    fn ahead(
        pages: u64,
        rsize: u64,
        answers: Answers,
        cache: Option<Arc<dyn CacheBackend>>,
    ) -> World {
        World::build(pages, rsize, answers, cache, |b| b.fill(FillPolicy::Auto))
    }

    fn build(
        pages: u64,
        rsize: u64,
        answers: Answers,
        cache: Option<Arc<dyn CacheBackend>>,
        tune: impl FnOnce(Builder) -> Builder,
    ) -> World {
        let clock = StepClock::new();
        let mut builder = Netfs::builder()
            .memory_bytes(4 << 20)
            .clock(Arc::new(clock.clone()))
            // Those caches lock with what the model does not know.
            .inode_capacity(0)
            .dentry_capacity(0);
        if let Some(cache) = cache {
            builder = builder.cache(cache);
        }
        let netfs = tune(builder).build().expect("valid settings");
        let origin = Origin::new(pages * PAGE, rsize, answers);
        let connection = Arc::new(Connection(Arc::clone(&origin)));
        let mount = block_on(netfs.mount(connection, &cx())).expect("mounts");
        let core = Arc::clone(&mount.root().inode.core);
        let ended = Ended(core.driver.clone(), Arc::clone(&core.folios));
        World { netfs, mount, clock, origin, ended }
    }

    fn open(&self) -> Arc<File> {
        self.open_with(OpenOptions::new().read(true).write(true))
    }

    fn open_with(&self, how: OpenOptions) -> Arc<File> {
        let granted = Granted { by: self.mount.fs(), reads: true };
        Arc::new(File::new(self.mount.root(), cx(), how, granted))
    }

    /// All that is cached in memory is evicted, one folio after the other.
    fn evict(&self) {
        let root = self.mount.root();
        while root.inode.core.folios.reclaim_one() {}
    }
}

fn cx() -> Cx {
    Cx::new(Cred::new(0, 0))
}

/// The version all of `bytes` are of, which is at least `oldest`.
fn version_of(bytes: &[u8], offset: u64, oldest: u64, newest: u64) -> u64 {
    let fits = |v: &u64| content(*v, offset, bytes.len()) == bytes;
    let found = (oldest..=newest).find(fits);
    found.unwrap_or_else(|| {
        let pages = bytes.chunks(PAGE as usize).enumerate().map(|(i, page)| {
            let at = offset + i as u64 * PAGE;
            (at, (0..=newest + 1).find(|&v| content(v, at, page.len()) == page))
        });
        panic!(
            "{} bytes at {offset} of none of {oldest}..={newest}; by page: {:?}",
            bytes.len(),
            pages.collect::<Vec<_>>()
        )
    })
}

/// Longer than any bound of the core.
const LONG: Duration = Duration::from_secs(1000);
