//! Writers beside readers, fetches, uploads, cuts, changes by others, eviction, and the end.
//!
//! What is written is told from what a version of the file has: no version has a byte above 251.

use shuttle::thread;

use super::*;
use crate::{
    error::Errno,
    writeback::flush::{Wait, flush, quiesce},
};

pub(super) const A: u8 = 252;
pub(super) const B: u8 = 253;
const C: u8 = 254;

pub(super) fn write(file: &File, offset: u64, len: u64, byte: u8) {
    let n = block_on(file.write_at(offset, &vec![byte; len as usize])).expect("nothing fails");
    assert_eq!(n as u64, len, "short at {offset}+{len}");
}

pub(super) fn read(file: &File, offset: u64, len: u64) -> Vec<u8> {
    let mut buf = vec![0; len as usize];
    let n = block_on(file.read_at(offset, &mut buf)).expect("nothing fails");
    buf.truncate(n);
    buf
}

pub(super) fn fsync(file: &File) {
    block_on(file.fsync()).expect("nothing fails");
}

pub(super) fn at(bytes: &[u8], offset: u64, len: u64) -> &[u8] {
    &bytes[offset as usize..(offset + len) as usize]
}

/// Nobody is at work any more: all is on the server, nothing is counted as dirty, and a reader gets what
/// the server has, from memory and past it.
pub(super) fn all_is_well(world: &World) {
    let file = world.open();
    fsync(&file);
    let bytes = world.origin.bytes();
    assert_eq!(world.netfs.memory().dirty, 0);
    assert!(world.mount.root().inode.core.folios.room().is_empty(), "all room is back");
    assert_eq!(read(&file, 0, bytes.len() as u64 + 1), bytes, "memory and server differ");
    assert_eq!(file.sizes().i_size, bytes.len() as u64);
    world.evict();
    assert_eq!(read(&file, 0, bytes.len() as u64 + 1), bytes, "evicted and fetched again");
}

pub(super) fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|t| t.join().expect("no panic"));
}

/// Two writers whose ranges overlap, a reader that never sees a byte go back, and fetches of the pages
/// that are written to.
#[test]
fn w7_n_c19_two_writers_and_a_reader_agree_on_every_byte() {
    for answers in [Answers::Whole, Answers::Paged, Answers::Short] {
        explore(400, move || {
            let world = World::new(2, PAGE, answers);
            let files = [(world.open(), 100, 3000, A), (world.open(), 2000, 4000, B)];
            let writers = files.map(|(file, offset, len, byte)| {
                thread::spawn(move || write(&file, offset, len, byte))
            });
            let file = world.open();
            let (first, second) = (read(&file, 0, 2 * PAGE), read(&file, 0, 2 * PAGE));
            for (i, (one, two)) in first.iter().zip(&second).enumerate() {
                assert!(*one < A || *two >= A, "byte {i} went back");
                let known = *one >= A || *one == content(1, i as u64, 1)[0];
                assert!(known, "byte {i} is {one}");
            }
            join(writers);
            let now = read(&file, 0, 2 * PAGE);
            all_is_well(&world);
            assert_eq!(world.origin.bytes(), now);
            assert_eq!(at(&now, 100, 1900), [A; 1900]);
            assert_eq!(at(&now, 3100, 2900), [B; 2900]);
            let both = at(&now, 2000, 1100);
            assert!(both.iter().all(|b| *b == both[0]), "one after the other");
            assert_eq!(at(&now, 0, 100), content(1, 0, 100));
        });
    }
}

/// N-C24: a write to bytes that are on their way is sent, too; what an fsync that began after a write says
/// is on the server is.
#[test]
fn w1_w5_an_fsync_covers_the_writes_before_it_and_no_later_one_is_lost() {
    for answers in [Answers::Whole, Answers::Short] {
        explore(400, move || {
            let world = World::new(2, 1000, answers);
            write(&world.open(), 0, PAGE + 100, A);
            let syncing = {
                let (file, origin) = (world.open(), Arc::clone(&world.origin));
                thread::spawn(move || {
                    fsync(&file);
                    let bytes = origin.bytes();
                    assert!(at(&bytes, 0, PAGE + 100).iter().all(|b| *b >= A));
                })
            };
            let file = world.open();
            write(&file, 500, PAGE, B);
            assert_eq!(read(&file, 500, PAGE), vec![B; PAGE as usize]);
            fsync(&file);
            assert_eq!(at(&world.origin.bytes(), 500, PAGE), vec![B; PAGE as usize]);
            join([syncing]);
            all_is_well(&world);
            assert_eq!(at(&world.origin.bytes(), 0, 500), [A; 500]);
        });
    }
}

