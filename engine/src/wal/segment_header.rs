//! Header of a segment of the local WAL, version 1. Little-endian. Frames follow it: see `frame.rs`, which is of the same
//! version.
//!
//! |  at | bytes | field         | meaning                                                             |
//! |----:|------:|---------------|---------------------------------------------------------------------|
//! |   0 |     8 | magic         | `MAGIC`                                                             |
//! |   8 |     2 | version       | 1; a reader refuses what it does not know, by number                |
//! |  10 |     2 | cipher        | [`CIPHER_ID`]                                                       |
//! |  12 |     4 | key_table     | table of the DEK                                                    |
//! |  16 |     4 | key_slot      | slot of the DEK                                                     |
//! |  20 |     4 | block_bytes   | a power of two, 4,096..=32,768: frames begin at multiples of it     |
//! |  24 |    16 | tenant        |                                                                     |
//! |  40 |    16 | branch        |                                                                     |
//! |  56 |     4 | epoch         | of the writer; it is in the file's name as well                     |
//! |  60 |     4 | zero          |                                                                     |
//! |  64 |     8 | sequence      | of the segment; in the file's name as well                          |
//! |  72 |     8 | segment_bytes | of the file, a multiple of 64 KiB: a file of another length is damaged |
//! |  80 |    16 | key_check     | of the DEK: tells a wrong key from damage                           |
//! |  96 |    40 | body          | ciphertext                                                          |
//! | 136 |    16 | tag           |                                                                     |
//! | 152 |     4 | checksum      | CRC-32C of everything before: a scrubber needs no key               |
//! | 156 |   ... | zero          | up to `block_bytes`                                                 |
//!
//! Body:
//!
//! | at | bytes | field             | meaning                                                          |
//! |---:|------:|-------------------|------------------------------------------------------------------|
//! |  0 |     4 | timeline          | of all WAL in the segment                                        |
//! |  4 |     4 | flags             | 1: has a predecessor; 2: goes on where that ended                |
//! |  8 |     8 | start             | LSN of the first byte                                            |
//! | 16 |     8 | predecessor_end   | the LSN that was durable when the segment was made; else zero    |
//! | 24 |     8 | predecessor_seq   | sequence of the predecessor; else zero                           |
//! | 32 |     4 | predecessor_epoch | its epoch; else zero                                             |
//! | 36 |     4 | zero              |                                                                  |
//!
//! One DEK seals one segment, and a DEK seals nothing else, so the pairs of kind and number are used once: the header is
//! number 0 of its kind, frames are numbered in theirs. Associated data of the header: tenant, branch, epoch, sequence; in
//! place of the first key `block_bytes` (u32) and `segment_bytes` (u64). Another DEK id or key-check value is another key.
//!
//! The header is in one sector. It is durable before the file has its name, so a file of that name without a whole header is
//! damaged, and not one that was never begun.

use super::fields::{all_zero, get, lsn_at, put, u32_at, u64_at};
use super::frame;
use super::segment::{FORMAT, SegmentPlace};
use super::segment_id::SegmentId;
use crate::crypto::page_seal::{
    BlockContext, BlockKind, CIPHER_ID, Dek, DekId, Opener, Sealer, TAG_BYTES,
};
use crate::crypto::sealed_record::RecordProblem;
use crate::types::{BranchId, Id, Key, Lsn, ObjectId, TenantId};

/// The smallest block.
pub(super) const BLOCK_BYTES_LEAST: usize = 4096;
/// The largest block: half of the smallest segment.
pub(super) const BLOCK_BYTES_MAX: usize = 32 << 10;
/// The smallest segment, and what all are a multiple of.
pub(super) const SEGMENT_BYTES_LEAST: u64 = 64 << 10;
/// The largest segment.
pub(super) const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// The clear part of a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub(super) dek_id: DekId,
    pub(super) block_bytes: u32,
    pub(super) tenant: TenantId,
    pub(super) branch: BranchId,
    pub(super) id: SegmentId,
    pub(super) segment_bytes: u64,
    pub(super) key_check: [u8; TAG_BYTES],
}

