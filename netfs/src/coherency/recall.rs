//! What a recall comes to, and how an adapter hears of it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::zap::{Ticket, remember};
use crate::{
    error::{Errno, Error},
    remote::TimeSpec,
    sync::{Arc, Mutex},
};

/// How a recall ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Recalled {
    /// Everything written was uploaded and the promise was given back.
    Released,
    /// The promise was given back, but some bytes could not be uploaded before that: they are kept, the
    /// file's writers get the error, and the flusher goes on trying.
    ReleasedParked(Vec<Error>),
    /// The server was not told, or its answer did not come: it will take the promise away by itself. What
    /// could not be uploaded either is in the list too.
    Unreleased(Vec<Error>),
}

/// Resolves when a recalled promise has been given back. Dropping it changes nothing.
///
/// An adapter answers its server at once, and never waits for this first: the server may be holding back a
/// write of ours until that answer (P-D27).
#[derive(Clone)]
#[must_use = "dropping a ticket is fine where nobody has to wait, but say so"]
pub struct RecallTicket {
    /// That is all for a file that nobody knows.
    zapped: Ticket,
    end: Option<Arc<RecallEnd>>,
}

/// Where the end of a recall is told.
#[derive(Default)]
pub(crate) struct RecallEnd(Mutex<(Option<Recalled>, Vec<Waker>)>);

impl RecallEnd {
    /// Only the first call counts.
    pub(crate) fn set(&self, result: Recalled) {
        let wakers = {
            let mut state = self.0.lock();
            if state.0.is_some() {
                return;
            }
            state.0 = Some(result);
            std::mem::take(&mut state.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// What a recall comes to whose task is lost.
    pub(crate) fn abandoned() -> Recalled {
        Recalled::Unreleased(vec![Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down")])
    }
}

impl RecallTicket {
    /// Resolves with `end`, or if there is none with `zapped`.
    pub(crate) fn new(zapped: Ticket, end: Option<Arc<RecallEnd>>) -> RecallTicket {
        RecallTicket { zapped, end }
    }

    /// How the recall ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Recalled> {
        match &self.end {
            Some(end) => end.0.lock().0.clone(),
            None => self.zapped.is_done().then_some(Recalled::Released),
        }
    }

    /// Whether the recall has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.outcome().is_some()
    }
}

impl Future for RecallTicket {
    type Output = Recalled;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Recalled> {
        if let Some(end) = self.end.clone() {
            let mut state = end.0.lock();
            return match &state.0 {
                // A front that did not answer in time has had its chance: the recall is over.
                Some(result) => Poll::Ready(result.clone()),
                None => {
                    remember(&mut state.1, cx.waker());
                    Poll::Pending
                }
            };
        }
        Pin::new(&mut self.zapped).poll(cx).map(|()| Recalled::Released)
    }
}

impl fmt::Debug for RecallTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecallTicket({:?})", self.outcome())
    }
}

/// What this client knows of a file that it may have changed, for a server that asks whoever holds a write
/// promise (NFS: `CB_GETATTR`, RFC 8881 section 20.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LocalState {
    /// The size, with what was written here.
    pub size: u64,
    /// Written bytes that are not on the server.
    pub dirty: u64,
    /// When the data was last written: here while the server does not have it or has not said, else as it said
    /// last.
    pub mtime: Option<TimeSpec>,
    /// When the attributes changed last, in the same way.
    pub ctime: Option<TimeSpec>,
}
