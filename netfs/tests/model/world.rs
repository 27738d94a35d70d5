//! One run: origin, cache, mounts and handles under test beside the reference.

use std::{future::Future, sync::Arc, time::Duration};

use netfs::{
    Error, File, FillPolicy, FillWhenFull, MemoryUse, Mount, Netfs, ReadOptions, Slices, TryReadAt,
    clock::{Clock, StepClock},
    remote::{IoLimits, Promise, PromiseKind, VolumeFacts},
};
use netfs_memory::{MemoryFs, VersionKind};

use crate::{
    modelling::{
        covered::Covered,
        cx,
        disk::{Disk, DiskKind},
        drive::drive,
        journal::Journal,
        kept::{Kept, concat},
        life::promise,
        rng::Rng,
        runs::Model,
    },
    reference::{Claim, Reference},
};

/// An `rsize` above every file's size.
const ONE_CALL: u64 = 4 << 20;

/// An open file and whose it is.
pub(crate) struct Handle {
    pub(crate) file: Arc<File>,
    pub(crate) key: Vec<u8>,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) journal: Journal,
    pub(crate) fs: Arc<MemoryFs>,
    pub(crate) clients: Vec<Arc<MemoryFs>>,
    pub(crate) clock: StepClock,
    pub(crate) disk: Disk,
    pub(crate) netfs: Option<Netfs>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) handles: Vec<Handle>,
    pub(crate) reference: Reference,
    kept: Kept,
    pub(crate) covered: Covered,
    /// Keys of files that fit one call: only they are read with `read_single`.
    pub(crate) single: Vec<Vec<u8>>,
    /// Cache calls may hang: time must pass for readers to come through.
    pub(crate) cache_hangs: bool,
    /// Reads left that may fail because of an injected fault; `u32::MAX` while it is in force.
    pub(crate) explained: u32,
    /// One promise covers the whole volume: any file's reply vouches for all that nobody was told of,
    /// so nothing changes silently.
    pub(crate) told_only: bool,
    /// The names of the files may have changed without the cache being told.
    pub(crate) names_fuzzy: bool,
}

/// How to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    At,
    Try,
    Slices,
    Bypass,
    Unbuffered,
    Single,
}

impl How {
    pub(crate) const ALL: [How; 6] =
        [How::At, How::Try, How::Slices, How::Bypass, How::Unbuffered, How::Single];
}

/// What one read came to.
pub(crate) struct Got {
    /// `None`: it would have had to wait.
    pub(crate) bytes: Option<Result<Vec<u8>, Error>>,
    pub(crate) slices: Option<Slices>,
    pub(crate) how: How,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Model for World {
    const NAME: &'static str = "model";

    fn new(seed: u64, kind: DiskKind) -> World {
        let mut rng = Rng::new(seed);
        let fs = origin(&mut rng, seed);
        let clients = vec![Arc::clone(&fs), fs.client()];
        let mut world = World {
            rng,
            journal: Journal::new(seed),
            fs,
            clients,
            clock: StepClock::new(),
            disk: Disk::new(kind),
            netfs: None,
            mounts: Vec::new(),
            handles: Vec::new(),
            reference: Reference::default(),
            kept: Kept::default(),
            covered: Covered::default(),
            single: Vec::new(),
            cache_hangs: false,
            explained: 0,
            told_only: false,
            names_fuzzy: false,
        };
        world.told_only = world.fs.settings().volume.is_some();
        for path in world.fs.files() {
            world.adopt(&path);
        }
        world.start();
        world
    }

    fn step(&mut self, step: u64) {
        self.journal.step = step;
        self.random_step();
    }

    fn finish(self) -> Covered {
        self.end()
    }
}

impl World {
    /// Gives a new file a promise, a kind of versions and limits.
    pub(crate) fn adopt(&mut self, path: &[u8]) {
        self.observe();
        let promise = promise(&mut self.rng);
        let versionless = self.rng.chance(15);
        let rsize = self.rng.pick(&[4096, 8192, 50_000, 65_536, ONE_CALL]);
        let segments = self.rng.pick(&[1, 2, 1024]);
        let set = self.fs.configure_file(path, |s| {
            s.promise = Some(promise);
            s.versions = versionless.then_some(VersionKind::None);
            s.limits = Some(IoLimits { rsize, max_segments: segments, ..IoLimits::default() });
        });
        let key = set.and_then(|()| self.fs.key(path)).expect("it exists");
        let covered = Promise::UntilBroken { kind: PromiseKind::Read };
        let vouched = if self.told_only { &covered } else { &promise };
        self.reference.promises(&key, vouched, versionless);
        if rsize == ONE_CALL {
            self.single.push(key.clone());
        }
        let kind = if versionless { ", versionless" } else { "" };
        let name = String::from_utf8_lossy(path).into_owned();
        self.journal.about(format!("{} = {name}: {promise:?}{kind}, rsize {rsize}", hex(&key)));
    }

