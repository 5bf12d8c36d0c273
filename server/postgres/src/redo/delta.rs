//! The stored bytes of a delta, version 1: what happens to one page at one LSN. Little-endian. Written and read only
//! by this module and [`implied`](super::implied).
//!
//! The page's key and the LSN (the record's end) are not repeated: a delta is stored as the version of that key at
//! that LSN, and both are given to whoever decodes it.
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  0 |     1 | 1, the version; a reader refuses others |
//! |  1 |     1 | form: 0 of a record's block, as follows; 1 and above [implied](super::implied) |
//! |  2 |     1 | major version of Postgres (15..=18): how to read data and main data |
//! |  3 |     1 | flags: 1 page is made anew, 2 hint bits are logged, 4 has an image; others are refused |
//! |  4 |     1 | resource manager |
//! |  5 |     1 | info |
//! |  6 |     1 | which of the record's blocks |
//! |  7 |     1 | how many other blocks (at most 32) |
//! |  8 |     4 | transaction id |
//! | 12 |       | other blocks, each: id (1), kind (1): 0 same fork, 1 same relation, 2 another; fork (1) unless 0; tablespace, database, relation (4 each) if 2; block (4) |
//! |    |       | if there is an image: flags (1), where the hole begins (2), its length (2), bytes (2), the image as it was logged |
//! |    |     2 | bytes of the block's data, and the data |
//! |    |       | main data, to the end |
//!
//! Beside an image, data, main data and other blocks are kept only where redo changes a restored page (GiST, hash).
//! Images that are only for comparison are not in a delta.

use engine::types::Lsn;

use super::implied::FORM_ZERO;
use super::{Change, Implied, changes_images};
use crate::bytes_at::Unread;
use crate::key::{BlockTag, Fork, PostgresKey, Relation};
use crate::wal::{BlockReference, Image, RECORD_BLOCKS_MAX, Record, ResourceManager, WalVersion};

/// What happens to one page at one LSN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delta<'a> {
    /// What a record has for one of its blocks.
    Record(PageChange<'a>),
    /// What a record implies for a page that is not among its blocks.
    Implied(Implied<'a>),
}

/// What a record has for one of its blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageChange<'a> {
    /// An image to restore first.
    pub image: Option<Image<'a>>,
    /// The change, if there is no image; else what is done to the restored page.
    pub change: Change<'a>,
}

/// Why bytes are not a delta.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeltaError {
    /// Written by a newer version, or not a delta at all.
    #[error("delta: version {0} is not known, only 1 is")]
    Version(u8),
    /// Of a form that is not known.
    #[error("delta: unknown form {0}")]
    Form(u8),
    /// Of a form that its key does not have.
    #[error("delta: form {0} is not one for pages of this kind")]
    Key(u8),
    /// Right version, wrong content.
    #[error("delta: malformed, {0} bytes")]
    Malformed(usize),
}

/// Room for the other blocks of a delta, to be used for one after the other.
#[derive(Debug)]
pub struct DeltaScratch {
    others: [(u8, BlockTag); RECORD_BLOCKS_MAX],
}

impl DeltaScratch {
    /// Room for a delta of any record.
    pub fn new() -> DeltaScratch {
        let relation = Relation {
            tablespace: 0,
            database: 0,
            number: 0,
        };
        let tag = BlockTag {
            relation,
            fork: Fork::Main,
            block: 0,
        };
        DeltaScratch {
            others: [(0, tag); RECORD_BLOCKS_MAX],
        }
    }
}

impl Default for DeltaScratch {
    fn default() -> DeltaScratch {
        DeltaScratch::new()
    }
}

