//! One run: origin, cache, mounts and handles under test beside the reference.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use netfs::{
    Durability, Errno, File, FillPolicy, FillWhenFull, Mount, Netfs,
    clock::{Clock, StepClock},
    remote::IoLimits,
};
use netfs_memory::{Gate, Injected, MemoryFs, VersionKind};

use crate::{
    crash::Log,
    groups::OpenGroup,
    modelling::{
        covered::Covered,
        cx,
        disk::{Disk, DiskKind},
        drive::drive,
        journal::Journal,
        kept::Kept,
        life::{Life, promise},
        rng::Rng,
        runs::Model,
    },
    reference::FileRef,
    removed::Removed,
    tree::Tree,
};

/// So long nothing has moved: what is waited for is time, or a held call.
pub(crate) const STALL: Duration = Duration::from_millis(2);

/// An open file.
pub(crate) struct Handle {
    pub(crate) file: Arc<File>,
    /// Which of the world's files.
    pub(crate) of: usize,
    pub(crate) writable: bool,
    pub(crate) level: Durability,
    /// It has not heard yet that bytes were discarded.
    pub(crate) lost: bool,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) journal: Journal,
    pub(crate) fs: Arc<MemoryFs>,
    clients: Vec<Arc<MemoryFs>>,
    pub(crate) clock: StepClock,
    pub(crate) disk: Disk,
    netfs: Option<Netfs>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) handles: Vec<Handle>,
    pub(crate) open_groups: Vec<OpenGroup>,
    pub(crate) tree: Tree,
    pub(crate) files: Vec<FileRef>,
    /// Files that are gone, and who has them open still.
    pub(crate) removed: Vec<Removed>,
    /// Names may lead to other files without anybody having been told.
    pub(crate) names_fuzzy: bool,
    /// Calls of the cache may hang: time must pass for the others to come through.
    pub(crate) cache_hangs: bool,
    pub(crate) kept: Kept,
    pub(crate) covered: Covered,
    /// A fault that can fail calls is in force, or its traces may be: errors are no surprise.
    pub(crate) suspect: bool,
    /// The server asks to be asked again, without having done anything.
    pub(crate) idle_retries: Option<Injected>,
    /// A call may be held there.
    pub(crate) gate: Option<Gate>,
    pub(crate) log: Option<Log>,
}

impl Model for World {
    const NAME: &'static str = "write model";

    fn new(seed: u64, kind: DiskKind) -> World {
        let mut rng = Rng::new(seed);
        let fs = origin(&mut rng, seed);
        let life = Life::of(&fs.settings().promise);
        let mut clients = vec![Arc::clone(&fs)];
        if rng.chance(40) {
            clients.push(fs.client());
        }
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
            open_groups: Vec::new(),
            tree: Tree::new(life),
            files: Vec::new(),
            removed: Vec::new(),
            names_fuzzy: false,
            cache_hangs: false,
            kept: Kept::default(),
            covered: Covered::default(),
            suspect: false,
            idle_retries: None,
            gate: None,
            log: None,
        };
        world.log = world.rng.chance(60).then(Log::new);
        for path in world.fs.files() {
            let file = world.adopt(&String::from_utf8_lossy(&path));
            world.files.push(file);
        }
        world.make_tree();
        let settings = world.fs.settings();
        world.journal.about(format!(
            "unstable {}, states_before {}, break_originator {}, attr_in_reads {}, clients {}, log {}",
            settings.unstable,
            settings.states_before,
            settings.break_originator,
            settings.attr_in_reads,
            world.clients.len(),
            world.log.is_some(),
        ));
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
    /// Gives a file a promise, a kind of versions and limits.
    pub(crate) fn adopt(&mut self, path: &str) -> FileRef {
        let promise = promise(&mut self.rng);
        let versions = self.rng.pick(&[VersionKind::Number, VersionKind::Etag]);
        let unit = self.rng.pick(&[1, 1, 1, 512, 4096, 65_536]);
        let limits = limits(&mut self.rng, unit);
        let set = self.fs.configure_file(path, |s| {
            s.promise = Some(promise);
            s.versions = Some(versions);
            s.limits = Some(limits);
        });
        set.expect("it exists");
        let bytes = self.origin_bytes(path);
        self.journal.about(format!("{path}: {promise:?}, {versions:?}, unit {unit}"));
        FileRef::new(path, Life::of(&promise), bytes, unit)
    }

