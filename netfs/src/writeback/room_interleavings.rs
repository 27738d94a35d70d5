//! Writers of two volumes, uploads, a smaller limit, one who goes away and the end, in any order.

use shuttle::{future::block_on, thread};

use super::*;

const LIMIT: u64 = 18;

fn write(room: &Room, share: Share, mut bytes: u64) -> Result<()> {
    while bytes > 0 {
        let taken = match room.try_take(share, bytes) {
            Some(taken) => taken,
            None => block_on(room.take(share, bytes))?,
        };
        room.dirtied(taken.bytes());
        room.settle(taken, taken.bytes());
        bytes -= taken.bytes();
        // Uploaded at once.
        room.cleaned(share, taken.bytes());
    }
    Ok(())
}

#[test]
fn every_writer_gets_its_room_and_all_of_it_comes_back() {
    shuttle::check_random(
        || {
            let room = Arc::new(Room::new(LIMIT, 0));
            let writers: Vec<_> = [(1, 30), (1, 7), (2, 20)]
                .map(|(share, bytes)| {
                    let room = Arc::clone(&room);
                    thread::spawn(move || write(&room, Share(share), bytes).expect("open"))
                })
                .into();
            let gone = {
                let room = Arc::clone(&room);
                // Asks, and does not wait for the answer.
                thread::spawn(move || {
                    let mut taking = Box::pin(room.take(Share(1), LIMIT));
                    let first = block_on(std::future::poll_fn(|cx| {
                        std::task::Poll::Ready(taking.as_mut().poll(cx))
                    }));
                    if let std::task::Poll::Ready(taken) = first {
                        room.settle(taken.expect("open"), 0);
                    }
                })
            };
            room.set_limit(LIMIT / 2, 0);
            writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
            gone.join().expect("no panic");
            assert!(room.is_empty());
            assert_eq!(room.dirty(), 0);
        },
        2000,
    );
}

#[test]
fn the_end_reaches_whoever_waits() {
    shuttle::check_random(
        || {
            let room = Arc::new(Room::new(LIMIT, 0));
            // Never uploaded.
            let hung = room.try_take(Share(1), LIMIT).expect("free");
            let writer = {
                let room = Arc::clone(&room);
                thread::spawn(move || write(&room, Share(1), LIMIT).expect_err("over"))
            };
            room.close();
            assert_eq!(writer.join().expect("no panic").errno(), Errno::ESHUTDOWN);
            room.settle(hung, 0);
            assert!(room.is_empty());
        },
        1000,
    );
}
