//! Forks of relations: their pages, lengths and maps.

use super::*;

#[test]
fn a_fork_grows_with_its_pages_and_what_was_cut_off_does_not_come_back() {
    let mut cluster = Cluster::new(WalVersion::V15);
    let storage = ResourceManager::STORAGE;
    cluster.take_main(storage, 0x10, 0, &[WORDS[0], WORDS[1], WORDS[2], 0]);
    let born = Lsn(cluster.end);
    let size = cluster.size(Fork::Main);
    assert_eq!((size.blocks, size.generation), (0, born));
    for block in 0..10 {
        cluster.image(tag(Fork::Main, block));
    }
    assert_eq!(cluster.size(Fork::Main).blocks, 10);
    cluster.take_main(storage, 0x20, 0, &[4, WORDS[0], WORDS[1], WORDS[2], 7]);
    let size = cluster.size(Fork::Main);
    assert_eq!((size.blocks, size.generation), (4, born));
    let former = PostgresKey::FormerBlocks {
        relation: RELATION,
        fork: Fork::Main,
    };
    let former_blocks = |cluster: &Cluster| {
        let value = FormerBlocks::decode(cluster.value(former));
        value.expect("former blocks").blocks
    };
    assert_eq!(former_blocks(&cluster), 10);
    // Growing over a gap: the blocks between become zeros, the page itself comes with the record.
    let keys = cluster.image(tag(Fork::Main, 7));
    for block in 4..7 {
        assert!(keys.contains(&tag(Fork::Main, block).key()));
        assert_eq!(cluster.pages[&tag(Fork::Main, block).key()], [0; 8192]);
    }
    assert_eq!(cluster.pages[&tag(Fork::Main, 7).key()][30], 0xaa);
    // Beyond what once was there is nothing to hide.
    let keys = cluster.image(tag(Fork::Main, 20));
    let expected = [8, 9, 20].map(|block| tag(Fork::Main, block).key());
    let blocks: Vec<PostgresKey> = keys
        .into_iter()
        .filter(|key| matches!(key, PostgresKey::Block { .. }))
        .collect();
    assert_eq!(blocks, expected);
    assert_eq!(former_blocks(&cluster), 0);
    assert_eq!(cluster.size(Fork::Main).blocks, 21);
    // Truncated to nothing, all that was is of a former life.
    cluster.take_main(storage, 0x20, 0, &[0, WORDS[0], WORDS[1], WORDS[2], 7]);
    let size = cluster.size(Fork::Main);
    assert_eq!((size.blocks, size.generation), (0, Lsn(cluster.end)));
    assert!(cluster.image(tag(Fork::Main, 3)).len() < 3);
}

#[test]
fn a_truncation_cuts_the_maps_within_their_last_page() {
    let mut cluster = Cluster::new(WalVersion::V16);
    for (fork, blocks) in [
        (Fork::Main, 9),
        (Fork::VisibilityMap, 2),
        (Fork::FreeSpaceMap, 5),
    ] {
        for block in 0..blocks {
            cluster.image(tag(fork, block));
        }
    }
    let map = tag(Fork::VisibilityMap, 0).key();
    cluster.pages.get_mut(&map).expect("there")[24..].fill(0xff);
    let leaf = tag(Fork::FreeSpaceMap, 2).key();
    cluster.pages.get_mut(&leaf).expect("there")[28..].fill(7);
    let storage = ResourceManager::STORAGE;
    cluster.take_main(storage, 0x20, 0, &[6, WORDS[0], WORDS[1], WORDS[2], 7]);
    assert_eq!(cluster.pages[&map][24..27], [0xff, 0x0f, 0]);
    assert_eq!(cluster.size(Fork::VisibilityMap).blocks, 1);
    let leaves = &cluster.pages[&leaf][28 + 4095..];
    assert_eq!(leaves[..8], [7, 7, 7, 7, 7, 7, 0, 0]);
    assert_eq!(cluster.pages[&leaf][28], 7);
    assert_eq!(cluster.size(Fork::FreeSpaceMap).blocks, 3);
}

#[test]
fn a_page_that_no_record_made_is_passed_over_and_a_map_page_is_made() {
    let mut cluster = Cluster::new(WalVersion::V15);
    let insert = |flags: u8| {
        let mut body = block_head(0, 0, &tag(Fork::Main, 3), &[]);
        body.extend([255, 3, 1, 0, flags]);
        body
    };
    let keys = cluster.take(ResourceManager::HEAP, 0, 0, &insert(0));
    assert_eq!(keys, []);
    let keys = cluster.take(ResourceManager::HEAP, 0, 0, &insert(1));
    let map_size = PostgresKey::RelationSize {
        relation: RELATION,
        fork: Fork::VisibilityMap,
    };
    assert!(keys.contains(&map_size), "{keys:?}");
    assert_eq!(cluster.size(Fork::VisibilityMap).blocks, 1);
    let map = tag(Fork::VisibilityMap, 0).key();
    cluster.pages.insert(map, [0xff; 8192]);
    let keys = cluster.take(ResourceManager::HEAP, 0, 0, &insert(1));
    assert_eq!(keys, [map]);
    assert_eq!(cluster.pages[&map][24], 0x3f);
}
