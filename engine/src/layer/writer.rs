//! Writes a layer object in memory, from values in order of (partition, key, LSN).
//!
//! The bytes follow from the values, the DEK and the config alone; ordinals make the nonces, so two writers may
//! never have the same DEK: a DEK is drawn for one writer and not used again, also when the layer was not stored.
//!
//! Memory: the object so far (at most `object_bytes_max`), one extent, one pack. The object grows by `realloc`,
//! which for such lengths moves pages, not bytes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::block::{BLOCK_HEADER_BYTES, BlockContents, ValueKind, encode_block};
use super::directory_builder::DIRECTORY_BYTES_LEAST;
use super::extent::EXTENT_HEADER_BYTES;
use super::extent_builder::{Cover, ExtentBuilder};
use super::format::{LayerId, UNIT_BYTES, aligned};
use super::index::{
    FENCE_BYTES, Fence, INDEX_HEADER_BYTES, PARTITION_BYTES, PartitionSection, encode_index,
};
use super::pack::{PACK_ENTRY_HEADER_BYTES, put_entry};
use super::{EXTENTS_MAX, FOOTER_BYTES, LayerConfig, LayerFooter, LayerHeader};
use crate::crypto::page_seal::{BlockKind, Dek, DekId, Sealer, TAG_BYTES};
use crate::types::{Key, KeySpace, Lsn, ObjectId, PAGE_BYTES, Partition, TenantId};

/// A value to be written: at most [`PAGE_BYTES`], kept exactly as given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// The whole value.
    Image(&'a [u8]),
    /// A change to the version before.
    Delta(&'a [u8]),
}

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, bytes) = self.parts();
        write!(f, "{kind:?}({} bytes)", bytes.len())
    }
}

impl<'a> Value<'a> {
    /// Its kind and its bytes.
    pub fn parts(self) -> (ValueKind, &'a [u8]) {
        match self {
            Value::Image(bytes) => (ValueKind::Image, bytes),
            Value::Delta(bytes) => (ValueKind::Delta, bytes),
        }
    }
}

/// What a [`LayerWriter`] is made of.
pub struct LayerParams<'a> {
    /// Whose data it is.
    pub tenant: TenantId,
    /// The name of the object.
    pub object: ObjectId,
    /// The key of this object alone, drawn for this attempt to write it.
    pub dek: &'a Dek,
    /// Where that key's wrapping is (already durable).
    pub dek_id: DekId,
    /// Partitions and stripes of keys.
    pub key_space: Arc<dyn KeySpace>,
    /// Limits; must be valid.
    pub config: LayerConfig,
}

/// Nothing was written: the value belongs into another layer. Finish this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the layer is full")]
pub struct LayerFull;

/// What a manifest says of a layer, and a reader needs to begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerSummary {
    /// Which layer.
    pub layer: LayerId,
    /// Where its wrapped DEK is.
    pub dek_id: DekId,
    /// That DEK's key-check value.
    pub key_check: [u8; TAG_BYTES],
    /// The object's length.
    pub object_bytes: u64,
    /// Where its sealed index is, without padding.
    pub index: Range<u64>,
    /// Number of its extents.
    pub extent_count: u32,
    /// Lowest LSN in it.
    pub first_lsn: Lsn,
    /// Highest LSN in it.
    pub last_lsn: Lsn,
    /// What it has of each partition, in ascending order.
    pub sections: Vec<PartitionSection>,
}

/// A finished layer, to be stored under its name.
#[derive(Clone, Debug)]
pub struct SealedLayer {
    /// The object: ciphertext and what is in the clear, see the module.
    pub bytes: Bytes,
    /// What to commit once it is stored.
    pub summary: LayerSummary,
}

/// Writes one layer. Not asynchronous: a value costs its sealing, a few microseconds, and callers yield between.
pub struct LayerWriter {
    header: LayerHeader,
    sealer: Sealer,
    key_space: Arc<dyn KeySpace>,
    config: LayerConfig,
    object: Vec<u8>,
    /// Plaintext of the block that is about to be sealed.
    plain: Vec<u8>,
    extent: Option<ExtentBuilder>,
    spare_blocks: Vec<u8>,
    pack: Option<PendingPack>,
    sections: Vec<PartitionSection>,
    /// First value and position of every extent.
    fences: Vec<(Key, Lsn, u64)>,
    lsns: Option<(Lsn, Lsn)>,
    last: Option<(Partition, Key, Lsn)>,
}

struct PendingPack {
    stripe: u64,
    cover: Cover,
    body: Vec<u8>,
}

