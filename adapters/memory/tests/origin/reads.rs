//! Honest reads: every byte of a reply is of one version, the one its facts state.

use crate::common::*;
use futures_util::FutureExt;
use netfs::{
    Errno,
    remote::{Cred, Cx, IoLimits, Outcome, Promise, ReadSub, RemoteFile, Version},
};
use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt, VersionKind, content};

#[test]
fn a_read_returns_the_pattern_and_its_facts() {
    let fs = MemoryFs::builder().file("d/a", 10_000).build().unwrap();
    let (finished, bytes) = read(&fs, "d/a", 123, 5000);
    assert_outcome(&finished.outcome, "Done");
    assert_eq!(bytes.len(), 5000);
    fs.verify("d/a", 123, &bytes).unwrap();
    assert!(fs.verify("d/a", 124, &bytes).is_err());
    assert_eq!(finished.facts.version, Some(Version::from_u64(1)));
    assert_eq!(finished.facts.stated_size(), Some(10_000));
    assert!(matches!(finished.facts.promise, Promise::UntilBroken { .. }));
}

#[test]
fn a_read_past_the_end_says_so() {
    let fs = MemoryFs::builder().file("a", 10).build().unwrap();
    let (finished, bytes) = read(&fs, "a", 4, 100);
    assert_outcome(&finished.outcome, "Eof");
    assert_eq!(bytes, fs.expected("a", 4, 6).unwrap());
    let (finished, bytes) = read(&fs, "a", 10, 5);
    assert_outcome(&finished.outcome, "Eof");
    assert!(bytes.is_empty());
}

#[test]
fn holes_are_reported_and_not_sent() {
    let fs = MemoryFs::builder().sparse("a", 1 << 20, std::iter::once(4096..8192)).build().unwrap();
    let (finished, bytes) = read(&fs, "a", 0, 16384);
    assert_outcome(&finished.outcome, "Done");
    assert_eq!(bytes, fs.expected("a", 0, 16384).unwrap());
    assert_eq!((fs.counts().bytes(), fs.counts().hole_bytes()), (4096, 12288));
    fs.configure_file("a", |f| f.report_holes = Some(false)).unwrap();
    let (_, again) = read(&fs, "a", 0, 16384);
    assert_eq!(again, bytes);
    assert_eq!(fs.counts().bytes(), 4096 + 16384);
}

#[test]
fn literal_bytes_and_links_are_read_as_they_are() {
    let fs = MemoryFs::builder().bytes("a", "hello").symlink("l", "target/x").build().unwrap();
    assert_eq!(read(&fs, "a", 1, 4).1, b"ello");
    assert_eq!(read(&fs, "l", 0, 8).1, b"target/x");
    assert_eq!(failed_with(&read(&fs, "", 0, 8).0.outcome), Some(Errno::EISDIR));
}

#[test]
fn rights_are_judged_for_each_credential() {
    let build = MemoryFs::builder().file("a", 10).mode("a", 0o640).owner("a", 7, 8);
    let fs = build.build().unwrap();
    let as_user = |uid, gid| {
        let cx = Cx::new(Cred::new(uid, gid));
        failed_with(&read_file(fs.file("a").unwrap(), 0, 10, cx).0.outcome)
    };
    assert_eq!(as_user(7, 1), None);
    assert_eq!(as_user(9, 8), None);
    assert_eq!(as_user(9, 9), Some(Errno::EACCES));
    assert_eq!(as_user(0, 0), None);
    fs.configure(|s| s.check_access = false);
    assert_eq!(as_user(9, 9), None);
}

#[test]
fn versions_come_in_three_kinds() {
    let fs = MemoryFs::builder().file("a", 10).build().unwrap();
    fs.configure(|s| s.versions = VersionKind::Etag);
    let first = validate(&fs, "a").unwrap().version.unwrap();
    assert_eq!(validate(&fs, "a").unwrap().version.unwrap(), first);
    assert!(first.as_bytes().starts_with(b"\""));
    fs.change("a").rewrite().unwrap();
    assert_ne!(validate(&fs, "a").unwrap().version.unwrap(), first);
    fs.configure_file("a", |f| f.versions = Some(VersionKind::None)).unwrap();
    assert_eq!(validate(&fs, "a").unwrap().version, None);
    assert_eq!(read(&fs, "a", 0, 10).0.facts.version, None);
}

#[test]
fn read_replies_may_state_version_and_size_alone() {
    let fs =
        MemoryFs::builder().file("a", 10).configure(|s| s.attr_in_reads = false).build().unwrap();
    let facts = read(&fs, "a", 0, 10).0.facts;
    assert_eq!((facts.attr, facts.size), (None, Some(10)));
    assert!(facts.version.is_some());
    assert!(validate(&fs, "a").unwrap().attr.is_some());
}

