//! `netfs bench replay`: a trace through the whole stack, every byte compared.

mod report;
mod watch;

use std::path::{Path, PathBuf};

use clap::{
    builder::{PossibleValuesParser, TypedValueParser},
    value_parser,
};
use netfs_bench::{
    replay::{self, Config, Fill, ReplayError, Writes},
    trace::{self, Format, Spec, Trace, TraceError},
};
use tempfile::TempDir;

use self::{report::Printer, watch::Watcher};
use crate::{args, failure::Failure, interrupt::Interrupt, progress::Progress, units};

const HELP: &str = "\
Examples:
  netfs bench replay trace.csv.zst                       a trace, memory and disk cache
  netfs bench replay trace.csv.zst --restart-at 50       everything is shut down half-way: what was on disk
  netfs bench replay trace.csv.zst --cache-dir /var/tmp/c      run it twice: the second run starts warm
  netfs bench replay P3.lis.zst --cache-dir none --memory-bytes 41922560 --json
  netfs bench replay generated                           no trace at hand

Formats (known by their first line; .gz and .zst by their first bytes):
  arc        ARC .lis: first block, count, ignored, number; blocks of 512 bytes of one file
  arc-pages  the same with page numbers: what an ARC trace of single blocks only is taken for (OLTP)
  blocks     one block number a line, of 4 KiB blocks of one file
  vscsi      version,time,op,size,lbn: SCSI commands to one disk
  nfs        time_s,client,server,file,op,offset,bytes
  tectonic   op_time,block_id,...: Meta Tectonic; a block is a file
  plain      time,file,op,offset,bytes with op = read | write: the one to convert your own to

What it does:
  Every file of the trace is a file of an in-process origin, with content that depends on file, version and
  offset; every byte read is compared with it. The trace's times are not replayed. With one thread each
  request waits until what earlier ones started (readahead, copies to disk) has landed, so hits hardly
  depend on timing; the wait counts in no figure. With more threads nobody waits, and the requests of one
  file stay on one thread.
  A write is made at the origin, as another client's, and breaks the promise for its file (--writes skip
  leaves it out): what is cached of the file is then dropped. Each run starts from the files' first
  versions, so what an earlier run cached of files that changed is not used again.

Figures (--json: one object a phase; the phases are `all`, or `before` and `after` the restart):
  hit        a byte that was in memory or on disk when its request began
  memory_hit_bytes + disk_hit_bytes + zero_bytes + all miss_*_bytes = bytes
  origin_bytes_per_asked_byte   1 is no better than no cache
  seconds, requests_per_s, latency_us   time in reads, without comparing and waiting

Exit status: see `netfs --help`; 2 also for a malformed trace.";

/// Replays a trace of real I/O through memory and disk cache, compares every byte, and reports hits,
/// origin traffic and latencies.
#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The trace: a file (- = standard input), or `generated`.
    #[arg(value_name = "TRACE", required_unless_present = "generate", conflicts_with = "generate")]
    trace: Option<PathBuf>,
    /// Replay a made-up trace: zipf+scan+loop[,requests=N][,files=N][,writes=PERCENT][,seed=N]; any of
    /// the three kinds of access may be left out.
    #[arg(long, value_name = "SPEC", value_parser = spec)]
    generate: Option<Spec>,
    /// The trace's format.
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = formats())]
    format: FormatChoice,
    /// Memory for cached pages: bytes, or with a unit such as 64MiB or 1GiB.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = args::memory_bytes)]
    memory_bytes: u64,
    /// How much a miss fetches.
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = fills())]
    fill: Fill,
    /// Shut everything down after this percentage of the requests and go on with what is on disk.
    #[arg(long, value_name = "PCT", value_parser = value_parser!(u8).range(1..=99))]
    restart_at: Option<u8>,
    /// Keep the disk cache in C and use it again next time; `none` = no disk cache [default: a
    /// temporary directory, removed at the end].
    #[arg(long, value_name = "C")]
    cache_dir: Option<PathBuf>,
    /// Threads that read.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u16).range(1..=256))]
    threads: u16,
    /// What writes of the trace do: another client changes the file, or nothing.
    #[arg(long, value_name = "WHAT", default_value = "change", value_parser = writes())]
    writes: Writes,
    /// Bytes a second that the origin sends [default: as fast as it can].
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    origin_rate: Option<u64>,
    /// Print one JSON object a phase and line instead of a table.
    #[arg(long)]
    json: bool,
    /// Test aid: say each time so many requests are done.
    #[arg(long, value_name = "REQUESTS", hide = true)]
    say_every: Option<u64>,
    /// Test aid: at this request the origin's files change, and the origin keeps it to itself.
    #[arg(long, value_name = "REQUEST", hide = true)]
    lie_at: Option<u64>,
}

