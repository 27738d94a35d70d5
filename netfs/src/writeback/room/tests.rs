//! Who may dirty how much, and who waits.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::folio::budget::Account;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Of this a volume alone may have 8 MiB.
const LIMIT: u64 = 9 * MIB;

/// A room, and the shares of three volumes.
fn room() -> (Arc<Room>, [Arc<Share>; 3]) {
    let room = Room::new(LIMIT, Accounts::new(4 * LIMIT));
    let shares = std::array::from_fn(|_| room.share());
    (room, shares)
}

/// Takes and dirties `bytes`.
fn dirty(share: &Share, bytes: u64) {
    let taken = share.try_take(bytes).expect("free");
    assert_eq!(taken.bytes(), bytes);
    share.dirtied(bytes);
    share.settle(&taken, bytes);
}

/// The most that can be taken now.
fn most(share: &Share) -> u64 {
    share.try_take(u64::MAX).map_or(0, |taken| {
        share.settle(&taken, 0);
        taken.bytes()
    })
}

/// How much; all of it goes back.
fn gets(share: &Share, take: impl Future<Output = Result<Taken>>) -> u64 {
    let taken = take.now_or_never().expect("its turn").expect("open");
    share.settle(&taken, 0);
    taken.bytes()
}

#[test]
fn writers_of_a_volume_wait_in_order_and_get_what_became_clean() {
    let (room, [a, ..]) = room();
    dirty(&a, 8 * MIB);
    let (mut large, mut small) = (Box::pin(a.take(600 * KIB)), Box::pin(a.take(10)));
    assert!((&mut large).now_or_never().is_none());
    assert!((&mut small).now_or_never().is_none(), "the small one does not overtake");
    a.cleaned(300 * KIB);
    assert!((&mut large).now_or_never().is_none());
    assert!(a.try_take(1).is_none(), "nor does one that comes now");
    a.cleaned(300 * KIB);
    let taken = large.now_or_never().expect("its turn").expect("open");
    assert_eq!(taken.bytes(), 600 * KIB);
    assert!((&mut small).now_or_never().is_none());
    // It dirtied nothing new: all goes back.
    a.settle(&taken, 0);
    assert_eq!(gets(&a, small), 10);
    assert_eq!(room.dirty(), 8 * MIB - 600 * KIB);
    a.cleaned(room.dirty());
    assert!(room.is_empty());
}

#[test]
fn a_volume_that_hangs_leaves_room_for_the_others_and_busy_ones_come_to_the_same() {
    let (_, [a, b, c]) = room();
    assert_eq!(most(&a), 8 * MIB);
    dirty(&a, 8 * MIB);
    assert_eq!(most(&a), 0);
    // Of what A cannot have B has 8/9, and C of the rest.
    assert_eq!(most(&b), MIB * 8 / 9);
    dirty(&b, MIB * 8 / 9);
    assert_eq!(most(&c), (MIB - MIB * 8 / 9) * 8 / 9);
    let waits = Box::pin(a.take(1));
    b.cleaned(MIB * 8 / 9);
    assert_eq!(most(&b), MIB * 8 / 9, "A has enough");
    assert!(waits.now_or_never().is_none());
    // Both want all they can get, and what they have is uploaded bit by bit.
    let mut has = [8 * MIB, 0];
    for _ in 0..1000 {
        for (share, has) in [&a, &b].into_iter().zip(&mut has) {
            let clean = (*has).min(64 * KIB);
            share.cleaned(clean);
            *has -= clean;
            while let Some(taken) = share.try_take(64 * KIB) {
                share.dirtied(taken.bytes());
                share.settle(&taken, taken.bytes());
                *has += taken.bytes();
            }
        }
    }
    assert!(has[0].abs_diff(has[1]) < MIB, "{has:?}");
    assert!(has[0] + has[1] > LIMIT * 8 / 9, "more than one alone has: {has:?}");
}

#[test]
fn who_has_nothing_gets_a_page_however_many_hang() {
    let (room, [a, ..]) = room();
    let hung: Vec<_> = (0..20).map(|_| room.share()).collect();
    for share in &hung {
        let bytes = most(share);
        assert!(bytes >= 4 * KIB);
        dirty(share, bytes);
        assert!(share.try_take(1).is_none());
    }
    assert!(room.dirty() <= LIMIT + 20 * 4 * KIB);
    assert_eq!(most(&a), 4 * KIB);
    dirty(&a, 4 * KIB);
    let waits = Box::pin(a.take(100));
    a.cleaned(4 * KIB);
    assert_eq!(gets(&a, waits), 100);
}

