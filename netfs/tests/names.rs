//! Changes of names and attributes through a mount.

mod common;

use std::sync::Arc;

use common::{Bench, cx};
use netfs::{
    ConflictPolicy, Errno, Error, Netfs, Node,
    remote::{Attr, Cred, Cx, FileKind, Promise, RenameHow, SetAttr, SetTime, TimeSpec},
};
use netfs_memory::{Fault, MemoryFs, Op};

fn bed() -> (Arc<MemoryFs>, Bench) {
    // What is known stays so until somebody says otherwise.
    let promise = Promise::UntilBroken { kind: netfs::remote::PromiseKind::Read };
    let fs = MemoryFs::builder().promise(promise).file("d/a", 5000).file("d/b", 10).dir("e");
    let fs = fs.build().expect("build");
    let bench = Bench::new(&fs, None);
    (fs, bench)
}

fn walk(bench: &Bench, path: &str) -> Node {
    bench.mount.blocking().walk(path, &cx()).expect("walk")
}

fn has(bench: &Bench, dir: &Node, name: &str) -> bool {
    bench.mount.blocking().lookup(dir, name.as_bytes(), &cx()).expect("lookup").is_some()
}

fn attr(bench: &Bench, node: &Node) -> Attr {
    bench.mount.blocking().getattr(node, &cx()).expect("getattr")
}

/// Directory listings are what the server has, and so is every name that was ever looked up.
fn listing(bench: &Bench, dir: &Node) -> Vec<String> {
    let entries = bench.mount.blocking().readdir(dir, 0, false, &cx()).expect("readdir");
    let mut names: Vec<_> =
        entries.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect();
    names.sort();
    names
}

#[track_caller]
fn fails<T>(result: Result<T, Error>, errno: Errno) {
    assert_eq!(result.err().map(|e| e.errno()), Some(errno));
}

#[test]
fn what_is_made_is_known_without_another_look_and_so_are_the_other_names() {
    let (fs, bench) = bed();
    let (dir, names) = (walk(&bench, "d"), bench.mount.blocking());
    assert!(has(&bench, &dir, "a") && !has(&bench, &dir, "new") && !has(&bench, &dir, "none"));
    let before = fs.counts();
    let new = names.create(&dir, b"new", 0o640, &cx()).expect("create");
    let sub = names.mkdir(&dir, b"sub", 0o750, &cx()).expect("mkdir");
    let link = names.symlink(&dir, b"link", b"../e", &cx()).expect("symlink");
    names.link(&new, &dir, b"second", &cx()).expect("link");
    for name in ["a", "new", "sub", "link", "second"] {
        assert!(has(&bench, &dir, name), "{name}");
    }
    assert!(!has(&bench, &dir, "none"));
    let calls = fs.counts().since(&before);
    assert_eq!((calls.calls(Op::Lookup), calls.calls(Op::Validate)), (0, 0));
    assert_eq!(attr(&bench, &new).nlink, 2);
    assert_eq!((attr(&bench, &new).mode, attr(&bench, &sub).mode), (0o640, 0o750));
    assert_eq!(&names.readlink(&link, &cx()).expect("readlink")[..], b"../e");
    assert_eq!(sub.kind(), Some(FileKind::Dir));
    assert_eq!(listing(&bench, &dir), ["a", "b", "link", "new", "second", "sub"]);
    fails(names.create(&dir, b"a", 0o600, &cx()), Errno::EEXIST);
    fails(names.create(&dir, b"x/y", 0o600, &cx()), Errno::EINVAL);
    fails(names.mkdir(&dir, &[b'x'; 256], 0o700, &cx()), Errno::ENAMETOOLONG);
    fails(names.create(&new, b"x", 0o600, &cx()), Errno::ENOTDIR);
    fails(names.link(&sub, &dir, b"x", &cx()), Errno::EPERM);
    // A file that was made can be written to.
    let file = names.open_rw("d/new", &cx()).expect("open");
    file.blocking().write_at(0, b"hello").expect("write");
    file.blocking().fsync().expect("fsync");
    assert_eq!(fs.expected("d/second", 0, 5).expect("content"), b"hello");
    drop(file);
    assert_eq!(fs.take_breaches(), Vec::<String>::new());
    bench.shutdown();
}

