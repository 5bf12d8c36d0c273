//! Values of the keys that hold something smaller than a page, layout 1. Written and read only by this module.
//!
//! Little-endian; byte 0 is the version (1), and a reader refuses others, other lengths and unknown flag bits.
//!
//! | value               | bytes behind the version |
//! |---------------------|--------------------------|
//! | [`RelationSize`]    | blocks u32, LSN of the last create, or truncation to nothing u64 |
//! | [`DatabaseDirectory`] | flags u8: bit 0, it is the database's own tablespace (there the directory has `PG_VERSION` and a relation map) |
//! | [`Tablespace`]      | path of its directory, UTF-8, to the end |
//! | [`SlruSegment`]     | pages u32 |
//! | [`CheckpointState`] | fields in the order of the struct, see there |
//! | [`PlainFile`]       | length u64, mode u32, path UTF-8 to the end |
//! | [`BackupFacts`]     | fields in the order of the struct, see there |
//! | [`FormerBlocks`]    | blocks u32 |
//! | [`DatabaseBeginning`] | LSN u64, whether it is a copy u8, database and tablespace of the original u32 each |
//! | [`ClusterParameters`] | fields in the order of the struct, see there |
//! | [`ReplicationOrigin`] | remote LSN u64, local LSN u64 |
//! | [`LatestEnd`]       | time i64, LSN u64 |

mod control;
mod stored;

pub use control::{CheckpointState, ClusterParameters};

use engine::types::Lsn;

use stored::{Writer, decode, flag, rest_text};

/// Why bytes are not a value of this layout.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ValueError {
    /// Written by a newer version, or not such a value at all.
    #[error("{what}: version {version} is not known, only 1 is")]
    Version {
        /// Which value.
        what: &'static str,
        /// Its first byte.
        version: u8,
    },
    /// Right version, wrong content.
    #[error("{what}: malformed value of {bytes} bytes")]
    Malformed {
        /// Which value.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
}

/// How long a fork is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelationSize {
    /// Blocks of 8 KiB.
    pub blocks: u32,
    /// Pages with versions below this LSN belong to a former life of the fork (dropped, truncated to nothing) and
    /// are not shown. Invalid (0) if nothing of the kind happened since the import. A truncation that leaves blocks
    /// does not change it, see [`FormerBlocks`].
    pub generation: Lsn,
}

/// A database has a directory in a tablespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatabaseDirectory {
    /// Whether it is the database's own tablespace.
    pub is_own_tablespace: bool,
}

/// A tablespace made by a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tablespace {
    /// Where the cluster had it.
    pub path: String,
}

/// How long a segment of an SLRU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlruSegment {
    /// Pages of 8 KiB, at most 32.
    pub pages: u32,
}

/// A file kept as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlainFile {
    /// Bytes.
    pub length: u64,
    /// Permission bits.
    pub mode: u32,
    /// Path in the data directory.
    pub path: String,
}

/// What a backup said of itself. Stored in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackupFacts {
    /// Names the cluster.
    pub system_identifier: u64,
    /// Major version of Postgres.
    pub postgres_major: u32,
    /// Timeline of start and stop.
    pub timeline: u32,
    /// Redo has to begin here.
    pub start_lsn: Lsn,
    /// From here on the cluster is consistent.
    pub stop_lsn: Lsn,
    /// Bytes of a WAL segment file.
    pub wal_segment_bytes: u32,
    /// Version of data checksums, 0 if the cluster has none.
    pub data_checksum_version: u32,
}

/// How many blocks a fork had before it was truncated, within its generation. When it grows again, blocks below
/// this are written as zeros, so that none of them shows what it held before. 0: none are left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FormerBlocks {
    /// Blocks of 8 KiB.
    pub blocks: u32,
}

/// When a database's directory was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatabaseBeginning {
    /// What has versions below this LSN belongs to a database of the same oid that was dropped, and is not shown.
    pub generation: Lsn,
    /// Database and tablespace whose files, as they were at `generation`, it began with: what has no version of its
    /// own (a block, a size, the relation map) is that of the original.
    pub copied_from: Option<(u32, u32)>,
}

/// How far a subscription has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReplicationOrigin {
    /// In the publisher's WAL.
    pub remote_lsn: Lsn,
    /// In this cluster's.
    pub local_lsn: Lsn,
}

