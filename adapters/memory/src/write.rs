//! Changes of a file's data by a client: writes, commits, sizes, holes.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use netfs::{
    Errno, Result,
    remote::{Change, Cx, FileKind, IoLimits, WriteOutcome, WriteSub},
};

use crate::{
    content::Run,
    fault::{Effect, Op, OverLong, Verdict},
    file::{MemoryFile, Opened},
    origin::{Acted, Reply, Site, State},
    rights::{error, without_privileges, writable},
    tree::{NodeId, display},
};

/// What the server did with a write.
struct Written {
    /// What the reply says; `None` if there is none to say it.
    change: Option<Change>,
    /// Bytes applied, from the front.
    applied: u64,
    /// Why not more.
    failure: Option<Errno>,
    /// Set if the bytes are not committed.
    verifier: Option<Bytes>,
    chunk: u64,
}

pub(crate) async fn write(file: Arc<MemoryFile>, mut sub: WriteSub) {
    let site = Site { range: Some(sub.range()), ..Site::new(Op::Write, file.id, sub.cx()) };
    let site = Site { segments: sub.buffers().count(), ..site };
    let (offset, bytes, cx) = (sub.offset(), received(&sub), sub.cx().clone());
    let (id, stable) = (file.id, sub.wants_stable());
    let act = move |state: &mut State, verdict: &Verdict| {
        apply(state, id, &cx, offset, bytes, stable, verdict)
    };
    let Reply { answer, verdict, in_flight } = file.origin.modify(site, &file.client, act).await;
    let written = match answer {
        Ok(written) => written,
        Err(e) => {
            drop(in_flight);
            return sub.fail(e);
        }
    };
    if let Some(hold) = verdict.hold.as_ref().filter(|h| h.after > 0) {
        let before = hold.after.min(written.applied);
        acknowledge(&file, &mut sub, written.chunk, before).await;
        hold.gate.pass().await;
        acknowledge(&file, &mut sub, written.chunk, written.applied - before).await;
    } else {
        acknowledge(&file, &mut sub, written.chunk, written.applied).await;
    }
    // The call is over before anyone hears of its end, so a test that saw the end sees it counted.
    drop(in_flight);
    finish(sub, written, &verdict);
}

/// The bytes as they came over the link.
fn received(sub: &WriteSub) -> Bytes {
    let mut bytes = BytesMut::with_capacity(sub.remaining());
    sub.buffers().for_each(|part| bytes.extend_from_slice(part));
    bytes.freeze()
}

/// Tells of the next `len` bytes in pieces, each when the link has brought it.
async fn acknowledge(file: &MemoryFile, sub: &mut WriteSub, chunk: u64, len: u64) {
    let mut left = len;
    while left > 0 {
        let piece = left.min(chunk);
        file.origin.transfer(piece).await;
        sub.advance(usize::try_from(piece).unwrap_or(usize::MAX));
        left -= piece;
    }
}

fn apply(
    state: &mut State,
    id: NodeId,
    cx: &Cx,
    offset: u64,
    bytes: Bytes,
    stable: bool,
    verdict: &Verdict,
) -> Result<Acted<Written>> {
    check_open(state, id, cx);
    let node = writable(state, id, cx)?;
    let end = offset.checked_add(bytes.len() as u64).ok_or(Errno::EFBIG)?;
    if end > max_size(state, id)? {
        return Err(error(Errno::EFBIG, "a write past the largest size"));
    }
    if state.settings.refuse_oversized && bytes.len() as u64 > limits(state, id)?.wsize {
        return Err(error(Errno::EINVAL, "a write larger than the limits in force"));
    }
    let before = state.version(node);
    let wanted = (bytes.len() as u64).min(verdict.shape.as_ref().map_or(u64::MAX, stop_after));
    let applied = fitting(state, id, offset..offset + wanted)?;
    let out_of_space = (applied < wanted).then_some(state.settings.quota_errno);
    let bytes = bytes.slice(..usize::try_from(applied).unwrap_or(bytes.len()));
    let unstable = state.settings.unstable && !stable;
    if applied > 0 {
        put(state, id, offset, bytes, unstable)?;
        state.privileges_lost(id, cx)?;
        state.ledger.written(id, applied);
    }
    // A call that fails, or never ends, without having done anything has no reply to speak of.
    let says = applied > 0
        || out_of_space.is_none()
            && !matches!(
                verdict.shape,
                Some(Effect::Retry(_) | Effect::FailAfter(..) | Effect::DropSub(_))
            );
    let node = state.tree.node(id)?;
    let written = Written {
        change: says.then(|| state.change(before, node)),
        applied,
        failure: out_of_space.or(match verdict.shape {
            Some(Effect::FailAfter(_, errno)) => Some(errno),
            _ => None,
        }),
        verifier: unstable.then(|| state.verifier()),
        chunk: state.settings.chunk.max(1),
    };
    let events = if applied > 0 { vec![state.broken(id)?] } else { Vec::new() };
    Ok(Acted { value: written, events })
}

