//! Hash indexes: pages of buckets and their overflow pages here, the metapage and bitmaps of overflow pages in
//! [`meta`].
//!
//! Special space of every page, 16 bytes:
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  0 |     4 | page before in the bucket's chain; in a bucket's first page the highest bucket at its last split |
//! |  4 |     4 | next page in the chain |
//! |  8 |     4 | bucket |
//! | 12 |     2 | flags: kind of page, state of a split |
//! | 14 |     2 | 0xff80 |

mod meta;
#[cfg(test)]
mod tests;

use super::fields::Fields;
use super::index_records::{
    IndexRecords, NO_BLOCK, Offsets, no_image, take_index_tuple, take_offsets,
};
use super::{Change, RedoError, Stamp};
use crate::page::{PageMut, Place, max_align};

pub(super) fn apply(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<Stamp, RedoError> {
    let mut main = Fields::new("hash record", change.main);
    match (change.operation(), change.block_id) {
        (INIT_META_PAGE, 0) => meta::init(page, &mut main)?,
        (INIT_BITMAP_PAGE, 0) | (ADD_OVERFLOW_PAGE, 3) => meta::init_bitmap(page, main.u16()?)?,
        (INIT_BITMAP_PAGE, 1) => meta::add_first_bitmap(page)?,
        (INSERT, 0) => {
            page.add_item(change.data, Place::Insert(main.u16()?))?;
        }
        (INSERT, 1) => meta::change_tuple_count(page, |count| count + 1.0)?,
        (ADD_OVERFLOW_PAGE, 0) => {
            let bucket = Fields::new("bucket of an overflow page", change.data).u32()?;
            let before = change.other(1)?.block;
            init_page(page, before, bucket, OVERFLOW_PAGE)?;
        }
        (ADD_OVERFLOW_PAGE, 1) => set_next(page, change.other(0)?.block)?,
        (ADD_OVERFLOW_PAGE, 2) => meta::set_overflow_bit(page, bit_number(change.data)?, true)?,
        (ADD_OVERFLOW_PAGE, 4) => {
            main.u16()?;
            let bit_was_found = main.u8()? != 0;
            let first_free = Fields::new("first free overflow page", change.data).u32()?;
            // A new page at the end, and with block 3 a new page of bits as well.
            let new_bitmap = match bit_was_found {
                true => None,
                false => Some(change.other(3).ok().map(|tag| tag.block)),
            };
            meta::add_overflow_page(page, first_free, new_bitmap)?;
        }
        (SPLIT_ALLOCATE_PAGE, 0 | 1) | (SPLIT_COMPLETE, 0 | 1) => set_split_state(change, page)?,
        (SPLIT_ALLOCATE_PAGE, 2) => meta::add_bucket(page, &mut main, change.data)?,
        // The bucket's first page: only locked, so that no scan sees the change half done.
        (MOVE_PAGE_CONTENTS | SQUEEZE_PAGE | DELETE, 0) => return Ok(Stamp::Keep),
        (MOVE_PAGE_CONTENTS, 1) => add_tuples(change.data, page, main.u16()?)?,
        (MOVE_PAGE_CONTENTS, 2) => page.index_multi_delete(Offsets::all(change.data).iter())?,
        (SQUEEZE_PAGE, block_id) => return squeeze(change, page, block_id),
        (DELETE, 1) => {
            page.index_multi_delete(Offsets::all(change.data).iter())?;
            if main.u8()? != 0 {
                change_flags(page, |flags| flags & !HAS_DEAD_TUPLES)?;
            }
        }
        (SPLIT_CLEANUP, 0) => change_flags(page, |flags| flags & !NEEDS_SPLIT_CLEANUP)?,
        (UPDATE_META_PAGE, 0) => {
            let tuples = f64::from_bits(main.u64()?);
            meta::change_tuple_count(page, |_| tuples)?;
        }
        (VACUUM_ONE_PAGE, 0) => {
            let count = vacuum_count(change, &mut main)?;
            page.index_multi_delete(take_offsets(&mut main, count)?.iter())?;
            change_flags(page, |flags| flags & !HAS_DEAD_TUPLES)?;
        }
        (VACUUM_ONE_PAGE, 1) => {
            let removed = f64::from(vacuum_count(change, &mut main)?);
            meta::change_tuple_count(page, |count| count - removed)?;
        }
        // Always with an image, which the frame restores.
        (SPLIT_PAGE, 0) => return Err(no_image(change)),
        _ => return Err(change.unexpected_block()),
    }
    Ok(Stamp::End)
}

/// What becomes of a page whose image was restored: the first pages of both buckets get the state of their split
/// again, as Postgres does it.
pub(super) fn after_image(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    match (change.operation(), change.block_id) {
        (SPLIT_ALLOCATE_PAGE | SPLIT_COMPLETE, 0 | 1) => set_split_state(change, page),
        _ => Ok(()),
    }
}

/// The first pages of the old (block 0) and the new bucket (block 1), at the start and the end of a split.
fn set_split_state(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("hash split record", change.main);
    let new_bucket = match change.operation() {
        SPLIT_ALLOCATE_PAGE => Some(main.u32()?),
        _ => None,
    };
    let (old_flags, new_flags) = (main.u16()?, main.u16()?);
    match (change.block_id, new_bucket) {
        (0, Some(new_bucket)) => {
            special(page)?[BEFORE].copy_from_slice(&new_bucket.to_le_bytes());
            change_flags(page, |_| old_flags)
        }
        (0, None) => change_flags(page, |_| old_flags),
        (_, Some(new_bucket)) => init_page(page, new_bucket, new_bucket, new_flags),
        (_, None) => change_flags(page, |_| new_flags),
    }
}

/// An overflow page was freed: its tuples moved to an earlier page of the chain.
fn squeeze(change: &Change<'_>, page: &mut PageMut<'_>, block_id: u8) -> Result<Stamp, RedoError> {
    let mut main = Fields::new("hash squeeze record", change.main);
    let (before, next, tuples) = (main.u32()?, main.u32()?, main.u16()?);
    let (_into_first, into_page_before) = (main.u8()?, main.u8()? != 0);
    match block_id {
        1 => {
            if tuples > 0 {
                add_tuples(change.data, page, tuples)?;
            }
            if into_page_before {
                set_next(page, next)?;
            }
            if tuples == 0
                && !into_page_before
                && !change.version.hash_squeeze_stamps_unchanged_page()
            {
                return Ok(Stamp::Keep);
            }
        }
        2 => init_page(page, NO_BLOCK, NO_BUCKET, UNUSED_PAGE)?,
        3 => set_next(page, next)?,
        4 => special(page)?[BEFORE].copy_from_slice(&before.to_le_bytes()),
        5 => meta::set_overflow_bit(page, bit_number(change.data)?, false)?,
        6 => {
            let first_free = Fields::new("first free overflow page", change.data).u32()?;
            meta::set_first_free(page, first_free)?;
        }
        _ => return Err(change.unexpected_block()),
    }
    Ok(Stamp::End)
}

/// Adds tuples in their places: offset numbers first, then the tuples.
fn add_tuples(data: &[u8], page: &mut PageMut<'_>, count: u16) -> Result<(), RedoError> {
    let mut fields = Fields::new("tuples that move", data);
    for offset in take_offsets(&mut fields, count)?.iter() {
        let mut ahead = fields;
        let bytes = max_align(take_index_tuple(&mut ahead)?.len());
        page.add_item(fields.take(bytes)?, Place::Insert(offset))?;
    }
    match fields.left() {
        0 => Ok(()),
        left => Err(RedoError::Record {
            what: "bytes behind the tuples that move:",
            value: left as u64,
        }),
    }
}

/// How many tuples a *vacuum one page* record removes; `main` is behind the header then.
fn vacuum_count(change: &Change<'_>, main: &mut Fields<'_>) -> Result<u16, RedoError> {
    let _snapshot_horizon = main.u32()?;
    let count = match change.version.hash_vacuum_count_bytes() {
        2 => u32::from(main.u16()?),
        _ => main.u32()?,
    };
    main.align(4)?;
    u16::try_from(count).map_err(|_| RedoError::Record {
        what: "count of dead tuples",
        value: count.into(),
    })
}

/// Which bit of a bitmap page.
fn bit_number(data: &[u8]) -> Result<u32, RedoError> {
    Fields::new("bit of an overflow page", data).u32()
}

fn init_page(
    page: &mut PageMut<'_>,
    before: u32,
    bucket: u32,
    flags: u16,
) -> Result<(), RedoError> {
    page.init(SPECIAL_BYTES)?;
    let special = special(page)?;
    special[BEFORE].copy_from_slice(&before.to_le_bytes());
    special[NEXT].copy_from_slice(&NO_BLOCK.to_le_bytes());
    special[BUCKET].copy_from_slice(&bucket.to_le_bytes());
    special[FLAGS].copy_from_slice(&flags.to_le_bytes());
    special[PAGE_ID].copy_from_slice(&HASH_PAGE_ID.to_le_bytes());
    Ok(())
}

fn set_next(page: &mut PageMut<'_>, next: u32) -> Result<(), RedoError> {
    special(page)?[NEXT].copy_from_slice(&next.to_le_bytes());
    Ok(())
}

fn change_flags(page: &mut PageMut<'_>, change: impl FnOnce(u16) -> u16) -> Result<(), RedoError> {
    let field = &mut special(page)?[FLAGS];
    let flags = u16::from_le_bytes([field[0], field[1]]);
    field.copy_from_slice(&change(flags).to_le_bytes());
    Ok(())
}

fn special<'p>(page: &'p mut PageMut<'_>) -> Result<&'p mut [u8], RedoError> {
    Ok(page.special_space_mut(SPECIAL_BYTES)?)
}

const SPECIAL_BYTES: usize = 16;
const BEFORE: std::ops::Range<usize> = 0..4;
const NEXT: std::ops::Range<usize> = 4..8;
const BUCKET: std::ops::Range<usize> = 8..12;
const FLAGS: std::ops::Range<usize> = 12..14;
const PAGE_ID: std::ops::Range<usize> = 14..16;
const HASH_PAGE_ID: u16 = 0xff80;
const NO_BUCKET: u32 = u32::MAX;

const UNUSED_PAGE: u16 = 0;
const OVERFLOW_PAGE: u16 = 1;
const BITMAP_PAGE: u16 = 1 << 2;
const META_PAGE: u16 = 1 << 3;
const NEEDS_SPLIT_CLEANUP: u16 = 1 << 6;
const HAS_DEAD_TUPLES: u16 = 1 << 7;

const INIT_META_PAGE: u8 = 0x00;
const INIT_BITMAP_PAGE: u8 = 0x10;
const INSERT: u8 = 0x20;
const ADD_OVERFLOW_PAGE: u8 = 0x30;
const SPLIT_ALLOCATE_PAGE: u8 = 0x40;
const SPLIT_PAGE: u8 = 0x50;
const SPLIT_COMPLETE: u8 = 0x60;
const MOVE_PAGE_CONTENTS: u8 = 0x70;
const SQUEEZE_PAGE: u8 = 0x80;
const DELETE: u8 = 0x90;
const SPLIT_CLEANUP: u8 = 0xa0;
const UPDATE_META_PAGE: u8 = 0xb0;
const VACUUM_ONE_PAGE: u8 = 0xc0;
