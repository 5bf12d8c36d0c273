//! SP-GiST indexes: what each record does to each of its pages. The tuples themselves and the counts in the special
//! space are in [`tuples`].
//!
//! A record's main data has all of its tuples, for all of its pages: the record is parsed once for each page, and
//! what belongs to others is passed over.

mod tuples;
use super::fields::Fields;
use super::index_records::{IndexRecords, Offsets, item_pointer, take_offsets};
use super::{Change, RedoError};
use crate::page::PageMut;
use tuples::{
    Dead, LEAF_PAGE, NULLS_PAGE, add_or_replace, init_page, replace, replace_by_dead,
    set_next_in_chain, set_node_link, take_inner, take_leaf,
};

pub(super) fn apply(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    match (change.operation(), change.block_id) {
        (ADD_LEAF, 0 | 1) => add_leaf(change, page),
        (MOVE_LEAFS, 0..=2) => move_leafs(change, page),
        (ADD_NODE, 0..=2) => add_node(change, page),
        (SPLIT_TUPLE, 0 | 1) => split_tuple(change, page),
        (PICK_SPLIT, 0..=3) => pick_split(change, page),
        (VACUUM_LEAF, 0) => vacuum_leaf(change, page),
        (VACUUM_ROOT, 0) => vacuum_root(change, page),
        (VACUUM_REDIRECT, 0) => vacuum_redirect(change, page),
        _ => Err(change.unexpected_block()),
    }
}

/// Block 0 gets the tuple, block 1 is the parent whose node leads to it.
fn add_leaf(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("SP-GiST leaf record", change.main);
    let (new_page, of_nulls) = (main.u8()? != 0, main.u8()? != 0);
    let (at, head) = (main.u16()?, main.u16()?);
    let parent = take_parent(&mut main)?;
    if change.block_id == 1 {
        return set_node_link(page, parent, item_pointer(change.other(0)?.block, at));
    }
    let tuple = take_leaf(&mut main)?;
    if new_page {
        init_leaf_page(page, of_nulls)?;
    }
    if at == head {
        // It takes the place of a dead tuple.
        return replace(page, at, tuple);
    }
    add_or_replace(page, at, tuple)?;
    match head {
        0 => Ok(()),
        head => set_next_in_chain(page, head, at),
    }
}

/// Block 0 loses a chain of tuples, block 1 gets them and one more, block 2 is the parent.
fn move_leafs(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("SP-GiST move record", change.main);
    let moved = main.u16()?;
    let (new_page, replaces_dead, of_nulls) = (main.u8()? != 0, main.u8()? != 0, main.u8()? != 0);
    main.align(2)?;
    let parent = take_parent(&mut main)?;
    main.align(4)?;
    let state = take_state(&mut main)?;
    // A dead tuple is not moved with the new one.
    let inserted = match replaces_dead {
        true => 1,
        false => moved.checked_add(1).ok_or(RedoError::Record {
            what: "count of moved tuples",
            value: moved.into(),
        })?,
    };
    let removed_at = take_offsets(&mut main, moved)?;
    let inserted_at = take_offsets(&mut main, inserted)?;
    let last = inserted_at.get(usize::from(inserted) - 1).unwrap_or(0);
    match change.block_id {
        0 => {
            let moved_to = item_pointer(change.other(1)?.block, last);
            replace_by_dead(
                page,
                removed_at,
                state.moved_to(moved_to),
                Dead::Placeholder,
            )
        }
        1 => {
            if new_page {
                init_leaf_page(page, of_nulls)?;
            }
            for at in inserted_at.iter() {
                add_or_replace(page, at, take_leaf(&mut main)?)?;
            }
            Ok(())
        }
        _ => set_node_link(page, parent, item_pointer(change.other(1)?.block, last)),
    }
}

