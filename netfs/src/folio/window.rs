//! Which folios to make for a run of missing bytes.

use std::ops::Range;

use super::{GRANULE, PAGE_SIZE};

/// Cuts `run` (page-aligned) into folios: each the largest power of two up to `cap` that is naturally
/// aligned in the file and fits what is left. Nothing is made beyond the page that holds the last byte
/// of a file of `file_size` bytes, so small files get small folios.
pub(crate) fn folio_sizes(
    run: Range<u64>,
    file_size: u64,
    cap: usize,
) -> impl Iterator<Item = (u64, usize)> {
    let page = PAGE_SIZE as u64;
    let cap = cap.clamp(PAGE_SIZE, GRANULE) as u64;
    let end = run.end.min(page_up(file_size)) & !(page - 1);
    let mut at = run.start & !(page - 1);
    std::iter::from_fn(move || {
        let left = end.checked_sub(at).filter(|left| *left >= page)?;
        // Offset 0 is aligned to everything.
        let aligned = if at == 0 { cap } else { 1 << at.trailing_zeros().min(63) };
        let len = floor_power_of_two(left.min(aligned).min(cap));
        let offset = at;
        at += len;
        Some((offset, len as usize))
    })
}

/// `n` rounded up to a page border, or the last border below 2^64.
pub(crate) fn page_up(n: u64) -> u64 {
    let page = PAGE_SIZE as u64;
    n.checked_next_multiple_of(page).unwrap_or(!(page - 1))
}

fn floor_power_of_two(n: u64) -> u64 {
    1 << (63 - n.leading_zeros())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes(run: Range<u64>, file_size: u64, cap: usize) -> Vec<(u64, usize)> {
        folio_sizes(run, file_size, cap).collect()
    }

    #[test]
    fn a_small_file_uses_small_folios_and_the_tail_covers_its_page_only() {
        assert_eq!(sizes(0..1 << 18, 10_000, GRANULE), [(0, 8192), (8192, 4096)]);
        assert_eq!(sizes(0..1 << 18, 1, GRANULE), [(0, 4096)]);
        assert_eq!(sizes(0..1 << 18, 0, GRANULE), []);
        assert_eq!(sizes(0..1 << 19, u64::MAX, GRANULE), [(0, 1 << 18), (1 << 18, 1 << 18)]);
    }

    proptest! {
        #[test]
        fn folios_tile_the_run_naturally_aligned(start in 0u64..200, pages in 0u64..200, size in 0u64..1 << 21, cap in 12u32..19) {
            let run = start * 4096..(start + pages) * 4096;
            let mut at = run.start;
            for (offset, len) in folio_sizes(run.clone(), size, 1 << cap) {
                prop_assert_eq!(offset, at);
                prop_assert!(len.is_power_of_two() && len >= PAGE_SIZE && len <= 1 << cap);
                prop_assert_eq!(offset % len as u64, 0);
                at += len as u64;
            }
            prop_assert_eq!(at.max(run.start), run.end.min(page_up(size)).max(run.start));
        }
    }
}
