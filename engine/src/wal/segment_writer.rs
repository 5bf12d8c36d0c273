//! Makes a segment, and writes groups of frames to it.

use std::path::Path;
use std::rc::Rc;

use super::error::WalError;
use super::frame::{FrameHeader, payload_bytes_max};
use super::segment::{Segment, block_bytes};
use super::segment_header::{SegmentHeader, SegmentStart};
use super::segment_id::SegmentId;
use crate::crypto::page_seal::{Dek, DekId, Sealer};
use crate::io::aligned_buffer::AlignedBuffer;
use crate::io::disk::{Disk, DiskError, DiskFile};
use crate::types::{BranchId, Lsn, TenantId};

/// The one writer of a segment.
pub(super) struct SegmentWriter<F> {
    segment: Segment,
    file: Rc<F>,
    sealer: Sealer,
    frame_bytes_max: usize,
    /// Where the next group begins.
    at: u64,
    ordinal: u64,
    /// The end of what is durable.
    end: Lsn,
    /// Whether a write was begun of which nobody knows what became: nothing is written behind it.
    in_doubt: bool,
}

/// What a new segment is made of.
pub(super) struct NewSegment<'a> {
    pub(super) owner: (TenantId, BranchId),
    pub(super) id: SegmentId,
    pub(super) segment_bytes: u64,
    pub(super) frame_bytes_max: usize,
    pub(super) dek: (DekId, &'a Dek),
    pub(super) start: SegmentStart,
}

impl<F: DiskFile> SegmentWriter<F> {
    /// Makes a segment in `dir`. Its header, then its name are durable when this returns.
    ///
    /// # Errors, cancellation
    /// Leaves a file of either name, which the next start takes for what it is: never used.
    pub(super) async fn make<D: Disk<File = F>>(
        disk: &D,
        dir: &Path,
        new: NewSegment<'_>,
    ) -> Result<SegmentWriter<F>, WalError> {
        let unfinished = new.id.unfinished_path(dir);
        let failed = |source| WalError::Disk {
            path: unfinished.clone(),
            source,
        };
        let file = disk.open(&unfinished, Some(new.segment_bytes)).await;
        let file = file.map_err(failed)?;
        let alignment_bytes = file.alignment_bytes();
        let block_bytes = block_bytes(alignment_bytes).ok_or_else(|| WalError::Alignment {
            path: unfinished.clone(),
            alignment_bytes,
        })?;
        let (tenant, branch) = new.owner;
        let header = SegmentHeader {
            dek_id: new.dek.0,
            block_bytes: u32::try_from(block_bytes).expect("at most 32 KiB"),
            tenant,
            branch,
            id: new.id,
            segment_bytes: new.segment_bytes,
            key_check: new.dek.1.key_check_value(),
        };
        let sealer = Sealer::new(new.dek.1);
        let mut block = AlignedBuffer::zeroed(block_bytes);
        header.write(&new.start, &sealer, &mut block);
        let path = new.id.path(dir);
        let named = async || -> Result<(), DiskError> {
            file.write_at(0, block).await?;
            file.sync().await?;
            disk.rename(&unfinished, &path).await?;
            disk.sync_dir(dir).await
        };
        named().await.map_err(failed)?;
        Ok(SegmentWriter {
            segment: Segment {
                path,
                place: header.place(new.start.timeline),
                start: new.start.start,
                block_bytes,
                segment_bytes: new.segment_bytes,
            },
            file,
            sealer,
            frame_bytes_max: new.frame_bytes_max,
            at: block_bytes as u64,
            ordinal: 0,
            end: new.start.start,
            in_doubt: false,
        })
    }

    /// What it writes.
    pub(super) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The end of what is durable.
    pub(super) fn end(&self) -> Lsn {
        self.end
    }

    /// Bytes of the file in front of the next group.
    pub(super) fn used_bytes(&self) -> u64 {
        self.at
    }

    /// Whether it takes another group: there is room, and nothing is in doubt.
    pub(super) fn takes_more(&self) -> bool {
        !self.in_doubt && self.at < self.segment.segment_bytes
    }

    /// The most WAL that one group can still hold here.
    pub(super) fn room_bytes(&self) -> u64 {
        if self.in_doubt {
            return 0;
        }
        let left = self.segment.segment_bytes - self.at;
        group_payload_max(left, self.frame_bytes_max, self.segment.block_bytes)
    }

    /// Writes the front of `wal`, which is not empty, as one group: all of it, or what fits. It is durable when this returns
    /// its length.
    ///
    /// # Errors, cancellation
    /// Whatever was written is in doubt, and the segment takes no more.
    pub(super) async fn write_group(&mut self, wal: &[u8]) -> Result<usize, WalError> {
        let (group, payload_bytes, frame_count) = self.seal_group(wal);
        let group_bytes = group.len() as u64;
        self.in_doubt = true;
        let written = self.file.write_at(self.at, group).await;
        written.map_err(|source| self.segment.disk_error(source))?;
        let synced = self.file.sync().await;
        synced.map_err(|source| self.segment.disk_error(source))?;
        self.in_doubt = false;
        self.at += group_bytes;
        self.ordinal += frame_count;
        self.end = Lsn(self.end.0 + payload_bytes as u64);
        Ok(payload_bytes)
    }

    /// The frames of a group one behind the other, how much WAL is in them, and their number.
    fn seal_group(&self, wal: &[u8]) -> (AlignedBuffer, usize, u64) {
        let block_bytes = self.segment.block_bytes;
        let frame_bytes_max = frame_bytes_max(self.frame_bytes_max, block_bytes);
        let mut left = self.segment.segment_bytes - self.at;
        let mut frames = Vec::new();
        let mut payload_end = 0;
        while payload_end < wal.len() && left > 0 {
            let room = usize::try_from(left).map_or(frame_bytes_max, |l| l.min(frame_bytes_max));
            let header = FrameHeader {
                payload_bytes: payload_bytes_max(room).min(wal.len() - payload_end),
                ordinal: self.ordinal + frames.len() as u64,
                start: Lsn(self.end.0 + payload_end as u64),
                durable: self.end,
            };
            payload_end += header.payload_bytes;
            left -= header.frame_bytes(block_bytes) as u64;
            frames.push(header);
        }
        let group_bytes = frames.iter().map(|f| f.frame_bytes(block_bytes)).sum();
        let mut group = AlignedBuffer::zeroed(group_bytes);
        let (mut rest, mut wal) = (&mut group[..], wal);
        for header in &frames {
            let (frame, behind) = rest.split_at_mut(header.frame_bytes(block_bytes));
            let (payload, wal_behind) = wal.split_at(header.payload_bytes);
            header.seal(&self.segment.place, &self.sealer, payload, frame);
            (rest, wal) = (behind, wal_behind);
        }
        (group, payload_end, frames.len() as u64)
    }
}

/// The most WAL that one group holds in `bytes` of whole blocks.
pub(super) fn group_payload_max(bytes: u64, frame_bytes: usize, block_bytes: usize) -> u64 {
    let frame_bytes = frame_bytes_max(frame_bytes, block_bytes);
    let overhead = (frame_bytes - payload_bytes_max(frame_bytes)) as u64;
    bytes - bytes.div_ceil(frame_bytes as u64) * overhead
}

/// The longest frame in whole blocks: what the settings say, and one block at least.
fn frame_bytes_max(configured: usize, block_bytes: usize) -> usize {
    (configured / block_bytes).max(1) * block_bytes
}
