//! Header and footer of a layer object, version 1: both in the clear. Written and read only here.
//!
//! Header, 128 bytes at the start:
//!
//! |  at | bytes | field        | meaning                                                     |
//! |----:|------:|--------------|-------------------------------------------------------------|
//! |   0 |     8 | magic        | `PAGELAYR`                                                  |
//! |   8 |     2 | version      | 1; a reader refuses a higher one by number                  |
//! |  10 |     2 | cipher       | 1: AES-256-GCM-SIV; others are refused by number            |
//! |  12 |     4 | flags        | none yet: zero, others are refused                          |
//! |  16 |     4 | extent_bytes | the grid, 262,144                                           |
//! |  20 |     4 | epoch        | of the writer                                               |
//! |  24 |    16 | tenant       | whose data it is                                            |
//! |  40 |    16 | branch       | that wrote it                                               |
//! |  56 |     8 | sequence     | of the object                                               |
//! |  64 |     4 | dek_table    | key table of its DEK                                        |
//! |  68 |     4 | dek_slot     | slot in that table                                          |
//! |  72 |    16 | key_check    | key-check value of the DEK                                  |
//! |  88 |    36 | reserved     | zeros                                                       |
//! | 124 |     4 | checksum     | CRC-32C over bytes 0..124                                   |
//!
//! Footer, 32 bytes at the end:
//!
//! |  at | bytes | field        | meaning                                                     |
//! |----:|------:|--------------|-------------------------------------------------------------|
//! |   0 |     8 | magic        | `PAGELEND`                                                  |
//! |   8 |     8 | index_at     | where the sealed index begins; a multiple of 8              |
//! |  16 |     4 | index_bytes  | ciphertext and tag                                          |
//! |  20 |     4 | extent_count | extents, back to back from byte 128 to `index_at`           |
//! |  24 |     4 | index_crc    | CRC-32C over the sealed index and the zeros that pad it     |
//! |  28 |     4 | checksum     | CRC-32C over bytes 0..28                                    |
//!
//! The checksums find damage, the seals find forgery: nothing in here is trusted for more than naming what is
//! wrong, and for finding the index when no manifest says where it is.

use std::ops::Range;

use super::format::{FORMAT, Fields, UNIT_BYTES, aligned, check_crc};
use super::{EXTENT_BYTES, EXTENTS_MAX, LayerError, LayerId, OBJECT_BYTES_MAX, Part};
use crate::crypto::page_seal::{CIPHER_ID, DekId, TAG_BYTES};
use crate::types::{BranchId, Id, ObjectId, TenantId};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 128;

/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 32;

const MAGIC: [u8; 8] = *b"PAGELAYR";
const FOOTER_MAGIC: [u8; 8] = *b"PAGELEND";
const CHECKSUM_AT: usize = HEADER_BYTES - 4;
const FOOTER_CHECKSUM_AT: usize = FOOTER_BYTES - 4;
const RESERVED_BYTES: usize = 36;

const _: () = assert!(HEADER_BYTES.is_multiple_of(UNIT_BYTES));
const _: () = assert!(FOOTER_BYTES.is_multiple_of(UNIT_BYTES));

/// What a layer says of itself in the clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerHeader {
    /// Which layer it is.
    pub layer: LayerId,
    /// Where its wrapped DEK is.
    pub dek_id: DekId,
    /// That DEK's key-check value.
    pub key_check: [u8; TAG_BYTES],
}

