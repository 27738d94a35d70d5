//! What a run did last, for whoever has to find out why it failed.

use std::collections::VecDeque;

/// Entries kept.
const KEPT: usize = 60;

/// The story of one run.
pub(crate) struct Journal {
    pub(crate) seed: u64,
    /// The step that is being made.
    pub(crate) step: u64,
    /// What the world is like.
    about: Vec<String>,
    last: VecDeque<String>,
}

impl Journal {
    pub(crate) fn new(seed: u64) -> Journal {
        Journal { seed, step: 0, about: Vec::new(), last: VecDeque::new() }
    }

    pub(crate) fn about(&mut self, what: String) {
        self.about.push(what);
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(format!("{}: {}", self.step, what.into()));
    }

    /// Ends the test.
    pub(crate) fn fail(&self, why: &str) -> ! {
        let (seed, step) = (self.seed, self.step);
        let last: Vec<_> = self.last.iter().map(String::as_str).collect();
        panic!(
            "seed {seed}, step {step}\n{}\nlast steps:\n{}\n{why}\nrepeat with NETFS_MODEL_SEED={seed}",
            self.about.join("\n"),
            last.join("\n"),
        );
    }
}
