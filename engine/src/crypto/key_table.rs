//! Key tables, version 1: 256 DEKs of a branch, wrapped together under a key derived from the KEK.
//!
//! The object is a sealed record (see `sealed_record.rs`); its number is the table's, its key epoch the KEK's. Body:
//! 256 keys of 32 bytes, slot by slot, nothing else. A table is drawn whole by one process and durable before its
//! first key seals anything; the next process draws its own, so no DEK writes for two processes. Under another KEK
//! epoch the same keys are wrapped again in another object, and ids stay.

use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::entropy::Entropy;
use super::kek::Kek;
use super::page_seal::{BlockKind, DEK_BYTES, Dek, DekId, FormatTag};
use super::sealed_record::{
    RecordError, RecordFormat, RecordKey, RecordPlace, RecordProblem, SealedRecord, seal_derived,
};
use crate::types::{BranchId, TenantId};

/// Keys in one table.
pub const TABLE_SLOTS: u32 = 256;

/// One opened key table. Wiped when dropped; share it by `Arc`.
#[derive(Debug)]
pub struct KeyTable {
    number: u32,
    deks: Vec<Arc<Dek>>,
}

impl KeyTable {
    /// A table of fresh keys.
    pub fn draw(number: u32, entropy: &Entropy) -> KeyTable {
        let deks = (0..TABLE_SLOTS)
            .map(|_| Arc::new(Dek::from_bytes(*entropy.draw_secret())))
            .collect();
        KeyTable { number, deks }
    }

    /// Its number among the branch's tables.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The key in `slot`, or `None` above [`TABLE_SLOTS`].
    pub fn dek(&self, slot: u32) -> Option<&Arc<Dek>> {
        self.deks.get(usize::try_from(slot).ok()?)
    }

    /// The id of the key in `slot`.
    pub fn id(&self, slot: u32) -> DekId {
        DekId {
            table: self.number,
            slot,
        }
    }

    /// The bytes to store under the KEK of `kek_epoch`.
    pub fn seal(
        &self,
        tenant: TenantId,
        branch: BranchId,
        kek_epoch: u32,
        kek: &Kek,
        entropy: &Entropy,
    ) -> Bytes {
        let place = place(tenant, branch, self.number);
        seal_derived(&FORMAT, &place, kek_epoch, kek, entropy, &self.encode())
    }

    /// The table `number` of `branch` from the `bytes` of the object `path`, wrapped under the KEK of `kek_epoch`.
    pub fn open(
        path: &str,
        bytes: &Bytes,
        tenant: TenantId,
        branch: BranchId,
        number: u32,
        (kek_epoch, kek): (u32, &Kek),
    ) -> Result<KeyTable, RecordError> {
        let record = SealedRecord::parse(&FORMAT, &place(tenant, branch, number), path, bytes)?;
        match record.key() {
            RecordKey::Derived { key_epoch, .. } if key_epoch == kek_epoch => {}
            _ => return Err(RecordProblem::Misplaced.at(path)),
        }
        let body = Zeroizing::new(record.open_derived(kek)?);
        KeyTable::decode(number, &body).map_err(|problem| problem.at(path))
    }

    /// The body.
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut body = Zeroizing::new(Vec::with_capacity(BODY_BYTES));
        self.deks
            .iter()
            .for_each(|dek| body.extend_from_slice(dek.expose()));
        body
    }

    /// The table with this number in an opened body.
    pub(crate) fn decode(number: u32, body: &[u8]) -> Result<KeyTable, RecordProblem> {
        let (keys, rest) = body.as_chunks::<DEK_BYTES>();
        if body.len() != BODY_BYTES || !rest.is_empty() {
            return Err(RecordProblem::Damaged("number of keys"));
        }
        let deks = keys
            .iter()
            .map(|key| Arc::new(Dek::from_bytes(*key)))
            .collect();
        Ok(KeyTable { number, deks })
    }
}

fn place(tenant: TenantId, branch: BranchId, number: u32) -> RecordPlace {
    RecordPlace {
        tenant,
        branch,
        number: u64::from(number),
    }
}

const FORMAT: RecordFormat = RecordFormat {
    magic: b"PSKEYTBL",
    tag: FormatTag::new(b"KTBL", 1),
    kind: BlockKind::KeyTable,
};

const BODY_BYTES: usize = 256 * DEK_BYTES;
const _: () = assert!(TABLE_SLOTS == 256);
