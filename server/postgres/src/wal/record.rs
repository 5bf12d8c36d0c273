//! One record: its header, and which blocks it touches.
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  0 |     4 | bytes of the whole record |
//! |  4 |     4 | transaction id, 0 if none |
//! |  8 |     8 | LSN of the record before |
//! | 16 |     1 | info: upper four bits are the resource manager's |
//! | 17 |     1 | resource manager |
//! | 18 |     2 | padding |
//! | 20 |     4 | CRC-32C over bytes 24.. and then bytes 0..20 |
//!
//! Behind it come the headers of blocks (id 0 to 32), of the replication origin (253), of the top transaction (252)
//! and of the main data (255 short, 254 long), then the blocks' data, then the main data.

use std::fmt;

use engine::types::Lsn;

use crate::bytes_at::{u16_at, u32_at, u64_at};
use crate::key::{Fork, Relation};

/// Bytes of a record's header.
pub(super) const RECORD_HEADER_BYTES: usize = 24;

/// Longest record: what Postgres allows itself to build.
pub(super) const RECORD_BYTES_MAX: u32 = 1020 << 20;

/// A decoded header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// Bytes of the record with this header.
    pub total_bytes: u32,
    /// Transaction id, 0 if none.
    pub xid: u32,
    /// LSN of the record before.
    pub previous: Lsn,
    /// The resource manager's upper four bits, and four general ones.
    pub info: u8,
    /// Whose record it is.
    pub manager: ResourceManager,
    /// Stored checksum.
    pub crc: u32,
}

impl RecordHeader {
    /// Decodes the first 24 bytes; `None` if fewer are there.
    pub fn decode(bytes: &[u8]) -> Option<RecordHeader> {
        Some(RecordHeader {
            total_bytes: u32_at(bytes, 0)?,
            xid: u32_at(bytes, 4)?,
            previous: Lsn(u64_at(bytes, 8)?),
            info: *bytes.get(16)?,
            manager: ResourceManager(*bytes.get(17)?),
            crc: u32_at(bytes, 20)?,
        })
    }

    /// The operation, as the resource manager numbers it.
    pub fn operation(&self) -> u8 {
        self.info & 0xf0
    }
}

/// The checksum of a whole record.
pub(super) fn record_crc(record: &[u8]) -> u32 {
    let body = crc32c::crc32c(&record[RECORD_HEADER_BYTES..]);
    crc32c::crc32c_append(body, &record[..20])
}

/// Whose record: the number of a resource manager.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceManager(pub u8);

impl ResourceManager {
    /// Checkpoints, images, switches.
    pub const XLOG: ResourceManager = ResourceManager(0);
    /// Snapshots and locks for standbys.
    pub const STANDBY: ResourceManager = ResourceManager(8);
}

impl fmt::Display for ResourceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "custom resource manager {}", self.0),
        }
    }
}

/// A block that a record touches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockReference {
    /// The relation.
    pub relation: Relation,
    /// Its fork.
    pub fork: Fork,
    /// The block.
    pub block: u32,
    /// Whether the record carries an image of it.
    pub has_image: bool,
}

/// Why a record's content does not decode.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    /// Ends within a header.
    #[error("a header inside the record is cut short")]
    Short,
    /// An id that is no block and nothing else known.
    #[error("unknown block id {0}")]
    BlockId(u8),
    /// A fork that does not exist.
    #[error("unknown fork {0}")]
    Fork(u8),
    /// A block of the same relation as the one before, and there is none before.
    #[error("a block refers to the relation of the block before, and there is none")]
    NoRelation,
}

