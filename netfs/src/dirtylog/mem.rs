//! A log in memory, for tests: it keeps apart what is durable, and fails as told.

use std::{collections::BTreeMap, fmt, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::{DirtyLog, Entry, Position, Record, Records};
use crate::{
    error::{Errno, Error, Result},
    sync::Mutex,
};

/// How a [`MemLog`] misbehaves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum LogFault {
    /// Extents are refused with `ENOSPC`.
    Full,
    /// `append` and `durable` fail with `EIO`.
    Sick,
    /// `durable` does not return.
    Hang,
    /// The log lies: a restart loses this many of the last durable records.
    LostTail(usize),
}

/// A log in this process's memory. What is durable in it outlives a `Netfs`, and a
/// [`restart`](MemLog::restart) loses the rest, as a crash of the machine would.
pub struct MemLog {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    records: BTreeMap<Position, Record>,
    last: u64,
    durable: Position,
    /// Made durable while sick: never well again.
    failed: Position,
    fault: Option<LogFault>,
}

impl MemLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Arc<MemLog> {
        Arc::new(MemLog { state: Mutex::default(), changed: Notify::new() })
    }

    /// Misbehaves from now on, or (with `None`) behaves again.
    pub fn inject(&self, fault: Option<LogFault>) {
        self.state.lock().fault = fault;
        self.changed.notify_waiters();
    }

    /// The crash: only what was made durable is left, and the log behaves again.
    pub fn restart(&self) {
        let mut state = self.state.lock();
        let durable = state.durable;
        state.records.retain(|position, _| *position <= durable);
        if let Some(LogFault::LostTail(lost)) = state.fault.take() {
            (0..lost).for_each(|_| drop(state.records.pop_last()));
        }
        state.failed = Position(0);
        drop(state);
        self.changed.notify_waiters();
    }

    /// How many records there are, durable or not.
    #[must_use]
    pub fn records(&self) -> usize {
        self.state.lock().records.len()
    }
}

/// The records by value, with their bytes copied: the page cache's memory is not kept.
fn detached(record: Record) -> Record {
    let entry = match record.entry {
        Entry::Extent { offset, data, group } => {
            Entry::Extent { offset, data: bytes::Bytes::copy_from_slice(&data), group }
        }
        entry => entry,
    };
    Record { entry, ..record }
}

impl DirtyLog for MemLog {
    fn append(&self, record: Record) -> Result<Position> {
        let mut state = self.state.lock();
        match (state.fault, &record.entry) {
            (Some(LogFault::Sick), _) => return Err(sick()),
            (Some(LogFault::Full), Entry::Extent { .. }) => {
                return Err(Error::new(Errno::ENOSPC, "memory log: full"));
            }
            _ => {}
        }
        state.last += 1;
        let position = Position(state.last);
        state.records.insert(position, detached(record));
        Ok(position)
    }

    fn durable(self: Arc<Self>, upto: Position) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            loop {
                let changed = self.changed.notified();
                {
                    let mut state = self.state.lock();
                    if state.durable >= upto {
                        return Ok(());
                    }
                    match state.fault {
                        Some(LogFault::Hang) => {}
                        Some(LogFault::Sick) => {
                            state.failed = state.failed.max(upto);
                            return Err(sick());
                        }
                        _ if upto <= state.failed => return Err(sick()),
                        _ => {
                            state.durable = upto;
                            return Ok(());
                        }
                    }
                }
                changed.await;
            }
        })
    }

    fn checkpoint(&self, upto: Position) -> Result<()> {
        let mut state = self.state.lock();
        if state.fault == Some(LogFault::Sick) {
            return Err(sick());
        }
        state.records.retain(|position, _| *position > upto);
        Ok(())
    }

    fn replay(&self) -> Result<Records> {
        let state = self.state.lock();
        if state.fault == Some(LogFault::Sick) {
            return Err(sick());
        }
        let records: Vec<_> = state.records.iter().map(|(at, r)| Ok((*at, r.clone()))).collect();
        Ok(Box::new(records.into_iter()))
    }
}

fn sick() -> Error {
    Error::new(Errno::EIO, "memory log: sick")
}

impl fmt::Debug for MemLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        write!(f, "MemLog({} records, {:?})", state.records.len(), state.fault)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{dirtylog::OwnerId, remote::VolumeId};

    fn record(entry: Entry) -> Record {
        let volume = VolumeId::new("v").expect("valid");
        Record { volume, key: "k".into(), owner: OwnerId(1), version: None, entry }
    }

    fn extent() -> Record {
        record(Entry::Extent { offset: 0, data: "x".into(), group: None })
    }

    fn durable(log: &Arc<MemLog>, at: Position) -> Option<Result<()>> {
        Arc::clone(log).durable(at).now_or_never()
    }

    #[test]
    fn a_restart_keeps_what_is_durable_and_nothing_else() {
        let log = MemLog::new();
        let first = log.append(extent()).expect("room");
        log.append(extent()).expect("room");
        durable(&log, first).expect("at once").expect("well");
        log.restart();
        let left: Vec<_> = log.replay().expect("readable").map(|r| r.expect("whole").0).collect();
        assert_eq!(left, [first]);
        assert!(log.append(extent()).expect("room") > first, "positions grow");
    }

    #[test]
    fn a_full_log_still_takes_what_voids_and_a_failed_one_never_says_well() {
        let log = MemLog::new();
        log.inject(Some(LogFault::Full));
        assert_eq!(log.append(extent()).expect_err("full").errno(), Errno::ENOSPC);
        log.append(record(Entry::SetSize(0))).expect("small");
        log.inject(None);
        let at = log.append(extent()).expect("room");
        log.inject(Some(LogFault::Sick));
        durable(&log, at).expect("at once").expect_err("sick");
        log.inject(None);
        durable(&log, at).expect("at once").expect_err("still unknown");
        let next = log.append(extent()).expect("room");
        log.inject(Some(LogFault::Hang));
        assert!(durable(&log, next).is_none());
    }
}
