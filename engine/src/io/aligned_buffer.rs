//! Memory that direct IO accepts: aligned to 4 KiB, zeroed, of a fixed length.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
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
        // SAFETY: the layout has a positive size, asserted above.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        AlignedBuffer { start, len_bytes }
    }

    fn layout(len_bytes: usize) -> Layout {
        Layout::from_size_align(len_bytes, BUFFER_ALIGN_BYTES)
            .expect("buffers are far smaller than the address space")
    }
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