/// Block 0 has the inner tuple that gets a node. If it has to move: block 1 gets it, and block 2 is the parent, unless
/// that is on one of the others.
fn add_node(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("SP-GiST node record", change.main);
    let (at, new_at) = (main.u16()?, main.u16()?);
    let (new_page, parent_is_on) = (main.u8()? != 0, main.u8()?);
    let parent = take_parent(&mut main)?;
    main.align(4)?;
    let state = take_state(&mut main)?;
    let tuple = take_inner(&mut main)?;
    let moved_to = match change.block_id {
        1 => item_pointer(change.tag.block, new_at),
        _ => match change.other(1) {
            Ok(new) => item_pointer(new.block, new_at),
            Err(_) if change.block_id == 0 => return replace(page, at, tuple),
            Err(error) => return Err(error),
        },
    };
    match change.block_id {
        0 => replace_by_dead(
            page,
            Offsets::all(&at.to_le_bytes()),
            state.moved_to(moved_to),
            Dead::Placeholder,
        )?,
        1 => {
            if new_page {
                init_page(page, 0)?;
            }
            add_or_replace(page, new_at, tuple)?;
        }
        _ => {}
    }
    if parent_is_on == change.block_id {
        set_node_link(page, parent, moved_to)
    } else if change.block_id == 2 {
        Err(change.unexpected_block())
    } else {
        Ok(())
    }
}

/// Block 0 has the inner tuple whose prefix is cut, block 1 (or it as well) gets a tuple for the rest.
fn split_tuple(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("SP-GiST tuple split record", change.main);
    let (prefix_at, rest_at) = (main.u16()?, main.u16()?);
    let (new_page, same_page) = (main.u8()? != 0, main.u8()? != 0);
    let prefix = take_inner(&mut main)?;
    let rest = take_inner(&mut main)?;
    match (change.block_id, same_page) {
        (0, _) => {
            replace(page, prefix_at, prefix)?;
            if same_page {
                add_or_replace(page, rest_at, rest)?;
            }
            Ok(())
        }
        (_, false) => {
            if new_page {
                init_page(page, 0)?;
            }
            add_or_replace(page, rest_at, rest)
        }
        (_, true) => Err(change.unexpected_block()),
    }
}

/// A chain of leaves becomes an inner tuple over several: block 0 is the page of the chain, block 1 a second page for
/// leaves, block 2 gets the inner tuple, block 3 is the parent.
fn pick_split(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("SP-GiST page split record", change.main);
    let is_root_split = main.u8()? != 0;
    main.align(2)?;
    let (removed, inserted) = (main.u16()?, main.u16()?);
    let (init_source, init_second) = (main.u8()? != 0, main.u8()? != 0);
    let inner_at = main.u16()?;
    let (init_inner, of_nulls) = (main.u8()? != 0, main.u8()? != 0);
    let inner_is_parent = main.u8()? != 0;
    main.align(2)?;
    let parent = take_parent(&mut main)?;
    main.align(4)?;
    let state = take_state(&mut main)?;
    let removed_at = take_offsets(&mut main, removed)?;
    let inserted_at = take_offsets(&mut main, inserted)?;
    let is_on_second = main.take(usize::from(inserted))?;
    let inner = take_inner(&mut main)?;
    let inner_block = match change.block_id {
        2 => change.tag.block,
        _ => change.other(2)?.block,
    };
    let moved_to = item_pointer(inner_block, inner_at);
    match change.block_id {
        0 if is_root_split => return Err(change.unexpected_block()),
        0 if init_source => init_leaf_page(page, of_nulls)?,
        0 => replace_by_dead(
            page,
            removed_at,
            state.moved_to(moved_to),
            Dead::Placeholder,
        )?,
        1 if init_second => init_leaf_page(page, of_nulls)?,
        1 => {}
        2 => {
            if init_inner {
                init_page(page, if of_nulls { NULLS_PAGE } else { 0 })?;
            }
            add_or_replace(page, inner_at, inner)?;
            if inner_is_parent {
                set_node_link(page, parent, moved_to)?;
            }
            return Ok(());
        }
        _ => return set_node_link(page, parent, moved_to),
    }
    for (at, on_second) in inserted_at.iter().zip(is_on_second) {
        let tuple = take_leaf(&mut main)?;
        if (*on_second != 0) == (change.block_id == 1) {
            add_or_replace(page, at, tuple)?;
        }
    }
    Ok(())
}

