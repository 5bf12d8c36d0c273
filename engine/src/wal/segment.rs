//! A segment as reader and writer know it once its header was opened or written.

use std::path::PathBuf;

use super::error::WalError;
use super::segment_header::{BLOCK_BYTES_LEAST, BLOCK_BYTES_MAX};
use super::segment_id::SegmentId;
use crate::crypto::page_seal::FormatTag;
use crate::io::disk::DiskError;
use crate::types::{BranchId, Lsn, ObjectId, TenantId};

/// What seals of headers and frames are bound to.
pub(super) const FORMAT: FormatTag = FormatTag::new(b"WALS", 1);

/// What binds a frame to its segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentPlace {
    pub(super) tenant: TenantId,
    pub(super) branch: BranchId,
    pub(super) id: SegmentId,
    pub(super) timeline: u32,
}

impl SegmentPlace {
    /// The segment as an object of its branch.
    pub(super) fn object(&self) -> ObjectId {
        ObjectId {
            branch: self.branch,
            epoch: self.id.epoch,
            sequence: self.id.sequence,
        }
    }
}

/// A segment's file and its measures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) place: SegmentPlace,
    /// Where its first byte of WAL belongs.
    pub(super) start: Lsn,
    /// Frames begin at multiples of this; so does the first one, behind the header.
    pub(super) block_bytes: usize,
    /// Of the file.
    pub(super) segment_bytes: u64,
}

impl Segment {
    pub(super) fn disk_error(&self, source: DiskError) -> WalError {
        WalError::Disk {
            path: self.path.clone(),
            source,
        }
    }
}

/// The blocks that a device with this alignment gets, if the format has such.
pub(super) fn block_bytes(alignment_bytes: usize) -> Option<usize> {
    let bytes = alignment_bytes.max(BLOCK_BYTES_LEAST);
    (bytes.is_power_of_two() && bytes <= BLOCK_BYTES_MAX).then_some(bytes)
}
