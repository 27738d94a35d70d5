//! What was written into a folio and is not on the server yet.
//!
//! Invariants (see also [`Extents`]):
//!
//! - **W3** `dirty` is exactly what was written since it was last taken for writeback, as far as it was
//!   not truncated or discarded (N-C24); `sent` is what was taken and not yet acknowledged. A byte may be
//!   in both: written again while the older value was on its way.
//! - **W4** A folio with dirt is neither evicted nor dropped when the file's version moves: then it is
//!   demoted to its dirt.

use super::{Extents, memory::FolioMem};
use crate::{clock::BootTime, sync::Arc};

/// Which ordering group bytes belong to (rows 52, 76, 85).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Group(pub(crate) u64);

/// The dirt of one folio.
pub(crate) struct Dirt {
    /// Written, and not on its way.
    pub(crate) dirty: Extents,
    /// On its way to the server.
    pub(crate) sent: Extents,
    /// Where these bytes are while the folio's own memory is being filled.
    pub(crate) overlay: Option<Arc<FolioMem>>,
    /// When the oldest of `dirty` was written.
    pub(crate) since: BootTime,
    /// The group of `dirty`.
    pub(crate) group: Option<Group>,
}

impl Dirt {
    /// No byte yet.
    pub(crate) fn new(since: BootTime, group: Option<Group>) -> Dirt {
        Dirt { dirty: Extents::new(), sent: Extents::new(), overlay: None, since, group }
    }

    /// All bytes that are here and not on the server.
    pub(crate) fn all(&self) -> Extents {
        let mut all = self.dirty.clone();
        all.union_under(&self.sent);
        all
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.dirty.is_empty() && self.sent.is_empty()
    }
}
