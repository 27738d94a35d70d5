//! Writes through the page cache to a real (in-process) server.

mod common;

use std::sync::Arc;

use common::{Bench, cx};
use futures_util::FutureExt;
use netfs::{
    Errno, File, Undone,
    clock::{Clock, StepClock},
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

const MIB: usize = 1 << 20;

fn open(bench: &Bench, path: &str) -> File {
    let node = pollster::block_on(bench.mount.walk(path, &cx())).expect("walk");
    pollster::block_on(bench.mount.open_rw(&node, &cx())).expect("open for writing")
}

fn write(file: &File, offset: u64, bytes: &[u8]) {
    let n = pollster::block_on(file.write_at(offset, bytes)).expect("write");
    assert_eq!(n, bytes.len());
}

fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xaa; len];
    let n = pollster::block_on(file.read_at(offset, &mut buf)).expect("read");
    buf.truncate(n);
    buf
}

fn origin() -> Arc<MemoryFs> {
    MemoryFs::builder().file("f", 3 * MIB as u64).bytes("empty", "").build().expect("build")
}

#[test]
fn what_was_written_is_read_at_once_and_is_on_the_server_after_fsync() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    let before = fs.snapshot("f").expect("f").version;
    let mut expected = fs.expected("f", 0, 3 * MIB).expect("f");
    for (offset, len, byte) in [(5, 10, 1), (4090, 20, 2), (MIB - 7, MIB, 3), (2 * MIB, 300_000, 4)]
    {
        write(&file, offset as u64, &vec![byte; len]);
        expected[offset..offset + len].fill(byte);
    }
    assert_eq!(fs.snapshot("f").expect("f").version, before, "nothing has been sent");
    assert_eq!(read(&file, 0, 3 * MIB), expected);
    pollster::block_on(file.fsync()).expect("fsync");
    assert_eq!(fs.expected("f", 0, 3 * MIB).expect("f"), expected);
    assert_eq!(read(&file, 0, 3 * MIB), expected);
    assert_eq!(bench.netfs().memory().dirty, 0);
    assert_eq!(fs.take_breaches(), Vec::<String>::new());
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c24_a_cold_file_is_written_to_without_reading_and_only_what_was_written_is_sent() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    let writes = 64;
    for i in 0..writes {
        write(&file, i * 8192 + 100, &[7; 64]);
    }
    pollster::block_on(file.fsync()).expect("fsync");
    let counts = fs.counts();
    assert_eq!(counts.calls(Op::Read), 0);
    assert_eq!(bench.stats().upload_bytes, writes * 64);
    assert_eq!(counts.calls(Op::Write), writes);
    bench.netfs().drop_memory();
    let mut expected = fs.expected("f", 0, MIB).expect("f");
    assert_eq!(expected[100..164], [7; 64]);
    expected.truncate(MIB);
    assert_eq!(read(&file, 0, MIB), expected);
    drop(file);
    bench.shutdown();
}

#[test]
fn uploads_come_in_the_servers_unit_where_the_rest_of_it_is_known() {
    let fs = origin();
    fs.configure(|s| s.limits.upload_unit = 1024);
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    let mut expected = fs.expected("f", 0, 3 * MIB).expect("f");
    // Known: what is around goes along, in one call for both, and no further than the unit.
    read(&file, 0, 8192);
    for at in [1100u64, 1900] {
        write(&file, at, &[7; 30]);
        expected[at as usize..][..30].fill(7);
    }
    // Not known: exactly what was written.
    write(&file, 100_000, &[8; 50]);
    expected[100_000..100_050].fill(8);
    let _ = fs.take_calls();
    pollster::block_on(file.fsync()).expect("fsync");
    let calls = fs.take_calls().into_iter().filter(|c| c.op == Op::Write);
    let mut ranges: Vec<_> = calls.filter_map(|c| c.range).collect();
    ranges.sort_by_key(|r| r.start);
    assert_eq!(ranges, [1024..2048, 100_000..100_050]);
    assert_eq!(bench.netfs().memory().dirty, 0);
    assert_eq!(fs.expected("f", 0, 3 * MIB).expect("f"), expected);
    // Nothing is sent behind the end of the file.
    let small = open(&bench, "empty");
    write(&small, 0, &[1; 10]);
    pollster::block_on(small.fsync()).expect("fsync");
    assert_eq!(fs.size("empty").expect("empty"), 10);
}

