//! Names, attributes, rights and links are cached exactly as long as the server vouches for them. Calls
//! counted at the origin prove hits.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Bench, cx};
use netfs::{
    Errno, Mount, Netfs, Node, Result,
    clock::StepClock,
    remote::{AccessMask, Cred, Cx, FileKind, Promise, PromiseKind},
};
use netfs_memory::{Builder, Fault, Gate, MemoryFs, Op, SnapshotAt, VersionKind};
use pollster::block_on;

fn origin() -> Builder {
    MemoryFs::builder().promise(Promise::UntilBroken { kind: PromiseKind::Read })
}

fn user(uid: u32) -> Cx {
    Cx::new(Cred::new(uid, uid))
}

fn lookup(mount: &Mount, dir: &Node, name: &str) -> Option<Node> {
    block_on(mount.lookup(dir, name.as_bytes(), &cx())).expect("lookup")
}

#[track_caller]
fn fails<T>(result: Result<T>, errno: Errno) {
    match result {
        Err(e) => assert_eq!(e.errno(), errno, "{e:?}"),
        Ok(_) => panic!("no error, expected {errno:?}"),
    }
}

/// How many calls of one kind `work` costs.
fn cost<T>(fs: &MemoryFs, op: Op, work: impl FnOnce() -> T) -> (u64, T) {
    let before = fs.counts();
    let out = work();
    (fs.counts().since(&before).calls(op), out)
}

#[test]
fn a_name_is_looked_up_once_while_its_directory_is_vouched_for() {
    let fs = origin().file("d/a", 10).build().unwrap();
    let bench = Bench::new(&fs, None);
    let (calls, first) =
        cost(&fs, Op::Lookup, || block_on(bench.mount.walk("d/a", &cx())).unwrap());
    assert_eq!(calls, 2);
    let before = fs.counts();
    let again = block_on(bench.mount.walk("d/a", &cx())).unwrap();
    assert_eq!(fs.counts().since(&before).total(), 0);
    assert_eq!(first.id(), again.id());
    fs.send_break("d").unwrap();
    let (calls, _) = cost(&fs, Op::Lookup, || block_on(bench.mount.walk("d/a", &cx())).unwrap());
    assert_eq!(calls, 1, "only the broken directory is asked again");
}

#[test]
fn a_name_that_does_not_exist_is_remembered_until_the_directory_changes() {
    let fs = origin().dir("d").build().unwrap();
    let bench = Bench::new(&fs, None);
    let dir = block_on(bench.mount.walk("d", &cx())).unwrap();
    assert!(lookup(&bench.mount, &dir, "x").is_none());
    let (calls, found) = cost(&fs, Op::Lookup, || lookup(&bench.mount, &dir, "x"));
    assert!(calls == 0 && found.is_none());
    fs.change("d/x").create(5).unwrap();
    assert!(lookup(&bench.mount, &dir, "x").is_some());
    fs.change("d/x").remove().unwrap();
    assert!(lookup(&bench.mount, &dir, "x").is_none());
    fs.change("d/y").create(5).unwrap();
    fs.change("d/y").rename("d/x").unwrap();
    assert!(lookup(&bench.mount, &dir, "x").is_some());
    assert!(lookup(&bench.mount, &dir, "y").is_none());
}

#[test]
fn without_a_promise_every_name_is_asked_for() {
    let fs = MemoryFs::builder().promise(Promise::None).file("a", 10).build().unwrap();
    let bench = Bench::new(&fs, None);
    let root = bench.mount.root();
    for _ in 0..3 {
        let (calls, _) = cost(&fs, Op::Lookup, || lookup(&bench.mount, &root, "a"));
        assert_eq!(calls, 1);
    }
    fs.change("a").silently().remove().unwrap();
    assert!(lookup(&bench.mount, &root, "a").is_none());
}

/// A bench on a clock of its own, under a promise of 10 s.
fn ttl(builder: Builder) -> (Arc<MemoryFs>, Bench, StepClock) {
    let promise =
        Promise::Until { lifetime: Duration::from_secs(10), margin: Duration::from_secs(0) };
    let fs = builder.promise(promise).build().expect("build");
    let clock = StepClock::new();
    let bench = Bench::with(&fs, None, |b| b.clock(Arc::new(clock.clone())));
    (fs, bench, clock)
}

