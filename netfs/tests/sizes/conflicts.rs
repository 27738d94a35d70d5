//! Somebody else changes a file while bytes of ours are dirty.

use std::sync::{Arc, Mutex};

use netfs::{
    Conflict, ConflictHook, ConflictPolicy, Errno, Error, File, Result, remote::BoxFuture,
};
use netfs_memory::{Fault, MemoryFs, Op};

use crate::{common::Bench, tools::*};

type Piece = (u64, Vec<u8>);

/// Keeps what it is given, unless it is told to fail.
#[derive(Default)]
struct Copies {
    kept: Mutex<Vec<Piece>>,
    asked: Mutex<u32>,
    broken: Mutex<bool>,
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl ConflictHook for Copies {
    fn keep(self: Arc<Self>, conflict: Conflict) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            *self.asked.lock().expect("lock") += 1;
            assert_ne!(conflict.ours(), conflict.theirs());
            if let Some(work) = self.meanwhile.lock().expect("lock").take() {
                work();
            }
            if *self.broken.lock().expect("lock") {
                return Err(Error::new(Errno::ENOSPC, "no room for copies"));
            }
            let pieces = conflict.dirty().map(|(at, bytes)| (at, bytes.to_vec()));
            self.kept.lock().expect("lock").extend(pieces);
            Ok(())
        })
    }
}

fn bed(policy: ConflictPolicy) -> (Arc<MemoryFs>, Bench, File) {
    let fs = MemoryFs::builder().file("f", 100_000).build().expect("build");
    let bench = Bench::with(&fs, None, |b| b.conflict_policy(policy));
    let file = open(&bench, "f");
    (fs, bench, file)
}

fn uploads(fs: &MemoryFs) -> u64 {
    fs.counts().calls(Op::Write)
}

#[test]
fn with_fail_nothing_is_sent_once_a_conflict_is_known_and_both_versions_are_named() {
    // Known from a read's validation, and only because the flush asks.
    for seen_by_a_read in [true, false] {
        let (fs, bench, file) = bed(ConflictPolicy::Fail);
        read(&file, 0, 10);
        let ours = version(&fs, "f");
        write(&file, 5000, b"ours");
        fs.change("f").rewrite().expect("theirs");
        let theirs = version(&fs, "f");
        let mut expected = server(&fs, "f");
        expected[5000..5004].copy_from_slice(b"ours");
        if seen_by_a_read {
            assert_eq!(read(&file, 0, 100_000), expected);
        }
        for _ in 0..2 {
            let error = file.blocking().fsync().expect_err("a conflict");
            assert_eq!(error.errno(), Errno::ESTALE);
            let told = error.to_string();
            assert!(
                told.contains(&format!("{ours:?}")) && told.contains(&format!("{theirs:?}")),
                "{told}"
            );
        }
        fails(file.blocking().write_at(0, b"more"), Errno::ESTALE);
        assert_eq!((uploads(&fs), bench.stats().write_conflicts), (0, 1));
        assert_eq!(read(&file, 0, 100_000), expected, "still there");
        file.set_conflict_policy(Some(ConflictPolicy::Merge));
        write(&file, 6000, b"more");
        file.blocking().fsync().expect("merged");
        expected[6000..6004].copy_from_slice(b"more");
        assert_eq!(server(&fs, "f"), expected);
        drop(file);
        bench.shutdown();
    }
}

#[test]
fn with_fail_the_bytes_can_be_given_up_and_later_ones_are_none_of_the_conflicts() {
    let (fs, bench, file) = bed(ConflictPolicy::Fail);
    write(&file, 0, b"ours");
    fs.change("f").rewrite().expect("theirs");
    fails(file.blocking().fsync(), Errno::ESTALE);
    assert_eq!(file.blocking().discard_dirty().expect("nothing hangs"), 4);
    assert_eq!(read(&file, 0, 100_000), server(&fs, "f"));
    fails(file.blocking().fsync(), Errno::ESTALE);
    write(&file, 0, b"again");
    file.blocking().fsync().expect("nobody else has changed it since");
    assert_eq!(fs.expected("f", 0, 5).expect("f"), b"again");
    // The same where the bytes go by a cut, or a hole.
    for cut in [true, false] {
        write(&file, 50, b"ours");
        fs.change("f").rewrite().expect("theirs");
        fails(file.blocking().fsync(), Errno::ESTALE);
        if cut {
            file.blocking().set_len(10).expect("cut");
            file.blocking().set_len(100).expect("grow");
        } else {
            file.blocking().punch_hole(0, 100).expect("punch");
        }
        write(&file, 60, b"new");
        file.blocking().fsync().expect("the bytes in conflict are gone");
    }
    drop(file);
    bench.shutdown();
}

#[test]
fn uploads_of_our_own_are_no_conflict_however_they_are_met() {
    let (fs, bench, file) = bed(ConflictPolicy::Fail);
    fs.configure(|s| s.limits.wsize = 4096);
    let reader = bench.open("f");
    for round in 0..20u8 {
        for at in (0..90_000).step_by(10_000) {
            write(&file, at, &[round; 5000]);
        }
        // A reader's validation sees versions that our own uploads make.
        std::thread::scope(|s| {
            let sync = s.spawn(|| file.blocking().fsync());
            for _ in 0..20 {
                read(&reader, 0, 100);
            }
            sync.join().expect("no panic").expect("no conflict");
        });
        file.blocking().punch_hole(1000, 100).expect("punch");
        file.blocking().set_len(100_000 + u64::from(round)).expect("grow");
    }
    assert_eq!(bench.stats().write_conflicts, 0);
    drop((file, reader));
    bench.shutdown();
}

