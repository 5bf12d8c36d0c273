//! The seal: AES-256-GCM-SIV (RFC 8452) under a key of one object, with associated data that names the place.
//!
//! **Nonce**, 12 bytes: block kind (u32) and block number (u64), little-endian. A key seals the blocks of one
//! object and of one attempt to write it, and a writer gives each pair of kind and number once, so no nonce
//! repeats under a key; the argument does not lean on GCM-SIV's misuse resistance and would hold for GCM. Records
//! sealed under a longer-lived key (a KEK) have no such owner: they take a random number, and there the misuse
//! resistance is what covers the birthday bound.
//!
//! **Associated data**, 128 bytes, never stored:
//!
//! |  at | bytes | field      | meaning                                                            |
//! |----:|------:|------------|--------------------------------------------------------------------|
//! |   0 |     4 | format     | four letters of the format                                         |
//! |   4 |     2 | version    | its version                                                        |
//! |   6 |     2 | cipher     | [`CIPHER_ID`]                                                      |
//! |   8 |    16 | tenant     | whose data it is                                                   |
//! |  24 |    16 | branch     | that wrote the object (not the one that reads it)                  |
//! |  40 |     4 | epoch      | of the writer                                                      |
//! |  44 |     4 | kind       | [`BlockKind`]                                                      |
//! |  48 |     8 | sequence   | of the object                                                      |
//! |  56 |     8 | number     | of the block among those of its kind                               |
//! |  64 |    24 | first_key  | lowest key in the block; where a block is not about keys, zeros or what its format says |
//! |  88 |    24 | last_key   | highest key                                                        |
//! | 112 |     8 | first_lsn  | lowest LSN in the block; zero where it is not about versions       |
//! | 120 |     8 | last_lsn   | highest LSN                                                        |
//!
//! A block moved to another place, object, branch or tenant, or read as another kind or format version does not
//! open. All of it has a fixed width, so no two contexts have the same bytes.
//!
//! **Key commitment.** The seal alone does not commit to its key: who knows two keys can make one ciphertext that
//! opens under both. [`Dek::key_check_value`] does commit (its message, nonce and associated data are fixed, which
//! leaves nothing to choose but the key), and tells a wrong key from a damaged block.

use std::fmt;

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::{AeadInOut, Aes256GcmSiv, KeyInit, Nonce, Tag};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::types::{KEY_BYTES, Key, Lsn, ObjectId, TenantId};

/// Bytes of the tag that a seal adds.
pub const TAG_BYTES: usize = 16;

/// Bytes of a data key.
pub const DEK_BYTES: usize = 32;

/// The one cipher of these formats: AES-256-GCM-SIV. Other numbers are refused.
pub const CIPHER_ID: u16 = 1;

/// A key that seals blocks. Zeroized when dropped; share it by reference or `Arc`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Dek([u8; DEK_BYTES]);

impl Dek {
    /// A fresh key from the operating system's generator.
    ///
    /// # Panics
    /// If the operating system has no randomness, which it does not outlive either.
    pub fn draw() -> Dek {
        let mut dek = Dek([0; DEK_BYTES]);
        getrandom::fill(&mut dek.0).expect("the operating system's generator works once booted");
        dek
    }

    /// The key with these bytes. The caller wipes its own copy.
    pub fn from_bytes(bytes: [u8; DEK_BYTES]) -> Dek {
        Dek(bytes)
    }

    /// The bytes, for wrapping under another key. Never to be logged or stored in the clear.
    pub(crate) fn expose(&self) -> &[u8; DEK_BYTES] {
        &self.0
    }

    /// Commits to this key without telling it: the tag of the empty message under the reserved nonce kind
    /// [`BlockKind::KeyCheck`] and fixed associated data. Stored in the clear beside the key's id. Costs a
    /// key schedule and one seal, about half a microsecond.
    pub fn key_check_value(&self) -> [u8; TAG_BYTES] {
        let nonce = nonce(BlockKind::KeyCheck, 0);
        let tag = self
            .cipher()
            .encrypt_inout_detached(&nonce, KEY_CHECK_TEXT, (&mut [][..]).into())
            .expect("an empty message is not too long");
        tag.into()
    }

    fn cipher(&self) -> Aes256GcmSiv {
        Aes256GcmSiv::new((&self.0).into())
    }
}

impl fmt::Debug for Dek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dek(..)")
    }
}

/// Where a wrapped DEK is found: key table and slot. It stays the same when the table is wrapped anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DekId {
    /// Number of the branch's key table.
    pub table: u32,
    /// Slot in it.
    pub slot: u32,
}

/// Four letters that name a stored format, and its version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FormatTag {
    /// The letters, as a little-endian number.
    pub tag: u32,
    /// The version.
    pub version: u16,
}

