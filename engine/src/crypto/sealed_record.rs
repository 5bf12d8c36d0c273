//! The envelope of small sealed objects, version 1: manifest entries, key tables, tenant and name records, pieces
//! of WAL. Each format that uses it has its own magic, version and [`BlockKind`] and describes its body only.
//! Little-endian.
//!
//! |     at | bytes | field      | meaning                                                                |
//! |-------:|------:|------------|------------------------------------------------------------------------|
//! |      0 |     8 | magic      | of the format                                                          |
//! |      8 |     2 | version    | of the format, from 1; a reader refuses newer ones than it knows, by number |
//! |     10 |     2 | cipher     | [`CIPHER_ID`]                                                          |
//! |     12 |     4 | key_table  | table of the DEK; or the epoch of the key it derives from              |
//! |     16 |     4 | key_slot   | slot of the DEK; or `DERIVED_SLOT`                                     |
//! |     20 |     4 | body_bytes | of the body's ciphertext, without its tag                              |
//! |     24 |    16 | tenant     |                                                                        |
//! |     40 |    16 | branch     | zeros where a record is the tenant's                                   |
//! |     56 |     8 | number     | of the record in its sequence; it is in the object's name as well      |
//! |     64 |    16 | key_check  | of the sealing key: tells a wrong key from damage                      |
//! |     80 |    32 | salt       | of a derived key; zeros under a DEK, a reader refuses others           |
//! |    112 |   ... | body       | ciphertext                                                             |
//! |        |    16 | tag        |                                                                        |
//! |   last |     4 | checksum   | CRC-32C of everything before: a scrubber needs no key                  |
//!
//! One key seals one record (a DEK of its own, or a key derived with a salt of its own), so block number 0 of the
//! record's kind can't repeat as a nonce. Associated data: [`BlockContext`] with tenant, branch, `key epoch` (zero
//! under a DEK) and number. What else the clear header says can't be changed without the seal failing: another key
//! or salt is another key, another length is another body.

use bytes::Bytes;

use super::entropy::Entropy;
use super::kek::{KEY_CHECK_BYTES, Kek, SALT_BYTES};
use super::page_seal::{
    BlockContext, BlockKind, CIPHER_ID, Dek, DekId, FormatTag, Opener, Sealer, TAG_BYTES,
};
use crate::types::{BranchId, Id, ObjectId, TenantId};

/// One format that uses the envelope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordFormat {
    /// The first bytes of each object.
    pub(crate) magic: &'static [u8; 8],
    /// In the associated data. A writer puts its version into the header; a reader opens that and the ones before.
    pub(crate) tag: FormatTag,
    /// In nonce and associated data.
    pub(crate) kind: BlockKind,
}

/// What a record is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordPlace {
    pub(crate) tenant: TenantId,
    /// [`NO_BRANCH`] where a record is the tenant's.
    pub(crate) branch: BranchId,
    pub(crate) number: u64,
}

/// The branch of records that belong to none.
pub(crate) const NO_BRANCH: BranchId = BranchId(Id([0; 16]));

/// Which key sealed a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordKey {
    /// A DEK of the branch.
    Dek(DekId),
    /// A key derived from the one of this epoch.
    Derived {
        key_epoch: u32,
        salt: [u8; SALT_BYTES],
    },
}

/// Why a stored record is not what it should be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct RecordError {
    /// The object.
    pub path: String,
    /// What is wrong with it.
    pub problem: RecordProblem,
}

/// What can be wrong with a stored record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordProblem {
    /// The first bytes are another format's, or none's.
    #[error("not an object of this format")]
    OtherFormat,
    /// Written by a newer program, or by none.
    #[error("format version {found}, this program knows {known}")]
    UnknownVersion {
        /// In the object.
        found: u16,
        /// The newest we know.
        known: u16,
    },
    /// Sealed by a cipher this program does not have.
    #[error("unknown cipher {0}")]
    UnknownCipher(u16),
    /// Changed bytes; what shows it.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// A valid object of another place.
    #[error("belongs to another tenant, branch or number")]
    Misplaced,
    /// Sealed under a key other than the one that its id stands for.
    #[error("sealed under another key")]
    WrongKey,
    /// Right key, and yet it does not open: somebody changed it who could correct the checksum.
    #[error("the seal does not open")]
    BadSeal,
}

