//! Reads that uploads overtake again and again, on a server that does not say which version each write found:
//! each round moves the file to a version that may be anybody's.

use futures_util::FutureExt;
use shuttle::thread;

use super::{
    recalls::Passing,
    writers::{A, B, all_is_well, at, fsync, join, read, write},
    *,
};
use crate::{
    coherency::ReplyKind,
    read::MAX_REPLANS,
    remote::RemoteFile,
    writeback::{
        flush::quiesce,
        quiet::{JUDGE_WAIT, Overtaken},
    },
};

/// Every read comes to an end with right bytes, however many rounds there are, and although time passes: whoever
/// waits for its turn keeps its place.
fn readers_beside_uploads(world: World) {
    world.origin.states_before(false);
    let time = Passing::begin(&world.clock, Duration::from_secs(1));
    let uploads = [(0, A), (PAGE, B)].map(|(offset, byte)| {
        let file = world.open();
        thread::spawn(move || {
            for i in 0..12 {
                write(&file, offset + i * 10, 10, byte);
                fsync(&file);
            }
        })
    });
    let file = world.open();
    let reading = thread::spawn(move || {
        for _ in 0..2 {
            let bytes = read(&file, 0, 2 * PAGE);
            for (i, byte) in bytes.iter().enumerate() {
                let ours = [(0, A), (PAGE, B)].iter().any(|(offset, written)| {
                    (*offset..*offset + 120).contains(&(i as u64)) && byte == written
                });
                assert!(ours || *byte == content(1, i as u64, 1)[0], "byte {i} is {byte}");
            }
        }
    });
    join(uploads);
    join([reading]);
    time.end();
    all_is_well(&world);
    assert_eq!(at(&world.origin.bytes(), 0, 120), [A; 120]);
}

#[test]
fn p_d71_a_read_beside_uploads_of_unknown_versions_always_ends_with_right_bytes() {
    for answers in [Answers::Whole, Answers::Paged] {
        explore(60, move || {
            readers_beside_uploads(World::build(2, PAGE, answers, None, |b| {
                let b = b.fill(FillPolicy::Exact).readahead_max(0);
                b.remote_timeout(LONG * 1000)
            }));
        });
    }
}

/// Who waits for the turn tries again now and then without it, and keeps its place: it is let in before those that
/// came after it, however many those are.
#[test]
fn p_d71_who_waits_for_the_turn_keeps_its_place_from_one_try_to_the_next() {
    explore(10, || {
        let world = World::new(1, PAGE, Answers::Whole);
        let inode = world.mount.root().inode;
        let hanging = block_on(quiesce(&inode));
        let mut quiet = inode.quiet(Overtaken::Read, MAX_REPLANS);
        // Beside uploads at first.
        while (&mut Box::pin(quiet.again())).now_or_never().is_some() {}
        let mut later = Vec::new();
        for _ in 0..3 {
            let mut waiting = Box::pin(quiet.again());
            assert!((&mut waiting).now_or_never().is_none(), "the turn is taken");
            // The upload hangs: nothing can overtake a try now.
            world.clock.advance(JUDGE_WAIT);
            assert!(block_on(waiting), "another try");
            let mut next = Box::pin(quiesce(&inode));
            assert!((&mut next).now_or_never().is_none());
            later.push(next);
        }
        drop(hanging);
        assert_eq!(quiet.again().now_or_never(), Some(true), "first come, first served");
        assert!((&mut later[0]).now_or_never().is_none(), "as long as it reads");
        drop(quiet);
        assert!((&mut later[0]).now_or_never().is_some());
        drop(later);
    });
}

/// Calls of ours that overlap: what one of them makes is nobody else's, whichever ends first.
#[test]
fn overlapping_changes_of_one_file_are_judged_when_the_last_has_ended() {
    use crate::remote::Version;
    let v = Version::from_u64;
    for theirs in [false, true] {
        explore(1, move || {
            let world = World::new(1, PAGE, Answers::Whole);
            let inode = world.mount.root().inode;
            let conflicts = &inode.wb.conflicts;
            let (first, second) = (conflicts.own_changes(&inode), conflicts.own_changes(&inode));
            assert!(!conflicts.met(&v(1), Some(&v(2)), false), "may be ours");
            second.end(&[v(3)]);
            assert_eq!(world.netfs.stats().write_conflicts, 0, "not judged yet");
            first.end(&[v(if theirs { 4 } else { 2 })]);
            assert_eq!(world.netfs.stats().write_conflicts, u64::from(theirs));
            conflicts.settle();
        });
    }
}

/// What a round finds in memory beside its own bytes is copied to the disk as the version it starts from: not
/// while that is just being replaced, and the old content is still there.
#[test]
fn n_c48_what_a_round_copies_from_memory_is_of_the_version_it_starts_from() {
    explore(20, || {
        let cache = crate::fscache::MemCache::new();
        let world = World::with(1, PAGE, Answers::Whole, Some(cache));
        let file = world.open();
        read(&file, 0, PAGE);
        write(&file, 1000, 100, A);
        world.origin.change();
        let inode = world.mount.root().inode;
        let facts = block_on(RemoteFile::validate(Arc::clone(&world.origin), cx()));
        let facts = facts.expect("nothing fails");
        // As a check that has found the change, in the middle of carrying it out.
        inode.grew(PAGE, |_| {
            let epoch = inode.cell.sample();
            let applied = inode.cell.apply(&facts, &epoch, ReplyKind::Check, |_| ());
            let identity = inode.identity().expect("a version");
            inode.live_cookie().expect("a cache").invalidate(identity, false);
            fsync(&file);
            inode.pages.clear_keeping(&[]);
            applied.drop.expect("another version").done();
        });
        drop(inode);
        block_on(world.netfs.drain_fills());
        all_is_well(&world);
    });
}
