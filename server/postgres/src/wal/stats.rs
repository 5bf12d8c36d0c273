//! What a stretch of WAL consists of: by resource manager and kind of record, and by relation.
//!
//! Bytes are those of records, as they are in the WAL but for page headers and alignment. What a relation's blocks have
//! in a record (images and data) counts for the relation; a record's header and main data count for its kind only.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::kind::RecordKind;
use super::manager::ResourceManager;
use super::record::Record;
use crate::key::Relation;

/// Counts of one thing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct WalVolume {
    /// Records (of a relation: references to its blocks).
    pub records: u64,
    /// All their bytes.
    pub bytes: u64,
    /// Page images in them.
    pub images: u64,
    /// Bytes of these images, as they were logged.
    pub image_bytes: u64,
}

impl WalVolume {
    fn add(&mut self, more: &WalVolume) {
        self.records += more.records;
        self.bytes += more.bytes;
        self.images += more.images;
        self.image_bytes += more.image_bytes;
    }
}

/// Counts of a stretch of WAL. Grows with the number of relations in it.
#[derive(Clone, Default, Debug)]
pub struct WalStats {
    total: WalVolume,
    kinds: BTreeMap<(ResourceManager, &'static str), WalVolume>,
    relations: HashMap<Relation, WalVolume>,
}

impl WalStats {
    /// Counts one record.
    pub fn observe(&mut self, record: &Record<'_>) {
        let mut volume = WalVolume {
            records: 1,
            bytes: record.total_bytes() as u64,
            ..WalVolume::default()
        };
        for block in record.blocks() {
            let image_bytes = block.image.map_or(0, |image| image.bytes().len() as u64);
            let of_block = WalVolume {
                records: 1,
                bytes: image_bytes + block.data.len() as u64,
                images: u64::from(block.image.is_some()),
                image_bytes,
            };
            volume.images += of_block.images;
            volume.image_bytes += of_block.image_bytes;
            let relation = self.relations.entry(block.tag.relation).or_default();
            relation.add(&of_block);
        }
        let kind = RecordKind::of(record.version, record.manager, record.info);
        let name = kind.map_or("unknown", |kind| kind.name);
        let of_kind = self.kinds.entry((record.manager, name)).or_default();
        of_kind.add(&volume);
        self.total.add(&volume);
    }

    /// All of it.
    pub fn total(&self) -> WalVolume {
        self.total
    }

    /// By resource manager.
    pub fn managers(&self) -> BTreeMap<ResourceManager, WalVolume> {
        let mut managers = BTreeMap::<_, WalVolume>::new();
        for ((manager, _), volume) in &self.kinds {
            managers.entry(*manager).or_default().add(volume);
        }
        managers
    }

    /// By kind of record, in the order of resource managers and names.
    pub fn kinds(&self) -> impl Iterator<Item = (ResourceManager, &'static str, WalVolume)> + '_ {
        self.kinds
            .iter()
            .map(|((manager, name), volume)| (*manager, *name, *volume))
    }

    /// By relation, the one with the most bytes first.
    pub fn relations(&self) -> Vec<(Relation, WalVolume)> {
        let mut relations: Vec<_> = self.relations.iter().map(|(r, v)| (*r, *v)).collect();
        relations.sort_unstable_by_key(|(relation, volume)| {
            (std::cmp::Reverse(volume.bytes), *relation)
        });
        relations
    }
}
