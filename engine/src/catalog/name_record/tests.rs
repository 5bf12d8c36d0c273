//! Bytes of both versions of the records of names, under fixed keys; see `tests/golden/README.md`.

use super::*;
use crate::catalog::records::tests::check_flips;
use crate::manifest::golden::golden;
use crate::manifest::{Creation, TimelineSpan};
use crate::types::{Id, Lsn};

const TENANT_ID: TenantId = TenantId(Id([0x11; 16]));
const BRANCH: BranchId = BranchId(Id([0x22; 16]));

fn name_key() -> Kek {
    Kek::from_bytes([0x66; 32])
}

fn hash(name: &str) -> NameHash {
    NameHash::of(&name_key().keyed_hash(name.as_bytes()))
}

fn open(bytes: &Bytes, hash: NameHash, n: u32) -> Result<NameRecord, RecordError> {
    NameRecord::open("p", bytes, TENANT_ID, (hash, n), &name_key())
}

/// The branch that begins with the `n`-th change of a name.
fn start(name: &str, n: u32) -> Meaning {
    let creation = Creation {
        name_hash: name_key().keyed_hash(name.as_bytes()),
        key_space: *b"postgre1",
        parent: Some((BRANCH, Lsn(0x1_0000_0001))),
        timelines: vec![TimelineSpan {
            timeline: 2,
            from: Lsn(7),
            to: Lsn::MAX,
        }],
    };
    let readable_from = Lsn(0x8000);
    Meaning::Start(
        hash(name).branch(n),
        BranchStart {
            creation,
            readable_from,
        },
    )
}

fn record(name: &str, is_protected: bool, meaning: Meaning) -> NameRecord {
    NameRecord {
        name: name.to_owned(),
        is_protected,
        meaning,
    }
}

fn seal(record: &NameRecord, n: u32) -> Bytes {
    record.seal(TENANT_ID, n, &name_key(), &Entropy::seeded(3))
}

#[test]
fn records_of_names_of_version_1() {
    let place = (TENANT_ID, 4);
    let named = ("main", BRANCH);
    let made = NameRecord::seal_in_version_1(named, place, &name_key(), &Entropy::seeded(3));
    let stored = golden("name_record/v1-main.bin", &made);
    let expected = record("main", false, Meaning::Branch(BRANCH));
    assert_eq!(open(&stored, hash("main"), 4), Ok(expected));
    check_flips(&stored, |bytes| open(bytes, hash("main"), 4).is_ok());
    let moved = open(&stored, hash("other"), 4);
    assert_eq!(moved, Err(RecordProblem::Misplaced.at("p")));
}

#[test]
fn records_of_names_of_version_2() {
    for (file, n, record) in [
        (
            "name_record/v2-branch.bin",
            4,
            record("main", true, Meaning::Branch(BRANCH)),
        ),
        (
            "name_record/v2-start.bin",
            0,
            record("dev", false, start("dev", 0)),
        ),
        (
            "name_record/v2-nothing.bin",
            1,
            record("dev", false, Meaning::Nothing { was: BRANCH }),
        ),
    ] {
        let stored = golden(file, &seal(&record, n));
        let hash = hash(&record.name);
        assert_eq!(open(&stored, hash, n), Ok(record));
        check_flips(&stored, |bytes| open(bytes, hash, n).is_ok());
    }
}

#[test]
fn a_record_where_its_name_or_its_branch_does_not_belong_is_refused() {
    let misplaced = Err(RecordProblem::Misplaced.at("p"));
    let moved = seal(&record("dev", false, start("dev", 0)), 0);
    assert_eq!(open(&moved, hash("main"), 0), misplaced);
    // Of another change of the name, or begun under another name.
    let later = seal(&record("dev", false, start("dev", 1)), 0);
    assert_eq!(open(&later, hash("dev"), 0), misplaced);
    let Meaning::Start(_, of_main) = start("main", 0) else {
        panic!("it starts");
    };
    let stolen = Meaning::Start(hash("dev").branch(0), of_main);
    let stolen = seal(&record("dev", false, stolen), 0);
    assert_eq!(open(&stolen, hash("dev"), 0), misplaced);
}

#[test]
fn bodies_that_make_no_sense_are_refused() {
    let encoded = record("dev", false, start("dev", 0)).encode();
    assert!(NameRecord::decode(&encoded, 2).is_ok());
    let flags_at = 4 + "dev".len();
    for (at, byte) in [(flags_at, 2), (flags_at + 4, 0), (flags_at + 4, 4)] {
        let mut other = encoded.clone();
        other[at] = byte;
        assert!(NameRecord::decode(&other, 2).is_err(), "{byte} at {at}");
    }
    let nothing = record("dev", true, Meaning::Nothing { was: BRANCH }).encode();
    assert!(
        NameRecord::decode(&nothing, 2).is_err(),
        "nothing to protect"
    );
    // Readable from above where it left its parent, or from nowhere.
    let from = encoded.len() - 8;
    for lsn in [0x1_0000_0002_u64, 0] {
        let mut other = encoded.clone();
        other[from..].copy_from_slice(&lsn.to_le_bytes());
        assert!(NameRecord::decode(&other, 2).is_err(), "{lsn:x}");
    }
    assert!(NameRecord::decode(&[&encoded[..], &[0]].concat(), 2).is_err());
    for len in 0..encoded.len() {
        assert!(
            NameRecord::decode(&encoded[..len], 2).is_err(),
            "{len} bytes"
        );
    }
}
