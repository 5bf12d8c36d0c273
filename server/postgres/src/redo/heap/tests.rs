//! Heap records made by hand; what the tests of whole clusters can't show is that damaged ones are refused.

use engine::types::Lsn;

use super::super::testing::{Numbers, TestPage, change, damage, tag};
use super::*;
use crate::key::{BlockTag, Fork};
use crate::page::{ItemId, ItemState, PD_HAS_FREE_LINES, PageError};
use crate::wal::{ResourceManager, WalVersion};

const HEAP: ResourceManager = ResourceManager::HEAP;
const HEAP2: ResourceManager = ResourceManager::HEAP2;
const INIT: u8 = 0x80;

/// Logged header of a tuple with 3 columns and no nulls, and a body: a byte of padding and columns.
fn logged(columns: &[u8]) -> Vec<u8> {
    [&[3, 0, 0x20, 0x08, 24, 0][..], columns].concat()
}

/// The tuple on the page that comes of it.
fn tuple(xmin: u32, xmax: u32, ctid: (u32, u16), infomasks: (u16, u16), columns: &[u8]) -> Vec<u8> {
    [
        &xmin.to_le_bytes()[..],
        &xmax.to_le_bytes(),
        &[0; 4],
        &ctid.0.to_le_bytes()[2..],
        &ctid.0.to_le_bytes()[..2],
        &ctid.1.to_le_bytes(),
        &infomasks.1.to_le_bytes(),
        &infomasks.0.to_le_bytes(),
        &[24, 0],
        columns,
    ]
    .concat()
}

/// Inserts `columns` as tuple `offset`.
fn insert_one(page: &mut TestPage, offset: u16, columns: &[u8]) {
    let main = [offset.to_le_bytes()[0], offset.to_le_bytes()[1], 0];
    let data = logged(columns);
    page.apply(Change {
        end: Lsn(0x100 + u64::from(offset)),
        will_init: offset == 1,
        ..change(HEAP, if offset == 1 { INIT } else { INSERT }, &main, &data)
    });
}

/// A page with `count` tuples.
fn page_of(count: u16) -> TestPage {
    let mut page = TestPage::empty(16);
    for offset in 1..=count {
        let columns = [b"columns of row ".as_slice(), &offset.to_le_bytes()].concat();
        insert_one(&mut page, offset, &columns);
    }
    page
}

#[test]
fn an_insert_makes_the_page_and_the_tuple() {
    let mut page = page_of(1);
    assert_eq!(page.page().special(), 8192);
    assert_eq!(page.page().lsn(), Lsn(0x101));
    let expected = tuple(700, 0, (7, 1), (0x0800, 3), b"columns of row \x01\0");
    assert_eq!(page.item(1), expected);
    page.page().add_flags(PD_ALL_VISIBLE);
    page.apply(change(
        HEAP,
        INSERT,
        &[2, 0, ALL_VISIBLE_CLEARED],
        &logged(b"x"),
    ));
    assert_eq!(page.page().flags(), 0);
    assert_eq!(page.page().lsn(), Lsn(0x1000));
    assert_eq!(
        page_of(1).refuse(change(HEAP, INSERT, &[3, 0, 0], &logged(b"x"))),
        PageError::Offset {
            offset: 3,
            count: 1
        }
        .into()
    );
    assert_eq!(
        page_of(1).refuse(change(HEAP, INSERT, &[1, 0, 0], &logged(b"x"))),
        PageError::Used { offset: 1 }.into()
    );
}

#[test]
fn a_delete_marks_the_tuple_and_the_page() {
    let mut page = page_of(1);
    page.page().add_flags(PD_ALL_VISIBLE);
    page.apply(change(HEAP, DELETE, &[9, 0, 0, 0, 1, 0, 0x10, 1], b""));
    let columns = b"columns of row \x01\0";
    assert_eq!(page.item(1), tuple(700, 9, (7, 1), (0, 0x2003), columns));
    assert_eq!(page.page().flags(), 0);
    assert_eq!(page.page().prune_xid(), 700);

    let mut page = page_of(1);
    page.page().set_prune_xid(0xffff_fff0);
    page.apply(change(HEAP, DELETE, &[9, 0, 0, 0, 1, 0, 0, 0x18], b""));
    let moved = (u32::MAX, 0xfffd);
    assert_eq!(page.item(1), tuple(0, 0, moved, (0, 3), columns));
    // On the circle of transaction ids it is older than 700.
    assert_eq!(page.page().prune_xid(), 0xffff_fff0);
}

