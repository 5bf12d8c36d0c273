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

use crate::bytes_at::{u16_at, u32_at, u64_at};

/// Bytes of a WAL page.
pub const WAL_PAGE_BYTES: usize = 8192;

/// A decoded page header. Any bytes are one: whoever reads it compares with what has to be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WalPageHeader {
    /// One per version.
    pub(super) magic: u16,
    /// Flags that no version has.
    pub(super) unknown_flags: u16,
    /// Timeline.
    pub(super) timeline: u32,
    /// LSN of the page.
    pub(super) lsn: Lsn,
    /// Bytes of the record that continues here, if one does.
    pub(super) continued_bytes: Option<u32>,
    /// The record that the page before left unfinished was given up in a crash: a new one begins here.
    pub(super) overwrites_unfinished: bool,
    /// Only on the first page of a segment.
    pub(super) long: Option<LongHeader>,
}

/// What the first page of a segment has besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LongHeader {
    /// Names the cluster.
    pub(super) system_identifier: u64,
    /// Bytes of a segment.
    pub(super) segment_bytes: u32,
    /// Bytes of a page.
    pub(super) page_bytes: u32,
}

impl WalPageHeader {
    /// Whether the header that begins with `bytes` is a long one; no, if too few are there to tell.
    pub(super) fn is_long(bytes: &[u8]) -> bool {
        u16_at(bytes, 2).is_some_and(|flags| flags & FLAG_LONG != 0)
    }

    /// Decodes a whole header: [`SHORT_HEADER_BYTES`], or [`LONG_HEADER_BYTES`] if it [is long](Self::is_long).
    pub(super) fn decode(bytes: &[u8]) -> Option<WalPageHeader> {
        let flags = u16_at(bytes, 2)?;
        let long = if flags & FLAG_LONG == 0 {
            None
        } else {
            Some(LongHeader {
                system_identifier: u64_at(bytes, 24)?,
                segment_bytes: u32_at(bytes, 32)?,
                page_bytes: u32_at(bytes, 36)?,
            })
        };
        let continued = u32_at(bytes, 16)?;
        Some(WalPageHeader {
            magic: u16_at(bytes, 0)?,
            unknown_flags: flags & !FLAGS_KNOWN,
            timeline: u32_at(bytes, 4)?,
            lsn: Lsn(u64_at(bytes, 8)?),
            continued_bytes: (flags & FLAG_CONTINUED != 0).then_some(continued),
            overwrites_unfinished: flags & FLAG_OVERWRITE != 0,
            long,
        })
    }
}

/// Bytes of the header of any page but the first of a segment.
pub(super) const SHORT_HEADER_BYTES: usize = 24;
/// Bytes of the header of the first page of a segment.
pub(super) const LONG_HEADER_BYTES: usize = 40;

const FLAG_CONTINUED: u16 = 1;
const FLAG_LONG: u16 = 2;
/// The background writer may drop full page images of this page's records from archives.
const FLAG_BACKUP_REMOVABLE: u16 = 4;
const FLAG_OVERWRITE: u16 = 8;
const FLAGS_KNOWN: u16 = FLAG_CONTINUED | FLAG_LONG | FLAG_BACKUP_REMOVABLE | FLAG_OVERWRITE;
