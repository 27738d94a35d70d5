//! A server that does not say which version a write found, but has promised that nobody else writes: what is cached
//! stays across our own uploads. (Without the promise each of them may lie over somebody else's.)

mod common;

use std::sync::Arc;

use common::{Bench, cx};
use netfs::{
    File,
    fscache::{CacheBackend, MemCache},
    remote::{Promise, PromiseKind},
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

const PAGE: usize = 4096;
const SIZE: usize = 32 * PAGE;

fn origin(kind: PromiseKind) -> Arc<MemoryFs> {
    let fs = MemoryFs::builder().promise(Promise::UntilBroken { kind });
    let fs = fs.file("f", SIZE as u64).build().expect("build");
    fs.configure(|s| {
        s.states_before = false;
        s.limits.wsize = PAGE as u64;
    });
    fs
}

fn bench(fs: &Arc<MemoryFs>, cache: Arc<MemCache>) -> Bench {
    Bench::with(fs, Some(cache as Arc<dyn CacheBackend>), |b| b)
}

fn open(bench: &Bench) -> File {
    bench.mount.blocking().open_rw("f", &cx()).expect("open")
}

fn write(file: &File, offset: usize, bytes: &[u8]) {
    assert_eq!(file.blocking().write_at(offset as u64, bytes).expect("write"), bytes.len());
}

/// Reads all of it, right; returns how often the server was asked for bytes.
fn read_all(bench: &Bench, file: &File) -> u64 {
    let before = bench.fs.counts().calls(Op::Read);
    let mut buf = vec![0; SIZE];
    assert_eq!(file.blocking().read_at(0, &mut buf).expect("read"), SIZE);
    bench.fs.verify("f", 0, &buf).expect("the server's bytes");
    bench.fs.counts().calls(Op::Read) - before
}

#[test]
fn under_a_write_promise_uploads_leave_what_is_cached() {
    for kind in [PromiseKind::Write, PromiseKind::Read] {
        let (fs, cache) = (origin(kind), MemCache::new());
        let first = bench(&fs, Arc::clone(&cache));
        let file = open(&first);
        read_all(&first, &file);
        // One call, and several at the same time whose order nobody tells.
        for spots in [1, 5] {
            (0..spots).for_each(|i| write(&file, 3 * i * PAGE, b"ours"));
            file.blocking().fsync().expect("fsync");
            assert_eq!(read_all(&first, &file) == 0, kind == PromiseKind::Write, "{kind:?}");
        }
        first.drain();
        drop(file);
        first.shutdown();
        if kind == PromiseKind::Write {
            let second = bench(&fs, cache.restart());
            let file = open(&second);
            assert_eq!(read_all(&second, &file), 0, "the disk has all of it");
            drop(file);
            second.shutdown();
        }
    }
}

/// The server wants the promise back while bytes are on their way: from then on somebody else may write, before or
/// after they come.
#[test]
fn a_break_during_a_round_ends_it() {
    for at in [SnapshotAt::Issue, SnapshotAt::Release] {
        for spots in [1, 5] {
            let fs = origin(PromiseKind::Write);
            let bench = bench(&fs, MemCache::new());
            let file = open(&bench);
            read_all(&bench, &file);
            (0..spots).for_each(|i| write(&file, 3 * i * PAGE, b"ours"));
            let gate = Gate::new();
            fs.inject(Fault::on(Op::Write).hold(&gate, at).always());
            std::thread::scope(|s| {
                let sync = s.spawn(|| file.blocking().fsync());
                gate.wait_hits(spots as u64);
                fs.change("f").rewrite_range(20 * PAGE as u64..SIZE as u64).expect("theirs");
                gate.release();
                sync.join().expect("no panic").expect("fsync");
            });
            read_all(&bench, &file);
            drop(file);
            bench.shutdown();
        }
    }
}
