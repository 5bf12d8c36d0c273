//! The keys of layers that are merged, in stretches, so that what is in memory at once is bounded.

use std::ops::Range;
use std::sync::Arc;

use crate::layer::LayerIndex;
use crate::shard::OpenLayer;
use crate::types::{Key, Partition};

/// A place in the order of layers.
type Place = (Partition, Key);

/// A stretch of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    from: Place,
    /// What comes behind it; `None` at the end.
    until: Option<Place>,
}

impl Step {
    pub(crate) fn contains(&self, partition: Partition, key: &Key) -> bool {
        let place = (partition, *key);
        self.from <= place && self.until.is_none_or(|until| place < until)
    }

    /// The extents of a layer that may have keys of it.
    pub(crate) fn extents(&self, index: &LayerIndex) -> Range<u32> {
        let mut first = extent_after(index, &self.from);
        // The one before may have it as well, if it is of the same partition.
        let before = first.checked_sub(1);
        if before.and_then(|before| index.partition_of(before)) == Some(self.from.0) {
            first -= 1;
        }
        let end = match &self.until {
            Some(until) => extent_after(index, until),
            None => index.extent_count(),
        };
        first..end.max(first)
    }
}

/// The first extent whose first value is not before `place`.
fn extent_after(index: &LayerIndex, place: &Place) -> u32 {
    let (mut low, mut high) = (0, index.extent_count());
    while low < high {
        let middle = low + (high - low) / 2;
        if place_of(index, middle) < *place {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn place_of(index: &LayerIndex, extent_no: u32) -> Place {
    let partition = index.partition_of(extent_no);
    let key = index.first_key(extent_no);
    partition
        .zip(key)
        .expect("extents are counted by the index itself")
}

/// All keys of the layers in steps of at most about `step_bytes` of their bytes.
pub(crate) fn steps(layers: &[Arc<OpenLayer>], step_bytes: u64) -> Vec<Step> {
    let mut extents: Vec<(Place, u64)> = Vec::new();
    for layer in layers {
        let index = layer.index();
        extents.extend((0..index.extent_count()).map(|extent_no| {
            let range = layer.extent_range(extent_no);
            (place_of(index, extent_no), range.end - range.start)
        }));
    }
    extents.sort_unstable_by_key(|(place, _)| *place);
    let mut steps: Vec<Step> = Vec::new();
    let mut bytes = 0;
    for (place, extent_bytes) in extents {
        match steps.last_mut() {
            // What begins alike stays together.
            Some(step) if bytes + extent_bytes > step_bytes && step.from < place => {
                step.until = Some(place);
                bytes = extent_bytes;
                steps.push(Step {
                    from: place,
                    until: None,
                });
            }
            Some(_) => bytes += extent_bytes,
            None => {
                bytes = extent_bytes;
                steps.push(Step {
                    from: place,
                    until: None,
                });
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::page_seal::{Dek, DekId};
    use crate::layer::{LayerConfig, LayerParams, LayerWriter, Value};
    use crate::shard::LayerKey;
    use crate::types::{BranchId, Id, KeySpace, Lsn, ObjectId, TenantId};

    /// Partition and stripe by the first byte.
    struct FirstByte;

    impl KeySpace for FirstByte {
        fn partition(&self, key: &Key) -> Partition {
            Partition::new(u16::from(key.0[0])).expect("below 1,024")
        }

        fn stripe(&self, key: &Key) -> u64 {
            u64::from(key.0[0])
        }
    }

    fn layer(sequence: u64, versions: &[(Key, Lsn)]) -> Arc<OpenLayer> {
        let (dek, dek_id) = (Dek::draw(), DekId { table: 0, slot: 0 });
        let mut writer = LayerWriter::new(LayerParams {
            tenant: TenantId(Id([1; 16])),
            object: ObjectId {
                branch: BranchId(Id([2; 16])),
                epoch: 1,
                sequence,
            },
            dek: &dek,
            dek_id,
            key_space: Arc::new(FirstByte),
            config: LayerConfig {
                compress: false,
                object_bytes_max: 1 << 20,
                ..LayerConfig::tiny()
            },
        });
        for (key, lsn) in versions {
            writer
                .push(key, *lsn, Value::Image(&[7; 3000]))
                .expect("there is room");
        }
        let sealed = writer.finish();
        let summary = &sealed.summary;
        let open_key = LayerKey::new(dek_id, &dek);
        let narrow = |at: u64| usize::try_from(at).expect("small");
        let index = &sealed.bytes[narrow(summary.index.start)..narrow(summary.index.end)];
        let index = LayerIndex::open(
            open_key.opener(),
            &summary.layer,
            index,
            summary.index.start,
        );
        let index = index.expect("opens");
        Arc::new(OpenLayer::new(
            summary.layer,
            "layer".into(),
            index,
            open_key,
        ))
    }

    #[test]
    fn every_extent_is_in_the_steps_of_its_keys() {
        let key = |partition: u8, low: u8| {
            let mut key = Key::MIN;
            (key.0[0], key.0[23]) = (partition, low);
            key
        };
        // A key in the middle has so many versions that they fill several extents.
        let versions = |odd: u64| -> Vec<(Key, Lsn)> {
            let of_key = |partition, low| {
                // Extents begin at different keys in the two layers.
                let count = if low == 3 { 14 } else { 2 + odd };
                (1..=count).map(move |n| (key(partition, low), Lsn(1000 + n * 16 + odd * 8)))
            };
            (0..3)
                .flat_map(|partition| (0..6).flat_map(move |low| of_key(partition, low)))
                .collect()
        };
        let layers = [layer(0, &versions(0)), layer(1, &versions(1))];
        for step_bytes in [1, 20_000, 60_000, 1 << 30] {
            let steps = steps(&layers, step_bytes);
            assert_eq!(steps.len() == 1, step_bytes == 1 << 30, "{}", steps.len());
            for (number, layer) in (0..).zip(&layers) {
                for (key, _) in versions(number) {
                    let partition = FirstByte.partition(&key);
                    let of_key = steps.iter().filter(|step| step.contains(partition, &key));
                    let of_key: Vec<&Step> = of_key.collect();
                    assert_eq!(
                        of_key.len(),
                        1,
                        "{key:?}: steps share no key, and leave none out"
                    );
                    let extents = of_key[0].extents(layer.index());
                    for lsn in [Lsn(1000), Lsn(1100), Lsn::MAX] {
                        let holds = layer.index().candidates(partition, &key, lsn);
                        let missed: Vec<u32> =
                            holds.filter(|extent| !extents.contains(extent)).collect();
                        assert!(missed.is_empty(), "{key:?}: {missed:?} not in {extents:?}");
                    }
                }
            }
        }
    }
}
