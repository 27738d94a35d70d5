//! `OpenOptions`: names that are made, rights, files that are cut.

use netfs::{
    Errno, OpenOptions,
    clock::{Clock, SystemClock},
    remote::{Cred, Cx},
};
use netfs_memory::{Fault, MemoryFs, Op};

use crate::{
    common::{Bench, cx},
    tools::{MIB, errno, open, origin, read, rw},
};

#[test]
fn a_file_that_is_made_is_found_although_its_name_was_known_not_to_exist() {
    let fs = MemoryFs::builder().dir("d").build().expect("build");
    let bench = Bench::new(&fs, None);
    let dir = pollster::block_on(bench.mount.walk("d", &cx())).expect("d");
    let lookup = || pollster::block_on(bench.mount.lookup(&dir, b"new", &cx())).expect("lookup");
    assert!(lookup().is_none() && lookup().is_none());
    assert_eq!(fs.counts().calls(Op::Lookup), 2, "d, and new once: the name is known not to exist");
    let missing = bench.mount.blocking().open_with("d/new", &rw(), &cx());
    assert_eq!(errno(missing), Errno::ENOENT);

    let file = open(&bench, "d/new", &rw().create(true).mode(0o640));
    assert_eq!(lookup().expect("it is there").id(), file.node().id());
    assert_eq!(file.attr().expect("attributes").mode & 0o7777, 0o640);
    file.blocking().write_at(0, b"content").expect("write");
    pollster::block_on(file.close()).expect("close");
    fs.verify("d/new", 0, b"content").expect("uploaded by close");
    // The second time it is opened, not made.
    let again = open(&bench, "d/new", &rw().create(true));
    assert_eq!(read(&again, 0, 100), b"content");
    assert_eq!(fs.counts().calls(Op::Create), 1);
    drop(again);
    bench.shutdown();
}

#[test]
fn create_new_is_decided_by_the_server_and_create_opens_what_somebody_else_made() {
    let fs = MemoryFs::builder().dir("d").build().expect("build");
    let bench = Bench::new(&fs, None);
    let missing = bench.mount.blocking().open_with("d/new", &rw(), &cx());
    assert_eq!(errno(missing), Errno::ENOENT);
    // Made behind our back: the cached "no such name" is wrong.
    fs.change("d/new").silently().create_bytes("theirs").expect("made");
    let new = bench.mount.blocking().open_with("d/new", &rw().create_new(true), &cx());
    assert_eq!(errno(new), Errno::EEXIST);

    fs.change("d/two").silently().create_bytes("theirs").expect("made");
    let two = open(&bench, "d/two", &rw().create(true));
    assert_eq!(read(&two, 0, 10), b"theirs");
    drop(two);
    bench.shutdown();
}

#[test]
fn create_meets_a_negative_entry_that_is_not_true_any_more() {
    let fs = MemoryFs::builder().dir("d").build().expect("build");
    let bench = Bench::new(&fs, None);
    let missing = bench.mount.blocking().open_with("d/new", &rw(), &cx());
    assert_eq!(errno(missing), Errno::ENOENT);
    fs.change("d/new").silently().create_bytes("theirs").expect("made");
    let file = open(&bench, "d/new", &rw().create(true));
    assert_eq!(read(&file, 0, 10), b"theirs");
    assert_eq!(fs.counts().calls(Op::Create), 1, "refused: it exists");
    drop(file);
    bench.shutdown();
}

#[test]
fn a_lost_reply_to_a_create_leaves_no_wrong_name_behind() {
    let fs = MemoryFs::builder().dir("d").build().expect("build");
    let bench = Bench::new(&fs, None);
    let missing = bench.mount.blocking().open_with("d/new", &rw(), &cx());
    assert_eq!(errno(missing), Errno::ENOENT);
    fs.inject(Fault::on(Op::Create).lost_reply().times(1));
    let lost = bench.mount.blocking().open_with("d/new", &rw().create(true), &cx());
    assert_eq!(errno(lost), Errno::ETIMEDOUT);
    drop(open(&bench, "d/new", &rw()));
    bench.shutdown();
}

#[test]
fn truncate_cuts_here_and_on_the_server_before_the_open_returns() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    let reader = bench.open("f");
    assert_eq!(read(&reader, 0, 10).len(), 10);
    let file = open(&bench, "f", &OpenOptions::new().write(true).truncate(true));
    assert_eq!(fs.size("f").expect("f"), 0);
    assert_eq!(read(&reader, 0, 10), b"");
    drop((reader, file));
    bench.shutdown();
}

#[test]
fn reads_and_writes_an_open_is_not_for_are_ebadf() {
    let fs = origin();
    let bench = Bench::new(&fs, None);
    drop(read(&open(&bench, "f", &rw()), 0, 4096));
    let write_only = open(&bench, "f", &OpenOptions::new().write(true));
    let mut buf = [0; 4];
    assert_eq!(errno(write_only.blocking().read_at(0, &mut buf)), Errno::EBADF);
    assert_eq!(errno(write_only.blocking().read_slices(0, 4)), Errno::EBADF);
    assert_eq!(write_only.try_read(0, &mut buf), netfs::TryReadAt::WouldBlock);
    write_only.blocking().write_at(0, b"x").expect("write");
    let read_only = open(&bench, "f", &OpenOptions::new().read(true));
    assert_eq!(errno(read_only.blocking().write_at(0, b"y")), Errno::EBADF);
    assert_eq!(errno(read_only.blocking().append(b"y")), Errno::EBADF);
    assert_eq!(errno(read_only.blocking().set_len(0)), Errno::EBADF);
    assert_eq!(read(&read_only, 0, 1), b"x");
    drop((write_only, read_only));
    bench.shutdown();
}

