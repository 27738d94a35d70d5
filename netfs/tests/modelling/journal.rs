//! What a run did last, for whoever has to find out why it failed.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::watch::watch;

/// Entries kept.
const KEPT: usize = 60;

/// The story of one run.
pub(crate) struct Journal {
    /// The step that is being made.
    pub(crate) step: u64,
    story: Arc<Mutex<Story>>,
}

/// Says what the context under test is at.
type Look = Box<dyn Fn() -> String + Send>;

/// What is told of a run.
pub(crate) struct Story {
    seed: u64,
    /// What the world is like.
    about: Vec<String>,
    last: VecDeque<String>,
    noted: Instant,
    look: Option<Look>,
}

impl Story {
    /// Since the last note.
    pub(crate) fn quiet_for(&self) -> Duration {
        self.noted.elapsed()
    }

    pub(crate) fn told(&self) -> String {
        let last: Vec<_> = self.last.iter().map(String::as_str).collect();
        let (about, last) = (self.about.join("\n"), last.join("\n"));
        let seed = self.seed;
        format!("seed {seed}\n{about}\nlast steps:\n{last}\nrepeat with NETFS_MODEL_SEED={seed}")
    }

    /// What its context is at.
    pub(crate) fn state(&self) -> String {
        self.look.as_ref().map_or_else(String::new, |look| look())
    }
}

impl Journal {
    pub(crate) fn new(seed: u64) -> Journal {
        let (about, last, noted) = (Vec::new(), VecDeque::new(), Instant::now());
        let story = Arc::new(Mutex::new(Story { seed, about, last, noted, look: None }));
        watch(&story);
        Journal { step: 0, story }
    }

    fn story(&self) -> MutexGuard<'_, Story> {
        self.story.lock().expect("nobody panics with it")
    }

    /// Should the run get stuck, this says what the context is at.
    pub(crate) fn look(&self, look: impl Fn() -> String + Send + 'static) {
        self.story().look = Some(Box::new(look));
    }

    pub(crate) fn about(&mut self, what: String) {
        self.story().about.push(what);
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        let what = format!("{}: {}", self.step, what.into());
        let mut story = self.story();
        if story.last.len() == KEPT {
            story.last.pop_front();
        }
        story.last.push_back(what);
        story.noted = Instant::now();
    }

    /// Ends the test.
    pub(crate) fn fail(&self, why: &str) -> ! {
        let (told, state) = {
            let story = self.story();
            (story.told(), story.state())
        };
        panic!("step {}, {told}\n{state}\n{why}", self.step);
    }
}
