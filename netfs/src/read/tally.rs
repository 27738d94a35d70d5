//! Where the bytes of a read came from, until it is known that the reader gets them.
//!
//! A read outside the page cache may find at its end that the file has changed and start again. So that
//! every byte a reader got is counted once, it is counted only then.

use std::ops::Range;

use smallvec::SmallVec;

use crate::{
    folio::{Folio, Held, Origin, count_origin},
    inode::Inode,
    sync::Arc,
};

/// Bytes by what brought them.
#[derive(Default)]
pub(crate) struct Tally {
    /// What was found in memory: whether it is a page's first read is seen when it is counted.
    found: SmallVec<[(Held, Range<u64>); 4]>,
    brought: SmallVec<[(Origin, u64); 4]>,
}

impl Tally {
    /// Of what a read outside the page cache brought, the part in `range`.
    pub(crate) fn of(sources: &[(Range<u64>, Origin)], range: &Range<u64>) -> Tally {
        let mut tally = Tally::default();
        for (at, origin) in sources {
            let n = at.end.min(range.end).saturating_sub(at.start.max(range.start));
            tally.add(*origin, n);
        }
        tally
    }

    /// `range` of the file was found in `folio`.
    pub(crate) fn found(&mut self, folio: Arc<Folio>, range: Range<u64>) {
        self.found.push((Held { folio, found: true }, range));
    }

    /// Brought for this read.
    pub(crate) fn add(&mut self, origin: Origin, bytes: u64) {
        if bytes > 0 {
            self.brought.push((origin, bytes));
        }
    }

    /// All of another one.
    pub(crate) fn append(&mut self, other: Tally) {
        self.found.extend(other.found);
        self.brought.extend(other.brought);
    }

    /// The reader has got them: from the caches, or the server, of this file.
    pub(crate) fn count(self, inode: &Inode) {
        for (held, range) in &self.found {
            inode.pages.count_held(std::slice::from_ref(held), range);
        }
        for (origin, bytes) in self.brought {
            count_origin(&inode.core.counters, origin, bytes);
        }
    }
}
