//! Random lives of a few objects against a plain reference, compared after every step: fills, zeros,
//! forgetting, cut-overs, closes and restarts, with a descriptor budget of two.

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::*;
use netfs::fscache::{CacheMiss, CacheObject, ExtentKind, Found};
use proptest::prelude::*;

const PAGE: u64 = 4096;
/// Inline map, inline map of several blocks, side file.
const SIZES: [u64; 3] = [2 * PAGE + 1, 130 * PAGE - 5, 5000 * PAGE];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Zero,
    Data,
}

#[derive(Clone, Debug)]
enum Op {
    Lookup { version: u8 },
    Fill(u64, u64),
    Zero(u64, u64),
    Forget(u64, u64),
    CutOver { version: u8 },
    Commit,
    Close,
    Retire,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let span = || (0..5000u64, 1..300u64);
    prop_oneof![
        3 => (0..3u8).prop_map(|version| Op::Lookup { version }),
        6 => span().prop_map(|(p, n)| Op::Fill(p, n)),
        2 => span().prop_map(|(p, n)| Op::Zero(p, n)),
        2 => span().prop_map(|(p, n)| Op::Forget(p, n)),
        1 => (0..3u8).prop_map(|version| Op::CutOver { version }),
        1 => Just(Op::Commit),
        2 => Just(Op::Close),
        1 => Just(Op::Retire),
        1 => Just(Op::Restart),
    ]
}

/// What an object holds, whether it is open or not.
#[derive(Default)]
struct Reference {
    version: u8,
    pages: BTreeMap<u64, Page>,
    open: Option<Arc<dyn CacheObject>>,
}

struct Run {
    bed: Option<Bed>,
    objects: Vec<Reference>,
    dir: tempfile::TempDir,
}

fn seed(key: usize, version: u8) -> u64 {
    key as u64 * 100 + u64::from(version)
}

impl Run {
    fn new() -> Run {
        let dir = tempfile::tempdir().expect("dir");
        let objects = (0..SIZES.len() * 2).map(|_| Reference::default()).collect();
        let mut run = Run { bed: None, objects, dir };
        run.restart();
        run
    }

    fn restart(&mut self) {
        self.objects.iter_mut().for_each(|o| o.open = None);
        if let Some(bed) = self.bed.take() {
            bed.end();
        }
        self.bed = Some(Bed::with(builder(self.dir.path()).max_descriptors(2)));
    }

    fn step(&mut self, key: usize, op: &Op) {
        let size = SIZES[key % SIZES.len()];
        let id = |version: u8| identity(&[version], size);
        let object = &mut self.objects[key];
        let pages = |first: u64, n: u64| {
            let all = size.div_ceil(PAGE);
            let first = first % all;
            first..(first + n).min(all)
        };
        match (op, object.open.clone()) {
            (Op::Restart, _) => self.restart(),
            (Op::Lookup { version }, None) => {
                let bed = self.bed.as_ref().expect("open");
                let (opened, found) = bed.object(format!("key{key}").as_bytes(), &id(*version));
                let same = object.version == *version;
                // An object that holds nothing may or may not have a file.
                if !object.pages.is_empty() {
                    assert_eq!(found, if same { Found::Existing } else { Found::ReplacedStale });
                }
                if !same {
                    object.pages.clear();
                }
                object.version = *version;
                object.open = Some(opened);
            }
            (Op::Fill(first, n), Some(open)) => {
                let pages = pages(*first, *n);
                let len = (pages.end - pages.start) * PAGE;
                fill(&open, seed(key, object.version), pages.start * PAGE, len as usize);
                object.pages.extend(pages.map(|p| (p, Page::Data)));
            }
            (Op::Zero(first, n), Some(open)) => {
                let pages = pages(*first, *n);
                open.mark_zero(pages.start * PAGE..(pages.end * PAGE).min(size));
                object.pages.extend(pages.map(|p| (p, Page::Zero)));
            }
            (Op::Forget(first, n), Some(open)) => {
                let pages = pages(*first, *n);
                open.forget(pages.start * PAGE..(pages.end * PAGE).min(size));
                object.pages.retain(|p, _| !pages.contains(p));
            }
            (Op::CutOver { version }, Some(open)) => {
                object.open = Some(open.cut_over(id(*version)).expect("cut over"));
                object.version = *version;
                object.pages.clear();
            }
            (Op::Commit, Some(open)) => pollster::block_on(open.commit()).expect("commit"),
            (Op::Close, Some(open)) => {
                close(open);
                object.open = None;
            }
            (Op::Retire, Some(open)) => {
                retire(open);
                object.open = None;
                object.pages.clear();
            }
            _ => {}
        }
    }

    fn compare(&self) {
        for (key, object) in self.objects.iter().enumerate() {
            let Some(open) = &object.open else { continue };
            let size = SIZES[key % SIZES.len()];
            let seed = seed(key, object.version);
            // Reading at the start loads the map.
            let first = read_any(open, 0, 1);
            assert_eq!(first.is_ok(), object.pages.contains_key(&0), "{first:?}");
            for extent in open.extents(0..size) {
                let pages = extent.range.start / PAGE..extent.range.end.div_ceil(PAGE);
                let want = match extent.kind {
                    ExtentKind::Data => Some(Page::Data),
                    ExtentKind::Zero => Some(Page::Zero),
                    ExtentKind::Absent => None,
                    ExtentKind::NotLoaded => panic!("just read"),
                };
                for page in pages {
                    assert_eq!(object.pages.get(&page).copied(), want, "key {key} page {page}");
                }
                // Not on page borders.
                let start = extent.range.start + (extent.range.end - extent.range.start) / 3;
                let len = (extent.range.end - start).min(9000) as usize;
                let mut expected = content(seed, start, len, size);
                match extent.kind {
                    ExtentKind::Zero => expected.fill(0),
                    ExtentKind::Data => {}
                    _ => {
                        assert_eq!(read_any(open, start, len), Err(CacheMiss::Absent));
                        continue;
                    }
                }
                assert!(read_any(open, start, len) == Ok(expected), "key {key} at {start}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_backend_equals_a_plain_reference(
        steps in proptest::collection::vec((0..SIZES.len() * 2, op()), 1..60)
    ) {
        let mut run = Run::new();
        for (key, op) in steps {
            run.step(key, &op);
            run.compare();
        }
    }
}
