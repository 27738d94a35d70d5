//! Random writes, fetches, uploads, drops and truncations of one file, against plain arrays.

use bytes::Bytes;
use proptest::prelude::*;

use super::{super::cache::NewFolio, tests::*, *};
use crate::{
    clock::BootTime,
    folio::{GRANULE, PAGE_SIZE, Slice, Writer, lent::LENT_MIN, memory::NewMem},
};

const LEN: usize = 6 * PAGE_SIZE;

#[derive(Clone, Debug)]
enum Op {
    Write(usize, usize),
    /// Of bytes that are lent.
    Lend(usize, usize),
    /// With a folio as large as the second number says.
    Fetch(usize, usize),
    EndFetch(usize, bool),
    Take(usize, usize),
    EndUpload(bool),
    Read(usize, usize),
    Unpin,
    Clear,
    Evict,
    Truncate(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..LEN;
    let len = prop_oneof![3 => 1usize..200, 1 => 1usize..3 * PAGE_SIZE, 1 => Just(PAGE_SIZE)];
    prop_oneof![
        6 => (at.clone(), len.clone()).prop_map(|(a, n)| Op::Write(a, n)),
        2 => (0usize..2, LENT_MIN..=LEN).prop_map(|(a, n)| Op::Lend(a * PAGE_SIZE, n)),
        3 => (at.clone(), 0usize..3).prop_map(|(a, n)| Op::Fetch(a, n)),
        3 => (0usize..4, prop::bool::weighted(0.8)).prop_map(|(i, ok)| Op::EndFetch(i, ok)),
        2 => (at.clone(), len.clone()).prop_map(|(a, n)| Op::Take(a, n)),
        2 => any::<bool>().prop_map(Op::EndUpload),
        4 => (at.clone(), len).prop_map(|(a, n)| Op::Read(a, n)),
        1 => Just(Op::Unpin),
        1 => Just(Op::Clear),
        1 => Just(Op::Evict),
        1 => at.prop_map(Op::Truncate),
    ]
}

struct World {
    cache: Arc<FolioCache>,
    index: Arc<FolioIndex>,
    /// What the server has, and how often it changed.
    server: Vec<u8>,
    version: u32,
    /// What was written here, newest value, and not acknowledged.
    local: Vec<Option<u8>>,
    fetches: Vec<(LockedFolio, Vec<u8>, u32)>,
    upload: Vec<(Sent, Vec<u8>)>,
    pins: Vec<(Slice, Vec<u8>)>,
    lent: Vec<(Bytes, u8)>,
    next: u8,
}

impl World {
    fn new() -> World {
        let cache = cache(2 << 20);
        let server = (0..LEN).map(|i| (i / 7) as u8 | 1).collect();
        let index = cache.new_index();
        let (fetches, upload, pins, lent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let local = vec![None; LEN];
        World { cache, index, server, version: 0, local, fetches, upload, pins, lent, next: 100 }
    }

    fn view(&self, range: Range<usize>) -> Vec<u8> {
        range.map(|i| self.local[i].unwrap_or(self.server[i])).collect()
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Write(at, n) => self.write(at, n.min(LEN - at)),
            Op::Lend(at, n) => self.lend(at, n.min(LEN - at)),
            Op::Fetch(at, order) => self.fetch(at as u64, PAGE_SIZE << order),
            Op::EndFetch(i, ok) if !self.fetches.is_empty() => {
                let fetch = self.fetches.remove(i % self.fetches.len());
                self.end_fetch(fetch, ok);
            }
            Op::Take(at, n) if self.upload.is_empty() => {
                let taken = self.index.take_dirty(&(at as u64..(at + n) as u64), u64::MAX);
                for sent in taken {
                    let bytes = sent.data.to_vec();
                    let range = sent.range.start as usize..sent.range.end as usize;
                    assert_eq!(bytes, self.view(range), "what is sent is what was written");
                    self.upload.push((sent, bytes));
                }
                self.check_known();
            }
            Op::EndUpload(ok) => self.end_upload(ok),
            Op::Read(at, n) => self.read(at, n.min(LEN - at)),
            Op::Unpin => self.check_pins(),
            Op::Clear => drop(self.index.clear()),
            Op::Evict => drop(self.index.evict_all()),
            Op::Truncate(at) if self.upload.is_empty() => {
                self.version += 1;
                self.server[at..].fill(0);
                self.local[at..].fill(None);
                self.index.truncate(at as u64);
            }
            _ => {}
        }
        let local = self.index.dirty_bytes() as usize;
        let newest = self.local.iter().filter(|b| b.is_some()).count();
        // More where neighbours were joined or a byte is both dirty and on its way.
        assert!(newest <= local, "{newest} {local}");
        assert_eq!(self.cache.room().dirty(), local as u64);
    }

