//! The system's allocator, counting what each thread asks of it: for tests that a path allocates nothing. Costs two
//! thread-local additions per allocation; the server does not use it.
//!
//! It counts by size, so that a test can tell one caller from another: a size names a type well enough.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// To be set as the global allocator of a test's binary.
#[derive(Debug)]
pub struct CountingAllocator;

/// What one thread has allocated so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocations {
    /// Allocations, a reallocation being one.
    pub count: u64,
    /// Bytes and how often, for the first sizes seen since [`CountingAllocator::start`]; unused ones are zero.
    pub sizes: [(usize, u64); SIZES_MAX],
    /// Allocations of sizes that found no room in `sizes`.
    pub other_sizes: u64,
}

/// Different sizes that are told apart.
pub const SIZES_MAX: usize = 16;

impl CountingAllocator {
    /// Counts from zero again, on this thread.
    pub fn start() {
        ALLOCATIONS.set(NONE);
    }

    /// What this thread has allocated since [`CountingAllocator::start`].
    pub fn counted() -> Allocations {
        ALLOCATIONS.get()
    }

    fn count(bytes: usize) {
        // A thread that is coming to its end has no counter any more, and nobody asks for it.
        let _ = ALLOCATIONS.try_with(|cell| {
            let mut counted = cell.get();
            counted.count += 1;
            let place = counted
                .sizes
                .iter_mut()
                .find(|(size, times)| *size == bytes || *times == 0);
            match place {
                Some(place) => *place = (bytes, place.1 + 1),
                None => counted.other_sizes += 1,
            }
            cell.set(counted);
        });
    }
}

// SAFETY: every call is the system allocator's, with the caller's own arguments; counting allocates nothing, since the
// thread-local is a constant without a destructor.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CountingAllocator::count(layout.size());
        // SAFETY: the caller upholds `GlobalAlloc::alloc`, which is what `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        CountingAllocator::count(layout.size());
        // SAFETY: the caller upholds `GlobalAlloc::alloc_zeroed`, which is what `System` asks for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        CountingAllocator::count(bytes);
        // SAFETY: the caller upholds `GlobalAlloc::realloc`, and `at` came from `System`.
        unsafe { System.realloc(at, layout, bytes) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds `GlobalAlloc::dealloc`, and `at` came from `System`.
        unsafe { System.dealloc(at, layout) }
    }
}

const NONE: Allocations = Allocations {
    count: 0,
    sizes: [(0, 0); SIZES_MAX],
    other_sizes: 0,
};

thread_local! {
    static ALLOCATIONS: Cell<Allocations> = const { Cell::new(NONE) };
}