/// The sealed part of a header: where the segment begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentStart {
    pub(super) timeline: u32,
    pub(super) start: Lsn,
    /// The segment before, and where it ended: what was durable when this one was made.
    pub(super) predecessor: Option<(SegmentId, Lsn)>,
    /// Whether it goes on at the predecessor's end, on its timeline.
    pub(super) goes_on: bool,
}

/// A body with its tag.
pub(super) type SealedBody = [u8; BODY_BYTES + TAG_BYTES];

impl SegmentHeader {
    /// Writes the header to `block`, which is zeros.
    pub(super) fn write(&self, start: &SegmentStart, sealer: &Sealer, block: &mut [u8]) {
        let mut sealed = [0; BODY_BYTES + TAG_BYTES];
        let (body, tag) = sealed.split_at_mut(BODY_BYTES);
        body.copy_from_slice(&start.encode());
        tag.copy_from_slice(&sealer.seal_in_place(&self.context(), body));
        self.write_clear(&sealed, block);
    }

    fn write_clear(&self, sealed: &SealedBody, block: &mut [u8]) {
        put(block, 0, MAGIC);
        put(block, VERSION_AT, VERSION.to_le_bytes());
        put(block, CIPHER_AT, CIPHER_ID.to_le_bytes());
        put(block, KEY_TABLE_AT, self.dek_id.table.to_le_bytes());
        put(block, KEY_SLOT_AT, self.dek_id.slot.to_le_bytes());
        put(block, BLOCK_BYTES_AT, self.block_bytes.to_le_bytes());
        put(block, TENANT_AT, self.tenant.0.0);
        put(block, BRANCH_AT, self.branch.0.0);
        put(block, EPOCH_AT, self.id.epoch.to_le_bytes());
        put(block, SEQUENCE_AT, self.id.sequence.to_le_bytes());
        put(block, SEGMENT_BYTES_AT, self.segment_bytes.to_le_bytes());
        put(block, KEY_CHECK_AT, self.key_check);
        put(block, BODY_AT, *sealed);
        let checksum = crc32c::crc32c(&block[..CHECKSUM_AT]);
        put(block, CHECKSUM_AT, checksum.to_le_bytes());
    }

    /// The clear part of the header in `block`, the first block of a file, and the sealed one.
    pub(super) fn parse(block: &[u8]) -> Result<(SegmentHeader, SealedBody), RecordProblem> {
        use RecordProblem::{Damaged, OtherFormat, UnknownCipher, UnknownVersion};
        if block.len() < BLOCK_BYTES_LEAST {
            return Err(Damaged("cut short"));
        }
        if block[..VERSION_AT] != MAGIC {
            return Err(OtherFormat);
        }
        let found = u16::from_le_bytes(get(block, VERSION_AT));
        if found != VERSION {
            return Err(UnknownVersion {
                found,
                known: VERSION,
            });
        }
        if u32_at(block, CHECKSUM_AT) != crc32c::crc32c(&block[..CHECKSUM_AT]) {
            return Err(Damaged("checksum of the header"));
        }
        let cipher = u16::from_le_bytes(get(block, CIPHER_AT));
        if cipher != CIPHER_ID {
            return Err(UnknownCipher(cipher));
        }
        let header = SegmentHeader {
            dek_id: DekId {
                table: u32_at(block, KEY_TABLE_AT),
                slot: u32_at(block, KEY_SLOT_AT),
            },
            block_bytes: u32_at(block, BLOCK_BYTES_AT),
            tenant: TenantId(Id(get(block, TENANT_AT))),
            branch: BranchId(Id(get(block, BRANCH_AT))),
            id: SegmentId {
                epoch: u32_at(block, EPOCH_AT),
                sequence: u64_at(block, SEQUENCE_AT),
            },
            segment_bytes: u64_at(block, SEGMENT_BYTES_AT),
            key_check: get(block, KEY_CHECK_AT),
        };
        let block_bytes = header.block_bytes as usize;
        if !(BLOCK_BYTES_LEAST..=BLOCK_BYTES_MAX).contains(&block_bytes)
            || !block_bytes.is_power_of_two()
        {
            return Err(Damaged("size of blocks"));
        }
        if !(SEGMENT_BYTES_LEAST..=SEGMENT_BYTES_MAX).contains(&header.segment_bytes)
            || !header.segment_bytes.is_multiple_of(SEGMENT_BYTES_LEAST)
        {
            return Err(Damaged("size of the segment"));
        }
        let rest = &block[HEADER_BYTES..block.len().min(block_bytes)];
        if !all_zero(&block[ZERO_AT..SEQUENCE_AT]) || !all_zero(rest) {
            return Err(Damaged("reserved bytes"));
        }
        Ok((header, get(block, BODY_AT)))
    }

