//! Reading: the bytes of one reply belong to one version.
//!
//! Nothing is reported as read before the second `statx`: the memory is filled first, the file is asked
//! again whether it is what it was, and only then the progress is told. If it changed meanwhile the read
//! is done over; a file that keeps changing is served at last as any reader of it would see it, without
//! a version, so that none of it is ever stored.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use netfs::{
    Error, Result,
    error::Errno,
    remote::{AccessMask, Facts, FileKind, Outcome, ReadSub},
};
use rustix::fs::SeekFrom;

use crate::{
    file::LocalFile,
    handles::stale,
    opened::OpenFile,
    stat::Stat,
    tree::{self, Asked, Tree, expired},
};

/// Reads of a file that changes under each of them, before it is served without a version.
const ATTEMPTS: usize = 3;
/// Most slices of one `preadv` (`IOV_MAX`).
pub(crate) const IOV_MAX: usize = 1024;

/// A run of the file within a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Run {
    Data(usize),
    Hole(usize),
}

/// What one attempt found.
struct Attempt {
    runs: Vec<Run>,
    after: Stat,
    /// Both `statx` agree.
    stable: bool,
    facts: Facts,
}

/// Serves a sub, on a thread that may block.
pub(crate) fn read(tree: &Arc<Tree>, file: &LocalFile, mut sub: ReadSub) {
    match try_read(tree, file, &mut sub) {
        Ok(outcome) => sub.finish(outcome),
        Err(e) => sub.fail(e),
    }
}

/// The file open for reading, by the open's own descriptor or one of the tree's.
enum Source<'a> {
    Token(&'a OpenFile),
    Shared(Arc<OwnedFd>),
}

impl Source<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Token(open) => open.fd.as_fd(),
            Source::Shared(fd) => fd.as_fd(),
        }
    }
}

fn try_read(tree: &Arc<Tree>, file: &LocalFile, sub: &mut ReadSub) -> Result<Outcome> {
    if file.kind() != FileKind::File {
        return Err(Error::new(
            if file.kind() == FileKind::Dir { Errno::EISDIR } else { Errno::EINVAL },
            "only regular files have content to read",
        ));
    }
    let cx = sub.cx().clone();
    let source = match cx.token().get::<OpenFile>() {
        Some(open) if open.reads() => Source::Token(open),
        _ => Source::Shared(tree.handles.data(file)?),
    };
    if let Source::Shared(fd) = &source {
        // An open was checked when it was made; without one each read is, as an NFS server does.
        let st = tree.stat(fd.as_fd())?;
        tree.require(fd.as_fd(), &st, cx.cred(), AccessMask::READ)?;
    }
    let mut left = ATTEMPTS;
    let attempt = loop {
        if expired(&cx) {
            return Err(Error::new(Errno::ETIMEDOUT, "the deadline of a local read has passed"));
        }
        left -= 1;
        let attempt = attempt(tree, file, &source, sub)?;
        if attempt.stable || left == 0 {
            break attempt;
        }
    };
    Ok(report(sub, &attempt))
}

/// What was asked before the bytes.
struct Begun {
    asked: Asked,
    before: Stat,
    settled: bool,
}

/// One read between two `statx`. The caller's memory is filled, nothing is reported yet.
fn attempt(
    tree: &Tree,
    file: &LocalFile,
    source: &Source<'_>,
    sub: &mut ReadSub,
) -> Result<Attempt> {
    let begun = begin(tree, file, source)?;
    let trust_holes = tree.kind.host_clock;
    let runs = fill(source.fd(), &begun.before, trust_holes, sub).map_err(|e| {
        if e.raw_os_error() == Some(libc::ESTALE) { stale() } else { read_error(e) }
    })?;
    end(tree, source, begun, runs)
}

fn begin(tree: &Tree, file: &LocalFile, source: &Source<'_>) -> Result<Begun> {
    let fd = source.fd();
    let key = file.shared_key();
    let asked = tree.ask(&key, fd, FileKind::File);
    let before = tree.stat(fd)?;
    if before.unlinked() && matches!(source, Source::Shared(_)) {
        // Deleted, unless somebody has it open. (Or a filesystem that counts no links, where the name
        // decides.)
        tree.live(file)?;
    }
    // Before the bytes: a write that ends between them and the question would pass unseen (S2).
    let settled = tree.stamps.settled(&key, &before, asked.at, || tree.writers_of(fd));
    Ok(Begun { asked, before, settled })
}

