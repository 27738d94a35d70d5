//! A slice of an upload, and what a modifying reply says.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{
    cx::Cx,
    facts::{Facts, Version},
};
use crate::{
    error::{Errno, Error},
    folio::Slice,
    sync::Arc,
};

/// What the reply to a modifying call said: the version the file had just before, and the facts after
/// (NFS: pre-operation and post-operation attributes; AFS: the data version before is one less than
/// the one returned).
///
/// From `before` the core learns whether the change was ours alone. A reply without it is taken for a
/// change that may have met somebody else's, unless the server has promised that nobody else writes
/// ([`PromiseKind::Write`](super::PromiseKind::Write)): clean cached bytes are checked again. An adapter that can
/// make its writes conditional (`If-Match`) or look before it writes SHOULD state it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// The version that the call found.
    pub before: Option<Version>,
    /// The file after the call.
    pub after: Facts,
}

impl Change {
    /// A change from one version to another.
    #[must_use]
    pub fn new(before: Option<Version>, after: Facts) -> Change {
        Change { before, after }
    }
}

/// Where acknowledged bytes are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Stability {
    /// They survive a restart of the server.
    #[default]
    Stable,
    /// Only in the server's memory, until [`RemoteFile::commit`](super::RemoteFile::commit) returns the
    /// same verifier (RFC 8881 section 18.32.3). The core keeps them until then and sends them again if
    /// it returns another one.
    Unstable(Bytes),
}

/// How an upload ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum WriteOutcome {
    /// The call succeeded. Fewer bytes than given is a short write: the rest is sent again (row 80).
    Done,
    /// The transport asks for another try of what is missing (row 79). No error is reported.
    Retry,
    /// The call failed. Whether it is tried again later is the core's decision, by the error.
    Failed(Error),
}

/// What came of a write sub, as the core sees it.
#[derive(Debug)]
pub struct WriteFinished {
    /// How it ended.
    pub outcome: WriteOutcome,
    /// Bytes acknowledged, from the front of the range.
    pub written: u64,
    /// What the reply said; `None` if it said nothing.
    pub change: Option<Change>,
    /// Where the acknowledged bytes are.
    pub stability: Stability,
}

/// Where a write sub reports its end to. May be called from any thread.
pub(crate) trait WriteSink: Send + Sync {
    /// Sub `index` has ended. Called exactly once.
    fn finished(&self, index: usize, result: WriteFinished);
}

/// Bytes to send to the server, owned by the adapter until it calls [`finish`](WriteSub::finish).
///
/// The bytes are a snapshot: nothing that is written to the file later changes them, however often the
/// adapter sends them.
///
/// ```
/// use netfs::remote::{Cred, Cx, WriteOutcome, WriteSub};
/// let (mut sub, done) = WriteSub::detached(4096, b"hello", Cx::new(Cred::new(0, 0)));
/// assert_eq!(sub.range(), 4096..4101);
/// sub.advance(2); // a short write
/// assert_eq!(sub.buffers().collect::<Vec<_>>(), [b"llo"]);
/// sub.finish(WriteOutcome::Done);
/// assert_eq!(done.wait().written, 2);
/// ```
pub struct WriteSub {
    range: Range<u64>,
    data: SmallVec<[Slice; 4]>,
    cx: Cx,
    stable: bool,
    written: u64,
    overrun: bool,
    change: Option<Change>,
    stability: Stability,
    index: usize,
    sink: Option<Arc<dyn WriteSink>>,
}

impl WriteSub {
    /// `data` lies one after the other from `start`.
    pub(crate) fn new(
        index: usize,
        start: u64,
        data: SmallVec<[Slice; 4]>,
        cx: Cx,
        sink: Arc<dyn WriteSink>,
    ) -> WriteSub {
        let len: u64 = data.iter().map(|s| s.len() as u64).sum();
        WriteSub {
            range: start..start + len,
            data,
            cx,
            stable: false,
            written: 0,
            overrun: false,
            change: None,
            stability: Stability::Stable,
            index,
            sink: Some(sink),
        }
    }

    /// Asks for stable storage, or not: the core's business, and that of an adapter's tests.
    #[must_use]
    pub fn stable(mut self, stable: bool) -> WriteSub {
        self.stable = stable;
        self
    }

