//! What is exercised: a context with its cache, and how it is set up.

use std::{fmt, sync::Arc, time::Duration};

use cachefiles::CacheDir;
use netfs::{
    File, FillPolicy, Mount, Netfs,
    fscache::{CacheBackend, FillWhenFull, MemCache},
};

use crate::{
    origin::{NAME, Origin, OriginKind, cx},
    rng::Rng,
};

/// The disk cache under it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CacheKind {
    None,
    Memory,
    Directory,
}

/// How one run is set up; the first line of a replay file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Style {
    pub(crate) origin: OriginKind,
    pub(crate) cache: CacheKind,
    pub(crate) seed: u64,
    /// Reads, writes and sizes are multiples of this.
    pub(crate) align: u64,
    pub(crate) max_len: u64,
    pub(crate) max_size: u64,
    pub(crate) memory: u64,
    pub(crate) dirty: u64,
    pub(crate) rsize: u64,
    pub(crate) wsize: u64,
    pub(crate) unit: u32,
    pub(crate) unstable: bool,
    pub(crate) granule: bool,
}

impl Style {
    pub(crate) fn of(origin: OriginKind, cache: CacheKind, seed: u64) -> Style {
        let mut rng = Rng::new(seed ^ 0xf5f5);
        Style {
            origin,
            cache,
            seed,
            align: rng.pick(&[1, 1, 1, 512, 4096]),
            max_len: rng.pick(&[4096, 65_536, 65_536]),
            max_size: rng.pick(&[262_144, 262_144, 1 << 20]),
            memory: rng.pick(&[1 << 19, 1 << 20, 8 << 20]),
            dirty: rng.pick(&[65_536, 1 << 18, 8 << 20]),
            rsize: rng.pick(&[4096, 60_000, 1 << 20]),
            wsize: rng.pick(&[4096, 60_000, 1 << 20]),
            unit: rng.pick(&[1, 1, 512, 65_536]),
            unstable: rng.chance(50),
            granule: rng.chance(30),
        }
    }

    fn numbers(&self) -> [u64; 11] {
        let (unstable, granule) = (u64::from(self.unstable), u64::from(self.granule));
        let Style { seed, align, max_len, max_size, memory, dirty, rsize, wsize, unit, .. } = *self;
        [
            seed,
            align,
            max_len,
            max_size,
            memory,
            dirty,
            rsize,
            wsize,
            unit.into(),
            unstable,
            granule,
        ]
    }

    pub(crate) fn parse(line: &str) -> Option<Style> {
        let mut words = line.strip_prefix("style ")?.split_whitespace();
        let origin = match words.next()? {
            "memory" => OriginKind::Memory,
            "local" => OriginKind::Local,
            _ => return None,
        };
        let cache = match words.next()? {
            "none" => CacheKind::None,
            "memory" => CacheKind::Memory,
            "directory" => CacheKind::Directory,
            _ => return None,
        };
        let numbers: Option<Vec<u64>> = words.map(|word| word.parse().ok()).collect();
        let numbers: [u64; 11] = numbers?.try_into().ok()?;
        let [seed, align, max_len, max_size, memory, dirty, rsize, wsize, unit, unstable, granule] =
            numbers;
        let unit = u32::try_from(unit).ok()?;
        let (unstable, granule) = (unstable != 0, granule != 0);
        Some(Style {
            origin,
            cache,
            seed,
            align: align.max(1),
            max_len,
            max_size,
            memory,
            dirty,
            rsize,
            wsize,
            unit,
            unstable,
            granule,
        })
    }
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (origin, cache) = (format!("{:?}", self.origin), format!("{:?}", self.cache));
        write!(f, "style {} {}", origin.to_lowercase(), cache.to_lowercase())?;
        self.numbers().iter().try_for_each(|n| write!(f, " {n}"))
    }
}

/// A running context with the file open.
pub(crate) struct Subject {
    netfs: Option<Netfs>,
    pub(crate) mount: Mount,
    pub(crate) file: File,
    memory: Option<Arc<MemCache>>,
    directory: Option<(tempfile::TempDir, Arc<CacheDir>)>,
}

fn open_cache(dir: &tempfile::TempDir) -> Arc<CacheDir> {
    CacheDir::builder(dir.path()).io_threads(1).open().expect("the cache directory opens")
}

impl Subject {
    pub(crate) fn new(style: &Style, origin: &Origin) -> Subject {
        let memory = (style.cache == CacheKind::Memory).then(MemCache::new);
        let directory = (style.cache == CacheKind::Directory).then(|| {
            let dir = tempfile::tempdir().expect("a directory");
            let cache = open_cache(&dir);
            (dir, cache)
        });
        Subject::start(style, origin, memory, directory)
    }

    fn start(
        style: &Style,
        origin: &Origin,
        memory: Option<Arc<MemCache>>,
        directory: Option<(tempfile::TempDir, Arc<CacheDir>)>,
    ) -> Subject {
        let wait = FillWhenFull::Wait { max: Duration::from_secs(60) };
        let mut builder = Netfs::builder()
            .driver_threads(1)
            .memory_bytes(style.memory)
            .dirty_bytes(style.dirty / 2, style.dirty)
            .fill_queue(1 << 20, wait);
        if style.granule {
            builder = builder.fill(FillPolicy::Granule);
        }
        let in_memory = memory.clone().map(|cache| cache as Arc<dyn CacheBackend>);
        let on_disk = directory.as_ref().map(|(_, cache)| Arc::clone(cache) as _);
        if let Some(cache) = in_memory.or(on_disk) {
            builder = builder.cache(cache);
        }
        let netfs = builder.build().expect("built");
        let mount = origin.mount(&netfs, style);
        let file = open(&mount);
        Subject { netfs: Some(netfs), mount, file, memory, directory }
    }

    pub(crate) fn netfs(&self) -> &Netfs {
        self.netfs.as_ref().expect("running")
    }

    /// Ends the process, so to speak, and begins another one on the same cache.
    pub(crate) fn restart(self, style: &Style, origin: &Origin) -> Subject {
        let (memory, directory) = self.end();
        Subject::start(style, origin, memory.map(|cache| cache.restart()), directory)
    }

    #[expect(clippy::type_complexity, reason = "what a restart is made from")]
    pub(crate) fn end(
        mut self,
    ) -> (Option<Arc<MemCache>>, Option<(tempfile::TempDir, Arc<CacheDir>)>) {
        drop(self.file);
        let netfs = self.netfs.take().expect("running");
        assert!(
            netfs.blocking_shutdown(Duration::from_secs(60)).is_nothing(),
            "something was left"
        );
        drop(self.mount);
        let directory = self.directory.map(|(dir, cache)| {
            pollster::block_on(cache.withdraw());
            let cache = open_cache(&dir);
            (dir, cache)
        });
        (self.memory, directory)
    }
}

/// Opens the file for reading and writing.
pub(crate) fn open(mount: &Mount) -> File {
    mount.blocking().open_rw(NAME, &cx()).expect("opened")
}
