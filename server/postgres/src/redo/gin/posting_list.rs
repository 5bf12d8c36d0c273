//! Compressed lists of item pointers.
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  0 |     6 | first item pointer |
//! |  6 |     2 | bytes that follow, without the padding |
//! |  8 |       | differences to the one before, in bytes of 7 bits, lowest first; padded with a zero to even length |
//!
//! The difference is between numbers of 43 bits: 32 of the block, 11 of the offset number.

use super::super::RedoError;
use super::super::index_records::{ITEM_POINTER_BYTES, item_pointer, split_block};
use crate::bytes_at::{array_at, u16_at};

/// Bytes before the differences.
pub(super) const HEADER_BYTES: usize = 8;

/// Length of the list that `bytes` begin with, padding included; `None` if it is cut short.
pub(super) fn list_bytes(bytes: &[u8]) -> Option<usize> {
    let length = HEADER_BYTES + usize::from(u16_at(bytes, 6)?).next_multiple_of(2);
    (length <= bytes.len()).then_some(length)
}

/// An item pointer as a number that sorts like it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item(u64);

impl Item {
    fn from_bytes(bytes: [u8; ITEM_POINTER_BYTES]) -> Result<Item, RedoError> {
        let [b0, b1, b2, b3, o0, o1] = bytes;
        let offset = u64::from(u16::from_le_bytes([o0, o1]));
        if offset >= 1 << OFFSET_BITS {
            return Err(RedoError::Record {
                what: "offset number of a posting",
                value: offset,
            });
        }
        let block = u64::from(split_block([b0, b1, b2, b3]));
        Ok(Item(block << OFFSET_BITS | offset))
    }

    pub(super) fn to_bytes(self) -> [u8; ITEM_POINTER_BYTES] {
        let block = u32::try_from(self.0 >> OFFSET_BITS).expect("43 bits");
        let offset = u16::try_from(self.0 & ((1 << OFFSET_BITS) - 1)).expect("11 bits");
        item_pointer(block, offset)
    }

    fn plus(self, difference: u64) -> Result<Item, RedoError> {
        match self.0.checked_add(difference) {
            Some(sum) if sum < 1 << (32 + OFFSET_BITS) => Ok(Item(sum)),
            _ => Err(RedoError::Page {
                what: "difference in a posting list",
                value: difference,
            }),
        }
    }
}

/// Item pointers that are not compressed, one after the other.
pub(super) fn plain(bytes: &[u8]) -> impl Iterator<Item = Result<Item, RedoError>> + '_ {
    bytes
        .chunks_exact(ITEM_POINTER_BYTES)
        .map(|item| Item::from_bytes(item.try_into().expect("six bytes")))
}

/// The item pointers of one list.
pub(super) fn decode(list: &[u8]) -> Result<Decode<'_>, RedoError> {
    let short = RedoError::Page {
        what: "cut short posting list of bytes",
        value: list.len() as u64,
    };
    let first = array_at(list, 0).ok_or(short)?;
    let length = usize::from(u16_at(list, 6).ok_or(short)?);
    Ok(Decode {
        next: Some(Item::from_bytes(first)?),
        rest: list.get(HEADER_BYTES..HEADER_BYTES + length).ok_or(short)?,
    })
}

/// See [`decode`].
pub(super) struct Decode<'a> {
    next: Option<Item>,
    rest: &'a [u8],
}

impl Decode<'_> {
    fn difference(&mut self) -> Result<u64, RedoError> {
        let mut value = 0;
        for index in 0..DIFFERENCE_BYTES_MAX {
            let (byte, rest) = self.rest.split_first().ok_or(RedoError::Page {
                what: "posting list that ends within a difference, bytes",
                value: index,
            })?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RedoError::Page {
            what: "too long a difference in a posting list, so far",
            value,
        })
    }
}

impl Iterator for Decode<'_> {
    type Item = Result<Item, RedoError>;

    fn next(&mut self) -> Option<Result<Item, RedoError>> {
        let item = self.next.take()?;
        if !self.rest.is_empty() {
            match self.difference().and_then(|by| item.plus(by)) {
                Ok(next) => self.next = Some(next),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(item))
    }
}

/// Both lists in order; what is in both comes once.
pub(super) fn merge(
    left: impl Iterator<Item = Result<Item, RedoError>>,
    right: impl Iterator<Item = Result<Item, RedoError>>,
) -> impl Iterator<Item = Result<Item, RedoError>> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(Ok(a)), Some(Ok(b))) => {
            let (a, b) = (*a, *b);
            if a == b {
                left.next();
            }
            if a < b { left.next() } else { right.next() }
        }
        (Some(_), Some(Err(_))) | (None, _) => right.next(),
        (Some(_), _) => left.next(),
    })
}

/// Writes `items` as one list to the start of `into`, padding included; answers its length, 0 for no items.
pub(super) fn encode(
    mut items: impl Iterator<Item = Result<Item, RedoError>>,
    into: &mut [u8],
) -> Result<usize, RedoError> {
    let capacity = into.len();
    let too_long = RedoError::Record {
        what: "posting list longer than bytes",
        value: capacity as u64,
    };
    let Some(first) = items.next() else {
        return Ok(0);
    };
    let mut last = first?;
    let (header, body) = into.split_at_mut_checked(HEADER_BYTES).ok_or(too_long)?;
    header[..ITEM_POINTER_BYTES].copy_from_slice(&last.to_bytes());
    let mut length = 0;
    let mut push = |byte: u8| -> Result<(), RedoError> {
        *body.get_mut(length).ok_or(too_long)? = byte;
        length += 1;
        Ok(())
    };
    for item in items {
        let item = item?;
        let mut difference =
            item.0
                .checked_sub(last.0)
                .filter(|by| *by > 0)
                .ok_or(RedoError::Record {
                    what: "postings not in order, first",
                    value: item.0,
                })?;
        last = item;
        while difference > 0x7f {
            push(0x80 | (difference & 0x7f).to_le_bytes()[0])?;
            difference >>= 7;
        }
        push(difference.to_le_bytes()[0])?;
    }
    let unpadded = u16::try_from(length).map_err(|_| too_long)?;
    if length % 2 == 1 {
        *body.get_mut(length).ok_or(too_long)? = 0;
    }
    header[ITEM_POINTER_BYTES..].copy_from_slice(&unpadded.to_le_bytes());
    Ok(HEADER_BYTES + length.next_multiple_of(2))
}

const OFFSET_BITS: u32 = 11;
const DIFFERENCE_BYTES_MAX: u64 = 7;