#[test]
fn an_update_in_the_page_takes_prefix_and_suffix_from_the_old_version() {
    let mut page = page_of(1);
    let main = [9, 0, 0, 0, 1, 0, 0, 0x60, 11, 0, 0, 0, 2, 0];
    // 8 bytes from the start, 5 from the end.
    let data = [&[8, 0, 5, 0][..], &logged(b"(new)")].concat();
    page.apply(change(HEAP, HOT_UPDATE, &main, &data));
    let old = tuple(700, 9, (7, 2), (0, 0x4003), b"columns of row \x01\0");
    assert_eq!(page.item(1), old);
    let new = tuple(700, 11, (7, 2), (0x0800, 3), b"columns (new)ow \x01\0");
    assert_eq!(page.item(2), new);

    let too_long = [&[99, 0, 5, 0][..], &logged(b"(new)")].concat();
    page_of(1).refuse(change(HEAP, HOT_UPDATE, &main, &too_long));
    let others = [(1, tag(Fork::Main, 8))];
    page_of(1).refuse(Change {
        others: &others,
        ..change(HEAP, UPDATE, &main, &data)
    });
}

#[test]
fn an_update_to_another_page_changes_each_without_the_other() {
    let main = [9, 0, 0, 0, 1, 0, 0, 0x03, 0, 0, 0, 0, 1, 0];
    let data = logged(b"new");
    let mut old = page_of(1);
    old.page().add_flags(PD_ALL_VISIBLE);
    let others = [(0, tag(Fork::Main, 0x1_0002))];
    old.apply(Change {
        block_id: 1,
        others: &others,
        ..change(HEAP, UPDATE | INIT, &main, b"")
    });
    let ctid = (0x1_0002, 1);
    assert_eq!(
        old.item(1),
        tuple(700, 9, ctid, (0, 3), b"columns of row \x01\0")
    );
    assert_eq!(old.page().flags(), 0);
    let mut new = page_of(3);
    let others = [(1, tag(Fork::Main, 6))];
    new.apply(Change {
        others: &others,
        will_init: true,
        ..change(HEAP, UPDATE | INIT, &main, &data)
    });
    assert_eq!(new.item(1), tuple(700, 0, (7, 1), (0x0800, 3), b"new"));
    assert_eq!(new.page().item_count(), 1);
}

