//! Pages of WAL, as a base backup sends them. Magic numbers, positions and checksums are made right where the input's
//! first byte says so, or nothing would get past them.
#![no_main]

use engine::types::Lsn;
use libfuzzer_sys::fuzz_target;
use postgres::wal::{WAL_PAGE_BYTES, WalDecoder, WalStream, WalVersion};

fuzz_target!(|input: (u8, u16, u16, &[u8])| {
    let (repair, start_in_page, chunk_bytes, bytes) = input;
    let start = Lsn(SEGMENT + u64::from(start_in_page) % WAL_PAGE_BYTES as u64 / 8 * 8);
    let mut pages = Vec::new();
    for (number, chunk) in (0u64..).zip(bytes.chunks(WAL_PAGE_BYTES).take(4)) {
        let mut page = [0; WAL_PAGE_BYTES];
        page[..chunk.len()].copy_from_slice(chunk);
        if repair & 1 != 0 {
            mend_header(&mut page, Lsn(SEGMENT + number * WAL_PAGE_BYTES as u64));
        }
        if repair & 2 != 0 {
            mend_first_record(&mut page);
        }
        pages.extend(page);
    }
    let whole = decode(start, &pages, usize::MAX);
    let in_chunks = decode(start, &pages, usize::from(chunk_bytes).max(1));
    assert!(whole == in_chunks, "chunks make no difference");
});

/// Start, end and number of blocks of each record, fed in chunks of this length.
fn decode(start: Lsn, pages: &[u8], chunk_bytes: usize) -> Vec<(Lsn, Lsn, usize)> {
    let mut decoder = WalDecoder::new(STREAM, start);
    let mut records: Vec<(Lsn, Lsn, usize)> = Vec::new();
    for mut chunk in pages.chunks(chunk_bytes) {
        while !chunk.is_empty() {
            let before = decoder.position();
            let Ok(decoded) = decoder.decode(chunk) else {
                return records;
            };
            let consumed = decoded.consumed;
            assert!(consumed <= chunk.len(), "no more than there is");
            assert!(
                decoded.record.is_some() || consumed == chunk.len(),
                "all of it if there is no record"
            );
            if let Some(record) = decoded.record {
                let last = records.last().map_or(start, |(_, end, _)| *end);
                assert!(
                    record.start >= last && record.end > record.start,
                    "records come in order"
                );
                for block in record.blocks() {
                    let mut page = [0; WAL_PAGE_BYTES];
                    let _restored = block.image.map(|image| image.restore(&mut page));
                }
                records.push((record.start, record.end, record.blocks().count()));
            }
            assert!(decoder.position() == Lsn(before.0 + consumed as u64));
            chunk = &chunk[consumed..];
        }
    }
    records
}

/// Writes what the decoder insists on into a page's header.
fn mend_header(page: &mut [u8; WAL_PAGE_BYTES], at: Lsn) {
    let first_of_segment = at.0.is_multiple_of(SEGMENT);
    page[0..2].copy_from_slice(&0xD110_u16.to_le_bytes());
    page[2] = (page[2] & 1) | if first_of_segment { 2 } else { 0 };
    page[3] = 0;
    page[4..8].copy_from_slice(&STREAM.timeline.to_le_bytes());
    page[8..16].copy_from_slice(&at.0.to_le_bytes());
    if first_of_segment {
        page[24..32].copy_from_slice(&STREAM.system_identifier.to_le_bytes());
        page[32..36].copy_from_slice(&STREAM.segment_bytes.to_le_bytes());
        page[36..40].copy_from_slice(&8192_u32.to_le_bytes());
    }
}

/// Gives the record behind a long header the checksum of what it says, if it fits the page.
fn mend_first_record(page: &mut [u8; WAL_PAGE_BYTES]) {
    let at = 40;
    let len = u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let Some(end) = usize::try_from(len)
        .ok()
        .and_then(|len| at.checked_add(len))
    else {
        return;
    };
    if len < 24 || end > WAL_PAGE_BYTES {
        return;
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&page[at + 24..end]), &page[at..at + 20]);
    page[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
}

const SEGMENT: u64 = 16 << 20;
const STREAM: WalStream = WalStream {
    system_identifier: 7,
    version: WalVersion::V15,
    timeline: 1,
    segment_bytes: 16 << 20,
};
