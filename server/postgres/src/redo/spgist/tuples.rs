//! Tuples of SP-GiST pages. The lowest two bits of each are its state; only a live one is a leaf or an inner tuple.
//!
//! | at | leaf | inner | dead |
//! |---:|------|-------|------|
//! |  0 | state (2 bits), bytes (30) | state (2), all the same (1), nodes (13), prefix bytes (16) | as a leaf |
//! |  4 | next in the chain (14 bits), flags (2) | bytes | 0 |
//! |  6 | item pointer into the table | padding | where it moved to |
//! | 12 | value | from 8: prefix, then nodes like index tuples | transaction that moved it |
//!
//! Special space of a page, 8 bytes: flags, count of redirections, count of placeholders, 0xff82.

use super::super::RedoError;
use super::super::fields::Fields;
use super::super::index_records::{
    INDEX_TUPLE_HEADER_BYTES, ITEM_POINTER_BYTES, NO_ITEM, Offsets, index_tuple_bytes,
};
use super::Parent;
use crate::bytes_at::{array_at, u16_at, u32_at};
use crate::page::{PageMut, Place};

/// What takes the place of a tuple that is gone, to keep the offset numbers of others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dead {
    /// It moved; scans that come by follow it.
    Redirect {
        /// Where to.
        to: [u8; ITEM_POINTER_BYTES],
        /// Who moved it.
        xid: u32,
    },
    /// The first of its chain, which a parent points to.
    Head,
    /// Nothing points to it: a new tuple may take its place.
    Placeholder,
}

impl Dead {
    fn tuple(self) -> [u8; DEAD_BYTES] {
        let (state, to, xid) = match self {
            Dead::Redirect { to, xid } => (REDIRECT, to, xid),
            Dead::Head => (DEAD, NO_ITEM, 0),
            Dead::Placeholder => (PLACEHOLDER, NO_ITEM, 0),
        };
        let mut tuple = [0; DEAD_BYTES];
        tuple[0] = DEAD_LENGTH << 2 | state;
        tuple[6..12].copy_from_slice(&to);
        tuple[12..].copy_from_slice(&xid.to_le_bytes());
        tuple
    }
}

/// The next leaf tuple of a record.
pub(super) fn take_leaf<'a>(fields: &mut Fields<'a>) -> Result<&'a [u8], RedoError> {
    let mut ahead = *fields;
    let bytes = ahead.u32()? >> 2;
    take_tuple(fields, bytes)
}

/// The next inner tuple of a record.
pub(super) fn take_inner<'a>(fields: &mut Fields<'a>) -> Result<&'a [u8], RedoError> {
    let mut ahead = *fields;
    ahead.u32()?;
    let bytes = ahead.u16()?;
    take_tuple(fields, bytes.into())
}

fn take_tuple<'a>(fields: &mut Fields<'a>, bytes: u32) -> Result<&'a [u8], RedoError> {
    // Any tuple is long enough to become a dead one in its place.
    if (bytes as usize) < DEAD_BYTES {
        return Err(RedoError::Record {
            what: "length of an SP-GiST tuple",
            value: bytes.into(),
        });
    }
    fields.take(bytes as usize)
}

/// Makes an empty page.
pub(super) fn init_page(page: &mut PageMut<'_>, flags: u16) -> Result<(), RedoError> {
    page.init(SPECIAL_BYTES)?;
    let special = page.special_space_mut(SPECIAL_BYTES)?;
    special[..2].copy_from_slice(&flags.to_le_bytes());
    special[6..].copy_from_slice(&SPGIST_PAGE_ID.to_le_bytes());
    Ok(())
}

/// Adds a tuple at the end of the page, or in the place of a placeholder.
pub(super) fn add_or_replace(
    page: &mut PageMut<'_>,
    at: u16,
    tuple: &[u8],
) -> Result<(), RedoError> {
    if at <= page.item_count() {
        let state = page.item(at)?[0] & STATE;
        if state != PLACEHOLDER {
            return Err(RedoError::Page {
                what: "no placeholder but a tuple of state",
                value: state.into(),
            });
        }
        change_count(page, PLACEHOLDERS_AT, |count| count.wrapping_sub(1))?;
        page.index_tuple_delete(at)?;
    }
    page.add_item(tuple, Place::Insert(at))?;
    Ok(())
}

/// Puts a tuple in the place of another.
pub(super) fn replace(page: &mut PageMut<'_>, at: u16, tuple: &[u8]) -> Result<(), RedoError> {
    page.index_tuple_delete(at)?;
    page.add_item(tuple, Place::Insert(at))?;
    Ok(())
}

/// Puts dead tuples in the places of others: the first of `offsets` becomes `first`, the others `rest`.
pub(super) fn replace_by_dead(
    page: &mut PageMut<'_>,
    offsets: Offsets<'_>,
    first: Dead,
    rest: Dead,
) -> Result<(), RedoError> {
    let Some(first_offset) = offsets.get(0) else {
        return Ok(());
    };
    let mut sorted = [0; TUPLES_MAX];
    let count = offsets.iter().len();
    let sorted = sorted.get_mut(..count).ok_or(RedoError::Record {
        what: "tuples to replace on one page:",
        value: count as u64,
    })?;
    for (into, offset) in sorted.iter_mut().zip(offsets.iter()) {
        *into = offset;
    }
    sorted.sort_unstable();
    page.index_multi_delete(sorted.iter().copied())?;
    for offset in sorted.iter().copied() {
        let dead = if offset == first_offset { first } else { rest };
        page.add_item(&dead.tuple(), Place::Insert(offset))?;
        match dead {
            Dead::Redirect { .. } => {
                change_count(page, REDIRECTS_AT, |count| count.wrapping_add(1))?;
            }
            Dead::Placeholder => {
                change_count(page, PLACEHOLDERS_AT, |count| count.wrapping_add(1))?;
            }
            Dead::Head => {}
        }
    }
    Ok(())
}

