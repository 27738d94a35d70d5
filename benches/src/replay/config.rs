//! How a trace is to be replayed, and who watches.

use std::{path::PathBuf, str::FromStr};

use netfs::FillPolicy;

/// How a trace is to be replayed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Memory for cached pages, in bytes.
    pub memory_bytes: u64,
    /// How much a miss fetches.
    pub fill: Fill,
    /// Directory of the disk cache; `None` = memory only.
    pub cache: Option<PathBuf>,
    /// After this percentage of the requests everything is shut down and opened again, so that only
    /// what is on disk survives.
    pub restart_at: Option<u8>,
    /// Threads that read. With one, figures do not depend on timing.
    pub threads: usize,
    /// What a write of the trace does.
    pub writes: Writes,
    /// Bytes a second that the origin sends; `None` = as fast as it can.
    pub origin_rate: Option<u64>,
    /// Test aid: after so many requests the origin changes every file without saying so and without
    /// moving its version, so that what was cached is wrong and must be found wrong.
    pub lie_at: Option<u64>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            memory_bytes: 256 << 20,
            fill: Fill::Auto,
            cache: None,
            restart_at: None,
            threads: 1,
            writes: Writes::Change,
            origin_rate: None,
            lie_at: None,
        }
    }
}

/// How much a miss fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Whole 256 KiB granules.
    Granule,
    /// The pages asked for.
    Exact,
    /// What fits the stream.
    Auto,
}

impl Fill {
    /// The names, as [`FromStr`] takes them.
    pub const NAMES: [&'static str; 3] = ["granule", "exact", "auto"];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fill::Granule => "granule",
            Fill::Exact => "exact",
            Fill::Auto => "auto",
        }
    }

    /// The core's word for it.
    pub(super) fn policy(self) -> FillPolicy {
        match self {
            Fill::Granule => FillPolicy::Granule,
            Fill::Exact => FillPolicy::Exact,
            Fill::Auto => FillPolicy::Auto,
        }
    }
}

impl FromStr for Fill {
    type Err = String;

    fn from_str(text: &str) -> Result<Fill, String> {
        let all = [Fill::Granule, Fill::Exact, Fill::Auto];
        let known = || format!("{text:?} is none of {}", Fill::NAMES.join(", "));
        all.into_iter().find(|f| f.name() == text).ok_or_else(known)
    }
}

/// What a write of the trace does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Another client changes the range at the origin, and the origin tells.
    Change,
    /// Nothing.
    Skip,
}

impl Writes {
    /// The names, as [`FromStr`] takes them.
    pub const NAMES: [&'static str; 2] = ["change", "skip"];
}

impl FromStr for Writes {
    type Err = String;

    fn from_str(text: &str) -> Result<Writes, String> {
        match text {
            "change" => Ok(Writes::Change),
            "skip" => Ok(Writes::Skip),
            _ => Err(format!("{text:?} is none of {}", Writes::NAMES.join(", "))),
        }
    }
}

/// Who watches a replay. Called by all its threads.
pub trait Watch: Sync {
    /// A phase of so many requests begins.
    fn phase(&self, name: &str, requests: u64) {
        let _ = (name, requests);
    }

    /// One more request is done.
    fn done(&self) {}

    /// Whether to stop.
    fn stop(&self) -> bool {
        false
    }

    /// Something that must be said: where a byte was wrong, what was not stored.
    fn note(&self, line: &str) {
        let _ = line;
    }
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The disk cache could not be opened; the message says what to do.
    #[error(transparent)]
    Cache(#[from] cachefiles::OpenError),
    /// A call failed that must not.
    #[error("cannot {what}: {source}")]
    Netfs {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: netfs::Error,
    },
    /// [`Watch::stop`] said so.
    #[error("stopped")]
    Stopped,
    /// Something is not as it must be.
    #[error("{0}")]
    Internal(String),
}

impl ReplayError {
    /// For `map_err`: "cannot `what`".
    pub(super) fn netfs(what: impl Into<String>) -> impl FnOnce(netfs::Error) -> ReplayError {
        let what = what.into();
        move |source| ReplayError::Netfs { what, source }
    }
}
