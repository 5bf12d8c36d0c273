//! Chunks of WAL in, whole checked records out, across pages and segments.
//!
//! Fed with consecutive bytes in chunks of any length. A record that lies within one page and one chunk is a view of
//! the chunk; any other is put together in a buffer that is used again for the next. Nothing is allocated per record.
//! Memory: that buffer, which grows with the bytes that have arrived and not with the length a record claims, and
//! gives back what a long record took.
//!
//! WAL that does not go on is not damage: a segment that was preallocated or used before goes on with zeros, or with
//! pages of an older address; a server that was killed leaves half a record. [`WalError::End`] says what is certain
//! to be an end, [`WalError::Record`] what may also be damage: only someone who knows what was acknowledged can tell.
//! A record that was given up in a crash is passed over where the next page says so.

use engine::types::Lsn;

use super::manager::ResourceManager;
use super::page_header::{LONG_HEADER_BYTES, SHORT_HEADER_BYTES, WAL_PAGE_BYTES, WalPageHeader};
use super::record::{
    RECORD_BYTES_MAX, RECORD_HEADER_BYTES, Record, RecordHeader, RecordScratch, record_crc,
};
use super::stream::WalStream;
use super::wal_error::{EndReason, RecordFault, WalError};
use crate::bytes_at::u32_at;

/// What a chunk gave.
#[derive(Debug)]
pub struct Decoded<'a> {
    /// Bytes of the chunk that are behind the decoder now: feed the rest next.
    pub consumed: usize,
    /// The next record; `None` if all of the chunk was consumed and its record goes on.
    pub record: Option<Record<'a>>,
}

/// The state between two chunks.
#[derive(Debug)]
pub struct WalDecoder {
    stream: WalStream,
    start: Lsn,
    /// The next byte wanted.
    position: Lsn,
    /// Bytes before this are passed over: padding, what a switch left unused, what is before the start.
    skip_to: Lsn,
    /// What has arrived of a page header that was split between chunks.
    header: Vec<u8>,
    /// What has arrived of the record at `record_at` that is not whole yet.
    partial: Vec<u8>,
    /// The record in `partial` was answered: the next call begins a new one.
    is_answered: bool,
    record_at: Lsn,
    /// Position of the record before, once there was one.
    previous: Option<Lsn>,
    /// Timeline of the page before.
    timeline: u32,
    scratch: RecordScratch,
    failed: Option<WalError>,
}

impl WalDecoder {
    /// Decodes from `start`, which has to be the position of a record or of the page it begins.
    pub fn new(stream: WalStream, start: Lsn) -> WalDecoder {
        WalDecoder {
            stream,
            start,
            position: page_of(start),
            skip_to: start,
            header: Vec::with_capacity(LONG_HEADER_BYTES),
            partial: Vec::with_capacity(PARTIAL_BYTES_KEPT),
            is_answered: false,
            record_at: start,
            previous: None,
            timeline: 0,
            scratch: RecordScratch::new(),
            failed: None,
        }
    }

    /// Where the next chunk has to begin; at first the beginning of the page that holds the start.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Which WAL is expected.
    pub fn stream(&self) -> &WalStream {
        &self.stream
    }

