//! The disk cache's copy of what is written (rows 63, 64, 81, 107, 108, 126).

mod common;

use std::{path::Path, process::Command, sync::Arc};

use cachefiles::CacheDir;
use common::{Bench, cx};
use netfs::{
    Errno, File, FillPolicy, Stats, WriteOptions,
    fscache::{CacheBackend, CookieState, FaultPoint, FillWhenFull, MemCache, Refusal},
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

/// A disk cache that outlives the contexts that use it.
enum Disk {
    Memory(Arc<MemCache>),
    /// With a count of the directory's copies: a process that died is a copy of what it left.
    Directory(tempfile::TempDir, u32),
}

impl Disk {
    fn both() -> [Disk; 2] {
        let dir = tempfile::tempdir().expect("a directory");
        [Disk::Memory(MemCache::new()), Disk::Directory(dir, 0)]
    }

    fn open(&self) -> Arc<dyn CacheBackend> {
        match self {
            Disk::Memory(cache) => Arc::clone(cache) as Arc<dyn CacheBackend>,
            Disk::Directory(dir, life) => {
                let path = dir.path().join(life.to_string());
                CacheDir::builder(path).io_threads(2).open().expect("the directory opens")
            }
        }
    }

    /// The next process, after one that gave the cache up in good order.
    fn reopened(self) -> Disk {
        match self {
            Disk::Memory(cache) => Disk::Memory(cache.restart()),
            directory => directory,
        }
    }

    /// The next process, after one that is killed now.
    fn killed(self) -> Disk {
        match self {
            Disk::Memory(cache) => Disk::Memory(cache.restart()),
            Disk::Directory(dir, life) => {
                let at = |life: u32| dir.path().join(life.to_string());
                copy(&at(life), &at(life + 1));
                Disk::Directory(dir, life + 1)
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    // Files that vanish while it copies are no failure: a crash may come at any moment.
    let done = Command::new("cp").arg("-a").arg(from).arg(to).output();
    done.expect("cp runs");
}

fn bench(fs: &Arc<MemoryFs>, disk: &Disk) -> Bench {
    Bench::with(fs, Some(disk.open()), |b| {
        // A quarter of it is for the queue.
        b.memory_bytes(128 << 20)
            .dirty_bytes(24 << 20, 32 << 20)
            .fill(FillPolicy::Exact)
            // Uploads never wait for it; what is queued may take its time on a busy machine.
            .fill_queue(64 << 20, FillWhenFull::Wait { max: std::time::Duration::from_secs(60) })
            // A busy machine is no slow disk.
            .cache_wait(std::time::Duration::from_secs(60))
    })
}

fn open(bench: &Bench, path: &str) -> File {
    let node = pollster::block_on(bench.mount.walk(path, &cx())).expect("walk");
    pollster::block_on(bench.mount.open_rw(&node, &cx())).expect("open for writing")
}

fn write(file: &File, offset: usize, bytes: &[u8]) {
    let n = pollster::block_on(file.write_at(offset as u64, bytes)).expect("write");
    assert_eq!(n, bytes.len());
}

fn fsync(file: &File) {
    pollster::block_on(file.fsync()).expect("fsync");
}

fn set_len(file: &File, size: usize) {
    pollster::block_on(file.set_len(size as u64)).expect("set_len");
}

fn read(file: &File, offset: usize, len: usize) -> Vec<u8> {
    let mut buf = vec![0xaa; len];
    let n = pollster::block_on(file.read_at(offset as u64, &mut buf)).expect("read");
    buf.truncate(n);
    buf
}

/// Reads page by page and says which pages the server was not asked for; the bytes must be the origin's.
fn cached(bench: &Bench, path: &str) -> Vec<bool> {
    let size = bench.fs.size(path).expect("size") as usize;
    let file = bench.open(path);
    let hit = |at: usize| {
        let before = bench.fs.counts().calls(Op::Read);
        let got = read(&file, at, PAGE);
        bench.fs.verify(path, at as u64, &got).expect("the origin's bytes");
        assert_eq!(got.len(), PAGE.min(size - at));
        bench.fs.counts().calls(Op::Read) == before
    };
    (0..size).step_by(PAGE).map(hit).collect()
}

fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|i| (i / PAGE * 7 + i % 251 + salt * 13) as u8).collect()
}

/// Everything offered has been stored; the context ends in good order.
fn end(bench: Bench, file: File) -> Stats {
    bench.drain();
    let stats = bench.stats();
    drop(file);
    bench.shutdown();
    stats
}

#[test]
fn rows_107_108_what_was_written_is_a_disk_hit_after_a_restart() {
    for disk in Disk::both() {
        let fs = MemoryFs::builder().bytes("new", "").build().expect("build");
        let first = bench(&fs, &disk);
        let file = open(&first, "new");
        // Several rounds, and an end in the middle of a page.
        let bytes = pattern(20 * MIB + 1234, 1);
        for at in (0..bytes.len()).step_by(MIB) {
            write(&file, at, &bytes[at..bytes.len().min(at + MIB)]);
        }
        fsync(&file);
        let stats = end(first, file);
        assert_eq!(fs.expected("new", 0, bytes.len()).expect("new"), bytes);
        assert_eq!((stats.fill_dropped_bytes, stats.fill_stale_bytes), (0, 0));
        let disk = disk.reopened();
        let second = bench(&fs, &disk);
        assert_eq!(cached(&second, "new"), vec![true; bytes.len().div_ceil(PAGE)]);
        assert_eq!(fs.counts().calls(Op::Read), 0, "no byte was ever read from the server");
        second.shutdown();
    }
}

#[test]
fn rows_107_108_pages_nobody_wrote_stay_and_a_partly_known_one_is_forgotten() {
    for disk in Disk::both() {
        let fs = MemoryFs::builder().file("f", 8 * PAGE as u64).build().expect("build");
        let first = bench(&fs, &disk);
        assert_eq!(cached(&first, "f"), [false; 8]);
        first.drain();
        first.netfs().drop_memory();
        let file = open(&first, "f");
        // From the middle of page 1 to the middle of page 4, into a memory that has none of them.
        write(&file, PAGE + 100, &pattern(3 * PAGE, 2));
        fsync(&file);
        first.drain();
        first.netfs().drop_memory();
        let want = [true, false, true, true, false, true, true, true];
        assert_eq!(cached(&first, "f"), want, "in the same process");
        let file_again = open(&first, "f");
        // Now page 5 is in memory, whole: what is written to a part of it makes no gap.
        read(&file, 5 * PAGE, PAGE);
        write(&file_again, 5 * PAGE + 10, b"some");
        fsync(&file_again);
        drop(file_again);
        let stats = end(first, file);
        assert_eq!(stats.invalidates, 0, "the object was never emptied");
        let disk = disk.reopened();
        let second = bench(&fs, &disk);
        let got = cached(&second, "f");
        assert_eq!(got, [true; 8], "the two were read, and so stored, meanwhile");
        second.shutdown();
    }
}

#[test]
fn a_third_partys_change_leaves_nothing_of_the_old_version() {
    for disk in Disk::both() {
        let fs = MemoryFs::builder().file("f", 8 * PAGE as u64).build().expect("build");
        let first = bench(&fs, &disk);
        cached(&first, "f");
        let file = open(&first, "f");
        write(&file, 0, &pattern(2 * PAGE, 3));
        // Before the round, unheard of.
        fs.change("f").silently().rewrite().expect("theirs");
        fsync(&file);
        first.drain();
        first.netfs().drop_memory();
        assert_eq!(cached(&first, "f"), [false; 8]);
        write(&file, 0, &pattern(2 * PAGE, 4));
        fsync(&file);
        end(first, file);
        // After it, while nobody looks.
        fs.change("f").silently().rewrite().expect("theirs");
        let disk = disk.reopened();
        let second = bench(&fs, &disk);
        assert_eq!(cached(&second, "f"), [false; 8]);
        second.shutdown();
    }
}

#[test]
fn what_is_written_during_a_round_is_not_copied_with_it() {
    for disk in Disk::both() {
        let fs = MemoryFs::builder().file("f", 4 * PAGE as u64).build().expect("build");
        let first = bench(&fs, &disk);
        let file = open(&first, "f");
        write(&file, 0, &pattern(2 * PAGE, 5));
        let gate = Gate::new();
        fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Release).times(1));
        std::thread::scope(|s| {
            let sync = s.spawn(|| fsync(&file));
            fs.wait_until(|c, _| c.calls(Op::Write) == 1);
            write(&file, 100, b"newer");
            gate.release();
            sync.join().expect("fsync");
        });
        first.drain();
        // The process dies with that.
        let disk = disk.killed();
        drop((file, first));
        let second = bench(&fs, &disk);
        cached(&second, "f");
        second.shutdown();
    }
}

