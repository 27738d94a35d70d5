//! Thread interleavings explored by shuttle (built with `--cfg shuttle`). A waiter that is never woken
//! shows as a deadlock, which shuttle reports.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Waker},
};

use shuttle::{check_pct, check_random, future::block_on, thread};

use super::*;
use crate::{
    folio::{GRANULE, Held, Origin, PAGE_SIZE},
    stats::Counters,
};

const PAGE: u64 = PAGE_SIZE as u64;
const RUNS: usize = 3000;

struct World {
    cache: Arc<FolioCache>,
    index: Arc<FolioIndex>,
    version: Arc<AtomicU64>,
}

impl World {
    fn new(folios: u64) -> World {
        let budget = folios * crate::folio::budget::cost(PAGE);
        let cache = FolioCache::new(budget, Arc::new(Counters::default()));
        let index = cache.new_index();
        World { cache, index, version: Arc::new(AtomicU64::new(1)) }
    }

    fn share(&self) -> World {
        World {
            cache: Arc::clone(&self.cache),
            index: Arc::clone(&self.index),
            version: Arc::clone(&self.version),
        }
    }

    /// Locks the page at `offset`, if nobody else has and there is room.
    fn lock(&self, offset: u64) -> Option<LockedFolio> {
        let run = offset..offset + PAGE;
        let window = self.cache.alloc_window(std::slice::from_ref(&run), u64::MAX, PAGE_SIZE)?;
        self.index.lock_window(window).pop()
    }

    fn now(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    fn fill_and_publish(&self, locked: LockedFolio, version: u64) -> bool {
        let LockedFolio { folio, mut fill } = locked;
        fill.copy_in(&version.to_le_bytes());
        fill.advance(folio.len());
        self.index.publish_if(&folio, || self.now() == version)
    }

    fn change(&self) {
        self.index.clear_with(|| {
            self.version.fetch_add(1, Ordering::SeqCst);
        });
    }

    /// The version of the page at `offset`, if it is there.
    fn read(&self, offset: u64) -> Option<u64> {
        let mut word = [0; 8];
        (self.index.copy_uptodate(offset, &mut word) == 8).then(|| u64::from_le_bytes(word))
    }
}

fn explore(test: impl Fn() + Send + Sync + Copy + 'static) {
    check_random(test, RUNS);
    check_pct(test, RUNS, 3);
}

#[test]
fn shuttle_n_c48_nothing_of_an_old_version_is_ever_read_after_a_change() {
    explore(|| {
        let world = World::new(4);
        let fillers = (0..2).map(|i| {
            let w = world.share();
            thread::spawn(move || {
                let version = w.now();
                if let Some(locked) = w.lock(i % 2 * PAGE) {
                    w.fill_and_publish(locked, version);
                }
            })
        });
        let threads: Vec<_> = fillers.collect();
        let changer = {
            let w = world.share();
            thread::spawn(move || w.change())
        };
        for _ in 0..2 {
            let oldest = world.now();
            for at in [0, PAGE] {
                if let Some(version) = world.read(at) {
                    assert!(version >= oldest, "read {version} after {oldest}");
                }
            }
        }
        threads.into_iter().for_each(|t| t.join().expect("no panic"));
        changer.join().expect("no panic");
        let left = [world.read(0), world.read(PAGE)];
        assert!(left.into_iter().flatten().all(|v| v == world.now()));
        assert!(world.index.locked_in(0..2 * PAGE).is_empty());
    });
}

#[test]
fn shuttle_one_copy_is_of_one_version_however_many_looks_it_takes() {
    const PAGES: u64 = 9; // one more than a copy pins at a time
    fn load(w: &World) {
        for at in (0..PAGES).map(|p| p * PAGE) {
            let locked = w.lock(at).expect("empty, with room");
            w.fill_and_publish(locked, w.now());
        }
    }
    let test = || {
        let world = World::new(2 * PAGES);
        load(&world);
        let w = world.share();
        let changer = thread::spawn(move || {
            w.change();
            load(&w);
        });
        let mut into = vec![0; (PAGES * PAGE) as usize];
        let n = world.index.copy_uptodate(0, &mut into);
        let versions: Vec<&[u8]> = into[..n].chunks(PAGE_SIZE).map(|page| &page[..8]).collect();
        assert!(versions.windows(2).all(|pair| pair[0] == pair[1]), "{versions:?}");
        changer.join().expect("no panic");
    };
    check_random(test, RUNS / 3);
    check_pct(test, RUNS / 3, 3);
}

#[test]
fn shuttle_every_waiter_ends_whoever_unlocks() {
    explore(|| {
        let world = World::new(4);
        let locked = world.lock(0).expect("empty");
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let wait = locked.folio.wait_unlocked();
                thread::spawn(move || block_on(wait))
            })
            .collect();
        let w = world.share();
        let changer = thread::spawn(move || w.change());
        let published = world.fill_and_publish(locked, 1);
        for waiter in waiters {
            let how = waiter.join().expect("no panic");
            assert_eq!(how == Unlocked::Uptodate, published);
        }
        changer.join().expect("no panic");
        assert_eq!(world.read(0), None);
    });
}

