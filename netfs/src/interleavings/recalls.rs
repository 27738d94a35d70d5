//! Recalls beside writers, uploads, fronts and the end; and bytes that the server refuses, with no memory
//! left. Nobody waits for ever, and no store is lost.

use shuttle::thread;

use super::*;
use crate::{
    coherency::{Origin as Front, Recalled, ZapDone, Zapper},
    error::Errno,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

const A: u8 = 252;
const B: u8 = 253;
const C: u8 = 254;

/// A front that has the file mapped: asked to unmap it, it brings one more store first.
#[derive(Default)]
struct Mapped(Mutex<Option<ZapDone>>);

impl Zapper for Mapped {
    fn zap(&self, _: std::ops::Range<u64>, _: u64, done: ZapDone) {
        *self.0.lock() = Some(done);
    }
}

fn write(file: &File, offset: u64, len: u64, byte: u8) -> crate::Result<()> {
    let n = block_on(file.write_at(offset, &vec![byte; len as usize]))?;
    assert_eq!(n as u64, len, "short at {offset}+{len}");
    Ok(())
}

fn holds(bytes: &[u8], offset: u64, len: u64, byte: u8) -> bool {
    bytes[offset as usize..(offset + len) as usize].iter().all(|b| *b == byte)
}

/// Time passes until the guard is dropped.
pub(super) struct Passing(Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Passing {
    pub(super) fn begin(clock: &StepClock, step: Duration) -> Passing {
        let over = Arc::new(AtomicBool::new(false));
        let (ended, clock) = (Arc::clone(&over), clock.clone());
        let passing = thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                clock.advance(step);
                thread::yield_now();
            }
        });
        Passing(over, Some(passing))
    }

    pub(super) fn end(mut self) {
        self.0.store(true, Ordering::SeqCst);
        self.1.take().expect("once").join().expect("no panic");
    }
}

/// Seams 1: what was written before the recall, and what the front stores before it answers, is on the
/// server when the promise is given back, whoever writes and uploads beside it.
#[test]
fn a_store_between_zap_and_release_is_never_lost() {
    explore(300, || {
        let world = World::new(2, PAGE, Answers::Whole);
        let file = world.open();
        write(&file, 0, 100, A).expect("nothing fails");
        let front = Arc::new(Mapped::default());
        let zapper = Arc::clone(&front) as Arc<dyn Zapper>;
        let mapping = world.mount.root().inode.cell.register_zapper(Front::new(), zapper);
        let ticket = world.origin.recall().expect("attached");
        let storing = {
            let file = world.open();
            thread::spawn(move || {
                let done = front.0.lock().take().expect("asked before the event returned");
                write(&file, 200, 100, B).expect("nothing fails");
                done.done();
            })
        };
        let writing = thread::spawn(move || {
            write(&file, PAGE, 100, C).expect("nothing fails");
            block_on(file.fsync()).expect("nothing fails");
        });
        assert!(matches!(block_on(ticket), Recalled::Released));
        let released = world.origin.releases();
        assert_eq!(released.len(), 1);
        assert!(holds(&released[0], 0, 100, A) && holds(&released[0], 200, 100, B));
        storing.join().expect("no panic");
        writing.join().expect("no panic");
        assert!(holds(&world.origin.bytes(), PAGE, 100, C));
        assert_eq!(world.netfs.memory().dirty, 0);
        drop(mapping);
    });
}

