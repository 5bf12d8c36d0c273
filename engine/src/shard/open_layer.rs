//! A layer that is open: its index in memory, and the key that opens its blocks.

use std::ops::Range;
use std::sync::Arc;

use crate::cache::ExtentId;
use crate::crypto::page_seal::{Dek, DekId, Opener, TAG_BYTES};
use crate::layer::{
    BlockContents, BlockPlace, BlockScratch, ExtentDirectory, ExtentHeader, HEADER_BYTES,
    LayerError, LayerHeader, LayerId, LayerIndex, PackEntry, Part, Value, ValueKind, open_block,
    open_image, open_pack, scrub_extent,
};
use crate::store::StoreClient;
use crate::types::{Key, Lsn, ObjectId, Partition};

use super::delta_chain::DeltaChain;
use super::page_pool::Page;
use super::read_path::Found;

/// A layer whose index is in memory and whose blocks can be opened.
pub(crate) struct OpenLayer {
    id: LayerId,
    path: Arc<str>,
    index: LayerIndex,
    key: LayerKey,
}

/// The key of a layer: what opens its blocks, and what tells why they do not open.
pub(crate) struct LayerKey {
    opener: Opener,
    id: DekId,
    check: [u8; TAG_BYTES],
}

impl LayerKey {
    /// The key `dek`, found under `id`.
    pub(crate) fn new(id: DekId, dek: &Dek) -> LayerKey {
        LayerKey {
            opener: Opener::new(dek),
            id,
            check: dek.key_check_value(),
        }
    }

    pub(crate) fn opener(&self) -> &Opener {
        &self.opener
    }

    /// Why a fresh copy of a layer does not open: what its header says of itself, if that tells more than `error`.
    /// Costs a small read of the store.
    pub(crate) async fn diagnose(
        &self,
        layer: &LayerId,
        path: &str,
        error: LayerError,
        store: &StoreClient,
    ) -> String {
        let Ok(header) = store.read(path, 0..HEADER_BYTES as u64).await else {
            return error.to_string();
        };
        let found = LayerHeader::decode(&header)
            .and_then(|header| header.check(layer, self.id, &self.check));
        found.map_or_else(|better| better.to_string(), |()| error.to_string())
    }
}

impl OpenLayer {
    /// A layer from its sealed index.
    pub(crate) fn new(id: LayerId, path: Arc<str>, index: LayerIndex, key: LayerKey) -> OpenLayer {
        OpenLayer {
            id,
            path,
            index,
            key,
        }
    }

    /// Why a fresh copy of this layer does not open.
    pub(crate) async fn diagnose(&self, error: LayerError, store: &StoreClient) -> String {
        self.key.diagnose(&self.id, &self.path, error, store).await
    }

    pub(crate) fn object(&self) -> ObjectId {
        self.id.object
    }

    pub(crate) fn path(&self) -> Arc<str> {
        Arc::clone(&self.path)
    }

    pub(crate) fn index(&self) -> &LayerIndex {
        &self.index
    }

    pub(super) fn extent_id(&self, extent_no: u32) -> ExtentId {
        ExtentId {
            tenant: self.id.tenant,
            object: self.id.object,
            extent_no,
        }
    }

    /// Where an extent of this layer is in the object.
    ///
    /// # Panics
    /// If the layer has no such extent: numbers come from the index itself.
    pub(crate) fn extent_range(&self, extent_no: u32) -> Range<u64> {
        self.index
            .extent_range(extent_no)
            .expect("extent numbers come from this index")
    }

    /// The partition that an extent belongs to, and the extents of that partition.
    pub(super) fn partition_of(&self, extent_no: u32) -> (Partition, Range<u32>) {
        let partition = self
            .index
            .partition_of(extent_no)
            .expect("extent numbers come from this index");
        let section = self
            .index
            .section(partition)
            .expect("an extent's partition is in the index");
        (partition, section.extents.clone())
    }

    /// Where the sealed directory ends in the extent that starts with `head`.
    pub(super) fn directory_end(&self, extent_no: u32, head: &[u8]) -> Result<usize, LayerError> {
        let end = ExtentHeader::decode(extent_no, head)?.directory_range().end;
        let range = self.extent_range(extent_no);
        // The header is not sealed, and may be another object's: the index is believed.
        if end as u64 > range.end - range.start {
            let part = Part::Extent(extent_no);
            let what = "has a directory longer than itself";
            return Err(LayerError::Malformed { part, what });
        }
        Ok(end)
    }

    /// Opens the directory of the extent that starts with `head`.
    pub(super) fn open_directory(
        &self,
        extent_no: u32,
        head: &[u8],
    ) -> Result<ExtentDirectory, LayerError> {
        ExtentDirectory::open(&self.key.opener, &self.id, extent_no, head)
    }

