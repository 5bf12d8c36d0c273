//! Fetches and opens the same stretch of keys of several layers.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::steps::{Step, steps};
use crate::catalog::Window;
use crate::error::ReadError;
use crate::layer::{BlockScratch, LayerError, Value, ValueKind};
use crate::redo::{Redo, RedoFailed};
use crate::shard::OpenLayer;
use crate::store::objects::StoreError;
use crate::store::{FETCH_BYTES_MAX, StoreClient};
use crate::types::{Key, KeySpace, Lsn, PAGE_BYTES};

/// Reads layers behind all else, a step of keys at a time.
pub(crate) struct MergeReader {
    pub(crate) layers: Vec<Arc<OpenLayer>>,
    pub(crate) store: StoreClient,
    pub(crate) key_space: Arc<dyn KeySpace>,
}

impl MergeReader {
    /// All their keys in steps of at most about `step_bytes` of the layers.
    pub(crate) fn steps(&self, step_bytes: u64) -> Vec<Step> {
        steps(&self.layers, step_bytes)
    }

    /// What the layers have of a step, sealed as it is.
    ///
    /// # Errors
    /// Of the store, with the layer that could not be read.
    ///
    /// # Cancellation
    /// Safe.
    pub(crate) async fn fetch(&self, step: &Step) -> Result<Fetched, (Arc<OpenLayer>, StoreError)> {
        let fetching = self.layers.iter().map(async |layer| {
            let extents = self.extents(layer, step).await;
            let extents = extents.map_err(|error| (Arc::clone(layer), error))?;
            Ok((Arc::clone(layer), extents))
        });
        Ok(Fetched {
            step: *step,
            parts: try_join_all(fetching).await?,
            key_space: Arc::clone(&self.key_space),
        })
    }

    /// The extents of a layer that may have keys of a step.
    async fn extents(&self, layer: &OpenLayer, step: &Step) -> Result<Vec<Extent>, StoreError> {
        let mut fetched = Vec::new();
        let mut left = step.extents(layer.index());
        while !left.is_empty() {
            let begin = layer.extent_range(left.start).start;
            let fits = |number: &u32| layer.extent_range(*number).end - begin <= READ_BYTES;
            let count = left.clone().take_while(fits).count();
            let end = left.start + u32::try_from(count.max(1)).expect("extents are counted so");
            let bytes = begin..layer.extent_range(end - 1).end;
            let read = self.store.read_behind(&layer.path(), bytes).await?;
            for number in left.start..end {
                let Range { start, end } = layer.extent_range(number);
                let narrow = |at: u64| usize::try_from(at - begin).expect("it was read");
                let bytes = read.slice(narrow(start)..narrow(end));
                fetched.push(Extent { number, bytes });
            }
            left.start = end;
        }
        Ok(fetched)
    }
}

/// Of several layers what may have keys of a step.
pub(crate) struct Fetched {
    step: Step,
    parts: Vec<(Arc<OpenLayer>, Vec<Extent>)>,
    key_space: Arc<dyn KeySpace>,
}

/// A whole extent.
struct Extent {
    number: u32,
    bytes: Bytes,
}

/// An extent of this layer is not what it should be.
pub(crate) struct DoesNotOpen {
    pub(crate) layer: Arc<OpenLayer>,
    pub(crate) error: LayerError,
}

impl DoesNotOpen {
    /// The same with its reason, which may cost a small read of the store.
    pub(crate) async fn explain(&self, store: &StoreClient) -> ReadError {
        ReadError::Corrupt {
            object: self.layer.object(),
            reason: self.layer.diagnose(self.error, store).await.into(),
        }
    }
}

impl Fetched {
    /// How much was read.
    pub(crate) fn bytes(&self) -> u64 {
        let extents = self.parts.iter().flat_map(|(_, extents)| extents);
        extents.map(|extent| extent.bytes.len() as u64).sum()
    }

    /// All versions that belong to the step. Computes for long.
    ///
    /// # Errors
    /// An extent that does not open.
    pub(crate) fn open(&self) -> Result<Window, DoesNotOpen> {
        let mut window = Window::new();
        match self.open_into(&mut window).pop() {
            None => Ok(window),
            Some(damaged) => Err(damaged),
        }
    }

    /// Adds all versions that belong to the step, of all extents that open; the others.
    pub(crate) fn open_into(&self, window: &mut Window) -> Vec<DoesNotOpen> {
        let mut damaged = Vec::new();
        let mut scratch = BlockScratch::new();
        for (layer, extents) in &self.parts {
            for Extent { number, bytes } in extents {
                let take = |key: Key, lsn: Lsn, value: Value<'_>| {
                    let partition = self.key_space.partition(&key);
                    if self.step.contains(partition, &key) {
                        window.push(partition, key, lsn, value);
                    }
                };
                if let Err(error) = layer.open_extent(*number, bytes, &mut scratch, take) {
                    let layer = Arc::clone(layer);
                    damaged.push(DoesNotOpen { layer, error });
                }
            }
        }
        damaged
    }
}

/// Whether a version can be read without those before it.
pub(crate) fn begins(window: &Window, place: usize, redo: &dyn Redo) -> bool {
    match window.kind(place) {
        ValueKind::Image => true,
        ValueKind::Delta => redo.begins(window.value(place)),
    }
}

/// Applies versions of one key, the first of which needs none before it; `each` sees the value after each. Answers the last.
///
/// # Errors
/// The first delta that can't be applied, with its place.
pub(crate) fn replay(
    window: &Window,
    places: Range<usize>,
    redo: &dyn Redo,
    mut each: impl FnMut(usize, &[u8]),
) -> Result<Vec<u8>, (usize, RedoFailed)> {
    let mut page = [0; PAGE_BYTES];
    let mut len = 0;
    for place in places {
        let value = window.value(place);
        match window.kind(place) {
            ValueKind::Image => {
                page.fill(0);
                page[..value.len()].copy_from_slice(value);
                len = value.len();
            }
            ValueKind::Delta => {
                let (_, key, lsn) = window.version(place);
                let applied = redo.apply(&key, lsn, value, &mut page, len);
                len = applied.map_err(|failed| (place, failed))?;
            }
        }
        each(place, &page[..len]);
    }
    Ok(page[..len].to_vec())
}

/// Bytes that are read at once of one layer.
const READ_BYTES: u64 = 4 << 20;
const _: () = assert!(READ_BYTES <= FETCH_BYTES_MAX);
