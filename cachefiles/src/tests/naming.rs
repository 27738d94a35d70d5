//! New identities: what an owner's own changes leave, in memory and after a crash.

use super::*;

fn sized(version: u8, pages: u64) -> Identity {
    Identity { size: pages * 4096, ..identity(version) }
}

fn bytes(pages: std::ops::Range<u64>) -> std::ops::Range<u64> {
    pages.start * 4096..pages.end * 4096
}

fn begin(object: &Arc<dyn CacheObject>) -> Result<(), Refusal> {
    pollster::block_on(Arc::clone(object).begin_modify())
}

fn commit(object: &Arc<dyn CacheObject>) -> Result<(), Refusal> {
    pollster::block_on(Arc::clone(object).commit())
}

/// A change of page 1 by the owner, from version 1 to version 2. Failures are the cache's own business.
fn change(object: &Arc<dyn CacheObject>) {
    // As the core does it: whoever is refused cuts over, or goes on without a cache.
    if begin(object).is_err() || object.set_identity(identity(2), &[bytes(1..2)]).is_err() {
        return;
    }
    let _ = write(object, 1, 22);
    let _ = write(object, 4, 24);
    object.end_modify();
    let _ = commit(object);
}

#[test]
fn rows_107_108_a_new_identity_keeps_what_did_not_change_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path(), plain());
    let object = bed.object("a");
    (0..4).for_each(|n| write(&object, n, n as u8).expect("stored"));
    commit(&object).expect("committed");
    begin(&object).expect("marked");
    object.set_identity(identity(2), &[bytes(1..2), 3 * 4096 + 5..3 * 4096 + 6]).expect("renamed");
    assert_eq!(object.identity(), identity(2));
    assert_eq!(read(&object, 1), Err(CacheMiss::Absent));
    write(&object, 1, 22).expect("stored");
    object.end_modify();
    pollster::block_on(Arc::clone(&object).close(Relinquish::Keep));
    bed.end();
    let bed = Bed::open(dir.path(), plain());
    let opened = bed.lookup_as("a", identity(2)).expect("lookup");
    assert_eq!(opened.found, Found::Existing);
    let got = [0, 1, 2, 3].map(|n| read(&opened.object, n));
    assert_eq!(got, [page(0), page(22), page(2), Err(CacheMiss::Absent)]);
    // Closed in the middle of a change it is found by nobody.
    begin(&opened.object).expect("marked");
    pollster::block_on(Arc::clone(&opened.object).close(Relinquish::Keep));
    let again = bed.lookup_as("a", identity(2)).expect("lookup");
    assert_eq!(again.found, Found::ReplacedStale);
    bed.end();
}

/// A process that ends is a disk that takes no further call: at each of them in turn.
#[test]
fn row_126_n_c57_wherever_a_change_is_cut_off_nothing_old_is_found_under_the_new_name() {
    let mut found = [0; 2];
    for calls in 0.. {
        let dir = tempfile::tempdir().expect("dir");
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let count = Arc::clone(&left);
        let hook: Hook = Arc::new(move |call| {
            let changes = matches!(
                call,
                Call::SetXattr(_) | Call::Write | Call::Name | Call::Create | Call::Sync
            );
            let step = |n: usize| if n == usize::MAX { Some(n) } else { n.checked_sub(1) };
            if changes && count.fetch_update(SeqCst, SeqCst, step).is_err() {
                return Err(Errno::IO);
            }
            Ok(())
        });
        let bed = Bed::open(dir.path(), hook);
        let object = bed.object("a");
        (0..4).for_each(|n| write(&object, n, n as u8).expect("stored"));
        commit(&object).expect("committed");
        left.store(calls, SeqCst);
        change(&object);
        let all = left.swap(0, SeqCst) > 0;
        drop(object);
        bed.end();
        for version in [2, 1] {
            let copy = tempfile::tempdir().expect("dir");
            let at = copy.path().join("cache");
            let done = std::process::Command::new("cp").arg("-a").arg(dir.path()).arg(&at).output();
            assert!(done.expect("cp runs").status.success());
            let bed = Bed::open(&at, plain());
            let opened = bed.lookup_as("a", identity(version)).expect("lookup");
            let here = opened.found == Found::Existing;
            found[usize::from(version) - 1] += usize::from(here);
            assert!(!here || calls == 0 || version == 2, "{calls} calls: under its old name");
            for n in 0..5u64 {
                let right = match (version, n) {
                    (2, 1) => 22,
                    (2, 4) => 24,
                    _ => n as u8,
                };
                let got = read(&opened.object, n);
                assert!(got.is_err() || got == page(right), "{calls} calls, page {n}: {got:?}");
                assert!(!all || version == 1 || got == page(right), "all was done: {got:?}");
            }
            bed.end();
        }
        if all {
            break;
        }
    }
    assert_eq!(found, [1, 2], "before the first call, and after the last");
}

#[test]
fn n_c48_a_write_of_before_has_no_effect_on_what_changed_and_goes_on_elsewhere() {
    let dir = tempfile::tempdir().expect("dir");
    let (barrier, armed) = <(Arc<Barrier>, Arc<AtomicBool>)>::default();
    let bed = Bed::open(dir.path(), hold(&barrier, &armed, |call| call == Call::Write));
    let object = bed.object("a");
    armed.store(true, SeqCst);
    let (changed, other) = (start_write(&object, 1, 1), start_write(&object, 2, 2));
    barrier.wait_for(2);
    let before = object.generation();
    object.set_identity(identity(2), &[bytes(1..2)]).expect("renamed");
    assert!(object.generation() > before);
    barrier.open();
    assert_eq!(changed.recv(), Ok(Err(Refusal::Stale)));
    assert_eq!(other.recv(), Ok(Ok(())));
    assert_eq!((read(&object, 1), read(&object, 2)), (Err(CacheMiss::Absent), page(2)));
    let (tx, rx) = mpsc::channel();
    let late = CacheWrite::new(0, vec![Slice::from_bytes(&[9; 4096])], before, move |r| {
        let _ = tx.send(r);
    });
    Arc::clone(&object).write(late);
    assert_eq!(rx.recv(), Ok(Err(Refusal::Stale)), "of a generation of before");
    bed.end();
}