/// The blocks that a whole record touches, in the order of their ids.
/// # Errors
/// The record contradicts itself; its checksum was right, so it is of a version this code does not know.
pub fn block_references(record: &[u8]) -> Result<Vec<BlockReference>, RecordError> {
    let mut cursor = Cursor {
        bytes: record.get(RECORD_HEADER_BYTES..).unwrap_or(&[]),
        at: 0,
    };
    let mut data_bytes = 0usize;
    let mut blocks = Vec::new();
    let mut relation = None;
    // Headers end where what is left is the data they announced.
    while cursor.left() > data_bytes {
        match cursor.u8()? {
            MAIN_DATA_SHORT => {
                data_bytes += usize::from(cursor.u8()?);
            }
            MAIN_DATA_LONG => {
                data_bytes += usize::try_from(cursor.u32()?).map_err(|_| RecordError::Short)?;
            }
            ORIGIN => cursor.skip(2)?,
            TOP_XID => cursor.skip(4)?,
            id if id <= BLOCK_ID_MAX => {
                let flags = cursor.u8()?;
                data_bytes += usize::from(cursor.u16()?);
                let has_image = flags & BLOCK_HAS_IMAGE != 0;
                if has_image {
                    data_bytes += image_header(&mut cursor)?;
                }
                if flags & BLOCK_SAME_RELATION == 0 {
                    relation = Some(Relation {
                        tablespace: cursor.u32()?,
                        database: cursor.u32()?,
                        number: cursor.u32()?,
                    });
                }
                let fork = flags & BLOCK_FORK_MASK;
                blocks.push(BlockReference {
                    relation: relation.ok_or(RecordError::NoRelation)?,
                    fork: Fork::from_number(fork).ok_or(RecordError::Fork(fork))?,
                    block: cursor.u32()?,
                    has_image,
                });
            }
            id => return Err(RecordError::BlockId(id)),
        }
    }
    Ok(blocks)
}

/// The main data of a whole record: its last bytes.
pub(super) fn main_data(record: &[u8]) -> Option<&[u8]> {
    // A record without blocks begins with the header of its main data.
    let body = record.get(RECORD_HEADER_BYTES..)?;
    match *body.first()? {
        MAIN_DATA_SHORT => body.get(2..2 + usize::from(*body.get(1)?)),
        MAIN_DATA_LONG => {
            let length = usize::try_from(u32_at(body, 1)?).ok()?;
            body.get(5..)?.get(..length)
        }
        _ => None,
    }
}

/// Skips an image's header; answers how many bytes of image follow in the data.
fn image_header(cursor: &mut Cursor<'_>) -> Result<usize, RecordError> {
    let length = cursor.u16()?;
    cursor.skip(2)?; // where the hole begins
    let flags = cursor.u8()?;
    let compressed = flags & IMAGE_COMPRESSED != 0;
    if compressed && flags & IMAGE_HAS_HOLE != 0 {
        cursor.skip(2)?; // length of the hole, which a plain image implies
    }
    Ok(usize::from(length))
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn skip(&mut self, bytes: usize) -> Result<(), RecordError> {
        if self.left() < bytes {
            return Err(RecordError::Short);
        }
        self.at += bytes;
        Ok(())
    }

    fn u8(&mut self) -> Result<u8, RecordError> {
        let value = *self.bytes.get(self.at).ok_or(RecordError::Short)?;
        self.at += 1;
        Ok(value)
    }

    fn u16(&mut self) -> Result<u16, RecordError> {
        let value = u16_at(self.bytes, self.at).ok_or(RecordError::Short)?;
        self.at += 2;
        Ok(value)
    }

    fn u32(&mut self) -> Result<u32, RecordError> {
        let value = u32_at(self.bytes, self.at).ok_or(RecordError::Short)?;
        self.at += 4;
        Ok(value)
    }
}

const BLOCK_ID_MAX: u8 = 32;
const MAIN_DATA_SHORT: u8 = 255;
const MAIN_DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOP_XID: u8 = 252;

const BLOCK_FORK_MASK: u8 = 0x0f;
const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_SAME_RELATION: u8 = 0x80;
const IMAGE_HAS_HOLE: u8 = 0x01;
/// pglz, lz4 or zstd.
const IMAGE_COMPRESSED: u8 = 0x04 | 0x08 | 0x10;

const NAMES: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];
