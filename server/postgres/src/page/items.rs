//! Adding a tuple to a page.

use super::page_mut::{HEADER_END, ITEM_ID_BYTES, PageMut, item_id_at};
use super::{ItemId, PD_HAS_FREE_LINES, PageError};

/// Which line pointer a new tuple takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The first free one, if the page's hint says there is one, else a new one at the end.
    Free,
    /// This one; those from it on move up by one.
    Insert(u16),
    /// This one, which is free or one past the end.
    Unused(u16),
}

impl PageMut<'_> {
    /// Adds `item` and answers its line pointer.
    /// # Errors
    /// No space, a line pointer in use or out of order, a damaged header.
    pub fn add_item(&mut self, item: &[u8], place: Place) -> Result<u16, PageError> {
        let (offset, bytes) = self.reserve_item(item.len(), place)?;
        bytes.copy_from_slice(item);
        Ok(offset)
    }

    /// [`PageMut::reserve_item`] on a heap page, which has at most 291 line pointers.
    /// # Errors
    /// As there.
    pub fn reserve_heap_item(
        &mut self,
        bytes: usize,
        place: Place,
    ) -> Result<(u16, &mut [u8]), PageError> {
        self.reserve(bytes, place, HEAP_ITEMS_MAX)
    }

    /// Makes a line pointer to `bytes` new bytes, for the caller to fill; they hold what the free space held.
    /// # Errors
    /// No space, a line pointer in use or out of order, a damaged header.
    pub fn reserve_item(
        &mut self,
        bytes: usize,
        place: Place,
    ) -> Result<(u16, &mut [u8]), PageError> {
        self.reserve(bytes, place, u16::MAX)
    }

    fn reserve(
        &mut self,
        bytes: usize,
        place: Place,
        count_max: u16,
    ) -> Result<(u16, &mut [u8]), PageError> {
        let bounds = self.bounds()?;
        let count = self.item_count();
        let end = count + 1;
        let offset = match place {
            Place::Free => self.first_free(count)?,
            Place::Insert(offset) | Place::Unused(offset) => offset,
        };
        if offset == 0 || offset > end || offset > count_max {
            return Err(PageError::Offset { offset, count });
        }
        let mut makes_room = false;
        if offset < end {
            match place {
                Place::Insert(_) => makes_room = true,
                Place::Free | Place::Unused(_) => {
                    let id = self.item_id(offset)?;
                    if id.is_used() || id.has_storage() {
                        return Err(PageError::Used { offset });
                    }
                }
            }
        }

        let no_space = PageError::NoSpace {
            bytes,
            lower: bounds.lower,
            upper: bounds.upper,
        };
        let length = u16::try_from(bytes).map_err(|_| no_space)?;
        // Postgres rounds a header's odd end up the same way: only what a new line pointer adds counts.
        let lower = if makes_room || offset == end {
            bounds.lower + ITEM_ID_BYTES
        } else {
            bounds.lower
        };
        let aligned = length.checked_next_multiple_of(8).ok_or(no_space)?;
        let upper = bounds
            .upper
            .checked_sub(aligned)
            .filter(|upper| *upper >= lower)
            .ok_or(no_space)?;

        if makes_room {
            let from = item_id_at(offset);
            let to = item_id_at(end);
            self.bytes_mut().copy_within(from..to, from + ItemId::BYTES);
        }
        self.put_item_id(offset, ItemId::normal(upper, length));
        self.set_lower(lower);
        self.set_upper(upper);
        let at = usize::from(upper);
        Ok((offset, &mut self.bytes_mut()[at..at + bytes]))
    }

    /// The first free line pointer if the hint says there is one, else the next new one; a wrong hint is cleared.
    fn first_free(&mut self, count: u16) -> Result<u16, PageError> {
        if self.flags() & PD_HAS_FREE_LINES != 0 {
            for offset in 1..=count {
                let id = self.item_id(offset)?;
                if !id.is_used() && !id.has_storage() {
                    return Ok(offset);
                }
            }
            self.clear_flags(PD_HAS_FREE_LINES);
        }
        Ok(count + 1)
    }
}

/// Most line pointers of a heap page: the smallest tuple is a header of 24 bytes.
pub(super) const HEAP_ITEMS_MAX: u16 = (8192 - HEADER_END) / (24 + ITEM_ID_BYTES);
const _: () = assert!(HEAP_ITEMS_MAX == 291);
