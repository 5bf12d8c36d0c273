//! Btree records made by hand; what the tests of whole clusters can't show is that damaged ones are refused.

use engine::types::Lsn;

use super::super::testing::{Numbers, TestPage, change, damage, tag};
use super::*;
use crate::key::Fork;
use crate::page::{ItemId, max_align};
use crate::wal::ResourceManager;

const BTREE: ResourceManager = ResourceManager::BTREE;

/// A leaf tuple of 16 bytes for row `offset` of block 1.
fn tuple(key: u8, offset: u8) -> Vec<u8> {
    vec![0, 0, 1, 0, offset, 0, 16, 0, key, 0, 0, 0, 0, 0, 0, 0]
}

/// A posting list of a key of 16 bytes with header, for rows `offsets` of block 1.
fn posting_list(key: u8, offsets: &[u8]) -> Vec<u8> {
    let mut bytes = tuple(key, 0);
    for offset in offsets {
        bytes.extend([0, 0, 1, 0, *offset, 0]);
    }
    bytes.resize(max_align(bytes.len()), 0);
    let length = u8::try_from(bytes.len()).expect("short");
    let count = u8::try_from(offsets.len()).expect("few");
    bytes[..8].copy_from_slice(&[0, 0, 16, 0, count, 0x20, length, 0x20]);
    bytes
}

/// A pivot tuple that leads to `child`.
fn pivot(key: u8, child: u8) -> Vec<u8> {
    vec![0, 0, child, 0, 1, 0, 16, 0x20, key, 0, 0, 0, 0, 0, 0, 0]
}

fn page_of(opaque: Opaque, tuples: &[Vec<u8>]) -> TestPage {
    let mut page = TestPage::empty(Opaque::BYTES);
    for tuple in tuples {
        let end = page.page().item_count() + 1;
        page.page()
            .add_item(tuple, Place::Insert(end))
            .expect("it fits");
    }
    page.page().set_opaque(opaque).expect("a btree page");
    page
}

/// The rightmost leaf.
fn leaf() -> Opaque {
    Opaque {
        previous: 3,
        flags: LEAF,
        cycle_id: 77,
        ..Opaque::default()
    }
}

fn tuples(page: &mut TestPage) -> Vec<Vec<u8>> {
    let count = page.page().item_count();
    (1..=count).map(|offset| page.item(offset)).collect()
}

#[test]
fn tuples_are_inserted_in_order_and_complete_the_split_below() {
    let mut page = page_of(leaf(), &[tuple(1, 1), tuple(3, 3)]);
    page.apply(change(BTREE, INSERT_LEAF, &[2, 0], &tuple(2, 2)));
    assert_eq!(tuples(&mut page), [tuple(1, 1), tuple(2, 2), tuple(3, 3)]);
    let mut child = page_of(
        Opaque {
            flags: LEAF | INCOMPLETE_SPLIT,
            ..leaf()
        },
        &[],
    );
    child.apply(Change {
        block_id: 1,
        ..change(BTREE, INSERT_UPPER, &[2, 0], b"")
    });
    assert_eq!(child.page().opaque().expect("a btree page").flags, LEAF);
    assert_eq!(
        child.refuse(Change {
            block_id: 1,
            end: Lsn(0x2000),
            ..change(BTREE, INSERT_LEAF, &[2, 0], b"")
        }),
        RedoError::Block {
            info: INSERT_LEAF,
            block_id: 1
        }
    );
}

#[test]
fn a_row_goes_into_a_posting_list_and_its_last_one_out() {
    let mut page = page_of(leaf(), &[posting_list(1, &[1, 4, 6]), tuple(2, 9)]);
    let data = [&[1, 0][..], &tuple(1, 3)].concat();
    page.apply(change(BTREE, INSERT_POSTING, &[2, 0], &data));
    assert_eq!(
        tuples(&mut page),
        [posting_list(1, &[1, 3, 4]), tuple(1, 6), tuple(2, 9)]
    );
    for (position, offset) in [(0, 2), (3, 2), (1, 3)] {
        let data = [&[position, 0][..], &tuple(1, 3)].concat();
        page.refuse(Change {
            end: Lsn(0x2000),
            ..change(BTREE, INSERT_POSTING, &[offset, 0], &data)
        });
    }
}