/// What is known around written bytes goes along only as long as nobody has said that it is old.
#[test]
fn an_upload_in_the_servers_unit_brings_back_nothing_that_somebody_else_has_changed() {
    let fs = origin();
    fs.configure(|s| s.limits.upload_unit = 4096);
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    read(&file, 0, 8192);
    write(&file, 1100, &[7; 30]);
    fs.change("f").rewrite_range(0..1000).expect("theirs, and everybody is told");
    let mut expected = fs.expected("f", 0, 8192).expect("f");
    expected[1100..1130].fill(7);
    pollster::block_on(file.fsync()).expect("fsync");
    assert_eq!(fs.expected("f", 0, 8192).expect("f"), expected);
    // A hole of ours that nobody can tell of.
    read(&file, 0, 8192);
    write(&file, 1100, &[8; 30]);
    fs.inject(Fault::on(Op::Deallocate).done_but(Errno::EIO).times(1));
    file.blocking().punch_hole(0, 8192).expect_err("so it says");
    expected.fill(0);
    expected[1100..1130].fill(8);
    pollster::block_on(file.fsync()).expect("fsync");
    assert_eq!(fs.expected("f", 0, 8192).expect("f"), expected);
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c19_a_read_of_a_partly_written_page_keeps_what_was_written() {
    let fs = origin();
    let bench = Bench::with(&fs, None, |b| b.fill(netfs::FillPolicy::Exact));
    let file = open(&bench, "f");
    write(&file, 100, b"written");
    // A read that is on its way while more is written to the same page.
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue).times(1));
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, 4096));
        fs.wait_until(|c, _| c.calls(Op::Read) == 1);
        write(&file, 200, b"meanwhile");
        gate.release();
        let got = reader.join().expect("reader");
        assert_eq!(&got[100..107], b"written");
    });
    let mut expected = fs.expected("f", 0, 4096).expect("f");
    expected[100..107].copy_from_slice(b"written");
    expected[200..209].copy_from_slice(b"meanwhile");
    assert_eq!(read(&file, 0, 4096), expected);
    pollster::block_on(file.fsync()).expect("fsync");
    assert_eq!(fs.expected("f", 0, 4096).expect("f"), expected);
    drop(file);
    bench.shutdown();
}

#[test]
fn a_write_during_an_upload_of_the_same_bytes_is_neither_sent_torn_nor_lost() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 0, &[1; 8192]);
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Release).times(1));
    std::thread::scope(|s| {
        let sync = s.spawn(|| pollster::block_on(file.fsync()));
        fs.wait_until(|c, _| c.calls(Op::Write) == 1);
        write(&file, 4000, &[2; 200]);
        gate.release();
        sync.join().expect("no panic").expect("fsync");
    });
    let server = fs.expected("f", 0, 8192).expect("f");
    assert_eq!(server, [1; 8192], "what was taken is what was sent");
    assert_eq!(read(&file, 4000, 200), [2; 200]);
    pollster::block_on(file.fsync()).expect("fsync");
    assert_eq!(fs.expected("f", 4000, 200).expect("f"), [2; 200]);
    drop(file);
    bench.shutdown();
}

#[test]
fn row_78_a_failed_upload_loses_nothing_and_is_reported_until_it_succeeds() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 10, b"kept");
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::ENOSPC).always());
    for _ in 0..2 {
        let error = pollster::block_on(file.fsync()).expect_err("no space");
        assert_eq!(error.errno(), Errno::ENOSPC);
    }
    assert_eq!(read(&file, 10, 4), b"kept");
    let error = pollster::block_on(file.write_at(0, b"more")).expect_err("parked");
    assert_eq!(error.errno(), Errno::ENOSPC);
    fs.remove_fault(&fault);
    pollster::block_on(file.fsync()).expect("there is space again");
    assert_eq!(fs.expected("f", 10, 4).expect("f"), b"kept");
    write(&file, 0, b"more");
    drop(file);
    bench.shutdown();
    assert_eq!(fs.expected("f", 0, 4).expect("f"), b"more", "a shutdown uploads");
}

