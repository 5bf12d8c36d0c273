//! Pages of posting trees. They have no line pointers: the right bound of the page's keys is behind the header, and
//! from byte 32 on a leaf has compressed [lists](super::posting_list), an inner page items of 10 bytes (child block,
//! right bound). Lower says where they end.

use engine::types::PAGE_BYTES;

use super::super::RedoError;
use super::super::fields::Fields;
use super::super::index_records::{ITEM_POINTER_BYTES, item_pointer};
use super::posting_list::{decode, encode, list_bytes, merge, plain};
use super::{
    COMPRESSED, DATA, LEAF, SPECIAL_BYTES, change_flags, count, flags, init_page, set_count,
};
use crate::page::{PAGE_HEADER_BYTES, PageMut};

/// Makes the root of a new posting tree, a leaf.
pub(super) fn create(page: &mut PageMut<'_>, main: &mut Fields<'_>) -> Result<(), RedoError> {
    let bytes = main.u32()?;
    let lists = main.rest();
    if bytes as usize != lists.len() {
        return Err(RedoError::Record {
            what: "length of a posting tree's first lists",
            value: bytes.into(),
        });
    }
    init_page(page, DATA | LEAF | COMPRESSED)?;
    content(page)?
        .get_mut(..lists.len())
        .ok_or(RedoError::Record {
            what: "lists longer than a page, bytes",
            value: bytes.into(),
        })?
        .copy_from_slice(lists);
    set_content_bytes(page, lists.len())
}

/// Changes the lists of a leaf: a count of actions, and of each the number of the list it is for and what is done.
pub(super) fn recompress(page: &mut PageMut<'_>, data: &[u8]) -> Result<(), RedoError> {
    if flags(page)? & COMPRESSED == 0 {
        compress_page(page)?;
    }
    let mut fields = Fields::new("changes of posting lists", data);
    let actions = fields.u16()?;

    // What is written never overtakes what is read, for that is read from a copy.
    let mut scratch = [0u8; PAGE_BYTES];
    let before = content_bytes(page)?;
    let old = &mut scratch[..before];
    old.copy_from_slice(&content(page)?[..before]);
    let mut old: &[u8] = old;
    let mut written = Written {
        page: content(page)?,
        bytes: 0,
    };
    // A page has room for more lists than the record's numbers can name: those behind come along unchanged.
    let mut list_number = 0u16;
    for _ in 0..actions {
        let (for_list, action) = (u16::from(fields.u8()?), fields.u8()?);
        if for_list < list_number {
            return Err(RedoError::Record {
                what: "posting list passed already, number",
                value: for_list.into(),
            });
        }
        while list_number < for_list {
            written.push(take_list(&mut old)?)?;
            list_number += 1;
        }
        match action {
            INSERT_LIST => written.push(take_new_list(&mut fields)?)?,
            DELETE_LIST => {
                take_list(&mut old)?;
                list_number += 1;
            }
            REPLACE_LIST => {
                take_list(&mut old)?;
                written.push(take_new_list(&mut fields)?)?;
                list_number += 1;
            }
            ADD_ITEMS => {
                let items = usize::from(fields.u16()?);
                let new = plain(fields.take(items * ITEM_POINTER_BYTES)?);
                let list = decode(take_list(&mut old)?)?;
                written.push_encoded(merge(new, list))?;
                list_number += 1;
            }
            other => {
                return Err(RedoError::Record {
                    what: "change of a posting list",
                    value: other.into(),
                });
            }
        }
    }
    written.push(old)?;
    let bytes = written.bytes;
    set_content_bytes(page, bytes)
}

/// The part of a leaf's new content that is there already.
struct Written<'p> {
    page: &'p mut [u8],
    bytes: usize,
}

impl Written<'_> {
    fn push(&mut self, lists: &[u8]) -> Result<(), RedoError> {
        let end = self.bytes + lists.len();
        self.page
            .get_mut(self.bytes..end)
            .ok_or(RedoError::Record {
                what: "lists longer than a page, bytes",
                value: end as u64,
            })?
            .copy_from_slice(lists);
        self.bytes = end;
        Ok(())
    }

    fn push_encoded(
        &mut self,
        items: impl Iterator<Item = Result<super::posting_list::Item, RedoError>>,
    ) -> Result<(), RedoError> {
        self.bytes += encode(items, &mut self.page[self.bytes..])?;
        Ok(())
    }
}

/// Cuts the next list off.
fn take_list<'a>(lists: &mut &'a [u8]) -> Result<&'a [u8], RedoError> {
    let bytes = list_bytes(lists).ok_or(RedoError::Page {
        what: "no posting list in the last bytes:",
        value: lists.len() as u64,
    })?;
    let (list, rest) = lists.split_at(bytes);
    *lists = rest;
    Ok(list)
}