    /// A new process on what the old one left.
    pub(crate) fn start(&mut self) {
        let rng = &mut self.rng;
        let full = match rng.chance(50) {
            true => FillWhenFull::Drop,
            false => FillWhenFull::Wait { max: Duration::from_millis(50) },
        };
        let mut builder = Netfs::builder()
            .clock(Arc::new(self.clock.clone()))
            .driver_threads(1)
            .memory_bytes(rng.pick(&[1 << 18, 3 << 17, 1 << 20, 4 << 20]))
            .fill_queue(rng.pick(&[1 << 16, 1 << 18, 8 << 20]), full)
            .fill(rng.pick(&[FillPolicy::Auto, FillPolicy::Granule, FillPolicy::Exact]))
            .readahead_max(rng.pick(&[0, 1 << 18, 4 << 20]))
            .cookie_lru(Duration::from_secs(rng.pick(&[0, 10])));
        if let Some(backend) = self.disk.backend() {
            builder = builder.cache(backend);
        }
        let netfs = builder.build().expect("build");
        self.reference.ask_again_all();
        self.names_fuzzy = false;
        for client in &self.clients.clone() {
            let mount = self.drive(netfs.mount(Arc::clone(client), &cx()));
            self.mounts.push(mount.expect("mount"));
        }
        self.netfs = Some(netfs);
        for _ in 0..4 {
            self.open();
        }
    }

    pub(crate) fn netfs(&self) -> &Netfs {
        self.netfs.as_ref().expect("between steps there is one")
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        self.journal.note(what);
    }

    pub(crate) fn fail(&self, why: &str) -> ! {
        self.journal.fail(why)
    }

    /// Brings the reference up to what the origin holds and has told.
    pub(crate) fn observe(&mut self) {
        self.reference.observe(&self.fs, self.clock.now());
    }

    pub(crate) fn claim(&self, key: &[u8]) -> Claim {
        self.reference.claim(key, self.clock.now())
    }

    /// Opens a random path through a random mount.
    pub(crate) fn open(&mut self) {
        let paths = self.fs.files();
        if paths.is_empty() {
            return;
        }
        let (path, mount) = (self.rng.pick(&paths), self.rng.pick(&self.mounts));
        let opened = self.drive(async {
            let node = mount.walk(&path, &cx()).await?;
            mount.open(&node, &cx()).await
        });
        let name = String::from_utf8_lossy(&path).into_owned();
        match opened {
            Ok(file) => {
                let key = file.node().key().to_vec();
                let right = self.fs.key(&path).is_ok_and(|k| k == key);
                if !(right || self.names_fuzzy && self.reference.knows(&key)) {
                    self.fail(&format!("{name} leads to the wrong file"));
                }
                self.note(format!("open {name}"));
                self.handles.push(Handle { file: Arc::new(file), key });
                if self.handles.len() > 10 {
                    let gone = self.rng.index(self.handles.len());
                    self.handles.swap_remove(gone);
                }
            }
            Err(e) if self.explained > 0 || self.names_fuzzy => {
                self.note(format!("open {name}: {e}"));
            }
            Err(e) => self.fail(&format!("open {name}: {e:?}")),
        }
    }

