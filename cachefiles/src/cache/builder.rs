//! Opening a cache directory.

use std::{
    collections::HashMap,
    fs::File,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{CacheDir, KernelCache, Options, Shared, probe::Probe, superblock};
use crate::{
    checksum::mix,
    committer::Committer,
    descriptors::Descriptors,
    io::{Io, OsIo},
    layout::{CACHE, GRAVEYARD},
    stats::Counters,
    workers::{Gate, Lane, Workers},
};

/// Why a cache could not be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another `CacheDir`, in this or another process, owns the directory (N-C69).
    #[error(
        "cache directory {path} is in use by {holder}: stop that process, or use another directory"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who holds it, as far as the lock file says.
        holder: String,
    },
    /// The directory holds files, but no cache.
    #[error(
        "{path} is not empty and not a cache: use an empty or a new directory (nothing was changed)"
    )]
    NotACache {
        /// The directory.
        path: PathBuf,
    },
    /// The cache was made by another version of this library.
    #[error(
        "cache directory {path} has format {found}, this library reads format {reads}: delete the \
         directory or use another one"
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// What it has.
        found: u32,
        /// What this library reads.
        reads: u32,
    },
    /// The file system cannot hold a cache.
    #[error(
        "the file system of {path} has no user extended attributes ({source}): use another one"
    )]
    NoXattr {
        /// The directory.
        path: PathBuf,
        /// What setting one answered.
        source: std::io::Error,
    },
    /// Options that contradict each other or do nothing.
    #[error("cache options: {0}")]
    Options(&'static str),
    /// The operating system refused.
    #[error("cannot {what} in cache directory {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// The answer.
        source: std::io::Error,
    },
}

/// How a cache is to be opened; see [`CacheDir::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    path: PathBuf,
    options: Options,
}

impl Builder {
    pub(super) fn new(path: PathBuf) -> Builder {
        Builder { path, options: Options::default() }
    }

    /// Threads that wait for the disk. Default 4: enough to keep a disk busy, few enough to be no
    /// burden when it hangs.
    #[must_use]
    pub fn io_threads(mut self, count: usize) -> Builder {
        self.options.io_threads = count;
        self
    }

    /// Backing files held open at most. Default: half of the process's limit, after raising the soft
    /// limit to the hard one. Each I/O thread may use up to three more for the time of a call.
    #[must_use]
    pub fn max_descriptors(mut self, count: usize) -> Builder {
        self.options.max_descriptors = Some(count);
        self
    }

    /// Lookups, reads and writes under way at most in the whole cache (default 512); one more is
    /// refused as busy.
    #[must_use]
    pub fn max_in_flight(mut self, count: usize) -> Builder {
        self.options.max_in_flight = count;
        self
    }

    /// Reads and writes under way at most on one object (default 64).
    #[must_use]
    pub fn max_in_flight_per_object(mut self, count: usize) -> Builder {
        self.options.max_in_flight_per_object = count;
        self
    }

    /// How long a change of an object's content map waits to be written back (default 100 ms). It is
    /// what a kill of the process loses at most; nothing is ever wrong after one.
    #[must_use]
    pub fn flush_interval(mut self, interval: Duration) -> Builder {
        self.options.flush_interval = interval;
        self
    }

    /// What to do about the kernel's copy of the data.
    #[must_use]
    pub fn kernel_cache(mut self, mode: KernelCache) -> Builder {
        self.options.kernel_cache = mode;
        self
    }

    /// Opens the directory; makes it (mode 0700) if it is not there.
    ///
    /// # Errors
    /// See [`OpenError`]; each says what to do next.
    pub fn open(self) -> Result<Arc<CacheDir>, OpenError> {
        self.open_with(Arc::new(OsIo))
    }

    pub(crate) fn open_with(self, io: Arc<dyn Io>) -> Result<Arc<CacheDir>, OpenError> {
        let Builder { path, options } = self;
        let least = options.io_threads.min(options.max_in_flight);
        if least.min(options.max_in_flight_per_object) == 0 || options.max_descriptors == Some(0) {
            return Err(OpenError::Options("threads, descriptors and limits must be at least 1"));
        }
        let error = |what| {
            let path = path.clone();
            move |source: std::io::Error| OpenError::Io { what, path, source }
        };
        let (root, lock) = superblock::claim(&*io, &path)?;
        let dir =
            |name| subdirectory(&*io, &root, name).map_err(|e| error("open a directory")(e.into()));
        let (cache_dir, graveyard) = (dir(CACHE)?, dir(GRAVEYARD)?);
        let (probe, tried) = Probe::run(&*io, &graveyard, &path)?;
        let stats = Arc::new(Counters::default());
        let max = options.max_descriptors.unwrap_or_else(|| raise_limit() / 2);
        let seed = random_seed().map_err(error("draw a random number"))?;
        let shared = Arc::new(Shared {
            workers: Workers::start(options.io_threads).map_err(error("start a thread"))?,
            committer: Committer::start(options.flush_interval).map_err(error("start a thread"))?,
            descriptors: Descriptors::new(max.max(1), Arc::clone(&stats)),
            gate: Gate::new(options.max_in_flight),
            io,
            stats,
            cache_dir,
            graveyard,
            volumes: Mutex::new(HashMap::new()),
            path,
            options,
            nowait: AtomicBool::new(probe.nowait),
            probe,
            withdrawn: Arc::default(),
            lock: Mutex::new(Some(lock)),
            last: AtomicU64::new(0),
            seed,
        });
        // Refused by nobody yet; if it were, the file would be closed here.
        let _ = shared.workers.submit(Lane::Fill, Box::new(move || drop(tried)));
        shared.clean_graveyard();
        Ok(Arc::new(CacheDir { shared }))
    }
}

fn subdirectory(io: &dyn Io, root: &File, name: &str) -> crate::io::IoResult<File> {
    use crate::io::Errno;
    match io.make_dir(root, name) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    match io.open_dir(root, name) {
        // A file or link where it should be is no reason to be stuck.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            io.unlink(root, name)?;
            io.make_dir(root, name)?;
            io.open_dir(root, name)
        }
        other => other,
    }
}

/// Raises the soft limit of descriptors to the hard one; says what it is then.
fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if let Some(hard) = limit.maximum
        && limit.current.is_none_or(|soft| soft < hard)
    {
        // Refused: the old limit stands, and is what counts below.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) });
    }
    let soft = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(soft).unwrap_or(1 << 20).min(1 << 20)
}

/// Makes nonces differ between runs even where the clock is stuck.
fn random_seed() -> std::io::Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(mix(u64::from_be_bytes(bytes)))
}
