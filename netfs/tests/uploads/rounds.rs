//! Rounds of uploads: when there is one, and what it sends.

use std::{ops::Range, sync::Arc, time::Duration};

use netfs::{Durability, Errno, File, OpenOptions, Sync, clock::StepClock};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use crate::common::{Bench, cx};

const PAGE: u64 = 4096;

fn open(bench: &Bench, path: &str) -> File {
    bench.mount.blocking().open_rw(path, &cx()).expect("open")
}

fn write(file: &File, offset: u64, bytes: &[u8]) {
    assert_eq!(file.blocking().write_at(offset, bytes).expect("write"), bytes.len());
}

/// What was sent since the last time.
fn sent(fs: &MemoryFs) -> Vec<Range<u64>> {
    let writes = fs.take_calls().into_iter().filter(|call| call.op == Op::Write);
    let mut ranges: Vec<_> = writes.filter_map(|call| call.range).collect();
    ranges.sort_by_key(|range| range.start);
    ranges
}

/// The same, of one call.
fn sent_at_once(fs: &MemoryFs) -> Range<u64> {
    let mut all = sent(fs);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// The driver has done much else by the time this returns.
fn meanwhile(bench: &Bench) {
    let other = open(bench, "other");
    for i in 0..50 {
        write(&other, i, b"x");
        other.blocking().fsync().expect("fsync");
    }
}

fn origin() -> Arc<MemoryFs> {
    MemoryFs::builder().file("f", 100_000).bytes("other", "").build().expect("build")
}

#[test]
fn n_c36_one_round_of_a_file_at_a_time() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 0, b"older");
    let gate = Gate::new();
    // Applied when it is let go: what overtook it would be overwritten.
    fs.inject(Fault::on(Op::Write).range(0..5).hold(&gate, SnapshotAt::Release).times(1));
    std::thread::scope(|s| {
        let first = s.spawn(|| file.blocking().fsync());
        gate.wait_hit();
        write(&file, 0, b"newer");
        let second = s.spawn(|| file.blocking().fsync());
        meanwhile(&bench);
        let sent = fs.file_counts("f").expect("f").calls(Op::Write);
        gate.release();
        assert_eq!(sent, 1, "it waits for its turn");
        first.join().expect("no panic").expect("uploaded");
        second.join().expect("no panic").expect("uploaded");
    });
    fs.verify("f", 0, b"newer").expect("the last one written");
    assert_eq!(fs.take_breaches(), Vec::<String>::new());
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c33_a_server_without_memory_is_tried_again_and_nothing_is_refused_or_lost() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 0, b"kept");
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::ENOMEM).always());
    pollster::block_on(bench.netfs().sync()).expect_err("once for every file");
    assert_eq!(bench.netfs().memory().dirty, 4);
    write(&file, 10, b"more");
    fs.remove_fault(&fault);
    fs.inject(Fault::on(Op::Write).errno(Errno::ENOMEM).times(2));
    file.blocking().fsync().expect("however often it takes");
    fs.verify("f", 0, b"kept").expect("kept");
    fs.verify("f", 10, b"more").expect("kept");
    drop(file);
    bench.shutdown();
}

#[test]
fn a_file_whose_upload_failed_is_left_alone_for_a_while_longer_each_time() {
    let (fs, clock) = (origin(), StepClock::new());
    let expire = Duration::from_secs(10);
    let bench = Bench::with(&fs, None, |b| b.clock(Arc::new(clock.clone())).dirty_expire(expire));
    let file = open(&bench, "f");
    write(&file, 50_000, b"dirty");
    let fault = Fault::on(Op::Write).range(50_000..50_005).errno(Errno::EAGAIN);
    let fault = fs.inject(fault.always());
    let tries = || fs.file_counts("f").expect("f").calls(Op::Write);
    clock.advance(expire);
    for (n, pause) in (1..).zip([100, 200, 400, 800]) {
        // Every round of another file has the flusher look again.
        while tries() < n {
            meanwhile(&bench);
        }
        meanwhile(&bench);
        clock.advance(Duration::from_millis(pause - 1));
        meanwhile(&bench);
        assert_eq!(tries(), n, "not yet");
        clock.advance(Duration::from_millis(1));
    }
    while tries() < 5 {
        meanwhile(&bench);
    }
    fs.remove_fault(&fault);
    file.blocking().fsync().expect("an fsync does not wait for that");
    drop(file);
    bench.shutdown();
}

