//! Every fault of a change does what it says.

use std::sync::Arc;

use futures_util::FutureExt;
use netfs::{
    Errno,
    coherency::VolumeEvents,
    remote::{NewFile, RemoteFile, RemoteFs, Version, WriteFinished, WriteSub},
};
use netfs_memory::{
    Conflict, Effect, Event, Fault, Gate, Lie, MemoryFs, Op, OverLong, SnapshotAt, content,
};

use crate::common::*;

const LEN: u64 = 4096;

fn origin() -> Arc<MemoryFs> {
    MemoryFs::builder().file("a", 10_000).file("b", 10_000).build().unwrap()
}

fn write_it(fs: &MemoryFs) -> WriteFinished {
    write(fs, "a", 1000, &[7; LEN as usize])
}

/// How many of the bytes are in force.
fn applied(fs: &MemoryFs) -> u64 {
    let bytes = fs.expected("a", 1000, LEN as usize).unwrap();
    let n = bytes.iter().take_while(|b| **b == 7).count() as u64;
    let old = fs.snapshot_of("a", 1).unwrap().unwrap();
    old.content.verify(1000 + n, &bytes[n as usize..]).unwrap();
    n
}

#[test]
fn each_shape_of_a_bad_write() {
    let on = || Fault::on(Op::Write);
    // Outcome, bytes applied, bytes acknowledged, whether there is a reply.
    let cases = [
        (on().short(100), "Done", 100, 100, true),
        (on().short(LEN + 1), "Done", LEN, LEN, true),
        (on().zero_progress(), "Done", 0, 0, true),
        (on().retry(300), "Retry", 300, 300, true),
        (on().retry(0), "Retry", 0, 0, false),
        (on().drop_sub(500), "Failed(Error(ECANCELED", 500, 500, true),
        (on().drop_sub(0), "Failed(Error(ECANCELED", 0, 0, false),
        (on().fail_after(600, Errno::EIO), "Failed(Error(EIO", 600, 600, true),
        (on().fail_after(0, Errno::ENOSPC), "Failed(Error(ENOSPC", 0, 0, false),
        (on().errno(Errno::EIO), "Failed(Error(EIO", 0, 0, false),
        (on().lost_reply(), "Failed(Error(ETIMEDOUT", LEN, 0, false),
        (on().over_long(OverLong::Advance(9)), "Done", LEN, LEN, true),
    ];
    for (fault, outcome, done, acknowledged, says) in cases {
        let fs = origin();
        let injected = fs.inject(fault.clone());
        let finished = write_it(&fs);
        let found = format!("{:?}", finished.outcome);
        assert!(found.starts_with(outcome), "{fault:?}: {found}");
        assert_eq!((applied(&fs), finished.written), (done, acknowledged), "{fault:?}");
        let version = 1 + u64::from(done > 0);
        assert_eq!(fs.snapshot("a").unwrap().version, version, "{fault:?}");
        let change = finished.change.as_ref().map(versions);
        assert_eq!(change, says.then(|| from_to(1, version)), "{fault:?}");
        assert_eq!((injected.hits(), fs.in_flight()), (1, 0));
        assert_eq!((fs.counts().uploaded(), fs.counts().written()), (LEN, done));
        // One-shot: the next write is whole.
        let finished = write_it(&fs);
        assert_eq!((finished.written, applied(&fs)), (LEN, LEN));
        assert!(fs.take_breaches().is_empty());
    }
}

/// Before or after it is made, by when the server acts; with a lost reply the client learns nothing.
#[test]
fn a_held_write_is_made_before_or_after() {
    for (at, lost) in [
        (SnapshotAt::Issue, false),
        (SnapshotAt::Release, false),
        (SnapshotAt::Issue, true),
        (SnapshotAt::Release, true),
    ] {
        let fs = origin();
        let gate = Gate::new();
        let fault = Fault::on(Op::Write).hold(&gate, at);
        fs.inject(if lost { fault.lost_reply() } else { fault });
        let (sub, done) = WriteSub::detached(1000, &[7; LEN as usize], cx(0));
        let mut call = fs.file("a").unwrap().write(sub);
        assert!((&mut call).now_or_never().is_none());
        let in_force = if at == SnapshotAt::Issue { LEN } else { 0 };
        assert_eq!(applied(&fs), in_force, "{at:?}");
        gate.release();
        now(call);
        let done = done.wait();
        assert_eq!(applied(&fs), LEN);
        assert_eq!(
            (done.written, done.change.is_some()),
            if lost { (0, false) } else { (LEN, true) }
        );
    }
}

