//! `netfs bench micro` and `netfs bench write`: the tables of [`netfs_bench::micro`].

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use clap::builder::PossibleValuesParser;
use netfs_bench::micro::{self, CASES, Case, MicroError, Outcome, Settings, Unit, WRITES};

use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  netfs bench micro                            the whole table; takes a few minutes
  netfs bench micro --case mem-ref-4k --json   one case, for a program to read
  netfs bench micro --dir /mnt/disk            measure that disk

Each case and its limit run in turns in this process; `ours` and `limit` are medians of the rounds,
`ratio` is ours / limit. Latencies are to be small, speeds large: `reach` says how the ratio should be.
A ratio with a `?` is unsteady: the median of the rounds' own ratios is more than 20 % off it (in JSON
that is `unsteady_ratio_by_round`); run the case again, or find out why. A ratio that is missed is a
result, and no failure. Work that was not done is one.

Exit status: see `netfs --help`.";

/// What a hit, a fill, an open and an idle cache cost, each against its limit on this machine.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Print one JSON object a case and line instead of a table.
    #[arg(long)]
    json: bool,
    /// Only this case; may be given several times [default: all].
    #[arg(long, value_name = "NAME", value_parser = names_of(&CASES))]
    case: Vec<String>,
    /// Small sets and short rounds: whether everything works. The figures mean little.
    #[arg(long)]
    quick: bool,
    /// Where cache directories are made for the time of the run: the disk that is measured [default:
    /// /var/tmp, or the directory for temporary files].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

const WRITE_EXAMPLES: &str = "\
Examples:
  netfs bench write                               the whole table
  netfs bench write --case overwrite-4k --json    one case, for a program to read

`ours`, `limit`, `ratio`, `reach` and exit status are those of `netfs bench micro`.";

/// What writes through the page cache cost, each against its limit on this machine.
#[derive(clap::Args, Debug)]
#[command(after_help = WRITE_EXAMPLES)]
pub(crate) struct WriteArgs {
    /// Print one JSON object a case and line instead of a table.
    #[arg(long)]
    json: bool,
    /// Only this case; may be given several times [default: all].
    #[arg(long, value_name = "NAME", value_parser = names_of(&WRITES))]
    case: Vec<String>,
    /// Small sets and short rounds: whether everything works. The figures mean little.
    #[arg(long)]
    quick: bool,
}

/// The process with the idle cache that `idle` watches.
#[derive(clap::Args, Debug)]
pub(crate) struct IdleArgs {
    dir: PathBuf,
}

fn names_of(cases: &[Case]) -> PossibleValuesParser {
    cases.iter().map(|case| case.name).collect::<Vec<_>>().into()
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let settings = Settings {
        quick: args.quick,
        dir: args.dir.clone().unwrap_or_else(default_dir),
        idler: idler_command,
    };
    table(&CASES, &settings, &args.case, args.json)
}

pub(crate) fn run_write(args: &WriteArgs) -> Result<(), Failure> {
    let settings = Settings { quick: args.quick, dir: default_dir(), idler: idler_command };
    table(&WRITES, &settings, &args.case, args.json)
}

/// Measures the cases of that name, or all.
fn table(cases: &[Case], settings: &Settings, only: &[String], json: bool) -> Result<(), Failure> {
    let wanted = |case: &&Case| only.is_empty() || only.iter().any(|n| n == case.name);
    if !json {
        say(&heading())?;
    }
    for case in cases.iter().filter(wanted) {
        let outcome = case.run(settings).map_err(|e| failure(case, e))?;
        if json {
            let json = serde_json::to_string(&outcome);
            say(&json.map_err(|e| Failure::Internal(format!("cannot print a result: {e}")))?)?;
        } else {
            say(&row(case, &outcome))?;
        }
    }
    Ok(())
}

pub(crate) fn idle_child(args: &IdleArgs) -> Result<(), Failure> {
    micro::idle_child(&args.dir).map_err(|e| Failure::Internal(e.to_string()))
}

