//! Index tuples, and posting lists: one key for many rows.
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  0 |     4 | block of the row, of the child (pivots), or where the posting list begins: upper half, lower half |
//! |  4 |     2 | line pointer of the row; of a posting list its length and `IS_POSTING` |
//! |  6 |     2 | length of the tuple (13 bits) and flags |
//!
//! A posting list is an array of row pointers of six bytes behind the key, ascending.

use super::RedoError;
use crate::page::max_align;

/// Bytes of a row pointer.
pub(super) const TID_BYTES: usize = 6;

/// Longest tuple its length field can tell.
pub(super) const BYTES_MAX: usize = 0x1fff;

/// A tuple for an inner page that has no keys.
pub(super) const PIVOT_WITHOUT_KEYS: [u8; HEADER_BYTES] = [0, 0, 0, 0, 0, 0, 8, 0x20];

const HEADER_BYTES: usize = 8;
const OFFSET_AT: usize = 4;
const INFO_AT: usize = 6;
const LENGTH_MASK: u16 = 0x1fff;
/// Flag in the length's field: the row pointer is something else.
const ALTERNATIVE_TID: u16 = 0x2000;
/// Flag in the line pointer's field.
const IS_POSTING: u16 = 0x2000;
const POSTING_COUNT_MASK: u16 = 0x0fff;

/// A tuple that was checked to be as long as it says.
#[derive(Clone, Copy)]
pub(super) struct IndexTuple<'a> {
    bytes: &'a [u8],
    /// Where the posting list begins and how many row pointers it has.
    posting: Option<(usize, usize)>,
}

impl<'a> IndexTuple<'a> {
    /// The tuple at the start of `bytes`.
    /// # Errors
    /// It is longer than `bytes`, or its posting list longer than the tuple.
    pub(super) fn new(bytes: &'a [u8]) -> Result<IndexTuple<'a>, RedoError> {
        let length = length_of(bytes).ok_or(malformed(bytes))?;
        let bytes = bytes.get(..length).ok_or(malformed(bytes))?;
        let offset = u16_at(bytes, OFFSET_AT);
        let is_posting = u16_at(bytes, INFO_AT) & ALTERNATIVE_TID != 0 && offset & IS_POSTING != 0;
        let posting = if is_posting {
            let count = usize::from(offset & POSTING_COUNT_MASK);
            let at = usize::try_from(block_of(bytes))
                .ok()
                .filter(|at| (HEADER_BYTES..=length).contains(at))
                .filter(|at| count > 0 && at + count * TID_BYTES <= length)
                .ok_or(malformed(bytes))?;
            Some((at, count))
        } else {
            None
        };
        Ok(IndexTuple { bytes, posting })
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Header and key, without a posting list.
    pub(super) fn key(&self) -> &'a [u8] {
        match self.posting {
            Some((at, _)) => &self.bytes[..at],
            None => self.bytes,
        }
    }

    /// The row pointers.
    pub(super) fn tids(&self) -> &'a [u8] {
        match self.posting {
            Some((at, count)) => &self.bytes[at..at + count * TID_BYTES],
            None => &self.bytes[..TID_BYTES],
        }
    }

    /// The tuple without the row pointers at the positions in `gone` (two bytes each, ascending), written to
    /// `scratch`.
    /// # Errors
    /// Not a posting list, no such positions, or none would be left.
    pub(super) fn without<'s>(
        &self,
        gone: &[u8],
        scratch: &'s mut [u8; BYTES_MAX],
    ) -> Result<&'s [u8], RedoError> {
        let tids = self.tids();
        let count = tids.len() / TID_BYTES;
        let left = count
            .checked_sub(gone.len() / 2)
            .filter(|left| *left > 0 && self.posting.is_some())
            .ok_or(malformed(self.bytes))?;
        let mut gone = gone.chunks_exact(2).map(|pair| u16_at(pair, 0)).peekable();
        let key = self.key();
        let mut writer = PostingWriter::new(scratch, key, left)?;
        for (position, tid) in (0u16..).zip(tids.chunks_exact(TID_BYTES)) {
            if gone.next_if_eq(&position).is_none() {
                writer.push(tid)?;
            }
        }
        if gone.peek().is_some() {
            return Err(malformed(self.bytes));
        }
        writer.finish()
    }
}

/// Writes a tuple of a key and a number of row pointers that is known before.
pub(super) struct PostingWriter<'s> {
    item: &'s mut [u8],
    at: usize,
    end: usize,
}

impl<'s> PostingWriter<'s> {
    /// How long a tuple of this key and as many row pointers is.
    pub(super) fn bytes_of(key: &[u8], count: usize) -> usize {
        if count > 1 {
            max_align(key.len() + count * TID_BYTES)
        } else {
            key.len()
        }
    }

