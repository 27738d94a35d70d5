//! `netfs bench`: measurements that anybody can repeat. The work is done by the crate `netfs-bench`; here
//! are arguments, progress and output, a module for each subcommand.

mod micro;
mod replay;

use clap::Subcommand;

use crate::failure::Failure;

/// Which measurement.
#[derive(Subcommand, Debug)]
pub(crate) enum Bench {
    Replay(replay::Args),
    Micro(micro::Args),
    Write(micro::WriteArgs),
    #[command(hide = true)]
    IdleChild(micro::IdleArgs),
}

/// Runs it.
pub(crate) fn run(bench: &Bench) -> Result<(), Failure> {
    match bench {
        Bench::Replay(args) => replay::run(args),
        Bench::Micro(args) => micro::run(args),
        Bench::Write(args) => micro::run_write(args),
        Bench::IdleChild(args) => micro::idle_child(args),
    }
}