/// When transactions had ended, as the record of the latest one says, by the server's clock. A version for each commit or abort
/// that is later than all before it: so the times of versions only grow, and the first version with a time above one is the
/// record at which a recovery to that time stops (`recovery_target_time`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LatestEnd {
    /// Microseconds since 2000-01-01 00:00 UTC, as in Postgres's `TimestampTz`.
    pub time: i64,
    /// Where its record begins: up to here nothing of it is seen.
    pub begins_at: Lsn,
}

impl LatestEnd {
    /// The stored bytes.
    pub fn encode(&self) -> [u8; LATEST_END_BYTES] {
        let mut bytes = [0; LATEST_END_BYTES];
        bytes[0] = 1;
        bytes[1..9].copy_from_slice(&self.time.to_le_bytes());
        bytes[9..].copy_from_slice(&self.begins_at.0.to_le_bytes());
        bytes
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version or length.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("latest end of a transaction", bytes, |r| {
            Some(LatestEnd {
                time: r.u64()?.cast_signed(),
                begins_at: Lsn(r.u64()?),
            })
        })
    }
}

const LATEST_END_BYTES: usize = 1 + 8 + 8;

impl FormerBlocks {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new().u32(self.blocks).0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version or length.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("former blocks", bytes, |r| {
            Some(FormerBlocks { blocks: r.u32()? })
        })
    }
}

impl DatabaseBeginning {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (database, tablespace) = self.copied_from.unwrap_or((0, 0));
        Writer::new()
            .u64(self.generation.0)
            .u8(u8::from(self.copied_from.is_some()))
            .u32(database)
            .u32(tablespace)
            .0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version or length, or an unknown flag.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("beginning of a database", bytes, |r| {
            let generation = Lsn(r.u64()?);
            let is_copy = flag(r)?;
            let source = (r.u32()?, r.u32()?);
            Some(DatabaseBeginning {
                generation,
                copied_from: is_copy.then_some(source),
            })
        })
    }
}

impl ReplicationOrigin {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new().u64(self.remote_lsn.0).u64(self.local_lsn.0).0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version or length.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("replication origin", bytes, |r| {
            Some(ReplicationOrigin {
                remote_lsn: Lsn(r.u64()?),
                local_lsn: Lsn(r.u64()?),
            })
        })
    }
}

impl RelationSize {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new().u32(self.blocks).u64(self.generation.0).0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version or length.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("relation size", bytes, |r| {
            Some(RelationSize {
                blocks: r.u32()?,
                generation: Lsn(r.u64()?),
            })
        })
    }
}

impl DatabaseDirectory {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new().u8(u8::from(self.is_own_tablespace)).0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version or length, or an unknown flag.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("database directory", bytes, |r| {
            Some(DatabaseDirectory {
                is_own_tablespace: flag(r)?,
            })
        })
    }
}

impl Tablespace {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new().text(&self.path).0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version, or a path that is not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("tablespace", bytes, |r| {
            Some(Tablespace {
                path: rest_text(r)?,
            })
        })
    }
}

impl SlruSegment {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new().u32(self.pages).0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version or length.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("slru segment", bytes, |r| {
            Some(SlruSegment { pages: r.u32()? })
        })
    }
}

impl PlainFile {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new()
            .u64(self.length)
            .u32(self.mode)
            .text(&self.path)
            .0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version, or a path that is not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("plain file", bytes, |r| {
            Some(PlainFile {
                length: r.u64()?,
                mode: r.u32()?,
                path: rest_text(r)?,
            })
        })
    }
}

impl BackupFacts {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new()
            .u64(self.system_identifier)
            .u32(self.postgres_major)
            .u32(self.timeline)
            .u64(self.start_lsn.0)
            .u64(self.stop_lsn.0)
            .u32(self.wal_segment_bytes)
            .u32(self.data_checksum_version)
            .0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version or length.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("backup facts", bytes, |r| {
            Some(BackupFacts {
                system_identifier: r.u64()?,
                postgres_major: r.u32()?,
                timeline: r.u32()?,
                start_lsn: Lsn(r.u64()?),
                stop_lsn: Lsn(r.u64()?),
                wal_segment_bytes: r.u32()?,
                data_checksum_version: r.u32()?,
            })
        })
    }
}

#[cfg(test)]
mod tests;
