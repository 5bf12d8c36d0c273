//! Bytes of version 1, under fixed keys; see `tests/golden/README.md`.

use super::*;
use crate::manifest::golden::golden;
use crate::wal::segment_header::SegmentHeader;

/// The file `name`, without the blocks at its end that were never written.
fn written(disk: &MemoryDisk, name: &str) -> Vec<u8> {
    let mut bytes = disk.contents(&format!("{DIR}/{name}"));
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("written");
    bytes.truncate((used + 1).next_multiple_of(4096));
    bytes
}

#[test]
fn segments_of_version_1() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    let mut wal = begin(&disk, &keys);
    commit(&mut wal, 100);
    // Two frames.
    commit(&mut wal, 9000);
    let (mut wal, _) = open(&disk, &keys, 0x102).expect("sound");
    commit(&mut wal, 5);
    wal.restart_at(2, Lsn(0x2_0000_0000));
    commit(&mut wal, 6);

    let mut stored = BTreeMap::new();
    for (file, golden_name) in [
        ("00000001-0000000000000000.wal", "wal_segment/v1-first.bin"),
        (
            "00000102-0000000000000001.wal",
            "wal_segment/v1-goes-on.bin",
        ),
        (
            "00000102-0000000000000002.wal",
            "wal_segment/v1-begins-anew.bin",
        ),
    ] {
        let mut bytes = golden(golden_name, &written(&disk, file)).to_vec();
        bytes.resize(64 << 10, 0);
        stored.insert(Path::new(DIR).join(file), bytes);
    }
    let (wal, recovered) = open(&disk_with(&stored), &keys, 0x103).expect("sound");
    let ranges = [
        range(1, START, Lsn(START.0 + 9105)),
        range(2, Lsn(0x2_0000_0000), Lsn(0x2_0000_0006)),
    ];
    assert_eq!(read(&recovered).expect("sound"), ranges);
    assert_eq!(wal.end(), (2, Lsn(0x2_0000_0006)));
}

#[test]
fn every_flipped_bit_of_a_header_is_refused() {
    let (disk, keys) = (MemoryDisk::default(), Rc::new(Keys::default()));
    commit(&mut begin(&disk, &keys), 100);
    let block = &disk.contents(&format!("{DIR}/00000001-0000000000000000.wal"))[..4096];
    let dek = now(keys.dek(DekId { table: 7, slot: 0 })).expect("there");
    let opens = |block: &[u8]| {
        let (header, sealed) = SegmentHeader::parse(block)?;
        header.check_key(&dek)?;
        header.open(&sealed, &crate::crypto::page_seal::Opener::new(&dek))
    };
    opens(block).expect("sound");
    for bit in 0..block.len() * 8 {
        let mut flipped = block.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(opens(&flipped).is_err(), "bit {bit}");
        // Who can correct the checksum gets no further, but for the id of a key, which finds another key.
        let checksum = crc32c::crc32c(&flipped[..152]);
        flipped[152..156].copy_from_slice(&checksum.to_le_bytes());
        if !(12 * 8..20 * 8).contains(&bit) && !(152 * 8..156 * 8).contains(&bit) {
            assert!(opens(&flipped).is_err(), "bit {bit}, checksum corrected");
        }
    }
}
