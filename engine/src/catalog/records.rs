//! The small records of the catalog, version 1 each: sealed records (see `crypto/sealed_record.rs`) under derived
//! keys. Texts have their length (u32) before them.
//!
//! | magic    | object                     | number    | derived from        | body                                    |
//! |----------|----------------------------|-----------|---------------------|-----------------------------------------|
//! | PSTENANT | `catalog/<tenant>/…`       | KEK epoch | the KEK             | name, name key (32)                     |
//! | PSNAMERC | `…/names/<hash>/<n>`       | n         | the name key        | name, branch id (16)                    |
//! | PSBEGUNB | `…/begun/<branch>`         | 0         | the name key        | name                                    |
//! | PSWALOBJ | `…/wal/<number>`           | number    | (a DEK)             | predecessor (u64, all ones for none), epoch (u32), start LSN (u64), WAL |
//!
//! The name key is drawn with the tenant and never changes, so names stay where they are when KEKs rotate: then the
//! tenant's record is written anew, and nothing else. A name record in the directory of another name is refused,
//! since its name's hash is not the directory's.

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::crypto::entropy::Entropy;
use crate::crypto::kek::{KEK_BYTES, Kek};
use crate::crypto::page_seal::{BlockKind, Dek, DekId, FormatTag};
use crate::crypto::sealed_record::{
    NO_BRANCH, RecordError, RecordFormat, RecordKey, RecordPlace, RecordProblem, SealedRecord,
    seal_derived, seal_under_dek,
};
use crate::manifest::codec::{Decoder, Encoder};
use crate::types::{BranchId, Lsn, TenantId};

/// What a tenant is called, and the key of its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TenantRecord {
    pub(crate) name: String,
    pub(crate) name_key: Kek,
}

impl TenantRecord {
    pub(crate) fn seal(
        &self,
        tenant: TenantId,
        (kek_epoch, kek): (u32, &Kek),
        entropy: &Entropy,
    ) -> Bytes {
        let place = tenant_place(tenant, u64::from(kek_epoch));
        seal_derived(&TENANT, &place, kek_epoch, kek, entropy, &self.encode())
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut body = Encoder::default();
        body.text(&self.name).bytes(self.name_key.expose());
        Zeroizing::new(body.finish())
    }

    fn decode(body: &[u8]) -> Result<TenantRecord, RecordProblem> {
        let mut from = Decoder::new(body);
        let name = from.text()?;
        let name_key = Kek::from_bytes(from.array::<KEK_BYTES>()?);
        from.finish()?;
        Ok(TenantRecord { name, name_key })
    }

    pub(crate) fn open(
        path: &str,
        bytes: &Bytes,
        tenant: TenantId,
        (kek_epoch, kek): (u32, &Kek),
    ) -> Result<TenantRecord, RecordError> {
        let place = tenant_place(tenant, u64::from(kek_epoch));
        let record = SealedRecord::parse(&TENANT, &place, path, bytes)?;
        match record.key() {
            RecordKey::Derived { key_epoch, .. } if key_epoch == kek_epoch => {}
            _ => return Err(RecordProblem::Misplaced.at(path)),
        }
        let body = Zeroizing::new(record.open_derived(kek)?);
        TenantRecord::decode(&body).map_err(|problem| problem.at(path))
    }
}

/// What a name means since its `n`-th change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NameRecord {
    pub(crate) name: String,
    pub(crate) branch: BranchId,
}

