//! Reading. How the parts fit:
//!
//! - [`buffered`]: the reader's side. A hit is copied on the caller's thread; otherwise missing pages
//!   are started, locked ones waited for, and the result gathered as immutable slices.
//! - [`fetch`]: one request from plan to end. Slices that need no waiting (zeros, disk pages the
//!   kernel has) are done inline by whoever starts it; the rest runs in a task of the driver, so a
//!   reader that goes away only detaches.
//! - [`layout`]: which folios a window is made of.
//! - [`readahead`]: how far ahead of a sequential reader to fetch. [`ahead`]: starting it, on the driver.
//! - [`bypass`]: reads that leave no copy in memory. [`direct`]: reads past both caches.
//!   [`single`]: whole objects. [`tally`]: what they count, once they have succeeded.
//!
//! What is published, and when, is decided in one place: [`fetch::Fetch::publish`].

pub(crate) mod ahead;
pub(crate) mod buffered;
pub(crate) mod bypass;
pub(crate) mod direct;
pub(crate) mod fetch;
pub(crate) mod intent;
pub(crate) mod layout;
pub(crate) mod readahead;
pub(crate) mod single;
mod sink;
mod tally;

use std::ops::Range;

use futures_util::FutureExt;
use smallvec::SmallVec;

use crate::{
    clock::BootTime,
    coherency::Origin,
    error::{Errno, Error, Result},
    folio::Slice,
    inode::Inode,
    iomode::{Mode, ModeGuard},
    remote::{Cx, DynFile},
    sync::Arc,
    timer,
    waits::WaitKind,
    writeback::quiet::{Overtaken, Quiet},
};

/// Most bytes gathered at a time: bounds what one read pins.
pub(crate) const GATHER_MAX: u64 = 1 << 20;

/// How often a read plans again when its pages were dropped or came back late, before it gives up
/// with `ESTALE` (bounded, P-D71).
pub(crate) const MAX_REPLANS: usize = 16;

/// Content of a file, pinned: pieces in file order.
pub type Slices = SmallVec<[Slice; 8]>;

/// Of what and on whose behalf: all that a request keeps so that it can be issued again (row 162).
#[derive(Clone)]
pub(crate) struct Who {
    pub(crate) inode: Arc<Inode>,
    pub(crate) remote: DynFile,
    pub(crate) cx: Cx,
    /// The front it is for, which is not told of its own changes.
    pub(crate) origin: Option<Origin>,
}

/// Calls to the server, one after the other, that buffered I/O may make while it has the mode, each as long as it may
/// take: a check, a read, the read once more; and one to spare.
const BUFFERED_CALLS: u32 = 4;

/// Checks in a row that may leave the size of a new version open.
const SIZE_TRIES: usize = 4;

impl Who {
    /// A mark of the inode's content (see [`Inode::unchanged`]) under which its size and version belong
    /// together: a reply that brought another version may have said nothing of its size.
    pub(crate) async fn settled(&self) -> Result<u64> {
        for _ in 0..SIZE_TRIES {
            let mark = self.inode.settled_mark().await;
            self.inode.check_exists()?;
            if !self.inode.size_doubtful() {
                return Ok(mark);
            }
            self.inode.learn_size(&self.remote, &self.cx).await?;
        }
        Err(Error::new(Errno::ESTALE, "the file changed, and no check says how large it is now"))
    }

    /// The read's way past our own uploads.
    pub(crate) fn quiet(&self) -> Quiet<'_> {
        self.inode.quiet(Overtaken::Read, MAX_REPLANS)
    }

    /// Before a read plans again; fails if it has done so too often (bounded, P-D71).
    pub(crate) async fn again(&self, quiet: &mut Quiet<'_>) -> Result<()> {
        if self.by_deadline(async { Ok(quiet.again().await) }).await? {
            return Ok(());
        }
        Err(Error::new(Errno::ESTALE, "the file changes faster than it can be read; try again"))
    }

    /// Waits for `work` no longer than until the caller's deadline. It is dropped then, so that MUST be
    /// fine at any of its awaits.
    pub(crate) async fn by_deadline<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        // Nearly always: no timer for that.
        if let Some(result) = work.as_mut().now_or_never() {
            return result;
        }
        let Some(deadline) = self.cx.deadline() else { return work.await };
        let core = &self.inode.core;
        let over = || Err(Error::new(Errno::ETIMEDOUT, "the caller's deadline passed"));
        timer::until(&core.driver, &*core.clock, deadline, work).await.unwrap_or_else(over)
    }

    /// Waits for `work` until the caller's deadline, and no longer than a call to the server may take: for what
    /// hangs behind such a call. `None`: not by then.
    pub(crate) async fn by_call_deadline<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        if let Some(done) = work.as_mut().now_or_never() {
            return Some(done);
        }
        let core = &self.inode.core;
        timer::until(&core.driver, &*core.clock, self.call_deadline(), work).await
    }

    fn call_deadline(&self) -> BootTime {
        let core = &self.inode.core;
        let timeout = core.clock.now() + core.options.remote_timeout;
        self.cx.deadline().map_or(timeout, |deadline| deadline.min(timeout))
    }

    /// Takes the inode's I/O mode to read `range`, waiting no longer than the caller's deadline: holders of
    /// the other mode may be waiting for a server that does not answer. The direct mode is for tasks of the driver,
    /// and waited for no longer than buffered I/O that is polled may take: buffered readers queue behind it, and who
    /// has their mode may be a caller that polls no more.
    pub(crate) async fn enter(&self, mode: Mode, range: Range<u64>) -> Result<ModeGuard> {
        let mut entering = self.inode.io.enter(mode);
        // Nearly always free: no timer for that, and nothing to list.
        if let Some(guard) = (&mut entering).now_or_never() {
            return Ok(guard);
        }
        let _wait = self.inode.waiting(WaitKind::IoMode, range);
        let deadline = match mode {
            Mode::Buffered => self.cx.deadline(),
            Mode::Direct => {
                let core = &self.inode.core;
                let patience = core.clock.now() + core.options.remote_timeout * BUFFERED_CALLS;
                Some(self.cx.deadline().map_or(patience, |deadline| deadline.min(patience)))
            }
        };
        let Some(deadline) = deadline else { return Ok(entering.await) };
        let core = &self.inode.core;
        timer::until(&core.driver, &*core.clock, deadline, entering).await.ok_or_else(|| {
            Error::new(
                Errno::ETIMEDOUT,
                "buffered and direct I/O wait for each other; deadline passed",
            )
        })
    }
}
