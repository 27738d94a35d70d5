//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Parser, Subcommand};

use crate::{bench::Bench, units};

/// A persistent, verified cache in front of network filesystems, in user space.
#[derive(Parser, Debug)]
#[command(name = "netfs", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Say more on standard error: -v what happens, -vv in detail.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit status:
  0    done
  1    a byte read through the cache differed from the origin, or a benchmark did not do its work
  2    the command line makes no sense
  3    it could not be done (the message says what to do next)
  130  interrupted";

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Demo(Demo),
    #[command(hide = true)]
    DemoPhase(DemoPhase),
    /// Measurements that anybody can repeat.
    #[command(subcommand)]
    Bench(Bench),
}

const DEMO_EXAMPLES: &str = "\
Examples:
  netfs demo                                   the project's own tree
  netfs demo --dir /usr/share --json           another one, for a program to read
  netfs demo --cache-dir /var/tmp/c            keep the cache; run it twice and see disk hits in `cold`

Phases:
  cold      everything is read through an empty cache, which is filled on the way
  warm      once more: what fits into memory comes from there, the rest from the disk cache
  restart   a new process on the same disk cache: nothing comes from the origin
  changed   files are rewritten, appended to, truncated, replaced, deleted and added in the origin;
            a new process fetches those again, and only those

Every byte is compared with the origin. `seconds` is the time of reading through the cache,
without the time of comparing.

Exit status: see `netfs --help`.";

/// Reads a directory tree through the cache, cold, warm, after a restart and after changes, and
/// compares every byte.
#[derive(clap::Args, Debug)]
#[command(after_help = DEMO_EXAMPLES)]
pub(crate) struct Demo {
    /// The tree to serve; a scratch copy of it is used, it is never changed itself [default: the
    /// project around the current directory, without target/ and .git].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the disk cache in C and the scratch copy in C.origin, and use both again next time
    /// [default: temporary directories, removed at the end].
    #[arg(long, value_name = "C")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Print one JSON object a phase and line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) tuning: Tuning,
}

/// How phases are run; handed on to the processes that run single phases.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Tuning {
    /// Memory for cached pages: bytes, or with a unit such as 64MiB or 1GiB.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = memory_bytes)]
    pub(crate) memory_bytes: u64,
    /// Threads that read.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) readers: u16,
    /// Test aid: compare with this directory instead of the origin.
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) reference: Option<PathBuf>,
    /// Test aid: wait so many milliseconds after each file, so that a run takes long enough to be
    /// killed in the middle.
    #[arg(long, value_name = "MS", hide = true, default_value_t = 0)]
    pub(crate) delay_per_file_ms: u64,
}

impl Tuning {
    pub(crate) fn delay_per_file(&self) -> Duration {
        Duration::from_millis(self.delay_per_file_ms)
    }
}

/// One phase of a demo in a process of its own; prints its result as JSON.
#[derive(clap::Args, Debug)]
pub(crate) struct DemoPhase {
    /// Which one.
    #[arg(long)]
    pub(crate) phase: String,
    /// The origin.
    #[arg(long)]
    pub(crate) origin: PathBuf,
    /// The disk cache.
    #[arg(long)]
    pub(crate) cache_dir: PathBuf,
    /// How many bytes there are, for the progress bar.
    #[arg(long)]
    pub(crate) total_bytes: u64,
    /// Ends when that process does.
    #[arg(long)]
    pub(crate) parent: i32,
    /// No progress bar.
    #[arg(long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) tuning: Tuning,
}

/// Smallest useful budget: one granule.
const MEMORY_MIN: u64 = 256 << 10;

pub(crate) fn memory_bytes(text: &str) -> Result<u64, String> {
    let bytes = units::parse_bytes(text)?;
    if bytes < MEMORY_MIN {
        return Err(format!("at least {} are needed", units::bytes(MEMORY_MIN)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn test_aids_are_hidden_but_work() {
        let help = Args::command().find_subcommand_mut("demo").map(|c| c.render_help().to_string());
        let help = help.expect("demo exists");
        assert!(help.contains("--memory-bytes"), "{help}");
        assert!(!help.contains("--reference") && !help.contains("--delay"), "{help}");
        let args = Args::try_parse_from(["netfs", "demo", "--delay-per-file-ms", "7"]);
        let Ok(Args { command: Command::Demo(demo), .. }) = args else { panic!("{args:?}") };
        assert_eq!(demo.tuning.delay_per_file(), Duration::from_millis(7));
    }

    #[test]
    fn a_budget_below_one_granule_is_refused() {
        assert!(memory_bytes("256KiB").is_ok());
        assert!(memory_bytes("255KiB").is_err_and(|e| e.contains("256 KiB")));
    }
}
