//! Which folios a window is made of.

use std::ops::Range;

use crate::{
    folio::PAGE_SIZE,
    request::plan::{Slice, Source},
};

/// A page-aligned part of a plan whose bytes come from one source (its padding apart): folios do not
/// cross parts, so that each folio has one origin for the statistics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) range: Range<u64>,
    pub(crate) source: Source,
}

/// Groups slices into parts: a slice that starts inside a page belongs to the part before it.
pub(crate) fn parts(slices: &[Slice]) -> Vec<Part> {
    let page = PAGE_SIZE as u64;
    let mut out: Vec<Part> = Vec::new();
    for slice in slices {
        match out.last_mut() {
            Some(last) if slice.range.start < last.range.end => {
                // Inside the last part's final page: only the rest, if any, is a part of its own.
                if slice.range.end > last.range.end {
                    let range = last.range.end..slice.range.end;
                    out.push(Part { range, source: slice.source });
                }
            }
            Some(last) if last.source == slice.source => last.range.end = slice.range.end,
            _ => out.push(Part { range: slice.range.clone(), source: slice.source }),
        }
        if let Some(last) = out.last_mut() {
            last.range.end = last.range.end.next_multiple_of(page);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u64 = PAGE_SIZE as u64;

    fn slice(range: Range<u64>, source: Source) -> Slice {
        Slice { range, source, copy_to_cache: false }
    }

    #[test]
    fn padding_of_the_last_page_belongs_to_its_data() {
        let got = parts(&[
            slice(0..P, Source::Cache),
            slice(P..2 * P + 5, Source::Server),
            slice(2 * P + 5..4 * P, Source::Zero),
        ]);
        assert_eq!(
            got,
            [
                Part { range: 0..P, source: Source::Cache },
                Part { range: P..3 * P, source: Source::Server },
                Part { range: 3 * P..4 * P, source: Source::Zero },
            ]
        );
    }

    #[test]
    fn padding_alone_makes_no_part() {
        let got = parts(&[slice(0..5, Source::Server), slice(5..P, Source::Zero)]);
        assert_eq!(got, [Part { range: 0..P, source: Source::Server }]);
    }
}
