//! What goes on behind readers and writers: the side file, the ring of open files.

use super::*;

const GIB: u64 = 1 << 30;

/// Two chunks, so that the map is in the side file and the second is loaded when asked for.
fn large(version: u8) -> Identity {
    Identity { aux: Bytes::copy_from_slice(&[version]), size: GIB + SIZE }
}

fn commit(object: &Arc<dyn CacheObject>) -> Result<(), Refusal> {
    pollster::block_on(Arc::clone(object).commit())
}

fn close(object: &Arc<dyn CacheObject>) {
    pollster::block_on(Arc::clone(object).close(Relinquish::Keep));
}

/// The file in the only fan-out directory.
fn stored(dir: &Path, name: &str) -> std::path::PathBuf {
    let fan = std::fs::read_dir(dir.join("cache/IDvol")).expect("volume").flatten().next();
    fan.expect("fan-out").path().join(name)
}

#[test]
fn the_ring_of_open_files_does_not_remember_closed_objects() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path(), plain());
    let kept = bed.object("kept");
    assert_eq!(write(&kept, 0, 1), Ok(()));
    let object = bed.object("key");
    assert_eq!(write(&object, 0, 1), Ok(()));
    close(&object);
    for _ in 0..400 {
        close(&bed.object("key"));
    }
    let places = bed.cache.shared.descriptors.ring_len();
    assert!(places < 200, "{places} places for one open file");
    // The one that is open is still on it.
    bed.cache.shared.descriptors.emergency();
    bed.cache.shared.descriptors.emergency();
    assert_eq!(read(&kept, 0), page(1));
}

#[test]
fn a_map_of_zeros_alone_moves_to_the_side_file_too() {
    let dir = tempfile::tempdir().expect("dir");
    let armed = Arc::new(AtomicBool::new(true));
    let hook = fail_when(&armed, Errno::NOSPC, |c| matches!(c, Call::SetXattr(100..=300)));
    let bed = Bed::open(dir.path(), hook);
    let object = bed.object("key");
    for block in 0..4 {
        object.mark_zero(block * 64 * 4096..(block * 64 + 1) * 4096);
    }
    assert_eq!(commit(&object), Ok(()));
    bed.end();
    let bed = Bed::open(dir.path(), plain());
    let object = bed.object("key");
    assert_eq!(read(&object, 128), page(0));
    assert_eq!(read(&object, 129), Err(CacheMiss::Absent));
}

#[test]
fn a_side_file_that_went_missing_is_written_whole_again() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path(), plain());
    let object = bed.lookup_as("key", large(1)).expect("lookup").object;
    assert_eq!((write(&object, 0, 1), write(&object, 2000, 2)), (Ok(()), Ok(())));
    assert_eq!(commit(&object), Ok(()));
    std::fs::remove_file(stored(dir.path(), "mDkey")).expect("remove");
    assert_eq!(write(&object, 1, 3), Ok(()));
    close(&object);
    let object = bed.lookup_as("key", large(1)).expect("lookup").object;
    assert_eq!((read(&object, 0), read(&object, 1)), (page(1), page(3)));
    assert_eq!(read(&object, 2000), page(2), "its checksums were clean when the file went");
}

#[test]
fn a_side_file_of_an_earlier_object_is_no_corruption_of_the_next() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path(), plain());
    let object = bed.lookup_as("key", large(1)).expect("lookup").object;
    let last = GIB / 4096;
    assert_eq!((write(&object, 0, 1), write(&object, last, 2)), (Ok(()), Ok(())));
    close(&object);
    // What a kill between the two removals leaves.
    std::fs::remove_file(stored(dir.path(), "Dkey")).expect("remove");
    let object = bed.lookup_as("key", large(2)).expect("lookup").object;
    assert_eq!(write(&object, 0, 3), Ok(()));
    close(&object);
    let object = bed.lookup_as("key", large(2)).expect("lookup").object;
    assert_eq!((read(&object, 0), read(&object, last)), (page(3), Err(CacheMiss::Absent)));
    assert_eq!(bed.cache.stats().corrupt_pages, 0);
}

