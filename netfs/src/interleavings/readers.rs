//! Readers beside each other and beside eviction.

use shuttle::thread;

use super::*;

/// Reads and judges: whole, and of the only version there is.
fn read(file: &File, offset: u64, len: u64) {
    let mut buf = vec![0; len as usize];
    let n = block_on(file.read_at(offset, &mut buf)).expect("nothing fails");
    assert_eq!(n as u64, len, "short at {offset}+{len}");
    version_of(&buf, offset, 1, 1);
}

/// The same without a copy.
fn read_slices(file: &File, offset: u64, len: u64) {
    let slices = block_on(file.read_slices(offset, len)).expect("nothing fails");
    let bytes: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
    assert_eq!(bytes.len() as u64, len, "at {offset}+{len}");
    version_of(&bytes, offset, 1, 1);
}

/// Who comes second waits for the first's folios: no byte is asked for twice (row 22).
#[test]
fn one_fetch_is_shared_by_all_readers() {
    for answers in [Answers::Whole, Answers::Paged] {
        explore(700, move || {
            let world = World::new(4, 2 * PAGE, answers);
            let readers: Vec<_> = [(0, 4), (1, 2), (0, 4)]
                .into_iter()
                .map(|(at, n)| {
                    let file = world.open();
                    thread::spawn(move || read(&file, at * PAGE, n * PAGE))
                })
                .collect();
            readers.into_iter().for_each(|r| r.join().expect("no panic"));
            let mut asked = world.origin.reads();
            asked.sort_by_key(|r| r.start);
            assert!(asked.windows(2).all(|w| w[0].end <= w[1].start), "asked twice: {asked:?}");
        });
    }
}

/// Between two looks of a reader the folio it holds is evicted and its place taken by one of another
/// size, which it finds next: its bytes are handed out once.
#[test]
fn readers_with_eviction_and_refill_by_other_sizes_get_every_byte_once() {
    explore(1500, || {
        let world = World::new(8, 8 * PAGE, Answers::Whole);
        // Small folios first, so that the readers' own are of another size.
        for page in [0, 3] {
            read(&world.open(), page * PAGE, PAGE);
        }
        let readers: Vec<_> = [false, true]
            .into_iter()
            .map(|slices| {
                let file = world.open();
                thread::spawn(move || match slices {
                    true => read_slices(&file, 100, 6 * PAGE),
                    false => read(&file, 100, 6 * PAGE),
                })
            })
            .collect();
        world.evict();
        read(&world.open(), 0, 8 * PAGE);
        readers.into_iter().for_each(|r| r.join().expect("no panic"));
    });
}

/// N-C15: however the ends of a request's calls lie to its being fully issued, every reader is
/// answered, also over short replies that are asked for again.
#[test]
fn n_c15_a_request_completes_in_every_order_of_its_last_reply_and_its_last_call() {
    for answers in [Answers::Whole, Answers::Paged, Answers::Short] {
        explore(700, move || {
            let world = World::new(4, PAGE, answers);
            let file = world.open();
            let other = world.open();
            let reader = thread::spawn(move || read(&other, 2 * PAGE, 2 * PAGE));
            read(&file, 0, 4 * PAGE);
            reader.join().expect("no panic");
        });
    }
}

/// A reader that goes away only detaches: who shared its fetch is answered.
#[test]
fn n_c11_a_reader_that_leaves_takes_nothing_with_it() {
    explore(700, || {
        let world = World::new(4, 2 * PAGE, Answers::Paged);
        let (leaving, staying) = (world.open(), world.open());
        let stays = thread::spawn(move || read(&staying, PAGE, 3 * PAGE));
        let leaves = shuttle::future::spawn(async move {
            let mut buf = vec![0; 4 * PAGE as usize];
            leaving.read_at(0, &mut buf).await.map(drop)
        });
        leaves.abort();
        drop(block_on(leaves));
        stays.join().expect("no panic");
        read(&world.open(), 0, 4 * PAGE);
    });
}
