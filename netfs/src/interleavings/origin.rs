//! A server of one file, made of the model's own locks: every call of it is a place where the others
//! may come in between.

use shuttle::future::yield_now;

use crate::{
    coherency::{BreakReason, VolumeEvents},
    error::{Errno, Error, Result},
    remote::{
        AccessMask, Attr, BoxFuture, Bytes, Cx, DirPage, Facts, FileKind, Found, IoLimits,
        LookupReply, Outcome, Promise, PromiseKind, ReadSub, RemoteFile, RemoteFs, Version,
        VolumeId,
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
    size: u64,
    /// A change is being made: what is said now is not vouched for.
    changing: bool,
    reads: Vec<std::ops::Range<u64>>,
    held: Vec<ReadSub>,
    released: bool,
    events: Option<VolumeEvents>,
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
            size,
            changing: false,
            reads: Vec::new(),
            held: Vec::new(),
            released: false,
            events: None,
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
        state.version
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

    fn snapshot(&self) -> (u64, u64, Facts) {
        let state = self.state.lock();
        let promise = match state.changing {
            true => Promise::None,
            false => Promise::UntilBroken { kind: PromiseKind::Read },
        };
        let facts = Facts {
            version: Some(Version::from_u64(state.version)),
            size: Some(state.size),
            attr: Some(Attr::plain(FileKind::File, state.size)),
            promise,
            volume: None,
        };
        (state.version, state.size, facts)
    }
}

fn answer(mut sub: ReadSub, (version, size, facts): (u64, u64, Facts)) {
    let offset = sub.offset();
    let n = sub.remaining().min(usize::try_from(size - offset).expect("small"));
    sub.facts(facts);
    sub.write(&content(version, offset, n));
    sub.finish(if sub_is_over(n, size, offset) { Outcome::Eof } else { Outcome::Done });
}

fn sub_is_over(n: usize, size: u64, offset: u64) -> bool {
    offset + n as u64 == size
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
                    let (version, size, facts) = snapshot;
                    sub.facts(facts);
                    while sub.remaining() > 0 && sub.offset() < size {
                        let n = sub.remaining().min(4096).min((size - sub.offset()) as usize);
                        sub.write(&content(version, sub.offset(), n));
                        yield_now().await;
                    }
                    let over = sub.offset() == size;
                    sub.finish(if over { Outcome::Eof } else { Outcome::Done });
                }
                Answers::Short => {
                    let (version, _, facts) = snapshot;
                    let n = sub.remaining().min(sub.remaining() / 2 + 1);
                    sub.facts(facts);
                    sub.write(&content(version, sub.offset(), n));
                    yield_now().await;
                    sub.finish(Outcome::Done);
                }
            }
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
