use super::*;
use crate::wal::WalVersion;

pub(in crate::wal) const STREAM: WalStream = WalStream {
    system_identifier: 77,
    version: WalVersion::V15,
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
    let mut body = Vec::new();
    match u8::try_from(data.len()) {
        Ok(short) => body.extend([255, short]),
        Err(_) => {
            body.push(254);
            body.extend(u32::try_from(data.len()).expect("short").to_le_bytes());
        }
    }
    body.extend(data);
    record(manager, info, 0, &body)
}

/// Lays records out in pages, as a server does.
#[derive(Clone)]
struct Writer {
    bytes: Vec<u8>,
    /// Position of the record before.
    previous: Lsn,
    /// Bytes of the record that continues on the page about to begin.
    left: usize,
}

impl Writer {
    fn new() -> Writer {
        let mut writer = Writer {
            bytes: Vec::new(),
            previous: Lsn(0),
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
        let mut record = record.to_vec();
        record[8..16].copy_from_slice(&self.previous.0.to_le_bytes());
        let crc = record_crc(&record);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            self.left = rest.len();
            if self.bytes.len().is_multiple_of(WAL_PAGE_BYTES) {
                if rest.len() == record.len() {
                    self.left = 0;
                }
                self.page_header(0);
            }
            if rest.len() == record.len() {
                self.previous = Lsn(FIRST.0 - 40 + self.bytes.len() as u64);
            }
            let room = WAL_PAGE_BYTES - self.bytes.len() % WAL_PAGE_BYTES;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.left = 0;
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// All of it, zeros to the end of the page.
    fn pages(mut self) -> Vec<u8> {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(WAL_PAGE_BYTES), 0);
        self.bytes
    }
}

/// What came out of decoding.
#[derive(Debug, PartialEq, Eq)]
struct Output {
    /// Start, end, manager, main data and whole length of each record.
    records: Vec<(Lsn, Lsn, u8, Vec<u8>, usize)>,
    error: Option<WalError>,
}

fn decode_from(start: Lsn, bytes: &[u8], chunk_bytes: usize) -> Output {
    let mut decoder = WalDecoder::new(STREAM, start);
    let mut records = Vec::new();
    for mut chunk in bytes.chunks(chunk_bytes) {
        while !chunk.is_empty() {
            match decoder.decode(chunk) {
                Ok(Decoded { consumed, record }) => {
                    if let Some(record) = record {
                        let (main, total) = (record.main.to_vec(), record.total_bytes());
                        let manager = record.manager.0;
                        records.push((record.start, record.end, manager, main, total));
                    }
                    chunk = &chunk[consumed..];
                }
                Err(error) => {
                    assert_eq!(decoder.decode(chunk).err().as_ref(), Some(&error));
                    let error = Some(error);
                    return Output { records, error };
                }
            }
        }
    }
    let error = None;
    Output { records, error }
}

fn decode(bytes: &[u8]) -> Output {
    decode_from(FIRST, bytes, 16 * WAL_PAGE_BYTES)
}

#[test]
fn records_of_all_lengths_come_out_whole_across_pages_segments_and_chunks() {
    // Enough for two segments; lengths around a page so that headers are split at every offset.
    let written: Vec<Vec<u8>> = (0..300usize)
        .map(|n| vec![n.to_le_bytes()[0]; (n * 977) % 20_000])
        .collect();
    let mut writer = Writer::new();
    for main in &written {
        writer.put(&record_with_main_data(10, 0, main));
    }
    assert!(writer.bytes.len() > 2 << 20);
    let bytes = writer.pages();
    let output = decode(&bytes);
    let found: Vec<&[u8]> = output.records.iter().map(|r| r.3.as_slice()).collect();
    let wanted: Vec<&[u8]> = written.iter().map(Vec::as_slice).collect();
    assert!(found == wanted, "{} of {}", found.len(), wanted.len());
    let reason = EndReason::NoRecord;
    assert!(
        matches!(output.error, Some(WalError::End { reason: found, .. }) if found == reason),
        "{:?}",
        output.error
    );
    for pair in output.records.windows(2) {
        // The next record begins where this one ended, or behind a page header.
        let gap = pair[1].0.bytes_since(pair[0].1);
        assert!(matches!(gap, Some(0 | 24 | 40)), "{gap:?}");
    }
    for chunk_bytes in [1, 7, 8, 23, 40, 4099, WAL_PAGE_BYTES, WAL_PAGE_BYTES + 1] {
        assert!(
            decode_from(FIRST, &bytes, chunk_bytes) == output,
            "chunks of {chunk_bytes}"
        );
    }
}

#[test]
fn decoding_begins_at_any_record_or_at_the_page_it_begins() {
    let mut writer = Writer::new();
    for n in 0..20u8 {
        writer.put(&record_with_main_data(10, 0, &[n; 5000]));
    }
    let bytes = writer.pages();
    let all = decode(&bytes);
    for (n, (start, ..)) in all.records.iter().enumerate() {
        let page = page_of(*start);
        let rest = &bytes[usize::try_from(page.0 - page_of(FIRST).0).expect("small")..];
        let output = decode_from(*start, rest, 1000);
        assert!(output.records == all.records[n..], "record {n}");
        if output.records.len() > 1 && offset_in_page(*start) == SHORT_HEADER_BYTES {
            assert!(
                decode_from(page, rest, 1000) == output,
                "page of record {n}"
            );
        }
    }
    // In the middle of a record there is nothing to begin with.
    let second_page = Lsn(page_of(FIRST).0 + WAL_PAGE_BYTES as u64);
    let output = decode_from(second_page, &bytes[WAL_PAGE_BYTES..], 1000);
    let expected = WalError::Record {
        at: second_page,
        manager: None,
        reason: RecordFault::NotBegun,
    };
    assert_eq!(output.error, Some(expected));
}

#[test]
fn a_switch_leaves_the_rest_of_its_segment_unused() {
    let mut writer = Writer::new();
    writer.put(&record(0, 0x40, 0, &[]));
    writer.bytes.resize(1 << 20, 0);
    writer.put(&record_with_main_data(10, 0, &[1]));
    for chunk_bytes in [5000, WAL_PAGE_BYTES, 1 << 20] {
        let records = decode_from(FIRST, &writer.clone().pages(), chunk_bytes).records;
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].1, Lsn(2 << 20));
        assert_eq!(records[1].0, Lsn((2 << 20) + 40));
    }
}

