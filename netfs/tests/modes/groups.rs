//! Write groups: what comes to the server's stable storage before what.

use std::sync::Arc;

use futures_util::FutureExt;
use netfs::{Errno, File, Sync, WriteGroup, WriteOptions};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use crate::{
    common::Bench,
    tools::{errno, open, origin, read, rw},
};

fn write(file: &File, offset: u64, bytes: &[u8], group: &WriteGroup) {
    let n = file.blocking().write_at_with(offset, bytes, WriteOptions::in_group(group));
    assert_eq!(n.expect("write"), bytes.len());
}

/// Writes and commits since the last time, in the order they were asked for.
fn sent(fs: &Arc<MemoryFs>) -> Vec<(Op, u64)> {
    let calls = fs.take_calls().into_iter();
    let ours = calls.filter(|c| matches!(c.op, Op::Write | Op::Commit));
    ours.map(|c| (c.op, c.range.map_or(0, |r| r.start))).collect()
}

#[test]
fn n_c29_a_group_is_on_stable_storage_before_a_later_one_is_sent() {
    for unstable in [false, true] {
        let fs = origin();
        fs.configure(|s| s.unstable = unstable);
        let bench = Bench::new(&fs, None);
        let file = open(&bench, "f", &rw());
        let (one, two, three) = (file.write_group(), file.write_group(), file.write_group());
        // Behind each other in the file they lie the other way round, in two runs each: so that no call
        // is stable by itself.
        for (group, at) in [(&one, 2_000_000), (&two, 1_000_000), (&three, 0)] {
            write(&file, at, b"a", group);
            write(&file, at + 300_000, b"b", group);
        }
        drop(sent(&fs));
        file.blocking().fsync().expect("fsync");
        let order = sent(&fs);
        let mut left = &order[..];
        for at in [2_000_000, 1_000_000, 0] {
            let (group, rest) = left.split_at(2 + usize::from(unstable));
            let mut writes: Vec<_> =
                group.iter().filter(|c| c.0 == Op::Write).map(|c| c.1).collect();
            writes.sort_unstable();
            assert_eq!(writes, [at, at + 300_000], "{order:?}");
            assert_eq!(group.last().expect("some").0 == Op::Commit, unstable, "{order:?}");
            left = rest;
        }
        assert!(left.is_empty());
        drop((file, one, two, three));
        bench.shutdown();
    }
}

#[test]
fn n_c29_nothing_of_a_later_group_is_sent_while_an_earlier_one_cannot_be() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    let (one, two) = (file.write_group(), file.write_group());
    write(&file, 500_000, b"first", &one);
    write(&file, 0, b"second", &two);
    let range = 500_000..500_005;
    let fault = fs.inject(Fault::on(Op::Write).range(range).errno(Errno::EIO).always());
    assert_eq!(errno(file.blocking().fsync()), Errno::EIO);
    // Nor by a flush that asks for the second's range alone.
    assert_eq!(errno(file.blocking().flush_range(0, 6)), Errno::EIO);
    assert_eq!(errno(pollster::block_on(bench.netfs().sync())), Errno::EIO);
    assert!(fs.verify("f", 0, b"second").is_err());
    assert!(sent(&fs).iter().all(|(_, at)| *at == 500_000));
    fs.remove_fault(&fault);
    file.blocking().flush_range(0, 6).expect("both");
    fs.verify("f", 500_000, b"first").expect("before it");
    fs.verify("f", 0, b"second").expect("asked for");
    drop((file, one, two));
    bench.shutdown();
}

#[test]
fn n_c29_a_folio_of_an_earlier_group_is_flushed_before_it_is_written_to() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    let (zero, one, two) = (file.write_group(), file.write_group(), file.write_group());
    write(&file, 900_000, b"zero", &zero);
    write(&file, 100, b"one", &one);
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::EDQUOT).times(1));
    // What is in the way cannot be sent, so nothing is written.
    let refused = file.blocking().write_at_with(101, b"two", WriteOptions::in_group(&two));
    assert_eq!(errno(refused), Errno::EDQUOT);
    fs.remove_fault(&fault);
    file.blocking().fsync().expect("it was not for long");
    write(&file, 100, b"one", &one);
    let last = file.write_group();
    write(&file, 101, b"two", &last);
    fs.verify("f", 900_000, b"zero").expect("before it");
    fs.verify("f", 100, b"one").expect("before it");
    assert_eq!(read(&file, 100, 4), b"otwo");
    file.blocking().fsync().expect("fsync");
    fs.verify("f", 100, b"otwo").expect("after it");
    drop((file, zero, one, two, last));
    bench.shutdown();
}