#[test]
fn shuttle_a_waiter_that_leaves_takes_nobodys_wakeup() {
    explore(|| {
        let world = World::new(4);
        let locked = world.lock(0).expect("empty");
        let stays = locked.folio.wait_unlocked();
        let stays = thread::spawn(move || block_on(stays));
        let leaves = locked.folio.wait_unlocked();
        let leaves = thread::spawn(move || {
            let mut wait = pin!(leaves);
            let _ = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        });
        let comes_late = locked.folio.wait_unlocked();
        let comes_late = thread::spawn(move || {
            // Polled under two wakers in turn: the later one counts.
            let mut wait = pin!(comes_late);
            if wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                return;
            }
            block_on(poll_fn(|cx| wait.as_mut().poll(cx)));
        });
        assert!(world.fill_and_publish(locked, 1));
        assert_eq!(stays.join().expect("no panic"), Unlocked::Uptodate);
        leaves.join().expect("no panic");
        comes_late.join().expect("no panic");
    });
}

#[test]
fn shuttle_reclaim_removal_and_publishing_keep_the_budget_and_leak_nothing() {
    explore(|| {
        let world = World::new(2);
        let threads: Vec<_> = (0..2)
            .map(|i| {
                let w = world.share();
                thread::spawn(move || {
                    for at in [i, i + 1, i + 2] {
                        if let Some(locked) = w.lock(at * PAGE) {
                            w.fill_and_publish(locked, w.now());
                        }
                        let usage = w.cache.usage();
                        assert!(usage.budgeted <= usage.budget);
                    }
                })
            })
            .collect();
        world.index.remove_range(PAGE..2 * PAGE);
        let mut slices = Slices::new();
        world.index.slices_uptodate(0, GRANULE, &mut slices);
        threads.into_iter().for_each(|t| t.join().expect("no panic"));
        assert!(slices.iter().all(|s| s.first() == Some(&1)));
        drop(slices);
        let World { cache, index, .. } = world;
        drop(index);
        let usage = cache.usage();
        assert_eq!((usage.budgeted, usage.pinned, usage.abandoned, usage.folios), (0, 0, 0, 0));
    });
}

#[test]
fn what_readers_have_had_and_what_they_have_not_add_up_in_any_interleaving() {
    check_random(
        || {
            let world = World::new(8);
            let LockedFolio { folio, mut fill } = world.lock(0).expect("room");
            fill.copy_in(&1u64.to_le_bytes());
            fill.advance(folio.len());
            let reader = {
                let world = world.share();
                thread::spawn(move || {
                    let folio = match world.index.get(0) {
                        Lookup::Uptodate(f) | Lookup::Locked(f) => f,
                        Lookup::Absent | Lookup::Partial => return,
                    };
                    block_on(folio.wait_unlocked());
                    let held = [Held { folio, found: false }];
                    world.index.count_held(&held, &(0..PAGE));
                })
            };
            folio.set_origin(Origin::Cold, 4096, false);
            assert!(world.index.publish_if(&folio, || true));
            reader.join().expect("no panic");
            let left = world.index.unread.load(Ordering::Relaxed);
            assert_eq!(left, 0, "all of it has been read");
        },
        RUNS,
    );
}

