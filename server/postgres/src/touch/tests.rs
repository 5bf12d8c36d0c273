use std::collections::BTreeMap;

use super::*;
use crate::key::{BlockTag, Fork, Relation, Slru};
use crate::redo::redo;
use crate::value::{
    CheckpointState, ClusterParameters, DatabaseBeginning, FormerBlocks, RelationSize,
    ReplicationOrigin, SlruSegment, Tablespace,
};
use crate::wal::{RecordScratch, WalVersion};

const RELATION: Relation = Relation {
    tablespace: 1663,
    database: 5,
    number: 16384,
};

/// A cluster that takes in records by hand, with the pages that come of it.
struct Cluster {
    version: WalVersion,
    state: ClusterState,
    end: u64,
    pages: BTreeMap<PostgresKey, [u8; 8192]>,
    values: BTreeMap<PostgresKey, Option<Vec<u8>>>,
}

impl Cluster {
    fn new(version: WalVersion) -> Cluster {
        let mut state = ClusterState::new(1);
        let checkpoint = CheckpointState {
            next_xid: 1 << 32 | 1000,
            next_multixact: 2047,
            next_multixact_offset: 1635,
            ..CheckpointState::default()
        };
        state
            .load(PostgresKey::CheckpointState, &checkpoint.encode())
            .expect("loads");
        Cluster {
            version,
            state,
            end: 0x1000,
            pages: BTreeMap::new(),
            values: BTreeMap::new(),
        }
    }

    /// Takes in a record; answers the keys it touched, in order.
    fn take(
        &mut self,
        manager: ResourceManager,
        info: u8,
        xid: u32,
        body: &[u8],
    ) -> Vec<PostgresKey> {
        let mut bytes = vec![0; 24];
        bytes[4..8].copy_from_slice(&xid.to_le_bytes());
        bytes[16..18].copy_from_slice(&[info, manager.0]);
        bytes.extend(body);
        self.end += 0x100;
        let (start, end) = (Lsn(self.end - 0x100), Lsn(self.end));
        let mut scratch = RecordScratch::new();
        let record = Record::parse(self.version, start, end, &bytes, &mut scratch).expect("sound");
        let mut keys = Vec::new();
        let (pages, values) = (&mut self.pages, &mut self.values);
        touched(&record, &mut self.state, &mut |touched| {
            keys.push(touched.key);
            match touched.what {
                What::Delta(delta) => {
                    let page = pages.entry(touched.key).or_insert([0; 8192]);
                    redo(&delta, page).expect("applies");
                }
                What::Value(value) => {
                    values.insert(touched.key, Some(value.to_vec()));
                }
                What::Removed => {
                    values.insert(touched.key, None);
                }
            }
        })
        .expect("known");
        let mut unique = keys.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), keys.len(), "no key comes twice");
        keys
    }

    /// The same for a record of main data only.
    fn take_main(
        &mut self,
        manager: ResourceManager,
        info: u8,
        xid: u32,
        words: &[u32],
    ) -> Vec<PostgresKey> {
        let main: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut body = vec![254];
        body.extend(u32::try_from(main.len()).expect("small").to_le_bytes());
        body.extend(main);
        self.take(manager, info, xid, &body)
    }

    /// A page image for a block.
    fn image(&mut self, tag: BlockTag) -> Vec<PostgresKey> {
        let mut page = [0; 8192];
        page[12..20].copy_from_slice(&[24, 0, 0, 32, 0, 32, 4, 32]);
        page[30] = 0xaa;
        let mut body = block_head(0, 0x10, &tag, &page[..0]);
        // The image's header goes between length and relation.
        let image_head = [0, 32, 0, 0, 2];
        body.splice(4..4, image_head);
        body.extend([255, 0]);
        body.extend(page);
        self.take(ResourceManager::XLOG, 0xb0, 0, &body)
    }

    fn value(&self, key: PostgresKey) -> &[u8] {
        let value = self.values.get(&key).expect("was put");
        value.as_deref().expect("is there")
    }

    fn is_removed(&self, key: PostgresKey) -> bool {
        self.values.get(&key) == Some(&None)
    }

    fn size(&self, fork: Fork) -> RelationSize {
        let key = PostgresKey::RelationSize {
            relation: RELATION,
            fork,
        };
        RelationSize::decode(self.value(key)).expect("a size")
    }

    fn checkpoint(&self) -> CheckpointState {
        CheckpointState::decode(self.value(PostgresKey::CheckpointState)).expect("a state")
    }
}