impl LayerWriter {
    /// An empty layer.
    ///
    /// # Panics
    /// If the config is not valid.
    pub fn new(params: LayerParams<'_>) -> LayerWriter {
        let problems = params.config.validate();
        assert!(problems.is_empty(), "valid limits: {problems:?}");
        let header = LayerHeader {
            layer: LayerId {
                tenant: params.tenant,
                object: params.object,
            },
            dek_id: params.dek_id,
            key_check: params.dek.key_check_value(),
        };
        LayerWriter {
            header,
            sealer: Sealer::new(params.dek),
            key_space: params.key_space,
            config: params.config,
            object: header.encode().to_vec(),
            plain: Vec::with_capacity(2 * PAGE_BYTES),
            extent: None,
            spare_blocks: Vec::new(),
            pack: None,
            sections: Vec::new(),
            fences: Vec::new(),
            lsns: None,
            last: None,
        }
    }

    /// Adds a value. Values come in order of (partition, key, LSN), each of these once.
    ///
    /// # Errors
    /// `LayerFull`: the object would pass `object_bytes_max`, or its LSNs span more than 32 GiB. Nothing was
    /// added; the first value of a layer never meets this.
    ///
    /// # Panics
    /// If values come out of order, are longer than a page, or have the invalid LSN.
    pub fn push(&mut self, key: &Key, lsn: Lsn, value: Value<'_>) -> Result<(), LayerFull> {
        let partition = self.key_space.partition(key);
        let (kind, bytes) = value.parts();
        assert!(lsn.is_valid(), "a version has an LSN");
        assert!(bytes.len() <= PAGE_BYTES, "values are at most a page");
        assert!(
            self.last.is_none_or(|last| last < (partition, *key, lsn)),
            "values come in order of partition, key and LSN"
        );
        let (lowest, highest) = match self.lsns {
            Some((lowest, highest)) => (lowest.min(lsn), highest.max(lsn)),
            None => (lsn, lsn),
        };
        if !self.has_room(bytes.len(), highest.0 - lowest.0) {
            return Err(LayerFull);
        }
        self.lsns = Some((lowest, highest));
        self.last = Some((partition, *key, lsn));
        self.enter(partition, key);
        if bytes.len() <= self.config.pack_value_bytes_max {
            self.push_packed(key, lsn, kind, bytes);
        } else {
            self.push_single(key, lsn, kind, bytes);
        }
        Ok(())
    }

    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Bytes the object would have if it were finished now, at most.
    pub fn estimated_bytes(&self) -> u64 {
        let extent = self.extent.as_ref().map_or(0, ExtentBuilder::extent_bytes);
        let pack = self
            .pack
            .as_ref()
            .map_or(0, |pack| one_block_bytes(pack.body.len()));
        let extent_count = self.fences.len() + 3;
        let index = INDEX_HEADER_BYTES
            + self.sections.len() * PARTITION_BYTES
            + extent_count * FENCE_BYTES
            + TAG_BYTES;
        (self.object.len() + extent + pack + aligned(index) + FOOTER_BYTES) as u64
    }

    /// Finishes the layer. Seals the index; copies nothing.
    ///
    /// # Panics
    /// If it is empty.
    pub fn finish(mut self) -> SealedLayer {
        self.flush_pack();
        self.flush_extent();
        let (first_lsn, last_lsn) = self.lsns.expect("a layer is not empty");
        let fences: Vec<Fence> = self
            .fences
            .iter()
            .map(|(key, lsn, at)| Fence {
                key: *key,
                at: units(*at),
                lsn_units: units(lsn.0 - first_lsn.0),
            })
            .collect();
        let index_at = self.object.len() as u64;
        let index = encode_index(first_lsn, last_lsn, index_at, &self.sections, &fences);
        let context = self.header.layer.context(BlockKind::LayerIndex, 0);
        let index = self.sealer.seal_vec(&context, &index);
        self.object.extend_from_slice(&index);
        self.object.resize(aligned(self.object.len()), 0);
        let index_start = usize::try_from(index_at).expect("a length in memory");
        let footer = LayerFooter {
            index_at,
            index_bytes: u32::try_from(index.len()).expect("1,048,576 fences at most"),
            extent_count: u32::try_from(fences.len()).expect("1,048,576 at most"),
            index_crc: crc32c::crc32c(&self.object[index_start..]),
        };
        self.object.extend_from_slice(&footer.encode());
        let summary = LayerSummary {
            layer: self.header.layer,
            dek_id: self.header.dek_id,
            key_check: self.header.key_check,
            object_bytes: self.object.len() as u64,
            index: footer.index_range(),
            extent_count: footer.extent_count,
            first_lsn,
            last_lsn,
            sections: self.sections,
        };
        SealedLayer {
            bytes: Bytes::from(self.object),
            summary,
        }
    }

