//! The index of a layer, version 1: which partitions are in it, and one fence per extent. Sealed as one block;
//! opened, it stays in memory as long as its shard uses the layer.
//!
//! Plaintext: 32 bytes, then the partitions, then the fences.
//!
//! |  at | bytes | field           | meaning                                                          |
//! |----:|------:|-----------------|------------------------------------------------------------------|
//! |   0 |     4 | extent_count    | fences                                                           |
//! |   4 |     4 | partition_count | partitions, 1..=1,024                                            |
//! |   8 |     8 | first_lsn       | lowest LSN in the layer                                          |
//! |  16 |     8 | last_lsn        | highest LSN in the layer                                         |
//! |  24 |     8 | index_at        | where the extents end and the sealed index begins                |
//!
//! Partition, 56 bytes, in ascending order:
//!
//! |  at | bytes | field        | meaning                                                             |
//! |----:|------:|--------------|---------------------------------------------------------------------|
//! |   0 |     2 | partition    |                                                                     |
//! |   2 |     2 | reserved     | zeros                                                               |
//! |   4 |     4 | first_extent | its extents go up to the next partition's first                     |
//! |   8 |    24 | first_key    |                                                                     |
//! |  32 |    24 | last_key     |                                                                     |
//!
//! Fence, 32 bytes, in order of extents: the only thing kept in memory for every extent there is (128 MiB per TiB).
//!
//! |  at | bytes | field     | meaning                                                                |
//! |----:|------:|-----------|------------------------------------------------------------------------|
//! |   0 |    24 | key       | of the extent's first value                                            |
//! |  24 |     4 | at        | where the extent begins, in units of 8 bytes                           |
//! |  28 |     4 | lsn_units | LSN of its first value: bytes above `first_lsn`, in units of 8, cut off |
//!
//! The cut-off LSN is at or below the true one. So where a wanted version has the very key and unit of a fence, it
//! may lie in the extent before, and [`LayerIndex::candidates`] gives both; otherwise there is one.

use std::ops::Range;

use super::format::{Fields, LayerId, UNIT_BYTES};
use super::{EXTENT_BYTES, EXTENT_HEADER_BYTES, EXTENTS_MAX, HEADER_BYTES, LayerError, Part};
use crate::crypto::page_seal::{BlockKind, Opener};
use crate::types::{Key, Lsn, PARTITIONS, Partition};

pub(super) const INDEX_HEADER_BYTES: usize = 32;
pub(super) const PARTITION_BYTES: usize = 56;
pub(super) const FENCE_BYTES: usize = 32;

/// What a layer has of one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionSection {
    /// Which partition.
    pub partition: Partition,
    /// Its extents.
    pub extents: Range<u32>,
    /// Lowest key.
    pub first_key: Key,
    /// Highest key.
    pub last_key: Key,
}

/// The first value of an extent, and where the extent begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) key: Key,
    /// In units of 8 bytes.
    pub(super) at: u32,
    /// In units of 8 bytes above the layer's first LSN.
    pub(super) lsn_units: u32,
}

const _: () = assert!(size_of::<Fence>() == FENCE_BYTES);

/// An opened index: answers which extent holds a version.
pub struct LayerIndex {
    first_lsn: Lsn,
    last_lsn: Lsn,
    index_at: u64,
    sections: Box<[PartitionSection]>,
    fences: Box<[Fence]>,
}

impl LayerIndex {
    /// Opens the index of `layer`: the `sealed` bytes that the layer has from `index_at`
    /// ([`super::LayerFooter::index_range`], or what the manifest says).
    ///
    /// # Errors
    /// `Seal`: damage, another object or another key; [`super::LayerHeader::check`] tells.
    pub fn open(
        opener: &Opener,
        layer: &LayerId,
        sealed: &[u8],
        index_at: u64,
    ) -> Result<LayerIndex, LayerError> {
        let part = Part::Index;
        let context = layer.context(BlockKind::LayerIndex, 0);
        let plain = opener
            .open_vec(&context, sealed)
            .map_err(|source| LayerError::Seal { part, source })?;
        let index = LayerIndex::decode(&plain)?;
        if index.index_at != index_at {
            return Err(LayerError::malformed(part, "lies at another place"));
        }
        Ok(index)
    }

