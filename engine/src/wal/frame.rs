//! Frame of a segment of the local WAL, version 1 (that of the segment's header). Little-endian.
//!
//! A frame begins at a block of the segment and fills whole blocks. The first one is behind the header's block, each other
//! one behind the one before.
//!
//! |   at | bytes | field           | meaning                                                            |
//! |-----:|------:|-----------------|--------------------------------------------------------------------|
//! |    0 |     4 | magic           | `MAGIC`                                                            |
//! |    4 |     4 | payload_bytes   | bytes of WAL, at least 1                                           |
//! |    8 |     8 | ordinal         | of the frame in the segment, from 0                                |
//! |   16 |     8 | start           | LSN of the first byte of WAL                                       |
//! |   24 |     8 | durable         | LSN that was durable before the frame's group was written          |
//! |   32 |     4 | body_checksum   | CRC-32C of ciphertext and tag: a scrubber needs no key             |
//! |   36 |     4 | header_checksum | CRC-32C of bytes 0..36                                             |
//! |   40 |   ... | body            | ciphertext of the WAL and of zeros up to the end of the last block |
//! | last |    16 | tag             |                                                                    |
//!
//! The frame's length follows from `payload_bytes`: the fewest blocks that hold it, at most [`FRAME_BYTES_MAX`]. The padding
//! is inside the seal, so every sector of a frame that was written whole has bytes other than zeros, and a flipped bit
//! anywhere in it is found.
//!
//! Associated data: tenant, branch, epoch and sequence of the segment, the ordinal as number, `start` as first LSN and the
//! end of the WAL as last; in place of the first key timeline (u32) and `durable` (u64). The segment's DEK seals each ordinal
//! once, since a frame is never written again: a group whose write failed is sealed anew in another segment.
//!
//! `durable` is where the frame's group begins: everything before was made durable, and then acknowledged. `durable` equals
//! `start` in the first frame of a group. A torn write leaves frames with a sector of zeros, some of which may be in front of
//! whole ones of the same group.

use super::fields::{all_zero, lsn_at, put, u32_at, u64_at};
use super::segment::{FORMAT, SegmentPlace};
use crate::crypto::page_seal::{BlockContext, BlockKind, Opener, Sealer, TAG_BYTES};
use crate::crypto::sealed_record::RecordProblem;
use crate::types::{Key, Lsn};

/// Bytes of a frame at most.
pub(super) const FRAME_BYTES_MAX: usize = 256 << 10;

/// What a device writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

/// The clear fields of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrameHeader {
    pub(super) payload_bytes: usize,
    pub(super) ordinal: u64,
    pub(super) start: Lsn,
    pub(super) durable: Lsn,
}

/// A header as it was read, with what it says of the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FoundFrame {
    pub(super) header: FrameHeader,
    body_checksum: u32,
}

impl FrameHeader {
    /// The end of the frame's WAL.
    pub(super) fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.payload_bytes as u64)
    }

    /// Bytes of the frame in blocks of `block_bytes`.
    pub(super) fn frame_bytes(&self, block_bytes: usize) -> usize {
        (FRAME_OVERHEAD_BYTES + self.payload_bytes).next_multiple_of(block_bytes)
    }

    /// Makes the whole frame of `payload` in `frame`, which is zeros and as long as [`FrameHeader::frame_bytes`] says.
    pub(super) fn seal(
        &self,
        place: &SegmentPlace,
        sealer: &Sealer,
        payload: &[u8],
        frame: &mut [u8],
    ) {
        assert_eq!(payload.len(), self.payload_bytes, "one length");
        let tag_at = frame.len() - TAG_BYTES;
        let body = &mut frame[BODY_AT..tag_at];
        body[..payload.len()].copy_from_slice(payload);
        let tag = sealer.seal_in_place(&self.context(place), body);
        put(frame, tag_at, tag);
        let body_checksum = crc32c::crc32c(&frame[BODY_AT..]);
        self.write(body_checksum, frame);
    }

    fn write(&self, body_checksum: u32, frame: &mut [u8]) {
        let payload_bytes = u32::try_from(self.payload_bytes).expect("a frame has at most 256 KiB");
        put(frame, 0, MAGIC);
        put(frame, PAYLOAD_BYTES_AT, payload_bytes.to_le_bytes());
        put(frame, ORDINAL_AT, self.ordinal.to_le_bytes());
        put(frame, START_AT, self.start.0.to_le_bytes());
        put(frame, DURABLE_AT, self.durable.0.to_le_bytes());
        put(frame, BODY_CHECKSUM_AT, body_checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&frame[..HEADER_CHECKSUM_AT]);
        put(frame, HEADER_CHECKSUM_AT, checksum.to_le_bytes());
    }

    fn context(&self, place: &SegmentPlace) -> BlockContext {
        let mut first_key = Key::MIN;
        put(&mut first_key.0, 0, place.timeline.to_le_bytes());
        put(&mut first_key.0, 4, self.durable.0.to_le_bytes());
        let (tenant, object) = (place.tenant, place.object());
        let kind = BlockKind::WalFrame;
        BlockContext {
            first_key,
            first_lsn: self.start,
            last_lsn: self.end(),
            ..BlockContext::unkeyed(FORMAT, tenant, object, kind, self.ordinal)
        }
    }
}

