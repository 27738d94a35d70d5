//! One file as the core sees it, and the delivery of read replies. [Writes](crate::write) are next door.

use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use netfs::{
    Errno, Error, Result,
    remote::{
        AccessMask, BoxFuture, Change, Cx, Facts, FileKind, IoLimits, OpenIntent, Outcome, ReadSub,
        RemoteFile, WriteSub,
    },
};

use crate::{
    content::Run,
    fault::{Effect, Op, OverLong},
    origin::{Client, Origin, Reply, Site, State},
    tree::{KEY_LEN, Node, NodeId, Snapshot},
    write,
};

/// A file of a [`MemoryFs`](crate::MemoryFs).
pub struct MemoryFile {
    pub(crate) origin: Arc<Origin>,
    /// The client that found it, whom no event tells of its own changes. Weak: the core keeps files.
    pub(crate) client: Client,
    pub(crate) id: NodeId,
    key: [u8; KEY_LEN],
}

impl MemoryFile {
    pub(crate) fn new(origin: &Arc<Origin>, client: Client, node: &Node) -> Arc<MemoryFile> {
        Arc::new(MemoryFile { origin: Arc::clone(origin), client, id: node.id, key: node.key })
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryFile({:016x})", self.id)
    }
}

impl RemoteFile for MemoryFile {
    /// File number and generation, 8 bytes each, big-endian.
    fn key(&self) -> &[u8] {
        &self.key
    }

    fn close_must_flush(&self, _cx: &Cx) -> bool {
        self.origin.state.lock().settings.close_must_flush
    }

    fn limits(&self) -> IoLimits {
        let (hook, path, asked, mut limits) = {
            let state = self.origin.state.lock();
            let node = state.tree.node(self.id).ok();
            let own = node.and_then(|n| n.settings.limits);
            let path = node.map(|n| n.path.clone()).unwrap_or_default();
            let asked = state.ledger.limits_asked(self.id);
            let hook = state.settings.limits_hook.clone().filter(|_| own.is_none());
            (hook, path, asked, own.unwrap_or(state.settings.limits))
        };
        if let Some(hook) = hook {
            limits = hook(&path, asked);
        }
        self.origin.state.lock().ledger.limits_told(self.id, &limits);
        limits
    }

    fn expand(&self, window: &mut Range<u64>) {
        let (hook, path) = {
            let state = self.origin.state.lock();
            let path = state.tree.node(self.id).map(|n| n.path.clone()).unwrap_or_default();
            (state.settings.expand.clone(), path)
        };
        if let Some(hook) = hook {
            hook(&path, window);
        }
    }

    fn read(self: Arc<Self>, sub: ReadSub) -> BoxFuture<'static, ()> {
        Box::pin(read(self, sub))
    }

    fn validate(self: Arc<Self>, cx: Cx) -> BoxFuture<'static, Result<Facts>> {
        Box::pin(async move { self.stat(Op::Validate, &cx).await })
    }

    fn write(self: Arc<Self>, sub: WriteSub) -> BoxFuture<'static, ()> {
        Box::pin(write::write(self, sub))
    }

    fn commit(
        self: Arc<Self>,
        range: Range<u64>,
        cx: Cx,
    ) -> BoxFuture<'static, Result<(Bytes, Option<Change>)>> {
        Box::pin(async move { self.do_commit(range, cx).await })
    }

    fn set_size(self: Arc<Self>, size: u64, cx: Cx) -> BoxFuture<'static, Result<Change>> {
        Box::pin(async move { self.do_set_size(size, cx).await })
    }

    /// A hole stays a hole: only the size and the quota are looked at, and nothing is set aside.
    fn allocate(
        self: Arc<Self>,
        range: Range<u64>,
        keep_size: bool,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Change>> {
        Box::pin(async move { self.do_allocate(range, keep_size, cx).await })
    }

    fn deallocate(
        self: Arc<Self>,
        range: Range<u64>,
        cx: Cx,
    ) -> BoxFuture<'static, Result<Change>> {
        Box::pin(async move { self.do_deallocate(range, cx).await })
    }

    fn release_promise(self: Arc<Self>, cx: Cx) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let id = self.id;
            let site = Site::new(Op::ReleasePromise, id, &cx);
            self.origin.call(site, move |state| state.tree.node(id).map(drop)).await.end()
        })
    }
}

impl MemoryFile {
    /// The file's facts through one call of kind `op`.
    pub(crate) async fn stat(&self, op: Op, cx: &Cx) -> Result<Facts> {
        let site = Site::new(op, self.id, cx);
        let id = self.id;
        let answer = move |state: &State| state.tree.node(id).map(|n| state.facts(n));
        let mut reply = self.origin.call(site, answer).await;
        if let Ok(facts) = &mut reply.answer {
            reply.verdict.lie(facts);
        }
        reply.end()
    }
}

/// What a read reply is made from.
struct Readable {
    facts: Facts,
    snapshot: Arc<Snapshot>,
    report_holes: bool,
    chunk: u64,
}

