//! One upload: the subs of a [`WriteRequest`], sent and collected.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::mpsc;

use crate::{
    error::Error,
    folio::{Sent, Slice},
    inode::Inode,
    remote::{Change, Cx, DynFile, Stability, WriteFinished, WriteSink, WriteSub},
    request::write::WriteRequest,
    sync::Arc,
    waits::WaitKind,
};

/// Subs of one upload under way at once.
const IN_FLIGHT_MAX: usize = 16;
/// First pause before something is sent again that the server did not take; doubled each time.
const PAUSE: Duration = Duration::from_millis(10);

/// What came of an upload.
#[derive(Default)]
pub(crate) struct Uploaded {
    /// What the server has on stable storage.
    pub(crate) stable: Vec<Range<u64>>,
    /// What it has not.
    pub(crate) unwritten: Vec<Range<u64>>,
    pub(crate) changes: Vec<Change>,
    /// A reply without facts: the version has moved to nobody knows what.
    pub(crate) silent: bool,
    pub(crate) error: Option<Error>,
}

/// How to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// Somebody waits for stable storage.
    awaited: bool,
    /// One sub at a time, so that an error leaves a contiguous prefix (row 87).
    serial: bool,
}

impl How {
    pub(crate) fn parallel(awaited: bool) -> How {
        How { awaited, serial: false }
    }

    pub(crate) fn serial() -> How {
        How { awaited: true, serial: true }
    }
}

struct Sink(mpsc::UnboundedSender<(usize, WriteFinished)>);

impl WriteSink for Sink {
    fn finished(&self, index: usize, result: WriteFinished) {
        // The upload waits for every sub, so somebody listens; if not (shutdown) nobody cares.
        let _ = self.0.send((index, result));
    }
}

/// Sends `pieces` (ascending, of one writer) as `cx`. Never
/// gives a sub up: a write that came to the server late would overwrite what was sent after it. An adapter
/// whose server does not answer ends its subs itself.
pub(crate) async fn upload(
    inode: &Inode,
    (remote, cx): (&DynFile, &Cx),
    pieces: &[Sent],
    how: How,
) -> Uploaded {
    let runs = runs_of(pieces);
    let whole = runs.first().map_or(0, |run| run.start)..runs.last().map_or(0, |run| run.end);
    let _wait = inode.waiting(WaitKind::Upload, whole);
    let ends = pieces.iter().map(|p| p.folio_end.min(p.range.end)).collect();
    let mut req = WriteRequest::new(&runs, ends, how.serial);
    let (tx, mut rx) = mpsc::unbounded_channel();
    let sink: Arc<dyn WriteSink> = Arc::new(Sink(tx));
    let mut up = Uploaded::default();
    let mut unstable: Vec<(Range<u64>, Bytes)> = Vec::new();
    let counters = &inode.core.counters;
    while !req.complete() {
        while req.in_flight() < IN_FLIGHT_MAX
            && let Some(index) = req.next_issue(&remote.limits())
        {
            let range = req.range(index);
            // One call that is stable at once is cheaper than a call and a commit; of many it is not.
            let one = runs == [range.clone()];
            counters.upload.inc();
            let data = slices(pieces, &range);
            let sub = WriteSub::new(index, range.start, data, cx.clone(), Arc::clone(&sink));
            let sub = sub.stable(how.awaited && one);
            inode.core.driver.spawn(Arc::clone(remote).write(sub));
        }
        if let Some(tries) = req.retry_waits() {
            let pause = PAUSE * (1 << tries.min(8)) / 2;
            if tries > 0 {
                inode.core.clock.sleep_until(inode.now() + pause).await;
            }
            counters.upload_retry.inc();
            req.begin_retry();
            continue;
        }
        let Some((index, finished)) = rx.recv().await else { break };
        let range = req.finished(index, &finished.outcome, finished.written);
        up.silent |= !range.is_empty() && finished.change.is_none();
        up.changes.extend(finished.change);
        counters.upload_bytes.add(range.end - range.start);
        match finished.stability {
            _ if range.is_empty() => {}
            Stability::Stable => up.stable.push(range),
            Stability::Unstable(verifier) => unstable.push((range, verifier)),
        }
    }
    up.unwritten = req.unwritten();
    up.error = req.error().cloned();
    commit(&mut up, unstable, (remote, cx)).await;
    up
}

/// Has unstable bytes brought to stable storage. Those of another verifier were lost by a server that
/// restarted: they are sent again in the next round.
async fn commit(
    up: &mut Uploaded,
    unstable: Vec<(Range<u64>, Bytes)>,
    (remote, cx): (&DynFile, &Cx),
) {
    let start = unstable.iter().map(|(r, _)| r.start).min();
    let end = unstable.iter().map(|(r, _)| r.end).max();
    let (Some(start), Some(end)) = (start, end) else { return };
    match Arc::clone(remote).commit(start..end, cx.clone()).await {
        Ok((verifier, change)) => {
            up.changes.extend(change);
            for (range, theirs) in unstable {
                if theirs == verifier {
                    up.stable.push(range);
                } else {
                    up.unwritten.push(range);
                }
            }
        }
        Err(error) => {
            up.unwritten.extend(unstable.into_iter().map(|(range, _)| range));
            up.error.get_or_insert(error);
        }
    }
}

/// Those parts of the pieces that are in `ranges`, which do not overlap; ascending as the pieces are.
pub(crate) fn parts_of(pieces: &[Sent], ranges: &[Range<u64>]) -> Vec<Sent> {
    let part = |p: &Sent, range: &Range<u64>| {
        let (start, end) = (p.range.start.max(range.start), p.range.end.min(range.end));
        let at = |n: u64| (n - p.range.start) as usize;
        (start < end).then(|| Sent {
            range: start..end,
            data: p.data.part(at(start)..at(end)),
            ..p.clone()
        })
    };
    let mut parts: Vec<Sent> =
        pieces.iter().flat_map(|p| ranges.iter().filter_map(move |r| part(p, r))).collect();
    parts.sort_by_key(|p| p.range.start);
    parts
}

/// The runs without a gap that the pieces make.
fn runs_of(pieces: &[Sent]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some(run) if run.end == piece.range.start => run.end = piece.range.end,
            _ => runs.push(piece.range.clone()),
        }
    }
    runs
}

/// The bytes of `range`, which the pieces cover.
fn slices(pieces: &[Sent], range: &Range<u64>) -> SmallVec<[Slice; 4]> {
    let first = pieces.partition_point(|p| p.range.end <= range.start);
    let touching = pieces[first..].iter().take_while(|p| p.range.start < range.end);
    let part = |p: &Sent| {
        let cut = p.range.start.max(range.start)..p.range.end.min(range.end);
        let at = |n: u64| (n - p.range.start) as usize;
        p.data.part(at(cut.start)..at(cut.end))
    };
    touching.map(part).collect()
}
