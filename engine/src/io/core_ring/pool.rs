//! The registered buffers of a core's reads.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use super::CoreRing;
use crate::io::aligned_buffer::AlignedBuffer;

/// The buffers of reads: one run of memory, registered with the ring as one, and a place for the bell behind them.
pub(super) struct Pool {
    start: *mut u8,
    len_bytes: usize,
    /// Owns the bytes. Not looked at: the kernel writes into them.
    _memory: AlignedBuffer,
    pub(super) registered: Cell<bool>,
    pub(super) free: RefCell<Vec<u32>>,
}

impl Pool {
    pub(super) fn new(buffers: usize) -> Pool {
        let mut memory = AlignedBuffer::zeroed(buffers * POOL_BUFFER_BYTES + BELL_BYTES);
        let count = u32::try_from(buffers).expect("buffers are few");
        Pool {
            start: memory.as_mut_ptr(),
            len_bytes: memory.len(),
            _memory: memory,
            registered: Cell::new(false),
            free: RefCell::new((0..count).rev().collect()),
        }
    }

    pub(super) fn area(&self) -> libc::iovec {
        libc::iovec {
            iov_base: self.start.cast(),
            iov_len: self.len_bytes,
        }
    }

    pub(super) fn bell_place(&self) -> *mut u8 {
        // SAFETY: the last `BELL_BYTES` of the memory are the bell's.
        unsafe { self.start.add(self.len_bytes - BELL_BYTES) }
    }
}

/// One buffer of the pool; it is free again on drop.
pub(in crate::io) struct PoolBuffer {
    pub(super) ring: Rc<CoreRing>,
    pub(super) number: u32,
}

impl PoolBuffer {
    pub(super) fn start(&self) -> *mut u8 {
        // SAFETY: numbers are below the number of buffers that the memory was made for.
        unsafe {
            self.ring
                .pool
                .start
                .add(self.number as usize * POOL_BUFFER_BYTES)
        }
    }
}

impl Deref for PoolBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are initialised and belong to this buffer alone; while an operation owns it nobody can look
        // at it, and whoever has it here has it after the operation's completion.
        unsafe { std::slice::from_raw_parts(self.start(), POOL_BUFFER_BYTES) }
    }
}

impl Drop for PoolBuffer {
    fn drop(&mut self) {
        self.ring.pool.free.borrow_mut().push(self.number);
    }
}

/// Bytes of a pool buffer: a sealed page, and the device's rounding at both ends.
pub(in crate::io) const POOL_BUFFER_BYTES: usize = 16 << 10;
const BELL_BYTES: usize = 4096;
