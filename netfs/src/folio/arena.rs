//! Folio memory blocks.
#![allow(unsafe_code, reason = "raw memory blocks")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

/// An owned block of memory.
pub(crate) struct Block {
    ptr: *mut u8,
    len: usize,
}

impl Block {
    /// A zeroed block outside the arena.
    pub(crate) fn heap(len: usize) -> Block {
        let len = len.max(1);
        let layout = Layout::from_size_align(len, 4096).expect("folio sizes are small");
        // SAFETY: the layout has a non-zero size.
        let ptr = unsafe { alloc_zeroed(layout) };
        if ptr.is_null() {
            handle_alloc_error(layout);
        }
        Block { ptr, len }
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let layout = Layout::from_size_align(self.len, 4096).expect("as allocated");
        // SAFETY: allocated in `heap` with this layout.
        unsafe { dealloc(self.ptr, layout) }
    }
}
