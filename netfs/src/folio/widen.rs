//! Uploads in the server's own unit.
//!
//! A server that stores whole blocks would read what is around a smaller write. Where this context knows
//! those bytes, it sends them along: each piece grows to multiples of the unit over neighbouring bytes that
//! are clean, never over somebody's dirty ones (they go with their own credentials, in their own group).

use std::ops::Range;

use super::extents::{Extents, Writer};

/// What to send of a folio at `offset` in the file, of which all bytes are known: `part`, grown to multiples of
/// `unit` in the file, inside `bounds` (relative to the folio). `dirty`: all that is dirty or on its
/// way in the folio, `part` with it.
pub(super) fn widen(
    part: &Extents,
    dirty: &Extents,
    (offset, unit): (u64, u64),
    bounds: &Range<usize>,
) -> Vec<(Range<usize>, Writer)> {
    let mut wide: Vec<(Range<usize>, Writer)> = Vec::new();
    for (r, writer) in part.iter() {
        let before = dirty.iter().filter(|(d, _)| d.end <= r.start).map(|(d, _)| d.end).max();
        let behind = dirty.iter().filter(|(d, _)| d.start >= r.end).map(|(d, _)| d.start).min();
        // What was left of a cut extent is dirty, too: no way to grow.
        let start = if dirty.touches(&(r.start.saturating_sub(1)..r.start)) {
            r.start
        } else {
            down(r.start, offset, unit).max(before.unwrap_or(0)).max(bounds.start)
        };
        let end = if dirty.touches(&(r.end..r.end + 1)) {
            r.end
        } else {
            up(r.end, offset, unit).min(behind.unwrap_or(usize::MAX)).min(bounds.end).max(r.end)
        };
        match wide.last_mut() {
            Some((last, by)) if *by == writer && last.end >= start => last.end = end,
            Some((last, _)) => {
                let start = start.max(last.end);
                wide.push((start..end, writer));
            }
            None => wide.push((start..end, writer)),
        }
    }
    wide
}

fn down(at: usize, offset: u64, unit: u64) -> usize {
    let file = offset + at as u64;
    (file / unit * unit).saturating_sub(offset) as usize
}

fn up(at: usize, offset: u64, unit: u64) -> usize {
    let file = (offset + at as u64).checked_next_multiple_of(unit).unwrap_or(u64::MAX);
    usize::try_from(file - offset).unwrap_or(usize::MAX)
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEN: usize = 64;

    fn extents(bytes: &[Option<u32>]) -> Extents {
        let mut out = Extents::new();
        for (at, writer) in bytes.iter().enumerate() {
            if let Some(writer) = writer {
                out.insert(at..at + 1, Writer(*writer));
            }
        }
        out
    }

    proptest! {
        #[test]
        fn a_piece_grows_over_clean_bytes_only_and_to_whole_units_where_it_can(
            bytes in proptest::collection::vec(prop::option::weighted(0.3, 0u32..2), LEN),
            cut in (0..LEN, 0..LEN), folio in 0u64..4, unit in prop::sample::select(vec![1u64, 4, 16, 256]),
            size in 1..LEN + 1,
        ) {
            let dirty = extents(&bytes[..size]);
            let range = cut.0.min(cut.1)..cut.0.max(cut.1);
            let part = dirty.within(&range);
            let offset = folio * LEN as u64;
            let wide = widen(&part, &dirty, (offset, unit), &(0..size));
            let mut covered = vec![None; LEN];
            for (r, writer) in &wide {
                for (at, by) in covered.iter_mut().enumerate().take(r.end).skip(r.start) {
                    prop_assert!(by.is_none(), "byte {} twice", at);
                    *by = Some(writer.0);
                }
            }
            for at in 0..LEN {
                let asked = part.touches(&(at..at + 1));
                match covered[at] {
                    // Its own, by its own writer.
                    Some(writer) if asked => prop_assert_eq!(bytes[at], Some(writer)),
                    Some(_) => prop_assert!(at < size && bytes[at].is_none(), "dirty byte {} goes along", at),
                    None => prop_assert!(!asked, "byte {} is not sent", at),
                }
                // A clean byte next to a sent one, in the same unit, goes along.
                let near = at > 0 && covered[at - 1].is_some() && covered[at].is_none();
                let same_unit = at > 0 && (offset + at as u64 - 1) / unit == (offset + at as u64) / unit;
                if near && same_unit && at < size {
                    prop_assert!(bytes[at].is_some(), "byte {} could have gone along", at);
                }
            }
        }
    }
}
