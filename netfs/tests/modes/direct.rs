//! Writes past the caches, and what they leave of them.

use std::sync::Arc;

use futures_util::FutureExt;
use netfs::{Errno, File, Sizes, WriteOptions, fscache::MemCache};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt, VersionKind};

use crate::{
    common::Bench,
    tools::{MIB, errno, open, origin, read, rw},
};

fn direct(file: &File, offset: u64, bytes: &[u8]) -> netfs::Result<usize> {
    file.blocking().write_at_with(offset, bytes, WriteOptions::unbuffered())
}

fn writes(fs: &Arc<MemoryFs>) -> Vec<std::ops::Range<u64>> {
    let calls = fs.take_calls().into_iter().filter(|c| c.op == Op::Write);
    calls.filter_map(|c| c.range).collect()
}

#[test]
fn n_c38_what_a_direct_write_returns_is_on_the_server_and_nowhere_else() {
    for unstable in [false, true] {
        let fs = origin();
        fs.configure(|s| s.unstable = unstable);
        let bench = Bench::new(&fs, None);
        let file = open(&bench, "f", &rw().direct(true));
        let bytes: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        assert_eq!(file.blocking().write_at(12_345, &bytes).expect("write"), bytes.len());
        fs.verify("f", 12_345, &bytes).expect("on the server");
        assert!(!fs.has_uncommitted(), "nobody has the bytes any more to send them again");
        let memory = bench.netfs().memory();
        assert_eq!((memory.indexed, memory.dirty), (0, 0));
        assert_eq!(read(&file, 12_345, bytes.len()), bytes);
        assert_eq!(bench.netfs().memory().indexed, 0, "its reads leave nothing either");
        assert_eq!(fs.take_breaches(), Vec::<String>::new());
        assert_eq!(bench.stats().dio_writes, 1);
        drop(file);
        bench.shutdown();
    }
}

#[test]
fn row_87_calls_go_one_after_the_other_and_an_error_leaves_a_contiguous_prefix() {
    let fs = origin();
    fs.configure(|s| s.limits.wsize = 4096);
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).nth(2).hold(&gate, SnapshotAt::Release));
    std::thread::scope(|s| {
        let writer = s.spawn(|| direct(&file, 0, &[5; 5 * 4096]));
        gate.wait_hit();
        assert_eq!((fs.counts().calls(Op::Write), fs.in_flight()), (2, 1), "one at a time");
        gate.release();
        assert_eq!(writer.join().expect("no panic").expect("write"), 5 * 4096);
    });
    drop(writes(&fs));
    // The third call takes 100 bytes and fails.
    let before = fs.expected("f", 100_000, 5 * 4096).expect("f");
    fs.inject(Fault::on(Op::Write).nth(3).fail_after(100, Errno::ENOSPC));
    assert_eq!(direct(&file, 100_000, &[6; 5 * 4096]).expect("a part"), 2 * 4096 + 100);
    assert_eq!(writes(&fs).len(), 3, "nothing is sent behind a failure");
    let mut now = vec![6; 2 * 4096 + 100];
    now.extend_from_slice(&before[now.len()..]);
    fs.verify("f", 100_000, &now).expect("a prefix");
    assert_eq!(read(&file, 100_000, now.len()), now);
    // Nothing at all: the error.
    fs.inject(Fault::on(Op::Write).errno(Errno::ENOSPC).times(1));
    assert_eq!(errno(direct(&file, 0, b"x")), Errno::ENOSPC);
    direct(&file, 0, b"x").expect("it is no lasting state");
    drop(file);
    bench.shutdown();
}

#[test]
fn a_full_server_takes_what_fits_and_the_file_ends_there() {
    let fs = MemoryFs::builder().bytes("f", "").configure(|s| s.quota_bytes = Some(10_000)).build();
    let fs = fs.expect("build");
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    let n = direct(&file, 0, &[1; 20_000]).expect("a part");
    assert_eq!((n, fs.size("f").expect("f")), (10_000, 10_000));
    assert_eq!(file.sizes(), Sizes { i_size: 10_000, remote_i_size: 10_000, zero_point: 10_000 });
    assert_eq!(errno(direct(&file, 10_000, &[1; 10])), Errno::ENOSPC);
    assert_eq!(read(&file, 0, 20_000), [1; 10_000]);
    drop(file);
    bench.shutdown();
}

