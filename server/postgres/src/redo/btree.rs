//! Redo of btree records. The same in versions 15 to 18, but that 18's vacuum also clears the vacuum cycle id.
//!
//! | operation | main data | blocks |
//! |-----------|-----------|--------|
//! | 0x00 insert into a leaf, 0x10 above, 0x20 above with a new fast root | line pointer (2) | 0 the page, 1 the child whose split it completes, 2 the metapage |
//! | 0x30 split, new tuple on the left; 0x40 on the right | level (4), first on the right (2), line pointer of the new tuple (2), its place in a posting list (2) | 0 the page, 1 the new right one, 2 the one to the right of it, 3 the child whose split it completes |
//! | 0x50 insert with the split of a posting list | line pointer (2) | 0 the page |
//! | 0x60 deduplication | number of runs (2) | 0 the page |
//! | 0x70 delete | horizon (4), deletes (2), updates (2) | 0 the page |
//! | 0x80 unlink a page, 0x90 with a new fast root | left (4), right (4), level (4), safe xid (8 at 16), of the leaf: left (4), right (4), top parent (4) | 0 the page, 1 left, 2 right, 3 the leaf below, 4 the metapage |
//! | 0xa0 new root | block (4), level (4) | 0 the root, 1 its left child, 2 the metapage |
//! | 0xb0 mark a page half-dead | line pointer (2), the leaf (4 at 4), left (4), right (4), top parent (4) | 0 the leaf, 1 the parent |
//! | 0xc0 vacuum | deletes (2), updates (2) | 0 the page |
//! | 0xd0 reuse a page | | none |
//! | 0xe0 metapage after cleanup | | 0 the metapage |

mod opaque;
mod rebuild;
mod tuple;

use self::opaque::{
    DELETED, HALF_DEAD, HAS_FULL_XID, HAS_GARBAGE, INCOMPLETE_SPLIT, LEAF, META, Opaque,
    PageOpaque, ROOT,
};
use self::tuple::{IndexTuple, PIVOT_WITHOUT_KEYS, TID_BYTES, block_of, packed_length, set_block};
use super::fields::Fields;
use super::{Change, RedoError};
use crate::page::{PAGE_HEADER_BYTES, PageMut, Place};
use crate::wal::WalVersion;

const INSERT_LEAF: u8 = 0x00;
const INSERT_UPPER: u8 = 0x10;
const INSERT_META: u8 = 0x20;
const SPLIT_LEFT: u8 = 0x30;
const SPLIT_RIGHT: u8 = 0x40;
const INSERT_POSTING: u8 = 0x50;
const DEDUPLICATE: u8 = 0x60;
const DELETE: u8 = 0x70;
const UNLINK_PAGE: u8 = 0x80;
const UNLINK_PAGE_META: u8 = 0x90;
const NEW_ROOT: u8 = 0xa0;
const MARK_PAGE_HALF_DEAD: u8 = 0xb0;
const VACUUM: u8 = 0xc0;
const META_CLEANUP: u8 = 0xe0;

pub(super) fn apply(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    match (change.operation(), change.block_id) {
        (INSERT_LEAF | INSERT_UPPER | INSERT_META, 0) => insert(change, page),
        (INSERT_UPPER | INSERT_META | NEW_ROOT, 1) | (SPLIT_LEFT | SPLIT_RIGHT, 3) => {
            page.update_opaque(|opaque| opaque.flags &= !INCOMPLETE_SPLIT)
        }
        (INSERT_META | NEW_ROOT, 2) | (UNLINK_PAGE_META, 4) | (META_CLEANUP, 0) => {
            metapage(change, page)
        }
        (INSERT_POSTING, 0) => insert_into_posting_list(change, page),
        (SPLIT_LEFT, 0) => rebuild::left_of_split(change, page, true),
        (SPLIT_RIGHT, 0) => rebuild::left_of_split(change, page, false),
        (SPLIT_LEFT | SPLIT_RIGHT, 1) => right_of_split(change, page),
        (SPLIT_LEFT | SPLIT_RIGHT, 2) => {
            let left = change.other(1)?.block;
            page.update_opaque(|opaque| opaque.previous = left)
        }
        (DEDUPLICATE, 0) => rebuild::deduplicated(change, page),
        (DELETE | VACUUM, 0) => delete(change, page),
        (UNLINK_PAGE | UNLINK_PAGE_META, 0..=3) => unlink(change, page),
        (NEW_ROOT, 0) => new_root(change, page),
        (MARK_PAGE_HALF_DEAD, 0 | 1) => mark_half_dead(change, page),
        (
            INSERT_LEAF..=INSERT_META
            | SPLIT_LEFT..=DELETE
            | UNLINK_PAGE..=VACUUM
            | REUSE_PAGE
            | META_CLEANUP,
            _,
        ) => Err(change.unexpected_block()),
        (operation, _) => Err(RedoError::Operation(operation)),
    }
}