impl RecordProblem {
    /// The problem with its place.
    pub(crate) fn at(self, path: &str) -> RecordError {
        RecordError {
            path: path.to_owned(),
            problem: self,
        }
    }
}

/// Bytes of a stored record whose body has so many.
pub(crate) const fn record_bytes(body_bytes: usize) -> usize {
    HEADER_BYTES + body_bytes + TAG_BYTES + CHECKSUM_BYTES
}

/// Seals a record under a DEK that seals nothing else.
pub(crate) fn seal_under_dek(
    format: &RecordFormat,
    place: &RecordPlace,
    id: DekId,
    dek: &Dek,
    body: &[u8],
) -> Bytes {
    assert!(id.slot != DERIVED_SLOT, "no key table has that many slots");
    seal(format, place, RecordKey::Dek(id), dek, body)
}

/// Seals a record under a key derived from `parent` with a fresh salt.
pub(crate) fn seal_derived(
    format: &RecordFormat,
    place: &RecordPlace,
    key_epoch: u32,
    parent: &Kek,
    entropy: &Entropy,
    body: &[u8],
) -> Bytes {
    let salt = entropy.draw();
    let dek = parent.derive(format.magic, &salt);
    seal(
        format,
        place,
        RecordKey::Derived { key_epoch, salt },
        &dek,
        body,
    )
}

fn seal(
    format: &RecordFormat,
    place: &RecordPlace,
    key: RecordKey,
    dek: &Dek,
    body: &[u8],
) -> Bytes {
    let body_bytes = u32::try_from(body.len())
        .ok()
        .filter(|bytes| *bytes <= BODY_BYTES_MAX)
        .expect("writers keep records below the limit");
    let (table, slot, salt) = match key {
        RecordKey::Dek(id) => (id.table, id.slot, [0; SALT_BYTES]),
        RecordKey::Derived { key_epoch, salt } => (key_epoch, DERIVED_SLOT, salt),
    };
    let mut out = Vec::with_capacity(record_bytes(body.len()));
    out.extend_from_slice(format.magic);
    out.extend_from_slice(&format.tag.version.to_le_bytes());
    out.extend_from_slice(&CIPHER_ID.to_le_bytes());
    out.extend_from_slice(&table.to_le_bytes());
    out.extend_from_slice(&slot.to_le_bytes());
    out.extend_from_slice(&body_bytes.to_le_bytes());
    out.extend_from_slice(&place.tenant.0.0);
    out.extend_from_slice(&place.branch.0.0);
    out.extend_from_slice(&place.number.to_le_bytes());
    out.extend_from_slice(&dek.key_check_value());
    out.extend_from_slice(&salt);
    debug_assert_eq!(out.len(), HEADER_BYTES);
    out.extend_from_slice(body);
    let tag =
        Sealer::new(dek).seal_in_place(&context(format, place, &key), &mut out[HEADER_BYTES..]);
    out.extend_from_slice(&tag);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out.into()
}

fn context(format: &RecordFormat, place: &RecordPlace, key: &RecordKey) -> BlockContext {
    let epoch = match key {
        RecordKey::Dek(_) => 0,
        RecordKey::Derived { key_epoch, .. } => *key_epoch,
    };
    let object = ObjectId {
        branch: place.branch,
        epoch,
        sequence: place.number,
    };
    BlockContext::unkeyed(format.tag, place.tenant, object, format.kind, 0)
}

/// A stored record whose header is in order, not opened yet.
#[derive(Debug)]
pub(crate) struct SealedRecord {
    format: RecordFormat,
    path: String,
    place: RecordPlace,
    key: RecordKey,
    key_check: [u8; KEY_CHECK_BYTES],
    /// Ciphertext and tag.
    sealed: Bytes,
}