#[test]
fn who_wants_more_than_a_volume_may_have_gets_a_part_and_not_a_crumb() {
    let (_, [a, ..]) = room();
    dirty(&a, 5 * MIB);
    let mut waits = Box::pin(a.take(100 * MIB));
    assert!((&mut waits).now_or_never().is_none(), "less than half of the 8 MiB it may have");
    a.cleaned(MIB);
    assert_eq!(gets(&a, waits), 4 * MIB);
}

#[test]
fn a_smaller_limit_is_what_those_who_wait_wait_for() {
    let (room, [a, b, _]) = room();
    dirty(&a, 8 * MIB);
    let mut waits = Box::pin(a.take(4 * MIB));
    let mut other = Box::pin(a.take(1));
    assert!((&mut waits).now_or_never().is_none() && (&mut other).now_or_never().is_none());
    room.set_limit(900 * KIB);
    assert_eq!(most(&b), 4 * KIB, "others are stopped by that no more than by anything");
    a.cleaned(8 * MIB);
    let taken = waits.now_or_never().expect("as much as there may be").expect("open");
    assert_eq!(taken.bytes(), 800 * KIB);
    a.settle(&taken, 0);
    assert_eq!(gets(&a, other), 1);
}

#[test]
fn another_limit_counts_what_is_dirty_already() {
    let (room, [a, ..]) = room();
    dirty(&a, 8 * MIB);
    room.set_limit(LIMIT / 2);
    a.cleaned(4 * MIB);
    assert!(a.try_take(1).is_none());
    let mut waits = Box::pin(a.take(MIB));
    assert!((&mut waits).now_or_never().is_none());
    room.set_limit(2 * LIMIT);
    assert_eq!(gets(&a, waits), MIB, "a larger one serves");
    assert_eq!(most(&a), 12 * MIB);
}

#[test]
fn bytes_dirtied_without_asking_count() {
    let (room, [a, b, _]) = room();
    let taken = a.try_take(10).expect("free");
    a.dirtied(10 * MIB);
    a.settle(&taken, 10 * MIB);
    assert!(a.try_take(1).is_none());
    assert_eq!(most(&b), 4 * KIB);
    a.cleaned(10 * MIB);
    assert_eq!(most(&a), 8 * MIB);
    // Clean before their writer has said that they are dirty.
    let taken = a.try_take(10).expect("free");
    a.dirtied(30);
    a.cleaned(30);
    a.settle(&taken, 30);
    assert!(room.is_empty());
}

#[test]
fn parked_bytes_give_back_their_room_once() {
    let (room, [a, ..]) = room();
    dirty(&a, 7 * MIB);
    a.park(7 * MIB);
    assert_eq!((room.dirty(), room.parked()), (0, 7 * MIB));
    // A write that was under way.
    let taken = a.try_take(8 * MIB).expect("all of it is back");
    a.dirtied_parked(8 * MIB);
    a.settle(&taken, 8 * MIB);
    a.cleaned_parked(14 * MIB);
    assert_eq!((room.dirty(), room.parked()), (0, MIB));
    assert_eq!(most(&a), 8 * MIB, "still all, and not more");
    a.unpark(MIB);
    assert_eq!(most(&a), 7 * MIB);
    a.cleaned(MIB);
    assert_eq!((room.dirty(), room.parked()), (0, 0));
    assert!(room.is_empty());
}

#[test]
fn who_goes_away_leaves_what_it_was_given_and_its_place() {
    let (room, [a, ..]) = room();
    dirty(&a, 8 * MIB);
    let (mut gone, mut next) = (Box::pin(a.take(4 * MIB)), Box::pin(a.take(10)));
    assert!((&mut gone).now_or_never().is_none() && (&mut next).now_or_never().is_none());
    a.cleaned(MIB);
    assert!((&mut next).now_or_never().is_none());
    drop(gone);
    assert_eq!(gets(&a, next), 10);
    let mut granted = Box::pin(a.take(8 * MIB));
    assert!((&mut granted).now_or_never().is_none());
    a.cleaned(7 * MIB);
    assert!(a.try_take(8 * MIB).is_none(), "it has been granted");
    drop(granted);
    assert!(room.is_empty());
}

