//! Recalls of promises: what is uploaded first, who waits, and what a recall never waits for.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Bench, cx};
use netfs::{
    Errno, File,
    clock::{Clock, StepClock},
    coherency::{RecallTicket, Recalled},
    remote::PromiseKind,
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

fn origin() -> Arc<MemoryFs> {
    let fs = MemoryFs::builder().file("f", 100_000).file("other", 100_000);
    fs.build().expect("build")
}

fn stepped(fs: &Arc<MemoryFs>) -> (Bench, StepClock) {
    let clock = StepClock::new();
    let shared = Arc::new(clock.clone());
    (Bench::with(fs, None, |b| b.clock(shared).recall_timeout(Duration::from_secs(10))), clock)
}

fn open(bench: &Bench, path: &str) -> File {
    let node = pollster::block_on(bench.mount.walk(path, &cx())).expect("walk");
    pollster::block_on(bench.mount.open_rw(&node, &cx())).expect("open for writing")
}

fn write(file: &File, offset: u64, bytes: &[u8]) {
    let n = pollster::block_on(file.write_at(offset, bytes)).expect("write");
    assert_eq!(n, bytes.len());
}

fn recall(fs: &MemoryFs, path: &str) -> RecallTicket {
    let mut tickets = fs.recall(path, PromiseKind::Write).expect("there");
    tickets.pop().expect("one client")
}

fn parked(outcome: Recalled) -> Vec<Errno> {
    match outcome {
        Recalled::ReleasedParked(errors) => errors.iter().map(netfs::Error::errno).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_recall_uploads_before_it_gives_the_promise_back() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 10, b"dirty");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::ReleasePromise).hold(&gate, SnapshotAt::Issue));
    let ticket = recall(&fs, "f");
    gate.wait_hit();
    assert_eq!(fs.expected("f", 10, 5).expect("f"), b"dirty", "uploaded by then");
    assert!(!ticket.is_done());
    // Step 4: only writers wait, and only for that call; readers do not.
    let mut buf = [0; 5];
    pollster::block_on(file.read_at(10, &mut buf)).expect("read");
    std::thread::scope(|s| {
        let writer = s.spawn(|| write(&file, 20, b"after"));
        let other = open(&bench, "other");
        write(&other, 0, b"at once");
        pollster::block_on(other.fsync()).expect("fsync");
        assert!(!writer.is_finished());
        gate.release();
        writer.join().expect("no panic");
    });
    assert!(matches!(pollster::block_on(ticket), Recalled::Released));
    pollster::block_on(file.fsync()).expect("fsync");
    assert_eq!(fs.expected("f", 20, 5).expect("f"), b"after");
    assert_eq!(fs.counts().calls(Op::ReleasePromise), 1);
    drop(file);
    bench.shutdown();
}

/// P-D27, seams 1: a hung upload holds a recall up no longer than its deadline.
#[test]
fn a_recall_during_a_hung_upload_answers_at_its_deadline_and_keeps_the_bytes() {
    let fs = origin();
    let (bench, clock) = stepped(&fs);
    let (file, other) = (open(&bench, "f"), open(&bench, "other"));
    write(&file, 10, b"hung");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).file("f").hold(&gate, SnapshotAt::Issue).always());
    let begun = clock.now();
    let ticket = recall(&fs, "f");
    gate.wait_hit();
    // A write into the file while it is recalled: waits for its upload, but no longer than the recall.
    let wrote = std::thread::scope(|s| {
        let writer = s.spawn(|| pollster::block_on(file.write_at(50, b"too")));
        write(&other, 0, b"goes on");
        pollster::block_on(other.fsync()).expect("fsync");
        while !(ticket.is_done() && writer.is_finished()) {
            assert!(clock.now().since(begun) < Duration::from_secs(60), "{ticket:?}");
            clock.advance(Duration::from_millis(100));
            std::thread::yield_now();
        }
        writer.join().expect("no panic").map_err(|e| e.errno())
    });
    // It may have come only when the recall had ended: refused, for what is parked.
    assert!(matches!(wrote, Ok(3) | Err(Errno::ETIMEDOUT)), "{wrote:?}");
    assert_eq!(parked(ticket.outcome().expect("done")), [Errno::ETIMEDOUT]);
    assert_eq!(fs.counts().calls(Op::ReleasePromise), 1);
    assert!(bench.netfs().memory().parked >= 4);
    let error = pollster::block_on(file.write_at(0, b"x")).expect_err("parked");
    assert_eq!(error.errno(), Errno::ETIMEDOUT);
    gate.release();
    pollster::block_on(file.fsync()).expect("the server is back");
    assert_eq!(fs.expected("f", 10, 4).expect("f"), b"hung");
    assert_eq!(fs.expected("f", 50, 3).expect("f") == b"too", wrote.is_ok());
    assert_eq!(bench.netfs().memory().parked, 0);
    write(&file, 0, b"x");
    drop((file, other));
    bench.shutdown();
}