#[test]
fn a_silent_change_of_names_shows_when_the_promise_ends() {
    for versions in [VersionKind::Number, VersionKind::None] {
        let builder = MemoryFs::builder().configure(move |s| {
            s.versions = versions;
            s.attr_moves_version = true;
        });
        let (fs, bench, clock) = ttl(builder.file("a", 1).file("b", 2).file("c", 3));
        let root = bench.mount.root();
        let old = lookup(&bench.mount, &root, "a").unwrap();
        assert!(lookup(&bench.mount, &root, "new").is_none());
        fs.change("a").silently().remove().unwrap();
        fs.change("new").silently().create(7).unwrap();
        // Other replies about the directory must not keep what this one said alive.
        for name in ["b", "c", "d", "e"] {
            clock.advance(Duration::from_secs(4));
            lookup(&bench.mount, &root, name);
        }
        assert!(lookup(&bench.mount, &root, "a").is_none(), "{versions:?}");
        assert!(lookup(&bench.mount, &root, "new").is_some(), "{versions:?}");
        fails(block_on(bench.mount.open(&old, &cx())), Errno::ESTALE);
    }
}

#[test]
fn attributes_are_cached_and_follow_events() {
    let fs = origin().file("a", 10).mode("a", 0o644).build().unwrap();
    let bench = Bench::new(&fs, None);
    let node = block_on(bench.mount.walk("a", &cx())).unwrap();
    let attr = || block_on(bench.mount.getattr(&node, &cx())).unwrap();
    let (calls, _) = cost(&fs, Op::Getattr, attr);
    assert_eq!(calls, 0, "the lookup's attributes");
    fs.change("a").chmod(0o600).unwrap();
    let (calls, seen) = cost(&fs, Op::Getattr, attr);
    assert_eq!((calls, seen.mode & 0o777), (1, 0o600));
    fs.change("a").append(90).unwrap();
    assert_eq!(attr().size, 100);
    let before = fs.counts();
    attr();
    assert_eq!(fs.counts().since(&before).total(), 0);
    assert!(bench.stats().attr_hits > 0);
}

#[test]
fn attributes_under_a_time_limit_are_asked_for_when_it_is_over() {
    let (fs, bench, clock) = ttl(MemoryFs::builder().file("a", 10));
    let node = block_on(bench.mount.walk("a", &cx())).unwrap();
    fs.change("a").silently().chmod(0o600).unwrap();
    let attr = || block_on(bench.mount.getattr(&node, &cx())).unwrap().mode & 0o777;
    assert_eq!(attr(), 0o644);
    clock.advance(Duration::from_secs(10));
    assert_eq!(attr(), 0o600);
}

#[test]
fn rights_are_asked_once_a_credential_and_again_when_they_may_have_changed() {
    let fs = origin().file("a", 10).mode("a", 0o600).owner("a", 7, 7).build().unwrap();
    let bench = Bench::new(&fs, None);
    let node = block_on(bench.mount.walk("a", &cx())).unwrap();
    let may = |uid| block_on(bench.mount.access(&node, AccessMask::READ, &user(uid))).unwrap();
    assert!(may(7) && !may(8));
    let (calls, _) = cost(&fs, Op::Access, || assert!(may(7) && !may(8)));
    assert_eq!(calls, 0);
    fs.change("a").chmod(0o604).unwrap();
    let (calls, _) = cost(&fs, Op::Access, || assert!(may(8)));
    assert_eq!(calls, 1);
    fs.change("a").chmod(0o600).unwrap();
    assert!(!may(8));
    fs.change("a").chown(8, 8).unwrap();
    // Another reply vouches for the file again: what was answered before must not come back with it.
    block_on(bench.mount.getattr(&node, &cx())).unwrap();
    assert!(may(8) && !may(7));
}

#[test]
fn what_one_user_has_read_no_other_gets_without_the_right() {
    let fs = origin().file("d/a", 10_000).mode("d", 0o750).owner("d", 7, 7).build().unwrap();
    let bench = Bench::new(&fs, None);
    let node = block_on(bench.mount.walk("d/a", &user(7))).unwrap();
    let file = block_on(bench.mount.open(&node, &user(7))).unwrap();
    let mut buf = vec![0; 10_000];
    file.blocking().read_at(0, &mut buf).unwrap();
    fails(block_on(bench.mount.walk("d/a", &user(8))), Errno::EACCES);
    let dir = block_on(bench.mount.walk("d", &user(8))).unwrap();
    fails(block_on(bench.mount.readdir(&dir, 0, true, &user(8))), Errno::EACCES);
    fs.change("d/a").chmod(0o600).unwrap();
    fails(block_on(bench.mount.open(&node, &user(8))), Errno::EACCES);
}

