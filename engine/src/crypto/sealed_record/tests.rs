use super::*;

const FORMAT: RecordFormat = RecordFormat {
    magic: b"PSTESTRC",
    tag: FormatTag::new(b"TEST", 1),
    kind: BlockKind::NameRecord,
};
const OTHER_FORMAT: RecordFormat = RecordFormat {
    magic: b"PSTESTRC",
    tag: FormatTag::new(b"TSET", 1),
    kind: BlockKind::NameRecord,
};

fn place() -> RecordPlace {
    RecordPlace {
        tenant: TenantId(Id([1; 16])),
        branch: BranchId(Id([2; 16])),
        number: 3,
    }
}

fn sealed(body: &[u8]) -> (Kek, Bytes) {
    let kek = Kek::from_bytes([5; 32]);
    let bytes = seal_derived(&FORMAT, &place(), 1, &kek, &Entropy::seeded(7), body);
    (kek, bytes)
}

#[test]
fn bodies_of_any_length_come_back() {
    for body in [&b""[..], b"x", &[7; 100_000]] {
        let (kek, bytes) = sealed(body);
        let record = SealedRecord::parse(&FORMAT, &place(), "p", &bytes).expect("sound");
        assert_eq!(record.open_derived(&kek).expect("opens"), body);
        assert!(record.dek_id().is_err(), "not under a DEK");
    }
}

#[test]
fn the_same_body_is_never_sealed_the_same_way_twice() {
    let kek = Kek::from_bytes([5; 32]);
    let entropy = Entropy::seeded(7);
    let seal = || seal_derived(&FORMAT, &place(), 1, &kek, &entropy, b"twins");
    let (one, other) = (seal(), seal());
    assert_ne!(one[SALT_AT..HEADER_BYTES], other[SALT_AT..HEADER_BYTES]);
    assert_ne!(one[HEADER_BYTES..], other[HEADER_BYTES..]);
}

/// Flips with the checksum corrected: what somebody could do who writes to the store.
#[test]
fn every_forged_bit_is_refused() {
    let (kek, bytes) = sealed(b"body");
    for bit in 0..(bytes.len() - CHECKSUM_BYTES) * 8 {
        let mut forged = bytes.to_vec();
        forged[bit / 8] ^= 1 << (bit % 8);
        let end = forged.len() - CHECKSUM_BYTES;
        let checksum = crc32c::crc32c(&forged[..end]);
        forged[end..].copy_from_slice(&checksum.to_le_bytes());
        // The key's epoch is checked by the formats that use it, against the epoch in their name.
        let opened = SealedRecord::parse(&FORMAT, &place(), "p", &forged.into())
            .and_then(|record| record.open_derived(&kek));
        assert!(opened.is_err(), "bit {bit}");
    }
}

#[test]
fn a_record_of_another_format_with_the_same_magic_does_not_open() {
    let (kek, bytes) = sealed(b"body");
    let record = SealedRecord::parse(&OTHER_FORMAT, &place(), "p", &bytes).expect("header fits");
    let error = record.open_derived(&kek).expect_err("other context");
    assert_eq!(error.problem, RecordProblem::BadSeal);
}

#[test]
fn every_cut_is_refused() {
    let (_, bytes) = sealed(b"body");
    for len in 0..bytes.len() {
        let cut = bytes.slice(..len);
        assert!(SealedRecord::parse(&FORMAT, &place(), "p", &cut).is_err());
    }
}