/// The main data of a split: level 0, then shorts.
fn split_main(first_right: u8, new_offset: u8, position: u8) -> Vec<u8> {
    vec![0, 0, 0, 0, first_right, 0, new_offset, 0, position, 0]
}

#[test]
fn a_split_makes_three_pages_of_one_record() {
    let before: Vec<Vec<u8>> = (1..=4).map(|key| tuple(key * 2, key)).collect();
    let main = split_main(3, 2, 0);
    let data = [tuple(3, 9), pivot(6, 0)].concat();
    let others = [(1, tag(Fork::Main, 8)), (2, tag(Fork::Main, 9))];
    let mut left = page_of(leaf(), &before);
    left.apply(Change {
        others: &others,
        ..change(BTREE, SPLIT_LEFT, &main, &data)
    });
    assert_eq!(
        tuples(&mut left),
        [pivot(6, 0), tuple(2, 1), tuple(3, 9), tuple(4, 2)]
    );
    let opaque = left.page().opaque().expect("a btree page");
    assert_eq!((opaque.previous, opaque.next, opaque.cycle_id), (3, 8, 0));
    assert_eq!(opaque.flags, LEAF | INCOMPLETE_SPLIT);

    let others = [(0, tag(Fork::Main, 7)), (2, tag(Fork::Main, 9))];
    let packed = [tuple(8, 4), tuple(6, 3), pivot(9, 0)].concat();
    let mut right = page_of(leaf(), &before);
    right.apply(Change {
        block_id: 1,
        others: &others,
        will_init: true,
        tag: tag(Fork::Main, 8),
        ..change(BTREE, SPLIT_LEFT, &main, &packed)
    });
    assert_eq!(tuples(&mut right), [pivot(9, 0), tuple(6, 3), tuple(8, 4)]);
    let opaque = right.page().opaque().expect("a btree page");
    assert_eq!((opaque.previous, opaque.next, opaque.flags), (7, 9, LEAF));

    let others = [(0, tag(Fork::Main, 7)), (1, tag(Fork::Main, 8))];
    let mut next = page_of(leaf(), &before);
    next.apply(Change {
        block_id: 2,
        others: &others,
        ..change(BTREE, SPLIT_LEFT, &main, b"")
    });
    assert_eq!(next.page().opaque().expect("a btree page").previous, 8);
}

#[test]
fn the_new_tuple_of_a_split_may_be_the_last_on_the_left_or_split_a_posting_list() {
    let others = [(1, tag(Fork::Main, 8))];
    let before = [tuple(2, 1), posting_list(4, &[2, 4]), tuple(6, 3)];
    let mut left = page_of(leaf(), &before);
    left.apply(Change {
        others: &others,
        ..change(
            BTREE,
            SPLIT_LEFT,
            &split_main(3, 3, 1),
            &[tuple(4, 3), pivot(6, 0)].concat(),
        )
    });
    assert_eq!(
        tuples(&mut left),
        [
            pivot(6, 0),
            tuple(2, 1),
            posting_list(4, &[2, 3]),
            tuple(4, 4)
        ]
    );
    // The same with the new tuple on the right: only the posting list changes here.
    let mut left = page_of(leaf(), &before);
    left.apply(Change {
        others: &others,
        ..change(
            BTREE,
            SPLIT_RIGHT,
            &split_main(3, 3, 1),
            &[tuple(4, 3), pivot(4, 0)].concat(),
        )
    });
    assert_eq!(
        tuples(&mut left),
        [pivot(4, 0), tuple(2, 1), posting_list(4, &[2, 3])]
    );
}

#[test]
fn deduplication_merges_the_runs_of_the_record() {
    let mut page = page_of(
        Opaque {
            next: 9,
            flags: LEAF | HAS_GARBAGE,
            ..leaf()
        },
        &[
            pivot(9, 0),
            tuple(1, 1),
            tuple(1, 2),
            tuple(2, 3),
            posting_list(3, &[4, 5]),
            tuple(3, 6),
        ],
    );
    let runs = [2, 0, 2, 0, 5, 0, 2, 0];
    page.apply(change(BTREE, DEDUPLICATE, &[2, 0], &runs));
    assert_eq!(
        tuples(&mut page),
        [
            pivot(9, 0),
            posting_list(1, &[1, 2]),
            tuple(2, 3),
            posting_list(3, &[4, 5, 6]),
        ]
    );
    let opaque = page.page().opaque().expect("a btree page");
    assert_eq!((opaque.flags, opaque.cycle_id), (LEAF, 77));
}

