//! Bytes that the server refuses for good: what they hold up, and what they do not.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Bench, cx};
use netfs::{
    Errno, File,
    clock::{Clock, StepClock},
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

const MIB: usize = 1 << 20;
const LIMIT: u64 = 4 << 20;

fn open(bench: &Bench, path: &str) -> File {
    let node = pollster::block_on(bench.mount.walk(path, &cx())).expect("walk");
    pollster::block_on(bench.mount.open_rw(&node, &cx())).expect("open for writing")
}

fn origin() -> Arc<MemoryFs> {
    let names = ["full", "b", "c"];
    let builder = names.iter().fold(MemoryFs::builder(), |b, name| b.bytes(*name, ""));
    builder.build().expect("build")
}

fn write(file: &File, offset: u64, bytes: &[u8]) {
    let n = pollster::block_on(file.write_at(offset, bytes)).expect("write");
    assert_eq!(n, bytes.len());
}

fn park(fs: &MemoryFs, file: &File, bytes: usize) -> netfs_memory::Injected {
    let fault = fs.inject(Fault::on(Op::Write).file("full").errno(Errno::ENOSPC).always());
    write(file, 0, &vec![1; bytes]);
    let error = pollster::block_on(file.fsync()).expect_err("no space");
    assert_eq!(error.errno(), Errno::ENOSPC);
    fault
}

/// Seams 5: one file's parked bytes take no room from the writers of other files.
#[test]
fn a_parked_file_throttles_no_other_writer() {
    let fs = origin();
    // Nothing is uploaded before it is asked for: the file must not be parked in the middle of the write.
    let bench = Bench::with(&fs, None, |b| b.dirty_bytes(LIMIT, LIMIT));
    let full = open(&bench, "full");
    let size = LIMIT as usize / 10 * 8;
    let fault = park(&fs, &full, size);
    let memory = bench.netfs().memory();
    assert_eq!((memory.dirty, memory.parked), (size as u64, size as u64));
    // All uploads hang: only room that is free now lets a write in.
    let gate = Gate::new();
    let hung = fs.inject(Fault::on(Op::Write).file("b").hold(&gate, SnapshotAt::Issue).always());
    let other = open(&bench, "b");
    for i in 0..3 {
        write(&other, i * MIB as u64, &vec![2; MIB]);
    }
    assert_eq!(bench.stats().write_throttled, 0, "as if nothing were parked");
    gate.release();
    fs.remove_fault(&hung);
    pollster::block_on(other.fsync()).expect("fsync");
    // And the room that was taken twice is not there twice.
    fs.remove_fault(&fault);
    pollster::block_on(full.fsync()).expect("there is space again");
    let memory = bench.netfs().memory();
    assert_eq!((memory.dirty, memory.parked), (0, 0));
    assert_eq!(fs.expected("full", 0, size).expect("full"), vec![1; size]);
    write(&full, 0, b"taken again");
    drop((full, other));
    bench.shutdown();
}

/// Seams 5: past half of the byte budget new writes to the whole volume get the error, until there is room.
#[test]
fn parked_bytes_past_half_of_the_budget_refuse_writes_to_the_whole_volume() {
    let fs = origin();
    let bench = Bench::with(&fs, None, |b| {
        b.memory_bytes(4 << 20)
            .fill_queue(0, netfs::FillWhenFull::Drop)
            .dirty_bytes(MIB as u64, 2 << 20)
    });
    let (full, other) = (open(&bench, "full"), open(&bench, "b"));
    fs.inject(Fault::on(Op::Write).file("b").errno(Errno::EDQUOT).always());
    park(&fs, &full, MIB);
    // A byte a page: it is the memory that counts.
    for page in 0..300 {
        write(&other, page * 4096, b"b");
    }
    assert_eq!(pollster::block_on(other.fsync()).expect_err("over").errno(), Errno::EDQUOT);
    let third = open(&bench, "c");
    let error = pollster::block_on(third.write_at(0, b"c")).expect_err("too much is parked");
    assert!([Errno::ENOSPC, Errno::EDQUOT].contains(&error.errno()), "{error}");
    let mut buf = [0; 4];
    let n = pollster::block_on(full.read_at(0, &mut buf)).expect("readable");
    assert_eq!(buf[..n], [1; 4]);
    assert_eq!(pollster::block_on(other.discard_dirty()).expect("nothing is under way"), 300);
    write(&third, 0, b"c");
    pollster::block_on(third.fsync()).expect("fsync");
    assert_eq!(pollster::block_on(full.discard_dirty()).expect("free"), MIB as u64);
    assert_eq!(bench.netfs().memory().parked, 0);
    drop((full, other, third));
    bench.shutdown();
}

/// More than there is memory for, to a server that takes nothing: no writer waits for what never comes.
#[test]
fn n_c33_a_write_that_finds_no_memory_because_nothing_is_uploaded_ends_with_an_error() {
    // The file is parked in the middle of a write; or it is not, and a byte a page takes all memory there is
    // before too much is dirty.
    for (errno, step, told) in
        [(Errno::ENOSPC, 3 * MIB, Errno::ENOSPC), (Errno::ECONNRESET, 1, Errno::ENOMEM)]
    {
        let fs = origin();
        let clock = StepClock::new();
        let shared = Arc::new(clock.clone());
        let bench =
            Bench::with(&fs, None, |b| b.clock(shared).memory_bytes(2 << 20).dirty_bytes(0, LIMIT));
        let fault = fs.inject(Fault::on(Op::Write).errno(errno).always());
        let file = open(&bench, "full");
        let (begun, bytes) = (clock.now(), vec![1; step]);
        let mut at = 0;
        let error = std::thread::scope(|s| {
            let writer = s.spawn(|| {
                loop {
                    match pollster::block_on(file.write_at(at, &bytes)) {
                        Ok(n) => at += n.max(4096) as u64,
                        Err(e) => return e.errno(),
                    }
                }
            });
            while !writer.is_finished() {
                assert!(clock.now().since(begun) < Duration::from_secs(36_000), "waits for ever");
                clock.advance(Duration::from_millis(100));
                std::thread::yield_now();
            }
            writer.join().expect("no panic")
        });
        assert_eq!(error, told);
        assert!(at > 0 && at < 3 * MIB as u64, "{at}");
        fs.remove_fault(&fault);
        std::thread::scope(|s| {
            let sync = s.spawn(|| pollster::block_on(file.fsync()).expect("nothing was dropped"));
            while !sync.is_finished() {
                clock.advance(Duration::from_millis(100));
                std::thread::yield_now();
            }
        });
        assert_eq!(fs.expected("full", 0, 1).expect("full"), [1]);
        drop(file);
        bench.shutdown();
    }
}

/// What is on its way cannot be called back: a discard waits for it no longer than its caller.
#[test]
fn a_discard_behind_a_hung_upload_gives_up_at_its_deadline_and_leaves_the_bytes() {
    let fs = origin();
    let clock = StepClock::new();
    let shared = Arc::new(clock.clone());
    let bench = Bench::with(&fs, None, |b| b.clock(shared));
    let node = pollster::block_on(bench.mount.walk("full", &cx())).expect("walk");
    let hurried = cx().with_deadline(clock.now() + Duration::from_secs(10));
    let file = pollster::block_on(bench.mount.open_rw(&node, &hurried)).expect("open");
    write(&file, 0, b"under way");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Issue).times(1));
    std::thread::scope(|s| {
        let sync = s.spawn(|| pollster::block_on(bench.netfs().sync()));
        gate.wait_hit();
        let discard = s.spawn(|| pollster::block_on(file.discard_dirty()));
        while !discard.is_finished() {
            clock.advance(Duration::from_secs(1));
            std::thread::yield_now();
        }
        let error = discard.join().expect("no panic").expect_err("in vain");
        assert_eq!(error.errno(), Errno::ETIMEDOUT);
        gate.release();
        sync.join().expect("no panic").expect("uploaded");
    });
    assert_eq!(fs.expected("full", 0, 9).expect("full"), b"under way");
    drop(file);
    drop(node);
    bench.shutdown();
}

