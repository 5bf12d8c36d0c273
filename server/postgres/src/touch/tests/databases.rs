//! Directories of databases, copies of them, tablespaces.

use super::*;

#[test]
fn a_database_that_is_copied_names_its_original_and_has_its_sizes() {
    let mut cluster = Cluster::new(WalVersion::V15);
    cluster.take_main(ResourceManager::DATABASE, 0x10, 0, &[5, 1663]);
    cluster.image(tag(Fork::Main, 4));
    cluster.take_main(ResourceManager::DATABASE, 0x00, 0, &[6, 1700, 5, 1663]);
    let copied_at = Lsn(cluster.end);
    let beginning = cluster.value(PostgresKey::DatabaseBeginning {
        database: 6,
        tablespace: 1700,
    });
    let expected = DatabaseBeginning {
        generation: copied_at,
        copied_from: Some((5, 1663)),
    };
    assert_eq!(DatabaseBeginning::decode(beginning), Ok(expected));
    let copy = Relation {
        tablespace: 1700,
        database: 6,
        number: RELATION.number,
    };
    assert_eq!(cluster.state.blocks(copy, Fork::Main), Some(5));
    cluster.take_main(ResourceManager::DATABASE, 0x20, 0, &[6, 1, 1700]);
    assert_eq!(cluster.state.blocks(copy, Fork::Main), None);
    assert_eq!(cluster.state.blocks(RELATION, Fork::Main), Some(5));
    assert!(cluster.is_removed(PostgresKey::DatabaseDirectory {
        database: 6,
        tablespace: 1700
    }));
}

#[test]
fn a_copy_is_loaded_with_what_it_began_with_and_what_it_has_of_its_own() {
    let mut cluster = Cluster::new(WalVersion::V15);
    let storage = ResourceManager::STORAGE;
    cluster.take_main(ResourceManager::DATABASE, 0x10, 0, &[5, 1663]);
    for block in 0..5 {
        cluster.image(tag(Fork::Main, block));
    }
    cluster.image(tag(Fork::VisibilityMap, 0));
    cluster.take_main(storage, 0x10, 0, &[1663, 5, 99, 0]);
    cluster.take_main(storage, 0x20, 0, &[2, WORDS[0], WORDS[1], WORDS[2], 7]);
    let original = cluster.values.clone();
    cluster.take_main(ResourceManager::DATABASE, 0x00, 0, &[6, 1700, 5, 1663]);
    // The copy goes on by itself: one relation grows, another is dropped by a commit. So does the original.
    let copy = |number| Relation {
        tablespace: 1700,
        database: 6,
        number,
    };
    cluster.image(BlockTag {
        relation: copy(RELATION.number),
        fork: Fork::Main,
        block: 7,
    });
    cluster.take_main(
        ResourceManager::TRANSACTION,
        0x80,
        1001,
        &[0, 0, 4, 1, 1700, 6, 99],
    );
    cluster.image(tag(Fork::Main, 30));

    let values = |of: &BTreeMap<PostgresKey, Option<Vec<u8>>>| -> Vec<(PostgresKey, Vec<u8>)> {
        let values = of.iter();
        let values = values.map(|(key, value)| (*key, value.clone().unwrap_or_default()));
        values.collect()
    };
    let load = |state: &mut ClusterState| {
        let mut stored = values(&cluster.values).into_iter();
        stored.try_for_each(|(key, value)| state.load(key, &value))
    };
    let refused = load(&mut ClusterState::new(1));
    let expected = StateError::Copy {
        database: 6,
        tablespace: 1700,
    };
    assert_eq!(refused, Err(expected));
    let mut state = ClusterState::new(1);
    let original = values(&original);
    let original = original.iter().map(|(key, value)| (*key, &value[..]));
    state.load_copy((6, 1700), original).expect("it loads");
    load(&mut state).expect("it loads");
    for number in [RELATION.number, 99] {
        for fork in Fork::ALL {
            for relation in [copy(number), Relation { number, ..RELATION }] {
                let blocks = cluster.state.blocks(relation, fork);
                assert_eq!(state.blocks(relation, fork), blocks, "{relation} {fork:?}");
            }
        }
    }
    assert_eq!(state.blocks(copy(RELATION.number), Fork::Main), Some(8));
    assert_eq!(
        state.blocks(copy(RELATION.number), Fork::VisibilityMap),
        Some(1)
    );
    assert_eq!(state.blocks(copy(99), Fork::Main), None);
}

#[test]
fn a_tablespace_goes_with_the_directories_in_it() {
    let mut cluster = Cluster::new(WalVersion::V15);
    let (made, dropped) = (0x00, 0x10);
    // An empty path: made in place.
    cluster.take_main(ResourceManager::TABLESPACE, made, 0, &[1700, 0]);
    let place = Tablespace::decode(cluster.value(PostgresKey::Tablespace { tablespace: 1700 }));
    assert_eq!(place.expect("a tablespace").path, "pg_tblspc/1700");
    let storage = ResourceManager::STORAGE;
    cluster.take_main(storage, 0x10, 0, &[1700, 5, 99, 0]);
    cluster.take_main(storage, 0x10, 0, &[1701, 5, 99, 0]);
    cluster.take_main(ResourceManager::TABLESPACE, dropped, 0, &[1700]);
    let directory = |tablespace| PostgresKey::DatabaseDirectory {
        database: 5,
        tablespace,
    };
    assert!(cluster.is_removed(directory(1700)));
    assert!(!cluster.is_removed(directory(1701)));
    assert!(cluster.is_removed(PostgresKey::Tablespace { tablespace: 1700 }));
}
