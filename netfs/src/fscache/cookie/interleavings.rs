//! The shell around the cookie's state machine under the model checker: users, invalidations, expiry,
//! withdrawals and the next owner of the key, in every order.

use std::{
    sync::atomic::{AtomicU64 as StdAtomicU64, Ordering as StdOrdering},
    time::Duration,
};

use bytes::Bytes;
use shuttle::thread;

use super::*;
use crate::{
    clock::{Clock, StepClock},
    driver::{self, Handle, Runtime, block_on},
    folio::PAGE_SIZE,
    fscache::{
        CacheBackend, CookieState, FaultPoint, FsCache, FsCacheConfig, MemCache, testing::*,
        volume::Over,
    },
    stats::Counters,
};

const DELAY: Duration = Duration::from_secs(10);

fn explore(runs: usize, test: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(test, runs);
    shuttle::check_pct(test, runs, 3);
}

/// A volume on a cache in memory.
struct World {
    clock: StepClock,
    cache: Arc<MemCache>,
    fscache: Arc<FsCache>,
    volume: Arc<Volume>,
    driver: Handle,
    runtime: Option<Runtime>,
}

impl World {
    fn new() -> World {
        let runtime = driver::start(1).expect("a model's driver");
        let (driver, clock) = (runtime.handle().clone(), StepClock::new());
        let (shared, counters) = (Arc::new(clock.clone()), Arc::new(Counters::default()));
        let config = FsCacheConfig::default();
        let fscache = FsCache::new(driver.clone(), shared, counters, Arc::default(), config);
        let cache = MemCache::new();
        block_on(fscache.attach(backend(&cache), PATIENCE)).expect("nothing to withdraw");
        let volume = block_on(fscache.acquire_volume(volume_id(), Bytes::new())).expect("free");
        World { clock, cache, fscache, volume, driver, runtime: Some(runtime) }
    }

    fn cookie(&self) -> CookieSlot {
        self.volume.acquire_cookie(KEY, ident(1)).expect("no live cookie has the key")
    }

    /// Backend calls so far, of all kinds.
    fn calls(&self) -> u64 {
        use FaultPoint::*;
        let points = [AcquireVolume, Lookup, Read, Write, CutOver, SetIdentity, Close];
        points.into_iter().map(|p| self.cache.faults().calls(p)).sum()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.fscache.abort();
        self.driver.settle();
    }
}

/// An access, however long the cookie takes.
fn open(cookie: &Arc<Cookie>) -> Result<Access, Refusal> {
    block_on(cookie.begin_by(BootTime::NEVER))
}

fn era(access: &Access) -> u8 {
    u8::try_from(access.inval_counter() % 250).expect("small")
}

/// What a current access reads was written under its own invalidation counter.
fn read_and_fill(access: &Access) {
    if let Some(byte) = read(access, 0) {
        assert_eq!(byte, era(access), "N-C48: a byte from before an invalidation");
    }
    let _ = write(access, 0, era(access));
}

/// N-C43, N-C48: whatever invalidations, expiries, withdrawals and attachments come in between, no byte
/// from before an invalidation is read, and every user and access is counted out.
#[test]
fn n_c43_n_c48_n_c53_nothing_from_before_an_invalidation_is_read_in_any_order() {
    explore(700, || {
        let world = World::new();
        let slot = world.cookie();
        let cookie = Arc::clone(cookie(&slot));
        let users: Vec<_> = (0..2)
            .map(|_| {
                let cookie = Arc::clone(&cookie);
                thread::spawn(move || {
                    for _ in 0..2 {
                        let _user = cookie.use_cookie(false);
                        if let Ok(access) = open(&cookie) {
                            read_and_fill(&access);
                        }
                    }
                })
            })
            .collect();
        let (fscache, cache) = (Arc::clone(&world.fscache), Arc::clone(&world.cache));
        let admin = thread::spawn(move || {
            block_on(fscache.withdraw(PATIENCE)).expect("nobody stays inside");
            let again = backend(&cache.restart());
            block_on(fscache.attach(again, PATIENCE)).expect("nothing is attached");
        });
        slot.invalidate(ident(1), false);
        world.clock.advance(DELAY);
        slot.invalidate(ident(2), false);
        let mut threads = users;
        threads.push(admin);
        threads.into_iter().for_each(|t| t.join().expect("no panic"));
        let info = cookie.describe();
        assert_eq!((info.n_active, info.n_accesses, info.inval_counter), (0, 0, 2));
        // It works on, and is empty or newly filled.
        let _user = cookie.use_cookie(false);
        let access = open(&cookie).expect("a cache is attached");
        assert_eq!(access.object().identity(), ident(2));
        read_and_fill(&access);
        assert_eq!(read(&access, 0), Some(era(&access)), "N-C53: the next read hits");
    });
}

