//! Bytes of every version of every format of keys, manifest and catalog, under fixed keys: what was written once opens
//! for ever, and to the same. The files in `tests/golden/` are never written anew; a new version adds files.

use std::path::PathBuf;

use bytes::Bytes;

use super::entry::{
    self, BaseBackup, BranchStart, Creation, Edit, Entry, KeptHistory, RemovedLayer, TimelineSpan,
    WalPosition,
};
use super::section::LayerSection;
use super::snapshot::{NodeRef, SnapshotObjectWriter, SnapshotRoot, open_node};
use super::snapshot_scrub::SnapshotScrubber;
use crate::crypto::entropy::Entropy;
use crate::crypto::kek::{Kek, KekRecord};
use crate::crypto::key_provider::{EncryptionContext, WrappedKek};
use crate::crypto::key_table::KeyTable;
use crate::crypto::page_seal::{Dek, DekId};
use crate::crypto::sealed_record::{RecordPlace, RecordProblem, SealedRecord, seal_under_dek};
use crate::types::{BranchId, Id, Key, Lsn, ObjectId, Partition, TenantId};

const TENANT: TenantId = TenantId(Id([0x11; 16]));
const BRANCH: BranchId = BranchId(Id([0x22; 16]));
const DEK_ID: DekId = DekId { table: 5, slot: 6 };

/// The stored bytes, which `made` must equal: what we write today is what we wrote then.
pub(crate) fn golden(name: &str, made: &[u8]) -> Bytes {
    let path = path(name);
    let stored = std::fs::read(&path).unwrap_or_default();
    let made_hex: String = made.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(
        stored == made,
        "{} differs from what is written now:\n{made_hex}",
        path.display()
    );
    stored.into()
}

/// The stored bytes of a version that is not written any more.
pub(crate) fn golden_of_before(name: &str) -> Bytes {
    std::fs::read(path(name)).expect("a golden file").into()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
}

fn dek() -> Dek {
    Dek::from_bytes([0x44; 32])
}

fn kek() -> Kek {
    Kek::from_bytes([0x33; 32])
}

fn creation() -> Creation {
    Creation {
        name_hash: [9; 16],
        key_space: *b"postgre1",
        parent: Some((BranchId(Id([0x55; 16])), Lsn(0x1_0000_0001))),
        timelines: vec![TimelineSpan {
            timeline: 2,
            from: Lsn(7),
            to: Lsn::MAX,
        }],
    }
}

fn section(partition: u16) -> LayerSection {
    LayerSection {
        partition: Partition::new(partition).expect("in range"),
        first_key: Key([1; 24]),
        last_key: Key([2; 24]),
        first_lsn: Lsn(3),
        last_lsn: Lsn(4),
        object: ObjectId {
            branch: BRANCH,
            epoch: 5,
            sequence: 6,
        },
        dek: DekId { table: 7, slot: 8 },
        index_at: 9,
        index_bytes: 10,
        object_bytes: 1100,
    }
}

fn edit() -> Entry {
    let backup = BaseBackup {
        timeline: 2,
        start: Lsn(0x1000),
        stop: Lsn(0x2000),
        wal_objects: 3,
    };
    let removed = RemovedLayer {
        object: section(1).object,
        object_bytes: 1100,
        partitions: vec![section(1).partition, section(1023).partition],
    };
    Entry::Edit {
        epoch: 12,
        edit: Edit {
            last_lsn: Lsn(0x2000),
            readable_from: Some(Lsn(0x1800)),
            base_backup: Some(backup),
            wal: None,
            added: vec![section(1), section(1023)],
            removed: vec![removed],
        },
    }
}

fn wal_position() -> WalPosition {
    WalPosition {
        piece: 14,
        lsn: Lsn(0x1fff),
    }
}

fn kept() -> KeptHistory {
    KeptHistory {
        from: Lsn(0x1700),
        at: vec![Lsn(0x1001), Lsn(0x1600)],
    }
}

fn check_entry(name: &str, number: u64, entry: &Entry) {
    let place = RecordPlace {
        tenant: TENANT,
        branch: BRANCH,
        number,
    };
    let made = seal_under_dek(&entry.format(), &place, DEK_ID, &dek(), &entry.encode());
    let stored = golden(name, &made);
    let record = SealedRecord::parse(&entry::FORMAT, &place, name, &stored).expect("sound");
    assert_eq!(record.dek_id(), Ok(DEK_ID));
    let body = record.open(&dek()).expect("opens");
    assert_eq!(Entry::decode(&body).as_ref(), Ok(entry));
}

#[test]
fn manifest_entries_of_version_1() {
    check_entry(
        "manifest_entry/v1-create.bin",
        0,
        &Entry::Create(creation()),
    );
    check_entry(
        "manifest_entry/v1-claim.bin",
        1,
        &Entry::Claim { epoch: 12 },
    );
    check_entry("manifest_entry/v1-edit.bin", 2, &edit());
    let Entry::Edit { epoch, mut edit } = edit() else {
        unreachable!("an edit")
    };
    edit.wal = Some(wal_position());
    check_entry(
        "manifest_entry/v2-flush.bin",
        3,
        &Entry::Edit { epoch, edit },
    );
}

