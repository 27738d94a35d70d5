//! One thread's requests.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use netfs::{File, Stats};
use netfs_memory::content::Content;

use super::{
    ReplayError, Watch, Writes, blocks, phase::local_bytes, session::Session, tally::Tally,
};
use crate::trace::{Op, Request};

/// One call of `read_at`: bytes of one call up to this are of one version.
const STEP: usize = 1 << 20;

/// Wrong requests that are said; the others are only counted.
const SAID_MAX: u64 = 20;

pub(super) struct Worker<'a> {
    session: &'a Session<'a>,
    watch: &'a dyn Watch,
    /// Whether this is the only thread: then it waits for the background and knows each request's share
    /// of the counters.
    alone: bool,
    read: Vec<u8>,
    expected: Vec<u8>,
    said: u64,
    pub(super) tally: Tally,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        session: &'a Session<'a>,
        watch: &'a dyn Watch,
        alone: bool,
    ) -> Result<Worker<'a>, ReplayError> {
        let (read, expected) = (vec![0; STEP], vec![0; STEP]);
        Ok(Worker { session, watch, alone, read, expected, said: 0, tally: Tally::new()? })
    }

    /// Does these requests of the trace, in order.
    pub(super) fn run(
        &mut self,
        requests: impl IntoIterator<Item = usize>,
    ) -> Result<(), ReplayError> {
        let origin = self.session.origin;
        for i in requests {
            if self.watch.stop() {
                return Err(ReplayError::Stopped);
            }
            if self.session.config.lie_at
                == Some(self.session.begun.fetch_add(1, Ordering::Relaxed))
            {
                origin.lie()?;
            }
            let request = &origin.trace.requests[i];
            match (request.op, origin.writes) {
                (Op::Read, _) => self.read(request)?,
                (Op::Write, writes) => {
                    self.tally.writes += 1;
                    self.tally.written_bytes += u64::from(request.len);
                    if writes == Writes::Change {
                        origin.change(request)?;
                    }
                }
            }
            self.watch.done();
        }
        Ok(())
    }

    fn read(&mut self, request: &Request) -> Result<(), ReplayError> {
        let session = self.session;
        let file = session.file(request.file)?;
        let before = if self.alone {
            pollster::block_on(session.netfs.settled());
            session.netfs.stats()
        } else {
            Stats::default()
        };
        let now = session.origin.content(request.file)?;
        let busy = self.steps(request, file, &now.content)?;
        self.tally.read(request, busy);
        self.tally.peaks(&session.netfs.memory());
        if self.alone {
            let local = local_bytes(&session.netfs.stats().since(&before));
            let (hits, all) = blocks::local(request.offset, u64::from(request.len), local);
            self.tally.blocks(hits, all, local >= u64::from(request.len));
        }
        Ok(())
    }

    /// Reads and compares step by step; returns how long the reading took.
    fn steps(
        &mut self,
        request: &Request,
        file: &File,
        content: &Content,
    ) -> Result<Duration, ReplayError> {
        let mut busy = Duration::ZERO;
        let mut at = request.offset;
        let end = at + u64::from(request.len);
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(STEP).min(STEP);
            let started = Instant::now();
            let read = file.blocking().read_at(at, &mut self.read[..want]);
            busy += started.elapsed();
            let number = request.file;
            let n = read.map_err(ReplayError::netfs(format!("read file {number} at {at}")))?;
            self.compare(request, content, at, n, want);
            at += want as u64;
        }
        Ok(busy)
    }

    /// Counts what is wrong among `want` bytes at `at`, of which `n` came.
    fn compare(&mut self, request: &Request, content: &Content, at: u64, n: usize, want: usize) {
        let (found, expected) = (&self.read[..n], &mut self.expected[..n]);
        content.fill(at, expected);
        let missing = (want - n) as u64;
        if missing == 0 && found == expected {
            return;
        }
        let differ = found.iter().zip(&*expected).filter(|(f, e)| f != e).count() as u64;
        let wrong = differ + missing;
        let first = found.iter().zip(&*expected).position(|(f, e)| f != e).unwrap_or(n);
        self.tally.wrong_bytes += wrong;
        self.said += 1;
        if self.said <= SAID_MAX {
            let name = &self.session.origin.trace.files[request.file as usize].name;
            let offset = at + first as u64;
            self.watch.note(&format!(
                "WRONG: file {:?} first wrong byte at offset {offset} ({wrong} bytes)",
                name
            ));
        }
    }
}
