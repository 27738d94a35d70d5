//! The owned unit of work an adapter gets: a range to read and the memory to read it into.

use std::{io::IoSliceMut, ops::Range};

use tokio::sync::oneshot;

use super::{cx::Cx, facts::Facts};
use crate::{
    error::{Errno, Error},
    folio::memory::{FillBuf, FolioMem, NewMem},
    sync::Arc,
};

/// How a sub ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The call succeeded. Fewer bytes than asked is a short read: it is continued if there was
    /// progress, else it fails with `ENODATA` (rows 10, 31).
    Done,
    /// The call succeeded and met the end of the file: what is missing reads as zeros (row 9).
    Eof,
    /// The call succeeded; what is missing is known to be zeros (row 8).
    ClearTail,
    /// The transport asks for another try of what is missing (row 11).
    Retry,
    /// The call failed for good (row 12).
    Failed(Error),
}

/// What came of a sub, as the core sees it.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub outcome: Outcome,
    /// Bytes moved from the front of the range.
    pub transferred: u64,
    /// What the reply said.
    pub facts: Facts,
    /// Permission for what was not transferred, back with the core: to try again, or to zero it.
    pub(crate) rest: FillBuf,
}

/// Where a sub reports to. Both calls may come from any thread.
pub(crate) trait SubSink: Send + Sync {
    /// `transferred` bytes of sub `index` are in memory and will not be written again; `facts` is
    /// what the adapter has reported so far.
    fn progress(&self, index: usize, transferred: u64, facts: &Facts);
    /// Sub `index` has ended; its memory is no longer written. Called exactly once.
    fn finished(&self, index: usize, result: Finished);
}

/// A slice of a read, owned by the adapter until it calls [`finish`](ReadSub::finish).
///
/// The sub owns its memory: nothing is lent, nothing is reused before it has ended, so a reply that
/// arrives long after everyone stopped waiting still has a place to go.
///
/// ```
/// use netfs::remote::{Cred, Cx, Facts, Outcome, ReadSub, Version};
/// // An adapter's tests make their own subs:
/// let (mut sub, done) = ReadSub::detached(4096, 5, Cx::new(Cred::new(0, 0)));
/// sub.write(b"hello");
/// sub.facts(Facts::version(Version::from_u64(7)));
/// sub.finish(Outcome::Done);
/// let (finished, bytes) = done.wait();
/// assert_eq!((finished.transferred, &bytes[..]), (5, &b"hello"[..]));
/// ```
pub struct ReadSub {
    range: Range<u64>,
    buf: FillBuf,
    cx: Cx,
    facts: Facts,
    transferred: u64,
    overrun: bool,
    index: usize,
    sink: Option<Arc<dyn SubSink>>,
}

impl ReadSub {
    pub(crate) fn new(
        index: usize,
        start: u64,
        buf: FillBuf,
        cx: Cx,
        sink: Arc<dyn SubSink>,
    ) -> ReadSub {
        let range = start..start + buf.len() as u64;
        ReadSub {
            range,
            buf,
            cx,
            facts: Facts::default(),
            transferred: 0,
            overrun: false,
            index,
            sink: Some(sink),
        }
    }

    /// A sub outside any request, for tests of an adapter: it reads `len` bytes at `offset` into
    /// memory of its own, and the second value tells what became of it.
    #[must_use]
    pub fn detached(offset: u64, len: usize, cx: Cx) -> (ReadSub, DetachedSub) {
        let (buf, mem) = FillBuf::whole(NewMem::heap(len), len);
        let (tx, rx) = oneshot::channel();
        let sink = Arc::new(DetachedSink(crate::sync::Mutex::new(Some(tx))));
        (ReadSub::new(0, offset, buf, cx, sink), DetachedSub { mem, len, rx })
    }

