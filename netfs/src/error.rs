//! One error type for the whole library: what failed, which errno a kernel would report, and why.
//!
//! An [`Error`] is cheap to clone because one failed fetch may be reported to many readers.

use std::{borrow::Cow, fmt, io, sync::Arc};

/// The result of every fallible call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A positive Linux error number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $val:expr;)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Errno = Errno($val);)*

            /// The symbolic name, if this crate has one for it.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                $(if self.0 == $val { return Some(stringify!($name)); })*
                None
            }
        }
    };
}

errnos! {
    /// Operation not permitted.
    EPERM = libc::EPERM;
    /// No such file or directory.
    ENOENT = libc::ENOENT;
    /// Interrupted.
    EINTR = libc::EINTR;
    /// Input/output error.
    EIO = libc::EIO;
    /// No such device or address.
    ENXIO = libc::ENXIO;
    /// Try again.
    EAGAIN = libc::EAGAIN;
    /// Out of memory.
    ENOMEM = libc::ENOMEM;
    /// Permission denied.
    EACCES = libc::EACCES;
    /// Busy.
    EBUSY = libc::EBUSY;
    /// File exists.
    EEXIST = libc::EEXIST;
    /// Not a directory.
    ENOTDIR = libc::ENOTDIR;
    /// Is a directory.
    EISDIR = libc::EISDIR;
    /// Invalid argument.
    EINVAL = libc::EINVAL;
    /// File too large.
    EFBIG = libc::EFBIG;
    /// No space left on device.
    ENOSPC = libc::ENOSPC;
    /// Read-only filesystem.
    EROFS = libc::EROFS;
    /// Name too long.
    ENAMETOOLONG = libc::ENAMETOOLONG;
    /// Too many levels of symbolic links.
    ELOOP = libc::ELOOP;
    /// No data available: a read ended short although the server said nothing about an end of file.
    ENODATA = libc::ENODATA;
    /// Operation not supported.
    EOPNOTSUPP = libc::EOPNOTSUPP;
    /// No buffer space: the kernel's "not cached".
    ENOBUFS = libc::ENOBUFS;
    /// Timed out.
    ETIMEDOUT = libc::ETIMEDOUT;
    /// Bad file descriptor: not open for this.
    EBADF = libc::EBADF;
    /// Broken pipe.
    EPIPE = libc::EPIPE;
    /// Network is down.
    ENETDOWN = libc::ENETDOWN;
    /// Network unreachable.
    ENETUNREACH = libc::ENETUNREACH;
    /// Connection aborted.
    ECONNABORTED = libc::ECONNABORTED;
    /// Connection reset.
    ECONNRESET = libc::ECONNRESET;
    /// Not connected.
    ENOTCONN = libc::ENOTCONN;
    /// Connection refused.
    ECONNREFUSED = libc::ECONNREFUSED;
    /// No route to host.
    EHOSTUNREACH = libc::EHOSTUNREACH;
    /// The key (credential) has expired.
    EKEYEXPIRED = libc::EKEYEXPIRED;
    /// The credentials were revoked.
    EKEYREVOKED = libc::EKEYREVOKED;
    /// The server does not accept the credentials.
    EKEYREJECTED = libc::EKEYREJECTED;
    /// There are no credentials.
    ENOKEY = libc::ENOKEY;
    /// Directory not empty.
    ENOTEMPTY = libc::ENOTEMPTY;
    /// Quota exceeded.
    EDQUOT = libc::EDQUOT;
    /// Stale file handle: the file was deleted, or kept changing under a bounded retry.
    ESTALE = libc::ESTALE;
    /// Cancelled: the operation was dropped before it ended.
    ECANCELED = libc::ECANCELED;
    /// The context is shutting down.
    ESHUTDOWN = libc::ESHUTDOWN;
}

impl Errno {
    /// Wraps a raw number; anything that is not a positive errno becomes `EIO`.
    #[must_use]
    pub fn from_raw(raw: i32) -> Errno {
        if (1..4096).contains(&raw) { Errno(raw) } else { Errno::EIO }
    }

    /// The raw, positive number.
    #[must_use]
    pub fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

/// A failed operation: the errno a kernel would return and a sentence that says what happened.
#[derive(Clone)]
pub struct Error {
    errno: Errno,
    context: Cow<'static, str>,
    source: Option<Arc<io::Error>>,
}

impl Error {
    /// An error with its reason in words ("what was done to what, and what to do next").
    pub fn new(errno: Errno, context: impl Into<Cow<'static, str>>) -> Error {
        Error { errno, context: context.into(), source: None }
    }

    /// Wraps an operating-system error, keeping its errno.
    pub fn io(source: io::Error, context: impl Into<Cow<'static, str>>) -> Error {
        let errno = source.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        Error { errno, context: context.into(), source: Some(Arc::new(source)) }
    }

    /// The errno to hand to a kernel or a POSIX caller.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// What was being done.
    #[must_use]
    pub fn context(&self) -> &str {
        &self.context
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({}: {}", self.errno, self.context)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.context, self.errno)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<Error> for io::Error {
    fn from(e: Error) -> io::Error {
        // A bare os error keeps its kind; the sentence would be lost, so it rides as the payload.
        io::Error::new(io::Error::from_raw_os_error(e.errno.raw()).kind(), e)
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error::new(errno, "operation failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_numbers_outside_the_errno_range_become_eio() {
        assert_eq!(Errno::from_raw(0), Errno::EIO);
        assert_eq!(Errno::from_raw(-2), Errno::EIO);
        assert_eq!(Errno::from_raw(libc::ENOENT), Errno::ENOENT);
    }

    #[test]
    fn conversion_to_io_error_keeps_the_kind_and_the_sentence() {
        let e: io::Error = Error::new(Errno::ENOENT, "looking up \"x\"").into();
        assert_eq!(e.kind(), io::ErrorKind::NotFound);
        assert!(e.to_string().contains("looking up"));
    }
}
