//! The model stepped by hand: one invariant a test. Random histories are in
//! [`coherency::tests`](crate::coherency).

use std::time::Duration;

use super::*;
use crate::{
    coherency::BreakReason,
    remote::{Attr, Facts, FileKind, Promise, PromiseKind, Version, VolumeFacts},
};

/// One file of one volume and a clock.
struct Bench {
    volume: VolumeCoherency,
    inode: InodeCoherency,
    now: BootTime,
}

const SLOT_KEY: &[u8] = b"file";
const STANDING: Promise = Promise::UntilBroken { kind: PromiseKind::Read };

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Facts of a reply that states everything: the size goes with the version.
fn facts(version: u64, promise: Promise) -> Facts {
    Facts::version(Version::from_u64(version))
        .with_attr(Attr::plain(FileKind::File, version * 1000))
        .with_promise(promise)
}

fn silent(promise: Promise) -> Facts {
    Facts::default().with_size(1).with_promise(promise)
}

fn for_volume(mut facts: Facts, promise: Promise) -> Facts {
    facts.volume = Some(VolumeFacts { promise, checked: true });
    facts
}

impl Bench {
    fn new() -> Bench {
        let inode = InodeCoherency::new(KeySlot::of(SLOT_KEY));
        let now = BootTime::ZERO + secs(3600);
        Bench { volume: VolumeCoherency::new(), inode, now }
    }

    /// A file with version 1 under a standing promise.
    fn promised() -> Bench {
        let mut b = Bench::new();
        b.check(&facts(1, STANDING));
        assert_eq!(b.valid(), Validity::Valid);
        b
    }

    fn sample(&mut self) -> Epoch {
        self.volume.sample(self.now)
    }

    fn apply(&mut self, facts: &Facts, epoch: &Epoch, kind: ReplyKind) -> Decision {
        self.inode.apply(&mut self.volume, facts, epoch, kind, self.now)
    }

    /// A whole check: asked and answered now.
    fn check(&mut self, facts: &Facts) -> Action {
        let epoch = self.sample();
        self.apply(facts, &epoch, ReplyKind::Check).action
    }

    fn valid(&self) -> Validity {
        self.inode.valid(&self.volume, self.now)
    }

    fn stale(&self) -> Option<StaleReason> {
        match self.valid() {
            Validity::Stale(reason) => Some(reason),
            _ => None,
        }
    }

    fn server_break(&mut self) {
        let at = self.volume.on_key_break(KeySlot::of(SLOT_KEY));
        self.inode.on_break(at);
    }

    fn is_current(&mut self, version: Option<u64>, epoch: &Epoch) -> bool {
        let version = version.map(Version::from_u64);
        self.inode.is_current(&self.volume, version.as_ref(), epoch)
    }
}

/// Under a write promise nobody else writes before it is taken back: from the reply that brought it until an
/// event, however often it is renewed meanwhile.
#[test]
fn nobody_else_writes_while_a_write_promise_stands() {
    let write = Promise::UntilBroken { kind: PromiseKind::Write };
    let mut b = Bench::promised();
    let before = b.sample();
    assert!(!b.inode.is_alone_since(&b.volume, &before, b.now), "a read promise");
    b.check(&facts(1, write));
    assert!(!b.inode.is_alone_since(&b.volume, &before, b.now), "from before it was given");
    let mut b = Bench::promised();
    let (asked, begun) = (b.sample(), b.sample());
    b.apply(&facts(1, write), &asked, ReplyKind::Check);
    assert!(!b.inode.is_alone_since(&b.volume, &begun, b.now), "begun before it was given");
    let round = b.sample();
    let alone = |b: &Bench| b.inode.is_alone_since(&b.volume, &round, b.now);
    assert!(alone(&b));
    b.check(&facts(1, write));
    assert!(alone(&b), "renewed");
    b.inode.on_own_write(&mut b.volume, Some(Version::from_u64(2)));
    assert!(alone(&b), "our own change");
    // A reply that was asked for before the break and comes after it brings nothing back.
    let overtaken = b.sample();
    b.server_break();
    assert!(!alone(&b), "the server wants it back");
    b.apply(&facts(2, write), &overtaken, ReplyKind::Other);
    assert!(!alone(&b));
    b.check(&facts(2, write));
    assert!(!alone(&b), "given again, after somebody else may have written");
    let later = b.sample();
    assert!(b.inode.is_alone_since(&b.volume, &later, b.now));
    b.check(&facts(2, STANDING));
    assert!(!b.inode.is_alone_since(&b.volume, &later, b.now), "given for reading only");
    for volume_wide in [BreakReason::Callback, BreakReason::Disconnected] {
        b.check(&facts(2, write));
        let round = b.sample();
        b.volume.on_break_all(volume_wide);
        assert!(!b.inode.is_alone_since(&b.volume, &round, b.now), "{volume_wide:?}");
        b.check(&facts(2, write));
        assert!(!b.inode.is_alone_since(&b.volume, &round, b.now), "there was a gap");
    }
}

