//! [`File`]'s hints, and letting go of what is cached.

use std::ops::Range;

use super::{File, MemoryUse, ReadOptions, check_range};
use crate::{
    error::Result,
    folio::PAGE_SIZE,
    fscache::ExtentKind,
    inode::Inode,
    read::readahead::Tuning,
    request::plan,
    sync::{Arc, atomic::Ordering},
};

/// What a reader says of its next reads: `posix_fadvise(2)`. A hint: no result depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Advice {
    /// Nothing; the default. Takes back [`Sequential`](Advice::Sequential), [`Random`](Advice::Random) and
    /// [`NoReuse`](Advice::NoReuse).
    #[default]
    Normal,
    /// In order: read ahead from the first read on, twice as far. For all of the file, by this open of it.
    Sequential,
    /// In no order: nothing is read ahead. For all of the file, by this open of it.
    Random,
    /// The range, soon: it is fetched in the background, up to a quarter of the memory budget.
    WillNeed,
    /// The range, not soon: its clean pages leave memory. A folio of several pages goes with the last one. The
    /// disk cache keeps what it has.
    DontNeed,
    /// Once: reads of this open leave no copy in memory ([`MemoryUse::Bypass`]), so nothing is read ahead either.
    /// For all of the file.
    NoReuse,
}

/// What [`File::evict`] let go of, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Evicted {
    /// From memory.
    pub memory: u64,
    /// From the disk cache.
    pub disk: u64,
}

const SEQUENTIAL: u8 = 1;
const RANDOM: u8 = 2;
const NO_REUSE: u8 = 3;

impl File {
    /// Says how the file, or `len` bytes at `offset` (0: all from there on), will be read.
    ///
    /// ```
    /// # use netfs::{Advice, Netfs, remote::{Cred, Cx}};
    /// # use netfs_memory::MemoryFs;
    /// # let netfs = Netfs::builder().memory_bytes(16 << 20).build()?;
    /// # let origin = MemoryFs::builder().file("f", 1 << 20).build()?;
    /// # let cx = Cx::new(Cred::new(0, 0));
    /// # let mount = netfs.blocking_mount(origin, &cx)?;
    /// let file = mount.blocking().open("f", &cx)?;
    /// file.advise(0, 1 << 20, Advice::WillNeed)?; // returns at once
    /// # drop((file, mount));
    /// # netfs.blocking_shutdown(std::time::Duration::from_secs(5));
    /// # Ok::<(), netfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `EINVAL` for a range past the largest offset.
    pub fn advise(&self, offset: u64, len: u64, advice: Advice) -> Result<()> {
        check_range(offset, len)?;
        let end = if len == 0 { i64::MAX as u64 } else { offset + len };
        let how = match advice {
            Advice::Normal => 0,
            Advice::Sequential => SEQUENTIAL,
            Advice::Random => RANDOM,
            Advice::NoReuse => NO_REUSE,
            Advice::WillNeed => {
                self.will_need(offset..end);
                return Ok(());
            }
            Advice::DontNeed => {
                self.who.inode.evict_memory(&(offset..end));
                return Ok(());
            }
        };
        self.advice.store(how, Ordering::Relaxed);
        Ok(())
    }

    fn will_need(&self, range: Range<u64>) {
        let inode = &self.who.inode;
        let most = inode.core.folios.budget() / 4 / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        let start = plan::page_out(&(range.start..range.start)).start;
        // Where the file ends is looked at when it is begun.
        let window = start..range.end.min(start.saturating_add(most));
        if !window.is_empty() {
            self.ahead.push(&self.who, self.cookie(), window);
        }
    }

    /// How far this open reads ahead.
    pub(super) fn tuning(&self) -> Tuning {
        let tuning = &self.who.inode.core.options.readahead;
        match self.advice.load(Ordering::Relaxed) {
            SEQUENTIAL => tuning.eager(),
            RANDOM | NO_REUSE => Tuning::default(),
            _ => *tuning,
        }
    }

    /// How this open reads where the caller has not said.
    pub(super) fn advised(&self) -> ReadOptions {
        let memory = match self.advice.load(Ordering::Relaxed) {
            NO_REUSE => MemoryUse::Bypass,
            _ => MemoryUse::Fill,
        };
        ReadOptions { memory, ..ReadOptions::default() }
    }

    /// Lets go of the clean pages that end in `len` bytes at `offset` (0: all from there on), in memory and in
    /// the disk cache. What is dirty stays, and so does what is being fetched.
    ///
    /// # Errors
    /// `EINVAL` for a range past the largest offset.
    pub async fn evict(&self, offset: u64, len: u64) -> Result<Evicted> {
        check_range(offset, len)?;
        let end = if len == 0 { i64::MAX as u64 } else { offset + len };
        Ok(self.who.inode.evict(offset..end).await)
    }
}

impl Inode {
    /// Takes the clean folios that end in `range` out of memory; returns their bytes.
    fn evict_memory(&self, range: &Range<u64>) -> u64 {
        // The last page reaches past the end of the file.
        let file_end = plan::page_out(&(0..self.sizes.load().i_size)).end;
        let end = if range.end >= self.sizes.load().i_size { file_end } else { range.end };
        if end <= range.start {
            return 0;
        }
        let bytes = self.pages.evict_range(&(range.start..end)).bytes;
        self.core.folios.let_go_returned();
        bytes
    }

    /// The same, and out of the disk cache.
    pub(crate) async fn evict(self: &Arc<Self>, range: Range<u64>) -> Evicted {
        let memory = self.evict_memory(&range);
        Evicted { memory, disk: self.evict_disk(&range).await.unwrap_or(0) }
    }

    /// `None`: there is nothing of the file in a disk cache, as far as can be found out.
    async fn evict_disk(self: &Arc<Self>, range: &Range<u64>) -> Option<u64> {
        let cookie = self.cookie()?;
        // Opened for the purpose, if need be.
        let _used = cookie.use_cookie(false);
        let begun = self.core.driver.spawn(async move { cookie.begin(None).await });
        let access = self.usable(begun.await.ok()?.ok()?)?;
        let size = self.sizes.load().i_size;
        let page = PAGE_SIZE as u64;
        let end = if range.end >= size { size } else { range.end / page * page };
        let pages = range.start.next_multiple_of(page)..end;
        if pages.is_empty() {
            return None;
        }
        let extents = access.object().extents(pages.clone());
        let data = extents.iter().filter(|e| e.kind == ExtentKind::Data);
        let bytes = data.map(|e| e.range.end.min(end) - e.range.start.max(pages.start)).sum();
        access.object().forget(pages);
        Some(bytes)
    }
}
