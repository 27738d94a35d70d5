//! `netfs bench`: measurements. Each subcommand is a module of its own.

mod micro;

use clap::Subcommand;

use crate::failure::Failure;

/// Measure: what hits, fills and opens cost, each against its limit on this machine.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Micro(micro::Args),
    #[command(hide = true)]
    IdleChild(micro::IdleArgs),
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Micro(args) => micro::run(args),
        Command::IdleChild(args) => micro::idle_child(args),
    }
}
