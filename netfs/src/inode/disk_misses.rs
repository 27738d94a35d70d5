//! Disk reads that failed, until it is known who asks the server instead.
//!
//! A read outside a fetch (inline for `try_read`, or of a bypassing reader) finds out that the disk
//! cannot give what its map promised; the cache forgets the damaged page; then a request is planned that
//! finds nothing on disk. That request counts its bytes by the reason kept here, once.

use std::{collections::VecDeque, ops::Range};

use crate::{folio::Origin, sync::Mutex};

/// Failures remembered. They only name reasons in statistics: the oldest goes.
const KEPT: usize = 8;

#[derive(Default)]
pub(crate) struct DiskMisses(Mutex<VecDeque<(Range<u64>, Origin)>>);

impl DiskMisses {
    /// The disk did not have `range` after all.
    pub(crate) fn note(&self, range: Range<u64>, why: Origin) {
        let mut kept = self.0.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((range, why));
    }

    /// Why the disk did not have some of `range`; what is said here is forgotten.
    pub(crate) fn take(&self, range: &Range<u64>) -> Option<Origin> {
        let mut kept = self.0.lock();
        let mut why = None;
        kept.retain(|(missed, origin)| {
            let overlaps = missed.start < range.end && range.start < missed.end;
            if overlaps {
                why.get_or_insert(*origin);
            }
            !overlaps
        });
        why
    }

    /// The content is another one: what was missing of the old says nothing any more.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_named_once_and_only_where_it_was() {
        let misses = DiskMisses::default();
        misses.note(0..10, Origin::Corruption);
        misses.note(10..20, Origin::Fault);
        assert_eq!(misses.take(&(20..30)), None);
        assert_eq!(misses.take(&(5..6)), Some(Origin::Corruption));
        assert_eq!(misses.take(&(0..30)), Some(Origin::Fault));
        assert_eq!(misses.take(&(0..30)), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let misses = DiskMisses::default();
        (0..100).for_each(|i| misses.note(i..i + 1, Origin::Fault));
        assert_eq!(misses.0.lock().len(), KEPT);
        assert_eq!(misses.take(&(99..100)), Some(Origin::Fault));
    }
}
