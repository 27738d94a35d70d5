//! What is left of a folio of which only some bytes are known when some of them are cut away.

use super::{tests::cache, *};
use crate::{
    clock::BootTime,
    folio::{GRANULE, Group, PAGE_SIZE, Writer},
};

const PAGE: u64 = PAGE_SIZE as u64;
const WRITER: Writer = Writer(7);

/// A folio (the page of `range`) of which nothing but `range` is known: it was written, in `group`.
fn written(range: &Range<u64>, group: Option<Group>) -> (Arc<FolioCache>, Arc<FolioIndex>) {
    let cache = cache(1 << 20);
    let index = cache.new_index();
    let bytes: Vec<u8> = range.clone().map(|at| at as u8).collect();
    let piece = Piece {
        offset: range.start,
        bytes: &bytes,
        lent: None,
        writer: WRITER,
        group,
        now: BootTime::ZERO,
    };
    let Step::Absent(run) = index.write_step(&piece) else { panic!("nothing is there") };
    let window = cache.alloc_window(&[run], piece.end(), GRANULE).expect("within the budget");
    let new = window.into_iter().map(|n| Written::new(n.offset, n.mem, &piece, false)).collect();
    assert_eq!(index.insert_written(new, &piece, index.data_gen()), bytes.len());
    (cache, index)
}

/// Exactly these ranges are dirty, with the bytes that were written and whose they are.
#[track_caller]
fn left(index: &FolioIndex, group: Option<Group>, ranges: &[Range<u64>], cut: &str) {
    let bytes = ranges.iter().map(|r| r.end - r.start).sum::<u64>();
    assert_eq!(index.dirty_bytes(), bytes, "{cut}");
    assert_eq!(index.dirty_end(), ranges.last().map_or(0, |range| range.end));
    let groups: Vec<_> = index.dirty_groups(&(0..u64::MAX)).into_iter().collect();
    assert_eq!(groups, if ranges.is_empty() { vec![] } else { vec![group] });
    for pieces in [index.peek_dirty(&(0..u64::MAX)), index.take_dirty(&(0..u64::MAX), u64::MAX)] {
        let at: Vec<_> = pieces.iter().map(|piece| piece.range.clone()).collect();
        assert_eq!(at, ranges, "{cut}");
        for piece in pieces {
            assert_eq!((piece.writer, piece.group), (WRITER, group));
            let right =
                piece.range.clone().zip(&piece.data[..]).all(|(at, byte)| *byte == at as u8);
            assert!(right, "bytes of {:?}", piece.range);
        }
    }
}

#[test]
fn n_c27_a_cut_leaves_exactly_the_rest_of_what_was_written() {
    let all = 5 * PAGE + 1000..5 * PAGE + 3000;
    let at = |start: u64, end: u64| all.start + start..all.start + end;
    let cases = [
        ("front", at(0, 500), vec![at(500, 2000)]),
        ("front and before", 0..all.start + 1, vec![at(1, 2000)]),
        ("tail", at(1500, 2000), vec![at(0, 1500)]),
        ("tail and after", all.end - 1..u64::MAX, vec![at(0, 1999)]),
        ("middle", at(700, 800), vec![at(0, 700), at(800, 2000)]),
        ("before", 0..all.start, vec![at(0, 2000)]),
        ("after", all.end..u64::MAX, vec![at(0, 2000)]),
        ("all", at(0, 2000), vec![]),
        ("all and around", 0..u64::MAX, vec![]),
    ];
    for group in [None, Some(Group(3))] {
        for (name, cut, rest) in &cases {
            let (_cache, index) = written(&all, group);
            index.cut(cut.clone());
            left(&index, group, rest, name);
        }
    }
}

#[test]
fn n_c28_a_cut_of_all_that_was_written_leaves_nothing_of_it() {
    type Cut = fn(&FolioIndex);
    let cuts: [Cut; 4] = [
        |index| _ = index.cut(PAGE..2 * PAGE),
        |index| _ = index.truncate(PAGE + 10),
        |index| index.cut_dirty(),
        // Taken for an upload that will not be.
        |index| {
            let sent = index.take_dirty(&(0..u64::MAX), u64::MAX);
            sent.iter().for_each(|piece| index.give_up_sent(&piece.range));
        },
    ];
    for cut in cuts {
        let range = PAGE + 10..PAGE + 900;
        let (cache, index) = written(&range, Some(Group(3)));
        let folio = index.content.read().slots.get(PAGE).cloned().expect("known in part");
        assert!(folio.with_dirt(|dirt| dirt.is_some_and(|d| d.group == Some(Group(3)))));
        cut(&index);
        left(&index, None, &[], "all");
        assert!(matches!(index.get(PAGE), Lookup::Absent));
        assert_eq!(index.content.read().dirty.iter().count(), 0);
        assert!(folio.with_dirt(|dirt| dirt.is_none()), "nor a group, nor a writer");
        drop(folio);
        let usage = cache.usage();
        assert_eq!((usage.indexed, usage.dirty, cache.room().dirty()), (0, 0, 0));
        // Nor is there anything left for who writes there next to be kept from.
        let piece = Piece {
            offset: PAGE,
            bytes: b"x",
            lent: None,
            writer: WRITER,
            group: Some(Group(4)),
            now: BootTime::ZERO,
        };
        assert!(matches!(index.write_step(&piece), Step::Absent(_)));
    }
}
