//! Who may dirty how much, and who waits.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;

const A: Share = Share(1);
const B: Share = Share(2);
const C: Share = Share(3);

/// Takes and dirties `bytes`.
fn dirty(room: &Room, share: Share, bytes: u64) {
    let taken = room.try_take(share, bytes).expect("free");
    assert_eq!(taken.bytes(), bytes);
    room.dirtied(bytes);
    room.settle(taken, bytes);
}

fn most(room: &Room, share: Share) -> u64 {
    room.try_take(share, u64::MAX).map_or(0, |taken| {
        room.settle(taken, 0);
        taken.bytes()
    })
}

#[test]
fn writers_of_a_volume_wait_in_order_and_get_what_became_clean() {
    let room = Room::new(900, 50);
    dirty(&room, A, 800);
    let (mut large, mut small) = (Box::pin(room.take(A, 60)), Box::pin(room.take(A, 10)));
    assert!((&mut large).now_or_never().is_none());
    assert!((&mut small).now_or_never().is_none(), "the small one does not overtake");
    room.cleaned(A, 30);
    assert!((&mut large).now_or_never().is_none());
    assert!(room.try_take(A, 1).is_none(), "nor does one that comes now");
    room.cleaned(A, 30);
    let taken = large.now_or_never().expect("its turn").expect("open");
    assert!((&mut small).now_or_never().is_none());
    // It dirtied nothing new: all goes back.
    room.settle(taken, 0);
    let taken = small.now_or_never().expect("its turn").expect("open");
    room.settle(taken, 0);
    assert_eq!(room.dirty(), 740);
    room.cleaned(A, 740);
    assert!(room.is_empty());
}

#[test]
fn a_volume_that_hangs_leaves_room_for_the_others_and_they_share_it_alike() {
    let room = Room::new(8100, 50);
    assert_eq!(most(&room, A), 7200);
    dirty(&room, A, 7200);
    assert!(room.try_take(A, 1).is_none());
    // Of what A cannot have B has 8/9, and C of the rest.
    assert_eq!(most(&room, B), 800);
    dirty(&room, B, 800);
    let waits = Box::pin(room.take(A, 1));
    assert_eq!(most(&room, C), 88);
    room.cleaned(B, 800);
    assert_eq!(most(&room, B), 800, "A has enough");
    assert!(waits.now_or_never().is_none());
}

#[test]
fn who_wants_more_than_a_volume_may_have_gets_a_part_and_not_a_crumb() {
    let room = Room::new(900, 50);
    dirty(&room, A, 500);
    let mut waits = Box::pin(room.take(A, 10_000));
    assert!((&mut waits).now_or_never().is_none(), "less than half of the 800 it may have");
    room.cleaned(A, 100);
    let taken = waits.now_or_never().expect("enough").expect("open");
    assert!(taken.bytes() >= 400, "{taken:?}");
}

#[test]
fn a_smaller_limit_is_what_those_who_wait_wait_for() {
    let room = Room::new(9000, 50);
    dirty(&room, A, 8000);
    let mut waits = Box::pin(room.take(A, 4000));
    let other = Box::pin(room.take(A, 1));
    assert!((&mut waits).now_or_never().is_none());
    room.set_limit(900, 50);
    room.cleaned(A, 8000);
    let taken = waits.now_or_never().expect("as much as there may be").expect("open");
    assert_eq!(taken.bytes(), 800);
    room.settle(taken, 0);
    assert!(other.now_or_never().is_some());
}

#[test]
fn another_limit_counts_what_is_dirty_already() {
    let room = Room::new(900, 50);
    dirty(&room, A, 800);
    room.set_limit(450, 25);
    room.cleaned(A, 400);
    assert!(room.try_take(A, 1).is_none());
    let waits = Box::pin(room.take(A, 100));
    room.set_limit(1800, 100);
    let taken = waits.now_or_never().expect("a larger one serves").expect("open");
    room.settle(taken, 0);
    assert_eq!(most(&room, A), 1200);
}

