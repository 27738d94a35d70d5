//! An own change keeps an object and its incarnation, so everything from before the change has the right
//! key, place, binding and checksums. Put back in any combination, it is not believed (G2).

mod common;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use common::*;
use netfs::fscache::{CacheBackend, CacheObject, Found, Identity};

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;
const KEY: &[u8] = b"key";
const OLD: u64 = 1;
const NEW: u64 = 2;

/// An object of `size` bytes with these pages stored, of which the owner changes the last one.
struct Case {
    size: u64,
    pages: &'static [u64],
}

/// A map in an attribute, a side file of one chunk, and one of three.
const CASES: [Case; 3] = [
    Case { size: 4 * PAGE, pages: &[0, 2] },
    Case { size: 20 << 20, pages: &[0, 3000] },
    Case { size: 2 * GIB + 5 * PAGE, pages: &[0, 3, GIB / PAGE + 7] },
];

/// What of the old state is put back.
const DATA: u8 = 1;
const MAP: u8 = 2;
const SIDE: u8 = 4;

impl Case {
    fn identity(&self, version: u64) -> Identity {
        identity(&[version as u8], self.size)
    }

    fn changed(&self) -> u64 {
        *self.pages.last().expect("some")
    }

    /// The owner changes its page, which is stored again as it is now.
    fn own_change(&self, object: &std::sync::Arc<dyn CacheObject>) {
        pollster::block_on(std::sync::Arc::clone(object).begin_modify()).expect("marked");
        let range = self.changed() * PAGE..(self.changed() + 1) * PAGE;
        object.set_identity(self.identity(NEW), &[range]).expect("kept");
        fill(object, NEW, self.changed() * PAGE, PAGE as usize);
        object.end_modify();
    }

    /// Every page is right or a miss; how many were right.
    fn hits(&self, object: &std::sync::Arc<dyn CacheObject>, what: &str) -> usize {
        let right = |page: &&u64| {
            let version = if **page == self.changed() { NEW } else { OLD };
            let want = content(version, **page * PAGE, PAGE as usize, self.size);
            match read_any(object, **page * PAGE, PAGE as usize) {
                Ok(bytes) => {
                    assert!(bytes == want, "wrong bytes of page {page} after {what}");
                    true
                }
                Err(_) => false,
            }
        };
        self.pages.iter().filter(right).count()
    }
}

struct Files {
    data: Saved,
    side: Option<Saved>,
}

impl Files {
    fn now(root: &Path) -> Files {
        let side = find(root, "mDkey").map(Saved::new);
        Files { data: Saved::new(find(root, "Dkey").expect("stored")), side }
    }

    fn restore(&self) {
        self.data.restore();
        self.side.iter().for_each(Saved::restore);
    }

    /// Puts parts of this state over what is there, which stays the same file.
    fn put_back(&self, parts: u8) {
        let over = |saved: &Saved| {
            let file = OpenOptions::new().write(true).open(&saved.path).expect("open");
            saved.pages.iter().for_each(|(at, b)| file.write_all_at(b, *at).expect("write"));
        };
        if parts & DATA != 0 {
            over(&self.data);
        }
        if parts & SIDE != 0 {
            self.side.iter().for_each(over);
        }
        let map = self.data.xattrs.iter().find(|(name, _)| *name == "user.netfs.map");
        if let Some((name, value)) = map.filter(|_| parts & MAP != 0) {
            xattr::set(&self.data.path, name, value).expect("set");
        }
    }
}

fn corruptions(bed: &Bed) -> u64 {
    let stats = bed.cache.stats();
    stats.corrupt_pages + stats.corrupt_objects
}