#[test]
fn vacuum_shortens_posting_lists_before_it_deletes() {
    let mut page = page_of(
        Opaque {
            flags: LEAF | HAS_GARBAGE,
            ..leaf()
        },
        &[
            tuple(1, 1),
            posting_list(2, &[2, 3, 4]),
            tuple(3, 5),
            posting_list(4, &[6, 7]),
        ],
    );
    // Deletes 1 and 3; updates 2 (without its second row) and 4 (of which one row is left).
    let data = [1, 0, 3, 0, 2, 0, 4, 0, 1, 0, 1, 0, 1, 0, 0, 0];
    let vacuum = change(BTREE, VACUUM, &[2, 0, 2, 0], &data);
    let mut v18 = TestPage(page.0.clone());
    v18.apply(Change {
        version: WalVersion::V18,
        ..vacuum
    });
    page.apply(vacuum);
    assert_eq!(tuples(&mut page), [posting_list(2, &[2, 4]), tuple(4, 7)]);
    assert_eq!(tuples(&mut page), tuples(&mut v18));
    let opaque = page.page().opaque().expect("a btree page");
    assert_eq!((opaque.flags, opaque.cycle_id), (LEAF, 77));
    assert_eq!(v18.page().opaque().expect("a btree page").cycle_id, 0);

    let mut deleted = page_of(leaf(), &[tuple(1, 1), tuple(2, 2)]);
    deleted.apply(change(BTREE, DELETE, &[0, 0, 0, 0, 1, 0, 0, 0], &[1, 0]));
    assert_eq!(tuples(&mut deleted), [tuple(2, 2)]);
    // All rows of a posting list: that would have been a delete.
    let all = [1, 0, 2, 0, 0, 0, 1, 0];
    page_of(leaf(), &[posting_list(2, &[2, 3])]).refuse(change(BTREE, VACUUM, &[0, 0, 1, 0], &all));
}

#[test]
fn a_page_is_emptied_and_unlinked() {
    let main = [2, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0, 4, 0, 1, 0];
    let mut empty_leaf = page_of(leaf(), &[]);
    empty_leaf.apply(Change {
        will_init: true,
        ..change(BTREE, MARK_PAGE_HALF_DEAD, &main, b"")
    });
    let opaque = empty_leaf.page().opaque().expect("a btree page");
    assert_eq!((opaque.previous, opaque.next), (3, 9));
    assert_eq!(opaque.flags, HALF_DEAD | LEAF);
    assert_eq!(empty_leaf.item(1), [1, 0, 4, 0, 0, 0, 8, 0x20]);

    let inner = Opaque {
        level: 1,
        ..Opaque::default()
    };
    let mut parent = page_of(
        inner,
        &[pivot(1, 3), pivot(2, 7), pivot(3, 9), pivot(4, 10)],
    );
    parent.apply(Change {
        block_id: 1,
        ..change(BTREE, MARK_PAGE_HALF_DEAD, &main, b"")
    });
    assert_eq!(
        tuples(&mut parent),
        [pivot(1, 3), pivot(2, 9), pivot(4, 10)]
    );

    let mut main = [3u32, 9, 1, 0, 0x1234, 0, 30, 31, u32::MAX]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect::<Vec<u8>>();
    let mut gone = page_of(leaf(), &[]);
    gone.apply(Change {
        will_init: true,
        ..change(BTREE, UNLINK_PAGE, &main, b"")
    });
    let opaque = gone.page().opaque().expect("a btree page");
    assert_eq!((opaque.previous, opaque.next, opaque.level), (3, 9, 1));
    assert_eq!(opaque.flags, DELETED | HAS_FULL_XID);
    assert_eq!((gone.page().lower(), gone.page().upper()), (32, 8176));
    assert_eq!(gone.0[24..32], [0x34, 0x12, 0, 0, 0, 0, 0, 0]);
    for (block_id, links) in [(1, (3, 9)), (2, (3, 5)), (3, (30, 31))] {
        let mut page = page_of(Opaque { next: 5, ..leaf() }, &[tuple(1, 1)]);
        page.apply(Change {
            block_id,
            will_init: block_id == 3,
            ..change(BTREE, UNLINK_PAGE, &main, b"")
        });
        let opaque = page.page().opaque().expect("a btree page");
        assert_eq!((opaque.previous, opaque.next), links, "block id {block_id}");
    }
    main.truncate(30);
    page_of(leaf(), &[]).refuse(Change {
        block_id: 3,
        ..change(BTREE, UNLINK_PAGE, &main, b"")
    });
}