impl FormatTag {
    /// The tag of a format.
    pub const fn new(letters: &[u8; 4], version: u16) -> FormatTag {
        FormatTag {
            tag: u32::from_le_bytes(*letters),
            version,
        }
    }
}

/// What a sealed block is. The numbers are part of every nonce: fixed for ever, never given again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum BlockKind {
    /// Reserved for [`Dek::key_check_value`]; seals nothing else.
    KeyCheck = 0,
    /// The directory of a layer's extent; number: the extent's.
    LayerDirectory = 1,
    /// An image or a pack of a layer.
    LayerBlock = 2,
    /// The index of a layer; number 0.
    LayerIndex = 3,
    /// An entry of a manifest.
    ManifestEntry = 4,
    /// The root of a manifest's snapshot.
    SnapshotRoot = 5,
    /// An inner or leaf node of a manifest's snapshot.
    SnapshotNode = 6,
    /// A table of wrapped DEKs.
    KeyTable = 7,
    /// A wrapped KEK.
    KekRecord = 8,
    /// What a tenant is called.
    TenantRecord = 9,
    /// Which branch a name means.
    NameRecord = 10,
    /// A piece of WAL.
    WalChunk = 11,
    /// A frame of the local WAL.
    WalFrame = 12,
    /// The header of a segment of the local WAL.
    WalSegment = 13,
}

/// Everything a seal binds a block to. See the module's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockContext {
    /// Format and version.
    pub format: FormatTag,
    /// Cipher; [`CIPHER_ID`] is the only one there is.
    pub cipher: u16,
    /// Whose data it is.
    pub tenant: TenantId,
    /// The object the block belongs to.
    pub object: ObjectId,
    /// What it is.
    pub kind: BlockKind,
    /// Which of its kind in the object.
    pub number: u64,
    /// Lowest key in it.
    pub first_key: Key,
    /// Highest key in it.
    pub last_key: Key,
    /// Lowest LSN in it.
    pub first_lsn: Lsn,
    /// Highest LSN in it.
    pub last_lsn: Lsn,
}

impl BlockContext {
    /// A block that is not about keys and versions: those fields are zero.
    pub fn unkeyed(
        format: FormatTag,
        tenant: TenantId,
        object: ObjectId,
        kind: BlockKind,
        number: u64,
    ) -> BlockContext {
        BlockContext {
            format,
            cipher: CIPHER_ID,
            tenant,
            object,
            kind,
            number,
            first_key: Key::MIN,
            last_key: Key::MIN,
            first_lsn: Lsn(0),
            last_lsn: Lsn(0),
        }
    }

    /// The associated data, on the stack.
    pub fn associated_data(&self) -> [u8; ASSOCIATED_BYTES] {
        let mut data = [0; ASSOCIATED_BYTES];
        data[FORMAT_AT..VERSION_AT].copy_from_slice(&self.format.tag.to_le_bytes());
        data[VERSION_AT..CIPHER_AT].copy_from_slice(&self.format.version.to_le_bytes());
        data[CIPHER_AT..TENANT_AT].copy_from_slice(&self.cipher.to_le_bytes());
        data[TENANT_AT..BRANCH_AT].copy_from_slice(&self.tenant.0.0);
        data[BRANCH_AT..EPOCH_AT].copy_from_slice(&self.object.branch.0.0);
        data[EPOCH_AT..KIND_AT].copy_from_slice(&self.object.epoch.to_le_bytes());
        data[KIND_AT..SEQUENCE_AT].copy_from_slice(&(self.kind as u32).to_le_bytes());
        data[SEQUENCE_AT..NUMBER_AT].copy_from_slice(&self.object.sequence.to_le_bytes());
        data[NUMBER_AT..FIRST_KEY_AT].copy_from_slice(&self.number.to_le_bytes());
        data[FIRST_KEY_AT..LAST_KEY_AT].copy_from_slice(&self.first_key.0);
        data[LAST_KEY_AT..FIRST_LSN_AT].copy_from_slice(&self.last_key.0);
        data[FIRST_LSN_AT..LAST_LSN_AT].copy_from_slice(&self.first_lsn.0.to_le_bytes());
        data[LAST_LSN_AT..].copy_from_slice(&self.last_lsn.0.to_le_bytes());
        data
    }
}

/// A block did not open: another key, another place, or changed bytes. Which of these, the seal can't say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("seal of {kind:?} {number} of object {}-{} does not open", object.epoch, object.sequence)]
pub struct BadSeal {
    /// What was to be opened.
    pub kind: BlockKind,
    /// Which of its kind.
    pub number: u64,
    /// The object it was taken for.
    pub object: ObjectId,
}