    /// Opens the block at `place` and copies the newest version of `key` at or below `at`, image or delta, to the front of `page`.
    /// `None`: the block is a pack that spans the key and does not have it.
    pub(super) fn open_value(
        &self,
        place: &BlockPlace,
        sealed: &[u8],
        key: &Key,
        at: Lsn,
        scratch: &mut BlockScratch,
        page: &mut Page,
    ) -> Result<Option<Found>, LayerError> {
        match place.contents {
            BlockContents::Image | BlockContents::Delta => {
                let len = open_block(
                    &self.key.opener,
                    &self.id,
                    place,
                    sealed,
                    scratch,
                    page.frame_mut(),
                )?;
                Ok(Some(Found {
                    len,
                    version: place.first_lsn,
                    kind: match place.contents {
                        BlockContents::Delta => ValueKind::Delta,
                        _ => ValueKind::Image,
                    },
                    fetched: false,
                }))
            }
            BlockContents::Pack => {
                let pack = open_pack(&self.key.opener, &self.id, place, sealed, scratch)?;
                let Some(entry) = pack.newest(key, at) else {
                    return Ok(None);
                };
                page[..entry.value.len()].copy_from_slice(entry.value);
                Ok(Some(Found {
                    len: entry.value.len(),
                    version: entry.lsn,
                    kind: entry.kind,
                    fetched: false,
                }))
            }
        }
    }
}

impl OpenLayer {
    /// Opens the block at `place` for a read that replays: all deltas of `key` at or below `at` that it has above its newest
    /// image go to `chain`, the image to the front of `page`. Answers the image, or else the oldest of the deltas.
    pub(super) fn open_versions(
        &self,
        place: &BlockPlace,
        sealed: &[u8],
        (key, at): (&Key, Lsn),
        scratch: &mut BlockScratch,
        page: &mut Page,
        chain: &mut DeltaChain,
    ) -> Result<Option<Found>, LayerError> {
        if place.contents != BlockContents::Pack {
            let found = self.open_value(place, sealed, key, at, scratch, page)?;
            if let Some(found) = found.filter(|found| found.kind == ValueKind::Delta) {
                chain.push(found.version, &page[..found.len]);
            }
            return Ok(found);
        }
        let pack = open_pack(&self.key.opener, &self.id, place, sealed, scratch)?;
        let of_key = pack
            .entries()
            .filter(|entry| entry.key == *key && entry.lsn <= at);
        let mut oldest: Option<PackEntry<'_>> = None;
        for entry in of_key.clone() {
            if entry.kind == ValueKind::Image || oldest.is_none() {
                oldest = Some(entry);
            }
        }
        let Some(oldest) = oldest else {
            return Ok(None);
        };
        if oldest.kind == ValueKind::Image {
            page[..oldest.value.len()].copy_from_slice(oldest.value);
        }
        let deltas = of_key.filter(|entry| entry.kind == ValueKind::Delta);
        for entry in deltas.filter(|entry| entry.lsn >= oldest.lsn) {
            chain.push(entry.lsn, entry.value);
        }
        Ok(Some(Found {
            len: oldest.value.len(),
            version: oldest.lsn,
            kind: oldest.kind,
            fetched: false,
        }))
    }

    /// The keys in a pack.
    pub(super) fn keys_of_pack(
        &self,
        place: &BlockPlace,
        sealed: &[u8],
        scratch: &mut BlockScratch,
    ) -> Result<Vec<Key>, LayerError> {
        let pack = open_pack(&self.key.opener, &self.id, place, sealed, scratch)?;
        Ok(pack.entries().map(|entry| entry.key).collect())
    }

    /// Opens all of a whole extent, and hands every version in it to `each`, in order of key and LSN.
    pub(crate) fn open_extent(
        &self,
        extent_no: u32,
        extent: &[u8],
        scratch: &mut BlockScratch,
        mut each: impl FnMut(Key, Lsn, Value<'_>),
    ) -> Result<(), LayerError> {
        scrub_extent(extent_no, extent)?;
        let directory = self.open_directory(extent_no, extent)?;
        for place in directory.places() {
            let sealed = extent.get(place.range()).ok_or(LayerError::Truncated {
                part: place.part(),
                want_bytes: place.range().end,
                got_bytes: extent.len(),
            })?;
            let opener = &self.key.opener;
            match place.contents {
                BlockContents::Pack => {
                    let pack = open_pack(opener, &self.id, &place, sealed, scratch)?;
                    for entry in pack.entries() {
                        let value = match entry.kind {
                            ValueKind::Image => Value::Image(entry.value),
                            ValueKind::Delta => Value::Delta(entry.value),
                        };
                        each(entry.key, entry.lsn, value);
                    }
                }
                BlockContents::Image => {
                    let bytes = open_image(opener, &self.id, &place, sealed, scratch)?;
                    each(place.first_key, place.first_lsn, Value::Image(bytes));
                }
                BlockContents::Delta => {
                    let bytes = open_image(opener, &self.id, &place, sealed, scratch)?;
                    each(place.first_key, place.first_lsn, Value::Delta(bytes));
                }
            }
        }
        Ok(())
    }
}