/// A round that waits for nobody (sync-none) goes away where another one is under way; with one that hangs it would
/// wait for ever.
#[test]
fn n_c36_a_round_that_waits_for_nobody_passes_a_busy_file_by() {
    explore(200, || {
        let world = World::new(1, PAGE, Answers::Whole);
        write(&world.open(), 0, 100, A);
        let inode = Arc::clone(&world.mount.root().inode);
        let turn = block_on(quiesce(&inode));
        block_on(flush(&inode, 0..u64::MAX, Wait::No)).expect("passed by");
        assert_eq!(inode.pages.dirty_bytes(), 100);
        drop(turn);
        all_is_well(&world);
    });
}

/// Who sees the file's new end reads what was written up to it.
#[test]
fn n_c37_the_size_never_runs_ahead_of_the_bytes() {
    explore(400, || {
        let world = World::new(1, PAGE, Answers::Whole);
        let (file, end) = (world.open(), 2 * PAGE + 100);
        let writing = thread::spawn(move || write(&file, PAGE, PAGE + 100, A));
        let file = world.open();
        let size = file.sizes().i_size;
        let bytes = read(&file, PAGE, size.saturating_sub(PAGE));
        assert!(size <= end && bytes.iter().all(|b| *b == A), "{size}: {bytes:?}");
        join([writing]);
        all_is_well(&world);
    });
}

/// Slices and pages a reader has do not change, whatever is written; eviction takes nothing dirty.
#[test]
fn w2_w4_slices_keep_their_bytes_and_eviction_takes_nothing_dirty() {
    explore(600, || {
        let world = World::new(3, 3 * PAGE, Answers::Whole);
        let reading = {
            let file = world.open();
            thread::spawn(move || {
                let slices = block_on(file.read_slices(0, 2 * PAGE)).expect("nothing fails");
                let now: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
                thread::yield_now();
                read(&file, PAGE, 2 * PAGE);
                let later: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
                assert_eq!(now, later);
            })
        };
        let writing = {
            let file = world.open();
            thread::spawn(move || {
                write(&file, 1000, PAGE, A);
                fsync(&file);
                write(&file, 2000, 100, B);
            })
        };
        world.evict();
        let file = world.open();
        write(&file, 2 * PAGE + 7, 10, C);
        world.evict();
        assert_eq!(read(&file, 2 * PAGE + 7, 10), [C; 10]);
        join([reading, writing]);
        all_is_well(&world);
        let bytes = world.origin.bytes();
        assert_eq!(at(&bytes, 2000, 100), [B; 100]);
        assert_eq!(at(&bytes, 2100, PAGE - 1100), vec![A; PAGE as usize - 1100]);
        assert_eq!(at(&bytes, 2 * PAGE + 7, 10), [C; 10]);
    });
}

/// A3.10, N-C73: a cut brings nothing back and loses nothing before its end, whatever is written, read and
/// uploaded beside it.
#[test]
fn n_c73_a_cut_beside_a_write_an_upload_and_a_reader() {
    explore(600, || {
        let world = World::new(2, PAGE, Answers::Paged);
        write(&world.open(), 500, PAGE, A);
        let writing = {
            let file = world.open();
            thread::spawn(move || write(&file, 3000, 100, B))
        };
        let (syncing, reading) = (world.open(), world.open());
        let syncing = thread::spawn(move || fsync(&syncing));
        let reading = thread::spawn(move || {
            let bytes = read(&reading, 0, 2 * PAGE);
            assert_eq!(at(&bytes, 500, 500), [A; 500]);
        });
        block_on(world.open().set_len(1000)).expect("nothing fails");
        join([writing, syncing, reading]);
        all_is_well(&world);
        let mut expected = content(1, 0, 500);
        expected.resize(1000, A);
        let bytes = world.origin.bytes();
        if bytes.len() > 1000 {
            expected.resize(3000, 0);
            expected.resize(3100, B);
        }
        assert_eq!(bytes, expected);
    });
}

/// A third party rewrites the file: what it has then is theirs with ours laid over it, or theirs alone;
/// memory and server agree in the end.
fn third_party(world: World) {
    read(&world.open(), 0, PAGE);
    let writing = {
        let (file, origin) = (world.open(), Arc::clone(&world.origin));
        thread::spawn(move || {
            write(&file, 1000, 100, A);
            let version = origin.version();
            fsync(&file);
            // Unless somebody came after it.
            if origin.version() <= version + 1 {
                assert_eq!(at(&origin.bytes(), 1000, 100), [A; 100]);
            }
        })
    };
    let (reader, origin) = (world.open(), Arc::clone(&world.origin));
    let reading = thread::spawn(move || {
        drop(read(&reader, 0, 2 * PAGE));
        drop(origin);
    });
    let told = world.origin.change();
    let now = read(&world.open(), PAGE, PAGE);
    assert_eq!(now, content(told, PAGE, PAGE as usize), "told of, so seen");
    join([writing, reading]);
    all_is_well(&world);
    let bytes = world.origin.bytes();
    assert_eq!(at(&bytes, 0, 1000), content(told, 0, 1000));
    let ours = at(&bytes, 1000, 100);
    assert!(ours == [A; 100] || ours == content(told, 1000, 100), "{ours:?}");
}

