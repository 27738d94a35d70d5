//! Every fault does what it says, to the calls it names, as often as it says.

use std::sync::Arc;

use crate::common::*;
use bytes::Bytes;
use futures_util::FutureExt;
use netfs::{
    Errno,
    remote::{
        AccessMask, NewFile, Promise, ReadSub, RemoteFile, RemoteFs, RenameHow, SetAttr, Version,
    },
};
use netfs_memory::{Effect, Fault, FaultPlan, Gate, Lie, MemoryFs, Op, OverLong, SnapshotAt};

fn origin() -> Arc<MemoryFs> {
    MemoryFs::builder().file("a", 10_000).file("b", 10_000).build().unwrap()
}

#[test]
fn each_shape_of_a_bad_read() {
    let cases = [
        (Fault::on(Op::Read).short(100), "Done", 100),
        (Fault::on(Op::Read).zero_progress(), "Done", 0),
        (Fault::on(Op::Read).eof(200), "Eof", 200),
        (Fault::on(Op::Read).retry(300), "Retry", 300),
        (Fault::on(Op::Read).clear_tail(400), "ClearTail", 400),
        (Fault::on(Op::Read).drop_sub(500), "Failed(Error(ECANCELED", 500),
        (Fault::on(Op::Read).fail_after(600, Errno::EIO), "Failed(Error(EIO", 600),
        (Fault::on(Op::Read).errno(Errno::ETIMEDOUT), "Failed(Error(ETIMEDOUT", 0),
        (Fault::on(Op::Read).over_long(OverLong::Advance(1)), "Failed(Error(EIO", 0),
        (Fault::on(Op::Read).over_long(OverLong::Write(1)), "Failed(Error(EIO", 0),
        (Fault::on(Op::Read).over_long(OverLong::Hole(1)), "Failed(Error(EIO", 0),
    ];
    for (fault, outcome, transferred) in cases {
        let fs = origin();
        let injected = fs.inject(fault.clone());
        let (finished, bytes) = read(&fs, "a", 1000, 4096);
        assert_outcome(&finished.outcome, outcome);
        assert_eq!(finished.transferred, transferred, "{fault:?}");
        fs.verify("a", 1000, &bytes).unwrap();
        assert_eq!(injected.hits(), 1);
        // One-shot: the next read is whole.
        let (finished, bytes) = read(&fs, "a", 1000, 4096);
        assert_outcome(&finished.outcome, "Done");
        assert_eq!((bytes.len(), injected.hits()), (4096, 1));
        assert_eq!(fs.in_flight(), 0);
    }
}

#[test]
fn over_long_replies_at_the_end_of_the_file_are_over_long_too() {
    let fs = origin();
    fs.inject(Fault::on(Op::Read).over_long(OverLong::Write(1)));
    let (finished, _) = read(&fs, "a", 9000, 4096);
    assert_eq!(failed_with(&finished.outcome), Some(Errno::EIO));
}

#[test]
fn faults_hit_only_what_they_name() {
    let fs = origin();
    fs.inject(Fault::on(Op::Read).file("/b").range(4096..8192).uid(5).always().errno(Errno::EIO));
    let fails = |path, offset, len, uid| {
        let (finished, _) = read_file(fs.file(path).unwrap(), offset, len, cx(uid));
        failed_with(&finished.outcome).is_some()
    };
    assert!(fails("b", 4096, 4096, 5));
    assert!(fails("b", 0, 4097, 5));
    assert!(fails("b", 8191, 1, 5), "persistent");
    assert!(!fails("a", 4096, 4096, 5), "another file");
    assert!(!fails("b", 0, 4096, 5), "before the range");
    assert!(!fails("b", 8192, 100, 5), "after the range");
    assert!(!fails("b", 4096, 4096, 6), "another user");
    assert!(validate(&fs, "b").is_ok(), "another operation");
}