impl<'a> Delta<'a> {
    /// What `record` has for its `block`. `None` if that is nothing: an image only for comparison, of a record that
    /// is nothing but its images.
    pub fn of_block(
        record: &Record<'a>,
        block: &BlockReference<'a>,
        hint_bits_logged: bool,
        scratch: &'a mut DeltaScratch,
    ) -> Option<Delta<'a>> {
        let image = block.image.filter(Image::is_applied);
        let is_image_record = record.manager == ResourceManager::XLOG;
        if image.is_none() && is_image_record && record.operation() == IMAGE_FOR_HINT {
            return None;
        }
        let keeps_change = image.is_none() || changes_images(record.manager);
        let mut count = 0;
        if keeps_change && !is_image_record && record.manager != ResourceManager::GENERIC {
            let others = record.blocks().filter(|other| other.id != block.id);
            for (slot, other) in scratch.others.iter_mut().zip(others) {
                *slot = (other.id, other.tag);
                count += 1;
            }
        }
        let (data, main) = if keeps_change {
            (block.data, record.main)
        } else {
            (&[][..], &[][..])
        };
        Some(Delta::Record(PageChange {
            image,
            change: Change {
                version: record.version,
                end: record.end,
                xid: record.xid,
                manager: record.manager,
                info: record.info,
                block_id: block.id,
                tag: block.tag,
                others: &scratch.others[..count],
                data,
                main,
                hint_bits_logged,
                will_init: block.will_init,
            },
        }))
    }

    /// Whether it makes its page without looking at what was there: no older version is needed.
    pub fn begins_page(&self) -> bool {
        match self {
            Delta::Record(change) => change.image.is_some() || change.change.will_init,
            Delta::Implied(implied) => *implied == Implied::Zero,
        }
    }

    /// The same of stored bytes, whatever their key.
    pub fn stored_begins_page(bytes: &[u8]) -> bool {
        match bytes {
            [VERSION, FORM_RECORD, _, flags, ..] => flags & (WILL_INIT | HAS_IMAGE) != 0,
            [VERSION, form, ..] => *form == FORM_ZERO,
            _ => false,
        }
    }

    /// Appends the stored bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        match self {
            Delta::Record(change) => {
                out.push(FORM_RECORD);
                change.encode(out);
            }
            Delta::Implied(implied) => implied.encode(out),
        }
    }

    /// The delta in `bytes`, which were stored as the version of `key` at `end`.
    /// # Errors
    /// Another version, an unknown form or flag, a form that `key` does not have, or bytes that are cut short. Data
    /// and main data are not looked into.
    pub fn decode(
        key: PostgresKey,
        end: Lsn,
        bytes: &'a [u8],
        scratch: &'a mut DeltaScratch,
    ) -> Result<Delta<'a>, DeltaError> {
        let malformed = DeltaError::Malformed(bytes.len());
        let (version, rest) = bytes.split_first().ok_or(malformed)?;
        if *version != VERSION {
            return Err(DeltaError::Version(*version));
        }
        let (form, rest) = rest.split_first().ok_or(malformed)?;
        if *form != FORM_RECORD {
            let implied = Implied::decode(*form, rest, malformed)?;
            return if implied.is_for(key) {
                Ok(Delta::Implied(implied))
            } else {
                Err(DeltaError::Key(*form))
            };
        }
        let PostgresKey::Block {
            relation,
            fork,
            block,
        } = key
        else {
            return Err(DeltaError::Key(*form));
        };
        let tag = BlockTag {
            relation,
            fork,
            block,
        };
        PageChange::decode(tag, end, Unread(rest), scratch)
            .map(Delta::Record)
            .ok_or(malformed)
    }
}

