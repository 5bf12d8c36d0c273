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

use engine::types::Lsn;

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

const VERSION: u8 = 1;

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

/// The counters of a checkpoint: what redo advances and a start at any LSN needs. Stored in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckpointState {
    /// Where redo from this checkpoint begins.
    pub redo: Lsn,
    /// Timeline.
    pub timeline: u32,
    /// The timeline before it.
    pub previous_timeline: u32,
    /// Next transaction id, with epoch.
    pub next_xid: u64,
    /// Next oid.
    pub next_oid: u32,
    /// Next multixact id.
    pub next_multixact: u32,
    /// Next member offset.
    pub next_multixact_offset: u32,
    /// Cluster-wide oldest transaction id.
    pub oldest_xid: u32,
    /// The database that holds it back.
    pub oldest_xid_database: u32,
    /// Cluster-wide oldest multixact id.
    pub oldest_multixact: u32,
    /// The database that holds it back.
    pub oldest_multixact_database: u32,
    /// Seconds since 1970.
    pub time: u64,
    /// Oldest transaction id with a commit timestamp; 0 if none.
    pub oldest_commit_timestamp_xid: u32,
    /// Newest transaction id with a commit timestamp; 0 if none.
    pub newest_commit_timestamp_xid: u32,
    /// Oldest transaction id still running; 0 in a shutdown checkpoint.
    pub oldest_active_xid: u32,
    /// Whether full page writes were on: 0 or 1.
    pub full_page_writes: u8,
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

/// Settings of the primary that a standby has to know, as `pg_control` has them. Stored in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClusterParameters {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
    /// Whether hint bits are logged even without checksums.
    pub wal_log_hints: bool,
    /// Whether commit timestamps are kept.
    pub track_commit_timestamp: bool,
}

/// How far a subscription has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReplicationOrigin {
    /// In the publisher's WAL.
    pub remote_lsn: Lsn,
    /// In this cluster's.
    pub local_lsn: Lsn,
}

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
            let is_copy = r.flag()?;
            let source = (r.u32()?, r.u32()?);
            Some(DatabaseBeginning {
                generation,
                copied_from: is_copy.then_some(source),
            })
        })
    }
}

impl ClusterParameters {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new()
            .u32(self.max_connections)
            .u32(self.max_worker_processes)
            .u32(self.max_wal_senders)
            .u32(self.max_prepared_transactions)
            .u32(self.max_locks_per_transaction)
            .u32(self.wal_level)
            .u8(u8::from(self.wal_log_hints))
            .u8(u8::from(self.track_commit_timestamp))
            .0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version or length, or an unknown flag.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("parameters of the cluster", bytes, |r| {
            Some(ClusterParameters {
                max_connections: r.u32()?,
                max_worker_processes: r.u32()?,
                max_wal_senders: r.u32()?,
                max_prepared_transactions: r.u32()?,
                max_locks_per_transaction: r.u32()?,
                wal_level: r.u32()?,
                wal_log_hints: r.flag()?,
                track_commit_timestamp: r.flag()?,
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
            let is_own_tablespace = match r.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            };
            Some(DatabaseDirectory { is_own_tablespace })
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
                path: r.rest_text()?,
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

impl CheckpointState {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new()
            .u64(self.redo.0)
            .u32(self.timeline)
            .u32(self.previous_timeline)
            .u64(self.next_xid)
            .u32(self.next_oid)
            .u32(self.next_multixact)
            .u32(self.next_multixact_offset)
            .u32(self.oldest_xid)
            .u32(self.oldest_xid_database)
            .u32(self.oldest_multixact)
            .u32(self.oldest_multixact_database)
            .u64(self.time)
            .u32(self.oldest_commit_timestamp_xid)
            .u32(self.newest_commit_timestamp_xid)
            .u32(self.oldest_active_xid)
            .u8(self.full_page_writes)
            .0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version or length, or an unknown flag.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("checkpoint state", bytes, |r| {
            Some(CheckpointState {
                redo: Lsn(r.u64()?),
                timeline: r.u32()?,
                previous_timeline: r.u32()?,
                next_xid: r.u64()?,
                next_oid: r.u32()?,
                next_multixact: r.u32()?,
                next_multixact_offset: r.u32()?,
                oldest_xid: r.u32()?,
                oldest_xid_database: r.u32()?,
                oldest_multixact: r.u32()?,
                oldest_multixact_database: r.u32()?,
                time: r.u64()?,
                oldest_commit_timestamp_xid: r.u32()?,
                newest_commit_timestamp_xid: r.u32()?,
                oldest_active_xid: r.u32()?,
                full_page_writes: r.u8().filter(|flag| *flag <= 1)?,
            })
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
                path: r.rest_text()?,
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

fn decode<T>(
    what: &'static str,
    bytes: &[u8],
    fields: impl FnOnce(&mut Reader<'_>) -> Option<T>,
) -> Result<T, ValueError> {
    let malformed = ValueError::Malformed {
        what,
        bytes: bytes.len(),
    };
    let mut reader = Reader(bytes);
    match reader.u8() {
        Some(VERSION) => {}
        Some(version) => return Err(ValueError::Version { what, version }),
        None => return Err(malformed),
    }
    match fields(&mut reader) {
        Some(value) if reader.0.is_empty() => Ok(value),
        _ => Err(malformed),
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Writer {
        Writer(vec![VERSION])
    }

    fn u8(mut self, value: u8) -> Writer {
        self.0.push(value);
        self
    }

    fn u32(mut self, value: u32) -> Writer {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Writer {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn text(mut self, value: &str) -> Writer {
        self.0.extend(value.as_bytes());
        self
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn rest_text(&mut self) -> Option<String> {
        let text = std::str::from_utf8(self.0).ok()?.to_owned();
        self.0 = &[];
        Some(text)
    }
}

#[cfg(test)]
mod tests;