#[test]
fn a_file_never_asked_about_is_stale() {
    assert_eq!(Bench::new().stale(), Some(StaleReason::NoPromise));
}

#[test]
fn p_d03_ten_seconds_left_are_expired_and_eleven_are_not() {
    let promise = Promise::Until { lifetime: secs(100), margin: secs(10) };
    for (left, volume_wide) in [(11, false), (10, false), (11, true), (10, true)] {
        let mut b = Bench::new();
        if volume_wide {
            b.check(&for_volume(facts(1, STANDING), promise));
        } else {
            b.check(&facts(1, promise));
        }
        b.now = b.now + secs(100 - left);
        let reason = if volume_wide { StaleReason::VolumeLapsed } else { StaleReason::Expired };
        assert_eq!(b.stale(), (left == 10).then_some(reason), "{left} s, volume {volume_wide}");
    }
}

#[test]
fn p_d04_a_promise_counts_from_the_issue() {
    let mut b = Bench::new();
    let epoch = b.sample();
    b.now = b.now + secs(40);
    let promise = Promise::Until { lifetime: secs(60), margin: secs(0) };
    b.apply(&facts(1, promise), &epoch, ReplyKind::Check);
    b.now = b.now + secs(19);
    assert_eq!(b.valid(), Validity::Valid);
    b.now = b.now + secs(1);
    assert_eq!(b.stale(), Some(StaleReason::Expired));
}

#[test]
fn a_promise_that_ended_before_its_reply_came_is_no_promise() {
    let mut b = Bench::new();
    let epoch = b.sample();
    b.now = b.now + secs(61);
    let promise = Promise::Until { lifetime: secs(60), margin: secs(0) };
    b.apply(&facts(1, promise), &epoch, ReplyKind::Check);
    assert_eq!(b.stale(), Some(StaleReason::Expired));
}

#[test]
fn p_d05_a_break_in_flight_leaves_the_status_and_no_promise() {
    let mut b = Bench::promised();
    let epoch = b.sample();
    b.server_break();
    let decision = b.apply(&facts(1, STANDING), &epoch, ReplyKind::Check);
    assert_eq!(decision, Decision { action: Action::KeepNoPromise, adopt: true });
    assert_eq!(b.stale(), Some(StaleReason::Broken));
}

#[test]
fn p_d06_a_break_before_the_request_does_not_void_its_promise() {
    let mut b = Bench::promised();
    b.server_break();
    assert_eq!(b.stale(), Some(StaleReason::Broken));
    assert_eq!(b.check(&facts(1, STANDING)), Action::Keep);
    assert_eq!(b.valid(), Validity::Valid);
}

#[test]
fn a_break_that_reaches_the_inode_after_a_younger_promise_leaves_that_one() {
    let mut b = Bench::promised();
    let at = b.volume.on_key_break(KeySlot::of(SLOT_KEY));
    assert_eq!(b.check(&facts(1, STANDING)), Action::Keep);
    b.inode.on_break(at);
    assert_eq!(b.valid(), Validity::Valid);
}

#[test]
fn p_d07_a_break_during_the_first_fetch_ever_counts() {
    let mut b = Bench::new();
    let epoch = b.sample();
    // The inode does not exist yet: only the volume hears of it.
    b.volume.on_key_break(KeySlot::of(SLOT_KEY));
    assert_eq!(
        b.apply(&facts(1, STANDING), &epoch, ReplyKind::Other).action,
        Action::KeepNoPromise
    );
    assert_eq!(b.stale(), Some(StaleReason::NoPromise));
    assert_eq!(b.check(&facts(1, STANDING)), Action::Keep);
}