#[test]
fn a_deleted_file_is_estale_and_its_name_is_free() {
    let fs = origin().file("a", 10).build().unwrap();
    let bench = Bench::new(&fs, None);
    let node = block_on(bench.mount.walk("a", &cx())).unwrap();
    fs.change("a").remove().unwrap();
    fails(block_on(bench.mount.open(&node, &cx())), Errno::ESTALE);
    fails(block_on(bench.mount.getattr(&node, &cx())), Errno::ESTALE);
    let gone = block_on(bench.mount.walk("a", &cx())).unwrap_err();
    assert_eq!(gone.errno(), Errno::ENOENT);
    assert!(gone.to_string().contains("\"a\""), "{gone}");
    fs.change("a").create(20).unwrap();
    let again = block_on(bench.mount.walk("a", &cx())).unwrap();
    assert_ne!(again.key(), node.key());
    bench.check("a", 0, 20);
    fails(block_on(bench.mount.open(&node, &cx())), Errno::ESTALE);
}

#[test]
fn two_mounts_of_one_volume_share_inodes_and_bytes() {
    let fs = origin().file("a", 100_000).build().unwrap();
    let bench = Bench::new(&fs, None);
    let second = block_on(bench.netfs().mount(fs.client(), &user(5))).unwrap();
    let one = block_on(bench.mount.walk("a", &cx())).unwrap();
    let two = block_on(second.walk("a", &user(5))).unwrap();
    assert_eq!(one.id(), two.id());
    bench.check("a", 0, 100_000);
    let file = block_on(second.open(&two, &user(5))).unwrap();
    let mut buf = vec![0; 100_000];
    let (calls, _) = cost(&fs, Op::Read, || file.blocking().read_at(0, &mut buf).unwrap());
    assert_eq!(calls, 0, "the first mount's bytes");
    fs.change("a").rewrite().unwrap();
    file.blocking().read_at(0, &mut buf).unwrap();
    fs.verify("a", 0, &buf).unwrap();
    drop(bench);
}

#[test]
fn two_volumes_share_nothing() {
    let one = origin().seed(1).volume_id("one").file("a", 10).build().unwrap();
    let two = origin().seed(1).volume_id("two").file("a", 10).build().unwrap();
    two.change("a").rewrite().unwrap();
    assert_eq!(one.key("a").unwrap(), two.key("a").unwrap(), "the same key in both");
    let netfs = Netfs::builder().build().unwrap();
    for fs in [&one, &two] {
        let mount = block_on(netfs.mount(Arc::clone(fs), &cx())).unwrap();
        let node = block_on(mount.walk("a", &cx())).unwrap();
        let file = block_on(mount.open(&node, &cx())).unwrap();
        let mut buf = [0; 10];
        file.blocking().read_at(0, &mut buf).unwrap();
        fs.verify("a", 0, &buf).unwrap();
    }
}

#[test]
fn names_that_cannot_be_are_refused_without_a_call() {
    let fs = origin().file("a", 10).build().unwrap();
    let bench = Bench::new(&fs, None);
    let root = bench.mount.root();
    let before = fs.counts();
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        fails(block_on(bench.mount.lookup(&root, name, &cx())), Errno::EINVAL);
    }
    fails(block_on(bench.mount.lookup(&root, &[b'x'; 256], &cx())), Errno::ENAMETOOLONG);
    assert_eq!(fs.counts().since(&before).total(), 0);
    assert!(block_on(bench.mount.lookup(&root, &[0xff; 255], &cx())).unwrap().is_none());
}

#[test]
fn what_is_no_directory_has_no_names() {
    let fs = origin().file("a", 10).symlink("l", "a").dir("d").build().unwrap();
    let bench = Bench::new(&fs, None);
    for path in ["a", "l"] {
        let node = block_on(bench.mount.walk(path, &cx())).unwrap();
        fails(block_on(bench.mount.lookup(&node, b"x", &cx())), Errno::ENOTDIR);
        fails(block_on(bench.mount.readdir(&node, 0, false, &cx())), Errno::ENOTDIR);
    }
    let dir = block_on(bench.mount.walk("d", &cx())).unwrap();
    fails(block_on(bench.mount.open(&dir, &cx())), Errno::EISDIR);
    fails(block_on(bench.mount.readlink(&dir, &cx())), Errno::EINVAL);
}

fn list(mount: &Mount, dir: &Node, plus: bool) -> Vec<(String, u64)> {
    let mut out: Vec<(String, u64)> = Vec::new();
    loop {
        let from = out.last().map_or(0, |(_, cookie)| *cookie);
        let page = block_on(mount.readdir(dir, from, plus, &cx())).expect("readdir");
        if page.is_empty() {
            return out;
        }
        out.extend(page.iter().map(|e| (String::from_utf8_lossy(&e.name).into_owned(), e.cookie)));
    }
}

