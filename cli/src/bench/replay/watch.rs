//! Progress of a replay: a bar for people, lines otherwise.

use std::sync::atomic::{AtomicU64, Ordering};

use netfs_bench::replay::Watch;

use crate::{interrupt::Interrupt, progress::Progress};

pub(super) struct Watcher<'a> {
    progress: Progress,
    interrupt: &'a Interrupt,
    /// Requests from line to line, if given.
    say_every: Option<u64>,
    total: AtomicU64,
    done: AtomicU64,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(
        progress: Progress,
        interrupt: &'a Interrupt,
        say_every: Option<u64>,
    ) -> Watcher<'a> {
        let (total, done) = (AtomicU64::new(0), AtomicU64::new(0));
        Watcher { progress, interrupt, say_every, total, done }
    }

    /// The bar goes, so that a result can be printed.
    pub(super) fn phase_done(&self) {
        self.progress.finish();
    }
}

impl Watch for Watcher<'_> {
    fn phase(&self, name: &str, requests: u64) {
        self.total.store(requests, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.progress.start(&format!("phase {name}"), requests);
    }

    fn done(&self) {
        self.progress.add(1);
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let total = self.total.load(Ordering::Relaxed);
        let every = self.say_every.unwrap_or(total.div_ceil(10)).max(1);
        if self.progress.is_lines() && done.is_multiple_of(every) {
            self.progress.note(&format!("{done} of {total} requests done"));
        }
    }

    fn stop(&self) -> bool {
        self.interrupt.check().is_err()
    }

    fn note(&self, line: &str) {
        self.progress.note(line);
    }
}
