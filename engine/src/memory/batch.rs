//! Versions on their way into a memory layer.

use super::VERSION_BYTES;
use crate::layer::{Value, ValueKind};
use crate::types::{Key, Lsn, PAGE_BYTES};

/// Versions on their way to the core that owns their keys.
#[derive(Debug, Default)]
pub struct VersionBatch {
    values: Vec<u8>,
    versions: Vec<BatchedVersion>,
}

/// One of them; its value is `len` bytes of the batch's from `at` on.
#[derive(Debug)]
pub(super) struct BatchedVersion {
    pub(super) key: Key,
    pub(super) lsn: Lsn,
    pub(super) kind: ValueKind,
    pub(super) at: u32,
    pub(super) len: u32,
}

impl VersionBatch {
    /// Adds a version.
    ///
    /// # Panics
    /// If the value is longer than a page, the LSN is none, or the batch passes 2 GiB.
    pub fn push(&mut self, key: Key, lsn: Lsn, value: Value<'_>) {
        let (kind, bytes) = value.parts();
        assert!(lsn.is_valid(), "a version has an LSN");
        assert!(bytes.len() <= PAGE_BYTES, "values are at most a page");
        let narrow = |n: usize| u32::try_from(n).expect("batches are far below 2 GiB");
        self.versions.push(BatchedVersion {
            key,
            lsn,
            kind,
            at: narrow(self.values.len()),
            len: narrow(bytes.len()),
        });
        self.values.extend_from_slice(bytes);
    }

    /// Keys, kinds and values, in the order in which they were pushed.
    pub(super) fn values(&self) -> impl Iterator<Item = (Key, ValueKind, &[u8])> {
        self.versions.iter().map(|version| {
            let at = version.at as usize;
            let value = &self.values[at..at + version.len as usize];
            (version.key, version.kind, value)
        })
    }

    /// Its values, one behind the other, and its versions.
    pub(super) fn into_parts(self) -> (Vec<u8>, Vec<BatchedVersion>) {
        (self.values, self.versions)
    }

    /// Whether it has no versions.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// What it will take in a memory layer, in bytes.
    pub fn bytes(&self) -> usize {
        self.values.len() + self.versions.len() * VERSION_BYTES
    }
}
