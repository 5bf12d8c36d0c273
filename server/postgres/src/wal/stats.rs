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

#[cfg(test)]
mod tests {
    use engine::types::Lsn;

    use super::*;
    use crate::wal::{RecordScratch, WalVersion};

    /// A record of `manager` with one block of `relation`: an image of `image_bytes` if there are any, and data.
    fn record(manager: ResourceManager, info: u8, number: u32, image_bytes: u16) -> Vec<u8> {
        let data = [7; 10];
        let mut bytes = vec![0; 24];
        bytes[16..18].copy_from_slice(&[info, manager.0]);
        let flags = if image_bytes > 0 { 0x30 } else { 0x20 };
        bytes.extend([0, flags, 10, 0]);
        if image_bytes > 0 {
            // Length, where the hole is, and that there is one.
            let hole_at = 24u16;
            bytes.extend(image_bytes.to_le_bytes());
            bytes.extend(hole_at.to_le_bytes());
            bytes.push(1);
        }
        for word in [1663, 5, number, 0] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend([255, 3]);
        bytes.extend(vec![9; usize::from(image_bytes)]);
        bytes.extend(data);
        bytes.extend([1, 2, 3]);
        let total = u32::try_from(bytes.len()).expect("short");
        bytes[..4].copy_from_slice(&total.to_le_bytes());
        bytes
    }

    fn observe(stats: &mut WalStats, bytes: &[u8]) {
        let mut scratch = RecordScratch::new();
        let record = Record::parse(WalVersion::V16, Lsn(8), Lsn(16), bytes, &mut scratch);
        stats.observe(&record.expect("well formed"));
    }

    #[test]
    fn bytes_are_of_records_kinds_and_relations() {
        let mut stats = WalStats::default();
        let (heap, btree) = (ResourceManager::HEAP, ResourceManager::BTREE);
        let insert = record(heap, 0, 100, 0);
        let with_image = record(heap, 0, 100, 500);
        let delete = record(heap, 0x10, 200, 0);
        let leaf = record(btree, 0, 200, 300);
        let strange = record(ResourceManager(200), 0, 300, 0);
        let all = [&insert, &with_image, &delete, &leaf, &strange];
        for bytes in all {
            observe(&mut stats, bytes);
        }
        let length = |bytes: &[u8]| bytes.len() as u64;
        let total = stats.total();
        assert_eq!(
            (total.records, total.images, total.image_bytes),
            (5, 2, 800)
        );
        assert_eq!(
            total.bytes,
            all.iter().map(|bytes| length(bytes)).sum::<u64>()
        );

        let kinds: Vec<_> = stats.kinds().collect();
        let expected = WalVolume {
            records: 2,
            bytes: length(&insert) + length(&with_image),
            images: 1,
            image_bytes: 500,
        };
        assert!(kinds.contains(&(heap, "INSERT", expected)), "{kinds:?}");
        let names: Vec<_> = kinds.iter().map(|(_, name, _)| *name).collect();
        assert_eq!(names, ["DELETE", "INSERT", "INSERT_LEAF", "unknown"]);
        let managers = stats.managers();
        assert_eq!((managers[&heap].records, managers[&btree].records), (3, 1));

        // Data of ten bytes each, and images; the one with the most comes first.
        let relations: Vec<_> = stats
            .relations()
            .into_iter()
            .map(|(relation, volume)| (relation.number, volume.records, volume.bytes))
            .collect();
        assert_eq!(relations, [(100, 2, 520), (200, 2, 320), (300, 1, 10)]);
    }
}
