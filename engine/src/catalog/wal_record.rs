//! A piece of a branch's WAL: a sealed record (see `crypto/sealed_record.rs`) under a DEK, magic `PSWALOBJ`, at
//! `…/wal/<number>`. Body, version 2:
//!
//! | bytes | field       | meaning                                                             |
//! |------:|-------------|---------------------------------------------------------------------|
//! |     8 | predecessor | number of the piece before, all ones for none                       |
//! |     4 | epoch       | of the writer                                                       |
//! |     8 | start       | LSN of the first byte                                               |
//! |     4 | wal_bytes   | of the WAL, at most [`WAL_PIECE_BYTES_MAX`]                         |
//! |     … | WAL         | as one LZ4 block, to the end; nothing, if there is no WAL           |
//!
//! Version 1 has no `wal_bytes`, and the WAL as it is. An empty piece is a *fence*: a writer begins with one, and whoever
//! wrote before it finds its own next number taken. Fences are never deleted, so their size tells them from others.

use bytes::Bytes;

use crate::crypto::page_seal::{BlockKind, Dek, DekId, FormatTag};
use crate::crypto::sealed_record::{
    RecordError, RecordFormat, RecordPlace, RecordProblem, SealedRecord, record_bytes,
    seal_under_dek,
};
use crate::manifest::codec::{Decoder, Encoder};
use crate::types::{BranchId, Lsn, TenantId};

/// Most bytes of WAL in one piece.
pub const WAL_PIECE_BYTES_MAX: usize = 16 << 20;

/// A piece of a branch's WAL, opened.
#[derive(Clone, PartialEq, Eq)]
pub struct WalPiece {
    /// The writer's epoch.
    pub epoch: u32,
    /// Position of its first byte.
    pub start: Lsn,
    /// The WAL.
    pub bytes: Vec<u8>,
}

impl WalPiece {
    /// Position behind its last byte.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }
}

impl std::fmt::Debug for WalPiece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WalPiece({}, {} bytes)", self.start, self.bytes.len())
    }
}

/// Seals piece `number` of a branch's WAL; its predecessor is the number before. Compresses and seals: about two
/// milliseconds a megabyte.
///
/// # Panics
/// If there are more than [`WAL_PIECE_BYTES_MAX`].
pub(crate) fn seal_wal(
    (tenant, branch): (TenantId, BranchId),
    number: u64,
    (epoch, start): (u32, Lsn),
    (id, dek): (DekId, &Dek),
    bytes: &[u8],
) -> Bytes {
    assert!(bytes.len() <= WAL_PIECE_BYTES_MAX, "callers cut the WAL");
    let wal_bytes = u32::try_from(bytes.len()).expect("at most the maximum");
    let mut body = Encoder::default();
    body.u64(predecessor(number))
        .u32(epoch)
        .lsn(start)
        .u32(wal_bytes);
    if wal_bytes > 0 {
        body.bytes(&lz4_flex::block::compress(bytes));
    }
    let place = RecordPlace {
        tenant,
        branch,
        number,
    };
    seal_under_dek(&WAL, &place, id, dek, &body.finish())
}

/// The envelope of a piece of WAL; [`open_wal`] opens it.
pub(crate) fn parse_wal(
    path: &str,
    bytes: &Bytes,
    (tenant, branch): (TenantId, BranchId),
    number: u64,
) -> Result<SealedRecord, RecordError> {
    let place = RecordPlace {
        tenant,
        branch,
        number,
    };
    SealedRecord::parse(&WAL, &place, path, bytes)
}

/// The piece of WAL in `record`.
pub(crate) fn open_wal(
    record: &SealedRecord,
    number: u64,
    dek: &Dek,
) -> Result<WalPiece, RecordError> {
    let body = record.open(dek)?;
    decode(&body, number, record.version()).map_err(|problem| record.damaged(problem))
}

/// Whether an object of a branch's WAL of this size is a fence. It may be a piece of a few bytes of version 1 instead.
pub(crate) fn may_be_fence(object_bytes: u64) -> bool {
    object_bytes <= record_bytes(HEADER_BYTES) as u64
}

fn decode(body: &[u8], number: u64, version: u16) -> Result<WalPiece, RecordProblem> {
    let mut from = Decoder::new(body);
    if from.u64()? != predecessor(number) {
        return Err(RecordProblem::Damaged("predecessor"));
    }
    let (epoch, start) = (from.u32()?, from.lsn()?);
    let bytes = if version < WAL.tag.version {
        from.rest().to_vec()
    } else {
        let wal_bytes = from.u32()? as usize;
        decompress(from.rest(), wal_bytes)?
    };
    if start.0.checked_add(bytes.len() as u64).is_none() {
        return Err(RecordProblem::Damaged("position of the WAL"));
    }
    Ok(WalPiece {
        epoch,
        start,
        bytes,
    })
}

