//! Where each byte of a window comes from.

use std::ops::Range;

use crate::{
    folio::PAGE_SIZE,
    fscache::{ExtentKind, Extents},
    sizes::Sizes,
};

/// What a slice is filled from (row 3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Source {
    /// Zeros made here; no I/O (row 26).
    Zero,
    /// The disk cache.
    Cache,
    /// The server.
    Server,
}

/// One slice of the plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Slice {
    pub(crate) range: Range<u64>,
    pub(crate) source: Source,
    /// The cache was asked and did not have it: store it afterwards (row 7).
    pub(crate) copy_to_cache: bool,
}

/// Slices of `window` (page-aligned at both ends) in order, without gap or overlap (N-C6).
///
/// `extents` is what the cache knows about `window` clipped to `sizes.i_size`, or `None` without a
/// usable cache. Beyond `min(zero_point, i_size)` everything is zeros and nobody is asked (N-C5);
/// a cached page's padding is not trusted, its tail past the limit is zeroed here.
pub(crate) fn plan(window: Range<u64>, sizes: &Sizes, extents: Option<&Extents>) -> Vec<Slice> {
    let limit = sizes.server_limit();
    let mut out = Vec::new();
    let data_end = window.end.min(limit);
    match extents {
        None if window.start < data_end => {
            push(&mut out, window.start..data_end, Source::Server, false);
        }
        None => {}
        Some(extents) => plan_cached(&mut out, window.start..data_end, extents),
    }
    if window.end > data_end {
        push(&mut out, data_end.max(window.start)..window.end, Source::Zero, false);
    }
    out
}

fn plan_cached(out: &mut Vec<Slice>, data: Range<u64>, extents: &Extents) {
    let mut at = data.start;
    for extent in extents {
        let (start, end) = (extent.range.start.max(at), extent.range.end.min(data.end));
        if start >= end {
            continue;
        }
        if start > at {
            // A gap in what the cache answered is a backend's mistake: treat it as not stored.
            push(out, at..start, Source::Server, true);
        }
        let (source, copy) = match extent.kind {
            ExtentKind::Data => (Source::Cache, false),
            ExtentKind::Zero => (Source::Zero, false),
            // Not loaded means "ask again later": what the server sends then is not stored, because
            // it may be there already.
            ExtentKind::NotLoaded => (Source::Server, false),
            ExtentKind::Absent => (Source::Server, true),
        };
        push(out, start..end, source, copy);
        at = end;
    }
    if at < data.end {
        push(out, at..data.end, Source::Server, true);
    }
}

fn push(out: &mut Vec<Slice>, range: Range<u64>, source: Source, copy_to_cache: bool) {
    if range.is_empty() {
        return;
    }
    match out.last_mut() {
        Some(last)
            if last.source == source
                && last.copy_to_cache == copy_to_cache
                && last.range.end == range.start =>
        {
            last.range.end = range.end;
        }
        _ => out.push(Slice { range, source, copy_to_cache }),
    }
}

/// Rounds a byte range out to pages; ends past the largest file offset are clipped.
pub(crate) fn page_out(range: &Range<u64>) -> Range<u64> {
    let page = PAGE_SIZE as u64;
    let start = range.start / page * page;
    let end = range.end.checked_next_multiple_of(page).unwrap_or(u64::MAX / page * page);
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fscache::Extent;
    use proptest::prelude::*;

    const P: u64 = PAGE_SIZE as u64;

    fn extents(kinds: &[(u64, u64, ExtentKind)]) -> Extents {
        kinds.iter().map(|&(a, b, kind)| Extent { range: a * P..b * P, kind }).collect()
    }

    fn slice(range: Range<u64>, source: Source, copy_to_cache: bool) -> Slice {
        Slice { range, source, copy_to_cache }
    }

    #[test]
    fn row_22_cache_runs_interleave_with_the_server() {
        let e = extents(&[
            (0, 1, ExtentKind::Data),
            (1, 2, ExtentKind::Absent),
            (2, 3, ExtentKind::Zero),
            (3, 4, ExtentKind::NotLoaded),
        ]);
        let plan = plan(0..5 * P, &Sizes::clean(4 * P - 7), Some(&e));
        assert_eq!(
            plan,
            [
                slice(0..P, Source::Cache, false),
                slice(P..2 * P, Source::Server, true),
                slice(2 * P..3 * P, Source::Zero, false),
                slice(3 * P..4 * P - 7, Source::Server, false),
                slice(4 * P - 7..5 * P, Source::Zero, false),
            ]
        );
    }

    #[test]
    fn row_47_wholly_beyond_the_end_is_zeros() {
        let p = plan(8 * P..9 * P, &Sizes::clean(P), None);
        assert_eq!(p, [slice(8 * P..9 * P, Source::Zero, false)]);
    }

    fn kind() -> impl Strategy<Value = ExtentKind> {
        prop_oneof![
            Just(ExtentKind::Data),
            Just(ExtentKind::Zero),
            Just(ExtentKind::Absent),
            Just(ExtentKind::NotLoaded)
        ]
    }

    proptest! {
        #[test]
        fn n_c05_n_c06_slices_partition_the_window_and_never_ask_past_the_limit(
            start in 0u64..16, pages in 1u64..16, size in 0u64..32 * P, zero_point in 0u64..32 * P,
            kinds in proptest::collection::vec((1u64..4, kind()), 0..12), cached: bool,
        ) {
            let window = start * P..(start + pages) * P;
            let sizes = Sizes { i_size: size, remote_i_size: size, zero_point };
            let mut at = start;
            let mut e = Extents::new();
            for (len, kind) in kinds {
                e.push(Extent { range: at * P..(at + len) * P, kind });
                at += len;
            }
            let plan = plan(window.clone(), &sizes, cached.then_some(&e));
            let mut expect = window.start;
            for s in &plan {
                prop_assert_eq!(s.range.start, expect);
                prop_assert!(!s.range.is_empty());
                if s.source != Source::Zero {
                    prop_assert!(s.range.end <= sizes.server_limit());
                }
                if s.source == Source::Cache {
                    let data = |o: u64| e.iter().any(|x| x.range.contains(&o) && x.kind == ExtentKind::Data);
                    prop_assert!(data(s.range.start) && data(s.range.end - 1));
                }
                expect = s.range.end;
            }
            prop_assert_eq!(expect, window.end);
        }
    }
}
