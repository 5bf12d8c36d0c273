//! Removing and replacing tuples of index pages, whose line pointers are in the order of their keys.

use super::compact::KeptTuples;
use super::page_mut::{Bounds, HEADER_END, ITEM_ID_BYTES, PageMut, item_id_at};
use super::{ItemId, PageError, max_align};

impl PageMut<'_> {
    /// Removes tuple `offset`; line pointers behind it move down by one, tuples before it in the page move up.
    /// # Errors
    /// No such tuple, a damaged header.
    pub fn index_tuple_delete(&mut self, offset: u16) -> Result<(), PageError> {
        let bounds = self.bounds()?;
        let id = self.stored_item(offset, bounds)?;
        let from = item_id_at(offset) + ItemId::BYTES;
        let to = usize::from(bounds.lower);
        self.bytes_mut().copy_within(from..to, from - ItemId::BYTES);
        self.set_lower(bounds.lower - ITEM_ID_BYTES);
        self.shift_tuples(id.at(), aligned_length(id), bounds);
        Ok(())
    }

    /// Removes tuple `offset` and leaves a free line pointer, or none if it was the last.
    /// # Errors
    /// No such tuple, a damaged header.
    pub fn index_tuple_delete_no_compact(&mut self, offset: u16) -> Result<(), PageError> {
        let bounds = self.bounds()?;
        let id = self.stored_item(offset, bounds)?;
        if offset < self.item_count() {
            self.put_item_id(offset, ItemId::UNUSED);
        } else {
            self.set_lower(bounds.lower - ITEM_ID_BYTES);
        }
        self.shift_tuples(id.at(), aligned_length(id), bounds);
        Ok(())
    }

    /// Removes the tuples of `offsets`, which are ascending. More than two are removed in one pass, which also puts
    /// the tuples that stay in the reverse order of their line pointers.
    /// # Errors
    /// No such tuple, offsets not ascending, a damaged header or line pointer.
    pub fn index_multi_delete<I>(&mut self, offsets: I) -> Result<(), PageError>
    where
        I: DoubleEndedIterator<Item = u16> + ExactSizeIterator,
    {
        if offsets.len() <= 2 {
            for offset in offsets.rev() {
                self.index_tuple_delete(offset)?;
            }
            return Ok(());
        }
        let bounds = self.bounds()?;
        let count = self.item_count();
        let mut deletes = offsets.peekable();
        let mut kept = KeptTuples::new();
        let mut used = 0;
        for offset in 1..=count {
            let id = self.stored_item(offset, bounds)?;
            if deletes.next_if_eq(&offset).is_some() {
                continue;
            }
            used += 1;
            kept.keep(used, id, bounds)?;
            // Never ahead of what is still to be read.
            self.put_item_id(used, id);
        }
        if deletes.peek().is_some() {
            return Err(PageError::DeleteOrder { count });
        }
        self.set_lower(HEADER_END + used * ITEM_ID_BYTES);
        self.pack(&kept, bounds)
    }

    /// Replaces tuple `offset` by `item`, in its place; tuples before it in the page move if the length changes.
    /// # Errors
    /// No such tuple, no space, a damaged header.
    pub fn index_tuple_overwrite(&mut self, offset: u16, item: &[u8]) -> Result<(), PageError> {
        let bounds = self.bounds()?;
        let id = self.stored_item(offset, bounds)?;
        let no_space = PageError::NoSpace {
            bytes: item.len(),
            lower: bounds.lower,
            upper: bounds.upper,
        };
        let length = u16::try_from(item.len()).map_err(|_| no_space)?;
        let aligned = i32::from(length.checked_next_multiple_of(8).ok_or(no_space)?);
        let shrinks_by = aligned_length(id) - aligned;
        if i32::from(bounds.upper) + shrinks_by < i32::from(bounds.lower) {
            return Err(no_space);
        }
        self.shift_tuples(id.at(), shrinks_by, bounds);
        let at = shifted(id.at(), shrinks_by);
        self.put_item_id(offset, id.moved_to(at).with_length(length));
        let at = usize::from(at);
        self.bytes_mut()[at..at + item.len()].copy_from_slice(item);
        Ok(())
    }

    /// Fills an empty page with the tuples in `packed`, which are as a page has them between upper bound and special
    /// space: in the reverse order of their line pointers, each padded. `length_of` tells the padded length of the
    /// tuple at the start of a string.
    /// # Errors
    /// The lengths don't add up, no space, a damaged header, or a page that isn't empty.
    pub fn restore_items(
        &mut self,
        packed: &[u8],
        length_of: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<(), PageError> {
        let bounds = self.bounds()?;
        let next_length = |rest: &[u8]| {
            length_of(rest)
                .filter(|length| *length > 0 && *length % 8 == 0 && *length <= rest.len())
                .and_then(|length| u16::try_from(length).ok())
                .ok_or(PageError::Range {
                    at: packed.len() - rest.len(),
                    bytes: rest.len(),
                })
        };
        let mut count = 0;
        let mut rest = packed;
        while !rest.is_empty() {
            rest = &rest[usize::from(next_length(rest)?)..];
            count += 1;
        }
        let no_space = PageError::NoSpace {
            bytes: packed.len(),
            lower: bounds.lower,
            upper: bounds.upper,
        };
        let lower = ITEM_ID_BYTES
            .checked_mul(count)
            .and_then(|bytes| bytes.checked_add(HEADER_END))
            .ok_or(no_space)?;
        let upper = u16::try_from(packed.len())
            .ok()
            .and_then(|bytes| bounds.special.checked_sub(bytes))
            .filter(|upper| *upper >= lower)
            .ok_or(no_space)?;
        if bounds.lower != HEADER_END || bounds.upper != bounds.special {
            return Err(no_space);
        }

        let (start, end) = (usize::from(upper), usize::from(bounds.special));
        self.bytes_mut()[start..end].copy_from_slice(packed);
        self.set_lower(lower);
        self.set_upper(upper);
        let mut at = upper;
        for offset in (1..=count).rev() {
            let length = next_length(&packed[usize::from(at - upper)..])?;
            self.put_item_id(offset, ItemId::normal(at, length));
            at += length;
        }
        Ok(())
    }

    /// Line pointer `offset`, known to point to an aligned tuple.
    fn stored_item(&self, offset: u16, bounds: Bounds) -> Result<ItemId, PageError> {
        let id = self.item_id(offset)?;
        let end = usize::from(id.at()) + max_align(usize::from(id.length()));
        if id.at() < bounds.upper || end > usize::from(bounds.special) || id.at() % 8 != 0 {
            return Err(PageError::NoTuple {
                offset,
                at: id.at(),
                length: id.length(),
            });
        }
        Ok(id)
    }

    /// Moves what is between the upper bound and the tuple at `at` by `by` bytes, and with it the upper bound and
    /// every line pointer to a tuple at or below `at`. The caller checked that it stays above the line pointers.
    fn shift_tuples(&mut self, at: u16, by: i32, bounds: Bounds) {
        if by == 0 {
            return;
        }
        let upper = shifted(bounds.upper, by);
        self.bytes_mut().copy_within(
            usize::from(bounds.upper)..usize::from(at),
            usize::from(upper),
        );
        self.set_upper(upper);
        for offset in 1..=self.item_count() {
            let id = ItemId(self.get_u32(item_id_at(offset)));
            if id.has_storage() && id.at() <= at {
                self.put_item_id(offset, id.moved_to(shifted(id.at(), by)));
            }
        }
    }
}

fn aligned_length(id: ItemId) -> i32 {
    i32::from(id.length().next_multiple_of(8))
}

/// `at` moved by `by`; a line pointer to nowhere stays one, whatever comes out.
fn shifted(at: u16, by: i32) -> u16 {
    let at = i32::from(at) + by;
    u16::try_from(at.clamp(0, 0x7fff)).expect("clamped to 15 bits")
}
