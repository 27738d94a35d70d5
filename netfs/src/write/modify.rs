//! How a write changes one folio: the decision table (rows 51 to 58) as a pure function.
//!
//! | the folio is | and the write | then |
//! |---|---|---|
//! | anything dirty, of another group | | the group is flushed first (52) |
//! | uptodate | | in place (53); past the bound two neighbouring extents become one |
//! | being fetched | | into an overlay, which is laid over what arrives |
//! | absent | starts at or after the zero point | zeros around it, uptodate, no read (54) |
//! | absent or partial | covers all of it, or what it lacks | uptodate, no read (55) |
//! | absent or partial | leaves no more extents than the bound | another extent, no read (57) |
//! | partial | would leave more | what is missing is fetched first (56) |
//!
//! Rows 56 and 58 read or flush where a second extent would be needed; here they are left for the last
//! line.

use std::ops::Range;

use crate::folio::{Extents, Writer};

/// What is in the index where a write goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// Nothing.
    Absent,
    /// A folio that is being fetched.
    Fetching,
    /// A folio of which only these bytes are known.
    Partial(&'a Extents),
    /// A folio with all its content.
    Uptodate,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Modify {
    /// The group that the folio's dirty bytes belong to goes to the server first.
    FlushGroup,
    /// Copy into the content.
    InPlace,
    /// Copy into memory of its own beside the fetch.
    Overlay,
    /// Copy, zero what is around it: the server has nothing there.
    Clear,
    /// Copy: every byte is known then.
    Whole,
    /// Copy, and note which bytes are known.
    Extent,
    /// Fetch what is missing, then look again.
    ReadFirst,
}

/// Decides for one folio. `write` is the part of the write that falls into it, relative to it; `len`
/// the folio's length; `clear`: the server has no data in the folio; `other_group`: it holds dirty bytes
/// of another write group.
pub(crate) fn decide(
    place: Place<'_>,
    write: &Range<usize>,
    writer: Writer,
    len: usize,
    clear: bool,
    other_group: bool,
) -> Modify {
    if other_group {
        return Modify::FlushGroup;
    }
    match place {
        Place::Uptodate => Modify::InPlace,
        Place::Fetching => Modify::Overlay,
        Place::Absent if write.len() == len => Modify::Whole,
        Place::Absent | Place::Partial(_) if clear => Modify::Clear,
        Place::Absent => Modify::Extent,
        Place::Partial(known) => decide_partial(known, write, writer, len),
    }
}

fn decide_partial(known: &Extents, write: &Range<usize>, writer: Writer, len: usize) -> Modify {
    let rest = known.gaps(&(0..len));
    let filled = rest.iter().all(|(gap, _)| write.start <= gap.start && gap.end <= write.end);
    match known.count_with(write, writer) {
        _ if filled => Modify::Whole,
        count if count <= Extents::limit(len) => Modify::Extent,
        _ => Modify::ReadFirst,
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    const LEN: usize = 8192;

    fn on(place: Place<'_>, write: Range<usize>) -> Modify {
        decide(place, &write, Writer(0), LEN, false, false)
    }

    #[test]
    fn row_52_another_group_goes_first_whatever_the_folio_is() {
        let some = Extents::of(0..1, Writer(0));
        for place in [Place::Uptodate, Place::Fetching, Place::Partial(&some)] {
            assert_eq!(decide(place, &(0..LEN), Writer(0), LEN, true, true), Modify::FlushGroup);
        }
    }

    #[test]
    fn rows_53_to_55_no_read_where_none_is_needed() {
        assert_eq!(on(Place::Uptodate, 5..6), Modify::InPlace);
        assert_eq!(decide(Place::Absent, &(5..6), Writer(0), LEN, true, false), Modify::Clear);
        assert_eq!(on(Place::Absent, 0..LEN), Modify::Whole);
        let half = Extents::of(100..LEN, Writer(0));
        assert_eq!(on(Place::Partial(&half), 0..100), Modify::Whole);
        assert_eq!(on(Place::Partial(&half), 0..99), Modify::Extent);
        assert_eq!(on(Place::Fetching, 0..LEN), Modify::Overlay);
    }

    /// However many writers it took.
    #[test]
    fn n_c26_a_write_that_leaves_nothing_unknown_makes_it_known_as_a_whole() {
        let mut extents = Extents::new();
        let limit = Extents::limit(LEN);
        for i in 0..limit {
            extents.insert(i * 100..(i + 1) * 100, Writer(i as u32 + 1));
        }
        assert_eq!(extents.count(), limit);
        let rest = limit * 100..LEN;
        assert_eq!(on(Place::Partial(&extents), rest.start..LEN - 1), Modify::ReadFirst);
        assert_eq!(on(Place::Partial(&extents), rest), Modify::Whole, "nothing is left to be read");
    }

    #[test]
    fn n_c25_disjoint_writes_neither_flush_nor_read_up_to_two_a_page() {
        let mut extents = Extents::new();
        let limit = Extents::limit(LEN);
        for i in 0..limit {
            let write = i * 100..i * 100 + 1;
            assert_eq!(on(Place::Partial(&extents), write.clone()), Modify::Extent, "{i}");
            extents.insert(write, Writer(0));
        }
        assert_eq!(on(Place::Partial(&extents), 5000..5001), Modify::ReadFirst);
        // What joins one that is there needs no more room.
        assert_eq!(on(Place::Partial(&extents), 1..50), Modify::Extent);
    }
}
