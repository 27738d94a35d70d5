//! Why a command failed, and what the user can do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A failed command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Bytes read through the cache differed from the origin; where was printed before.
    #[error("{0} wrong bytes were served")]
    WrongBytes(u64),
    /// A benchmark did less than its figure would claim, or a byte was wrong.
    #[error("{0}")]
    BenchNotDone(String),
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The operating system refused something outside the cache.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried, as in "cannot ... PATH".
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// The disk cache could not be opened; the message says what to do.
    #[error(transparent)]
    Cache(#[from] cachefiles::OpenError),
    /// Reading through the cache failed.
    #[error("cannot {what} through the cache: {source}")]
    Netfs {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: netfs::Error,
    },
    /// A process that ran one phase failed and has said why itself.
    #[error("phase {phase} failed in its own process ({status})")]
    Child {
        /// Which one.
        phase: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// Something is not as it must be, and no user can help it.
    #[error("{0}")]
    Internal(String),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// For `map_err`: "cannot `what` `path`".
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
        let path = path.to_owned();
        move |source| Failure::Io { what, path, source }
    }

    /// For `map_err`: "cannot `what` through the cache".
    pub(crate) fn netfs(what: impl Into<String>) -> impl FnOnce(netfs::Error) -> Failure {
        let what = what.into();
        move |source| Failure::Netfs { what, source }
    }

    /// What `netfs --help` documents.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::WrongBytes(_) | Failure::BenchNotDone(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Interrupted => 130,
            Failure::Child { status, .. } => match status.code() {
                Some(130) => 130,
                _ => 3,
            },
            _ => 3,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        let source = match self {
            Failure::Io { source, .. } => source.raw_os_error(),
            Failure::Cache(cachefiles::OpenError::Io { source, .. }) => source.raw_os_error(),
            Failure::Netfs { source, .. } => Some(source.errno().raw()),
            _ => None,
        };
        let errno = rustix::io::Errno::from_raw_os_error(source?);
        match errno {
            rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT => Some(
                "the disk is full: free some space, or keep the cache on another disk (--cache-dir); a \
                 demo needs twice the size of its tree (--dir)",
            ),
            rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => Some(
                "name a directory or file that this user may read, and keep the cache where this user \
                 may write (--cache-dir)",
            ),
            rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => {
                Some("check the path: it must be there")
            }
            rustix::io::Errno::ROFS => {
                Some("that file system is read-only: use --cache-dir on another one")
            }
            _ => None,
        }
    }

    /// One line of what went wrong, and one of what to do if that is known.
    pub(crate) fn print(&self) {
        eprintln!("netfs: {self}");
        if let Some(hint) = self.hint() {
            eprintln!("netfs: {hint}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_to_do() {
        let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let failure = Failure::io("copy", Path::new("/x"))(full);
        assert_eq!(failure.exit_code(), 3);
        assert!(failure.hint().is_some_and(|h| h.contains("--cache-dir")));
        assert!(failure.to_string().starts_with("cannot copy /x: "));
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        assert_eq!(Failure::WrongBytes(1).exit_code(), 1);
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
        assert_eq!(Failure::Interrupted.exit_code(), 130);
    }
}
