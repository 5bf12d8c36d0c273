//! One record: its header, the blocks it touches, its data. A view; nothing is copied.
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
//! Behind it come the headers of blocks (id 0 to 32, ascending), of the replication origin (253), of the top
//! transaction (252) and of the main data (255 short, 254 long), then the blocks' images and data, then the main
//! data. The same from 15 to 18.

use std::ops::Range;

use engine::types::Lsn;

use super::image::Image;
use super::manager::ResourceManager;
use super::version::WalVersion;
use crate::bytes_at::{Unread, u32_at, u64_at};
use crate::key::{BlockTag, Fork, Relation};

/// Bytes of a record's header.
pub(super) const RECORD_HEADER_BYTES: usize = 24;

/// Longest record: what Postgres allows itself to build.
pub(super) const RECORD_BYTES_MAX: u32 = 1020 << 20;

/// Most blocks that a record can touch.
pub const RECORD_BLOCKS_MAX: usize = 33;

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
        let bytes: &[u8; RECORD_HEADER_BYTES] = bytes.first_chunk()?;
        Some(RecordHeader {
            total_bytes: u32_at(bytes, 0)?,
            xid: u32_at(bytes, 4)?,
            previous: Lsn(u64_at(bytes, 8)?),
            info: bytes[16],
            manager: ResourceManager(bytes[17]),
            crc: u32_at(bytes, 20)?,
        })
    }

    /// The operation, as the resource manager numbers it.
    pub fn operation(&self) -> u8 {
        self.info & 0xf0
    }
}

/// The checksum of a whole record of at least [`RECORD_HEADER_BYTES`].
pub(super) fn record_crc(record: &[u8]) -> u32 {
    let body = crc32c::crc32c(&record[RECORD_HEADER_BYTES..]);
    crc32c::crc32c_append(body, &record[..20])
}

/// Why a record's content does not decode, though its checksum was right.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    /// Ends within a header, or its parts do not add up to its length.
    #[error("the record's parts do not add up to its length")]
    Length,
    /// An id that is no block and nothing else known.
    #[error("unknown block id {0}")]
    BlockId(u8),
    /// Blocks have to come in ascending order.
    #[error("block id {0} is out of order")]
    BlockOrder(u8),
    /// A fork that does not exist.
    #[error("unknown fork {0}")]
    Fork(u8),
    /// A block of the same relation as the one before, and there is none before.
    #[error("a block refers to the relation of the block before, and there is none")]
    NoRelation,
    /// The flag for data and the data's length contradict each other.
    #[error("block id {0} has data without the flag for it, or the flag without data")]
    DataFlag(u8),
    /// The image's header contradicts itself.
    #[error(
        "block id {id} has an image of {bytes} bytes, flags {flags:#04x}, hole {hole_bytes} at {hole_at}"
    )]
    Image {
        /// Which block.
        id: u8,
        /// Bytes of image in the record.
        bytes: u16,
        /// Flags of the image.
        flags: u8,
        /// Where the hole begins.
        hole_at: u16,
        /// How long it is.
        hole_bytes: u16,
    },
}

/// A whole record, borrowed from where it was read.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// How to read its content.
    pub version: WalVersion,
    /// Where it begins.
    pub start: Lsn,
    /// Behind its last byte, rounded up to the next record position: what Postgres calls its end, and puts into
    /// the pages it changes.
    pub end: Lsn,
    /// LSN of the record before.
    pub previous: Lsn,
    /// Transaction id, 0 if none.
    pub xid: u32,
    /// All eight bits: the upper four are the resource manager's.
    pub info: u8,
    /// Whose record it is.
    pub manager: ResourceManager,
    /// Replication origin, 0 if none.
    pub origin: u16,
    /// Top transaction of `xid`, 0 if the record does not say.
    pub top_xid: u32,
    /// The main data.
    pub main: &'a [u8],
    /// The record's bytes from behind its header on.
    body: &'a [u8],
    blocks: &'a [BlockHead],
}

