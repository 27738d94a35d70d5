//! Ends: shutdown with work in flight, and backing stores that never answer (N-C76 to N-C78).

use shuttle::thread;

use super::*;
use crate::{
    error::Errno,
    fscache::{FaultPoint, MemCache},
    sync::atomic::{AtomicBool, Ordering},
};

/// Every reader is answered: with its bytes, or that there will be none.
fn read_or_over(file: &File, offset: u64, len: u64, time_passes: bool) {
    let mut buf = vec![0; len as usize];
    match block_on(file.read_at(offset, &mut buf)) {
        Ok(n) => {
            assert_eq!(n as u64, len);
            version_of(&buf, offset, 1, 1);
        }
        Err(e) if time_passes && e.errno() == Errno::ETIMEDOUT => {}
        Err(e) => assert!(matches!(e.errno(), Errno::ESHUTDOWN | Errno::ECANCELED), "{e:?}"),
    }
}

fn shutdown_beside_readers(answers: Answers, clean: bool) {
    let cache = MemCache::new();
    let world = World::with(4, 2 * PAGE, answers, Some(cache));
    let files = [world.open(), world.open()];
    let readers: Vec<_> = files
        .into_iter()
        .map(|file| {
            thread::spawn(move || {
                read_or_over(&file, PAGE, 3 * PAGE, clean);
                read_or_over(&file, 0, 2 * PAGE, clean);
            })
        })
        .collect();
    let World { netfs, mount, clock, origin, ended } = world;
    if clean {
        // The server may never answer: the time for it has to pass.
        let ended = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ended);
        let passing = thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                clock.advance(LONG);
                thread::yield_now();
            }
        });
        block_on(netfs.shutdown(Duration::from_secs(1)));
        ended.store(true, Ordering::SeqCst);
        passing.join().expect("no panic");
    } else {
        drop(netfs);
    }
    readers.into_iter().for_each(|r| r.join().expect("no panic"));
    // What the server never answered is let go of with the server.
    drop((mount, origin));
    drop(ended);
}

#[test]
fn a_shutdown_with_work_in_flight_answers_every_reader() {
    for answers in [Answers::Whole, Answers::Paged, Answers::Never] {
        explore(400, move || shutdown_beside_readers(answers, true));
    }
}

#[test]
fn a_netfs_dropped_with_work_in_flight_answers_every_reader() {
    for answers in [Answers::Whole, Answers::Never] {
        explore(400, move || shutdown_beside_readers(answers, false));
    }
}

/// N-C76, N-C77: a disk cache that hangs for ever in lookups, reads or writes keeps no reader from its
/// bytes, nor an eviction from its memory.
#[test]
fn n_c76_n_c77_a_disk_that_hangs_for_ever_holds_up_nobody() {
    for point in [FaultPoint::Lookup, FaultPoint::Read, FaultPoint::Write] {
        explore(300, move || {
            let cache = MemCache::new();
            let world = World::with(2, 2 * PAGE, Answers::Whole, Some(Arc::clone(&cache) as _));
            let mut buf = vec![0; 2 * PAGE as usize];
            if point == FaultPoint::Read {
                block_on(world.open().read_at(0, &mut buf)).expect("read");
                block_on(world.netfs.drain_fills());
                world.evict();
            }
            cache.faults().hold(point);
            let ended = Arc::new(AtomicBool::new(false));
            let (over, clock) = (Arc::clone(&ended), world.clock.clone());
            let passing = thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    clock.advance(Duration::from_secs(2));
                    thread::yield_now();
                }
            });
            let files = [world.open(), world.open()];
            let readers = files.map(|file| {
                thread::spawn(move || {
                    let mut buf = vec![0; 2 * PAGE as usize];
                    let n = block_on(file.read_at(0, &mut buf)).expect("the server answers");
                    version_of(&buf[..n], 0, 1, 1);
                })
            });
            readers.into_iter().for_each(|r| r.join().expect("no panic"));
            world.evict();
            assert_eq!(world.netfs.memory().indexed, 0, "N-C77");
            ended.store(true, Ordering::SeqCst);
            passing.join().expect("no panic");
            // What still hangs holds its memory.
            cache.faults().release(point);
        });
    }
}

/// A server that hangs for ever: every reader gets an error when its time is over, and what comes late
/// is nobody's page.
#[test]
fn n_c78_a_server_that_hangs_for_ever_is_waited_for_no_longer_than_promised() {
    explore(300, || {
        let world = World::new(2, 2 * PAGE, Answers::Never);
        let ended = Arc::new(AtomicBool::new(false));
        let (over, clock) = (Arc::clone(&ended), world.clock.clone());
        let passing = thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                clock.advance(Duration::from_secs(121));
                thread::yield_now();
            }
        });
        let files = [world.open(), world.open()];
        let readers = files.map(|file| {
            thread::spawn(move || {
                let mut buf = vec![0; 2 * PAGE as usize];
                let error = block_on(file.read_at(0, &mut buf)).expect_err("nothing ever came");
                assert_eq!(error.errno(), Errno::ETIMEDOUT);
            })
        });
        readers.into_iter().for_each(|r| r.join().expect("no panic"));
        ended.store(true, Ordering::SeqCst);
        passing.join().expect("no panic");
        // The late replies change nothing; the next reader asks anew.
        world.origin.release();
        let mut buf = vec![0; 2 * PAGE as usize];
        // Refused only until the late ones have been taken note of.
        let n = loop {
            match block_on(world.open().read_at(0, &mut buf)) {
                Ok(n) => break n,
                Err(e) => assert_eq!(e.errno(), Errno::ETIMEDOUT),
            }
            thread::yield_now();
        };
        version_of(&buf[..n], 0, 1, 1);
    });
}