fn decompress(block: &[u8], wal_bytes: usize) -> Result<Vec<u8>, RecordProblem> {
    if wal_bytes > WAL_PIECE_BYTES_MAX || (wal_bytes == 0) != block.is_empty() {
        return Err(RecordProblem::Damaged("length of the WAL"));
    }
    if wal_bytes == 0 {
        return Ok(Vec::new());
    }
    let bytes = lz4_flex::block::decompress(block, wal_bytes)
        .map_err(|_| RecordProblem::Damaged("the WAL does not decompress"))?;
    if bytes.len() != wal_bytes {
        return Err(RecordProblem::Damaged("length of the WAL"));
    }
    Ok(bytes)
}

fn predecessor(number: u64) -> u64 {
    number.checked_sub(1).unwrap_or(NO_PREDECESSOR)
}

/// For fuzzing: the opened body of a piece of either version.
pub(super) fn fuzz(body: &[u8]) {
    for version in [1, WAL.tag.version] {
        if let Ok(piece) = decode(body, 1, version) {
            assert!(piece.bytes.len() <= WAL_PIECE_BYTES_MAX.max(body.len()));
        }
    }
}

const WAL: RecordFormat = RecordFormat {
    magic: b"PSWALOBJ",
    tag: FormatTag::new(b"WALO", 2),
    kind: BlockKind::WalChunk,
};
/// Bytes of the body before the WAL.
const HEADER_BYTES: usize = 8 + 4 + 8 + 4;
const NO_PREDECESSOR: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::records::tests::check_flips;
    use crate::manifest::golden::{golden, golden_of_before};
    use crate::types::Id;

    const OWNER: (TenantId, BranchId) = (TenantId(Id([0x11; 16])), BranchId(Id([0x22; 16])));
    const AT: (u32, Lsn) = (12, Lsn(0x1_0000_0028));
    const DEK_ID: DekId = DekId { table: 5, slot: 6 };

    fn dek() -> Dek {
        Dek::from_bytes([0x44; 32])
    }

    fn open(bytes: &Bytes, number: u64) -> Result<WalPiece, RecordError> {
        let record = parse_wal("p", bytes, OWNER, number)?;
        assert_eq!(record.dek_id(), Ok(DEK_ID));
        open_wal(&record, number, &dek())
    }

    fn piece(bytes: &[u8]) -> WalPiece {
        WalPiece {
            epoch: AT.0,
            start: AT.1,
            bytes: bytes.to_vec(),
        }
    }

    #[test]
    fn pieces_of_wal_of_version_1() {
        for (number, name) in [
            (0, "wal_piece/v1-first.bin"),
            (1, "wal_piece/v1-second.bin"),
        ] {
            let stored = golden_of_before(name);
            assert_eq!(open(&stored, number), Ok(piece(b"not what WAL looks like")));
            assert!(!may_be_fence(stored.len() as u64));
        }
    }

    #[test]
    fn pieces_of_wal_of_version_2() {
        for (number, name, wal) in [
            (0, "wal_piece/v2-fence.bin", &b""[..]),
            (
                7,
                "wal_piece/v2-first.bin",
                &[b"twice ", &[0; 200][..], b"twice "].concat(),
            ),
        ] {
            let made = seal_wal(OWNER, number, AT, (DEK_ID, &dek()), wal);
            let stored = golden(name, &made);
            assert_eq!(open(&stored, number), Ok(piece(wal)));
            assert_eq!(may_be_fence(stored.len() as u64), wal.is_empty());
            check_flips(&stored, |bytes| open(bytes, number).is_ok());
        }
    }

    #[test]
    fn one_byte_is_no_fence() {
        let made = seal_wal(OWNER, 1, AT, (DEK_ID, &dek()), b"x");
        assert!(!may_be_fence(made.len() as u64));
    }

    #[test]
    fn a_piece_that_claims_another_length_is_damaged() {
        let compressed = lz4_flex::block::compress(&[7; 100]);
        assert_eq!(decompress(&compressed, 100), Ok(vec![7; 100]));
        for claimed in [0, 99, 101, WAL_PIECE_BYTES_MAX + 1] {
            assert!(decompress(&compressed, claimed).is_err(), "{claimed}");
        }
        assert!(decompress(&[], 1).is_err());
    }
}
