//! What only a file system that fails or hangs on command shows.

mod ending;
mod fuzz;
mod naming;
mod opening;
mod reading;
mod upkeep;

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use netfs::{
    folio::Slice,
    fscache::{
        CacheBackend, CacheMiss, CacheObject, CacheRead, CacheVolume, CacheWrite, ExtentKind,
        Found, Identity, Opened, Refusal, Relinquish, TryRead,
    },
    remote::VolumeId,
};
use parking_lot::{Condvar, Mutex};

use crate::{
    CacheDir, KernelCache, LinkMethod,
    io::{
        Errno, Wait,
        hooked::{Call, Hook, HookedIo, fail_when},
    },
};

const SIZE: u64 = 300 * 4096;

struct Bed {
    cache: Arc<CacheDir>,
    volume: Arc<dyn CacheVolume>,
}

impl Bed {
    fn open(path: &Path, hook: Hook) -> Bed {
        let builder = CacheDir::builder(path)
            .io_threads(2)
            .kernel_cache(KernelCache::Keep) // so that what was written is there without waiting
            .max_in_flight_per_object(2)
            .flush_interval(Duration::from_secs(3600));
        let cache = builder.open_with(Arc::new(HookedIo(hook))).expect("cache opens");
        let id = VolumeId::new("vol").expect("valid id");
        let volume = pollster::block_on(Arc::clone(&cache).acquire_volume(id, Bytes::new()));
        Bed { volume: volume.expect("volume opens"), cache }
    }

    fn lookup(&self, key: &str) -> Result<Opened, Refusal> {
        self.lookup_as(key, identity(1))
    }

    fn lookup_as(&self, key: &str, identity: Identity) -> Result<Opened, Refusal> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        pollster::block_on(Arc::clone(&self.volume).lookup(key, identity))
    }

    fn object(&self, key: &str) -> Arc<dyn CacheObject> {
        self.lookup(key).expect("lookup").object
    }

    fn end(self) {
        pollster::block_on(self.cache.withdraw());
    }
}

fn identity(version: u8) -> Identity {
    Identity { aux: Bytes::copy_from_slice(&[version]), size: SIZE }
}

fn plain() -> Hook {
    Arc::new(|_| Ok(()))
}

fn start_write(
    object: &Arc<dyn CacheObject>,
    page: u64,
    fill: u8,
) -> mpsc::Receiver<Result<(), Refusal>> {
    let (tx, rx) = mpsc::channel();
    let data = vec![Slice::from_bytes(&[fill; 4096])];
    Arc::clone(object).write(CacheWrite::new(page * 4096, data, object.generation(), move |r| {
        let _ = tx.send(r);
    }));
    rx
}

fn write(object: &Arc<dyn CacheObject>, page: u64, fill: u8) -> Result<(), Refusal> {
    start_write(object, page, fill).recv().expect("every sub ends")
}

fn start_read(
    object: &Arc<dyn CacheObject>,
    page: u64,
) -> mpsc::Receiver<Result<Vec<u8>, CacheMiss>> {
    let (tx, rx) = mpsc::channel();
    Arc::clone(object).read(CacheRead::detached(page * 4096, 4096, move |r| {
        let _ = tx.send(r);
    }));
    rx
}

fn read(object: &Arc<dyn CacheObject>, page: u64) -> Result<Vec<u8>, CacheMiss> {
    start_read(object, page).recv().expect("every sub ends")
}

fn page(fill: u8) -> Result<Vec<u8>, CacheMiss> {
    Ok(vec![fill; 4096])
}

/// Holds calls up until it is opened.
#[derive(Default)]
struct Barrier {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Barrier {
    fn pass(&self) {
        let mut state = self.state.lock();
        state.1 += 1;
        self.changed.notify_all();
        while !state.0 {
            self.changed.wait(&mut state);
        }
    }

    fn wait_for(&self, waiting: usize) {
        let mut state = self.state.lock();
        while state.1 < waiting {
            self.changed.wait(&mut state);
        }
    }