    /// A sub outside any request, for tests of an adapter; the second value tells what became of it.
    #[must_use]
    pub fn detached(offset: u64, bytes: &[u8], cx: Cx) -> (WriteSub, DetachedWrite) {
        let (tx, rx) = oneshot::channel();
        let sink = Arc::new(DetachedSink(crate::sync::Mutex::new(Some(tx))));
        let data = SmallVec::from_iter([Slice::from_bytes(bytes)]);
        (WriteSub::new(0, offset, data, cx, sink), DetachedWrite(rx))
    }

    /// The bytes still to be written.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset()..self.range.end
    }

    /// File offset of the next byte to write.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.range.start + self.written
    }

    /// Number of bytes still to be written.
    #[must_use]
    pub fn remaining(&self) -> usize {
        (self.range.end - self.offset()) as usize
    }

    /// On whose behalf.
    #[must_use]
    pub fn cx(&self) -> &Cx {
        &self.cx
    }

    /// Whether someone waits for stable storage: writing stably at once saves the commit. A hint.
    #[must_use]
    pub fn wants_stable(&self) -> bool {
        self.stable
    }

    /// What is still to be written, in file order.
    pub fn buffers(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.written as usize;
        self.data.iter().filter_map(move |slice| {
            let start = skip.min(slice.len());
            skip -= start;
            (start < slice.len()).then(|| &slice[start..])
        })
    }

    /// The same as slices that live as long as their owner likes, for a transport that queues them.
    #[must_use]
    pub fn slices(&self) -> Vec<Slice> {
        let mut skip = self.written as usize;
        let mut out = Vec::with_capacity(self.data.len());
        for slice in &self.data {
            let start = skip.min(slice.len());
            skip -= start;
            if start < slice.len() {
                out.push(slice.part(start..slice.len()));
            }
        }
        out
    }

    /// The server acknowledged the next `n` bytes. More than there are count as all of them, with a
    /// warning (row 80).
    pub fn advance(&mut self, n: usize) {
        self.overrun |= n > self.remaining();
        self.written += n.min(self.remaining()) as u64;
    }

    /// What the reply said. The last call counts.
    pub fn change(&mut self, change: Change) {
        self.change = Some(change);
    }

    /// The acknowledged bytes are not on stable storage yet; `verifier` as the server gave it.
    pub fn unstable(&mut self, verifier: Bytes) {
        self.stability = Stability::Unstable(verifier);
    }

    /// Ends the sub.
    pub fn finish(mut self, outcome: WriteOutcome) {
        self.end(outcome);
    }

    /// Ends the sub with an error.
    pub fn fail(self, error: Error) {
        self.finish(WriteOutcome::Failed(error));
    }

    fn end(&mut self, outcome: WriteOutcome) {
        let Some(sink) = self.sink.take() else { return };
        if self.overrun {
            tracing::warn!(range = ?self.range, "the server says it wrote more than it was given");
        }
        // The bytes are let go before anyone hears of the end: who writes next need not copy them.
        self.data.clear();
        sink.finished(
            self.index,
            WriteFinished {
                outcome,
                written: self.written,
                change: self.change.take(),
                stability: std::mem::take(&mut self.stability),
            },
        );
    }
}

impl Drop for WriteSub {
    fn drop(&mut self) {
        self.end(WriteOutcome::Failed(Error::new(
            Errno::ECANCELED,
            "the adapter dropped a write without finishing it (its future was dropped, or it panicked)",
        )));
    }
}

/// What became of a [`WriteSub::detached`] sub.
pub struct DetachedWrite(oneshot::Receiver<WriteFinished>);

impl DetachedWrite {
    /// Blocks until the sub has ended; returns how.
    ///
    /// # Panics
    /// Never: a sub always ends, at the latest when it is dropped.
    #[must_use]
    pub fn wait(self) -> WriteFinished {
        pollster::block_on(self.0).expect("a sub reports exactly once")
    }
}

struct DetachedSink(crate::sync::Mutex<Option<oneshot::Sender<WriteFinished>>>);

impl WriteSink for DetachedSink {
    fn finished(&self, _index: usize, result: WriteFinished) {
        if let Some(tx) = self.0.lock().take() {
            // The test may have stopped waiting; nothing to tell it then.
            let _ = tx.send(result);
        }
    }
}
