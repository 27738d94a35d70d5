//! What a kernel file system refuses is refused so, and nothing has changed.

use bytes::Bytes;
use netfs::{Errno, WriteOptions};
use netfs_memory::Op;

use crate::{
    common::Bench,
    tools::{MIB, errno, open, origin, rw},
};

#[test]
fn writes_past_any_end_are_refused_whole() {
    let fs = origin();
    fs.configure(|s| s.limits.max_size = 4 * MIB as u64);
    let bench = Bench::new(&fs, None);
    let max = i64::MAX as u64;
    for options in [WriteOptions::default(), WriteOptions::unbuffered()] {
        for direct in [false, true] {
            let file = open(&bench, "f", &rw().direct(direct));
            let file = file.blocking();
            for (offset, expected) in [
                (4 * MIB as u64, Errno::EFBIG),
                (4 * MIB as u64 - 1, Errno::EFBIG),
                (max, Errno::EINVAL),
                (u64::MAX, Errno::EINVAL),
            ] {
                assert_eq!(errno(file.write_at_with(offset, b"ab", options)), expected);
                let bytes = Bytes::from_static(b"ab");
                assert_eq!(errno(file.write_bytes_at(offset, bytes, options)), expected);
            }
            assert_eq!(errno(file.set_len(4 * MIB as u64 + 1)), Errno::EFBIG);
            assert_eq!(errno(file.set_len(u64::MAX)), Errno::EINVAL);
            assert_eq!(file.write_at_with(4 * MIB as u64, b"", options).expect("nothing"), 0);
        }
    }
    let file = open(&bench, "f", &rw().append(true));
    assert_eq!(errno(file.blocking().append(&vec![1; MIB + 1])), Errno::EFBIG);
    assert_eq!(file.sizes().i_size, 3 * MIB as u64);
    assert_eq!(errno(file.start_writeback(max, 2)), Errno::EINVAL);
    assert_eq!((fs.counts().calls(Op::Write), bench.netfs().memory().dirty), (0, 0));
    assert_eq!(fs.size("f").expect("f"), 3 * MIB as u64);
    drop(file);
    bench.shutdown();
}

#[test]
fn a_deleted_file_is_stale_for_every_kind_of_write() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    fs.change("f").remove().expect("removed");
    let file = file.blocking();
    assert_eq!(errno(file.write_at(0, b"x")), Errno::ESTALE);
    assert_eq!(errno(file.write_at_with(0, b"x", WriteOptions::unbuffered())), Errno::ESTALE);
    assert_eq!(errno(file.append(b"x")), Errno::ESTALE);
    assert_eq!(errno(file.set_len(0)), Errno::ESTALE);
    assert_eq!((fs.counts().calls(Op::Write), bench.netfs().memory().dirty), (0, 0));
    bench.shutdown();
}

#[test]
fn a_server_that_became_read_only_says_so_and_loses_nothing() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let file = open(&bench, "f", &rw());
    fs.configure(|s| s.read_only = true);
    let before = fs.snapshot("f").expect("f").version;
    let direct = file.blocking().write_at_with(0, b"x", WriteOptions::unbuffered());
    assert_eq!(errno(direct), Errno::EROFS);
    assert_eq!(fs.snapshot("f").expect("f").version, before);
    assert_eq!(
        errno(bench.mount.blocking().open_with("f", &rw(), &crate::common::cx())),
        Errno::EROFS
    );
    drop(file);
    bench.shutdown();
}

#[test]
fn a_write_group_is_of_one_file() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let (one, two) = (open(&bench, "f", &rw()), open(&bench, "empty", &rw()));
    let group = one.write_group();
    let written = two.blocking().write_at_with(0, b"x", WriteOptions::in_group(&group));
    assert_eq!(errno(written), Errno::EINVAL);
    assert_eq!(bench.netfs().memory().dirty, 0);
    // Another handle of the same file may write in it.
    let again = open(&bench, "f", &rw());
    again.blocking().write_at_with(0, b"x", WriteOptions::in_group(&group)).expect("same file");
    drop((one, two, again, group));
    bench.shutdown();
}
