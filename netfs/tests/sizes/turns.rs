//! A check before an upload waits for nobody who waits for that upload.

use netfs::{ConflictPolicy, WriteOptions, clock::StepClock, remote::Promise};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};
use std::sync::Arc;

use crate::{common::Bench, tools::*};

/// The clock stands: whoever waited for another's deadline would wait for ever.
#[test]
fn a_check_before_an_upload_does_not_join_one_that_waits_for_the_turn() {
    let fs = MemoryFs::builder().file("f", 100_000).build().expect("build");
    fs.configure(|s| s.promise = Promise::None);
    let bench = Bench::with(&fs, None, |b| {
        b.conflict_policy(ConflictPolicy::Fail).clock(Arc::new(StepClock::new()))
    });
    let file = open(&bench, "f");
    // Two groups: two passes of one upload, each of which looks for conflicts first.
    for (offset, group) in [(0, file.write_group()), (10_000, file.write_group())] {
        let options = WriteOptions::in_group(&group);
        file.blocking().write_at_with(offset, b"ours", options).expect("write");
    }
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Issue).times(1));
    let reader = bench.open("f");
    let late = bench.stats().late_replies;
    std::thread::scope(|s| {
        let sync = s.spawn(|| file.blocking().fsync());
        gate.wait_hit();
        // Its answer names the version that the upload has just made: it waits for the turn.
        let read = s.spawn(move || read(&reader, 20_000, 10));
        while bench.stats().late_replies == late {
            std::thread::yield_now();
        }
        gate.release();
        // Fails if that takes for ever.
        fs.wait_until(|counts, _| counts.calls(Op::Write) == 2);
        sync.join().expect("no panic").expect("no conflict");
        assert_eq!(read.join().expect("no panic"), fs.expected("f", 20_000, 10).expect("f"));
    });
    assert_eq!(fs.expected("f", 10_000, 4).expect("f"), b"ours");
    drop(file);
    bench.shutdown();
}