#[test]
fn row_126_a_crash_in_the_middle_of_a_round_leaves_nothing_to_find() {
    // Whether or not the server's version moves with each change.
    let all = [true, false].into_iter().flat_map(|moves| Disk::both().map(|disk| (disk, moves)));
    for (disk, moves) in all {
        let fs = MemoryFs::builder().file("f", 8 * PAGE as u64).build().expect("build");
        let zeroth = bench(&fs, &disk);
        cached(&zeroth, "f");
        zeroth.shutdown();
        // Stored and committed.
        let disk = disk.reopened();
        let first = bench(&fs, &disk);
        assert_eq!(cached(&first, "f"), [true; 8]);
        let file = open(&first, "f");
        write(&file, PAGE, &pattern(2 * PAGE, 6));
        let (gate, at) = match moves {
            true => (Gate::new(), SnapshotAt::Issue),
            false => (Gate::new(), SnapshotAt::Release),
        };
        fs.inject(Fault::on(Op::Write).hold(&gate, at).times(1));
        std::thread::scope(|s| {
            let sync = s.spawn(|| pollster::block_on(file.fsync()));
            fs.wait_until(|c, _| c.calls(Op::Write) == 1);
            if !moves {
                // What the server did with it shows in no version.
                let change = fs.change("f").silently().keeping_version();
                change.write(PAGE as u64, pattern(2 * PAGE, 6)).expect("applied");
            }
            let disk = disk.killed();
            let second = bench(&fs, &disk);
            let found =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cached(&second, "f")));
            gate.release();
            drop(sync.join());
            assert_eq!(found.expect("the origin's bytes"), [false; 8]);
            second.shutdown();
        });
        drop((file, first));
    }
}

