//! Bytes of every version of the catalog's records, under fixed keys; see `tests/golden/README.md`.

use super::*;
use crate::manifest::golden::golden;
use crate::types::Id;

const TENANT_ID: TenantId = TenantId(Id([0x11; 16]));
const BRANCH: BranchId = BranchId(Id([0x22; 16]));

fn kek() -> Kek {
    Kek::from_bytes([0x33; 32])
}

fn name_key() -> Kek {
    Kek::from_bytes([0x66; 32])
}

/// That no bit of a stored record can be another.
pub(in crate::catalog) fn check_flips(stored: &Bytes, opens: impl Fn(&Bytes) -> bool) {
    assert!(opens(stored), "the record itself");
    for bit in 0..stored.len() * 8 {
        let mut flipped = stored.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!opens(&flipped.into()), "bit {bit}");
    }
}

#[test]
fn records_of_tenants_of_both_versions() {
    for (old_names, file) in [
        (true, "tenant_record/v1-acme.bin"),
        (false, "tenant_record/v2-acme.bin"),
    ] {
        let record = TenantRecord {
            name: "acme".to_owned(),
            name_key: name_key(),
            old_names,
        };
        let made = record.seal(TENANT_ID, (3, &kek()), &Entropy::seeded(2));
        let stored = golden(file, &made);
        let open = |bytes: &Bytes| TenantRecord::open("p", bytes, TENANT_ID, (3, &kek()));
        assert_eq!(open(&stored), Ok(record));
        check_flips(&stored, |bytes| open(bytes).is_ok());
    }
}

#[test]
fn marks_of_begun_branches_of_version_1() {
    let made = seal_begun(TENANT_ID, BRANCH, "main", &name_key(), &Entropy::seeded(4));
    let stored = golden("begun_record/v1-main.bin", &made);
    let open = |bytes: &Bytes| open_begun("p", bytes, (TENANT_ID, BRANCH), &name_key());
    assert_eq!(open(&stored), Ok("main".to_owned()));
    check_flips(&stored, |bytes| open(bytes).is_ok());
}
