//! A pack, version 1: several small values of one stripe in one block, in order of key and LSN.
//!
//! The body (see `block.rs`) is a run of entries, at most 8 KiB in all:
//!
//! |  at | bytes | field       | meaning                                                              |
//! |----:|------:|-------------|----------------------------------------------------------------------|
//! |   0 |    24 | key         |                                                                      |
//! |  24 |     8 | lsn         |                                                                      |
//! |  32 |     1 | kind        | 0 image, 1 delta                                                     |
//! |  33 |     1 | reserved    | zero                                                                 |
//! |  34 |     2 | value_bytes |                                                                      |
//! |  36 |     … | value       |                                                                      |
//!
//! Keys are whole, not as differences: lz4 takes out what neighbours share.

use super::block::{BlockContents, BlockPlace, BlockScratch, ValueKind, open_decoded};
use super::format::{Fields, LayerId};
use super::{LayerError, Part};
use crate::crypto::page_seal::Opener;
use crate::types::{Key, Lsn, PAGE_BYTES};

/// Bytes before an entry's value.
pub(super) const PACK_ENTRY_HEADER_BYTES: usize = 36;

/// The longest value that fits a pack.
pub(super) const PACK_VALUE_BYTES_MAX: usize = PAGE_BYTES - PACK_ENTRY_HEADER_BYTES;

const KIND_IMAGE: u8 = 0;
const KIND_DELTA: u8 = 1;

/// One value of a pack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PackEntry<'a> {
    /// Its key.
    pub key: Key,
    /// Its LSN.
    pub lsn: Lsn,
    /// Image or delta.
    pub kind: ValueKind,
    /// The value as it was given.
    pub value: &'a [u8],
}

impl std::fmt::Debug for PackEntry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackEntry({:?}, {} bytes)", self.kind, self.value.len())
    }
}

/// An opened pack, checked to be in order and within what its directory says.
pub struct Pack<'a> {
    part: Part,
    body: &'a [u8],
}

impl std::fmt::Debug for Pack<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pack({}, {} bytes)", self.part, self.body.len())
    }
}

/// Opens the pack at `place` in the scratch. `sealed` is `extent[place.range()]`. Allocates nothing.
///
/// # Errors
/// As [`super::open_block`].
///
/// # Panics
/// If `place` is not a pack.
pub fn open_pack<'a>(
    opener: &Opener,
    layer: &LayerId,
    place: &BlockPlace,
    sealed: &[u8],
    scratch: &'a mut BlockScratch,
) -> Result<Pack<'a>, LayerError> {
    assert!(place.contents == BlockContents::Pack, "a pack");
    let part = place.part();
    let body = open_decoded(opener, layer, place, sealed, scratch)?;
    let pack = Pack { part, body };
    pack.check(place)?;
    Ok(pack)
}

impl<'a> Pack<'a> {
    /// Its values, in order of key and LSN.
    pub fn entries(&self) -> impl Iterator<Item = PackEntry<'a>> + Clone + use<'a> {
        let (part, mut rest) = (self.part, self.body);
        std::iter::from_fn(move || {
            (!rest.is_empty())
                .then(|| take_entry(part, &mut rest).expect("every entry was read when opening"))
        })
    }

    /// The newest version of `key` at or below `lsn`, if the pack has one.
    pub fn newest(&self, key: &Key, lsn: Lsn) -> Option<PackEntry<'a>> {
        self.entries()
            .take_while(|entry| entry.key <= *key)
            .filter(|entry| entry.key == *key && entry.lsn <= lsn)
            .last()
    }

    fn check(&self, place: &BlockPlace) -> Result<(), LayerError> {
        let mut rest = self.body;
        let mut before: Option<(Key, Lsn)> = None;
        let (mut lowest, mut highest) = (Lsn::MAX, Lsn(0));
        while !rest.is_empty() {
            let entry = take_entry(self.part, &mut rest)?;
            let here = (entry.key, entry.lsn);
            match before {
                None if entry.key != place.first_key => {
                    return Err(LayerError::OtherContent { part: self.part });
                }
                Some(before) if before >= here => {
                    return Err(LayerError::malformed(self.part, "a pack out of order"));
                }
                _ => before = Some(here),
            }
            lowest = lowest.min(entry.lsn);
            highest = highest.max(entry.lsn);
        }
        let last_key = before.map(|(key, _)| key);
        if last_key != Some(place.last_key)
            || lowest != place.first_lsn
            || highest != place.last_lsn
        {
            return Err(LayerError::OtherContent { part: self.part });
        }
        Ok(())
    }
}

fn take_entry<'a>(part: Part, rest: &mut &'a [u8]) -> Result<PackEntry<'a>, LayerError> {
    let mut fields = Fields::new(part, rest, rest.len())?;
    let (key, lsn) = (fields.key()?, fields.lsn()?);
    let kind = match fields.u8()? {
        KIND_IMAGE => ValueKind::Image,
        KIND_DELTA => ValueKind::Delta,
        _ => return Err(LayerError::malformed(part, "unknown kind of value")),
    };
    fields.reserved(1)?;
    let value_bytes = usize::from(fields.u16()?);
    let value = fields.bytes(value_bytes)?;
    *rest = &rest[PACK_ENTRY_HEADER_BYTES + value_bytes..];
    Ok(PackEntry {
        key,
        lsn,
        kind,
        value,
    })
}

/// Appends an entry to the body of a pack that is being made.
pub(super) fn put_entry(body: &mut Vec<u8>, key: &Key, lsn: Lsn, kind: ValueKind, value: &[u8]) {
    body.extend_from_slice(&key.0);
    body.extend_from_slice(&lsn.0.to_le_bytes());
    let kind = match kind {
        ValueKind::Image => KIND_IMAGE,
        ValueKind::Delta => KIND_DELTA,
    };
    body.extend_from_slice(&[kind, 0]);
    let value_bytes = u16::try_from(value.len()).expect("a packed value fits its block");
    body.extend_from_slice(&value_bytes.to_le_bytes());
    body.extend_from_slice(value);
    assert!(body.len() <= PAGE_BYTES, "the body of a pack fits a page");
}
