//! A server of one file, made of the model's own locks: every call of it is a place where the others
//! may come in between.

use shuttle::future::yield_now;

use crate::{
    coherency::{BreakReason, RecallTicket, VolumeEvents},
    error::{Errno, Error, Result},
    remote::{
        AccessMask, Attr, BoxFuture, Bytes, Change, Cx, DirPage, Facts, FileKind, Found, IoLimits,
        LookupReply, Outcome, Promise, PromiseKind, ReadSub, RemoteFile, RemoteFs, Version,
        VolumeId, WriteOutcome, WriteSub,
    },
    sync::{Arc, Mutex},
};

pub(super) const KEY: &[u8] = b"file";

/// How reads are answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answers {
    /// All at once.
    Whole,
    /// A page at a time, each reported, others running in between.
    Paged,
    /// Half of what was asked, rounded up to a byte that is no page border: the rest is asked again.
    Short,
    /// Not before [`Origin::release`].
    Never,
}

pub(super) struct Origin {
    state: Mutex<State>,
    rsize: u64,
    answers: Answers,
}

struct State {
    version: u64,
    bytes: Vec<u8>,
    /// A change is being made: what is said now is not vouched for.
    changing: bool,
    reads: Vec<std::ops::Range<u64>>,
    held: Vec<ReadSub>,
    released: bool,
    events: Option<VolumeEvents>,
    /// Writes wait until they do not any more.
    hanging: bool,
    hung: Vec<WriteSub>,
    refusing: bool,
    /// Replies to changes name the version they found.
    states_before: bool,
    /// What the file held whenever its promise was given back.
    releases: Vec<Vec<u8>>,
}

/// Bytes of the file's version, told apart byte by byte from those of the next versions and from
/// those at other places.
pub(super) fn content(version: u64, offset: u64, len: usize) -> Vec<u8> {
    (offset..).take(len).map(|at| byte(version, at)).collect()
}

fn byte(version: u64, at: u64) -> u8 {
    // 1 to 251: never what nobody wrote.
    ((version * 97 + (at / 4096) * 13 + at) % 251) as u8 + 1
}

impl Origin {
    pub(super) fn new(size: u64, rsize: u64, answers: Answers) -> Arc<Origin> {
        let state = State {
            version: 1,
            bytes: content(1, 0, size as usize),
            changing: false,
            reads: Vec::new(),
            held: Vec::new(),
            released: false,
            events: None,
            hanging: false,
            hung: Vec::new(),
            refusing: false,
            states_before: true,
            releases: Vec::new(),
        };
        Arc::new(Origin { state: Mutex::new(state), rsize, answers })
    }

    pub(super) fn version(&self) -> u64 {
        self.state.lock().version
    }

    /// The ranges that were asked for.
    pub(super) fn reads(&self) -> Vec<std::ops::Range<u64>> {
        self.state.lock().reads.clone()
    }

    /// A new version, told before it can be seen (A1.23).
    pub(super) fn change(&self) -> u64 {
        self.change_to(None)
    }

    /// The same, and another size.
    pub(super) fn change_to(&self, size: Option<u64>) -> u64 {
        let events = {
            let mut state = self.state.lock();
            state.changing = true;
            state.events.clone()
        };
        if let Some(events) = events {
            drop(events.server_break(KEY, BreakReason::Callback));
        }
        let mut state = self.state.lock();
        state.changing = false;
        state.version += 1;
        let size = size.map_or(state.bytes.len(), |size| size as usize);
        state.bytes = content(state.version, 0, size);
        state.version
    }

    /// Wants the promise back.
    pub(super) fn recall(&self) -> Option<RecallTicket> {
        let events = self.state.lock().events.clone();
        Some(events?.server_recall(KEY, PromiseKind::Write))
    }

    pub(super) fn releases(&self) -> Vec<Vec<u8>> {
        self.state.lock().releases.clone()
    }