impl NameRecord {
    pub(crate) fn seal(
        &self,
        tenant: TenantId,
        n: u32,
        name_key: &Kek,
        entropy: &Entropy,
    ) -> Bytes {
        let place = tenant_place(tenant, u64::from(n));
        seal_derived(&NAME, &place, NO_EPOCH, name_key, entropy, &self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Encoder::default();
        body.text(&self.name).branch(self.branch);
        body.finish()
    }

    fn decode(body: &[u8]) -> Result<NameRecord, RecordProblem> {
        let mut from = Decoder::new(body);
        let record = NameRecord {
            name: from.text()?,
            branch: from.branch()?,
        };
        from.finish()?;
        Ok(record)
    }

    /// Opens the record at `path`, in the directory of names with this `hash`.
    pub(crate) fn open(
        path: &str,
        bytes: &Bytes,
        tenant: TenantId,
        (hash, n): (&[u8; 16], u32),
        name_key: &Kek,
    ) -> Result<NameRecord, RecordError> {
        let place = tenant_place(tenant, u64::from(n));
        let body = SealedRecord::parse(&NAME, &place, path, bytes)?.open_derived(name_key)?;
        let record = NameRecord::decode(&body).map_err(|problem| problem.at(path))?;
        if name_key.keyed_hash(record.name.as_bytes()) == *hash {
            Ok(record)
        } else {
            Err(RecordProblem::Misplaced.at(path))
        }
    }
}

/// Seals the mark of a branch that was begun.
pub(crate) fn seal_begun(
    tenant: TenantId,
    branch: BranchId,
    name: &str,
    name_key: &Kek,
    entropy: &Entropy,
) -> Bytes {
    let mut body = Encoder::default();
    body.text(name);
    let place = begun_place(tenant, branch);
    seal_derived(&BEGUN, &place, NO_EPOCH, name_key, entropy, &body.finish())
}

/// The name that a branch was begun under.
pub(crate) fn open_begun(
    path: &str,
    bytes: &Bytes,
    (tenant, branch): (TenantId, BranchId),
    name_key: &Kek,
) -> Result<String, RecordError> {
    let place = begun_place(tenant, branch);
    let body = SealedRecord::parse(&BEGUN, &place, path, bytes)?.open_derived(name_key)?;
    let mut from = Decoder::new(&body);
    from.text()
        .and_then(|name| from.finish().map(|()| name))
        .map_err(|problem| problem.at(path))
}

/// For fuzzing: the opened bodies of the records of tenants and of names; what is accepted is what is written.
pub fn fuzz_records(body: &[u8]) {
    if let Ok(record) = TenantRecord::decode(body) {
        assert!(*record.encode() == body, "another tenant's record");
    }
    if let Ok(record) = NameRecord::decode(body) {
        assert!(record.encode() == body, "another name's record");
    }
}

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

impl std::fmt::Debug for WalPiece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WalPiece({}, {} bytes)", self.start, self.bytes.len())
    }
}

/// Seals piece `number` of a branch's WAL; its predecessor is the number before.
pub(crate) fn seal_wal(
    (tenant, branch): (TenantId, BranchId),
    number: u64,
    (epoch, start): (u32, Lsn),
    (id, dek): (DekId, &Dek),
    bytes: &[u8],
) -> Bytes {
    let mut body = Encoder::default();
    body.u64(number.checked_sub(1).unwrap_or(NO_PREDECESSOR))
        .u32(epoch)
        .lsn(start)
        .bytes(bytes);
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
    let mut from = Decoder::new(&body);
    let decode = || {
        if from.u64()? != number.checked_sub(1).unwrap_or(NO_PREDECESSOR) {
            return Err(RecordProblem::Damaged("predecessor"));
        }
        Ok(WalPiece {
            epoch: from.u32()?,
            start: from.lsn()?,
            bytes: from.rest().to_vec(),
        })
    };
    decode().map_err(|problem| record.damaged(problem))
}

fn tenant_place(tenant: TenantId, number: u64) -> RecordPlace {
    RecordPlace {
        tenant,
        branch: NO_BRANCH,
        number,
    }
}

fn begun_place(tenant: TenantId, branch: BranchId) -> RecordPlace {
    RecordPlace {
        tenant,
        branch,
        number: 0,
    }
}

const TENANT: RecordFormat = RecordFormat {
    magic: b"PSTENANT",
    tag: FormatTag::new(b"TNNT", 1),
    kind: BlockKind::TenantRecord,
};
const NAME: RecordFormat = RecordFormat {
    magic: b"PSNAMERC",
    tag: FormatTag::new(b"NAME", 1),
    kind: BlockKind::NameRecord,
};
const BEGUN: RecordFormat = RecordFormat {
    magic: b"PSBEGUNB",
    tag: FormatTag::new(b"BGUN", 1),
    kind: BlockKind::NameRecord,
};
const WAL: RecordFormat = RecordFormat {
    magic: b"PSWALOBJ",
    tag: FormatTag::new(b"WALO", 1),
    kind: BlockKind::WalChunk,
};

/// The name key has no epochs.
const NO_EPOCH: u32 = 0;
const NO_PREDECESSOR: u64 = u64::MAX;

#[cfg(test)]
mod tests;