#[test]
fn faults_in_order_are_a_script() {
    let plan = FaultPlan::new()
        .with(Fault::on(Op::Read).nth(2).errno(Errno::EIO))
        .with(Fault::on(Op::Read).times(2).short(1))
        .with(Fault::on(Op::Read).skip(1).errno(Errno::EINTR));
    let fs = origin();
    fs.set_faults(plan);
    let script: Vec<_> = (0..6)
        .map(|_| {
            let (finished, _) = read(&fs, "a", 0, 10);
            (finished.transferred, failed_with(&finished.outcome))
        })
        .collect();
    let expected = [
        (1, None),               // the first lets one pass, so the second is tried
        (0, Some(Errno::EIO)),   // then it hits
        (1, None),               // the second's other time
        (10, None),              // the third lets one pass
        (0, Some(Errno::EINTR)), // then it hits
        (10, None),
    ];
    assert_eq!(script, expected);
}

#[test]
fn a_removed_fault_hits_no_more() {
    let fs = origin();
    let fault = fs.inject(Fault::any().always().errno(Errno::EIO));
    assert_eq!(errno(validate(&fs, "a")), Some(Errno::EIO));
    fs.remove_fault(&fault);
    assert!(validate(&fs, "a").is_ok());
    assert_eq!(fault.hits(), 1);
}

/// A change of names that works each time.
fn change_name(fs: &Arc<MemoryFs>, op: Op) -> Option<Errno> {
    let (dir, name) = (fs.file("d").unwrap(), Bytes::from("n"));
    let fs2 = Arc::clone(fs);
    // What the last time left.
    let _ = fs.change("d/n").remove();
    if matches!(op, Op::Remove | Op::Rename) {
        fs.change("d/n").create(1).unwrap();
    }
    match op {
        Op::Create => errno(now(fs2.create(dir, name, NewFile::Dir(0o700), cx(0)))),
        Op::Link => errno(now(fs2.link(fs.file("d/a").unwrap(), dir, name, cx(0)))),
        Op::Remove => errno(now(fs2.remove(dir, name, false, cx(0)))),
        Op::Rename => {
            let to = (Arc::clone(&dir), Bytes::from("m"));
            errno(now(fs2.rename((dir, name), to, RenameHow::Replace, cx(0))))
        }
        other => unreachable!("a new operation {other:?} needs a line here"),
    }
}

#[test]
fn every_operation_can_fail() {
    let fs = MemoryFs::builder().file("d/a", 10).symlink("l", "x").build().unwrap();
    const FILE: &str = "d/a";
    let call = |op| {
        let fs2 = Arc::clone(&fs);
        let file = |path| fs.file(path).unwrap();
        match op {
            Op::Root => errno(now(fs2.root(cx(1)))),
            Op::Lookup => errno(now(fs2.lookup(file("d"), "a".into(), cx(1)))),
            Op::Readdir => errno(now(fs2.readdir(file("d"), 0, true, cx(1)))),
            Op::Getattr => errno(now(fs2.getattr(file(FILE), cx(1)))),
            Op::Readlink => errno(now(fs2.readlink(file("l"), cx(1)))),
            Op::Access => errno(now(fs2.access(file("d"), AccessMask::READ, cx(1)))),
            Op::Open => {
                let intent = netfs::remote::OpenIntent::Read;
                errno(now(fs2.open(file(FILE), intent, cx(1))))
            }
            Op::Statfs => errno(now(fs2.statfs(cx(1)))),
            Op::Read => failed_with(&read(&fs, FILE, 0, 10).0.outcome),
            Op::Validate => errno(validate(&fs, FILE)),
            Op::Write => write_errno(&write(&fs, FILE, 0, b"x")),
            Op::Commit => errno(now(file(FILE).commit(0..1, cx(0)))),
            Op::SetSize => errno(now(file(FILE).set_size(5, cx(0)))),
            Op::Allocate => errno(now(file(FILE).allocate(0..5, true, cx(0)))),
            Op::Deallocate => errno(now(file(FILE).deallocate(0..5, cx(0)))),
            Op::ReleasePromise => errno(now(file(FILE).release_promise(cx(0)))),
            Op::SetAttr => errno(now(fs2.set_attr(file(FILE), SetAttr::default(), cx(0)))),
            names => change_name(&fs, names),
        }
    };
    for &op in Op::ALL {
        assert_eq!(call(op), None, "{op:?}");
        let fault = fs.inject(Fault::on(op).errno(Errno::ESHUTDOWN));
        assert_eq!(call(op), Some(Errno::ESHUTDOWN), "{op:?}");
        assert_eq!((fault.hits(), call(op)), (1, None), "{op:?}");
        assert_eq!(fs.counts().calls(op), 3, "{op:?}");
    }
    assert_eq!(fs.counts().total(), 3 * Op::ALL.len() as u64);
}

