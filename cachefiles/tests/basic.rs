//! Life of an object: store, read back, restart, invalidate, refuse.

mod common;

use std::{os::unix::fs::PermissionsExt, sync::Arc};

use cachefiles::{KernelCache, OpenError};
use common::*;
use netfs::fscache::{CacheBackend, CacheMiss, ExtentKind, Found, Refusal, Relinquish, TryRead};

const SIZE: u64 = 3 * 4096 + 100;
const GIB: u64 = 1 << 30;

#[test]
fn what_was_stored_reads_back_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let id = identity(b"v1", SIZE);
    let bed = Bed::open(dir.path());
    let (object, found) = bed.object(b"key", &id);
    assert_eq!(found, Found::Created);
    assert_eq!(read_any(&object, 0, 100), Err(CacheMiss::Absent));
    fill(&object, 1, 0, 4 * 4096);
    for (offset, len) in [(0, SIZE as usize), (5, 10), (4000, 200), (4096, 4096), (1, 4095)] {
        assert_eq!(read_any(&object, offset, len), Ok(content(1, offset, len, SIZE)));
        assert_eq!(read(&object, offset, len), Ok(content(1, offset, len, SIZE)));
    }
    close(object);
    bed.end();

    let bed = Bed::open(dir.path());
    let (object, found) = bed.object(b"key", &id);
    assert_eq!(found, Found::Existing);
    assert_eq!(read_any(&object, 0, SIZE as usize), Ok(content(1, 0, SIZE as usize, SIZE)));
}

#[test]
fn a_page_the_kernel_holds_is_read_on_the_callers_thread() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::with(builder(dir.path()).kernel_cache(KernelCache::Keep));
    let (object, _) = bed.object(b"key", &identity(b"v", SIZE));
    fill(&object, 1, 0, 4096);
    let mut into = vec![0; 64];
    let expected = if bed.cache.probe().nowait { TryRead::Done } else { TryRead::WouldBlock };
    assert_eq!(object.try_read(7, &mut into), expected);
    if expected == TryRead::Done {
        assert_eq!(into, content(1, 7, 64, SIZE));
        assert_eq!((bed.cache.stats().inline_reads, bed.cache.stats().queued_reads), (1, 0));
    }
}

#[test]
fn n_c56_another_identity_is_never_served() {
    let dir = tempfile::tempdir().expect("dir");
    let old = identity(b"v1", SIZE);
    for new in [identity(b"v2", SIZE), identity(b"v1", SIZE + 1), identity(b"", SIZE)] {
        let bed = Bed::open(dir.path());
        let (object, _) = bed.object(b"key", &old);
        fill(&object, 1, 0, 4 * 4096);
        close(object);
        let (object, found) = bed.object(b"key", &new);
        assert_eq!(found, Found::ReplacedStale);
        assert_eq!(read_any(&object, 0, 10), Err(CacheMiss::Absent));
        assert_eq!(bed.cache.stats().stale_objects, 1);
        fill(&object, 2, 0, 4096);
        assert_eq!(read_any(&object, 0, 10), Ok(content(2, 0, 10, SIZE)));
        retire(object);
        bed.end();
    }
}

#[test]
fn n_c48_a_cut_over_takes_effect_at_once_and_in_flight_io_has_none() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path());
    let (old, _) = bed.object(b"key", &identity(b"v1", SIZE));
    fill(&old, 1, 0, 4 * 4096);
    let id = identity(b"v2", SIZE + 4096);
    let new = old.cut_over(id.clone()).expect("cut over");
    assert!(new.generation() > old.generation());
    assert_eq!(read_any(&old, 0, 10), Err(CacheMiss::Stale));
    assert_eq!(write(&old, 0, &content(1, 0, 4096, SIZE)), Err(Refusal::Stale));
    assert!(matches!(old.cut_over(id.clone()), Err(Refusal::Stale)));
    assert_eq!(pollster::block_on(Arc::clone(&old).commit()), Err(Refusal::Stale));
    assert_eq!(read_any(&new, 0, 10), Err(CacheMiss::Absent));
    // Bytes fetched for the old version do not enter the new one.
    assert_eq!(
        write_as(&new, old.generation(), 0, &content(1, 0, 4096, SIZE)),
        Err(Refusal::Stale)
    );
    fill(&new, 2, 0, 4096);
    old.forget(0..SIZE);
    old.mark_zero(0..4096);
    assert_eq!(read_any(&new, 0, 4096), Ok(content(2, 0, 4096, SIZE)));
    close(new);
    let (again, found) = bed.object(b"key", &id);
    assert_eq!(found, Found::Existing);
    assert_eq!(read_any(&again, 0, 4096), Ok(content(2, 0, 4096, SIZE)));
}

