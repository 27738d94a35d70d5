//! Withdrawing and dropping a cache: who waits for whom, and when the directory is free again.

use super::*;
use crate::OpenError;

/// Long enough for anything that ends at all, shorter than dropping a cache waits for its disk.
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn a_cache_dropped_by_its_own_thread_ends_at_once() {
    let dir = tempfile::tempdir().expect("dir");
    let Bed { cache, volume } = Bed::open(dir.path(), plain());
    let object = Bed { cache: Arc::clone(&cache), volume }.object("key");
    let (tx, rx) = mpsc::channel();
    let data = vec![Slice::from_bytes(&[7; 4096])];
    // What a core does that was dropped while a fill was under way: the fill had the last reference.
    let sub = CacheWrite::new(0, data, object.generation(), move |_| {
        drop(cache);
        let _ = tx.send(());
    });
    object.write(sub);
    assert_eq!(rx.recv_timeout(PATIENCE), Ok(()), "the thread waited for its own end");
}

#[test]
fn n_c69_the_directory_is_not_free_before_the_last_call_has_ended() {
    let dir = tempfile::tempdir().expect("dir");
    let (barrier, armed) = (Arc::new(Barrier::default()), Arc::new(AtomicBool::new(false)));
    let bed = Bed::open(dir.path(), hold(&barrier, &armed, |c| matches!(c, Call::SetXattr(_))));
    let object = bed.object("key");
    assert_eq!(write(&object, 0, 1), Ok(()));
    armed.store(true, SeqCst);
    // Its last act is to write the object's map back.
    let first = Arc::clone(&bed.cache).withdraw();
    barrier.wait_for(1);
    let second = Arc::clone(&bed.cache).withdraw();
    let (tx, rx) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        pollster::block_on(second);
        let _ = tx.send(());
    });
    let overtaken = rx.recv_timeout(Duration::from_millis(200));
    assert!(overtaken.is_err(), "the second ended while the first was writing");
    let again = CacheDir::builder(dir.path()).open();
    assert!(matches!(again, Err(OpenError::Locked { .. })), "two owners");
    barrier.open();
    pollster::block_on(first);
    assert_eq!(rx.recv_timeout(PATIENCE), Ok(()));
    waiter.join().expect("ends");
    CacheDir::builder(dir.path()).open().expect("free");
}

#[test]
fn a_withdrawal_does_not_wait_for_deletions() {
    let dir = tempfile::tempdir().expect("dir");
    Bed::open(dir.path(), plain()).end();
    let grave = dir.path().join("graveyard/old");
    std::fs::create_dir(&grave).expect("mkdir");
    for i in 0..50 {
        std::fs::write(grave.join(i.to_string()), "x").expect("write");
    }
    let (barrier, armed) = (Arc::new(Barrier::default()), Arc::new(AtomicBool::new(true)));
    let bed = {
        let (barrier, armed) = (Arc::clone(&barrier), Arc::clone(&armed));
        let yard = grave.clone();
        // Holds the deletion up when it has come to the files.
        let hook: Hook = Arc::new(move |call| {
            let begun = || std::fs::read_dir(&yard).map_or(0, Iterator::count) < 50;
            if call == Call::Name && begun() && armed.swap(false, SeqCst) {
                barrier.pass();
            }
            Ok(())
        });
        Bed::open(dir.path(), hook)
    };
    barrier.wait_for(1);
    let withdrawn = Arc::clone(&bed.cache).withdraw();
    barrier.open();
    pollster::block_on(withdrawn);
    let left = std::fs::read_dir(&grave).map_or(0, Iterator::count);
    assert!(left > 40, "{left} files left: the deletion went on to its end");
    let bed = Bed::open(dir.path(), plain());
    // Ends: the next owner deletes the rest.
    while grave.exists() {
        std::thread::yield_now();
    }
    bed.end();
}
