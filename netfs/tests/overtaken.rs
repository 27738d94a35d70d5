//! Replies to our own changes that come late: something else has happened since, which they know nothing of; or
//! that do not come at all.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Bench, cx};
use netfs::{
    Errno, File, FillPolicy, Node,
    clock::StepClock,
    fscache::{FaultPoint, MemCache},
    remote::{Attr, RenameHow, SetAttr},
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

const PAGE: usize = 4096;

struct Bed {
    fs: Arc<MemoryFs>,
    bench: Bench,
    clock: StepClock,
}

fn bed() -> Bed {
    let fs = MemoryFs::builder().file("d/a", 3 * PAGE as u64).file("d/b", 10).dir("e");
    let fs = fs.build().expect("build");
    fs.configure(|s| s.attr_moves_version = true);
    let clock = StepClock::new();
    let bench = Bench::with(&fs, None, |b| b.clock(Arc::new(clock.clone())));
    Bed { fs, bench, clock }
}

impl Bed {
    fn walk(&self, path: &str) -> Node {
        self.bench.mount.blocking().walk(path, &cx()).expect("walk")
    }

    fn attr(&self, node: &Node) -> Attr {
        self.bench.mount.blocking().getattr(node, &cx()).expect("getattr")
    }

    fn has(&self, dir: &Node, name: &str) -> bool {
        let found = self.bench.mount.blocking().lookup(dir, name.as_bytes(), &cx());
        found.expect("lookup").is_some()
    }

    /// `call` is done on the server, `meanwhile` happens, and then its reply comes. Time passes: an answer that
    /// may be ours is judged in the end.
    fn overtaken(&self, op: Op, call: impl FnOnce() + Send, meanwhile: impl FnOnce() + Send) {
        let gate = Gate::new();
        self.fs.inject(Fault::on(op).hold(&gate, SnapshotAt::Issue).times(1));
        std::thread::scope(|s| {
            let call = s.spawn(call);
            gate.wait_hit();
            let meanwhile = s.spawn(meanwhile);
            while !meanwhile.is_finished() {
                self.clock.advance(Duration::from_millis(100));
                std::thread::yield_now();
            }
            let done = meanwhile.join();
            gate.release();
            done.expect("no panic");
            call.join().expect("no panic");
        });
    }
}

#[test]
fn w10_attributes_that_a_late_reply_states_are_not_taken_for_the_newest() {
    let bed = bed();
    let node = bed.walk("d/a");
    let set = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
    bed.attr(&node);
    bed.overtaken(
        Op::SetAttr,
        || {
            let names = bed.bench.mount.blocking();
            names.set_attr(&node, set(0o600), &cx()).expect("set");
        },
        || {
            bed.fs.change("d/a").chmod(0o640).expect("theirs");
            assert_eq!(bed.attr(&node).mode, 0o640, "told of, so seen");
        },
    );
    assert_eq!(bed.attr(&node).mode, 0o640, "and seen from then on");
    drop(node);
    bed.bench.shutdown();
}

#[test]
fn w10_a_size_that_a_late_reply_states_is_not_taken_for_the_newest() {
    let bed = bed();
    let node = bed.walk("d/a");
    let file = bed.bench.mount.blocking().open_rw("d/a", &cx()).expect("open");
    let size = |bed: &Bed| bed.fs.size("d/a").expect("size");
    bed.overtaken(
        Op::SetSize,
        || file.blocking().set_len(2 * PAGE as u64).expect("cut"),
        || {
            bed.fs.change("d/a").append(100).expect("theirs");
            assert_eq!(bed.attr(&node).size, size(&bed), "told of, so seen");
        },
    );
    assert_eq!(bed.attr(&node).size, size(&bed), "and seen from then on");
    let mut buf = vec![0; 4 * PAGE];
    let n = file.blocking().read_at(0, &mut buf).expect("read");
    assert_eq!(n as u64, size(&bed));
    bed.fs.verify("d/a", 0, &buf[..n]).expect("content");
    drop((file, node));
    bed.bench.shutdown();
}

#[test]
fn w11_names_are_not_carried_over_to_a_version_that_a_late_reply_states() {
    let bed = bed();
    let dir = bed.walk("d");
    assert!(!bed.has(&dir, "late") && bed.has(&dir, "b"));
    bed.overtaken(
        Op::Create,
        || drop(bed.bench.mount.blocking().create(&dir, b"new", 0o600, &cx()).expect("create")),
        || {
            bed.fs.change("d/late").create(1).expect("theirs");
            bed.fs.change("d/b").remove().expect("theirs");
            // The directory is seen in its new version, these two names are not looked up.
            assert!(bed.has(&dir, "a"));
        },
    );
    assert!(bed.has(&dir, "late") && !bed.has(&dir, "b") && bed.has(&dir, "new"));
    drop(dir);
    bed.bench.shutdown();
}

/// Done or not, nobody knows: what is known of everything it was about is asked for again.
#[test]
fn w11_whatever_a_call_without_a_reply_may_have_changed_is_looked_at_again() {
    let bed = bed();
    let (dir, to, file) = (bed.walk("d"), bed.walk("e"), bed.walk("d/a"));
    let names = bed.bench.mount.blocking();
    let (dir_ref, to_ref, file_ref) = (&dir, &to, &file);
    let lost = |op, call: &dyn Fn() -> netfs::Result<()>| {
        for node in [dir_ref, to_ref, file_ref] {
            bed.attr(node);
        }
        bed.fs.inject(Fault::on(op).lost_reply().times(1));
        call().expect_err("no reply");
        let there = bed.bench.netfs().blocking_mount(bed.fs.client(), &cx()).expect("mount");
        drop(there);
        for (node, path) in [(dir_ref, "d"), (to_ref, "e"), (file_ref, "d/a")] {
            let known = bed.attr(node);
            let path = if op == Op::Rename && path == "d/a" { "e/moved" } else { path };
            let facts = pollster::block_on(netfs::remote::RemoteFile::validate(
                bed.fs.file(path).expect("there"),
                cx(),
            ));
            assert_eq!(Some(known), facts.expect("facts").attr, "{path} after {op:?}");
        }
    };
    lost(Op::Create, &|| names.mkdir(&dir, b"sub", 0o700, &cx()).map(drop));
    lost(Op::Link, &|| names.link(&file, &to, b"second", &cx()));
    lost(Op::Remove, &|| names.unlink(&to, b"second", &cx()));
    lost(Op::SetAttr, &|| {
        names.set_attr(&file, SetAttr { mode: Some(0o611), ..SetAttr::default() }, &cx())
    });
    lost(Op::Rename, &|| names.rename((&dir, b"a"), (&to, b"moved"), RenameHow::Replace, &cx()));
    assert!(bed.has(&dir, "sub") && !bed.has(&dir, "a"));
    assert!(bed.has(&to, "moved") && !bed.has(&to, "second"));
    drop((dir, to, file));
    bed.bench.shutdown();
}

fn partly(file: &File, fs: &MemoryFs) {
    let mut buf = vec![0; 2 * PAGE];
    assert_eq!(file.blocking().read_at(0, &mut buf).expect("read"), 2 * PAGE);
    fs.verify("f", 0, &buf).expect("the server's bytes");
}

/// A fill that was offered before an own change of its pages is stored by nobody, however late it comes; one of
/// other pages is (its claim).
#[test]
fn row_107_a_fill_of_pages_that_were_written_meanwhile_is_not_stored() {
    let fs = MemoryFs::builder().file("f", 4 * PAGE as u64).build().expect("build");
    let cache = MemCache::new();
    let bench = Bench::with(&fs, Some(cache.clone()), |b| b.fill(FillPolicy::Exact));
    let file = bench.mount.blocking().open_rw("f", &cx()).expect("open");
    cache.faults().hold(FaultPoint::Write);
    partly(&file, &fs);
    // Of the page that is written to only that is known: nothing of it is copied.
    bench.netfs().drop_memory();
    assert_eq!(file.blocking().write_at(100, b"ours").expect("write"), 4);
    file.blocking().fsync().expect("fsync");
    bench.netfs().drop_memory();
    cache.faults().release(FaultPoint::Write);
    bench.drain();
    partly(&file, &fs);
    assert_eq!(fs.expected("f", 100, 4).expect("f"), b"ours");
    assert_ne!(file.blocking().fsync().err().map(|e| e.errno()), Some(Errno::EIO));
    drop(file);
    bench.shutdown();
}