    fn open(&self) {
        self.state.lock().0 = true;
        self.changed.notify_all();
    }
}

/// A hook that holds up what `which` names, once armed.
fn hold(barrier: &Arc<Barrier>, armed: &Arc<AtomicBool>, which: fn(Call) -> bool) -> Hook {
    let (barrier, armed) = (Arc::clone(barrier), Arc::clone(armed));
    Arc::new(move |call| {
        if armed.load(SeqCst) && which(call) {
            barrier.pass();
        }
        Ok(())
    })
}

fn waiting_read(call: Call) -> bool {
    call == Call::Read(Wait::Yes)
}

#[test]
fn without_tmpfile_and_nowait_it_works_all_the_same() {
    let dir = tempfile::tempdir().expect("dir");
    let poor: Hook = Arc::new(|call| match call {
        Call::TempFile | Call::Read(Wait::No) => Err(Errno::OPNOTSUPP),
        _ => Ok(()),
    });
    let bed = Bed::open(dir.path(), Arc::clone(&poor));
    assert_eq!((bed.cache.probe().link, bed.cache.probe().nowait), (LinkMethod::Rename, false));
    let object = bed.object("key");
    assert_eq!(write(&object, 0, 7), Ok(()));
    assert_eq!(object.try_read(0, &mut [0; 10]), TryRead::WouldBlock);
    assert_eq!(read(&object, 0), page(7));
    bed.end();
    let bed = Bed::open(dir.path(), poor);
    let opened = bed.lookup("key").expect("lookup");
    assert_eq!((opened.found, read(&opened.object, 0)), (Found::Existing, page(7)));
}

#[test]
fn a_file_that_cannot_nowait_after_all_is_read_by_the_threads() {
    let dir = tempfile::tempdir().expect("dir");
    let armed = Arc::new(AtomicBool::new(false));
    let hook = fail_when(&armed, Errno::OPNOTSUPP, |c| c == Call::Read(Wait::No));
    let bed = Bed::open(dir.path(), hook);
    let object = bed.object("key");
    assert_eq!(write(&object, 0, 7), Ok(()));
    assert_eq!(object.try_read(0, &mut [0; 10]), TryRead::Done);
    armed.store(true, SeqCst);
    assert_eq!(object.try_read(0, &mut [0; 10]), TryRead::WouldBlock);
    assert_eq!(read(&object, 0), page(7));
    assert_eq!(bed.cache.stats().corrupt_pages, 0);
}

#[test]
fn a_full_disk_refuses_fills_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().expect("dir");
    let armed = Arc::new(AtomicBool::new(false));
    let bed = Bed::open(dir.path(), fail_when(&armed, Errno::NOSPC, |c| c == Call::Write));
    let object = bed.object("key");
    assert_eq!(write(&object, 0, 7), Ok(()));
    armed.store(true, SeqCst);
    assert_eq!(write(&object, 1, 8), Err(Refusal::NoSpace));
    assert_eq!(read(&object, 1), Err(CacheMiss::Absent));
    assert_eq!(read(&object, 0), page(7));
    armed.store(false, SeqCst);
    assert_eq!(write(&object, 1, 8), Ok(()));
    assert_eq!(read(&object, 1), page(8));
}

#[test]
fn n_c68_a_read_error_is_a_miss_of_that_object_and_no_corruption() {
    let dir = tempfile::tempdir().expect("dir");
    let armed = Arc::new(AtomicBool::new(false));
    let bed = Bed::open(dir.path(), fail_when(&armed, Errno::IO, |c| matches!(c, Call::Read(_))));
    let (a, b) = (bed.object("a"), bed.object("b"));
    assert_eq!((write(&a, 0, 1), write(&b, 0, 2)), (Ok(()), Ok(())));
    armed.store(true, SeqCst);
    assert_eq!(read(&a, 0), Err(CacheMiss::Io));
    armed.store(false, SeqCst);
    assert_eq!(read(&a, 0), Err(CacheMiss::Absent));
    assert_eq!(read(&b, 0), page(2));
    assert_eq!((bed.cache.stats().corrupt_pages, bed.cache.health()), (0, Ok(())));
}

