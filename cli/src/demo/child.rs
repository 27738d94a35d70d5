//! A phase in a process of its own: no memory of the earlier ones survives.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::{phase::Setup, report::PhaseReport};
use crate::{args::DemoPhase, failure::Failure};

/// Runs one phase in a new process and returns its report.
pub(crate) fn run(
    phase: &str,
    setup: &Setup,
    quiet: bool,
    verbose: u8,
) -> Result<PhaseReport, Failure> {
    let tuning = setup.tuning;
    // Not current_exe(), whose path leads elsewhere once the binary has been rebuilt.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("netfs").arg("demo-phase").args(["--phase", phase]);
    command.args(std::iter::repeat_n("--verbose", verbose.into()));
    command.arg("--origin").arg(setup.origin).arg("--cache-dir").arg(setup.cache);
    command.args(["--total-bytes", &setup.total_bytes.to_string()]);
    command.args(["--parent", &std::process::id().to_string()]);
    command.args(["--memory-bytes", &tuning.memory_bytes.to_string()]);
    command.args(["--readers", &tuning.readers.to_string()]);
    command.args(["--delay-per-file-ms", &tuning.delay_per_file_ms.to_string()]);
    if let Some(dir) = &tuning.reference {
        command.arg("--reference").arg(dir);
    }
    if quiet {
        command.arg("--quiet");
    }
    let failed = |e| Failure::Internal(format!("cannot start a process for phase {phase}: {e}"));
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .map_err(failed)?;
    if !output.status.success() {
        return Err(Failure::Child { phase: phase.to_owned(), status: output.status });
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|e| Failure::Internal(format!("phase {phase} sent no report: {e}")))
}

/// Makes this process end with the one that started it, however that ends: it owns the cache
/// directory, and nobody would wait for it.
pub(crate) fn follow_parent(args: &DemoPhase) -> Result<(), Failure> {
    let failed = |e| Failure::Internal(format!("cannot follow the parent process: {e}"));
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed)?;
    // It may have ended before that.
    let parent = getppid().map(|pid| pid.as_raw_pid());
    if parent != Some(args.parent) {
        return Err(Failure::Interrupted);
    }
    Ok(())
}
