//! What the records and pages of the index access methods have in common: arrays of offset numbers, runs of tuples,
//! item pointers, and the few places where versions differ.

use super::fields::Fields;
use super::{Change, RedoError};
use crate::wal::WalVersion;

/// Where the layout or meaning of a record depends on the version. All other records of hash, GIN, GiST, SP-GiST and
/// BRIN are the same in 15 to 18.
pub(super) trait IndexRecords {
    /// Bytes before the offset numbers of a GiST *delete* record. From 16 on the record also says whether the table
    /// is a catalog.
    fn gist_delete_header_bytes(self) -> usize;
    /// Bytes before the offset numbers of an SP-GiST *vacuum redirect* record; as above.
    fn spgist_vacuum_redirect_header_bytes(self) -> usize;
    /// Width of the count in a hash *vacuum one page* record, in bytes. The offset numbers start at 8 in all.
    fn hash_vacuum_count_bytes(self) -> usize;
    /// Whether a hash *squeeze* that moves no tuple and changes no link still stamps the page it could have moved
    /// tuples to.
    fn hash_squeeze_stamps_unchanged_page(self) -> bool;
}

impl IndexRecords for WalVersion {
    fn gist_delete_header_bytes(self) -> usize {
        match self {
            WalVersion::V15 => 6,
            WalVersion::V16 | WalVersion::V17 | WalVersion::V18 => 8,
        }
    }

    fn spgist_vacuum_redirect_header_bytes(self) -> usize {
        match self {
            WalVersion::V15 => 8,
            WalVersion::V16 | WalVersion::V17 | WalVersion::V18 => 10,
        }
    }

    fn hash_vacuum_count_bytes(self) -> usize {
        match self {
            WalVersion::V15 => 4,
            WalVersion::V16 | WalVersion::V17 | WalVersion::V18 => 2,
        }
    }

    fn hash_squeeze_stamps_unchanged_page(self) -> bool {
        match self {
            WalVersion::V15 | WalVersion::V16 => true,
            WalVersion::V17 | WalVersion::V18 => false,
        }
    }
}

/// The error for a block that such a record always has an image of; the frame restores it before anybody is asked.
pub(super) fn no_image(change: &Change<'_>) -> RedoError {
    RedoError::Record {
        what: "no image for block id",
        value: change.block_id.into(),
    }
}

/// No block: the end of a chain, a missing link.
pub(super) const NO_BLOCK: u32 = u32::MAX;

/// Bytes of an item pointer.
pub(super) const ITEM_POINTER_BYTES: usize = 6;

/// An item pointer to nothing.
pub(super) const NO_ITEM: [u8; ITEM_POINTER_BYTES] = item_pointer(NO_BLOCK, 0);

/// An item pointer: upper half of the block, lower half, offset number.
pub(super) const fn item_pointer(block: u32, offset: u16) -> [u8; ITEM_POINTER_BYTES] {
    let [b0, b1, b2, b3] = block.to_le_bytes();
    let [o0, o1] = offset.to_le_bytes();
    [b2, b3, b0, b1, o0, o1]
}

/// A block number as it is in an item pointer: upper half first.
pub(super) const fn split_block(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes([bytes[2], bytes[3], bytes[0], bytes[1]])
}

/// The next `count` offset numbers.
pub(super) fn take_offsets<'a>(
    fields: &mut Fields<'a>,
    count: u16,
) -> Result<Offsets<'a>, RedoError> {
    Ok(Offsets(fields.take(usize::from(count) * 2)?))
}

/// An array of offset numbers in a record, not aligned.
#[derive(Clone, Copy)]
pub(super) struct Offsets<'a>(&'a [u8]);

impl<'a> Offsets<'a> {
    /// All that `bytes` holds; an odd byte at the end is left out.
    pub(super) fn all(bytes: &'a [u8]) -> Offsets<'a> {
        Offsets(bytes)
    }

    /// In the record's order.
    pub(super) fn iter(self) -> impl DoubleEndedIterator<Item = u16> + ExactSizeIterator + 'a {
        self.0
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
    }

    /// The one at `index`, counted from 0.
    pub(super) fn get(self, index: usize) -> Option<u16> {
        self.iter().nth(index)
    }
}

/// The next index tuple, as long as its own header says.
pub(super) fn take_index_tuple<'a>(fields: &mut Fields<'a>) -> Result<&'a [u8], RedoError> {
    let mut ahead = *fields;
    let bytes = index_tuple_bytes(ahead.array()?);
    if bytes < INDEX_TUPLE_HEADER_BYTES {
        return Err(RedoError::Record {
            what: "length of an index tuple",
            value: bytes as u64,
        });
    }
    fields.take(bytes)
}

/// The length that the header of an index tuple says: the lower 13 bits of its last field.
pub(super) fn index_tuple_bytes(header: [u8; INDEX_TUPLE_HEADER_BYTES]) -> usize {
    usize::from(u16::from_le_bytes([header[6], header[7]]) & 0x1fff)
}

/// Item pointer, then length and flags.
pub(super) const INDEX_TUPLE_HEADER_BYTES: usize = 8;

#[cfg(test)]
pub(super) mod tests;
