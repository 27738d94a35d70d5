//! One run: origin, cache, mounts and handles under test beside the reference.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use netfs::{
    Durability, Errno, File, FillPolicy, FillWhenFull, Mount, Netfs,
    clock::{Clock, StepClock},
    dirtylog::OwnerId,
    remote::{Cred, Cx, IoLimits},
};
use netfs_memory::{Gate, MemoryFs, VersionKind};

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
    policies::OfContext,
    reference::FileRef,
    removed::Removed,
    servers::{Injected, Servers, real},
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
    /// Its close uploads.
    pub(crate) flushes: bool,
    /// It has not heard yet that bytes were discarded.
    pub(crate) lost: bool,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) journal: Journal,
    pub(crate) fs: Servers,
    /// Who mounts which volume, and as which client of its server.
    pub(crate) clients: Vec<(usize, Arc<MemoryFs>)>,
    pub(crate) clock: StepClock,
    pub(crate) disk: Disk,
    netfs: Option<Arc<Netfs>>,
    /// Of the first volume.
    pub(crate) mounts: Vec<Mount>,
    /// Of the second.
    pub(crate) second: Vec<Mount>,
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
    pub(crate) of_context: OfContext,
    /// How much may be dirty.
    pub(crate) dirty_limit: u64,
    /// The log's bytes are uploaded as who wrote them.
    pub(crate) replay_as_owner: bool,
    /// Files of this volume are left alone.
    pub(crate) hung: Option<usize>,
}

impl Model for World {
    const NAME: &'static str = "write model";

    fn new(seed: u64, kind: DiskKind) -> World {
        let mut rng = Rng::new(seed);
        let (fs, clients) = servers(&mut rng, seed);
        let life = Life::of(&fs.settings().promise);
        let mut world = World {
            rng,
            journal: Journal::new(seed),
            fs,
            clients,
            clock: StepClock::new(),
            disk: Disk::new(kind),
            netfs: None,
            mounts: Vec::new(),
            second: Vec::new(),
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
            of_context: OfContext::merge(),
            dirty_limit: 0,
            replay_as_owner: false,
            hung: None,
        };
        world.log = world.rng.chance(60).then(Log::new);
        for path in world.fs.files() {
            let file = world.adopt(&path);
            world.files.push(file);
        }
        world.make_tree();
        let settings = world.fs.settings();
        world.journal.about(format!(
            "unstable {}, states_before {}, break_originator {}, attr_in_reads {}, volumes {}, clients {}, log {}",
            settings.unstable,
            settings.states_before,
            settings.break_originator,
            settings.attr_in_reads,
            world.fs.volumes().len(),
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
        self.of_context = OfContext::random(rng);
        self.dirty_limit = limit;
        let mut builder = Netfs::builder()
            .conflict_policy(self.of_context.policy())
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
            self.replay_as_owner = rng.chance(60);
            if self.replay_as_owner {
                builder = builder.replay_as(|OwnerId(uid)| Some(Cx::new(Cred::new(uid, uid))));
            }
        }
        self.note(format!("start, budget {budget}, dirty {background} {limit}"));
        builder.build().expect("build")
    }

    /// A new process on what the old one left.
    pub(crate) fn start(&mut self) {
        let netfs = self.build();
        self.put_netfs(netfs);
        self.files.iter_mut().for_each(|f| f.attributes.told());
        for (volume, client) in self.clients.clone() {
            self.mount(volume, &client);
        }
        self.names_fuzzy = false;
        for _ in 0..4 {
            self.open();
        }
    }

    pub(crate) fn netfs(&self) -> &Netfs {
        self.netfs.as_ref().expect("between steps there is one")
    }

    pub(crate) fn put_netfs(&mut self, netfs: Netfs) {
        let netfs = Arc::new(netfs);
        let looked_at = Arc::downgrade(&netfs);
        self.journal.look(move || {
            let state = |netfs: Arc<Netfs>| {
                format!("waits: {:?}\nmemory: {:?}", netfs.waits(), netfs.memory())
            };
            looked_at.upgrade().map_or_else(String::new, state)
        });
        self.netfs = Some(netfs);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.netfs.is_some()
    }

    /// Waits until nothing is left of contexts that have ended.
    pub(crate) fn wait_for_the_dead(&self) {
        let is_first = |c: &Arc<MemoryFs>| self.fs.volumes().iter().any(|fs| Arc::ptr_eq(fs, c));
        let in_use = |c: &Arc<MemoryFs>| Arc::strong_count(c) > 1 + usize::from(is_first(c));
        let alive = || self.clients.iter().any(|(_, client)| in_use(client));
        let begun = Instant::now();
        while alive() {
            std::thread::park_timeout(STALL);
            if begun.elapsed() > Duration::from_secs(30) {
                self.fail("something is left of a context that has ended");
            }
        }
    }

    pub(crate) fn take_netfs(&mut self) -> Netfs {
        let mut netfs = self.netfs.take().expect("running");
        // The watchdog may be looking at it.
        loop {
            match Arc::try_unwrap(netfs) {
                Ok(netfs) => return netfs,
                Err(shared) => netfs = shared,
            }
        }
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
        let path = self.files[of].path.clone();
        let (mount, writable) = (self.mount_for(&path), self.rng.chance(75));
        let (how, level, flushes) = self.how(writable);
        let flushes = flushes && writable;
        let opened = self.drive(async {
            let node = mount.walk(real(&path), &cx()).await?;
            mount.open_node_with(&node, &how, &cx()).await
        });
        self.note(format!("open {path} {level:?}: {}", opened.is_ok()));
        match opened {
            Ok(file) if self.fs.key(&path).is_ok_and(|key| key != file.node().key()) => {
                self.opened_removed(&mount, file, writable, level);
            }
            Ok(file) => {
                let file = Arc::new(file);
                self.handles.push(Handle { file, of, writable, level, flushes, lost: false });
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

/// One or two volumes, and who is to mount them.
fn servers(rng: &mut Rng, seed: u64) -> (Servers, Vec<(usize, Arc<MemoryFs>)>) {
    let mut volumes = vec![origin(rng, seed)];
    if rng.chance(50) {
        volumes.push(second_origin(rng, seed));
    }
    let mut clients = Vec::new();
    for (volume, fs) in volumes.iter().enumerate() {
        clients.push((volume, Arc::clone(fs)));
        if rng.chance(40) {
            clients.push((volume, fs.client()));
        }
    }
    (Servers::new(volumes), clients)
}

/// Some of the files of the first one, by the same keys, with other bytes.
fn second_origin(rng: &mut Rng, seed: u64) -> Arc<MemoryFs> {
    let mut bytes = |len: u64| (0..len).map(|_| rng.next() as u8).collect::<Vec<u8>>();
    let files = [("small", bytes(1000)), ("d/page", bytes(4000)), ("d/edge", bytes(30_000))];
    let unstable = rng.chance(40);
    let promise = promise(rng);
    let builder = MemoryFs::builder().seed(seed).volume_id("second").promise(promise);
    let builder = builder.configure(|s| s.unstable = unstable);
    let files =
        files.into_iter().fold(builder, |builder, (path, bytes)| builder.bytes(path, bytes));
    files.build().expect("origin")
}

fn origin(rng: &mut Rng, seed: u64) -> Arc<MemoryFs> {
    let dirs = promise(rng);
    let chunk = rng.pick(&[u64::MAX, 10_000, 262_144]);
    let flags: Vec<bool> = [50, 85, 20, 70, 40, 30].iter().map(|&p| rng.chance(p)).collect();
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
            s.attr_moves_version = flags[5];
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
