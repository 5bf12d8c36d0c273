//! Versions on their way into a layer: collected in order of arrival, sorted once, sealed.

use std::sync::Arc;

use crate::crypto::page_seal::{Dek, DekId};
use crate::layer::{LayerConfig, LayerParams, LayerWriter, SealedLayer, Value};
use crate::types::{Key, KeySpace, Lsn, ObjectId, Partition, TenantId};

/// Versions in memory, bounded by whoever fills it.
pub(crate) struct Window {
    /// Values one behind the other.
    values: Vec<u8>,
    versions: Vec<Version>,
    /// Versions before this one are in a layer already.
    done: usize,
    sorted: bool,
}

#[derive(Clone, Copy)]
struct Version {
    partition: Partition,
    key: Key,
    lsn: Lsn,
    value_at: usize,
    value_bytes: u32,
    image: bool,
}

impl Window {
    pub(crate) fn new() -> Window {
        Window {
            values: Vec::new(),
            versions: Vec::new(),
            done: 0,
            sorted: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.values.len() + self.versions.len() * size_of::<Version>()
    }

    pub(crate) fn push(&mut self, partition: Partition, key: Key, lsn: Lsn, value: Value<'_>) {
        let (bytes, image) = match value {
            Value::Image(bytes) => (bytes, true),
            Value::Delta(bytes) => (bytes, false),
        };
        self.versions.push(Version {
            partition,
            key,
            lsn,
            value_at: self.values.len(),
            value_bytes: u32::try_from(bytes.len()).expect("a value is at most a page"),
            image,
        });
        self.values.extend_from_slice(bytes);
    }

    /// Seals as many versions as fit into one layer, and says whether some are left for the next. Of versions with
    /// the same key and LSN the one that came last counts. Computes for long.
    pub(crate) fn build_layer(&mut self, place: &LayerPlace) -> (SealedLayer, bool) {
        self.sort();
        let mut writer = LayerWriter::new(LayerParams {
            tenant: place.tenant,
            object: place.object,
            dek: &place.dek,
            dek_id: place.dek_id,
            key_space: Arc::clone(&place.key_space),
            config: place.config.clone(),
        });
        while let Some(version) = self.versions.get(self.done) {
            let end = version.value_at + usize::try_from(version.value_bytes).expect("fits");
            let bytes = &self.values[version.value_at..end];
            let value = if version.image {
                Value::Image(bytes)
            } else {
                Value::Delta(bytes)
            };
            if writer.push(&version.key, version.lsn, value).is_err() {
                return (writer.finish(), true);
            }
            self.done += 1;
        }
        (writer.finish(), false)
    }

    fn sort(&mut self) {
        if self.sorted {
            return;
        }
        let place = |version: &Version| (version.partition, version.key, version.lsn);
        // Later arrivals first among equals, which are then the ones that stay.
        self.versions
            .sort_unstable_by_key(|version| (place(version), std::cmp::Reverse(version.value_at)));
        self.versions
            .dedup_by(|later, kept| place(later) == place(kept));
        self.sorted = true;
    }
}

/// Everything that names and seals one layer.
pub(crate) struct LayerPlace {
    pub(crate) tenant: TenantId,
    pub(crate) object: ObjectId,
    pub(crate) dek_id: DekId,
    pub(crate) dek: Arc<Dek>,
    pub(crate) key_space: Arc<dyn KeySpace>,
    pub(crate) config: LayerConfig,
}
