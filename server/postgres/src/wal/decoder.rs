//! Pages of WAL in, whole checked records out, across pages and segments.
//!
//! Fed with whole pages in order from the one that holds the start. Memory: the record being assembled, which
//! grows with the bytes that have arrived and not with the length its header claims, and the finished records of
//! one page.

use std::collections::VecDeque;

use engine::types::Lsn;

use super::manager::ResourceManager;
use super::page_header::{WAL_PAGE_BYTES, WalPageHeader};
use super::record::{
    RECORD_BYTES_MAX, RECORD_HEADER_BYTES, Record, RecordError, RecordHeader, RecordScratch,
    record_crc,
};
use super::version::WalVersion;

/// Which WAL to expect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalStream {
    /// Names the cluster.
    pub system_identifier: u64,
    /// Major version of Postgres.
    pub postgres_major: u16,
    /// Timeline of every page.
    pub timeline: u32,
    /// Bytes of a segment file.
    pub segment_bytes: u32,
}

/// A whole record whose checksum was right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalRecord {
    /// Where it begins.
    pub lsn: Lsn,
    /// Behind its last byte, rounded up to the next record position: what Postgres calls its end.
    pub end: Lsn,
    /// Its decoded header.
    pub header: RecordHeader,
    /// All of it, header included.
    pub bytes: Vec<u8>,
    /// How to read it.
    pub version: WalVersion,
}

impl WalRecord {
    /// A view of its parts.
    /// # Errors
    /// It contradicts itself.
    pub fn parse<'a>(&'a self, scratch: &'a mut RecordScratch) -> Result<Record<'a>, RecordError> {
        Record::parse(self.version, self.lsn, self.end, &self.bytes, scratch)
    }
}

/// Why WAL does not go on.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum WalError {
    /// No page of WAL: the end of what was written, or damage.
    #[error("WAL ends at {at}: {reason}")]
    End {
        /// Position of the page or record.
        at: Lsn,
        /// What was found there.
        reason: &'static str,
    },
    /// A page of something else.
    #[error("WAL page at {at} has {what} {found}, expected {wanted}")]
    Foreign {
        /// Position of the page.
        at: Lsn,
        /// Which field.
        what: &'static str,
        /// As found.
        found: u64,
        /// As expected.
        wanted: u64,
    },
}

/// The state between two pages.
#[derive(Debug)]
pub struct WalDecoder {
    stream: WalStream,
    start: Lsn,
    next_page: Lsn,
    /// Everything before this is behind us (start, switches).
    position: Lsn,
    partial: Vec<u8>,
    partial_at: Lsn,
    finished: VecDeque<WalRecord>,
    failed: Option<WalError>,
}

impl WalDecoder {
    /// Decodes from `start`, which has to be the position of a record.
    pub fn new(stream: WalStream, start: Lsn) -> WalDecoder {
        WalDecoder {
            stream,
            start,
            next_page: page_of(start),
            position: start,
            partial: Vec::new(),
            partial_at: start,
            finished: VecDeque::new(),
            failed: None,
        }
    }

    /// The page that has to be fed next.
    pub fn next_page(&self) -> Lsn {
        self.next_page
    }

    /// Takes the page at [`next_page`](Self::next_page). What is wrong with it, [`next_record`](Self::next_record)
    /// tells behind the good records before it: the last page of a stretch of WAL is usually only begun.
    pub fn feed(&mut self, page: &[u8; WAL_PAGE_BYTES]) {
        if self.failed.is_none() {
            self.failed = self.decode_page(page).err();
        }
    }

    /// The next finished record, or `None` if more pages are wanted.
    /// # Errors
    /// Behind the last good record: a page is not the expected one, or a record is not whole and right. The
    /// decoder takes nothing more then.
    pub fn next_record(&mut self) -> Result<Option<WalRecord>, WalError> {
        match (self.finished.pop_front(), &self.failed) {
            (Some(record), _) => Ok(Some(record)),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Ok(None),
        }
    }

    fn decode_page(&mut self, page: &[u8; WAL_PAGE_BYTES]) -> Result<(), WalError> {
        let at = self.next_page;
        let page_end = Lsn(at.0 + WAL_PAGE_BYTES as u64);
        self.next_page = page_end;
        if self.position >= page_end {
            return Ok(()); // what a segment switch left unused
        }
        let header = self.checked_header(at, page)?;
        let mut offset = header.header_bytes;
        if at < self.start {
            offset = offset.max(offset_in_page(self.start));
        } else if !self.partial.is_empty() {
            match header.continued_bytes {
                Some(_) => offset = self.continue_record(page, offset)?,
                None if header.overwrites_unfinished => self.partial.clear(),
                None => {
                    return Err(WalError::End {
                        at: self.partial_at,
                        reason: "the record's continuation is missing",
                    });
                }
            }
        }
        while offset < WAL_PAGE_BYTES && self.position < page_end {
            self.partial_at = Lsn(at.0 + offset as u64);
            offset = self.continue_record(page, offset)?;
        }
        Ok(())
    }

