//! Holes, zeros, reservations.

use futures_util::FutureExt;
use netfs::{Errno, FallocateMode};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use crate::{common::Bench, tools::*};

const ALLOCATE: FallocateMode = FallocateMode::Allocate { keep_size: false };
const SIZE: usize = 600 * K;

/// Clean and dirty bytes around and in what is to be a hole, and what the file is with it.
fn bytes_and_hole(bench: &Bench, fs: &MemoryFs) -> (netfs::File, Vec<u8>, std::ops::Range<usize>) {
    let file = open(bench, "f");
    let mut expected = server(fs, "f");
    assert_eq!(read(&file, 0, SIZE), expected);
    for (at, len) in [(3000, 2000), (100 * K, 10), (299 * K, 3000), (400 * K, 5)] {
        write(&file, at, &vec![7; len]);
        expected[at..at + len].fill(7);
    }
    let hole = 4000..300 * K + 100;
    expected[hole.clone()].fill(0);
    (file, expected, hole)
}

fn punch(file: &netfs::File, hole: &std::ops::Range<usize>) -> netfs::Result<()> {
    file.blocking().punch_hole(hole.start as u64, hole.len() as u64)
}

#[test]
fn n_c22_what_is_in_a_hole_comes_back_from_nowhere_not_even_after_a_restart() {
    for place in Place::each() {
        let fs = MemoryFs::builder().file("f", SIZE as u64).build().expect("build");
        let bench = Bench::new(&fs, place.backend());
        let (file, expected, hole) = bytes_and_hole(&bench, &fs);
        bench.drain();
        punch(&file, &hole).expect("punch");
        assert_eq!(read(&file, 0, SIZE), expected);
        bench.netfs().drop_memory();
        assert_eq!(read(&file, 0, SIZE), expected, "from the disk cache and the server");
        assert_eq!(bench.netfs().memory().dirty, 1000 + (3000 - 1024 - 100) + 5);
        file.blocking().fsync().expect("fsync");
        assert_eq!(server(&fs, "f"), expected, "no byte of the hole was uploaded");
        bench.drain();
        drop(file);
        bench.shutdown();
        let bench = Bench::new(&fs, place.backend());
        bench.check("f", 0, SIZE);
        assert_eq!(fs.take_breaches(), Vec::<String>::new());
        bench.shutdown();
    }
}

#[test]
fn a_hole_that_reaches_the_end_is_known_and_so_are_whole_pages_of_others() {
    for place in Place::each() {
        let fs = MemoryFs::builder().file("f", SIZE as u64).build().expect("build");
        let bench = Bench::with(&fs, place.backend(), |b| b.fill(netfs::FillPolicy::Exact));
        let file = open(&bench, "f");
        read(&file, 0, 1);
        let before = fs.counts();
        punch(&file, &(500 * K..SIZE)).expect("to the end");
        assert_eq!(file.sizes().zero_point, 500 * K as u64);
        punch(&file, &(100 * K + 1..200 * K - 1)).expect("in the middle");
        assert_eq!(read(&file, 500 * K, SIZE), vec![0; 100 * K]);
        assert_eq!(read(&file, 104 * K, 92 * K), vec![0; 92 * K]);
        assert_eq!(fs.counts().since(&before).calls(Op::Read), 0);
        if !matches!(place, Place::None) {
            bench.netfs().drop_memory();
            assert_eq!(read(&file, 104 * K, 92 * K), vec![0; 92 * K]);
            assert_eq!(fs.counts().since(&before).calls(Op::Read), 0, "the disk cache knows");
        }
        // What is written there is asked for again once it has left memory.
        write(&file, 150 * K, b"in the hole");
        write(&file, 550 * K, b"behind it");
        file.blocking().fsync().expect("fsync");
        let expected = server(&fs, "f");
        assert_eq!(expected[150 * K..150 * K + 11], *b"in the hole");
        bench.netfs().drop_memory();
        assert_eq!(read(&file, 0, SIZE), expected);
        drop(file);
        bench.shutdown();
    }
}

#[test]
fn a_hole_in_bytes_that_were_to_make_the_file_longer_leaves_it_as_long() {
    let fs = MemoryFs::builder().bytes("f", "0123456789").build().expect("build");
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 10, &[1; 20_000]);
    punch(&file, &(5000..30_000)).expect("punch");
    assert_eq!(file.sizes().i_size, 20_010);
    let mut expected = b"0123456789".to_vec();
    expected.resize(5000, 1);
    expected.resize(20_010, 0);
    assert_eq!(read(&file, 0, 30_000), expected);
    file.blocking().fsync().expect("fsync");
    assert_eq!(server(&fs, "f"), expected);
    assert_eq!(read(&file, 0, 30_000), expected);
    drop(file);
    bench.shutdown();
}