#[test]
fn n_c32_discarded_bytes_are_reported_once_to_each_opener() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let (one, two) = (open(&bench, "f"), open(&bench, "f"));
    let old = read(&one, 0, 100);
    assert_eq!(pollster::block_on(one.discard_dirty()).expect("free"), 0, "nothing has failed");
    write(&one, 10, b"given up");
    fs.inject(Fault::on(Op::Write).errno(Errno::EDQUOT).always());
    pollster::block_on(one.fsync()).expect_err("over quota");
    assert_eq!(pollster::block_on(two.discard_dirty()).expect("free"), 8);
    let late = open(&bench, "f");
    for file in [&one, &two] {
        let error = pollster::block_on(file.fsync()).expect_err("lost");
        assert_eq!(error.errno(), Errno::EDQUOT);
        pollster::block_on(file.fsync()).expect("told once");
    }
    pollster::block_on(late.fsync()).expect("opened after the loss");
    assert_eq!(read(&one, 0, 100), old);
    drop((one, two, late));
    bench.shutdown();
}

#[test]
fn n_c31_short_writes_and_renegotiated_limits_send_every_byte_once() {
    let fs = origin();
    fs.configure(|s| s.limits.wsize = 5000);
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    fs.inject(Fault::on(Op::Write).short(1234).times(3));
    fs.inject(Fault::on(Op::Write).retry(100).times(2));
    write(&file, 77, &[9; 60_000]);
    pollster::block_on(file.fsync()).expect("fsync");
    assert_eq!(fs.expected("f", 77, 60_000).expect("f"), [9; 60_000]);
    assert_eq!(bench.stats().upload_bytes, 60_000);
    assert_eq!(fs.take_breaches(), Vec::<String>::new());
    drop(file);
    bench.shutdown();
}

#[test]
fn unstable_bytes_lost_by_a_restart_of_the_server_are_sent_again() {
    let fs = origin();
    fs.configure(|s| {
        s.unstable = true;
        s.limits.wsize = 4096;
    });
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 0, &[5; 10_000]);
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Commit).hold(&gate, SnapshotAt::Release).times(1));
    std::thread::scope(|s| {
        let netfs = bench.netfs();
        let flush = s.spawn(|| pollster::block_on(netfs.sync()));
        fs.wait_until(|c, _| c.calls(Op::Commit) == 1);
        drop(fs.restart_server());
        gate.release();
        drop(flush.join());
    });
    pollster::block_on(file.fsync()).expect("fsync");
    assert_eq!(fs.expected("f", 0, 10_000).expect("f"), [5; 10_000]);
    assert!(!fs.has_uncommitted());
    drop(file);
    bench.shutdown();
}

#[test]
fn a_third_partys_change_and_ours_are_merged_byte_by_byte() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    read(&file, 0, 20_000);
    write(&file, 5000, &[1; 100]);
    fs.change("f").rewrite().expect("theirs");
    let mut expected = fs.expected("f", 0, 20_000).expect("f");
    expected[5000..5100].fill(1);
    assert_eq!(read(&file, 0, 20_000), expected, "theirs, with ours over it");
    pollster::block_on(file.fsync()).expect("fsync");
    assert_eq!(fs.expected("f", 0, 20_000).expect("f"), expected);
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c73_a_file_that_shrinks_and_grows_has_zeros_where_it_was_cut() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    read(&file, 0, 50_000);
    write(&file, 40_000, &[3; 3 * MIB]);
    pollster::block_on(file.set_len(10_001)).expect("cut");
    assert_eq!(file.sizes().i_size, 10_001);
    write(&file, 30_000, b"far");
    let mut expected = fs.expected("f", 0, 10_001).expect("f");
    expected.resize(30_000, 0);
    expected.extend(b"far");
    assert_eq!(read(&file, 0, 100_000), expected);
    pollster::block_on(file.fsync()).expect("fsync");
    assert_eq!(fs.size("f").expect("f"), 30_003);
    assert_eq!(fs.expected("f", 0, 30_003).expect("f"), expected);
    bench.netfs().drop_memory();
    assert_eq!(read(&file, 0, 100_000), expected);
    drop(file);
    bench.shutdown();
}

