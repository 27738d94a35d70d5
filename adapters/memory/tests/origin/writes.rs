//! Honest changes of data by clients: what is applied, what the reply says, who is told, who may.

use std::sync::Arc;

use futures_util::FutureExt;
use netfs::{
    Errno,
    coherency::VolumeEvents,
    remote::{Cx, IoLimits, OpenIntent, OpenToken, RemoteFile, RemoteFs, Stability, WriteSub},
};
use netfs_memory::{Event, Fault, Gate, Link, MemoryFs, Op, SnapshotAt};

use crate::common::*;

fn origin() -> Arc<MemoryFs> {
    MemoryFs::builder().file("d/a", 10_000).file("d/b", 10_000).build().unwrap()
}

fn open(fs: &Arc<MemoryFs>, path: &str, intent: OpenIntent, uid: u32) -> netfs::Result<OpenToken> {
    now(Arc::clone(fs).open(fs.file(path)?, intent, cx(uid))).map(|(token, _)| token)
}

#[test]
fn a_write_changes_its_bytes_and_says_from_which_version_to_which() {
    let fs = origin();
    let old = fs.snapshot("d/a").unwrap();
    let done = write(&fs, "d/a", 9_998, b"hello");
    assert_eq!(done.written, 5);
    assert_eq!(done.stability, Stability::Stable);
    let change = done.change.unwrap();
    assert_eq!(versions(&change), from_to(1, 2));
    assert_eq!(change.after.stated_size(), Some(10_003));
    assert_eq!(fs.expected("d/a", 9_998, 6).unwrap(), b"hello\0");
    old.content.verify(0, &fs.expected("d/a", 0, 9_998).unwrap()).unwrap();
    // The version before is kept for whoever holds its bytes.
    assert_eq!(fs.snapshot_of("d/a", 1).unwrap().unwrap(), old);
    assert_eq!((fs.counts().uploaded(), fs.counts().written()), (5, 5));
    assert_eq!((fs.counts().calls(Op::Write), fs.in_flight()), (1, 0));
    assert!(fs.take_breaches().is_empty());
    // The next call starts where this one ended.
    let size = now(fs.file("d/a").unwrap().set_size(4, cx(0))).unwrap();
    assert_eq!(versions(&size), from_to(2, 3));
    assert_eq!(fs.size("d/a").unwrap(), 4);
}

#[test]
fn sizes_and_holes() {
    let fs = origin();
    let file = || fs.file("d/a").unwrap();
    now(file().set_size(100, cx(0))).unwrap();
    now(file().set_size(200, cx(0))).unwrap();
    assert_eq!(fs.expected("d/a", 100, 100).unwrap(), [0; 100], "no byte comes back");
    let made = now(file().deallocate(0..50, cx(0))).unwrap();
    assert_eq!(made.after.stated_size(), Some(200));
    assert_eq!(fs.expected("d/a", 0, 50).unwrap(), [0; 50]);
    assert_ne!(fs.expected("d/a", 50, 50).unwrap(), [0; 50]);
    now(file().deallocate(150..900, cx(0))).unwrap();
    assert_eq!(fs.size("d/a").unwrap(), 200, "punching does not grow the file");
    now(file().allocate(100..300, true, cx(0))).unwrap();
    assert_eq!(fs.size("d/a").unwrap(), 200);
    let made = now(file().allocate(100..300, false, cx(0))).unwrap();
    assert_eq!(made.after.stated_size(), Some(300));
    assert_eq!(errno(now(file().allocate(5..5, false, cx(0)))), Some(Errno::EINVAL));
    assert_eq!(errno(now(file().deallocate(5..5, cx(0)))), Some(Errno::EINVAL));
}

/// The originator knows what it did; a server that cannot tell clients apart tells it too.
#[test]
fn all_clients_but_the_originator_are_told() {
    let fs = origin();
    let broken = Event::Break { key: fs.key("d/a").unwrap().into() };
    fs.attach(VolumeEvents::detached());
    let _ = write(&fs, "d/a", 0, b"x");
    assert_eq!(fs.take_events(), [], "nobody else is there");
    let other = fs.client();
    other.attach(VolumeEvents::detached());
    let _ = write(&fs, "d/a", 0, b"x");
    assert_eq!(fs.take_events(), std::slice::from_ref(&broken));
    drop(other);
    fs.configure(|s| s.break_originator = true);
    let _ = write(&fs, "d/a", 0, b"x");
    assert_eq!(fs.take_events(), [broken]);
}

