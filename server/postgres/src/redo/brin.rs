//! BRIN indexes: summaries of ranges of a table's blocks, and the map from ranges to summaries.
//!
//! Special space of every page, 8 bytes: at 4 flags, at 6 the kind of page. The metapage has four words behind its
//! header: magic, version, blocks of a range, last page of the map. A page of the map has 1,360 item pointers behind
//! its header, in what looks like free space.

use engine::types::PAGE_BYTES;

use super::fields::Fields;
use super::index_records::{ITEM_POINTER_BYTES, NO_ITEM, item_pointer};
use super::{Change, RedoError};
use crate::page::{PAGE_HEADER_BYTES, PageMut, Place};

pub(super) fn apply(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("BRIN record", change.main);
    match (change.operation() & !INIT_PAGE, change.block_id) {
        (CREATE_INDEX, 0) => init_meta_page(page, &mut main),
        (INSERT, _) => insert(change, page, &mut main),
        (UPDATE, 2) => Ok(page.index_tuple_delete_no_compact(main.u16()?)?),
        (UPDATE, _) => {
            let _old_offset = main.u32()?;
            insert(change, page, &mut main)
        }
        (SAME_PAGE_UPDATE, 0) => Ok(page.index_tuple_overwrite(main.u16()?, change.data)?),
        (EXTEND_MAP, 0) => {
            page.special_space(SPECIAL_BYTES)?;
            put_u32(page, LAST_MAP_PAGE_AT, main.u32()?);
            // Indexes of before Postgres 11 have another here.
            page.set_lower(META_END);
            Ok(())
        }
        (EXTEND_MAP, 1) => init_page(page, MAP_PAGE),
        (DESUMMARIZE, 0) => {
            let (range_blocks, block) = (main.u32()?, main.u32()?);
            set_map_entry(page, range_blocks, block, NO_ITEM)
        }
        (DESUMMARIZE, 1) => {
            main.take(8)?;
            Ok(page.index_tuple_delete_no_compact(main.u16()?)?)
        }
        _ => Err(change.unexpected_block()),
    }
}

/// Adds a summary (block 0) and makes the map point to it (block 1).
fn insert(
    change: &Change<'_>,
    page: &mut PageMut<'_>,
    main: &mut Fields<'_>,
) -> Result<(), RedoError> {
    let (block, range_blocks, offset) = (main.u32()?, main.u32()?, main.u16()?);
    match change.block_id {
        0 => {
            if change.info & INIT_PAGE != 0 {
                init_page(page, REGULAR_PAGE)?;
            }
            page.add_item(change.data, Place::Unused(offset))?;
            Ok(())
        }
        1 => {
            let summary = item_pointer(change.other(0)?.block, offset);
            set_map_entry(page, range_blocks, block, summary)
        }
        _ => Err(change.unexpected_block()),
    }
}

/// Sets where the summary of the range with `block` is.
fn set_map_entry(
    page: &mut PageMut<'_>,
    range_blocks: u32,
    block: u32,
    entry: [u8; ITEM_POINTER_BYTES],
) -> Result<(), RedoError> {
    page.special_space(SPECIAL_BYTES)?;
    let range = block.checked_div(range_blocks).ok_or(RedoError::Record {
        what: "blocks of a range:",
        value: range_blocks.into(),
    })? as usize;
    let at = PAGE_HEADER_BYTES + range % MAP_ENTRIES * ITEM_POINTER_BYTES;
    page.bytes_mut()[at..at + ITEM_POINTER_BYTES].copy_from_slice(&entry);
    Ok(())
}

fn init_meta_page(page: &mut PageMut<'_>, main: &mut Fields<'_>) -> Result<(), RedoError> {
    let (range_blocks, version) = (main.u32()?, main.u16()?);
    init_page(page, META_PAGE)?;
    put_u32(page, MAGIC_AT, MAGIC);
    put_u32(page, VERSION_AT, version.into());
    put_u32(page, RANGE_BLOCKS_AT, range_blocks);
    put_u32(page, LAST_MAP_PAGE_AT, 0);
    page.set_lower(META_END);
    Ok(())
}

fn init_page(page: &mut PageMut<'_>, kind: u16) -> Result<(), RedoError> {
    page.init(SPECIAL_BYTES)?;
    page.special_space_mut(SPECIAL_BYTES)?[6..].copy_from_slice(&kind.to_le_bytes());
    Ok(())
}

fn put_u32(page: &mut PageMut<'_>, at: usize, value: u32) {
    page.bytes_mut()[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

const SPECIAL_BYTES: usize = 8;
const META_PAGE: u16 = 0xf091;
const MAP_PAGE: u16 = 0xf092;
const REGULAR_PAGE: u16 = 0xf093;

const MAGIC_AT: usize = PAGE_HEADER_BYTES;
const VERSION_AT: usize = MAGIC_AT + 4;
const RANGE_BLOCKS_AT: usize = VERSION_AT + 4;
const LAST_MAP_PAGE_AT: usize = RANGE_BLOCKS_AT + 4;
const META_END: u16 = 40;
const _: () = assert!(META_END as usize == LAST_MAP_PAGE_AT + 4);
const MAGIC: u32 = 0xa810_9cfa;
const MAP_ENTRIES: usize = (PAGE_BYTES - PAGE_HEADER_BYTES - SPECIAL_BYTES) / ITEM_POINTER_BYTES;
const _: () = assert!(MAP_ENTRIES == 1360);

/// Flag: the page is made anew first.
const INIT_PAGE: u8 = 0x80;
const CREATE_INDEX: u8 = 0x00;
const INSERT: u8 = 0x10;
const UPDATE: u8 = 0x20;
const SAME_PAGE_UPDATE: u8 = 0x30;
const EXTEND_MAP: u8 = 0x40;
const DESUMMARIZE: u8 = 0x50;