#[test]
fn n_c73_p_d56_row_107_an_object_that_grows_moves_its_map_and_one_that_shrinks_brings_nothing_back()
{
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path(), plain());
    let opened = bed.lookup_as("a", sized(1, 8)).expect("lookup");
    let object = opened.object;
    (0..8).for_each(|n| write(&object, n, n as u8).expect("stored"));
    commit(&object).expect("committed");
    let rename = |object: &Arc<dyn CacheObject>, to: Identity| {
        begin(object).expect("marked");
        object.set_identity(to, &[]).expect("renamed");
        object.end_modify();
    };
    // Past what an attribute holds.
    rename(&object, sized(2, 100_000));
    write(&object, 99_999, 99).expect("stored");
    rename(&object, sized(3, 6));
    rename(&object, sized(4, 7));
    assert_eq!((read(&object, 5), read(&object, 6)), (page(5), Err(CacheMiss::Absent)));
    pollster::block_on(Arc::clone(&object).close(Relinquish::Keep));
    let object = bed.lookup_as("a", sized(4, 7)).expect("lookup").object;
    assert_eq!((read(&object, 5), read(&object, 6)), (page(5), Err(CacheMiss::Absent)));
    rename(&object, sized(5, 100_000));
    assert_eq!(read(&object, 99_999), Err(CacheMiss::Absent));
    bed.end();
}

#[test]
fn a_chunk_that_is_not_loaded_forgets_what_changed_and_learns_the_new_size() {
    const CHUNK: u64 = 262_144;
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path(), plain());
    let object = bed.lookup_as("a", sized(1, CHUNK + 10)).expect("lookup").object;
    for n in [0, CHUNK, CHUNK + 1, CHUNK + 9] {
        write(&object, n, 7).expect("stored");
    }
    pollster::block_on(Arc::clone(&object).close(Relinquish::Keep));
    let object = bed.lookup_as("a", sized(1, CHUNK + 10)).expect("lookup").object;
    begin(&object).expect("marked");
    // The second chunk has not been asked for.
    object.set_identity(sized(2, CHUNK + 50), &[bytes(CHUNK..CHUNK + 1)]).expect("renamed");
    object.end_modify();
    pollster::block_on(Arc::clone(&object).close(Relinquish::Keep));
    let opened = bed.lookup_as("a", sized(2, CHUNK + 50)).expect("lookup");
    assert_eq!(opened.found, Found::Existing);
    let got = [0, CHUNK, CHUNK + 1, CHUNK + 9].map(|n| read(&opened.object, n));
    assert_eq!(got, [page(7), Err(CacheMiss::Absent), page(7), page(7)]);
    assert_eq!(
        opened.object.set_identity(sized(3, CHUNK), &[]),
        Err(Refusal::Unsupported),
        "it would leave the second chunk behind"
    );
    bed.end();
}

/// A change that comes while a commit loads the chunk that an earlier one changed: the name it gives is not
/// stated before the disk knows what it changed.
#[test]
fn row_108_a_change_during_a_commit_is_named_together_with_its_chunks() {
    const CHUNK: u64 = 262_144;
    let size = 2 * CHUNK + 10;
    let dir = tempfile::tempdir().expect("dir");
    let (object, armed) = <(Arc<OnceLock<Arc<dyn CacheObject>>>, Arc<AtomicBool>)>::default();
    let ended = Arc::new(AtomicBool::new(false));
    let (during, once, over) = (Arc::clone(&object), Arc::clone(&armed), Arc::clone(&ended));
    let bed = Bed::open(
        dir.path(),
        Arc::new(move |call| {
            if matches!(call, Call::Read(_)) && once.swap(false, SeqCst) {
                let object = during.get().expect("there is one");
                let changed = [bytes(2 * CHUNK..2 * CHUNK + 1)];
                object.set_identity(sized(3, size), &changed).expect("renamed");
                object.end_modify();
            }
            let changes = matches!(call, Call::SetXattr(_) | Call::Write | Call::Name);
            if changes && over.load(SeqCst) { Err(Errno::IO) } else { Ok(()) }
        }),
    );
    let first = bed.lookup_as("a", sized(1, size)).expect("lookup").object;
    for n in [0, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1] {
        write(&first, n, 7).expect("stored");
    }
    pollster::block_on(first.close(Relinquish::Keep));
    let again = bed.lookup_as("a", sized(1, size)).expect("lookup").object;
    let object = object.get_or_init(|| again);
    begin(object).expect("marked");
    object.set_identity(sized(2, size), &[bytes(CHUNK..CHUNK + 1)]).expect("renamed");
    armed.store(true, SeqCst);
    commit(object).expect("committed");
    // Nothing that comes later reaches the disk.
    ended.store(true, SeqCst);
    assert!(!armed.load(SeqCst), "a chunk was loaded");
    bed.end();
    let bed = Bed::open(dir.path(), plain());
    let opened = bed.lookup_as("a", sized(3, size)).expect("lookup");
    assert_eq!(opened.found, Found::Existing);
    let got = [0, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1].map(|n| read(&opened.object, n));
    let gone = || Err(CacheMiss::Absent);
    assert_eq!(got, [page(7), gone(), page(7), gone(), page(7)]);
    bed.end();
}
