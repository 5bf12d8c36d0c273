//! Closing the gaps that removed tuples left: heap pages after pruning, index pages after deletes.
//!
//! The order of tuples after it is Postgres's: reverse order of line pointers, packed against the special space.

use engine::types::PAGE_BYTES;

use super::items::HEAP_ITEMS_MAX;
use super::page_mut::{Bounds, ITEM_ID_BYTES, PageMut};
use super::{ItemId, PD_HAS_FREE_LINES, PageError};

/// A tuple that stays, while gaps are closed.
#[derive(Clone, Copy)]
struct Kept {
    /// Its line pointer afterwards.
    offset: u16,
    /// Where it is now.
    at: u16,
    /// Bytes with the padding behind it.
    aligned: u16,
}

/// The tuples that stay, in the order of their line pointers.
pub(super) struct KeptTuples {
    tuples: [Kept; KEPT_MAX],
    count: usize,
    /// Whether each is before the one before: then they can be moved in place.
    descending: bool,
    total_bytes: usize,
}

impl KeptTuples {
    pub(super) fn new() -> KeptTuples {
        let none = Kept {
            offset: 0,
            at: 0,
            aligned: 0,
        };
        KeptTuples {
            tuples: [none; KEPT_MAX],
            count: 0,
            descending: true,
            total_bytes: 0,
        }
    }

    /// Keeps the tuple of `id`, whose line pointer will be `offset`.
    /// # Errors
    /// It is not between `upper` and `special`, or there are too many.
    pub(super) fn keep(
        &mut self,
        offset: u16,
        id: ItemId,
        bounds: Bounds,
    ) -> Result<(), PageError> {
        let at = id.at();
        let aligned = id.length().next_multiple_of(8);
        if at < bounds.upper || usize::from(at) + usize::from(aligned) > usize::from(bounds.special)
        {
            return Err(PageError::NoTuple {
                offset,
                at,
                length: id.length(),
            });
        }
        if self.count > 0 && self.tuples[self.count - 1].at <= at {
            self.descending = false;
        }
        let slot = self
            .tuples
            .get_mut(self.count)
            .ok_or(PageError::TooManyTuples { max: KEPT_MAX })?;
        *slot = Kept {
            offset,
            at,
            aligned,
        };
        self.count += 1;
        self.total_bytes += usize::from(aligned);
        Ok(())
    }
}