#[test]
fn a3_10_a_hole_waits_for_the_upload_under_way() {
    let fs = MemoryFs::builder().file("f", SIZE as u64).build().expect("build");
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    write(&file, 0, &[9; 8192]);
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Release).times(1));
    std::thread::scope(|s| {
        let sync = s.spawn(|| file.blocking().fsync());
        fs.wait_until(|c, _| c.calls(Op::Write) == 1);
        let hole = s.spawn(|| punch(&file, &(0..8192)));
        // It is in line when nobody else gets the write lock.
        while !hole.is_finished() && file.write_at(100_000, b"x").now_or_never().is_some() {
            std::thread::yield_now();
        }
        let early = fs.counts().calls(Op::Deallocate);
        gate.release();
        assert_eq!(early, 0, "it did not wait");
        sync.join().expect("no panic").expect("fsync");
        hole.join().expect("no panic").expect("punch");
    });
    assert_eq!(server(&fs, "f")[..8192], [0; 8192]);
    assert_eq!(read(&file, 0, 8192), [0; 8192]);
    drop(file);
    bench.shutdown();
}

#[test]
fn a_fetch_from_before_a_hole_does_not_fill_it() {
    // With versions, and with a server whose versions do not move.
    for (versions, place) in
        [true, false].into_iter().flat_map(|v| Place::each().into_iter().map(move |p| (v, p)))
    {
        let fs = MemoryFs::builder().file("f", SIZE as u64).build().expect("build");
        let bench = Bench::new(&fs, place.backend());
        let file = open(&bench, "f");
        let gate = Gate::new();
        fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue).times(1));
        if !versions {
            let lie = netfs_memory::Lie::Version(version(&fs, "f"));
            fs.inject(Fault::on(Op::Deallocate).lie(lie).always());
        }
        std::thread::scope(|s| {
            let reader = s.spawn(|| read(&file, 0, 64 * K));
            fs.wait_until(|c, _| c.calls(Op::Read) >= 1);
            punch(&file, &(0..64 * K)).expect("punch");
            gate.release();
            assert_eq!(reader.join().expect("no panic").len(), 64 * K);
        });
        assert_eq!(read(&file, 0, 64 * K), vec![0; 64 * K]);
        bench.drain();
        bench.netfs().drop_memory();
        assert_eq!(
            read(&file, 0, 64 * K),
            vec![0; 64 * K],
            "nor does what it left in the disk cache"
        );
        drop(file);
        bench.shutdown();
    }
}

#[test]
fn where_the_server_makes_no_holes_zeros_are_written_within_the_file() {
    let fs = MemoryFs::builder().file("f", SIZE as u64).build().expect("build");
    fs.inject(Fault::on(Op::Deallocate).or(Op::Allocate).errno(Errno::EOPNOTSUPP).always());
    let bench = Bench::new(&fs, None);
    let (file, mut expected, hole) = bytes_and_hole(&bench, &fs);
    punch(&file, &hole).expect("punch");
    punch(&file, &(SIZE - 10..2 * SIZE)).expect("over the end");
    expected[SIZE - 10..].fill(0);
    assert_eq!(read(&file, 0, SIZE), expected);
    file.blocking().zero_range(SIZE as u64 - 20, 50).expect("zeros");
    expected[SIZE - 20..].fill(0);
    expected.resize(SIZE + 30, 0);
    assert_eq!(read(&file, 0, 2 * SIZE), expected);
    fails(file.blocking().fallocate(0, 10, ALLOCATE), Errno::EOPNOTSUPP);
    file.blocking().fsync().expect("fsync");
    assert_eq!(server(&fs, "f"), expected);
    drop(file);
    bench.shutdown();
}

#[test]
fn space_is_reserved_and_zeros_made_with_the_size_that_was_asked_for() {
    let fs = MemoryFs::builder().bytes("f", "0123456789").build().expect("build");
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    assert_eq!(read(&file, 0, 20), b"0123456789");
    let size = || (file.sizes().i_size, fs.size("f").expect("size"));
    let calls =
        |offset, len, mode| file.blocking().fallocate(offset, len, mode).expect("fallocate");
    calls(5, 100, FallocateMode::Allocate { keep_size: true });
    assert_eq!(size(), (10, 10));
    calls(5, 100, ALLOCATE);
    assert_eq!(size(), (105, 105));
    calls(8, 200, FallocateMode::ZeroRange { keep_size: true });
    assert_eq!(size(), (105, 105));
    calls(7, 200, FallocateMode::ZeroRange { keep_size: false });
    assert_eq!(size(), (207, 207));
    let mut expected = b"0123456".to_vec();
    expected.resize(207, 0);
    assert_eq!(read(&file, 0, 300), expected);
    assert_eq!(server(&fs, "f"), expected);
    // A file that is longer here than on the server stays so.
    write(&file, 300, b"x");
    calls(0, 250, ALLOCATE);
    assert_eq!(size(), (301, 250));
    drop(file);
    bench.shutdown();
}