#[test]
fn n_c29_what_is_on_its_way_still_belongs_to_its_group() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    let (one, two) = (file.write_group(), file.write_group());
    write(&file, 100, b"one", &one);
    let gate = Gate::new();
    let late = Fault::on(Op::Write).hold(&gate, SnapshotAt::Release).errno(Errno::EIO);
    fs.inject(late.times(1));
    std::thread::scope(|s| {
        let sync = s.spawn(|| file.blocking().fsync());
        gate.wait_hit();
        let mut second = Box::pin(file.write_at_with(101, b"two", WriteOptions::in_group(&two)));
        // It waits for the first group's upload, which fails, and sends that group again.
        assert!((&mut second).now_or_never().is_none(), "not into a folio of the first group");
        gate.release();
        assert_eq!(errno(sync.join().expect("no panic")), Errno::EIO);
        pollster::block_on(second).expect("write");
    });
    fs.verify("f", 100, b"one").expect("before anything of the second");
    file.blocking().fsync().expect("fsync");
    fs.verify("f", 100, b"otwo").expect("after it");
    drop((file, one, two));
    bench.shutdown();
}

#[test]
fn n_c42_flushing_a_group_sends_it_and_those_before_and_nothing_else() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    let (one, two, three) = (file.write_group(), file.write_group(), file.write_group());
    for (group, at) in [(&one, 2_000_000), (&two, 1_000_000), (&three, 0)] {
        write(&file, at, b"12345", group);
    }
    file.blocking().write_at(500_000, b"none").expect("write");
    two.blocking_flush().expect("flush");
    assert_eq!(bench.netfs().memory().dirty, 5 + 4);
    assert_eq!(sent(&fs), [(Op::Write, 2_000_000), (Op::Write, 1_000_000)]);
    two.blocking_flush().expect("again: nothing is left");
    assert_eq!(sent(&fs), []);
    drop((file, one, two, three));
    bench.shutdown();
}

#[test]
fn writes_past_the_caches_and_synchronous_ones_keep_the_order_of_groups_too() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    let groups: Vec<WriteGroup> = (0..4).map(|_| file.write_group()).collect();
    write(&file, 2_000_000, b"one", &groups[0]);
    let direct = WriteOptions { unbuffered: true, ..WriteOptions::in_group(&groups[1]) };
    file.blocking().write_at_with(1_000_000, b"two", direct).expect("direct");
    assert_eq!(sent(&fs), [(Op::Write, 2_000_000), (Op::Write, 1_000_000)]);
    write(&file, 600_000, b"three", &groups[2]);
    let synced = WriteOptions { sync: Sync::Data, ..WriteOptions::in_group(&groups[3]) };
    file.blocking().write_at_with(0, b"four", synced).expect("sync");
    assert_eq!(sent(&fs), [(Op::Write, 600_000), (Op::Write, 0)]);
    drop((file, groups));
    bench.shutdown();
}

#[test]
fn a_group_is_not_over_before_anything_of_a_later_one_is_written() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    let (one, two) = (file.write_group(), file.write_group());
    write(&file, 0, b"a", &one);
    let fault = fs.inject(Fault::on(Op::Validate).errno(Errno::EIO).always());
    drop(fs.send_break("f").expect("there"));
    let refused = file.blocking().write_at_with(100, b"b", WriteOptions::in_group(&two));
    assert_eq!(errno(refused), Errno::EIO);
    fs.remove_fault(&fault);
    write(&file, 1, b"a", &one);
    // Nor by one that was given up before it had room, or before what comes first was sent.
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Validate).hold(&gate, SnapshotAt::Issue).times(1));
    drop(fs.send_break("f").expect("there"));
    let mut given_up = Box::pin(file.write_at_with(100, b"b", WriteOptions::in_group(&two)));
    assert!((&mut given_up).now_or_never().is_none(), "the server does not answer");
    drop(given_up);
    gate.release();
    write(&file, 2, b"a", &one);
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::EDQUOT).times(1));
    let direct = WriteOptions { unbuffered: true, ..WriteOptions::in_group(&two) };
    assert_eq!(errno(file.blocking().write_at_with(100, b"b", direct)), Errno::EDQUOT);
    fs.remove_fault(&fault);
    file.blocking().fsync().expect("fsync");
    write(&file, 3, b"a", &one);
    write(&file, 100, b"b", &two);
    let late = file.blocking().write_at_with(2, b"a", WriteOptions::in_group(&one));
    assert_eq!(errno(late), Errno::EINVAL);
    drop((file, one, two));
    bench.shutdown();
}