/// Calls that change the file past the page cache mark the object as a round does. What the server did with them
/// shows in no version here.
#[test]
fn row_126_a_crash_in_the_middle_of_a_cut_a_hole_or_a_direct_write_leaves_nothing_to_find() {
    type Change = fn(&File) -> netfs::Result<()>;
    let cut: Change = |file| pollster::block_on(file.set_len(PAGE as u64));
    let punch: Change = |file| pollster::block_on(file.punch_hole(PAGE as u64, 7 * PAGE as u64));
    let direct: Change = |file| {
        let (zeros, how) = ([0; 7 * PAGE], WriteOptions::unbuffered());
        pollster::block_on(file.write_at_with(PAGE as u64, &zeros, how)).map(drop)
    };
    for (op, change) in [(Op::SetSize, cut), (Op::Deallocate, punch), (Op::Write, direct)] {
        for disk in Disk::both() {
            let fs = MemoryFs::builder().file("f", 8 * PAGE as u64).build().expect("build");
            let zeroth = bench(&fs, &disk);
            cached(&zeroth, "f");
            zeroth.shutdown();
            let disk = disk.reopened();
            let first = bench(&fs, &disk);
            assert_eq!(cached(&first, "f"), [true; 8]);
            let file = open(&first, "f");
            let gate = Gate::new();
            fs.inject(Fault::on(op).hold(&gate, SnapshotAt::Release).times(1));
            std::thread::scope(|s| {
                let changing = s.spawn(|| change(&file));
                fs.wait_until(|c, _| c.calls(op) == 1);
                // Cut and grown again, perhaps.
                let theirs = fs.change("f").silently().keeping_version();
                theirs.write(PAGE as u64, vec![0; 7 * PAGE]).expect("applied");
                let disk = disk.killed();
                let second = bench(&fs, &disk);
                let found =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cached(&second, "f")));
                gate.release();
                drop(changing.join());
                assert_eq!(found.expect("the origin's bytes"), [false; 8], "{op:?}");
                second.shutdown();
            });
            drop((file, first));
        }
    }
}

