//! GIN indexes: pages of the entry tree here; leaves and inner pages of posting trees in [`posting_tree`], their
//! compressed lists in [`posting_list`], the metapage and the list of pending entries in [`pending`].
//!
//! Special space of every page, 8 bytes:
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  0 |     4 | page to the right |
//! |  4 |     2 | inner page of a posting tree: items; page of the pending list: rows |
//! |  6 |     2 | flags |

mod pending;
mod posting_list;
mod posting_tree;
#[cfg(test)]
mod tests;

use super::fields::Fields;
use super::index_records::{
    ITEM_POINTER_BYTES, NO_BLOCK, item_pointer, no_image, split_block, take_index_tuple,
};
use super::{Change, RedoError};
use crate::page::{PageMut, Place};

pub(super) fn apply(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("GIN record", change.main);
    match (change.operation(), change.block_id) {
        (CREATE_POSTING_TREE, 0) => posting_tree::create(page, &mut main),
        (INSERT, 0) => insert(change, page),
        (INSERT, 1) | (SPLIT, 3) => change_flags(page, |flags| flags & !INCOMPLETE_SPLIT),
        (VACUUM_DATA_LEAF, 0) => posting_tree::recompress(page, change.data),
        (DELETE_PAGE, 0) => {
            main.take(8)?;
            page.set_prune_xid(main.u32()?);
            change_flags(page, |flags| flags | DELETED)
        }
        (DELETE_PAGE, 1) => posting_tree::delete_item(page, main.u16()?),
        (DELETE_PAGE, 2) => {
            main.take(4)?;
            set_right_link(page, main.u32()?)
        }
        (UPDATE_META_PAGE, 0) => {
            main.take(pending::META_AT_IN_UPDATE)?;
            pending::set_meta_page(page, &mut main)
        }
        (UPDATE_META_PAGE, 1) => pending::change_tail(change, page),
        (INSERT_LIST_PAGE, 0) => pending::fill_page(change, page),
        (DELETE_LIST_PAGES, 0) => pending::set_meta_page(page, &mut main),
        (DELETE_LIST_PAGES, _) => init_page(page, DELETED),
        (SPLIT, 0..=2) | (VACUUM_ENTRY_LEAF, 0) => Err(no_image(change)),
        _ => Err(change.unexpected_block()),
    }
}

/// One entry or item more, in a leaf, or for the right half of a page that was split.
fn insert(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("GIN insert record", change.main);
    let kind = main.u16()?;
    let right_child = if kind & INSERT_INTO_LEAF == 0 {
        let _left_child = main.u32()?;
        Some(split_block(main.array()?))
    } else {
        None
    };
    match (kind & INSERT_INTO_POSTING_TREE != 0, right_child) {
        (true, None) => posting_tree::recompress(page, change.data),
        (true, Some(right_child)) => posting_tree::insert_item(page, change.data, right_child),
        (false, right_child) => insert_entry(page, change.data, right_child),
    }
}

fn insert_entry(
    page: &mut PageMut<'_>,
    data: &[u8],
    right_child: Option<u32>,
) -> Result<(), RedoError> {
    let mut fields = Fields::new("entry of a GIN index", data);
    let (offset, replaces) = (fields.u16()?, fields.u8()? != 0);
    fields.align(4)?;
    if let Some(right_child) = right_child.filter(|block| *block != NO_BLOCK) {
        // The entry that led to the page before it was split leads to its right half now.
        page.item_mut(offset)?
            .get_mut(..ITEM_POINTER_BYTES)
            .ok_or(RedoError::Page {
                what: "too short a tuple at line pointer",
                value: offset.into(),
            })?
            .copy_from_slice(&item_pointer(right_child, 0));
    }
    if replaces {
        page.index_tuple_delete(offset)?;
    }
    page.add_item(take_index_tuple(&mut fields)?, Place::Insert(offset))?;
    Ok(())
}

fn init_page(page: &mut PageMut<'_>, flags: u16) -> Result<(), RedoError> {
    page.init(SPECIAL_BYTES)?;
    set_right_link(page, NO_BLOCK)?;
    change_flags(page, |_| flags)
}

fn set_right_link(page: &mut PageMut<'_>, right: u32) -> Result<(), RedoError> {
    special(page)?[..4].copy_from_slice(&right.to_le_bytes());
    Ok(())
}

/// The count of items or rows.
fn count(page: &PageMut<'_>) -> Result<u16, RedoError> {
    let special = page.special_space(SPECIAL_BYTES)?;
    Ok(u16::from_le_bytes([special[4], special[5]]))
}

fn set_count(page: &mut PageMut<'_>, count: u16) -> Result<(), RedoError> {
    special(page)?[4..6].copy_from_slice(&count.to_le_bytes());
    Ok(())
}

fn flags(page: &PageMut<'_>) -> Result<u16, RedoError> {
    let special = page.special_space(SPECIAL_BYTES)?;
    Ok(u16::from_le_bytes([special[6], special[7]]))
}

fn change_flags(page: &mut PageMut<'_>, change: impl FnOnce(u16) -> u16) -> Result<(), RedoError> {
    let flags = change(flags(page)?);
    special(page)?[6..8].copy_from_slice(&flags.to_le_bytes());
    Ok(())
}

fn special<'p>(page: &'p mut PageMut<'_>) -> Result<&'p mut [u8], RedoError> {
    Ok(page.special_space_mut(SPECIAL_BYTES)?)
}

const SPECIAL_BYTES: usize = 8;

const DATA: u16 = 1;
const LEAF: u16 = 1 << 1;
const DELETED: u16 = 1 << 2;
const META: u16 = 1 << 3;
const LIST: u16 = 1 << 4;
const LIST_FULL_ROW: u16 = 1 << 5;
const INCOMPLETE_SPLIT: u16 = 1 << 6;
const COMPRESSED: u16 = 1 << 7;

const INSERT_INTO_POSTING_TREE: u16 = 1;
const INSERT_INTO_LEAF: u16 = 2;

const CREATE_POSTING_TREE: u8 = 0x10;
const INSERT: u8 = 0x20;
const SPLIT: u8 = 0x30;
const VACUUM_ENTRY_LEAF: u8 = 0x40;
const DELETE_PAGE: u8 = 0x50;
const UPDATE_META_PAGE: u8 = 0x60;
const INSERT_LIST_PAGE: u8 = 0x70;
const DELETE_LIST_PAGES: u8 = 0x80;
const VACUUM_DATA_LEAF: u8 = 0x90;
