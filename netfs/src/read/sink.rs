//! Where subs report to: a queue that the request's task (or its starter) drains.

use std::ops::Range;

use tokio::sync::mpsc;

use crate::{
    folio::memory::FillBuf,
    fscache::CacheMiss,
    inode::{HungRead, Inode},
    remote::{Facts, Finished, SubSink},
    sync::{Arc, Mutex},
};

/// What happened to a sub.
pub(super) enum Event {
    /// Bytes from its front are settled, and the reply's facts are known already.
    Progress { index: usize, transferred: u64, facts: Facts },
    /// A server read ended.
    Server { index: usize, result: Finished },
    /// A cache read ended.
    Cache { index: usize, result: Result<(), (CacheMiss, FillBuf)> },
}

impl Event {
    pub(super) fn index(&self) -> usize {
        match self {
            Event::Progress { index, .. }
            | Event::Server { index, .. }
            | Event::Cache { index, .. } => *index,
        }
    }

    /// Whether it is a sub's last.
    pub(super) fn is_end(&self) -> bool {
        !matches!(self, Event::Progress { .. })
    }
}

/// The sending side, shared by all subs of a request. Bounded by the number of subs and their
/// progress steps (one per granule).
pub(super) struct Sink {
    tx: mpsc::UnboundedSender<Event>,
    inode: Arc<Inode>,
    given_up: Mutex<Vec<GivenUp>>,
}

struct GivenUp {
    index: usize,
    range: Range<u64>,
    /// Of a read of the disk cache.
    hung: Option<HungRead>,
}

impl Sink {
    pub(super) fn new(inode: Arc<Inode>) -> (Arc<Sink>, mpsc::UnboundedReceiver<Event>) {
        let (tx, rx) = mpsc::unbounded_channel();
        (Arc::new(Sink { tx, inode, given_up: Mutex::new(Vec::new()) }), rx)
    }

    /// Notes that nobody waits for a sub any more; its end is then only counted.
    /// `hung`: it is a read of the disk cache.
    pub(super) fn give_up(&self, index: usize, range: Range<u64>, hung: Option<HungRead>) {
        self.given_up.lock().push(GivenUp { index, range, hung });
    }

    /// Whether the sub had been given up; settles the inode's account if so.
    pub(super) fn was_given_up(&self, index: usize) -> bool {
        let mut list = self.given_up.lock();
        let Some(i) = list.iter().position(|g| g.index == index) else { return false };
        let gone = list.swap_remove(i);
        drop(list);
        match gone.hung {
            Some(hung) => drop(hung),
            None => self.inode.abandoned_ended(&gone.range),
        }
        true
    }

    pub(super) fn cache_done(&self, index: usize, result: Result<(), (CacheMiss, FillBuf)>) {
        if !self.was_given_up(index) {
            // The request may have ended (its Netfs shut down): nobody to tell.
            let _ = self.tx.send(Event::Cache { index, result });
        }
    }
}

impl SubSink for Sink {
    fn progress(&self, index: usize, transferred: u64, facts: &Facts) {
        // Without a version nothing can be published early, so nobody needs waking.
        if facts.version.is_some() {
            let _ = self.tx.send(Event::Progress { index, transferred, facts: facts.clone() });
        }
    }

    fn finished(&self, index: usize, result: Finished) {
        self.inode.core.counters.origin_bytes.add(result.transferred);
        if !self.was_given_up(index) {
            let _ = self.tx.send(Event::Server { index, result });
        }
    }
}
