//! The memory that writes take, and that what is dirty holds.

use std::{ops::Range, time::Duration};

use bytes::Bytes;

use super::buffered::Buffered;
use crate::{
    error::{Errno, Error, Result},
    folio::{Folio, GRANULE, PAGE_SIZE, cache::NewFolio, memory::NewMem},
    inode::Inode,
    sync::Arc,
    timer,
    waits::WaitKind,
};

/// How long a writer without memory waits for news before it looks again.
const A_WHILE: Duration = Duration::from_millis(100);

const PAGE: u64 = PAGE_SIZE as u64;

impl Buffered<'_> {
    /// Memory as long as the folio's; `None`: there is none now.
    pub(super) fn memory_like(&self, folio: &Arc<Folio>) -> Option<NewMem> {
        let new = self.memory(&folio.range(), u64::MAX, |_| None)?;
        // Where others have all memory there may be a part and not more.
        let like = new.into_iter().map(|n| n.mem).find(|mem| mem.len() == folio.len());
        Some(like.unwrap_or_else(|| self.inode().core.folios.transient(folio.len())))
    }

    /// Memory for `run`, or the front of it; `None`: there is none now.
    pub(super) fn memory(
        &self,
        run: &Range<u64>,
        end: u64,
        lend: impl Fn(Range<u64>) -> Option<Bytes>,
    ) -> Option<Vec<NewFolio>> {
        let Inode { core, pages, .. } = &**self.inode();
        let alloc = |run: &Range<u64>| {
            let may = pages.share().may_hold(run.end - run.start);
            may.then(|| core.folios.alloc_lent(std::slice::from_ref(run), end, GRANULE, &lend))?
        };
        // Where nothing of its own can become clean others have it all: less at a time.
        let least = if pages.share().holds_nothing() { PAGE } else { u64::MAX };
        let whole = run.end - run.start;
        let parts = std::iter::successors(Some(whole), |len| Some(len / 2));
        let mut parts = parts.take_while(|len| *len == whole || *len >= least);
        parts.find_map(|len| alloc(&(run.start..run.start + len / PAGE * PAGE)))
    }

    /// Waits until there is memory for `run`, in no I/O mode and with no lock but the file's write lock.
    pub(super) async fn await_memory(&self, run: Range<u64>, end: u64) -> Result<()> {
        self.once_clean(|| self.memory(&run, end, |_| None).map(drop)).await
    }

    /// Waits until what is dirty holds no more memory than it may.
    pub(super) async fn hold_less(&self) -> Result<()> {
        let share = self.inode().pages.share();
        self.once_clean(|| share.may_hold(0).then_some(())).await
    }

    /// Tries again whenever something has become clean.
    async fn once_clean<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> Result<T> {
        let Inode { core, pages, .. } = &**self.inode();
        let _wait = self.inode().waiting(WaitKind::Memory, 0..0);
        let _pressed = core.flusher.press();
        // As long as a call to the server may take, from the last upload that brought something there.
        let patience = core.options.remote_timeout;
        let mut until = core.clock.now() + patience;
        let mut before = pages.share().cleaned_ever();
        while core.clock.now() < until {
            core.check_open()?;
            self.check_not_parked()?;
            let cleaned = core.flusher.cleaned.notified();
            if let Some(done) = attempt() {
                return Ok(done);
            }
            let soon = core.clock.now() + A_WHILE;
            timer::until(&core.driver, &*core.clock, soon, cleaned).await;
            let cleaned_ever = pages.share().cleaned_ever();
            if std::mem::replace(&mut before, cleaned_ever) != cleaned_ever {
                until = core.clock.now() + patience;
            }
        }
        Err(Error::new(Errno::ENOMEM, "the memory budget is exhausted by what cannot be uploaded"))
    }
}
