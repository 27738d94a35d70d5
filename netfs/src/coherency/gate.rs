//! Merging concurrent validations: however many callers find a file stale, one RPC is enough.
//!
//! A check is a *flight*. Callers that arrive before it has been issued share it. One that arrives
//! later cannot: the server may have answered before the caller even started, and what it said then
//! is too old for this caller (unless it came with a promise). So a late caller waits for the flight,
//! looks whether the file is valid now, and otherwise shares the *next* one.
//!
//! Flights run as tasks: a caller that goes away merely stops waiting.

use std::{future::Future, sync::Arc as StdArc};

use tokio::sync::watch;

use crate::{
    driver::Handle,
    error::{Errno, Error, Result},
    stats::Counters,
    sync::{Arc, Mutex},
};

/// How often a caller starts over because a flight made for somebody else's credentials was refused.
const MAX_FOREIGN_REFUSALS: u32 = 4;

/// One gate an inode (and one a volume).
pub(crate) struct ValidateGate {
    state: Mutex<State>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct State {
    /// Flights started so far; the last one has this number.
    started: u64,
    /// The last one, while it has not landed.
    flight: Option<Flight>,
}

struct Flight {
    issued: bool,
    outcome: watch::Receiver<Option<Result<()>>>,
}

/// What a caller waits for.
struct Seat {
    number: u64,
    /// This caller started the flight, so it flies under its credentials.
    owner: bool,
    outcome: watch::Receiver<Option<Result<()>>>,
}

impl ValidateGate {
    pub(crate) fn new(counters: Arc<Counters>) -> Arc<ValidateGate> {
        Arc::new(ValidateGate { state: Mutex::new(State::default()), counters })
    }

    /// Returns once a flight issued after this call has landed, or after one that was in the air
    /// already if then `valid()`.
    ///
    /// `check` does the work of a flight: sample the epoch, ask the server, apply the reply. It is
    /// called inside the flight's task, on `driver`, possibly not at all.
    ///
    /// # Errors
    /// What the flight failed with; `ECANCELED` if its task was lost (shutdown).
    pub(crate) async fn run<C, F>(
        self: &Arc<Self>,
        driver: &Handle,
        valid: impl Fn() -> bool,
        check: C,
    ) -> Result<()>
    where
        C: FnOnce() -> F + Clone + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        // Flights up to this one were issued before the caller came.
        let too_early = self.issued();
        let mut refusals = 0;
        loop {
            let mut seat = self.board(driver, &check);
            if !seat.owner {
                self.counters.validate_shared.inc();
            }
            let landed = match seat.outcome.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
                Err(_) => Err(Error::new(
                    Errno::ECANCELED,
                    "a validation was cancelled: the context is shutting down",
                )),
            };
            if seat.number <= too_early {
                if valid() {
                    return Ok(());
                }
                continue;
            }
            match landed {
                Err(e) if !seat.owner && is_personal(&e) && refusals < MAX_FOREIGN_REFUSALS => {
                    refusals += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// The number of the last flight that was issued.
    fn issued(&self) -> u64 {
        let state = self.state.lock();
        match &state.flight {
            Some(flight) if !flight.issued => state.started - 1,
            _ => state.started,
        }
    }

    /// Joins the flight in the air or starts one.
    fn board<C, F>(self: &Arc<Self>, driver: &Handle, check: &C) -> Seat
    where
        C: FnOnce() -> F + Clone + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let mut state = self.state.lock();
        if let Some(flight) = &state.flight {
            let outcome = flight.outcome.clone();
            return Seat { number: state.started, owner: false, outcome };
        }
        let (tx, outcome) = watch::channel(None);
        state.started += 1;
        state.flight = Some(Flight { issued: false, outcome: outcome.clone() });
        let number = state.started;
        drop(state);
        let pilot = Pilot { gate: Arc::clone(self), outcome: StdArc::new(tx) };
        let check = check.clone();
        driver.spawn(async move {
            pilot.issue();
            pilot.land(check().await);
        });
        Seat { number, owner: true, outcome }
    }
}

/// Errors that say something about who asked, not about the file.
fn is_personal(error: &Error) -> bool {
    matches!(error.errno(), Errno::EACCES | Errno::EPERM)
}

/// The task's end of a flight. However the task ends, the gate is free afterwards.
struct Pilot {
    gate: Arc<ValidateGate>,
    outcome: StdArc<watch::Sender<Option<Result<()>>>>,
}

impl Pilot {
    /// From now on nobody may board.
    fn issue(&self) {
        self.gate.counters.validate.inc();
        if let Some(flight) = &mut self.gate.state.lock().flight {
            flight.issued = true;
        }
    }

    fn land(self, result: Result<()>) {
        let outcome = StdArc::clone(&self.outcome);
        // The gate first, so that a woken caller that needs another flight can start it.
        drop(self);
        outcome.send_replace(Some(result));
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        self.gate.state.lock().flight = None;
    }
}