    fn checked_header(
        &self,
        at: Lsn,
        page: &[u8; WAL_PAGE_BYTES],
    ) -> Result<WalPageHeader, WalError> {
        let header = WalPageHeader::decode(page).ok_or(WalError::End {
            at,
            reason: "the page was never written, or is of an unknown version",
        })?;
        let stream = &self.stream;
        let same = |what, found: u64, wanted: u64| {
            if found == wanted {
                Ok(())
            } else {
                Err(WalError::Foreign {
                    at,
                    what,
                    found,
                    wanted,
                })
            }
        };
        same("position", header.lsn.0, at.0)?;
        let major = u64::from(header.postgres_major);
        same("major version", major, stream.postgres_major.into())?;
        same("timeline", header.timeline.into(), stream.timeline.into())?;
        if let Some(long) = header.long {
            same(
                "system identifier",
                long.system_identifier,
                stream.system_identifier,
            )?;
            let segment = u64::from(long.segment_bytes);
            same("segment size", segment, stream.segment_bytes.into())?;
            same("page size", long.page_bytes.into(), WAL_PAGE_BYTES as u64)?;
        }
        Ok(header)
    }

    /// Takes bytes of the record being assembled (or a new one) from `offset`; answers where the next begins.
    fn continue_record(
        &mut self,
        page: &[u8; WAL_PAGE_BYTES],
        mut offset: usize,
    ) -> Result<usize, WalError> {
        offset += self.take(page, offset, LENGTH_BYTES);
        if self.partial.len() < LENGTH_BYTES {
            return Ok(offset);
        }
        let total = self.total_bytes()?;
        offset += self.take(page, offset, total);
        if self.partial.len() < total {
            return Ok(offset);
        }
        let after = offset.next_multiple_of(ALIGN_BYTES);
        self.finish(Lsn(page_of(Lsn(self.next_page.0 - 1)).0 + after as u64))?;
        Ok(after)
    }

    fn take(&mut self, page: &[u8; WAL_PAGE_BYTES], offset: usize, until: usize) -> usize {
        let missing = until.saturating_sub(self.partial.len());
        let taken = missing.min(WAL_PAGE_BYTES - offset);
        self.partial.extend(&page[offset..offset + taken]);
        taken
    }

    fn total_bytes(&self) -> Result<usize, WalError> {
        let bytes = crate::bytes_at::u32_at(&self.partial, 0).expect("the length was taken");
        let total = usize::try_from(bytes).unwrap_or(usize::MAX);
        if total < RECORD_HEADER_BYTES || bytes > RECORD_BYTES_MAX {
            let reason = if bytes == 0 {
                "nothing was written there"
            } else {
                "no record has such a length"
            };
            return Err(WalError::End {
                at: self.partial_at,
                reason,
            });
        }
        Ok(total)
    }

    fn finish(&mut self, end: Lsn) -> Result<(), WalError> {
        let bytes = std::mem::take(&mut self.partial);
        let header = RecordHeader::decode(&bytes).expect("at least a header long");
        if header.crc != record_crc(&bytes) {
            return Err(WalError::End {
                at: self.partial_at,
                reason: "the record's checksum is wrong",
            });
        }
        self.position = if is_switch(&header) {
            Lsn(end.0.next_multiple_of(u64::from(self.stream.segment_bytes)))
        } else {
            end
        };
        self.finished.push_back(WalRecord {
            lsn: self.partial_at,
            end: self.position,
            header,
            bytes,
            version: WalVersion::from_postgres_major(self.stream.postgres_major)
                .expect("pages of other versions were refused"),
        });
        Ok(())
    }
}

/// The page of WAL that holds `lsn`.
pub(crate) fn page_of(lsn: Lsn) -> Lsn {
    Lsn(lsn.0 - lsn.0 % WAL_PAGE_BYTES as u64)
}

fn offset_in_page(lsn: Lsn) -> usize {
    usize::try_from(lsn.0 % WAL_PAGE_BYTES as u64).expect("below the page size")
}

fn is_switch(header: &RecordHeader) -> bool {
    header.manager == ResourceManager::XLOG && header.operation() == 0x40
}

/// A record's length never spans pages: records begin at multiples of eight, and so do pages.
const LENGTH_BYTES: usize = 4;
const ALIGN_BYTES: usize = 8;

#[cfg(test)]
pub(super) mod tests;
