//! Whether a replayed page is the one that Postgres logged after the change.
//!
//! The logged image is the primary's buffer as it was when the record was built: before the record's LSN was put into
//! it, with whatever hint bits, dead marks and command ids the primary had set without logging them, and without its
//! hole. So a comparison byte for byte has to allow exactly for that, and nothing more: each allowance below is made
//! for the one field, in the direction in which redo may lack it, and everything else has to be equal. (Postgres's own
//! masks forget far more: all visibility flags of rows, the whole content of visibility maps, the flag that a page is
//! all-visible, line pointers of index leaves.)

use std::ops::Range;

use engine::types::{Lsn, PAGE_BYTES};

use crate::bytes_at::{u16_at, u32_at, u64_at};
use crate::key::Fork;
use crate::wal::ResourceManager;

/// A page of a relation.
pub type Page = [u8; PAGE_BYTES];

/// What decides which allowances are made.
pub(super) struct Rules {
    /// Whose record it is.
    pub(super) manager: ResourceManager,
    /// Of which fork the page is.
    pub(super) fork: Fork,
    /// End of the record.
    pub(super) end: Lsn,
}

impl Rules {
    /// Whether the page can have had `logged` as its LSN in the primary's memory when redo has `ours`: the same, but for
    /// pages that the primary began anew before it made the record. An overflow page of a hash index is freed so (0),
    /// and the root that a GiST build writes past the buffers keeps the build's own number (1).
    pub(super) fn is_same_before(&self, ours: Lsn, logged: Lsn) -> bool {
        ours == logged
            || (self.manager == ResourceManager::HASH && logged == Lsn(0))
            || (self.manager == ResourceManager::GIST && logged == Lsn(1))
    }

    /// The first byte in which `ours`, replayed up to and with the record, differs from the `logged` image otherwise
    /// than by what the primary does without logging it. `hole` is what the image did not carry.
    pub(super) fn first_difference(
        &self,
        hole: Range<usize>,
        ours: &Page,
        logged: &Page,
    ) -> Option<usize> {
        let mut expected = *logged;
        allow_header(ours, &mut expected);
        let is_map = self.fork == Fork::VisibilityMap;
        allow_hole(ours, &mut expected, hole, is_map);
        match self.manager {
            ResourceManager::HEAP | ResourceManager::HEAP2 => allow_heap(ours, &mut expected),
            ResourceManager::BTREE => allow_btree(ours, &mut expected),
            ResourceManager::HASH => allow_hash(ours, &mut expected),
            ResourceManager::GIN => allow_gin(&mut expected),
            ResourceManager::GIST => allow_gist(ours, &mut expected, self.end),
            ResourceManager::BRIN => allow_brin(ours, &mut expected),
            _ => {}
        }
        (0..PAGE_BYTES).find(|at| ours[*at] != expected[*at])
    }
}

/// LSN (set after the record is built), checksum (set when the page is written), and two flags that are hints.
fn allow_header(ours: &Page, expected: &mut Page) {
    expected[..10].copy_from_slice(&ours[..10]);
    equalise_bits(ours, expected, PAGE_FLAGS_AT, FREE_LINES | PAGE_FULL);
}

/// The hole, whether the image left it out or (some records do not say that their page has one) carries what memory
/// had there. A page without line pointers or whatever it has in their place has none: visibility maps, the reverse
/// maps of BRIN.
fn allow_hole(ours: &Page, expected: &mut Page, left_out: Range<usize>, is_map: bool) {
    let short = |at| u16_at(expected, at).map_or(0, usize::from);
    let (lower, upper, special) = (short(12), short(14), short(16));
    let is_sound = lower > HEADER_BYTES && lower <= upper && upper <= special;
    let hole = if !left_out.is_empty() {
        left_out
    } else if is_sound && !is_map {
        lower..upper
    } else {
        return;
    };
    if let (Some(theirs), Some(own)) = (expected.get_mut(hole.clone()), ours.get(hole)) {
        theirs.copy_from_slice(own);
    }
}

