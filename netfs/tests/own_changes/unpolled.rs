//! Calls that their callers keep and do not poll (a `select!` that went another way, a task that is blocked), and calls
//! that nobody waits for any more: they stop nobody else.

use std::{sync::Arc, time::Duration};

use futures_util::{TryFutureExt, future::LocalBoxFuture};
use netfs::{
    Builder, Errno, File, OpenOptions, Result, WriteOptions,
    clock::{Clock, StepClock},
    remote::{RenameHow, SetAttr},
};
use netfs_memory::{Gate, MemoryFs, Op};
use pollster::block_on;

use crate::{
    common::{Bench, cx},
    tools::{begun, hold, in_time, promised, walk},
};

struct Bed {
    fs: Arc<MemoryFs>,
    bench: Bench,
    file: File,
    /// The bytes `dirty` at 0 are on their way, until this is opened.
    gate: Gate,
}

fn bed() -> Bed {
    bed_with(|b| b)
}

fn bed_with(tune: impl FnOnce(Builder) -> Builder) -> Bed {
    let fs = MemoryFs::builder().promise(promised()).file("d/f", 65536).file("d/g", 10);
    let fs = fs.build().expect("build");
    // Nothing is uploaded but by who asks for it.
    let bench = Bench::with(&fs, None, |b| tune(b.dirty_expire(Duration::from_secs(3600))));
    let file = bench.mount.blocking().open_rw("d/f", &cx()).expect("open");
    file.blocking().write_at(0, b"dirty").expect("write");
    let gate = hold(&fs, Op::Write);
    file.start_writeback(0, 5).expect("hint");
    gate.wait_hit();
    Bed { fs, bench, file, gate }
}

/// Begins a call that queues behind an upload, which ends then; the call is not polled again until others have
/// changed and uploaded the file.
fn kept<'a, T>(bed: &'a Bed, call: impl Future<Output = Result<T>> + 'a) -> T {
    let call = begun(call);
    bed.gate.release();
    // By its node: the call may give it another name.
    let how = OpenOptions::new().read(true).write(true);
    let other = block_on(bed.bench.mount.open_node_with(&bed.file.node(), &how, &in_time()));
    let other = other.expect("open");
    other.blocking().write_at(20000, b"later").expect("write");
    other.blocking().fsync().expect("an upload");
    let options = WriteOptions::unbuffered();
    other.blocking().write_at_with(30000, b"direct", options).expect("a direct write");
    block_on(call).expect("done, or done now")
}

fn end(bed: Bed) {
    drop(bed.file);
    bed.bench.shutdown();
}

#[test]
fn w10_a_kept_cut_stops_no_upload() {
    let bed = bed();
    kept(&bed, bed.file.set_len(100_000));
    end(bed);
}

#[test]
fn w10_a_kept_hole_stops_no_upload() {
    let bed = bed();
    // Its caller has the write lock: other writers wait for it, uploads do not.
    let call = begun(bed.file.punch_hole(0, 4096));
    bed.gate.release();
    let other = bed.bench.mount.blocking().open_rw("d/f", &in_time()).expect("open");
    other.blocking().fsync().expect("an upload");
    block_on(call).expect("punched");
    drop(other);
    end(bed);
}

#[test]
fn w10_a_kept_direct_write_stops_no_upload() {
    let bed = bed();
    kept(&bed, bed.file.write_at_with(8192, b"direct", WriteOptions::unbuffered()));
    bed.fs.verify("d/f", 8192, b"direct").expect("written");
    end(bed);
}

#[test]
fn w10_a_kept_discard_stops_no_upload() {
    let bed = bed();
    assert_eq!(kept(&bed, bed.file.discard_dirty()), 0);
    end(bed);
}

#[test]
fn w10_kept_changes_of_names_and_attributes_stop_no_upload_nor_names() {
    let all: [&dyn Fn(&Bed); 4] = [
        &|bed| {
            let (dir, cx) = (walk(&bed.bench, "d"), cx());
            let names = &bed.bench.mount;
            kept(bed, names.rename((&dir, b"f"), (&dir, b"f"), RenameHow::Replace, &cx));
        },
        &|bed| {
            let (dir, cx) = (walk(&bed.bench, "d"), cx());
            kept(bed, bed.bench.mount.link(&bed.file.node(), &dir, b"h", &cx));
        },
        &|bed| {
            let (dir, cx) = (walk(&bed.bench, "d"), cx());
            kept(bed, bed.bench.mount.rename((&dir, b"g"), (&dir, b"f"), RenameHow::Exchange, &cx));
        },
        &|bed| {
            let (set, cx) = (SetAttr { mode: Some(0o600), ..SetAttr::default() }, cx());
            kept(bed, bed.bench.mount.set_attr(&bed.file.node(), set, &cx));
        },
    ];
    for kept in all {
        let bed = bed();
        kept(&bed);
        let dir = walk(&bed.bench, "d");
        bed.bench.mount.blocking().create(&dir, b"new", 0o600, &in_time()).expect("names go on");
        drop(dir);
        end(bed);
    }
}