#[test]
fn bad_ranges_and_failures_change_nothing() {
    let fs = MemoryFs::builder().file("f", 10_000).build().expect("build");
    fs.configure(|s| s.limits.max_size = 1 << 20);
    let bench = Bench::new(&fs, None);
    let (file, reader) = (open(&bench, "f"), bench.open("f"));
    write(&file, 100, b"kept");
    let expected = read(&file, 0, 10_000);
    for mode in [ALLOCATE, FallocateMode::PunchHole, FallocateMode::ZeroRange { keep_size: true }] {
        let call = |offset, len| file.blocking().fallocate(offset, len, mode);
        fails(call(10, 0), Errno::EINVAL);
        fails(call(u64::MAX, 10), Errno::EINVAL);
        fails(call(i64::MAX as u64, 1), Errno::EINVAL);
        fails(call((1 << 20) - 1, 2), Errno::EFBIG);
        fails(reader.blocking().fallocate(0, 10, mode), Errno::EBADF);
    }
    let fault = fs.inject(Fault::any().errno(Errno::ENOSPC).always());
    for mode in [ALLOCATE, FallocateMode::PunchHole] {
        assert!(file.blocking().fallocate(0, 20_000, mode).is_err());
    }
    fs.remove_fault(&fault);
    assert_eq!(read(&file, 0, 20_000), expected);
    assert_eq!(bench.netfs().memory().dirty, 4);
    fs.change("f").remove().expect("remove");
    fs.send_deleted(file.node().key());
    fails(file.blocking().punch_hole(0, 1), Errno::ESTALE);
    file.blocking().fsync().expect_err("it is gone");
    assert_eq!(file.blocking().discard_dirty().expect("nothing hangs"), 0, "given up already");
    drop((file, reader));
    bench.shutdown();
}

#[test]
fn a_lost_reply_leaves_nothing_vouched_for_and_what_somebody_else_changed_is_found() {
    let fs = MemoryFs::builder().file("f", SIZE as u64).build().expect("build");
    let bench = Bench::new(&fs, None);
    let (file, ..) = bytes_and_hole(&bench, &fs);
    file.blocking().fsync().expect("fsync");
    fs.inject(Fault::on(Op::Deallocate).lost_reply().times(1));
    punch(&file, &(0..4096)).expect_err("the reply was lost");
    assert_eq!(read(&file, 0, SIZE), server(&fs, "f"));
    // Somebody else's change in between.
    fs.inject(Fault::on(Op::Deallocate).conflict_before(10_000..20_000).times(1));
    punch(&file, &(8192..12_288)).expect("punch");
    assert_eq!(read(&file, 0, SIZE), server(&fs, "f"));
    drop(file);
    bench.shutdown();
}

/// A server is told of growth by a size, which may be smaller than what it has by now.
#[test]
fn letting_a_file_grow_cuts_off_nothing_that_somebody_else_has_appended_unheard() {
    let fs = MemoryFs::builder().file("f", 10_000).build().expect("build");
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f");
    read(&file, 0, 10);
    fs.change("f").silently().append(20_000).expect("append");
    let mut expected = server(&fs, "f");
    file.blocking().zero_range(9000, 3000).expect("zeros");
    expected[9000..10_000].fill(0);
    assert_eq!(server(&fs, "f"), expected, "zeros to where the file ended, as far as was known");
    assert_eq!(read(&file, 0, SIZE), expected);
    // Dirty bytes that were to make the file longer, in the hole.
    write(&file, 30_000, &[7; 5000]);
    fs.change("f").silently().append(20_000).expect("append");
    let mut expected = server(&fs, "f");
    punch(&file, &(29_000..35_000)).expect("punch");
    expected[29_000..35_000].fill(0);
    assert_eq!(server(&fs, "f"), expected);
    assert_eq!(read(&file, 0, SIZE), expected);
    assert_eq!(fs.counts().calls(Op::SetSize), 0, "it was long enough");
    drop(file);
    bench.shutdown();
}

#[test]
fn holes_of_a_local_file_are_the_kernels() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("f"), vec![5; 100_000]).expect("write");
    let fs = netfs_local::LocalFs::builder(dir.path()).writable(true).open().expect("open");
    let netfs = netfs::Netfs::builder().memory_bytes(16 << 20).build().expect("build");
    let me = netfs::remote::Cx::new(netfs::remote::Cred::current());
    let mount = netfs.blocking_mount(fs, &me).expect("mount");
    let file = mount.blocking().open_rw("f", &me).expect("open");
    write(&file, 20_000, b"gone soon");
    write(&file, 90_000, b"stays");
    punch(&file, &(8000..50_000)).expect("punch");
    let mut expected = vec![5; 100_000];
    expected[8000..50_000].fill(0);
    expected[90_000..90_005].copy_from_slice(b"stays");
    assert_eq!(read(&file, 0, 200_000), expected);
    file.blocking().fallocate(99_000, 2000, ALLOCATE).expect("allocate");
    expected.resize(101_000, 0);
    file.blocking().fsync().expect("fsync");
    assert_eq!(std::fs::read(dir.path().join("f")).expect("read"), expected);
    assert_eq!(read(&file, 0, 200_000), expected);
    drop((file, mount));
    assert!(netfs.blocking_shutdown(std::time::Duration::from_secs(20)).is_nothing());
}
