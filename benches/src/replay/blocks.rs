//! Which 4 KiB blocks of a request were local, from how many of its bytes were.
//!
//! The caches hold pages, so all bytes of a request that lie in one page are local or none is. Only the
//! first and the last page can be asked for in part; the remainder tells whether they were among the
//! local ones.

use crate::trace::PAGE;

/// How many of a request's blocks were local if `local` of its bytes were, and how many it touches.
///
/// If first and last part together make one page, `local` may have two explanations: the smaller number
/// of hits counts.
pub(super) fn local(offset: u64, len: u64, local: u64) -> (u64, u64) {
    if len == 0 {
        return (0, 0);
    }
    let all = (offset + len - 1) / PAGE - offset / PAGE + 1;
    if local >= len {
        return (all, all);
    }
    let head = (PAGE - offset % PAGE).min(len) % PAGE;
    let tail = if len > head { (offset + len) % PAGE } else { 0 };
    let whole = len - head - tail;
    let explained = |(heads, tails): (u64, u64)| {
        let rest = local.checked_sub(heads * head + tails * tail)?;
        let possible = rest.is_multiple_of(PAGE) && rest <= whole;
        possible.then_some(heads + tails + rest / PAGE)
    };
    let cases = [(0, 0), (u64::from(head > 0), 0), (0, u64::from(tail > 0))];
    let both = (u64::from(head > 0), u64::from(tail > 0));
    let hits = cases.into_iter().chain([both]).filter_map(explained).min();
    (hits.unwrap_or(local / PAGE), all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_blocks_that_were_local_are_found_again(
            offset in 0u64..20_000, len in 1u64..40_000, pattern: u16
        ) {
            let (first, last) = (offset / PAGE, (offset + len - 1) / PAGE);
            let share = |b: u64| {
                (offset + len).min((b + 1) * PAGE) - offset.max(b * PAGE)
            };
            let hit = |b: &u64| pattern >> ((b - first) % 16) & 1 == 1;
            let bytes: u64 = (first..=last).filter(hit).map(share).sum();
            let count = (first..=last).filter(hit).count() as u64;
            let (hits, all) = local(offset, len, bytes);
            prop_assert_eq!(all, last - first + 1);
            let ambiguous = last > first && (share(first) + share(last)) % PAGE == 0;
            if ambiguous {
                prop_assert!(hits <= count && count - hits <= 1, "{} of {}", hits, count);
            } else {
                prop_assert_eq!(hits, count);
            }
        }
    }

    #[test]
    fn bounds() {
        assert_eq!(local(0, 0, 0), (0, 0));
        assert_eq!(local(100, 200, 200), (1, 1));
        assert_eq!(local(100, 200, 0), (0, 1));
        assert_eq!(local(4096, 8192, 4096), (1, 2));
        assert_eq!(local(512, 4096, 3584), (1, 2));
        // More bytes than a request can explain must not make a hit of it.
        assert_eq!(local(0, 8192, 5000), (1, 2));
    }
}