fn end(tree: &Tree, source: &Source<'_>, begun: Begun, runs: Vec<Run>) -> Result<Attempt> {
    let after = tree.stat(source.fd())?;
    let stable = begun.before.same_content(&after);
    let facts = tree::facts(&after, (stable && begun.settled).then_some(begun.asked));
    Ok(Attempt { runs, after, stable, facts })
}

fn read_error(e: io::Error) -> Error {
    Error::io(e, "reading a file of the local tree")
}

/// Fills the sub's memory from its current offset and says what is where. Holes are not read; what is
/// missing at the end was past the end of the file.
fn fill(
    fd: BorrowedFd<'_>,
    st: &Stat,
    trust_holes: bool,
    sub: &mut ReadSub,
) -> io::Result<Vec<Run>> {
    let start = sub.offset();
    let want = sub.remaining();
    // A dense file is not worth the seeks.
    let sparse = trust_holes && st.attr.allocated < st.attr.size;
    let mut runs = Vec::new();
    let mut done = 0;
    while done < want {
        let run = if sparse {
            next_run(fd, start + done as u64, st.attr.size, want - done)?
        } else {
            Run::Data(want - done)
        };
        match run {
            Run::Hole(n) => {
                runs.push(run);
                done += n;
            }
            Run::Data(n) => {
                let got = read_at(fd, sub, done, n, start + done as u64)?;
                if got == 0 {
                    break;
                }
                runs.push(Run::Data(got));
                done += got;
            }
        }
    }
    Ok(runs)
}

/// The run at `offset`, at most `max` bytes and not past the file's `size`; past it, data, so that the
/// read itself finds the end.
fn next_run(fd: BorrowedFd<'_>, offset: u64, size: u64, max: usize) -> io::Result<Run> {
    if offset >= size {
        return Ok(Run::Data(max));
    }
    let clip = |end: u64| usize::try_from(end - offset).unwrap_or(max).min(max);
    let data = match rustix::fs::seek(fd, SeekFrom::Data(offset)) {
        Ok(data) => data,
        // No data up to the end.
        Err(rustix::io::Errno::NXIO) => size,
        // Not supported after all.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(Run::Data(max)),
        Err(e) => return Err(e.into()),
    };
    if data > offset {
        return Ok(Run::Hole(clip(data.min(size))));
    }
    match rustix::fs::seek(fd, SeekFrom::Hole(offset)) {
        Ok(hole) if hole > offset => Ok(Run::Data(clip(hole))),
        // Punched between the two calls, or truncated: the read will tell, the second statx too.
        Ok(_) | Err(rustix::io::Errno::NXIO) => Ok(Run::Data(max)),
        Err(e) => Err(e.into()),
    }
}

/// Reads up to `len` bytes at `offset` into the sub's memory, `skip` bytes from its front. Fewer only
/// at the end of the file; 0 there.
fn read_at(
    fd: BorrowedFd<'_>,
    sub: &mut ReadSub,
    skip: usize,
    len: usize,
    offset: u64,
) -> io::Result<usize> {
    let mut done = 0;
    while done < len {
        let mut slices = window(sub.buffers(), skip + done, len - done);
        match rustix::io::preadv(fd, &mut slices, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(done)
}

/// A part of scattered memory: from `skip`, at most `len` bytes and one call's worth of slices.
fn window<'a>(
    slices: impl Iterator<Item = &'a mut [u8]>,
    mut skip: usize,
    mut len: usize,
) -> Vec<IoSliceMut<'a>> {
    let mut out = Vec::new();
    for slice in slices {
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let take = (slice.len() - skip).min(len);
        out.push(IoSliceMut::new(&mut slice[skip..skip + take]));
        skip = 0;
        len -= take;
        if len == 0 || out.len() == IOV_MAX {
            break;
        }
    }
    out
}