    /// Extents that may hold the newest version of `key` at or below `lsn`, to be tried in this order until one
    /// has it. Nearly always one; none if the layer can't have it.
    pub fn candidates(
        &self,
        partition: Partition,
        key: &Key,
        lsn: Lsn,
    ) -> impl Iterator<Item = u32> + use<> {
        self.candidate_range(partition, key, lsn)
            .unwrap_or(0..0)
            .rev()
    }

    fn candidate_range(&self, partition: Partition, key: &Key, lsn: Lsn) -> Option<Range<u32>> {
        let section = self.section(partition)?;
        if !(section.first_key..=section.last_key).contains(key) {
            return None;
        }
        let units = lsn.bytes_since(self.first_lsn)? / UNIT_BYTES as u64;
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let fences = &self.fences[section.extents.start as usize..section.extents.end as usize];
        let wanted = (*key, units);
        let after = fences.partition_point(|fence| (fence.key, fence.lsn_units) <= wanted);
        // Fences of the very key and unit are one at most times, and few ever.
        let alike = fences[..after].iter().rev();
        let alike = alike.take_while(|fence| (fence.key, fence.lsn_units) == wanted);
        let sure = (after - alike.count()).saturating_sub(1);
        let extent = |nth: usize| {
            section.extents.start + u32::try_from(nth).expect("fewer than the section's extents")
        };
        (after > 0).then(|| extent(sure)..extent(after))
    }

    /// Where extent `extent_no` is in the object, or `None` if there is no such extent.
    pub fn extent_range(&self, extent_no: u32) -> Option<Range<u64>> {
        let nth = extent_no as usize;
        let start = self.fences.get(nth)?.at_byte();
        let end = self
            .fences
            .get(nth + 1)
            .map_or(self.index_at, Fence::at_byte);
        Some(start..end)
    }

    /// Key of the first value of extent `extent_no`.
    pub fn first_key(&self, extent_no: u32) -> Option<Key> {
        self.fences.get(extent_no as usize).map(|fence| fence.key)
    }

    /// The partition of extent `extent_no`.
    pub fn partition_of(&self, extent_no: u32) -> Option<Partition> {
        let after = self
            .sections
            .partition_point(|section| section.extents.start <= extent_no);
        let section = &self.sections[after.checked_sub(1)?];
        section
            .extents
            .contains(&extent_no)
            .then_some(section.partition)
    }

    /// What the layer has, in ascending order of partitions.
    pub fn sections(&self) -> &[PartitionSection] {
        &self.sections
    }

    /// What the layer has of `partition`.
    pub fn section(&self, partition: Partition) -> Option<&PartitionSection> {
        // A large layer has all of them.
        let guess = self.sections.get(usize::from(partition.number()));
        if let Some(section) = guess.filter(|section| section.partition == partition) {
            return Some(section);
        }
        self.sections
            .binary_search_by_key(&partition, |section| section.partition)
            .ok()
            .map(|nth| &self.sections[nth])
    }

    /// Number of its extents.
    pub fn extent_count(&self) -> u32 {
        u32::try_from(self.fences.len()).expect("checked when decoding")
    }

    /// Lowest LSN in the layer.
    pub fn first_lsn(&self) -> Lsn {
        self.first_lsn
    }

