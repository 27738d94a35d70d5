//! `netfs demo`: a directory tree served through the cache, with every byte compared.
//!
//! ```text
//! place     which directories; temporary ones, or kept ones that are claimed
//! tree      what is in them        origin   the scratch copy       alter   changes to it
//! phase     reads all through a cache: walk finds, compare verifies; child does it in a new process
//! report    JSON or table
//! ```

mod alter;
mod child;
mod compare;
mod origin;
mod phase;
mod place;
mod report;
mod tree;
mod walk;

use self::{
    phase::{Session, Setup},
    place::Place,
    report::{PhaseReport, Printer},
    tree::Exclude,
};
use crate::{
    args::{Demo, DemoPhase},
    failure::Failure,
    interrupt::Interrupt,
    output,
    progress::{Progress, say},
};

/// Runs all phases.
pub(crate) fn run(demo: &Demo, verbose: u8) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    let place = Place::claim(demo)?;
    let progress = Progress::new(demo.json);
    let mut listing = tree::list(&place.source, &place.exclude, &interrupt)?;
    origin::sync(&place.source, &mut listing, &place.origin, &progress, &interrupt)?;
    for line in origin::describe_skipped(&listing.skipped) {
        say(&line);
    }
    phase::settle(&place.origin)?;

    let setup = Setup {
        origin: &place.origin,
        cache: &place.cache,
        total_bytes: listing.bytes(),
        tuning: &demo.tuning,
        progress: &progress,
        interrupt: &interrupt,
    };
    let printer = Printer::new(demo.json);
    let mut wrong = 0;
    let mut done = |report: PhaseReport| {
        wrong += report.wrong_bytes;
        printer.phase(&report)
    };
    printer.header()?;
    let session = Session::open(setup)?;
    done(session.phase("cold")?)?;
    done(session.phase("warm")?)?;
    session.close();
    done(child::run("restart", &setup, demo.json, verbose)?)?;

    interrupt.check()?;
    for change in alter::alter(&place.origin, &listing)?.done {
        tracing::info!("origin: {change}");
    }
    phase::settle(&place.origin)?;
    let total_bytes = tree::list(&place.origin, &Exclude::default(), &interrupt)?.bytes();
    let setup = Setup { total_bytes, ..setup };
    done(child::run("changed", &setup, demo.json, verbose)?)?;

    if place.kept {
        progress.note(&format!("kept {} and {}", place.cache.display(), place.origin.display()));
    }
    if wrong > 0 { Err(Failure::WrongBytes(wrong)) } else { Ok(()) }
}

/// Runs one phase, as the process that [`child`] starts.
pub(crate) fn run_one_phase(args: &DemoPhase) -> Result<(), Failure> {
    child::follow_parent(args)?;
    let interrupt = Interrupt::listen()?;
    let progress = Progress::new(args.quiet);
    let session = Session::open(Setup {
        origin: &args.origin,
        cache: &args.cache_dir,
        total_bytes: args.total_bytes,
        tuning: &args.tuning,
        progress: &progress,
        interrupt: &interrupt,
    })?;
    let report = session.phase(&args.phase)?;
    session.close();
    output::print(&report::to_json(&report)?)
}