#[test]
fn running_out_of_descriptors_does_not_cost_what_a_side_file_knows() {
    let dir = tempfile::tempdir().expect("dir");
    let armed = Arc::new(AtomicBool::new(false));
    let bed = Bed::open(dir.path(), fail_when(&armed, Errno::MFILE, |c| c == Call::Open));
    let object = bed.lookup_as("key", large(1)).expect("lookup").object;
    let last = GIB / 4096;
    assert_eq!((write(&object, 0, 1), write(&object, last, 2)), (Ok(()), Ok(())));
    close(&object);
    let object = bed.lookup_as("key", large(1)).expect("lookup").object;
    armed.store(true, SeqCst);
    let miss = read(&object, last).expect_err("nothing can be opened");
    assert!(!matches!(miss, CacheMiss::Absent | CacheMiss::Corrupt), "{miss:?}");
    assert_eq!(write(&object, last + 1, 3), Err(Refusal::Descriptors));
    armed.store(false, SeqCst);
    assert_eq!(write(&object, last + 1, 3), Ok(()));
    assert_eq!((read(&object, last), read(&object, last + 1)), (page(2), page(3)));
    assert_eq!(bed.cache.stats().corrupt_pages, 0);
}

/// An object with pages 0 and 1, closed. An own change has touched it.
fn changed(bed: &Bed, key: &str, [before, after]: [Identity; 2]) {
    let object = bed.lookup_as(key, before).expect("lookup").object;
    assert_eq!(write(&object, 0, 1), Ok(()));
    pollster::block_on(Arc::clone(&object).begin_modify()).expect("marked");
    object.set_identity(after, std::slice::from_ref(&(5 * 4096..6 * 4096))).expect("renamed");
    object.end_modify();
    assert_eq!(write(&object, 1, 2), Ok(()));
    close(&object);
}

#[test]
fn a_lookup_that_fails_for_want_of_something_else_leaves_the_object() {
    for errno in [Errno::NOMEM, Errno::MFILE, Errno::NFILE] {
        let dir = tempfile::tempdir().expect("dir");
        // All fail from the call of that number on.
        let (calls, from) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
        let (called, first) = (Arc::clone(&calls), Arc::clone(&from));
        let hook: Hook = Arc::new(move |call| {
            let asks = matches!(call, Call::Open | Call::GetXattr | Call::Read(Wait::Yes));
            let fails = asks && called.fetch_add(1, SeqCst) >= first.load(SeqCst);
            if fails { Err(errno) } else { Ok(()) }
        });
        let bed = Bed::open(dir.path(), hook);
        // With the map in an attribute, and in a file.
        let both = [("inline", [identity(1), identity(2)]), ("side", [large(1), large(2)])];
        for (key, [before, after]) in both {
            changed(&bed, key, [before, after.clone()]);
            for nth in 0.. {
                calls.store(0, SeqCst);
                from.store(nth, SeqCst);
                let looked = bed.lookup_as(key, after.clone());
                let failed = calls.load(SeqCst) > nth;
                from.store(usize::MAX, SeqCst);
                match looked {
                    Ok(opened) => {
                        let found = (opened.found, read(&opened.object, 1));
                        assert_eq!(found, (Found::Existing, page(2)), "{errno}, {key}, call {nth}");
                        close(&opened.object);
                    }
                    Err(refused) => assert!(failed, "{errno}, {key}: {refused:?}"),
                }
                if !failed {
                    assert!(nth > 3, "{nth} calls");
                    break;
                }
            }
        }
        assert_eq!(bed.cache.stats().corrupt_objects, 0);
        bed.end();
    }
}

#[test]
fn a_move_to_the_side_file_that_failed_half_way_is_done_by_the_next_commit() {
    let dir = tempfile::tempdir().expect("dir");
    let refused = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&refused);
    // The map (more than 100 bytes) never fits; the header cannot be replaced for a while.
    let hook: Hook = Arc::new(move |call| match call {
        Call::SetXattr(101..=400) => Err(Errno::NOSPC),
        Call::SetXattr(..=100) if left.load(SeqCst) > 0 => Err(Errno::IO),
        _ => Ok(()),
    });
    let bed = Bed::open(dir.path(), hook);
    let object = bed.object("key");
    for n in 0..20 {
        assert_eq!(write(&object, n * 2, 7), Ok(()));
    }
    refused.store(1, SeqCst);
    assert_eq!(commit(&object), Err(Refusal::IoError));
    refused.store(0, SeqCst);
    assert_eq!(commit(&object), Ok(()));
    close(&object);
    let opened = bed.lookup("key").expect("lookup");
    assert_eq!((opened.found, read(&opened.object, 38)), (Found::Existing, page(7)));
}
