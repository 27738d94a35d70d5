//! Callers that keep a call without polling it: a `select!` that went another way, a task that is blocked. Whatever
//! they keep, uploads, readers and changes of the file go on. The clock stands: who waited for them would wait for
//! ever.

use std::task::Context;

use futures_util::task::noop_waker_ref;
use shuttle::{
    rand::{Rng, thread_rng},
    thread,
};

use super::{
    writers::{A, B, all_is_well, fsync, join, read, write},
    *,
};
use crate::WriteOptions;

/// Polls `call` now and then, and keeps it as it is while `others` are at work.
fn keeping(polls: usize, call: impl Future, others: impl FnOnce()) {
    let mut call = Box::pin(call);
    for _ in 0..thread_rng().gen_range(1..=polls) {
        if call.as_mut().poll(&mut Context::from_waker(noop_waker_ref())).is_ready() {
            break;
        }
        thread::yield_now();
    }
    others();
}

/// One round after the other, for the kept call to be queued behind.
fn uploading(world: &World, rounds: u64) -> thread::JoinHandle<()> {
    let file = world.open();
    thread::spawn(move || {
        for i in 0..rounds {
            write(&file, i * 10, 10, A);
            fsync(&file);
        }
    })
}

/// `kept` is called with a file, and its call kept, while others read, write and upload.
fn stops_nobody(kept: impl AsyncFn(&File) + Send + Sync + Copy + 'static) {
    explore(300, move || {
        let world = World::new(2, PAGE, Answers::Whole);
        read(&world.open(), 0, PAGE);
        let uploads = uploading(&world, 2);
        let (file, other) = (world.open(), world.open());
        keeping(12, kept(&file), || {
            write(&other, 500, 10, B);
            fsync(&other);
            read(&other, 0, 100);
            block_on(other.set_len(PAGE)).expect("nothing fails");
            read(&other, 0, PAGE);
        });
        join([uploads]);
        all_is_well(&world);
    });
}

#[test]
fn w7_a_cut_that_is_kept_unpolled_stops_nobody() {
    stops_nobody(async |file| file.set_len(PAGE + 1000).await.expect("nothing fails"));
}

#[test]
fn w7_a_direct_write_that_is_kept_unpolled_stops_nobody() {
    stops_nobody(async |file| {
        let written = file.write_at_with(0, &[B; 100], WriteOptions::unbuffered()).await;
        assert_eq!(written.expect("nothing fails"), 100);
    });
}

#[test]
fn w7_a_discard_that_is_kept_unpolled_stops_nobody() {
    stops_nobody(async |file| assert_eq!(file.discard_dirty().await.expect("nothing fails"), 0));
}

#[test]
fn w7_an_fsync_that_is_kept_unpolled_stops_nobody() {
    stops_nobody(async |file| file.fsync().await.expect("nothing fails"));
}

#[test]
fn n_c39_an_unbuffered_read_that_is_kept_unpolled_stops_nobody() {
    use crate::{MemoryUse, ReadOptions};
    stops_nobody(async |file| {
        let options = ReadOptions { memory: MemoryUse::Bypass, unbuffered: true };
        file.read_at_with(0, &mut [0; 100], options).await.expect("nothing fails");
    });
}

/// It has the file's write lock, perhaps; but neither its turn nor a mode that readers wait for.
#[test]
fn w7_a_write_that_is_kept_unpolled_stops_neither_uploads_nor_readers() {
    for level in [crate::file::Sync::None, crate::file::Sync::Data] {
        explore(300, move || {
            let world = World::new(2, PAGE, Answers::Whole);
            let (file, other) = (world.open(), world.open());
            write(&other, 0, 100, A);
            let uploads = {
                let file = world.open();
                thread::spawn(move || fsync(&file))
            };
            let options = WriteOptions { sync: level, ..WriteOptions::default() };
            keeping(12, file.write_at_with(50, &[B; 100], options), || {
                read(&other, 0, 2 * PAGE);
                fsync(&other);
            });
            join([uploads]);
            all_is_well(&world);
        });
    }
}

/// Overtaken so often that it queues for the file's turn, or has it.
#[test]
fn p_d71_a_read_that_is_kept_while_it_waits_for_uploads_stops_nobody() {
    explore(300, || {
        let world = World::new(2, PAGE, Answers::Whole);
        world.origin.states_before(false);
        let uploads = uploading(&world, 8);
        let (file, other) = (world.open(), world.open());
        keeping(100, async { read_all(&file).await }, || {
            write(&other, 500, 10, B);
            fsync(&other);
        });
        join([uploads]);
        all_is_well(&world);
    });
}

async fn read_all(file: &File) {
    let mut buf = [0; 2 * PAGE as usize];
    file.read_at(0, &mut buf).await.expect("nothing fails");
}
