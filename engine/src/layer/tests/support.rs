//! A key space, a map to compare with, and a reader that goes the way a shard does.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::crypto::page_seal::{Dek, DekId, Opener};
use crate::layer::*;
use crate::types::{BranchId, Id, Key, KeySpace, Lsn, ObjectId, PAGE_BYTES, Partition, TenantId};

/// Keys are (relation, block); sixteen blocks are a stripe.
pub(super) struct TestKeys;

pub(super) fn key(relation: u32, block: u32) -> Key {
    let mut key = Key::MIN;
    key.0[16..20].copy_from_slice(&relation.to_be_bytes());
    key.0[20..].copy_from_slice(&block.to_be_bytes());
    key
}

impl KeySpace for TestKeys {
    fn partition(&self, key: &Key) -> Partition {
        let hash = self.stripe(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62;
        Partition::of_hash(u32::try_from(hash).expect("two bits"))
    }

    fn stripe(&self, key: &Key) -> u64 {
        u64::from_be_bytes(key.0[16..].try_into().expect("eight bytes")) >> 4
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Version {
    pub(super) kind: ValueKind,
    pub(super) bytes: Vec<u8>,
}

pub(super) type Model = BTreeMap<(Partition, Key, Lsn), Version>;

pub(super) fn layer_id() -> LayerId {
    LayerId {
        tenant: TenantId(Id([7; 16])),
        object: ObjectId {
            branch: BranchId(Id([8; 16])),
            epoch: 3,
            sequence: 21,
        },
    }
}

pub(super) const DEK_ID: DekId = DekId { table: 4, slot: 5 };

pub(super) fn dek() -> Dek {
    Dek::from_bytes(*b"thirty-two bytes, fixed, to test")
}

pub(super) fn writer_of(layer: LayerId, config: LayerConfig) -> LayerWriter {
    LayerWriter::new(LayerParams {
        tenant: layer.tenant,
        object: layer.object,
        dek: &dek(),
        dek_id: DEK_ID,
        key_space: Arc::new(TestKeys),
        config,
    })
}

pub(super) fn write(model: &Model, config: LayerConfig) -> SealedLayer {
    let mut writer = writer_of(layer_id(), config);
    for ((_, key, lsn), version) in model {
        let value = match version.kind {
            ValueKind::Image => Value::Image(&version.bytes),
            ValueKind::Delta => Value::Delta(&version.bytes),
        };
        writer.push(key, *lsn, value).expect("fits");
    }
    let estimated = writer.estimated_bytes();
    let layer = writer.finish();
    assert!(layer.bytes.len() as u64 <= estimated, "an upper bound");
    layer
}

pub(super) struct Random(pub(super) ChaCha8Rng);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(ChaCha8Rng::seed_from_u64(seed))
    }

    pub(super) fn below(&mut self, end: u32) -> u32 {
        self.0.next_u32() % end
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// Pages of noise, pages that compress, empty, small and middling values.
    pub(super) fn value(&mut self) -> Vec<u8> {
        match self.below(8) {
            0..=2 => self.bytes(PAGE_BYTES),
            3 => vec![self.0.next_u32().to_le_bytes()[0]; PAGE_BYTES],
            4 => {
                let noise = usize::try_from(self.below(8192)).expect("small");
                let mut page = self.bytes(noise);
                page.resize(PAGE_BYTES, 0);
                page
            }
            5 => Vec::new(),
            6 => {
                let len = usize::try_from(self.below(64)).expect("small");
                self.bytes(len)
            }
            _ => {
                let len = usize::try_from(self.below(1500)).expect("small");
                self.bytes(len)
            }
        }
    }
}

/// Reads a layer as a shard does: index in memory, extents in pieces, one block opened.
pub(super) struct Reader<'a> {
    object: &'a [u8],
    pub(super) index: LayerIndex,
    opener: Opener,
    scratch: BlockScratch,
    random: Random,
    pub(super) extents_read: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(layer: &'a SealedLayer) -> Reader<'a> {
        let opener = Opener::new(&dek());
        let at = layer.summary.index.start;
        let range = usize::try_from(at).expect("small")
            ..usize::try_from(layer.summary.index.end).expect("small");
        let index = LayerIndex::open(&opener, &layer_id(), &layer.bytes[range], at)
            .expect("the index opens");
        Reader {
            object: &layer.bytes,
            index,
            opener,
            scratch: BlockScratch::new(),
            random: Random::new(1),
            extents_read: 0,
        }
    }

    pub(super) fn extent(&self, extent_no: u32) -> &'a [u8] {
        let range = self.index.extent_range(extent_no).expect("exists");
        &self.object[usize::try_from(range.start).expect("small")
            ..usize::try_from(range.end).expect("small")]
    }

    pub(super) fn directory(&self, extent_no: u32) -> ExtentDirectory {
        ExtentDirectory::open(&self.opener, &layer_id(), extent_no, self.extent(extent_no))
            .expect("the directory opens")
    }

    /// The newest version at or below `lsn`.
    pub(super) fn get(&mut self, key: &Key, lsn: Lsn) -> Option<(Lsn, Version)> {
        let partition = TestKeys.partition(key);
        let candidates: Vec<u32> = self.index.candidates(partition, key, lsn).collect();
        candidates
            .into_iter()
            .find_map(|extent_no| self.get_in(extent_no, key, lsn))
    }

    /// Lets the extent arrive in pieces, and opens the block as soon as it is there.
    fn get_in(&mut self, extent_no: u32, key: &Key, lsn: Lsn) -> Option<(Lsn, Version)> {
        self.extents_read += 1;
        let extent = self.extent(extent_no);
        let mut assembler = ExtentAssembler::new(extent_no, extent.len());
        let mut arrived = 0;
        let directory = loop {
            arrived = self.more(arrived, extent.len());
            match assembler.advance(&extent[..arrived]).expect("sound") {
                Arrival::Nothing | Arrival::Header => {}
                Arrival::Directory | Arrival::Whole => {
                    let opened = ExtentDirectory::open(
                        &self.opener,
                        &layer_id(),
                        extent_no,
                        &extent[..arrived],
                    );
                    break opened.expect("the directory opens");
                }
            }
        };
        let place = directory.find(key, lsn)?;
        while !assembler.is_here(&place) {
            arrived = self.more(arrived, extent.len());
            assembler.advance(&extent[..arrived]).expect("sound");
        }
        self.open(&place, &extent[..arrived], key, lsn)
    }

    fn more(&mut self, arrived: usize, end: usize) -> usize {
        let piece = match self.random.below(3) {
            0 => self.random.below(20),
            1 => self.random.below(2000),
            _ => self.random.below(100_000),
        };
        end.min(arrived + 1 + usize::try_from(piece).expect("small"))
    }

    pub(super) fn open(
        &mut self,
        place: &BlockPlace,
        extent: &[u8],
        key: &Key,
        lsn: Lsn,
    ) -> Option<(Lsn, Version)> {
        let sealed = &extent[place.range()];
        let id = layer_id();
        let kind = match place.contents {
            BlockContents::Image => ValueKind::Image,
            BlockContents::Delta => ValueKind::Delta,
            BlockContents::Pack => {
                let pack = open_pack(&self.opener, &id, place, sealed, &mut self.scratch)
                    .expect("the pack opens");
                let entry = pack.newest(key, lsn)?;
                let version = Version {
                    kind: entry.kind,
                    bytes: entry.value.to_vec(),
                };
                return Some((entry.lsn, version));
            }
        };
        assert_eq!((place.first_key, place.last_key), (*key, *key));
        assert!(place.first_lsn <= lsn && place.first_lsn == place.last_lsn);
        let mut frame = [0xaa; FRAME_BYTES];
        let len = open_block(
            &self.opener,
            &id,
            place,
            sealed,
            &mut self.scratch,
            &mut frame,
        )
        .expect("the block opens");
        let out = &frame[FRAME_BYTES - PAGE_BYTES..];
        let left = open_image(&self.opener, &id, place, sealed, &mut self.scratch);
        assert_eq!(left.expect("opens as well"), &out[..len]);
        let bytes = out[..len].to_vec();
        Some((place.first_lsn, Version { kind, bytes }))
    }
}

impl Reader<'_> {
    /// The version of `key` at `lsn` exactly, if it is in this block.
    pub(super) fn open_if_here(
        &mut self,
        place: &BlockPlace,
        extent: &[u8],
        key: &Key,
        lsn: Lsn,
    ) -> Option<(Lsn, Version)> {
        let only = (place.first_key, place.first_lsn) == (*key, lsn);
        (only || place.contents == BlockContents::Pack)
            .then(|| self.open(place, extent, key, lsn))
            .flatten()
            .filter(|(found, _)| *found == lsn)
    }
}
