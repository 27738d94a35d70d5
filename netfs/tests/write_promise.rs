//! A server that does not say which version a write found, but has promised that nobody else writes: what is cached
//! stays across our own uploads, direct writes, cuts and holes. (Without the promise each of them may lie over
//! somebody else's.)

mod common;

use std::{ops::Range, sync::Arc};

use common::{Bench, cx};
use netfs::{
    File, WriteOptions,
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
        first.drain();
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

/// A change by another call than an upload: its kind, itself, and the pages of which nothing cached is left.
type Change = (Op, fn(&File), Range<usize>);

const CHANGES: [Change; 4] = [
    // Several calls, so that the server has to be asked what they led to.
    (Op::Write, |file| direct(file, 3 * PAGE + 10, &[1; 5 * PAGE]), 3..9),
    (Op::Write, |file| direct(file, 3 * PAGE, b"one"), 3..4),
    (Op::SetSize, |file| file.blocking().set_len(20 * PAGE as u64 + 5).expect("cut"), 20..SIZE),
    (
        Op::Deallocate,
        |file| file.blocking().punch_hole(3 * PAGE as u64 + 9, 9000).expect("hole"),
        3..6,
    ),
];

fn direct(file: &File, offset: usize, bytes: &[u8]) {
    let written = file.blocking().write_at_with(offset as u64, bytes, WriteOptions::unbuffered());
    assert_eq!(written.expect("write"), bytes.len());
}

/// Reads all of it, right; returns which pages the server was asked for.
fn asked(bench: &Bench, file: &File) -> Vec<Range<usize>> {
    drop(bench.fs.take_calls());
    let size = bench.fs.size("f").expect("size") as usize;
    let mut buf = vec![0; size];
    // Page by page: what one lacks is not fetched with the next one's.
    for (i, page) in buf.chunks_mut(PAGE).enumerate() {
        assert_eq!(file.blocking().read_at((i * PAGE) as u64, page).expect("read"), page.len());
    }
    bench.fs.verify("f", 0, &buf).expect("the server's bytes");
    let calls = bench.fs.take_calls().into_iter().filter(|call| call.op == Op::Read);
    let pages =
        |range: Range<u64>| range.start as usize / PAGE..(range.end as usize).div_ceil(PAGE);
    calls.filter_map(|call| call.range).map(pages).collect()
}

#[test]
fn under_a_write_promise_direct_writes_cuts_and_holes_leave_what_is_cached() {
    for kind in [PromiseKind::Write, PromiseKind::Read] {
        for (memory, (op, change, gone)) in
            [true, false].into_iter().flat_map(|m| CHANGES.map(|c| (m, c)))
        {
            let (fs, cache) = (origin(kind), MemCache::new());
            let first = bench(&fs, Arc::clone(&cache));
            let file = open(&first);
            asked(&first, &file);
            first.drain();
            change(&file);
            if !memory {
                first.netfs().drop_memory();
            }
            let from_server = asked(&first, &file);
            let kept = from_server.iter().all(|p| gone.start <= p.start && p.end <= gone.end);
            assert_eq!(kept, kind == PromiseKind::Write, "{op:?}, {kind:?}: {from_server:?}");
            first.drain();
            drop(file);
            first.shutdown();
            let second = bench(&fs, cache.restart());
            let file = open(&second);
            assert_eq!(asked(&second, &file), [], "{op:?}: the disk has all of it");
            drop(file);
            second.shutdown();
        }
    }
}

/// As for a round: from when the server wants the promise back somebody else may write.
#[test]
fn a_break_during_a_direct_write_a_cut_or_a_hole_ends_it() {
    for at in [SnapshotAt::Issue, SnapshotAt::Release] {
        for (op, change, _) in CHANGES {
            let fs = origin(PromiseKind::Write);
            let bench = bench(&fs, MemCache::new());
            let file = open(&bench);
            asked(&bench, &file);
            bench.drain();
            let gate = Gate::new();
            fs.inject(Fault::on(op).hold(&gate, at).always());
            std::thread::scope(|s| {
                let changing = s.spawn(|| change(&file));
                gate.wait_hits(1);
                fs.change("f").rewrite_range(10 * PAGE as u64..15 * PAGE as u64).expect("theirs");
                gate.release();
                changing.join().expect("no panic");
            });
            asked(&bench, &file);
            bench.netfs().drop_memory();
            asked(&bench, &file);
            drop(file);
            bench.shutdown();
        }
    }
}
