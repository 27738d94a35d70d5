//! How far ahead of sequential readers to fetch, as pure state.
//!
//! An open file may be read by several streams at a time (threads of one program, clients of one that
//! exports the file), each in slightly wrong order (NFS clients send their reads in parallel). So a read
//! belongs to the stream whose end is nearest, within a few times its own length; a read near no stream
//! starts one.
//!
//! A stream's window is a part of what the stream has read, so whatever it was, the waste stays a part
//! of the use: two small reads side by side are worth four pages, a megabyte half a megabyte. It is
//! further bounded by a part of the memory budget, because pages that nobody has read yet wait in the
//! small queue of the eviction policy, and all streams share that. The next window is asked for when the
//! reader has passed the middle of the last one.
//!
//! Where more than half of what was fetched ahead is evicted unread, streams must prove themselves for
//! longer and get smaller windows, until it has become better.

use std::{collections::VecDeque, ops::Range};

use crate::{
    context::FillPolicy,
    folio::{AheadSoFar, GRANULE, PAGE_SIZE},
};

/// Streams followed in one open file; the one that was quiet for longest is forgotten.
const STREAMS: usize = 16;
/// Reads that make a stream worth reading ahead for. A read at the start of a file counts as these.
const SEQUENTIAL: u32 = 2;
/// A read belongs to a stream if it starts within so many times its own length of where that ends.
const REORDER: u64 = 8;
/// Bounds of that distance, for very small and very large reads.
const REORDER_BYTES: (u64, u64) = (32 * 1024, 2 << 20);
/// First window where single pages can be fetched.
const FIRST: u64 = 16 * 1024;
/// A stream has at most this part of the memory budget.
const BUDGET_PART: u64 = 128;
/// After so many bytes fetched ahead it is looked how many of them were for nothing.
const REVIEW: u64 = 1 << 20;
/// Most steps of caution.
const CAUTION_MAX: u32 = 3;

/// Limits of a context.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tuning {
    /// Smallest and largest window in bytes; the largest is 0 for none.
    first: u64,
    max: u64,
    /// Windows end at multiples of this.
    unit: u64,
    /// The reader has said that it reads in order: it need not prove it.
    eager: bool,
}

impl Tuning {
    /// What `policy` means with windows of at most `max` bytes in a memory budget of `budget`.
    pub(crate) fn new(policy: FillPolicy, max: u64, budget: u64) -> Tuning {
        let part = max.min(budget / BUDGET_PART);
        match policy {
            FillPolicy::Exact => Tuning::default(),
            FillPolicy::Auto => Tuning {
                first: FIRST.min(max),
                max: part.max(FIRST).min(max),
                unit: PAGE_SIZE as u64,
                eager: false,
            },
            FillPolicy::Granule => {
                let granule = GRANULE as u64;
                let (first, max) = (granule.min(max), part.max(granule).min(max));
                Tuning { first, max, unit: granule, eager: false }
            }
        }
    }

    /// For a reader that says it reads in order: at once as far as others get at most, then twice that.
    pub(crate) fn eager(&self) -> Tuning {
        Tuning { first: self.max, max: self.max.saturating_mul(2), eager: self.is_on(), ..*self }
    }

    /// Whether anything is ever read ahead.
    pub(crate) fn is_on(&self) -> bool {
        self.max > 0
    }
}

/// One reader's way through the file.
#[derive(Debug, Clone)]
struct Stream {
    /// Where the furthest read ended.
    next: u64,
    /// Up to where readahead was asked for; never below `next` when it matters.
    ahead: u64,
    /// The last window in bytes.
    window: u64,
    /// Where it began.
    start: u64,
    /// Bytes it has read, as far as they lie between its start and its end: clients that read the same
    /// prove no more than one.
    read: u64,
    /// Reads that moved it on.
    reads: u32,
}

impl Stream {
    fn new(range: &Range<u64>) -> Stream {
        let reads = if range.start == 0 { SEQUENTIAL } else { 1 };
        let Range { start, end: next } = *range;
        Stream { next, ahead: next, window: 0, start, read: 0, reads }
    }