fn put(state: &mut State, id: NodeId, offset: u64, bytes: Bytes, unstable: bool) -> Result<()> {
    if unstable {
        return state.tree.write_unstable(id, offset, bytes).map(drop);
    }
    let range = offset..offset.saturating_add(bytes.len() as u64);
    let write = |content: &mut crate::content::Content| {
        content.put_bytes(offset, bytes.clone());
        Ok(())
    };
    state.tree.edit(id, false, &range, write).map(drop)
}

/// A core that writes must ride on an open of that file for writing, or on none.
fn check_open(state: &mut State, id: NodeId, cx: &Cx) {
    if cx.token().get::<Opened>().is_none_or(|open| open.writes(id)) {
        return;
    }
    let path = state.tree.node(id).map(|n| display(&n.path)).unwrap_or_default();
    state.ledger.breach(format!("write of {path} on an open for reading or of another file"));
}

fn limits(state: &State, id: NodeId) -> Result<IoLimits> {
    Ok(state.tree.node(id)?.settings.limits.unwrap_or(state.settings.limits))
}

fn max_size(state: &State, id: NodeId) -> Result<u64> {
    Ok(limits(state, id)?.max_size)
}

/// How many bytes of `range` can be written before the quota is used up. What is stored already is paid
/// for.
fn fitting(state: &State, id: NodeId, range: Range<u64>) -> Result<u64> {
    let Some(quota) = state.settings.quota_bytes else { return Ok(range.end - range.start) };
    let mut left = quota.saturating_sub(state.tree.data_bytes());
    let content = &state.tree.node(id)?.now.content;
    let past_end = range.start.max(content.size())..range.end;
    let tail = (!past_end.is_empty()).then_some(Run::Hole(past_end));
    for run in content.runs(range.clone()).chain(tail) {
        let Run::Hole(hole) = run else { continue };
        let len = hole.end - hole.start;
        if len > left {
            return Ok(hole.start + left - range.start);
        }
        left -= len;
    }
    Ok(range.end - range.start)
}

/// After how many bytes a shaped write stops.
fn stop_after(shape: &Effect) -> u64 {
    match shape {
        Effect::Short(n) | Effect::Retry(n) | Effect::DropSub(n) | Effect::FailAfter(n, _) => *n,
        _ => u64::MAX,
    }
}

fn finish(mut sub: WriteSub, written: Written, verdict: &Verdict) {
    if let Some(mut change) = written.change {
        verdict.tell(&mut change);
        sub.change(change);
    }
    if let Some(verifier) = written.verifier {
        sub.unstable(verifier);
    }
    if let Some(errno) = written.failure {
        return sub.fail(error(errno, "the write stopped before its end"));
    }
    match &verdict.shape {
        Some(Effect::DropSub(_)) => drop(sub),
        Some(Effect::Retry(_)) => sub.finish(WriteOutcome::Retry),
        Some(Effect::OverLong(OverLong::Advance(extra))) => {
            sub.advance(sub.remaining().saturating_add((*extra).max(1)));
            sub.finish(WriteOutcome::Done);
        }
        _ => sub.finish(WriteOutcome::Done),
    }
}

