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
pub(super) struct Step {
    from: Place,
    /// What comes behind it; `None` at the end.
    until: Option<Place>,
}

impl Step {
    pub(super) fn contains(&self, partition: Partition, key: &Key) -> bool {
        let place = (partition, *key);
        self.from <= place && self.until.is_none_or(|until| place < until)
    }

    /// The extents of a layer that may have keys of it.
    pub(super) fn extents(&self, index: &LayerIndex) -> Range<u32> {
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
pub(super) fn steps(layers: &[Arc<OpenLayer>], step_bytes: u64) -> Vec<Step> {
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
