//! Memory that direct IO accepts: aligned to 4 KiB, zeroed, of a fixed length.
//!
//! Large buffers (the RAM tier's) ask for huge pages: a page read at random from memory in pages of 4 KiB costs three
//! walks of the page table, which in a virtual machine are walks of two tables. Where the system has none to
//! give, the memory is ordinary.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// What every buffer is aligned to, whatever the device asks for: no device asks for more.
pub const BUFFER_ALIGN_BYTES: usize = 4096;

/// An owned, zero-initialised, 4 KiB-aligned run of bytes. `Debug` shows the length only.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    len_bytes: usize,
}

impl AlignedBuffer {
    /// A zeroed buffer of `len_bytes`, which must be positive.
    pub fn zeroed(len_bytes: usize) -> AlignedBuffer {
        assert!(len_bytes > 0, "an aligned buffer is never empty");
        let layout = Self::layout(len_bytes);
        let start = if layout.align() == HUGE_PAGE_BYTES {
            zeroed_huge(layout)
        } else {
            // SAFETY: the layout has a positive size, asserted above.
            unsafe { alloc_zeroed(layout) }
        };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        AlignedBuffer { start, len_bytes }
    }

    fn layout(len_bytes: usize) -> Layout {
        let align_bytes = if len_bytes >= HUGE_FROM_BYTES {
            HUGE_PAGE_BYTES
        } else {
            BUFFER_ALIGN_BYTES
        };
        Layout::from_size_align(len_bytes, align_bytes)
            .expect("buffers are far smaller than the address space")
    }
}

/// As `alloc_zeroed`, in huge pages: they are asked for before the memory is touched for the first time.
fn zeroed_huge(layout: Layout) -> *mut u8 {
    // SAFETY: the layout has a positive size: `HUGE_FROM_BYTES` at least.
    let start = unsafe { alloc(layout) };
    if start.is_null() {
        return start;
    }
    // Whole pages only; a refusal means ordinary pages.
    let whole_bytes = layout.size() - layout.size() % HUGE_PAGE_BYTES;
    // SAFETY: the range lies within the allocation and begins at a page; the advice changes no content.
    let _ = unsafe { libc::madvise(start.cast(), whole_bytes, libc::MADV_HUGEPAGE) };
    // SAFETY: the allocation has that many bytes, and nobody else has seen it.
    unsafe { start.write_bytes(0, layout.size()) };
    start
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `len_bytes` initialised bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len_bytes) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len_bytes) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with the same layout, freed once.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len_bytes)) }
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.len_bytes)
    }
}

// SAFETY: the buffer owns its memory exclusively, like a `Vec<u8>`.
unsafe impl Send for AlignedBuffer {}
// SAFETY: shared references only read.
unsafe impl Sync for AlignedBuffer {}

/// A huge page of x86-64, and of most others.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Buffers from here on are made of huge pages: far above what reads, writes and fills take.
const HUGE_FROM_BYTES: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_and_aligned_at_every_size() {
        for len_bytes in [
            1,
            4096,
            HUGE_FROM_BYTES - 1,
            HUGE_FROM_BYTES,
            HUGE_FROM_BYTES + 8192 + 1,
        ] {
            let mut buffer = AlignedBuffer::zeroed(len_bytes);
            assert_eq!(buffer.as_ptr().addr() % BUFFER_ALIGN_BYTES, 0);
            assert_eq!(buffer.len(), len_bytes);
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(1);
        }
    }
}
