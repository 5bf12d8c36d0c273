use super::*;
use crate::crypto::page_seal::Dek;
use crate::types::{BranchId, Id, TenantId};
use crate::wal::segment_id::SegmentId;

const BLOCK: usize = 4096;

fn dek() -> Dek {
    Dek::from_bytes([0x44; 32])
}

fn place() -> SegmentPlace {
    SegmentPlace {
        tenant: TenantId(Id([0x11; 16])),
        branch: BranchId(Id([0x22; 16])),
        id: SegmentId {
            epoch: 3,
            sequence: 9,
        },
        timeline: 2,
    }
}

fn header(payload_bytes: usize) -> FrameHeader {
    FrameHeader {
        payload_bytes,
        ordinal: 5,
        start: Lsn(0x1_0000_1000),
        durable: Lsn(0x1_0000_0800),
    }
}

fn sealed(payload: &[u8]) -> Vec<u8> {
    let header = header(payload.len());
    let mut frame = vec![0; header.frame_bytes(BLOCK)];
    header.seal(&place(), &Sealer::new(&dek()), payload, &mut frame);
    frame
}

fn open(place: &SegmentPlace, frame: &[u8]) -> Result<(FrameHeader, Vec<u8>), RecordProblem> {
    let found = FoundFrame::parse(frame)?;
    let frame = frame.get(..found.header.frame_bytes(BLOCK));
    let frame = frame.ok_or(RecordProblem::Damaged("cut short"))?;
    let mut payload = Vec::new();
    found.open(place, &Opener::new(&dek()), frame, &mut payload)?;
    Ok((found.header, payload))
}

#[test]
fn frames_of_all_lengths_open_and_have_no_sector_of_zeros() {
    let longest = payload_bytes_max(FRAME_BYTES_MAX);
    for len in [1, 4039, 4040, 4041, 70_000, longest] {
        let payload = vec![0; len];
        let frame = sealed(&payload);
        assert!(frame.len() - len >= FRAME_OVERHEAD_BYTES && frame.len() - len < 2 * BLOCK);
        assert_eq!(open(&place(), &frame), Ok((header(len), payload)));
        assert!(!was_cut_off(&frame, BLOCK));
    }
    assert_eq!(sealed(&[0; 4040]).len(), BLOCK);
    assert_eq!(sealed(&[0; 4041]).len(), 2 * BLOCK);
    assert_eq!(sealed(&vec![0; longest]).len(), FRAME_BYTES_MAX);
}

#[test]
fn every_flipped_bit_is_refused_and_none_looks_like_a_write_that_was_cut_off() {
    let frame = sealed(&[7; 5000]);
    // What is behind it was never written.
    let mut bytes = frame.clone();
    bytes.resize(FRAME_BYTES_MAX, 0);
    for bit in 0..frame.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&place(), &bytes).is_err(), "bit {bit}");
        assert!(!was_cut_off(&bytes, BLOCK), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn no_bit_can_be_changed_by_who_can_correct_checksums() {
    let frame = sealed(&[7; 5000]);
    let checksums = BODY_CHECKSUM_AT * 8..BODY_AT * 8;
    for bit in (0..frame.len() * 8).filter(|bit| !checksums.contains(bit)) {
        let mut forged = frame.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        let checksum = crc32c::crc32c(&forged[BODY_AT..]);
        put(&mut forged, BODY_CHECKSUM_AT, checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&forged[..HEADER_CHECKSUM_AT]);
        put(&mut forged, HEADER_CHECKSUM_AT, checksum.to_le_bytes());
        assert!(open(&place(), &forged).is_err(), "bit {bit}");
    }
}

#[test]
fn a_frame_opens_in_its_own_place_only() {
    let frame = sealed(b"some WAL");
    let here = place();
    let mut elsewhere = [here; 5];
    elsewhere[0].tenant = TenantId(Id([0x12; 16]));
    elsewhere[1].branch = BranchId(Id([0x12; 16]));
    elsewhere[2].id.epoch += 1;
    elsewhere[3].id.sequence += 1;
    elsewhere[4].timeline += 1;
    for other in elsewhere {
        assert_eq!(
            open(&other, &frame),
            Err(RecordProblem::BadSeal),
            "{other:?}"
        );
    }
    let opener = Opener::new(&Dek::from_bytes([0x45; 32]));
    let found = FoundFrame::parse(&frame).expect("it is a frame");
    let other_key = found.open(&here, &opener, &frame, &mut Vec::new());
    assert_eq!(other_key, Err(RecordProblem::BadSeal));
}

#[test]
fn a_frame_without_any_of_its_sectors_was_cut_off_and_does_not_open() {
    let frame = sealed(&[7; 9000]);
    for sector in 0..frame.len() / SECTOR_BYTES {
        let mut torn = frame.clone();
        torn[sector * SECTOR_BYTES..][..SECTOR_BYTES].fill(0);
        torn.resize(FRAME_BYTES_MAX, 0);
        assert!(open(&place(), &torn).is_err(), "sector {sector}");
        assert!(was_cut_off(&torn, BLOCK), "sector {sector}");
    }
    assert!(was_cut_off(&[0; BLOCK], BLOCK), "nothing was written");
    assert!(!was_cut_off(&[1; BLOCK], BLOCK));
    assert!(
        !was_cut_off(&frame[..BLOCK], BLOCK),
        "its segment ends within it"
    );
}
