use super::*;
use crate::key::Slru;
use crate::redo::MapBits;

const RELATION: Relation = Relation {
    tablespace: 1663,
    database: 5,
    number: 16384,
};

fn tag(fork: Fork, block: u32) -> BlockTag {
    BlockTag {
        relation: RELATION,
        fork,
        block,
    }
}

fn clog_page() -> PostgresKey {
    PostgresKey::SlruPage {
        slru: Slru::Clog,
        segment: 0,
        block: 0,
    }
}

fn encoded(delta: &Delta<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    delta.encode(&mut bytes);
    bytes
}

/// A change with all kinds of other blocks and an image, and its bytes.
fn golden(others: &[(u8, BlockTag)]) -> (Delta<'_>, Vec<u8>) {
    let delta = Delta::Record(PageChange {
        image: Some(Image::new(3, 24, 8160, b"pageimge")),
        change: Change {
            version: WalVersion::V17,
            end: Lsn(0x1234),
            xid: 0x0102_0304,
            manager: ResourceManager::GIST,
            info: 0x10,
            block_id: 1,
            tag: tag(Fork::Main, 7),
            others,
            data: b"data",
            main: b"main data",
            hint_bits_logged: true,
            will_init: false,
        },
    });
    let bytes = [
        &[1, 0, 17, 6, 14, 0x10, 1, 3, 4, 3, 2, 1][..],
        &[0, 0, 8, 0, 0, 0],
        &[2, 1, 2, 9, 0, 0, 0],
        &[
            3, 2, 0, 0x7f, 6, 0, 0, 5, 0, 0, 0, 1, 0x40, 0, 0, 10, 0, 0, 0,
        ],
        &[3, 24, 0, 0xe0, 0x1f, 8, 0],
        b"pageimge",
        &[4, 0],
        b"data",
        b"main data",
    ]
    .concat();
    (delta, bytes)
}

fn others() -> [(u8, BlockTag); 3] {
    let mut elsewhere = tag(Fork::Main, 10);
    elsewhere.relation.number += 1;
    [
        (0, tag(Fork::Main, 8)),
        (2, tag(Fork::VisibilityMap, 9)),
        (3, elsewhere),
    ]
}

#[test]
fn the_bytes_of_a_change_are_for_ever() {
    let others = others();
    let (delta, bytes) = golden(&others);
    assert_eq!(encoded(&delta), bytes);
    let mut scratch = DeltaScratch::new();
    let key = tag(Fork::Main, 7).key();
    assert_eq!(
        Delta::decode(key, Lsn(0x1234), &bytes, &mut scratch),
        Ok(delta)
    );
}