    /// Highest LSN in the layer.
    pub fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// Memory it takes.
    pub fn resident_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.sections) + size_of_val(&*self.fences)
    }

    fn decode(plain: &[u8]) -> Result<LayerIndex, LayerError> {
        let refuse = |what| LayerError::malformed(Part::Index, what);
        let mut fields = Fields::new(Part::Index, plain, plain.len())?;
        let extent_count = fields.u32()?;
        let partition_count = fields.u32()?;
        let (first_lsn, last_lsn) = (fields.lsn()?, fields.lsn()?);
        let index_at = fields.u64()?;
        if extent_count == 0 || extent_count > EXTENTS_MAX {
            return Err(refuse("impossible number of extents"));
        }
        if partition_count == 0 || partition_count > u32::from(PARTITIONS) {
            return Err(refuse("impossible number of partitions"));
        }
        if first_lsn > last_lsn {
            return Err(refuse("LSNs out of order"));
        }
        let mut sections: Vec<PartitionSection> = Vec::with_capacity(partition_count as usize);
        for _ in 0..partition_count {
            let partition = Partition::new(fields.u16()?).ok_or(refuse("no such partition"))?;
            fields.reserved(2)?;
            let start = fields.u32()?;
            let (first_key, last_key) = (fields.key()?, fields.key()?);
            let follows = match sections.last_mut() {
                None => start == 0,
                Some(before) => {
                    before.extents.end = start;
                    before.partition < partition && before.extents.start < start
                }
            };
            if !follows || start >= extent_count || first_key > last_key {
                return Err(refuse("partitions out of order"));
            }
            sections.push(PartitionSection {
                partition,
                extents: start..extent_count,
                first_key,
                last_key,
            });
        }
        let mut fences = Vec::with_capacity((extent_count as usize).min(plain.len() / FENCE_BYTES));
        for _ in 0..extent_count {
            fences.push(Fence {
                key: fields.key()?,
                at: fields.u32()?,
                lsn_units: fields.u32()?,
            });
        }
        fields.finish()?;
        let index = LayerIndex {
            first_lsn,
            last_lsn,
            index_at,
            sections: sections.into(),
            fences: fences.into(),
        };
        index.check()?;
        Ok(index)
    }

    fn check(&self) -> Result<(), LayerError> {
        let refuse = |what| LayerError::malformed(Part::Index, what);
        for section in &self.sections {
            let fences = &self.fences[section.extents.start as usize..section.extents.end as usize];
            if fences[0].key != section.first_key
                || fences.iter().any(|fence| fence.key > section.last_key)
                || !fences.is_sorted_by_key(|fence| (fence.key, fence.lsn_units))
            {
                return Err(refuse("fences out of order"));
            }
        }
        let units_max = (self.last_lsn.0 - self.first_lsn.0) / UNIT_BYTES as u64;
        if self
            .fences
            .iter()
            .any(|fence| u64::from(fence.lsn_units) > units_max)
        {
            return Err(refuse("a fence above the last LSN"));
        }
        if self.fences[0].at_byte() != HEADER_BYTES as u64 {
            return Err(refuse("the first extent is not behind the header"));
        }
        for extent_no in 0..self.extent_count() {
            let range = self.extent_range(extent_no).expect("counted");
            let bytes = range.end.checked_sub(range.start);
            let possible = EXTENT_HEADER_BYTES as u64 + 1..=EXTENT_BYTES as u64;
            if !bytes.is_some_and(|bytes| possible.contains(&bytes)) {
                return Err(refuse("an extent of impossible length"));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for LayerIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayerIndex({} extents)", self.fences.len())
    }
}

impl Fence {
    fn at_byte(&self) -> u64 {
        u64::from(self.at) * UNIT_BYTES as u64
    }
}

/// The plaintext of an index.
pub(super) fn encode_index(
    first_lsn: Lsn,
    last_lsn: Lsn,
    index_at: u64,
    sections: &[PartitionSection],
    fences: &[Fence],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(
        INDEX_HEADER_BYTES + sections.len() * PARTITION_BYTES + fences.len() * FENCE_BYTES,
    );
    let extent_count = u32::try_from(fences.len()).expect("the writer stops before");
    out.extend_from_slice(&extent_count.to_le_bytes());
    let partition_count = u32::try_from(sections.len()).expect("at most 1,024");
    out.extend_from_slice(&partition_count.to_le_bytes());
    out.extend_from_slice(&first_lsn.0.to_le_bytes());
    out.extend_from_slice(&last_lsn.0.to_le_bytes());
    out.extend_from_slice(&index_at.to_le_bytes());
    for section in sections {
        out.extend_from_slice(&section.partition.number().to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&section.extents.start.to_le_bytes());
        out.extend_from_slice(&section.first_key.0);
        out.extend_from_slice(&section.last_key.0);
    }
    for fence in fences {
        out.extend_from_slice(&fence.key.0);
        out.extend_from_slice(&fence.at.to_le_bytes());
        out.extend_from_slice(&fence.lsn_units.to_le_bytes());
    }
    out
}
