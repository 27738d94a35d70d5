//! What waits behind an upload that hangs: nothing that needs no server, and what was not sent is given up.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use netfs::{Errno, File, OpenOptions, Result, TryReadAt, WriteOptions, remote::RenameHow};
use netfs_memory::{Gate, MemoryFs, Op};
use pollster::block_on;

use crate::{
    common::{Bench, cx},
    tools::{begun, hold, in_time, promised, walk},
};

/// All of `f` in memory, its first bytes on their way to a server that does not answer.
fn bed() -> (Arc<MemoryFs>, Bench, File, Gate) {
    let fs = MemoryFs::builder().promise(promised()).file("f", 65536).file("g", 10);
    let fs = fs.build().expect("build");
    let bench = Bench::with(&fs, None, |b| b.remote_timeout(Duration::from_millis(200)));
    let file = bench.mount.blocking().open_rw("f", &cx()).expect("open");
    let mut buf = vec![0; 65536];
    file.blocking().read_at(0, &mut buf).expect("read");
    file.blocking().write_at(0, b"dirty").expect("write");
    let gate = hold(&fs, Op::Write);
    file.start_writeback(0, 5).expect("hint");
    gate.wait_hit();
    (fs, bench, file, gate)
}

#[track_caller]
fn gives_up<T>(result: Result<T>) {
    assert_eq!(result.err().map(|e| e.errno()), Some(Errno::ETIMEDOUT));
}

#[test]
fn a_direct_write_that_is_queued_stops_no_reader_of_memory() {
    let (fs, bench, file, gate) = bed();
    let direct = begun(file.write_at_with(8192, b"direct", WriteOptions::unbuffered()));
    let mut buf = [0; 16];
    assert_eq!(file.try_read(32768, &mut buf), TryReadAt::Done(16));
    gives_up(block_on(direct));
    gate.release();
    file.blocking().fsync().expect("fsync");
    assert_ne!(fs.expected("f", 8192, 6).expect("content"), b"direct", "given up, and sent");
    let options = WriteOptions::unbuffered();
    assert_eq!(file.blocking().write_at_with(8192, b"direct", options).expect("write"), 6);
    fs.verify("f", 8192, b"direct").expect("content");
    drop(file);
    bench.shutdown();
}

#[test]
fn a_cut_that_was_given_up_stops_no_writer_and_is_not_made() {
    let (fs, bench, file, gate) = bed();
    gives_up(file.blocking().set_len(100));
    gives_up(file.blocking().punch_hole(4096, 4096));
    // With a deadline, so that it fails where it would hang.
    let soon = netfs::clock::Clock::now(&netfs::clock::SystemClock) + Duration::from_secs(20);
    let other = bench.mount.blocking().open_rw("f", &cx().with_deadline(soon)).expect("open");
    other.blocking().write_at(0, b"x").expect("needs no server");
    gate.release();
    file.blocking().fsync().expect("fsync");
    assert_eq!(fs.size("f").expect("size"), 65536);
    fs.verify("f", 0, b"xirty").expect("content");
    drop((file, other));
    bench.shutdown();
}

#[test]
fn a_change_of_names_behind_an_upload_is_given_up_and_not_made() {
    let (fs, bench, file, gate) = bed();
    let (root, names) = (bench.mount.root(), bench.mount.blocking());
    let before = fs.counts();
    gives_up(names.rename((&root, b"f"), (&root, b"h"), RenameHow::Replace, &cx()));
    gives_up(names.link(&file.node(), &root, b"h", &cx()));
    // Nor do other names wait.
    names.rename((&root, b"g"), (&root, b"i"), RenameHow::Replace, &cx()).expect("another file");
    gate.release();
    file.blocking().fsync().expect("fsync");
    let calls = fs.counts().since(&before);
    assert_eq!((calls.calls(Op::Rename), calls.calls(Op::Link)), (1, 0));
    assert_eq!(walk(&bench, "f").id(), file.node().id());
    drop((file, root));
    bench.shutdown();
}

/// `f` in memory, and no room for a byte more: `g` has it all, on its way to a server that does not answer.
fn full() -> (Arc<MemoryFs>, Bench, File, Gate) {
    let fs = MemoryFs::builder().promise(promised()).file("f", 65536).file("g", 10);
    let fs = fs.build().expect("build");
    let bench = Bench::with(&fs, None, |b| {
        b.remote_timeout(Duration::from_millis(200)).dirty_bytes(4096, 8192)
    });
    let file = bench.mount.blocking().open_rw("f", &in_time()).expect("open");
    let mut buf = vec![0; 32768];
    file.blocking().read_at(0, &mut buf).expect("read");
    let gate = hold(&fs, Op::Write);
    let other = bench.mount.blocking().open_rw("g", &cx()).expect("open");
    // As much as a volume may have, to the last byte.
    let mut at = 0;
    for len in [4096, 64, 1] {
        while let Some(n) = other.write_at(at, &[1; 4096][..len]).now_or_never() {
            at += n.expect("write") as u64;
            assert!(at <= 8192, "more is dirty than may be");
        }
    }
    gate.wait_hit();
    (fs, bench, file, gate)
}

#[test]
fn n_c39_a_writer_that_waits_for_room_stops_no_reader() {
    let (fs, bench, file, gate) = full();
    let how = OpenOptions::new().read(true).direct(true);
    let direct = bench.mount.blocking().open_with("f", &how, &in_time()).expect("open");
    let writer = begun(file.write_at(0, b"waits"));
    let (mut past, mut here) = ([0; 16], [0; 16]);
    assert_eq!(direct.blocking().read_at(40000, &mut past).expect("read"), 16);
    fs.verify("f", 40000, &past).expect("content");
    assert_eq!(file.try_read(8192, &mut here), TryReadAt::Done(16));
    gate.release();
    assert_eq!(block_on(writer).expect("write"), 5);
    drop((file, direct));
    bench.shutdown();
}

/// It has the file's write lock meanwhile.
#[test]
fn a_change_that_goes_to_the_server_waits_no_longer_for_a_writer_than_for_a_call() {
    let (_fs, bench, file, gate) = full();
    let writer = begun(file.write_at(0, b"waits"));
    let results = [
        file.blocking().set_len(10),
        file.blocking().punch_hole(0, 4096),
        file.blocking().write_at_with(0, b"direct", WriteOptions::unbuffered()).map(drop),
    ];
    for result in results {
        let error = result.expect_err("the writer has it");
        assert_eq!(error.errno(), Errno::ETIMEDOUT);
        // Not for its own deadline.
        assert!(error.to_string().contains("another write"), "{error}");
    }
    gives_up(file.blocking().discard_dirty());
    gate.release();
    assert_eq!(block_on(writer).expect("write"), 5);
    drop(file);
    bench.shutdown();
}