/// Hints on rows, command ids (redo knows none: it sets them to 0), the hint when pruning may help, the token that a
/// speculative row has in place of its own position, and padding behind rows.
fn allow_heap(ours: &Page, expected: &mut Page) {
    expected[PRUNE_XID_AT..PRUNE_XID_AT + 4].copy_from_slice(&ours[PRUNE_XID_AT..PRUNE_XID_AT + 4]);
    for item in items(ours) {
        if item.bytes > 0 {
            // What is behind the row up to the next multiple of eight was never set.
            let end = item.at + item.bytes;
            let padded = end.next_multiple_of(8).min(PAGE_BYTES);
            expected[end..padded].copy_from_slice(&ours[end..padded]);
        }
        if item.state != ITEM_NORMAL || item.bytes < HEAP_TUPLE_HEADER_BYTES {
            continue;
        }
        let (cid_at, ctid_at, infomask_at) = (item.at + 8, item.at + 12, item.at + 20);
        if u16_at(expected, ctid_at + 4) == Some(SPECULATIVE_OFFSET) {
            expected[ctid_at..ctid_at + 6].copy_from_slice(&ours[ctid_at..ctid_at + 6]);
        }
        if u32_at(ours, cid_at) == Some(0) {
            expected[cid_at..cid_at + 4].fill(0);
        }
        let mask = u16_at(ours, infomask_at).unwrap_or(0);
        let logged = u16_at(expected, infomask_at).unwrap_or(0);
        let mut hints = COMBO_COMMAND_ID | XMAX_COMMITTED | XMAX_INVALID;
        // Both bits for xmin mean frozen, which is logged.
        if logged & XMIN_FROZEN != XMIN_FROZEN {
            hints |= XMIN_FROZEN;
        }
        // The primary may know more than redo, never less.
        let more = logged & !mask & hints;
        put_u16(expected, infomask_at, logged & !more);
    }
}

/// Dead marks on leaves, the hint that there are some, and the id of the vacuum during which the page was split. Redo of a
/// split sets it to 0, and with it the mark of the last page of the split. Where an image has brought it, the vacuum that
/// comes by sets it to 0 on a leaf, and redo need not know: up to 17 not even if the vacuum removes something.
fn allow_btree(ours: &Page, expected: &mut Page) {
    let Some(special) = special_at(ours, 16) else {
        return;
    };
    let flags_at = special + 12;
    let flags = u16_at(ours, flags_at).unwrap_or(0);
    if flags & BTREE_META != 0 {
        return;
    }
    if flags & BTREE_LEAF != 0 {
        allow_dead_marks(ours, expected);
    }
    equalise_bits(ours, expected, flags_at, BTREE_HAS_GARBAGE);
    clear_unless_ours(ours, expected, flags_at, BTREE_SPLIT_END);
    let cycle_at = flags_at + 2;
    match (u16_at(ours, cycle_at), u16_at(expected, cycle_at)) {
        (Some(0), _) => put_u16(expected, cycle_at, 0),
        (Some(own), Some(0)) if flags & BTREE_LEAF != 0 => put_u16(expected, cycle_at, own),
        _ => {}
    }
}

/// Dead marks in buckets and their overflow pages, and the hint that there are some.
fn allow_hash(ours: &Page, expected: &mut Page) {
    let Some(special) = special_at(ours, 16) else {
        return;
    };
    let flags_at = special + 12;
    let flags = u16_at(ours, flags_at).unwrap_or(0);
    if flags & (HASH_OVERFLOW | HASH_BUCKET) != 0 {
        allow_dead_marks(ours, expected);
    }
    equalise_bits(ours, expected, flags_at, HASH_HAS_DEAD);
}

/// A page that leaves the pending list: the primary only marks it as deleted, redo makes it anew. So ours has to be an
/// empty page.
fn allow_gin(expected: &mut Page) {
    let Some(special) = special_at(expected, 8) else {
        return;
    };
    if u16_at(expected, special + 6) != Some(GIN_DELETED) {
        return;
    }
    put_u16(expected, 12, EMPTY_LOWER);
    put_u16(expected, 14, GIN_SPECIAL);
    expected[HEADER_BYTES..special].fill(0);
    // No page to the right, no rows.
    expected[special..special + 4].fill(0xff);
    put_u16(expected, special + 4, 0);
}

/// Dead marks on leaves and their hint; and what is set behind the record's insertion: the number of the split, which
/// is the record's LSN, and the end of the mark that the right page has no downlink yet.
fn allow_gist(ours: &Page, expected: &mut Page, end: Lsn) {
    let Some(special) = special_at(ours, 16) else {
        return;
    };
    let flags_at = special + 12;
    let flags = u16_at(ours, flags_at).unwrap_or(0);
    if flags & GIST_LEAF != 0 {
        allow_dead_marks(ours, expected);
    }
    equalise_bits(ours, expected, flags_at, GIST_HAS_GARBAGE);
    // Redo of removing dead tuples also sets the mark that vacuum sets; the primary does not.
    let marked = u16_at(ours, flags_at).unwrap_or(0) & (GIST_TUPLES_DELETED | GIST_LEAF);
    if marked == GIST_TUPLES_DELETED | GIST_LEAF {
        equalise_bits(ours, expected, flags_at, GIST_TUPLES_DELETED);
    }
    let nsn = u64_at(ours, special).map(|halves| halves.rotate_left(32));
    if nsn == Some(end.0) {
        expected[special..special + 8].copy_from_slice(&ours[special..special + 8]);
        clear_unless_ours(ours, expected, flags_at, GIST_FOLLOW_RIGHT);
    }
}