fn block_head(id: u8, flags: u8, tag: &BlockTag, data: &[u8]) -> Vec<u8> {
    let mut head = vec![id, flags | tag.fork.number()];
    head.extend(u16::try_from(data.len()).expect("small").to_le_bytes());
    for word in [
        tag.relation.tablespace,
        tag.relation.database,
        tag.relation.number,
        tag.block,
    ] {
        head.extend(word.to_le_bytes());
    }
    head
}

fn tag(fork: Fork, block: u32) -> BlockTag {
    BlockTag {
        relation: RELATION,
        fork,
        block,
    }
}

fn page(slru: Slru, page: u64) -> PostgresKey {
    PostgresKey::SlruPage {
        slru,
        segment: page / 32,
        block: u32::try_from(page % 32).expect("small"),
    }
}

const WORDS: [u32; 3] = [RELATION.tablespace, RELATION.database, RELATION.number];

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

#[test]
fn a_commit_sets_status_of_all_its_transactions_and_drops_relations() {
    let mut cluster = Cluster::new(WalVersion::V17);
    cluster.image(tag(Fork::Main, 0));
    cluster.image(tag(Fork::VisibilityMap, 0));
    // Time, parts, subtransactions 32767 and 40000, one relation.
    let commit = [
        0,
        0,
        2 | 4,
        2,
        32_767,
        40_000,
        1,
        WORDS[0],
        WORDS[1],
        WORDS[2],
    ];
    cluster.take_main(ResourceManager::TRANSACTION, 0x80, 1001, &commit);
    let status = |cluster: &Cluster, xid: usize| {
        let page = &cluster.pages[&page(Slru::Clog, (xid / 32_768) as u64)];
        page[xid % 32_768 / 4] >> (xid % 4 * 2) & 3
    };
    for (xid, expected) in [(1000, 0), (1001, 1), (1002, 0), (32_767, 1), (40_000, 1)] {
        assert_eq!(status(&cluster, xid), expected, "{xid}");
    }
    assert_eq!(cluster.checkpoint().next_xid, 1 << 32 | 40_001);
    for fork in [Fork::Main, Fork::VisibilityMap] {
        assert!(cluster.is_removed(PostgresKey::RelationSize {
            relation: RELATION,
            fork
        }));
    }
    assert_eq!(cluster.state.blocks(RELATION, Fork::Main), None);
    let segment = PostgresKey::SlruSegment {
        slru: Slru::Clog,
        segment: 0,
    };
    let pages = SlruSegment::decode(cluster.value(segment)).map(|s| s.pages);
    assert_eq!(pages, Ok(2));
    cluster.take_main(ResourceManager::TRANSACTION, 0x20, 1002, &[0, 0]);
    assert_eq!(status(&cluster, 1002), 2);
}

#[test]
fn a_prepared_transaction_has_a_file_until_it_ends() {
    for (version, number) in [(WalVersion::V16, 1005), (WalVersion::V17, 1 << 32 | 1005)] {
        let mut cluster = Cluster::new(version);
        let mut main = vec![0u32; 2048];
        main[2] = 1005;
        cluster.take_main(ResourceManager::TRANSACTION, 0x10, 0, &main);
        let chunk = |chunk| PostgresKey::TwoPhase { xid: number, chunk };
        let bytes: Vec<u8> = main.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(cluster.value(chunk(0)), bytes);
        let crc = crc32c::crc32c(&bytes).to_le_bytes();
        assert_eq!(cluster.value(chunk(1)), crc);
        let keys = cluster.take_main(ResourceManager::TRANSACTION, 0xb0, 0, &[0, 0, 0x10, 1005]);
        assert!(keys.contains(&page(Slru::Clog, 0)));
        assert!(cluster.is_removed(chunk(0)));
    }
}

