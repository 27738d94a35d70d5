//! A loss is told once, and keeps nothing from being uploaded.

use netfs::{Errno, File};
use netfs_memory::{Fault, MemoryFs, Op};

use crate::common::{Bench, cx};

fn write(file: &File, offset: u64, bytes: &[u8]) {
    assert_eq!(file.blocking().write_at(offset, bytes).expect("write"), bytes.len());
}

/// What was written after the loss is on the server when the call that tells of it returns: who closes a file
/// can try nothing again.
#[test]
fn n_c32_a_call_that_tells_of_an_older_loss_uploads_what_was_written_since() {
    let fs = MemoryFs::builder().file("f", 65536).build().expect("build");
    let bench = Bench::new(&fs, None);
    let [first, second, third] =
        [(); 3].map(|()| bench.mount.blocking().open_rw("f", &cx()).expect("open"));
    write(&first, 0, b"lost");
    let fault = fs.inject(Fault::on(Op::Write).errno(Errno::EIO).always());
    assert_eq!(first.blocking().fsync().expect_err("refused").errno(), Errno::EIO);
    assert_eq!(pollster::block_on(first.discard_dirty()).expect("given up"), 4);
    fs.remove_fault(&fault);

    write(&second, 100, b"newer");
    assert_eq!(pollster::block_on(second.close()).expect_err("the loss").errno(), Errno::EIO);
    fs.verify("f", 100, b"newer").expect("uploaded by the close");

    write(&third, 200, b"newest");
    assert_eq!(third.blocking().fsync().expect_err("the loss").errno(), Errno::EIO);
    fs.verify("f", 200, b"newest").expect("uploaded by the fsync");
    third.blocking().fsync().expect("told once");
    assert_eq!(first.blocking().fsync().expect_err("the loss").errno(), Errno::EIO);
    drop((first, third));
    bench.shutdown();
}