/// The mark that a page is being emptied lives in memory alone.
fn allow_brin(ours: &Page, expected: &mut Page) {
    if let Some(special) = special_at(ours, 8) {
        clear_unless_ours(ours, expected, special + 4, BRIN_EVACUATE);
    }
}

/// Line pointers that the primary marked dead and redo still has as normal.
fn allow_dead_marks(ours: &Page, expected: &mut Page) {
    for item in items(ours) {
        let logged = u32_at(expected, item.pointer_at).unwrap_or(0);
        if item.state == ITEM_NORMAL && state_of(logged) == ITEM_DEAD {
            let normal = logged & !(3 << 15) | ITEM_NORMAL << 15;
            expected[item.pointer_at..item.pointer_at + 4].copy_from_slice(&normal.to_le_bytes());
        }
    }
}

struct Item {
    pointer_at: usize,
    state: u32,
    at: usize,
    bytes: usize,
}

/// The line pointers of a page whose header is plausible and that lie with their items within the page.
fn items(page: &Page) -> impl Iterator<Item = Item> + '_ {
    let short = |at| u16_at(page, at).map_or(0, usize::from);
    let (lower, upper, special) = (short(12), short(14), short(16));
    let has_items =
        lower >= HEADER_BYTES && lower <= upper && upper <= special && special <= PAGE_BYTES;
    let count = if has_items {
        (lower - HEADER_BYTES) / 4
    } else {
        0
    };
    (0..count).filter_map(move |index| {
        let pointer_at = HEADER_BYTES + 4 * index;
        let pointer = u32_at(page, pointer_at)?;
        let at = usize::try_from(pointer & 0x7fff).ok()?;
        let bytes = usize::try_from(pointer >> 17).ok()?;
        let is_within = at + bytes <= PAGE_BYTES && (bytes == 0 || at >= upper);
        is_within.then_some(Item {
            pointer_at,
            state: state_of(pointer),
            at,
            bytes,
        })
    })
}

fn state_of(pointer: u32) -> u32 {
    pointer >> 15 & 3
}

/// Where the special space begins, if it has `bytes`.
fn special_at(page: &Page, bytes: usize) -> Option<usize> {
    let special = usize::from(u16_at(page, 16)?);
    (special == PAGE_BYTES - bytes).then_some(special)
}

/// Takes over our `bits` of the short at `at`.
fn equalise_bits(ours: &Page, expected: &mut Page, at: usize, bits: u16) {
    let own = u16_at(ours, at).unwrap_or(0) & bits;
    let theirs = u16_at(expected, at).unwrap_or(0) & !bits;
    put_u16(expected, at, theirs | own);
}

/// Clears those of `bits` that we do not have.
fn clear_unless_ours(ours: &Page, expected: &mut Page, at: usize, bits: u16) {
    let missing = bits & !u16_at(ours, at).unwrap_or(0);
    let theirs = u16_at(expected, at).unwrap_or(0);
    put_u16(expected, at, theirs & !missing);
}