#[test]
fn a_cut_of_which_nobody_knows_whether_it_was_done_makes_the_next_access_ask() {
    let fs = MemoryFs::builder().file("f", 8192).build().expect("build");
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    for failure in [Fault::on(Op::SetSize).errno(Errno::EIO), Fault::on(Op::SetSize).lost_reply()] {
        read(&file, 0, 8192);
        fs.change("f").silently().rewrite_range(0..4096).expect("theirs");
        fs.inject(failure.times(1));
        pollster::block_on(file.set_len(100)).expect_err("the server fails");
        let size = fs.size("f").expect("f") as usize;
        assert_eq!(read(&file, 0, 8192), fs.expected("f", 0, size).expect("f"));
    }
    drop(file);
    bench.shutdown();
}

#[test]
fn appends_follow_one_another() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "empty");
    let mut expected = Vec::new();
    for i in 0..200u32 {
        let line = format!("line {i}\n");
        let at = pollster::block_on(file.append(line.as_bytes())).expect("append");
        assert_eq!(at.start, expected.len() as u64);
        expected.extend(line.as_bytes());
        assert_eq!(at.end, expected.len() as u64);
    }
    pollster::block_on(file.close()).expect("close uploads");
    assert_eq!(fs.expected("empty", 0, expected.len()).expect("empty"), expected);
    assert_eq!(fs.counts().calls(Op::Write), 1, "neighbouring bytes go in one call");
    bench.shutdown();
}

#[test]
fn dirty_far_beyond_the_budget_memory_stays_bounded_and_nothing_is_lost() {
    let fs = MemoryFs::builder().bytes("big", "").build().expect("build");
    let bench = Bench::with(&fs, None, |b| {
        b.memory_bytes(2 << 20).fill_queue(0, netfs::FillWhenFull::Drop)
    });
    let file = open(&bench, "big");
    for i in 0..64 {
        write(&file, i * 131_072, &vec![i as u8 + 1; 131_072]);
        let memory = bench.netfs().memory();
        assert!(
            memory.budgeted <= memory.budget && memory.dirty <= memory.budget / 2,
            "{memory:?}"
        );
    }
    pollster::block_on(file.fsync()).expect("fsync");
    for i in 0..64 {
        assert_eq!(
            fs.expected("big", i * 131_072, 131_072).expect("big"),
            vec![i as u8 + 1; 131_072]
        );
    }
    assert!(bench.stats().write_throttled > 0);
    drop(file);
    bench.shutdown();
}

#[test]
fn what_was_written_to_a_deleted_file_is_given_up_and_each_opener_is_told_once() {
    let fs = MemoryFs::builder().file("f", 8192).file("other", 8192).build().expect("build");
    let bench = Bench::new(&fs, None);
    let (file, second, other) = (open(&bench, "f"), open(&bench, "f"), open(&bench, "other"));
    write(&file, 100, b"to nobody");
    write(&other, 0, b"kept");
    fs.change("f").silently().remove().expect("theirs");
    let errno = |result: Result<(), netfs::Error>| result.expect_err("it is gone").errno();
    assert_eq!(errno(pollster::block_on(bench.netfs().sync())), Errno::ESTALE);
    pollster::block_on(bench.netfs().sync()).expect("nothing is left to fail");
    assert_eq!(bench.netfs().memory().dirty, 0);
    assert_eq!(fs.expected("other", 0, 4).expect("other"), b"kept");
    for opener in [&file, &second] {
        assert_eq!(errno(pollster::block_on(opener.fsync())), Errno::ESTALE);
        pollster::block_on(opener.fsync()).expect("told once");
        let again = pollster::block_on(opener.write_at(0, b"x")).expect_err("it is gone");
        assert_eq!(again.errno(), Errno::ESTALE);
    }
    drop((file, second, other));
    bench.shutdown();
}