#[test]
fn g2_no_combination_of_parts_from_before_an_own_change_is_believed() {
    for case in &CASES {
        let dir = tempfile::tempdir().expect("dir");
        let bed = Bed::open(dir.path());
        let (object, _) = bed.object(KEY, &case.identity(OLD));
        for page in case.pages {
            fill(&object, OLD, page * PAGE, PAGE as usize);
        }
        close(object);
        let old = Files::now(dir.path());
        let (object, _) = bed.object(KEY, &case.identity(OLD));
        case.own_change(&object);
        close(object);
        let new = Files::now(dir.path());
        let (object, found) = bed.object(KEY, &case.identity(NEW));
        assert_eq!((found, case.hits(&object, "nothing")), (Found::Existing, case.pages.len()));
        close(object);
        let maps = if old.side.is_some() { SIDE } else { MAP };
        for parts in [DATA, maps, DATA | maps] {
            let what = format!("parts {parts} of {} bytes", case.size);
            new.restore();
            old.put_back(parts);
            let before = corruptions(&bed);
            let (object, _) = bed.object(KEY, &case.identity(NEW));
            let hits = case.hits(&object, &what);
            assert!(hits < case.pages.len(), "{what} went unnoticed");
            assert!(corruptions(&bed) > before, "{what} was not counted");
            close(object);
        }
        // All of the old state is what it was, and not what is wanted.
        old.restore();
        let (object, found) = bed.object(KEY, &case.identity(NEW));
        assert_eq!((found, case.hits(&object, "everything")), (Found::ReplacedStale, 0));
        close(object);
        bed.end();
    }
}

/// The same while the object is open: a chunk that is loaded after it was put back.
#[test]
fn g2_a_chunk_from_before_an_own_change_is_not_loaded_into_a_running_object() {
    let case = &CASES[2];
    for reopened in [false, true] {
        let dir = tempfile::tempdir().expect("dir");
        let bed = Bed::open(dir.path());
        let (object, _) = bed.object(KEY, &case.identity(OLD));
        for page in case.pages {
            fill(&object, OLD, page * PAGE, PAGE as usize);
        }
        close(object);
        let old = Files::now(dir.path());
        let (mut object, _) = bed.object(KEY, &case.identity(OLD));
        case.own_change(&object);
        if reopened {
            close(object);
            // Only the first chunk is loaded now.
            object = bed.object(KEY, &case.identity(NEW)).0;
        }
        old.put_back(DATA | SIDE);
        let before = corruptions(&bed);
        assert!(case.hits(&object, "a put-back chunk") < case.pages.len());
        assert!(corruptions(&bed) > before, "counted");
        fill(&object, NEW, case.changed() * PAGE, PAGE as usize);
        assert_eq!(case.hits(&object, "filling again"), case.pages.len(), "it recovers");
        close(object);
        let (object, found) = bed.object(KEY, &case.identity(NEW));
        assert_eq!((found, case.hits(&object, "all")), (Found::Existing, case.pages.len()));
        close(object);
        bed.end();
    }
}

/// An own change of a chunk nobody has loaded: what its map says on disk moves along, and the chunk of a
/// file that has none yet is not missed.
#[test]
fn rows_107_108_own_changes_of_chunks_that_are_not_loaded_keep_the_rest() {
    let case = &CASES[2];
    let dir = tempfile::tempdir().expect("dir");
    let bed = Bed::open(dir.path());
    let (object, _) = bed.object(KEY, &case.identity(OLD));
    for page in case.pages {
        fill(&object, OLD, page * PAGE, PAGE as usize);
    }
    close(object);
    let (object, _) = bed.object(KEY, &case.identity(OLD));
    let begin = || pollster::block_on(std::sync::Arc::clone(&object).begin_modify());
    for (version, page) in [(7, case.changed()), (8, 2 * GIB / PAGE), (9, case.changed() + 1)] {
        begin().expect("marked");
        let range = page * PAGE..(page + 1) * PAGE;
        object.set_identity(identity(&[version], case.size), &[range]).expect("kept");
        object.end_modify();
    }
    close(object);
    let (object, found) = bed.object(KEY, &identity(&[9], case.size));
    assert_eq!((found, case.hits(&object, "own changes")), (Found::Existing, 2));
    let stats = bed.cache.stats();
    assert_eq!((stats.corrupt_pages, stats.corrupt_objects), (0, 0));
    close(object);
    fs::remove_file(find(dir.path(), "mDkey").expect("side file")).expect("removed");
    let (object, found) = bed.object(KEY, &identity(&[9], case.size));
    assert_eq!((found, case.hits(&object, "no map")), (Found::ReplacedCorrupt, 0));
    close(object);
    bed.end();
}