    /// Pages that go to the disk cache are what the server will have once all this has been sent.
    fn check_known(&self) {
        let mut after = self.server.clone();
        for (sent, bytes) in &self.upload {
            after[sent.range.start as usize..sent.range.end as usize].copy_from_slice(bytes);
        }
        for (offset, slice) in self.upload.iter().flat_map(|(sent, _)| &sent.known) {
            assert!(offset.is_multiple_of(PAGE_SIZE as u64) && slice.len() % PAGE_SIZE == 0);
            let at = *offset as usize;
            assert_eq!(slice[..], after[at..at + slice.len()], "the pages at {offset}");
        }
        for (sent, _) in &self.upload {
            let whole = sent.range.start.is_multiple_of(PAGE_SIZE as u64)
                && sent.range.end.is_multiple_of(PAGE_SIZE as u64);
            let known: usize = sent.known.iter().map(|(_, slice)| slice.len()).sum();
            assert!(!whole || known as u64 == sent.range.end - sent.range.start, "all of it");
        }
    }

    fn write(&mut self, at: usize, n: usize) {
        self.next = self.next.wrapping_add(1);
        self.write_bytes(at, &vec![self.next; n], None);
    }

    /// The bytes are looked at to the end: nobody may write to them.
    fn lend(&mut self, at: usize, n: usize) {
        self.next = self.next.wrapping_add(1);
        let bytes = Bytes::from(vec![self.next; n]);
        self.write_bytes(at, &bytes, Some(&bytes));
        self.lent.push((bytes, self.next));
    }

    fn write_bytes(&mut self, at: usize, bytes: &[u8], lent: Option<&Bytes>) {
        let n = bytes.len();
        let (writer, now) = (Writer(u32::from(self.next % 2)), BootTime::ZERO);
        let whole = Piece { offset: at as u64, bytes, lent, writer, group: None, now };
        let mut done = 0;
        while done < n {
            let rest = whole.after(done);
            match self.index.write_step(&rest) {
                Step::Wrote(bytes) => done += bytes,
                Step::Covered(place) => {
                    let new = self.lent(place, &rest).pop().expect("one folio");
                    let new = Written::new(new.offset, new.mem, &rest, false);
                    let Step::Wrote(bytes) = self.index.replace(new, &rest) else {
                        unreachable!("nobody else is there")
                    };
                    assert!(bytes > 0, "what was there a moment ago");
                    done += bytes;
                }
                Step::Absent(run) => {
                    let new = self.lent(run, &rest).into_iter();
                    let new = new.map(|n| Written::new(n.offset, n.mem, &rest, false));
                    let new = new.filter(|w| w.bytes() > 0).collect();
                    done += self.index.insert_written(new, &rest, self.index.data_gen());
                }
                Step::Shared(folio) => {
                    let mem = self.one(&folio);
                    self.index.unshare(&folio, mem);
                }
                Step::NeedsOverlay(folio) => {
                    let mem = self.one(&folio);
                    self.index.attach_overlay(&folio, mem, now);
                }
                Step::ReadFirst(range) => {
                    self.fetch(range.start, range.end as usize - range.start as usize);
                    while let Some(fetch) = self.fetches.pop() {
                        self.end_fetch(fetch, true);
                    }
                }
                Step::OtherGroup(_) => unreachable!("there are no groups"),
            }
        }
        self.local[at..at + n].fill(Some(self.next));
    }

    fn memory(&self, run: Range<u64>, cap: usize) -> Vec<NewFolio> {
        self.cache.alloc_window(&[run], u64::MAX, cap).expect("within the budget")
    }

    fn lent(&self, run: Range<u64>, piece: &Piece<'_>) -> Vec<NewFolio> {
        let lend = |place| piece.lend(place);
        let window = self.cache.alloc_lent(&[run], piece.end(), GRANULE, lend);
        window.expect("within the budget")
    }

    fn one(&self, folio: &Arc<Folio>) -> NewMem {
        self.memory(folio.range(), GRANULE).pop().expect("one folio").mem
    }

    fn fetch(&mut self, at: u64, len: usize) {
        let start = at / len as u64 * len as u64;
        let range = start..(start + len as u64).min(LEN as u64);
        let mut window = Vec::new();
        for run in self.index.absent_runs(range.clone()) {
            window.extend(self.memory(run, GRANULE));
        }
        for place in self.index.partial_in(range) {
            window.extend(self.memory(place, GRANULE));
        }
        for locked in self.index.lock_window(window) {
            let r = locked.folio.range();
            let bytes = self.server[r.start as usize..r.end as usize].to_vec();
            self.fetches.push((locked, bytes, self.version));
        }
    }

    fn end_fetch(&mut self, (locked, bytes, version): (LockedFolio, Vec<u8>, u32), ok: bool) {
        let LockedFolio { folio, mut fill } = locked;
        if !ok {
            drop(fill);
            return self.index.fail(&folio);
        }
        fill.copy_in(&bytes);
        fill.advance(bytes.len());
        drop(fill);
        // On its way to the disk cache, as fetched.
        let mut held = (!folio.is_dirty()).then(|| folio.slice_filled(0..folio.len()));
        let current = version == self.version;
        self.index.publish_letting_go(&folio, &mut held, || current);
        self.pins.extend(held.map(|slice| (slice, bytes)));
    }

