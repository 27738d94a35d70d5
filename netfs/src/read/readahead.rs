//! How far ahead of a reader to fetch: simple sequential detection, as pure state.

use std::ops::Range;

use crate::folio::GRANULE;

/// First window of a stream in bytes.
const FIRST: u64 = GRANULE as u64;
/// A read that starts at most this far from where the last one ended still counts as sequential.
const SLACK: u64 = 128 * 1024;

/// One reader's stream.
#[derive(Default, Debug, Clone)]
pub(crate) struct Stream {
    /// Where the last read ended.
    next: u64,
    /// Bytes to stay ahead; 0 = not sequential.
    window: u64,
    /// Up to where readahead was asked for.
    ahead: u64,
}

impl Stream {
    /// Notes a read and says up to where to fetch, if further than before. `max` = 0 turns readahead
    /// off. The answer is a multiple of a granule.
    pub(crate) fn on_read(&mut self, range: &Range<u64>, max: u64) -> Option<u64> {
        let sequential = range.start <= self.next.saturating_add(SLACK)
            && range.end >= self.next.saturating_sub(SLACK);
        let started = self.next == 0 && range.start == 0;
        if sequential && range.end > self.next && (started || self.next > 0) {
            self.window = (self.window * 2).clamp(FIRST.min(max), max);
        } else if !sequential {
            self.window = 0;
            self.ahead = 0;
        }
        self.next = if sequential { self.next.max(range.end) } else { range.end };
        if self.window == 0 {
            return None;
        }
        // Half a window of slack, so that requests are large and still early.
        if self.next.saturating_add(self.window / 2) <= self.ahead {
            return None;
        }
        let granule = GRANULE as u64;
        let to = self.next.saturating_add(self.window).checked_next_multiple_of(granule)?;
        self.ahead = to;
        Some(to)
    }

    /// A read that ends before this needs no readahead decision: what the hit path compares with.
    pub(crate) fn trigger(&self) -> u64 {
        self.ahead.saturating_sub(self.window / 2).max(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: u64 = GRANULE as u64;

    #[test]
    fn a_sequential_reader_stays_ahead_in_growing_steps() {
        let mut s = Stream::default();
        let mut asked = Vec::new();
        for i in 0..512u64 {
            asked.extend(s.on_read(&(i * 4096..(i + 1) * 4096), 4 << 20));
        }
        assert!(asked.windows(2).all(|w| w[0] < w[1]), "{asked:?}");
        assert!(asked.iter().all(|a| a % G == 0));
        let last = *asked.last().expect("readahead happened");
        assert!(last > 512 * 4096, "ahead of the reader");
    }

    #[test]
    fn random_reads_ask_for_nothing() {
        let mut s = Stream::default();
        for i in [900u64, 17, 433, 81, 600, 5] {
            assert_eq!(s.on_read(&(i * G * 4..i * G * 4 + 4096), 4 << 20), None);
        }
    }

    #[test]
    fn zero_turns_it_off() {
        let mut s = Stream::default();
        for i in 0..100u64 {
            assert_eq!(s.on_read(&(i * 4096..(i + 1) * 4096), 0), None);
        }
    }
}
