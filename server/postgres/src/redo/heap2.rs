//! Redo of the other heap records: pruning, freezing, visibility, many rows at once.
//!
//! | operation | 15, 16 | 17, 18 |
//! |-----------|--------|--------|
//! | 0x00 | rewrite: a file, no page | same |
//! | 0x10 | prune: horizon (4), redirected (2), dead (2) | prune on access |
//! | 0x20 | vacuum: unused (2) | prune in vacuum's first pass |
//! | 0x30 | freeze: horizon (4), tuples (2, in 16: plans) | in its second |
//! | 0x40 | visible: horizon (4), flags (1); block 0 is the map's, block 1 the heap's | same |
//! | 0x50 | multi insert: flags (1), tuples (2 at 2), line pointers | same |
//! | 0x60 | lock an updated version: xmax (4), line pointer (2), infobits (1), flags (1) | same |
//! | 0x70 | new command id: no page | same |
//!
//! The block data of 15's freeze has 12 bytes for each tuple: xmax (4), line pointer (2), infomask2 (2),
//! infomask (2), flags (1). From 16 on a plan of 12 bytes stands for several tuples: xmax (4), infomask2 (2),
//! infomask (2), flags (1), number of tuples (2 at 10); the line pointers of all plans follow.
//!
//! From 17 on the main data is reason (1), flags (1), horizon, and the block data has what the flags say, in this
//! order: number of plans (2), padding (2), plans; lists of line pointers, each after its length (2): redirected (in
//! pairs), dead, unused; line pointers of the plans.

use super::fields::Fields;
use super::heap::{ALL_FROZEN_SET, ALL_VISIBLE_CLEARED, OPERATION_MASK};
use super::heap_tuple::{FreezePlan, LoggedHeader, TupleMut, add_tuple};
use super::visibility_map::set_bits;
use super::{Change, RedoError, Stamp};
use crate::page::{ItemId, PD_ALL_VISIBLE, PageMut};
use crate::wal::WalVersion;

const PRUNE: u8 = 0x10;
const VACUUM: u8 = 0x20;
const FREEZE: u8 = 0x30;
const PRUNE_ON_ACCESS: u8 = 0x10;
const PRUNE_VACUUM_SCAN: u8 = 0x20;
const PRUNE_VACUUM_CLEANUP: u8 = 0x30;
const VISIBLE: u8 = 0x40;
pub(super) const MULTI_INSERT: u8 = 0x50;
pub(super) const LOCK_UPDATED: u8 = 0x60;

pub(super) fn apply(change: &Change<'_>, page: &mut PageMut<'_>) -> Result<Stamp, RedoError> {
    let operation = change.info & OPERATION_MASK;
    let mut main = Fields::new("main data", change.main);
    let mut data = Fields::new("block data", change.data);
    if operation == VISIBLE {
        return visible(change, &mut main, page);
    }
    if change.block_id != 0 {
        return Err(change.unexpected_block());
    }
    match (operation, change.version) {
        (MULTI_INSERT, _) => multi_insert(change, &mut main, &mut data, page)?,
        (LOCK_UPDATED, _) => lock_updated(&mut main, page)?,
        (PRUNE, WalVersion::V15 | WalVersion::V16) => prune_before_17(&mut main, &mut data, page)?,
        (VACUUM, WalVersion::V15 | WalVersion::V16) => {
            let count = main.u16()?;
            set_each(page, &mut data, count, ItemId::UNUSED)?;
            page.truncate_line_pointers()?;
        }
        (FREEZE, WalVersion::V15) => freeze_tuples(&mut main, &mut data, page)?,
        (FREEZE, WalVersion::V16) => {
            main.u32()?;
            let count = main.u16()?;
            let plans = take_plans(&mut data, count)?;
            freeze_by_plans(plans, &mut data, page)?;
        }
        (
            PRUNE_ON_ACCESS | PRUNE_VACUUM_SCAN | PRUNE_VACUUM_CLEANUP,
            WalVersion::V17 | WalVersion::V18,
        ) => prune_and_freeze(&mut main, &mut data, page)?,
        _ => return Err(RedoError::Operation(change.operation())),
    }
    Ok(Stamp::End)
}

/// Page and map say that all rows are visible. The page gets a new LSN only if hint bits are logged: then its image
/// would have been too.
fn visible(
    change: &Change<'_>,
    main: &mut Fields<'_>,
    page: &mut PageMut<'_>,
) -> Result<Stamp, RedoError> {
    main.u32()?;
    let flags = main.u8()?;
    match change.block_id {
        0 => {
            if page.is_new() {
                page.init(0)?;
            }
            Ok(if set_bits(page, change.other(1)?.block, flags) {
                Stamp::End
            } else {
                Stamp::Keep
            })
        }
        1 => {
            page.add_flags(PD_ALL_VISIBLE);
            Ok(if change.hint_bits_logged {
                Stamp::End
            } else {
                Stamp::Keep
            })
        }
        _ => Err(change.unexpected_block()),
    }
}

fn multi_insert(
    change: &Change<'_>,
    main: &mut Fields<'_>,
    data: &mut Fields<'_>,
    page: &mut PageMut<'_>,
) -> Result<(), RedoError> {
    let flags = main.u8()?;
    main.u8()?;
    let count = main.u16()?;
    if change.will_init {
        page.init(0)?;
    }
    for index in 0..count {
        // On a page made anew they are numbered from 1.
        let offset = if change.will_init {
            index.saturating_add(1)
        } else {
            main.u16()?
        };
        data.align(2)?;
        let body_bytes = usize::from(data.u16()?);
        let header = LoggedHeader::read(data)?;
        let body = data.take(body_bytes)?;
        let place = (change.tag.block, offset);
        add_tuple(page, place, (change.xid, 0), header, body_bytes)?.copy_from_slice(body);
    }
    all_read(data)?;
    if flags & ALL_VISIBLE_CLEARED != 0 {
        page.clear_flags(PD_ALL_VISIBLE);
    }
    if flags & ALL_FROZEN_SET != 0 {
        page.add_flags(PD_ALL_VISIBLE);
    }
    Ok(())
}