    fn end_upload(&mut self, ok: bool) {
        let upload = std::mem::take(&mut self.upload);
        for (sent, bytes) in &upload {
            assert_eq!(&sent.data[..], &bytes[..], "a snapshot does not change");
            if !ok {
                self.index.redirty(&sent.range);
                continue;
            }
            let range = sent.range.start as usize..sent.range.end as usize;
            self.server[range.clone()].copy_from_slice(bytes);
            self.version += 1;
            self.index.written(&sent.range);
            let again = self.index.take_dirty(&sent.range, u64::MAX);
            self.local[range].fill(None);
            for newer in again {
                let at = newer.range.start as usize;
                for (i, byte) in newer.data.iter().enumerate() {
                    self.local[at + i] = Some(*byte);
                }
                self.index.redirty(&newer.range);
            }
        }
    }

    fn read(&mut self, at: usize, n: usize) {
        let mut slices = lookup::Slices::new();
        let found = self.index.slices_uptodate(at as u64, n, &mut slices);
        let mut from = at;
        for slice in slices {
            let expected = self.view(from..from + slice.len());
            assert_eq!(&slice[..], &expected[..], "read of {n} at {at}, {found} found");
            from += slice.len();
            self.pins.push((slice, expected));
        }
    }

    fn check_pins(&mut self) {
        for (slice, bytes) in self.pins.drain(..) {
            assert_eq!(&slice[..], &bytes[..], "a slice does not change");
        }
    }

    /// Ends everything; then all that was written is on the server.
    fn finish(mut self) {
        while let Some(fetch) = self.fetches.pop() {
            self.end_fetch(fetch, true);
        }
        let all = self.view(0..LEN);
        self.end_upload(true);
        self.step(Op::Take(0, LEN));
        self.end_upload(true);
        assert_eq!(self.server, all, "nothing that was written is lost");
        assert_eq!(self.index.dirty_bytes(), 0);
        self.read(0, LEN);
        self.check_pins();
        let usage = self.cache.usage();
        drop(self.index);
        assert_eq!(self.cache.room().dirty(), 0);
        assert!(usage.budgeted <= usage.budget);
        assert_eq!(self.cache.usage().budgeted, 0, "all memory is given back");
        self.cache.let_go_returned();
        for (bytes, value) in self.lent {
            assert!(bytes.iter().all(|b| *b == value), "nobody wrote to the caller's bytes");
            assert!(bytes.is_unique(), "and nobody has them any more");
        }
    }
}

/// Small enough for Miri, which watches every access.
#[test]
fn w1_memory_that_anybody_holds_is_copied_before_it_is_written_to() {
    let mut world = World::new();
    // Partial, then filled over, with a write on the way; read, written to under the slice, and read again.
    world.write(10, 20);
    world.fetch(0, PAGE_SIZE);
    world.write(15, 30);
    let fetch = world.fetches.pop().expect("one page");
    world.end_fetch(fetch, true);
    world.read(0, 60);
    world.write(20, 4);
    world.read(0, 60);
    world.check_pins();
    world.write(30, 4);
    world.read(0, 60);
    world.step(Op::Take(0, 60));
    world.write(12, 3);
    world.end_upload(true);
    world.read(0, 60);
    world.check_pins();
}

/// Small enough for Miri, too.
#[test]
fn r_2_lent_bytes_are_the_folio_itself_and_are_never_written_to() {
    let mut world = World::new();
    world.lend(0, LEN);
    let Lookup::Uptodate(folio) = world.index.get(0) else { panic!("written as a whole") };
    let own = world.lent[0].0.as_ptr();
    assert_eq!(folio.slice(0..1).as_ptr(), own, "not a copy");
    drop(folio);
    world.read(0, LEN);
    world.step(Op::Take(0, LEN));
    // Into a page of it, then over all of it, while it is on its way and a reader has it.
    world.write(5000, 3);
    world.lend(0, LEN);
    world.end_upload(true);
    world.read(0, LEN);
    world.check_pins();
    assert_eq!(world.cache.counters().snapshot().write_lent_bytes, 2 * LENT_MIN as u64);
    world.finish();
}

/// A writer found an overlay held, and went for memory; meanwhile the file's version moved.
#[test]
fn w1_a_folio_demoted_under_a_writer_that_was_to_copy_it_is_left_alone() {
    let mut world = World::new();
    world.fetch(0, PAGE_SIZE);
    world.write(10, 20);
    world.step(Op::Take(0, PAGE_SIZE));
    let writer = Writer(0);
    let rest =
        Piece { offset: 12, bytes: &[9; 3], lent: None, writer, group: None, now: BootTime::ZERO };
    let Step::Shared(folio) = world.index.write_step(&rest) else { panic!("an upload holds it") };
    world.step(Op::Clear);
    let mem = world.one(&folio);
    world.index.unshare(&folio, mem);
    world.write(12, 3);
    world.end_upload(true);
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn n_c19_n_c24_n_c25_dirt_survives_everything_and_slices_never_change(
        ops in prop::collection::vec(op(), 1..120)
    ) {
        let mut world = World::new();
        ops.into_iter().for_each(|op| world.step(op));
        world.finish();
    }
}
