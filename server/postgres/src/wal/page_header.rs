//! The header of each 8 KiB page of WAL.
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  0 |     2 | magic, one per major version |
//! |  2 |     2 | flags: 1 begins with the rest of a record, 2 long header, 8 the record before was given up |
//! |  4 |     4 | timeline |
//! |  8 |     8 | LSN of the page |
//! | 16 |     4 | bytes still missing of the record that continues here |
//! | 20 |     4 | padding |
//! | 24 |     8 | long header, first page of a segment: system identifier |
//! | 32 |     4 | long header: bytes of a segment |
//! | 36 |     4 | long header: bytes of a WAL page |

use engine::types::Lsn;

use super::version::WalVersion;
use crate::bytes_at::{u16_at, u32_at, u64_at};

/// Bytes of a WAL page.
pub const WAL_PAGE_BYTES: usize = 8192;

/// A decoded page header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalPageHeader {
    /// Major version of Postgres, from the magic.
    pub postgres_major: u16,
    /// Timeline.
    pub timeline: u32,
    /// LSN of the page.
    pub lsn: Lsn,
    /// Bytes of the record that continues here, if one does.
    pub continued_bytes: Option<u32>,
    /// The record that the page before left unfinished was given up in a crash: a new one begins here.
    pub overwrites_unfinished: bool,
    /// Only on the first page of a segment.
    pub long: Option<LongHeader>,
    /// Bytes of this header.
    pub header_bytes: usize,
}

/// What the first page of a segment has besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LongHeader {
    /// Names the cluster.
    pub system_identifier: u64,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Bytes of a page.
    pub page_bytes: u32,
}

impl WalPageHeader {
    /// Decodes the header; `None` if the page has no known magic or unknown flags: never written, recycled, or of
    /// another version.
    pub fn decode(page: &[u8]) -> Option<WalPageHeader> {
        let postgres_major = WalVersion::from_magic(u16_at(page, 0)?)?.postgres_major();
        let flags = u16_at(page, 2)?;
        if flags & !FLAGS_KNOWN != 0 {
            return None;
        }
        let long = if flags & FLAG_LONG == 0 {
            None
        } else {
            Some(LongHeader {
                system_identifier: u64_at(page, 24)?,
                segment_bytes: u32_at(page, 32)?,
                page_bytes: u32_at(page, 36)?,
            })
        };
        let continued = u32_at(page, 16)?;
        Some(WalPageHeader {
            postgres_major,
            timeline: u32_at(page, 4)?,
            lsn: Lsn(u64_at(page, 8)?),
            continued_bytes: (flags & FLAG_CONTINUED != 0).then_some(continued),
            overwrites_unfinished: flags & FLAG_OVERWRITE != 0,
            header_bytes: if long.is_some() {
                LONG_HEADER_BYTES
            } else {
                HEADER_BYTES
            },
            long,
        })
    }
}

const FLAG_CONTINUED: u16 = 1;
const FLAG_LONG: u16 = 2;
/// The background writer may drop full page images of this page's records from archives.
const FLAG_BACKUP_REMOVABLE: u16 = 4;
const FLAG_OVERWRITE: u16 = 8;
const FLAGS_KNOWN: u16 = FLAG_CONTINUED | FLAG_LONG | FLAG_BACKUP_REMOVABLE | FLAG_OVERWRITE;
const HEADER_BYTES: usize = 24;
const LONG_HEADER_BYTES: usize = 40;
