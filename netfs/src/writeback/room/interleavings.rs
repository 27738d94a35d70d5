//! Writers of two volumes, uploads, another limit, one who goes away and the end, in any order.

use std::task::Poll;

use shuttle::{future::block_on, thread};

use super::*;

const PAGE: u64 = PAGE_SIZE as u64;
const LIMIT: u64 = 9 * PAGE;

/// Writes and uploads `bytes`.
fn write(share: &Share, mut bytes: u64) -> Result<()> {
    while bytes > 0 {
        let taken = match share.try_take(bytes) {
            Some(taken) => taken,
            None => block_on(share.take(bytes))?,
        };
        let n = taken.bytes();
        share.dirtied(n);
        // Uploaded as late as possible, or before the writer says that it is dirty.
        if bytes.is_multiple_of(2) {
            share.cleaned(n);
            share.settle(&taken, n);
        } else {
            share.settle(&taken, n);
            share.cleaned(n);
        }
        bytes -= n;
    }
    Ok(())
}

/// Asks, and does not wait for the answer.
fn ask_and_go(share: &Share) {
    let mut taking = Box::pin(share.take(LIMIT));
    let first = block_on(std::future::poll_fn(|cx| Poll::Ready(taking.as_mut().poll(cx))));
    if let Poll::Ready(taken) = first {
        share.settle(&taken.expect("open"), 0);
    }
}

/// One volume hangs with as much as it may have; the other ones' writers do not depend on it.
#[test]
fn every_writer_gets_its_room_and_all_of_it_comes_back() {
    shuttle::check_random(
        || {
            let room = Room::new(LIMIT, Accounts::new(LIMIT));
            let [hung, a, b] = std::array::from_fn(|_| room.share());
            let held = hung.try_take(LIMIT).expect("free");
            let writers = [(&a, 3 * PAGE + 1), (&a, PAGE), (&b, 2 * PAGE)];
            let writers = writers.map(|(share, bytes)| {
                let share = Arc::clone(share);
                thread::spawn(move || write(&share, bytes).expect("open"))
            });
            let gone = {
                let share = Arc::clone(&a);
                thread::spawn(move || ask_and_go(&share))
            };
            room.set_limit(LIMIT / 2);
            writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
            gone.join().expect("no panic");
            hung.settle(&held, 0);
            assert!(room.is_empty());
            assert_eq!(room.dirty(), 0);
        },
        3000,
    );
}

/// Writers of a volume wait for a file that is parked then, and for its bytes when that is over.
#[test]
fn parking_gives_writers_their_room_and_its_end_takes_it() {
    shuttle::check_random(
        || {
            let room = Room::new(LIMIT, Accounts::new(LIMIT));
            let share = room.share();
            let taken = share.try_take(8 * PAGE).expect("free");
            share.dirtied(taken.bytes());
            share.settle(&taken, taken.bytes());
            let writers = [3 * PAGE, 6 * PAGE + 1].map(|bytes| {
                let share = Arc::clone(&share);
                thread::spawn(move || write(&share, bytes).expect("open"))
            });
            share.park(8 * PAGE);
            share.unpark(8 * PAGE);
            share.cleaned(8 * PAGE);
            writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
            assert!(room.is_empty());
            assert_eq!((room.dirty(), room.parked()), (0, 0));
        },
        2000,
    );
}

#[test]
fn the_end_reaches_whoever_waits() {
    shuttle::check_random(
        || {
            let room = Room::new(LIMIT, Accounts::new(LIMIT));
            let share = room.share();
            // Never uploaded.
            let hung = share.try_take(LIMIT).expect("free");
            let writer = {
                let share = Arc::clone(&share);
                thread::spawn(move || write(&share, LIMIT).expect_err("over"))
            };
            room.close();
            assert_eq!(writer.join().expect("no panic").errno(), Errno::ESHUTDOWN);
            share.settle(&hung, 0);
            assert!(room.is_empty());
        },
        1000,
    );
}