fn idler_command() -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "idle-child"]);
    Ok(command)
}

/// `/tmp` is memory on many machines; `/var/tmp` is a disk.
fn default_dir() -> PathBuf {
    let disk = Path::new("/var/tmp");
    if disk.is_dir() { disk.to_owned() } else { std::env::temp_dir() }
}

fn failure(case: &Case, error: MicroError) -> Failure {
    let text = format!("{}: {error}", case.name);
    match error {
        MicroError::NotDone(_) | MicroError::WrongBytes(_) => Failure::BenchNotDone(text),
        MicroError::Netfs { what, source } => {
            Failure::Netfs { what: format!("{what} ({})", case.name), source }
        }
        MicroError::Cache(source) => Failure::Cache(source),
        MicroError::Io { what, path, source } => Failure::Io { what, path, source },
        _ => Failure::Internal(text),
    }
}

fn say(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    // At once: cases take long, and whoever watches wants to see them.
    let done = writeln!(out, "{line}").and_then(|()| out.flush());
    done.map_err(Failure::io("write to", Path::new("standard output")))
}

fn heading() -> String {
    format!(
        "{:<16} {:>11} {:>11} {:>7} {:>8}  {:<4} what, and the limit it is compared with",
        "case", "ours", "limit", "ratio", "reach", "met"
    )
}

fn row(case: &Case, outcome: &Outcome) -> String {
    let mark = if outcome.unsteady_ratio_by_round.is_some() { "?" } else { "" };
    let ratio = outcome.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}{mark}"));
    let met = if case.is_reached(outcome) { "yes" } else { "no" };
    format!(
        "{:<16} {:>11} {:>11} {:>7} {:>8}  {:<4} {}; {}",
        case.name,
        figure(outcome.ours, outcome.unit),
        figure(outcome.limit, outcome.unit),
        ratio,
        case.reach.to_string(),
        met,
        case.what,
        case.limit,
    )
}

fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Nanos if value < 100.0 => format!("{value:.1} ns"),
        Unit::Nanos => format!("{value:.0} ns"),
        Unit::GigabytesPerSecond => format!("{value:.2} GB/s"),
        Unit::Seconds => format!("{:.2} ms", value * 1e3),
        Unit::Micros => format!("{value:.2} us"),
        Unit::Bytes => format!("{value:.0} B"),
        Unit::Calls => format!("{value:.0} calls"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_the_reach_is_met() {
        let case = Case::named("disk-1m").expect("in the table");
        let outcome = |ratio| Outcome {
            case: "disk-1m",
            ours: 4.0,
            limit: 8.0,
            ratio: Some(ratio),
            unit: Unit::GigabytesPerSecond,
            unsteady_ratio_by_round: (ratio < 0.4).then_some(0.8),
            rounds: Some(9),
            moved_bytes: Some(1),
            cached_bytes: Some(1),
        };
        let row_of = |ratio| row(case, &outcome(ratio));
        assert!(row_of(0.8).contains(" 0.80  >= 0.75  yes  disk hit"), "{}", row_of(0.8));
        assert!(row_of(0.5).contains(" 0.50  >= 0.75  no   disk hit"), "{}", row_of(0.5));
        assert!(row_of(0.3).contains(" 0.30?  >= 0.75  no   disk hit"), "{}", row_of(0.3));
        assert_eq!(heading().find("what, and"), row_of(0.5).find("disk hit"), "columns line up");
    }

    #[test]
    fn undone_work_and_wrong_bytes_are_failures_of_their_own() {
        let case = Case::named("miss-fill").expect("in the table");
        let text = || "x".to_owned();
        assert_eq!(failure(case, MicroError::NotDone(text())).exit_code(), 1);
        assert_eq!(failure(case, MicroError::WrongBytes(text())).exit_code(), 1);
        assert_eq!(failure(case, MicroError::Unsupported(text())).exit_code(), 3);
    }
}