impl LayerHeader {
    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.version.to_le_bytes());
        bytes.extend_from_slice(&CIPHER_ID.to_le_bytes());
        bytes.extend_from_slice(&0u32.to_le_bytes());
        bytes.extend_from_slice(&GRID.to_le_bytes());
        bytes.extend_from_slice(&self.layer.object.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.layer.tenant.0.0);
        bytes.extend_from_slice(&self.layer.object.branch.0.0);
        bytes.extend_from_slice(&self.layer.object.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.dek_id.table.to_le_bytes());
        bytes.extend_from_slice(&self.dek_id.slot.to_le_bytes());
        bytes.extend_from_slice(&self.key_check);
        bytes.extend_from_slice(&[0; RESERVED_BYTES]);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.try_into().expect("the fields fill the header")
    }

    /// Reads the header at the start of `object`.
    ///
    /// # Errors
    /// `NewerFormat` and `UnknownCipher` come before the checksum, which a newer version may keep elsewhere.
    pub fn decode(object: &[u8]) -> Result<LayerHeader, LayerError> {
        let part = Part::Header;
        let mut fields = Fields::new(part, object, HEADER_BYTES)?;
        if fields.array()? != MAGIC {
            return Err(LayerError::NotALayer { part });
        }
        let version = fields.u16()?;
        if version > FORMAT.version {
            return Err(LayerError::NewerFormat {
                version,
                known: FORMAT.version,
            });
        }
        let stored = u32::from_le_bytes(
            object[CHECKSUM_AT..HEADER_BYTES]
                .try_into()
                .expect("four bytes"),
        );
        check_crc(part, stored, [&object[..CHECKSUM_AT], &[]])?;
        if version == 0 {
            return Err(LayerError::malformed(part, "version 0 never was"));
        }
        let cipher = fields.u16()?;
        if cipher != CIPHER_ID {
            return Err(LayerError::UnknownCipher { cipher });
        }
        if fields.u32()? != 0 {
            return Err(LayerError::malformed(part, "unknown flags"));
        }
        if fields.u32()? != GRID {
            return Err(LayerError::malformed(part, "another extent grid"));
        }
        let epoch = fields.u32()?;
        let tenant = TenantId(Id(fields.array()?));
        let branch = BranchId(Id(fields.array()?));
        let sequence = fields.u64()?;
        let dek_id = DekId {
            table: fields.u32()?,
            slot: fields.u32()?,
        };
        let key_check = fields.array()?;
        fields.reserved(RESERVED_BYTES)?;
        let object = ObjectId {
            branch,
            epoch,
            sequence,
        };
        Ok(LayerHeader {
            layer: LayerId { tenant, object },
            dek_id,
            key_check,
        })
    }

    /// Tells why a seal of this object did not open: compares what the object says of itself with what was asked
    /// for and with the key that was used. `Ok` means right object and right key, so the bytes are damaged.
    pub fn check(
        &self,
        want: &LayerId,
        dek_id: DekId,
        key_check: &[u8; TAG_BYTES],
    ) -> Result<(), LayerError> {
        if self.layer != *want {
            return Err(LayerError::OtherObject {
                want_tenant: want.tenant,
                want: want.object,
                found_tenant: self.layer.tenant,
                found: self.layer.object,
            });
        }
        if self.dek_id != dek_id || self.key_check != *key_check {
            return Err(LayerError::WrongKey {
                want: dek_id,
                found: self.dek_id,
            });
        }
        Ok(())
    }
}

/// Where the parts of a layer are, for readers that have no manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerFooter {
    /// Where the sealed index begins.
    pub index_at: u64,
    /// Its bytes, tag included.
    pub index_bytes: u32,
    /// Extents of the object.
    pub extent_count: u32,
    /// CRC-32C over the sealed index and its padding.
    pub index_crc: u32,
}

impl LayerFooter {
    /// Its bytes.
    pub fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        bytes.extend_from_slice(&FOOTER_MAGIC);
        bytes.extend_from_slice(&self.index_at.to_le_bytes());
        bytes.extend_from_slice(&self.index_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.extent_count.to_le_bytes());
        bytes.extend_from_slice(&self.index_crc.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.try_into().expect("the fields fill the footer")
    }

    /// Reads the footer, which is the last [`FOOTER_BYTES`] of an object of `object_bytes`.
    pub fn decode(footer: &[u8], object_bytes: u64) -> Result<LayerFooter, LayerError> {
        let part = Part::Footer;
        let mut fields = Fields::new(part, footer, FOOTER_BYTES)?;
        if fields.array()? != FOOTER_MAGIC {
            return Err(LayerError::NotALayer { part });
        }
        let decoded = LayerFooter {
            index_at: fields.u64()?,
            index_bytes: fields.u32()?,
            extent_count: fields.u32()?,
            index_crc: fields.u32()?,
        };
        check_crc(part, fields.u32()?, [&footer[..FOOTER_CHECKSUM_AT], &[]])?;
        fields.finish()?;
        if object_bytes > OBJECT_BYTES_MAX {
            return Err(LayerError::malformed(part, "the object is too long"));
        }
        if decoded.extent_count == 0 || decoded.extent_count > EXTENTS_MAX {
            return Err(LayerError::malformed(part, "impossible number of extents"));
        }
        let index_end = decoded
            .index_at
            .checked_add(aligned(decoded.index_bytes as usize) as u64)
            .and_then(|end| end.checked_add(FOOTER_BYTES as u64));
        if !decoded.index_at.is_multiple_of(UNIT_BYTES as u64)
            || decoded.index_at < HEADER_BYTES as u64
            || index_end != Some(object_bytes)
        {
            return Err(LayerError::malformed(
                part,
                "the index does not end at the footer",
            ));
        }
        Ok(decoded)
    }

    /// Where the sealed index is, without the zeros behind it.
    pub fn index_range(&self) -> Range<u64> {
        self.index_at..self.index_at + u64::from(self.index_bytes)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "262,144 fits")]
const GRID: u32 = EXTENT_BYTES as u32;