#[test]
fn p_d08_a_scrub_or_snapshot_move_in_flight_leaves_no_promise() {
    let mut b = Bench::promised();
    let epoch = b.sample();
    b.volume.on_snapshot_moved();
    let moved = b.apply(&facts(1, STANDING), &epoch, ReplyKind::Check);
    assert_eq!(moved.action, Action::KeepNoPromise);
    assert_eq!(b.stale(), Some(StaleReason::SnapshotMoved));
    let epoch = b.sample();
    b.volume.on_scrub();
    let scrubbed = b.apply(&facts(1, STANDING), &epoch, ReplyKind::Check);
    assert_eq!(scrubbed.action, Action::Drop(DropReason::Scrubbed));
    b.inode.drop_done();
    assert_eq!(b.stale(), Some(StaleReason::NoPromise));
}

#[test]
fn p_d08_a_snapshot_move_in_flight_leaves_no_volume_promise() {
    let mut b = Bench::new();
    let whole = for_volume(facts(1, STANDING), STANDING);
    let epoch = b.sample();
    b.volume.on_snapshot_moved();
    b.apply(&whole, &epoch, ReplyKind::Check);
    assert_eq!(b.volume.deadline(), BootTime::ZERO);
}

#[test]
fn a_volume_promise_without_a_check_does_not_settle_a_break() {
    let mut b = Bench::new();
    b.volume.on_break_all(BreakReason::Callback);
    let epoch = b.sample();
    b.volume.apply(&VolumeFacts { promise: STANDING, checked: false }, &epoch);
    assert_eq!(b.volume.deadline(), BootTime::ZERO);
    b.volume.apply(&VolumeFacts { promise: STANDING, checked: true }, &epoch);
    assert_eq!(b.volume.deadline(), BootTime::NEVER);
}

#[test]
fn an_older_reply_does_not_shorten_a_newer_volume_promise() {
    let mut b = Bench::new();
    let (old, new) = (b.sample(), b.sample());
    let short = Promise::Until { lifetime: secs(1), margin: secs(0) };
    b.volume.apply(&VolumeFacts { promise: STANDING, checked: true }, &new);
    b.volume.apply(&VolumeFacts { promise: short, checked: true }, &old);
    assert_eq!(b.volume.deadline(), BootTime::NEVER);
}

#[test]
fn p_d10_one_reply_settles_a_broken_snapshot_volume_for_all_its_files() {
    let mut b = Bench::new();
    let whole = for_volume(facts(1, Promise::None), STANDING);
    b.check(&whole);
    let mut other = InodeCoherency::new(KeySlot::of(b"other"));
    let epoch = b.sample();
    other.apply(&mut b.volume, &whole, &epoch, ReplyKind::Check, b.now);
    b.volume.on_break_all(BreakReason::Callback);
    assert_eq!(b.stale(), Some(StaleReason::VolumeLapsed));
    assert_eq!(other.valid(&b.volume, b.now), Validity::Stale(StaleReason::VolumeLapsed));
    assert_eq!(b.check(&whole), Action::Keep);
    assert_eq!(other.valid(&b.volume, b.now), Validity::Valid);
}

#[test]
fn p_d11_a_volume_break_during_the_fetch_leaves_the_volume_unsettled() {
    let mut b = Bench::new();
    let epoch = b.sample();
    b.volume.on_break_all(BreakReason::Callback);
    let whole = for_volume(facts(1, STANDING), STANDING);
    b.apply(&whole, &epoch, ReplyKind::Check);
    let (broken, checked) = b.volume.break_and_check();
    assert!(checked < broken);
    assert_ne!(b.valid(), Validity::Valid);
    b.check(&whole);
    let (broken, checked) = b.volume.break_and_check();
    assert!(checked > broken);
    assert_eq!(b.valid(), Validity::Valid);
}