#[test]
fn bytes_dirtied_without_asking_count() {
    let room = Room::new(900, 50);
    let taken = room.try_take(A, 10).expect("free");
    room.dirtied(1000);
    room.settle(taken, 1000);
    assert!(room.try_take(A, 1).is_none() && room.try_take(B, 1).is_none());
    room.cleaned(A, 1000);
    assert_eq!(most(&room, A), 800);
}

#[test]
fn what_is_clean_before_its_writer_has_said_so_counts_once() {
    let room = Room::new(900, 50);
    let taken = room.try_take(A, 10).expect("free");
    room.dirtied(30);
    room.cleaned(A, 30);
    room.settle(taken, 30);
    assert!(room.is_empty());
}

#[test]
fn parked_bytes_give_back_their_room_once() {
    let room = Room::new(900, 50);
    dirty(&room, A, 700);
    room.park(A, 700);
    assert_eq!((room.dirty(), room.parked()), (0, 700));
    // A write that was under way.
    let taken = room.try_take(A, 800).expect("all of it is back");
    room.dirtied_parked(A, 800);
    room.settle(taken, 800);
    room.cleaned_parked(1450);
    assert_eq!((room.dirty(), room.parked()), (0, 50));
    assert_eq!(most(&room, A), 800, "still all");
    room.unpark(A, 50);
    room.cleaned(A, 50);
    assert_eq!((room.dirty(), room.parked()), (0, 0));
    assert!(room.is_empty());
}

#[test]
fn who_goes_away_leaves_what_it_was_given_and_its_place() {
    let room = Room::new(900, 50);
    dirty(&room, A, 800);
    let (mut gone, mut next) = (Box::pin(room.take(A, 400)), Box::pin(room.take(A, 10)));
    assert!((&mut gone).now_or_never().is_none() && (&mut next).now_or_never().is_none());
    room.cleaned(A, 100);
    assert!((&mut next).now_or_never().is_none());
    drop(gone);
    let taken = (&mut next).now_or_never().expect("its turn").expect("open");
    room.settle(taken, 0);
    let mut granted = Box::pin(room.take(A, 800));
    assert!((&mut granted).now_or_never().is_none());
    room.cleaned(A, 700);
    assert!(room.try_take(A, 800).is_none(), "it has been granted");
    drop(granted);
    assert!(room.is_empty());
}

#[test]
fn who_waits_hears_of_the_end() {
    let room = Room::new(9, 50);
    dirty(&room, A, 8);
    let waits = Box::pin(room.take(A, 5));
    let mut waits = waits;
    assert!((&mut waits).now_or_never().is_none());
    room.close();
    let over = |got: Option<Result<Taken>>| got.expect("told").expect_err("over").errno();
    assert_eq!(over(waits.now_or_never()), Errno::ESHUTDOWN);
    assert_eq!(over(Box::pin(room.take(B, 1)).now_or_never()), Errno::ESHUTDOWN);
}

proptest! {
    /// Whatever some volumes hold for ever, nobody of another waits for ever, and never is more taken than may be.
    #[test]
    fn nobody_waits_for_another_volume_that_hangs(
        limit in 1u64..5000,
        hung in prop::collection::vec(1u64..6000, 0..3),
        wanted in prop::collection::vec(1u64..6000, 1..20),
    ) {
        let room = Room::new(limit, 0);
        let mut left = limit;
        for (share, bytes) in (10..).zip(hung) {
            let Some(taken) = room.try_take(Share(share), bytes) else { continue };
            prop_assert!(taken.bytes() <= left);
            left -= taken.bytes();
        }
        let mut writers: std::collections::VecDeque<_> =
            wanted.iter().map(|wanted| (*wanted, Box::pin(room.take(A, *wanted)))).collect();
        if left == 0 {
            return Ok(());
        }
        while let Some((wanted, writer)) = writers.pop_front() {
            let taken = writer.now_or_never();
            prop_assert!(taken.is_some(), "all that was taken before has become clean");
            let taken = taken.expect("checked").expect("open");
            prop_assert!((1..=wanted.min(left)).contains(&taken.bytes()));
            room.settle(taken, 0);
        }
    }
}
