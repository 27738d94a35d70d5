//! How large the calls are.

use netfs::FillWhenFull;
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use crate::common::{Bench, cx};

/// A server that takes smaller writes than before, in the middle of an upload.
#[test]
fn n_c31_what_is_sent_after_a_renegotiation_is_cut_by_the_new_limit() {
    let fs = MemoryFs::builder().bytes("f", "").build().expect("build");
    fs.configure(|s| s.limits.wsize = 65536);
    let bench = Bench::with(&fs, None, |b| {
        b.memory_bytes(64 << 20).dirty_bytes(32 << 20, 32 << 20).fill_queue(0, FillWhenFull::Drop)
    });
    let file = bench.mount.blocking().open_rw("f", &cx()).expect("open");
    let bytes: Vec<u8> = (0..4u32 << 20).map(|i| (i % 251) as u8).collect();
    assert_eq!(file.blocking().write_at(0, &bytes).expect("write"), bytes.len());
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Issue).always());
    std::thread::scope(|s| {
        let sync = s.spawn(|| file.blocking().fsync());
        gate.wait_hit();
        // So many are on their way at once; all other bytes are only planned.
        while gate.hits() < 16 {
            std::thread::yield_now();
        }
        fs.configure(|s| (s.limits.wsize, s.refuse_oversized) = (4096, true));
        gate.release();
        sync.join().expect("no panic").expect("each within the limit of its time");
    });
    fs.verify("f", 0, &bytes).expect("all of it");
    drop(file);
    bench.shutdown();
}