#[test]
fn a_reply_held_in_the_middle_stays_of_one_version() {
    let fs = MemoryFs::builder().file("a", 8192).build().unwrap();
    let old = fs.snapshot("a").unwrap();
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).hold_after(4096, &gate));
    let (sub, done) = ReadSub::detached(0, 8192, cx(1));
    let mut call = fs.file("a").unwrap().read(sub);
    assert!((&mut call).now_or_never().is_none());
    assert_eq!((gate.waiting(), fs.counts().bytes()), (1, 4096));
    fs.change("a").rewrite().unwrap();
    gate.release();
    now(call);
    let (finished, bytes) = done.wait();
    assert_eq!(finished.facts.version, Some(Version::from_u64(old.version)));
    assert_eq!(old.content.verify(0, &bytes), Ok(()));
}

/// Late replies carry what was true when the call arrived, or when it left: as told.
#[test]
fn a_held_reply_is_of_the_chosen_moment() {
    for (at, version) in [(SnapshotAt::Issue, 1), (SnapshotAt::Release, 2)] {
        let fs = MemoryFs::builder().file("a", 4096).build().unwrap();
        let gate = Gate::new();
        fs.inject(Fault::on(Op::Read).hold(&gate, at));
        let (sub, done) = ReadSub::detached(0, 4096, cx(1));
        let mut call = fs.file("a").unwrap().read(sub);
        assert!((&mut call).now_or_never().is_none());
        assert_eq!(fs.in_flight(), 1);
        fs.change("a").rewrite().unwrap();
        gate.release();
        now(call);
        let (finished, bytes) = done.wait();
        assert_eq!(finished.facts.version, Some(Version::from_u64(version)));
        let then = fs.snapshot_of("a", version).unwrap().unwrap();
        assert_eq!(then.content.verify(0, &bytes), Ok(()));
        assert_eq!(fs.in_flight(), 0);
    }
}

#[test]
fn limits_are_per_origin_per_file_and_renegotiable() {
    let limits = |rsize| IoLimits { rsize, ..IoLimits::default() };
    let build = MemoryFs::builder().file("a", 10).file("b", 10);
    let fs = build.configure(|s| s.limits = limits(4096)).build().unwrap();
    let (a, b) = (fs.file("a").unwrap(), fs.file("b").unwrap());
    fs.configure_file("b", |f| f.limits = Some(limits(512))).unwrap();
    assert_eq!((a.limits().rsize, b.limits().rsize), (4096, 512));
    fs.configure(|s| s.limits_hook = Some(std::sync::Arc::new(move |_, n| limits(1000 >> n))));
    assert_eq!((a.limits().rsize, a.limits().rsize), (500, 250));
    assert_eq!(b.limits().rsize, 512);
}

#[test]
fn the_expand_hook_sees_the_path() {
    let fs = MemoryFs::builder().file("a", 10).file("b", 10).build().unwrap();
    fs.configure(|s| {
        s.expand = Some(std::sync::Arc::new(|path, w| {
            if path == b"a" {
                *w = 0..w.end * 2;
            }
        }));
    });
    let expanded = |path| {
        let mut window = 5..10;
        fs.file(path).unwrap().expand(&mut window);
        window
    };
    assert_eq!((expanded("a"), expanded("b")), (0..20, 5..10));
}

#[test]
fn breaches_of_the_contract_are_noted() {
    let fs = MemoryFs::builder().file("a", 100_000).build().unwrap();
    fs.configure(|s| s.limits = IoLimits { rsize: 4096, ..IoLimits::default() });
    let _ = read(&fs, "a", 0, 4096);
    assert_eq!(fs.take_breaches(), [""; 0]);
    let _ = read(&fs, "a", 0, 4097);
    assert!(fs.take_breaches()[0].contains("rsize 4096"));
    let _ = read(&fs, "a", 0, 0);
    assert!(fs.take_breaches()[0].contains("zero-length"));
    fs.change("b").create(10).unwrap();
    let (sub, done) = ReadSub::detached(0, 10, cx(1));
    now(fs.file("b").unwrap().read(sub));
    assert!(matches!(done.wait().0.outcome, Outcome::Done));
    assert!(fs.take_breaches()[0].contains("without asking"));
}

#[test]
fn content_is_the_same_for_equal_seeds_only() {
    let content = |seed| {
        let fs = MemoryFs::builder().seed(seed).file("a", 64).build().unwrap();
        (fs.key("a").unwrap(), fs.expected("a", 0, 64).unwrap())
    };
    assert_eq!(content(1), content(1));
    assert_ne!(content(1).0, content(2).0);
    assert_ne!(content(1).1, content(2).1);
    assert_eq!(content::Content::pattern(1, 1, 64), content::Content::pattern(1, 1, 64));
}

#[test]
fn a_reply_in_pieces_is_the_same_reply() {
    let build = MemoryFs::builder().sparse("a", 50_000, [0..10_001, 20_000..30_000]);
    let fs = build.configure(|s| s.chunk = 777).build().unwrap();
    let (finished, bytes) = read(&fs, "a", 5, 60_000);
    assert_outcome(&finished.outcome, "Eof");
    assert_eq!(bytes, fs.expected("a", 5, 49_995).unwrap());
    fs.configure(|s| s.chunk = 0);
    assert_eq!(read(&fs, "a", 5, 10).1, bytes[..10], "a chunk of nothing is not an endless loop");
}