    /// A context for what the last one left.
    pub(crate) fn build(&mut self) -> Netfs {
        let rng = &mut self.rng;
        let full = match rng.chance(50) {
            true => FillWhenFull::Drop,
            false => FillWhenFull::Wait { max: Duration::from_millis(50) },
        };
        let budget = rng.pick(&[1 << 19, 1 << 19, 1 << 20, 4 << 20]);
        let limit = rng.pick(&[4096, 65_536, 1 << 18, 8 << 20]);
        let background = rng.pick(&[0, limit / 4, limit / 2, limit]);
        let mut builder = Netfs::builder()
            .clock(Arc::new(self.clock.clone()))
            .driver_threads(1)
            .memory_bytes(budget)
            .dirty_bytes(background, limit)
            .recall_timeout(Duration::from_secs(5))
            .dirty_expire(Duration::from_secs(rng.pick(&[1, 30, 100_000])))
            .fill_queue(rng.pick(&[1 << 16, 1 << 18, 8 << 20]), full)
            .fill(rng.pick(&[FillPolicy::Auto, FillPolicy::Granule, FillPolicy::Exact]))
            .readahead_max(rng.pick(&[0, 1 << 18]))
            .cookie_lru(Duration::from_secs(rng.pick(&[0, 10])));
        if let Some(backend) = self.disk.backend() {
            builder = builder.cache(backend);
        }
        if let Some(log) = &mut self.log {
            builder = builder.dirty_log(log.begin());
        }
        self.note(format!("start, budget {budget}, dirty {background} {limit}"));
        builder.build().expect("build")
    }

    /// A new process on what the old one left.
    pub(crate) fn start(&mut self) {
        let netfs = self.build();
        for client in &self.clients.clone() {
            let mount = self.drive(netfs.mount(Arc::clone(client), &cx()));
            self.mounts.push(mount.expect("mount"));
        }
        self.netfs = Some(netfs);
        self.names_fuzzy = false;
        for _ in 0..4 {
            self.open();
        }
    }

    pub(crate) fn netfs(&self) -> &Netfs {
        self.netfs.as_ref().expect("between steps there is one")
    }

    pub(crate) fn put_netfs(&mut self, netfs: Netfs) {
        self.netfs = Some(netfs);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.netfs.is_some()
    }

    /// Waits until nothing is left of contexts that have ended.
    pub(crate) fn wait_for_the_dead(&self) {
        let (first, others) = self.clients.split_first().expect("one at least");
        let alive =
            || Arc::strong_count(first) > 2 || others.iter().any(|c| Arc::strong_count(c) > 1);
        let begun = Instant::now();
        while alive() {
            std::thread::park_timeout(STALL);
            if begun.elapsed() > Duration::from_secs(30) {
                self.fail("something is left of a context that has ended");
            }
        }
    }

    pub(crate) fn take_netfs(&mut self) -> Netfs {
        self.netfs.take().expect("running")
    }

    pub(crate) fn origin_bytes(&self, path: &str) -> Vec<u8> {
        let snapshot = self.fs.snapshot(path).expect("it exists");
        snapshot.content.read(0, snapshot.content.size() as usize)
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        self.journal.note(what);
    }

    pub(crate) fn fail(&self, why: &str) -> ! {
        self.journal.fail(why)
    }

    /// Fails unless it is right.
    pub(crate) fn check(&self, judged: Result<(), String>) {
        if let Err(why) = judged {
            self.fail(&why);
        }
    }