impl SealedRecord {
    /// Checks everything that needs no key: format, version, cipher, checksum, and that the record is the one of
    /// `place`.
    pub(crate) fn parse(
        format: &RecordFormat,
        place: &RecordPlace,
        path: &str,
        bytes: &Bytes,
    ) -> Result<SealedRecord, RecordError> {
        parse(format, place, path, bytes).map_err(|problem| problem.at(path))
    }

    /// The version it was written in: says how its body is to be read.
    pub(crate) fn version(&self) -> u16 {
        self.format.tag.version
    }

    /// Which key opens it.
    pub(crate) fn key(&self) -> RecordKey {
        self.key
    }

    /// The DEK that opens it; a record that needs a derived key is not of this format.
    pub(crate) fn dek_id(&self) -> Result<DekId, RecordError> {
        match self.key {
            RecordKey::Dek(id) => Ok(id),
            RecordKey::Derived { .. } => Err(RecordProblem::Damaged("key slot").at(&self.path)),
        }
    }

    /// What is wrong with the record's body, with its place.
    pub(crate) fn damaged(&self, problem: RecordProblem) -> RecordError {
        problem.at(&self.path)
    }

    /// The body of a record sealed under `dek`.
    pub(crate) fn open(&self, dek: &Dek) -> Result<Vec<u8>, RecordError> {
        if dek.key_check_value() != self.key_check {
            return Err(RecordProblem::WrongKey.at(&self.path));
        }
        Opener::new(dek)
            .open_vec(&context(&self.format, &self.place, &self.key), &self.sealed)
            .map_err(|_| RecordProblem::BadSeal.at(&self.path))
    }

    /// The body of a record sealed under a key derived from `parent`.
    pub(crate) fn open_derived(&self, parent: &Kek) -> Result<Vec<u8>, RecordError> {
        match &self.key {
            RecordKey::Derived { salt, .. } => self.open(&parent.derive(self.format.magic, salt)),
            RecordKey::Dek(_) => Err(RecordProblem::Damaged("key slot").at(&self.path)),
        }
    }
}

/// For fuzzing: reads an envelope as one of the place that it names itself.
pub(crate) fn check_envelope(stored: &Bytes) {
    let Some(header) = stored.first_chunk::<HEADER_BYTES>() else {
        return;
    };
    let id_at = |at: usize| Id(*header[at..].first_chunk().expect("inside the header"));
    let number = header[NUMBER_AT..]
        .first_chunk()
        .expect("inside the header");
    let place = RecordPlace {
        tenant: TenantId(id_at(TENANT_AT)),
        branch: BranchId(id_at(BRANCH_AT)),
        number: u64::from_le_bytes(*number),
    };
    let format = RecordFormat {
        magic: b"PSMANIFE",
        tag: FormatTag::new(b"MENT", 1),
        kind: BlockKind::ManifestEntry,
    };
    if let Ok(record) = parse(&format, &place, "some", stored) {
        let dek = Dek::from_bytes([7; 32]);
        assert_eq!(record.place, place);
        assert!(record.open(&dek).is_err(), "opened under any key");
    }
}