    /// Writes hang from now on; or those that do are done, and none does any more.
    pub(super) fn hang_writes(&self, hang: bool) {
        let hung = {
            let mut state = self.state.lock();
            state.hanging = hang;
            std::mem::take(&mut state.hung)
        };
        hung.into_iter().for_each(|sub| self.apply(sub));
    }

    pub(super) fn states_before(&self, states: bool) {
        self.state.lock().states_before = states;
    }

    pub(super) fn refuse_writes(&self, refuse: bool) {
        self.state.lock().refusing = refuse;
    }

    /// All of a write at once.
    fn apply(&self, mut sub: WriteSub) {
        let data = sub.buffers().collect::<Vec<_>>().concat();
        let (start, end) = (sub.offset() as usize, sub.offset() as usize + data.len());
        let change = self.modify(|bytes| {
            bytes.resize(bytes.len().max(end), 0);
            bytes[start..end].copy_from_slice(&data);
        });
        sub.advance(data.len());
        sub.change(change);
        sub.finish(WriteOutcome::Done);
    }

    /// What the file holds.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.state.lock().bytes.clone()
    }

    /// A client changes the file. Nobody is told: it knows.
    fn modify(&self, change: impl FnOnce(&mut Vec<u8>)) -> Change {
        let mut state = self.state.lock();
        let before = state.states_before.then(|| Version::from_u64(state.version));
        change(&mut state.bytes);
        state.version += 1;
        drop(state);
        Change::new(before, self.snapshot().2)
    }

    /// Whoever waits in [`Answers::Never`] is answered now.
    pub(super) fn release(&self) {
        let held = {
            let mut state = self.state.lock();
            state.released = true;
            std::mem::take(&mut state.held)
        };
        held.into_iter().for_each(|sub| answer(sub, self.snapshot()));
    }

    fn snapshot(&self) -> (u64, Vec<u8>, Facts) {
        let state = self.state.lock();
        let promise = match state.changing {
            true => Promise::None,
            false => Promise::UntilBroken { kind: PromiseKind::Read },
        };
        let facts = Facts {
            version: Some(Version::from_u64(state.version)),
            size: Some(state.bytes.len() as u64),
            attr: Some(Attr::plain(FileKind::File, state.bytes.len() as u64)),
            promise,
            volume: None,
        };
        (state.version, state.bytes.clone(), facts)
    }
}

fn answer(mut sub: ReadSub, (_, bytes, facts): (u64, Vec<u8>, Facts)) {
    let rest = bytes.get(sub.offset() as usize..).unwrap_or_default();
    let n = sub.remaining().min(rest.len());
    sub.facts(facts);
    sub.write(&rest[..n]);
    sub.finish(if n == rest.len() { Outcome::Eof } else { Outcome::Done });
}

pub(super) struct Connection(pub(super) Arc<Origin>);

impl RemoteFile for Origin {
    fn key(&self) -> &[u8] {
        KEY
    }

    fn limits(&self) -> IoLimits {
        IoLimits { rsize: self.rsize, ..IoLimits::default() }
    }