#[test]
fn n_c67_a_dead_disk_refuses_and_serves_again_when_it_is_back() {
    let dir = tempfile::tempdir().expect("dir");
    let armed = Arc::new(AtomicBool::new(false));
    let bed = Bed::open(dir.path(), fail_when(&armed, Errno::IO, |_| true));
    let object = bed.object("key");
    armed.store(true, SeqCst);
    assert_eq!(write(&object, 0, 7), Err(Refusal::IoError));
    let other = bed.lookup("other").expect("an empty object needs no disk");
    assert_eq!(write(&other.object, 0, 7), Err(Refusal::IoError));
    armed.store(false, SeqCst);
    assert_eq!(write(&object, 0, 7), Ok(()));
    assert_eq!(read(&object, 0), page(7));
}

#[test]
fn a_map_that_does_not_fit_its_attribute_moves_to_a_side_file() {
    let dir = tempfile::tempdir().expect("dir");
    let armed = Arc::new(AtomicBool::new(false));
    // The header has 64 bytes; the map is larger.
    let hook = fail_when(&armed, Errno::NOSPC, |c| matches!(c, Call::SetXattr(n) if n > 100));
    let bed = Bed::open(dir.path(), hook);
    let object = bed.object("key");
    for n in 0..20 {
        assert_eq!(write(&object, n * 2, 7), Ok(()));
    }
    armed.store(true, SeqCst);
    assert_eq!(pollster::block_on(Arc::clone(&object).commit()), Ok(()));
    assert_eq!(write(&object, 100, 8), Ok(()));
    bed.end();
    let bed = Bed::open(dir.path(), plain());
    let opened = bed.lookup("key").expect("lookup");
    assert_eq!(opened.found, Found::Existing);
    assert_eq!((read(&opened.object, 38), read(&opened.object, 100)), (page(7), page(8)));
    assert_eq!(bed.cache.stats().corrupt_pages, 0);
}

#[test]
fn a_failed_write_back_of_the_map_is_made_good_by_the_next() {
    let dir = tempfile::tempdir().expect("dir");
    let armed = Arc::new(AtomicBool::new(false));
    let hook = fail_when(&armed, Errno::IO, |c| matches!(c, Call::SetXattr(_)));
    let bed = Bed::open(dir.path(), hook);
    let object = bed.object("key");
    assert_eq!(write(&object, 0, 7), Ok(()));
    armed.store(true, SeqCst);
    assert_eq!(pollster::block_on(Arc::clone(&object).commit()), Err(Refusal::IoError));
    armed.store(false, SeqCst);
    assert_eq!(pollster::block_on(Arc::clone(&object).commit()), Ok(()));
    pollster::block_on(Arc::clone(&object).close(Relinquish::Keep));
    let opened = bed.lookup("key").expect("lookup");
    assert_eq!(read(&opened.object, 0), page(7));
}

#[test]
fn running_out_of_descriptors_gives_some_back_and_tries_again() {
    let dir = tempfile::tempdir().expect("dir");
    let failures = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&failures);
    let hook: Hook = Arc::new(move |call| {
        let fails = matches!(call, Call::Open | Call::TempFile)
            && left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        if fails { Err(Errno::MFILE) } else { Ok(()) }
    });
    let bed = Bed::open(dir.path(), hook);
    let objects: Vec<_> = (0..8).map(|i| bed.object(&format!("key{i}"))).collect();
    for object in &objects {
        assert_eq!(write(object, 0, 7), Ok(()));
    }
    assert_eq!(bed.cache.stats().descriptors, 8);
    failures.store(1, SeqCst);
    let ninth = bed.object("ninth");
    assert_eq!(write(&ninth, 0, 9), Ok(()));
    assert!(bed.cache.stats().descriptors <= 5);
    for object in &objects {
        assert_eq!(read(object, 0), page(7));
    }
    let tenth = bed.object("tenth");
    failures.store(100, SeqCst);
    assert_eq!(write(&tenth, 0, 9), Err(Refusal::Descriptors));
    assert!(matches!(bed.lookup("eleventh"), Err(Refusal::Descriptors)));
}

#[test]
fn n_c48_a_read_in_flight_during_a_cut_over_is_stale() {
    let dir = tempfile::tempdir().expect("dir");
    let (barrier, armed) = (Arc::new(Barrier::default()), Arc::new(AtomicBool::new(false)));
    let bed = Bed::open(dir.path(), hold(&barrier, &armed, waiting_read));
    let old = bed.object("key");
    assert_eq!(write(&old, 0, 1), Ok(()));
    armed.store(true, SeqCst);
    let answer = start_read(&old, 0);
    barrier.wait_for(1);
    let new = old.cut_over(identity(2)).expect("does not wait for the disk");
    assert_eq!(new.extents(0..4096)[0].kind, ExtentKind::Absent);
    barrier.open();
    assert_eq!(answer.recv().expect("ends"), Err(CacheMiss::Stale));
}

