//! Writes that never wait: what is in memory takes them on the spot, and whatever stands in the way leaves
//! everything as it was.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use netfs::{
    Durability, Errno, File, OpenOptions, ReadOptions, Sync, TryWriteAt,
    remote::{Promise, PromiseKind},
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use crate::{
    common::Bench,
    tools::{errno, open, read, rw},
};

/// More than a folio.
const SIZE: u64 = 300_000;
/// Bytes that may be dirty.
const LIMIT: u64 = 128 << 10;
const BLOCKED: TryWriteAt = TryWriteAt::WouldBlock;

fn origin() -> Arc<MemoryFs> {
    let promise = Promise::UntilBroken { kind: PromiseKind::Write };
    MemoryFs::builder().promise(promise).file("f", SIZE).build().expect("build")
}

/// With all of "f" in memory.
fn bed() -> (Arc<MemoryFs>, Bench, File) {
    let fs = origin();
    let bench = Bench::with(&fs, None, |b| b.dirty_bytes(LIMIT, LIMIT));
    let file = open(&bench, "f", &rw());
    assert_eq!(read(&file, 0, SIZE as usize).len(), SIZE as usize);
    (fs, bench, file)
}

fn hold(fs: &MemoryFs, op: Op) -> Gate {
    let gate = Gate::new();
    fs.inject(Fault::on(op).hold(&gate, SnapshotAt::Issue).times(1));
    gate
}

/// Nothing goes in, and nothing has changed.
#[track_caller]
fn blocked(file: &File, bench: &Bench) {
    let before = (bench.netfs().memory().dirty, bench.stats().write_bytes);
    assert_eq!(file.try_write(100, b"never"), BLOCKED);
    assert_eq!((bench.netfs().memory().dirty, bench.stats().write_bytes), before);
}

#[track_caller]
fn done(file: &File, bytes: &[u8]) {
    assert_eq!(file.try_write(100, bytes), TryWriteAt::Done(bytes.len()));
}

#[test]
fn n_c24_what_goes_in_on_the_spot_is_a_write_like_any_other() {
    let (fs, bench, file) = bed();
    done(&file, b"quick");
    // Into the last page, and past the end of the file.
    assert_eq!(file.try_write(SIZE - 2, b"longer"), TryWriteAt::Done(6));
    assert_eq!((bench.netfs().memory().dirty, bench.stats().write_bytes), (11, 11));
    assert_eq!(file.sizes().i_size, SIZE + 4);
    assert_eq!(read(&file, 100, 5), b"quick");
    let sent = bench.stats().upload_bytes;
    file.blocking().fsync().expect("fsync");
    assert_eq!(bench.stats().upload_bytes - sent, 11, "what was written, and nothing else");
    fs.verify("f", 100, b"quick").expect("content");
    fs.verify("f", SIZE - 2, b"longer").expect("content");
    drop(file);
    bench.shutdown();
}

#[test]
fn what_needs_more_than_a_copy_is_left_to_the_long_way() {
    let (_fs, bench, file) = bed();
    let far = open(&bench, "f", &rw());
    assert_eq!(file.try_write(262_140, b"two folios"), BLOCKED);
    assert_eq!(file.try_write(0, &[1; 16 * 1024]), BLOCKED, "too long");
    assert_eq!(file.try_write(SIZE + 100_000, b"no folio"), BLOCKED);
    assert_eq!(file.try_write(0, b""), BLOCKED);
    assert_eq!(file.try_write(u64::MAX - 1, b"no such place"), BLOCKED);
    for how in [
        OpenOptions::new().read(true),
        OpenOptions::new().append(true),
        rw().direct(true),
        rw().sync(Sync::Data),
        rw().write_through(true),
        rw().durability(Durability::Remote),
    ] {
        blocked(&open(&bench, "f", &how), &bench);
    }
    let slices = far.blocking().read_slices(0, 4096).expect("read");
    blocked(&file, &bench);
    drop(slices);
    assert_eq!(bench.netfs().memory().dirty, 0);
    done(&file, b"free");
    drop((file, far));
    bench.shutdown();
}

#[test]
fn n_c39_a_write_on_the_spot_waits_out_no_direct_call_and_no_other_writer() {
    let (fs, bench, file) = bed();
    let gate = hold(&fs, Op::Read);
    let unbuffered = ReadOptions { unbuffered: true, ..ReadOptions::default() };
    let mut buf = [0; 10];
    let mut direct = Box::pin(file.read_at_with(0, &mut buf, unbuffered));
    assert!((&mut direct).now_or_never().is_none(), "the server does not answer");
    gate.wait_hit();
    blocked(&file, &bench);
    gate.release();
    pollster::block_on(direct).expect("read");
    done(&file, b"after");

    let gate = hold(&fs, Op::SetSize);
    let mut cut = Box::pin(file.set_len(280_000));
    assert!((&mut cut).now_or_never().is_none(), "the server does not answer");
    gate.wait_hit();
    assert_eq!(file.try_write(290_000, b"cut off"), BLOCKED);
    gate.release();
    pollster::block_on(cut).expect("cut");
    done(&file, b"after");
    drop(file);
    bench.shutdown();
}

#[test]
fn p_d1_what_may_be_old_is_not_written_to_unasked() {
    let (fs, bench, file) = bed();
    drop(fs.send_break("f").expect("there"));
    assert_eq!(file.try_write(100, b"never"), BLOCKED);
    read(&file, 0, 1);
    done(&file, b"asked");
    // While the promise is being given back writers wait for their uploads.
    let gate = hold(&fs, Op::Write);
    let ticket = fs.recall("f", PromiseKind::Write).expect("there").pop().expect("one client");
    gate.wait_hit();
    read(&file, 0, 1);
    assert_eq!(file.try_write(300, b"never"), BLOCKED);
    gate.release();
    pollster::block_on(ticket);
    read(&file, 0, 1);
    done(&file, b"again");
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c31_what_is_refused_for_good_and_what_is_too_much_is_said_the_long_way() {
    let (fs, bench, file) = bed();
    done(&file, b"quick");
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::ENOSPC).always());
    assert_eq!(errno(file.blocking().fsync()), Errno::ENOSPC);
    assert_eq!(file.try_write(300, b"never"), BLOCKED);
    assert_eq!(errno(file.blocking().write_at(300, b"never")), Errno::ENOSPC);
    fs.remove_fault(&fault);
    file.blocking().fsync().expect("fsync");
    done(&file, b"quick");
    file.blocking().fsync().expect("fsync");

    // The server does not answer: nothing becomes clean.
    let gate = hold(&fs, Op::Write);
    let pages = (0..SIZE - 4096).step_by(4096);
    // (What is being sent is not written to either; so all are tried.)
    let went_in = pages.filter(|at| file.try_write(*at, &[7; 4096]) != BLOCKED).count();
    assert!((1..=LIMIT as usize / 4096).contains(&went_in), "{went_in} pages");
    gate.release();
    file.blocking().fsync().expect("fsync");
    done(&file, b"room");
    drop(file);
    bench.shutdown();
}

#[test]
fn after_the_end_of_the_context_nothing_goes_in() {
    let (_fs, bench, file) = bed();
    let netfs = bench.into_netfs();
    assert!(netfs.blocking_shutdown(Duration::from_secs(20)).is_nothing());
    assert_eq!(file.try_write(100, b"never"), BLOCKED);
    assert_eq!(errno(file.blocking().write_at(100, b"never")), Errno::ESHUTDOWN);
}
