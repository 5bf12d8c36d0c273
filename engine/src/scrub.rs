//! Finds damage in any stored object, without a key and without having all of it in memory: every byte of every format
//! is under some CRC-32C, and every header says in the clear where its object belongs.
//!
//! What it can't find: an object that is missing, and bytes changed by somebody who corrects the checksum. Seals find
//! the second, when the object is opened.

use crate::crypto::kek;
use crate::crypto::sealed_record::RecordProblem;
use crate::layer::{FOOTER_BYTES, LayerError, LayerScrubber};
use crate::manifest::{SnapshotScrubber, names};
use crate::types::{BranchId, Id, TenantId};

/// What is wrong with an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScrubError {
    /// A layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Anything else; and objects under the name of another one.
    #[error(transparent)]
    Record(#[from] RecordProblem),
}

/// Takes an object piece by piece. Memory: an extent at most.
#[derive(Debug)]
pub struct Scrubber {
    path: String,
    /// What came and was not looked at yet: too little for the next part.
    held: Vec<u8>,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Layer(Box<LayerScrubber>),
    Snapshot(SnapshotScrubber),
    Record(RecordScrubber),
}

impl Scrubber {
    /// Bytes at the end of a layer that [`Scrubber::new`] has to see first.
    pub const LAYER_TAIL_BYTES: u64 = FOOTER_BYTES as u64;

    /// Whether the object of this name is a layer.
    pub fn is_layer(path: &str) -> bool {
        path.contains("/layers/")
    }

    /// For the object `path` of `object_bytes`, whose last [`Scrubber::LAYER_TAIL_BYTES`] are `tail` if it is a layer.
    /// # Errors
    /// The tail is damaged, or there is too little of the object.
    pub fn new(path: &str, object_bytes: u64, tail: &[u8]) -> Result<Scrubber, ScrubError> {
        let format = if Scrubber::is_layer(path) {
            Format::Layer(Box::new(LayerScrubber::new(object_bytes, tail)?))
        } else if path.contains("/snapshots/") {
            Format::Snapshot(SnapshotScrubber::default())
        } else {
            Format::Record(RecordScrubber::new(object_bytes)?)
        };
        Ok(Scrubber {
            path: path.to_owned(),
            held: Vec::new(),
            format,
        })
    }

    /// Takes the next bytes.
    /// # Errors
    /// They, or those before them, are damaged, or of another object than the path says.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ScrubError> {
        self.held.extend_from_slice(bytes);
        let mut done = 0;
        loop {
            let rest = &self.held[done..];
            let used = match &mut self.format {
                Format::Layer(layer) => layer.step(rest)?,
                Format::Snapshot(snapshot) => snapshot.step(rest)?,
                Format::Record(record) => record.step(&self.path, rest)?,
            };
            if used == 0 {
                break;
            }
            done += used;
        }
        self.held.drain(..done);
        Ok(())
    }

    /// Says that all has come.
    /// # Errors
    /// It is less than the whole object, more than that, or another one.
    pub fn finish(self) -> Result<(), ScrubError> {
        if !self.held.is_empty() {
            return Err(RecordProblem::Damaged("length").into());
        }
        let belongs = match &self.format {
            Format::Layer(layer) => {
                let id = layer.finish()?.header.layer;
                self.path == names::layer(id.tenant, id.object)
            }
            Format::Snapshot(snapshot) => {
                let (tenant, object) = snapshot.finish()?;
                self.path == names::snapshot(tenant, object)
            }
            Format::Record(record) => {
                record.finish()?;
                true
            }
        };
        if belongs {
            Ok(())
        } else {
            Err(RecordProblem::Misplaced.into())
        }
    }
}

/// Records in the common envelope, and those of KEKs: the last four bytes are a checksum of all before them.
#[derive(Debug)]
struct RecordScrubber {
    /// Bytes under the checksum that have not come.
    left: u64,
    checksum: u32,
    begun: bool,
    ended: bool,
}

impl RecordScrubber {
    fn new(object_bytes: u64) -> Result<RecordScrubber, RecordProblem> {
        let left = object_bytes
            .checked_sub(CHECKSUM_BYTES as u64)
            .filter(|left| *left >= HEAD_BYTES as u64)
            .ok_or(RecordProblem::Damaged("length"))?;
        Ok(RecordScrubber {
            left,
            checksum: 0,
            begun: false,
            ended: false,
        })
    }

    fn step(&mut self, path: &str, rest: &[u8]) -> Result<usize, RecordProblem> {
        if !self.begun {
            let Some(head) = rest.first_chunk() else {
                return Ok(0);
            };
            check_head(path, head)?;
            self.begun = true;
        }
        if self.left > 0 {
            let used = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
            self.checksum = crc32c::crc32c_append(self.checksum, &rest[..used]);
            self.left -= used as u64;
            return Ok(used);
        }
        match rest.first_chunk() {
            Some(stored) if !self.ended => {
                self.ended = true;
                if u32::from_le_bytes(*stored) == self.checksum {
                    Ok(CHECKSUM_BYTES)
                } else {
                    Err(RecordProblem::Damaged("checksum"))
                }
            }
            _ => Ok(0),
        }
    }

    fn finish(&self) -> Result<(), RecordProblem> {
        if self.ended {
            Ok(())
        } else {
            Err(RecordProblem::Damaged("cut short"))
        }
    }
}

/// Whether a record of this head, by what it says of itself, belongs where it is.
fn check_head(path: &str, head: &[u8; HEAD_BYTES]) -> Result<(), RecordProblem> {
    let array = |at: usize| -> [u8; 16] { head[at..at + 16].try_into().expect("16 bytes") };
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let magic: &[u8; 8] = head.first_chunk().expect("more than eight bytes");
    let version = u16::from_le_bytes([head[8], head[9]]);
    let number = u64::from_le_bytes(head[56..].try_into().expect("eight bytes"));
    let number32 = || u32::try_from(number).map_err(|_| RecordProblem::Misplaced);
    let (tenant, branch) = (TenantId(Id(array(24))), BranchId(Id(array(40))));
    let belongs = match magic {
        b"PSMANIFE" => path == names::manifest_entry(tenant, branch, number),
        b"PSKEYTBL" => path == names::key_table(tenant, branch, u32_at(12), number32()?),
        b"PSWALOBJ" => path == names::wal(tenant, branch, number),
        b"PSBEGUNB" => path == names::begun(tenant, branch),
        b"PSTENANT" => path == names::tenant_record(tenant, number32()?),
        b"PSNAMERC" => {
            path.starts_with(&names::names(tenant)) && names::number_at_end(path, 8) == Some(number)
        }
        kek::MAGIC => path == names::kek(TenantId(Id(array(16))), u32_at(48)),
        _ => return Err(RecordProblem::OtherFormat),
    };
    let known = match magic {
        b"PSMANIFE" | b"PSTENANT" | b"PSNAMERC" | b"PSWALOBJ" => 2,
        _ => 1,
    };
    if !(1..=known).contains(&version) {
        return Err(RecordProblem::UnknownVersion {
            found: version,
            known,
        });
    }
    if belongs {
        Ok(())
    } else {
        Err(RecordProblem::Misplaced)
    }
}

/// The part of the headers that all records share in length.
const HEAD_BYTES: usize = 64;
const CHECKSUM_BYTES: usize = 4;
