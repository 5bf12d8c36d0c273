//! The metapage of a GIN index, and the list of pages of entries that wait to be merged into it.
//!
//! The metapage is made anew by every record that changes it: the record has its whole content, 56 bytes that go
//! behind the page header as they are.

use super::super::fields::Fields;
use super::super::index_records::{NO_BLOCK, take_index_tuple};
use super::super::{Change, RedoError};
use super::{LIST, LIST_FULL_ROW, META, change_flags, count, init_page, set_count, set_right_link};
use crate::page::{PAGE_HEADER_BYTES, PageMut, Place};

/// Where the metapage's content is in an *update meta page* record: behind the relation, aligned to 8.
pub(super) const META_AT_IN_UPDATE: usize = 16;

/// Makes the metapage from the content that the record has next.
pub(super) fn set_meta_page(
    page: &mut PageMut<'_>,
    main: &mut Fields<'_>,
) -> Result<(), RedoError> {
    let meta: [u8; META_BYTES] = main.array()?;
    init_page(page, META)?;
    let end = PAGE_HEADER_BYTES + META_BYTES;
    page.bytes_mut()[PAGE_HEADER_BYTES..end].copy_from_slice(&meta);
    page.set_lower(META_END);
    Ok(())
}

/// The list's last page gets a row more, or a page behind it.
pub(super) fn change_tail(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("GIN metapage record", change.main);
    main.take(META_AT_IN_UPDATE + META_BYTES)?;
    let (tail_before, right_link, tuples) = (main.u32()?, main.u32()?, main.u32()?);
    if i32::from_le_bytes(tuples.to_le_bytes()) > 0 {
        append(page, change.data, tuples)?;
        let rows = count(page)?;
        set_count(page, rows.wrapping_add(1))
    } else if tail_before != NO_BLOCK {
        set_right_link(page, right_link)
    } else {
        Err(change.unexpected_block())
    }
}

/// Makes a page of the list.
pub(super) fn fill_page(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("GIN list page record", change.main);
    let (right_link, tuples) = (main.u32()?, main.u32()?);
    init_page(page, LIST)?;
    set_right_link(page, right_link)?;
    if right_link == NO_BLOCK {
        // The last page of what one row added.
        change_flags(page, |flags| flags | LIST_FULL_ROW)?;
        set_count(page, 1)?;
    }
    append(page, change.data, tuples)
}

/// Adds `tuples` tuples behind those of the page. Their bytes bound how many there can be.
fn append(page: &mut PageMut<'_>, data: &[u8], tuples: u32) -> Result<(), RedoError> {
    let mut fields = Fields::new("pending entries", data);
    for _ in 0..tuples {
        let tuple = take_index_tuple(&mut fields)?;
        let next = page.item_count() + 1;
        page.add_item(tuple, Place::Insert(next))?;
    }
    match fields.left() {
        0 => Ok(()),
        left => Err(RedoError::Record {
            what: "bytes behind the pending entries:",
            value: left as u64,
        }),
    }
}

const META_BYTES: usize = 56;
const META_END: u16 = 80;
const _: () = assert!(META_END as usize == PAGE_HEADER_BYTES + META_BYTES);
