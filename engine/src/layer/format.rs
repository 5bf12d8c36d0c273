//! What all parts of a layer share: the format's tag, the grid, block contexts, reading of fixed fields.
//!
//! Version 1. Little-endian. All parts begin at multiples of 8 bytes from the start of the object; the gaps are
//! zeros, and a checksum covers them. Magic and version are at bytes 0..10 of the object and nowhere else.
//!
//! **Nonces**: see [`LayerId::context`]; each pair of kind and number is sealed once by a writer, and each writer
//! has a DEK of its own.

use std::ops::Range;

use super::{LayerError, Part};
use crate::crypto::page_seal::{BlockContext, BlockKind, FormatTag};
use crate::types::{KEY_BYTES, Key, Lsn, ObjectId, TenantId};

/// What seals of this format are bound to.
pub(super) const FORMAT: FormatTag = FormatTag::new(b"LAYR", 1);

/// The grid: no extent is longer. Written into the header; fixed for this format version.
pub const EXTENT_BYTES: usize = 256 * 1024;

/// The format's bound on an object: a fence counts bytes in units of 8 in 32 bits. Writers stay far below.
pub const OBJECT_BYTES_MAX: u64 = (1 << 32) * UNIT_BYTES as u64;

/// The format's bound on the extents of an object.
pub const EXTENTS_MAX: u32 = 1 << 20;

/// All parts begin at multiples of this; fences count in it, LSNs included.
pub(super) const UNIT_BYTES: usize = 8;

const _: () = assert!(EXTENT_BYTES.is_multiple_of(UNIT_BYTES));

/// Which layer: what every seal in it is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LayerId {
    /// Whose data it is.
    pub tenant: TenantId,
    /// The object.
    pub object: ObjectId,
}

impl LayerId {
    /// Context of a part that is not about single keys: index (number 0) and directories (number: the extent's).
    /// Their plaintext repeats what they cover.
    pub(super) fn context(&self, kind: BlockKind, number: u64) -> BlockContext {
        BlockContext::unkeyed(FORMAT, self.tenant, self.object, kind, number)
    }

    /// Context of block `index` of an extent, without keys and LSNs, which the caller fills in. Its number is the
    /// extent's, shifted by 16 bits, and its own.
    pub(super) fn block_context(&self, extent_no: u32, index: u16) -> BlockContext {
        let number = u64::from(extent_no) << 16 | u64::from(index);
        self.context(BlockKind::LayerBlock, number)
    }
}

/// `len` rounded up to the next part's start.
pub(super) const fn aligned(len: usize) -> usize {
    len.next_multiple_of(UNIT_BYTES)
}

/// Reads fixed fields from the front of what was loaded; running out of bytes is an error, not a panic.
pub(super) struct Fields<'a> {
    part: Part,
    rest: &'a [u8],
    want_bytes: usize,
}

impl<'a> Fields<'a> {
    /// A reader of the first `len` bytes.
    pub(super) fn new(part: Part, bytes: &'a [u8], len: usize) -> Result<Fields<'a>, LayerError> {
        match bytes.get(..len) {
            Some(rest) => Ok(Fields {
                part,
                rest,
                want_bytes: len,
            }),
            None => Err(LayerError::Truncated {
                part,
                want_bytes: len,
                got_bytes: bytes.len(),
            }),
        }
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], LayerError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(LayerError::Truncated {
                part: self.part,
                want_bytes: self.want_bytes + len - self.rest.len(),
                got_bytes: self.want_bytes,
            })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], LayerError> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("`bytes` gives what was asked for"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, LayerError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, LayerError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, LayerError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, LayerError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn key(&mut self) -> Result<Key, LayerError> {
        self.array::<KEY_BYTES>().map(Key)
    }

    pub(super) fn lsn(&mut self) -> Result<Lsn, LayerError> {
        self.u64().map(Lsn)
    }

    /// Skips reserved bytes, which must be zero.
    pub(super) fn reserved(&mut self, len: usize) -> Result<(), LayerError> {
        let part = self.part;
        match self.bytes(len)?.iter().all(|b| *b == 0) {
            true => Ok(()),
            false => Err(LayerError::malformed(part, "reserved bytes are not zero")),
        }
    }

    /// Everything must have been read.
    pub(super) fn finish(self) -> Result<(), LayerError> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(LayerError::malformed(self.part, "bytes left over")),
        }
    }
}

/// The bytes `range` of `bytes`, or an error that names the part.
pub(super) fn slice(part: Part, bytes: &[u8], range: Range<usize>) -> Result<&[u8], LayerError> {
    bytes.get(range.clone()).ok_or(LayerError::Truncated {
        part,
        want_bytes: range.end,
        got_bytes: bytes.len(),
    })
}

/// Refuses unless `stored` is the CRC-32C of `parts` one after the other.
pub(super) fn check_crc(part: Part, stored: u32, parts: [&[u8]; 2]) -> Result<(), LayerError> {
    let computed = crc32c::crc32c_append(crc32c::crc32c(parts[0]), parts[1]);
    match stored == computed {
        true => Ok(()),
        false => Err(LayerError::Checksum {
            part,
            stored,
            computed,
        }),
    }
}
