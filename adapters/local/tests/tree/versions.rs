//! Other content, other version; and no version at all while that cannot be known.

use std::{
    collections::HashMap,
    fs::{self, File, FileTimes, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use netfs::remote::{Outcome, RemoteFile, Version};

use crate::bed::{Bed, check, read, version};

/// Runs `change` on a settled file and says that its version is another afterwards.
fn moves_the_version(bed: &Bed, what: &str, change: impl FnOnce()) {
    let file = bed.walk("f").unwrap();
    let before = version(&file);
    change();
    assert_ne!(check(&file).unwrap().version, Some(before.clone()), "{what}, at once");
    assert_ne!(version(&file), before, "{what}, settled");
}

#[test]
fn every_change_of_content_moves_the_version() {
    for bed in Bed::each_filesystem() {
        bed.write("f", b"one");
        let path = bed.path("f");
        let open = || OpenOptions::new().write(true).open(&path).unwrap();
        moves_the_version(&bed, "rewrite in place", || open().write_all_at(b"two", 0).unwrap());
        moves_the_version(&bed, "append", || open().write_all_at(b"x", 3).unwrap());
        moves_the_version(&bed, "truncate", || open().set_len(2).unwrap());
        moves_the_version(&bed, "truncate to the same size", || open().set_len(2).unwrap());
        moves_the_version(&bed, "hole punched", || {
            let mode =
                rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(open(), mode, 0, 1).unwrap();
        });
    }
}

#[test]
fn a_rewrite_that_restores_mtime_moves_the_version() {
    for bed in Bed::each_filesystem() {
        bed.write("f", b"one");
        moves_the_version(&bed, "mtime set back", || {
            let f = OpenOptions::new().write(true).open(bed.path("f")).unwrap();
            let modified = f.metadata().unwrap().modified().unwrap();
            f.write_all_at(b"two", 0).unwrap();
            f.set_times(FileTimes::new().set_modified(modified)).unwrap();
        });
        moves_the_version(&bed, "mtime in the future", || {
            let f = OpenOptions::new().write(true).open(bed.path("f")).unwrap();
            f.write_all_at(b"six", 0).unwrap();
            let later = SystemTime::now() + std::time::Duration::from_secs(3600);
            f.set_times(FileTimes::new().set_modified(later)).unwrap();
        });
    }
}

#[test]
fn a_directory_has_a_version_that_moves_with_its_entries() {
    let bed = Bed::new();
    fs::create_dir(bed.path("f")).unwrap();
    moves_the_version(&bed, "create", || bed.write("f/a", b""));
    moves_the_version(&bed, "rename", || fs::rename(bed.path("f/a"), bed.path("f/b")).unwrap());
    moves_the_version(&bed, "unlink", || fs::remove_file(bed.path("f/b")).unwrap());
}

#[test]
fn a_change_of_rights_moves_the_version_because_ctime_does() {
    let bed = Bed::new();
    bed.write("f", b"one");
    moves_the_version(&bed, "chmod", || {
        fs::set_permissions(bed.path("f"), fs::Permissions::from_mode(0o600)).unwrap();
    });
}

/// The invariant everything rests on, tried in bursts that leave many writes in one step of the
/// clock: whatever is read under one version is the same bytes, and never other than what is there.
#[test]
fn one_version_never_stands_for_two_contents() {
    for bed in Bed::each_filesystem() {
        bed.write("f", b"00000000");
        let file = bed.walk("f").unwrap();
        let mut seen: HashMap<Version, Vec<u8>> = HashMap::new();
        let writer = OpenOptions::new().write(true).open(bed.path("f")).unwrap();
        for i in 0..2000u64 {
            let content = i.to_be_bytes();
            if i % 2 == 0 {
                writer.write_all_at(&content, 0).unwrap();
            } else {
                // Opened and closed, so that nobody is writing when it is read.
                let f = OpenOptions::new().write(true).open(bed.path("f")).unwrap();
                f.write_all_at(&content, 0).unwrap();
            }
            let (done, bytes) = read(&file, 0, 8);
            assert_eq!(bytes, content);
            if let Some(v) = done.facts.version {
                assert_eq!(*seen.entry(v).or_insert_with(|| bytes.clone()), bytes);
            }
        }
        drop(writer);
        version(&file);
        let (done, bytes) = read(&file, 0, 8);
        let v = done.facts.version.expect("nobody writes, the stamp is old");
        assert_eq!(*seen.entry(v).or_insert_with(|| bytes.clone()), bytes);
    }
}

/// Reads run all the time, so that each write tears one: none of those may have a version.
#[test]
fn readers_beside_a_writer_agree_on_what_a_version_is() {
    const LEN: usize = 1 << 20;
    let bed = Bed::new();
    bed.write("f", &vec![0; LEN]);
    let file = bed.walk("f").unwrap();
    let stop = AtomicBool::new(false);
    let mut seen: HashMap<Version, Vec<u8>> = HashMap::new();
    std::thread::scope(|s| {
        s.spawn(|| {
            for fill in 1u8..=60 {
                let f = OpenOptions::new().write(true).open(bed.path("f")).unwrap();
                f.write_all_at(&vec![fill; LEN], 0).unwrap();
                drop(f);
                version(&file); // so that the next write meets a read of a settled file
            }
            stop.store(true, Ordering::Release);
        });
        while !stop.load(Ordering::Acquire) {
            let (done, bytes) = read(&file, 0, LEN);
            if let Some(v) = done.facts.version {
                assert!(bytes.iter().all(|b| *b == bytes[0]), "a torn write has a version");
                assert!(*seen.entry(v).or_insert_with(|| bytes.clone()) == bytes);
            }
        }
    });
    let last = version(&file);
    let (done, bytes) = read(&file, 0, LEN);
    assert_eq!((done.facts.version, bytes == vec![60; LEN]), (Some(last), true));
}

/// Whether the kernel will say who writes to our files here.
fn writers_are_known() -> bool {
    let enabled = fs::read_to_string("/proc/sys/fs/leases-enable").unwrap_or_default();
    enabled.trim() == "1"
}

/// Stores after the first one to a page move no timestamp. Only asking for writers can tell.
#[test]
#[expect(unsafe_code, reason = "a shared writable mapping is what is tested")]
fn s2_content_of_a_file_that_is_mapped_for_writing_has_no_version() {
    if !writers_are_known() {
        return;
    }
    let bed = Bed::new();
    bed.write("f", &[b'a'; 4096]);
    let file = bed.walk("f").unwrap();
    let clean = version(&file);
    let f = OpenOptions::new().read(true).write(true).open(bed.path("f")).unwrap();
    // SAFETY: nobody truncates the file while it is mapped.
    let mut map = unsafe { memmap2::MmapMut::map_mut(&f).unwrap() };
    drop(f);
    assert_eq!(check(&file).unwrap().version, Some(clean.clone()), "nothing was stored yet");
    map[0] = b'b';
    let age_of_stamp = |nanos: i64| {
        let m = fs::metadata(bed.path("f")).unwrap();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        (now.tv_sec - m.ctime()) * 1_000_000_000 + now.tv_nsec - m.ctime_nsec() > nanos
    };
    // Until the stamp alone would pass for settled.
    while !age_of_stamp(1_500_000_000) {
        std::thread::yield_now();
    }
    let stamp = fs::metadata(bed.path("f")).unwrap();
    for store in [b'c', b'd'] {
        map[0] = store;
        let (done, bytes) = read(&file, 0, 4096);
        assert_eq!((done.facts.version, bytes[0]), (None, store));
    }
    let now = fs::metadata(bed.path("f")).unwrap();
    assert_eq!(
        (stamp.ctime(), stamp.ctime_nsec()),
        (now.ctime(), now.ctime_nsec()),
        "if the kernel stamped these stores, this test would prove nothing"
    );
    drop(map);
    let after = version(&file);
    assert_ne!(after, clean);
    let (done, bytes) = read(&file, 0, 4096);
    assert_eq!((done.facts.version, bytes[0]), (Some(after), b'd'));
}

#[test]
fn a_file_that_is_open_for_writing_keeps_the_version_it_had() {
    if !writers_are_known() {
        return;
    }
    let bed = Bed::new();
    bed.write("f", b"one");
    let file = bed.walk("f").unwrap();
    let before = version(&file);
    let writer = OpenOptions::new().write(true).open(bed.path("f")).unwrap();
    assert_eq!(check(&file).unwrap().version, Some(before.clone()));
    assert_eq!(read(&file, 0, 3).0.facts.version, Some(before));
    writer.write_all_at(b"two", 0).unwrap();
    assert_eq!(check(&file).unwrap().version, None);
}

#[test]
fn settle_waits_until_everything_has_a_version() {
    let bed = Bed::with(|b| b.ask_writers(false));
    bed.write("f", b"one");
    fs::create_dir(bed.path("d")).unwrap();
    bed.fs.settle();
    for name in ["f", "d", ""] {
        assert!(check(&bed.walk(name).unwrap()).unwrap().version.is_some(), "{name:?}");
    }
    assert!(bed.fs.timestamp_step() <= bed.fs.settle_time());
}

#[test]
fn facts_of_a_read_are_of_the_bytes_it_read() {
    let bed = Bed::new();
    bed.write("f", b"hello");
    let file = bed.walk("f").unwrap();
    let v = version(&file);
    let (done, _) = read(&file, 0, 5);
    assert!(matches!(done.outcome, Outcome::Done));
    assert_eq!((done.facts.version, done.facts.size), (Some(v), Some(5)));
    assert_eq!(File::open(bed.path("f")).unwrap().metadata().unwrap().ino(), {
        let key = file.key();
        u64::from_be_bytes(key[..8].try_into().unwrap())
    });
}
