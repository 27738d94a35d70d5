//! One chunk's mapping.

use std::ptr;

use super::CHUNK;

/// Anonymous memory of one chunk, aligned to its size.
pub(super) struct Region {
    base: *mut u8,
}

// SAFETY: the region owns its mapping; it has no thread affinity.
unsafe impl Send for Region {}

impl Region {
    /// The address `offset` bytes in.
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < CHUNK, "offset beyond the chunk");
        // SAFETY: within the mapping (asserted).
        unsafe { self.base.add(offset) }
    }

    /// Maps a fresh chunk; `None` if the operating system refuses.
    #[cfg(not(miri))]
    pub(super) fn map() -> Option<Region> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let raw = unsafe { mmap_anonymous(ptr::null_mut(), 2 * CHUNK, prot, flags) }.ok()?;
        let raw = raw.cast::<u8>();
        // Mapped twice as large as needed, so an aligned chunk is in there; the rest goes back.
        let head = raw.align_offset(CHUNK);
        let tail = CHUNK - head;
        // SAFETY: all three parts lie within the mapping made above, which nobody else knows of.
        unsafe {
            let base = raw.add(head);
            if head > 0 {
                let _ = munmap(raw.cast(), head); // failure would only waste address space
            }
            if tail > 0 {
                let _ = munmap(base.add(CHUNK).cast(), tail);
            }
            // Without huge pages everything works, slower.
            let _ = madvise(base.cast(), CHUNK, Advice::LinuxHugepage);
            Some(Region { base })
        }
    }

    /// Under Miri, which has no `mmap`: the language's allocator.
    #[cfg(miri)]
    pub(super) fn map() -> Option<Region> {
        // SAFETY: the layout has a non-zero size.
        let base = unsafe { std::alloc::alloc_zeroed(miri_layout()) };
        (base != ptr::null_mut()).then_some(Region { base })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, and no block of it is out (the arena drops a region only when its
        // chunk is wholly free, or itself when no block is left).
        #[cfg(not(miri))]
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), CHUNK) };
        // SAFETY: as above, allocated with this layout.
        #[cfg(miri)]
        unsafe {
            std::alloc::dealloc(self.base, miri_layout());
        };
    }
}

#[cfg(miri)]
fn miri_layout() -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(CHUNK, CHUNK).expect("powers of two")
}
