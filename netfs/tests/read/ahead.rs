//! Readahead is nobody's wait, and counted for what it did.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender},
    },
    task::{Context, Poll, Wake, Waker},
};

use netfs::{FillPolicy, fscache::MemCache};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use super::until_broken;
use crate::common::{Bench, cx};

const STEP: usize = 16 << 10;

/// Holds up whichever thread wakes it until the test lets it go.
struct HoldUp {
    begun: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl Wake for HoldUp {
    fn wake(self: Arc<Self>) {
        self.begun.lock().expect("one waker").send(()).expect("the test waits for it");
        // An error is the test's end.
        let _ = self.go_on.lock().expect("one waker").recv();
    }
}

/// While the driver's only thread is busy with something else a reader whose own bytes need no waiting
/// gets them, and has not fetched anything ahead itself.
#[test]
fn a_reader_neither_does_nor_awaits_its_readahead() {
    let fs = MemoryFs::builder()
        .promise(until_broken())
        .file("a", 1 << 20)
        .file("b", 4096)
        .build()
        .unwrap();
    let bench = Bench::with(&fs, Some(MemCache::new()), |b| b.driver_threads(1));
    let (a, b) = (bench.open("a"), bench.open("b"));
    bench.check("a", 0, 1 << 20);
    bench.drain();
    pollster::block_on(bench.netfs().settled());
    bench.netfs().drop_memory();

    let ((began, begun), (release, go_on)) = (mpsc::channel(), mpsc::channel());
    let waker = HoldUp { begun: Mutex::new(began), go_on: Mutex::new(go_on) };
    let mut buf = [0; 4096];
    let mut busy = pin!(b.read_at(0, &mut buf));
    let waker = Waker::from(Arc::new(waker));
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).file("b").hold(&gate, SnapshotAt::Issue));
    assert!(busy.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    gate.release();
    begun.recv().expect("the driver's thread has the reply");

    let before = bench.netfs().memory().indexed;
    let mut buf = vec![0; STEP];
    for i in 0..4 {
        assert_eq!(a.blocking().read_at((i * STEP) as u64, &mut buf).unwrap(), STEP);
        fs.verify("a", (i * STEP) as u64, &buf).unwrap();
        let indexed = bench.netfs().memory().indexed - before;
        assert_eq!(indexed, ((i + 1) * STEP) as u64, "what was read");
    }
    assert_eq!(bench.stats().readahead, 0);

    drop(release);
    pollster::block_on(bench.netfs().settled());
    assert!(bench.netfs().memory().indexed - before > 4 * STEP as u64, "now it has been started");
    let mut noop = Context::from_waker(Waker::noop());
    assert!(matches!(busy.as_mut().poll(&mut noop), Poll::Ready(Ok(4096))));
}

/// Acceptance test G13: clients of an NFS re-export send the reads of their streams in parallel, so they come
/// in the wrong order and mixed. Nearly all find their bytes in memory, and the server sends each byte once.
#[test]
fn g13_reads_in_the_order_of_an_nfs_re_export_are_read_ahead_and_never_past_the_end() {
    const SIZE: u64 = (64 << 20) + 12_345;
    const READ: u64 = 128 << 10;
    let fs = MemoryFs::builder().promise(until_broken()).file("a", SIZE).build().unwrap();
    let bench = Bench::with(&fs, None, |b| b.memory_bytes(512 << 20).fill(FillPolicy::Auto));
    let file = bench.open("a");
    let half: Vec<u64> = (0..SIZE / READ / 2).map(|i| i * READ).collect();
    // Two streams, each in turns of eight reads that arrive the last first.
    let turns = half.chunks(8).flat_map(|turn| {
        let first = turn.iter().rev().copied();
        let second = first.clone().map(|at| at + SIZE / 2 / READ * READ);
        first.zip(second).flat_map(|(a, b)| [a, b])
    });
    let mut buf = vec![0; READ as usize];
    for at in turns.chain([SIZE / READ * READ]) {
        let n = file.blocking().read_at(at, &mut buf).unwrap();
        assert_eq!(n as u64, READ.min(SIZE - at));
        fs.verify("a", at, &buf[..n]).unwrap();
        pollster::block_on(bench.netfs().settled());
    }
    let stats = bench.stats();
    assert!(stats.readahead_hit_bytes > SIZE * 8 / 10, "{stats:?}");
    assert_eq!((stats.origin_bytes, stats.wasted_bytes), (SIZE, 0), "{stats:?}");
    assert_eq!(fs.counts().bytes(), SIZE);
}

/// N-C5: readahead asks for nothing past the zero point, though the file goes on.
#[test]
fn n_c05_readahead_stops_where_the_server_is_known_to_have_nothing() {
    const DATA: u64 = 1 << 20;
    let fs = MemoryFs::builder().promise(until_broken()).file("a", DATA).build().unwrap();
    let bench = Bench::with(&fs, None, |b| b.memory_bytes(256 << 20).fill(FillPolicy::Auto));
    let node = pollster::block_on(bench.mount.walk("a", &cx())).unwrap();
    let file = pollster::block_on(bench.mount.open_rw(&node, &cx())).unwrap();
    file.blocking().set_len(4 * DATA).unwrap();
    let mut buf = vec![0xaa; STEP];
    for at in (0..4 * DATA).step_by(STEP) {
        assert_eq!(file.blocking().read_at(at, &mut buf).unwrap(), STEP);
        fs.verify("a", at, &buf).unwrap();
        pollster::block_on(bench.netfs().settled());
    }
    assert!(bench.stats().readahead_hit_bytes > DATA / 2, "it was read ahead");
    assert_eq!(fs.counts().bytes(), DATA, "nothing past the zero point was asked for");
}

#[test]
fn a_window_that_is_in_memory_already_is_no_readahead() {
    let fs = MemoryFs::builder().promise(until_broken()).file("a", 256 << 10).build().unwrap();
    let bench = Bench::with(&fs, None, |b| b.fill(FillPolicy::Granule));
    let file = bench.open("a");
    for i in 0..32u64 {
        assert_eq!(file.blocking().read_at(i << 12, &mut [0; 4096]).unwrap(), 4096);
        pollster::block_on(bench.netfs().settled());
    }
    assert_eq!((bench.stats().readahead, bench.stats().read_folio), (0, 1), "the first miss");
}