/// W1, W2: a step of a write is seen whole or not at all, and what a reader has got does not change,
/// whether the writer writes in place or to a copy.
#[test]
fn shuttle_w1_w2_a_step_is_never_seen_torn_and_slices_never_change() {
    const LEN: usize = 64;
    explore(|| {
        let world = World::new(8);
        let LockedFolio { folio, mut fill } = world.lock(0).expect("room");
        fill.zero(folio.len());
        fill.advance(folio.len());
        drop(fill);
        assert!(world.index.publish_if(&folio, || true));
        drop(folio);
        let readers = [false, true].map(|copies| {
            let world = world.share();
            thread::spawn(move || {
                let mut last = 0;
                let mut kept = Vec::new();
                for _ in 0..3 {
                    let mut bytes = [0; LEN];
                    if copies {
                        assert_eq!(world.index.copy_uptodate(100, &mut bytes), LEN);
                    } else {
                        let slice = world.index.slice_uptodate(100, LEN as u64).expect("there");
                        bytes.copy_from_slice(&slice);
                        kept.push((slice, bytes[0]));
                    }
                    assert!(bytes.iter().all(|b| *b == bytes[0]), "torn: {bytes:?}");
                    assert!(bytes[0] >= last, "went back");
                    last = bytes[0];
                }
                assert!(kept.iter().all(|(slice, was)| slice.iter().all(|b| b == was)));
            })
        });
        for byte in 1..=3 {
            let bytes = [byte; LEN];
            let writer = crate::folio::Writer(0);
            let now = crate::clock::BootTime::ZERO;
            let piece = Piece { offset: 100, bytes: &bytes, lent: None, writer, group: None, now };
            loop {
                match world.index.write_step(&piece) {
                    Step::Wrote(n) => break assert_eq!(n, LEN),
                    Step::Shared(folio) => {
                        let run = [0..PAGE];
                        let window = world.cache.alloc_window(&run, u64::MAX, PAGE_SIZE);
                        let new = window.and_then(|mut w| w.pop()).expect("room");
                        world.index.unshare(&folio, new.mem);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        readers.into_iter().for_each(|r| r.join().expect("no panic"));
        // All of it goes to the server and is clean again, whatever memory it is in.
        let sent = world.index.take_dirty(&(0..PAGE), u64::MAX);
        assert!(sent.len() == 1 && sent[0].data.iter().all(|b| *b == 3));
        drop(sent);
        world.index.written(&(0..PAGE));
        assert_eq!((world.index.dirty_bytes(), world.index.dirty_end()), (0, 0));
        assert_eq!(world.cache.usage().dirty, 0);
        let World { cache, index, .. } = world;
        drop(index);
        let usage = cache.usage();
        assert_eq!((usage.budgeted, usage.pinned, usage.folios), (0, 0, 0));
    });
}

/// A folio that becomes dirty and clean again while it is being evicted is in the policy once, or gone: else
/// the policy would keep its memory for ever.
#[test]
fn shuttle_w4_eviction_beside_a_write_and_its_upload_leaks_nothing() {
    explore(|| {
        let world = World::new(4);
        let locked = world.lock(0).expect("room");
        assert!(world.fill_and_publish(locked, 1));
        let evicting = {
            let world = world.share();
            thread::spawn(move || {
                world.cache.reclaim_one();
            })
        };
        let writer = crate::folio::Writer(0);
        let now = crate::clock::BootTime::ZERO;
        let piece = Piece { offset: 100, bytes: &[7; 9], lent: None, writer, group: None, now };
        if let Step::Wrote(_) = world.index.write_step(&piece) {
            drop(world.index.take_dirty(&(0..PAGE), u64::MAX));
            world.index.written(&(0..PAGE));
        }
        evicting.join().expect("no panic");
        world.index.evict_all();
        assert!(!world.cache.reclaim_one(), "the policy knows of nothing");
        let usage = world.cache.usage();
        assert_eq!((usage.budgeted, usage.pinned, usage.folios), (0, 0, 0));
    });
}

/// A folio that is written to as a whole is exchanged while others read and send it: each finds the old bytes or the
/// new ones, all of them, and what was taken before is not what is dirty now.
#[test]
fn shuttle_w1_a_replaced_folio_is_read_and_sent_whole() {
    const LEN: usize = crate::folio::lent::LENT_MIN;
    fn lend(world: &World, byte: u8) {
        let bytes = bytes::Bytes::from(vec![byte; LEN]);
        let (writer, now) = (crate::folio::Writer(0), crate::clock::BootTime::ZERO);
        let lent = Some(&bytes);
        let piece = Piece { offset: 0, bytes: &bytes, lent, writer, group: None, now };
        let memory = |run: Range<u64>| {
            let lend = |place| piece.lend(place);
            let window = world.cache.alloc_lent(&[run], LEN as u64, GRANULE, lend);
            let new = window.and_then(|mut w| w.pop()).expect("room");
            Written::new(new.offset, new.mem, &piece, false)
        };
        let wrote = match world.index.write_step(&piece) {
            Step::Absent(run) => {
                world.index.insert_written(vec![memory(run)], &piece, world.index.data_gen())
            }
            Step::Covered(place) => match world.index.replace(memory(place), &piece) {
                Step::Wrote(n) => n,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        assert_eq!(wrote, LEN);
    }
    fn send(world: &World, server: &AtomicU64) {
        for sent in world.index.take_dirty(&(0..LEN as u64), u64::MAX) {
            assert!(sent.data.iter().all(|b| *b == sent.data[0]), "sent torn");
            server.store(u64::from(sent.data[0]), Ordering::SeqCst);
            drop(sent);
            world.index.written(&(0..LEN as u64));
        }
    }
    explore(|| {
        let world = World::new(32);
        lend(&world, 1);
        let server = Arc::new(AtomicU64::new(0));
        let reader = {
            let world = world.share();
            thread::spawn(move || {
                for _ in 0..2 {
                    let slice = world.index.slice_uptodate(0, LEN as u64).expect("there");
                    let first = slice[0];
                    thread::yield_now();
                    assert!(slice.iter().all(|b| *b == first), "a slice never changes");
                }
            })
        };
        let sender = {
            let (world, server) = (world.share(), Arc::clone(&server));
            thread::spawn(move || send(&world, &server))
        };
        lend(&world, 2);
        reader.join().expect("no panic");
        sender.join().expect("no panic");
        send(&world, &server);
        assert_eq!(server.load(Ordering::SeqCst), 2, "the newest bytes are sent");
        assert_eq!((world.index.dirty_bytes(), world.cache.usage().dirty), (0, 0));
        world.index.evict_all();
        world.cache.let_go_returned();
        let usage = world.cache.usage();
        assert_eq!((usage.budgeted, usage.pinned, usage.folios), (0, 0, 0));
    });
}