#[test]
fn complaint_13_a_direct_write_costs_the_disk_cache_its_range_only() {
    let fs = origin();
    let cache = MemCache::new();
    let bench = Bench::new(&fs, Some(cache));
    bench.check("f", 0, 3 * MIB);
    bench.drain();
    let file = open(&bench, "f", &rw());
    let calls = || fs.counts().calls(Op::Read);
    let before = calls();
    direct(&file, MIB as u64 + 100, b"past the caches").expect("write");
    bench.netfs().drop_memory();
    // Not so much that anything is read ahead.
    for page in [0, MIB - 4096, MIB + 4096, 2 * MIB] {
        bench.check("f", page as u64, 4096);
    }
    assert_eq!(calls(), before, "the rest is still on disk");
    bench.check("f", MIB as u64, 4096);
    assert_eq!(calls(), before + 1, "the range is not");
    // N-C50 is for writes the core does not see: its own do not turn the cache off.
    bench.drain();
    bench.netfs().drop_memory();
    bench.check("f", MIB as u64, 4096);
    assert_eq!(calls(), before + 1, "it was stored again, with the file open");
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c38_p_d61_no_stale_page_stays_where_versions_do_not_tell() {
    for versions in [VersionKind::None, VersionKind::default()] {
        for states_before in [false, true] {
            let fs = origin();
            fs.configure(|s| (s.versions, s.states_before) = (versions, states_before));
            let bench = Bench::new(&fs, Some(MemCache::new()));
            let file = open(&bench, "f", &rw());
            assert_eq!(read(&file, 0, 3 * MIB).len(), 3 * MIB);
            bench.drain();
            direct(&file, 5000, &[3; 10_000]).expect("write");
            assert_eq!(read(&file, 5000, 10_000), [3; 10_000], "{versions:?}");
            bench.drain();
            bench.netfs().drop_memory();
            bench.check("f", 0, 3 * MIB);
            drop(file);
            bench.shutdown();
        }
    }
}

#[test]
fn what_is_dirty_in_the_range_goes_first_and_what_is_dirty_elsewhere_stays() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    file.blocking().write_at(0, &[1; 3000]).expect("write");
    file.blocking().write_at(MIB as u64, b"elsewhere").expect("write");
    direct(&file, 1000, &[2; 1000]).expect("write");
    assert_eq!(writes(&fs), [1000..2000, 1000..2000], "the older bytes first");
    assert_eq!(bench.netfs().memory().dirty, 2000 + 9);
    let expected = [vec![1; 1000], vec![2; 1000], vec![1; 1000]].concat();
    assert_eq!(read(&file, 0, 3000), expected);
    file.blocking().fsync().expect("fsync");
    fs.verify("f", 0, &expected).expect("on the server");
    // What is in the way cannot be sent: then nothing is written over it.
    file.blocking().write_at(0, &[4; 10]).expect("write");
    fs.inject(Fault::on(Op::Write).errno(Errno::EIO).times(1));
    assert_eq!(errno(direct(&file, 5, &[5; 10])), Errno::EIO);
    fs.verify("f", 0, &expected).expect("as it was");
    assert_eq!(read(&file, 0, 10), [4; 10]);
    file.blocking().fsync().expect("fsync");
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c17_reads_past_the_caches_see_what_was_written_into_them() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let (file, raw) = (open(&bench, "f", &rw()), open(&bench, "f", &rw().direct(true)));
    file.blocking().write_at(4000, &[8; 200]).expect("write");
    assert_eq!(read(&raw, 4000, 200), [8; 200]);
    fs.verify("f", 4000, &[8; 200]).expect("flushed for it");
    drop((file, raw));
    bench.shutdown();
}

