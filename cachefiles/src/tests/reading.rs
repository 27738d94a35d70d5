//! Reads of many pages: one system call, every page compared.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::PathBuf,
};

use super::*;

const PAGE: usize = 4096;
const PAGES: usize = 300;

/// An object whose page `n` is full of `n`, in five blocks.
fn filled(bed: &Bed) -> Arc<dyn CacheObject> {
    let object = bed.object("k");
    for page in 0..PAGES {
        write(&object, page as u64, page as u8).expect("stored");
    }
    object
}

fn want(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(|byte| (byte / PAGE) as u8).collect()
}

fn queued(
    object: &Arc<dyn CacheObject>,
    range: &std::ops::Range<usize>,
) -> Result<Vec<u8>, CacheMiss> {
    let (tx, rx) = mpsc::channel();
    let read = CacheRead::detached(range.start as u64, range.len(), move |result| {
        let _ = tx.send(result);
    });
    Arc::clone(object).read(read);
    rx.recv().expect("every read ends")
}

fn inline(object: &Arc<dyn CacheObject>, range: &std::ops::Range<usize>) -> Option<Vec<u8>> {
    let mut into = vec![0xee; range.len()];
    let done = object.try_read(range.start as u64, &mut into) == TryRead::Done;
    done.then_some(into)
}

fn backing_file(dir: &std::path::Path) -> PathBuf {
    let entries = || fs::read_dir(dir).expect("a directory").flatten();
    let here = entries().find(|e| e.metadata().is_ok_and(|m| m.is_file() && m.len() == SIZE));
    here.map(|e| e.path()).unwrap_or_else(|| {
        let dirs = entries().filter(|e| e.path().is_dir()).map(|e| e.path());
        dirs.filter(|d| fs::read_dir(d).is_ok_and(|mut d| d.next().is_some()))
            .map(|d| backing_file(&d))
            .next()
            .expect("the object's file")
    })
}

#[test]
fn a_read_over_many_blocks_that_comes_in_pieces_is_whole_and_verified() {
    let dir = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(dir.path(), plain());
    let object = filled(&bed);
    let end = PAGES * PAGE;
    for range in [0..end, 1..end - 1, 63 * PAGE..65 * PAGE, 4095..4097, 70 * PAGE + 5..299 * PAGE] {
        assert_eq!(queued(&object, &range), Ok(want(range.clone())), "{range:?}");
        if let Some(bytes) = inline(&object, &range) {
            assert_eq!(bytes, want(range.clone()), "{range:?}");
        }
    }
    drop(object);
    bed.end();
}

#[test]
fn one_damaged_page_voids_the_read_it_is_in_and_is_forgotten_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(dir.path(), plain());
    let object = filled(&bed);
    pollster::block_on(Arc::clone(&object).commit()).expect("linked");
    let file = OpenOptions::new().write(true).open(backing_file(dir.path())).expect("there");
    // In the third block of a read that begins in the first, and the very last page of it.
    for (bad, range) in [(130, 10 * PAGE..200 * PAGE), (299, 200 * PAGE..300 * PAGE)] {
        file.write_all_at(b"?", (bad * PAGE + 77) as u64).expect("damaged");
        assert_eq!(queued(&object, &range), Err(CacheMiss::Corrupt));
        let extents = object.extents(0..SIZE);
        let absent: Vec<_> = extents.iter().filter(|e| e.kind == ExtentKind::Absent).collect();
        let gone = (bad * PAGE) as u64..((bad + 1) * PAGE) as u64;
        assert!(absent.iter().any(|e| e.range == gone), "{absent:?}");
        let rest = range.start..bad * PAGE;
        assert_eq!(queued(&object, &rest), Ok(want(rest.clone())));
    }
    let corrupt = bed.cache.stats().corrupt_pages;
    assert_eq!(corrupt, 2);
    drop(object);
    bed.end();
}

#[test]
fn a_read_of_data_reads_nothing_where_anything_of_it_is_not_stored() {
    let dir = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(dir.path(), plain());
    let object = filled(&bed);
    object.mark_zero((290 * PAGE) as u64..(291 * PAGE) as u64);
    object.forget((280 * PAGE) as u64..(281 * PAGE) as u64);
    let read = |range: std::ops::Range<usize>| {
        let (before, mut into) = (bed.cache.stats().read_bytes, vec![0xee; range.len()]);
        let done = object.try_read_data(range.start as u64, &mut into);
        (done, bed.cache.stats().read_bytes - before, into)
    };
    for range in [5..PAGE, 3..200 * PAGE + 1, 0..280 * PAGE, 281 * PAGE..290 * PAGE] {
        let (done, _, into) = read(range.clone());
        // On a file system without reads that do not wait nothing is known yet, and nothing wrong.
        assert!(matches!(done, TryRead::Done | TryRead::WouldBlock), "{range:?}: {done:?}");
        assert!(done == TryRead::WouldBlock || into == want(range.clone()), "{range:?}");
    }
    for range in
        [0..281 * PAGE, 290 * PAGE..291 * PAGE, 285 * PAGE..295 * PAGE, 280 * PAGE..PAGES * PAGE]
    {
        let (done, bytes, _) = read(range.clone());
        assert_eq!((done, bytes), (TryRead::Miss(CacheMiss::Absent), 0), "{range:?}");
    }
    drop(object);
    bed.end();
}
