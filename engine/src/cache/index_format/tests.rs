use super::*;

const GOLDEN: &[u8] =
    include_bytes!("../../../../tests/golden/cache_index/v1-header_and_block.bin");
const GOLDEN_TEXT: &str =
    include_str!("../../../../tests/golden/cache_index/v1-header_and_block.txt");

fn header() -> Header {
    Header {
        slots_per_file: 65_536,
        slot_count: 32_760,
        generation: 0x0102_0304_0506_0708,
        server: Id(*b"server instance!"),
        block_count: 522,
    }
}

fn entry(slot: u32) -> Entry {
    Entry {
        slot,
        id: ExtentId {
            tenant: TenantId(Id(*b"tenant sixteen b")),
            object: ObjectId {
                branch: BranchId(Id(*b"branch sixteen b")),
                epoch: 3,
                sequence: 0x1122_3344_5566_7788,
            },
            extent_no: slot + 100,
        },
        partition: Partition::new(1023).expect("the last one"),
        extent_bytes: 262_144 - slot,
        crc32c: 0xdead_beef,
        main: slot.is_multiple_of(2),
        hit: slot.is_multiple_of(3),
    }
}

/// A block with a gap at its second place, and entries at the first, third and last.
fn block(number: u32, generation: u64) -> Vec<u8> {
    let mut bytes = vec![0xff; BLOCK_BYTES];
    let entries = (0..63).map(|n| [0, 2, 62].contains(&n).then(|| entry(n)));
    write_block(&mut bytes, number, generation, entries);
    bytes
}

fn decode(block: &[u8], number: u32, generation: u64) -> Option<Vec<Entry>> {
    Some(read_block(block, number, generation)?.collect())
}

#[test]
fn golden_bytes_are_what_is_written_and_decode_to_what_they_did() {
    let mut written = vec![0xff; BLOCK_BYTES];
    header().write(&mut written);
    written.extend(block(5, header().generation));
    assert!(written == GOLDEN, "today's writer makes other bytes");

    let (first, second) = GOLDEN.split_at(BLOCK_BYTES);
    let mut text = format!("{:?}\n", Header::read(first));
    for entry in decode(second, 5, header().generation).expect("whole") {
        text += &format!("{entry:?}\n");
    }
    assert_eq!(text, GOLDEN_TEXT);
}

#[test]
fn every_flipped_bit_of_a_block_voids_it() {
    let whole = block(5, 9);
    assert_eq!(
        decode(&whole, 5, 9),
        Some(vec![entry(0), entry(2), entry(62)])
    );
    for bit in 0..BLOCK_BYTES * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(&flipped, 5, 9), None, "bit {bit}");
    }
}

#[test]
fn blocks_that_are_torn_misplaced_or_of_another_generation_are_void() {
    let mut old = vec![0; BLOCK_BYTES];
    write_block(&mut old, 5, 9, (100..163).map(|n| Some(entry(n))));
    let mut new = vec![0; BLOCK_BYTES];
    write_block(&mut new, 5, 9, (200..263).map(|n| Some(entry(n))));
    for torn_at in (512..BLOCK_BYTES).step_by(512) {
        for (start, end) in [(&old, &new), (&new, &old)] {
            let torn = [&start[..torn_at], &end[torn_at..]].concat();
            assert_eq!(decode(&torn, 5, 9), None, "torn at {torn_at}");
        }
    }
    assert_eq!(decode(&old, 6, 9), None);
    assert_eq!(decode(&old, 5, 10), None);
    assert_eq!(
        decode(&[0; BLOCK_BYTES], 5, 9),
        Some(Vec::new()),
        "never written"
    );
}

#[test]
fn headers_that_are_damaged_are_void_and_newer_ones_are_named() {
    let mut whole = vec![0; BLOCK_BYTES];
    header().write(&mut whole);
    assert_eq!(Header::read(&whole), HeaderRead::Known(header()));
    for bit in 0..BLOCK_BYTES * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Header::read(&flipped), HeaderRead::Void, "bit {bit}");
    }
    let mut of_version = |version: u16| {
        put(&mut whole, VERSION_AT, version.to_le_bytes());
        let checksum = crc32c::crc32c(&whole[..HEADER_CHECKSUM_AT]);
        put(&mut whole, HEADER_CHECKSUM_AT, checksum.to_le_bytes());
        Header::read(&whole)
    };
    assert_eq!(of_version(2), HeaderRead::Newer(2));
    assert_eq!(of_version(0), HeaderRead::Void);
}

#[test]
fn entries_that_make_no_sense_are_left_out() {
    let spoil = |at: usize, byte: u8| {
        let mut bytes = block(0, 1);
        bytes[ENTRIES_AT + at] = byte;
        let checksum = block_checksum(&bytes);
        put(&mut bytes, BLOCK_CHECKSUM_AT, checksum.to_le_bytes());
        decode(&bytes, 0, 1).expect("whole").len()
    };
    assert_eq!(spoil(ENTRY_CRC32C_AT, 1), 3, "any checksum may be right");
    assert_eq!(spoil(ENTRY_EXTENT_BYTES_AT + 3, 1), 2, "larger than a slot");
    assert_eq!(spoil(ENTRY_PARTITION_AT + 1, 4), 2, "no such partition");
    assert_eq!(spoil(ENTRY_FLAGS_AT, 4), 2, "unknown flag");
    assert_eq!(spoil(ENTRY_RESERVED_AT, 1), 2, "reserved byte");
}