#[test]
fn a_write_held_in_the_middle_has_acknowledged_so_much() {
    let fs = origin();
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Write).hold_after(100, &gate));
    let (sub, done) = WriteSub::detached(1000, &[7; LEN as usize], cx(0));
    let mut call = fs.file("a").unwrap().write(sub);
    assert!((&mut call).now_or_never().is_none());
    drop(call);
    let done = done.wait();
    assert_eq!((done.written, applied(&fs), fs.in_flight()), (100, LEN, 0));
}

/// A third party in between: the reply's version before (or the next call's) shows it.
#[test]
fn conflicts_show_in_the_chain_of_versions() {
    let fs = origin();
    fs.attach(VolumeEvents::detached());
    let broken = Event::Break { key: fs.key("a").unwrap().into() };
    fs.inject(Fault::on(Op::Write).conflict_before(0..2000));
    let done = write_it(&fs);
    assert_eq!(versions(done.change.as_ref().unwrap()), from_to(2, 3));
    let seed = u64::from_be_bytes(fs.key("a").unwrap()[..8].try_into().unwrap());
    content::verify(seed, 2, 0, &fs.expected("a", 0, 1000).unwrap()).unwrap();
    assert_eq!(
        fs.expected("a", 1000, LEN as usize).unwrap(),
        [7; LEN as usize],
        "the write is last"
    );
    assert_eq!(fs.take_events(), std::slice::from_ref(&broken), "the writer is told of the other");

    fs.inject(Fault::on(Op::Write).conflict_after(0..2000));
    let done = write_it(&fs);
    assert_eq!(versions(done.change.as_ref().unwrap()), from_to(3, 4));
    assert_eq!(fs.snapshot("a").unwrap().version, 5);
    content::verify(seed, 5, 0, &fs.expected("a", 0, 2000).unwrap()).unwrap();
    assert_eq!(fs.take_events(), [broken]);

    let silent = Conflict { range: 0..1, after: true, tell: false };
    fs.inject(Fault::on(Op::SetSize).effect(Effect::Conflict(silent)));
    now(fs.file("a").unwrap().set_size(9000, cx(0))).unwrap();
    assert_eq!((fs.snapshot("a").unwrap().version, fs.take_events()), (7, vec![]));
}

#[test]
fn a_version_may_move_although_nothing_changes() {
    let fs = origin();
    fs.inject(Fault::on(Op::Write).bump());
    let done = write_it(&fs);
    assert_eq!(versions(&done.change.unwrap()), from_to(1, 2));
    let done = write_it(&fs);
    assert_eq!(versions(&done.change.unwrap()), from_to(3, 4));
}

#[test]
fn replies_to_changes_may_lie() {
    let fs = origin();
    let nine = || Version::from_u64(9);
    fs.inject(Fault::on(Op::Write).lie(Lie::Version(nine())).before(Some(nine())));
    assert_eq!(versions(&write_it(&fs).change.unwrap()), from_to(9, 9));
    fs.inject(Fault::on(Op::Write).lie(Lie::NoVersion).before(None));
    assert_eq!(versions(&write_it(&fs).change.unwrap()), (None, None));
    fs.configure(|s| s.states_before = false);
    assert_eq!(versions(&write_it(&fs).change.unwrap()).0, None);
    fs.inject(Fault::on(Op::SetSize).lie(Lie::Size(5)));
    let change = now(fs.file("a").unwrap().set_size(77, cx(0))).unwrap();
    assert_eq!((change.after.stated_size(), fs.size("a").unwrap()), (Some(5), 77));
    fs.inject(Fault::on(Op::Commit).lie(Lie::Nothing));
    let (_, change) = now(fs.file("a").unwrap().commit(0..9, cx(0))).unwrap();
    assert_eq!(change.unwrap().after, netfs::remote::Facts::default());
}