/// Vacuum of a leaf page: heads of chains become dead, others placeholders, or the next live one moves to the head.
fn vacuum_leaf(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("SP-GiST leaf vacuum record", change.main);
    let (dead, placeholders) = (main.u16()?, main.u16()?);
    let (moves, links) = (main.u16()?, main.u16()?);
    take_state(&mut main)?;
    let dead = take_offsets(&mut main, dead)?;
    let placeholders = take_offsets(&mut main, placeholders)?;
    let (from, to) = (
        take_offsets(&mut main, moves)?,
        take_offsets(&mut main, moves)?,
    );
    let (chained, next) = (
        take_offsets(&mut main, links)?,
        take_offsets(&mut main, links)?,
    );
    replace_by_dead(page, dead, Dead::Head, Dead::Head)?;
    replace_by_dead(page, placeholders, Dead::Placeholder, Dead::Placeholder)?;
    for (from, to) in from.iter().zip(to.iter()) {
        let (source, target) = (page.item_id(from)?, page.item_id(to)?);
        page.set_item_id(from, target)?;
        page.set_item_id(to, source)?;
    }
    replace_by_dead(page, from, Dead::Placeholder, Dead::Placeholder)?;
    for (tuple, next) in chained.iter().zip(next.iter()) {
        set_next_in_chain(page, tuple, next)?;
    }
    Ok(())
}

/// Vacuum of a root that is still a leaf: nothing points to its tuples, they just go.
fn vacuum_root(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("SP-GiST root vacuum record", change.main);
    let removed = main.u16()?;
    main.align(4)?;
    take_state(&mut main)?;
    page.index_multi_delete(take_offsets(&mut main, removed)?.iter())?;
    Ok(())
}

/// Redirections that nobody can follow any more become placeholders, and placeholders at the end of the page go.
fn vacuum_redirect(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let mut main = Fields::new("SP-GiST redirection vacuum record", change.main);
    let (redirects, first_placeholder) = (main.u16()?, main.u16()?);
    let header = change.version.spgist_vacuum_redirect_header_bytes();
    let mut main = Fields::new("SP-GiST redirection vacuum record", change.main);
    main.take(header)?;
    for at in take_offsets(&mut main, redirects)?.iter() {
        tuples::redirect_to_placeholder(page, at)?;
    }
    if first_placeholder != 0 {
        tuples::remove_placeholders(page, first_placeholder)?;
    }
    Ok(())
}

/// Where in a parent the link to a tuple is: tuple, number of the node.
#[derive(Clone, Copy)]
struct Parent {
    at: u16,
    node: u16,
}

fn take_parent(main: &mut Fields<'_>) -> Result<Parent, RedoError> {
    let (at, node) = (main.u16()?, main.u16()?);
    Ok(Parent { at, node })
}

/// What a record says of the transaction that made it.
#[derive(Clone, Copy)]
struct State {
    xid: u32,
    is_build: bool,
}

impl State {
    /// What the first tuple of a chain that moved becomes. No scan can be on its way to it while the index is built.
    fn moved_to(self, to: [u8; 6]) -> Dead {
        match self.is_build {
            true => Dead::Placeholder,
            false => Dead::Redirect { to, xid: self.xid },
        }
    }
}

/// 8 bytes with the padding.
fn take_state(main: &mut Fields<'_>) -> Result<State, RedoError> {
    let (xid, is_build) = (main.u32()?, main.u8()? != 0);
    main.take(3)?;
    Ok(State { xid, is_build })
}

fn init_leaf_page(page: &mut PageMut<'_>, of_nulls: bool) -> Result<(), RedoError> {
    init_page(page, LEAF_PAGE | if of_nulls { NULLS_PAGE } else { 0 })
}

const ADD_LEAF: u8 = 0x10;
const MOVE_LEAFS: u8 = 0x20;
const ADD_NODE: u8 = 0x30;
const SPLIT_TUPLE: u8 = 0x40;
const PICK_SPLIT: u8 = 0x50;
const VACUUM_LEAF: u8 = 0x60;
const VACUUM_ROOT: u8 = 0x70;
const VACUUM_REDIRECT: u8 = 0x80;
