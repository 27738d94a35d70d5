//! Paths inside the origin: `/` separated names of any bytes.

use bytes::Bytes;
use netfs::{Errno, Error, Result};

/// The names of `path`. A leading or doubled `/` means nothing.
pub(super) fn components(path: &[u8]) -> Result<impl Iterator<Item = &[u8]>> {
    let names = path.split(|&b| b == b'/').filter(|n| !n.is_empty());
    if names.clone().any(|n| n == b"." || n == b".." || n.contains(&0) || n.len() > 255) {
        return Err(error(Errno::EINVAL, path));
    }
    Ok(names)
}

/// Parent path and name.
pub(super) fn split(path: &[u8]) -> Result<(&[u8], &[u8])> {
    let end = path.iter().rposition(|&b| b != b'/').map_or(0, |i| i + 1);
    let path = &path[..end];
    let start = path.iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1);
    let (parent, name) = path.split_at(start);
    if name.is_empty() || components(name)?.count() != 1 {
        return Err(error(Errno::EINVAL, path));
    }
    Ok((parent, name))
}

pub(super) fn join(dir: &[u8], name: &[u8]) -> Bytes {
    let separator: &[u8] = if dir.is_empty() { b"" } else { b"/" };
    Bytes::from([dir, separator, name].concat())
}

/// Whether `path` is `dir` or below it.
pub(super) fn is_inside(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

pub(super) fn error(errno: Errno, path: &[u8]) -> Error {
    Error::new(errno, format!("memory origin: path {:?}", display(path)))
}

/// A path for messages and logs.
pub(crate) fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_ignores_spare_slashes_and_refuses_dots() {
        assert_eq!(split(b"/a//b/").unwrap(), (&b"/a//"[..], &b"b"[..]));
        assert_eq!(components(b"/a//b/").unwrap().count(), 2);
        for bad in [&b""[..], b"/", b"a/..", b"a/.", b"a/\0"] {
            assert_eq!(split(bad).err().map(|e| e.errno()), Some(Errno::EINVAL), "{bad:?}");
        }
        assert!(is_inside(b"a/b", b"a") && !is_inside(b"ab", b"a"));
    }
}