/// A block that a record touches, with what the record has for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockReference<'a> {
    /// Its number in the record, which tells the resource manager its part.
    pub id: u8,
    /// Which block.
    pub tag: BlockTag,
    /// Redo makes the page anew, whatever it was.
    pub will_init: bool,
    /// The page's image, to restore or (without the apply flag) to compare with.
    pub image: Option<Image<'a>>,
    /// What the resource manager logged for this block; empty if nothing.
    pub data: &'a [u8],
}

/// Where the parts of one block are in a record.
#[derive(Clone, Debug)]
struct BlockHead {
    id: u8,
    tag: BlockTag,
    will_init: bool,
    has_image: bool,
    image_flags: u8,
    hole: (u16, u16),
    image: Range<usize>,
    data: Range<usize>,
}

/// Room for the blocks of one record, to be used for one after the other.
#[derive(Debug, Default)]
pub struct RecordScratch {
    /// At most [`RECORD_BLOCKS_MAX`].
    blocks: Vec<BlockHead>,
}

impl RecordScratch {
    /// Room for a record of any number of blocks.
    pub fn new() -> RecordScratch {
        RecordScratch {
            blocks: Vec::with_capacity(RECORD_BLOCKS_MAX),
        }
    }
}

impl<'a> Record<'a> {
    /// A view of the whole record in `bytes`, which the caller has checked to be of the length its header says and
    /// to have the right checksum.
    /// # Errors
    /// The record contradicts itself: it is of a version this code does not know.
    pub fn parse(
        version: WalVersion,
        start: Lsn,
        end: Lsn,
        bytes: &'a [u8],
        scratch: &'a mut RecordScratch,
    ) -> Result<Record<'a>, RecordError> {
        let header = RecordHeader::decode(bytes).ok_or(RecordError::Length)?;
        let body = &bytes[RECORD_HEADER_BYTES..];
        let heads = Heads::parse(body, &mut scratch.blocks)?;
        Ok(Record {
            version,
            start,
            end,
            previous: header.previous,
            xid: header.xid,
            info: header.info,
            manager: header.manager,
            origin: heads.origin,
            top_xid: heads.top_xid,
            main: &body[heads.main],
            body,
            blocks: &scratch.blocks,
        })
    }

    /// The operation, as the resource manager numbers it: the upper four bits of `info`.
    pub fn operation(&self) -> u8 {
        self.info & 0xf0
    }

    /// The blocks it touches, in the order of their ids.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = BlockReference<'a>> + use<'a> {
        let body = self.body;
        self.blocks.iter().map(move |head| head.reference(body))
    }

    /// The block with this id, if the record has one.
    pub fn block(&self, id: u8) -> Option<BlockReference<'a>> {
        let head = self.blocks.iter().find(|head| head.id == id)?;
        Some(head.reference(self.body))
    }

    /// Bytes of the record, its header included.
    pub fn total_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.body.len()
    }
}

impl BlockHead {
    fn reference<'a>(&self, body: &'a [u8]) -> BlockReference<'a> {
        BlockReference {
            id: self.id,
            tag: self.tag,
            will_init: self.will_init,
            image: self.has_image.then(|| {
                Image::new(
                    self.image_flags,
                    self.hole.0,
                    self.hole.1,
                    &body[self.image.clone()],
                )
            }),
            data: &body[self.data.clone()],
        }
    }
}

/// What the headers behind a record's header say.
struct Heads {
    origin: u16,
    top_xid: u32,
    main: Range<usize>,
}

