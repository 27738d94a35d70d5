//! The upload state machine, stepped.

use proptest::prelude::*;

use super::*;

const K: u64 = 1024;

fn limits(wsize: u64) -> IoLimits {
    IoLimits { wsize, ..IoLimits::default() }
}

/// Of one run.
fn upload(run: Range<u64>, serial: bool) -> WriteRequest {
    WriteRequest::new(std::slice::from_ref(&run), vec![], serial)
}

fn issue_all(r: &mut WriteRequest, limits: &IoLimits) -> Vec<Range<u64>> {
    std::iter::from_fn(|| r.next_issue(limits))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|i| r.range(i))
        .collect()
}

#[test]
fn row_72_subs_end_at_gaps_limits_and_segments() {
    let two_segments = IoLimits { wsize: 4 * K, max_segments: 2, ..IoLimits::default() };
    let mut r = WriteRequest::new(&[0..5 * K, 6 * K..9 * K], vec![7 * K, 8 * K, 9 * K], false);
    assert_eq!(
        issue_all(&mut r, &two_segments),
        [0..4 * K, 4 * K..5 * K, 6 * K..8 * K, 8 * K..9 * K]
    );
}

#[test]
fn n_c31_a_short_write_is_continued_under_the_new_limit_when_all_is_quiet() {
    let mut r = upload(0..8 * K, false);
    assert_eq!(issue_all(&mut r, &limits(4 * K)), [0..4 * K, 4 * K..8 * K]);
    assert_eq!(r.finished(0, &WriteOutcome::Done, K), 0..K);
    assert!(!r.begin_retry(), "the other one is still out");
    assert_eq!(r.finished(1, &WriteOutcome::Done, 4 * K), 4 * K..8 * K);
    assert!(!r.complete() && r.begin_retry());
    assert_eq!(issue_all(&mut r, &limits(2 * K)), [K..3 * K, 3 * K..4 * K]);
}

#[test]
fn n_c31_what_was_planned_is_cut_by_the_limits_in_force_when_it_is_issued() {
    let mut r = upload(0..8 * K, false);
    assert_eq!(r.next_issue(&limits(4 * K)).map(|i| r.range(i)), Some(0..4 * K));
    assert_eq!(r.next_issue(&limits(K)).map(|i| r.range(i)), Some(4 * K..5 * K));
    assert_eq!(r.next_issue(&limits(8 * K)).map(|i| r.range(i)), Some(5 * K..8 * K));
    assert_eq!(r.next_issue(&limits(K)), None);
}

#[test]
fn row_80_a_server_that_claims_too_much_is_believed_up_to_what_it_was_given() {
    let mut r = upload(0..K, false);
    r.next_issue(&limits(K));
    assert_eq!(r.finished(0, &WriteOutcome::Done, 5 * K), 0..K);
    assert!(r.complete() && r.unwritten().is_empty());
}

#[test]
fn n_c32_the_first_error_stands_and_what_is_not_acknowledged_is_told() {
    let mut r = upload(0..4 * K, false);
    let out = [r.next_issue(&limits(K)), r.next_issue(&limits(K))];
    assert_eq!(out, [Some(0), Some(1)]);
    assert_eq!(r.finished(1, &WriteOutcome::Failed(Errno::ENOSPC.into()), 100), K..K + 100);
    assert_eq!(r.next_issue(&limits(K)), None);
    assert!(!r.complete());
    r.finished(0, &WriteOutcome::Failed(Errno::EIO.into()), 0);
    assert!(r.complete());
    assert_eq!(r.error().map(Error::errno), Some(Errno::ENOSPC));
    assert_eq!(r.unwritten(), [0..K, K + 100..2 * K, 2 * K..4 * K]);
}

#[test]
fn row_87_a_serial_request_has_one_sub_out_and_stops_at_the_first_failure() {
    let mut r = upload(0..3 * K, true);
    assert_eq!((r.next_issue(&limits(K)), r.next_issue(&limits(K))), (Some(0), None));
    r.finished(0, &WriteOutcome::Done, K);
    assert_eq!((r.next_issue(&limits(K)), r.next_issue(&limits(K))), (Some(1), None));
    r.finished(1, &WriteOutcome::Failed(Errno::ENOSPC.into()), 10);
    assert!(r.next_issue(&limits(K)).is_none() && r.complete());
    assert_eq!(r.unwritten(), [K + 10..2 * K, 2 * K..3 * K]);
}

#[test]
fn a_server_that_takes_nothing_is_given_up_after_bounded_tries() {
    let mut r = upload(0..K, false);
    let mut tries = 0;
    while !r.complete() {
        r.begin_retry();
        let sub = r.next_issue(&limits(K)).expect("something to send");
        r.finished(sub, &WriteOutcome::Retry, 0);
        tries += 1;
    }
    assert_eq!((tries, r.error().map(Error::errno)), (MAX_IDLE_TRIES, Some(Errno::EIO)));
}

proptest! {
    #[test]
    fn n_c31_every_byte_is_acknowledged_exactly_once_whatever_the_server_does(
        cuts in prop::collection::btree_set(1u64..4096, 2..8),
        answers in prop::collection::vec((0u64..600, 0u8..10, 1u64..700, any::<bool>()), 1..200),
        serial in any::<bool>(),
    ) {
        let cuts: Vec<u64> = cuts.into_iter().collect();
        let runs: Vec<Range<u64>> = cuts.chunks_exact(2).map(|c| c[0]..c[1]).collect();
        let mut r = WriteRequest::new(&runs, vec![1000, 2000, 3000, 4096], serial);
        let mut wsize = 512;
        let mut acknowledged = vec![0u8; 4096];
        let mut out = Vec::new();
        let mut answers = answers.into_iter();
        loop {
            while let Some(i) = r.next_issue(&limits(wsize)) {
                prop_assert!(!serial || out.is_empty());
                let range = r.range(i);
                prop_assert!(0 < range.end - range.start && range.end - range.start <= wsize);
                prop_assert!(runs.iter().any(|run| run.start <= r.range(i).start && r.range(i).end <= run.end));
                out.push(i);
            }
            let Some((written, what, renegotiated, last)) = answers.next() else { break };
            wsize = renegotiated;
            if !out.is_empty() {
                let i = if last { out.pop().expect("not empty") } else { out.remove(0) };
                let outcome = match what {
                    0 => WriteOutcome::Failed(Errno::EIO.into()),
                    1..4 => WriteOutcome::Retry,
                    _ => WriteOutcome::Done,
                };
                for at in r.finished(i, &outcome, written) {
                    acknowledged[at as usize] += 1;
                }
            }
            r.begin_retry();
            if r.complete() {
                break;
            }
        }
        prop_assert!(acknowledged.iter().all(|n| *n <= 1));
        let missing = r.unwritten();
        for at in 0..4096u64 {
            let dirty = runs.iter().any(|run| run.contains(&at));
            let left = missing.iter().any(|m| m.contains(&at));
            prop_assert_eq!(dirty, left || acknowledged[at as usize] == 1, "byte {}", at);
            prop_assert!(!(left && acknowledged[at as usize] == 1), "byte {}", at);
        }
    }
}