#[test]
fn row_126_a_crash_after_a_round_leaves_a_miss_or_right_bytes() {
    for disk in Disk::both() {
        let fs = MemoryFs::builder().file("f", 64 * PAGE as u64).build().expect("build");
        let mut disk = disk;
        for round in 0..12 {
            let first = bench(&fs, &disk);
            cached(&first, "f");
            let file = open(&first, "f");
            for i in 0..4 {
                write(&file, (round * 5 + i * 17) % 60 * PAGE + i * 1000, &pattern(9000, i));
                fsync(&file);
            }
            disk = disk.killed();
            drop((file, first));
        }
        let last = bench(&fs, &disk);
        cached(&last, "f");
        last.shutdown();
    }
}

#[test]
fn n_c34_row_81_whatever_the_cache_refuses_an_upload_succeeds_and_no_old_byte_is_served() {
    use FaultPoint::{BeginModify, CutOver, SetIdentity, Write};
    for point in [BeginModify, SetIdentity, Write] {
        for both in [false, true] {
            let cache = MemCache::new();
            let disk = Disk::Memory(Arc::clone(&cache));
            let fs = MemoryFs::builder().file("f", 8 * PAGE as u64).build().expect("build");
            let first = bench(&fs, &disk);
            cached(&first, "f");
            first.drain();
            let file = open(&first, "f");
            cache.faults().refuse(point, Some(Refusal::IoError));
            if both {
                cache.faults().refuse(CutOver, Some(Refusal::IoError));
            }
            write(&file, PAGE / 2, &pattern(3 * PAGE, 7));
            fsync(&file);
            first.drain();
            assert!(first.stats().cache_refusals > 0, "{point:?} was met");
            first.netfs().drop_memory();
            cached(&first, "f");
            end(first, file);
            let disk = disk.reopened();
            let second = bench(&fs, &disk);
            cached(&second, "f");
            second.shutdown();
        }
    }
}

#[test]
fn n_c35_no_room_in_the_queue_loses_the_copy_and_nothing_else() {
    let cache = MemCache::new();
    let disk = Disk::Memory(Arc::clone(&cache));
    let fs = MemoryFs::builder().file("f", 1024 * PAGE as u64).build().expect("build");
    let first = bench(&fs, &disk);
    let file = open(&first, "f");
    read(&file, 0, PAGE);
    first.drain();
    first.netfs().drop_memory();
    cache.faults().hold(FaultPoint::Write);
    // Sixteen writes hang, and no further one is begun; the queue has room for 32 MiB.
    for round in 0..20 {
        let bytes = pattern(1023 * PAGE, round);
        write(&file, PAGE, &bytes);
        fsync(&file);
    }
    assert!(first.stats().fill_dropped_bytes + first.stats().fill_stale_bytes > 0);
    cache.faults().release(FaultPoint::Write);
    first.drain();
    first.netfs().drop_memory();
    assert!(cached(&first, "f")[0], "what nobody wrote is there");
    end(first, file);
}

#[test]
fn n_c40_the_cookie_is_in_use_as_long_as_anything_is_dirty() {
    let disk = Disk::Memory(MemCache::new());
    let fs = MemoryFs::builder().file("f", 8 * PAGE as u64).build().expect("build");
    let bench = bench(&fs, &disk);
    let uses = || {
        let cookies = bench.netfs().list_cookies();
        let cookie = cookies.iter().flat_map(|(_, c)| c).next().expect("one cookie");
        assert_eq!(cookie.state, CookieState::Active);
        (cookie.n_active, cookie.n_modifying)
    };
    let file = open(&bench, "f");
    cached(&bench, "f");
    bench.drain();
    assert_eq!(uses(), (1, 0));
    for _ in 0..2 {
        write(&file, 0, b"dirty");
        write(&file, 9000, b"dirty");
        assert_eq!(uses(), (2, 1), "once, however much is dirty");
        let fault = fs.inject(Fault::on(Op::Write).errno(Errno::ENOSPC).always());
        pollster::block_on(file.fsync()).expect_err("no space");
        assert_eq!(uses(), (2, 1), "it is dirty still");
        fs.remove_fault(&fault);
        fsync(&file);
        bench.drain();
        assert_eq!(uses(), (1, 0));
    }
    write(&file, 0, b"dirty");
    drop(file);
    assert_eq!(uses(), (1, 1), "nobody has it open");
    pollster::block_on(bench.netfs().sync()).expect("sync");
    bench.drain();
    assert_eq!(uses(), (0, 0));
    bench.shutdown();
}

