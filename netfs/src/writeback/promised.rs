//! What the replies to our own changes do not say, where the server has promised that nobody else writes.
//!
//! A reply that does not name the version its call found proves nothing: somebody else may have written in
//! between. Under the server's promise (NFS: a write delegation) nobody has, so that the call found what was
//! known here, and all that is missing is where it led to. The promise must have stood from before the change was
//! sent until it is judged: a break or recall in between ends it, for from then on somebody else may write, before
//! our change or after it. One that comes later is no harm: nobody else has written by then.
//!
//! One rule for rounds of uploads, direct writes, cuts and holes.

use super::{chain::Chain, is_personal};
use crate::{
    coherency::Epoch,
    inode::Inode,
    remote::{Change, Facts, Version},
};

/// Completes `chain`, the changes of one round or call, by what the promise says. `known` is the version and
/// `epoch` of when the first of them was about to be made. The caller has the file's turn, and takes the result
/// over without waiting for anything.
pub(crate) async fn know_ours(
    inode: &Inode,
    chain: &mut Chain,
    known: Option<&Version>,
    epoch: &Epoch,
) {
    let before = chain.clone();
    if known.is_none() || chain.is_empty() || chain.names_all() || !inode.cell.is_alone_since(epoch)
    {
        return;
    }
    if !chain.all_ours(known)
        && let Some(facts) = ask(inode).await
    {
        chain.lead_to(known, facts);
    }
    if !inode.cell.is_alone_since(epoch) {
        *chain = before;
    }
}

/// The same for a call that made one change.
pub(crate) async fn know_ours_of(
    inode: &Inode,
    change: &Change,
    known: Option<&Version>,
    epoch: &Epoch,
) -> Change {
    let mut chain = Chain::default();
    chain.add(change.before.clone(), change.after.clone());
    know_ours(inode, &mut chain, known, epoch).await;
    chain.only().unwrap_or_else(|| change.clone())
}

/// What the server says of the file to whichever writer it answers (A3.11).
async fn ask(inode: &Inode) -> Option<Facts> {
    for (remote, cx) in inode.wb.owners() {
        match inode.core.answered(remote.validate(cx)).await {
            Err(error) if is_personal(&error) => {}
            answered => return answered.ok(),
        }
    }
    None
}