impl Heads {
    /// Reads the headers, fills `blocks`, and places every part within `body`.
    fn parse(body: &[u8], blocks: &mut Vec<BlockHead>) -> Result<Heads, RecordError> {
        blocks.clear();
        let mut unread = Unread(body);
        let mut data_bytes = 0usize;
        let mut main_bytes = 0usize;
        let (mut origin, mut top_xid) = (0, 0);
        // Headers end where what is left is the data they announced; main data is announced last.
        while unread.0.len() > data_bytes {
            match unread.u8().ok_or(SHORT)? {
                MAIN_DATA_SHORT => {
                    main_bytes = usize::from(unread.u8().ok_or(SHORT)?);
                    data_bytes += main_bytes;
                    break;
                }
                MAIN_DATA_LONG => {
                    main_bytes = usize::try_from(unread.u32().ok_or(SHORT)?).map_err(|_| SHORT)?;
                    data_bytes += main_bytes;
                    break;
                }
                ORIGIN => origin = unread.u16().ok_or(SHORT)?,
                TOP_XID => top_xid = unread.u32().ok_or(SHORT)?,
                id if id <= BLOCK_ID_MAX => {
                    let head = block_head(&mut unread, id, blocks.last())?;
                    data_bytes += head.image.len() + head.data.len();
                    blocks.push(head);
                }
                id => return Err(RecordError::BlockId(id)),
            }
        }
        if unread.0.len() != data_bytes {
            return Err(RecordError::Length);
        }
        let mut at = body.len() - unread.0.len();
        for head in blocks {
            head.image = at..at + head.image.len();
            head.data = head.image.end..head.image.end + head.data.len();
            at = head.data.end;
        }
        Ok(Heads {
            origin,
            top_xid,
            main: at..at + main_bytes,
        })
    }
}

/// The header of block `id`, behind its id; its parts' ranges have the right lengths but begin at 0.
fn block_head(
    unread: &mut Unread<'_>,
    id: u8,
    before: Option<&BlockHead>,
) -> Result<BlockHead, RecordError> {
    if before.is_some_and(|before| before.id >= id) {
        return Err(RecordError::BlockOrder(id));
    }
    let flags = unread.u8().ok_or(SHORT)?;
    let data_bytes = usize::from(unread.u16().ok_or(SHORT)?);
    if (flags & BLOCK_HAS_DATA != 0) != (data_bytes > 0) {
        return Err(RecordError::DataFlag(id));
    }
    let has_image = flags & BLOCK_HAS_IMAGE != 0;
    let (mut image_flags, mut image_bytes, mut hole) = (0, 0, (0, 0));
    if has_image {
        image_bytes = unread.u16().ok_or(SHORT)?;
        let hole_at = unread.u16().ok_or(SHORT)?;
        image_flags = unread.u8().ok_or(SHORT)?;
        let hole_bytes = Image::hole_bytes(image_flags, image_bytes, || unread.u16().ok_or(SHORT))?;
        if !Image::header_is_sound(image_flags, image_bytes, hole_at, hole_bytes) {
            return Err(RecordError::Image {
                id,
                bytes: image_bytes,
                flags: image_flags,
                hole_at,
                hole_bytes,
            });
        }
        hole = (hole_at, hole_bytes);
    }
    let relation = if flags & BLOCK_SAME_RELATION == 0 {
        Relation {
            tablespace: unread.u32().ok_or(SHORT)?,
            database: unread.u32().ok_or(SHORT)?,
            number: unread.u32().ok_or(SHORT)?,
        }
    } else {
        before.ok_or(RecordError::NoRelation)?.tag.relation
    };
    let fork = flags & BLOCK_FORK_MASK;
    Ok(BlockHead {
        id,
        tag: BlockTag {
            relation,
            fork: Fork::from_number(fork).ok_or(RecordError::Fork(fork))?,
            block: unread.u32().ok_or(SHORT)?,
        },
        will_init: flags & BLOCK_WILL_INIT != 0,
        has_image,
        image_flags,
        hole,
        image: 0..usize::from(image_bytes),
        data: 0..data_bytes,
    })
}

/// What the headers announce is not all there.
const SHORT: RecordError = RecordError::Length;

const BLOCK_ID_MAX: u8 = 32;
const MAIN_DATA_SHORT: u8 = 255;
const MAIN_DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOP_XID: u8 = 252;

const BLOCK_FORK_MASK: u8 = 0x0f;
const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_HAS_DATA: u8 = 0x20;
const BLOCK_WILL_INIT: u8 = 0x40;
const BLOCK_SAME_RELATION: u8 = 0x80;

#[cfg(test)]
mod tests;