#[test]
fn n_c48_a_write_in_flight_during_a_cut_over_or_forget_has_no_effect() {
    let dir = tempfile::tempdir().expect("dir");
    let (barrier, armed) = (Arc::new(Barrier::default()), Arc::new(AtomicBool::new(false)));
    let bed = Bed::open(dir.path(), hold(&barrier, &armed, |c| c == Call::Write));
    let (a, b) = (bed.object("a"), bed.object("b"));
    armed.store(true, SeqCst);
    let answers = (start_write(&a, 0, 1), start_write(&b, 0, 1));
    barrier.wait_for(2);
    let new = a.cut_over(identity(2)).expect("does not wait for the disk");
    b.forget(0..10);
    armed.store(false, SeqCst);
    barrier.open();
    assert_eq!(answers.0.recv().expect("ends"), Err(Refusal::Stale));
    assert_eq!(answers.1.recv().expect("ends"), Err(Refusal::Stale));
    assert_eq!((read(&new, 0), read(&b, 0)), (Err(CacheMiss::Absent), Err(CacheMiss::Absent)));
    assert_eq!((write(&new, 0, 2), write(&b, 0, 2)), (Ok(()), Ok(())));
    assert_eq!((read(&new, 0), read(&b, 0)), (page(2), page(2)));
}

#[test]
fn a_hung_disk_costs_refusals_and_no_thread_of_the_caller() {
    let dir = tempfile::tempdir().expect("dir");
    let (barrier, armed) = (Arc::new(Barrier::default()), Arc::new(AtomicBool::new(false)));
    let bed = Bed::open(dir.path(), hold(&barrier, &armed, waiting_read));
    let object = bed.object("key");
    assert_eq!(write(&object, 0, 1), Ok(()));
    armed.store(true, SeqCst);
    let hung = (start_read(&object, 0), start_read(&object, 0));
    barrier.wait_for(2);
    assert_eq!(read(&object, 0), Err(CacheMiss::Refused(Refusal::Busy)), "the object's limit");
    assert_eq!(object.extents(0..4096)[0].kind, ExtentKind::Data);
    assert_eq!(object.try_read(0, &mut [0; 100]), TryRead::Done);
    let withdrawn = Arc::clone(&bed.cache).withdraw();
    let refused = TryRead::Miss(CacheMiss::Refused(Refusal::Withdrawn));
    assert_eq!(object.try_read(0, &mut [0; 100]), refused);
    barrier.open();
    pollster::block_on(withdrawn);
    let answer = hung.0.recv().expect("ends");
    assert!(answer == page(1) || answer == Err(CacheMiss::Refused(Refusal::Withdrawn)));
    assert!(hung.1.recv().is_ok());
}

#[test]
fn a_page_rewritten_under_a_read_is_read_again_and_no_corruption() {
    let dir = tempfile::tempdir().expect("dir");
    let target: Arc<OnceLock<Arc<dyn CacheObject>>> = Arc::default();
    let in_hook = Arc::clone(&target);
    let rewritten = AtomicBool::new(false);
    // Between a reader's look at the map and its read, another version of the page arrives.
    let hook: Hook = Arc::new(move |call| {
        if call == Call::Read(Wait::No)
            && let Some(object) = in_hook.get()
            && !rewritten.swap(true, SeqCst)
        {
            assert_eq!(write(object, 0, 2), Ok(()));
        }
        Ok(())
    });
    let bed = Bed::open(dir.path(), hook);
    let object = bed.object("key");
    assert_eq!(write(&object, 0, 1), Ok(()));
    assert!(target.set(Arc::clone(&object)).is_ok());
    let mut into = [0; 4096];
    assert_eq!(object.try_read(0, &mut into), TryRead::Done);
    assert_eq!((into, bed.cache.stats().corrupt_pages), ([2; 4096], 0));
}
