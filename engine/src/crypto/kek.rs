//! Key-encryption keys, and their record in the store, version 1. Little-endian.
//!
//! A KEK never seals data itself: every use derives a key of its own (HMAC-SHA-256 under the KEK, over a label and
//! a salt drawn for this one record), so no two records share a key and no nonce can repeat.
//!
//! |      at |  bytes | field          | meaning                                                     |
//! |--------:|-------:|----------------|-------------------------------------------------------------|
//! |       0 |      8 | magic          | [`MAGIC`]                                                   |
//! |       8 |      2 | version        | 1                                                           |
//! |      10 |      2 | provider_bytes | length of the provider's name, 1..=255                      |
//! |      12 |      2 | key_id_bytes   | length of the CMK's id, 1..=2,048                           |
//! |      14 |      2 | wrapped_bytes  | length of the wrapped KEK, 1..=16,384                       |
//! |      16 |     16 | tenant         | whose KEK                                                   |
//! |      32 |     16 | branch         | the branch, if it has a KEK of its own, else zeros          |
//! |      48 |      4 | kek_epoch      | grows with each rotation, from 1                            |
//! |      52 |      4 | zero           | a reader refuses other values                               |
//! |      56 |     16 | key_check      | tells a wrong KEK from a damaged record                     |
//! |      72 |    ... | texts          | provider, key id, wrapped KEK, one behind the other         |
//! |    last |      4 | checksum       | CRC-32C of everything before                                |
//!
//! The record is not sealed: it names no customer and its secret is wrapped. Tenant and branch are bound by the
//! provider's encryption context.

use std::fmt;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::entropy::Entropy;
use super::key_provider::{EncryptionContext, WrappedKek};
use super::page_seal::Dek;
use super::sealed_record::{RecordError, RecordProblem};
use crate::types::{BranchId, Id, TenantId};

/// Bytes of a KEK, and of the keys derived from it.
pub const KEK_BYTES: usize = 32;

/// Bytes of the salt of a derived key.
pub const SALT_BYTES: usize = 32;

/// Bytes of a key-check value.
pub const KEY_CHECK_BYTES: usize = 16;

/// A key that only derives other keys: a tenant's KEK, or the key of its names. Wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Kek([u8; KEK_BYTES]);

impl Kek {
    /// A fresh one.
    pub fn draw(entropy: &Entropy) -> Kek {
        Kek(*entropy.draw_secret())
    }

    /// The KEK of these bytes; the caller wipes its own copy.
    pub fn from_bytes(bytes: [u8; KEK_BYTES]) -> Kek {
        Kek(bytes)
    }

    /// The bytes, for a provider to wrap. Never to be logged or stored in the clear.
    pub fn expose(&self) -> &[u8; KEK_BYTES] {
        &self.0
    }

    /// The key of one record: nothing else is ever sealed with it, since `salt` is drawn for that record.
    pub(crate) fn derive(&self, label: &[u8; 8], salt: &[u8; SALT_BYTES]) -> Dek {
        Dek::from_bytes(*self.mac(b"record key 1", &[label, salt]))
    }

    /// A value that names `text` for those who have the key, and tells others nothing.
    pub(crate) fn keyed_hash(&self, text: &[u8]) -> [u8; 16] {
        let mac = self.mac(b"keyed hash 1", &[text]);
        *mac.first_chunk().expect("a MAC has 32 bytes")
    }

    /// Commits to the key without telling it.
    pub fn key_check_value(&self) -> [u8; KEY_CHECK_BYTES] {
        let mac = self.mac(b"key check 1", &[]);
        *mac.first_chunk().expect("a MAC has 32 bytes")
    }

    /// HMAC-SHA-256 over a purpose, which no other purpose is a prefix of thanks to its length, and `parts` of
    /// which only the last may vary in length.
    fn mac(&self, purpose: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        let purpose_bytes = u8::try_from(purpose.len()).expect("purposes are short");
        mac.update(&[purpose_bytes]);
        mac.update(purpose);
        parts.iter().for_each(|part| mac.update(part));
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(..)")
    }
}

/// A wrapped KEK as the store keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KekRecord {
    /// What the wrapping is bound to.
    pub context: EncryptionContext,
    /// Grows with each rotation, from 1.
    pub kek_epoch: u32,
    /// The provider's name.
    pub provider: String,
    /// What the provider gave back.
    pub wrapped: WrappedKek,
    /// Of the KEK.
    pub key_check: [u8; KEY_CHECK_BYTES],
}