    /// Begins a tuple at the start of `out`, with `key` and as many row pointers, at least one.
    /// # Errors
    /// It would be too long, or `out` is shorter.
    pub(super) fn new(
        out: &'s mut [u8],
        key: &[u8],
        count: usize,
    ) -> Result<PostingWriter<'s>, RedoError> {
        let bytes = PostingWriter::bytes_of(key, count);
        let (Ok(length), Ok(key_bytes), Ok(count_field)) = (
            u16::try_from(bytes),
            u32::try_from(key.len()),
            u16::try_from(count),
        ) else {
            return Err(malformed(key));
        };
        let too_many = count_field > POSTING_COUNT_MASK || length > LENGTH_MASK;
        let item = match out.get_mut(..bytes) {
            Some(item) if !too_many && key.len() >= HEADER_BYTES => item,
            _ => return Err(malformed(key)),
        };
        item[..key.len()].copy_from_slice(key);
        let flags = u16_at(key, INFO_AT) & !(LENGTH_MASK | ALTERNATIVE_TID);
        if count == 1 {
            put_u16(item, INFO_AT, flags | length);
            return Ok(PostingWriter {
                item,
                at: 0,
                end: TID_BYTES,
            });
        }
        put_u16(item, INFO_AT, flags | length | ALTERNATIVE_TID);
        put_u16(item, OFFSET_AT, count_field | IS_POSTING);
        set_block(item, key_bytes)?;
        let end = key.len() + count * TID_BYTES;
        item[end..].fill(0);
        Ok(PostingWriter {
            item,
            at: key.len(),
            end,
        })
    }

    /// The next row pointers.
    /// # Errors
    /// More than were announced.
    pub(super) fn push(&mut self, tids: &[u8]) -> Result<(), RedoError> {
        let end = self.at + tids.len();
        if end > self.end {
            return Err(malformed(self.item));
        }
        self.item[self.at..end].copy_from_slice(tids);
        self.at = end;
        Ok(())
    }

    /// The tuple.
    /// # Errors
    /// Fewer row pointers than were announced.
    pub(super) fn finish(self) -> Result<&'s [u8], RedoError> {
        if self.at == self.end {
            Ok(self.item)
        } else {
            Err(malformed(self.item))
        }
    }
}

/// Puts the row pointer of `new_tuple` into a posting list at `position`; answers the last one, which it drives out.
/// # Errors
/// No posting list of more than `position` rows, or `position` is 0.
pub(super) fn swap_into_posting_list(
    item: &mut [u8],
    position: u16,
    new_tuple: &[u8],
) -> Result<[u8; TID_BYTES], RedoError> {
    let new_tid = new_tuple
        .first_chunk::<TID_BYTES>()
        .ok_or(malformed(new_tuple))?;
    let (at, count) = IndexTuple::new(item)?.posting.ok_or(malformed(item))?;
    let position = usize::from(position);
    if position == 0 || position >= count {
        return Err(malformed(item));
    }
    let tids = &mut item[at..at + count * TID_BYTES];
    let last = *tids.last_chunk().expect("more than one");
    let from = position * TID_BYTES;
    tids.copy_within(from..(count - 1) * TID_BYTES, from + TID_BYTES);
    tids[from..from + TID_BYTES].copy_from_slice(new_tid);
    Ok(last)
}

/// Bytes that the tuple at the start of `bytes` takes on a page, with padding.
pub(super) fn packed_length(bytes: &[u8]) -> Option<usize> {
    length_of(bytes).map(max_align)
}

fn length_of(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let length = usize::from(u16_at(header, INFO_AT) & LENGTH_MASK);
    (length >= HEADER_BYTES).then_some(length)
}

/// The block number at the start of a tuple of at least a header.
pub(super) fn block_of(tuple: &[u8]) -> u32 {
    u32::from(u16_at(tuple, 0)) << 16 | u32::from(u16_at(tuple, 2))
}

/// Sets the block number at the start of a tuple.
/// # Errors
/// The tuple is shorter.
pub(super) fn set_block(tuple: &mut [u8], block: u32) -> Result<(), RedoError> {
    let [b0, b1, b2, b3] = block.to_le_bytes();
    match tuple.first_chunk_mut() {
        Some(start) => {
            *start = [b2, b3, b0, b1];
            Ok(())
        }
        None => Err(malformed(tuple)),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn malformed(tuple: &[u8]) -> RedoError {
    RedoError::Page {
        what: "malformed index tuple of length",
        value: u64::try_from(tuple.len()).expect("a length fits"),
    }
}