#[test]
fn n_c73_shrinking_and_growing_again_resurrects_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path());
    let (object, _) = bed.object(b"key", &identity(b"v", SIZE));
    fill(&object, 1, 0, 4 * 4096);
    let small = object.cut_over(identity(b"v", 10)).expect("cut over");
    let large = small.cut_over(identity(b"v", SIZE)).expect("cut over");
    assert_eq!(read_any(&large, 0, 4096), Err(CacheMiss::Absent));
    close(large);
    let (object, _) = bed.object(b"key", &identity(b"v", SIZE));
    assert_eq!(read_any(&object, 0, 4096), Err(CacheMiss::Absent), "nor after it was closed");
}

#[test]
fn n_c69_p_d64_a_second_owner_is_refused_and_told_who_holds_the_lock() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path());
    let Err(OpenError::Locked { holder, .. }) = builder(dir.path()).open() else {
        panic!("two owners of one directory");
    };
    assert_eq!(holder, format!("process {}", std::process::id()));
    bed.end();
    builder(dir.path()).open().expect("given up by withdraw");
}

#[test]
fn n_c72_other_volume_coherency_data_discard_exactly_that_volume() {
    let dir = tempfile::tempdir().expect("dir");
    let id = identity(b"v", 4096);
    let cache = builder(dir.path()).open().expect("opens");
    for name in ["one", "two"] {
        let v = volume(&cache, name, b"a").expect("volume");
        let object = lookup(&v, b"key", &id).expect("lookup").object;
        fill(&object, 1, 0, 4096);
        close(object);
        assert!(matches!(volume(&cache, name, b"a"), Err(Refusal::InUse)));
        pollster::block_on(v.relinquish(Relinquish::Keep));
    }
    let one = volume(&cache, "one", b"b").expect("volume");
    let two = volume(&cache, "two", b"a").expect("volume");
    assert_eq!(lookup(&one, b"key", &id).expect("lookup").found, Found::Created);
    assert_eq!(lookup(&two, b"key", &id).expect("lookup").found, Found::Existing);
    pollster::block_on(Arc::clone(&two).relinquish(Relinquish::Retire));
    let two = volume(&cache, "two", b"a").expect("volume");
    assert_eq!(lookup(&two, b"key", &id).expect("lookup").found, Found::Created);
}

#[test]
fn p_d64_one_key_is_open_once_and_free_again_after_close_or_drop() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path());
    let id = identity(b"v", 4096);
    let (object, _) = bed.object(b"key", &id);
    assert!(matches!(bed.lookup(b"key", &id), Err(Refusal::InUse)));
    close(object);
    let (object, _) = bed.object(b"key", &id);
    drop(object);
    drop(bed.object(b"key", &id));
}