fn take_new_list<'a>(fields: &mut Fields<'a>) -> Result<&'a [u8], RedoError> {
    let mut rest = fields.clone().rest();
    fields.take(take_list(&mut rest)?.len())
}

/// Turns a leaf of before Postgres 9.4, which has plain item pointers, into one with a list.
fn compress_page(page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let items = count(page)?;
    let mut scratch = [0u8; PAGE_BYTES];
    let old = &mut scratch[..usize::from(items).min(PAGE_BYTES / 6) * ITEM_POINTER_BYTES];
    let content = content(page)?;
    old.copy_from_slice(content.get(..old.len()).ok_or(RedoError::Page {
        what: "count of item pointers",
        value: items.into(),
    })?);
    let bytes = encode(plain(old), content)?;
    set_content_bytes(page, bytes)?;
    change_flags(page, |flags| flags | COMPRESSED)?;
    set_count(page, 0)
}

/// A child page was split: the item that led to it leads to the right half, a new one before it to the left.
pub(super) fn insert_item(
    page: &mut PageMut<'_>,
    data: &[u8],
    right_child: u32,
) -> Result<(), RedoError> {
    let mut fields = Fields::new("item of a posting tree", data);
    let offset = fields.u16()?;
    let new: [u8; ITEM_BYTES] = fields.array()?;
    let count = count(page)?;
    let at = item_at(offset, count)?;
    let end = usize::from(count) * ITEM_BYTES;
    let items = content(page)?
        .get_mut(..end + ITEM_BYTES)
        .ok_or(RedoError::Page {
            what: "no space for an item, there are",
            value: count.into(),
        })?;
    items[at..at + 4].copy_from_slice(&item_pointer(right_child, 0)[..4]);
    items.copy_within(at..end, at + ITEM_BYTES);
    items[at..at + ITEM_BYTES].copy_from_slice(&new);
    set_count(page, count + 1)?;
    set_content_bytes(page, end + ITEM_BYTES)
}

/// A child page was deleted.
pub(super) fn delete_item(page: &mut PageMut<'_>, offset: u16) -> Result<(), RedoError> {
    let count = count(page)?;
    let at = item_at(offset, count)?;
    let end = usize::from(count) * ITEM_BYTES;
    content(page)?
        .get_mut(..end)
        .ok_or(RedoError::Page {
            what: "count of items",
            value: count.into(),
        })?
        .copy_within(at + ITEM_BYTES.., at);
    set_count(page, count - 1)?;
    set_content_bytes(page, end - ITEM_BYTES)
}

/// Where item `offset` (from 1) of `count` begins in the content.
fn item_at(offset: u16, count: u16) -> Result<usize, RedoError> {
    match offset {
        0 => None,
        _ if offset > count => None,
        _ => Some((usize::from(offset) - 1) * ITEM_BYTES),
    }
    .ok_or(RedoError::Record {
        what: "item of a posting tree",
        value: offset.into(),
    })
}

/// What is behind the right bound, up to the special space.
fn content<'p>(page: &'p mut PageMut<'_>) -> Result<&'p mut [u8], RedoError> {
    page.special_space(SPECIAL_BYTES)?;
    Ok(&mut page.bytes_mut()[CONTENT_AT..PAGE_BYTES - SPECIAL_BYTES])
}

/// How much of the content of a compressed leaf is used.
fn content_bytes(page: &PageMut<'_>) -> Result<usize, RedoError> {
    let lower = usize::from(page.lower());
    match lower.checked_sub(CONTENT_AT) {
        Some(bytes) if lower <= PAGE_BYTES - SPECIAL_BYTES => Ok(bytes),
        _ => Err(RedoError::Page {
            what: "lower bound",
            value: lower as u64,
        }),
    }
}

fn set_content_bytes(page: &mut PageMut<'_>, bytes: usize) -> Result<(), RedoError> {
    let lower = u16::try_from(CONTENT_AT + bytes).map_err(|_| RedoError::Record {
        what: "bytes of a posting tree page",
        value: bytes as u64,
    })?;
    page.set_lower(lower);
    Ok(())
}

/// Behind the header and the right bound, aligned to 8.
const CONTENT_AT: usize = PAGE_HEADER_BYTES + 8;
/// Child block, right bound.
const ITEM_BYTES: usize = 10;

const DELETE_LIST: u8 = 1;
const INSERT_LIST: u8 = 2;
const REPLACE_LIST: u8 = 3;
const ADD_ITEMS: u8 = 4;
