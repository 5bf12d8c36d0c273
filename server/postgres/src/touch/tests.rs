//! A cluster that takes in records by hand, for the tests of each part; and here what is refused.

mod databases;
mod relations;
mod transactions;

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