#[test]
fn who_waits_hears_of_the_end() {
    let (room, [a, b, _]) = room();
    dirty(&a, 8 * MIB);
    let mut waits = Box::pin(a.take(5));
    assert!((&mut waits).now_or_never().is_none());
    room.close();
    let over = |got: Option<Result<Taken>>| got.expect("told").expect_err("over").errno();
    assert_eq!(over(waits.now_or_never()), Errno::ESHUTDOWN);
    assert!(b.try_take(1).is_none());
    assert_eq!(over(Box::pin(b.take(1)).now_or_never()), Errno::ESHUTDOWN);
}

#[test]
fn a_volume_that_has_gone_leaves_its_place_to_the_next() {
    let (room, [a, b, c]) = room();
    drop(b);
    let b = room.share();
    dirty(&b, MIB);
    assert_eq!(most(&a), (8 * 8 * MIB) / 9);
    drop((a, c));
    assert_eq!(most(&b), 7 * MIB);
    b.cleaned(MIB);
    assert!(room.is_empty());
}

/// Also the memory of parked files counts; and a volume may always try to have a page.
#[test]
fn one_volume_does_not_hold_all_memory_with_a_few_dirty_bytes() {
    let room = Room::new(LIMIT, Accounts::new(LIMIT));
    let [a, b, c] = std::array::from_fn(|_| room.share());
    assert!(a.holds_nothing() && a.may_hold(8 * MIB) && !a.may_hold(8 * MIB + 1));
    a.holds(false, 0, 8 * MIB);
    assert!(a.may_hold(0) && !a.may_hold(1) && !a.holds_nothing());
    assert!(b.may_hold(MIB * 8 / 9) && !b.may_hold(MIB));
    // In place a bit more may become dirty.
    a.holds(false, 0, MIB);
    assert!(!a.may_hold(0) && b.may_hold(4 * KIB) && !b.may_hold(8 * KIB));
    a.holds(false, 9 * MIB, 0);
    c.holds(true, 0, LIMIT / 2);
    assert!(c.holds_nothing() && a.may_hold(4 * MIB) && !a.may_hold(4 * MIB + 1));
    assert!(!room.parked_too_much());
    c.holds(true, 0, 1);
    assert!(room.parked_too_much());
    c.holds(true, LIMIT / 2 + 1, 0);
    assert!(a.may_hold(8 * MIB));
}

#[test]
fn fetches_leave_memory_to_writers_and_the_other_way_round() {
    let accounts = Accounts::new(LIMIT);
    let room = Room::new(LIMIT, Arc::clone(&accounts));
    let share = room.share();
    assert!(room.may_fetch(8 * MIB) && !room.may_fetch(8 * MIB + 1));
    let fetch = accounts.reserve(cost(8 * MIB)).expect("memory").charge(8 * MIB);
    assert!(!room.may_fetch(1));
    assert!(share.may_hold(MIB * 8 / 9) && !share.may_hold(MIB));
    // Nobody waits for it any more: it is not over for that.
    fetch.move_to(Account::Abandoned);
    assert!(!room.may_fetch(1) && !share.may_hold(MIB));
    drop(fetch);
    share.holds(false, 0, 8 * MIB);
    assert!(room.may_fetch(MIB * 8 / 9) && !room.may_fetch(MIB));
    share.holds(false, 8 * MIB, 0);
}

proptest! {
    /// Whatever some volumes hold for ever, nobody of another waits for ever, and never is more taken than may
    /// be, but for a page of each.
    #[test]
    fn nobody_waits_for_another_volume_that_hangs(
        limit in 1..64 * MIB,
        hung in prop::collection::vec(1..64 * MIB, 0..6),
        wanted in prop::collection::vec(1..64 * MIB, 1..20),
    ) {
        let room = Room::new(limit, Accounts::new(limit));
        let mut used = 0;
        let mut hold = Vec::new();
        for bytes in hung {
            let share = room.share();
            let taken = share.try_take(bytes).expect("some");
            used += taken.bytes();
            prop_assert!(used <= limit + 4 * KIB * (hold.len() as u64 + 1));
            hold.push((share, taken));
        }
        let share = room.share();
        for wanted in wanted {
            let taken = Box::pin(share.take(wanted)).now_or_never();
            prop_assert!(taken.is_some(), "all that was taken before has become clean");
            let taken = taken.expect("checked").expect("open");
            prop_assert!((1..=wanted).contains(&taken.bytes()));
            prop_assert!(used + taken.bytes() <= limit + 4 * KIB * (hold.len() as u64 + 1));
            share.settle(&taken, 0);
        }
        for (share, taken) in &hold {
            share.settle(taken, 0);
        }
        prop_assert!(room.is_empty());
    }
}
