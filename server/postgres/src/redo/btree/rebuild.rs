//! Btree pages that are made anew from what was on them: the left half of a split, and a page deduplicated.

use engine::types::PAGE_BYTES;

use super::opaque::{HAS_GARBAGE, INCOMPLETE_SPLIT, Opaque, PageOpaque};
use super::tuple::{self, IndexTuple, PostingWriter, TID_BYTES};
use super::{Change, Fields, RedoError, leaf_flag};
use crate::page::{PageMut, Place};

/// The left half of a split: the high key of the record, and the tuples below the first of the right half, with the
/// new one if that is on the left. With the split of a posting list, the one before the new tuple changes too.
pub(super) fn left_of_split(
    change: &Change<'_>,
    page: &mut PageMut<'_>,
    new_is_left: bool,
) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", change.main);
    let level = main.u32()?;
    let first_right = main.u16()?;
    let new_offset = main.u16()?;
    let posting_position = main.u16()?;

    let mut before_bytes = *page.bytes();
    let mut before = PageMut::new(&mut before_bytes);
    let opaque = before.opaque()?;

    let mut data = Fields::new("block data", change.data);
    let mut new_tuple: &[u8] = &[];
    let mut new_tid = [0; TID_BYTES];
    if new_is_left || posting_position != 0 {
        new_tuple = take_tuple(&mut data)?;
        new_tid.copy_from_slice(&new_tuple[..TID_BYTES]);
        if posting_position != 0 {
            let posting_list = before.item_mut(new_offset.saturating_sub(1))?;
            new_tid = tuple::swap_into_posting_list(posting_list, posting_position, new_tuple)?;
        }
    }
    let high_key = take_tuple(&mut data)?;

    page.init(Opaque::BYTES)?;
    page.add_item(high_key, Place::Insert(1))?;
    let add_new = |page: &mut PageMut<'_>| -> Result<(), RedoError> {
        let (_, item) = append(page, new_tuple.len())?;
        item.copy_from_slice(new_tuple);
        item[..TID_BYTES].copy_from_slice(&new_tid);
        Ok(())
    };
    for offset in opaque.first_data_key()..first_right {
        if new_is_left && offset == new_offset {
            add_new(page)?;
        }
        let item = before.item(offset)?;
        append(page, item.len())?.1.copy_from_slice(item);
    }
    if new_is_left && new_offset == first_right.max(opaque.first_data_key()) {
        add_new(page)?;
    }
    page.set_opaque(Opaque {
        next: change.other(1)?.block,
        flags: INCOMPLETE_SPLIT | leaf_flag(level),
        cycle_id: 0,
        ..opaque
    })
}

/// The next tuple of a record, with its padding.
fn take_tuple<'a>(data: &mut Fields<'a>) -> Result<&'a [u8], RedoError> {
    let mut ahead = *data;
    let length = tuple::packed_length(ahead.rest());
    // A tuple without a length would be as good as none.
    data.take(length.unwrap_or(usize::MAX))
}

fn append<'p>(page: &'p mut PageMut<'_>, bytes: usize) -> Result<(u16, &'p mut [u8]), RedoError> {
    let end = page.item_count() + 1;
    Ok(page.reserve_item(bytes, Place::Insert(end))?)
}

/// A page whose runs of equal keys became posting lists: base offset (2) and number of tuples (2) of each run are in
/// the record.
pub(super) fn deduplicated(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let run_count = Fields::new("main data", change.main).u16()?;
    let mut runs = Fields::new("block data", change.data);
    let mut runs_left = run_count;
    let mut before_bytes: [u8; PAGE_BYTES] = *page.bytes();
    let before = PageMut::new(&mut before_bytes);
    let opaque = before.opaque()?;
    let count = before.item_count();
    let first = opaque.first_data_key();

    page.init(Opaque::BYTES)?;
    if first > 1 {
        let high_key = before.item(1)?;
        append(page, high_key.len())?.1.copy_from_slice(high_key);
    }
    let mut next_run = |wanted: &mut u16| -> Result<Option<(u16, u16)>, RedoError> {
        if *wanted == 0 {
            return Ok(None);
        }
        *wanted -= 1;
        Ok(Some((runs.u16()?, runs.u16()?)))
    };
    let mut run = next_run(&mut runs_left)?;
    let mut offset = first;
    while offset <= count {
        match run {
            Some((base, tuples)) if base == offset && tuples > 1 => {
                let end = offset.saturating_add(tuples).min(count + 1);
                merge(&before, offset..end, page)?;
                offset = end;
                run = next_run(&mut runs_left)?;
            }
            _ => {
                let item = IndexTuple::new(before.item(offset)?)?.bytes();
                append(page, item.len())?.1.copy_from_slice(item);
                offset += 1;
            }
        }
    }
    page.set_opaque(Opaque {
        flags: opaque.flags & !HAS_GARBAGE,
        ..opaque
    })
}

/// Appends one tuple with the key of the first of `offsets` and the row pointers of all.
fn merge(
    before: &PageMut<'_>,
    offsets: std::ops::Range<u16>,
    page: &mut PageMut<'_>,
) -> Result<(), RedoError> {
    let tuple_at = |offset| IndexTuple::new(before.item(offset)?);
    let mut tids = 0;
    for offset in offsets.clone() {
        tids += tuple_at(offset)?.tids().len() / TID_BYTES;
    }
    let key = tuple_at(offsets.start)?.key();
    let (_, item) = append(page, PostingWriter::bytes_of(key, tids))?;
    let mut writer = PostingWriter::new(item, key, tids)?;
    for offset in offsets {
        writer.push(tuple_at(offset)?.tids())?;
    }
    writer.finish().map(drop)
}
