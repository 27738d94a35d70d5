//! Another size for a file.

use crate::{
    error::{Errno, Error, Result},
    read::Who,
    sync::Arc,
    writeback::flush::quiesce,
};

/// Cuts the file at `size`, or extends it by zeros, on the server and here. The write lock is held.
///
/// Nothing is on its way to the server meanwhile (A3.10): an upload that came after the cut would bring
/// bytes back. What is dirty below the new end stays so.
pub(crate) async fn set_size(who: &Who, size: u64) -> Result<()> {
    let work = who.clone();
    let core = &who.inode.core;
    let task = core.driver.spawn(async move { set_size_here(&work, size).await });
    task.await.map_err(|_| Error::new(Errno::ESHUTDOWN, "this Netfs has been shut down"))?
}

async fn set_size_here(who: &Who, size: u64) -> Result<()> {
    let inode = &who.inode;
    let _quiet = quiesce(inode).await;
    let known = inode.cell.version();
    let call = Arc::clone(&who.remote).set_size(size, who.cx.clone());
    let change = match inode.core.answered(call).await {
        Ok(change) => change,
        Err(error) => {
            // It may have been done all the same, and a server does not tell its client of its own change.
            inode.others_wrote();
            return Err(error);
        }
    };
    inode.cut(size, || {
        if change.before == known && change.before.is_some() {
            inode.own_change(&change.after);
        } else {
            inode.others_wrote();
        }
    });
    Ok(())
}
