//! An extent, version 1: the unit of a miss and of the cache. At most 256 KiB, never of two partitions.
//!
//! Header, 32 bytes, in the clear:
//!
//! |  at | bytes | field           | meaning                                                     |
//! |----:|------:|-----------------|-------------------------------------------------------------|
//! |   0 |     4 | magic           | `EXTN`                                                      |
//! |   4 |     4 | extent_no       | position in the object, from 0                              |
//! |   8 |     4 | extent_bytes    | the whole extent; a multiple of 8, at most 262,144          |
//! |  12 |     4 | directory_bytes | sealed directory, tag included                              |
//! |  16 |     2 | block_count     | blocks, at least 1                                          |
//! |  18 |    10 | reserved        | zeros                                                       |
//! |  28 |     4 | checksum        | CRC-32C over bytes 0..28 and 32..extent_bytes               |
//!
//! Behind it the sealed directory, then the sealed blocks (ciphertext and tag), each at the next multiple of 8, the
//! gaps filled with zeros. The directory comes first so that whoever receives the extent as a stream can answer
//! from each block as it arrives. An extent is stored in a cache slot byte for byte.
//!
//! The checksum is over ciphertext and needs no key. It is known only when the whole extent is there; blocks that
//! were opened before rest on their seals, which are stronger.

use std::ops::Range;

use super::format::{Fields, UNIT_BYTES, aligned, check_crc};
use super::{EXTENT_BYTES, EXTENTS_MAX, LayerError, Part};
use crate::crypto::page_seal::TAG_BYTES;

/// Bytes of the header.
pub const EXTENT_HEADER_BYTES: usize = 32;

const MAGIC: [u8; 4] = *b"EXTN";
const RESERVED_BYTES: usize = 10;
const CHECKSUM_AT: usize = EXTENT_HEADER_BYTES - 4;

const _: () = assert!(EXTENT_HEADER_BYTES.is_multiple_of(UNIT_BYTES));

/// What an extent says of itself in the clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtentHeader {
    /// Its position in the object.
    pub extent_no: u32,
    /// Bytes of the whole extent, this header included.
    pub extent_bytes: u32,
    /// Bytes of the sealed directory.
    pub directory_bytes: u32,
    /// Blocks behind the directory.
    pub block_count: u16,
    /// Over all other bytes of the extent.
    pub checksum: u32,
}

impl ExtentHeader {
    /// Its bytes, with the checksum it has.
    pub(super) fn encode(&self) -> [u8; EXTENT_HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(EXTENT_HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.extent_no.to_le_bytes());
        bytes.extend_from_slice(&self.extent_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.directory_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.block_count.to_le_bytes());
        bytes.extend_from_slice(&[0; RESERVED_BYTES]);
        bytes.extend_from_slice(&self.checksum.to_le_bytes());
        bytes.try_into().expect("the fields fill the header")
    }

