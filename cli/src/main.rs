//! The `netfs` command.
//!
//! `main` parses, sets up logging and turns a [`Failure`](failure::Failure) into a message and an
//! exit code; each subcommand is a module of its own.

mod args;
mod bench;
mod demo;
mod failure;
mod interrupt;
mod output;
mod progress;
mod units;

use std::process::ExitCode;

use clap::Parser;
use tracing::level_filters::LevelFilter;

use crate::args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    log_to_stderr(args.verbose);
    let done = match args.command {
        Command::Demo(demo) => demo::run(&demo, args.verbose),
        Command::DemoPhase(phase) => demo::run_one_phase(&phase),
        Command::Bench(bench) => bench::run(&bench),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Standard output is for results alone, so that it can be parsed.
fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .init();
}