/// N-C49: of two invalidations at once each counts, and nobody sees the count go back.
#[test]
fn n_c49_every_invalidation_counts_and_the_count_only_grows() {
    explore(500, || {
        let world = World::new();
        let slot = world.cookie();
        let user = slot.use_cookie(false);
        let threads = [1, 2].map(|version| {
            let cookie = Arc::clone(cookie(&slot));
            thread::spawn(move || {
                for _ in 0..2 {
                    let before = cookie.inval_counter();
                    cookie.invalidate(ident(version), false);
                    assert!(cookie.inval_counter() > before, "N-C49: it did not count");
                }
            })
        });
        let (mut last, mut shown) = (0, 0);
        for _ in 0..4 {
            if let Some(access) = slot.try_begin() {
                assert!(access.inval_counter() >= shown, "an older object is shown again");
                shown = access.inval_counter();
            }
            let now = slot.inval_counter();
            assert!(now >= last && now >= shown, "N-C49: {now} after {last}");
            last = now;
        }
        threads.into_iter().for_each(|t| t.join().expect("no panic"));
        assert_eq!(slot.inval_counter(), 4);
        drop(user);
    });
}

/// N-C48, rows 107 and 108: of what the owner changes nothing older is read once it has said so, also where
/// the object is closed, withdrawn or looked up meanwhile; what it does not change may be read all along.
#[test]
fn n_c48_own_changes_void_what_they_changed_and_nothing_else_in_any_order() {
    const KEPT: u8 = 200;
    static STAYED: StdAtomicU64 = StdAtomicU64::new(0);
    explore(500, || {
        let world = World::new();
        let slot = world.cookie();
        let cookie = Arc::clone(cookie(&slot));
        {
            let _user = cookie.use_cookie(true);
            let access = open(&cookie).expect("opens");
            assert_eq!(write(&access, 0, KEPT), Some(Ok(())));
            assert_eq!(write(&access, 1, 1), Some(Ok(())));
        }
        let told = Arc::new(AtomicU64::new(1));
        let readers = [0; 2].map(|_| {
            let (cookie, told) = (Arc::clone(&cookie), Arc::clone(&told));
            thread::spawn(move || {
                for _ in 0..2 {
                    let _user = cookie.use_cookie(false);
                    let Some(access) = cookie.try_begin() else { continue };
                    let oldest = told.load(Ordering::SeqCst);
                    if let Some(byte) = read(&access, 1) {
                        assert!(u64::from(byte) >= oldest, "N-C48: {byte} after {oldest}");
                    }
                    assert!(read(&access, 0).is_none_or(|byte| byte == KEPT));
                }
            })
        });
        let owner = {
            let (cookie, told) = (Arc::clone(&cookie), Arc::clone(&told));
            thread::spawn(move || {
                for version in 2..4 {
                    let _user = cookie.use_cookie(true);
                    block_on(cookie.begin_modify());
                    let page = PAGE_SIZE as u64;
                    cookie.modified(ident(version), &[page..2 * page]);
                    told.store(version.into(), Ordering::SeqCst);
                    if let Some(access) = cookie.try_begin() {
                        let _ = write(&access, 1, version);
                    }
                    cookie.end_modify();
                }
            })
        };
        world.clock.advance(DELAY);
        block_on(world.fscache.withdraw(PATIENCE)).expect("nobody stays inside");
        let again = backend(&world.cache.restart());
        block_on(world.fscache.attach(again, PATIENCE)).expect("nothing is attached");
        readers.into_iter().for_each(|t| t.join().expect("no panic"));
        owner.join().expect("no panic");
        let _user = cookie.use_cookie(false);
        let access = open(&cookie).expect("a cache is attached");
        assert_eq!(access.object().identity(), ident(3));
        assert!(read(&access, 1).is_none_or(|byte| byte == 3));
        if read(&access, 0) == Some(KEPT) {
            STAYED.fetch_add(1, StdOrdering::Relaxed);
        }
    });
    assert!(STAYED.load(StdOrdering::Relaxed) > 0, "no own change kept anything");
}

/// N-C45, N-C46: a cookie in use is open, and stays open for the delay after its last user, however the
/// expiry of its LRU entry meets users that come and go.
#[test]
fn n_c45_n_c46_expiry_never_takes_a_cookie_that_is_or_was_just_used() {
    explore(700, || {
        let world = World::new();
        let slot = world.cookie();
        let users: Vec<_> = (0..2)
            .map(|_| {
                let (cookie, clock) = (Arc::clone(cookie(&slot)), world.clock.clone());
                thread::spawn(move || {
                    for _ in 0..2 {
                        let user = cookie.use_cookie(false);
                        drop(open(&cookie).expect("N-C45: a lookup was lost"));
                        assert!(cookie.try_begin().is_some(), "N-C45: closed while in use");
                        let left = clock.now();
                        drop(user);
                        let there = cookie.try_begin().is_some();
                        let early = clock.now() < left + DELAY;
                        assert!(there || !early, "N-C46: closed too early");
                    }
                })
            })
            .collect();
        for _ in 0..3 {
            world.clock.advance(DELAY);
        }
        users.into_iter().for_each(|t| t.join().expect("no panic"));
        while cookie(&slot).describe().state != CookieState::Quiescent {
            world.clock.advance(DELAY);
            thread::yield_now();
        }
        assert_eq!((world.cache.stats().objects_open, world.fscache.lru().len()), (0, 0));
    });
}

