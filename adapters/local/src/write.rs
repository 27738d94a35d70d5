//! Writing, and making it durable.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd},
};

use bytes::Bytes;
use netfs::{
    Error, Result,
    error::Errno,
    remote::{Change, WriteOutcome, WriteSub},
};

use crate::{
    change::Target,
    file::LocalFile,
    read::IOV_MAX,
    tree::{Tree, expired},
};

/// How far a write came.
struct Written {
    bytes: usize,
    /// Set if they are not synced yet.
    verifier: Option<Bytes>,
    change: Option<Change>,
    /// Why not further.
    error: Option<Error>,
}

/// Serves a sub, on a thread that may block, in the file's lane of changes.
pub(crate) fn write(tree: &Tree, file: &LocalFile, mut sub: WriteSub) {
    let Written { bytes, verifier, change, error } = match try_write(tree, file, &sub) {
        Ok(written) => written,
        Err(e) => return sub.fail(e),
    };
    sub.advance(bytes);
    if let Some(change) = change {
        sub.change(change);
    }
    if let Some(verifier) = verifier {
        sub.unstable(verifier);
    }
    match error {
        Some(e) => sub.fail(e),
        None => sub.finish(WriteOutcome::Done),
    }
}

fn try_write(tree: &Tree, file: &LocalFile, sub: &WriteSub) -> Result<Written> {
    let (key, cx) = (file.shared_key(), sub.cx());
    if sub.range().end > tree.limits.max_size {
        return Err(Error::new(Errno::EFBIG, "a write past the largest size"));
    }
    if expired(cx) {
        return Err(Error::new(Errno::ETIMEDOUT, "the deadline of a local write has passed"));
    }
    let target = Target::data(tree, file, cx)?;
    let fd = target.open()?;
    // A descriptor for the sync, from before the write. Without the right to read it is another one for
    // writing; then the file has no version until the sync.
    let for_sync = || tree.handles.open_data(file).or_else(|_| target.open());
    let verifier = tree.unsynced.verifier();
    let noted = if sub.wants_stable() { None } else { tree.unsynced.note(&key, for_sync)? };
    let (mut bytes, mut error) = write_all(fd.as_fd(), sub);
    let unstable = noted.is_some();
    drop(noted);
    if !unstable
        && bytes > 0
        && let Err(e) = rustix::fs::fdatasync(&fd)
    {
        // Nothing is known of any byte then.
        bytes = 0;
        error = Some(Error::io(e.into(), "syncing a file of the local tree"));
    }
    drop(fd);
    // A file that cannot be looked at any more was written all the same; the reply says no more of it.
    let change = if bytes > 0 { target.end().ok() } else { None };
    Ok(Written { bytes, verifier: (unstable && bytes > 0).then_some(verifier), change, error })
}

/// Writes from the front until all is written or the kernel refuses.
fn write_all(fd: BorrowedFd<'_>, sub: &WriteSub) -> (usize, Option<Error>) {
    let (offset, all) = (sub.offset(), sub.remaining());
    let mut done = 0;
    while done < all {
        let slices = window(sub.buffers(), done);
        match rustix::io::pwritev(fd, &slices, offset + done as u64) {
            // No progress and no reason: another try would loop.
            Ok(0) => {
                let e = io::Error::from_raw_os_error(libc::EIO);
                return (done, Some(Error::io(e, "the local tree takes no bytes")));
            }
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                return (done, Some(Error::io(e.into(), "writing a file of the local tree")));
            }
        }
    }
    (done, None)
}

/// The rest of scattered memory, `skip` bytes from its front, as one call takes it.
fn window<'a>(parts: impl Iterator<Item = &'a [u8]>, mut skip: usize) -> Vec<IoSlice<'a>> {
    let mut out = Vec::new();
    for part in parts {
        let from = skip.min(part.len());
        skip -= from;
        if from < part.len() {
            out.push(IoSlice::new(&part[from..]));
        }
        if out.len() == IOV_MAX {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        task::{Context, Waker},
    };

    use netfs::remote::{Cred, Cx, ReadSub, RemoteFile, RemoteFs, SetAttr};

    use super::*;
    use crate::LocalFs;

    /// A file whose changes hang has one thread, however many they are.
    #[test]
    fn changes_of_a_slow_file_hold_up_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["slow", "other"] {
            std::fs::write(dir.path().join(name), b"old").unwrap();
        }
        let fs = LocalFs::builder(dir.path()).writable(true).threads(2).open().unwrap();
        let me = || Cx::new(Cred::current());
        let look = |name: &'static str| {
            let reply = Arc::clone(&fs).lookup(Arc::clone(&fs.root), name.into(), me());
            pollster::block_on(reply).unwrap().found.unwrap().file
        };
        let slow = look("slow");
        let (open, gate) = mpsc::channel::<()>();
        let mut hangs = Box::pin(fs.tree.pool.run(Some(slow.changes()), move || gate.recv()));
        let poll = &mut Context::from_waker(Waker::noop());
        assert!(hangs.as_mut().poll(poll).is_pending());
        let mut writes: Vec<_> = (0..32)
            .map(|n| {
                let (sub, done) = WriteSub::detached(n, b"new", me());
                (Arc::clone(&slow).write(sub), done)
            })
            .collect();
        let mut cut = Arc::clone(&slow).set_size(2, me());
        let mut set = Arc::clone(&fs).set_attr(Arc::clone(&slow), SetAttr::default(), me());
        for (write, _) in &mut writes {
            assert!(write.as_mut().poll(poll).is_pending());
        }
        assert!(cut.as_mut().poll(poll).is_pending() && set.as_mut().poll(poll).is_pending());
        // Jobs are begun in their order, and these are the last.
        look("other");
        let (sub, done) = ReadSub::detached(0, 9, me());
        pollster::block_on(Arc::clone(&slow).read(sub));
        assert_eq!(done.wait().1, b"old");
        drop(open);
        for (write, done) in writes {
            pollster::block_on(write);
            assert_eq!(done.wait().written, 3);
        }
        pollster::block_on(cut).unwrap();
        pollster::block_on(set).unwrap();
        assert_eq!(std::fs::read(dir.path().join("slow")).unwrap(), b"nn");
    }

    #[test]
    fn a_window_is_what_is_left_in_as_many_parts_as_one_call_takes() {
        let memory: Vec<u8> = (0..=255).collect();
        for piece in 1..6 {
            for skip in 0..256 {
                let left = window(memory.chunks(piece), skip);
                let left: Vec<u8> = left.iter().flat_map(|s| s.iter().copied()).collect();
                assert_eq!(left, memory[skip..], "pieces of {piece} from {skip}");
            }
        }
        let memory = vec![0; IOV_MAX + 7];
        assert_eq!(window(memory.chunks(1), 3).len(), IOV_MAX);
    }
}