    /// Whether `dek` is the key that its id stands for.
    pub(super) fn check_key(&self, dek: &Dek) -> Result<(), RecordProblem> {
        if self.key_check == dek.key_check_value() {
            Ok(())
        } else {
            Err(RecordProblem::WrongKey)
        }
    }

    /// What the sealed part says.
    pub(super) fn open(
        &self,
        sealed: &SealedBody,
        opener: &Opener,
    ) -> Result<SegmentStart, RecordProblem> {
        let mut body = [0; BODY_BYTES];
        opener
            .open_into(&self.context(), sealed, &mut body)
            .map_err(|_| RecordProblem::BadSeal)?;
        SegmentStart::decode(&body)
    }

    /// What frames on `timeline` are bound to.
    pub(super) fn place(&self, timeline: u32) -> SegmentPlace {
        SegmentPlace {
            tenant: self.tenant,
            branch: self.branch,
            id: self.id,
            timeline,
        }
    }

    fn context(&self) -> BlockContext {
        let object = ObjectId {
            branch: self.branch,
            epoch: self.id.epoch,
            sequence: self.id.sequence,
        };
        let mut sizes = Key::MIN;
        put(&mut sizes.0, 0, self.block_bytes.to_le_bytes());
        put(&mut sizes.0, 4, self.segment_bytes.to_le_bytes());
        BlockContext {
            first_key: sizes,
            ..BlockContext::unkeyed(FORMAT, self.tenant, object, BlockKind::WalSegment, 0)
        }
    }
}

impl SegmentStart {
    fn encode(&self) -> [u8; BODY_BYTES] {
        let mut body = [0; BODY_BYTES];
        let mut flags = 0;
        put(&mut body, TIMELINE_AT, self.timeline.to_le_bytes());
        put(&mut body, START_AT, self.start.0.to_le_bytes());
        if let Some((id, end)) = self.predecessor {
            flags |= FLAG_PREDECESSOR;
            put(&mut body, PREDECESSOR_END_AT, end.0.to_le_bytes());
            put(&mut body, PREDECESSOR_SEQ_AT, id.sequence.to_le_bytes());
            put(&mut body, PREDECESSOR_EPOCH_AT, id.epoch.to_le_bytes());
        }
        if self.goes_on {
            flags |= FLAG_GOES_ON;
        }
        put(&mut body, FLAGS_AT, flags.to_le_bytes());
        body
    }