    fn read(self: std::sync::Arc<Self>, mut sub: ReadSub) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.state.lock().reads.push(sub.range());
            yield_now().await;
            let snapshot = self.snapshot();
            match self.answers {
                Answers::Whole => answer(sub, snapshot),
                Answers::Never => {
                    let mut state = self.state.lock();
                    if state.released {
                        drop(state);
                        answer(sub, snapshot);
                    } else {
                        state.held.push(sub);
                    }
                }
                Answers::Paged => {
                    let (_, bytes, facts) = snapshot;
                    sub.facts(facts);
                    while sub.remaining() > 0 && sub.offset() < bytes.len() as u64 {
                        let rest = &bytes[sub.offset() as usize..];
                        sub.write(&rest[..sub.remaining().min(4096).min(rest.len())]);
                        yield_now().await;
                    }
                    let over = sub.offset() >= bytes.len() as u64;
                    sub.finish(if over { Outcome::Eof } else { Outcome::Done });
                }
                Answers::Short => {
                    let (_, bytes, facts) = snapshot;
                    let rest = bytes.get(sub.offset() as usize..).unwrap_or_default();
                    let n = (sub.remaining() / 2 + 1).min(sub.remaining()).min(rest.len());
                    sub.facts(facts);
                    sub.write(&rest[..n]);
                    yield_now().await;
                    sub.finish(if n == rest.len() { Outcome::Eof } else { Outcome::Done });
                }
            }
        })
    }

    fn write(self: std::sync::Arc<Self>, mut sub: WriteSub) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            yield_now().await;
            {
                let mut state = self.state.lock();
                if state.refusing {
                    drop(state);
                    return sub.fail(Error::new(Errno::ENOSPC, "refused"));
                }
                if state.hanging {
                    state.hung.push(sub);
                    return;
                }
            }
            let data = sub.buffers().collect::<Vec<_>>().concat();
            let n = match self.answers {
                Answers::Short => data.len() / 2 + 1,
                _ => data.len(),
            };
            let (start, end) = (sub.offset() as usize, sub.offset() as usize + n);
            let change = self.modify(|bytes| {
                bytes.resize(bytes.len().max(end), 0);
                bytes[start..end].copy_from_slice(&data[..n]);
            });
            yield_now().await;
            sub.advance(n);
            sub.change(change);
            sub.finish(WriteOutcome::Done);
        })
    }

    fn release_promise(self: std::sync::Arc<Self>, _: Cx) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            yield_now().await;
            let mut state = self.state.lock();
            let bytes = state.bytes.clone();
            state.releases.push(bytes);
            Ok(())
        })
    }

    fn set_size(
        self: std::sync::Arc<Self>,
        size: u64,
        _: Cx,
    ) -> BoxFuture<'static, Result<Change>> {
        Box::pin(async move {
            yield_now().await;
            let change = self.modify(|bytes| bytes.resize(size as usize, 0));
            yield_now().await;
            Ok(change)
        })
    }

    fn validate(self: std::sync::Arc<Self>, _: Cx) -> BoxFuture<'static, Result<Facts>> {
        Box::pin(async move {
            yield_now().await;
            let facts = self.snapshot().2;
            yield_now().await;
            Ok(facts)
        })
    }
}

impl RemoteFs for Connection {
    type File = Origin;

    fn volume_id(&self) -> VolumeId {
        VolumeId::new("one,file").expect("valid")
    }

    fn attach(&self, events: VolumeEvents) {
        self.0.state.lock().events = Some(events);
    }

    fn root(self: std::sync::Arc<Self>, _: Cx) -> BoxFuture<'static, Result<Found<Origin>>> {
        let facts = self.0.snapshot().2;
        Box::pin(async move { Ok(Found { file: std::sync::Arc::clone(&self.0), facts }) })
    }

    fn lookup(
        self: std::sync::Arc<Self>,
        _: std::sync::Arc<Origin>,
        _: Bytes,
        _: Cx,
    ) -> BoxFuture<'static, Result<LookupReply<Origin>>> {
        Box::pin(async { Err(Error::new(Errno::ENOTDIR, "one file and no directory")) })
    }

    fn readdir(
        self: std::sync::Arc<Self>,
        _: std::sync::Arc<Origin>,
        _: u64,
        _: bool,
        _: Cx,
    ) -> BoxFuture<'static, Result<DirPage<Origin>>> {
        Box::pin(async { Err(Error::new(Errno::ENOTDIR, "one file and no directory")) })
    }

    fn access(
        self: std::sync::Arc<Self>,
        _: std::sync::Arc<Origin>,
        _: AccessMask,
        _: Cx,
    ) -> BoxFuture<'static, Result<bool>> {
        Box::pin(async { Ok(true) })
    }
}