async fn read(file: Arc<MemoryFile>, mut sub: ReadSub) {
    let site = Site { range: Some(sub.range()), ..Site::new(Op::Read, file.id, sub.cx()) };
    let site = Site { segments: sub.buffers().count(), ..site };
    let cx = sub.cx().clone();
    let reply = file.origin.call(site, |state| readable(state, file.id, &cx)).await;
    let Reply { answer, verdict, in_flight } = reply;
    let mut readable = match answer {
        Ok(readable) => readable,
        Err(e) => {
            drop(in_flight);
            return sub.fail(e);
        }
    };
    verdict.lie(&mut readable.facts);
    sub.facts(readable.facts.clone());

    let available = readable.snapshot.content.size().saturating_sub(sub.offset());
    let all = (sub.remaining() as u64).min(available);
    // A reply that is over before it would stop short says so, like any other.
    let shape = verdict.shape.filter(|s| !matches!(s, Effect::Short(n) if *n > all));
    let stop = shape.as_ref().map_or(all, |s| stop_after(s).min(all));
    if let Some(hold) = verdict.hold.as_ref().filter(|h| h.after > 0) {
        let before = hold.after.min(stop);
        deliver(&file, &readable, &mut sub, before).await;
        hold.gate.pass().await;
        deliver(&file, &readable, &mut sub, stop - before).await;
    } else {
        deliver(&file, &readable, &mut sub, stop).await;
    }
    // The call is over before anyone hears of its end, so a test that saw the end sees it counted.
    drop(in_flight);
    finish(sub, shape);
}

fn readable(state: &State, id: NodeId, cx: &Cx) -> Result<Readable> {
    let node = state.tree.node(id)?;
    if node.kind == FileKind::Dir {
        return Err(Error::new(Errno::EISDIR, "memory origin: read of a directory"));
    }
    // A link's target is read like a file's data, as in AFS; POSIX asks no rights for it.
    let free = node.kind == FileKind::Symlink || !state.settings.check_access;
    if !free && !node.allows(cx.cred(), AccessMask::READ) {
        return Err(Error::new(Errno::EACCES, "memory origin: no right to read"));
    }
    Ok(Readable {
        facts: state.read_facts(node),
        snapshot: Arc::clone(&node.now),
        report_holes: node.settings.report_holes.unwrap_or(state.settings.report_holes),
        chunk: state.settings.chunk.max(1),
    })
}

/// After how many bytes a shaped reply stops.
fn stop_after(shape: &Effect) -> u64 {
    match shape {
        Effect::Short(n)
        | Effect::Eof(n)
        | Effect::Retry(n)
        | Effect::ClearTail(n)
        | Effect::DropSub(n)
        | Effect::FailAfter(n, _) => *n,
        _ => u64::MAX,
    }
}

/// Delivers the next `len` bytes in pieces, each one step of progress.
async fn deliver(file: &MemoryFile, from: &Readable, sub: &mut ReadSub, len: u64) {
    let end = sub.offset() + len;
    while sub.offset() < end {
        let piece = sub.offset()..end.min(sub.offset().saturating_add(from.chunk));
        for run in from.snapshot.content.runs(piece) {
            match run {
                Run::Hole(r) if from.report_holes => {
                    sub.hole(length(&r));
                    file.origin.state.lock().ledger.sent(file.id, 0, r.end - r.start);
                }
                Run::Data(r) | Run::Hole(r) => {
                    file.origin.transfer(r.end - r.start).await;
                    fill(from, sub, length(&r));
                    file.origin.state.lock().ledger.sent(file.id, r.end - r.start, 0);
                }
            }
        }
    }
}

/// Makes the next `len` bytes in the sub's own memory.
fn fill(from: &Readable, sub: &mut ReadSub, len: usize) {
    let mut at = sub.offset();
    let mut left = len;
    for buf in sub.buffers() {
        let n = buf.len().min(left);
        from.snapshot.content.fill(at, &mut buf[..n]);
        at += n as u64;
        left -= n;
        if left == 0 {
            break;
        }
    }
    sub.advance(len);
}

fn finish(mut sub: ReadSub, shape: Option<Effect>) {
    // What is missing now, if nothing was shaped, lies past the end of the file.
    let honest = if sub.remaining() == 0 { Outcome::Done } else { Outcome::Eof };
    let outcome = match shape {
        None => honest,
        Some(Effect::Eof(_)) => Outcome::Eof,
        Some(Effect::Retry(_)) => Outcome::Retry,
        Some(Effect::ClearTail(_)) => Outcome::ClearTail,
        Some(Effect::DropSub(_)) => return drop(sub),
        Some(Effect::FailAfter(_, errno)) => {
            Outcome::Failed(Error::new(errno, "memory origin: injected failure of a read"))
        }
        Some(Effect::OverLong(how)) => {
            overrun(&mut sub, how);
            Outcome::Done
        }
        Some(_) => Outcome::Done,
    };
    sub.finish(outcome);
}

fn overrun(sub: &mut ReadSub, how: OverLong) {
    let past = |extra: usize| sub.remaining().saturating_add(extra.max(1));
    match how {
        OverLong::Advance(extra) => sub.advance(past(extra)),
        OverLong::Write(extra) => sub.write(&vec![0xee; past(extra)]),
        OverLong::Hole(extra) => sub.hole(past(extra)),
    }
}

/// A run never exceeds the sub it is delivered to, so its length fits.
fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}

/// An open, counted until its token is dropped.
pub(crate) struct Opened {
    pub(crate) origin: Arc<Origin>,
    pub(crate) number: u64,
    pub(crate) file: NodeId,
    pub(crate) intent: OpenIntent,
    /// The file is kept for it when its last name goes.
    pub(crate) keeps: bool,
}

impl Opened {
    /// Whether it was opened for writing this file.
    pub(crate) fn writes(&self, file: NodeId) -> bool {
        self.file == file && self.intent.writes()
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        {
            let mut state = self.origin.state.lock();
            state.ledger.opens.dropped += 1;
            if self.keeps {
                state.tree.closed(self.file);
            }
        }
        self.origin.moved.notify_all();
    }
}
