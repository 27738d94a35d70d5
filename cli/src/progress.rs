//! Progress on standard error: a bar for people, a line at the start of each step otherwise.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// Shows how far the current step is.
pub(crate) struct Progress {
    bar: ProgressBar,
    lines: bool,
}

impl Progress {
    /// A bar if standard error is a terminal and `quiet` is not wanted.
    pub(crate) fn new(quiet: bool) -> Progress {
        Progress::with(quiet, "{bytes:>10} of {total_bytes} {bytes_per_sec:>12}")
    }

    /// The same for steps that count something else than bytes.
    pub(crate) fn counting(quiet: bool) -> Progress {
        Progress::with(quiet, "{human_pos:>10} of {human_len}")
    }

    fn with(quiet: bool, numbers: &str) -> Progress {
        if quiet || !std::io::stderr().is_terminal() {
            return Progress { bar: ProgressBar::hidden(), lines: true };
        }
        let style = format!("{{msg:8}} {{bar:32}} {numbers} {{eta}}");
        // Only a wrong template fails; the default bar is better than none.
        let style =
            ProgressStyle::with_template(&style).unwrap_or_else(|_| ProgressStyle::default_bar());
        Progress { bar: ProgressBar::no_length().with_style(style), lines: false }
    }

    /// Shows nothing.
    #[cfg(test)]
    pub(crate) fn hidden() -> Progress {
        Progress { bar: ProgressBar::hidden(), lines: false }
    }

    /// Whether there is no bar, and lines are to say how far it is.
    pub(crate) fn is_lines(&self) -> bool {
        self.lines
    }

    /// A step of `total` bytes (or whatever is counted) begins.
    pub(crate) fn start(&self, what: &str, total: u64) {
        if self.lines {
            say(what);
            return;
        }
        self.bar.reset();
        self.bar.set_length(total);
        self.bar.set_message(what.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    /// So much more is done.
    pub(crate) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// The step is done: the bar goes, so that results can be printed.
    pub(crate) fn finish(&self) {
        self.bar.disable_steady_tick();
        self.bar.finish_and_clear();
    }

    /// A line that stays, above the bar.
    pub(crate) fn note(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }
}

/// A line on standard error; if nobody can hear it that is no reason to fail.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "netfs: {line}");
}
