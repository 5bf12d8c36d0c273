//! Verifies a snapshot object without a key: header and frames have checksums of their own. The layout is in
//! `snapshot.rs`.

use super::snapshot::{FRAME_BYTES_MAX, HEADER_BYTES, MAGIC, VERSION};
use crate::crypto::sealed_record::RecordProblem;
use crate::types::{BranchId, Id, ObjectId, TenantId};

/// Takes the object piece by piece and keeps none of it.
#[derive(Debug, Default)]
pub(crate) struct SnapshotScrubber {
    header: Option<Header>,
    nodes: u32,
    frame: Option<Frame>,
}

#[derive(Debug)]
struct Header {
    tenant: TenantId,
    object: ObjectId,
    nodes: u32,
}

#[derive(Debug)]
struct Frame {
    left: usize,
    checksum: u32,
}

impl SnapshotScrubber {
    /// Verifies what it can of `rest`, what comes behind what was used before; says how much was used now.
    pub(crate) fn step(&mut self, rest: &[u8]) -> Result<usize, RecordProblem> {
        let Some(header) = &self.header else {
            let Some(bytes) = rest.first_chunk() else {
                return Ok(0);
            };
            self.header = Some(Header::decode(bytes)?);
            return Ok(HEADER_BYTES);
        };
        match &mut self.frame {
            None if self.nodes == header.nodes => Ok(0),
            None => {
                let Some(length) = rest.first_chunk() else {
                    return Ok(0);
                };
                let sealed_bytes = u32::from_le_bytes(*length);
                if sealed_bytes > FRAME_BYTES_MAX {
                    return Err(RecordProblem::Damaged("length of a node"));
                }
                self.frame = Some(Frame {
                    left: usize::try_from(sealed_bytes).expect("32 bits"),
                    checksum: crc32c::crc32c(length),
                });
                Ok(length.len())
            }
            Some(frame) if frame.left > 0 => {
                let used = frame.left.min(rest.len());
                frame.checksum = crc32c::crc32c_append(frame.checksum, &rest[..used]);
                frame.left -= used;
                Ok(used)
            }
            Some(frame) => {
                let Some(stored) = rest.first_chunk() else {
                    return Ok(0);
                };
                if u32::from_le_bytes(*stored) != frame.checksum {
                    return Err(RecordProblem::Damaged("checksum of a node"));
                }
                self.frame = None;
                self.nodes += 1;
                Ok(stored.len())
            }
        }
    }

    /// Which object it is, once all has come.
    pub(crate) fn finish(&self) -> Result<(TenantId, ObjectId), RecordProblem> {
        match &self.header {
            Some(header) if self.nodes == header.nodes => Ok((header.tenant, header.object)),
            _ => Err(RecordProblem::Damaged("cut short")),
        }
    }
}

impl Header {
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, RecordProblem> {
        let u32_at = |at: usize| -> u32 {
            u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
        };
        let id = |at: usize| Id(bytes[at..at + 16].try_into().expect("16 bytes"));
        if bytes.first_chunk() != Some(MAGIC) {
            return Err(RecordProblem::OtherFormat);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(RecordProblem::UnknownVersion {
                found: version,
                known: VERSION,
            });
        }
        let checksum_at = HEADER_BYTES - 4;
        if u32_at(checksum_at) != crc32c::crc32c(&bytes[..checksum_at]) {
            return Err(RecordProblem::Damaged("checksum"));
        }
        Ok(Header {
            tenant: TenantId(id(12)),
            object: ObjectId {
                branch: BranchId(id(28)),
                epoch: u32_at(44),
                sequence: u64::from_le_bytes(bytes[48..56].try_into().expect("eight bytes")),
            },
            nodes: u32_at(80),
        })
    }
}