#[test]
fn what_is_removed_or_moved_is_not_found_any_more_and_what_came_there_is() {
    let (fs, bench) = bed();
    let (dir, to, names) = (walk(&bench, "d"), walk(&bench, "e"), bench.mount.blocking());
    let (a, b) = (walk(&bench, "d/a"), walk(&bench, "d/b"));
    assert!(!has(&bench, &to, "moved"));
    let before = fs.counts();
    names.rename((&dir, b"a"), (&to, b"moved"), RenameHow::Replace, &cx()).expect("rename");
    assert!(!has(&bench, &dir, "a") && has(&bench, &to, "moved"));
    assert_eq!(walk(&bench, "e/moved").id(), a.id());
    names.rename((&to, b"moved"), (&dir, b"b"), RenameHow::Exchange, &cx()).expect("exchange");
    assert_eq!((walk(&bench, "d/b").id(), walk(&bench, "e/moved").id()), (a.id(), b.id()));
    fails(names.rename((&dir, b"b"), (&to, b"moved"), RenameHow::NoReplace, &cx()), Errno::EEXIST);
    assert_eq!(walk(&bench, "e/moved").id(), b.id());
    names.rename((&dir, b"b"), (&dir, b"c"), RenameHow::NoReplace, &cx()).expect("rename");
    assert!(!has(&bench, &dir, "b") && has(&bench, &dir, "c"));
    // A failed change leaves its two names open; "c" was not known.
    assert_eq!(fs.counts().since(&before).calls(Op::Lookup), 3);
    names.unlink(&dir, b"c", &cx()).expect("unlink");
    assert!(!has(&bench, &dir, "c"));
    fails(names.unlink(&dir, b"c", &cx()), Errno::ENOENT);
    fails(names.getattr(&a, &cx()), Errno::ESTALE);
    fails(names.rmdir(&to, b"moved", &cx()), Errno::ENOTDIR);
    fails(names.unlink(&names.walk("", &cx()).expect("root"), b"e", &cx()), Errno::EISDIR);
    names.rmdir(&bench.mount.root(), b"d", &cx()).expect("rmdir");
    fails(names.create(&dir, b"x", 0o600, &cx()), Errno::ESTALE);
    assert_eq!(listing(&bench, &bench.mount.root()), ["e"]);
    assert_eq!(listing(&bench, &to), ["moved"]);
    bench.shutdown();
}

#[test]
fn two_names_of_one_file_are_both_left_by_a_rename() {
    let (_fs, bench) = bed();
    let (dir, names) = (walk(&bench, "d"), bench.mount.blocking());
    names.link(&walk(&bench, "d/a"), &dir, b"c", &cx()).expect("link");
    names.rename((&dir, b"a"), (&dir, b"c"), RenameHow::Replace, &cx()).expect("nothing");
    assert!(has(&bench, &dir, "a") && has(&bench, &dir, "c"));
    bench.shutdown();
}

#[test]
fn names_that_somebody_else_changes_in_between_are_looked_up_again() {
    let (fs, bench) = bed();
    let (dir, names) = (walk(&bench, "d"), bench.mount.blocking());
    assert!(has(&bench, &dir, "b") && !has(&bench, &dir, "theirs"));
    fs.change("d/theirs").silently().create(1).expect("theirs");
    fs.change("d/b").silently().remove().expect("theirs");
    // The reply shows that the directory was another one.
    names.create(&dir, b"ours", 0o600, &cx()).expect("create");
    assert!(has(&bench, &dir, "theirs") && !has(&bench, &dir, "b") && has(&bench, &dir, "ours"));
    // A reply that was lost: all is open.
    assert!(!has(&bench, &dir, "lost"));
    fs.inject(Fault::on(Op::Create).lost_reply().times(1));
    names.create(&dir, b"lost", 0o600, &cx()).expect_err("no reply");
    assert!(has(&bench, &dir, "lost"));
    // A server that does not say what it found.
    fs.configure(|s| s.states_before = false);
    fs.change("d/more").silently().create(1).expect("theirs");
    names.create(&dir, b"again", 0o600, &cx()).expect("create");
    assert!(has(&bench, &dir, "more") && has(&bench, &dir, "again"));
    bench.shutdown();
}

