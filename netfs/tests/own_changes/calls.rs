//! Calls about what is dirty: hints, closes, times, cuts.

use netfs::{Durability, Errno, OpenOptions};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};
use pollster::block_on;

use crate::{
    common::{Bench, cx},
    tools::{as_user, hold, promised},
};

#[test]
fn fdatasync_does_what_fsync_does() {
    let fs = MemoryFs::builder().promise(promised()).file("f", 10).build().expect("build");
    let bench = Bench::new(&fs, None);
    let how = OpenOptions::new().write(true).durability(Durability::Memory);
    let file = bench.mount.blocking().open_with("f", &how, &cx()).expect("open");
    file.blocking().write_at(8, b"longer").expect("write");
    file.blocking().fdatasync().expect("fdatasync");
    fs.verify("f", 8, b"longer").expect("on the server");
    assert_eq!(fs.size("f").expect("size"), 14);
    drop(file);
    bench.shutdown();
}

#[test]
fn hints_that_have_not_begun_are_one() {
    let fs = MemoryFs::builder().promise(promised()).file("f", 1 << 20).build().expect("build");
    let bench = Bench::new(&fs, None);
    let file = bench.mount.blocking().open_rw("f", &cx()).expect("open");
    file.blocking().write_at(0, b"first").expect("write");
    let gate = hold(&fs, Op::Write);
    file.start_writeback(0, 5).expect("hint");
    gate.wait_hit();
    file.blocking().write_at(8192, b"second").expect("write");
    file.blocking().write_at(16384, b"third").expect("write");
    // One task for all of these; the last is what the first one's task is about, too.
    let again = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&again, SnapshotAt::Issue).times(2));
    for _ in 0..1000 {
        file.start_writeback(8192, 6).expect("hint");
    }
    file.start_writeback(16384, 5).expect("hint");
    assert_eq!(bench.netfs().memory().dirty, 16);
    gate.release();
    // Both at once: tasks of their own would come one after the other.
    fs.wait_until(|counts, _| counts.calls(Op::Write) == 3);
    again.release();
    block_on(bench.netfs().settled());
    file.blocking().fsync().expect("fsync");
    fs.verify("f", 8192, b"second").expect("content");
    fs.verify("f", 16384, b"third").expect("content");
    drop(file);
    bench.shutdown();
}

#[test]
fn a_close_that_failed_gives_the_file_back() {
    let fs = MemoryFs::builder().promise(promised()).file("f", 10).build().expect("build");
    let bench = Bench::new(&fs, None);
    let file = bench.mount.blocking().open_rw("f", &cx()).expect("open");
    file.blocking().write_at(0, b"kept").expect("write");
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::EDQUOT).always());
    let unclosed = block_on(file.close()).expect_err("refused");
    assert_eq!(unclosed.errno(), Errno::EDQUOT);
    fs.remove_fault(&fault);
    block_on(unclosed.file.close()).expect("again");
    fs.verify("f", 0, b"kept").expect("on the server");
    bench.shutdown();
}

#[test]
fn a_close_uploads_unless_the_adapter_says_that_nobody_looks() {
    let fs = MemoryFs::builder().promise(promised()).file("f", 10).build().expect("build");
    let bench = Bench::new(&fs, None);
    for must in [false, true] {
        fs.configure(|settings| settings.close_must_flush = must);
        let file = bench.mount.blocking().open_rw("f", &cx()).expect("open");
        let bytes: &[u8] = if must { b"now" } else { b"later" };
        let before = fs.counts();
        file.blocking().write_at(0, bytes).expect("write");
        block_on(file.close()).expect("close");
        assert_eq!(fs.counts().since(&before).calls(Op::Write), u64::from(must));
        block_on(bench.netfs().sync()).expect("sync");
        fs.verify("f", 0, bytes).expect("on the server");
    }
    bench.shutdown();
}

#[test]
fn a_close_that_uploads_nothing_tells_what_has_failed() {
    let fs = MemoryFs::builder().promise(promised()).file("f", 10).build().expect("build");
    fs.configure(|settings| settings.close_must_flush = false);
    let bench = Bench::new(&fs, None);
    let open = || bench.mount.blocking().open_rw("f", &cx()).expect("open");
    let (file, other) = (open(), open());
    file.blocking().write_at(0, b"lost").expect("write");
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::EDQUOT).always());
    block_on(bench.netfs().sync()).expect_err("refused");
    let unclosed = block_on(file.close()).expect_err("the bytes are parked");
    assert_eq!(unclosed.errno(), Errno::EDQUOT);
    assert_eq!(block_on(other.discard_dirty()).expect("discard"), 4);
    let unclosed = block_on(unclosed.file.close()).expect_err("the bytes are lost");
    assert_eq!(unclosed.errno(), Errno::EDQUOT);
    block_on(unclosed.file.close()).expect("told once");
    fs.remove_fault(&fault);
    drop(other);
    bench.shutdown();
}

#[test]
fn the_time_of_the_last_write_is_seen_before_it_is_on_the_server() {
    let fs = MemoryFs::builder().promise(promised()).file("f", 10).build().expect("build");
    let bench = Bench::new(&fs, None);
    let file = bench.mount.blocking().open_rw("f", &cx()).expect("open");
    let node = file.node();
    let getattr = || bench.mount.blocking().getattr(&node, &cx()).expect("getattr");
    let theirs = getattr();
    file.blocking().write_at(0, b"new").expect("write");
    let ours = getattr();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("now");
    assert!(ours.mtime > theirs.mtime && ours.ctime > theirs.ctime, "{ours:?}, {theirs:?}");
    assert!(ours.mtime.sec.abs_diff(now.as_secs() as i64) < 3600, "{ours:?}");
    assert_eq!(file.attr().map(|attr| attr.mtime), Some(getattr().mtime));
    file.blocking().fsync().expect("fsync");
    fs.send_break("f").expect("break");
    let after = getattr();
    assert_eq!(Some(after.mtime), file.attr().map(|attr| attr.mtime));
    assert!(after.mtime >= theirs.mtime);
    drop((file, node));
    bench.shutdown();
}

#[test]
fn a_cut_needs_no_right_to_read() {
    let fs = MemoryFs::builder().promise(promised()).file("f", 10).mode("f", 0o222);
    let fs = fs.build().expect("build");
    let bench = Bench::new(&fs, None);
    let node = bench.mount.blocking().walk("f", &cx()).expect("walk");
    bench.mount.blocking().set_len(&node, 5, &as_user(5)).expect("as truncate(2)");
    assert_eq!(fs.size("f").expect("size"), 5);
    drop(node);
    bench.shutdown();
}