fn parse(
    format: &RecordFormat,
    expected: &RecordPlace,
    path: &str,
    bytes: &Bytes,
) -> Result<SealedRecord, RecordProblem> {
    let prefix: &[u8; MAGIC_AND_VERSION_BYTES] =
        bytes.first_chunk().ok_or(RecordProblem::OtherFormat)?;
    if prefix[..VERSION_AT] != *format.magic {
        return Err(RecordProblem::OtherFormat);
    }
    let version = u16::from_le_bytes([prefix[VERSION_AT], prefix[VERSION_AT + 1]]);
    if !(1..=format.tag.version).contains(&version) {
        return Err(RecordProblem::UnknownVersion {
            found: version,
            known: format.tag.version,
        });
    }
    let format = RecordFormat {
        tag: FormatTag {
            version,
            ..format.tag
        },
        ..*format
    };
    let header: &[u8; HEADER_BYTES] = bytes
        .first_chunk()
        .ok_or(RecordProblem::Damaged("cut short"))?;
    let u32_at =
        |at: usize| u32::from_le_bytes(*header[at..].first_chunk().expect("inside the header"));
    let id_at = |at: usize| Id(*header[at..].first_chunk().expect("inside the header"));

    let body_bytes = u32_at(BODY_BYTES_AT);
    if body_bytes > BODY_BYTES_MAX {
        return Err(RecordProblem::Damaged("length"));
    }
    let body_bytes = usize::try_from(body_bytes).expect("usize has at least 32 bits");
    let checksum_at = HEADER_BYTES + body_bytes + TAG_BYTES;
    if bytes.len() != checksum_at + CHECKSUM_BYTES {
        return Err(RecordProblem::Damaged("length"));
    }
    if bytes[checksum_at..] != crc32c::crc32c(&bytes[..checksum_at]).to_le_bytes() {
        return Err(RecordProblem::Damaged("checksum"));
    }
    let cipher = u16::from_le_bytes([header[CIPHER_AT], header[CIPHER_AT + 1]]);
    if cipher != CIPHER_ID {
        return Err(RecordProblem::UnknownCipher(cipher));
    }
    let place = RecordPlace {
        tenant: TenantId(id_at(TENANT_AT)),
        branch: BranchId(id_at(BRANCH_AT)),
        number: u64::from_le_bytes(
            *header[NUMBER_AT..]
                .first_chunk()
                .expect("inside the header"),
        ),
    };
    if place != *expected {
        return Err(RecordProblem::Misplaced);
    }
    let salt: [u8; SALT_BYTES] = *header[SALT_AT..].first_chunk().expect("inside the header");
    let (table, slot) = (u32_at(KEY_TABLE_AT), u32_at(KEY_SLOT_AT));
    let key = if slot == DERIVED_SLOT {
        RecordKey::Derived {
            key_epoch: table,
            salt,
        }
    } else if salt == [0; SALT_BYTES] {
        RecordKey::Dek(DekId { table, slot })
    } else {
        return Err(RecordProblem::Damaged("salt"));
    };
    Ok(SealedRecord {
        format,
        path: path.to_owned(),
        place,
        key,
        key_check: *header[KEY_CHECK_AT..]
            .first_chunk()
            .expect("inside the header"),
        sealed: bytes.slice(HEADER_BYTES..checksum_at),
    })
}

/// Most bytes of a body: what a reader is ready to hold in memory for one record.
pub(crate) const BODY_BYTES_MAX: u32 = 32 << 20;

/// Stands where a DEK's slot would for records under a derived key.
pub(crate) const DERIVED_SLOT: u32 = u32::MAX;

const VERSION_AT: usize = 8;
const MAGIC_AND_VERSION_BYTES: usize = VERSION_AT + 2;
const CIPHER_AT: usize = VERSION_AT + 2;
const KEY_TABLE_AT: usize = CIPHER_AT + 2;
const KEY_SLOT_AT: usize = KEY_TABLE_AT + 4;
const BODY_BYTES_AT: usize = KEY_SLOT_AT + 4;
const TENANT_AT: usize = BODY_BYTES_AT + 4;
const BRANCH_AT: usize = TENANT_AT + 16;
const NUMBER_AT: usize = BRANCH_AT + 16;
const KEY_CHECK_AT: usize = NUMBER_AT + 8;
const SALT_AT: usize = KEY_CHECK_AT + KEY_CHECK_BYTES;
const HEADER_BYTES: usize = SALT_AT + SALT_BYTES;
const CHECKSUM_BYTES: usize = 4;
const _: () = assert!(HEADER_BYTES == 112);

#[cfg(test)]
mod tests;
