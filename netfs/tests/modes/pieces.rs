//! Writes in pieces, of shared bytes, at the end; hints.

use std::io::IoSlice;

use bytes::Bytes;
use netfs::{Errno, OpenOptions, WriteOptions};
use netfs_memory::{Fault, Op};

use crate::{
    common::Bench,
    tools::{MIB, errno, open, origin, read, rw},
};

#[test]
fn pieces_come_one_after_the_other_in_memory_and_past_it() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    let (a, b) = (vec![1; 5000], vec![2; 2 * MIB]);
    let parts = [IoSlice::new(&a), IoSlice::new(&[]), IoSlice::new(&b), IoSlice::new(b"end")];
    let mut whole = [&a[..], &b[..], b"end"].concat();
    for options in [WriteOptions::default(), WriteOptions::unbuffered()] {
        let n = file.blocking().write_vectored_at(77, &parts, options).expect("write");
        assert_eq!(n, whole.len());
        assert_eq!(read(&file, 77, whole.len()), whole);
        file.blocking().fsync().expect("fsync");
        fs.verify("f", 77, &whole).expect("on the server");
        fs.change("f").silently().write(77, vec![0; whole.len()]).expect("undone");
        file.invalidate();
    }
    assert_eq!(
        file.blocking().write_vectored_at(0, &[], WriteOptions::default()).expect("none"),
        0
    );
    whole.truncate(1);
    drop(file);
    bench.shutdown();
}

#[test]
fn shared_bytes_are_written_as_they_are_and_never_written_to() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    let bytes = Bytes::from(vec![9; 3 * 4096]);
    for options in [WriteOptions::default(), WriteOptions::unbuffered()] {
        let n = file.blocking().write_bytes_at(4096, bytes.clone(), options).expect("write");
        assert_eq!(n, bytes.len());
        file.blocking().write_at(5000, b"over it").expect("write");
        assert_eq!(read(&file, 4999, 9), b"\x09over it\x09");
        assert!(bytes.iter().all(|b| *b == 9), "the caller's bytes");
        file.blocking().fsync().expect("fsync");
        fs.verify("f", 4999, b"\x09over it\x09").expect("on the server");
    }
    drop(file);
    bench.shutdown();
}

#[test]
fn an_append_says_how_much_of_it_went_in() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "empty", &OpenOptions::new().append(true).read(true));
    assert_eq!(file.blocking().append(b"12345").expect("append"), 0..5);
    // An offset means nothing to a file that is appended to.
    assert_eq!(file.blocking().write_at(0, b"678").expect("write"), 3);
    assert_eq!(file.blocking().append(b"").expect("append"), 8..8);
    assert_eq!(read(&file, 0, 100), b"12345678");
    file.blocking().fsync().expect("fsync");
    // A server that has room for some of it.
    fs.configure(|s| s.quota_bytes = Some(3 * MIB as u64 + 10_000));
    let raw = open(&bench, "empty", &OpenOptions::new().append(true).direct(true));
    assert_eq!(raw.blocking().append(&[7; 20_000]).expect("some of it"), 8..10_000);
    assert_eq!(errno(raw.blocking().append(b"more")), Errno::ENOSPC, "the next one says why");
    assert_eq!(fs.size("empty").expect("empty"), 10_000);
    drop((file, raw));
    bench.shutdown();
}

#[test]
fn a_hint_starts_writeback_of_its_range_and_waits_for_nothing() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    file.blocking().write_at(0, b"one").expect("write");
    file.blocking().write_at(MIB as u64, b"two").expect("write");
    let gate = netfs_memory::Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, netfs_memory::SnapshotAt::Release).times(1));
    file.start_writeback(0, 100).expect("a hint");
    fs.wait_until(|c, _| c.calls(Op::Write) == 1);
    gate.release();
    file.blocking().flush_range(0, 100).expect("waits for it");
    fs.verify("f", 0, b"one").expect("there");
    assert_eq!(fs.counts().calls(Op::Write), 1, "once");
    assert_eq!(bench.netfs().memory().dirty, 3, "and not the rest");
    drop(file);
    bench.shutdown();
}
