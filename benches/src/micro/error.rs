//! Why a case has no figure.

use std::{io, path::PathBuf};

/// A case that could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MicroError {
    /// Less was done than the figure would claim.
    #[error("the work was not done: {0}")]
    NotDone(String),
    /// Bytes differed from the origin.
    #[error("wrong bytes: {0}")]
    WrongBytes(String),
    /// The library failed.
    #[error("cannot {what}: {source}")]
    Netfs {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: netfs::Error,
    },
    /// The disk cache could not be opened.
    #[error(transparent)]
    Cache(#[from] cachefiles::OpenError),
    /// The operating system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// This machine does not allow the measurement.
    #[error("{0}")]
    Unsupported(String),
}

impl MicroError {
    /// For `map_err`.
    pub(super) fn netfs(what: &'static str) -> impl FnOnce(netfs::Error) -> MicroError {
        move |source| MicroError::Netfs { what, source }
    }

    /// For `map_err`.
    pub(super) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> MicroError {
        let path = path.into();
        move |source| MicroError::Io { what, path, source }
    }
}