/// Makes node `parent.node` of an inner tuple lead to `to`.
pub(super) fn set_node_link(
    page: &mut PageMut<'_>,
    parent: Parent,
    to: [u8; ITEM_POINTER_BYTES],
) -> Result<(), RedoError> {
    let no_node = RedoError::Page {
        what: "no node in the inner tuple of number",
        value: parent.node.into(),
    };
    let tuple = page.item_mut(parent.at)?;
    let header = u32_at(tuple, 0).ok_or(no_node)?;
    let (nodes, prefix_bytes) = (header >> 3 & 0x1fff, header >> 16);
    if u32::from(parent.node) >= nodes {
        return Err(no_node);
    }
    let mut at = INNER_HEADER_BYTES + prefix_bytes as usize;
    for _ in 0..parent.node {
        let header: [u8; INDEX_TUPLE_HEADER_BYTES] = array_at(tuple, at).ok_or(no_node)?;
        at += index_tuple_bytes(header);
    }
    tuple
        .get_mut(at..at + ITEM_POINTER_BYTES)
        .ok_or(no_node)?
        .copy_from_slice(&to);
    Ok(())
}

/// Sets which leaf comes next in a chain; the flags beside it stay.
pub(super) fn set_next_in_chain(
    page: &mut PageMut<'_>,
    at: u16,
    next: u16,
) -> Result<(), RedoError> {
    let tuple = page.item_mut(at)?;
    let field = u16_at(tuple, 4).ok_or(too_short(at))?;
    let field = field & !NEXT_IN_CHAIN | next & NEXT_IN_CHAIN;
    tuple[4..6].copy_from_slice(&field.to_le_bytes());
    Ok(())
}

/// Makes a redirection a placeholder.
pub(super) fn redirect_to_placeholder(page: &mut PageMut<'_>, at: u16) -> Result<(), RedoError> {
    let tuple = page.item_mut(at)?;
    let Some(header) = tuple.get_mut(..12) else {
        return Err(too_short(at));
    };
    header[0] = header[0] & !STATE | PLACEHOLDER;
    header[6..].copy_from_slice(&NO_ITEM);
    change_count(page, REDIRECTS_AT, |count| count.wrapping_sub(1))?;
    change_count(page, PLACEHOLDERS_AT, |count| count.wrapping_add(1))
}

/// Removes all tuples from `first` on, placeholders at the end of the page.
pub(super) fn remove_placeholders(page: &mut PageMut<'_>, first: u16) -> Result<(), RedoError> {
    let last = page.item_count();
    let removed = (last + 1).checked_sub(first).ok_or(RedoError::Record {
        what: "first placeholder",
        value: first.into(),
    })?;
    change_count(page, PLACEHOLDERS_AT, |count| count.wrapping_sub(removed))?;
    let mut offsets = [0; TUPLES_MAX];
    let offsets = offsets
        .get_mut(..usize::from(removed))
        .ok_or(RedoError::Page {
            what: "count of placeholders",
            value: removed.into(),
        })?;
    for (into, offset) in offsets.iter_mut().zip(first..=last) {
        *into = offset;
    }
    page.index_multi_delete(offsets.iter().copied())?;
    Ok(())
}

fn change_count(
    page: &mut PageMut<'_>,
    at: usize,
    change: impl FnOnce(u16) -> u16,
) -> Result<(), RedoError> {
    let field = &mut page.special_space_mut(SPECIAL_BYTES)?[at..at + 2];
    let count = change(u16::from_le_bytes([field[0], field[1]]));
    field.copy_from_slice(&count.to_le_bytes());
    Ok(())
}

fn too_short(at: u16) -> RedoError {
    RedoError::Page {
        what: "too short a tuple at line pointer",
        value: at.into(),
    }
}

/// Flag of a page: of leaves.
pub(super) const LEAF_PAGE: u16 = 1 << 2;
/// Flag of a page: of the tree of nulls.
pub(super) const NULLS_PAGE: u16 = 1 << 3;

const SPECIAL_BYTES: usize = 8;
const REDIRECTS_AT: usize = 2;
const PLACEHOLDERS_AT: usize = 4;
const SPGIST_PAGE_ID: u16 = 0xff82;

const STATE: u8 = 3;
const REDIRECT: u8 = 1;
const DEAD: u8 = 2;
const PLACEHOLDER: u8 = 3;

const DEAD_LENGTH: u8 = 16;
const DEAD_BYTES: usize = DEAD_LENGTH as usize;
const INNER_HEADER_BYTES: usize = 8;
const NEXT_IN_CHAIN: u16 = 0x3fff;
/// More than fit on a page: a tuple with its line pointer has 20 bytes.
const TUPLES_MAX: usize = 408;
