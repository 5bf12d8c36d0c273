//! Versions on their way into a layer: collected in order of arrival, sorted once, sealed.

use std::ops::Range;
use std::sync::Arc;

use crate::crypto::page_seal::{Dek, DekId};
use crate::layer::{LayerConfig, LayerParams, LayerWriter, SealedLayer, Value, ValueKind};
use crate::memory::MemoryLayer;
use crate::types::{Key, KeySpace, Lsn, ObjectId, Partition, TenantId};

/// Versions in memory, bounded by whoever fills it.
pub(crate) struct Window {
    /// Values one behind the other, of versions that were pushed.
    values: Vec<u8>,
    /// Values that somebody else has in memory, too.
    shared: Vec<Arc<Vec<u8>>>,
    versions: Vec<Version>,
    /// Versions before this one are in a layer already.
    done: usize,
    sorted: bool,
    /// Whether one layer can't span the LSNs of all: each has those of a stretch then.
    wide: bool,
    /// Whether it does not become a layer.
    is_for_reading: bool,
}

#[derive(Clone, Copy)]
struct Version {
    partition: Partition,
    key: Key,
    lsn: Lsn,
    buffer: Buffer,
    value_at: usize,
    value_bytes: u32,
    kind: ValueKind,
    /// Grows with each version: of two with one key and LSN the later one counts.
    arrival: u32,
}

/// Where a value is.
#[derive(Clone, Copy)]
enum Buffer {
    Own,
    Shared(u32),
}

impl Window {
    pub(crate) fn new() -> Window {
        Window {
            values: Vec::new(),
            shared: Vec::new(),
            versions: Vec::new(),
            done: 0,
            sorted: false,
            wide: false,
            is_for_reading: false,
        }
    }