#[test]
fn lookups_fail_by_name() {
    let fs = MemoryFs::builder().file("d/a", 10).file("d/b", 10).build().unwrap();
    fs.inject(Fault::on(Op::Lookup).file("d").name("b").errno(Errno::EIO));
    assert_eq!(errno(lookup(&fs, "d", "a", 1)), None);
    assert_eq!(errno(lookup(&fs, "d", "b", 1)), Some(Errno::EIO));
}

#[test]
fn lies_change_the_facts_and_nothing_else() {
    let fs = origin();
    let told = |lie| {
        fs.inject(Fault::on(Op::Read).lie(lie));
        let (finished, bytes) = read(&fs, "a", 0, 100);
        fs.verify("a", 0, &bytes).unwrap();
        assert_eq!(bytes.len(), 100);
        finished.facts
    };
    assert_eq!(told(Lie::Nothing), netfs::remote::Facts::default());
    assert_eq!(told(Lie::NoVersion).version, None);
    assert_eq!(told(Lie::Version(Version::from_u64(9))).version, Some(Version::from_u64(9)));
    let size = told(Lie::Size(5));
    assert_eq!((size.size, size.attr.unwrap().size), (Some(5), 5));
    assert_eq!(told(Lie::Promise(Promise::None)).promise, Promise::None);
    let custom = told(Lie::Custom(Arc::new(|f| f.size = None)));
    assert_eq!(custom.size, None);
}

#[test]
fn lies_reach_validate_lookup_and_readdir() {
    let fs = MemoryFs::builder().file("d/a", 10).build().unwrap();
    fs.inject(Fault::any().always().lie(Lie::NoVersion));
    assert_eq!(validate(&fs, "d/a").unwrap().version, None);
    assert_eq!(lookup(&fs, "d", "a", 1).unwrap().found.unwrap().facts.version, None);
    let page = now(Arc::clone(&fs).readdir(fs.file("d").unwrap(), 0, true, cx(1))).unwrap();
    assert_eq!(page.entries[0].plus.as_ref().unwrap().facts.version, None);
    assert_eq!(root(&fs).facts.version, None);
}

#[test]
fn clearing_the_plan_lets_hanging_calls_go() {
    let fs = origin();
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Validate).hold(&gate, SnapshotAt::Issue));
    let mut call = fs.file("a").unwrap().validate(cx(1));
    assert!((&mut call).now_or_never().is_none());
    gate.wait_hit();
    // The fault is one-shot and spent; the call it holds is let go all the same.
    fs.clear_faults();
    assert!(now(call).is_ok());
    fs.inject(Fault::on(Op::Validate).always().errno(Errno::EIO));
    fs.clear_faults();
    assert!(validate(&fs, "a").is_ok());
}