#[test]
fn keys_of_every_length_and_kind_keep_apart() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path());
    let id = identity(b"v", 4096);
    let mut keys: Vec<Vec<u8>> = (1..=255).map(|n| vec![b'x'; n]).collect();
    keys.extend([b".".to_vec(), b"..".to_vec(), b"a/b".to_vec(), vec![0], vec![0; 255]]);
    keys.extend([vec![1; 255], vec![0xff; 190], b"@00".to_vec(), b"mDkey".to_vec()]);
    for (seed, key) in keys.iter().enumerate() {
        let (object, found) = bed.object(key, &id);
        assert_eq!(found, Found::Created, "{key:?}");
        fill(&object, seed as u64, 0, 4096);
        close(object);
    }
    for (seed, key) in keys.iter().enumerate() {
        let (object, found) = bed.object(key, &id);
        assert_eq!(found, Found::Existing, "{key:?}");
        assert_eq!(read_any(&object, 0, 4096), Ok(content(seed as u64, 0, 4096, 4096)));
    }
    assert!(matches!(bed.lookup(b"", &id), Err(Refusal::Unsupported)));
    assert!(matches!(bed.lookup(&[b'k'; 256], &id), Err(Refusal::Unsupported)));
}

#[test]
fn objects_beyond_8_gib_keep_their_map_in_the_side_file() {
    let dir = tempfile::tempdir().expect("dir");
    let size = 9 * GIB + 77;
    let id = identity(b"v", size);
    let bed = Bed::open(dir.path());
    let (object, _) = bed.object(b"big", &id);
    // Both sides of a chunk border, and the tail.
    let places = [0, GIB - 4096, GIB, 8 * GIB - 256 * 1024, 9 * GIB];
    for at in places {
        fill(&object, 3, at, 4096);
    }
    object.mark_zero(2 * GIB..4 * GIB);
    close(object);
    bed.end();
    let bed = Bed::open(dir.path());
    let (object, found) = bed.object(b"big", &id);
    assert_eq!(found, Found::Existing);
    assert!(object.extents(5 * GIB..5 * GIB + 1).iter().all(|e| e.kind == ExtentKind::NotLoaded));
    for at in places {
        let len = if at == 9 * GIB { 77 } else { 4096 };
        assert_eq!(read_any(&object, at, len), Ok(content(3, at, len, size)), "at {at}");
    }
    assert_eq!(read_any(&object, 4 * GIB - 10, 10), Ok(vec![0; 10]));
    assert_eq!(read_any(&object, 4 * GIB, 10), Err(CacheMiss::Absent));
    // A change of a chunk that is not loaded takes effect when it is.
    object.forget(8 * GIB - 256 * 1024..8 * GIB);
    assert_eq!(read_any(&object, 8 * GIB - 256 * 1024, 10), Err(CacheMiss::Absent));
    // A write over the border of two chunks that are not loaded keeps what both hold.
    fill(&object, 3, 7 * GIB - 4096, 8192);
    close(object);
    bed.end();
    let bed = Bed::open(dir.path());
    let (object, _) = bed.object(b"big", &id);
    fill(&object, 3, GIB - 8192, 4096);
    fill(&object, 3, 9 * GIB - 4096, 8192);
    for at in [7 * GIB - 4096, 7 * GIB, 9 * GIB - 4096, GIB - 8192, GIB - 4096, GIB] {
        assert_eq!(read_any(&object, at, 4096), Ok(content(3, at, 4096, size)), "at {at}");
    }
    close(object);
    let (object, _) = bed.object(b"big", &id);
    assert_eq!(read(&object, GIB - 4096, 8192), Ok(content(3, GIB - 4096, 8192, size)));
    object.forget(8 * GIB..9 * GIB + 77);
    assert_eq!(read_any(&object, 9 * GIB, 77), Err(CacheMiss::Absent));
    assert_eq!(bed.cache.stats().corrupt_pages, 0);
}

#[test]
fn a_tiny_descriptor_budget_serves_many_objects() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::with(builder(dir.path()).max_descriptors(8));
    let id = identity(b"v", SIZE);
    let objects: Vec<_> = (0..200u64)
        .map(|i| {
            let (object, _) = bed.object(format!("key{i}").as_bytes(), &id);
            fill(&object, i, 0, 4 * 4096);
            object
        })
        .collect();
    for round in 0..3 {
        for (i, object) in objects.iter().enumerate() {
            let len = 4096 + round * 17;
            assert_eq!(read_any(object, 3, len), Ok(content(i as u64, 3, len, SIZE)));
            assert!(bed.cache.stats().descriptors <= 8);
        }
    }
    assert_eq!(bed.cache.stats().objects_open, 200);
    assert_eq!(bed.cache.stats().refusals, 0);
}

