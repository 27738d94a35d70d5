//! `advise`, `evict`, `set_budget`.

use netfs::{Advice, Errno};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use crate::{common::Bench, tools::*};

const SIZE: usize = 1024 * K;

fn bed(place: &Place) -> (std::sync::Arc<MemoryFs>, Bench) {
    let fs = MemoryFs::builder().file("f", SIZE as u64).build().expect("build");
    // However slow the machine: what is read is found in the cache afterwards.
    let wait = std::time::Duration::from_secs(60);
    let bench = Bench::with(&fs, place.backend(), |b| b.cache_wait(wait));
    (fs, bench)
}

#[test]
fn what_will_be_needed_is_fetched_by_nobody_who_waits() {
    let (fs, bench) = bed(&Place::None);
    let file = open(&bench, "f");
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Release).always());
    file.advise(10 * K as u64, 500 * K as u64, Advice::WillNeed).expect("returns");
    fs.wait_until(|c, _| c.calls(Op::Read) >= 1);
    gate.release();
    fs.clear_faults();
    pollster::block_on(bench.netfs().settled());
    let before = fs.counts();
    assert_eq!(read(&file, 10 * K, 500 * K), fs.expected("f", 10 * K as u64, 500 * K).expect("f"));
    assert_eq!(fs.counts().since(&before).calls(Op::Read), 0);
    // Past the end, and far more than there is: nothing to do.
    file.advise(SIZE as u64 * 2, 0, Advice::WillNeed).expect("nothing");
    file.advise(0, 0, Advice::WillNeed).expect("all");
    fails(file.advise(u64::MAX, 2, Advice::WillNeed), Errno::EINVAL);
    pollster::block_on(bench.netfs().settled());
    assert_eq!(bench.netfs().memory().indexed, SIZE as u64);
    drop(file);
    bench.shutdown();
}

#[test]
fn advice_turns_readahead_off_on_and_up() {
    let fetched = |advice: Advice, reads: &[usize]| {
        let (_fs, bench) = bed(&Place::None);
        let file = open(&bench, "f");
        file.advise(0, 0, advice).expect("advise");
        for at in reads {
            read(&file, *at, 4096);
            pollster::block_on(bench.netfs().settled());
        }
        let bytes = bench.stats().origin_bytes;
        drop(file);
        bench.shutdown();
        bytes
    };
    let in_order: Vec<usize> = (0..8).map(|i| i * 4096).collect();
    assert_eq!(fetched(Advice::Random, &in_order), 8 * 4096);
    assert!(fetched(Advice::Normal, &in_order) > 8 * 4096);
    // One read in the middle is no stream, unless somebody says so.
    assert_eq!(fetched(Advice::Normal, &[400 * K]), 4096);
    assert!(fetched(Advice::Sequential, &[400 * K]) >= 64 * K as u64);
}

#[test]
fn what_is_not_needed_leaves_memory_but_for_what_is_dirty() {
    let (fs, bench) = bed(&Place::None);
    let file = open(&bench, "f");
    let all = read(&file, 0, SIZE);
    write(&file, 300 * K, b"dirty");
    let indexed = || bench.netfs().memory().indexed;
    file.advise(0, 256 * K as u64, Advice::DontNeed).expect("advise");
    assert_eq!(indexed(), (SIZE - 256 * K) as u64);
    // Piece by piece from the front.
    for at in (256 * K..SIZE).step_by(64 * K) {
        file.advise(at as u64, 64 * K as u64, Advice::DontNeed).expect("advise");
    }
    assert!((4096..=256 * K as u64).contains(&indexed()), "the folio with the dirt: {}", indexed());
    assert_eq!(bench.netfs().memory().dirty, 5);
    let before = fs.counts();
    assert_eq!(read(&file, 300 * K, 5), b"dirty");
    assert_eq!(fs.counts().since(&before).calls(Op::Read), 0);
    file.blocking().fsync().expect("fsync");
    assert_eq!(read(&file, 0, 300 * K), all[..300 * K]);
    drop(file);
    bench.shutdown();
}