/// `Errno`: nothing was done. `LostReply`: all was done.
#[test]
fn every_change_can_fail_and_can_lose_its_reply() {
    type Call = fn(&Arc<MemoryFs>) -> Option<Errno>;
    let calls: [(Op, Call); 9] = [
        (Op::SetSize, |fs| errno(now(fs.file("a").unwrap().set_size(1, cx(0))))),
        (Op::Allocate, |fs| errno(now(fs.file("a").unwrap().allocate(0..20_000, false, cx(0))))),
        (Op::Deallocate, |fs| errno(now(fs.file("a").unwrap().deallocate(0..10, cx(0))))),
        (Op::SetAttr, |fs| {
            let set = netfs::remote::SetAttr { mode: Some(0o600), ..Default::default() };
            errno(now(Arc::clone(fs).set_attr(fs.file("a").unwrap(), set, cx(0))))
        }),
        (Op::Create, |fs| {
            let made = Arc::clone(fs).create(root(fs).file, "n".into(), NewFile::Dir(0o755), cx(0));
            errno(now(made))
        }),
        (Op::Link, |fs| {
            let (file, dir) = (fs.file("a").unwrap(), root(fs).file);
            errno(now(Arc::clone(fs).link(file, dir, "n".into(), cx(0))))
        }),
        (Op::Remove, |fs| {
            errno(now(Arc::clone(fs).remove(root(fs).file, "b".into(), false, cx(0))))
        }),
        (Op::Rename, |fs| {
            let (from, to) = ((root(fs).file, "b".into()), (root(fs).file, "n".into()));
            errno(now(Arc::clone(fs).rename(from, to, Default::default(), cx(0))))
        }),
        (Op::Commit, |fs| errno(now(fs.file("a").unwrap().commit(0..u64::MAX, cx(0))))),
    ];
    for (op, call) in calls {
        let fs = origin();
        let world = |fs: &Arc<MemoryFs>| {
            let dir = fs.snapshot("").unwrap();
            let facts = now(fs.file("a").unwrap().validate(cx(0))).unwrap();
            (dir, fs.snapshot("a").unwrap(), facts, fs.has_uncommitted())
        };
        fs.configure(|s| s.unstable = true);
        let _ = write_it(&fs);
        let before = world(&fs);
        fs.inject(Fault::on(op).errno(Errno::EIO));
        assert_eq!(call(&fs), Some(Errno::EIO), "{op:?}");
        assert!(world(&fs) == before, "{op:?} failed and did something");
        fs.inject(Fault::on(op).lost_reply());
        assert_eq!(call(&fs), Some(Errno::ETIMEDOUT), "{op:?}");
        assert!(world(&fs) != before, "{op:?} did nothing");
        assert_eq!(fs.counts().calls(op), 2);
    }
}

/// `DoneBut`: all was done, and a restart of the server would keep what is not to be committed.
#[test]
fn a_call_may_fail_and_be_done() {
    let fs = origin();
    fs.inject(Fault::on(Op::SetSize).done_but(Errno::EIO));
    let failed = now(fs.file("a").unwrap().set_size(3, cx(0))).unwrap_err();
    assert_eq!((failed.errno(), fs.size("a").unwrap()), (Errno::EIO, 3));
    assert_eq!(fs.durable("a").unwrap().size(), 3);
    assert_eq!(fs.kind("a").unwrap(), netfs::remote::FileKind::File);
}

/// Effects that do not fit a call leave it alone, by chance as well.
#[test]
fn faults_hit_only_what_they_fit() {
    let fs = origin();
    let never = [
        Fault::any().eof(1),
        Fault::any().clear_tail(1),
        Fault::any().over_long(OverLong::Write(1)),
        Fault::any().over_long(OverLong::Hole(1)),
    ];
    let faults: Vec<_> = never.into_iter().map(|f| fs.inject(f)).collect();
    let unchanging =
        [Fault::any().lost_reply(), Fault::any().bump(), Fault::any().conflict_after(0..9)];
    assert_eq!(write_it(&fs).written, LEN);
    assert!(faults.iter().all(|f| f.hits() == 0));
    fs.clear_faults();
    let faults: Vec<_> = unchanging.into_iter().map(|f| fs.inject(f)).collect();
    assert!(validate(&fs, "a").is_ok());
    assert!(faults.iter().all(|f| f.hits() == 0));
    fs.clear_faults();
    fs.inject(Fault::random(1, 1.0, vec![Effect::Eof(1), Effect::LostReply]).or(Op::Write));
    assert_eq!(write_errno(&write_it(&fs)), Some(Errno::ETIMEDOUT));
    fs.clear_faults();
    fs.inject(Fault::on(Op::Write).range(0..1000).errno(Errno::EIO));
    assert_eq!(write_it(&fs).written, LEN, "the write starts where the range ends");
}