#[test]
fn p_d12_the_volume_check_never_goes_back() {
    let mut b = Bench::new();
    let (early, late) = (b.sample(), b.sample());
    let said = VolumeFacts { promise: Promise::None, checked: true };
    b.volume.apply(&said, &late);
    b.volume.apply(&said, &early);
    assert_eq!(b.volume.break_and_check(), (0, late.seq));
}

#[test]
fn p_d13_after_a_volume_break_each_file_of_a_writable_volume_is_checked() {
    let mut b = Bench::promised();
    let mut other = InodeCoherency::new(KeySlot::of(b"other"));
    let epoch = b.sample();
    other.apply(&mut b.volume, &facts(1, STANDING), &epoch, ReplyKind::Check, b.now);
    b.volume.on_break_all(BreakReason::Callback);
    // One file's check, even one that claims to have checked the volume, vouches for that file only.
    let mut said = facts(1, STANDING);
    said.volume = Some(VolumeFacts { promise: Promise::None, checked: true });
    assert_eq!(b.check(&said), Action::Keep);
    assert_eq!(b.valid(), Validity::Valid);
    assert_eq!(other.valid(&b.volume, b.now), Validity::Stale(StaleReason::VolumeBroken));
}

#[test]
fn p_d14_after_a_server_reset_even_covered_files_are_checked_one_by_one() {
    for reason in [BreakReason::ServerReset, BreakReason::Disconnected] {
        let mut b = Bench::new();
        let whole = for_volume(facts(1, STANDING), STANDING);
        b.check(&whole);
        let mut other = InodeCoherency::new(KeySlot::of(b"other"));
        let epoch = b.sample();
        other.apply(&mut b.volume, &whole, &epoch, ReplyKind::Check, b.now);
        b.volume.on_break_all(reason);
        b.check(&whole);
        assert_eq!(b.valid(), Validity::Valid);
        assert_eq!(other.valid(&b.volume, b.now), Validity::Stale(StaleReason::VolumeBroken));
    }
}

#[test]
fn p_d15_a_spurious_break_drops_nothing() {
    let mut b = Bench::promised();
    b.server_break();
    assert_eq!(b.check(&facts(1, STANDING)), Action::Keep);
    b.volume.on_break_all(BreakReason::ServerReset);
    assert_eq!(b.check(&facts(1, STANDING)), Action::Keep);
    b.volume.on_snapshot_moved();
    assert_eq!(b.check(&facts(1, STANDING)), Action::Keep);
}

#[test]
fn p_d16_a_new_version_is_stale_until_the_drop_is_done() {
    let mut b = Bench::promised();
    b.server_break();
    assert_eq!(b.check(&facts(2, STANDING)), Action::Drop(DropReason::VersionChanged));
    assert_eq!(b.stale(), Some(StaleReason::Dropping));
    let epoch = b.sample();
    assert!(!b.is_current(Some(1), &epoch));
    b.inode.drop_done();
    assert_eq!(b.valid(), Validity::Valid);
}

#[test]
fn drops_nest_and_an_event_during_one_voids_the_promise() {
    let mut b = Bench::promised();
    b.check(&facts(2, STANDING));
    b.check(&facts(3, STANDING));
    b.inode.drop_done();
    assert_eq!(b.stale(), Some(StaleReason::Dropping));
    b.server_break();
    b.inode.drop_done();
    assert_eq!(b.stale(), Some(StaleReason::Broken));
}

#[test]
fn an_abandoned_drop_is_done_again() {
    let mut b = Bench::promised();
    b.check(&facts(2, STANDING));
    b.inode.drop_abandoned();
    assert_eq!(b.stale(), Some(StaleReason::Dropping));
    assert_eq!(b.check(&facts(2, STANDING)), Action::Drop(DropReason::Unfinished));
    b.inode.drop_done();
    assert_eq!(b.valid(), Validity::Valid);
}

#[test]
fn a_scrub_drops_data_of_an_equal_version_once() {
    let mut b = Bench::promised();
    let before = b.sample();
    b.volume.on_scrub();
    assert_eq!(b.stale(), Some(StaleReason::Scrubbed));
    assert!(!b.is_current(Some(1), &before), "bytes from before the scrub");
    assert_eq!(b.check(&facts(1, STANDING)), Action::Drop(DropReason::Scrubbed));
    b.inode.drop_done();
    assert_eq!(b.valid(), Validity::Valid);
    assert_eq!(b.check(&facts(1, STANDING)), Action::Keep);
}

