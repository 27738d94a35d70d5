//! Writers faster than the server: memory stays bounded, everybody has a share, nothing is lost.

mod common;

use std::sync::{
    Arc, Barrier,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use common::{Bench, cx};
use netfs::{
    File, FillWhenFull, Mount,
    clock::{Clock, SystemClock},
    remote::Cx,
};
use netfs_memory::{Fault, Gate, Link, MemoryFs, Op, SnapshotAt};

const MIB: u64 = 1 << 20;
const CHUNK: usize = 128 * 1024;
const BUDGET: u64 = 4 * MIB;
const WRITERS: usize = 4;

/// What writer `who` writes as its `nth` chunk.
fn chunk(who: usize, nth: u64) -> Vec<u8> {
    (0..CHUNK as u64).map(|i| (i % 251 + nth * 7 + who as u64 * 31) as u8).collect()
}

#[test]
fn writers_share_a_slow_server_fairly_in_bounded_memory_and_nothing_is_lost() {
    let mut origin = MemoryFs::builder();
    for who in 0..WRITERS {
        origin = origin.bytes(format!("f{who}"), "");
    }
    let fs = origin.build().expect("build");
    fs.configure(|s| s.link = Link::default().with_bytes_per_second(32 << 20));
    let bench = Bench::with(&fs, None, |b| {
        b.memory_bytes(BUDGET).dirty_bytes(MIB / 2, MIB).fill_queue(0, FillWhenFull::Drop)
    });
    // Four times the budget in all.
    let (left, over) = (AtomicU64::new(4 * BUDGET / CHUNK as u64), AtomicBool::new(false));
    let start = Arc::new(Barrier::new(WRITERS + 1));
    let shares: Vec<u64> = std::thread::scope(|s| {
        let writer = |who: usize| {
            let (bench, left, start) = (&bench, &left, Arc::clone(&start));
            move || {
                let file = bench.mount.blocking().open_rw(format!("f{who}"), &cx()).expect("open");
                start.wait();
                let mut nth = 0;
                // Whoever comes gets the next one: a writer that is held up longer has fewer.
                while left
                    .try_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1))
                    .is_ok()
                {
                    let bytes = chunk(who, nth);
                    let n = file.blocking().write_at(nth * CHUNK as u64, &bytes).expect("write");
                    assert_eq!(n, CHUNK);
                    nth += 1;
                }
                nth
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|who| s.spawn(writer(who))).collect();
        let watched = s.spawn(|| {
            start.wait();
            while !over.load(Ordering::Acquire) {
                let memory = bench.netfs().memory();
                assert!(memory.budgeted <= memory.budget, "{memory:?}");
                assert!(memory.dirty <= MIB, "{memory:?}");
                std::thread::yield_now();
            }
        });
        let shares = writers.into_iter().map(|w| w.join().expect("writer")).collect();
        over.store(true, Ordering::Release);
        watched.join().expect("bounded");
        shares
    });
    let average = shares.iter().sum::<u64>() / WRITERS as u64;
    assert!(shares.iter().all(|n| *n >= average / 4), "chunks of each writer: {shares:?}");
    assert!(bench.stats().write_throttled > 0);
    pollster::block_on(bench.netfs().sync()).expect("sync");
    for (who, chunks) in shares.iter().enumerate() {
        let snapshot = fs.snapshot(format!("f{who}")).expect("there");
        assert_eq!(snapshot.content.size(), chunks * CHUNK as u64);
        for nth in 0..*chunks {
            let held = snapshot.content.read(nth * CHUNK as u64, CHUNK);
            assert!(held == chunk(who, nth), "chunk {nth} of writer {who}");
        }
    }
    bench.shutdown();
}