/// A round of one file that hangs keeps the flusher from no other file.
#[test]
fn a_hung_upload_of_one_file_holds_up_the_writeback_of_no_other() {
    let fs = origin();
    let bench = Bench::with(&fs, None, |b| b.dirty_bytes(4096, 1 << 20));
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).file("full").hold(&gate, SnapshotAt::Issue).always());
    let (hung, other) = (open(&bench, "full"), open(&bench, "b"));
    write(&hung, 0, &[1; 64 << 10]);
    gate.wait_hit();
    // More than there is room for: it needs the flusher.
    let bytes = vec![2; 4 * MIB];
    write(&other, 0, &bytes);
    gate.release();
    pollster::block_on(other.fsync()).expect("fsync");
    assert_eq!(fs.expected("b", 0, bytes.len()).expect("b"), bytes);
    drop((hung, other));
    bench.shutdown();
}

/// Bytes wait for their upload from when they were written, whatever became of others of their file.
#[test]
fn age_is_that_of_the_oldest_bytes_that_are_left() {
    let fs = origin();
    let clock = StepClock::new();
    let shared = Arc::new(clock.clone());
    let bench = Bench::with(&fs, None, |b| b.clock(shared).dirty_expire(Duration::from_secs(8)));
    let file = open(&bench, "b");
    write(&file, 0, b"first");
    clock.advance(Duration::from_secs(6));
    write(&file, 100_000, b"second");
    // The older ones go; the younger are due at 14 s, not at 8.
    pollster::block_on(file.flush_range(0, 5)).expect("uploaded");
    let calls = fs.counts().calls(Op::Write);
    for _ in 0..7 {
        clock.advance(Duration::from_secs(1));
        std::thread::yield_now();
    }
    assert_eq!(fs.counts().calls(Op::Write), calls, "too early");
    while fs.counts().calls(Op::Write) == calls {
        clock.advance(Duration::from_millis(100));
        std::thread::yield_now();
    }
    drop(file);
    bench.shutdown();
}