#[test]
fn a_file_exchanged_while_its_descriptor_was_closed_is_a_miss() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::with(builder(dir.path()).max_descriptors(1));
    let id = identity(b"v", SIZE);
    let (a, _) = bed.object(b"a", &id);
    fill(&a, 1, 0, 4096);
    pollster::block_on(Arc::clone(&a).commit()).expect("commit");
    let (b, _) = bed.object(b"b", &id);
    fill(&b, 2, 0, 4096);
    fill(&b, 2, 4096, 4096);
    let file = find(dir.path(), "Da").expect("backing file");
    let copy = file.with_extension("copy");
    let copied = std::process::Command::new("cp").arg("-a").args([&file, &copy]).status();
    assert!(copied.expect("cp").success());
    std::fs::rename(copy, file).expect("rename");
    assert_eq!(read_any(&a, 0, 10), Err(CacheMiss::Io));
    assert_eq!(bed.cache.stats().corrupt_objects, 1);
    // It recovers: the next fill makes a new file.
    fill(&a, 1, 0, 4096);
    assert_eq!(read_any(&a, 0, 10), Ok(content(1, 0, 10, SIZE)));
}

#[test]
fn limits_refuse_instead_of_queueing() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path());
    let id = identity(b"v", SIZE);
    let (object, _) = bed.object(b"key", &id);
    let page = vec![0; 4096];
    assert_eq!(write(&object, 1, &page), Err(Refusal::Unsupported), "unaligned");
    assert_eq!(write(&object, 0, &page[..100]), Err(Refusal::Unsupported), "no whole page");
    assert_eq!(write(&object, 4 * 4096, &page), Err(Refusal::Unsupported), "beyond the end");
    assert!(matches!(bed.lookup(b"k", &identity(&[0; 201], 1)), Err(Refusal::Unsupported)));
    assert!(matches!(bed.lookup(b"k", &identity(b"", u64::MAX)), Err(Refusal::Unsupported)));
    assert!(bed.cache.stats().refusals >= 5);
}

#[test]
fn after_withdraw_everything_is_refused_and_what_was_stored_is_kept() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path());
    let id = identity(b"v", SIZE);
    let (object, _) = bed.object(b"key", &id);
    fill(&object, 1, 0, 4096);
    pollster::block_on(Arc::clone(&bed.cache).withdraw());
    let withdrawn = CacheMiss::Refused(Refusal::Withdrawn);
    assert_eq!(read_any(&object, 0, 10), Err(withdrawn));
    assert_eq!(read(&object, 0, 10), Err(withdrawn));
    assert_eq!(write(&object, 0, &[0; 4096]), Err(Refusal::Withdrawn));
    assert!(matches!(object.cut_over(id.clone()), Err(Refusal::Withdrawn)));
    assert!(matches!(bed.lookup(b"other", &id), Err(Refusal::Withdrawn)));
    assert!(matches!(volume(&bed.cache, "x", b""), Err(Refusal::Withdrawn)));
    assert_eq!(bed.cache.health(), Err(Refusal::Withdrawn));
    assert_eq!(bed.cache.stats().descriptors, 0);
    close(object);
    let again = Bed::open(dir.path());
    let (object, found) = again.object(b"key", &id);
    assert_eq!(found, Found::Existing);
    assert_eq!(read_any(&object, 0, 10), Ok(content(1, 0, 10, SIZE)));
}

