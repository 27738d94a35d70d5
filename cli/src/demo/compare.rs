//! Comparing what came through the cache with what the origin has.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Where something was wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mismatch {
    pub(crate) path: PathBuf,
    /// What is wrong about it.
    pub(crate) what: String,
    /// How many bytes.
    pub(crate) bytes: u64,
}

/// The origin's own content of one file.
pub(crate) struct Reference {
    file: File,
    buf: Vec<u8>,
    /// First wrong byte, and how many.
    first: Option<u64>,
    wrong: u64,
}

impl Reference {
    /// Opens `path`; `buf` is used for reading.
    pub(crate) fn open(path: &Path, buf: Vec<u8>) -> io::Result<Reference> {
        Ok(Reference { file: File::open(path)?, buf, first: None, wrong: 0 })
    }

    /// Compares `got`, which the cache said is at `at`.
    pub(crate) fn compare(&mut self, at: u64, got: &[u8]) -> io::Result<()> {
        self.buf.resize(self.buf.len().max(got.len()), 0);
        let want = read_full(&self.file, &mut self.buf[..got.len()], at)?;
        if want == got {
            return Ok(());
        }
        // Bytes past the origin's end are wrong, whatever they are.
        let bad = |i: usize| want.get(i) != got.get(i);
        let wrong = (0..got.len()).filter(|&i| bad(i)).count() as u64;
        if let Some(i) = (0..got.len()).find(|&i| bad(i)) {
            self.first.get_or_insert(at + i as u64);
        }
        self.wrong += wrong;
        Ok(())
    }

    /// The cache says the file ends at `end`. Gives the buffer back, and what was wrong.
    pub(crate) fn finish(
        mut self,
        path: &Path,
        end: u64,
    ) -> io::Result<(Vec<u8>, Option<Mismatch>)> {
        let missing = self.file.metadata()?.len().saturating_sub(end);
        if missing > 0 {
            self.first.get_or_insert(end);
            self.wrong += missing;
        }
        let mismatch = self.first.map(|first| Mismatch {
            path: path.to_owned(),
            what: format!("first wrong byte at offset {first}"),
            bytes: self.wrong,
        });
        Ok((self.buf, mismatch))
    }
}

fn read_full<'a>(file: &File, buf: &'a mut [u8], at: u64) -> io::Result<&'a [u8]> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(&buf[..done])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(origin: &[u8], got: &[u8]) -> Option<(String, u64)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, origin).unwrap();
        let mut reference = Reference::open(&path, Vec::new()).unwrap();
        for (i, piece) in got.chunks(4).enumerate() {
            reference.compare(i as u64 * 4, piece).unwrap();
        }
        let (_, mismatch) = reference.finish(Path::new("f"), got.len() as u64).unwrap();
        mismatch.map(|m| (m.what, m.bytes))
    }

    #[test]
    fn every_wrong_missing_and_surplus_byte_counts() {
        let at = |n| format!("first wrong byte at offset {n}");
        assert_eq!(check(b"", b""), None);
        assert_eq!(check(b"abcdefgh", b"abcdefgh"), None);
        assert_eq!(check(b"abcdefgh", b"abcdeXgX"), Some((at(5), 2)));
        assert_eq!(check(b"abcdefgh", b"abcde"), Some((at(5), 3)));
        assert_eq!(check(b"abc", b"abcdefgh"), Some((at(3), 5)));
        assert_eq!(check(b"abc", b""), Some((at(0), 3)));
    }
}