impl KekRecord {
    /// The bytes to store.
    ///
    /// # Panics
    /// If a text is empty or longer than the format allows, which no provider may give.
    pub fn encode(&self) -> Bytes {
        let texts: [(&[u8], u16); 3] = [
            (self.provider.as_bytes(), PROVIDER_BYTES_MAX),
            (self.wrapped.key_id.as_bytes(), KEY_ID_BYTES_MAX),
            (&self.wrapped.bytes, WRAPPED_BYTES_MAX),
        ];
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for (text, bytes_max) in texts {
            let bytes = u16::try_from(text.len())
                .ok()
                .filter(|bytes| (1..=bytes_max).contains(bytes))
                .expect("providers keep to the lengths that their trait states");
            out.extend_from_slice(&bytes.to_le_bytes());
        }
        out.extend_from_slice(&self.context.tenant.0.0);
        let branch = self.context.branch.map_or([0; 16], |branch| branch.0.0);
        out.extend_from_slice(&branch);
        out.extend_from_slice(&self.kek_epoch.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.key_check);
        debug_assert_eq!(out.len(), HEADER_BYTES);
        texts
            .iter()
            .for_each(|(text, _)| out.extend_from_slice(text));
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.into()
    }

    /// The record in `bytes`, read from `path`.
    pub fn decode(path: &str, bytes: &[u8]) -> Result<KekRecord, RecordError> {
        decode(bytes).map_err(|problem| problem.at(path))
    }
}

fn decode(bytes: &[u8]) -> Result<KekRecord, RecordProblem> {
    let damaged = RecordProblem::Damaged;
    let field = |at: usize, len: usize| {
        bytes
            .get(at..at + len)
            .ok_or(RecordProblem::Damaged("cut short"))
    };
    let u16_at = |at| {
        field(at, 2).map(|b| u16::from_le_bytes(*b.first_chunk().expect("field has two bytes")))
    };
    let u32_at = |at| {
        field(at, 4).map(|b| u32::from_le_bytes(*b.first_chunk().expect("field has four bytes")))
    };
    let id_at = |at| field(at, 16).map(|b| Id(*b.first_chunk().expect("field has 16 bytes")));

    if field(0, MAGIC.len())? != MAGIC {
        return Err(RecordProblem::OtherFormat);
    }
    let version = u16_at(VERSION_AT)?;
    if version != VERSION {
        return Err(RecordProblem::UnknownVersion {
            found: version,
            known: VERSION,
        });
    }
    let (provider_bytes, key_id_bytes, wrapped_bytes) = (
        u16_at(PROVIDER_BYTES_AT)?,
        u16_at(KEY_ID_BYTES_AT)?,
        u16_at(WRAPPED_BYTES_AT)?,
    );
    let total = HEADER_BYTES
        + usize::from(provider_bytes)
        + usize::from(key_id_bytes)
        + usize::from(wrapped_bytes);
    if bytes.len() != total + CHECKSUM_BYTES {
        return Err(damaged("length"));
    }
    if u32_at(total)? != crc32c::crc32c(&bytes[..total]) {
        return Err(damaged("checksum"));
    }
    let in_range = (1..=PROVIDER_BYTES_MAX).contains(&provider_bytes)
        && (1..=KEY_ID_BYTES_MAX).contains(&key_id_bytes)
        && (1..=WRAPPED_BYTES_MAX).contains(&wrapped_bytes);
    if !in_range || u32_at(ZERO_AT)? != 0 {
        return Err(damaged("header"));
    }
    let (provider, rest) = bytes[HEADER_BYTES..total].split_at(usize::from(provider_bytes));
    let (key_id, wrapped) = rest.split_at(usize::from(key_id_bytes));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| damaged("text"));
    let branch = id_at(BRANCH_AT)?;
    Ok(KekRecord {
        context: EncryptionContext {
            tenant: TenantId(id_at(TENANT_AT)?),
            branch: (branch != Id([0; 16])).then_some(BranchId(branch)),
        },
        kek_epoch: u32_at(EPOCH_AT)?,
        provider: text(provider)?,
        wrapped: WrappedKek {
            key_id: text(key_id)?,
            bytes: wrapped.to_vec(),
        },
        key_check: *field(KEY_CHECK_AT, KEY_CHECK_BYTES)?
            .first_chunk()
            .expect("field has 16 bytes"),
    })
}

/// The first bytes of every KEK record.
pub const MAGIC: &[u8; 8] = b"PSKEKREC";
const VERSION: u16 = 1;

const PROVIDER_BYTES_MAX: u16 = 255;
const KEY_ID_BYTES_MAX: u16 = 2048;
const WRAPPED_BYTES_MAX: u16 = 16 << 10;

const VERSION_AT: usize = 8;
const PROVIDER_BYTES_AT: usize = VERSION_AT + 2;
const KEY_ID_BYTES_AT: usize = PROVIDER_BYTES_AT + 2;
const WRAPPED_BYTES_AT: usize = KEY_ID_BYTES_AT + 2;
const TENANT_AT: usize = WRAPPED_BYTES_AT + 2;
const BRANCH_AT: usize = TENANT_AT + 16;
const EPOCH_AT: usize = BRANCH_AT + 16;
const ZERO_AT: usize = EPOCH_AT + 4;
const KEY_CHECK_AT: usize = ZERO_AT + 4;
const HEADER_BYTES: usize = KEY_CHECK_AT + KEY_CHECK_BYTES;
const CHECKSUM_BYTES: usize = 4;
const _: () = assert!(HEADER_BYTES == 72);