#[test]
fn sizes_grow_by_what_was_sent_and_a_hole_reads_as_zeros() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "empty", &rw());
    direct(&file, 10_000, b"far").expect("write");
    let all = Sizes { i_size: 10_003, remote_i_size: 10_003, zero_point: 10_003 };
    assert_eq!(file.sizes(), all);
    let mut expected = vec![0; 10_000];
    expected.extend_from_slice(b"far");
    assert_eq!(read(&file, 0, 20_000), expected);
    // Behind dirty bytes that end later, the file stays as long as they make it.
    file.blocking().write_at(30_000, b"dirty").expect("write");
    direct(&file, 20_000, b"mid").expect("write");
    assert_eq!(file.sizes().i_size, 30_005);
    assert_eq!(file.blocking().append(b"!").expect("append"), 30_005..30_006);
    file.blocking().fsync().expect("fsync");
    assert_eq!(fs.size("empty").expect("empty"), 30_006);
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c38_a_fetch_that_was_on_its_way_brings_no_old_bytes_back() {
    for versions in [VersionKind::None, VersionKind::default()] {
        let fs = origin();
        fs.configure(|s| s.versions = versions);
        let bench = Bench::new(&fs, Some(MemCache::new()));
        let file = open(&bench, "f", &rw());
        // Valid, so that the next read starts its fetch at once.
        drop(read(&file, 2 * MIB as u64, 10));
        let gate = Gate::new();
        fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue).times(1));
        let mut buf = [0; 4096];
        // The reader goes away, its fetch does not.
        assert!(file.read_at(0, &mut buf).now_or_never().is_none());
        gate.wait_hit();
        direct(&file, 10, b"newer").expect("write");
        gate.release();
        pollster::block_on(bench.netfs().settled());
        assert_eq!(read(&file, 10, 5), b"newer", "{versions:?}");
        bench.drain();
        bench.netfs().drop_memory();
        assert_eq!(read(&file, 10, 5), b"newer", "nor on disk");
        drop(file);
        bench.shutdown();
    }
}

#[test]
fn what_the_server_loses_before_the_commit_is_sent_again() {
    let fs = origin();
    fs.configure(|s| (s.unstable, s.limits.wsize) = (true, 4096));
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Commit).hold(&gate, SnapshotAt::Release).times(1));
    std::thread::scope(|s| {
        let writer = s.spawn(|| direct(&file, 100, &[9; 10_000]));
        gate.wait_hit();
        drop(fs.restart_server());
        gate.release();
        assert_eq!(writer.join().expect("no panic").expect("write"), 10_000);
    });
    fs.verify("f", 100, &[9; 10_000]).expect("there");
    assert!(!fs.has_uncommitted());
    assert_eq!(read(&file, 100, 10_000), [9; 10_000]);
    drop(file);
    bench.shutdown();
}

#[test]
fn a_lost_reply_leaves_no_doubt_about_what_is_read_afterwards() {
    for size in ["f", "empty"] {
        let fs = origin();
        let bench = Bench::new(&fs, Some(MemCache::new()));
        let file = open(&bench, size, &rw());
        drop(read(&file, 0, MIB));
        fs.inject(Fault::on(Op::Write).lost_reply().times(1));
        assert_eq!(errno(direct(&file, 100, b"perhaps")), Errno::ETIMEDOUT);
        assert_eq!(read(&file, 100, 7), b"perhaps", "it was done");
        bench.check(size, 0, MIB);
        drop(file);
        bench.shutdown();
    }
}

#[test]
fn n_c39_direct_and_buffered_writers_of_the_same_bytes_leave_one_of_them() {
    let fs = origin();
    fs.configure(|s| s.limits.wsize = 2048);
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    std::thread::scope(|s| {
        for thread in 0..4u8 {
            let file = &file;
            s.spawn(move || {
                for round in 0..50 {
                    let bytes = [thread * 50 + round; 6000];
                    let n = if thread < 2 {
                        direct(file, 1000, &bytes)
                    } else {
                        file.blocking().write_at(1000, &bytes)
                    };
                    assert_eq!(n.expect("write"), bytes.len());
                    if thread == 3 {
                        file.blocking().fsync().expect("fsync");
                    }
                }
            });
        }
    });
    let here = read(&file, 1000, 6000);
    assert!(here.iter().all(|b| *b == here[0]), "one write's bytes");
    file.blocking().fsync().expect("fsync");
    fs.verify("f", 1000, &here).expect("the same on the server");
    assert_eq!(fs.take_breaches(), Vec::<String>::new());
    drop(file);
    bench.shutdown();
}