#[test]
fn the_manifest_entry_of_version_2() {
    let start = BranchStart {
        creation: creation(),
        readable_from: Lsn(0x8000),
    };
    check_entry("manifest_entry/v2-start.bin", 0, &Entry::Start(start));
    let history = Entry::History {
        epoch: 12,
        kept: kept(),
    };
    check_entry("manifest_entry/v2-history.bin", 4, &history);
}

#[test]
fn snapshots_of_version_1() {
    let object = ObjectId {
        branch: BRANCH,
        epoch: 12,
        sequence: 13,
    };
    let mut writer = SnapshotObjectWriter::new(TENANT, object, DEK_ID, &dek());
    let about = writer.object();
    let nodes: Vec<NodeRef> = [vec![section(1), section(2)], vec![section(1023)]]
        .iter()
        .map(|sections| writer.push(0, sections))
        .collect();
    let stored = golden("manifest_snapshot/v1-two-nodes.bin", &writer.finish());
    check_scrub(&stored);
    let frame = |node: &NodeRef| {
        let at = usize::try_from(node.at).expect("small");
        stored.slice(at..at + node.frame_bytes as usize)
    };
    let open = |node: &NodeRef| open_node((TENANT, BRANCH), &about, node, &dek(), &frame(node));
    assert_eq!(open(&nodes[0]), Ok(vec![section(1), section(2)]));
    assert_eq!(open(&nodes[1]), Ok(vec![section(1023)]));

    let mut root = SnapshotRoot::empty(creation());
    root.facts.epoch = 12;
    root.facts.last_lsn = Lsn(0x2000);
    root.facts.layers = 1;
    root.facts.layer_bytes = 1100;
    root.objects = vec![about];
    root.nodes = nodes;
    check_entry(
        "manifest_entry/v1-snapshot.bin",
        64,
        &Entry::Snapshot(root.clone()),
    );
    root.facts.wal = Some(wal_position());
    let snapshot = Entry::Snapshot(root.clone());
    check_entry("manifest_entry/v2-snapshot_with_wal.bin", 128, &snapshot);
    root.facts.kept = kept();
    let snapshot = Entry::Snapshot(root.clone());
    let name = "manifest_entry/v2-snapshot_with_wal_and_history.bin";
    check_entry(name, 192, &snapshot);
    root.facts.wal = None;
    let snapshot = Entry::Snapshot(root);
    check_entry(
        "manifest_entry/v2-snapshot_with_history.bin",
        192,
        &snapshot,
    );
}

#[test]
fn key_tables_of_version_1() {
    let entropy = Entropy::seeded(1);
    let table = KeyTable::draw(5, &entropy);
    let made = table.seal(TENANT, BRANCH, 2, &kek(), &entropy);
    let stored = golden("key_table/v1-table.bin", &made);
    let opened = KeyTable::open("p", &stored, TENANT, BRANCH, 5, (2, &kek())).expect("opens");
    for slot in 0..256 {
        let check = |table: &KeyTable| table.dek(slot).map(|dek| dek.key_check_value());
        assert_eq!(check(&opened), check(&table));
        assert!(check(&opened).is_some());
    }
}

#[test]
fn kek_records_of_version_1() {
    let record = KekRecord {
        context: EncryptionContext {
            tenant: TENANT,
            branch: Some(BRANCH),
        },
        kek_epoch: 3,
        provider: "local-keyring".to_owned(),
        wrapped: WrappedKek {
            key_id: "local-0123456789abcdef".to_owned(),
            bytes: vec![0x77; 60],
        },
        key_check: kek().key_check_value(),
    };
    let stored = golden("kek_record/v1-branch.bin", &record.encode());
    assert_eq!(KekRecord::decode("p", &stored), Ok(record));
    for bit in 0..stored.len() * 8 {
        let mut flipped = stored.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(KekRecord::decode("p", &flipped).is_err(), "bit {bit}");
    }
    for cut in 0..stored.len() {
        assert!(KekRecord::decode("p", &stored[..cut]).is_err());
    }
}

/// Every bit of a snapshot object is under a checksum that needs no key.
fn check_scrub(stored: &[u8]) {
    let scrub = |bytes: &[u8]| {
        let mut scrubber = SnapshotScrubber::default();
        let mut done = 0;
        loop {
            match scrubber.step(&bytes[done..])? {
                0 if done < bytes.len() => return Err(RecordProblem::Damaged("length")),
                0 => return scrubber.finish(),
                used => done += used,
            }
        }
    };
    assert!(scrub(stored).is_ok());
    let mut damaged = stored.to_vec();
    for bit in 0..stored.len() * 8 {
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(scrub(&damaged).is_err(), "bit {bit}");
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
    for cut in 0..stored.len() {
        assert!(scrub(&stored[..cut]).is_err(), "{cut} bytes");
    }
}
