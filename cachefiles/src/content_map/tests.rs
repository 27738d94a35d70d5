//! The map against a plain list of pages.

use std::ops::Range;

use netfs::fscache::{CacheMiss, ExtentKind, Refusal};
use proptest::prelude::*;

use super::*;
use crate::checksum::Binding;

/// Three chunks' worth of pages would be slow to list; one block less than 2 GiB and a partial block
/// make both borders.
const SIZE: u64 = (CHUNK_PAGES + 3 * BLOCK_PAGES + 5) * PAGE - 100;

/// The pages the tests touch: around the start, around the chunk border, at the end.
fn page() -> impl Strategy<Value = u64> {
    let pages = SIZE.div_ceil(PAGE);
    prop_oneof![0..200u64, CHUNK_PAGES - 130..CHUNK_PAGES + 70, pages - 70..pages]
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Nothing,
    Zero,
    Data(u32),
}

#[derive(Clone, Debug)]
enum Step {
    Write(Range<u64>, u32),
    WriteDuringForget(Range<u64>, u32, Range<u64>),
    FailedWrite(Range<u64>),
    Zero(Range<u64>),
    Forget(Range<u64>),
    OwnChange(Range<u64>, u64),
    Corrupt(u64),
    /// Encode everything that changed and load it into a new map.
    Reload(bool),
}

fn range() -> impl Strategy<Value = Range<u64>> {
    (page(), 1..150u64).prop_map(|(p, n)| p..(p + n).min(SIZE.div_ceil(PAGE)))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (range(), any::<u32>()).prop_map(|(r, c)| Step::Write(r, c)),
        1 => (range(), any::<u32>(), range()).prop_map(|(r, c, f)| Step::WriteDuringForget(r, c, f)),
        1 => range().prop_map(Step::FailedWrite),
        2 => range().prop_map(Step::Zero),
        2 => range().prop_map(Step::Forget),
        1 => (range(), 1..u64::MAX).prop_map(|(r, e)| Step::OwnChange(r, e)),
        1 => page().prop_map(Step::Corrupt),
        1 => any::<bool>().prop_map(Step::Reload),
    ]
}

struct Model(Vec<Known>);

impl Model {
    fn set(&mut self, pages: Range<u64>, f: impl Fn(u64) -> Known) {
        for page in pages {
            self.0[page as usize] = f(page);
        }
    }
}

fn crc_of(page: u64, salt: u32) -> u32 {
    salt.wrapping_add(page as u32)
}

fn crcs(pages: Range<u64>, salt: u32) -> Vec<u32> {
    pages.map(|p| crc_of(p, salt)).collect()
}

fn bytes_of(pages: &Range<u64>) -> Range<u64> {
    pages.start * PAGE..(pages.end * PAGE).min(SIZE)
}

fn place() -> Place {
    Place { side: true, binding: Binding::new("v", b"k", 1, 1) }
}

/// A disk: encoded chunks and their checksum areas.
#[derive(Default)]
struct Disk(BTreeMap<u64, (Vec<u8>, Vec<u8>)>);

