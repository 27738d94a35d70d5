//! Readahead on its way: windows that streams have earned, started by the driver.
//!
//! Starting one may wait for the disk cache to find the file's object, and reads inline what the kernel
//! has of it: no reader does that for bytes nobody has asked for. One task for an open file at a time
//! starts its windows in the order they were asked for, so the server is asked in file order and a disk
//! that is slow holds up one task. The queue is bounded: what is pushed out is fetched by its reader.

use std::{collections::VecDeque, ops::Range};

use super::{Who, buffered::Reader};
use crate::{
    error::Result,
    fscache::Cookie,
    request::plan,
    sync::{Arc, Mutex},
};

/// Windows that wait for their start. Streams beyond that many are not followed anyway.
const QUEUED: usize = 16;
/// Started at a time: a longer window (somebody said it would be needed) is started in pieces.
const PIECE: u64 = 4 << 20;

/// The windows of one open file.
#[derive(Default)]
pub(crate) struct Ahead(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    windows: VecDeque<Range<u64>>,
    /// A task is at work, and looks here again before it ends.
    running: bool,
}

impl Ahead {
    /// Has `window` started soon. Nobody waits for it, nobody hears of its errors: who reads the bytes
    /// finds them missing and asks again.
    pub(crate) fn push(
        self: &Arc<Self>,
        who: &Who,
        cookie: Option<&Arc<Cookie>>,
        window: Range<u64>,
    ) {
        // A reader may have got beyond it while it waited.
        if window.is_empty() {
            return;
        }
        let mut queue = self.0.lock();
        if queue.windows.len() == QUEUED {
            queue.windows.pop_front();
        }
        queue.windows.push_back(window);
        if std::mem::replace(&mut queue.running, true) {
            return;
        }
        drop(queue);
        let (this, who, cookie) = (Arc::clone(self), who.clone(), cookie.cloned());
        let core = Arc::clone(&who.inode.core);
        // Until the last window has become fetches of its own `settled` waits for this.
        let begun = core.fetches.begin();
        core.driver.spawn(async move {
            let _begun = begun;
            let reader = Reader { who: &who, cookie: cookie.as_ref(), ahead: None };
            while let Some(window) = this.next() {
                if let Err(error) = start(&reader, &window).await {
                    tracing::debug!(%error, "readahead not started");
                }
            }
        });
    }

    fn next(&self) -> Option<Range<u64>> {
        let mut queue = self.0.lock();
        let mut next = queue.windows.pop_front();
        if let Some(window) = &mut next
            && window.end - window.start > PIECE
        {
            let rest = window.start + PIECE..window.end;
            window.end = rest.start;
            queue.windows.push_front(rest);
        }
        queue.running = next.is_some();
        next
    }
}

/// Starts fetching what is missing of a window; without memory it is not done.
async fn start(reader: &Reader<'_>, window: &Range<u64>) -> Result<()> {
    let inode = &reader.who.inode;
    let sizes = inode.sizes.load();
    let window = plan::page_out(&(window.start..window.end.min(sizes.server_limit())));
    if window.is_empty() {
        return Ok(());
    }
    let started = reader.start(&window, &sizes, true).await?.unwrap_or_default();
    if !started.is_empty() {
        inode.core.counters.readahead.inc();
        inode.pages.count_ahead(started.iter().map(|f| f.len() as u64).sum());
    }
    Ok(())
}