#[test]
fn a_third_partys_change_beside_a_write_and_its_upload() {
    explore(600, || third_party(World::new(2, PAGE, Answers::Paged)));
}

#[test]
fn n_c48_a_third_partys_change_beside_a_write_with_a_disk_cache_below() {
    explore(400, || {
        let cache = crate::fscache::MemCache::new();
        third_party(World::with(2, PAGE, Answers::Whole, Some(cache)));
    });
}

/// Writers wait for room, and readers hold all the slices they got: everybody gets on.
#[test]
fn writers_above_the_limit_wait_for_uploads_and_for_nobody_else() {
    explore(300, || {
        let world = World::build(8, 8 * PAGE, Answers::Whole, None, |b| {
            let b = b.memory_bytes(256 << 10).dirty_bytes(PAGE, 2 * PAGE);
            b.fill(FillPolicy::Exact).readahead_max(0)
        });
        let writers = [(0, A), (3 * PAGE + 5, B)].map(|(offset, byte)| {
            let file = world.open();
            thread::spawn(move || write(&file, offset, 3 * PAGE, byte))
        });
        let file = world.open();
        let slices = block_on(file.read_slices(0, 8 * PAGE)).expect("nothing fails");
        join(writers);
        assert!(world.netfs.memory().dirty <= 2 * PAGE);
        drop(slices);
        all_is_well(&world);
        let bytes = world.origin.bytes();
        assert_eq!(at(&bytes, 0, 3 * PAGE), vec![A; 3 * PAGE as usize]);
        assert_eq!(at(&bytes, 3 * PAGE + 5, 3 * PAGE), vec![B; 3 * PAGE as usize]);
    });
}

/// A write that is given up in the middle leaves no lock and takes no room with it, and what of it is in is
/// in the file.
#[test]
fn n_c11_a_writer_that_leaves_takes_nothing_with_it() {
    explore(400, || {
        let world = World::build(2, PAGE, Answers::Paged, None, |b| {
            b.dirty_bytes(100, PAGE).fill(FillPolicy::Exact).readahead_max(0)
        });
        let (leaving, staying) = (world.open(), world.open());
        let leaves = shuttle::future::spawn(async move {
            leaving.write_at(PAGE + 500, &vec![A; 4 * PAGE as usize]).await.map(drop)
        });
        let stays = thread::spawn(move || write(&staying, 10, PAGE, B));
        leaves.abort();
        drop(block_on(leaves));
        join([stays]);
        all_is_well(&world);
        let bytes = world.origin.bytes();
        assert_eq!(at(&bytes, 10, PAGE), vec![B; PAGE as usize]);
        let end = bytes.len().max(2 * PAGE as usize);
        let ours = bytes[PAGE as usize + 500..end].iter().take_while(|b| **b == A).count();
        assert!(bytes.len() == 2 * PAGE as usize || PAGE as usize + 500 + ours == bytes.len());
    });
}

/// The end: what a write or fsync was answered well for is on the server after a shutdown that left
/// nothing; nobody waits for ever after one that did.
fn end_beside_writers(clean: bool) {
    let world = World::build(2, PAGE, Answers::Whole, None, |b| {
        b.dirty_bytes(100, PAGE).fill(FillPolicy::Exact).readahead_max(0)
    });
    let files = [(world.open(), 0, A), (world.open(), PAGE, B)];
    let writers = files.map(|(file, offset, byte)| {
        thread::spawn(move || {
            let mut done = 0;
            for i in 0..2 {
                match block_on(file.write_at(offset + i * 1000, &[byte; 1000])) {
                    Ok(n) => done += n as u64,
                    Err(e) => {
                        assert_eq!(e.errno(), Errno::ESHUTDOWN, "{e:?}");
                        break;
                    }
                }
            }
            let synced = block_on(file.fsync());
            let over = |e: &crate::Error| matches!(e.errno(), Errno::ESHUTDOWN | Errno::ECANCELED);
            assert!(synced.as_ref().err().is_none_or(over), "{synced:?}");
            (offset, byte, done, synced.is_ok())
        })
    });
    let World { netfs, mount, clock, origin, ended } = world;
    let nothing_left = if clean {
        block_on(netfs.shutdown(LONG)).is_nothing()
    } else {
        drop(netfs);
        false
    };
    for writer in writers {
        let (offset, byte, done, synced) = writer.join().expect("no panic");
        if nothing_left || synced {
            assert_eq!(at(&origin.bytes(), offset, done), vec![byte; done as usize]);
        }
    }
    drop((mount, origin, clock));
    drop(ended);
}

#[test]
fn a_shutdown_beside_writers_loses_nothing_it_does_not_tell_of() {
    explore(400, || end_beside_writers(true));
}

#[test]
fn a_netfs_dropped_beside_writers_leaves_none_of_them_waiting() {
    explore(400, || end_beside_writers(false));
}