    /// The bytes still to be read.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.start + self.transferred..self.range.end
    }

    /// File offset of the next byte to read.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.range.start + self.transferred
    }

    /// Number of bytes still to be read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.buf.len()
    }

    /// On whose behalf.
    #[must_use]
    pub fn cx(&self) -> &Cx {
        &self.cx
    }

    /// The memory for the remaining bytes, in file order. Fill from the front, then
    /// [`advance`](ReadSub::advance).
    pub fn buffers(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.buf.slices_mut()
    }

    /// The same as vectored-I/O slices.
    pub fn io_slices(&mut self) -> Vec<IoSliceMut<'_>> {
        self.buf.slices_mut().map(IoSliceMut::new).collect()
    }

    /// `n` more bytes are in memory. More than was asked for is an over-long reply: the sub fails
    /// with `EIO` and nothing of it is used beyond whole folios that readers already have (row 32).
    pub fn advance(&mut self, n: usize) {
        if n > self.buf.len() {
            self.overrun = true;
            return;
        }
        self.buf.advance(n);
        self.transferred += n as u64;
        if let (Some(sink), false) = (&self.sink, n == 0) {
            sink.progress(self.index, self.transferred, &self.facts);
        }
    }

    /// Copies `bytes` in and advances. Bytes past the end of the range make the reply over-long.
    pub fn write(&mut self, bytes: &[u8]) {
        if bytes.len() > self.buf.len() {
            self.overrun = true;
            return;
        }
        self.buf.copy_in(bytes);
        self.advance(bytes.len());
    }

    /// The next `n` bytes are known to be zero: fills them and advances.
    pub fn hole(&mut self, n: usize) {
        if n > self.buf.len() {
            self.overrun = true;
            return;
        }
        self.buf.zero(n);
        self.advance(n);
    }

    /// What the reply said. The last call counts.
    pub fn facts(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// Ends the sub.
    pub fn finish(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    /// Ends the sub with an error.
    pub fn fail(self, error: Error) {
        self.finish(Outcome::Failed(error));
    }

    fn end(&mut self, outcome: Outcome) {
        let Some(sink) = self.sink.take() else { return };
        // The memory is given back before anyone hears of the end (no late write is possible).
        let rest = std::mem::replace(&mut self.buf, FillBuf::empty());
        let (outcome, transferred) = if self.overrun {
            let e = Error::new(Errno::EIO, "the server sent more bytes than were asked for");
            (Outcome::Failed(e), 0)
        } else {
            (outcome, self.transferred)
        };
        let facts = std::mem::take(&mut self.facts);
        sink.finished(self.index, Finished { outcome, transferred, facts, rest });
    }
}

impl Drop for ReadSub {
    fn drop(&mut self) {
        self.end(Outcome::Failed(Error::new(
            Errno::ECANCELED,
            "the adapter dropped a read without finishing it (its future was dropped, or it panicked)",
        )));
    }
}

/// What became of a [`ReadSub::detached`] sub.
pub struct DetachedSub {
    mem: Arc<FolioMem>,
    len: usize,
    rx: oneshot::Receiver<Finished>,
}

impl DetachedSub {
    /// Blocks until the sub has ended; returns how, and the bytes transferred.
    ///
    /// # Panics
    /// Never: a sub always ends, at the latest when it is dropped.
    #[must_use]
    pub fn wait(self) -> (Finished, Vec<u8>) {
        let mut finished = pollster::block_on(self.rx).expect("a sub reports exactly once");
        // The memory can be read only when nobody may write it any more.
        finished.rest = FillBuf::empty();
        let n = usize::try_from(finished.transferred).unwrap_or(self.len).min(self.len);
        (finished, self.mem.read_settled(0..n).to_vec())
    }
}

struct DetachedSink(crate::sync::Mutex<Option<oneshot::Sender<Finished>>>);

impl SubSink for DetachedSink {
    fn progress(&self, _index: usize, _transferred: u64, _facts: &Facts) {}

    fn finished(&self, _index: usize, result: Finished) {
        if let Some(tx) = self.0.lock().take() {
            // The test may have stopped waiting; nothing to tell it then.
            let _ = tx.send(result);
        }
    }
}