#[test]
fn rights_are_those_that_were_asked_for() {
    let fs = MemoryFs::builder()
        .bytes("drop-box", "")
        .owner("drop-box", 1000, 1000)
        .mode("drop-box", 0o200)
        .dir("d")
        .owner("d", 1000, 1000)
        .build()
        .expect("build");
    let bench = Bench::new(&fs, None);
    let user = Cx::new(Cred::new(1000, 1000));
    let opened =
        |options: &OpenOptions, path: &str| bench.mount.blocking().open_with(path, options, &user);
    assert_eq!(errno(opened(&rw(), "drop-box")), Errno::EACCES);
    let file = opened(&OpenOptions::new().append(true), "drop-box").expect("may be written");
    file.blocking().append(b"in").expect("append");
    file.blocking().fsync().expect("fsync");
    fs.verify("drop-box", 0, b"in").expect("in");
    assert_eq!(errno(opened(&rw().create(true), "none")), Errno::EACCES, "the root is root's");
    drop(opened(&rw().create(true), "d/own").expect("made in the user's directory"));
    drop(file);
    bench.shutdown();
}

#[test]
fn what_cannot_be_opened_so_is_refused_and_nothing_changes() {
    let fs = MemoryFs::builder()
        .file("f", MIB as u64)
        .dir("d")
        .symlink("l", "f")
        .configure(|s| s.read_only = true)
        .build()
        .expect("build");
    let bench = Bench::new(&fs, None);
    let none = OpenOptions::new();
    let read = none.read(true);
    for (path, options, expected) in [
        ("f", none, Errno::EINVAL),
        ("f", read.truncate(true), Errno::EINVAL),
        ("new", read.create(true), Errno::EINVAL),
        ("f", none.append(true).truncate(true), Errno::EINVAL),
        ("f", rw().mode(0o10000), Errno::EINVAL),
        ("f", rw(), Errno::EROFS),
        ("f", rw().truncate(true), Errno::EROFS),
        ("new", rw().create(true), Errno::EROFS),
        ("new", rw().create_new(true), Errno::EROFS),
        ("f", rw().create_new(true), Errno::EEXIST),
        ("d", read, Errno::EISDIR),
        ("d", rw(), Errno::EISDIR),
        ("d/", rw().create(true), Errno::EISDIR),
        ("/", rw(), Errno::EISDIR),
        ("f/", read, Errno::ENOTDIR),
        ("l", rw(), Errno::ELOOP),
        ("new/", rw().create(true), Errno::ENOENT),
        ("f/g", rw().create(true), Errno::ENOTDIR),
        ("new/g", rw().create(true), Errno::ENOENT),
        ("..", rw().create(true), Errno::EINVAL),
    ] {
        let opened = bench.mount.blocking().open_with(path, &options, &cx());
        assert_eq!(errno(opened), expected, "{path}: {options:?}");
    }
    assert_eq!(fs.files().len(), 1, "nothing was made");
    assert_eq!(fs.size("f").expect("f"), MIB as u64);
    bench.shutdown();
}

#[test]
fn on_a_directory_as_on_the_memory_origin() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("there"), "a long line").expect("a file");
    let local = netfs_local::LocalFs::builder(dir.path()).writable(true).open().expect("local");
    let netfs = netfs::Netfs::builder().memory_bytes(16 << 20).build().expect("build");
    let me = Cx::new(Cred::current());
    let mount = netfs.blocking_mount(local, &me).expect("mount");
    let new = rw().create_new(true).mode(0o600);
    let file = mount.blocking().open_with("new", &new, &me).expect("made");
    file.blocking().write_at(3, b"def").expect("write");
    pollster::block_on(file.close()).expect("close");
    assert_eq!(std::fs::read(dir.path().join("new")).expect("made"), b"\0\0\0def");
    assert_eq!(errno(mount.blocking().open_with("new", &new, &me)), Errno::EEXIST);
    let cut = mount.blocking().open_with("there", &rw().truncate(true), &me).expect("cut");
    assert_eq!(std::fs::read(dir.path().join("there")).expect("there"), b"");
    drop((cut, mount));
    assert!(netfs.blocking_shutdown(std::time::Duration::from_secs(20)).is_nothing());
}

#[test]
fn what_was_written_before_a_deadline_is_uploaded_after_it() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("f"), "a long line").expect("a file");
    let local = netfs_local::LocalFs::builder(dir.path()).writable(true).open().expect("local");
    let netfs = netfs::Netfs::builder().memory_bytes(16 << 20).build().expect("build");
    let me = Cx::new(Cred::current());
    let mount = netfs.blocking_mount(local, &me).expect("mount");
    let later = |millis| SystemClock.now() + std::time::Duration::from_millis(millis);
    // As soon as it is open and written to, its time is over: the adapter does nothing more for it.
    let deadline = later(2000);
    let hasty = me.clone().with_deadline(deadline);
    let file = mount.blocking().open_with("f", &rw(), &hasty).expect("open");
    file.blocking().write_at(2, b"short").expect("write");
    while SystemClock.now() <= deadline {
        std::thread::yield_now();
    }
    drop(file);
    let patient = me.clone().with_deadline(later(30_000));
    let other = mount.blocking().open_with("f", &rw(), &patient).expect("open");
    other.blocking().fsync().expect("nobody has withdrawn it");
    assert_eq!(std::fs::read(dir.path().join("f")).expect("f"), b"a shortline");
    drop((other, mount));
    assert!(netfs.blocking_shutdown(std::time::Duration::from_secs(20)).is_nothing());
}