    /// Takes bytes from the front of `chunk`, which begins at [`position`](Self::position), up to the end of the
    /// next record; all of it if the record goes on behind it.
    /// # Errors
    /// A page is not the expected one, or a record is not whole and right. The decoder stays there: every further
    /// call answers the same.
    pub fn decode<'a>(&'a mut self, chunk: &'a [u8]) -> Result<Decoded<'a>, WalError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let (consumed, found) = match self.advance(chunk) {
            Ok(found) => found,
            Err(error) => return Err(self.fail(error)),
        };
        let Some(found) = found else {
            return Ok(Decoded {
                consumed,
                record: None,
            });
        };
        let (stream, at, end) = (self.stream, found.at, found.end);
        let bytes = match found.place {
            Place::Chunk(from, to) => &chunk[from..to],
            Place::Partial => self.partial.as_slice(),
        };
        match Record::parse(stream.version, at, end, bytes, &mut self.scratch) {
            Ok(record) => Ok(Decoded {
                consumed,
                record: Some(record),
            }),
            Err(error) => {
                let error = WalError::Record {
                    at,
                    manager: Some(found.header.manager),
                    reason: error.into(),
                };
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    fn fail(&mut self, error: WalError) -> WalError {
        self.failed = Some(error.clone());
        error
    }

    /// Goes on to the end of the next record; answers how much of `chunk` that took and where the record is.
    fn advance(&mut self, chunk: &[u8]) -> Result<(usize, Option<Found>), WalError> {
        let mut at = 0;
        if std::mem::take(&mut self.is_answered) {
            self.begin_anew();
        }
        while at < chunk.len() {
            let in_page = offset_in_page(self.position);
            let is_page_wanted = self.position >= page_of(self.skip_to);
            if (in_page == 0 && is_page_wanted) || !self.header.is_empty() {
                at += self.take_header(&chunk[at..])?;
                continue;
            }
            if self.position < self.skip_to {
                at += self.pass_over(self.skip_to.0 - self.position.0, chunk.len() - at);
                continue;
            }
            let here = &chunk[at..];
            let here = &here[..here.len().min(WAL_PAGE_BYTES - in_page)];
            let (taken, found) = self.take_record(here, at)?;
            at += taken;
            if found.is_some() {
                return Ok((at, found));
            }
        }
        Ok((at, None))
    }

    /// Passes over `unwanted` bytes, or as many of them as have come.
    fn pass_over(&mut self, unwanted: u64, available: usize) -> usize {
        let taken = usize::try_from(unwanted).map_or(available, |n| n.min(available));
        self.position.0 += taken as u64;
        taken
    }

    /// Takes bytes of a page header; answers how many.
    fn take_header(&mut self, here: &[u8]) -> Result<usize, WalError> {
        let before = self.header.len();
        // The second half is there only if the first says so.
        for wanted in [SHORT_HEADER_BYTES, LONG_HEADER_BYTES] {
            let missing = wanted.saturating_sub(self.header.len());
            let from = self.header.len() - before;
            let taken = missing.min(here.len() - from);
            self.header.extend_from_slice(&here[from..from + taken]);
            if taken < missing || !WalPageHeader::is_long(&self.header) {
                break;
            }
        }
        let taken = self.header.len() - before;
        let whole = if WalPageHeader::is_long(&self.header) {
            LONG_HEADER_BYTES
        } else {
            SHORT_HEADER_BYTES
        };
        let page = page_of(self.position);
        self.position.0 += taken as u64;
        if self.header.len() == whole {
            let header = self
                .stream
                .checked_header(&self.header, page, self.timeline)?;
            self.header.clear();
            self.begin_page(page, &header)?;
        }
        Ok(taken)
    }

    /// Whether the page goes on with the record that the page before left unfinished.
    fn begin_page(&mut self, page: Lsn, header: &WalPageHeader) -> Result<(), WalError> {
        self.timeline = header.timeline;
        if self.partial.is_empty() {
            // On the page of the start it is a record from before it.
            if header.continued_bytes.is_some() && self.skip_to <= self.position {
                return Err(WalError::Record {
                    at: page,
                    manager: None,
                    reason: RecordFault::NotBegun,
                });
            }
            return Ok(());
        }
        if header.overwrites_unfinished {
            self.begin_anew();
            return Ok(());
        }
        let Some(found) = header.continued_bytes else {
            return Err(self.fault(RecordFault::NotContinued));
        };
        let total = self.total_bytes(&self.partial)?;
        let wanted = total - self.partial.len();
        if usize::try_from(found) != Ok(wanted) {
            return Err(self.fault(RecordFault::ContinuedBytes { found, wanted }));
        }
        Ok(())
    }

    /// Takes bytes of the current record from `here`, which is what the chunk has of the current page, `in_chunk`
    /// from the chunk's start.
    fn take_record(
        &mut self,
        here: &[u8],
        in_chunk: usize,
    ) -> Result<(usize, Option<Found>), WalError> {
        if self.partial.is_empty() {
            self.record_at = self.position;
            if here.len() >= LENGTH_BYTES {
                let total = self.total_bytes(here)?;
                if here.len() >= RECORD_HEADER_BYTES {
                    self.check_header(here)?;
                }
                if let Some(record) = here.get(..total) {
                    self.position.0 += total as u64;
                    let found = self.finish(record, Place::Chunk(in_chunk, in_chunk + total))?;
                    return Ok((total, Some(found)));
                }
            }
        }
        let had_header = self.partial.len() >= RECORD_HEADER_BYTES;
        let mut taken = 0;
        if self.partial.len() < LENGTH_BYTES {
            taken = self.take_partial(here, LENGTH_BYTES);
            if self.partial.len() < LENGTH_BYTES {
                return Ok((taken, None));
            }
        }
        let total = self.total_bytes(&self.partial)?;
        taken += self.take_partial(&here[taken..], total);
        if !had_header && self.partial.len() >= RECORD_HEADER_BYTES {
            self.check_header(&self.partial)?;
        }
        if self.partial.len() < total {
            return Ok((taken, None));
        }
        let partial = std::mem::take(&mut self.partial);
        let found = self.finish(&partial, Place::Partial);
        self.partial = partial;
        self.is_answered = true;
        Ok((taken, Some(found?)))
    }

    /// Takes bytes until `until` of the record are there.
    fn take_partial(&mut self, here: &[u8], until: usize) -> usize {
        let taken = here.len().min(until - self.partial.len());
        self.partial.extend_from_slice(&here[..taken]);
        self.position.0 += taken as u64;
        taken
    }

    fn begin_anew(&mut self) {
        self.partial.clear();
        if self.partial.capacity() > PARTIAL_BYTES_KEPT {
            self.partial.shrink_to(PARTIAL_BYTES_KEPT);
        }
    }

    /// The length that a record's first bytes claim.
    fn total_bytes(&self, record: &[u8]) -> Result<usize, WalError> {
        let bytes = u32_at(record, 0).expect("the length is there");
        if bytes == 0 {
            return Err(WalError::End {
                at: self.record_at,
                reason: EndReason::NoRecord,
            });
        }
        match usize::try_from(bytes) {
            Ok(total) if total >= RECORD_HEADER_BYTES && bytes <= RECORD_BYTES_MAX => Ok(total),
            _ => Err(self.fault(RecordFault::Length(bytes))),
        }
    }

    /// What can be told before the whole record is there, so that nobody waits for garbage.
    fn check_header(&self, record: &[u8]) -> Result<(), WalError> {
        let header = RecordHeader::decode(record).expect("the header is there");
        let fault = |reason| WalError::Record {
            at: self.record_at,
            manager: Some(header.manager),
            reason,
        };
        if !header.manager.is_valid() {
            return Err(fault(RecordFault::Manager));
        }
        let found = header.previous;
        match self.previous {
            Some(wanted) if found != wanted => Err(fault(RecordFault::Previous { found, wanted })),
            None if found >= self.record_at => Err(fault(RecordFault::Previous {
                found,
                wanted: Lsn(self.record_at.0.saturating_sub(1)),
            })),
            _ => Ok(()),
        }
    }

    /// The whole record is there, and `position` behind it.
    fn finish(&mut self, record: &[u8], place: Place) -> Result<Found, WalError> {
        let header = RecordHeader::decode(record).expect("at least a header long");
        if header.crc != record_crc(record) {
            return Err(WalError::Record {
                at: self.record_at,
                manager: Some(header.manager),
                reason: RecordFault::Checksum,
            });
        }
        let mut end = self.position.0.next_multiple_of(ALIGN_BYTES);
        if header.manager == ResourceManager::XLOG && header.operation() == SWITCH {
            end = end.next_multiple_of(u64::from(self.stream.segment_bytes));
        }
        self.skip_to = Lsn(end);
        self.previous = Some(self.record_at);
        Ok(Found {
            at: self.record_at,
            end: Lsn(end),
            header,
            place,
        })
    }

    fn fault(&self, reason: RecordFault) -> WalError {
        WalError::Record {
            at: self.record_at,
            manager: RecordHeader::decode(&self.partial).map(|header| header.manager),
            reason,
        }
    }

    /// Timeline of the page taken last; 0 before the first.
    pub fn timeline(&self) -> u32 {
        self.timeline
    }

    /// Where decoding began.
    pub fn start(&self) -> Lsn {
        self.start
    }
}

/// A whole record.
struct Found {
    at: Lsn,
    end: Lsn,
    header: RecordHeader,
    place: Place,
}

enum Place {
    /// From and to in the chunk.
    Chunk(usize, usize),
    /// In the decoder's buffer.
    Partial,
}

/// The page of WAL that holds `lsn`.
pub(crate) fn page_of(lsn: Lsn) -> Lsn {
    Lsn(lsn.0 - lsn.0 % WAL_PAGE_BYTES as u64)
}

fn offset_in_page(lsn: Lsn) -> usize {
    usize::try_from(lsn.0 % WAL_PAGE_BYTES as u64).expect("below the page size")
}

/// A record's length never spans pages: records begin at multiples of eight, and so do pages.
const LENGTH_BYTES: usize = 4;
const ALIGN_BYTES: u64 = 8;
/// The operation that leaves the rest of a segment unused.
const SWITCH: u8 = 0x40;
/// What a long record took beyond this is given back.
const PARTIAL_BYTES_KEPT: usize = 64 << 10;

#[cfg(test)]
pub(super) mod tests;
