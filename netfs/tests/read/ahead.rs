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
use crate::common::Bench;

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
