//! In which order the bytes of write groups go to the server (row 52, N-C29).
//!
//! A group's bytes are on the server's stable storage before any byte of a later group of that file is sent.
//! So a flush of a range that has bytes of a group first sends what all earlier ones have left anywhere in
//! the file, each in a pass of its own, which ends with a commit. Bytes of no group are in no order to those
//! of groups; where both want the same folio the older go first (`Modify::FlushGroup`).

use std::ops::Range;

use crate::{
    error::Result,
    folio::{Group, Which},
    inode::Inode,
};

/// What a flush is to upload.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Everything in a range, and what has to go before it.
    Range(Range<u64>),
    /// Everything of this group and of those before it.
    UpTo(Group),
    /// Everything of the groups before this one.
    Before(Group),
}

/// One pass of it.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) range: Range<u64>,
    pub(super) which: Which,
}

const ALL: Range<u64> = 0..u64::MAX;

/// The passes of a flush, in their order.
pub(super) fn parts(inode: &Inode, what: &What) -> Vec<Part> {
    let groups = || inode.pages.dirty_groups(&ALL).into_iter().flatten();
    let whole = |group| Part { range: ALL, which: Which::Group(Some(group)) };
    match what {
        What::Range(range) if !inode.wb.has_groups() => {
            vec![Part { range: range.clone(), which: Which::All }]
        }
        What::Range(range) => {
            let asked = inode.pages.dirty_groups(range);
            let last = asked.last().copied().flatten();
            let before = groups().filter(|group| last.is_some_and(|last| *group < last));
            let mut parts: Vec<Part> = before.map(whole).collect();
            let own = |group| Part { range: range.clone(), which: Which::Group(group) };
            parts.extend([None, last].into_iter().filter(|g| asked.contains(g)).map(own));
            parts.dedup();
            parts
        }
        What::UpTo(last) => groups().filter(|group| group <= last).map(whole).collect(),
        What::Before(next) => groups().filter(|group| group < next).map(whole).collect(),
    }
}

/// A write in a group. If nothing of it came in, however it ended, the group before it is not over.
pub(crate) struct Entered<'a> {
    inode: &'a Inode,
    before: Option<Group>,
    /// What had ever become dirty of the file before it. (To write over what is dirty of the same group already changes
    /// nothing about groups.)
    dirtied: u64,
}

impl Inode {
    /// Somebody is about to write into memory in `group`. The write lock is held until this has been dropped.
    pub(crate) fn enter_group(&self, group: Option<Group>) -> Result<Entered<'_>> {
        let dirtied = self.pages.dirtied_ever();
        Ok(Entered { inode: self, before: self.wb.enter_group(group)?, dirtied })
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.inode.pages.dirtied_ever() == self.dirtied {
            self.inode.wb.left_group(self.before);
        }
    }
}