/// Until some writer has had to wait.
fn throttled(bench: &Bench) {
    while bench.stats().write_throttled == 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_budget_that_shrinks_while_writers_wait_lets_them_go_on() {
    let fs = MemoryFs::builder().bytes("f", "").bytes("g", "").build().expect("build");
    let bench =
        Bench::with(&fs, None, |b| b.memory_bytes(4 * BUDGET).fill_queue(0, FillWhenFull::Drop));
    let [f, g] = ["f", "g"].map(|name| bench.mount.blocking().open_rw(name, &cx()).expect("open"));
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Issue).always());
    let large = chunk(0, 0).repeat(96);
    std::thread::scope(|s| {
        let writer = s.spawn(|| f.blocking().write_at(0, &large));
        throttled(&bench);
        bench.netfs().set_budget(MIB).expect("as far as it goes");
        gate.release();
        assert_eq!(writer.join().expect("no panic").expect("write"), large.len());
        assert_eq!(g.blocking().write_at(0, b"small").expect("write"), 5);
    });
    f.blocking().fsync().expect("fsync");
    fs.verify("f", 0, &large).expect("all of it");
    drop((f, g));
    bench.shutdown();
}

/// Lets what hangs go on, also where a test has failed: the threads of its scope must end.
struct Released<'a>(&'a Gate);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A server of its own, with files to write to and one of 8 MiB.
fn origin(id: &str) -> Arc<MemoryFs> {
    let fs = MemoryFs::builder().volume_id(id).bytes("f", "").bytes("g", "");
    fs.file("known", 8 * MIB).build().expect("build")
}

/// Of a mount; its calls are given up rather than wait for ever.
fn open(mount: &Mount, name: &str) -> File {
    let deadline = SystemClock.now() + std::time::Duration::from_secs(30);
    let cx: Cx = cx().with_deadline(deadline);
    mount.blocking().open_rw(name, &cx).expect("open")
}

/// Writes all of `bytes`, 64 KiB at a time.
fn write_all(file: &File, bytes: &[u8]) {
    for (i, part) in bytes.chunks(64 << 10).enumerate() {
        let written = file.blocking().write_at((i as u64) << 16, part);
        assert_eq!(written.expect("not held up by another server"), part.len());
    }
}

/// The other volume is mounted when the hung one has all it can get.
#[test]
fn a_server_that_hangs_stops_nobody_who_writes_to_another() {
    let (hung, well) = (origin("hung"), origin("well"));
    let gate = Gate::new();
    hung.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Issue).always());
    let bench = Bench::with(&hung, None, |b| {
        b.memory_bytes(4 * BUDGET).dirty_bytes(MIB, 2 * MIB).fill_queue(0, FillWhenFull::Drop)
    });
    let [f, g] = ["f", "g"].map(|name| bench.mount.blocking().open_rw(name, &cx()).expect("open"));
    let (large, some) = (chunk(0, 0).repeat(24), chunk(1, 0).repeat(64));
    std::thread::scope(|s| {
        let hung_until = Released(&gate);
        let writers = [&f, &g].map(|file| s.spawn(|| file.blocking().write_at(0, &large)));
        while bench.stats().write_throttled < 2 || bench.netfs().memory().dirty < MIB {
            std::thread::yield_now();
        }
        let other = bench.netfs().blocking_mount(Arc::clone(&well), &cx()).expect("mount");
        let file = open(&other, "f");
        write_all(&file, &some);
        file.blocking().fsync().expect("a healthy server");
        well.verify("f", 0, &some).expect("all of it");
        assert!(writers.iter().all(|writer| !writer.is_finished()), "these wait for theirs");
        assert!(bench.netfs().memory().dirty <= 2 * MIB);
        drop((file, other));
        drop(hung_until);
        for writer in writers {
            assert_eq!(writer.join().expect("no panic").expect("it answers now"), large.len());
        }
    });
    for (name, file) in [("f", f), ("g", g)] {
        file.blocking().fsync().expect("fsync");
        hung.verify(name, 0, &large).expect("all of it");
    }
    bench.shutdown();
}