#[test]
fn one_call_that_somebody_waits_for_is_stable_at_once_and_of_many_one_commit_is_asked() {
    let fs = origin();
    fs.configure(|s| s.unstable = true);
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 0, b"one run");
    file.blocking().fsync().expect("fsync");
    assert_eq!((fs.counts().calls(Op::Write), fs.counts().calls(Op::Commit)), (1, 0));
    for i in 0..5 {
        write(&file, i * 10_000, b"one of many");
    }
    file.blocking().fsync().expect("fsync");
    assert_eq!((fs.counts().calls(Op::Write), fs.counts().calls(Op::Commit)), (6, 1));
    assert!(!fs.has_uncommitted());
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c30_nothing_past_the_end_and_nothing_clean_is_sent_but_for_the_servers_unit() {
    let fs = MemoryFs::builder().file("f", 5000).build().expect("build");
    fs.configure(|s| s.limits.upload_unit = PAGE as u32);
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    // Not known around it: exactly what was written.
    write(&file, 4500, b"x");
    file.blocking().fsync().expect("fsync");
    assert_eq!(sent_at_once(&fs), 4500..4501);
    assert_eq!(file.blocking().read_at(0, &mut [0; 5000]).expect("read"), 5000);
    write(&file, 4500, b"y");
    file.blocking().fsync().expect("fsync");
    assert_eq!(sent_at_once(&fs), PAGE..5000, "a unit, up to the end of the file");
    write(&file, 4990, b"0123456789abcdef");
    file.blocking().fsync().expect("fsync");
    assert_eq!(sent_at_once(&fs), PAGE..5006);
    assert_eq!(fs.size("f").expect("f"), 5006);
    drop(file);
    bench.shutdown();
}

/// More writers than a page keeps ranges of.
#[test]
fn n_c26_a_page_that_writes_in_part_have_filled_is_known_and_nothing_is_read() {
    let fs = origin();
    let bench = Bench::with(&fs, None, |b| b.readahead_max(0));
    let parts = [0..1000, 1000..2000, 2000..3000, 3000..4000, 4000..PAGE];
    let files = [(); 5].map(|()| open(&bench, "f"));
    for (file, part) in files.iter().zip(parts) {
        write(file, PAGE + part.start, &vec![2; (part.end - part.start) as usize]);
    }
    let mut buf = [0; PAGE as usize];
    files[0].blocking().read_at(PAGE, &mut buf).expect("read");
    assert!(buf == [2; PAGE as usize]);
    assert_eq!(fs.counts().calls(Op::Read), 0);
    files[0].blocking().fsync().expect("fsync");
    fs.verify("f", PAGE, &buf).expect("all five");
    drop(files);
    bench.shutdown();
}

#[test]
fn zeros_that_a_synchronous_open_writes_instead_of_a_hole_are_on_the_server() {
    let fs = origin();
    fs.inject(Fault::on(Op::Deallocate).errno(Errno::EOPNOTSUPP).always());
    let bench = Bench::new(&fs, None);
    let rw = || OpenOptions::new().read(true).write(true);
    let opens =
        [rw().sync(Sync::Data), rw().durability(Durability::Remote), rw().write_through(true)];
    for (at, how) in (0..).step_by(1000).zip(opens) {
        let file = bench.mount.blocking().open_with("f", &how, &cx()).expect("open");
        file.blocking().punch_hole(at, 500).expect("zeros");
        fs.verify("f", at, &[0; 500]).unwrap_or_else(|error| panic!("{how:?}: {error}"));
    }
    bench.shutdown();
}
