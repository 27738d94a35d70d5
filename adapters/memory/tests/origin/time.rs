//! Latency and bandwidth, on a clock that moves only when told to.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use netfs::{
    clock::StepClock,
    remote::{ReadSub, RemoteFile, Version},
};
use netfs_memory::{Fault, Link, MemoryFs, Op, SnapshotAt};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);

fn origin(link: Link) -> (Arc<MemoryFs>, StepClock) {
    let clock = StepClock::new();
    let build = MemoryFs::builder().file("a", 100_000).clock(clock.clone()).link(link);
    (build.build().unwrap(), clock)
}

#[test]
fn every_call_takes_the_latency() {
    let (fs, clock) = origin(Link::latency(10 * MS));
    let mut call = fs.file("a").unwrap().validate(cx(1));
    assert!((&mut call).now_or_never().is_none());
    clock.advance(9 * MS);
    assert!((&mut call).now_or_never().is_none());
    assert_eq!((fs.in_flight(), clock.sleepers()), (1, 1));
    clock.advance(MS);
    assert!(now(call).is_ok());
    assert_eq!(fs.in_flight(), 0);
}

#[test]
fn a_delay_adds_to_the_latency() {
    let (fs, clock) = origin(Link::latency(10 * MS));
    fs.inject(Fault::on(Op::Validate).delay(5 * MS));
    let mut call = fs.file("a").unwrap().validate(cx(1));
    assert!((&mut call).now_or_never().is_none());
    clock.advance(14 * MS);
    assert!((&mut call).now_or_never().is_none());
    clock.advance(MS);
    assert!(now(call).is_ok());
}

#[test]
fn a_slow_reply_is_of_issue_time_unless_told_otherwise() {
    for (at, version) in [(SnapshotAt::Issue, 1), (SnapshotAt::Release, 2)] {
        let (fs, clock) = origin(Link::latency(10 * MS));
        fs.configure(|s| s.snapshot_at = at);
        let mut call = fs.file("a").unwrap().validate(cx(1));
        assert!((&mut call).now_or_never().is_none());
        fs.change("a").rewrite().unwrap();
        clock.advance(10 * MS);
        assert_eq!(now(call).unwrap().version, Some(Version::from_u64(version)));
    }
}

/// Two reads share the link, so the second waits for the first; pieces arrive as they are sent.
#[test]
fn bandwidth_is_shared() {
    let (fs, clock) = origin(Link::default().with_bytes_per_second(1_000_000));
    fs.configure(|s| s.chunk = 1000);
    let start = |len| {
        let (sub, done) = ReadSub::detached(0, len, cx(1));
        (fs.file("a").unwrap().read(sub), done)
    };
    let ((mut first, _), (mut second, _)) = (start(1000), start(2000));
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    clock.advance(MS);
    assert!((&mut second).now_or_never().is_none());
    now(first);
    assert_eq!(fs.counts().bytes(), 1000);
    clock.advance(MS);
    assert!((&mut second).now_or_never().is_none());
    assert_eq!(fs.counts().bytes(), 2000, "a piece of the second");
    clock.advance(MS);
    now(second);
    assert_eq!(fs.counts().bytes(), 3000);
}

/// With the system clock a latency needs a runtime with time, and nothing else.
#[test]
fn the_system_clock_works_too() {
    let fs = MemoryFs::builder().file("a", 10).link(Link::latency(MS)).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let facts = runtime.block_on(fs.file("a").unwrap().validate(cx(1))).unwrap();
    assert!(facts.version.is_some());
}