#[test]
fn rights_to_write_are_those_of_the_open_or_of_the_mode_now() {
    let build = MemoryFs::builder().file("a", 10).mode("a", 0o664).owner("a", 7, 8);
    let fs = build.build().unwrap();
    assert!(open(&fs, "a", OpenIntent::ReadWrite, 7).is_ok());
    assert_eq!(errno(open(&fs, "a", OpenIntent::Write, 9)), Some(Errno::EACCES));
    assert_eq!(errno(open(&fs, "a", OpenIntent::ReadWrite, 9)), Some(Errno::EACCES));
    assert!(open(&fs, "a", OpenIntent::Read, 9).is_ok());
    assert_eq!(errno(open(&fs, "", OpenIntent::Write, 0)), Some(Errno::EISDIR));
    let token = open(&fs, "a", OpenIntent::Write, 7).unwrap();
    fs.change("a").chmod(0o400).unwrap();
    let as_owner = |cx: Cx| write_errno(&write_file(fs.file("a").unwrap(), 0, b"x", cx));
    assert_eq!(as_owner(cx(7)), Some(Errno::EACCES));
    assert_eq!(as_owner(cx(7).with_token(token)), None);
    assert_eq!(errno(now(fs.file("a").unwrap().set_size(1, cx(9)))), Some(Errno::EACCES));
    assert!(fs.take_breaches().is_empty());
    // A write on an open for reading is the core's mistake.
    let token = open(&fs, "a", OpenIntent::Read, 0).unwrap();
    assert_eq!(as_owner(cx(0).with_token(token)), None);
    assert_eq!(fs.take_breaches().len(), 1);
}

#[test]
fn a_write_by_another_takes_the_setuid_bit_away() {
    let build = MemoryFs::builder().file("a", 10).mode("a", 0o6777);
    let fs = build.build().unwrap();
    let mode = |uid| {
        let done = write_file(fs.file("a").unwrap(), 0, b"x", cx(uid));
        done.change.unwrap().after.attr.unwrap().mode
    };
    assert_eq!((mode(0), mode(5)), (0o6777, 0o777));
}

#[test]
fn what_cannot_be_written_fails_and_changes_nothing() {
    let fs = MemoryFs::builder().file("a", 10).symlink("l", "a").dir("d").build().unwrap();
    let gone = fs.file("a").unwrap();
    let fails = |path: &str| write_errno(&write(&fs, path, 0, b"x"));
    assert_eq!(fails("d"), Some(Errno::EISDIR));
    assert_eq!(fails("l"), Some(Errno::EINVAL));
    fs.configure(|s| s.limits = IoLimits { max_size: 12, ..IoLimits::default() });
    assert_eq!(write_errno(&write(&fs, "a", 10, b"xyz")), Some(Errno::EFBIG));
    assert_eq!(write_errno(&write(&fs, "a", u64::MAX - 1, b"x")), Some(Errno::EFBIG));
    assert_eq!(errno(now(fs.file("a").unwrap().set_size(13, cx(0)))), Some(Errno::EFBIG));
    let grown = now(fs.file("a").unwrap().allocate(0..13, false, cx(0)));
    assert_eq!(errno(grown), Some(Errno::EFBIG));
    fs.configure(|s| s.read_only = true);
    assert_eq!(fails("a"), Some(Errno::EROFS));
    assert_eq!(errno(now(fs.file("a").unwrap().set_size(1, cx(0)))), Some(Errno::EROFS));
    assert_eq!(errno(open(&fs, "a", OpenIntent::Write, 0)), Some(Errno::EROFS));
    assert_eq!(fs.snapshot("a").unwrap().version, 1);
    assert_eq!(fs.counts().written(), 0);
    fs.configure(|s| s.read_only = false);
    fs.change("a").remove().unwrap();
    let done = write_file(gone, 0, b"x", cx(0));
    assert_eq!((write_errno(&done), done.change), (Some(Errno::ESTALE), None));
}

