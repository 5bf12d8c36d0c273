//! One memory layer: versions in order of key and LSN.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{VERSION_BYTES, VersionBatch};
use crate::layer::{Value, ValueKind};
use crate::types::{Key, Lsn};

/// Where a value is.
#[derive(Clone, Copy, Debug)]
struct ValuePlace {
    batch: u32,
    at: u32,
    len: u32,
    kind: ValueKind,
}

/// A version in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryVersion<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) kind: ValueKind,
    pub(crate) value: &'a [u8],
}

/// Versions of keys that one core owns. Frozen by being shared: it never changes then.
#[derive(Debug, Default)]
pub struct MemoryLayer {
    versions: BTreeMap<(Key, Lsn), ValuePlace>,
    batches: Vec<Arc<Vec<u8>>>,
    value_bytes: usize,
}

impl MemoryLayer {
    /// Takes a batch. Of versions with the same key and LSN the one that came last stays.
    pub(crate) fn take(&mut self, batch: VersionBatch) {
        let number = u32::try_from(self.batches.len()).expect("batches are few");
        let (values, versions) = batch.into_parts();
        self.value_bytes += values.len();
        self.batches.push(Arc::new(values));
        for version in versions {
            let place = ValuePlace {
                batch: number,
                at: version.at,
                len: version.len,
                kind: version.kind,
            };
            self.versions.insert((version.key, version.lsn), place);
        }
    }

    /// Puts an image in the place of a delta with its key and LSN; whether there was one.
    pub(crate) fn replace_by_image(&mut self, key: &Key, lsn: Lsn, image: &[u8]) -> bool {
        let Some(place) = self.versions.get_mut(&(*key, lsn)) else {
            return false;
        };
        if place.kind == ValueKind::Image {
            return false;
        }
        *place = ValuePlace {
            batch: u32::try_from(self.batches.len()).expect("batches are few"),
            at: 0,
            len: u32::try_from(image.len()).expect("an image is at most a page"),
            kind: ValueKind::Image,
        };
        self.value_bytes += image.len();
        self.batches.push(Arc::new(image.to_vec()));
        true
    }

    /// Whether it has no versions.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Memory in use, in bytes, within a tenth.
    pub fn bytes(&self) -> usize {
        self.value_bytes + self.versions.len() * VERSION_BYTES
    }

    /// The versions of a key at or below `at`, newest first.
    pub(crate) fn back_from(
        &self,
        key: &Key,
        at: Lsn,
    ) -> impl Iterator<Item = MemoryVersion<'_>> + use<'_> {
        let range = (*key, Lsn::INVALID)..=(*key, at);
        self.versions
            .range(range)
            .rev()
            .map(|((_, lsn), place)| MemoryVersion {
                lsn: *lsn,
                kind: place.kind,
                value: self.value(place),
            })
    }

    /// Adds the keys in `from..=to` that have a version at or below `at`.
    pub(crate) fn keys_between(&self, from: Key, to: Key, at: Lsn, keys: &mut BTreeSet<Key>) {
        let range = (from, Lsn::INVALID)..=(to, Lsn::MAX);
        let found = self
            .versions
            .range(range)
            .filter(|((_, lsn), _)| *lsn <= at);
        keys.extend(found.map(|((key, _), _)| *key));
    }

    /// All versions, in order of key and LSN, with the buffer each value is in.
    pub(crate) fn versions(&self) -> impl Iterator<Item = SharedVersion<'_>> {
        self.versions
            .iter()
            .map(|((key, lsn), place)| SharedVersion {
                key: *key,
                lsn: *lsn,
                kind: place.kind,
                buffer: place.batch as usize,
                at: place.at as usize,
                value: self.value(place),
            })
    }

    /// The buffers that values are in.
    pub(crate) fn buffers(&self) -> &[Arc<Vec<u8>>] {
        &self.batches
    }

    fn value(&self, place: &ValuePlace) -> &[u8] {
        let at = place.at as usize;
        &self.batches[place.batch as usize][at..at + place.len as usize]
    }
}

/// A version of a frozen memory layer, and where its value is.
pub(crate) struct SharedVersion<'a> {
    pub(crate) key: Key,
    pub(crate) lsn: Lsn,
    pub(crate) kind: ValueKind,
    /// Number of the buffer among [`MemoryLayer::buffers`].
    pub(crate) buffer: usize,
    /// Where the value begins in it.
    pub(crate) at: usize,
    pub(crate) value: &'a [u8],
}

impl<'a> SharedVersion<'a> {
    /// As it was put.
    pub(crate) fn as_value(&self) -> Value<'a> {
        match self.kind {
            ValueKind::Image => Value::Image(self.value),
            ValueKind::Delta => Value::Delta(self.value),
        }
    }
}