    /// One that does not become a layer: each key is one group, however far apart its versions lie.
    pub(crate) fn for_reading() -> Window {
        Window {
            is_for_reading: true,
            ..Window::new()
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
        let (kind, bytes) = value.parts();
        self.versions.push(Version {
            partition,
            key,
            lsn,
            buffer: Buffer::Own,
            value_at: self.values.len(),
            value_bytes: u32::try_from(bytes.len()).expect("a value is at most a page"),
            kind,
            arrival: self.arrivals(),
        });
        self.values.extend_from_slice(bytes);
    }

    /// Adds all versions of a memory layer, without their values, which stay shared.
    pub(crate) fn push_memory(&mut self, layer: &MemoryLayer, key_space: &dyn KeySpace) {
        let narrow = |n: usize| u32::try_from(n).expect("windows are far below 4 GiB");
        let first_buffer = self.shared.len();
        self.shared.extend_from_slice(layer.buffers());
        for version in layer.versions() {
            self.versions.push(Version {
                partition: key_space.partition(&version.key),
                key: version.key,
                lsn: version.lsn,
                buffer: Buffer::Shared(narrow(first_buffer + version.buffer)),
                value_at: version.at,
                value_bytes: narrow(version.value.len()),
                kind: version.kind,
                arrival: self.arrivals(),
            });
        }
    }

    /// The places of the versions of each key, oldest first. Sorts them; of versions with the same key and LSN the one that came
    /// last is there. A key whose versions lie very far apart is there several times, older versions first.
    pub(crate) fn groups(&mut self) -> Vec<Range<usize>> {
        self.sort();
        let mut start = self.done;
        let of_key = |a: &Version, b: &Version| a.key == b.key;
        let groups = self.versions[start..].chunk_by(of_key).map(|group| {
            let range = start..start + group.len();
            start = range.end;
            range
        });
        groups.collect()
    }

    /// Partition, key and LSN of the version at a place.
    pub(crate) fn version(&self, place: usize) -> (Partition, Key, Lsn) {
        let version = &self.versions[place];
        (version.partition, version.key, version.lsn)
    }

    /// Image or delta.
    pub(crate) fn kind(&self, place: usize) -> ValueKind {
        self.versions[place].kind
    }

    /// The bytes of the version at a place.
    pub(crate) fn value(&self, place: usize) -> &[u8] {
        let version = &self.versions[place];
        let end = version.value_at + version.value_bytes as usize;
        let buffer = match version.buffer {
            Buffer::Own => &self.values,
            Buffer::Shared(number) => &*self.shared[number as usize],
        };
        &buffer[version.value_at..end]
    }

    /// Keeps those of the versions that are marked; sorted as they are.
    pub(crate) fn retain(&mut self, marked: &[bool]) {
        assert_eq!(marked.len(), self.versions.len(), "a mark for each");
        let mut marks = marked.iter();
        self.versions.retain(|_| marks.next() == Some(&true));
    }

    /// Makes an image of the version at a place.
    pub(crate) fn replace_by_image(&mut self, place: usize, image: &[u8]) {
        let value_at = self.values.len();
        self.values.extend_from_slice(image);
        let version = &mut self.versions[place];
        version.kind = ValueKind::Image;
        version.buffer = Buffer::Own;
        version.value_at = value_at;
        version.value_bytes = u32::try_from(image.len()).expect("a value is at most a page");
    }

    fn arrivals(&self) -> u32 {
        u32::try_from(self.versions.len()).expect("windows are far below 4 GiB")
    }

    /// Seals as many versions as fit into one layer, and says whether some are left for the next. Of versions with
    /// the same key and LSN the one that came last counts. Computes for long.
    pub(crate) fn build_layer(&mut self, place: &LayerPlace) -> (SealedLayer, bool) {
        assert!(!self.is_for_reading, "its stretches are not sorted");
        self.sort();
        let mut writer = LayerWriter::new(LayerParams {
            tenant: place.tenant,
            object: place.object,
            dek: &place.dek,
            dek_id: place.dek_id,
            key_space: Arc::clone(&place.key_space),
            config: place.config.clone(),
        });
        let first = self.versions.get(self.done).map(|version| version.lsn);
        while let Some(version) = self.versions.get(self.done) {
            if first
                .is_some_and(|first| stretch(self.wide, first) != stretch(self.wide, version.lsn))
            {
                return (writer.finish(), true);
            }
            let bytes = self.value(self.done);
            let value = match version.kind {
                ValueKind::Image => Value::Image(bytes),
                ValueKind::Delta => Value::Delta(bytes),
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
        let lsns = || self.versions.iter().map(|version| version.lsn.0);
        let span = lsns().max().zip(lsns().min()).map(|(max, min)| max - min);
        self.wide = !self.is_for_reading && span.is_some_and(|span| span > STRETCH_BYTES);
        let wide = self.wide;
        let place = |version: &Version| {
            (
                stretch(wide, version.lsn),
                version.partition,
                version.key,
                version.lsn,
            )
        };
        // Later arrivals first among equals, which are then the ones that stay.
        self.versions
            .sort_unstable_by_key(|version| (place(version), std::cmp::Reverse(version.arrival)));
        self.versions
            .dedup_by(|later, kept| place(later) == place(kept));
        self.sorted = true;
    }
}

/// Which stretch of LSNs a version belongs to. Sorted by key alone, versions of a key that lie further apart than a layer
/// can span would end a layer each.
fn stretch(wide: bool, lsn: Lsn) -> u64 {
    if wide { lsn.0 / STRETCH_BYTES } else { 0 }
}

/// Half of what the LSNs of a layer may span, which are counted in units of 8 in 32 bits.
pub(crate) const STRETCH_BYTES: u64 = 16 << 30;

/// Everything that names and seals one layer.
pub(crate) struct LayerPlace {
    pub(crate) tenant: TenantId,
    pub(crate) object: ObjectId,
    pub(crate) dek_id: DekId,
    pub(crate) dek: Arc<Dek>,
    pub(crate) key_space: Arc<dyn KeySpace>,
    pub(crate) config: LayerConfig,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BranchId, Id};

    struct OnePartition;

    impl KeySpace for OnePartition {
        fn partition(&self, _: &Key) -> Partition {
            Partition::of_hash(0)
        }

        fn stripe(&self, _: &Key) -> u64 {
            0
        }
    }

    #[test]
    fn versions_far_apart_are_in_a_few_layers_not_one_each() {
        let partition = Partition::of_hash(0);
        let mut window = Window::new();
        let (early, late) = (Lsn(1 << 40), Lsn((1 << 40) + (100 << 30)));
        for number in 0..200u8 {
            for lsn in [early, late] {
                window.push(partition, Key([number; 24]), lsn, Value::Image(&[number]));
            }
        }
        let mut layers = Vec::new();
        loop {
            let place = LayerPlace {
                tenant: TenantId(Id([1; 16])),
                object: ObjectId {
                    branch: BranchId(Id([2; 16])),
                    epoch: 1,
                    sequence: layers.len() as u64,
                },
                dek_id: DekId { table: 0, slot: 0 },
                dek: Arc::new(Dek::draw()),
                key_space: Arc::new(OnePartition),
                config: LayerConfig::default(),
            };
            let (layer, more) = window.build_layer(&place);
            layers.push((layer.summary.first_lsn, layer.summary.last_lsn));
            if !more {
                break;
            }
        }
        assert_eq!(layers, [(early, early), (late, late)]);
    }
}