#[test]
fn bytes_that_are_refused_are_parked_and_the_promise_is_given_back() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 10, b"refused");
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::ENOSPC).always());
    assert_eq!(parked(pollster::block_on(recall(&fs, "f"))), [Errno::ENOSPC]);
    fs.remove_fault(&fault);
    pollster::block_on(file.fsync()).expect("space again");
    assert_eq!(fs.expected("f", 10, 7).expect("f"), b"refused");
    drop(file);
    bench.shutdown();
}

#[test]
fn concurrent_recalls_share_and_a_later_one_is_another() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 10, b"dirty");
    let (uploading, releasing) = (Gate::new(), Gate::new());
    fs.inject(Fault::on(Op::Write).hold(&uploading, SnapshotAt::Issue));
    fs.inject(Fault::on(Op::ReleasePromise).hold(&releasing, SnapshotAt::Issue).times(1));
    let first = recall(&fs, "f");
    uploading.wait_hit();
    let shared = recall(&fs, "f");
    uploading.release();
    releasing.wait_hit();
    // The server may have given another promise since.
    let later = recall(&fs, "f");
    releasing.release();
    for ticket in [first, shared, later] {
        assert!(matches!(pollster::block_on(ticket), Recalled::Released));
    }
    assert_eq!(fs.counts().calls(Op::ReleasePromise), 2);
    assert_eq!(bench.stats().recalls, 2);
    drop(file);
    bench.shutdown();
}

#[test]
fn recalls_of_files_that_nobody_has_or_that_are_gone_end() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    for ticket in fs.recall_key(b"nobody", PromiseKind::Read) {
        assert!(ticket.is_done(), "nothing to give back");
    }
    // Known, and not open.
    pollster::block_on(bench.mount.walk("f", &cx())).expect("walk");
    assert!(matches!(pollster::block_on(recall(&fs, "f")), Recalled::Released));
    assert_eq!(fs.counts().calls(Op::ReleasePromise), 0);
    // Deleted, with bytes that nobody will ever take.
    let file = open(&bench, "f");
    write(&file, 0, b"lost");
    let key = fs.key("f").expect("f");
    fs.change("f").remove().expect("removed");
    let ticket = fs.recall_key(&key, PromiseKind::Write).pop().expect("one client");
    assert_eq!(parked(pollster::block_on(ticket)), [Errno::ESTALE]);
    drop(file);
    let (mount, netfs) = (bench.mount.clone(), bench.into_netfs());
    drop(mount);
    assert_eq!(netfs.blocking_shutdown(Duration::from_secs(1)).dirty_bytes, 0);
}

#[test]
fn a_shutdown_ends_every_recall() {
    let fs = origin();
    let (bench, _clock) = stepped(&fs);
    let file = open(&bench, "f");
    write(&file, 0, b"bytes");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).or(Op::ReleasePromise).hold(&gate, SnapshotAt::Issue).always());
    let ticket = recall(&fs, "f");
    gate.wait_hit();
    drop(file);
    drop(bench.into_netfs());
    assert!(matches!(pollster::block_on(ticket), Recalled::Unreleased(_)));
    // And none begins any more.
    for ticket in fs.recall("f", PromiseKind::Write).expect("there") {
        assert!(matches!(pollster::block_on(ticket), Recalled::Unreleased(_) | Recalled::Released));
    }
}

#[test]
fn a_server_that_does_not_take_the_promise_back_is_told_of() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    fs.inject(Fault::on(Op::ReleasePromise).errno(Errno::EIO));
    assert!(
        matches!(pollster::block_on(recall(&fs, "f")), Recalled::Unreleased(e) if e.len() == 1)
    );
    drop(file);
    bench.shutdown();
}

/// `CB_GETATTR`: answered from memory while everything hangs.
#[test]
fn local_state_answers_at_once_with_what_was_written() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    assert_eq!(fs.local_states("f").expect("there"), []);
    let file = open(&bench, "f");
    let clean = fs.local_states("f").expect("there")[0];
    assert_eq!((clean.size, clean.dirty), (100_000, 0));
    assert_eq!(clean.mtime, file.attr().map(|attr| attr.mtime));
    write(&file, 99_999, b"longer");
    let gate = Gate::new();
    fs.inject(Fault::any().errno(Errno::EIO).hold(&gate, SnapshotAt::Issue).always());
    std::thread::scope(|s| {
        let sync = s.spawn(|| pollster::block_on(file.fsync()));
        gate.wait_hit();
        let dirty = fs.local_states("f").expect("there")[0];
        assert_eq!((dirty.size, dirty.dirty), (100_005, 6));
        assert_ne!(dirty.mtime, clean.mtime, "the time of the write");
        assert!(dirty.mtime.is_some_and(|t| t.sec > 1_600_000_000));
        gate.release();
        sync.join().expect("no panic").expect_err("refused");
    });
    pollster::block_on(file.discard_dirty()).expect("free");
    drop(file);
    bench.shutdown();
}