impl MemoryFile {
    pub(crate) async fn do_commit(
        &self,
        range: Range<u64>,
        cx: Cx,
    ) -> Result<(Bytes, Option<Change>)> {
        let site = Site { range: Some(range.clone()), ..Site::new(Op::Commit, self.id, &cx) };
        let id = self.id;
        let act = move |state: &mut State, _: &Verdict| {
            let before = state.version(writable(state, id, &cx)?);
            state.tree.commit(id, &range)?;
            let change = state.change(before, state.tree.node(id)?);
            Ok(Acted { value: (state.verifier(), Some(change)), events: Vec::new() })
        };
        let mut reply = self.origin.modify(site, &self.client, act).await;
        if let Ok((_, Some(change))) = &mut reply.answer {
            reply.verdict.tell(change);
        }
        reply.end()
    }

    pub(crate) async fn do_set_size(&self, size: u64, cx: Cx) -> Result<Change> {
        let site = Site::new(Op::SetSize, self.id, &cx);
        self.edit(site, cx, move |state, id| {
            if size > max_size(state, id)? {
                return Err(error(Errno::EFBIG, "a size past the largest"));
            }
            state.tree.edit(id, false, &(size..u64::MAX), |content| {
                content.resize(size);
                Ok(())
            })
        })
        .await
    }

    pub(crate) async fn do_allocate(
        &self,
        range: Range<u64>,
        keep_size: bool,
        cx: Cx,
    ) -> Result<Change> {
        let site = Site { range: Some(range.clone()), ..Site::new(Op::Allocate, self.id, &cx) };
        self.edit(site, cx, move |state, id| {
            not_empty(&range)?;
            if range.end > max_size(state, id)? {
                return Err(error(Errno::EFBIG, "an allocation past the largest size"));
            }
            if fitting(state, id, range.clone())? < range.end - range.start {
                return Err(error(state.settings.quota_errno, "no space to reserve"));
            }
            state.tree.edit(id, false, &(0..0), |content| {
                if !keep_size && range.end > content.size() {
                    content.resize(range.end);
                }
                Ok(())
            })
        })
        .await
    }

    pub(crate) async fn do_deallocate(&self, range: Range<u64>, cx: Cx) -> Result<Change> {
        let site = Site { range: Some(range.clone()), ..Site::new(Op::Deallocate, self.id, &cx) };
        self.edit(site, cx, move |state, id| {
            not_empty(&range)?;
            state.tree.edit(id, false, &range, |content| {
                let end = range.end.min(content.size());
                content.put_hole(range.start.min(end)..end);
                Ok(())
            })
        })
        .await
    }

    /// A change of data that is not a write.
    async fn edit(
        &self,
        site: Site,
        cx: Cx,
        edit: impl FnOnce(&mut State, NodeId) -> Result<u64>,
    ) -> Result<Change> {
        let id = self.id;
        let act = move |state: &mut State, _: &Verdict| {
            let before = state.version(writable(state, id, &cx)?);
            edit(state, id)?;
            state.privileges_lost(id, &cx)?;
            let value = state.change(before, state.tree.node(id)?);
            Ok(Acted { value, events: vec![state.broken(id)?] })
        };
        let mut reply = self.origin.modify(site, &self.client, act).await;
        if let Ok(change) = &mut reply.answer {
            reply.verdict.tell(change);
        }
        reply.end()
    }
}

fn not_empty(range: &Range<u64>) -> Result<()> {
    if range.is_empty() {
        return Err(error(Errno::EINVAL, "an empty range"));
    }
    Ok(())
}

impl State {
    fn privileges_lost(&mut self, id: NodeId, cx: &Cx) -> Result<()> {
        let node = self.tree.node_mut(id)?;
        debug_assert_eq!(node.kind, FileKind::File);
        node.mode = without_privileges(node.mode, cx.cred());
        Ok(())
    }
}