/// N-C44: once a withdrawal has returned, no backend call runs or starts.
#[test]
fn n_c44_no_call_reaches_a_cache_that_was_withdrawn() {
    explore(700, || {
        let world = World::new();
        let slot = world.cookie();
        let users: Vec<_> = (0..2)
            .map(|i| {
                let cookie = Arc::clone(cookie(&slot));
                thread::spawn(move || {
                    for _ in 0..2 {
                        let user = cookie.use_cookie(i == 0);
                        if let Some(access) = cookie.try_begin() {
                            read_and_fill(&access);
                        }
                        if i == 0 {
                            cookie.invalidate(ident(1), false);
                        }
                        drop(user);
                    }
                })
            })
            .collect();
        block_on(world.fscache.withdraw(PATIENCE)).expect("nobody stays inside");
        let calls = world.calls();
        assert_eq!(world.cache.stats().objects_open, 0);
        users.into_iter().for_each(|t| t.join().expect("no panic"));
        assert_eq!(world.calls(), calls, "a call after the withdrawal");
    });
}

/// N-C47, N-C51: the next cookie of a key opens the object only after the last one has closed it, and
/// finds what that one kept, or nothing if it was retired.
#[test]
fn n_c47_n_c51_the_next_cookie_of_a_key_follows_the_last_one() {
    for how in [Relinquish::Keep, Relinquish::Retire] {
        explore(500, move || {
            let world = World::new();
            let slot = world.cookie();
            {
                let _user = slot.use_cookie(false);
                let access = open(cookie(&slot)).expect("opens");
                assert_eq!(write(&access, 0, 7), Some(Ok(())));
            }
            let access = slot.try_begin().expect("open");
            let stays = thread::spawn(move || {
                // An access under way holds the close up; it ends at any moment.
                thread::yield_now();
                drop(access);
            });
            let old = Arc::clone(cookie(&slot));
            let gone = thread::spawn(move || block_on(old.dropped()));
            slot.relinquish(how);
            let next = world.cookie();
            let _user = next.use_cookie(false);
            let access = open(cookie(&next)).expect("opens");
            assert_eq!(world.cache.stats().objects_open, 1, "N-C47: two opened at once");
            let kept = (how == Relinquish::Keep).then_some(7);
            assert_eq!(read(&access, 0), kept);
            stays.join().expect("no panic");
            gone.join().expect("the old one ends");
        });
    }
}

/// N-C50: after a direct write caching is off until every user has left; then it works again.
#[test]
fn n_c50_a_dio_invalidation_lasts_until_the_last_user_and_no_longer() {
    explore(700, || {
        let world = World::new();
        let slot = world.cookie();
        let first = slot.use_cookie(false);
        drop(open(cookie(&slot)).expect("opens"));
        let users: Vec<_> = (0..2)
            .map(|_| {
                let cookie = Arc::clone(cookie(&slot));
                thread::spawn(move || {
                    let _user = cookie.use_cookie(false);
                    if let Some(access) = cookie.try_begin() {
                        read_and_fill(&access);
                    }
                })
            })
            .collect();
        slot.invalidate(ident(1), true);
        assert!(slot.try_begin().is_none(), "a user from before is still there");
        drop(first);
        users.into_iter().for_each(|t| t.join().expect("no panic"));
        let _user = slot.use_cookie(false);
        let access = open(cookie(&slot)).expect("on again");
        read_and_fill(&access);
    });
}

/// The context goes away beside users: everyone is answered, and nothing keeps the cache.
#[test]
fn an_abort_leaves_nobody_waiting() {
    explore(700, || {
        let world = World::new();
        let slot = world.cookie();
        let users: Vec<_> = (0..2)
            .map(|_| {
                let cookie = Arc::clone(cookie(&slot));
                thread::spawn(move || {
                    let _user = cookie.use_cookie(false);
                    if let Ok(access) = open(&cookie) {
                        read_and_fill(&access);
                    }
                })
            })
            .collect();
        world.fscache.abort();
        users.into_iter().for_each(|t| t.join().expect("no panic"));
        assert!(slot.try_begin().is_none());
    });
}

/// A mount that goes away beside its context gives its volume up before or after that, never twice.
#[test]
fn a_volume_given_up_beside_an_abort_is_given_up_once() {
    explore(700, || {
        let world = World::new();
        let volume = Arc::clone(&world.volume);
        let owner = thread::spawn(move || {
            assert_ne!(volume.begin_relinquish(), Err(Over::Twice), "it has one owner");
        });
        world.fscache.abort();
        owner.join().expect("no panic");
        assert!(world.volume.is_gone());
    });
}
