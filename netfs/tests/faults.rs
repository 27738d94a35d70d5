//! What goes wrong at the origin or in the cache, one invariant a test: the numbers are those of the
//! behavioural specification (`n_c..` netfs and fscache, `p_d..` protocols).

mod common;

#[path = "faults/cache.rs"]
mod cache;
#[path = "faults/coherency.rs"]
mod coherency;
#[path = "faults/counted.rs"]
mod counted;
#[path = "faults/requests.rs"]
mod requests;
#[path = "faults/waits.rs"]
mod waits;
#[path = "faults/writers.rs"]
mod writers;

use std::{sync::Arc, time::Duration};

use common::{Bench, cx};
use netfs::{
    Errno, Error, File,
    clock::StepClock,
    remote::{Cred, Cx, IoLimits, Promise, PromiseKind},
};
use netfs_memory::{Builder, MemoryFs, Op};

fn origin() -> Builder {
    MemoryFs::builder().promise(Promise::UntilBroken { kind: PromiseKind::Read })
}

fn limit(fs: &MemoryFs, rsize: u64) {
    fs.configure(|s| s.limits = IoLimits { rsize, ..IoLimits::default() });
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn user(uid: u32) -> Cx {
    Cx::new(Cred::new(uid, uid))
}

/// Start and end of the reads since the last time.
fn reads(fs: &MemoryFs) -> Vec<(u64, u64)> {
    let calls = fs.take_calls().into_iter().filter(|c| c.op == Op::Read);
    calls.filter_map(|c| c.range).map(|r| (r.start, r.end)).collect()
}

fn read(file: &File, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
    let mut buf = vec![0xaa; len];
    let n = file.blocking().read_at(offset, &mut buf)?;
    buf.truncate(n);
    Ok(buf)
}

fn open_as(bench: &Bench, path: &str, cx: &Cx) -> Result<File, Error> {
    let node = pollster::block_on(bench.mount.walk(path, cx))?;
    pollster::block_on(bench.mount.open(&node, cx))
}

/// A bench whose time stands still until it is told otherwise.
fn clocked(fs: &Arc<MemoryFs>, cache: Option<Arc<netfs::fscache::MemCache>>) -> (Bench, StepClock) {
    let clock = StepClock::new();
    let cache = cache.map(|c| c as Arc<dyn netfs::fscache::CacheBackend>);
    let bench = Bench::with(fs, cache, |b| {
        b.clock(Arc::new(clock.clone())).driver_threads(1).readahead_max(0)
    });
    (bench, clock)
}

/// Lets everything that is ready on the one driver thread run: a few calls go through it.
fn settle(bench: &Bench) {
    for _ in 0..3 {
        pollster::block_on(bench.mount.statfs(&cx())).expect("statfs");
    }
}

/// Waits for something another thread is about to do.
///
/// # Panics
/// If it does not within a minute: the test would hang for ever.
#[track_caller]
fn eventually(what: &str, done: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !done() {
        assert!(started.elapsed() < secs(60), "{what}: not within a minute");
        std::thread::yield_now();
    }
}

#[track_caller]
fn fails(result: Result<Vec<u8>, Error>, errno: Errno) {
    match result {
        Err(e) => assert_eq!(e.errno(), errno, "{e:?}"),
        Ok(bytes) => panic!("{} bytes instead of {errno:?}", bytes.len()),
    }
}
