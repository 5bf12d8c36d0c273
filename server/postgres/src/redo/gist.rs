//! GiST indexes.
//!
//! Special space of every page, 16 bytes:
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  0 |     8 | LSN of the split that made the page, upper half first |
//! |  8 |     4 | page to the right |
//! | 12 |     2 | flags |
//! | 14 |     2 | 0xff81 |

use super::fields::Fields;
use super::index_records::{IndexRecords, NO_BLOCK, take_index_tuple, take_offsets};
use super::{Change, RedoError};
use crate::page::{PAGE_HEADER_BYTES, PageMut, Place};

pub(super) fn apply(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    match (change.operation(), change.block_id) {
        (PAGE_UPDATE, 0) => update(change, page),
        (PAGE_UPDATE, 1) | (PAGE_SPLIT, 0) => finish_split(change, page),
        (DELETE, 0) => delete(change, page),
        (PAGE_SPLIT, _) => fill_part(change, page),
        (PAGE_DELETE, 0) => delete_page(change, page),
        (PAGE_DELETE, 1) => {
            let mut main = Fields::new("GiST page deletion", change.main);
            main.take(8)?;
            Ok(page.index_tuple_delete(main.u16()?)?)
        }
        _ => Err(change.unexpected_block()),
    }
}

/// What becomes of a page whose image was restored: the image of the left half of a finished split was taken before
/// the split was marked as finished.
pub(super) fn after_image(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    match (change.operation(), change.block_id) {
        (PAGE_UPDATE, 1) | (PAGE_SPLIT, 0) => finish_split(change, page),
        _ => Ok(()),
    }
}

/// The page to the right has got its entry in the parent: no need any more to follow the link to it.
fn finish_split(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    set_split_lsn(page, change.end.0)?;
    change_flags(page, |flags| flags & !FOLLOW_RIGHT)
}

/// Removes and adds tuples.
fn update(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("GiST update record", change.main);
    let (removed, added) = (main.u16()?, main.u16()?);
    let mut data = Fields::new("tuples of a GiST page", change.data);
    if removed == 1 && added == 1 {
        // In place, so that the other tuples stay where they are.
        let offset = data.u16()?;
        page.index_tuple_overwrite(offset, take_index_tuple(&mut data)?)?;
    } else if removed > 0 {
        page.index_multi_delete(take_offsets(&mut data, removed)?.iter())?;
        if flags(page)? & LEAF != 0 {
            change_flags(page, |flags| flags | TUPLES_DELETED)?;
        }
    }
    append(page, data)
}

/// Removes tuples that scans found dead.
fn delete(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("GiST delete record", change.main);
    let _snapshot_horizon = main.u32()?;
    let count = main.u16()?;
    let header = change.version.gist_delete_header_bytes();
    let mut main = Fields::new("GiST delete record", change.main);
    main.take(header)?;
    page.index_multi_delete(take_offsets(&mut main, count)?.iter())?;
    change_flags(page, |flags| flags & !HAS_GARBAGE | TUPLES_DELETED)
}

/// Makes one of the pages that a page was split into: block 1 is the first, and the original one unless that is the
/// root, which then comes first with entries of all others.
fn fill_part(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("GiST split record", change.main);
    let right_of_all = main.u32()?;
    main.align(8)?;
    let split_lsn = main.u64()?;
    let of_leaf = main.u8()? != 0;
    main.align(2)?;
    let parts = main.u16()?;
    let follow_right = main.u8()? != 0;
    if u16::from(change.block_id) > parts {
        return Err(change.unexpected_block());
    }
    let is_last = u16::from(change.block_id) == parts;
    let is_root = change.tag.block == ROOT;
    let root_was_split = match change.block_id {
        1 => is_root,
        _ => change.other(1)?.block == ROOT,
    };
    let right = match (is_root, is_last) {
        (true, _) => NO_BLOCK,
        (false, true) => right_of_all,
        (false, false) => change.other(change.block_id.saturating_add(1))?.block,
    };
    let mut new_flags = if of_leaf && !is_root { LEAF } else { 0 };
    if !is_root && !is_last && !root_was_split && follow_right {
        new_flags |= FOLLOW_RIGHT;
    }

    page.init(SPECIAL_BYTES)?;
    set_split_lsn(page, split_lsn)?;
    let special = page.special_space_mut(SPECIAL_BYTES)?;
    special[8..12].copy_from_slice(&right.to_le_bytes());
    special[12..14].copy_from_slice(&new_flags.to_le_bytes());
    special[14..16].copy_from_slice(&GIST_PAGE_ID.to_le_bytes());
    let mut data = Fields::new("tuples of a GiST page", change.data);
    // How many they are; their bytes say it as well.
    let count = data.u32()?;
    append(page, data)?;
    if u32::from(page.item_count()) != count {
        return Err(RedoError::Record {
            what: "count of tuples",
            value: count.into(),
        });
    }
    Ok(())
}

/// Adds all tuples that are left in `data` behind those of the page.
fn append(page: &mut PageMut<'_>, mut data: Fields<'_>) -> Result<(), RedoError> {
    while data.left() > 0 {
        let tuple = take_index_tuple(&mut data)?;
        let next = page.item_count() + 1;
        page.add_item(tuple, Place::Insert(next))?;
    }
    Ok(())
}

/// An empty leaf is deleted: it keeps only until whom scans may still come by.
fn delete_page(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let delete_xid = Fields::new("GiST page deletion", change.main).u64()?;
    change_flags(page, |flags| flags | DELETED)?;
    page.set_lower(DELETED_END);
    let end = usize::from(DELETED_END);
    page.bytes_mut()[PAGE_HEADER_BYTES..end].copy_from_slice(&delete_xid.to_le_bytes());
    Ok(())
}

fn set_split_lsn(page: &mut PageMut<'_>, lsn: u64) -> Result<(), RedoError> {
    page.special_space_mut(SPECIAL_BYTES)?[..8].copy_from_slice(&lsn.rotate_left(32).to_le_bytes());
    Ok(())
}

fn flags(page: &PageMut<'_>) -> Result<u16, RedoError> {
    let special = page.special_space(SPECIAL_BYTES)?;
    Ok(u16::from_le_bytes([special[12], special[13]]))
}

fn change_flags(page: &mut PageMut<'_>, change: impl FnOnce(u16) -> u16) -> Result<(), RedoError> {
    let flags = change(flags(page)?);
    page.special_space_mut(SPECIAL_BYTES)?[12..14].copy_from_slice(&flags.to_le_bytes());
    Ok(())
}

const SPECIAL_BYTES: usize = 16;
const GIST_PAGE_ID: u16 = 0xff81;
const ROOT: u32 = 0;
/// A deleted page has a full transaction id behind its header.
const DELETED_END: u16 = 32;

const LEAF: u16 = 1;
const DELETED: u16 = 1 << 1;
const TUPLES_DELETED: u16 = 1 << 2;
const FOLLOW_RIGHT: u16 = 1 << 3;
const HAS_GARBAGE: u16 = 1 << 4;

// Also 0x20 (a page is about to be reused) and 0x70 (an LSN for an index that is not logged): they touch no page.
const PAGE_UPDATE: u8 = 0x00;
const DELETE: u8 = 0x10;
const PAGE_SPLIT: u8 = 0x30;
const PAGE_DELETE: u8 = 0x60;
