//! Pages in memory, and the pool of a core that hands them out again.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::layer::FRAME_BYTES;
use crate::types::PAGE_BYTES;

/// One page in the clear, at the end of a frame in which a block can be opened where it is to stay. Travels between cores
/// inside a request and its answer. `Debug` shows no content.
pub struct Page(Box<[u8; FRAME_BYTES]>);

impl Page {
    /// A page of zeros, freshly allocated.
    pub fn zeroed() -> Page {
        let bytes = vec![0; FRAME_BYTES].into_boxed_slice();
        Page(
            bytes
                .try_into()
                .expect("the vector has exactly that length"),
        )
    }

    /// The whole frame: its last `PAGE_BYTES` are the page.
    pub(crate) fn frame_mut(&mut self) -> &mut [u8; FRAME_BYTES] {
        &mut self.0
    }
}

impl Deref for Page {
    type Target = [u8; PAGE_BYTES];

    fn deref(&self) -> &Self::Target {
        self.0.last_chunk().expect("a frame is longer than a page")
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0
            .last_chunk_mut()
            .expect("a frame is longer than a page")
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

/// Pages not in use, kept for the next request. Never grows past its bound; beyond it, pages are freed.
#[derive(Clone)]
pub(crate) struct PagePool {
    free: Rc<RefCell<Vec<Page>>>,
    free_max: usize,
}

impl PagePool {
    /// An empty pool that keeps at most `free_max` pages.
    pub(crate) fn new(free_max: usize) -> PagePool {
        PagePool {
            free: Rc::new(RefCell::new(Vec::with_capacity(free_max))),
            free_max,
        }
    }

    /// A page with whatever content its last user left; allocates only when the pool is empty.
    pub(crate) fn take(&self) -> Page {
        self.free.borrow_mut().pop().unwrap_or_else(Page::zeroed)
    }

    /// Gives a page back.
    pub(crate) fn put(&self, page: Page) {
        let mut free = self.free.borrow_mut();
        if free.len() < self.free_max {
            free.push(page);
        }
    }
}