#[test]
fn a_multixact_writes_its_members_its_offset_and_the_next_ones() {
    let mut cluster = Cluster::new(WalVersion::V18);
    // The last of a page of offsets, members across two pages: (2001, 1), (2002, 5).
    let create = [2047, 1635, 2, 2001, 1, 2002, 5];
    cluster.take_main(ResourceManager::MULTIXACT, 0x20, 0, &create);
    let word = |cluster: &Cluster, key: PostgresKey, at: usize| {
        crate::bytes_at::u32_at(&cluster.pages[&key], at)
    };
    assert_eq!(
        word(&cluster, page(Slru::MultixactOffsets, 0), 8188),
        Some(1635)
    );
    assert_eq!(
        word(&cluster, page(Slru::MultixactOffsets, 1), 0),
        Some(1637)
    );
    let last_group = 1632 / 4 * 20;
    let members = page(Slru::MultixactMembers, 0);
    assert_eq!(cluster.pages[&members][last_group + 3], 1);
    assert_eq!(word(&cluster, members, last_group + 4 + 12), Some(2001));
    let members = page(Slru::MultixactMembers, 1);
    assert_eq!(cluster.pages[&members][0], 5);
    assert_eq!(word(&cluster, members, 4), Some(2002));
    assert_eq!(cluster.checkpoint().next_multixact, 2048);
    assert_eq!(cluster.checkpoint().next_multixact_offset, 1637);
    assert_eq!(cluster.checkpoint().next_xid, 1 << 32 | 2003);
    // The page of offsets was made above; its own record, of an older minor version, does not undo that.
    cluster.take_main(ResourceManager::MULTIXACT, 0x00, 0, &[1, 0]);
    assert_eq!(
        word(&cluster, page(Slru::MultixactOffsets, 1), 0),
        Some(1637)
    );
    cluster.take_main(ResourceManager::MULTIXACT, 0x00, 0, &[1, 0]);
    assert_eq!(word(&cluster, page(Slru::MultixactOffsets, 1), 0), Some(0));
}

#[test]
fn segments_that_are_cut_off_are_removed() {
    let mut cluster = Cluster::new(WalVersion::V15);
    for page in [0, 31, 32, 64, 70] {
        cluster.take_main(ResourceManager::CLOG, 0x00, 0, &[page]);
    }
    let segment = |segment| PostgresKey::SlruSegment {
        slru: Slru::Clog,
        segment,
    };
    let keys = cluster.take_main(ResourceManager::CLOG, 0x10, 0, &[64, 3, 1]);
    assert_eq!(keys, [segment(0), segment(1)]);
    assert!(cluster.is_removed(segment(0)) && cluster.is_removed(segment(1)));
    assert_eq!(cluster.value(segment(2)), SlruSegment { pages: 7 }.encode());
}

#[test]
fn commit_timestamps_are_kept_while_the_parameter_is_on() {
    let mut cluster = Cluster::new(WalVersion::V15);
    let commit = [7, 0];
    cluster.take_main(ResourceManager::TRANSACTION, 0, 1001, &commit);
    let stamps = page(Slru::CommitTimestamps, 1002 / 819);
    assert!(!cluster.pages.contains_key(&stamps));
    let on = [100, 8, 10, 0, 64, 1, 1 | 1 << 8];
    cluster.take_main(ResourceManager::XLOG, 0x60, 0, &on);
    let parameters = ClusterParameters::decode(cluster.value(PostgresKey::ClusterParameters));
    let parameters = parameters.expect("parameters");
    assert!(parameters.track_commit_timestamp && parameters.wal_log_hints);
    assert_eq!(parameters.max_locks_per_transaction, 64);
    assert_eq!(cluster.checkpoint().oldest_commit_timestamp_xid, 1002);
    cluster.take_main(ResourceManager::TRANSACTION, 0, 1002, &commit);
    let at = 1002 % 819 * 10;
    assert_eq!(cluster.pages[&stamps][at..at + 2], [7, 0]);
    assert_eq!(cluster.checkpoint().newest_commit_timestamp_xid, 1002);
    // Only a checkpoint tells that older ones are forgotten, where no segment goes with them; none goes back.
    let mut checkpoint = [0; 22];
    for oldest in [1001, 0] {
        checkpoint[18] = oldest;
        cluster.take_main(ResourceManager::XLOG, 0x10, 0, &checkpoint);
        assert_eq!(cluster.checkpoint().oldest_commit_timestamp_xid, 1002);
    }
    checkpoint[18] = 1003;
    cluster.take_main(ResourceManager::XLOG, 0x10, 0, &checkpoint);
    assert_eq!(cluster.checkpoint().oldest_commit_timestamp_xid, 1003);
    let off = [100, 8, 10, 0, 64, 1, 0];
    cluster.take_main(ResourceManager::XLOG, 0x60, 0, &off);
    assert!(cluster.is_removed(PostgresKey::SlruSegment {
        slru: Slru::CommitTimestamps,
        segment: 0
    }));
    assert_eq!(cluster.checkpoint().newest_commit_timestamp_xid, 0);
}

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

