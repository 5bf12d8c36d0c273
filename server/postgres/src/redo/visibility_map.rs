//! The visibility map: two bits for each heap block, all-visible and all-frozen, behind a page header.
//!
//! Bits are set by records that name the map's page. They are cleared by records that do not: every change of a row
//! on an all-visible page clears them, whatever the LSN of the map's page is, and leaves that LSN as it is.

use super::fields::Fields;
use super::implied::{Implied, MAP_BYTES, MapBits};
use super::{RedoError, heap, heap2};
use crate::key::{BlockTag, Fork};
use crate::page::{PAGE_HEADER_BYTES, PageMut};
use crate::wal::{Record, ResourceManager};

const ALL_FROZEN: u8 = 0x02;
const BOTH_BITS: u8 = 0x03;
const BLOCKS_PER_BYTE: u32 = 4;

/// Heap blocks whose bits are on one page of the map.
pub const MAP_BLOCKS_PER_PAGE: u32 = 8168 * BLOCKS_PER_BYTE;
const _: () = assert!(MAP_BYTES == 8168);

/// Calls `clear` for each page of a visibility map that redo of `record` clears bits of: at most two.
/// # Errors
/// A heap record without the block or the fields it should have.
pub fn cleared_by(
    record: &Record<'_>,
    mut clear: impl FnMut(BlockTag, Implied<'static>),
) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", record.main);
    // How far the flags are from the start, and which of them clears which bits of which block.
    let (flags_at, clears): (usize, &[(u8, u8, u8)]) =
        match (record.manager, record.info & heap::OPERATION_MASK) {
            (ResourceManager::HEAP, heap::INSERT) => {
                (2, &[(heap::ALL_VISIBLE_CLEARED, BOTH_BITS, 0)])
            }
            (ResourceManager::HEAP, heap::DELETE) => {
                (7, &[(heap::ALL_VISIBLE_CLEARED, BOTH_BITS, 0)])
            }
            (ResourceManager::HEAP, heap::UPDATE | heap::HOT_UPDATE) => (
                7,
                &[
                    (heap::OLD_ALL_VISIBLE_CLEARED, BOTH_BITS, 1),
                    (heap::NEW_ALL_VISIBLE_CLEARED, BOTH_BITS, 0),
                ],
            ),
            (ResourceManager::HEAP, heap::LOCK) | (ResourceManager::HEAP2, heap2::LOCK_UPDATED) => {
                (7, &[(heap::ALL_VISIBLE_CLEARED, ALL_FROZEN, 0)])
            }
            (ResourceManager::HEAP2, heap2::MULTI_INSERT) => {
                (0, &[(heap::ALL_VISIBLE_CLEARED, BOTH_BITS, 0)])
            }
            _ => return Ok(()),
        };
    main.take(flags_at)?;
    let flags = main.u8()?;
    let mut first: Option<(BlockTag, MapBits)> = None;
    for (flag, bits, block_id) in clears {
        if flags & flag == 0 {
            continue;
        }
        let heap_block = block_of(record, *block_id)?;
        let place = place_of(heap_block.block);
        let map_block = BlockTag {
            relation: heap_block.relation,
            fork: Fork::VisibilityMap,
            block: place.block,
        };
        let bits = MapBits {
            byte: place.byte,
            mask: bits << place.shift,
        };
        // One change for each page, also where both blocks of an update have their bits there.
        match first.take() {
            Some((page, other)) if page == map_block => {
                clear(page, Implied::VisibilityClear(other, Some(bits)));
            }
            Some((page, other)) => {
                clear(page, Implied::VisibilityClear(other, None));
                clear(map_block, Implied::VisibilityClear(bits, None));
            }
            None => first = Some((map_block, bits)),
        }
    }
    if let Some((page, bits)) = first {
        clear(page, Implied::VisibilityClear(bits, None));
    }
    Ok(())
}

/// Block `id` of the record; an update within one page has no block 1 for the old version.
fn block_of(record: &Record<'_>, id: u8) -> Result<BlockTag, RedoError> {
    record
        .blocks()
        .filter(|block| block.id <= id)
        .last()
        .map(|block| block.tag)
        .ok_or(RedoError::OtherBlock(id))
}

/// Sets the bits of `flags` for a heap block; answers whether they were different before.
pub(super) fn set_bits(page: &mut PageMut<'_>, heap_block: u32, flags: u8) -> bool {
    let place = place_of(heap_block);
    let byte = &mut page.bytes_mut()[PAGE_HEADER_BYTES + usize::from(place.byte)];
    let bits = flags & BOTH_BITS;
    let differ = *byte >> place.shift & BOTH_BITS != bits;
    *byte |= bits << place.shift;
    differ
}

/// Where the bits of a heap block are.
struct MapPlace {
    /// Page of the map.
    block: u32,
    /// Byte of the map on it.
    byte: u16,
    /// How far from the byte's lowest bit.
    shift: u32,
}

fn place_of(heap_block: u32) -> MapPlace {
    let on_page = heap_block % MAP_BLOCKS_PER_PAGE;
    MapPlace {
        block: heap_block / MAP_BLOCKS_PER_PAGE,
        byte: u16::try_from(on_page / BLOCKS_PER_BYTE).expect("8,168 bytes on a page"),
        shift: on_page % BLOCKS_PER_BYTE * 2,
    }
}