/// Recalls that come while uploads hang end at their deadline, and the bytes are on the server once it
/// answers again.
#[test]
fn recalls_of_a_file_whose_upload_hangs_end_and_keep_its_bytes() {
    explore(200, || {
        let world = World::build(2, PAGE, Answers::Whole, None, |b| {
            b.fill(FillPolicy::Exact).readahead_max(0).recall_timeout(Duration::from_secs(10))
        });
        let file = world.open();
        write(&file, 0, 100, A).expect("nothing fails");
        world.origin.hang_writes(true);
        let time = Passing::begin(&world.clock, Duration::from_secs(5));
        let writing = {
            let file = world.open();
            // The recall may have parked the file by then.
            thread::spawn(move || write(&file, 300, 50, B).is_ok())
        };
        let tickets = [world.origin.recall(), world.origin.recall()].map(|t| t.expect("attached"));
        for ticket in tickets {
            assert!(matches!(block_on(ticket), Recalled::ReleasedParked(_)));
        }
        let written = writing.join().expect("no panic");
        time.end();
        world.origin.hang_writes(false);
        block_on(file.fsync()).expect("the server is back");
        let bytes = world.origin.bytes();
        assert!(holds(&bytes, 0, 100, A) && (!written || holds(&bytes, 300, 50, B)));
        let memory = world.netfs.memory();
        assert_eq!((memory.dirty, memory.parked), (0, 0));
        write(&file, 0, 1, C).expect("not parked any more");
        block_on(file.fsync()).expect("nothing fails");
    });
}

fn the_end_beside_a_recall(clean: bool) {
    let world = World::new(2, PAGE, Answers::Whole);
    let file = world.open();
    write(&file, 0, 100, A).expect("nothing fails");
    let recalling = {
        let origin = Arc::clone(&world.origin);
        thread::spawn(move || drop(origin.recall().map(block_on)))
    };
    let writing = thread::spawn(move || {
        if let Err(error) = write(&file, 50, 100, B) {
            // The last one: a recall that ended with the driver has parked the file.
            let over = [Errno::ESHUTDOWN, Errno::ECANCELED, Errno::ETIMEDOUT];
            assert!(over.contains(&error.errno()), "{error:?}");
        }
    });
    let World { netfs, mount, clock, origin, ended } = world;
    if clean {
        // What is written while it ends may be given up, which its writer is told.
        assert_eq!(block_on(netfs.shutdown(LONG)).fill_bytes, 0);
        assert!(holds(&origin.bytes(), 0, 50, A), "written before the end began");
    } else {
        drop(netfs);
    }
    recalling.join().expect("no panic");
    writing.join().expect("no panic");
    drop((mount, origin, clock));
    drop(ended);
}

#[test]
fn a_shutdown_beside_a_recall_ends_both() {
    explore(300, || the_end_beside_a_recall(true));
    explore(300, || the_end_beside_a_recall(false));
}

/// Seams 5: the server refuses what was written, and writers want more than there is room and memory for:
/// each gets on or gets the error, and what went in is there in the end.
#[test]
fn parked_bytes_that_exhaust_the_budget_hold_up_nobody_for_ever() {
    explore(200, || {
        let world = World::build(8, 8 * PAGE, Answers::Whole, None, |b| {
            let b = b.memory_bytes(256 << 10).dirty_bytes(PAGE, 2 * PAGE);
            b.fill(FillPolicy::Exact).readahead_max(0)
        });
        world.origin.refuse_writes(true);
        let writers = [(0, A), (4 * PAGE, B)].map(|(offset, byte)| {
            let file = world.open();
            thread::spawn(move || {
                let bytes = vec![byte; 4 * PAGE as usize];
                let done = block_on(file.write_at(offset, &bytes)).unwrap_or(0);
                (offset, byte, done as u64)
            })
        });
        let syncing = {
            let file = world.open();
            thread::spawn(move || drop(block_on(file.fsync())))
        };
        let reader = world.open();
        block_on(reader.read_at(7 * PAGE, &mut [0; 100])).expect("readers go on");
        let time = Passing::begin(&world.clock, Duration::from_secs(5));
        let written = writers.map(|writer| writer.join().expect("no panic"));
        syncing.join().expect("no panic");
        time.end();
        world.origin.refuse_writes(false);
        block_on(reader.fsync()).expect("the server takes them now");
        let bytes = world.origin.bytes();
        for (offset, byte, done) in written {
            assert!(holds(&bytes, offset, done, byte), "{done} bytes at {offset}");
        }
        let memory = world.netfs.memory();
        assert_eq!((memory.dirty, memory.parked), (0, 0));
        assert!(world.mount.root().inode.core.folios.room().is_empty(), "all room is back");
    });
}