    fn advance(&mut self, range: &Range<u64>) {
        if range.end > self.next {
            self.reads = self.reads.saturating_add(1);
            self.next = range.end;
        }
        self.start = self.start.min(range.start);
        self.read = self.read.saturating_add(range.end - range.start).min(self.next - self.start);
    }

    /// What to fetch now, if the reader has come near enough to the end of the last window.
    fn window(&mut self, limit: u64, tuning: &Tuning, caution: u32) -> Option<Range<u64>> {
        let from = self.ahead.max(self.next);
        let proven = tuning.eager || self.reads >= SEQUENTIAL + caution;
        if !proven || self.next.saturating_add(self.window / 2) < from {
            return None;
        }
        self.window = (self.read >> (1 + caution)).clamp(tuning.first, tuning.max);
        let to = align(self.next.saturating_add(self.window), from, self.window, tuning.unit);
        let to = to.min(limit);
        if to <= from {
            return None;
        }
        self.ahead = to;
        Some(from..to)
    }
}

/// Ends a window at a natural border, so that it is made of few large folios: down to a border of its
/// own size, or up to one of the unit that is fetched anyway.
fn align(to: u64, from: u64, window: u64, unit: u64) -> u64 {
    let size = 1 << window.max(unit).ilog2();
    let down = to - to % size.min(GRANULE as u64);
    if down > from { down } else { to.checked_next_multiple_of(unit).unwrap_or(to) }
}

/// The streams of one open file.
#[derive(Default, Debug)]
pub(crate) struct Streams {
    /// The one that moved last is the last.
    streams: VecDeque<Stream>,
    caution: u32,
    /// What had come of readahead at the last review.
    reviewed: AheadSoFar,
}

impl Streams {
    /// Notes a read of bytes that nobody had read before, and says what to fetch ahead of it.
    ///
    /// `limit` is where the server's bytes end. `past` counts for the whole file, for so its waste is
    /// counted: several open files judge by the same figures.
    pub(crate) fn on_read(
        &mut self,
        range: &Range<u64>,
        limit: u64,
        tuning: &Tuning,
        past: AheadSoFar,
    ) -> Option<Range<u64>> {
        if range.is_empty() || !tuning.is_on() {
            return None;
        }
        self.review(past);
        let mut stream = match self.nearest(range) {
            Some(i) => self.streams.remove(i)?,
            None => {
                if self.streams.len() == STREAMS {
                    self.streams.pop_front();
                }
                Stream::new(range)
            }
        };
        stream.advance(range);
        let window = stream.window(limit, tuning, self.caution);
        self.streams.push_back(stream);
        window
    }

    /// The stream that a read belongs to.
    fn nearest(&self, range: &Range<u64>) -> Option<usize> {
        let (least, most) = REORDER_BYTES;
        let near = (range.end - range.start).saturating_mul(REORDER).clamp(least, most);
        let distance = |s: &Stream| s.next.abs_diff(range.start);
        let found = self.streams.iter().enumerate().min_by_key(|(_, s)| distance(s))?;
        (distance(found.1) <= near).then_some(found.0)
    }