#[test]
fn a_record_given_up_in_a_crash_is_passed_over() {
    let mut writer = Writer::new();
    writer.put(&record_with_main_data(10, 0, &[1]));
    let (before, previous) = (writer.bytes.len(), writer.previous);
    writer.put(&record_with_main_data(10, 0, &[7; 10_000]));
    writer.bytes.truncate(WAL_PAGE_BYTES);
    assert!(before < writer.bytes.len());
    writer.previous = previous;
    writer.page_header(8);
    writer.put(&record_with_main_data(0, 0xd0, b"overwrite"));
    let output = decode(&writer.pages());
    let mains: Vec<&[u8]> = output.records.iter().map(|r| r.3.as_slice()).collect();
    assert_eq!(mains, [&[1][..], b"overwrite"]);
}

#[test]
fn a_missing_continuation_a_flipped_bit_and_foreign_pages_end_the_stream() {
    let mut writer = Writer::new();
    writer.put(&record_with_main_data(10, 0, &[7; 10_000]));
    let good = writer.pages();
    assert_eq!(decode(&good).records.len(), 1);

    for bit in 0..64 {
        let mut flipped = good.clone();
        flipped[40 + bit * 100] ^= 1;
        let output = decode(&flipped);
        assert!(
            output.records.is_empty() && output.error.is_some(),
            "byte {}",
            40 + bit * 100
        );
    }
    let second = WAL_PAGE_BYTES;
    for (at, value, reason) in [
        (second + 2, 0, RecordFault::NotContinued),
        (
            second + 16,
            1,
            RecordFault::ContinuedBytes {
                found: 0x0701,
                wanted: 0,
            },
        ),
        (5000, 1, RecordFault::Checksum),
        (40 + 17, 99, RecordFault::Manager),
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        match decode(&bad).error {
            Some(WalError::Record {
                at: FIRST,
                reason: found,
                ..
            }) => assert_eq!(
                std::mem::discriminant(&found),
                std::mem::discriminant(&reason),
                "{found}"
            ),
            other => panic!("{reason}: {other:?}"),
        }
    }
    // Position, timeline, flags, system identifier, segment size.
    for (at, what) in [
        (9, "position"),
        (4, "timeline"),
        (3, "unknown flags"),
        (2, "long header flag"),
        (24, "system identifier"),
        (34, "segment size"),
        (0, "magic"),
    ] {
        let mut foreign = good.clone();
        foreign[at] ^= if at == 2 { 2 } else { 0x80 };
        match decode(&foreign).error {
            Some(WalError::Foreign { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn what_was_never_written_and_what_is_of_an_older_life_is_an_end() {
    let mut writer = Writer::new();
    writer.put(&record_with_main_data(10, 0, &[1; 100]));
    let mut bytes = writer.pages();
    let second = page_of(FIRST).0 + WAL_PAGE_BYTES as u64;
    let end = |bytes: &[u8]| decode(bytes).error;
    // The first page is full; nothing behind it.
    let mut full = Writer::new();
    full.put(&record_with_main_data(
        10,
        0,
        &vec![1; WAL_PAGE_BYTES - 40 - 24 - 5],
    ));
    bytes.truncate(0);
    bytes.extend(full.bytes);
    assert_eq!(bytes.len(), WAL_PAGE_BYTES);
    assert_eq!(end(&bytes), None);
    let mut zeros = bytes.clone();
    zeros.resize(2 * WAL_PAGE_BYTES, 0);
    let reason = EndReason::EmptyPage;
    let at = Lsn(second);
    assert_eq!(end(&zeros), Some(WalError::End { at, reason }));
    let mut recycled = zeros.clone();
    let older = Lsn(second - (1 << 20));
    recycled[WAL_PAGE_BYTES..][..2].copy_from_slice(&0xD10Du16.to_le_bytes());
    recycled[WAL_PAGE_BYTES + 8..][..8].copy_from_slice(&older.0.to_le_bytes());
    let reason = EndReason::OlderPage(older);
    assert_eq!(end(&recycled), Some(WalError::End { at, reason }));
}

#[test]
fn a_record_that_names_another_as_the_one_before_it_is_refused() {
    let mut writer = Writer::new();
    writer.put(&record_with_main_data(10, 0, &[1]));
    writer.previous = Lsn(8);
    writer.put(&record_with_main_data(10, 0, &[2]));
    let output = decode(&writer.pages());
    assert_eq!(output.records.len(), 1);
    let reason = RecordFault::Previous {
        found: Lsn(8),
        wanted: FIRST,
    };
    let error = output.error.expect("refused");
    assert!(
        matches!(error, WalError::Record { reason: found, .. } if found == reason),
        "{error}"
    );
    assert!(error.to_string().contains("Heap"), "{error}");
}

#[test]
fn a_claimed_length_takes_no_memory_before_the_bytes_are_there() {
    let mut writer = Writer::new();
    let mut huge = record(10, 0, 5, &[7; 100]);
    huge[..4].copy_from_slice(&RECORD_BYTES_MAX.to_le_bytes());
    writer.put(&huge);
    let mut decoder = WalDecoder::new(STREAM, FIRST);
    let decoded = decoder.decode(&writer.pages()).map(|d| d.consumed);
    assert_eq!(decoded, Ok(WAL_PAGE_BYTES));
    assert!(decoder.partial.capacity() <= PARTIAL_BYTES_KEPT);
}

#[test]
fn what_a_long_record_took_is_given_back() {
    let mut writer = Writer::new();
    writer.put(&record_with_main_data(10, 0, &vec![1; 500_000]));
    writer.put(&record_with_main_data(10, 0, &vec![2; 10_000]));
    let bytes = writer.pages();
    let mut decoder = WalDecoder::new(STREAM, FIRST);
    let first = decoder.decode(&bytes).expect("good");
    assert!(first.record.is_some());
    let rest = &bytes[first.consumed..];
    assert!(decoder.partial.capacity() >= 500_000);
    assert!(decoder.decode(rest).expect("good").record.is_some());
    assert!(decoder.partial.capacity() <= PARTIAL_BYTES_KEPT);
}