#[test]
fn w11_a_kept_change_of_a_directory_stops_no_other() {
    let bed = bed();
    let (dir, cx) = (walk(&bed.bench, "d"), cx());
    let mount = &bed.bench.mount;
    let gate = hold(&bed.fs, Op::Create);
    let first = begun(mount.create(&dir, b"first", 0o600, &cx));
    gate.wait_hit();
    let second = begun(mount.create(&dir, b"second", 0o600, &cx));
    gate.release();
    block_on(mount.create(&dir, b"third", 0o600, &in_time())).expect("create");
    block_on(second).expect("create");
    block_on(first).expect("create");
    bed.gate.release();
    drop(dir);
    end(bed);
}

#[test]
fn n_c39_a_kept_unbuffered_read_stops_no_buffered_one() {
    let bed = bed();
    bed.gate.release();
    bed.file.blocking().fsync().expect("fsync");
    let how = OpenOptions::new().read(true).direct(true);
    let direct = bed.bench.mount.blocking().open_with("d/f", &how, &cx()).expect("open");
    let gate = hold(&bed.fs, Op::Read);
    let (mut first, mut second, mut third) = ([0; 10], [0; 10], [0; 10]);
    let other = bed.bench.mount.blocking().open("d/f", &in_time()).expect("open");
    let buffered = begun(bed.file.read_at(8192, &mut first));
    gate.wait_hit();
    let kept = begun(direct.read_at(8192, &mut second));
    gate.release();
    assert_eq!(block_on(buffered).expect("read"), 10);
    assert_eq!(other.blocking().read_at(8192, &mut third).expect("read"), 10);
    assert_eq!(block_on(kept).expect("read"), 10);
    assert_eq!((first, second), (third, third));
    drop((direct, other));
    end(bed);
}

type Call = fn(&File) -> LocalBoxFuture<'_, Result<()>>;

/// However often it is tried again behind an upload that hangs, a call that was given up is not in the queue any
/// more: else it would upload here what was written later.
#[test]
fn w7_what_was_given_up_in_the_queue_has_left_it() {
    let clock = StepClock::new();
    let bed = bed_with(|b| b.clock(Arc::new(clock.clone())));
    bed.file.blocking().write_at(8192, b"later").expect("write");
    let soon = || cx().with_deadline(clock.now() + Duration::from_secs(1));
    let mount = &bed.bench.mount;
    let gives_up = |call: LocalBoxFuture<'_, Result<()>>| {
        clock.advance(Duration::from_secs(2));
        assert_eq!(block_on(call).expect_err("it hangs").errno(), Errno::ETIMEDOUT);
    };
    let calls: [Call; 4] = [
        |file| begun(file.fsync()),
        |file| begun(file.flush_range(8192, 5)),
        |file| begun(file.write_at_with(8192, b"x", WriteOptions::unbuffered()).map_ok(drop)),
        |file| begun(file.set_len(10)),
    ];
    for _ in 0..3 {
        for call in calls {
            let file = mount.blocking().open_rw("d/f", &soon()).expect("open");
            gives_up(call(&file));
        }
        let (node, cx) = (bed.file.node(), soon());
        gives_up(begun(mount.set_attr(&node, SetAttr::default(), &cx)));
        drop(begun(bed.file.fsync()));
    }
    bed.gate.release();
    // The queue is in order: this comes after all that were in it.
    bed.file.blocking().flush_range(0, 5).expect("flush");
    assert_eq!(bed.fs.counts().calls(Op::Write), 1, "none of them was there");
    bed.fs.verify("d/f", 0, b"dirty").expect("uploaded");
    bed.file.blocking().fsync().expect("fsync");
    bed.fs.verify("d/f", 8192, b"later").expect("uploaded");
    end(bed);
}

/// A buffered read has its mode as long as it is kept.
#[test]
fn n_c39_direct_io_gives_up_on_a_kept_read_and_readers_go_on() {
    let bed = bed_with(|b| b.remote_timeout(Duration::from_millis(200)));
    bed.gate.release();
    bed.file.blocking().fsync().expect("fsync");
    let gate = hold(&bed.fs, Op::Read);
    let mut buf = [0; 10];
    let kept = begun(bed.file.read_at(8192, &mut buf));
    gate.wait_hit();
    let how = OpenOptions::new().read(true).direct(true);
    let direct = bed.bench.mount.blocking().open_with("d/f", &how, &cx()).expect("open");
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(direct.blocking().read_at(40000, &mut [0; 10])));
    let result = told.recv_timeout(Duration::from_secs(20)).expect("it gives up");
    assert_eq!(result.expect_err("the mode is taken").errno(), Errno::ETIMEDOUT);
    let other = bed.bench.mount.blocking().open("d/f", &in_time()).expect("open");
    assert_eq!(other.blocking().read_at(40000, &mut [0; 10]).expect("read"), 10);
    gate.release();
    drop((kept, other));
    end(bed);
}
