//! The bytes.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    time::Duration,
};

use netfs::{
    Errno,
    clock::{Clock, SystemClock},
    remote::{Outcome, RemoteFile},
};
use proptest::prelude::*;

use crate::bed::{Bed, failure, me, read, read_as, version};

#[test]
fn the_end_of_the_file_is_told_with_its_size() {
    let bed = Bed::new();
    bed.write("f", b"hello");
    let file = bed.walk("f").unwrap();
    version(&file);
    let (done, bytes) = read(&file, 2, 100);
    assert!(matches!(done.outcome, Outcome::Eof));
    assert_eq!((&bytes[..], done.facts.stated_size()), (&b"llo"[..], Some(5)));
    let (done, bytes) = read(&file, 5, 10);
    assert!(matches!(done.outcome, Outcome::Eof) && bytes.is_empty());
    let (done, bytes) = read(&file, 0, 5);
    assert!(matches!(done.outcome, Outcome::Done) && bytes == b"hello");
}

#[test]
fn an_append_and_a_truncation_are_seen_by_the_next_read() {
    let bed = Bed::new();
    bed.write("f", b"hello");
    let file = bed.walk("f").unwrap();
    assert_eq!(read(&file, 0, 100).1, b"hello");
    let f = OpenOptions::new().write(true).open(bed.path("f")).unwrap();
    f.write_all_at(b" world", 5).unwrap();
    assert_eq!(read(&file, 0, 100).1, b"hello world");
    f.set_len(4).unwrap();
    assert_eq!(read(&file, 0, 100).1, b"hell");
}

#[test]
fn only_regular_files_have_content() {
    let bed = Bed::new();
    fs::create_dir(bed.path("d")).unwrap();
    std::os::unix::fs::symlink("d", bed.path("l")).unwrap();
    std::os::unix::net::UnixListener::bind(bed.path("s")).unwrap();
    for (name, errno) in [("d", Errno::EISDIR), ("l", Errno::EINVAL), ("s", Errno::EINVAL)] {
        let (done, _) = read(&bed.walk(name).unwrap(), 0, 1);
        assert_eq!(failure(&done), Some(errno), "{name}");
    }
}

#[test]
fn a_call_past_its_deadline_is_not_made() {
    let bed = Bed::new();
    bed.write("f", b"hello");
    let file = bed.walk("f").unwrap();
    let late = me().with_deadline(SystemClock.now() - Duration::from_nanos(1));
    assert_eq!(failure(&read_as(&file, 0, 5, late.clone()).0), Some(Errno::ETIMEDOUT));
    let checked = pollster::block_on(file.validate(late));
    assert_eq!(checked.unwrap_err().errno(), Errno::ETIMEDOUT);
}

#[test]
fn a_sparse_file_of_a_terabyte_is_read_where_its_data_is() {
    for bed in Bed::each_filesystem() {
        let f = fs::File::create(bed.path("f")).unwrap();
        f.set_len(1 << 40).unwrap();
        f.write_all_at(b"island", 1 << 39).unwrap();
        drop(f);
        let file = bed.walk("f").unwrap();
        let start = (1 << 39) - 100_000;
        let (_, bytes) = read(&file, start, 200_000);
        let mut want = vec![0; 200_000];
        want[100_000..100_006].copy_from_slice(b"island");
        assert!(bytes == want);
        let (done, bytes) = read(&file, (1 << 40) - 10, 100);
        assert!(matches!(done.outcome, Outcome::Eof) && bytes == [0; 10]);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    Punch(u64, u64),
    SetLen(u64),
    Read(u64, usize),
}

const SPAN: u64 = 300_000;

fn op() -> impl Strategy<Value = Op> {
    let bytes = proptest::collection::vec(any::<u8>(), 1..9000);
    prop_oneof![
        3 => (0..SPAN, bytes).prop_map(|(at, b)| Op::Write(at, b)),
        2 => (0..SPAN, 1..100_000u64).prop_map(|(at, n)| Op::Punch(at, n)),
        1 => (0..SPAN).prop_map(Op::SetLen),
        6 => (0..SPAN, 1..200_000usize).prop_map(|(at, n)| Op::Read(at, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    /// Writes, holes and truncations, with reads in between, against a plain array.
    #[test]
    fn reads_equal_a_plain_model(ops in proptest::collection::vec(op(), 1..40)) {
        let bed = Bed::new();
        let f = OpenOptions::new().create_new(true).write(true).open(bed.path("f")).unwrap();
        let file = bed.walk("f").unwrap();
        let mut model: Vec<u8> = Vec::new();
        for op in ops {
            match op {
                Op::Write(at, bytes) => {
                    f.write_all_at(&bytes, at).unwrap();
                    let (at, end) = (at as usize, at as usize + bytes.len());
                    model.resize(model.len().max(end), 0);
                    model[at..end].copy_from_slice(&bytes);
                }
                Op::Punch(at, n) => {
                    let mode = rustix::fs::FallocateFlags::PUNCH_HOLE
                        | rustix::fs::FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(&f, mode, at, n).unwrap();
                    let len = model.len();
                    model[len.min(at as usize)..len.min((at + n) as usize)].fill(0);
                }
                Op::SetLen(n) => {
                    f.set_len(n).unwrap();
                    model.resize(n as usize, 0);
                }
                Op::Read(at, n) => {
                    let (done, bytes) = read(&file, at, n);
                    let start = model.len().min(at as usize);
                    let want = &model[start..model.len().min(at as usize + n)];
                    prop_assert!(bytes == want, "{n} bytes at {at}");
                    let whole = want.len() == n;
                    prop_assert_eq!(matches!(done.outcome, Outcome::Done), whole);
                    prop_assert_eq!(matches!(done.outcome, Outcome::Eof), !whole);
                    prop_assert_eq!(done.facts.stated_size(), Some(model.len() as u64));
                }
            }
        }
    }
}
