//! N-C78 for writers: what they wait for is listed, whatever hangs.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use netfs::{
    Durability, File, FillWhenFull, OpenOptions, ReadOptions, TryReadAt, WaitKind,
    dirtylog::{DirtyLog, LogFault, MemLog},
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use super::{eventually, origin};
use crate::common::{Bench, cx};

const SIZE: u64 = 300_000;
const MIB: u64 = 1 << 20;

fn kinds(bench: &Bench) -> Vec<WaitKind> {
    let mut kinds: Vec<_> = bench.netfs().waits().iter().map(|w| w.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

fn listed(bench: &Bench, wanted: &[WaitKind]) {
    eventually("the waits", || kinds(bench) == wanted);
}

fn open_rw(bench: &Bench, path: &str) -> File {
    bench.mount.blocking().open_rw(path, &cx()).expect("open")
}

fn bed() -> (Arc<MemoryFs>, Bench, File, Gate) {
    let fs = origin().file("a", SIZE).build().expect("build");
    let bench = Bench::with(&fs, None, |b| b.dirty_bytes(128 << 10, 128 << 10));
    let file = open_rw(&bench, "a");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Issue).times(1));
    (fs, bench, file, gate)
}

#[test]
fn n_c78_an_upload_that_hangs_and_what_it_keeps_waiting_are_listed() {
    let (_fs, bench, file, gate) = bed();
    file.blocking().write_at(100, b"hangs").expect("write");
    assert_eq!(kinds(&bench), []);
    let mut sync = Box::pin(file.fsync());
    assert!((&mut sync).now_or_never().is_none());
    gate.wait_hit();
    listed(&bench, &[WaitKind::Upload]);
    let wait = bench.netfs().waits().remove(0);
    assert_eq!((wait.range, &wait.key[..]), (100..105, file.node().key()));
    let mut cut = Box::pin(file.set_len(200_000));
    assert!((&mut cut).now_or_never().is_none());
    listed(&bench, &[WaitKind::Turn, WaitKind::Upload]);
    // The cut has the write lock.
    let mut write = Box::pin(file.write_at(0, b"later"));
    assert!((&mut write).now_or_never().is_none());
    listed(&bench, &[WaitKind::WriteLock, WaitKind::Turn, WaitKind::Upload]);
    gate.release();
    pollster::block_on(sync).expect("fsync");
    pollster::block_on(cut).expect("cut");
    pollster::block_on(write).expect("write");
    listed(&bench, &[]);
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c78_a_writer_that_waits_for_room_is_listed() {
    let (_fs, bench, file, gate) = bed();
    let mut write = Box::pin(file.write_at(0, &[1; SIZE as usize]));
    assert!((&mut write).now_or_never().is_none(), "more than may be dirty");
    listed(&bench, &[WaitKind::DirtyRoom, WaitKind::Upload]);
    gate.release();
    pollster::block_on(write).expect("write");
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c78_an_fsync_that_waits_for_the_log_is_listed() {
    let fs = origin().file("a", SIZE).build().expect("build");
    let log = MemLog::new();
    let shared: Arc<dyn DirtyLog> = log.clone();
    let bench = Bench::with(&fs, None, |b| b.dirty_log(shared));
    let how = OpenOptions::new().write(true).durability(Durability::Journal);
    let file = bench.mount.blocking().open_with("a", &how, &cx()).expect("open");
    file.blocking().write_at(0, b"logged").expect("write");
    log.inject(Some(LogFault::Hang));
    let mut sync = Box::pin(file.fsync());
    assert!((&mut sync).now_or_never().is_none());
    listed(&bench, &[WaitKind::Log]);
    log.inject(None);
    pollster::block_on(sync).expect("fsync");
    drop(file);
    bench.shutdown();
}

/// It has no I/O mode meanwhile: direct reads of the file need no memory of the budget, and readers of what is in
/// memory go past them.
#[test]
fn n_c78_a_writer_that_waits_for_memory_is_listed_and_stops_no_reader_of_its_file() {
    let fs = origin().file("a", SIZE).file("b", 0).build().expect("build");
    let bench = Bench::with(&fs, None, |b| {
        let b = b.memory_bytes(4 * MIB).dirty_bytes(4 * MIB, 4 * MIB);
        b.fill_queue(0, FillWhenFull::Drop).remote_timeout(Duration::from_secs(60))
    });
    let (file, other) = (open_rw(&bench, "a"), open_rw(&bench, "b"));
    file.blocking().read_at(0, &mut [0; 4096]).expect("read");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Issue).times(1));
    // A byte of each page keeps all of it: what is dirty is little, what it holds is all there is.
    let pages = (0..2 * 4 * MIB / 4096).map(|page| page * 8192);
    for at in pages {
        let mut write = Box::pin(other.write_at(at, b"x"));
        if (&mut write).now_or_never().is_none() {
            break;
        }
    }
    let mut write = Box::pin(file.write_at(SIZE, &[1; 65536]));
    assert!((&mut write).now_or_never().is_none(), "no memory");
    eventually("it waits", || kinds(&bench).contains(&WaitKind::Memory));
    let options = ReadOptions { unbuffered: true, ..ReadOptions::default() };
    let mut buf = [0; 10];
    assert_eq!(file.blocking().read_at_with(5000, &mut buf, options).expect("read"), 10);
    assert_eq!(file.try_read(0, &mut buf), TryReadAt::Done(10));
    gate.release();
    pollster::block_on(write).expect("write");
    drop((file, other));
    bench.shutdown();
}