/// Tells the core what came of it.
fn report(sub: &mut ReadSub, attempt: &Attempt) -> Outcome {
    sub.facts(attempt.facts.clone());
    for run in &attempt.runs {
        match *run {
            Run::Data(n) => sub.advance(n),
            Run::Hole(n) => sub.hole(n),
        }
    }
    let at_end = sub.offset() >= attempt.after.attr.size;
    match (sub.remaining(), attempt.stable) {
        (0, _) => Outcome::Done,
        (_, true) if at_end => Outcome::Eof,
        // Short while the file moves: where its end is now is for the next try to find out.
        (_, false) if attempt.runs.is_empty() => Outcome::Retry,
        // Short for no reason the attributes give: told as it is.
        _ => Outcome::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every window of memory in pieces of 1 to 5 bytes covers exactly the bytes asked for.
    #[test]
    fn a_window_covers_the_asked_bytes_and_no_others() {
        for piece in 1..6 {
            for skip in 0..12 {
                for len in 1..13 - skip {
                    let mut memory = [0u8; 12];
                    for slice in window(memory.chunks_mut(piece), skip, len).iter_mut() {
                        slice.iter_mut().for_each(|b| *b += 1);
                    }
                    let want: Vec<u8> =
                        (0..12).map(|i| u8::from((skip..skip + len).contains(&i))).collect();
                    assert_eq!(memory[..], want, "pieces of {piece}, {len} bytes from {skip}");
                }
            }
        }
    }

    #[test]
    fn a_window_has_no_more_slices_than_one_call_takes() {
        let mut memory = vec![0u8; IOV_MAX + 7];
        assert_eq!(window(memory.chunks_mut(1), 3, IOV_MAX + 4).len(), IOV_MAX);
    }

    /// A settled file named `f`, as a read finds it.
    fn settled_file(content: &[u8]) -> (tempfile::TempDir, Arc<Tree>, Arc<LocalFile>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), content).unwrap();
        let fs = crate::LocalFs::builder(dir.path()).open().unwrap();
        let reply = netfs::remote::RemoteFs::lookup(
            Arc::clone(&fs),
            Arc::clone(&fs.root),
            "f".into(),
            cx(),
        );
        let file = pollster::block_on(reply).unwrap().found.unwrap().file;
        while fs.tree.reply(&file).unwrap().version.is_none() {
            std::thread::yield_now();
        }
        (dir, Arc::clone(&fs.tree), file)
    }

    fn cx() -> netfs::remote::Cx {
        netfs::remote::Cx::new(netfs::remote::Cred::current())
    }

    #[test]
    fn a_file_that_changes_between_the_two_statx_gives_no_version() {
        let (dir, tree, file) = settled_file(b"one");
        let source = Source::Shared(tree.handles.data(&file).unwrap());
        let quiet = end(&tree, &source, begin(&tree, &file, &source).unwrap(), Vec::new()).unwrap();
        assert!(quiet.stable && quiet.facts.version.is_some());
        let begun = begin(&tree, &file, &source).unwrap();
        assert!(begun.settled);
        std::fs::write(dir.path().join("f"), b"two").unwrap();
        let torn = end(&tree, &source, begun, Vec::new()).unwrap();
        assert!(!torn.stable);
        assert_eq!(torn.facts.version, None);
    }

    /// The end that was met is not the end any more: what is missing must not be taken for zeros.
    #[test]
    fn a_short_read_of_a_growing_file_is_continued_not_ended() {
        let (dir, tree, file) = settled_file(b"one");
        let source = Source::Shared(tree.handles.data(&file).unwrap());
        for (at, outcome) in [(0, "Done"), (3, "Retry")] {
            let (mut sub, _done) = ReadSub::detached(at, 10, cx());
            let begun = begin(&tree, &file, &source).unwrap();
            let runs = fill(source.fd(), &begun.before, true, &mut sub).unwrap();
            let path = dir.path().join("f");
            let grow = std::fs::OpenOptions::new().append(true).open(path).unwrap();
            std::io::Write::write_all(&mut &grow, b"more").unwrap();
            let attempt = end(&tree, &source, begun, runs).unwrap();
            assert_eq!(format!("{:?}", report(&mut sub, &attempt)), outcome);
            grow.set_len(3).unwrap();
        }
    }
}