/// `EIO` says no more about what a server has done than no answer.
#[test]
fn what_failed_with_eio_may_have_been_done_and_every_mount_asks() {
    let (fs, bench) = bed();
    let other = bench.netfs().blocking_mount(fs.client(), &cx()).expect("mount");
    let there = other.blocking().walk("d", &cx()).expect("walk");
    let (dir, names) = (walk(&bench, "d"), bench.mount.blocking());
    assert!(other.blocking().lookup(&there, b"new", &cx()).expect("lookup").is_none());
    fs.inject(Fault::on(Op::Create).done_but(Errno::EIO).times(1));
    names.create(&dir, b"new", 0o600, &cx()).expect_err("so it says");
    assert!(other.blocking().lookup(&there, b"new", &cx()).expect("lookup").is_some());
    let file = walk(&bench, "d/a");
    names.getattr(&file, &cx()).expect("getattr");
    fs.inject(Fault::on(Op::SetAttr).done_but(Errno::EIO).times(1));
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    names.set_attr(&file, set, &cx()).expect_err("so it says");
    assert_eq!(names.getattr(&file, &cx()).expect("getattr").mode & 0o7777, 0o600);
    drop((there, other, file, dir));
    bench.shutdown();
}

#[test]
fn another_mount_of_the_volume_sees_what_was_changed() {
    let (fs, bench) = bed();
    let other = bench.netfs().blocking_mount(fs.client(), &cx()).expect("mount");
    let there = other.blocking().walk("d", &cx()).expect("walk");
    let look = |name: &[u8]| other.blocking().lookup(&there, name, &cx()).expect("lookup");
    assert!(look(b"new").is_none() && look(b"a").is_some());
    let (dir, names) = (walk(&bench, "d"), bench.mount.blocking());
    assert!(!has(&bench, &dir, "new"));
    names.create(&dir, b"new", 0o600, &cx()).expect("create");
    names.unlink(&dir, b"a", &cx()).expect("unlink");
    assert!(look(b"new").is_some() && look(b"a").is_none());
    drop((there, other));
    bench.shutdown();
}

#[test]
fn what_was_written_to_a_removed_file_goes_with_it_and_openers_are_told() {
    let (fs, bench) = bed();
    let (dir, names) = (walk(&bench, "d"), bench.mount.blocking());
    let file = names.open_rw("d/a", &cx()).expect("open");
    file.blocking().write_at(0, b"lost").expect("write");
    names.unlink(&dir, b"a", &cx()).expect("unlink");
    // This server keeps nothing for openers.
    fails(file.blocking().write_at(0, b"more"), Errno::ESTALE);
    fails(file.blocking().fsync(), Errno::ESTALE);
    assert_eq!(bench.netfs().memory().dirty, 0, "nobody will ever take it");
    drop(file);
    // The same of a file that is replaced, which nobody has open.
    let file = names.open_rw("d/b", &cx()).expect("open");
    file.blocking().write_at(0, b"lost too").expect("write");
    drop(file);
    names.create(&dir, b"new", 0o600, &cx()).expect("create");
    names.rename((&dir, b"new"), (&dir, b"b"), RenameHow::Replace, &cx()).expect("rename");
    assert_eq!(bench.netfs().memory().dirty, 0);
    assert_eq!(bench.stats().write_removed_bytes, 12);
    assert_eq!(fs.size("d/b").expect("the new one"), 0);
    assert_eq!(fs.counts().written(), 0);
    bench.shutdown();
}