#[test]
fn a_new_root_comes_with_a_metapage() {
    let main = [7, 0, 0, 0, 1, 0, 0, 0];
    let packed = [pivot(5, 2), pivot(0, 1)].concat();
    let mut root = TestPage::empty(0);
    root.apply(Change {
        will_init: true,
        ..change(BTREE, NEW_ROOT, &main, &packed)
    });
    assert_eq!(tuples(&mut root), [pivot(0, 1), pivot(5, 2)]);
    let opaque = root.page().opaque().expect("a btree page");
    assert_eq!((opaque.level, opaque.flags), (1, ROOT));

    let numbers = [4u32, 7, 1, 7, 1, 2]
        .iter()
        .flat_map(|word| word.to_le_bytes());
    let data: Vec<u8> = numbers.chain([1, 0, 0, 0]).collect();
    let mut meta = TestPage::empty(0);
    meta.apply(Change {
        block_id: 2,
        will_init: true,
        ..change(BTREE, NEW_ROOT, &main, &data)
    });
    assert_eq!(meta.page().lower(), 72);
    assert_eq!(meta.0[24..28], [0x62, 0x31, 5, 0]);
    assert_eq!(meta.0[28..52], data[..24]);
    assert_eq!(meta.0[56..66], [0, 0, 0, 0, 0, 0, 0xf0, 0xbf, 1, 0]);
    assert_eq!(meta.page().opaque().expect("a btree page").flags, META);
    assert!(matches!(
        meta.refuse(Change {
            block_id: 2,
            will_init: true,
            ..change(BTREE, NEW_ROOT, &main, &data[..20])
        }),
        RedoError::Short { bytes: 20, .. }
    ));
}

#[test]
fn damaged_records_and_pages_never_panic() {
    let page = page_of(
        Opaque { next: 9, ..leaf() },
        &[
            pivot(9, 0),
            tuple(1, 1),
            posting_list(2, &[2, 3, 4]),
            tuple(3, 5),
            tuple(3, 6),
        ],
    );
    assert_eq!(
        TestPage(page.0.clone()).page().item_id(1),
        Ok(ItemId::normal(8160, 16))
    );
    let others = [(0, tag(Fork::Main, 6)), (1, tag(Fork::Main, 8))];
    let posting = [&[1, 0][..], &tuple(2, 3)].concat();
    let left = [tuple(2, 3), pivot(6, 0)].concat();
    let vacuum = [2, 0, 4, 0, 3, 0, 1, 0, 1, 0];
    let half_dead = [2, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0, 4, 0, 1, 0];
    let packed = [tuple(8, 4), tuple(6, 3), pivot(9, 0)].concat();
    let split = split_main(4, 4, 1);
    let mut numbers = Numbers(5);
    for (info, block_id, main, data) in [
        (INSERT_LEAF, 0, &[2, 0][..], &tuple(1, 2)[..]),
        (INSERT_POSTING, 0, &[4, 0], &posting),
        (SPLIT_LEFT, 0, &split, &left),
        (SPLIT_RIGHT, 0, &split, &left),
        (SPLIT_RIGHT, 1, &split, &packed),
        (DEDUPLICATE, 0, &[1, 0], &[4, 0, 2, 0]),
        (DELETE, 0, &[0, 0, 0, 0, 2, 0, 1, 0], &vacuum),
        (VACUUM, 0, &[2, 0, 1, 0], &vacuum),
        (MARK_PAGE_HALF_DEAD, 1, &half_dead, &[]),
        (NEW_ROOT, 0, &[7, 0, 0, 0, 1, 0, 0, 0], &packed),
        (META_CLEANUP, 0, &[], &packed),
    ] {
        let case = Change {
            block_id,
            others: &others,
            ..change(BTREE, info, main, data)
        };
        damage(&mut numbers, &case, &page, 400);
    }
}