    /// Opens a random file through a random mount.
    pub(crate) fn open(&mut self) {
        let of = self.rng.index(self.files.len());
        let (mount, writable) = (self.rng.pick(&self.mounts), self.rng.chance(75));
        let path = self.files[of].path.clone();
        let (how, level) = self.how(writable);
        let opened = self.drive(async {
            let node = mount.walk(&path, &cx()).await?;
            mount.open_node_with(&node, &how, &cx()).await
        });
        self.note(format!("open {path} {level:?}: {}", opened.is_ok()));
        match opened {
            Ok(file) if self.fs.key(&path).is_ok_and(|key| key != file.node().key()) => {
                self.opened_removed(file, writable, level);
            }
            Ok(file) => {
                let file = Arc::new(file);
                self.handles.push(Handle { file, of, writable, level, lost: false });
            }
            Err(_) if self.suspect => {}
            Err(e) if self.names_fuzzy && e.errno() == Errno::ESTALE => {}
            Err(e) => self.fail(&format!("open {path}: {e:?}")),
        }
        if self.handles.len() > 8 {
            let gone = self.rng.index(self.handles.len());
            self.handles.swap_remove(gone);
        }
    }

    /// Runs a future on this thread. Time stands still as long as something moves: what waits for time to
    /// pass (a pause after a failure) gets it, then what waits for a held call, then what waits for the
    /// server to behave.
    pub(crate) fn drive<T>(&self, work: impl Future<Output = T>) -> T {
        drive(work, STALL, |waited| {
            match &self.gate {
                Some(gate) if !gate.is_released() => gate.release(),
                // What takes so long may be waiting for memory, up to the timeout of a call to the server: then
                // it says so.
                _ if self.suspect || self.cache_hangs || waited > Duration::from_secs(1) => {
                    self.clock.advance(Duration::from_millis(200))
                }
                // Reclaim and the flusher look again after a while of their own.
                _ => self.clock.advance(Duration::from_millis(10)),
            }
            if self.suspect && waited > Duration::from_millis(300) {
                self.fs.clear_faults();
            }
            if waited > Duration::from_secs(30) {
                eprintln!("waits: {:?}", self.netfs.as_ref().map(Netfs::waits));
                eprintln!("memory: {:?}", self.netfs.as_ref().map(Netfs::memory));
                self.fail("a call hangs (half a minute without an answer)");
            }
        })
    }

    pub(crate) fn now(&self) -> netfs::clock::BootTime {
        self.clock.now()
    }
}

pub(crate) fn limits(rng: &mut Rng, upload_unit: u32) -> IoLimits {
    let sizes = [4096, 5000, 8192, 65_536, 4 << 20];
    let (rsize, wsize) = (rng.pick(&sizes), rng.pick(&sizes));
    let max_segments = rng.pick(&[1, 2, 1024]);
    IoLimits { rsize, wsize, max_segments, upload_unit, ..IoLimits::default() }
}

fn origin(rng: &mut Rng, seed: u64) -> Arc<MemoryFs> {
    let dirs = promise(rng);
    let chunk = rng.pick(&[u64::MAX, 10_000, 262_144]);
    let flags: Vec<bool> = [50, 85, 20, 70, 40].iter().map(|&p| rng.chance(p)).collect();
    MemoryFs::builder()
        .seed(seed)
        .promise(dirs)
        .configure(|s| {
            s.chunk = chunk;
            s.report_holes = flags[0];
            s.states_before = flags[1];
            s.break_originator = flags[2];
            s.attr_in_reads = flags[3];
            s.unstable = flags[4];
        })
        .file("empty", 0)
        .file("small", 777)
        .file("d/page", 4096)
        .file("d/edge", 262_145)
        .file("big", 270_001)
        .sparse("d/sparse", 100_000, [4096..9000, 30_000..40_000])
        .build()
        .expect("origin")
}
