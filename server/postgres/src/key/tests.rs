use engine::types::KeySpace;

use super::*;
use crate::key_space::PostgresKeySpace;

/// One key of each kind, with fields that a swap would show.
pub(crate) fn samples() -> Vec<PostgresKey> {
    let relation = Relation {
        tablespace: 0x0102_0304,
        database: 0x1112_1314,
        number: 0x2122_2324,
    };
    let (database, tablespace) = (relation.database, relation.tablespace);
    vec![
        PostgresKey::Block {
            relation,
            fork: Fork::VisibilityMap,
            block: 0x3132_3334,
        },
        PostgresKey::RelationSize {
            relation,
            fork: Fork::Init,
        },
        PostgresKey::RelationMap {
            database,
            tablespace,
        },
        PostgresKey::DatabaseDirectory {
            database,
            tablespace,
        },
        PostgresKey::Tablespace { tablespace },
        PostgresKey::SlruPage {
            slru: Slru::MultixactOffsets,
            segment: 0x0102_0304_0506_0708,
            block: 31,
        },
        PostgresKey::SlruSegment {
            slru: Slru::CommitTimestamps,
            segment: 0x0102_0304_0506_0708,
        },
        PostgresKey::TwoPhase {
            xid: 0x0102_0304_0506_0708,
            chunk: 9,
        },
        PostgresKey::ControlFile,
        PostgresKey::CheckpointState,
        PostgresKey::PlainFile {
            path_hash: path_hash("postgresql.conf"),
        },
        PostgresKey::PlainFileChunk {
            path_hash: path_hash("pg_hba.conf"),
            chunk: 2,
        },
        PostgresKey::BackupFacts,
        PostgresKey::FormerBlocks {
            relation,
            fork: Fork::FreeSpaceMap,
        },
        PostgresKey::DatabaseBeginning {
            database,
            tablespace,
        },
        PostgresKey::ClusterParameters,
        PostgresKey::ReplicationOrigin { origin: 0x0102 },
        PostgresKey::LatestEnd,
    ]
}

/// The layout, the partition and the stripe of each kind are for ever: the stored file was written once and only
/// ever gains lines.
#[test]
fn keys_partitions_and_stripes_are_those_of_the_stored_file() {
    let stored = include_str!("../../../../tests/golden/postgres_keys.txt");
    let lines: Vec<&str> = stored
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let written: Vec<String> = samples()
        .into_iter()
        .map(|key| {
            let encoded = key.encode();
            let partition = PostgresKeySpace.partition(&encoded).number();
            let stripe = PostgresKeySpace.stripe(&encoded);
            format!("{encoded:?} {partition} {stripe:016x}")
        })
        .collect();
    assert_eq!(lines, written);
}

#[test]
fn every_kind_decodes_to_what_was_encoded() {
    for key in samples() {
        assert_eq!(PostgresKey::decode(&key.encode()), Some(key));
    }
}

#[test]
fn foreign_keys_are_refused() {
    for key in samples() {
        let mut padded = key.encode();
        padded.0[KEY_BYTES - 1] = 1;
        assert_eq!(PostgresKey::decode(&padded), None, "{key:?}");
    }
    for first in 18..=255 {
        let mut unknown = Key::MIN;
        unknown.0[0] = first;
        assert_eq!(PostgresKey::decode(&unknown), None);
    }
    let mut bad_fork = samples()[0].encode();
    bad_fork.0[13] = 4;
    assert_eq!(PostgresKey::decode(&bad_fork), None);
}

#[test]
fn ranges_hold_exactly_the_keys_of_their_database() {
    let size = |database| {
        let relation = Relation {
            tablespace: u32::MAX,
            database,
            number: u32::MAX,
        };
        let fork = Fork::Init;
        PostgresKey::RelationSize { relation, fork }.encode()
    };
    let (low, high) = PostgresKey::relation_sizes_of(7);
    assert!((low..=high).contains(&size(7)));
    assert!(!(low..=high).contains(&size(6)) && !(low..=high).contains(&size(8)));
}
