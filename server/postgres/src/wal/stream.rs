//! Which WAL is expected, and whether a page is one of it.

use engine::types::Lsn;

use super::page_header::{LongHeader, WAL_PAGE_BYTES, WalPageHeader};
use super::version::WalVersion;
use super::wal_error::{EndReason, WalError};

/// Which WAL to expect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalStream {
    /// Names the cluster.
    pub system_identifier: u64,
    /// What its pages have to be of.
    pub version: WalVersion,
    /// Timeline of the last page. Pages from before a switch of timelines may be of lower ones.
    pub timeline: u32,
    /// Bytes of a segment file: a power of two, 1 MiB to 1 GiB.
    pub segment_bytes: u32,
}

impl WalStream {
    /// The header that `bytes` are, whole, of the page at `at`, which has to be a page of this WAL behind one of
    /// `timeline`.
    /// # Errors
    /// Nothing was written there, or something else.
    pub(super) fn checked_header(
        &self,
        bytes: &[u8],
        at: Lsn,
        timeline: u32,
    ) -> Result<WalPageHeader, WalError> {
        let end = |reason| WalError::End { at, reason };
        let foreign = |what, found: u64, wanted: u64| WalError::Foreign {
            at,
            what,
            found,
            wanted,
        };
        let same = |what, found, wanted| {
            if found == wanted {
                Ok(())
            } else {
                Err(foreign(what, found, wanted))
            }
        };
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(end(EndReason::EmptyPage));
        }
        let header = WalPageHeader::decode(bytes).expect("a whole header was taken");
        // A used segment file may be of an older version, or of the same cluster under another timeline.
        if header.lsn < at && header.lsn.0.is_multiple_of(WAL_PAGE_BYTES as u64) {
            return Err(end(EndReason::OlderPage(header.lsn)));
        }
        let magic = self.version.magic();
        same("magic", header.magic.into(), magic.into())?;
        same("unknown flags", header.unknown_flags.into(), 0)?;
        same("position", header.lsn.0, at.0)?;
        if header.timeline < timeline || header.timeline > self.timeline {
            return Err(foreign(
                "timeline",
                header.timeline.into(),
                self.timeline.into(),
            ));
        }
        let first_of_segment = at.0.is_multiple_of(u64::from(self.segment_bytes));
        same(
            "long header flag",
            header.long.is_some().into(),
            first_of_segment.into(),
        )?;
        if let Some(LongHeader {
            system_identifier,
            segment_bytes,
            page_bytes,
        }) = header.long
        {
            same(
                "system identifier",
                system_identifier,
                self.system_identifier,
            )?;
            same(
                "segment size",
                segment_bytes.into(),
                self.segment_bytes.into(),
            )?;
            same("page size", page_bytes.into(), WAL_PAGE_BYTES as u64)?;
        }
        Ok(header)
    }
}