impl<'a> PageChange<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        let change = &self.change;
        let major = change.version.postgres_major().to_le_bytes()[0];
        let mut flags = 0;
        for (bit, is_set) in [
            (WILL_INIT, change.will_init),
            (HINT_BITS_LOGGED, change.hint_bits_logged),
            (HAS_IMAGE, self.image.is_some()),
        ] {
            if is_set {
                flags |= bit;
            }
        }
        let others = u8::try_from(change.others.len()).expect("a record has at most 33 blocks");
        out.extend([
            major,
            flags,
            change.manager.0,
            change.info,
            change.block_id,
            others,
        ]);
        out.extend(change.xid.to_le_bytes());
        for (id, other) in change.others {
            encode_other(*id, other, &change.tag, out);
        }
        if let Some(image) = &self.image {
            let (hole_at, hole_bytes) = image.hole();
            out.push(image.flags());
            out.extend(hole_at.to_le_bytes());
            out.extend(hole_bytes.to_le_bytes());
            put_counted(image.bytes(), out);
        }
        put_counted(change.data, out);
        out.extend(change.main);
    }

    fn decode(
        tag: BlockTag,
        end: Lsn,
        mut reader: Unread<'a>,
        scratch: &'a mut DeltaScratch,
    ) -> Option<PageChange<'a>> {
        let version = WalVersion::from_postgres_major(reader.u8()?.into())?;
        let flags = reader.u8()?;
        if flags & !(WILL_INIT | HINT_BITS_LOGGED | HAS_IMAGE) != 0 {
            return None;
        }
        let manager = ResourceManager(reader.u8()?);
        let (info, block_id) = (reader.u8()?, reader.u8()?);
        let count = usize::from(reader.u8()?);
        let xid = reader.u32()?;
        let others = scratch.others.get_mut(..count)?;
        for other in others.iter_mut() {
            *other = decode_other(&mut reader, &tag)?;
        }
        let mut image = None;
        if flags & HAS_IMAGE != 0 {
            let (image_flags, hole_at, hole_bytes) = (reader.u8()?, reader.u16()?, reader.u16()?);
            let bytes = counted(&mut reader)?;
            image = Some(Image::new(image_flags, hole_at, hole_bytes, bytes));
        }
        let data = counted(&mut reader)?;
        Some(PageChange {
            image,
            change: Change {
                version,
                end,
                xid,
                manager,
                info,
                block_id,
                tag,
                others,
                data,
                main: reader.0,
                hint_bits_logged: flags & HINT_BITS_LOGGED != 0,
                will_init: flags & WILL_INIT != 0,
            },
        })
    }
}

fn encode_other(id: u8, other: &BlockTag, own: &BlockTag, out: &mut Vec<u8>) {
    let same_relation = other.relation == own.relation;
    let kind = match (same_relation, other.fork == own.fork) {
        (true, true) => OTHER_SAME_FORK,
        (true, false) => OTHER_SAME_RELATION,
        (false, _) => OTHER_RELATION,
    };
    out.extend([id, kind]);
    if kind != OTHER_SAME_FORK {
        out.push(other.fork.number());
    }
    if kind == OTHER_RELATION {
        let relation = other.relation;
        for word in [relation.tablespace, relation.database, relation.number] {
            out.extend(word.to_le_bytes());
        }
    }
    out.extend(other.block.to_le_bytes());
}

fn decode_other(reader: &mut Unread<'_>, own: &BlockTag) -> Option<(u8, BlockTag)> {
    let (id, kind) = (reader.u8()?, reader.u8()?);
    if kind > OTHER_RELATION {
        return None;
    }
    let fork = match kind {
        OTHER_SAME_FORK => own.fork,
        _ => Fork::from_number(reader.u8()?)?,
    };
    let relation = match kind {
        OTHER_RELATION => Relation {
            tablespace: reader.u32()?,
            database: reader.u32()?,
            number: reader.u32()?,
        },
        _ => own.relation,
    };
    let block = reader.u32()?;
    Some((
        id,
        BlockTag {
            relation,
            fork,
            block,
        },
    ))
}

/// Length in two bytes, and the bytes: of images and of the data of blocks, whose lengths have two bytes in WAL.
fn put_counted(bytes: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(bytes.len()).expect("the record had two bytes for the length");
    out.extend(length.to_le_bytes());
    out.extend(bytes);
}

/// What [`put_counted`] wrote.
fn counted<'a>(reader: &mut Unread<'a>) -> Option<&'a [u8]> {
    let length = reader.u16()?;
    reader.take(usize::from(length))
}

const VERSION: u8 = 1;
const FORM_RECORD: u8 = 0;

const WILL_INIT: u8 = 1;
const HINT_BITS_LOGGED: u8 = 2;
const HAS_IMAGE: u8 = 4;

const OTHER_SAME_FORK: u8 = 0;
const OTHER_SAME_RELATION: u8 = 1;
const OTHER_RELATION: u8 = 2;

/// The record that may have no image to restore: an image for a hint bit.
const IMAGE_FOR_HINT: u8 = 0xa0;

#[cfg(test)]
mod tests;