#[test]
fn a_listing_in_pages_has_every_name_once_and_fills_the_name_cache() {
    let fs = origin().files("d", 25, 100).build().unwrap();
    fs.configure(|s| s.readdir_page = 4);
    let bench = Bench::new(&fs, None);
    let dir = block_on(bench.mount.walk("d", &cx())).unwrap();
    let mut names: Vec<String> =
        list(&bench.mount, &dir, true).into_iter().map(|(n, _)| n).collect();
    names.sort();
    let mut want: Vec<String> = (0..25).map(|i| i.to_string()).collect();
    want.sort();
    assert_eq!(names, want);
    let before = fs.counts();
    for name in &names {
        let node = lookup(&bench.mount, &dir, name).unwrap();
        assert_eq!(block_on(bench.mount.getattr(&node, &cx())).unwrap().size, 100);
    }
    assert_eq!(fs.counts().since(&before).calls(Op::Lookup), 0);
    assert_eq!(fs.counts().since(&before).calls(Op::Getattr), 0);
    fs.change("d/3").remove().unwrap();
    assert!(lookup(&bench.mount, &dir, "3").is_none());
}

#[test]
fn a_listing_without_attributes_fills_nothing() {
    let fs = origin().files("d", 3, 100).build().unwrap();
    let bench = Bench::new(&fs, None);
    let dir = block_on(bench.mount.walk("d", &cx())).unwrap();
    assert_eq!(list(&bench.mount, &dir, false).len(), 3);
    let (calls, _) = cost(&fs, Op::Lookup, || lookup(&bench.mount, &dir, "0"));
    assert_eq!(calls, 1);
}

#[test]
fn a_link_is_read_once_and_again_when_it_changed() {
    let fs = origin().symlink("l", "old/target").file("a", 10).build().unwrap();
    let bench = Bench::new(&fs, None);
    let node = block_on(bench.mount.walk("l", &cx())).unwrap();
    assert_eq!(node.kind(), Some(FileKind::Symlink));
    let target = |node: &Node| block_on(bench.mount.readlink(node, &cx())).unwrap();
    assert_eq!(target(&node), "old/target");
    let (calls, again) = cost(&fs, Op::Readlink, || target(&node));
    assert_eq!((calls, &again[..]), (0, &b"old/target"[..]));
    fs.send_break("l").unwrap();
    let (calls, again) = cost(&fs, Op::Readlink, || target(&node));
    assert_eq!((calls, &again[..]), (0, &b"old/target"[..]), "checked, not read");
    fs.change("l").remove().unwrap();
    fs.change("l").symlink("new").unwrap();
    let node = block_on(bench.mount.walk("l", &cx())).unwrap();
    assert_eq!(target(&node), "new");
    let file = block_on(bench.mount.walk("a", &cx())).unwrap();
    fails(block_on(bench.mount.readlink(&file, &cx())), Errno::EINVAL);
}

#[test]
fn a_late_lookup_leaves_nothing_behind() {
    for plus in [false, true] {
        let fs = origin().file("d/a", 10).build().unwrap();
        let bench = Bench::new(&fs, None);
        let dir = block_on(bench.mount.walk("d", &cx())).unwrap();
        let gate = Gate::new();
        let op = if plus { Op::Readdir } else { Op::Lookup };
        fs.inject(Fault::on(op).hold(&gate, SnapshotAt::Issue));
        std::thread::scope(|s| {
            let late = s.spawn(|| {
                if plus {
                    assert_eq!(list(&bench.mount, &dir, true).len(), 1);
                } else {
                    // It began before the change: either answer will do.
                    lookup(&bench.mount, &dir, "a");
                }
            });
            gate.wait_hit();
            fs.change("d/a").remove().unwrap();
            gate.release();
            // A listing goes on in the changed directory: what it got first was true then.
            late.join().unwrap();
        });
        assert!(lookup(&bench.mount, &dir, "a").is_none(), "{op:?}");
    }
}

#[test]
fn p_d27_events_for_unknown_keys_are_harmless() {
    let fs = origin().file("a", 10).build().unwrap();
    let bench = Bench::new(&fs, None);
    let reason = netfs::coherency::BreakReason::Callback;
    for key in [&b""[..], b"nobody", &[0xff; 300]] {
        assert!(fs.send_break_key(key, reason).iter().all(|t| t.is_done()));
        fs.send_deleted(key);
    }
    bench.check("a", 0, 10);
}
