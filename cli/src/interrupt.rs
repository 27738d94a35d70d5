//! Ctrl-C and SIGTERM: every loop asks, so that temporary directories are removed on the way out.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use signal_hook::{consts::TERM_SIGNALS, flag};

use crate::failure::Failure;

/// Whether the user wants it to end. Cheap to clone and to ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on. A second signal ends the process on the spot.
    pub(crate) fn listen() -> Result<Interrupt, Failure> {
        let asked = Arc::new(AtomicBool::new(false));
        for &signal in TERM_SIGNALS {
            // The order matters: the first signal finds the flag unset, sets it, and goes on.
            flag::register_conditional_shutdown(signal, 130, Arc::clone(&asked))
                .and_then(|_| flag::register(signal, Arc::clone(&asked)))
                .map_err(|e| Failure::Internal(format!("cannot listen for signals: {e}")))?;
        }
        Ok(Interrupt(asked))
    }

    /// Fails once the user has asked.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.0.load(Ordering::Relaxed) { Err(Failure::Interrupted) } else { Ok(()) }
    }
}