#[test]
fn p_d24_a_deleted_file_stays_deleted() {
    let mut b = Bench::promised();
    b.inode.on_deleted();
    assert_eq!(b.valid(), Validity::Deleted);
    b.volume.on_scrub();
    assert_eq!(b.check(&facts(2, STANDING)), Action::Deleted);
    assert_eq!(b.valid(), Validity::Deleted);
    let epoch = b.sample();
    assert!(!b.is_current(Some(1), &epoch));
}

#[test]
fn p_d26_a_new_version_without_its_size_gets_no_promise() {
    let mut b = Bench::promised();
    let no_size = Facts::version(Version::from_u64(2)).with_promise(STANDING);
    assert_eq!(b.check(&no_size), Action::Drop(DropReason::VersionChanged));
    b.inode.drop_done();
    assert_eq!(b.stale(), Some(StaleReason::NoPromise));
    assert_eq!(b.check(&facts(2, STANDING)), Action::Keep);
}

#[test]
fn p_d70_the_adaptive_interval_doubles_and_falls_back() {
    for (min, lengths) in [(3, &[3, 6, 12, 24, 48, 60, 60][..]), (30, &[30, 60, 60][..])] {
        let promise = Promise::Adaptive { min: secs(min), max: secs(60) };
        let mut b = Bench::new();
        for &length in lengths {
            assert_eq!(b.check(&facts(1, promise)), Action::Keep);
            b.now = b.now + secs(length) - Duration::from_nanos(1);
            assert_eq!(b.valid(), Validity::Valid, "{length} s");
            b.now = b.now + Duration::from_nanos(1);
            assert_eq!(b.stale(), Some(StaleReason::Expired), "{length} s");
        }
        assert_eq!(b.check(&facts(2, promise)), Action::Drop(DropReason::VersionChanged));
        b.inode.drop_done();
        b.now = b.now + secs(min);
        assert_eq!(b.stale(), Some(StaleReason::Expired), "back to {min} s");
    }
}

#[test]
fn p_d70_replies_within_the_interval_renew_it_and_do_not_double_it() {
    let promise = Promise::Adaptive { min: secs(10), max: secs(60) };
    let mut b = Bench::new();
    b.check(&facts(1, promise));
    for _ in 0..3 {
        b.now = b.now + secs(3);
        b.check(&facts(1, promise));
    }
    b.now = b.now + secs(10);
    assert_eq!(b.stale(), Some(StaleReason::Expired));
}

#[test]
fn p_d71_a_reply_older_than_a_version_change_is_late() {
    let mut b = Bench::promised();
    let old = b.sample();
    assert_eq!(b.check(&facts(2, STANDING)), Action::Drop(DropReason::VersionChanged));
    b.inode.drop_done();
    let late = b.apply(&facts(1, STANDING), &old, ReplyKind::Check);
    assert_eq!(late, Decision { action: Action::Late, adopt: false });
    assert!(!b.is_current(Some(1), &old));
    assert_eq!(b.valid(), Validity::Valid);
    assert_eq!(b.inode.version(), Some(&Version::from_u64(2)));
}

#[test]
fn p_d71_a_getattr_issued_before_our_write_rolls_nothing_back() {
    let mut b = Bench::promised();
    let before = b.sample();
    b.inode.on_own_write(&mut b.volume, Some(Version::from_u64(2)));
    assert_eq!(b.apply(&facts(1, STANDING), &before, ReplyKind::Other).action, Action::Late);
    let silent = b.apply(&silent(Promise::None), &before, ReplyKind::Other);
    assert!(!silent.adopt);
    let same = b.apply(&facts(2, STANDING), &before, ReplyKind::Other);
    assert!(!same.adopt, "our own attributes are newer");
    assert_eq!(b.check(&facts(2, STANDING)), Action::Keep);
}

