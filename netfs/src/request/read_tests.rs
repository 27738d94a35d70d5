//! The read state machine, stepped.

use proptest::prelude::*;

use super::*;

const K: u64 = 1024;

fn server(range: Range<u64>) -> Slice {
    Slice { range, source: Source::Server, copy_to_cache: false }
}

fn cache(range: Range<u64>) -> Slice {
    Slice { range, source: Source::Cache, copy_to_cache: false }
}

fn limits(rsize: u64) -> IoLimits {
    IoLimits { rsize, ..IoLimits::default() }
}

fn issue_all(r: &mut ReadRequest) -> Vec<usize> {
    std::iter::from_fn(|| r.next_issue()).collect()
}

#[test]
fn n_c08_eof_takes_one_call_and_zeroes_the_tail() {
    let mut r = ReadRequest::new(&[server(0..8 * K)], vec![], &limits(64 * K));
    assert_eq!(issue_all(&mut r), [0]);
    assert_eq!(r.finished(0, &Outcome::Eof, 3 * K), Ended::ZeroTail);
    assert!(r.complete() && r.error().is_none());
    assert!(matches!(r.fate(&(0..8 * K)), Fate::Settled(_)));
}

#[test]
fn n_c09_short_with_progress_continues_where_it_stopped() {
    let mut r = ReadRequest::new(&[server(0..8 * K)], vec![], &limits(64 * K));
    issue_all(&mut r);
    assert_eq!(r.finished(0, &Outcome::Done, 3 * K), Ended::KeepForRetry(1));
    assert!(!r.complete());
    let retry = r.begin_retry(&limits(2 * K));
    assert_eq!(retry.len(), 1);
    let ranges: Vec<_> = retry[0].into.iter().map(|&i| r.sub(i).range.clone()).collect();
    assert_eq!(ranges, [3 * K..5 * K, 5 * K..7 * K, 7 * K..8 * K], "renegotiated limit obeyed");
}

#[test]
fn n_c09_short_without_progress_is_enodata() {
    let mut r = ReadRequest::new(&[server(0..8 * K)], vec![], &limits(64 * K));
    issue_all(&mut r);
    assert_eq!(r.finished(0, &Outcome::Done, 0), Ended::Failed);
    assert!(matches!(r.fate(&(0..K)), Fate::Failed(e) if e.errno() == Errno::ENODATA));
}

#[test]
fn n_c02_row_29_any_incomplete_cache_result_goes_to_the_server() {
    for (outcome, n) in [
        (Outcome::Done, 0),
        (Outcome::Done, K),
        (Outcome::Failed(Errno::EIO.into()), 0),
        (Outcome::Eof, K),
        (Outcome::Retry, 0),
    ] {
        let mut r = ReadRequest::new(&[cache(0..8 * K)], vec![], &limits(64 * K));
        issue_all(&mut r);
        assert_eq!(r.finished(0, &outcome, n), Ended::KeepForRetry(0), "{outcome:?}");
        let retry = r.begin_retry(&limits(64 * K));
        let sub = r.sub(retry[0].into[0]);
        assert_eq!((sub.range.clone(), sub.source), (0..8 * K, Source::Server));
        assert!(sub.copy_to_cache, "stored anew");
    }
}

#[test]
fn n_c10_the_first_error_stands_and_later_bytes_are_cancelled_not_failed() {
    let mut r = ReadRequest::new(&[server(0..4 * K)], vec![], &limits(K));
    let first: Vec<_> = (0..2).filter_map(|_| r.next_issue()).collect();
    assert_eq!(first, [0, 1]);
    r.finished(1, &Outcome::Failed(Errno::EACCES.into()), 0);
    assert_eq!(r.next_issue(), None, "row 16: a failure stops issuing");
    r.finished(0, &Outcome::Failed(Errno::EIO.into()), 0);
    assert!(r.complete());
    assert_eq!(r.error().map(Error::errno), Some(Errno::EACCES));
    assert!(matches!(r.fate(&(2 * K..4 * K)), Fate::Cancelled));
}

#[test]
fn n_c12_over_long_is_eio() {
    let mut r = ReadRequest::new(&[server(0..K)], vec![], &limits(K));
    issue_all(&mut r);
    assert_eq!(r.finished(0, &Outcome::Done, K + 1), Ended::Failed);
    assert_eq!(r.error().map(Error::errno), Some(Errno::EIO));
}

#[test]
fn n_c12_the_last_folio_waits_to_hear_that_the_reply_was_not_over_long() {
    let mut r = ReadRequest::new(&[server(0..2 * K)], vec![], &limits(2 * K));
    issue_all(&mut r);
    r.progress(0, 2 * K);
    assert!(matches!(r.fate(&(0..K)), Fate::Settled(_)));
    assert!(matches!(r.fate(&(K..2 * K)), Fate::Pending));
    r.finished(0, &Outcome::Failed(Errno::EIO.into()), 0);
    assert!(matches!(r.fate(&(K..2 * K)), Fate::Failed(_)));
}

#[test]
fn n_c14_retries_wait_until_the_stream_is_quiet() {
    let mut r = ReadRequest::new(&[server(0..2 * K)], vec![], &limits(K));
    issue_all(&mut r);
    r.finished(0, &Outcome::Retry, 0);
    assert!(r.begin_retry(&limits(K)).is_empty(), "sub 1 is in flight");
    r.finished(1, &Outcome::Retry, 0);
    let retry = r.begin_retry(&limits(8 * K));
    assert_eq!(retry, [Retry { from: vec![0, 1], into: vec![2] }], "one contiguous run");
}