#[test]
fn reads_of_what_is_used_once_leave_no_copy_in_memory() {
    let (fs, bench) = bed(&Place::None);
    let file = bench.open("f");
    file.advise(0, 0, Advice::NoReuse).expect("advise");
    assert_eq!(read(&file, 0, SIZE), server(&fs, "f"));
    assert_eq!(bench.netfs().memory().indexed, 0);
    file.advise(0, 0, Advice::Normal).expect("advise");
    read(&file, 0, SIZE);
    assert_eq!(bench.netfs().memory().indexed, SIZE as u64);
    drop(file);
    bench.shutdown();
}

#[test]
fn evicting_takes_clean_pages_out_of_memory_and_disk_and_says_how_many() {
    for place in Place::each() {
        let (fs, bench) = bed(&place);
        let file = open(&bench, "f");
        read(&file, 0, SIZE);
        bench.drain();
        let cached = if matches!(place, Place::None) { 0 } else { SIZE as u64 };
        write(&file, 300 * K, b"dirty");
        let gone = file.blocking().evict(0, 256 * K as u64).expect("evict");
        assert_eq!((gone.memory, gone.disk), (256 * K as u64, cached / 4));
        let gone = bench.mount.blocking().evict(&file.node());
        assert_eq!(gone.disk, cached / 4 * 3);
        assert_eq!(bench.netfs().memory().dirty, 5);
        let before = fs.counts();
        let mut expected = server(&fs, "f");
        expected[300 * K..300 * K + 5].copy_from_slice(b"dirty");
        assert_eq!(read(&file, 0, SIZE), expected);
        assert!(fs.counts().since(&before).bytes() >= 768 * K as u64, "asked for again");
        drop(file);
        bench.shutdown();
    }
}

#[test]
fn a_smaller_budget_evicts_what_is_clean_and_stops_at_what_is_not() {
    let fs = MemoryFs::builder().file("f", 8 << 20).bytes("g", "").build().expect("build");
    let bench = Bench::new(&fs, None);
    let (netfs, file, other) = (bench.netfs(), open(&bench, "f"), open(&bench, "g"));
    let all = server(&fs, "f");
    let read_all =
        || (0..8 * K).step_by(K).all(|i| read(&file, i * K, K * K) == all[i * K..][..K * K]);
    assert!(read_all());
    // It stays dirty until somebody lets it go.
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Release).always());
    write(&other, 0, &vec![1; 3 << 20]);
    let before = netfs.memory();
    assert!(before.indexed >= 11 << 20);
    let now = netfs.set_budget(4 << 20).expect("shrink");
    let memory = netfs.memory();
    assert_eq!((now, memory.budget), (4 << 20, 4 << 20));
    assert!(memory.budgeted <= memory.budget && memory.dirty == 3 << 20, "{memory:?}");
    let now = netfs.set_budget(1 << 20).expect("shrink");
    assert!(now >= 3 << 20, "what is dirty stays: {now}");
    assert!(netfs.memory().budgeted <= now);
    assert!(read_all(), "without room");
    fs.clear_faults();
    gate.release();
    other.blocking().fsync().expect("fsync");
    assert_eq!(netfs.set_budget(1 << 20).expect("shrink"), 1 << 20);
    assert!(netfs.memory().budgeted <= 1 << 20);
    assert!(read_all() && netfs.memory().budgeted <= 1 << 20);
    write(&other, 0, &vec![2; 3 << 20]);
    assert!(netfs.memory().budgeted <= 1 << 20);
    assert_eq!(netfs.set_budget(32 << 20).expect("grow"), 32 << 20);
    assert!(read_all() && netfs.memory().indexed >= 8 << 20);
    fails(netfs.set_budget(1000), Errno::EINVAL);
    drop((file, other));
    bench.shutdown();
}
