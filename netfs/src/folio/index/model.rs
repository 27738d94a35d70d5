//! Random operations on a cache and on a plain model of it, compared after every step.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{
    folio::{GRANULE, PAGE_SIZE, Slice, budget, cache::MemoryUsage},
    stats::Counters,
};

const PAGE: u64 = PAGE_SIZE as u64;
const FILES: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    /// Lock what is missing of so many pages from there.
    Lock {
        file: usize,
        page: u64,
        pages: u64,
        cap: u32,
    },
    /// End the n-th fetch under way: filled and published, published on a condition that fails,
    /// failed, or dropped without a word to the index before it is failed.
    End {
        which: prop::sample::Index,
        how: u8,
    },
    Clear {
        file: usize,
    },
    Remove {
        file: usize,
        range: Range<u64>,
    },
    /// Read and compare; keep the slices if asked.
    Read {
        file: usize,
        offset: u64,
        len: usize,
        keep: bool,
    },
    DropKept,
    /// Drop the inode and start a new one.
    Forget {
        file: usize,
    },
}

fn page_number() -> impl Strategy<Value = u64> {
    // Within one granule, over a few, and far out.
    prop_oneof![4 => 0u64..70, 4 => 0u64..600, 1 => (1u64 << 40)..(1 << 40) + 100]
}

fn op() -> impl Strategy<Value = Op> {
    let file = 0..FILES;
    let byte = || (page_number(), 0..PAGE).prop_map(|(page, within)| page * PAGE + within);
    let range = (byte(), 0u64..1 << 21).prop_map(|(start, len)| start..start + len);
    prop_oneof![
        6 => (file.clone(), page_number(), 1u64..200, 12u32..19)
            .prop_map(|(file, page, pages, cap)| Op::Lock { file, page, pages, cap }),
        8 => (any::<prop::sample::Index>(), 0u8..8).prop_map(|(which, how)| Op::End { which, how }),
        1 => file.clone().prop_map(|file| Op::Clear { file }),
        1 => (file.clone(), range).prop_map(|(file, range)| Op::Remove { file, range }),
        5 => (file.clone(), byte(), 1usize..300_000, any::<bool>())
            .prop_map(|(file, offset, len, keep)| Op::Read { file, offset, len, keep }),
        1 => Just(Op::DropKept),
        1 => file.prop_map(|file| Op::Forget { file }),
    ]
}

/// One folio of the model.
struct Known {
    file: usize,
    range: Range<u64>,
    uptodate: bool,
    /// What its bytes are made from.
    seed: u64,
    real: Arc<Folio>,
}

struct Fetch {
    file: usize,
    seed: u64,
    locked: LockedFolio,
    /// Which inode of `file` it was begun for.
    life: u64,
}

struct World {
    cache: Arc<FolioCache>,
    counters: Arc<Counters>,
    files: Vec<Arc<FolioIndex>>,
    lives: Vec<u64>,
    /// What should be indexed.
    known: Vec<Known>,
    fetches: Vec<Fetch>,
    kept: Vec<(Slice, u8)>,
    evicted: u64,
    seed: u64,
}

/// The byte at `offset` of a folio filled from `seed`.
fn byte(seed: u64, offset: u64) -> u8 {
    (seed.wrapping_mul(31) ^ (offset / 512)) as u8
}

impl World {
    fn new(budget: u64) -> World {
        let counters = Arc::new(Counters::default());
        let cache = FolioCache::new(budget, Arc::clone(&counters));
        let files = (0..FILES).map(|_| cache.new_index()).collect();
        World {
            cache,
            counters,
            files,
            lives: vec![0; FILES],
            known: Vec::new(),
            fetches: Vec::new(),
            kept: Vec::new(),
            evicted: 0,
            seed: 0,
        }
    }