/// The number of the cookie's users, and of those that modify.
fn uses(bench: &Bench) -> (u32, u32) {
    let cookies = bench.netfs().list_cookies();
    let cookie = cookies.iter().flat_map(|(_, c)| c).next().expect("one cookie");
    (cookie.n_active, cookie.n_modifying)
}

#[test]
fn p_d58_what_everybody_has_closed_is_uploaded_and_stored_and_its_cookie_let_go_once() {
    for disk in Disk::both() {
        let fs = MemoryFs::builder().file("f", 8 * PAGE as u64).build().expect("build");
        let first = bench(&fs, &disk);
        cached(&first, "f");
        first.drain();
        let file = open(&first, "f");
        let bytes = pattern(3 * PAGE, 1);
        write(&file, PAGE, &bytes);
        drop(file);
        assert_eq!(uses(&first), (1, 1), "nobody has it open");
        for _ in 0..2 {
            pollster::block_on(first.netfs().sync()).expect("sync");
            first.drain();
            fs.verify("f", PAGE as u64, &bytes).expect("on the server");
            assert_eq!(uses(&first), (0, 0));
        }
        // Without an upload: given up.
        let fault = fs.inject(Fault::on(Op::Write).errno(Errno::ENOSPC).always());
        let file = open(&first, "f");
        write(&file, 7 * PAGE, b"lost");
        drop(file);
        pollster::block_on(first.netfs().sync()).expect_err("no space");
        assert_eq!(uses(&first), (1, 1));
        fs.remove_fault(&fault);
        let other = open(&first, "f");
        assert_eq!(pollster::block_on(other.discard_dirty()).expect("discard"), 4);
        drop(other);
        first.drain();
        assert_eq!(uses(&first), (0, 0));
        // The disk has nothing more of the file then, but is filled again.
        first.netfs().drop_memory();
        cached(&first, "f");
        first.drain();
        let file = open(&first, "f");
        write(&file, 5 * PAGE, &bytes);
        drop(file);
        pollster::block_on(first.netfs().sync()).expect("sync");
        first.drain();
        first.shutdown();
        let disk = disk.reopened();
        let second = bench(&fs, &disk);
        assert_eq!(cached(&second, "f"), [true; 8], "the disk has all of it");
        second.shutdown();
    }
}

#[test]
fn n_c21_what_is_to_be_stored_in_the_disk_cache_is_not_uploaded_for_that() {
    let cache = MemCache::new();
    let disk = Disk::Memory(Arc::clone(&cache));
    let fs = MemoryFs::builder().file("f", 64 * PAGE as u64).build().expect("build");
    let bench = bench(&fs, &disk);
    let file = open(&bench, "f");
    let uploads = || {
        let calls = fs.take_calls().into_iter().filter(|call| call.op == Op::Write);
        let mut ranges: Vec<_> = calls.filter_map(|call| call.range).collect();
        ranges.sort_by_key(|range| range.start);
        ranges
    };
    cache.faults().hold(FaultPoint::Write);
    read(&file, 0, 32 * PAGE);
    assert_eq!(bench.netfs().memory().dirty, 0);
    pollster::block_on(bench.netfs().sync()).expect("sync");
    assert_eq!(uploads(), [], "all of it waits to be stored");
    // In the middle of what waits, beside it, and around what is fetched then.
    let at = |page: usize| (page * PAGE) as u64;
    write(&file, 5 * PAGE + 10, b"ours");
    write(&file, 31 * PAGE + 4000, &[1; 200]);
    write(&file, 40 * PAGE + 10, b"ours");
    read(&file, 0, 64 * PAGE);
    fsync(&file);
    let ours = [at(5) + 10..at(5) + 14, at(31) + 4000..at(32) + 104, at(40) + 10..at(40) + 14];
    assert_eq!(uploads(), ours);
    cache.faults().release(FaultPoint::Write);
    bench.drain();
    assert_eq!(bench.netfs().memory().dirty, 0);
    fsync(&file);
    assert_eq!(uploads(), [], "nor once it is stored");
    end(bench, file);
}

