//! A layer section: one partition's part of one layer. What entries add, and what snapshot nodes hold. 124 bytes:
//!
//! |  at | bytes | field        | meaning                                              |
//! |----:|------:|--------------|------------------------------------------------------|
//! |   0 |     4 | partition    | below 1,024                                          |
//! |   4 |    24 | first_key    | lowest key of the partition in the layer             |
//! |  28 |    24 | last_key     | highest, not below `first_key`                       |
//! |  52 |     8 | first_lsn    | lowest LSN in the layer                              |
//! |  60 |     8 | last_lsn     | highest, not below `first_lsn`                       |
//! |  68 |    28 | object       | branch, epoch, sequence of the layer                 |
//! |  96 |     8 | dek          | table and slot                                       |
//! | 104 |     8 | index_at     | where the layer's index begins in the object         |
//! | 112 |     4 | index_bytes  | its size                                             |
//! | 116 |     8 | object_bytes | size of the whole object; the index lies inside      |

use super::codec::{Decoder, Encoder};
use crate::crypto::page_seal::DekId;
use crate::crypto::sealed_record::RecordProblem;
use crate::layer::LayerSummary;
use crate::types::{Key, Lsn, ObjectId, Partition};

/// One partition's part of one layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerSection {
    /// The partition.
    pub partition: Partition,
    /// Lowest key of the partition in the layer.
    pub first_key: Key,
    /// Highest.
    pub last_key: Key,
    /// Lowest LSN in the layer.
    pub first_lsn: Lsn,
    /// Highest.
    pub last_lsn: Lsn,
    /// The layer; its branch is the one that wrote it.
    pub object: ObjectId,
    /// The key that the layer is sealed under, in the tables of the branch that wrote it.
    pub dek: DekId,
    /// Where the layer's index begins in the object.
    pub index_at: u64,
    /// Size of the index.
    pub index_bytes: u32,
    /// Size of the whole object.
    pub object_bytes: u64,
}

impl LayerSection {
    /// The sections of a layer that was written.
    pub fn of_layer(summary: &LayerSummary) -> impl Iterator<Item = LayerSection> {
        let index_bytes = u32::try_from(summary.index.end - summary.index.start)
            .expect("the layer format keeps its index below 4 GiB");
        summary.sections.iter().map(move |section| LayerSection {
            partition: section.partition,
            first_key: section.first_key,
            last_key: section.last_key,
            first_lsn: summary.first_lsn,
            last_lsn: summary.last_lsn,
            object: summary.layer.object,
            dek: summary.dek_id,
            index_at: summary.index.start,
            index_bytes,
            object_bytes: summary.object_bytes,
        })
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.u32(u32::from(self.partition.number()))
            .key(&self.first_key)
            .key(&self.last_key)
            .lsn(self.first_lsn)
            .lsn(self.last_lsn)
            .object(self.object)
            .dek_id(self.dek)
            .u64(self.index_at)
            .u32(self.index_bytes)
            .u64(self.object_bytes);
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<LayerSection, RecordProblem> {
        let section = LayerSection {
            partition: decode_partition(from.u32()?)?,
            first_key: from.key()?,
            last_key: from.key()?,
            first_lsn: from.lsn()?,
            last_lsn: from.lsn()?,
            object: from.object()?,
            dek: from.dek_id()?,
            index_at: from.u64()?,
            index_bytes: from.u32()?,
            object_bytes: from.u64()?,
        };
        let in_order = section.first_key <= section.last_key
            && section.first_lsn <= section.last_lsn
            && section
                .index_at
                .checked_add(u64::from(section.index_bytes))
                .is_some_and(|end| end <= section.object_bytes);
        if in_order {
            Ok(section)
        } else {
            Err(RecordProblem::Damaged("section"))
        }
    }
}

pub(super) fn decode_partition(number: u32) -> Result<Partition, RecordProblem> {
    u16::try_from(number)
        .ok()
        .and_then(Partition::new)
        .ok_or(RecordProblem::Damaged("partition"))
}

/// Bytes of an encoded section.
pub(crate) const SECTION_BYTES: usize = 4 + 24 + 24 + 8 + 8 + 28 + 8 + 8 + 4 + 8;
const _: () = assert!(SECTION_BYTES == 124);
