//! Sees when a run gets stuck, wherever that is, and ends the tests with what it did last. (Calls that a world
//! drives say so by themselves, sooner; this is for what blocks their thread.)

use std::{
    process::abort,
    sync::{Arc, Mutex, Once, Weak},
    thread,
    time::Duration,
};

use super::journal::Story;

/// So long no run may do nothing that is noted.
const PATIENCE: Duration = Duration::from_secs(300);

static RUNS: Mutex<Vec<Weak<Mutex<Story>>>> = Mutex::new(Vec::new());

/// Watches a run as long as it lives.
pub(crate) fn watch(story: &Arc<Mutex<Story>>) {
    static BEGIN: Once = Once::new();
    BEGIN.call_once(|| drop(thread::spawn(look_on)));
    RUNS.lock().expect("nobody panics with it").push(Arc::downgrade(story));
}

fn look_on() {
    loop {
        thread::park_timeout(Duration::from_secs(2));
        let mut runs = RUNS.lock().expect("nobody panics with it");
        runs.retain(|run| run.strong_count() > 0);
        let stories: Vec<_> = runs.iter().filter_map(Weak::upgrade).collect();
        drop(runs);
        for story in stories {
            // One that failed with it has said so.
            let Ok(story) = story.lock() else { continue };
            if story.quiet_for() > PATIENCE {
                // In two parts: what looks at the stuck context may get stuck, too.
                eprintln!("nothing has happened for {PATIENCE:?}; {}", story.told());
                eprintln!("{}", story.state());
                abort();
            }
        }
    }
}