#[test]
fn a_hanging_call_can_be_dropped() {
    let fs = origin();
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Release));
    let (sub, done) = ReadSub::detached(0, 100, cx(1));
    let mut call = fs.file("a").unwrap().read(sub);
    assert!((&mut call).now_or_never().is_none());
    drop(call);
    assert_eq!(failed_with(&done.wait().0.outcome), Some(Errno::ECANCELED));
    assert_eq!((fs.in_flight(), gate.waiting()), (0, 0));
}

/// Waiting for a gate from another thread needs no sleep.
#[test]
fn threads_meet_at_a_gate() {
    let fs = origin();
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).file("a").hold(&gate, SnapshotAt::Issue));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (sub, done) = ReadSub::detached(0, 100, cx(1));
            runtime.block_on(fs.file("a").unwrap().read(sub));
            done.wait().0.facts.version
        });
        gate.wait_hit();
        fs.wait_until(|counts, in_flight| counts.calls(Op::Read) == 1 && in_flight == 1);
        fs.change("a").rewrite().unwrap();
        gate.release();
        assert_eq!(reader.join().unwrap(), Some(Version::from_u64(1)));
    });
    fs.wait_idle();
}

fn random_run(seed: u64, order: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let fs = origin();
    fs.inject(Fault::random(seed, 0.5, Effect::recoverable()));
    let mut transferred: Vec<_> =
        order.map(|offset| (offset, read(&fs, "a", offset, 100).0.transferred)).collect();
    transferred.sort_unstable();
    transferred
}

#[test]
fn random_faults_depend_on_the_seed_and_not_on_the_order() {
    let forward = random_run(1, 0..200);
    assert_eq!(forward, random_run(1, (0..200).rev()));
    assert_ne!(forward, random_run(2, 0..200));
    let short = forward.iter().filter(|(_, n)| *n < 100).count();
    assert!((20..140).contains(&short), "{short} of 200 hit, 0.5 * 3/5 expected");
}

#[test]
fn a_random_fault_does_not_hit_one_place_for_ever() {
    let fs = origin();
    let fault = fs.inject(Fault::random(3, 0.5, vec![Effect::Errno(Errno::EIO)]));
    for _ in 0..64 {
        let _ = read(&fs, "a", 0, 100);
    }
    assert!((10..54).contains(&fault.hits()), "{} of 64", fault.hits());
    fs.remove_fault(&fault);
    let none = fs.inject(Fault::random(3, 0.0, vec![Effect::Errno(Errno::EIO)]));
    let _ = read(&fs, "a", 0, 100);
    assert_eq!(none.hits(), 0);
}

#[test]
fn failures_never_deliver_wrong_bytes() {
    for effect in Effect::failures() {
        let fs = origin();
        let fault = fs.inject(Fault::on(Op::Read).effect(effect.clone()));
        let (finished, bytes) = read(&fs, "a", 100, 8192);
        assert_eq!(fault.hits(), 1);
        assert!(bytes.len() < 8192, "{effect:?} did nothing");
        assert!(bytes.is_empty() || failed_with(&finished.outcome).is_some());
        fs.verify("a", 100, &bytes).unwrap();
    }
}

#[test]
fn effects_of_one_fault_apply_together() {
    let fs = origin();
    let gate = Gate::new();
    let fault = Fault::on(Op::Read).or(Op::Validate).hold(&gate, SnapshotAt::Issue);
    fs.inject(fault.clone().errno(Errno::ETIMEDOUT).times(2));
    let mut call = fs.file("a").unwrap().validate(cx(1));
    assert!((&mut call).now_or_never().is_none());
    gate.release();
    assert_eq!(errno(now(call)), Some(Errno::ETIMEDOUT));
    let (finished, _) = read(&fs, "a", 0, 10);
    assert_eq!(failed_with(&finished.outcome), Some(Errno::ETIMEDOUT));
    // A shape does not fit a validate, so the whole fault leaves it alone.
    let unfit = fs.inject(fault.short(1).errno(Errno::EIO));
    assert!(validate(&fs, "a").is_ok());
    assert_eq!(unfit.hits(), 0);
}
