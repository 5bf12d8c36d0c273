use super::*;

pub(in crate::wal) const STREAM: WalStream = WalStream {
    system_identifier: 77,
    postgres_major: 15,
    timeline: 1,
    segment_bytes: 1 << 20,
};

/// First record position of the second segment.
const FIRST: Lsn = Lsn((1 << 20) + 40);

/// A record with these bytes behind its header, and a right checksum.
pub(in crate::wal) fn record(manager: u8, info: u8, xid: u32, body: &[u8]) -> Vec<u8> {
    let total = u32::try_from(RECORD_HEADER_BYTES + body.len()).expect("small");
    let mut bytes = Vec::new();
    bytes.extend(total.to_le_bytes());
    bytes.extend(xid.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend([info, manager, 0, 0]);
    bytes.extend([0; 4]);
    bytes.extend(body);
    let crc = record_crc(&bytes);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The same with its body as main data.
pub(in crate::wal) fn record_with_main_data(manager: u8, info: u8, data: &[u8]) -> Vec<u8> {
    let mut body = vec![255, u8::try_from(data.len()).expect("short")];
    body.extend(data);
    record(manager, info, 0, &body)
}

/// Lays records out in pages, as a server does.
struct Writer {
    bytes: Vec<u8>,
    /// Bytes of the record that continues on the page about to begin.
    left: usize,
}

impl Writer {
    fn new() -> Writer {
        let mut writer = Writer {
            bytes: Vec::new(),
            left: 0,
        };
        writer.page_header(0);
        writer
    }

    fn page_header(&mut self, flags: u16) {
        let at = FIRST.0 - 40 + self.bytes.len() as u64;
        let is_first = at.is_multiple_of(u64::from(STREAM.segment_bytes));
        let continued = u16::from(self.left > 0);
        let flags = flags | continued | if is_first { 2 } else { 0 };
        self.bytes.extend(0xD110u16.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(STREAM.timeline.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes
            .extend(u32::try_from(self.left).expect("small").to_le_bytes());
        self.bytes.extend([0; 4]);
        if is_first {
            self.bytes.extend(STREAM.system_identifier.to_le_bytes());
            self.bytes.extend(STREAM.segment_bytes.to_le_bytes());
            self.bytes.extend(8192u32.to_le_bytes());
        }
    }

    fn put(&mut self, record: &[u8]) {
        let mut rest = record;
        while !rest.is_empty() {
            self.left = rest.len();
            if self.bytes.len().is_multiple_of(WAL_PAGE_BYTES) {
                if rest.len() == record.len() {
                    self.left = 0;
                }
                self.page_header(0);
            }
            let room = WAL_PAGE_BYTES - self.bytes.len() % WAL_PAGE_BYTES;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.left = 0;
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    fn pages(mut self) -> Vec<[u8; WAL_PAGE_BYTES]> {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(WAL_PAGE_BYTES), 0);
        let pages = self.bytes.chunks_exact(WAL_PAGE_BYTES);
        pages.map(|page| page.try_into().expect("a page")).collect()
    }
}

fn decode(pages: &[[u8; WAL_PAGE_BYTES]]) -> (Vec<WalRecord>, Option<WalError>) {
    let mut decoder = WalDecoder::new(STREAM, FIRST);
    let mut records = Vec::new();
    for page in pages {
        decoder.feed(page);
        loop {
            match decoder.next_record() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                Err(error) => return (records, Some(error)),
            }
        }
    }
    (records, None)
}

#[test]
fn records_of_all_lengths_come_out_whole_across_pages_and_segments() {
    // Enough for two segments; lengths around a page so that headers are split at every offset.
    let written: Vec<Vec<u8>> = (0..300usize)
        .map(|n| record(10, 0, 5, &vec![n.to_le_bytes()[0]; (n * 977) % 20_000]))
        .collect();
    let mut writer = Writer::new();
    written.iter().for_each(|record| writer.put(record));
    assert!(writer.bytes.len() > 2 << 20);
    let (records, end) = decode(&writer.pages());
    let found: Vec<&[u8]> = records.iter().map(|r| r.bytes.as_slice()).collect();
    let wanted: Vec<&[u8]> = written.iter().map(Vec::as_slice).collect();
    assert!(found == wanted, "{} of {}", found.len(), wanted.len());
    assert!(matches!(end, Some(WalError::End { .. })), "{end:?}");
    for pair in records.windows(2) {
        // The next record begins where this one ended, or behind a page header.
        let gap = pair[1].lsn.bytes_since(pair[0].end);
        assert!(matches!(gap, Some(0 | 24 | 40)), "{gap:?}");
    }
}

#[test]
fn a_switch_leaves_the_rest_of_its_segment_unused() {
    let mut writer = Writer::new();
    writer.put(&record(0, 0x40, 0, &[]));
    writer.bytes.resize(1 << 20, 0);
    writer.put(&record(10, 0, 5, &[1]));
    let (records, _) = decode(&writer.pages());
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].end, Lsn(2 << 20));
    assert_eq!(records[1].lsn, Lsn((2 << 20) + 40));
}

#[test]
fn a_record_given_up_in_a_crash_is_passed_over() {
    let mut writer = Writer::new();
    let long = record(10, 0, 5, &[7; 10_000]);
    writer.bytes.extend(&long[..WAL_PAGE_BYTES - 40]);
    writer.page_header(8);
    let overwrite = record(0, 0xd0, 0, &[]);
    writer.put(&overwrite);
    let (records, _) = decode(&writer.pages());
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].bytes, overwrite);
}

#[test]
fn a_missing_continuation_a_flipped_bit_and_foreign_pages_end_the_stream() {
    let mut writer = Writer::new();
    writer.put(&record(10, 0, 5, &[7; 10_000]));
    let good = writer.pages();
    assert_eq!(decode(&good).0.len(), 1);

    for bit in 0..64 {
        let mut flipped = good.clone();
        flipped[0][40 + bit * 100] ^= 1;
        let (records, error) = decode(&flipped);
        assert!(
            records.is_empty() && error.is_some(),
            "byte {}",
            40 + bit * 100
        );
    }
    let mut discontinued = good.clone();
    discontinued[1][2] = 0;
    assert!(matches!(decode(&discontinued).1, Some(WalError::End { at, .. }) if at == FIRST));
    // Position, timeline, system identifier, segment size.
    for (at, what) in [
        (9, "position"),
        (4, "timeline"),
        (24, "system identifier"),
        (34, "segment size"),
    ] {
        let mut foreign = good.clone();
        foreign[0][at] ^= 0x80;
        match decode(&foreign).1 {
            Some(WalError::Foreign { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{what}: {other:?}"),
        }
    }
    let mut other_version = good;
    other_version[0][0] = 0x13;
    assert!(matches!(
        decode(&other_version).1,
        Some(WalError::Foreign {
            what: "major version",
            ..
        })
    ));
}

#[test]
fn a_claimed_length_takes_no_memory_before_the_bytes_are_there() {
    let mut writer = Writer::new();
    let mut huge = record(10, 0, 5, &[7; 100]);
    huge[..4].copy_from_slice(&RECORD_BYTES_MAX.to_le_bytes());
    writer.put(&huge);
    let mut decoder = WalDecoder::new(STREAM, FIRST);
    decoder.feed(&writer.pages()[0]);
    assert_eq!(decoder.next_record(), Ok(None));
    assert!(decoder.partial.capacity() <= 2 * WAL_PAGE_BYTES);
}