/// Few bytes keep whole folios: new ones, or such as were known before.
#[test]
fn what_a_server_that_hangs_keeps_in_memory_leaves_enough_for_the_writers_of_others() {
    for name in ["f", "known"] {
        let (hung, well) = (origin("hung"), origin("well"));
        let gate = Gate::new();
        hung.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Issue).always());
        let bench =
            Bench::with(&hung, None, |b| b.memory_bytes(BUDGET).fill_queue(0, FillWhenFull::Drop));
        let other = bench.netfs().blocking_mount(Arc::clone(&well), &cx()).expect("mount");
        let file = bench.mount.blocking().open_rw(name, &cx()).expect("open");
        file.blocking().read_at(0, &mut vec![0; MIB as usize * 7 / 2]).expect("read");
        let pages = 4 * MIB / 4096;
        std::thread::scope(|s| {
            let hung_until = Released(&gate);
            let writer = s.spawn(|| {
                (0..pages).try_for_each(|page| file.blocking().write_at(page << 12, b"x").map(drop))
            });
            while bench.netfs().memory().dirty < pages / 2 {
                std::thread::yield_now();
            }
            let healthy = open(&other, "f");
            let some = chunk(1, 0).repeat(32);
            for _ in 0..4 {
                write_all(&healthy, &some);
            }
            healthy.blocking().fsync().expect("a healthy server");
            well.verify("f", 0, &some).expect("all of it");
            assert!(!writer.is_finished(), "it has had its share of memory");
            drop(healthy);
            drop(hung_until);
            writer.join().expect("no panic").expect("it answers now");
        });
        file.blocking().fsync().expect("fsync");
        let mut held = vec![0; 4 * MIB as usize];
        file.blocking().read_at(0, &mut held).expect("read");
        assert!(held.chunks(4096).all(|page| page[0] == b'x'));
        drop((file, other));
        bench.shutdown();
    }
}

/// Nobody can take the memory of a fetch back before it has ended.
#[test]
fn reads_that_a_server_does_not_answer_leave_memory_to_writers_also_of_a_smaller_budget() {
    let (hung, well) = (origin("hung"), origin("well"));
    let gate = Gate::new();
    hung.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue).always());
    let bench = Bench::with(&hung, None, |b| {
        b.memory_bytes(BUDGET).fill_queue(0, FillWhenFull::Drop).readahead_max(0)
    });
    let other = bench.netfs().blocking_mount(Arc::clone(&well), &cx()).expect("mount");
    let [known, f] =
        ["known", "f"].map(|n| bench.mount.blocking().open_rw(n, &cx()).expect("open"));
    // More than all memory, to the last page.
    let large = (0..32).map(|i| (i << 17, 1 << 17));
    let reads: Vec<(u64, usize)> =
        large.chain((0..40).map(|i| (4 * MIB + (i << 16), 4096))).collect();
    std::thread::scope(|s| {
        let hung_until = Released(&gate);
        let read = |(offset, len): (u64, usize)| {
            let known = &known;
            move || {
                let n = known.blocking().read_at(offset, &mut vec![0; len]).expect("answered");
                assert_eq!(n, len);
            }
        };
        let readers: Vec<_> = reads.iter().map(|at| s.spawn(read(*at))).collect();
        let asked = reads.iter().map(|(_, len)| *len as u64).sum();
        let taken = || {
            let memory = bench.netfs().memory();
            memory.in_flight + memory.transient
        };
        while taken() < asked {
            std::thread::yield_now();
        }
        let some = chunk(1, 0).repeat(16);
        for smaller in [None, Some(MIB)] {
            if let Some(budget) = smaller {
                let now = bench.netfs().set_budget(budget).expect("as far as it goes");
                assert!(now >= bench.netfs().memory().in_flight, "{now}");
            }
            // Of another volume, and of this one.
            for file in [&open(&other, "f"), &f] {
                write_all(file, &some);
                file.blocking().fsync().expect("writes are answered");
            }
            let memory = bench.netfs().memory();
            assert!(memory.budgeted <= memory.budget && memory.in_flight > 2 * MIB, "{memory:?}");
        }
        drop(hung_until);
        readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
    });
    well.verify("f", 0, &chunk(1, 0).repeat(16)).expect("all of it");
    drop((known, f, other));
    bench.shutdown();
}