impl PageMut<'_> {
    /// Closes the gaps of a heap page: tuples packed, free line pointers at the end cut off, the hint for
    /// free ones set or cleared.
    /// # Errors
    /// A damaged header, a line pointer to nowhere.
    pub fn repair_fragmentation(&mut self) -> Result<(), PageError> {
        let bounds = self.bounds()?;
        let count = self.item_count();
        let mut kept = KeptTuples::new();
        let mut unused = 0;
        let mut last_used = 0;
        for offset in 1..=count {
            let id = self.item_id(offset)?;
            if id.is_used() {
                if id.has_storage() {
                    kept.keep(offset, id, bounds)?;
                }
                last_used = offset;
            } else {
                self.put_item_id(offset, ItemId::UNUSED);
                unused += 1;
            }
        }
        self.pack(&kept, bounds)?;
        let cut = count - last_used;
        self.set_lower(bounds.lower - cut * ITEM_ID_BYTES);
        self.hint_free_lines(unused > cut);
        Ok(())
    }

    /// Cuts off free line pointers at the end, but for the first, and sets or clears the hint for free ones: what
    /// the second pass of vacuum does to a heap page.
    /// # Errors
    /// A damaged header.
    pub fn truncate_line_pointers(&mut self) -> Result<(), PageError> {
        let bounds = self.bounds()?;
        let count = self.item_count();
        let mut kept = count;
        while kept > 1 && !self.item_id(kept)?.is_used() {
            kept -= 1;
        }
        let mut free_left = false;
        for offset in (1..=kept).rev() {
            if !self.item_id(offset)?.is_used() {
                free_left = true;
                break;
            }
        }
        self.set_lower(bounds.lower - (count - kept) * ITEM_ID_BYTES);
        self.hint_free_lines(free_left);
        Ok(())
    }

    fn hint_free_lines(&mut self, free: bool) {
        if free {
            self.add_flags(PD_HAS_FREE_LINES);
        } else {
            self.clear_flags(PD_HAS_FREE_LINES);
        }
    }

    /// Packs `kept` against the special space and points their line pointers there; what else the space held is
    /// free. Line pointers have to be in place already; `bounds.lower` may be the one before they were removed.
    /// # Errors
    /// Together they are longer than the space, which only overlapping tuples are.
    pub(super) fn pack(&mut self, kept: &KeptTuples, bounds: Bounds) -> Result<(), PageError> {
        if kept.total_bytes > usize::from(bounds.special - bounds.lower) {
            return Err(PageError::Lengths {
                bytes: kept.total_bytes,
            });
        }
        let tuples = &kept.tuples[..kept.count];
        // Those that are in their place already, seen from the end of the page.
        let mut upper = usize::from(bounds.special);
        let in_place = tuples
            .iter()
            .take_while(|tuple| {
                let there = tuple.end() == upper;
                if there {
                    upper = usize::from(tuple.at);
                }
                there
            })
            .count();
        let to_move = &tuples[in_place..];
        if kept.descending {
            self.pack_in_place(to_move, upper);
        } else {
            self.pack_from_copy(to_move, upper);
        }
        Ok(())
    }

    /// Each tuple is below the one before and moves up, so nothing not yet moved is overwritten. Neighbours are
    /// moved together.
    fn pack_in_place(&mut self, tuples: &[Kept], upper: usize) {
        let end = self.place(tuples, upper, |page, from, to, bytes| {
            page.copy_within(from..from + bytes, to);
        });
        self.set_upper(end);
    }

    /// The tuples are in any order: they are taken from a copy of the page.
    fn pack_from_copy(&mut self, tuples: &[Kept], upper: usize) {
        let copy = *self.bytes();
        let end = self.place(tuples, upper, |page, from, to, bytes| {
            page[to..to + bytes].copy_from_slice(&copy[from..from + bytes]);
        });
        self.set_upper(end);
    }

    /// Gives each of `tuples` its place below `upper` and moves runs of neighbours by `move_bytes(page, from, to,
    /// bytes)`; answers the new upper bound.
    fn place(
        &mut self,
        tuples: &[Kept],
        mut upper: usize,
        mut move_bytes: impl FnMut(&mut [u8; PAGE_BYTES], usize, usize, usize),
    ) -> u16 {
        let mut run = 0..0;
        for tuple in tuples {
            if tuple.end() != run.start {
                move_bytes(self.bytes_mut(), run.start, upper, run.len());
                run.end = tuple.end();
            }
            run.start = usize::from(tuple.at);
            // The sum of all lengths was checked to fit above the line pointers.
            upper -= usize::from(tuple.aligned);
            let id = ItemId(self.get_u32(super::page_mut::item_id_at(tuple.offset)));
            self.put_item_id(tuple.offset, id.moved_to(offset_of(upper)));
        }
        move_bytes(self.bytes_mut(), run.start, upper, run.len());
        offset_of(upper)
    }
}

impl Kept {
    fn end(&self) -> usize {
        usize::from(self.at) + usize::from(self.aligned)
    }
}

fn offset_of(at: usize) -> u16 {
    u16::try_from(at).expect("a place on a page fits in 16 bits")
}

/// Most tuples an index page can hold: the smallest takes 16 bytes and a line pointer. A heap page has fewer.
const KEPT_MAX: usize = 408;
const _: () = assert!(HEAP_ITEMS_MAX as usize <= KEPT_MAX);
