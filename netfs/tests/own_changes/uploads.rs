//! Attributes that are set while bytes are dirty: as the kernel's clients do, the bytes go first.

use std::{sync::Arc, time::Duration};

use netfs::{
    Errno, File,
    remote::{SetAttr, SetTime, TimeSpec},
};
use netfs_memory::{Fault, MemoryFs, Op};
use pollster::block_on;

use crate::{
    common::{Bench, cx},
    tools::{as_user, hold, promised},
};

const THEN: TimeSpec = TimeSpec { sec: 1_000_000_000, nsec: 0 };

fn at_then() -> SetAttr {
    SetAttr { mtime: Some(SetTime::To(THEN)), ..SetAttr::default() }
}

fn bed() -> (Arc<MemoryFs>, Bench, File) {
    let fs = MemoryFs::builder().promise(promised()).file("f", 100).mode("f", 0o666);
    let fs = fs.build().expect("build");
    let bench = Bench::with(&fs, None, |b| b.remote_timeout(Duration::from_millis(200)));
    let file = bench.mount.blocking().open_rw("f", &as_user(0)).expect("open");
    file.blocking().write_at(0, b"copied").expect("write");
    (fs, bench, file)
}

fn mtime(bench: &Bench, file: &File) -> TimeSpec {
    bench.mount.blocking().getattr(&file.node(), &cx()).expect("getattr").mtime
}

#[test]
fn times_that_were_set_are_not_moved_by_what_was_written_before() {
    let (fs, bench, file) = bed();
    let node = file.node();
    bench.mount.blocking().set_attr(&node, at_then(), &cx()).expect("set_attr");
    fs.verify("f", 0, b"copied").expect("on the server first");
    assert_eq!(mtime(&bench, &file), THEN);
    block_on(file.close()).expect("close");
    fs.send_break("f").expect("break");
    assert_eq!(bench.mount.blocking().getattr(&node, &cx()).expect("getattr").mtime, THEN);
    drop(node);
    bench.shutdown();
}

#[test]
fn attributes_are_set_over_bytes_that_the_server_refuses_and_fsync_tells_of_those() {
    let (fs, bench, file) = bed();
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::EIO).always());
    bench.mount.blocking().set_attr(&file.node(), at_then(), &cx()).expect("set_attr");
    assert_eq!(mtime(&bench, &file), THEN);
    assert_eq!(file.blocking().fsync().expect_err("told").errno(), Errno::EIO);
    fs.remove_fault(&fault);
    file.blocking().fsync().expect("kept, and sent");
    fs.verify("f", 0, b"copied").expect("content");
    drop(file);
    bench.shutdown();
}

#[test]
fn attributes_are_not_set_before_an_upload_that_does_not_end() {
    let (fs, bench, file) = bed();
    let gate = hold(&fs, Op::Write);
    let before = fs.counts();
    let failed = bench.mount.blocking().set_attr(&file.node(), at_then(), &cx());
    assert_eq!(failed.expect_err("in time").errno(), Errno::ETIMEDOUT);
    gate.release();
    file.blocking().fsync().expect("fsync");
    assert_eq!(fs.counts().since(&before).calls(Op::SetAttr), 0);
    drop(file);
    bench.shutdown();
}

/// A server without opens looks at the mode at each write (NFSv3).
#[test]
fn w10_a_mode_that_forbids_writing_is_set_after_what_was_written() {
    let (fs, bench, file) = bed();
    let gate = hold(&fs, Op::SetAttr);
    let node = file.node();
    let set = SetAttr { mode: Some(0o400), ..SetAttr::default() };
    std::thread::scope(|s| {
        let setting = s.spawn(|| bench.mount.blocking().set_attr(&node, set, &cx()));
        gate.wait_hit();
        fs.inject(Fault::on(Op::Write).errno(Errno::EACCES).always());
        gate.release();
        setting.join().expect("no panic").expect("set_attr");
    });
    file.blocking().fsync().expect("nothing is left to be refused");
    fs.verify("f", 0, b"copied").expect("content");
    drop((file, node));
    bench.shutdown();
}