    /// Fills in the checksum of a complete `extent` whose header was written without it.
    pub(super) fn seal_checksum(extent: &mut [u8]) {
        let checksum = crc32c::crc32c_append(
            crc32c::crc32c(&extent[..CHECKSUM_AT]),
            &extent[EXTENT_HEADER_BYTES..],
        );
        extent[CHECKSUM_AT..EXTENT_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads the header at the start of `extent`, which must be extent `extent_no`. The checksum is not verified:
    /// see [`ExtentHeader::verify`].
    pub fn decode(extent_no: u32, extent: &[u8]) -> Result<ExtentHeader, LayerError> {
        let part = Part::Extent(extent_no);
        let mut fields = Fields::new(part, extent, EXTENT_HEADER_BYTES)?;
        if fields.array()? != MAGIC {
            return Err(LayerError::NotALayer { part });
        }
        if fields.u32()? != extent_no || extent_no >= EXTENTS_MAX {
            return Err(LayerError::malformed(part, "has another number"));
        }
        let header = ExtentHeader {
            extent_no,
            extent_bytes: fields.u32()?,
            directory_bytes: fields.u32()?,
            block_count: fields.u16()?,
            checksum: {
                fields.reserved(RESERVED_BYTES)?;
                fields.u32()?
            },
        };
        fields.finish()?;
        let extent_bytes = header.extent_bytes as usize;
        if extent_bytes > EXTENT_BYTES || !extent_bytes.is_multiple_of(UNIT_BYTES) {
            return Err(LayerError::malformed(part, "impossible length"));
        }
        if (header.directory_bytes as usize) <= TAG_BYTES || header.blocks_at() >= extent_bytes {
            return Err(LayerError::malformed(part, "impossible directory length"));
        }
        if header.block_count == 0 {
            return Err(LayerError::malformed(part, "has no blocks"));
        }
        Ok(header)
    }

    /// Where the sealed directory is in the extent.
    pub fn directory_range(&self) -> Range<usize> {
        EXTENT_HEADER_BYTES..EXTENT_HEADER_BYTES + self.directory_bytes as usize
    }

    /// Where the first block is in the extent.
    pub fn blocks_at(&self) -> usize {
        aligned(self.directory_range().end)
    }

    /// Verifies length and checksum of a whole extent. Needs no key.
    pub fn verify(&self, extent: &[u8]) -> Result<(), LayerError> {
        let part = Part::Extent(self.extent_no);
        if extent.len() != self.extent_bytes as usize {
            return Err(LayerError::Truncated {
                part,
                want_bytes: self.extent_bytes as usize,
                got_bytes: extent.len(),
            });
        }
        let parts = [&extent[..CHECKSUM_AT], &extent[EXTENT_HEADER_BYTES..]];
        check_crc(part, self.checksum, parts)
    }
}

/// How much of an extent has arrived.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Arrival {
    /// Not even the header.
    Nothing,
    /// The header: lengths are known.
    Header,
    /// The directory can be opened, and the blocks for which [`ExtentAssembler::is_here`].
    Directory,
    /// All of it, and the checksum is right: fit for the cache.
    Whole,
}

/// Follows one extent while it streams in. The caller keeps the bytes, in one buffer; this keeps positions and the
/// running checksum only.
///
/// After an error the extent is not fit for the cache; blocks that opened are right all the same.
#[derive(Debug)]
pub struct ExtentAssembler {
    extent_no: u32,
    extent_bytes: usize,
    arrived_bytes: usize,
    header: Option<ExtentHeader>,
    crc: u32,
}

impl ExtentAssembler {
    /// For extent `extent_no`, of which the layer's index says that it has `extent_bytes`.
    pub fn new(extent_no: u32, extent_bytes: usize) -> ExtentAssembler {
        ExtentAssembler {
            extent_no,
            extent_bytes,
            arrived_bytes: 0,
            header: None,
            crc: 0,
        }
    }

    /// To be called when more has arrived, with everything that has arrived so far. Looks at the new bytes once.
    ///
    /// # Errors
    /// `Malformed`, `NotALayer`: not this extent, as soon as the header is there. `Checksum`: at the end.
    ///
    /// # Panics
    /// If there are fewer bytes than at the last call.
    pub fn advance(&mut self, extent: &[u8]) -> Result<Arrival, LayerError> {
        let part = Part::Extent(self.extent_no);
        assert!(extent.len() >= self.arrived_bytes, "what arrived stays");
        if extent.len() > self.extent_bytes {
            return Err(LayerError::malformed(part, "longer than its index says"));
        }
        if self.header.is_none() {
            if extent.len() < EXTENT_HEADER_BYTES.min(self.extent_bytes) {
                return Ok(Arrival::Nothing);
            }
            let header = ExtentHeader::decode(self.extent_no, extent)?;
            if header.extent_bytes as usize != self.extent_bytes {
                return Err(LayerError::malformed(part, "its index says another length"));
            }
            self.crc = crc32c::crc32c(&extent[..CHECKSUM_AT]);
            self.arrived_bytes = EXTENT_HEADER_BYTES;
            self.header = Some(header);
        }
        let header = self.header.expect("decoded above");
        self.crc = crc32c::crc32c_append(self.crc, &extent[self.arrived_bytes..]);
        self.arrived_bytes = extent.len();
        if self.arrived_bytes == self.extent_bytes {
            return match self.crc == header.checksum {
                true => Ok(Arrival::Whole),
                false => Err(LayerError::Checksum {
                    part,
                    stored: header.checksum,
                    computed: self.crc,
                }),
            };
        }
        match self.arrived_bytes >= header.directory_range().end {
            true => Ok(Arrival::Directory),
            false => Ok(Arrival::Header),
        }
    }

    /// The header, once it has arrived.
    pub fn header(&self) -> Option<&ExtentHeader> {
        self.header.as_ref()
    }

    /// Bytes that have arrived.
    pub fn arrived_bytes(&self) -> usize {
        self.arrived_bytes
    }

    /// Whether all of `place`, a block of this extent, has arrived.
    pub fn is_here(&self, place: &super::BlockPlace) -> bool {
        assert_eq!(place.extent_no, self.extent_no, "a block of this extent");
        place.range().end <= self.arrived_bytes
    }
}
