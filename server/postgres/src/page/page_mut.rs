//! A page that is being changed: header fields, line pointers, tuples, special space.
//!
//! Any 8,192 bytes may be behind it. Every access is checked against the page, so a damaged page is a
//! [`PageError`], never a panic; nothing allocates. Line pointers are numbered from 1, as Postgres numbers them.

use std::ops::Range;

use engine::types::{Lsn, PAGE_BYTES};

use super::{ItemId, PageError};

/// Bytes of the header.
pub const PAGE_HEADER_BYTES: usize = 24;

/// Flag: some line pointer is free (a hint).
pub const PD_HAS_FREE_LINES: u16 = 0x0001;
/// Flag: an update found no space (a hint for pruning).
pub const PD_PAGE_FULL: u16 = 0x0002;
/// Flag: every tuple is visible to everybody.
pub const PD_ALL_VISIBLE: u16 = 0x0004;

/// A page that is being changed.
#[derive(Debug)]
pub struct PageMut<'a> {
    bytes: &'a mut [u8; PAGE_BYTES],
}

impl<'a> PageMut<'a> {
    /// The page in `bytes`, whatever they are.
    pub fn new(bytes: &'a mut [u8; PAGE_BYTES]) -> PageMut<'a> {
        PageMut { bytes }
    }

    /// Makes it an empty page with a special space of `special_bytes` zeros, rounded up to 8.
    /// # Errors
    /// `special_bytes` leaves no space for a header.
    pub fn init(&mut self, special_bytes: usize) -> Result<(), PageError> {
        let aligned = special_bytes.next_multiple_of(8);
        let special = PAGE_BYTES
            .checked_sub(aligned)
            .filter(|special| *special > PAGE_HEADER_BYTES)
            .and_then(|special| u16::try_from(special).ok())
            .ok_or(PageError::Special {
                special: 0,
                bytes: special_bytes,
            })?;
        self.bytes.fill(0);
        self.set_lower(HEADER_END);
        self.set_upper(special);
        self.set_special(special);
        self.put_u16(SIZE_AT, PAGE_SIZE_AND_VERSION);
        Ok(())
    }

    /// The whole page.
    pub fn bytes(&self) -> &[u8; PAGE_BYTES] {
        self.bytes
    }

    /// The whole page.
    pub fn bytes_mut(&mut self) -> &mut [u8; PAGE_BYTES] {
        self.bytes
    }

    /// Whether the page was never initialised.
    pub fn is_new(&self) -> bool {
        self.upper() == 0
    }

    /// LSN of the last logged change.
    pub fn lsn(&self) -> Lsn {
        Lsn(u64::from(self.get_u32(0)) << 32 | u64::from(self.get_u32(4)))
    }

    /// Sets the LSN of the last logged change.
    pub fn set_lsn(&mut self, lsn: Lsn) {
        self.bytes[..8].copy_from_slice(&lsn.0.rotate_left(32).to_le_bytes());
    }

    /// Flag bits.
    pub fn flags(&self) -> u16 {
        self.get_u16(FLAGS_AT)
    }

    /// Sets flag bits, leaves the others.
    pub fn add_flags(&mut self, flags: u16) {
        self.put_u16(FLAGS_AT, self.flags() | flags);
    }

    /// Clears flag bits, leaves the others.
    pub fn clear_flags(&mut self, flags: u16) {
        self.put_u16(FLAGS_AT, self.flags() & !flags);
    }

    /// End of the line pointers, as the header says.
    pub fn lower(&self) -> u16 {
        self.get_u16(LOWER_AT)
    }

    /// Start of the tuples, as the header says.
    pub fn upper(&self) -> u16 {
        self.get_u16(UPPER_AT)
    }

    /// Start of the special space, as the header says.
    pub fn special(&self) -> u16 {
        self.get_u16(SPECIAL_AT)
    }

    /// Sets the end of the line pointers.
    pub fn set_lower(&mut self, lower: u16) {
        self.put_u16(LOWER_AT, lower);
    }

    /// Sets the start of the tuples.
    pub fn set_upper(&mut self, upper: u16) {
        self.put_u16(UPPER_AT, upper);
    }

    /// Sets the start of the special space.
    pub fn set_special(&mut self, special: u16) {
        self.put_u16(SPECIAL_AT, special);
    }

    /// Oldest transaction id that pruning could remove; 0 for none.
    pub fn prune_xid(&self) -> u32 {
        self.get_u32(PRUNE_XID_AT)
    }

    /// Sets the oldest transaction id that pruning could remove.
    pub fn set_prune_xid(&mut self, xid: u32) {
        self.bytes[PRUNE_XID_AT..PAGE_HEADER_BYTES].copy_from_slice(&xid.to_le_bytes());
    }

    /// The header's bounds, known to be in order and inside the page.
    /// # Errors
    /// They are not.
    pub(super) fn bounds(&self) -> Result<Bounds, PageError> {
        let (lower, upper, special) = (self.lower(), self.upper(), self.special());
        if lower < HEADER_END
            || lower > upper
            || upper > special
            || usize::from(special) > PAGE_BYTES
            || special % 8 != 0
        {
            return Err(PageError::Bounds {
                lower,
                upper,
                special,
            });
        }
        Ok(Bounds {
            lower,
            upper,
            special,
        })
    }

    /// How many line pointers the header says there are; at most what fits on a page.
    pub fn item_count(&self) -> u16 {
        self.lower().min(PAGE_END).saturating_sub(HEADER_END) / ITEM_ID_BYTES
    }

    /// Line pointer `offset`.
    /// # Errors
    /// There is none.
    pub fn item_id(&self, offset: u16) -> Result<ItemId, PageError> {
        let count = self.item_count();
        if offset == 0 || offset > count {
            return Err(PageError::NoItem { offset, count });
        }
        Ok(ItemId(self.get_u32(item_id_at(offset))))
    }

    /// Replaces line pointer `offset`, which has to be there.
    /// # Errors
    /// There is none.
    pub fn set_item_id(&mut self, offset: u16, id: ItemId) -> Result<(), PageError> {
        self.item_id(offset)?;
        self.put_item_id(offset, id);
        Ok(())
    }

    /// Writes a line pointer; `offset` is at most one past what fits below a header that was checked.
    pub(super) fn put_item_id(&mut self, offset: u16, id: ItemId) {
        let at = item_id_at(offset);
        self.bytes[at..at + ItemId::BYTES].copy_from_slice(&id.0.to_le_bytes());
    }

    /// The bytes that line pointer `offset` points to, of the length it says.
    /// # Errors
    /// No such line pointer, or it points nowhere.
    pub fn item(&self, offset: u16) -> Result<&[u8], PageError> {
        let range = self.item_range(offset)?;
        Ok(&self.bytes[range])
    }

    /// The bytes that line pointer `offset` points to, of the length it says.
    /// # Errors
    /// No such line pointer, or it points nowhere.
    pub fn item_mut(&mut self, offset: u16) -> Result<&mut [u8], PageError> {
        let range = self.item_range(offset)?;
        Ok(&mut self.bytes[range])
    }

    /// Where on the page the bytes are that line pointer `offset` points to.
    /// # Errors
    /// No such line pointer, or it points nowhere.
    pub fn item_range(&self, offset: u16) -> Result<Range<usize>, PageError> {
        let id = self.item_id(offset)?;
        let at = usize::from(id.at());
        let end = at + usize::from(id.length());
        if !id.has_storage() || at < PAGE_HEADER_BYTES || end > PAGE_BYTES {
            return Err(PageError::NoTuple {
                offset,
                at: id.at(),
                length: id.length(),
            });
        }
        Ok(at..end)
    }

    /// The special space, which has to be `bytes` long (and is, in the page, rounded up to 8).
    /// # Errors
    /// It has another length.
    pub fn special_space(&self, bytes: usize) -> Result<&[u8], PageError> {
        let at = self.special_at(bytes)?;
        Ok(&self.bytes[at..at + bytes])
    }

    /// The special space, which has to be `bytes` long (and is, in the page, rounded up to 8).
    /// # Errors
    /// It has another length.
    pub fn special_space_mut(&mut self, bytes: usize) -> Result<&mut [u8], PageError> {
        let at = self.special_at(bytes)?;
        Ok(&mut self.bytes[at..at + bytes])
    }

    fn special_at(&self, bytes: usize) -> Result<usize, PageError> {
        let special = self.special();
        let at = usize::from(special);
        if at < PAGE_HEADER_BYTES || PAGE_BYTES.checked_sub(at) != Some(bytes.next_multiple_of(8)) {
            return Err(PageError::Special { special, bytes });
        }
        Ok(at)
    }

    pub(super) fn get_u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    pub(super) fn get_u32(&self, at: usize) -> u32 {
        let bytes = &self.bytes[at..at + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    pub(super) fn put_u16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
}

/// `bytes` rounded up to 8, as tuples are placed.
pub fn max_align(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// Bounds of a page that were checked: header ≤ lower ≤ upper ≤ special ≤ page, special a multiple of 8.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) lower: u16,
    pub(super) upper: u16,
    pub(super) special: u16,
}

/// Where line pointer `offset` (from 1) is.
pub(super) fn item_id_at(offset: u16) -> usize {
    PAGE_HEADER_BYTES + (usize::from(offset) - 1) * ItemId::BYTES
}

const FLAGS_AT: usize = 10;
const LOWER_AT: usize = 12;
const UPPER_AT: usize = 14;
const SPECIAL_AT: usize = 16;
const SIZE_AT: usize = 18;
const PRUNE_XID_AT: usize = 20;
pub(super) const HEADER_END: u16 = 24;
pub(super) const ITEM_ID_BYTES: u16 = 4;
const PAGE_END: u16 = 8192;
/// Page size and layout version 4.
const PAGE_SIZE_AND_VERSION: u16 = 8192 | 4;
const _: () = assert!(HEADER_END as usize == PAGE_HEADER_BYTES && PAGE_END as usize == PAGE_BYTES);
