//! The memory layers of one branch on one core: the active one and those that are frozen.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{MemoryLayer, MemoryVersion, VersionBatch};
use crate::types::{Key, Lsn};

/// What a core has of one branch in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryLayers {
    active: MemoryLayer,
    /// Oldest first; few, since whoever freezes waits for the one before.
    frozen: Vec<Arc<MemoryLayer>>,
}

impl MemoryLayers {
    pub(crate) fn take(&mut self, batch: VersionBatch) {
        self.active.take(batch);
    }

    /// Bytes of the active one.
    pub(crate) fn active_bytes(&self) -> usize {
        self.active.bytes()
    }

    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> usize {
        let frozen = self.frozen.iter().map(|layer| layer.bytes());
        self.active.bytes() + frozen.sum::<usize>()
    }

    /// Puts an image in the place of a delta of the active one; whether there was such a delta.
    pub(crate) fn replace_by_image(&mut self, key: &Key, lsn: Lsn, image: &[u8]) -> bool {
        self.active.replace_by_image(key, lsn, image)
    }

    /// The newest version of a key in the active one.
    pub(crate) fn newest_active(&self, key: &Key) -> Option<Lsn> {
        self.active
            .back_from(key, Lsn::MAX)
            .next()
            .map(|version| version.lsn)
    }

    /// Freezes the active one and begins another.
    pub(crate) fn freeze(&mut self) -> Arc<MemoryLayer> {
        let frozen = Arc::new(std::mem::take(&mut self.active));
        self.frozen.push(Arc::clone(&frozen));
        frozen
    }

    /// Makes one active layer of all that is above an LSN: nobody is sealing the frozen ones any more, and what is at or below
    /// is in layers. Values are copied, so that buffers of which little is left go.
    pub(crate) fn thaw(&mut self, above: Lsn) {
        let frozen = std::mem::take(&mut self.frozen);
        let active = std::mem::take(&mut self.active);
        let mut batch = VersionBatch::default();
        for layer in frozen.iter().map(AsRef::as_ref).chain([&active]) {
            for version in layer.versions().filter(|version| version.lsn > above) {
                batch.push(version.key, version.lsn, version.as_value());
                if batch.bytes() >= THAWED_BYTES {
                    self.active.take(std::mem::take(&mut batch));
                }
            }
        }
        self.active.take(batch);
    }

    /// Lets go of the oldest frozen one: a layer has its versions.
    pub(crate) fn drop_oldest_frozen(&mut self) {
        if !self.frozen.is_empty() {
            self.frozen.remove(0);
        }
    }

    /// The versions of a key at or below `at`, newest first. Layers here do not overlap in time: a key's versions come
    /// in ascending order.
    pub(crate) fn back_from(
        &self,
        key: &Key,
        at: Lsn,
    ) -> impl Iterator<Item = MemoryVersion<'_>> + use<'_> {
        let (key, newest) = (*key, std::iter::once(&self.active));
        let layers = newest.chain(self.frozen.iter().rev().map(AsRef::as_ref));
        layers.flat_map(move |layer| layer.back_from(&key, at))
    }

    /// As [`MemoryLayer::keys_between`].
    pub(crate) fn keys_between(&self, from: Key, to: Key, at: Lsn, keys: &mut BTreeSet<Key>) {
        self.active.keys_between(from, to, at, keys);
        for layer in &self.frozen {
            layer.keys_between(from, to, at, keys);
        }
    }
}

/// Versions that are copied into one buffer when layers are thawed.
const THAWED_BYTES: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Value, ValueKind};

    fn batch(versions: &[(u8, u64, Value<'_>)]) -> VersionBatch {
        let mut batch = VersionBatch::default();
        for (key, lsn, value) in versions {
            batch.push(Key([*key; 24]), Lsn(*lsn), *value);
        }
        batch
    }

    fn lsns(layers: &MemoryLayers, key: u8, at: u64) -> Vec<u64> {
        let found = layers.back_from(&Key([key; 24]), Lsn(at));
        found.map(|version| version.lsn.0).collect()
    }

    #[test]
    fn versions_come_newest_first_from_active_and_frozen_layers() {
        let mut layers = MemoryLayers::default();
        layers.take(batch(&[
            (1, 10, Value::Image(b"a")),
            (1, 20, Value::Delta(b"b")),
            (2, 20, Value::Image(b"")),
        ]));
        let frozen = layers.freeze();
        layers.take(batch(&[
            (1, 30, Value::Delta(b"c")),
            (1, 40, Value::Delta(b"d")),
        ]));
        assert_eq!(lsns(&layers, 1, 35), [30, 20, 10]);
        assert_eq!(lsns(&layers, 1, 9), [] as [u64; 0]);
        assert_eq!(lsns(&layers, 2, 100), [20]);
        assert_eq!(lsns(&layers, 3, 100), [] as [u64; 0]);
        let newest = layers.back_from(&Key([1; 24]), Lsn(99)).next();
        let newest = newest.expect("there are versions");
        assert_eq!((newest.kind, newest.value), (ValueKind::Delta, &b"d"[..]));
        assert_eq!(frozen.versions().count(), 3);
        assert!(layers.bytes() > layers.active_bytes());
        layers.drop_oldest_frozen();
        assert_eq!(lsns(&layers, 1, 99), [40, 30]);
    }

    #[test]
    fn thawed_layers_are_one_without_what_is_in_layers() {
        let mut layers = MemoryLayers::default();
        layers.take(batch(&[
            (1, 10, Value::Image(b"a")),
            (1, 20, Value::Delta(b"b")),
        ]));
        layers.freeze();
        layers.take(batch(&[(1, 30, Value::Delta(b"c"))]));
        layers.thaw(Lsn(10));
        assert_eq!(lsns(&layers, 1, 99), [30, 20]);
        assert_eq!(layers.bytes(), layers.active_bytes());
        let bytes = layers.bytes();
        for _ in 0..3 {
            // The same versions come again: what they replace does not stay for ever.
            layers.take(batch(&[
                (1, 20, Value::Delta(b"b")),
                (1, 30, Value::Delta(b"c")),
            ]));
            layers.thaw(Lsn(10));
        }
        assert_eq!(layers.bytes(), bytes);
        layers.thaw(Lsn::MAX);
        assert_eq!(lsns(&layers, 1, 99), [] as [u64; 0]);
    }

    #[test]
    fn the_last_of_two_versions_with_one_lsn_stays() {
        let mut layers = MemoryLayers::default();
        layers.take(batch(&[(1, 10, Value::Delta(b"first"))]));
        layers.take(batch(&[(1, 10, Value::Image(b"second"))]));
        let found: Vec<_> = layers
            .back_from(&Key([1; 24]), Lsn(10))
            .map(|version| version.value.to_vec())
            .collect();
        assert_eq!(found, [b"second".to_vec()]);
    }

    #[test]
    fn keys_are_listed_in_their_range_and_time() {
        let mut layers = MemoryLayers::default();
        layers.take(batch(&[
            (1, 10, Value::Image(b"a")),
            (2, 30, Value::Image(b"b")),
            (3, 10, Value::Image(b"c")),
        ]));
        layers.freeze();
        layers.take(batch(&[(4, 20, Value::Image(b"d"))]));
        let mut keys = BTreeSet::new();
        layers.keys_between(Key([2; 24]), Key([9; 24]), Lsn(20), &mut keys);
        assert_eq!(
            keys.into_iter().collect::<Vec<_>>(),
            [Key([3; 24]), Key([4; 24])]
        );
    }
}