#[test]
fn the_opener_whose_fsync_finds_a_file_deleted_is_not_told_twice() {
    let fs = MemoryFs::builder().file("f", 8192).build().expect("build");
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 100, b"to nobody");
    fs.change("f").silently().remove().expect("theirs");
    let error = pollster::block_on(file.fsync()).expect_err("it is gone");
    assert_eq!(error.errno(), Errno::ESTALE);
    pollster::block_on(file.fsync()).expect("told once");
    pollster::block_on(file.set_len(0)).expect_err("it is gone");
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c32_an_fsync_that_waits_while_its_bytes_are_given_up_says_so() {
    let fs = MemoryFs::builder().file("f", 8192).build().expect("build");
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 100, b"to nobody");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Release).times(1));
    std::thread::scope(|s| {
        let sync = s.spawn(|| pollster::block_on(bench.netfs().sync()));
        gate.wait_hit();
        let mut fsync = Box::pin(file.fsync());
        assert!((&mut fsync).now_or_never().is_none(), "it waits for its turn");
        fs.change("f").silently().remove().expect("theirs");
        gate.release();
        sync.join().expect("no panic").expect_err("it is gone");
        assert_eq!(pollster::block_on(fsync).expect_err("it is gone").errno(), Errno::ESTALE);
    });
    pollster::block_on(file.fsync()).expect("told once");
    drop(file);
    bench.shutdown();
}

#[test]
fn a_write_that_has_to_read_first_waits_for_memory_like_any_other() {
    let fs = MemoryFs::builder().file("f", 8 * MIB as u64).build().expect("build");
    let bench = Bench::with(&fs, None, |b| {
        b.memory_bytes(1 << 18).dirty_bytes(1 << 18, 1 << 18).readahead_max(0).driver_threads(1)
    });
    let file = open(&bench, "f");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Release).always());
    for at in [100, 200, 300] {
        write(&file, at, b"x");
    }
    // A byte here and there until all memory is dirty pages of which little is known.
    let last = (0..).find(|page| file.write_at(page * 8192, b"x").now_or_never().is_none());
    assert!(last.expect("at some time") > 10);
    let mut more = Box::pin(file.write_at(400, b"x"));
    for _ in 0..300 {
        let early = (&mut more).now_or_never();
        assert!(early.is_none(), "there is no memory to read into: {early:?}");
        pollster::block_on(bench.mount.statfs(&cx())).expect("the driver goes on");
    }
    gate.release();
    assert_eq!(pollster::block_on(more).expect("there is memory now"), 1);
    drop(file);
    bench.shutdown();
}

#[test]
fn bad_writes_are_refused_and_change_nothing() {
    let fs = origin();
    fs.configure(|s| s.limits.max_size = 8 << 20);
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    let refused = |offset, bytes: &[u8]| {
        pollster::block_on(file.write_at(offset, bytes)).expect_err("refused").errno()
    };
    assert_eq!(refused(8 << 20, b"x"), Errno::EFBIG);
    assert_eq!(refused(u64::MAX, b"x"), Errno::EINVAL);
    let reader = bench.open("f");
    let error = pollster::block_on(reader.write_at(0, b"x")).expect_err("read only");
    assert_eq!(error.errno(), Errno::EBADF);
    fs.change("f").remove().expect("removed");
    assert_eq!(refused(0, b"x"), Errno::ESTALE);
    assert_eq!(bench.netfs().memory().dirty, 0);
    drop((file, reader));
    bench.shutdown();
}