#[test]
fn p_d71_an_older_reply_of_the_same_version_does_not_bring_old_attributes() {
    let mut b = Bench::promised();
    let old = b.sample();
    let epoch = b.sample();
    assert!(b.apply(&facts(1, Promise::None), &epoch, ReplyKind::Other).adopt);
    let decision = b.apply(&facts(1, STANDING), &old, ReplyKind::Other);
    assert!(!decision.adopt);
    assert_eq!(b.valid(), Validity::Valid);
}

#[test]
fn p_d26_a_silent_reply_overtaken_by_a_version_change_brings_no_old_size() {
    let mut b = Bench::promised();
    let (change, silent_read) = (b.sample(), b.sample());
    assert!(b.apply(&facts(2, STANDING), &change, ReplyKind::Other).adopt);
    // Asked for later, but perhaps answered before the change.
    assert!(!b.apply(&silent(Promise::None), &silent_read, ReplyKind::Other).adopt);
    let epoch = b.sample();
    assert!(b.apply(&silent(Promise::None), &epoch, ReplyKind::Other).adopt);
}

#[test]
fn an_older_reply_does_not_shorten_a_newer_promise() {
    let mut b = Bench::new();
    let old = b.sample();
    b.check(&facts(1, STANDING));
    let short = Promise::Until { lifetime: secs(1), margin: secs(0) };
    assert_eq!(b.apply(&facts(1, short), &old, ReplyKind::Other).action, Action::KeepNoPromise);
    b.now = b.now + secs(10);
    assert_eq!(b.valid(), Validity::Valid);
}

#[test]
fn without_versions_data_lasts_as_long_as_the_promise() {
    let mut b = Bench::new();
    let ttl = Promise::Until { lifetime: secs(10), margin: secs(0) };
    assert_eq!(b.check(&silent(ttl)), Action::Keep, "nothing is cached yet");
    let epoch = b.sample();
    assert!(b.is_current(None, &epoch));
    b.now = b.now + secs(9);
    assert_eq!(b.check(&silent(ttl)), Action::KeepNoPromise, "vouched for without a gap");
    assert_eq!(b.valid(), Validity::Valid);
    b.now = b.now + secs(1);
    assert_ne!(b.valid(), Validity::Valid, "silence does not renew what time ends");
    assert_eq!(b.check(&silent(ttl)), Action::Drop(DropReason::Unverified));
    b.inode.drop_done();
    assert_eq!(b.valid(), Validity::Valid);
    assert!(!b.is_current(None, &epoch), "asked for before the drop");
}

#[test]
fn a_silent_read_reply_settles_nothing() {
    let mut b = Bench::promised();
    b.server_break();
    let epoch = b.sample();
    let decision = b.apply(&silent(STANDING), &epoch, ReplyKind::Other);
    assert_eq!(decision.action, Action::KeepNoPromise);
    assert_eq!(b.stale(), Some(StaleReason::Broken));
    assert!(b.is_current(None, &epoch), "its own bytes are newer than the last event");
    b.server_break();
    assert!(!b.is_current(None, &epoch));
}

#[test]
fn bytes_asked_for_before_the_first_promise_do_not_come_under_it() {
    let mut b = Bench::new();
    let read = b.sample();
    assert_eq!(b.check(&silent(STANDING)), Action::Keep);
    assert!(!b.is_current(None, &read));
}

#[test]
fn the_first_version_says_nothing_about_bytes_without_one() {
    let mut b = Bench::new();
    let read = b.sample();
    assert!(b.is_current(None, &read));
    assert_eq!(b.check(&facts(1, STANDING)), Action::Drop(DropReason::Unverified));
}

#[test]
fn absurd_lifetimes_and_margins_do_not_overflow() {
    let mut b = Bench::new();
    b.check(&facts(1, Promise::Until { lifetime: Duration::MAX, margin: secs(0) }));
    assert_eq!(b.valid(), Validity::Valid);
    let mut b = Bench::new();
    b.check(&facts(1, Promise::Until { lifetime: secs(1), margin: Duration::MAX }));
    assert_eq!(b.stale(), Some(StaleReason::Expired));
    let mut b = Bench::new();
    b.check(&facts(1, Promise::Adaptive { min: Duration::MAX, max: secs(1) }));
    b.check(&facts(1, Promise::Adaptive { min: Duration::MAX, max: Duration::MAX }));
    assert_eq!(b.valid(), Validity::Valid);
}
