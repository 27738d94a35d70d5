//! An idle cache must not touch its directory (G15): a laptop's disk shall be able to sleep.
//!
//! A child process opens a cache, fills it, hits it, and then does nothing; every system call of every
//! one of its threads is seen by the tracer. All of them count except those that cannot touch a file,
//! such as waiting on a futex: a timer that looks at nothing is no access.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{
    MicroError, Outcome, Settings, Unit,
    bed::{Bed, PAGE, origin_of_one, scratch},
    tracer,
};

/// How long is counted.
const WATCH: Duration = Duration::from_secs(60);
const QUICK_WATCH: Duration = Duration::from_secs(1);
/// What the child says when it has come to rest.
const READY: &str = "idle";

pub(super) fn idle(settings: &Settings) -> Result<Outcome, MicroError> {
    let dir = scratch(&settings.dir)?;
    let mut idler = Idler::start(settings.idler, dir.path())?;
    let calls = tracer::count_calls(idler.pid(), settings.or_quick(WATCH, QUICK_WATCH))?;
    idler.end()?;
    Ok(Outcome {
        case: "idle",
        ours: calls as f64,
        limit: 0.0,
        ratio: None,
        unit: Unit::Calls,
        unsteady_ratio_by_round: None,
        rounds: None,
        moved_bytes: None,
        cached_bytes: None,
    })
}

/// A process with an idle open cache.
#[derive(Debug)]
pub struct Idler(Child);

impl Idler {
    /// Starts it and waits until it is idle.
    ///
    /// # Errors
    /// [`MicroError::NotDone`] if it does not come that far.
    pub fn start(
        command: fn() -> std::io::Result<Command>,
        dir: &Path,
    ) -> Result<Idler, MicroError> {
        let mut command = command().map_err(MicroError::io("find", "this program"))?;
        let child = command.arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut idler = Idler(child.map_err(MicroError::io("start", "this program"))?);
        let mut line = String::new();
        if let Some(out) = idler.0.stdout.take() {
            BufReader::new(out).read_line(&mut line).map_err(MicroError::io("read from", dir))?;
        }
        if line.trim() == READY {
            return Ok(idler);
        }
        Err(MicroError::NotDone("the process with the idle cache ended early".to_owned()))
    }

    fn pid(&self) -> i32 {
        // Process ids are below 2^22.
        i32::try_from(self.0.id()).unwrap_or(i32::MAX)
    }

    /// Has it end, and checks that it was well to the last.
    fn end(&mut self) -> Result<(), MicroError> {
        drop(self.0.stdin.take());
        let status = self.0.wait().map_err(MicroError::io("wait for", "the child"))?;
        if status.success() {
            return Ok(());
        }
        Err(MicroError::NotDone(format!("the process with the idle cache ended with {status}")))
    }
}

impl Drop for Idler {
    fn drop(&mut self) {
        // Gone already: then there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the child does: opens a cache in `dir`, fills it, hits it from disk, closes one of two files,
/// says so, and then waits for its standard input to end.
///
/// # Errors
/// What kept it from doing so.
pub fn idle_child(dir: &Path) -> Result<(), MicroError> {
    let size = 4 << 20;
    let origin = origin_of_one(size)?;
    let short = Duration::from_millis(200);
    let bed = Bed::with(&origin, 2 * size + (16 << 20), Some(&dir.join("cache")), |builder| {
        builder.cookie_lru(short)
    })?;
    let file = bed.open("a")?;
    let mut page = vec![0; PAGE];
    let mut read = || {
        file.blocking().read_at(0, &mut page).map_err(MicroError::netfs("read"))?;
        origin.verify("a", 0, &page).map_err(|e| MicroError::WrongBytes(e.to_string()))
    };
    read()?;
    bed.drain();
    bed.drop_memory();
    read()?;
    if bed.stats().disk_hit_bytes == 0 {
        return Err(MicroError::NotDone("no disk hit before the idle time".to_owned()));
    }
    // The commit interval, the time until unused objects are closed, and some: then it is idle.
    std::thread::sleep(Duration::from_secs(1));
    let mut out = std::io::stdout();
    writeln!(out, "{READY}").and_then(|()| out.flush()).map_err(MicroError::io("write to", dir))?;
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).map_err(MicroError::io("read from", dir))?;
    drop(file);
    bed.end()
}