fn insert(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let offset = Fields::new("main data", change.main).u16()?;
    page.add_item(change.data, Place::Insert(offset))?;
    Ok(())
}

/// The row pointer of the new tuple belongs into the posting list before it, whose last one takes its place: that is
/// what the new tuple on the page points to.
fn insert_into_posting_list(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let offset = Fields::new("main data", change.main).u16()?;
    let mut data = Fields::new("block data", change.data);
    let position = data.u16()?;
    let new_tuple = data.rest();
    let posting_list = page.item_mut(offset.saturating_sub(1))?;
    let tid = tuple::swap_into_posting_list(posting_list, position, new_tuple)?;
    let (_, item) = page.reserve_item(new_tuple.len(), Place::Insert(offset))?;
    item.copy_from_slice(new_tuple);
    item[..TID_BYTES].copy_from_slice(&tid);
    Ok(())
}

fn right_of_split(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let level = Fields::new("main data", change.main).u32()?;
    page.init(Opaque::BYTES)?;
    page.set_opaque(Opaque {
        previous: change.other(0)?.block,
        next: change.other(2).map_or(0, |tag| tag.block),
        level,
        flags: leaf_flag(level),
        cycle_id: 0,
    })?;
    page.restore_items(change.data, packed_length)?;
    Ok(())
}

fn leaf_flag(level: u32) -> u16 {
    if level == 0 { LEAF } else { 0 }
}

/// Delete and vacuum: tuples removed, and row pointers of posting lists.
fn delete(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", change.main);
    let is_vacuum = change.operation() == VACUUM;
    if !is_vacuum {
        main.u32()?;
    }
    let delete_count = usize::from(main.u16()?);
    let update_count = usize::from(main.u16()?);
    let mut data = Fields::new("block data", change.data);
    let deletes = data.take(delete_count * 2)?;
    let mut updates = Fields::new("updated line pointers", data.take(update_count * 2)?);
    if update_count > 0 {
        let mut scratch = [0; tuple::BYTES_MAX];
        for _ in 0..update_count {
            let offset = updates.u16()?;
            let gone_count = usize::from(data.u16()?);
            let gone = data.take(gone_count * 2)?;
            let shorter = IndexTuple::new(page.item(offset)?)?.without(gone, &mut scratch)?;
            page.index_tuple_overwrite(offset, shorter)?;
        }
    }
    if delete_count > 0 {
        page.index_multi_delete(offsets(deletes))?;
    }
    page.update_opaque(|opaque| {
        opaque.flags &= !HAS_GARBAGE;
        // Primaries of all versions clear it, but redo of the older ones does not.
        if is_vacuum && change.version >= WalVersion::V18 {
            opaque.cycle_id = 0;
        }
    })
}

