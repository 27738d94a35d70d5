//! Writes that wait for the server (`O_DSYNC`, `O_SYNC`, write-through).

use netfs::{Durability, Errno, OpenOptions, Sync, WriteOptions};
use netfs_memory::{Fault, Op};

use crate::{
    common::Bench,
    tools::{errno, open, origin, read, rw},
};

#[test]
fn a_synchronous_write_returns_when_the_server_has_it_on_stable_storage() {
    for unstable in [false, true] {
        let fs = origin();
        fs.configure(|s| s.unstable = unstable);
        let bench = Bench::new(&fs, None);
        let opens: [(OpenOptions, bool); 6] = [
            (rw(), false),
            (rw().durability(Durability::Journal), false),
            (rw().sync(Sync::Data), true),
            (rw().sync(Sync::Full), true),
            (rw().write_through(true), true),
            (rw().durability(Durability::Remote), true),
        ];
        for (n, (options, waits)) in opens.iter().enumerate() {
            let file = open(&bench, "f", options);
            let (offset, text) = (n as u64 * 10_000, format!("write {n}"));
            file.blocking().write_at(offset, text.as_bytes()).expect("write");
            assert_eq!(fs.verify("f", offset, text.as_bytes()).is_ok(), *waits, "{options:?}");
            assert!(!fs.has_uncommitted());
            let all = WriteOptions { sync: Sync::Data, ..WriteOptions::default() };
            file.blocking().write_at_with(offset, b"and more", all).expect("write");
            fs.verify("f", offset, b"and more").expect("there");
        }
        assert_eq!(bench.netfs().memory().dirty, 0, "and each only its range: {unstable}");
        assert_eq!(fs.take_breaches(), Vec::<String>::new());
        bench.shutdown();
    }
}

#[test]
fn only_the_written_range_is_waited_for() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let (lazy, synced) = (open(&bench, "f", &rw()), open(&bench, "f", &rw().sync(Sync::Data)));
    lazy.blocking().write_at(100_000, b"later").expect("write");
    synced.blocking().write_at(0, b"now").expect("write");
    fs.verify("f", 0, b"now").expect("there");
    assert_eq!(bench.netfs().memory().dirty, 5);
    drop((lazy, synced));
    bench.shutdown();
}

#[test]
fn a_synchronous_write_that_fails_keeps_its_bytes_as_an_fsync_does() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw().sync(Sync::Full));
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::ENOSPC).always());
    assert_eq!(errno(file.blocking().write_at(10, b"kept")), Errno::ENOSPC);
    assert_eq!(read(&file, 10, 4), b"kept");
    assert_eq!(bench.netfs().memory().dirty, 4);
    assert_eq!(errno(file.blocking().write_at(0, b"more")), Errno::ENOSPC, "parked");
    assert_eq!(errno(file.blocking().fsync()), Errno::ENOSPC);
    fs.remove_fault(&fault);
    file.blocking().fsync().expect("now it works");
    fs.verify("f", 10, b"kept").expect("kept");
    file.blocking().write_at(0, b"more").expect("goes on");
    drop(file);
    bench.shutdown();
}

#[test]
fn close_uploads_unless_the_open_said_not_to() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    for flush in [false, true] {
        let file = open(&bench, "f", &rw().close_flush(flush));
        let text = format!("flush {flush}");
        file.blocking().write_at(0, text.as_bytes()).expect("write");
        pollster::block_on(file.close()).expect("close");
        assert_eq!(fs.verify("f", 0, text.as_bytes()).is_ok(), flush);
    }
    bench.shutdown();
}