#[test]
fn a_shutdown_without_patience_says_what_was_lost() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 0, b"12345");
    fs.inject(Fault::on(Op::Write).errno(Errno::EIO).always());
    drop(file);
    let (mount, netfs) = (bench.mount.clone(), bench.into_netfs());
    drop(mount);
    let undone = netfs.blocking_shutdown(std::time::Duration::from_secs(1));
    assert_eq!(undone, Undone { fill_bytes: 0, dirty_bytes: 5 });
}

#[test]
fn w5_an_fsync_over_a_restart_of_the_server_sends_again_what_that_lost() {
    let fs = origin();
    fs.configure(|s| {
        s.unstable = true;
        s.limits.wsize = 4096;
    });
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 0, &[5; 10_000]);
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Commit).hold(&gate, SnapshotAt::Release).times(1));
    std::thread::scope(|s| {
        let sync = s.spawn(|| pollster::block_on(file.fsync()));
        fs.wait_until(|c, _| c.calls(Op::Commit) == 1);
        drop(fs.restart_server());
        gate.release();
        sync.join().expect("no panic").expect("fsync");
    });
    assert!(!fs.has_uncommitted());
    assert_eq!(fs.expected("f", 0, 10_000).expect("f"), [5; 10_000]);
    assert_eq!(bench.netfs().memory().dirty, 0);
    drop(file);
    bench.shutdown();
}

#[test]
fn a_passing_failure_is_tried_again_whatever_thread_waits_for_it() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 0, &[5; 100]);
    fs.inject(Fault::on(Op::Write).errno(Errno::ECONNRESET).times(1));
    // This thread has no runtime.
    pollster::block_on(file.fsync()).expect("the second try succeeds");
    assert_eq!(fs.expected("f", 0, 100).expect("f"), [5; 100]);
    drop(file);
    bench.shutdown();
}

#[test]
fn a_hung_server_is_waited_for_until_the_callers_deadline() {
    let fs = MemoryFs::builder().file("f", 3 * MIB as u64).build().expect("build");
    let clock = StepClock::new();
    let shared = Arc::new(clock.clone());
    let bench = Bench::with(&fs, None, |b| b.clock(shared).dirty_bytes(4096, 12_288));
    let node = pollster::block_on(bench.mount.walk("f", &cx())).expect("walk");
    let deadline = clock.now() + std::time::Duration::from_secs(10);
    let hurried = cx().with_deadline(deadline);
    let file = pollster::block_on(bench.mount.open_rw(&node, &hurried)).expect("open");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Release).always());
    write(&file, 0, &[5; 8192]);
    std::thread::scope(|s| {
        let waiting = [
            s.spawn(|| pollster::block_on(file.fsync())),
            s.spawn(|| pollster::block_on(file.write_at(0, &[6; 8192])).map(drop)),
            s.spawn(|| pollster::block_on(file.set_len(10))),
        ];
        while !waiting.iter().all(|w| w.is_finished()) {
            clock.advance(std::time::Duration::from_secs(1));
            std::thread::yield_now();
        }
        for waited in waiting {
            let error = waited.join().expect("no panic").expect_err("nothing came");
            assert_eq!(error.errno(), Errno::ETIMEDOUT);
        }
    });
    gate.release();
    drop(file);
    drop(node);
    bench.shutdown();
}

#[test]
fn what_is_written_after_a_cut_that_was_given_up_is_not_cut() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::SetSize).hold(&gate, SnapshotAt::Release).times(1));
    let mut cut = Box::pin(file.set_len(100));
    assert!((&mut cut).now_or_never().is_none());
    fs.wait_until(|c, _| c.calls(Op::SetSize) == 1);
    drop(cut);
    let mut after = Box::pin(file.write_at(5000, b"after"));
    let early = (&mut after).now_or_never();
    gate.release();
    let written = early.unwrap_or_else(|| pollster::block_on(after));
    assert_eq!(written.expect("write"), 5);
    pollster::block_on(file.fsync()).expect("fsync");
    assert_eq!(fs.size("f").expect("f"), 5005);
    assert_eq!(fs.expected("f", 5000, 5).expect("f"), b"after");
    drop(file);
    bench.shutdown();
}