#[test]
fn a_lock_forgets_the_next_version_unless_there_is_one() {
    let mut page = page_of(1);
    let update = [9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    let before = Lsn(0x800);
    page.apply(Change {
        end: before,
        ..change(HEAP, HOT_UPDATE, &update, &logged(b"new"))
    });
    let columns = b"columns of row \x01\0";
    let mut locked = TestPage(page.0.clone());
    locked.apply(change(HEAP, LOCK, &[12, 0, 0, 0, 1, 0, 0x06, 0], b""));
    assert_eq!(locked.item(1), tuple(700, 12, (7, 1), (0x00c0, 3), columns));
    // A multixact with an update in it.
    let mut updated = TestPage(page.0.clone());
    updated.apply(change(HEAP, LOCK, &[12, 0, 0, 0, 1, 0, 0x11, 0], b""));
    assert_eq!(
        updated.item(1),
        tuple(700, 12, (7, 2), (0x1000, 0x6003), columns)
    );
    let mut chain = TestPage(page.0.clone());
    chain.apply(change(HEAP2, 0x60, &[12, 0, 0, 0, 1, 0, 0x0a, 0], b""));
    assert_eq!(
        chain.item(1),
        tuple(700, 12, (7, 2), (0x0090, 0x4003), columns)
    );
}

#[test]
fn confirm_and_in_place_change_what_they_say() {
    let mut page = page_of(2);
    let before = page.item(2);
    page.page().item_mut(2).expect("a tuple")[12..18].fill(0xee);
    page.apply(change(HEAP, CONFIRM, &[2, 0], b""));
    assert_eq!(page.item(2), before);
    let mut page = page_of(2);
    page.apply(change(
        HEAP,
        IN_PLACE,
        &[2, 0, 1, 2, 3],
        b"COLUMNS OF ROW \x02\0",
    ));
    assert_eq!(page.item(2)[24..], *b"COLUMNS OF ROW \x02\0");
    page_of(2).refuse(change(HEAP, IN_PLACE, &[2, 0], b"COLUMNS"));
}

#[test]
fn many_rows_are_inserted_from_even_positions() {
    let tuples = [
        &[2, 0][..],
        &logged(b"a")[..],
        &[0],
        &[5, 0],
        &logged(b"bbbb"),
    ]
    .concat();
    let mut page = page_of(1);
    page.apply(change(HEAP2, 0x50, &[0x20, 0, 2, 0, 2, 0, 3, 0], &tuples));
    assert_eq!(page.item(2), tuple(700, 0, (7, 2), (0x0800, 3), b"a"));
    assert_eq!(page.item(3), tuple(700, 0, (7, 3), (0x0800, 3), b"bbbb"));
    assert_eq!(page.page().flags(), PD_ALL_VISIBLE);
    let mut made_anew = page_of(5);
    made_anew.apply(Change {
        will_init: true,
        ..change(HEAP2, 0x50 | INIT, &[0, 0, 2, 0], &tuples)
    });
    assert_eq!(made_anew.page().item_count(), 2);
    assert_eq!(made_anew.item(1), tuple(700, 0, (7, 1), (0x0800, 3), b"a"));
    let one_too_few = change(HEAP2, 0x50, &[0, 0, 1, 0, 2, 0], &tuples);
    assert_eq!(
        page_of(1).refuse(one_too_few),
        RedoError::Record {
            what: "bytes too many:",
            value: 13
        }
    );
}

/// Shorts as bytes.
fn shorts(values: &[u16]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn pruning_is_the_same_in_all_versions() {
    let mut old = page_of(6);
    // 1 is redirected to 3, 4 is dead, 2 and 6 are gone.
    old.apply(Change {
        version: WalVersion::V15,
        ..change(
            HEAP2,
            0x10,
            &[0, 0, 0, 0, 1, 0, 1, 0],
            &shorts(&[1, 3, 4, 2, 6]),
        )
    });
    let mut new = page_of(6);
    let data = shorts(&[1, 1, 3, 1, 4, 2, 2, 6]);
    new.apply(change(HEAP2, 0x10, &[0, 0xe4], &data));
    assert_eq!(old.0, new.0);
    let mut page = new.page();
    assert_eq!(page.item_count(), 5);
    assert_eq!(page.item_id(1), Ok(ItemId::redirect(3)));
    assert_eq!(page.item_id(4).map(ItemId::state), Ok(ItemState::Dead));
    assert_eq!(page.flags(), PD_HAS_FREE_LINES);
    assert_eq!(page.upper(), 8192 - 2 * 48);
    page.set_lsn(Lsn(0x900));

    let mut vacuumed = TestPage(new.0.clone());
    let vacuum = change(HEAP2, 0x20, &[1, 0], &[4, 0]);
    vacuumed.apply(Change {
        version: WalVersion::V16,
        ..vacuum
    });
    new.apply(change(HEAP2, 0x30, &[0, 0x80], &[1, 0, 4, 0]));
    assert_eq!(vacuumed.0, new.0);
    assert_eq!(new.page().item_id(4), Ok(ItemId::UNUSED));
}

#[test]
fn freezing_is_the_same_in_all_versions() {
    let frozen = (0x0b00, 3);
    let mut v15 = page_of(3);
    // Both tuples with all of their plan; 4 says that an ancient vacuum is no longer in the way.
    let tuples = [
        &shorts(&[5, 0, 1, 3, 0x0b00, 4])[..],
        &shorts(&[5, 0, 3, 3, 0x0b00, 4]),
    ]
    .concat();
    v15.apply(Change {
        version: WalVersion::V15,
        ..change(HEAP2, 0x30, &[0, 0, 0, 0, 2, 0], &tuples)
    });
    let columns = b"columns of row \x03\0";
    assert_eq!(v15.item(3), tuple(700, 5, (7, 3), frozen, columns));
    let plans = shorts(&[5, 0, 3, 0x0b00, 4, 2, 1, 3]);
    let mut v16 = page_of(3);
    v16.apply(Change {
        version: WalVersion::V16,
        ..change(HEAP2, 0x30, &[0, 0, 0, 0, 1, 0, 0], &plans)
    });
    let mut v18 = page_of(3);
    let plans = [&[1, 0, 0, 0][..], &plans].concat();
    v18.apply(Change {
        version: WalVersion::V18,
        ..change(HEAP2, 0x20, &[0, 0x10], &plans)
    });
    assert_eq!(v15.0, v16.0);
    assert_eq!(v15.0, v18.0);
}

#[test]
fn visibility_is_set_in_page_and_map() {
    let main = [0, 0, 0, 0, 3];
    let mut page = page_of(1);
    let before = page.page().lsn();
    let others = [(0, tag(Fork::VisibilityMap, 0))];
    let heap_block = Change {
        block_id: 1,
        others: &others,
        ..change(HEAP2, 0x40, &main, b"")
    };
    page.apply(heap_block);
    assert_eq!(page.page().flags(), PD_ALL_VISIBLE);
    assert_eq!(page.page().lsn(), before);
    page.apply(Change {
        hint_bits_logged: true,
        ..heap_block
    });
    assert_eq!(page.page().lsn(), Lsn(0x1000));

    let mut map = TestPage::empty(0);
    map.0.fill(0);
    let others = [(1, tag(Fork::Main, 7))];
    let map_block = Change {
        tag: tag(Fork::VisibilityMap, 0),
        others: &others,
        ..change(HEAP2, 0x40, &main, b"")
    };
    map.apply(map_block);
    assert_eq!(map.0[24..27], [0, 0xc0, 0]);
    assert_eq!(map.page().lsn(), Lsn(0x1000));
    // Bits that are set already leave the map's LSN.
    map.apply(Change {
        end: Lsn(0x2000),
        ..map_block
    });
    assert_eq!(map.page().lsn(), Lsn(0x1000));
}

#[test]
fn damaged_records_and_pages_never_panic() {
    let other_pages: &[(u8, BlockTag)] = &[(1, tag(Fork::Main, 8))];
    let update = [9, 0, 0, 0, 1, 0, 0, 0x60, 11, 0, 0, 0, 5, 0];
    let updated = [&[8, 0, 5, 0][..], &logged(b"(new)")].concat();
    let tuples = [&[2, 0][..], &logged(b"a"), &[0, 5, 0], &logged(b"bbbb")].concat();
    let row = logged(b"row");
    let pruned = shorts(&[1, 5, 0, 3, 0x0b00, 4, 1, 1, 1, 3, 1, 4, 1, 2, 3]);
    let tuple_bytes = [9, 0, 0, 0, 1, 0, 0x11, 1];
    let cases = [
        change(HEAP, INSERT, &[5, 0, 1], &row),
        change(HEAP, DELETE, &tuple_bytes, b""),
        change(HEAP, HOT_UPDATE, &update, &updated),
        change(HEAP, LOCK, &tuple_bytes, b""),
        change(HEAP, IN_PLACE, &[1, 0], b"columns of row \x01\0"),
        change(HEAP2, 0x10, &[0, 0xf4], &pruned),
        change(HEAP2, 0x20, &[0, 0, 0, 0, 1, 0, 1, 0], &pruned),
        change(HEAP2, 0x30, &[1, 0, 0, 0, 1, 0], &pruned),
        change(HEAP2, 0x40, &[0, 0, 0, 0, 3], b""),
        change(HEAP2, 0x50, &[0, 0, 2, 0, 5, 0, 6, 0], &tuples),
        change(HEAP2, 0x60, &tuple_bytes, b""),
    ];
    let page = page_of(4);
    let mut numbers = Numbers(3);
    for case in cases {
        damage(&mut numbers, &case, &page, 400);
        let with_others = Change {
            others: other_pages,
            ..case
        };
        damage(&mut numbers, &with_others, &page, 200);
    }
}