    /// Judges one read and keeps its slices.
    pub(crate) fn judge(&mut self, claim: &Claim, got: Got) {
        let Some(result) = got.bytes else { return };
        let explained = self.explained > 0;
        let may_stop = explained && got.how == How::Unbuffered;
        let judged = self.reference.judge(claim, got.offset, got.len, &result, explained, may_stop);
        if self.explained < u32::MAX {
            self.explained = self.explained.saturating_sub(1);
        }
        if let Err(why) = judged {
            self.fail(&why);
        }
        if let (Some(slices), Ok(bytes)) = (got.slices, result) {
            self.kept.push(slices, bytes);
        }
    }

    /// Slices never change, whatever happened to the file since.
    pub(crate) fn check_kept(&self) {
        if !self.kept.are_as_they_were() {
            self.fail("slices handed out have changed");
        }
    }

    /// Runs a future on this thread. Time stands still, except that it passes while the cache hangs.
    pub(crate) fn drive<T>(&self, work: impl Future<Output = T>) -> T {
        let patience =
            if self.cache_hangs { Duration::from_micros(500) } else { Duration::from_secs(1) };
        drive(work, patience, |waited| {
            if self.cache_hangs {
                self.clock.advance(Duration::from_millis(60));
            }
            if waited > Duration::from_secs(60) {
                self.fail("a call hangs (a minute without an answer)");
            }
        })
    }
}

pub(crate) fn hex(key: &[u8]) -> String {
    key.iter().take(3).map(|b| format!("{b:02x}")).collect()
}

/// One read of any kind.
pub(crate) async fn read(file: &File, how: How, offset: u64, len: u64) -> Got {
    let mut buf = vec![0xaa; len as usize];
    let mut got = Got { bytes: None, slices: None, how, offset, len };
    let direct = ReadOptions { unbuffered: true, ..ReadOptions::default() };
    let bypass = ReadOptions { memory: MemoryUse::Bypass, ..ReadOptions::default() };
    let n = match how {
        How::At => file.read_at(offset, &mut buf).await,
        How::Bypass => file.read_at_with(offset, &mut buf, bypass).await,
        How::Unbuffered => file.read_at_with(offset, &mut buf, direct).await,
        How::Try => match file.try_read(offset, &mut buf) {
            TryReadAt::Done(n) => Ok(n),
            TryReadAt::WouldBlock => return got,
        },
        How::Slices => match file.read_slices(offset, len).await {
            Ok(slices) => {
                buf = concat(&slices);
                got.slices = Some(slices);
                Ok(buf.len())
            }
            Err(e) => Err(e),
        },
        How::Single => {
            (got.offset, got.len) = (0, u64::MAX);
            match file.read_single().await {
                Ok(bytes) => {
                    buf = bytes.to_vec();
                    Ok(buf.len())
                }
                Err(e) => Err(e),
            }
        }
    };
    got.bytes = Some(n.map(|n| {
        buf.truncate(n);
        buf
    }));
    got
}

fn origin(rng: &mut Rng, seed: u64) -> Arc<MemoryFs> {
    let dirs = promise(rng);
    let volume = rng.chance(20).then(|| {
        let lifetime = Duration::from_secs(rng.pick(&[5, 60, 3600]));
        let promise = Promise::Until { lifetime, margin: Duration::from_secs(1) };
        VolumeFacts { promise, checked: true }
    });
    let (chunk, holes) = (rng.pick(&[u64::MAX, 10_000, 262_144]), rng.chance(50));
    MemoryFs::builder()
        .seed(seed)
        .promise(dirs)
        .configure(|s| {
            s.volume = volume;
            s.chunk = chunk;
            s.report_holes = holes;
        })
        .file("empty", 0)
        .file("small", 777)
        .file("d/page", 4096)
        .file("d/granule", 262_144)
        .file("d/edge", 262_145)
        .file("big", 1_300_001)
        .sparse("d/sparse", 900_000, [4096..9000, 300_000..400_000])
        .sparse("holes", 50_000, [])
        .build()
        .expect("origin")
}