    fn decode(body: &[u8; BODY_BYTES]) -> Result<SegmentStart, RecordProblem> {
        let damaged = RecordProblem::Damaged;
        let flags = u32_at(body, FLAGS_AT);
        if flags & !(FLAG_PREDECESSOR | FLAG_GOES_ON) != 0 {
            return Err(damaged("unknown flag"));
        }
        let predecessor = SegmentId {
            epoch: u32_at(body, PREDECESSOR_EPOCH_AT),
            sequence: u64_at(body, PREDECESSOR_SEQ_AT),
        };
        let has_predecessor = flags & FLAG_PREDECESSOR != 0;
        if !has_predecessor && !all_zero(&body[PREDECESSOR_END_AT..]) {
            return Err(damaged("a predecessor that is none"));
        }
        if !all_zero(&body[BODY_ZERO_AT..]) {
            return Err(damaged("reserved bytes"));
        }
        let start = SegmentStart {
            timeline: u32_at(body, TIMELINE_AT),
            start: lsn_at(body, START_AT),
            predecessor: has_predecessor.then(|| (predecessor, lsn_at(body, PREDECESSOR_END_AT))),
            goes_on: flags & FLAG_GOES_ON != 0,
        };
        let end = start.predecessor.map(|(_, end)| end);
        if start.goes_on && end != Some(start.start) {
            return Err(damaged("it goes on where nothing ended"));
        }
        Ok(start)
    }
}

/// For fuzzing: a header, its checksum set right, its body taken for plaintext, and a frame behind it, its own checksum set
/// right; what is accepted is what is written for what it says.
pub fn fuzz_segment(bytes: &[u8]) {
    let Some((block, frame)) = bytes.split_at_checked(BLOCK_BYTES_LEAST) else {
        return;
    };
    let mut block = block.to_vec();
    let checksum = crc32c::crc32c(&block[..CHECKSUM_AT]);
    put(&mut block, CHECKSUM_AT, checksum.to_le_bytes());
    if let Ok((header, sealed)) = SegmentHeader::parse(&block) {
        let mut again = vec![0; BLOCK_BYTES_LEAST];
        header.write_clear(&sealed, &mut again);
        assert!(again == block, "{header:?}");
    }
    let body = get(&block, BODY_AT);
    if let Ok(start) = SegmentStart::decode(&body) {
        assert!(start.encode() == body, "{start:?}");
    }
    frame::fuzz(frame);
}

const MAGIC: [u8; 8] = *b"PSWALSEG";
const VERSION: u16 = 1;

const VERSION_AT: usize = 8;
const CIPHER_AT: usize = VERSION_AT + 2;
const KEY_TABLE_AT: usize = CIPHER_AT + 2;
const KEY_SLOT_AT: usize = KEY_TABLE_AT + 4;
const BLOCK_BYTES_AT: usize = KEY_SLOT_AT + 4;
const TENANT_AT: usize = BLOCK_BYTES_AT + 4;
const BRANCH_AT: usize = TENANT_AT + 16;
const EPOCH_AT: usize = BRANCH_AT + 16;
const ZERO_AT: usize = EPOCH_AT + 4;
const SEQUENCE_AT: usize = ZERO_AT + 4;
const SEGMENT_BYTES_AT: usize = SEQUENCE_AT + 8;
const KEY_CHECK_AT: usize = SEGMENT_BYTES_AT + 8;
const BODY_AT: usize = KEY_CHECK_AT + TAG_BYTES;
const CHECKSUM_AT: usize = BODY_AT + BODY_BYTES + TAG_BYTES;
const HEADER_BYTES: usize = CHECKSUM_AT + 4;
const _: () = assert!(HEADER_BYTES == 156);

const TIMELINE_AT: usize = 0;
const FLAGS_AT: usize = TIMELINE_AT + 4;
const START_AT: usize = FLAGS_AT + 4;
const PREDECESSOR_END_AT: usize = START_AT + 8;
const PREDECESSOR_SEQ_AT: usize = PREDECESSOR_END_AT + 8;
const PREDECESSOR_EPOCH_AT: usize = PREDECESSOR_SEQ_AT + 8;
const BODY_ZERO_AT: usize = PREDECESSOR_EPOCH_AT + 4;
const BODY_BYTES: usize = BODY_ZERO_AT + 4;
const _: () = assert!(BODY_BYTES == 40);

const FLAG_PREDECESSOR: u32 = 1;
const FLAG_GOES_ON: u32 = 2;
const _: () = assert!(BLOCK_BYTES_MAX as u64 * 2 == SEGMENT_BYTES_LEAST);