#[test]
fn the_bytes_of_implied_changes_are_for_ever() {
    let bits = |byte, mask| MapBits { byte, mask };
    let slru = |slru| PostgresKey::SlruPage {
        slru,
        segment: 3,
        block: 1,
    };
    let cases: [(PostgresKey, Implied<'_>, &[u8]); 9] = [
        (slru(Slru::Clog), Implied::Zero, &[1, 1]),
        (
            tag(Fork::VisibilityMap, 0).key(),
            Implied::VisibilityClear(bits(0x0123, 0x0c), None),
            &[1, 2, 0x23, 0x01, 0x0c],
        ),
        (
            tag(Fork::VisibilityMap, 0).key(),
            Implied::VisibilityClear(bits(0x0123, 0x0c), Some(bits(0x0124, 0x03))),
            &[1, 2, 0x23, 0x01, 0x0c, 0x24, 0x01, 0x03],
        ),
        (
            tag(Fork::VisibilityMap, 0).key(),
            Implied::VisibilityTruncate {
                byte: 0x0123,
                keep: 0x03,
            },
            &[1, 3, 0x23, 0x01, 0x03],
        ),
        (
            tag(Fork::FreeSpaceMap, 2).key(),
            Implied::FreeSpaceTruncate { leaves: 0x0102 },
            &[1, 4, 0x02, 0x01],
        ),
        (
            slru(Slru::Clog),
            Implied::TransactionStatus {
                status: 1,
                positions: &[5, 0, 0xff, 0x7f],
            },
            &[1, 5, 1, 5, 0, 0xff, 0x7f],
        ),
        (
            slru(Slru::MultixactOffsets),
            Implied::MultixactOffsets {
                entries: &[5, 0, 1, 2, 3, 4],
            },
            &[1, 6, 5, 0, 1, 2, 3, 4],
        ),
        (
            slru(Slru::MultixactMembers),
            Implied::MultixactMembers {
                first: 0x0201,
                members: &[4, 1, 2, 3, 4],
            },
            &[1, 7, 1, 2, 4, 1, 2, 3, 4],
        ),
        (
            slru(Slru::CommitTimestamps),
            Implied::CommitTimestamps {
                time: 0x0807_0605_0403_0201,
                origin: 0x0a09,
                positions: &[1, 0],
            },
            &[1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 0],
        ),
    ];
    let mut scratch = DeltaScratch::new();
    for (key, implied, bytes) in cases {
        let delta = Delta::Implied(implied);
        assert_eq!(encoded(&delta), bytes);
        assert_eq!(
            Delta::decode(key, Lsn(8), bytes, &mut scratch),
            Ok(delta),
            "{implied:?}"
        );
        // Not for pages of another kind.
        let other = PostgresKey::SlruSegment {
            slru: Slru::Clog,
            segment: 0,
        };
        assert_eq!(
            Delta::decode(other, Lsn(8), bytes, &mut scratch),
            Err(DeltaError::Key(bytes[1]))
        );
    }
}

#[test]
fn a_heap_insert_has_no_more_than_14_bytes_beside_its_data() {
    let delta = Delta::Record(PageChange {
        image: None,
        change: Change {
            version: WalVersion::V15,
            end: Lsn(0x1234),
            xid: 700,
            manager: ResourceManager::HEAP,
            info: 0,
            block_id: 0,
            tag: tag(Fork::Main, 7),
            others: &[],
            data: &[1; 40],
            main: &[2; 3],
            hint_bits_logged: false,
            will_init: false,
        },
    });
    assert_eq!(encoded(&delta).len(), 14 + 40 + 3);
}

#[test]
fn other_versions_forms_flags_and_positions_past_the_page_are_refused() {
    let mut scratch = DeltaScratch::new();
    let mut refused = |key: PostgresKey, bytes: &[u8]| {
        Delta::decode(key, Lsn(0x1234), bytes, &mut scratch).expect_err("not a delta")
    };
    let block = tag(Fork::Main, 7).key();
    assert_eq!(refused(block, &[]), DeltaError::Malformed(0));
    assert_eq!(refused(block, &[2, 0]), DeltaError::Version(2));
    assert_eq!(refused(block, &[1, 9]), DeltaError::Form(9));
    let others = others();
    let (_, bytes) = golden(&others);
    assert_eq!(refused(clog_page(), &bytes), DeltaError::Key(0));
    // Up to where the main data begins, every cut is seen.
    for cut in 0..bytes.len() - b"main data".len() {
        let cut_short = DeltaError::Malformed(cut);
        assert_eq!(refused(block, &bytes[..cut]), cut_short, "{cut}");
    }
    for (at, value) in [(2, 19), (3, 8), (7, 34), (13, 3)] {
        let mut bad = bytes.clone();
        bad[at] = value;
        assert_eq!(refused(block, &bad), DeltaError::Malformed(bad.len()));
    }
    for bad in [
        &[1, 1, 0][..],
        &[1, 5, 4, 0, 0],
        &[1, 5, 1, 0, 0x80],
        &[1, 5, 1, 0],
    ] {
        assert_eq!(refused(clog_page(), bad), DeltaError::Malformed(bad.len()));
    }
    let vm = tag(Fork::VisibilityMap, 0).key();
    assert_eq!(
        refused(vm, &[1, 2, 0xe8, 0x1f, 1]),
        DeltaError::Malformed(5)
    );
    let fsm = tag(Fork::FreeSpaceMap, 0).key();
    assert_eq!(refused(fsm, &[1, 4, 0xe5, 0x0f]), DeltaError::Malformed(4));
}