/// Line pointers, two bytes each.
fn offsets(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u16> + ExactSizeIterator {
    bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
}

/// An empty leaf is about to be removed: its parent no longer leads to it, and the leaf only knows its siblings and
/// the top of what is removed with it.
fn mark_half_dead(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", change.main);
    let parent_offset = main.u16()?;
    main.align(4)?;
    main.u32()?;
    let leaf = HalfDeadLeaf {
        left: main.u32()?,
        right: main.u32()?,
        top_parent: main.u32()?,
    };
    if change.block_id == 0 {
        return leaf.write(page);
    }
    let next = parent_offset.saturating_add(1);
    let right = block_of(IndexTuple::new(page.item(next)?)?.bytes());
    set_block(page.item_mut(parent_offset)?, right)?;
    page.index_tuple_delete(next)?;
    Ok(())
}

/// What is left of a leaf before it is removed.
struct HalfDeadLeaf {
    left: u32,
    right: u32,
    top_parent: u32,
}

impl HalfDeadLeaf {
    fn write(&self, page: &mut PageMut<'_>) -> Result<(), RedoError> {
        page.init(Opaque::BYTES)?;
        page.set_opaque(Opaque {
            previous: self.left,
            next: self.right,
            level: 0,
            flags: HALF_DEAD | LEAF,
            cycle_id: 0,
        })?;
        let mut high_key = PIVOT_WITHOUT_KEYS;
        set_block(&mut high_key, self.top_parent)?;
        page.add_item(&high_key, Place::Insert(1))?;
        Ok(())
    }
}

fn unlink(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", change.main);
    let left = main.u32()?;
    let right = main.u32()?;
    let level = main.u32()?;
    main.align(8)?;
    let safe_xid = main.u64()?.to_le_bytes();
    match change.block_id {
        0 => {
            page.init(Opaque::BYTES)?;
            page.set_opaque(Opaque {
                previous: left,
                next: right,
                level,
                flags: DELETED | HAS_FULL_XID | leaf_flag(level),
                cycle_id: 0,
            })?;
            page.set_contents(&safe_xid);
            Ok(())
        }
        1 => page.update_opaque(|opaque| opaque.next = right),
        2 => page.update_opaque(|opaque| opaque.previous = left),
        _ => HalfDeadLeaf {
            left: main.u32()?,
            right: main.u32()?,
            top_parent: main.u32()?,
        }
        .write(page),
    }
}

fn new_root(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", change.main);
    main.u32()?;
    let level = main.u32()?;
    page.init(Opaque::BYTES)?;
    page.set_opaque(Opaque {
        previous: 0,
        next: 0,
        level,
        flags: ROOT | leaf_flag(level),
        cycle_id: 0,
    })?;
    if level > 0 {
        page.restore_items(change.data, packed_length)?;
    }
    Ok(())
}

/// The metapage is always made anew. In the record: version, root, level, fast root, fast level, pages to be
/// recycled (4 each), equal means same image (1). On the page they follow a magic number, and before the last
/// is a number of rows (8 at 32) that no longer counts: -1.
fn metapage(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    const MAGIC: u32 = 0x0005_3162;
    const NUMBERS: usize = 6 * 4;
    const CONTENTS: usize = 48;
    let mut data = Fields::new("block data", change.data);
    let numbers = data.take(NUMBERS)?;
    let equal_image = data.u8()?;
    let mut contents = [0; CONTENTS];
    contents[..4].copy_from_slice(&MAGIC.to_le_bytes());
    contents[4..4 + NUMBERS].copy_from_slice(numbers);
    contents[32..40].copy_from_slice(&(-1.0f64).to_le_bytes());
    contents[40] = equal_image;
    page.init(Opaque::BYTES)?;
    page.set_opaque(Opaque {
        flags: META,
        ..Opaque::default()
    })?;
    page.set_contents(&contents);
    Ok(())
}

/// Pages that have something else than line pointers behind the header.
trait PageContents {
    /// Puts `contents` (at most 48 bytes) behind the header and counts them as used.
    fn set_contents(&mut self, contents: &[u8]);
}

impl PageContents for PageMut<'_> {
    fn set_contents(&mut self, contents: &[u8]) {
        let end = PAGE_HEADER_BYTES + contents.len();
        self.bytes_mut()[PAGE_HEADER_BYTES..end].copy_from_slice(contents);
        self.set_lower(u16::try_from(end).expect("a few bytes"));
    }
}

const REUSE_PAGE: u8 = 0xd0;

#[cfg(test)]
mod tests;