    fn review(&mut self, past: AheadSoFar) {
        let started = past.started.saturating_sub(self.reviewed.started);
        if started < REVIEW {
            return;
        }
        let waste = past.wasted.saturating_sub(self.reviewed.wasted);
        if waste > started / 2 {
            self.caution = (self.caution + 1).min(CAUTION_MAX);
        } else if waste < started / 4 {
            self.caution = self.caution.saturating_sub(1);
        }
        self.reviewed = past;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const K: u64 = 1024;
    const M: u64 = K * K;
    const NEW: AheadSoFar = AheadSoFar { started: 0, wasted: 0 };
    const AUTO: Tuning = Tuning { first: FIRST, max: 4 * M, unit: PAGE_SIZE as u64, eager: false };

    /// Feeds reads of `len` bytes at these offsets; returns what was fetched ahead.
    fn feed(s: &mut Streams, reads: impl IntoIterator<Item = u64>, len: u64) -> Vec<Range<u64>> {
        let mut past = s.reviewed;
        let read = |at| {
            let window = s.on_read(&(at..at + len), u64::MAX, &AUTO, past);
            past.started += window.as_ref().map_or(0, |w: &Range<u64>| w.end - w.start);
            window
        };
        reads.into_iter().filter_map(read).collect()
    }

    fn bytes(windows: &[Range<u64>]) -> u64 {
        windows.iter().map(|w| w.end - w.start).sum()
    }

    /// Which of these reads were wholly fetched ahead by earlier ones.
    fn foreseen(reads: &[u64], len: u64) -> usize {
        let mut s = Streams::default();
        let mut ahead: Vec<Range<u64>> = Vec::new();
        let mut hits = 0;
        for &at in reads {
            hits += usize::from(
                (at..at + len).step_by(4096).all(|p| ahead.iter().any(|w| w.contains(&p))),
            );
            ahead.extend(s.on_read(&(at..at + len), u64::MAX, &AUTO, NEW));
        }
        hits
    }

    #[test]
    fn a_sequential_reader_gets_windows_that_join_and_grow_to_the_largest() {
        let mut s = Streams::default();
        let windows = feed(&mut s, (0..8192).map(|i| i * 4096), 4096);
        assert!(windows.windows(2).all(|w| w[0].end == w[1].start), "{windows:?}");
        let sizes: Vec<_> = windows.iter().map(|w| w.end - w.start).collect();
        assert!(sizes[0] <= FIRST && *sizes.last().expect("some") >= 2 * M, "{sizes:?}");
        assert!(sizes.iter().all(|s| *s <= 4 * M + M), "{sizes:?}");
    }

    #[test]
    fn a_window_is_asked_for_before_the_reader_needs_it() {
        let reads: Vec<_> = (0..1000).map(|i| i * 16 * K).collect();
        assert_eq!(foreseen(&reads, 16 * K), 999, "all but the first");
    }

    /// Acceptance test G12: cold random reads of 4 KiB fetch 4 KiB.
    #[test]
    fn random_reads_ask_for_nothing() {
        let mut s = Streams::default();
        let reads =
            (1..500u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (1 << 40) / 4096 * 4096);
        assert_eq!(feed(&mut s, reads, 4096), []);
    }

    /// Acceptance test G13: an NFS server's clients send the reads of a stream in parallel.
    #[test]
    fn reordered_reads_of_128_kib_are_still_a_stream() {
        let in_order: Vec<u64> = (0..512).map(|i| i * 128 * K).collect();
        let mut reads = in_order;
        for chunk in reads.chunks_mut(8) {
            chunk.reverse();
        }
        assert!(foreseen(&reads, 128 * K) > 450, "{}", foreseen(&reads, 128 * K));
    }

    #[test]
    fn interleaved_streams_are_each_followed() {
        let starts: Vec<u64> = (0..STREAMS as u64).map(|i| i * 100 * M + 7 * M).collect();
        let reads: Vec<u64> =
            (0..100).flat_map(|i| starts.iter().map(move |s| s + i * 32 * K)).collect();
        assert_eq!(foreseen(&reads, 32 * K), 98 * STREAMS, "all but the first two of each");
    }

    #[test]
    fn nothing_is_fetched_past_the_end_or_for_a_file_that_fits_one_read() {
        let mut s = Streams::default();
        assert_eq!(s.on_read(&(0..10_000), 10_000, &AUTO, NEW), None);
        let mut s = Streams::default();
        let windows: Vec<_> = (0..10)
            .filter_map(|i| s.on_read(&(i * 4096..(i + 1) * 4096), 50_000, &AUTO, NEW))
            .collect();
        assert_eq!(windows.last().map(|w| w.end), Some(50_000));
    }

    #[test]
    fn a_stream_that_stops_wastes_at_most_half_of_what_it_read_and_a_first_window() {
        for reads in 1..200u64 {
            let mut s = Streams::default();
            let windows = feed(&mut s, (0..reads).map(|i| i * 8 * K), 8 * K);
            let read = reads * 8 * K;
            let end = windows.last().map_or(0, |w| w.end);
            assert!(end.saturating_sub(read) <= FIRST.max(read / 2) + GRANULE as u64, "{reads}");
        }
    }

    #[test]
    fn waste_makes_streams_prove_themselves_and_success_makes_up_for_it() {
        // Always two reads side by side, then somewhere else: what is fetched ahead is for nothing.
        let (mut s, mut asked, mut late) = (Streams::default(), 0, 0);
        let all = |n| AheadSoFar { started: n, wasted: n };
        for i in 1..4000u64 {
            for at in [i * M, i * M + 4096] {
                let got = s.on_read(&(at..at + 4096), u64::MAX, &AUTO, all(asked));
                asked += got.as_ref().map_or(0, |w| w.end - w.start);
                late += u64::from(i > 2000 && got.is_some());
            }
        }
        assert_eq!(late, 0, "nothing is fetched ahead any more");
        // A long stream is followed all the same, and wins the trust back.
        let start = 1 << 40;
        let long = feed(&mut s, (0..4096).map(|i| start + i * 4096), 4096);
        assert!(bytes(&long) > 10 * M);
        let past = AheadSoFar { started: asked + bytes(&long), wasted: asked };
        s.on_read(&(0..4096), u64::MAX, &AUTO, past);
        assert_eq!(s.caution, 0);
    }

    #[test]
    fn exact_and_zero_turn_it_off_and_the_budget_bounds_it() {
        assert!(!Tuning::new(FillPolicy::Exact, 4 * M, 1 << 30).is_on());
        assert!(!Tuning::new(FillPolicy::Auto, 0, 1 << 30).is_on());
        assert!(!Tuning::new(FillPolicy::Granule, 0, 1 << 30).is_on());
        assert_eq!(Tuning::new(FillPolicy::Auto, 4 * M, 128 * M).max, M);
        assert_eq!(Tuning::new(FillPolicy::Auto, 4 * M, 1 << 18).max, FIRST);
        assert_eq!(Tuning::new(FillPolicy::Auto, 4 * M, 1 << 40).max, 4 * M);
    }

    #[test]
    fn granule_windows_end_at_granules() {
        let tuning = Tuning::new(FillPolicy::Granule, 4 * M, 1 << 30);
        let mut s = Streams::default();
        let windows: Vec<_> = (0..2000)
            .filter_map(|i| s.on_read(&(i * 4096..(i + 1) * 4096), u64::MAX, &tuning, NEW))
            .collect();
        assert!(
            windows.len() > 3 && windows.iter().all(|w| w.end % GRANULE as u64 == 0),
            "{windows:?}"
        );
    }

    proptest! {
        /// Whatever is read: windows lie ahead of the read, inside the limit, are never absurdly large,
        /// and no reasonable input overflows.
        #[test]
        fn windows_are_sane(
            reads in proptest::collection::vec((any::<u64>(), 0u64..1 << 22), 1..200),
            limit: u64, max in 0u64..1 << 23, budget: u64, near: bool, policy in 0usize..3
        ) {
            let policy = [FillPolicy::Auto, FillPolicy::Granule, FillPolicy::Exact][policy];
            let tuning = Tuning::new(policy, max, budget);
            let mut s = Streams::default();
            for (at, len) in reads {
                let at = if near { at % (16 << 20) } else { at };
                let range = at..at.saturating_add(len);
                if let Some(w) = s.on_read(&range, limit, &tuning, AheadSoFar { started: at, wasted: at / 2 }) {
                    prop_assert!(w.start >= range.end && w.start < w.end && w.end <= limit);
                    prop_assert!(w.end - w.start <= (tuning.max + tuning.unit) * 2 + (2 << 23));
                }
            }
        }
    }
}