/// What is stored already costs nothing to overwrite; new bytes fit up to the quota, from the front.
#[test]
fn a_full_server_takes_what_fits() {
    let fs = MemoryFs::builder().file("a", 100).bytes("b", "").build().unwrap();
    fs.configure(|s| s.quota_bytes = Some(110));
    let done = write(&fs, "b", 0, &[1; 30]);
    assert_eq!((write_errno(&done), done.written), (Some(Errno::ENOSPC), 10));
    assert_eq!(versions(&done.change.unwrap()), from_to(1, 2));
    assert_eq!((fs.size("b").unwrap(), fs.counts().written()), (10, 10));
    assert_eq!(write_errno(&write(&fs, "a", 0, &[2; 100])), None);
    fs.configure(|s| s.quota_errno = Errno::from_raw(libc::EDQUOT));
    let done = write(&fs, "b", 10, &[1; 1]);
    assert_eq!(write_errno(&done), Some(Errno::from_raw(libc::EDQUOT)));
    assert_eq!((done.written, done.change), (0, None));
    let more = now(fs.file("a").unwrap().allocate(90..111, true, cx(0)));
    assert_eq!(errno(more), Some(Errno::from_raw(libc::EDQUOT)));
    now(fs.file("a").unwrap().deallocate(0..1, cx(0))).unwrap();
    assert_eq!(write_errno(&write(&fs, "b", 10, &[1; 1])), None);
    assert_eq!(write_errno(&write(&fs, "b", 5, &[1; 9])), Some(Errno::from_raw(libc::EDQUOT)));
}

/// Breaches: longer than any limit stated, empty, over another one in flight, past the largest size.
#[test]
fn writes_against_the_contract_are_noticed() {
    let fs = origin();
    let file = fs.file("d/a").unwrap();
    let (sub, _done) = WriteSub::detached(0, b"x", cx(0));
    now(Arc::clone(&file).write(sub));
    assert_eq!(fs.take_breaches().len(), 1, "limits were never asked for");
    let limits = IoLimits { wsize: 4, max_size: 20_000, ..IoLimits::default() };
    fs.configure(|s| s.limits = limits);
    for (at, bytes) in [(0, &b"12345"[..]), (0, b""), (19_999, b"12")] {
        let _ = write(&fs, "d/a", at, bytes);
        assert_eq!(fs.take_breaches().len(), 1, "{bytes:?}");
    }
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold(&gate, SnapshotAt::Issue));
    let (sub, first) = WriteSub::detached(0, b"abc", cx(0));
    let mut call = file.write(sub);
    assert!((&mut call).now_or_never().is_none());
    let _ = write(&fs, "d/a", 3, b"d");
    let _ = write(&fs, "d/b", 0, b"d");
    assert!(fs.take_breaches().is_empty(), "side by side");
    let _ = write(&fs, "d/a", 2, b"d");
    assert_eq!(fs.take_breaches().len(), 1);
    gate.release();
    now(call);
    assert_eq!(first.wait().written, 3);
    let _ = write(&fs, "d/a", 0, b"d");
    assert!(fs.take_breaches().is_empty(), "the first one has ended");
}

#[test]
fn a_restart_loses_what_was_not_committed() {
    let fs = origin();
    fs.configure(|s| s.unstable = true);
    let old = fs.snapshot("d/a").unwrap();
    let first = write(&fs, "d/a", 100, &[1; 100]);
    let Stability::Unstable(verifier) = first.stability else { panic!("it was stable") };
    let file = || fs.file("d/a").unwrap();
    assert_eq!(fs.expected("d/a", 100, 100).unwrap(), [1; 100], "visible at once");
    // In the middle of it: one part committed, one written stably, one punched out.
    let (committed, change) = now(file().commit(100..120, cx(0))).unwrap();
    assert_eq!((committed, versions(&change.unwrap())), (verifier.clone(), from_to(2, 2)));
    let _ = file().limits();
    let (sub, done) = WriteSub::detached(140, &[3; 10], cx(0));
    now(file().write(sub.stable(true)));
    assert_eq!(done.wait().stability, Stability::Stable);
    now(file().deallocate(160..170, cx(0))).unwrap();
    let _ = write(&fs, "d/a", 10_000, &[4; 50]);
    assert!(fs.has_uncommitted());
    let version = fs.snapshot("d/a").unwrap().version;
    assert_eq!(fs.restart_server().len(), 0, "nobody has attached");
    assert_eq!(fs.take_events(), [Event::BreakAll]);
    let new = fs.snapshot("d/a").unwrap();
    assert_eq!((new.version, new.content.size()), (version + 1, 10_000));
    let mut want = old.content.read(0, 10_000);
    want[100..120].fill(1);
    want[140..150].fill(3);
    want[160..170].fill(0);
    assert!(new.content.read(0, 10_000) == want);
    assert_ne!(now(file().commit(0..u64::MAX, cx(0))).unwrap().0, verifier);
}