#[test]
fn the_committer_makes_fills_findable_without_being_asked() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::with(builder(dir.path()).flush_interval(std::time::Duration::from_millis(1)));
    let (object, _) = bed.object(b"key", &identity(b"v", SIZE));
    fill(&object, 1, 0, 4096);
    let file = find(dir.path(), "Dkey").expect("published with the first write");
    // Ends: the committer writes it within its interval.
    while xattr::get(&file, "user.netfs.map").expect("xattr").is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn n_c68_an_unusable_file_affects_its_own_object_only() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path());
    let id = identity(b"v", SIZE);
    let (a, _) = bed.object(b"a", &id);
    let (b, _) = bed.object(b"b", &id);
    fill(&a, 1, 0, 4096);
    fill(&b, 2, 0, 4096);
    let file = find(dir.path(), "Da").expect("backing file");
    std::fs::OpenOptions::new().write(true).open(file).and_then(|f| f.set_len(0)).expect("cut");
    assert_eq!(read_any(&a, 0, 10), Err(CacheMiss::Io));
    assert_eq!(read_any(&a, 0, 10), Err(CacheMiss::Absent), "and is forgotten");
    assert_eq!(read_any(&b, 0, 10), Ok(content(2, 0, 10, SIZE)));
    assert_eq!(bed.cache.health(), Ok(()));
}

#[test]
fn the_directory_is_private_and_strangers_are_left_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("cache");
    let bed = Bed::open(&path);
    let (object, _) = bed.object(b"key", &identity(b"v", SIZE));
    fill(&object, 1, 0, 4096);
    let mode = |p: &std::path::Path| p.metadata().expect("stat").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&find(&path, "Dkey").expect("file")), 0o600);
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("mkdir");
    std::fs::write(other.join("thesis.txt"), "mine").expect("write");
    assert!(matches!(builder(&other).open(), Err(OpenError::NotACache { .. })));
    assert_eq!(std::fs::read_dir(&other).expect("list").count(), 1, "nothing was changed");
}

#[test]
fn another_format_is_refused_and_a_damaged_superblock_starts_fresh() {
    let dir = tempfile::tempdir().expect("dir");
    let id = identity(b"v", 4096);
    let bed = Bed::open(dir.path());
    let (object, _) = bed.object(b"key", &id);
    fill(&object, 1, 0, 4096);
    close(object);
    bed.end();
    let file = dir.path().join("netfs-cache");
    let good = std::fs::read(&file).expect("superblock");
    let mut newer = good.clone();
    newer[8..16].copy_from_slice(&[0, 0, 0, 9, 0, 0, 0, 0]);
    let crc = crc_fast::crc32_iscsi(&newer);
    newer[12..16].copy_from_slice(&crc.to_be_bytes());
    std::fs::write(&file, &newer).expect("write");
    assert!(matches!(builder(dir.path()).open(), Err(OpenError::Format { found: 9, .. })));
    std::fs::write(&file, &good).expect("write");
    let bed = Bed::open(dir.path());
    assert_eq!(bed.object(b"key", &id).1, Found::Existing, "the refused opening changed nothing");
    bed.end();
    std::fs::write(&file, &good[..20]).expect("write");
    let bed = Bed::open(dir.path());
    assert_eq!(bed.object(b"key", &id).1, Found::Created);
}

#[test]
fn n_c70_what_a_crash_left_in_the_graveyard_is_deleted() {
    let dir = tempfile::tempdir().expect("dir");
    Bed::open(dir.path()).end();
    let grave = dir.path().join("graveyard");
    std::fs::create_dir_all(grave.join("0001/@00/deep")).expect("mkdir");
    std::fs::write(grave.join("0001/@00/f"), "x").expect("write");
    std::os::unix::fs::symlink(dir.path(), grave.join("0001/link")).expect("symlink");
    std::fs::write(grave.join("0002"), "x").expect("write");
    let bed = Bed::open(dir.path());
    // Ends: it is done in the background, and not finished by a withdrawal.
    while std::fs::read_dir(&grave).expect("list").count() > 0 {
        std::thread::yield_now();
    }
    bed.end();
    assert!(dir.path().join("netfs-cache").exists(), "links are not followed");
}