impl Disk {
    fn store(&mut self, dirty: Vec<DirtyChunk>) {
        for chunk in dirty {
            let (map, area) = self.0.entry(chunk.number).or_default();
            *map = chunk.map;
            for (segment, bytes) in chunk.segments {
                let at = (segment * CRC_SEGMENT_PAGES * 4) as usize;
                area.resize(area.len().max(at + bytes.len()), 0);
                area[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }

    fn load(&self, map: &mut ContentMap, number: u64) {
        let (pages, edition) = (map.pages_in(number), map.editions().on_disk(number));
        let chunk = match self.0.get(&number) {
            Some((bytes, area)) => {
                Chunk::decode(bytes, Some(area), (number, edition), pages, place())
                    .expect("own encoding")
            }
            None => Chunk::empty(pages),
        };
        map.install(number, chunk);
    }

    /// What a lookup finds out.
    fn editions(&self) -> Editions {
        Editions::stored(self.0.iter().map(|(n, (map, _))| (*n, edition_in(map))))
    }
}

fn apply(map: &mut ContentMap, model: &mut Model, disk: &mut Disk, step: Step) {
    match step {
        Step::Write(pages, salt) => {
            let ticket = map.begin_write(pages.clone()).expect("nothing in flight");
            assert_eq!(map.begin_write(pages.clone()).err(), Some(Refusal::Busy));
            assert!(map.end_write(ticket, Some(&crcs(pages.clone(), salt))));
            model.set(pages, |p| Known::Data(crc_of(p, salt)));
        }
        Step::WriteDuringForget(pages, salt, gone) => {
            let ticket = map.begin_write(pages.clone()).expect("nothing in flight");
            assert!(map.run(pages.start, 1).is_err(), "readable while it is written");
            map.forget(bytes_of(&gone));
            let met = overlap(&pages, &gone);
            assert_eq!(map.end_write(ticket, Some(&crcs(pages.clone(), salt))), !met);
            model.set(gone, |_| Known::Nothing);
            model.set(pages, |p| if met { Known::Nothing } else { Known::Data(crc_of(p, salt)) });
        }
        Step::FailedWrite(pages) => {
            let ticket = map.begin_write(pages.clone()).expect("nothing in flight");
            assert!(!map.end_write(ticket, None));
            model.set(pages, |_| Known::Nothing);
        }
        Step::Zero(pages) => {
            map.mark_zero(bytes_of(&pages));
            model.set(pages, |_| Known::Zero);
        }
        Step::Forget(pages) => {
            // Not on page borders: every page that is touched goes.
            let bytes = bytes_of(&pages);
            map.forget(bytes.start + 1..bytes.end.max(bytes.start + 2) - 1);
            model.set(pages, |_| Known::Nothing);
        }
        Step::Corrupt(page) => {
            if let Ok(run) = map.run(page, 1) {
                assert!(
                    !map.is_corrupt(page, run.seq_of(0).wrapping_sub(1)),
                    "it moved: no corruption"
                );
                assert!(map.is_corrupt(page, run.seq_of(0)));
                model.set(page..page + 1, |_| Known::Nothing);
            }
        }
        Step::OwnChange(pages, edition) => {
            map.own_change(SIZE, &[bytes_of(&pages)], edition).expect("no chunk is lost");
            model.set(pages, |_| Known::Nothing);
        }
        Step::Reload(lazily) => {
            // As a write-back does: what is known of a chunk that is not loaded must be so on disk, too.
            map.postponed().into_iter().for_each(|n| disk.load(map, n));
            let sum = map.editions().sum();
            disk.store(map.take_dirty(place()));
            *map = ContentMap::stored(SIZE, disk.editions());
            assert_eq!(map.editions().sum(), sum, "what the header knows is what the disk has");
            if !lazily {
                return (0..2).for_each(|n| disk.load(map, n));
            }
            // Changes that arrive before the chunk is there take effect when it comes.
            assert_eq!(map.run(0, 1).err(), Some(CacheMiss::NotLoaded));
            map.forget(0..3 * PAGE);
            map.mark_zero(2 * PAGE..4 * PAGE);
            map.own_change(SIZE, &[bytes_of(&(5..6))], sum | 1).expect("no chunk is lost");
            (0..2).for_each(|n| disk.load(map, n));
            model.set(5..6, |_| Known::Nothing);
            model.set(0..2, |_| Known::Nothing);
            model.set(2..4, |_| Known::Zero);
        }
    }
}

fn compare(map: &ContentMap, model: &Model, around: Range<u64>) {
    if let Ok(run) = map.run(around.start, around.end - around.start) {
        for (i, page) in around.clone().take(run.pages).enumerate() {
            let known = if run.zero { Known::Zero } else { Known::Data(run.crcs[i]) };
            assert_eq!(model.0[page as usize], known, "page {i} of a run of {}", run.pages);
            assert_eq!(run.seq_of(i), map.run(page, 1).map_or(0, |one| one.seq_of(0)));
        }
    }
    let len = around.end - around.start;
    let stored = around.clone().all(|page| matches!(model.0[page as usize], Known::Data(_)));
    match map.run_of_data(around.start, len, 40) {
        Ok(run) => assert!(stored && !run.zero && run.pages as u64 <= len.min(40)),
        Err(miss) => assert_eq!((miss, stored), (CacheMiss::Absent, false)),
    }
    for page in around.clone() {
        let want = model.0[page as usize];
        match map.run(page, 1) {
            Ok(run) if run.zero => assert_eq!(want, Known::Zero, "page {page}"),
            Ok(run) => assert_eq!(want, Known::Data(run.crcs[0]), "page {page}"),
            Err(miss) => assert_eq!((miss, want), (CacheMiss::Absent, Known::Nothing)),
        }
    }
    let bytes = around.start * PAGE + 7..(around.end * PAGE).min(SIZE) - 1;
    let mut at = bytes.start;
    let mut last = None;
    for extent in map.extents(bytes.clone()).0 {
        assert_eq!(extent.range.start, at, "no gap");
        assert_ne!(Some(extent.kind), last, "neighbours differ");
        for page in extent.range.start / PAGE..extent.range.end.div_ceil(PAGE) {
            let want = match model.0[page as usize] {
                Known::Nothing => ExtentKind::Absent,
                Known::Zero => ExtentKind::Zero,
                Known::Data(_) => ExtentKind::Data,
            };
            assert_eq!(extent.kind, want, "page {page}");
        }
        (at, last) = (extent.range.end, Some(extent.kind));
    }
    assert_eq!(at, bytes.end, "covers the range");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn n_c59_the_map_equals_a_list_of_pages(steps in proptest::collection::vec(step(), 1..40)) {
        let mut map = ContentMap::empty(SIZE);
        let pages = SIZE.div_ceil(PAGE);
        let mut model = Model(vec![Known::Nothing; pages as usize]);
        let mut disk = Disk::default();
        for step in steps {
            apply(&mut map, &mut model, &mut disk, step);
            compare(&map, &model, 0..420);
            compare(&map, &model, CHUNK_PAGES - 140..pages);
        }
    }

    #[test]
    fn inline_encodings_read_back_and_fit_their_bound(
        pages in 1..900u64,
        marks in proptest::collection::vec((any::<prop::sample::Index>(), 1..80u64, 0..3u8), 0..30),
    ) {
        let mut chunk = Chunk::empty(pages);
        for (at, n, what) in marks {
            let first = at.index(pages as usize) as u64;
            let range = first..(first + n).min(pages);
            match what {
                0 => chunk.forget(range),
                1 => chunk.mark_zero(range),
                _ => range.for_each(|p| chunk.set_data(p, crc_of(p, 77))),
            }
        }
        let inline = Place { side: false, ..place() };
        let bytes = chunk.take_dirty(0, 5, inline).map;
        prop_assert!(bytes.len() as u64 <= worst_inline(pages));
        let back = Chunk::decode(&bytes, None, (0, 5), pages, inline).expect("own encoding");
        prop_assert_eq!((&back.data, &back.zero), (&chunk.data, &chunk.zero));
        for page in (0..pages).filter(|p| chunk.run_at(*p).0 == ExtentKind::Data) {
            prop_assert_eq!(back.crcs[page as usize], crc_of(page, 77));
        }
        let other = Place { binding: Binding::new("v", b"other", 1, 1), ..inline };
        prop_assert!(Chunk::decode(&bytes, None, (0, 5), pages, other).is_err(), "bound to its object");
        prop_assert!(Chunk::decode(&bytes, None, (0, 4), pages, inline).is_err(), "and its edition");
        for cut in 0..bytes.len() {
            prop_assert!(Chunk::decode(&bytes[..cut], None, (0, 5), pages, inline).is_err());
        }
    }

    /// What a checksum cannot keep out: bytes changed by somebody who knows the format.
    #[test]
    fn decoding_survives_forged_encodings(
        side in any::<bool>(),
        marks in proptest::collection::vec((0..890u64, 1..80u64, any::<bool>()), 0..10),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        fixed_part in any::<bool>(),
    ) {
        let mut chunk = Chunk::empty(890);
        for (first, n, zero) in marks {
            let range = first..(first + n).min(890);
            if zero { chunk.mark_zero(range) } else { range.for_each(|p| chunk.set_data(p, 7)) }
        }
        let place = Place { side, ..place() };
        let mut bytes = chunk.take_dirty(0, 5, place).map;
        // The counts, or what follows the fixed part.
        let (from, to) = if fixed_part { (40, 56) } else { (56, bytes.len()) };
        for (at, value) in changes {
            bytes[from + at.index(to - from)] = value;
        }
        bytes[12..16].fill(0);
        let bytes = crate::header::seal(bytes);
        let area = [0; 100];
        let decoded = Chunk::decode(&bytes, side.then_some(&area[..]), (0, 5), 890, place);
        let Ok(mut back) = decoded else { return Ok(()) };
        for (data, zero) in back.data.iter().zip(&*back.zero) {
            prop_assert_eq!(data & zero, 0);
        }
        for page in 0..890 {
            // A page that claims to be data has a checksum to be measured by.
            prop_assert!(back.run_at(page).0 == ExtentKind::Absent || back.snapshot(page, 64).is_some());
        }
        prop_assert!(!back.take_dirty(0, 5, place).map.is_empty());
    }

    #[test]
    fn decoding_survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let inline = Place { side: false, ..place() };
        prop_assert!(Chunk::decode(&bytes, None, (0, 5), 100, inline).is_err());
        prop_assert!(Chunk::decode(&bytes, Some(&bytes), (0, 5), CHUNK_PAGES, place()).is_err());
    }
}

#[test]
fn n_c61_a_block_is_full_only_with_all_its_pages() {
    let mut map = ContentMap::empty(2 * BLOCK_PAGES * PAGE);
    let ticket = map.begin_write(0..BLOCK_PAGES - 1).expect("free");
    assert!(map.end_write(ticket, Some(&crcs(0..BLOCK_PAGES - 1, 1))));
    let kinds: Vec<_> = map.extents(0..BLOCK_PAGES * PAGE).0.iter().map(|e| e.kind).collect();
    assert_eq!(kinds, [ExtentKind::Data, ExtentKind::Absent]);
}

#[test]
fn an_endless_hole_does_not_take_endless_memory() {
    let mut map = ContentMap::empty(1 << 44);
    map.mark_zero(0..1 << 44);
    assert!(map.chunks.len() <= ZERO_CHUNKS_MAX as usize);
    assert_eq!(map.extents(0..4096).0[0].kind, ExtentKind::Zero);
    map.forget(0..u64::MAX);
    assert_eq!(map.extents(0..1 << 44).0.len(), 1);
}