#[test]
fn a_conflict_that_only_the_uploads_reply_shows_is_reported_once_to_each_opener() {
    let (fs, bench, file) = bed(ConflictPolicy::Fail);
    let other = open(&bench, "f");
    write(&file, 0, b"ours");
    fs.inject(Fault::on(Op::Write).conflict_before(10..20).times(1));
    for file in [&file, &other] {
        fails(file.blocking().fsync(), Errno::ESTALE);
        file.blocking().fsync().expect("told once");
    }
    assert_eq!(fs.expected("f", 0, 4).expect("f"), b"ours", "it could not be known before");
    assert_eq!(bench.stats().write_conflicts, 1);
    assert_eq!(read(&file, 0, 100), fs.expected("f", 0, 100).expect("f"));
    drop((file, other));
    bench.shutdown();
}

#[test]
fn with_keep_both_what_the_hook_has_saved_is_the_servers_again_and_newer_bytes_stay() {
    let copies = Arc::<Copies>::default();
    let (fs, bench, file) = bed(ConflictPolicy::KeepBoth(Arc::clone(&copies) as _));
    read(&file, 0, 50_000);
    write(&file, 100, b"ours");
    write(&file, 99_998, b"ours at the end");
    fs.change("f").rewrite().expect("theirs");
    *copies.broken.lock().expect("lock") = true;
    let error = file.blocking().fsync().expect_err("not saved");
    assert_eq!(error.errno(), Errno::ESTALE);
    assert!(error.to_string().contains("no room for copies"), "{error}");
    fails(file.blocking().write_at(0, b"x"), Errno::ESTALE);
    assert_eq!(read(&file, 100, 4), b"ours");
    *copies.broken.lock().expect("lock") = false;
    file.blocking().fsync().expect("saved");
    let kept = copies.kept.lock().expect("lock").clone();
    assert_eq!(kept, [(100, b"ours".to_vec()), (99_998, b"ours at the end".to_vec())]);
    assert_eq!(uploads(&fs), 0);
    assert_eq!(file.sizes().i_size, 100_000);
    assert_eq!(read(&file, 0, 200_000), server(&fs, "f"), "theirs");
    assert_eq!((bench.stats().write_kept_bytes, bench.netfs().memory().dirty), (19, 0));
    file.blocking().fsync().expect("nothing is left");
    assert_eq!(*copies.asked.lock().expect("lock"), 2);
    drop(file);
    bench.shutdown();
}

#[test]
fn merge_chosen_while_a_hook_fails_loses_nothing() {
    let copies = Arc::<Copies>::default();
    let (fs, bench, file) = bed(ConflictPolicy::KeepBoth(Arc::clone(&copies) as _));
    let file = Arc::new(file);
    write(&file, 100, b"ours");
    fs.change("f").rewrite().expect("theirs");
    *copies.broken.lock().expect("lock") = true;
    let owner = Arc::clone(&file);
    let work = move || owner.set_conflict_policy(Some(ConflictPolicy::Merge));
    *copies.meanwhile.lock().expect("lock") = Some(Box::new(work));
    fails(file.blocking().fsync(), Errno::ESTALE);
    assert_eq!(bench.netfs().memory().dirty, 4, "the error of a conflict is no deleted file's");
    file.blocking().fsync().expect("merged");
    assert_eq!(server(&fs, "f")[100..104], *b"ours");
    drop(file);
    bench.shutdown();
}

#[test]
fn what_is_written_while_the_hook_saves_is_not_given_up() {
    let copies = Arc::<Copies>::default();
    let (fs, bench, file) = bed(ConflictPolicy::default());
    bench.mount.set_conflict_policy(Some(ConflictPolicy::KeepBoth(Arc::clone(&copies) as _)));
    let file = Arc::new(file);
    write(&file, 100, b"ours");
    fs.change("f").rewrite().expect("theirs");
    let writer = Arc::clone(&file);
    let work = move || {
        let wrote =
            std::thread::spawn(move || writer.blocking().write_at(102, b"newer").expect("write"));
        assert_eq!(wrote.join().expect("no panic"), 5);
    };
    *copies.meanwhile.lock().expect("lock") = Some(Box::new(work));
    file.blocking().fsync().expect("saved, and the newer uploaded");
    assert_eq!(*copies.kept.lock().expect("lock"), [(100, b"ours".to_vec())]);
    file.blocking().fsync().expect("fsync");
    let mut expected = server(&fs, "f");
    assert_eq!(expected[102..107], *b"newer");
    assert_ne!(expected[100..102], *b"ou");
    assert_eq!(read(&file, 0, 100_000), std::mem::take(&mut expected));
    drop(file);
    bench.shutdown();
}

#[test]
fn the_nearest_policy_counts() {
    let (fs, bench, file) = bed(ConflictPolicy::Fail);
    bench.mount.set_conflict_policy(Some(ConflictPolicy::Merge));
    write(&file, 0, b"one");
    fs.change("f").rewrite().expect("theirs");
    file.blocking().fsync().expect("the volume's");
    file.set_conflict_policy(Some(ConflictPolicy::Fail));
    write(&file, 0, b"two");
    fs.change("f").rewrite().expect("theirs");
    fails(file.blocking().fsync(), Errno::ESTALE);
    file.set_conflict_policy(None);
    file.blocking().fsync().expect("the volume's again");
    assert_eq!(fs.expected("f", 0, 3).expect("f"), b"two");
    assert_eq!(bench.stats().write_conflicts, 2);
    drop(file);
    bench.shutdown();
}