/// Runs it.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    let trace = load(args)?;
    interrupt.check()?;
    let (cache, _temporary) = cache_dir(args.cache_dir.as_deref())?;
    let mut config = Config::default();
    config.memory_bytes = args.memory_bytes;
    config.fill = args.fill;
    config.cache = cache;
    config.restart_at = args.restart_at;
    config.threads = usize::from(args.threads);
    config.writes = args.writes;
    config.origin_rate = args.origin_rate;
    config.lie_at = args.lie_at;

    let printer = Printer::new(args.json);
    printer.header(&trace, args.writes)?;
    let watcher = Watcher::new(Progress::counting(args.json), &interrupt, args.say_every);
    let mut wrong = 0;
    let mut printed = Ok(());
    let done = replay::replay(&trace, &config, &watcher, |phase| {
        watcher.phase_done();
        wrong += phase.wrong_bytes;
        if printed.is_ok() {
            printed = printer.phase(&phase);
        }
    });
    watcher.phase_done();
    done.map_err(failure)?;
    printed?;
    if wrong > 0 { Err(Failure::WrongBytes(wrong)) } else { Ok(()) }
}

fn load(args: &Args) -> Result<Trace, Failure> {
    let Some(path) = &args.trace else {
        return Ok(args.generate.clone().unwrap_or_default().generate());
    };
    if path.as_os_str() == "generated" {
        return Ok(Spec::default().generate());
    }
    let path = if path.as_os_str() == "-" { Path::new("/dev/stdin") } else { path };
    trace::open(path, args.format.0).map_err(|e| match e {
        TraceError::Io { source, .. } => Failure::io("read the trace", path)(source),
        wrong => Failure::Usage(wrong.to_string()),
    })
}

/// The disk cache's directory, if there is to be one; a temporary one goes with the second value.
fn cache_dir(wanted: Option<&Path>) -> Result<(Option<PathBuf>, Option<TempDir>), Failure> {
    if let Some(dir) = wanted {
        return Ok((Some(dir.to_owned()).filter(|d| d.as_os_str() != "none"), None));
    }
    let base = std::env::temp_dir();
    let made = tempfile::Builder::new().prefix("netfs-replay-").tempdir_in(&base);
    let made = made.map_err(Failure::io("make a temporary directory in", &base))?;
    Ok((Some(made.path().join("cache")), Some(made)))
}

fn failure(e: ReplayError) -> Failure {
    match e {
        ReplayError::Cache(e) => Failure::Cache(e),
        ReplayError::Netfs { what, source } => Failure::Netfs { what, source },
        ReplayError::Stopped => Failure::Interrupted,
        other => Failure::Internal(other.to_string()),
    }
}

/// A format, or none: `auto`.
#[derive(Clone, Copy, Debug)]
struct FormatChoice(Option<Format>);

fn formats() -> impl TypedValueParser<Value = FormatChoice> {
    let names = ["auto"].into_iter().chain(Format::NAMES);
    PossibleValuesParser::new(names).try_map(|name| match name.as_str() {
        "auto" => Ok(FormatChoice(None)),
        name => name.parse().map(|format| FormatChoice(Some(format))),
    })
}

fn fills() -> impl TypedValueParser<Value = Fill> {
    PossibleValuesParser::new(Fill::NAMES).try_map(|name| name.parse::<Fill>())
}

fn writes() -> impl TypedValueParser<Value = Writes> {
    PossibleValuesParser::new(Writes::NAMES).try_map(|name| name.parse::<Writes>())
}

fn spec(text: &str) -> Result<Spec, String> {
    text.parse().map_err(|e: TraceError| e.to_string())
}

fn rate(text: &str) -> Result<u64, String> {
    match units::parse_bytes(text)? {
        0 => Err("at least one byte a second is needed".to_owned()),
        rate => Ok(rate),
    }
}