#[test]
fn attributes_are_set_and_names_changed_without_dropping_data_or_meeting_a_conflict() {
    for moves in [true, false] {
        let (fs, bench) = bed();
        fs.configure(|s| s.attr_moves_version = moves);
        bench.mount.set_conflict_policy(Some(ConflictPolicy::Fail));
        let (dir, names) = (walk(&bench, "d"), bench.mount.blocking());
        let file = names.open_rw("d/a", &cx()).expect("open");
        let node = file.node();
        let mut expected = vec![0; 5000];
        file.blocking().read_at(0, &mut expected).expect("read");
        file.blocking().write_at(100, b"dirty").expect("write");
        expected[100..105].copy_from_slice(b"dirty");
        let time = SetTime::To(TimeSpec { sec: 1000, nsec: 7 });
        let set =
            SetAttr { mode: Some(0o600), uid: Some(5), mtime: Some(time), ..SetAttr::default() };
        names.set_attr(&node, set, &cx()).expect("set");
        names.link(&node, &dir, b"c", &cx()).expect("link");
        names.rename((&dir, b"a"), (&dir, b"n"), RenameHow::Replace, &cx()).expect("rename");
        names.unlink(&dir, b"c", &cx()).expect("unlink");
        let now = attr(&bench, &node);
        assert_eq!((now.mode, now.uid, now.nlink, now.mtime.sec), (0o600, 5, 1, 1000));
        let before = fs.counts();
        let mut buf = vec![0; 5000];
        assert_eq!(file.blocking().read_at(0, &mut buf).expect("read"), 5000);
        assert!(buf == expected);
        assert_eq!(fs.counts().since(&before).calls(Op::Read), 0, "kept ({moves})");
        file.blocking().fsync().expect("no conflict");
        assert_eq!(fs.expected("d/n", 100, 5).expect("content"), b"dirty");
        assert_eq!(bench.stats().write_conflicts, 0);
        names.set_len(&node, 10, &cx()).expect("cut");
        assert_eq!((attr(&bench, &node).size, fs.size("d/n").expect("size")), (10, 10));
        let somebody = Cx::new(Cred::new(77, 77));
        let mode = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        fails(names.set_attr(&node, mode, &somebody), Errno::EPERM);
        fails(names.set_len(&node, 0, &somebody), Errno::EACCES);
        drop(file);
        bench.shutdown();
    }
}

#[test]
fn names_of_a_local_tree_are_the_kernels() {
    let dir = tempfile::tempdir().expect("a directory");
    let fs = netfs_local::LocalFs::builder(dir.path()).writable(true).open().expect("open");
    let netfs = Netfs::builder().memory_bytes(16 << 20).build().expect("build");
    let me = Cx::new(Cred::current());
    let mount = netfs.blocking_mount(fs, &me).expect("mount");
    let (names, root) = (mount.blocking(), mount.root());
    let sub = names.mkdir(&root, b"sub", 0o755, &me).expect("mkdir");
    let made = names.create(&sub, b"f", 0o644, &me).expect("create");
    let file = pollster::block_on(mount.open_rw(&made, &me)).expect("open");
    file.blocking().write_at(0, b"hello").expect("write");
    names.rename((&sub, b"f"), (&root, b"g"), RenameHow::NoReplace, &me).expect("rename");
    names.link(&made, &sub, b"h", &me).expect("link");
    names.symlink(&root, b"l", b"g", &me).expect("symlink");
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    names.set_attr(&made, mode, &me).expect("set");
    file.blocking().fsync().expect("fsync");
    assert_eq!(std::fs::read(dir.path().join("l")).expect("read"), b"hello");
    assert!(names.lookup(&sub, b"f", &me).expect("lookup").is_none());
    names.unlink(&sub, b"h", &me).expect("unlink");
    fails(names.unlink(&root, b"sub", &me), Errno::EISDIR);
    names.rmdir(&root, b"sub", &me).expect("rmdir");
    let attr = names.getattr(&made, &me).expect("getattr");
    assert_eq!((attr.mode, attr.nlink, attr.size), (0o600, 1, 5));
    let other = names.create(&root, b"other", 0o644, &me).expect("create");
    names.rename((&root, b"other"), (&root, b"g"), RenameHow::Replace, &me).expect("rename");
    assert_eq!(names.walk("g", &me).expect("walk").id(), other.id());
    assert!(!dir.path().join("sub").exists() && !dir.path().join("other").exists());
    drop((file, made, other, sub, root, mount));
    assert!(netfs.blocking_shutdown(std::time::Duration::from_secs(20)).is_nothing());
}