/// A version of a row that was updated meanwhile is locked too; its ctid goes on to the next.
fn lock_updated(main: &mut Fields<'_>, page: &mut PageMut<'_>) -> Result<(), RedoError> {
    let xmax = main.u32()?;
    let offset = main.u16()?;
    let infobits = main.u8()?;
    let mut tuple = TupleMut::at(page, offset)?;
    tuple.replace_xmax_bits(infobits);
    tuple.set_xmax(xmax);
    Ok(())
}

fn prune_before_17(
    main: &mut Fields<'_>,
    data: &mut Fields<'_>,
    page: &mut PageMut<'_>,
) -> Result<(), RedoError> {
    main.u32()?;
    let redirected = main.u16()?;
    let dead = main.u16()?;
    redirect_each(page, data, redirected)?;
    set_each(page, data, dead, ItemId::DEAD)?;
    while data.left() >= 2 {
        page.set_item_id(data.u16()?, ItemId::UNUSED)?;
    }
    page.repair_fragmentation()?;
    Ok(())
}

fn freeze_tuples(
    main: &mut Fields<'_>,
    data: &mut Fields<'_>,
    page: &mut PageMut<'_>,
) -> Result<(), RedoError> {
    main.u32()?;
    for _ in 0..main.u16()? {
        let xmax = data.u32()?;
        let offset = data.u16()?;
        let plan = FreezePlan {
            xmax,
            infomask2: data.u16()?,
            infomask: data.u16()?,
            flags: data.u8()?,
        };
        data.u8()?;
        TupleMut::at(page, offset)?.freeze(&plan);
    }
    Ok(())
}

fn take_plans<'a>(data: &mut Fields<'a>, count: u16) -> Result<Fields<'a>, RedoError> {
    const PLAN_BYTES: usize = 12;
    let plans = data.take(usize::from(count) * PLAN_BYTES)?;
    Ok(Fields::new("freeze plans", plans))
}

/// Carries out `plans` on the tuples that `offsets` continues with.
fn freeze_by_plans(
    mut plans: Fields<'_>,
    offsets: &mut Fields<'_>,
    page: &mut PageMut<'_>,
) -> Result<(), RedoError> {
    while plans.left() > 0 {
        let plan = FreezePlan {
            xmax: plans.u32()?,
            infomask2: plans.u16()?,
            infomask: plans.u16()?,
            flags: plans.u8()?,
        };
        plans.u8()?;
        for _ in 0..plans.u16()? {
            TupleMut::at(page, offsets.u16()?)?.freeze(&plan);
        }
    }
    Ok(())
}

fn prune_and_freeze(
    main: &mut Fields<'_>,
    data: &mut Fields<'_>,
    page: &mut PageMut<'_>,
) -> Result<(), RedoError> {
    const MOVES_TUPLES: u8 = 0x04;
    const HAS_PLANS: u8 = 0x10;
    const HAS_REDIRECTED: u8 = 0x20;
    const HAS_DEAD: u8 = 0x40;
    const HAS_UNUSED: u8 = 0x80;
    main.u8()?;
    let flags = main.u8()?;
    let has = |flag| flags & flag != 0;

    let mut plans = Fields::new("freeze plans", &[]);
    if has(HAS_PLANS) {
        let count = data.u16()?;
        data.u16()?;
        plans = take_plans(data, count)?;
    }
    if has(HAS_REDIRECTED) {
        let count = data.u16()?;
        redirect_each(page, data, count)?;
    }
    if has(HAS_DEAD) {
        let count = data.u16()?;
        set_each(page, data, count, ItemId::DEAD)?;
    }
    if has(HAS_UNUSED) {
        let count = data.u16()?;
        set_each(page, data, count, ItemId::UNUSED)?;
    }
    if has(HAS_REDIRECTED | HAS_DEAD | HAS_UNUSED) {
        if has(MOVES_TUPLES) {
            page.repair_fragmentation()?;
        } else {
            page.truncate_line_pointers()?;
        }
    }
    freeze_by_plans(plans, data, page)?;
    all_read(data)
}

/// Redirects the first of each of `count` pairs of line pointers to the second.
fn redirect_each(
    page: &mut PageMut<'_>,
    pairs: &mut Fields<'_>,
    count: u16,
) -> Result<(), RedoError> {
    for _ in 0..count {
        let from = pairs.u16()?;
        let to = pairs.u16()?;
        page.set_item_id(from, ItemId::redirect(to))?;
    }
    Ok(())
}

/// Makes each of `count` line pointers the same.
fn set_each(
    page: &mut PageMut<'_>,
    offsets: &mut Fields<'_>,
    count: u16,
    id: ItemId,
) -> Result<(), RedoError> {
    for _ in 0..count {
        page.set_item_id(offsets.u16()?, id)?;
    }
    Ok(())
}

fn all_read(data: &Fields<'_>) -> Result<(), RedoError> {
    match data.left() {
        0 => Ok(()),
        left => Err(RedoError::Record {
            what: "bytes too many:",
            value: u64::try_from(left).expect("a length fits"),
        }),
    }
}
