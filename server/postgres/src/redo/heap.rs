//! Redo of heap records: single rows. The same in versions 15 to 18, but for what follows the first field of an
//! in-place update in 18, which is not about the page.
//!
//! | operation | block 0 | block 1 | main data |
//! |-----------|---------|---------|-----------|
//! | 0x00 insert | the page | | line pointer (2), flags (1) |
//! | 0x10 delete | the page | | xmax (4), line pointer (2), infobits (1), flags (1) |
//! | 0x20 update, 0x40 hot update | page of the new version | page of the old one, if another | old xmax (4), old line pointer (2), infobits (1), flags (1), new xmax (4), new line pointer (2) |
//! | 0x30 truncate | | | nothing that changes pages |
//! | 0x50 confirm | the page | | line pointer (2) |
//! | 0x60 lock | the page | | as delete |
//! | 0x70 in place | the page | | line pointer (2) |

use super::fields::Fields;
use super::heap_tuple::{LoggedHeader, TUPLE_HEADER_BYTES, TupleMut, add_tuple, set_prunable};
use super::{Change, RedoError};
use crate::page::{PD_ALL_VISIBLE, PageMut};

/// Bits of `info` that are the operation; the other of the upper four says that the page is made anew.
pub(super) const OPERATION_MASK: u8 = 0x70;

pub(super) const INSERT: u8 = 0x00;
pub(super) const DELETE: u8 = 0x10;
pub(super) const UPDATE: u8 = 0x20;
pub(super) const HOT_UPDATE: u8 = 0x40;
pub(super) const CONFIRM: u8 = 0x50;
pub(super) const LOCK: u8 = 0x60;
pub(super) const IN_PLACE: u8 = 0x70;

/// Flag of inserts and deletes: the page is no longer all-visible.
pub(super) const ALL_VISIBLE_CLEARED: u8 = 0x01;
/// Flag of updates: the same of the old version's page.
pub(super) const OLD_ALL_VISIBLE_CLEARED: u8 = 0x01;
/// Flag of updates: the same of the new version's page.
pub(super) const NEW_ALL_VISIBLE_CLEARED: u8 = 0x02;

/// Flag of inserts: the page is all-visible, since its rows are frozen.
pub(super) const ALL_FROZEN_SET: u8 = 0x20;

pub(super) fn apply(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    match change.info & OPERATION_MASK {
        UPDATE => return update(change, page, false),
        HOT_UPDATE => return update(change, page, true),
        _ if change.block_id != 0 => return Err(change.unexpected_block()),
        _ => {}
    }
    let mut main = Fields::new("main data", change.main);
    match change.info & OPERATION_MASK {
        INSERT => insert(change, &mut main, page),
        DELETE => delete(change, &mut main, page),
        CONFIRM => confirm(change, &mut main, page),
        LOCK => lock(change, &mut main, page),
        IN_PLACE => in_place(change, &mut main, page),
        _ => Err(RedoError::Operation(change.operation())),
    }
}

fn insert(
    change: &Change<'_>,
    main: &mut Fields<'_>,
    page: &mut PageMut<'_>,
) -> Result<(), RedoError> {
    let offset = main.u16()?;
    let flags = main.u8()?;
    if change.will_init {
        page.init(0)?;
    }
    let mut data = Fields::new("block data", change.data);
    let header = LoggedHeader::read(&mut data)?;
    let place = (change.tag.block, offset);
    add_tuple(page, place, (change.xid, 0), header, data.left())?.copy_from_slice(data.rest());
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.clear_flags(PD_ALL_VISIBLE);
    }
    if flags & ALL_FROZEN_SET != 0 {
        page.add_flags(PD_ALL_VISIBLE);
    }
    Ok(())
}

fn delete(
    change: &Change<'_>,
    main: &mut Fields<'_>,
    page: &mut PageMut<'_>,
) -> Result<(), RedoError> {
    const IS_SUPER: u8 = 0x08;
    const IS_PARTITION_MOVE: u8 = 0x10;
    let xmax = main.u32()?;
    let offset = main.u16()?;
    let infobits = main.u8()?;
    let flags = main.u8()?;

    let mut tuple = TupleMut::at(page, offset)?;
    tuple.replace_xmax_bits(infobits);
    tuple.set_hot_updated(false);
    if flags & IS_SUPER == 0 {
        tuple.set_xmax(xmax);
    } else {
        // A speculative insertion that was given up: nobody has ever seen the row.
        tuple.set_xmin(0);
    }
    tuple.reset_command_id();
    if flags & IS_PARTITION_MOVE == 0 {
        tuple.set_ctid(change.tag.block, offset);
    } else {
        tuple.set_moved_to_another_partition();
    }
    set_prunable(page, change.xid);
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.clear_flags(PD_ALL_VISIBLE);
    }
    Ok(())
}

/// The main data of an update.
struct Update {
    old_xmax: u32,
    old_offset: u16,
    old_infobits: u8,
    flags: u8,
    new_xmax: u32,
    new_offset: u16,
}

fn update(change: &Change<'_>, page: &mut PageMut<'_>, hot: bool) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", change.main);
    let update = Update {
        old_xmax: main.u32()?,
        old_offset: main.u16()?,
        old_infobits: main.u8()?,
        flags: main.u8()?,
        new_xmax: main.u32()?,
        new_offset: main.u16()?,
    };
    match change.block_id {
        0 if change.other(1).is_ok() => {
            if change.will_init {
                page.init(0)?;
            }
            new_version(change, &update, page, false)
        }
        0 => {
            old_version(change, &update, page, hot, change.tag.block)?;
            new_version(change, &update, page, true)
        }
        1 => old_version(change, &update, page, hot, change.other(0)?.block),
        _ => Err(change.unexpected_block()),
    }
}