#[test]
fn row_34_retries_without_progress_are_bounded() {
    let mut r = ReadRequest::new(&[server(0..K)], vec![], &limits(K));
    let mut tries = 0;
    while !r.complete() {
        while let Some(i) = r.next_issue() {
            tries += 1;
            r.finished(i, &Outcome::Retry, 0);
        }
        r.begin_retry(&limits(K));
    }
    assert_eq!(tries, u32::from(MAX_IDLE_TRIES));
    assert_eq!(r.error().map(Error::errno), Some(Errno::EIO));
}

#[test]
fn n_c13_segments_bound_a_call() {
    let l = IoLimits { rsize: 64 * K, max_segments: 2, ..IoLimits::default() };
    let r = ReadRequest::new(&[server(0..8 * K)], vec![K, 2 * K, 4 * K, 8 * K], &l);
    let ranges: Vec<_> = r.subs().iter().map(|s| s.range.clone()).collect();
    assert_eq!(ranges, [0..2 * K, 2 * K..8 * K]);
}

#[test]
fn n_c13_many_segments_without_a_bound_are_cut_by_length_alone() {
    let l = IoLimits { rsize: 3 * K, ..IoLimits::default() };
    let r = ReadRequest::new(&[server(0..9 * K)], (1..=9).map(|i| i * K).collect(), &l);
    let ranges: Vec<_> = r.subs().iter().map(|s| s.range.clone()).collect();
    assert_eq!(ranges, [0..3 * K, 3 * K..6 * K, 6 * K..9 * K]);
}

#[test]
fn row_35_settled_progress_frees_whole_folios_early() {
    let mut r = ReadRequest::new(&[server(0..8 * K)], vec![], &limits(64 * K));
    issue_all(&mut r);
    r.progress(0, 4 * K);
    assert!(matches!(r.fate(&(0..4 * K)), Fate::Settled(_)));
    assert!(matches!(r.fate(&(4 * K..8 * K)), Fate::Pending));
}

#[test]
fn n_c16_direct_reads_count_the_contiguous_prefix() {
    let mut r = ReadRequest::new(&[server(0..3 * K)], vec![], &limits(K));
    issue_all(&mut r);
    r.finished(0, &Outcome::Done, K);
    r.finished(2, &Outcome::Done, K);
    r.finished(1, &Outcome::Failed(Errno::EIO.into()), 0);
    assert_eq!(r.contiguous_prefix(), K);
}

/// What a scripted server does with one call.
#[derive(Clone, Debug)]
enum Reply {
    Full,
    Short(u64),
    Eof(u64),
    Retry(u64),
    Fail,
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        4 => Just(Reply::Full),
        3 => (0u64..3000).prop_map(Reply::Short),
        1 => (0u64..3000).prop_map(Reply::Eof),
        2 => (0u64..3000).prop_map(Reply::Retry),
        1 => Just(Reply::Fail),
    ]
}

proptest! {
    /// N-C6, N-C11, N-C15: whatever the replies and the order they come in, the request ends, its
    /// subs partition the range, and every byte has exactly one fate.
    #[test]
    fn n_c15_every_request_ends_and_every_byte_has_a_fate(
        slices in proptest::collection::vec((1u64..9000, 0u8..3), 1..6),
        replies in proptest::collection::vec(reply(), 0..60),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 60),
        rsize in 1u64..4000, rsize2 in 1u64..4000,
    ) {
        let mut at = 0;
        let mut plan = Vec::new();
        for (len, kind) in slices {
            let source = [Source::Zero, Source::Cache, Source::Server][kind as usize];
            plan.push(Slice { range: at..at + len, source, copy_to_cache: false });
            at += len;
        }
        let mut r = ReadRequest::new(&plan, vec![], &limits(rsize));
        let (mut replies, mut order) = (replies.into_iter(), order.into_iter().cycle());
        let mut flying: Vec<usize> = Vec::new();
        let mut steps = 0;
        loop {
            steps += 1;
            prop_assert!(steps < 200_000, "no progress");
            while let Some(i) = r.next_issue() {
                flying.push(i);
            }
            if flying.is_empty() {
                if r.complete() { break; }
                prop_assert!(!r.begin_retry(&limits(rsize2)).is_empty(), "stuck");
                continue;
            }
            let i = flying.swap_remove(order.next().map_or(0, |x| x.index(flying.len())));
            let len = r.sub(i).range.end - r.sub(i).range.start;
            let reply = replies.next().unwrap_or(Reply::Full);
            let (o, n) = match reply {
                Reply::Full => (Outcome::Done, len),
                Reply::Short(n) => (Outcome::Done, n.min(len)),
                Reply::Eof(n) => (Outcome::Eof, n.min(len)),
                Reply::Retry(n) => (Outcome::Retry, n.min(len)),
                Reply::Fail => (Outcome::Failed(Errno::EIO.into()), 0),
            };
            // Zero slices are made here and never fail.
            let (o, n) = if r.sub(i).source == Source::Zero { (Outcome::Done, len) } else { (o, n) };
            r.finished(i, &o, n);
        }
        let mut cover: Vec<_> = r.subs().iter().map(|s| s.range.clone()).filter(|r| !r.is_empty()).collect();
        cover.sort_by_key(|r| r.start);
        let mut expect = 0;
        for c in cover {
            prop_assert_eq!(c.start, expect);
            expect = c.end;
        }
        prop_assert_eq!(expect, at);
        for p in &plan {
            let fate = r.fate(&p.range);
            prop_assert!(!matches!(fate, Fate::Pending));
            if r.error().is_none() {
                prop_assert!(matches!(fate, Fate::Settled(_)));
            }
        }
    }
}