/// A write that is longer than there is room and memory for gets the error once it is known that nothing makes
/// room any more: first it is short, and what it says is in is in.
#[test]
fn a_write_that_waits_for_room_gets_the_error_of_the_upload_that_was_to_make_it() {
    let fs = origin();
    let clock = StepClock::new();
    let bench = Bench::with(&fs, None, |b| {
        b.memory_bytes(4 << 20)
            .fill_queue(0, netfs::FillWhenFull::Drop)
            .dirty_bytes(MIB as u64 / 2, MIB as u64)
            .clock(Arc::new(clock.clone()))
    });
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::ENOSPC).always());
    let file = open(&bench, "full");
    let bytes = vec![7; 12 * MIB];
    let written = std::thread::scope(|s| {
        let writing = s.spawn(|| file.blocking().write_at(0, &bytes));
        while !writing.is_finished() {
            clock.advance(Duration::from_millis(100));
            assert!(fs.counts().calls(Op::Write) < 100, "tried in vain again and again");
            std::thread::yield_now();
        }
        writing.join().expect("no panic")
    });
    let n = written.expect("short");
    assert!(n > 0 && n < bytes.len(), "{n}");
    let error = file.blocking().write_at(n as u64, b"more").expect_err("refused");
    assert_eq!(error.errno(), Errno::ENOSPC);
    assert_eq!(file.sizes().i_size, n as u64);
    fs.remove_fault(&fault);
    file.blocking().fsync().expect("there is space again");
    assert_eq!(fs.size("full").expect("full"), n as u64);
    assert!(fs.expected("full", 0, n).expect("full") == bytes[..n], "other bytes");
    drop(file);
    bench.shutdown();
}