    fn has_room(&self, value_bytes: usize, lsn_span: u64) -> bool {
        if self.is_empty() {
            return true;
        }
        let more = one_block_bytes(PACK_ENTRY_HEADER_BYTES + value_bytes) + PARTITION_BYTES;
        let bytes = self.estimated_bytes() + more as u64;
        bytes <= self.config.object_bytes_max
            && self.fences.len() + 2 < EXTENTS_MAX as usize
            && lsn_span / (UNIT_BYTES as u64) <= u64::from(u32::MAX)
    }

    /// Makes `partition` the one that is being written.
    fn enter(&mut self, partition: Partition, key: &Key) {
        match self.sections.last_mut() {
            Some(section) if section.partition == partition => section.last_key = *key,
            _ => {
                self.flush_pack();
                self.flush_extent();
                let next = self.next_extent();
                self.sections.push(PartitionSection {
                    partition,
                    extents: next..next,
                    first_key: *key,
                    last_key: *key,
                });
            }
        }
    }

    fn push_single(&mut self, key: &Key, lsn: Lsn, kind: ValueKind, bytes: &[u8]) {
        self.flush_pack();
        let contents = match kind {
            ValueKind::Image => BlockContents::Image,
            ValueKind::Delta => BlockContents::Delta,
        };
        self.push_block(&Cover::of_value(contents, key, lsn), bytes);
    }

    fn push_packed(&mut self, key: &Key, lsn: Lsn, kind: ValueKind, bytes: &[u8]) {
        let stripe = self.key_space.stripe(key);
        let entry_bytes = PACK_ENTRY_HEADER_BYTES + bytes.len();
        let fits = |pack: &PendingPack| {
            pack.stripe == stripe && pack.body.len() + entry_bytes <= PAGE_BYTES
        };
        if !self.pack.as_ref().is_some_and(fits) {
            self.flush_pack();
        }
        let pack = self.pack.get_or_insert_with(|| PendingPack {
            stripe,
            cover: Cover::of_value(BlockContents::Pack, key, lsn),
            body: Vec::with_capacity(PAGE_BYTES),
        });
        pack.cover.last_key = *key;
        pack.cover.lowest_lsn = pack.cover.lowest_lsn.min(lsn);
        pack.cover.highest_lsn = pack.cover.highest_lsn.max(lsn);
        put_entry(&mut pack.body, key, lsn, kind, bytes);
    }

    fn flush_pack(&mut self) {
        if let Some(pack) = self.pack.take() {
            self.push_block(&pack.cover, &pack.body);
        }
    }

    fn push_block(&mut self, cover: &Cover, body: &[u8]) {
        encode_block(
            cover.contents,
            &cover.first_key,
            cover.lowest_lsn,
            body,
            self.config.compress,
            &mut self.plain,
        );
        let is_full = |extent: &ExtentBuilder| {
            extent.extent_bytes_with(self.plain.len()) > self.config.extent_bytes_max
        };
        if self.extent.as_ref().is_some_and(is_full) {
            self.flush_extent();
        }
        let extent_no = self.next_extent();
        let section = self.sections.last().expect("`enter` began one");
        let extent = self.extent.get_or_insert_with(|| {
            let blocks = std::mem::take(&mut self.spare_blocks);
            ExtentBuilder::new(section.partition, extent_no, blocks)
        });
        extent.push(&self.sealer, &self.header.layer, cover, &self.plain);
    }

    fn flush_extent(&mut self) {
        let Some(extent) = self.extent.take() else {
            return;
        };
        let (key, lsn) = extent.first().expect("made for a block");
        self.fences.push((key, lsn, self.object.len() as u64));
        self.spare_blocks = extent.finish(&self.sealer, &self.header.layer, &mut self.object);
        let section = self.sections.last_mut().expect("`enter` began one");
        section.extents.end += 1;
    }

    /// Number of the extent after those that are finished.
    fn next_extent(&self) -> u32 {
        u32::try_from(self.fences.len()).expect("`has_room` stops before")
    }
}

impl std::fmt::Debug for LayerWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.estimated_bytes();
        write!(f, "LayerWriter({:?}, {bytes} bytes)", self.header.layer)
    }
}

impl Cover {
    fn of_value(contents: BlockContents, key: &Key, lsn: Lsn) -> Cover {
        Cover {
            contents,
            first_key: *key,
            last_key: *key,
            first_entry_lsn: lsn,
            lowest_lsn: lsn,
            highest_lsn: lsn,
        }
    }
}

/// What a block with a body of `body_bytes` adds to the object at most: an extent of its own.
fn one_block_bytes(body_bytes: usize) -> usize {
    EXTENT_HEADER_BYTES
        + DIRECTORY_BYTES_LEAST
        + aligned(BLOCK_HEADER_BYTES + body_bytes + TAG_BYTES)
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes / UNIT_BYTES as u64).expect("`has_room` keeps it below 2^32 units")
}
