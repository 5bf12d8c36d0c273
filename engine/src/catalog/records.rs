//! The small records of the catalog: sealed records (see `crypto/sealed_record.rs`) under derived keys. Texts have their
//! length (u32) before them. Those of names are in `name_record.rs`, pieces of WAL in `wal_record.rs`.
//!
//! | magic    | object                     | number    | derived from        | body                                    |
//! |----------|----------------------------|-----------|---------------------|-----------------------------------------|
//! | PSTENANT | `catalog/<tenant>/…`       | KEK epoch | the KEK             | name, name key (32)                     |
//! | PSBEGUNB | `…/begun/<branch>`         | 0         | the name key        | name                                    |
//!
//! All are of version 1, but for the tenant's: version 2 of it, with the same body, says that no name of the tenant lies
//! where version 1 of names put it, so that nobody needs to look there.
//!
//! The name key is drawn with the tenant and never changes, so names stay where they are when KEKs rotate: then the
//! tenant's record is written anew, in its version, and nothing else.

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::crypto::entropy::Entropy;
use crate::crypto::kek::{KEK_BYTES, Kek};
use crate::crypto::page_seal::{BlockKind, FormatTag};
use crate::crypto::sealed_record::{
    NO_BRANCH, RecordError, RecordFormat, RecordKey, RecordPlace, RecordProblem, SealedRecord,
    seal_derived,
};
use crate::manifest::codec::{Decoder, Encoder};
use crate::types::{BranchId, TenantId};

/// What a tenant is called, and the key of its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TenantRecord {
    pub(crate) name: String,
    pub(crate) name_key: Kek,
    /// Whether names may lie where version 1 put them.
    pub(crate) old_names: bool,
}

impl TenantRecord {
    pub(crate) fn seal(
        &self,
        tenant: TenantId,
        (kek_epoch, kek): (u32, &Kek),
        entropy: &Entropy,
    ) -> Bytes {
        let place = tenant_place(tenant, u64::from(kek_epoch));
        let format = if self.old_names { TENANT_V1 } else { TENANT };
        seal_derived(&format, &place, kek_epoch, kek, entropy, &self.encode())
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut body = Encoder::default();
        body.text(&self.name).bytes(self.name_key.expose());
        Zeroizing::new(body.finish())
    }

    fn decode(body: &[u8], version: u16) -> Result<TenantRecord, RecordProblem> {
        let mut from = Decoder::new(body);
        let name = from.text()?;
        let name_key = Kek::from_bytes(from.array::<KEK_BYTES>()?);
        from.finish()?;
        Ok(TenantRecord {
            name,
            name_key,
            old_names: version < TENANT.tag.version,
        })
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
        TenantRecord::decode(&body, record.version()).map_err(|problem| problem.at(path))
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

/// For fuzzing: the opened body of a tenant's record; what is accepted is what is written.
pub(super) fn fuzz_tenant(body: &[u8]) {
    if let Ok(record) = TenantRecord::decode(body, TENANT.tag.version) {
        assert!(*record.encode() == body, "another tenant's record");
    }
}

/// The place of a record that is the tenant's.
pub(super) fn tenant_place(tenant: TenantId, number: u64) -> RecordPlace {
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
    tag: FormatTag::new(b"TNNT", 2),
    kind: BlockKind::TenantRecord,
};
const TENANT_V1: RecordFormat = RecordFormat {
    tag: FormatTag::new(b"TNNT", 1),
    ..TENANT
};
const BEGUN: RecordFormat = RecordFormat {
    magic: b"PSBEGUNB",
    tag: FormatTag::new(b"BGUN", 1),
    kind: BlockKind::NameRecord,
};

/// The name key has no epochs.
pub(super) const NO_EPOCH: u32 = 0;

#[cfg(test)]
pub(super) mod tests;