fn put_u16(page: &mut Page, at: usize, value: u16) {
    if let Some(bytes) = page.get_mut(at..at + 2) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

const HEADER_BYTES: usize = 24;
const PAGE_FLAGS_AT: usize = 10;
const PRUNE_XID_AT: usize = 20;
const FREE_LINES: u16 = 1;
const PAGE_FULL: u16 = 2;

const ITEM_NORMAL: u32 = 1;
const ITEM_DEAD: u32 = 3;

const HEAP_TUPLE_HEADER_BYTES: usize = 23;
const SPECULATIVE_OFFSET: u16 = 0xfffe;
const COMBO_COMMAND_ID: u16 = 0x0020;
const XMIN_FROZEN: u16 = 0x0300;
const XMAX_COMMITTED: u16 = 0x0400;
const XMAX_INVALID: u16 = 0x0800;

const BTREE_LEAF: u16 = 1;
const BTREE_META: u16 = 8;
const BTREE_SPLIT_END: u16 = 1 << 5;
const BTREE_HAS_GARBAGE: u16 = 1 << 6;

const HASH_OVERFLOW: u16 = 1;
const HASH_BUCKET: u16 = 2;
const HASH_HAS_DEAD: u16 = 1 << 7;

/// Alone: pages of posting trees that are deleted have other marks as well.
const GIN_DELETED: u16 = 1 << 2;
const GIN_SPECIAL: u16 = 8184;
const EMPTY_LOWER: u16 = 24;

const GIST_LEAF: u16 = 1;
const GIST_TUPLES_DELETED: u16 = 1 << 2;
const GIST_FOLLOW_RIGHT: u16 = 1 << 3;
const GIST_HAS_GARBAGE: u16 = 1 << 4;

const BRIN_EVACUATE: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    const END: Lsn = Lsn(0x2000);
    const NO_HOLE: Range<usize> = 0..0;

    fn rules(manager: ResourceManager) -> Rules {
        Rules {
            manager,
            fork: Fork::Main,
            end: END,
        }
    }

    /// A page with one item of `bytes` at its end, before `special` bytes.
    fn page(special: usize, bytes: usize) -> Page {
        let mut page = [0; PAGE_BYTES];
        let (lower, special) = (HEADER_BYTES + 4, PAGE_BYTES - special);
        let upper = special - bytes.next_multiple_of(8);
        for (at, value) in [(12, lower), (14, upper), (16, special)] {
            put_u16(&mut page, at, u16::try_from(value).expect("small"));
        }
        let pointer = u32::try_from(upper | bytes << 17).expect("small") | ITEM_NORMAL << 15;
        page[HEADER_BYTES..lower].copy_from_slice(&pointer.to_le_bytes());
        page
    }

    fn flip(page: &Page, at: usize, bits: u16) -> Page {
        let mut changed = *page;
        let value = u16_at(page, at).expect("within the page");
        put_u16(&mut changed, at, value ^ bits);
        changed
    }

    #[test]
    fn lsn_checksum_and_hole_may_differ_and_nothing_behind_them() {
        let ours = page(0, 40);
        let rules = rules(ResourceManager::HEAP);
        let upper = PAGE_BYTES - 40;
        for at in (0..10).chain(HEADER_BYTES + 4..upper) {
            let mut logged = ours;
            logged[at] ^= 1;
            assert_eq!(
                rules.first_difference(NO_HOLE, &ours, &logged),
                None,
                "{at}"
            );
        }
        for at in [12, HEADER_BYTES, upper, PAGE_BYTES - 1] {
            let mut logged = ours;
            logged[at] ^= 0x80;
            let found = rules.first_difference(NO_HOLE, &ours, &logged);
            assert_eq!(found, Some(at));
        }
        // What an image left out has no content, whatever the header says.
        let mut logged = ours;
        logged[upper] ^= 1;
        let found = rules.first_difference(upper..upper + 1, &ours, &logged);
        assert_eq!(found, None);
    }

    #[test]
    fn all_of_a_visibility_map_is_compared() {
        let ours = page(0, 0);
        let mut logged = ours;
        logged[100] = 1;
        let of = |fork| Rules {
            manager: ResourceManager::HEAP2,
            fork,
            end: END,
        };
        let found = |fork| of(fork).first_difference(NO_HOLE, &ours, &logged);
        assert_eq!(found(Fork::VisibilityMap), Some(100));
        assert_eq!(found(Fork::Main), None);
    }

    #[test]
    fn the_primary_may_know_more_of_a_row_and_never_less() {
        let ours = page(0, 30);
        let rules = rules(ResourceManager::HEAP);
        let row = PAGE_BYTES - 32;
        let found = |ours: &Page, logged: &Page| rules.first_difference(NO_HOLE, ours, logged);
        for hint in [0x0020, 0x0100, 0x0200, 0x0400, 0x0800] {
            let hinted = flip(&ours, row + 20, hint);
            assert_eq!(found(&ours, &hinted), None, "{hint:#x}");
            assert_eq!(
                found(&hinted, &ours),
                Some(row + 20 + usize::from(hint > 0xff))
            );
        }
        // Frozen is logged; a lock is too.
        let frozen = flip(&ours, row + 20, XMIN_FROZEN);
        assert_eq!(found(&ours, &frozen), Some(row + 21));
        let locked = flip(&ours, row + 20, 0x0080);
        assert_eq!(found(&ours, &locked), Some(row + 20));
        // A command id that redo does not know; one that it does.
        let numbered = flip(&ours, row + 8, 3);
        assert_eq!(found(&ours, &numbered), None);
        assert_eq!(found(&numbered, &ours), Some(row + 8));
        // Its own position, or the token of an insertion that may not stay.
        let speculative = flip(&ours, row + 16, SPECULATIVE_OFFSET);
        assert_eq!(found(&ours, &speculative), None);
        assert_eq!(found(&ours, &flip(&ours, row + 16, 7)), Some(row + 16));
        // Padding.
        assert_eq!(found(&ours, &flip(&ours, row + 30, 0xffff)), None);
    }

    #[test]
    fn leaves_may_have_dead_marks_that_redo_lacks() {
        let mut ours = page(16, 16);
        let special = PAGE_BYTES - 16;
        let rules = rules(ResourceManager::BTREE);
        let found = |ours: &Page, logged: &Page| rules.first_difference(NO_HOLE, ours, logged);
        // Normal to dead: the upper bit of the state.
        let dead = |page: &Page| flip(page, HEADER_BYTES + 2, 1);
        assert_eq!(
            found(&ours, &dead(&ours)),
            Some(HEADER_BYTES + 2),
            "no leaf"
        );
        put_u16(&mut ours, special + 12, BTREE_LEAF);
        assert_eq!(found(&ours, &dead(&ours)), None);
        assert_eq!(found(&dead(&ours), &ours), Some(HEADER_BYTES + 2));
        let garbage = flip(&ours, special + 12, BTREE_HAS_GARBAGE);
        assert_eq!(found(&ours, &garbage), None);
        let split = flip(&ours, special + 12, BTREE_SPLIT_END);
        assert_eq!(found(&ours, &split), None);
        assert_eq!(found(&split, &ours), Some(special + 12));
        // Of another manager the same bits mean something else.
        let other = Rules {
            manager: ResourceManager::SEQUENCE,
            ..rules
        };
        let found = other.first_difference(NO_HOLE, &ours, &garbage);
        assert_eq!(found, Some(special + 12));
    }

    #[test]
    fn a_vacuum_takes_its_id_off_leaves_and_redo_need_not_know() {
        let mut ours = page(16, 16);
        let cycle_at = PAGE_BYTES - 2;
        let rules = rules(ResourceManager::BTREE);
        put_u16(&mut ours, cycle_at - 2, BTREE_LEAF);
        put_u16(&mut ours, cycle_at, 7);
        let logged = flip(&ours, cycle_at, 7);
        let found = |ours: &Page, logged: &Page| rules.first_difference(NO_HOLE, ours, logged);
        assert_eq!(found(&ours, &logged), None);
        assert_eq!(found(&logged, &ours), None, "redo of a split has none");
        // But it is not another's.
        let other = flip(&ours, cycle_at, 1);
        assert_eq!(found(&ours, &other), Some(cycle_at));
        // It does not come by inner pages.
        let inner = |page: &Page| flip(page, cycle_at - 2, BTREE_LEAF);
        assert_eq!(found(&inner(&ours), &inner(&logged)), Some(cycle_at));
        assert_eq!(found(&inner(&logged), &inner(&ours)), None);
    }

    #[test]
    fn a_gist_split_is_numbered_and_ended_behind_its_record() {
        let mut ours = page(16, 16);
        let special = PAGE_BYTES - 16;
        let rules = rules(ResourceManager::GIST);
        let logged = flip(&ours, special + 12, GIST_FOLLOW_RIGHT);
        let found = |ours: &Page| rules.first_difference(NO_HOLE, ours, &logged);
        assert_eq!(found(&ours), Some(special + 12));
        ours[special..special + 8].copy_from_slice(&END.0.rotate_left(32).to_le_bytes());
        assert_eq!(found(&ours), None);
        // Of another record it is no allowance.
        ours[special + 4] ^= 1;
        assert_eq!(found(&ours), Some(special + 4));
    }

    #[test]
    fn only_pages_that_are_begun_past_redo_may_have_had_another_lsn() {
        let is_same = |manager, logged| rules(manager).is_same_before(Lsn(8), Lsn(logged));
        assert!(is_same(ResourceManager::HEAP, 8));
        assert!(!is_same(ResourceManager::HEAP, 0) && !is_same(ResourceManager::HEAP, 9));
        assert!(is_same(ResourceManager::HASH, 0) && !is_same(ResourceManager::HASH, 1));
        assert!(is_same(ResourceManager::GIST, 1) && !is_same(ResourceManager::GIST, 0));
    }
}
