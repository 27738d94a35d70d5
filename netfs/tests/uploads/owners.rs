//! Credentials that the server does not accept any more: another writer's go on (A3.11).

use std::sync::Arc;

use netfs::{
    ConflictPolicy, Errno, File, OpenOptions,
    remote::{Cred, Cx, Promise},
};
use netfs_memory::{Fault, MemoryFs, Op};

use crate::common::Bench;

/// A file of 200,000 bytes that anybody may write to.
fn origin() -> Arc<MemoryFs> {
    MemoryFs::builder().file("f", 200_000).mode("f", 0o666).build().expect("build")
}

fn as_user(uid: u32) -> Cx {
    Cx::new(Cred::new(uid, uid))
}

/// Users 1 and 2 have it open for writing.
fn two(bench: &Bench) -> [File; 2] {
    [1, 2].map(|uid| bench.mount.blocking().open_rw("f", &as_user(uid)).expect("open"))
}

fn write(file: &File, offset: u64, bytes: &[u8]) {
    assert_eq!(file.blocking().write_at(offset, bytes).expect("write"), bytes.len());
}

fn refused(fs: &MemoryFs, op: Op, uid: u32, errno: Errno) {
    fs.inject(Fault::on(op).uid(uid).errno(errno).always());
}

/// All is there, as nobody else's change, and the file goes on.
fn all_is_well(fs: &MemoryFs, bench: Bench, files: [File; 2]) {
    for (at, bytes) in [(0, &b"first"[..]), (100_000, b"second")] {
        fs.verify("f", at, bytes).expect("uploaded");
    }
    assert!(!fs.has_uncommitted());
    assert_eq!(bench.stats().write_conflicts, 0);
    assert_eq!(bench.netfs().memory().dirty, 0);
    assert_eq!(fs.take_breaches(), Vec::<String>::new());
    fs.clear_faults();
    files.iter().for_each(|file| write(file, 0, b"more"));
    drop(files);
    // Who has closed a file is asked for as long as bytes of it are dirty.
    pollster::block_on(bench.netfs().sync()).expect("sync");
    bench.shutdown();
}

#[test]
fn a3_11_whatever_says_that_credentials_are_not_accepted_makes_another_writer_go_on() {
    use Errno as E;
    let all = [E::EACCES, E::EPERM, E::ENOKEY, E::EKEYEXPIRED, E::EKEYREVOKED, E::EKEYREJECTED];
    for errno in all {
        let fs = origin();
        let bench = Bench::new(&fs, None);
        let files = two(&bench);
        write(&files[0], 0, b"first");
        write(&files[0], 100_000, b"second");
        refused(&fs, Op::Write, 1, errno);
        // Who has not written may be asked for, too: it could have.
        files[0].blocking().fsync().unwrap_or_else(|error| panic!("{errno:?}: {error}"));
        all_is_well(&fs, bench, files);
    }
}

#[test]
fn a3_11_credentials_that_expire_in_the_middle_of_an_upload_are_replaced_for_the_rest() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let files = two(&bench);
    files[0].set_conflict_policy(Some(ConflictPolicy::Fail));
    write(&files[0], 0, b"first");
    write(&files[0], 100_000, b"second");
    let rest = Fault::on(Op::Write).uid(1).range(100_000..100_006);
    fs.inject(rest.errno(Errno::EKEYEXPIRED).always());
    files[1].blocking().fsync().expect("as the other one");
    let written = fs.take_calls().into_iter().filter(|call| call.op == Op::Write);
    let mut written: Vec<_> = written.map(|c| (c.range.map_or(0, |r| r.start), c.uid)).collect();
    written.sort_unstable();
    assert_eq!(written, [(0, 1), (100_000, 1), (100_000, 2)], "what is there is not sent again");
    all_is_well(&fs, bench, files);
}

#[test]
fn a3_11_credentials_that_expire_before_the_commit_are_replaced_and_no_conflict_is_seen() {
    let fs = origin();
    fs.configure(|s| s.unstable = true);
    let bench = Bench::new(&fs, None);
    let files = two(&bench);
    files[0].set_conflict_policy(Some(ConflictPolicy::Fail));
    write(&files[0], 0, b"first");
    write(&files[0], 100_000, b"second");
    refused(&fs, Op::Commit, 1, Errno::EACCES);
    files.iter().for_each(|file| file.blocking().fsync().expect("as the other one"));
    all_is_well(&fs, bench, files);
}

#[test]
fn a3_11_the_question_before_an_upload_is_asked_as_whoever_gets_an_answer() {
    let fs = origin();
    fs.configure(|s| s.promise = Promise::None);
    let bench = Bench::new(&fs, None);
    let files = two(&bench);
    files[0].set_conflict_policy(Some(ConflictPolicy::Fail));
    write(&files[0], 0, b"first");
    write(&files[1], 100_000, b"second");
    refused(&fs, Op::Validate, 1, Errno::EACCES);
    files.iter().for_each(|file| file.blocking().fsync().expect("as the other one"));
    all_is_well(&fs, bench, files);
}

#[test]
fn a3_11_if_nobody_elses_will_do_the_writers_own_error_stands_and_nothing_is_lost() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let files = two(&bench);
    write(&files[1], 0, b"first");
    write(&files[1], 100_000, b"second");
    refused(&fs, Op::Write, 2, Errno::EKEYEXPIRED);
    refused(&fs, Op::Write, 1, Errno::EACCES);
    for file in &files {
        assert_eq!(file.blocking().fsync().expect_err("nobody").errno(), Errno::EKEYEXPIRED);
    }
    assert_eq!(bench.netfs().memory().dirty, 11);
    fs.clear_faults();
    files[0].blocking().fsync().expect("renewed");
    all_is_well(&fs, bench, files);
}

#[test]
fn a3_11_who_only_reads_or_has_closed_the_file_is_not_asked_for() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let [one, gone] = two(&bench);
    let how = OpenOptions::new().read(true);
    let reader = bench.mount.blocking().open_with("f", &how, &as_user(3)).expect("open");
    drop(gone);
    write(&one, 0, b"first");
    refused(&fs, Op::Write, 1, Errno::EACCES);
    one.blocking().fsync().expect_err("nobody else may write");
    let writes = fs.take_calls().into_iter().filter(|call| call.op == Op::Write);
    assert!(writes.map(|call| call.uid).all(|uid| uid == 1));
    fs.clear_faults();
    one.blocking().fsync().expect("renewed");
    drop((one, reader));
    bench.shutdown();
}
