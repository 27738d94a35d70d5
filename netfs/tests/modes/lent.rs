//! Bytes that the caller lends: they are the folios.

use bytes::Bytes;
use netfs::{Advice, File, WriteOptions, fscache::MemCache};
use netfs_memory::{Fault, Gate, Op, SnapshotAt};

use crate::{
    common::Bench,
    tools::{MIB, open, origin, read, rw},
};

fn lend(file: &File, offset: u64, bytes: &Bytes) {
    let wrote = file.blocking().write_bytes_at(offset, bytes.clone(), WriteOptions::default());
    assert_eq!(wrote.expect("write"), bytes.len());
}

/// Bytes without a pattern in them, other ones for each seed.
fn some(seed: u32, len: usize) -> Bytes {
    (0..len as u32).map(|i| (i.wrapping_mul(seed * 2 + 0x9e37_79b1) >> 24) as u8).collect()
}

/// How many of the file's bytes at `offset` are those of `bytes`, in the very same memory.
fn same_memory(file: &File, offset: u64, bytes: &Bytes) -> usize {
    let (mut at, mut same) = (0, 0);
    for slice in file.blocking().read_slices(offset, bytes.len() as u64).expect("read") {
        assert_eq!(slice[..], bytes[at..at + slice.len()], "at {at}");
        same += if slice.as_ptr() == bytes[at..].as_ptr() { slice.len() } else { 0 };
        at += slice.len();
    }
    assert_eq!(at, bytes.len());
    same
}

#[test]
fn lent_bytes_are_the_folios_and_are_given_back_when_those_are_gone() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "empty", &rw());
    let bytes = some(1, MIB);
    lend(&file, 0, &bytes);
    assert_eq!(same_memory(&file, 0, &bytes), MIB, "no byte was copied");
    let memory = bench.netfs().memory();
    assert_eq!((memory.dirty, memory.indexed), (MIB as u64, MIB as u64), "they count all the same");
    assert_eq!(bench.stats().write_lent_bytes, MIB as u64);
    file.blocking().fsync().expect("fsync");
    fs.verify("empty", 0, &bytes).expect("on the server");
    assert_eq!(same_memory(&file, 0, &bytes), MIB, "clean now, and the same");
    // Who reads holds the buffer.
    let held = file.blocking().read_slices(0, 10).expect("read");
    file.blocking().evict(0, 0).expect("evict");
    assert_eq!(bench.netfs().memory().indexed, 0);
    assert!(!bytes.is_unique());
    assert_eq!(held[0][..], bytes[..10]);
    drop(held);
    file.blocking().evict(0, 0).expect("evict");
    assert!(bytes.is_unique(), "the buffer is the caller's alone");
    assert_eq!(bench.netfs().memory().budgeted, 0, "and its room is free");
    assert_eq!(read(&file, 0, MIB), bytes, "from the server");
    drop(file);
    bench.shutdown();
}

#[test]
fn what_covers_no_whole_folio_is_copied() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "empty", &rw());
    let bytes = some(2, MIB);
    lend(&file, 100, &bytes);
    // The first granule and what is in the last page.
    assert_eq!(same_memory(&file, 100, &bytes), MIB - 256 * 1024);
    let small = some(3, 12 * 1024);
    lend(&file, 2 * MIB as u64, &small);
    assert_eq!(same_memory(&file, 2 * MIB as u64, &small), 0, "not worth it");
    file.blocking().fsync().expect("fsync");
    fs.verify("empty", 100, &bytes).expect("on the server");
    drop(file);
    bench.shutdown();
}

#[test]
fn w_1_lent_bytes_are_replaced_by_later_writes_while_they_are_read_and_sent() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    assert_eq!(read(&file, 0, 4096).len(), 4096, "some of it is there");
    let (old, new) = (some(4, MIB), some(5, MIB));
    lend(&file, 0, &old);
    let before = file.blocking().read_slices(0, MIB as u64).expect("read");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Release).times(1));
    std::thread::scope(|s| {
        let sync = s.spawn(|| file.blocking().fsync());
        fs.wait_until(|counts, _| counts.calls(Op::Write) > 0);
        // Over all of it, and into what has just been lent.
        lend(&file, 0, &new);
        file.blocking().write_at(300_000, b"over it").expect("write");
        gate.release();
        sync.join().expect("no panic").expect("fsync");
    });
    assert!(before.iter().flat_map(|s| s.iter()).eq(old.iter()), "a reader keeps what it has");
    let mut whole = new.to_vec();
    whole[300_000..300_007].copy_from_slice(b"over it");
    assert_eq!(read(&file, 0, MIB), whole);
    file.blocking().fsync().expect("fsync");
    fs.verify("f", 0, &whole).expect("on the server");
    assert_eq!((&old, &new), (&some(4, MIB), &some(5, MIB)), "nobody wrote to the caller's bytes");
    drop(before);
    file.blocking().evict(0, 0).expect("evict");
    assert!(old.is_unique() && new.is_unique());
    drop(file);
    bench.shutdown();
}

#[test]
fn n_c40_lent_bytes_come_to_the_disk_cache_too() {
    let fs = origin();
    let bench = Bench::new(&fs, Some(MemCache::new()));
    let file = open(&bench, "f", &rw());
    // Out of the middle: nothing of a folio is aligned in memory.
    let bytes = some(6, MIB + 1).slice(1..);
    lend(&file, MIB as u64, &bytes);
    file.blocking().fsync().expect("fsync");
    bench.drain();
    bench.netfs().drop_memory();
    let sent = fs.counts().calls(Op::Read);
    assert_eq!(read(&file, MIB as u64, MIB), bytes);
    assert_eq!(fs.counts().calls(Op::Read), sent, "from the disk");
    drop(file);
    bench.shutdown();
}

/// What ends with a buffer may use the library: no lock is held.
#[test]
fn a_lent_buffer_ends_where_no_lock_is_held() {
    struct Owner(Vec<u8>, Option<File>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            let file = self.1.take().expect("once");
            // Both look at the index, the second one exclusively.
            let _ = file.try_read(0, &mut [0; 10]);
            file.advise(0, 0, Advice::DontNeed).expect("a hint");
        }
    }
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    file.blocking().write_at(0, &[1; 16]).expect("write");
    for _ in 0..2 {
        let owner = Owner(vec![3; 256 * 1024], Some(open(&bench, "f", &rw())));
        lend(&file, MIB as u64, &Bytes::from_owner(owner));
        assert_eq!(read(&file, 0, 10), [1; 10]);
        // One under an exchange, one under a cut.
        file.blocking().write_at(MIB as u64, &[4; 256 * 1024]).expect("write");
        file.blocking().fsync().expect("fsync");
        let owner = Owner(vec![3; 256 * 1024], Some(open(&bench, "f", &rw())));
        lend(&file, MIB as u64, &Bytes::from_owner(owner));
        file.blocking().set_len(MIB as u64).expect("cut");
    }
    assert_eq!(read(&file, 0, 10), [1; 10]);
    file.blocking().evict(0, 0).expect("evict");
    drop(file);
    bench.shutdown();
}