#[test]
fn origins_advance_with_commits_and_go_back_only_by_force() {
    let mut cluster = Cluster::new(WalVersion::V15);
    let key = PostgresKey::ReplicationOrigin { origin: 3 };
    let remote = |cluster: &Cluster| {
        let value = ReplicationOrigin::decode(cluster.value(key));
        value.expect("an origin").remote_lsn
    };
    let set = |lsn: u32, force: u32| [lsn, 0, 3 | force << 16];
    let origins = ResourceManager::REPLICATION_ORIGIN;
    cluster.take_main(origins, 0, 0, &set(500, 0));
    cluster.take_main(origins, 0, 0, &set(400, 0));
    assert_eq!(remote(&cluster), Lsn(500));
    cluster.take_main(origins, 0, 0, &set(400, 1));
    assert_eq!(remote(&cluster), Lsn(400));
    // A commit with an origin: its number is in the record, LSN and time in the main data.
    let mut body = vec![253, 3, 0, 255, 28];
    for word in [0u32, 0, 0x20, 600, 0, 9, 0] {
        body.extend(word.to_le_bytes());
    }
    cluster.take(ResourceManager::TRANSACTION, 0x80, 1001, &body);
    assert_eq!(remote(&cluster), Lsn(600));
    cluster.take_main(origins, 0x10, 0, &[3]);
    assert!(cluster.is_removed(key));
}

#[test]
fn the_next_transaction_id_goes_on_around_the_end_of_32_bits_and_is_stored_in_steps() {
    let mut cluster = Cluster::new(WalVersion::V15);
    let commit = ResourceManager::TRANSACTION;
    cluster.take_main(commit, 0, 0x7fff_fff0, &[0, 0]);
    cluster.take_main(commit, 0, 0xffff_0000, &[0, 0]);
    cluster.take_main(commit, 0, u32::MAX, &[0, 0]);
    assert_eq!(cluster.checkpoint().next_xid, 2 << 32 | 3);
    cluster.take_main(commit, 0, u32::MAX - 5, &[0, 0]);
    assert_eq!(cluster.checkpoint().next_xid, 2 << 32 | 3);

    let mut state = ClusterState::new(1024);
    let stored = |state: &mut ClusterState, xid: u32| {
        let mut bytes = vec![0; 24];
        bytes[4..8].copy_from_slice(&xid.to_le_bytes());
        bytes[16..18].copy_from_slice(&[0x60, 1]);
        let mut scratch = RecordScratch::new();
        let record = Record::parse(WalVersion::V15, Lsn(8), Lsn(16), &bytes, &mut scratch);
        let mut stored = None;
        touched(&record.expect("sound"), state, &mut |touched| {
            if let What::Value(value) = touched.what {
                stored = CheckpointState::decode(value).ok().map(|s| s.next_xid);
            }
        })
        .expect("known");
        stored
    };
    assert_eq!(stored(&mut state, 700), Some(1024));
    assert_eq!(stored(&mut state, 1023), None);
    assert_eq!(state.checkpoint().next_xid, 1024);
    assert_eq!(stored(&mut state, 1024), Some(2048));
}

#[test]
fn unknown_operations_and_cut_records_of_known_managers_are_refused() {
    let mut state = ClusterState::new(1);
    let mut refused = |manager: ResourceManager, info: u8, main: &[u8]| {
        let mut bytes = vec![0; 24];
        bytes[16..18].copy_from_slice(&[info, manager.0]);
        bytes.extend([255, u8::try_from(main.len()).expect("short")]);
        bytes.extend(main);
        let mut scratch = RecordScratch::new();
        let record = Record::parse(WalVersion::V15, Lsn(8), Lsn(16), &bytes, &mut scratch);
        touched(&record.expect("sound"), &mut state, &mut |_| {}).err()
    };
    for manager in [0, 1, 2, 3, 4, 5, 6, 7, 8, 18, 19].map(ResourceManager) {
        let error = refused(manager, 0xf0, &[0; 100]).expect("unknown");
        assert!(error.to_string().contains(&manager.to_string()), "{error}");
    }
    for manager in [1, 2, 3, 4, 5, 6, 7, 18, 19].map(ResourceManager) {
        for info in [0x00, 0x10, 0x20, 0x30] {
            assert!(
                refused(manager, info, &[0]).is_some(),
                "{manager} {info:#x}"
            );
        }
    }
    assert_eq!(refused(ResourceManager::LOGICAL_MESSAGE, 0, &[0; 9]), None);
    assert_eq!(refused(ResourceManager(200), 0, &[0; 9]), None);
}
