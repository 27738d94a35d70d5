//! Slices that were handed out, with a copy of what they were: they never change.

use std::collections::VecDeque;

use netfs::Slices;

/// The last few.
#[derive(Default)]
pub(crate) struct Kept(VecDeque<(Slices, Vec<u8>)>);

impl Kept {
    pub(crate) fn push(&mut self, slices: Slices, bytes: Vec<u8>) {
        if self.0.len() == 6 {
            self.0.pop_front();
        }
        self.0.push_back((slices, bytes));
    }

    pub(crate) fn are_as_they_were(&self) -> bool {
        self.0.iter().all(|(slices, bytes)| concat(slices) == *bytes)
    }
}

pub(crate) fn concat(slices: &Slices) -> Vec<u8> {
    slices.iter().flat_map(|s| s.iter().copied()).collect()
}