#[test]
fn n_c73_p_d56_a_cut_brings_nothing_back_from_the_object() {
    for disk in Disk::both() {
        let fs = MemoryFs::builder().file("f", 16 * PAGE as u64).build().expect("build");
        let first = bench(&fs, &disk);
        cached(&first, "f");
        first.drain();
        let file = open(&first, "f");
        set_len(&file, 10 * PAGE + 77);
        set_len(&file, 4 * PAGE + 5);
        set_len(&file, 20 * PAGE + 1);
        first.netfs().drop_memory();
        assert_eq!(cached(&first, "f")[..4], [true; 4], "what lies before the cuts is there");
        first.drain();
        let stats = end(first, file);
        assert_eq!((stats.invalidates, stats.resizes), (0, 3));
        let disk = disk.reopened();
        let second = bench(&fs, &disk);
        assert_eq!(cached(&second, "f"), [true; 21], "the rest was read, and so stored");
        let file = open(&second, "f");
        write(&file, 30 * PAGE + 100, b"far");
        fsync(&file);
        second.netfs().drop_memory();
        let got = cached(&second, "f");
        assert_eq!(got[..20], [true; 20], "{got:?}");
        assert!(!got[20], "the page of the old end is forgotten");
        end(second, file);
    }
}

#[test]
fn a_version_that_may_be_ours_is_judged_when_our_replies_have_told() {
    let fs = MemoryFs::builder().file("f", 64 * PAGE as u64).build().expect("build");
    let bench = bench(&fs, &Disk::Memory(MemCache::new()));
    let file = open(&bench, "f");
    read(&file, 0, 4 * PAGE);
    write(&file, 10 * PAGE, &pattern(PAGE, 8));
    // The server has it, and says so to whoever asks, but not to us yet.
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Issue).times(1));
    std::thread::scope(|s| {
        let sync = s.spawn(|| fsync(&file));
        fs.wait_until(|c, _| c.calls(Op::Write) == 1);
        let reader = s.spawn(|| read(&file, 20 * PAGE, PAGE));
        while bench.stats().late_replies == 0 && !reader.is_finished() {
            std::thread::yield_now();
        }
        let early = reader.is_finished();
        gate.release();
        assert!(!early, "the answer was judged too early");
        let got = reader.join().expect("reader");
        fs.verify("f", 20 * PAGE as u64, &got).expect("content");
        sync.join().expect("fsync");
    });
    let asked = fs.counts().calls(Op::Read);
    read(&file, 0, 4 * PAGE);
    assert_eq!(fs.counts().calls(Op::Read), asked, "what was clean stays in memory");
    assert_eq!(bench.stats().drops, 0);
    end(bench, file);
}

#[test]
fn p_d71_reads_beside_many_uploads_come_to_an_end_whatever_the_server_says_of_versions() {
    for states_before in [true, false] {
        let fs = MemoryFs::builder().file("f", 64 * PAGE as u64).build().expect("build");
        fs.configure(|s| {
            s.states_before = states_before;
            s.limits.wsize = PAGE as u64;
        });
        let bench = bench(&fs, &Disk::Memory(MemCache::new()));
        let file = open(&bench, "f");
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            let readers: Vec<_> = (0..2)
                .map(|salt: usize| {
                    let (file, over) = (&file, &over);
                    s.spawn(move || {
                        let mut at = salt;
                        while !over.load(std::sync::atomic::Ordering::Relaxed) {
                            at = (at * 5 + 3) % 60;
                            assert_eq!(read(file, at * PAGE, 3 * PAGE).len(), 3 * PAGE);
                        }
                    })
                })
                .collect();
            for round in 0..400 {
                write(&file, round % 50 * PAGE, &pattern(4 * PAGE, round));
                fsync(&file);
                bench.netfs().drop_memory();
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            readers.into_iter().for_each(|reader| reader.join().expect("every read succeeds"));
        });
        end(bench, file);
    }
}