    fn at(&self, file: usize, offset: u64) -> Option<&Known> {
        self.known.iter().find(|k| k.file == file && k.range.contains(&offset))
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Lock { file, page, pages, cap } => self.lock(file, page, pages, cap),
            Op::End { which, how } => {
                if !self.fetches.is_empty() {
                    let at = which.index(self.fetches.len());
                    let fetch = self.fetches.swap_remove(at);
                    self.end(fetch, how);
                }
            }
            Op::Clear { file } => {
                let removed = self.files[file].clear();
                self.expect_removed(file, removed, |_| true);
            }
            Op::Remove { file, range } => {
                let removed = self.files[file].remove_range(range.clone());
                let empty = range.is_empty();
                self.expect_removed(file, removed, |k| {
                    !empty && k.start < range.end && range.start < k.end
                });
            }
            Op::Read { file, offset, len, keep } => self.read(file, offset, len, keep),
            Op::DropKept => self.kept.clear(),
            Op::Forget { file } => {
                self.files[file] = self.cache.new_index();
                self.lives[file] += 1;
                self.known.retain(|k| k.file != file);
            }
        }
    }

    fn lock(&mut self, file: usize, page: u64, pages: u64, cap: u32) {
        let range = page * PAGE..(page + pages) * PAGE;
        let runs = self.files[file].absent_runs(range.clone());
        let absent: u64 =
            range.clone().step_by(PAGE_SIZE).filter(|at| self.at(file, *at).is_none()).count()
                as u64;
        assert_eq!(runs.iter().map(|r| (r.end - r.start) / PAGE).sum::<u64>(), absent);
        assert!(runs.windows(2).all(|w| w[0].end < w[1].start), "runs are joined and in order");
        let before = self.cache.usage();
        let Some(window) = self.cache.alloc_window(&runs, u64::MAX, 1 << cap) else {
            self.expect_exhausted(&runs, 1 << cap, before);
            return;
        };
        let locked = self.files[file].lock_window(window);
        assert_eq!(locked.iter().map(|l| l.folio.len() as u64).sum::<u64>(), absent * PAGE);
        for locked in locked {
            self.seed += 1;
            let (range, real) = (locked.folio.range(), Arc::clone(&locked.folio));
            assert_eq!(range.start % (range.end - range.start), 0, "naturally aligned");
            self.known.push(Known { file, range, uptodate: false, seed: self.seed, real });
            self.fetches.push(Fetch { file, seed: self.seed, locked, life: self.lives[file] });
        }
    }

    /// A refusal is right only if what cannot be evicted leaves no room.
    fn expect_exhausted(&self, runs: &[Range<u64>], cap: usize, before: MemoryUsage) {
        let needed: u64 = runs
            .iter()
            .flat_map(|r| crate::folio::window::folio_sizes(r.clone(), u64::MAX, cap))
            .map(|(_, len)| budget::cost(len as u64))
            .sum();
        let uptodate = self.known.iter().filter(|k| k.uptodate);
        let evictable: u64 = uptodate.map(|k| budget::cost(k.range.end - k.range.start)).sum();
        assert!(before.budgeted - evictable + needed > before.budget, "refused for no reason");
    }

    fn end(&mut self, fetch: Fetch, how: u8) {
        let Fetch { file, seed, locked: LockedFolio { folio, mut fill }, life } = fetch;
        let here = self.known.iter().position(|k| k.seed == seed);
        let index = Arc::clone(&self.files[file]);
        if life != self.lives[file] {
            assert_eq!(pollster::block_on(folio.wait_unlocked()), Unlocked::Failed);
            return;
        }
        if how < 6 {
            let bytes: Vec<u8> = folio.range().map(|at| byte(seed, at)).collect();
            fill.copy_in(&bytes);
            fill.advance(bytes.len());
        }
        let published = match how {
            0..=4 => index.publish(&folio),
            5 => index.publish_if(&folio, || false),
            6 => index.publish(&folio), // not filled
            _ => {
                index.fail(&folio);
                false
            }
        };
        assert_eq!(published, here.is_some() && how <= 4, "published iff still indexed and whole");
        match here {
            Some(at) if published => self.known[at].uptodate = true,
            Some(at) => drop(self.known.swap_remove(at)),
            None => {}
        }
        assert_eq!(folio.is_uptodate(), published);
        assert!(!folio.is_locked());
    }

    fn expect_removed(&mut self, file: usize, removed: Removed, hit: impl Fn(&Range<u64>) -> bool) {
        let mut expected = Removed::default();
        self.known.retain(|k| {
            let gone = k.file == file && hit(&k.range);
            if gone {
                expected.folios += 1;
                expected.bytes += k.range.end - k.range.start;
                expected.locked += usize::from(!k.uptodate);
                assert!(!k.real.is_locked());
            }
            !gone
        });
        assert_eq!(removed, expected);
    }

    fn read(&mut self, file: usize, offset: u64, len: usize, keep: bool) {
        let mut expected = Vec::new();
        while expected.len() < len {
            let at = offset + expected.len() as u64;
            let Some(known) = self.at(file, at).filter(|k| k.uptodate) else { break };
            let end = known.range.end.min(offset + len as u64);
            expected.extend((at..end).map(|at| byte(known.seed, at)));
        }
        let mut got = vec![0; len];
        let n = self.files[file].copy_uptodate(offset, &mut got);
        assert!(got[..n] == expected, "copied {n} of {}", expected.len());
        let mut slices = Slices::new();
        let n = self.files[file].slices_uptodate(offset, len, &mut slices);
        assert!(n == expected.len() && slices.iter().flat_map(|s| s.iter()).eq(&expected));
        if keep {
            self.kept.extend(slices.into_iter().map(|s| (s.clone(), s[0])));
        }
    }

    /// Compares everything.
    fn check(&mut self) {
        // Evictions are the policy's business; the model learns of them here, and they are counted.
        let files = &self.files;
        let mut evicted = 0;
        self.known.retain(|k| {
            let there = match files[k.file].get(k.range.start) {
                Lookup::Absent => false,
                Lookup::Locked(f) | Lookup::Uptodate(f) => Arc::ptr_eq(&f, &k.real),
                Lookup::Partial => false,
            };
            if !there {
                assert!(k.uptodate, "only uptodate folios are evicted");
                let reason = files[k.file].miss_reason(k.range.clone());
                assert_eq!(reason, MissReason::Capacity);
                evicted += k.range.end - k.range.start;
            }
            there
        });
        self.evicted += evicted;
        assert_eq!(self.counters.snapshot().evicted_bytes, self.evicted);
        for k in &self.known {
            assert_eq!(k.real.is_uptodate(), k.uptodate);
            let listed = !files[k.file].locked_in(k.range.clone()).is_empty();
            assert_eq!(listed, !k.uptodate);
        }
        for (slice, first) in &self.kept {
            assert_eq!(slice[0], *first, "slices never change");
        }
        self.check_usage();
    }

    fn check_usage(&self) {
        let usage = self.cache.usage();
        let sum = |uptodate: bool| -> u64 {
            let mine = self.known.iter().filter(|k| k.uptodate == uptodate);
            mine.map(|k| k.range.end - k.range.start).sum()
        };
        let indexed: HashMap<u64, ()> = self.known.iter().map(|k| (k.seed, ())).collect();
        let orphans = self.fetches.iter().filter(|f| !indexed.contains_key(&f.seed));
        let orphans: u64 = orphans.map(|f| f.locked.folio.len() as u64).sum();
        assert!(usage.budgeted <= usage.budget);
        assert_eq!(
            (usage.indexed, usage.in_flight, usage.abandoned),
            (sum(true), sum(false), orphans)
        );
        assert_eq!(
            usage.budgeted,
            usage.indexed + usage.in_flight + usage.abandoned + usage.metadata
        );
        if self.kept.is_empty() {
            assert_eq!(usage.pinned, 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn equals_a_plain_model_and_leaks_nothing(
        granules in 1u64..12,
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new(granules * GRANULE as u64);
        for op in ops {
            world.step(op);
            world.check();
        }
        let World { cache, files, known, fetches, kept, .. } = world;
        drop((files, known, fetches, kept));
        let usage = cache.usage();
        let nothing = MemoryUsage {
            budget: usage.budget,
            mapped: usage.mapped,
            ..MemoryUsage::default()
        };
        prop_assert_eq!(usage, nothing);
    }
}
