//! Another size for a file.

use crate::{
    error::{Errno, Error, Result},
    read::Who,
    sync::Arc,
    timer,
    writeback::{flush::quiesce, is_transient},
};

/// Cuts the file at `size`, or extends it by zeros, on the server and here. `locks` (the write lock and
/// the I/O mode) are held until that has ended, even if the caller has gone away by then: what is written
/// after a cut must not be cut.
///
/// Nothing is on its way to the server meanwhile (A3.10): an upload that came after the cut would bring
/// bytes back. What is dirty below the new end stays so. The caller waits no longer than its deadline and
/// the timeout for a call; the call itself is not given up, for it might come to the server late.
pub(crate) async fn set_size(who: &Who, size: u64, locks: impl Send + 'static) -> Result<()> {
    let work = who.clone();
    let core = &who.inode.core;
    let task = core.driver.spawn(async move {
        let result = set_size_here(&work, size).await;
        drop(locks);
        result
    });
    let ended = async {
        task.await.map_err(|_| Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down"))?
    };
    let timeout = core.clock.now() + core.options.remote_timeout;
    let until = who.cx.deadline().map_or(timeout, |deadline| deadline.min(timeout));
    timer::until(&core.driver, &*core.clock, until, ended).await.unwrap_or_else(|| {
        Err(Error::new(
            Errno::ETIMEDOUT,
            "the server did not answer in time; it may yet cut the file",
        ))
    })
}

async fn set_size_here(who: &Who, size: u64) -> Result<()> {
    let inode = &who.inode;
    let _quiet = quiesce(inode).await;
    inode.begin_modify().await;
    let result = set_size_in_turn(who, size).await;
    inode.end_modify();
    result
}

async fn set_size_in_turn(who: &Who, size: u64) -> Result<()> {
    let inode = &who.inode;
    let _writing = inode.cell.writing();
    let known = inode.cell.version();
    let end = inode.sizes.load().remote_i_size.min(size);
    let change = match Arc::clone(&who.remote).set_size(size, who.cx.clone()).await {
        Ok(change) => change,
        Err(error) => {
            if is_transient(&error) {
                // Perhaps it was done and the reply was lost.
                inode.others_wrote();
            }
            return Err(error);
        }
    };
    inode.cut(size, || {
        if change.before == known && change.before.is_some() {
            // What lay past the smaller end is gone for good, from both caches.
            let gone = end..u64::MAX;
            inode.own_change_of(&change.after, None, std::slice::from_ref(&gone));
        } else {
            inode.others_wrote();
        }
    });
    Ok(())
}