impl FoundFrame {
    /// The header at the start of `block`, a whole block.
    pub(super) fn parse(block: &[u8]) -> Result<FoundFrame, RecordProblem> {
        use RecordProblem::{Damaged, OtherFormat};
        if block[..PAYLOAD_BYTES_AT] != MAGIC {
            return Err(if all_zero(&block[..SECTOR_BYTES]) {
                Damaged("nothing is written there")
            } else {
                OtherFormat
            });
        }
        if u32_at(block, HEADER_CHECKSUM_AT) != crc32c::crc32c(&block[..HEADER_CHECKSUM_AT]) {
            return Err(Damaged("checksum of the header"));
        }
        let header = FrameHeader {
            payload_bytes: u32_at(block, PAYLOAD_BYTES_AT) as usize,
            ordinal: u64_at(block, ORDINAL_AT),
            start: lsn_at(block, START_AT),
            durable: lsn_at(block, DURABLE_AT),
        };
        let payload_bytes_max = FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES;
        if !(1..=payload_bytes_max).contains(&header.payload_bytes) {
            return Err(Damaged("length"));
        }
        let end = header.start.0.checked_add(header.payload_bytes as u64);
        if end.is_none() || header.durable > header.start {
            return Err(Damaged("LSN"));
        }
        Ok(FoundFrame {
            header,
            body_checksum: u32_at(block, BODY_CHECKSUM_AT),
        })
    }

    /// Opens the `frame` that this is the header of; its WAL is in `payload` then.
    pub(super) fn open(
        &self,
        place: &SegmentPlace,
        opener: &Opener,
        frame: &[u8],
        payload: &mut Vec<u8>,
    ) -> Result<(), RecordProblem> {
        let sealed = &frame[BODY_AT..];
        if self.body_checksum != crc32c::crc32c(sealed) {
            return Err(RecordProblem::Damaged("checksum of the body"));
        }
        payload.resize(sealed.len() - TAG_BYTES, 0);
        opener
            .open_into(&self.header.context(place), sealed, payload)
            .map_err(|_| RecordProblem::BadSeal)?;
        if !all_zero(&payload[self.header.payload_bytes..]) {
            return Err(RecordProblem::Damaged("padding"));
        }
        payload.truncate(self.header.payload_bytes);
        Ok(())
    }
}

/// Whether the frame that should be at the start of `bytes` may have been cut off while it was written. `bytes` goes as far
/// as a frame may, or to the end of the segment.
pub(super) fn was_cut_off(bytes: &[u8], block_bytes: usize) -> bool {
    if all_zero(&bytes[..SECTOR_BYTES]) {
        return true;
    }
    let Ok(found) = FoundFrame::parse(bytes) else {
        return false;
    };
    bytes
        .get(..found.header.frame_bytes(block_bytes))
        .is_some_and(|frame| frame.chunks(SECTOR_BYTES).any(all_zero))
}

/// The most WAL that a frame of `frame_bytes` holds.
pub(super) fn payload_bytes_max(frame_bytes: usize) -> usize {
    frame_bytes - FRAME_OVERHEAD_BYTES
}

/// For fuzzing: a frame's header, its checksum set right.
pub(super) fn fuzz(bytes: &[u8]) {
    if bytes.len() < SECTOR_BYTES {
        return;
    }
    let mut block = bytes.to_vec();
    let checksum = crc32c::crc32c(&block[..HEADER_CHECKSUM_AT]);
    put(&mut block, HEADER_CHECKSUM_AT, checksum.to_le_bytes());
    let cut_off = was_cut_off(&block, SECTOR_BYTES);
    if let Ok(found) = FoundFrame::parse(&block) {
        let mut again = block.clone();
        again[..BODY_AT].fill(0);
        found.header.write(found.body_checksum, &mut again);
        assert!(again == block, "{found:?}");
    } else {
        assert!(
            cut_off == all_zero(&block[..SECTOR_BYTES]),
            "no sector is missing"
        );
    }
}

const MAGIC: [u8; 4] = *b"PSWF";

const PAYLOAD_BYTES_AT: usize = 4;
const ORDINAL_AT: usize = PAYLOAD_BYTES_AT + 4;
const START_AT: usize = ORDINAL_AT + 8;
const DURABLE_AT: usize = START_AT + 8;
const BODY_CHECKSUM_AT: usize = DURABLE_AT + 8;
const HEADER_CHECKSUM_AT: usize = BODY_CHECKSUM_AT + 4;
const BODY_AT: usize = HEADER_CHECKSUM_AT + 4;
const FRAME_OVERHEAD_BYTES: usize = BODY_AT + TAG_BYTES;
const _: () = assert!(BODY_AT == 40);

#[cfg(test)]
mod tests;