#[test]
fn what_was_committed_survives_and_a_restart_without_loss_changes_nothing() {
    let fs = origin();
    fs.configure(|s| s.unstable = true);
    let _ = write(&fs, "d/a", 100, &[1; 100]);
    now(fs.file("d/a").unwrap().commit(0..u64::MAX, cx(0))).unwrap();
    assert!(!fs.has_uncommitted());
    let before = fs.snapshot("d/a").unwrap();
    fs.restart_server();
    assert_eq!(fs.snapshot("d/a").unwrap(), before);
    // What a third party wrote over it is not ours to lose, nor what was cut off.
    let _ = write(&fs, "d/a", 0, &[1; 100]);
    fs.change("d/a").rewrite_sized(500).unwrap();
    assert!(!fs.has_uncommitted());
    let _ = write(&fs, "d/a", 400, &[1; 100]);
    now(fs.file("d/a").unwrap().set_size(400, cx(0))).unwrap();
    assert!(!fs.has_uncommitted());
}

/// By default a slow write is in force when it arrives; its acknowledgement takes the time.
#[test]
fn a_slow_write_is_in_force_at_once_unless_told_otherwise() {
    for (at, version) in [(SnapshotAt::Issue, 2), (SnapshotAt::Release, 1)] {
        let clock = netfs::clock::StepClock::new();
        let link = Link::latency(std::time::Duration::from_millis(10)).with_bytes_per_second(1000);
        let build = MemoryFs::builder().file("a", 100).clock(clock.clone()).link(link);
        let fs = build.configure(|s| (s.snapshot_at, s.chunk) = (at, 10)).build().unwrap();
        let (sub, done) = WriteSub::detached(0, &[1; 20], cx(0));
        let mut call = fs.file("a").unwrap().write(sub);
        assert!((&mut call).now_or_never().is_none());
        assert_eq!(fs.snapshot("a").unwrap().version, version);
        for _ in 0..3 {
            assert!((&mut call).now_or_never().is_none());
            clock.advance(std::time::Duration::from_millis(10));
        }
        now(call);
        assert_eq!((done.wait().written, fs.snapshot("a").unwrap().version), (20, 2));
    }
}

/// A dropped future is a lost connection: the server has done its part, the core knows a part of it.
#[test]
fn a_dropped_call_has_acknowledged_what_came_in_time() {
    let clock = netfs::clock::StepClock::new();
    let link = Link::default().with_bytes_per_second(1000);
    let build = MemoryFs::builder().file("a", 100).clock(clock.clone()).link(link);
    let fs = build.configure(|s| s.chunk = 10).build().unwrap();
    let (sub, done) = WriteSub::detached(0, &[1; 20], cx(0));
    let mut call = fs.file("a").unwrap().write(sub);
    assert!((&mut call).now_or_never().is_none());
    clock.advance(std::time::Duration::from_millis(10));
    assert!((&mut call).now_or_never().is_none());
    drop(call);
    let done = done.wait();
    assert_eq!((write_errno(&done), done.written), (Some(Errno::ECANCELED), 10));
    assert_eq!((fs.expected("a", 0, 20).unwrap(), fs.in_flight()), (vec![1; 20], 0));
}

#[test]
fn a_promise_is_given_back() {
    let fs = origin();
    now(fs.file("d/a").unwrap().release_promise(cx(1))).unwrap();
    assert_eq!(fs.counts().calls(Op::ReleasePromise), 1);
}
