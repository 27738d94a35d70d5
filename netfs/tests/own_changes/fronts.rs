//! What fronts that have pages of a file hear of changes made here.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use netfs::Errno;
use netfs::{
    File, OpenOptions, WriteOptions,
    coherency::{Origin, ZapDone, ZapRegistration, Zapper},
};
use netfs_memory::{Fault, MemoryFs, Op};
use pollster::block_on;

use crate::{
    common::{Bench, cx},
    tools::{begun, hold, promised},
};

/// A front that notes what it is asked to take back.
#[derive(Clone, Default)]
struct Front(Arc<Mutex<Vec<Range<u64>>>>);

impl Zapper for Front {
    fn zap(&self, range: Range<u64>, _: u64, done: ZapDone) {
        self.0.lock().expect("lock").push(range);
        done.done();
    }
}

impl Front {
    fn of(file: &File, origin: Origin) -> (Front, ZapRegistration) {
        let front = Front::default();
        let registration = file.node().register_zapper(origin, Arc::new(front.clone()));
        (front, registration)
    }

    /// Whether it was asked for all of `range` since the last look.
    #[track_caller]
    fn heard_of(&self, range: Range<u64>) {
        let zaps = std::mem::take(&mut *self.0.lock().expect("lock"));
        let covers = |zap: &Range<u64>| zap.start <= range.start && zap.end >= range.end;
        assert!(zaps.iter().any(covers), "{range:?} in {zaps:?}");
    }

    #[track_caller]
    fn heard_nothing(&self) {
        assert_eq!(*self.0.lock().expect("lock"), Vec::<Range<u64>>::new());
    }
}

const SIZE: u64 = 65536;

fn bed() -> (Arc<MemoryFs>, Bench, File) {
    let fs = MemoryFs::builder().promise(promised()).file("f", SIZE).build().expect("build");
    let bench = Bench::new(&fs, None);
    let file = bench.mount.blocking().open_rw("f", &cx()).expect("open");
    file.blocking().read_at(0, &mut [0; 8192]).expect("read");
    (fs, bench, file)
}

#[test]
fn every_change_of_bytes_made_here_is_told_to_the_fronts() {
    let (fs, bench, file) = bed();
    let (front, _registered) = Front::of(&file, Origin::new());
    file.blocking().read_at(0, &mut [0; 100]).expect("read");
    front.heard_nothing();
    file.blocking().write_at(10, b"new").expect("write");
    front.heard_of(10..13);
    file.blocking().write_at_with(4096, b"past", WriteOptions::unbuffered()).expect("write");
    front.heard_of(4096..4100);
    file.blocking().punch_hole(0, 4096).expect("punch");
    front.heard_of(0..4096);
    file.blocking().set_len(100).expect("cut");
    front.heard_of(100..SIZE);
    file.invalidate();
    front.heard_of(0..SIZE);
    file.blocking().write_at(0, b"lost").expect("write");
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::EIO).always());
    file.blocking().fsync().expect_err("refused");
    front.heard_of(0..4);
    assert_eq!(file.blocking().discard_dirty().expect("discard"), 4);
    front.heard_of(0..4);
    fs.remove_fault(&fault);
    // What is on the server already is no news.
    file.blocking().write_at(0, b"kept").expect("write");
    front.heard_of(0..4);
    file.blocking().fsync().expect_err("the loss is told");
    file.blocking().fsync().expect("fsync");
    front.heard_nothing();
    drop(file);
    bench.shutdown();
}

#[test]
fn another_version_that_a_check_has_found_is_told_to_the_fronts() {
    let (fs, bench, file) = bed();
    let (front, _registered) = Front::of(&file, Origin::new());
    drop(bench.open("f"));
    front.heard_nothing();
    fs.change("f").silently().rewrite().expect("theirs");
    drop(bench.open("f"));
    front.heard_of(0..SIZE);
    drop(file);
    bench.shutdown();
}

#[test]
fn a_front_is_not_told_of_what_it_did_itself() {
    let (_fs, bench, file) = bed();
    let origin = Origin::new();
    let how = OpenOptions::new().read(true).write(true).origin(origin);
    let own = bench.mount.blocking().open_with("f", &how, &cx()).expect("open");
    let (front, _registered) = Front::of(&file, origin);
    let (other, _registered) = Front::of(&file, Origin::new());
    let generation = file.node().zap_generation();
    own.blocking().write_at(0, b"new").expect("write");
    own.blocking().write_at_with(4096, b"past", WriteOptions::unbuffered()).expect("write");
    own.blocking().punch_hole(8192, 4096).expect("punch");
    own.blocking().set_len(20000).expect("cut");
    front.heard_nothing();
    other.heard_of(20000..SIZE);
    // A fault handler of its own must not map what it looked up before, though.
    assert!(file.node().zap_generation() > generation);
    block_on(own.close()).expect("close");
    front.heard_nothing();
    drop(file);
    bench.shutdown();
}

/// Who asks for everything to be forgotten has its own pages in mind, too.
#[test]
fn a_front_is_told_of_an_invalidation_that_it_asked_for() {
    let (_fs, bench, file) = bed();
    let origin = Origin::new();
    let how = OpenOptions::new().read(true).origin(origin);
    let own = bench.mount.blocking().open_with("f", &how, &cx()).expect("open");
    let (front, _registered) = Front::of(&file, origin);
    own.invalidate();
    front.heard_of(0..SIZE);
    drop((file, own));
    bench.shutdown();
}

/// A write that has to have an earlier group uploaded when its first page is in: that fails, or the caller goes
/// away meanwhile. What is in is seen by every reader.
#[test]
fn what_came_in_of_a_write_that_was_cut_off_is_told_to_the_fronts() {
    for fails in [true, false] {
        let (fs, bench, file) = bed();
        let (front, _registered) = Front::of(&file, Origin::new());
        let (first, second) = (file.write_group(), file.write_group());
        let options = WriteOptions::in_group(&first);
        file.blocking().write_at_with(20480, b"first", options).expect("write");
        front.heard_of(20480..20485);
        let options = WriteOptions::in_group(&second);
        if fails {
            fs.inject(Fault::on(Op::Write).errno(Errno::ENOSPC).times(1));
            let n = file.blocking().write_at_with(16384, &[7; 3 * 4096], options);
            assert_eq!(n.expect("some of it"), 4096);
        } else {
            let gate = hold(&fs, Op::Write);
            let write = begun(file.write_at_with(16384, &[7; 3 * 4096], options));
            gate.wait_hit();
            drop(write);
            gate.release();
        }
        front.heard_of(16384..20480);
        let mut seen = [0; 4096];
        file.blocking().read_at(16384, &mut seen).expect("read");
        assert_eq!(seen, [7; 4096]);
        drop((file, first, second));
        bench.shutdown();
    }
}
