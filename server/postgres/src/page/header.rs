//! The page header, the same in Postgres 15 to 18 (page layout version 4).
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  0 |     8 | LSN after the last change: upper half, then lower half, each little-endian |
//! |  8 |     2 | data checksum |
//! | 10 |     2 | flags |
//! | 12 |     2 | lower: end of the line pointers |
//! | 14 |     2 | upper: start of the tuples |
//! | 16 |     2 | special: start of the index's own area |
//! | 18 |     2 | page size in the upper bits, layout version in the lower eight |
//! | 20 |     4 | oldest transaction id that pruning could remove |
//!
//! Pages of free space maps and SLRUs: the former have it, the latter do not.

use std::fmt;

use engine::types::{Lsn, PAGE_BYTES};

use crate::bytes_at::{u16_at, u32_at};

/// A decoded page header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// LSN after the last logged change.
    pub lsn: Lsn,
    /// Stored data checksum; 0 where the cluster has none.
    pub checksum: u16,
    /// Flag bits.
    pub flags: u16,
    /// Bytes up to the end of the line pointers.
    pub lower: u16,
    /// Where the tuples start.
    pub upper: u16,
    /// Where the special space starts.
    pub special: u16,
    /// Page size as the page has it.
    pub page_bytes: u16,
    /// Layout version; 4 since Postgres 8.3.
    pub layout_version: u8,
    /// Oldest transaction id that pruning could remove.
    pub prune_xid: u32,
}

/// Why bytes are not a page.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PageHeaderError {
    /// Not [`PAGE_BYTES`] long.
    #[error("a page has 8192 bytes, not {0}")]
    Length(usize),
    /// The fields contradict each other.
    #[error(
        "not a page: lower {lower}, upper {upper}, special {special}, size {page_bytes}, layout version {layout_version}"
    )]
    Implausible {
        /// End of line pointers.
        lower: u16,
        /// Start of tuples.
        upper: u16,
        /// Start of the special space.
        special: u16,
        /// Page size.
        page_bytes: u16,
        /// Layout version.
        layout_version: u8,
    },
}

impl PageHeader {
    /// Decodes the header of a page that is not [all zeros](super::is_zero).
    /// # Errors
    /// The wrong length, or fields that no page has.
    pub fn decode(page: &[u8]) -> Result<PageHeader, PageHeaderError> {
        if page.len() != PAGE_BYTES {
            return Err(PageHeaderError::Length(page.len()));
        }
        let short = |at| u16_at(page, at).expect("length checked");
        let word = |at| u32_at(page, at).expect("length checked");
        let size_and_version = short(18);
        let header = PageHeader {
            lsn: Lsn(u64::from(word(0)) << 32 | u64::from(word(4))),
            checksum: short(8),
            flags: short(10),
            lower: short(12),
            upper: short(14),
            special: short(16),
            page_bytes: size_and_version & 0xff00,
            layout_version: size_and_version.to_le_bytes()[0],
            prune_xid: word(20),
        };
        if header.is_plausible() {
            Ok(header)
        } else {
            Err(PageHeaderError::Implausible {
                lower: header.lower,
                upper: header.upper,
                special: header.special,
                page_bytes: header.page_bytes,
                layout_version: header.layout_version,
            })
        }
    }

    fn is_plausible(&self) -> bool {
        usize::from(self.page_bytes) == PAGE_BYTES
            && self.layout_version == 4
            && usize::from(self.lower) >= HEADER_BYTES
            && self.lower <= self.upper
            && self.upper <= self.special
            && usize::from(self.special) <= PAGE_BYTES
    }
}

impl fmt::Display for PageHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "lsn {} checksum {:04x} flags {:04x}",
            self.lsn, self.checksum, self.flags
        )?;
        for (bit, name) in FLAG_NAMES {
            if self.flags & bit != 0 {
                write!(f, " {name}")?;
            }
        }
        write!(
            f,
            " lower {} upper {} special {} size {} version {} prune_xid {}",
            self.lower,
            self.upper,
            self.special,
            self.page_bytes,
            self.layout_version,
            self.prune_xid
        )
    }
}

const HEADER_BYTES: usize = 24;

const FLAG_NAMES: [(u16, &str); 3] = [
    (0x0001, "has-free-lines"),
    (0x0002, "page-full"),
    (0x0004, "all-visible"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        page[..24].copy_from_slice(&[
            1, 0, 0, 0, 0x48, 0x37, 0x6b, 0x01, 0xcd, 0xab, 0x04, 0, 28, 0, 0xa0, 0x1f, 0xf0, 0x1f,
            0x04, 0x20, 7, 0, 0, 0,
        ]);
        page
    }

    #[test]
    fn a_header_decodes_and_prints() {
        let header = PageHeader::decode(&page()).expect("a good page");
        assert_eq!(
            header.to_string(),
            "lsn 1/16B3748 checksum abcd flags 0004 all-visible lower 28 upper 8096 special 8176 \
             size 8192 version 4 prune_xid 7"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(
            PageHeader::decode(&[0; 100]),
            Err(PageHeaderError::Length(100))
        );
        // lower, upper, special, size, version: each alone spoils the page.
        for (at, value) in [(12, 1), (15, 0x3f), (17, 0x3f), (19, 0x10), (18, 3)] {
            let mut bad = page();
            bad[at] = value;
            assert!(PageHeader::decode(&bad).is_err(), "byte {at}");
        }
    }
}