fn old_version(
    change: &Change<'_>,
    update: &Update,
    page: &mut PageMut<'_>,
    hot: bool,
    new_block: u32,
) -> Result<(), RedoError> {
    let mut tuple = TupleMut::at(page, update.old_offset)?;
    tuple.replace_xmax_bits(update.old_infobits);
    tuple.set_hot_updated(hot);
    tuple.set_xmax(update.old_xmax);
    tuple.reset_command_id();
    tuple.set_ctid(new_block, update.new_offset);
    set_prunable(page, change.xid);
    if update.flags & OLD_ALL_VISIBLE_CLEARED != 0 {
        page.clear_flags(PD_ALL_VISIBLE);
    }
    Ok(())
}

/// Adds the new version. If both versions are on this page, its columns may begin or end as those of the old one do;
/// these bytes are not in the record.
fn new_version(
    change: &Change<'_>,
    update: &Update,
    page: &mut PageMut<'_>,
    old_is_here: bool,
) -> Result<(), RedoError> {
    const PREFIX_FROM_OLD: u8 = 0x20;
    const SUFFIX_FROM_OLD: u8 = 0x40;
    let mut data = Fields::new("block data", change.data);
    let mut shared = |flag| match update.flags & flag {
        0 => Ok(0),
        _ => data.u16().map(usize::from),
    };
    let prefix = shared(PREFIX_FROM_OLD)?;
    let suffix = shared(SUFFIX_FROM_OLD)?;
    let header = LoggedHeader::read(&mut data)?;

    let place = (change.tag.block, update.new_offset);
    let xids = (change.xid, update.new_xmax);
    let body_bytes = data.left() + prefix + suffix;
    let body = add_tuple(page, place, xids, header, body_bytes)?;
    let bitmap_bytes = if prefix > 0 {
        header.bitmap_bytes()?
    } else {
        0
    };
    body.get_mut(..bitmap_bytes)
        .ok_or(no_such_bytes("start of the columns", bitmap_bytes))?
        .copy_from_slice(data.take(bitmap_bytes)?);
    body[bitmap_bytes + prefix..body_bytes - suffix].copy_from_slice(data.rest());

    if prefix + suffix > 0 {
        if !old_is_here {
            return Err(no_such_bytes(
                "bytes of a version elsewhere",
                prefix + suffix,
            ));
        }
        let old_columns_at = TupleMut::at(page, update.old_offset)?.columns_at();
        let old = page.item_range(update.old_offset)?;
        let new = page.item_range(update.new_offset)?;
        let prefix_from = old.start + old_columns_at;
        let prefix_to = new.start + TUPLE_HEADER_BYTES + bitmap_bytes;
        let suffix_from = old.end.checked_sub(suffix);
        if prefix_from + prefix > old.end || suffix_from.is_none_or(|from| from < old.start) {
            return Err(no_such_bytes("bytes of the old version", prefix + suffix));
        }
        let bytes = page.bytes_mut();
        bytes.copy_within(prefix_from..prefix_from + prefix, prefix_to);
        bytes.copy_within(old.end - suffix..old.end, new.end - suffix);
    }
    if update.flags & NEW_ALL_VISIBLE_CLEARED != 0 {
        page.clear_flags(PD_ALL_VISIBLE);
    }
    Ok(())
}

fn no_such_bytes(what: &'static str, bytes: usize) -> RedoError {
    RedoError::Record {
        what,
        value: u64::try_from(bytes).expect("a length fits"),
    }
}

/// A speculative insertion has become a real one.
fn confirm(
    change: &Change<'_>,
    main: &mut Fields<'_>,
    page: &mut PageMut<'_>,
) -> Result<(), RedoError> {
    let offset = main.u16()?;
    TupleMut::at(page, offset)?.set_ctid(change.tag.block, offset);
    Ok(())
}

fn lock(
    change: &Change<'_>,
    main: &mut Fields<'_>,
    page: &mut PageMut<'_>,
) -> Result<(), RedoError> {
    let xmax = main.u32()?;
    let offset = main.u16()?;
    let infobits = main.u8()?;
    let mut tuple = TupleMut::at(page, offset)?;
    tuple.replace_xmax_bits(infobits);
    if tuple.is_only_locked() {
        tuple.set_hot_updated(false);
        tuple.set_ctid(change.tag.block, offset);
    }
    tuple.set_xmax(xmax);
    tuple.reset_command_id();
    Ok(())
}

/// New columns of the same length.
fn in_place(
    change: &Change<'_>,
    main: &mut Fields<'_>,
    page: &mut PageMut<'_>,
) -> Result<(), RedoError> {
    let offset = main.u16()?;
    let columns_at = TupleMut::at(page, offset)?.columns_at();
    match page.item_mut(offset)?.get_mut(columns_at..) {
        Some(columns) if columns.len() == change.data.len() => {
            columns.copy_from_slice(change.data);
            Ok(())
        }
        _ => Err(no_such_bytes("length of the columns", change.data.len())),
    }
}

#[cfg(test)]
mod tests;