/// Seals the blocks of one object. Holds the key's schedule, made once.
pub struct Sealer(Aes256GcmSiv);

impl Sealer {
    /// A sealer under `dek`.
    pub fn new(dek: &Dek) -> Sealer {
        Sealer(dek.cipher())
    }

    /// Encrypts `buf` where it is and returns the tag. Does not allocate. Each pair of kind and number is to be
    /// sealed once under a key.
    pub fn seal_in_place(&self, context: &BlockContext, buf: &mut [u8]) -> [u8; TAG_BYTES] {
        self.0
            .encrypt_inout_detached(
                &nonce(context.kind, context.number),
                &context.associated_data(),
                buf.into(),
            )
            .expect("no block is near the cipher's 64 GiB")
            .into()
    }

    /// The ciphertext of a small record with its tag behind it.
    pub fn seal_vec(&self, context: &BlockContext, plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(plaintext.len() + TAG_BYTES);
        sealed.extend_from_slice(plaintext);
        let tag = self.seal_in_place(context, &mut sealed);
        sealed.extend_from_slice(&tag);
        sealed
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

/// Opens the blocks of one object. Holds the key's schedule, made once; share it by `Rc` or `Arc`.
pub struct Opener(Aes256GcmSiv);

impl Opener {
    /// An opener under `dek`.
    pub fn new(dek: &Dek) -> Opener {
        Opener(dek.cipher())
    }

    /// Decrypts `buf` where it is and checks it. Does not allocate. If it does not open, `buf` holds the
    /// ciphertext again.
    pub fn open_in_place(
        &self,
        context: &BlockContext,
        buf: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), BadSeal> {
        self.open(context, buf.into(), tag)
    }

    /// Decrypts `sealed` (ciphertext with its tag behind it) to the start of `out` and returns the plaintext's
    /// bytes: no copy is made before decrypting. If it does not open, `out` holds zeros.
    ///
    /// # Panics
    /// If `out` is shorter than the plaintext.
    pub fn open_into(
        &self,
        context: &BlockContext,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, BadSeal> {
        let (ciphertext, tag) = sealed
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(context.bad_seal())?;
        let out = &mut out[..ciphertext.len()];
        let both = InOutBuf::new(ciphertext, out).expect("both have the same length");
        if let Err(bad) = self.open(context, both, tag) {
            // The cipher takes back what it decrypted only when it works in place.
            out.fill(0);
            return Err(bad);
        }
        Ok(ciphertext.len())
    }

    /// The plaintext of what [`Sealer::seal_vec`] made.
    pub fn open_vec(&self, context: &BlockContext, sealed: &[u8]) -> Result<Vec<u8>, BadSeal> {
        let mut plaintext = vec![0; sealed.len().saturating_sub(TAG_BYTES)];
        self.open_into(context, sealed, &mut plaintext)?;
        Ok(plaintext)
    }

    fn open(
        &self,
        context: &BlockContext,
        buf: InOutBuf<'_, '_, u8>,
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), BadSeal> {
        self.0
            .decrypt_inout_detached(
                &nonce(context.kind, context.number),
                &context.associated_data(),
                buf,
                &Tag::from(*tag),
            )
            .map_err(|_| context.bad_seal())
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener(..)")
    }
}

impl BlockContext {
    fn bad_seal(&self) -> BadSeal {
        BadSeal {
            kind: self.kind,
            number: self.number,
            object: self.object,
        }
    }
}

fn nonce(kind: BlockKind, number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&(kind as u32).to_le_bytes());
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    nonce.into()
}

const KEY_CHECK_TEXT: &[u8] = b"pageserver key check value 1";

const FORMAT_AT: usize = 0;
const VERSION_AT: usize = FORMAT_AT + 4;
const CIPHER_AT: usize = VERSION_AT + 2;
const TENANT_AT: usize = CIPHER_AT + 2;
const BRANCH_AT: usize = TENANT_AT + 16;
const EPOCH_AT: usize = BRANCH_AT + 16;
const KIND_AT: usize = EPOCH_AT + 4;
const SEQUENCE_AT: usize = KIND_AT + 4;
const NUMBER_AT: usize = SEQUENCE_AT + 8;
const FIRST_KEY_AT: usize = NUMBER_AT + 8;
const LAST_KEY_AT: usize = FIRST_KEY_AT + KEY_BYTES;
const FIRST_LSN_AT: usize = LAST_KEY_AT + KEY_BYTES;
const LAST_LSN_AT: usize = FIRST_LSN_AT + 8;

/// Bytes of the associated data.
pub const ASSOCIATED_BYTES: usize = LAST_LSN_AT + 8;
const _: () = assert!(ASSOCIATED_BYTES == 128);

#[cfg(test)]
mod tests;
