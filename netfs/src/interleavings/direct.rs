//! Writes past the caches, beside everything that goes through them.

use futures_util::future::BoxFuture;
use shuttle::thread;

use super::{
    writers::{A, B, all_is_well, at, fsync, join, read, write},
    *,
};
use crate::{ReadOptions, WriteOptions, fscache::MemCache};

fn direct<'a>(file: &'a File, offset: u64, bytes: &'a [u8]) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        let written = file.write_at_with(offset, bytes, WriteOptions::unbuffered()).await;
        assert_eq!(written.expect("nothing fails"), bytes.len());
    })
}

/// N-C38, N-C39: of two writes to the same bytes one comes last, in memory, on the server and in the disk
/// cache; no reader sees a direct write undone.
fn beside_everything(world: World) {
    drop(read(&world.open(), 0, PAGE));
    let direct_writer = {
        let file = world.open();
        thread::spawn(move || {
            block_on(direct(&file, 1000, &[A; 5000]));
            let seen = read(&file, 1000, 5000);
            assert!(seen.iter().all(|b| *b == A || *b == B), "neither undone nor mixed with older");
        })
    };
    let buffered = {
        let file = world.open();
        thread::spawn(move || {
            write(&file, 2000, 1000, B);
            fsync(&file);
        })
    };
    let reading = {
        let file = world.open();
        thread::spawn(move || {
            let first = read(&file, 1000, 100);
            let then = read(&file, 1000, 100);
            assert!(first != [A; 100] || then == [A; 100], "it was there already");
        })
    };
    join([direct_writer, buffered, reading]);
    all_is_well(&world);
    let bytes = world.origin.bytes();
    assert_eq!(at(&bytes, 1000, 1000), [A; 1000]);
    assert_eq!(at(&bytes, 3000, 3000), [A; 3000]);
    let contested = at(&bytes, 2000, 1000);
    assert!(contested == [A; 1000] || contested == [B; 1000]);
}

#[test]
fn n_c39_a_direct_write_beside_a_buffered_one_and_a_reader() {
    explore(400, || beside_everything(World::new(2, PAGE, Answers::Paged)));
}

#[test]
fn n_c38_a_direct_write_with_readahead_and_a_disk_cache_below() {
    explore(400, || {
        beside_everything(World::ahead(4, PAGE, Answers::Whole, Some(MemCache::new())))
    });
}

/// A writer that waits for an upload is in no mode: an unbuffered reader beside it, and the buffered readers behind
/// that one, do not wait for a server that does not answer.
#[test]
fn n_c39_a_writer_that_waits_for_an_upload_stops_no_reader() {
    explore(400, || {
        let world = World::new(2, PAGE, Answers::Whole);
        drop(read(&world.open(), 0, 2 * PAGE));
        world.origin.hang_writes(true);
        let writing = {
            let file = world.open();
            thread::spawn(move || {
                let groups = [file.write_group(), file.write_group()];
                // The second one has the first uploaded.
                for group in &groups {
                    let options = WriteOptions::in_group(group);
                    block_on(file.write_at_with(0, &[A; 10], options)).expect("nothing fails");
                }
            })
        };
        let unbuffered = {
            let file = world.open();
            thread::spawn(move || {
                let options = ReadOptions { unbuffered: true, ..ReadOptions::default() };
                let mut buf = [0; 10];
                let read = block_on(file.read_at_with(PAGE, &mut buf, options));
                assert_eq!(read.expect("nothing fails"), 10);
            })
        };
        let file = world.open();
        assert_eq!(read(&file, PAGE, 10), content(1, PAGE, 10));
        world.origin.hang_writes(false);
        join([writing, unbuffered]);
        all_is_well(&world);
    });
}
