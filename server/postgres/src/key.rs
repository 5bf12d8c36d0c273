//! Engine keys of Postgres's pages and state, layout 1. Written and read only by this module.
//!
//! A key is a kind byte and fields, **big-endian** (so that the order of keys is the order of blocks), padded with
//! zeros to 24 bytes. There is no version byte: a layout that has to change takes a new kind, and a kind's layout is
//! for ever.
//!
//! | kind | key                   | fields behind the kind byte (bytes)                                | value |
//! |-----:|-----------------------|--------------------------------------------------------------------|-------|
//! |    0 | block of a relation   | tablespace (4), database (4), relation (4), fork (1), block (4)     | the page, 8,192 bytes |
//! |    1 | size of a fork        | database (4), tablespace (4), relation (4), fork (1)                | [`RelationSize`] |
//! |    2 | relation map          | database (4), tablespace (4)                                        | the file `pg_filenode.map` |
//! |    3 | database directory    | database (4), tablespace (4)                                        | [`DatabaseDirectory`] |
//! |    4 | tablespace            | tablespace (4)                                                      | [`Tablespace`] |
//! |    5 | page of an SLRU       | SLRU (1), segment (8), block in the segment (4)                     | the page, 8,192 bytes |
//! |    6 | segment of an SLRU    | SLRU (1), segment (8)                                               | [`SlruSegment`] |
//! |    7 | two-phase file        | transaction id (8), chunk (4)                                       | a chunk |
//! |    8 | control file          |                                                                     | the file `pg_control` |
//! |    9 | checkpoint state      |                                                                     | [`CheckpointState`] |
//! |   10 | plain file            | hash of the path (8)                                                | [`PlainFile`] |
//! |   11 | chunk of a plain file | hash of the path (8), chunk (4)                                     | a chunk |
//! |   12 | backup facts          |                                                                     | [`BackupFacts`] |
//! |   13 | former blocks of a fork | database (4), tablespace (4), relation (4), fork (1)              | [`FormerBlocks`] |
//! |   14 | beginning of a database | database (4), tablespace (4)                                      | [`DatabaseBeginning`] |
//! |   15 | parameters of the cluster |                                                                 | [`ClusterParameters`] |
//! |   16 | replication origin    | its number (2)                                                      | [`ReplicationOrigin`] |
//! |   17 | latest end of a transaction |                                                               | [`LatestEnd`] |
//!
//! An empty value says that what the key names is no longer there. (Of a two-phase file that is chunk 0, whatever
//! the others are: no such file is empty.)
//!
//! Relations are named by what their files are called (relfilenode), shared ones live in tablespace 1664 and database
//! 0, and the default tablespace is 1663, as in Postgres's own WAL. Kinds 1 to 3 begin with the database, so the sizes
//! of all relations of one database are neighbours: listing a database, or adding up its size, is one range; no
//! directory of relations exists anywhere as one value.
//!
//! Chunks are 8,192 bytes; the last chunk of a file is shorter, empty if the length is a multiple. So a reader
//! knows the end, and a file that shrank does not show chunks of its former life.
//!
//! [`RelationSize`]: crate::value::RelationSize
//! [`DatabaseDirectory`]: crate::value::DatabaseDirectory
//! [`Tablespace`]: crate::value::Tablespace
//! [`SlruSegment`]: crate::value::SlruSegment
//! [`CheckpointState`]: crate::value::CheckpointState
//! [`PlainFile`]: crate::value::PlainFile
//! [`BackupFacts`]: crate::value::BackupFacts
//! [`FormerBlocks`]: crate::value::FormerBlocks
//! [`DatabaseBeginning`]: crate::value::DatabaseBeginning
//! [`ClusterParameters`]: crate::value::ClusterParameters
//! [`ReplicationOrigin`]: crate::value::ReplicationOrigin
//! [`LatestEnd`]: crate::value::LatestEnd

mod names;

pub use names::{BlockTag, Fork, Relation, Slru};

use engine::types::{KEY_BYTES, Key};

/// The tablespace of what is in `base/`.
pub const DEFAULT_TABLESPACE: u32 = 1663;

/// The tablespace of what is in `global/`; its relations belong to database 0.
pub const GLOBAL_TABLESPACE: u32 = 1664;

/// Bytes of each chunk of a file but the last.
pub const CHUNK_BYTES: usize = 8192;

/// What a key of the layout above means.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PostgresKey {
    /// A block of a fork.
    Block {
        /// The relation.
        relation: Relation,
        /// Its fork.
        fork: Fork,
        /// Number of the block in the fork, across segment files.
        block: u32,
    },
    /// How many blocks a fork has; exists exactly if the fork does.
    RelationSize {
        /// The relation.
        relation: Relation,
        /// Its fork.
        fork: Fork,
    },
    /// The map of a database's (or, for database 0, the shared) catalogs to files.
    RelationMap {
        /// Database oid, or 0.
        database: u32,
        /// Tablespace of the database.
        tablespace: u32,
    },
    /// A database has a directory in a tablespace.
    DatabaseDirectory {
        /// Database oid.
        database: u32,
        /// Tablespace oid.
        tablespace: u32,
    },
    /// A tablespace made by a user.
    Tablespace {
        /// Its oid.
        tablespace: u32,
    },
    /// A page of an SLRU.
    SlruPage {
        /// Which SLRU.
        slru: Slru,
        /// Number of the segment file.
        segment: u64,
        /// Page in the segment, below 32.
        block: u32,
    },
    /// How many pages an SLRU segment has; exists exactly if the segment file does.
    SlruSegment {
        /// Which SLRU.
        slru: Slru,
        /// Number of the segment file.
        segment: u64,
    },
    /// A part of the state of a prepared transaction.
    TwoPhase {
        /// Transaction id; with its epoch from Postgres 17 on.
        xid: u64,
        /// Number of the chunk.
        chunk: u32,
    },
    /// `global/pg_control`.
    ControlFile,
    /// The counters of the last checkpoint.
    CheckpointState,
    /// Path, mode and length of a file that is kept as it is.
    PlainFile {
        /// [`path_hash`] of its path.
        path_hash: u64,
    },
    /// A part of such a file.
    PlainFileChunk {
        /// [`path_hash`] of its path.
        path_hash: u64,
        /// Number of the chunk.
        chunk: u32,
    },
    /// What the backup said of itself.
    BackupFacts,
    /// How many blocks a fork once had that was truncated and may grow again.
    FormerBlocks {
        /// The relation.
        relation: Relation,
        /// Its fork.
        fork: Fork,
    },
    /// When a database's directory was made, and of what.
    DatabaseBeginning {
        /// Database oid.
        database: u32,
        /// Tablespace oid.
        tablespace: u32,
    },
    /// Settings of the primary that a standby has to know.
    ClusterParameters,
    /// How far a subscription has come.
    ReplicationOrigin {
        /// Its number.
        origin: u16,
    },
    /// When the latest commit or abort was, of those so far.
    LatestEnd,
}

impl PostgresKey {
    /// The engine key.
    pub fn encode(self) -> Key {
        let mut writer = FieldWriter::default();
        writer.put(&[self.kind()]);
        match self {
            PostgresKey::Block {
                relation,
                fork,
                block,
            } => {
                writer.u32(relation.tablespace);
                writer.u32(relation.database);
                writer.u32(relation.number);
                writer.put(&[fork.number()]);
                writer.u32(block);
            }
            PostgresKey::RelationSize { relation, fork }
            | PostgresKey::FormerBlocks { relation, fork } => {
                writer.u32(relation.database);
                writer.u32(relation.tablespace);
                writer.u32(relation.number);
                writer.put(&[fork.number()]);
            }
            PostgresKey::RelationMap {
                database,
                tablespace,
            }
            | PostgresKey::DatabaseDirectory {
                database,
                tablespace,
            }
            | PostgresKey::DatabaseBeginning {
                database,
                tablespace,
            } => {
                writer.u32(database);
                writer.u32(tablespace);
            }
            PostgresKey::Tablespace { tablespace } => writer.u32(tablespace),
            PostgresKey::SlruPage {
                slru,
                segment,
                block,
            } => {
                writer.put(&[slru.number()]);
                writer.u64(segment);
                writer.u32(block);
            }
            PostgresKey::SlruSegment { slru, segment } => {
                writer.put(&[slru.number()]);
                writer.u64(segment);
            }
            PostgresKey::TwoPhase { xid, chunk } => {
                writer.u64(xid);
                writer.u32(chunk);
            }
            PostgresKey::PlainFile { path_hash } => writer.u64(path_hash),
            PostgresKey::PlainFileChunk { path_hash, chunk } => {
                writer.u64(path_hash);
                writer.u32(chunk);
            }
            PostgresKey::ReplicationOrigin { origin } => writer.put(&origin.to_be_bytes()),
            PostgresKey::ControlFile
            | PostgresKey::CheckpointState
            | PostgresKey::BackupFacts
            | PostgresKey::ClusterParameters
            | PostgresKey::LatestEnd => {}
        }
        Key(writer.bytes)
    }

    /// What `key` means; `None` if it is not of this layout: an unknown kind, fork or SLRU, or padding that is
    /// not zeros.
    pub fn decode(key: &Key) -> Option<PostgresKey> {
        let mut reader = FieldReader {
            bytes: &key.0,
            at: 0,
        };
        let [kind] = reader.take()?;
        let decoded = match kind {
            0 => PostgresKey::Block {
                relation: Relation {
                    tablespace: reader.u32()?,
                    database: reader.u32()?,
                    number: reader.u32()?,
                },
                fork: reader.fork()?,
                block: reader.u32()?,
            },
            1 => PostgresKey::RelationSize {
                relation: reader.relation_by_database()?,
                fork: reader.fork()?,
            },
            2 => PostgresKey::RelationMap {
                database: reader.u32()?,
                tablespace: reader.u32()?,
            },
            3 => PostgresKey::DatabaseDirectory {
                database: reader.u32()?,
                tablespace: reader.u32()?,
            },
            4 => PostgresKey::Tablespace {
                tablespace: reader.u32()?,
            },
            5 => PostgresKey::SlruPage {
                slru: reader.slru()?,
                segment: reader.u64()?,
                block: reader.u32()?,
            },
            6 => PostgresKey::SlruSegment {
                slru: reader.slru()?,
                segment: reader.u64()?,
            },
            7 => PostgresKey::TwoPhase {
                xid: reader.u64()?,
                chunk: reader.u32()?,
            },
            8 => PostgresKey::ControlFile,
            9 => PostgresKey::CheckpointState,
            10 => PostgresKey::PlainFile {
                path_hash: reader.u64()?,
            },
            11 => PostgresKey::PlainFileChunk {
                path_hash: reader.u64()?,
                chunk: reader.u32()?,
            },
            12 => PostgresKey::BackupFacts,
            13 => PostgresKey::FormerBlocks {
                relation: reader.relation_by_database()?,
                fork: reader.fork()?,
            },
            14 => PostgresKey::DatabaseBeginning {
                database: reader.u32()?,
                tablespace: reader.u32()?,
            },
            15 => PostgresKey::ClusterParameters,
            16 => PostgresKey::ReplicationOrigin {
                origin: reader.take().map(u16::from_be_bytes)?,
            },
            17 => PostgresKey::LatestEnd,
            _ => return None,
        };
        let padding = key.0.get(reader.at..)?;
        padding.iter().all(|b| *b == 0).then_some(decoded)
    }

    /// The lowest and the highest key that a size of a relation of `database` can have: what to scan for the
    /// database's relations. Both are keys of the layout, so that they lie in the partition of all between them.
    pub fn relation_sizes_of(database: u32) -> (Key, Key) {
        let size = |tablespace, number, fork| {
            let relation = Relation {
                tablespace,
                database,
                number,
            };
            PostgresKey::RelationSize { relation, fork }.encode()
        };
        (size(0, 0, Fork::Main), size(u32::MAX, u32::MAX, Fork::Init))
    }

    /// The same of what is remembered of truncated forks.
    pub fn former_blocks_of(database: u32) -> (Key, Key) {
        let (lowest, highest) = PostgresKey::relation_sizes_of(database);
        let of_kind = |mut key: Key| {
            key.0[0] = 13;
            key
        };
        (of_kind(lowest), of_kind(highest))
    }

    /// Ranges of the small values that are state of the whole cluster, which have to be known to say what a record touches:
    /// directories and beginnings of databases, segments of SLRUs, control file, counters, parameters, origins.
    pub fn cluster_state_ranges() -> Vec<(Key, Key)> {
        let kinds = [3, 6, 8, 9, 14, 15, 16, 17];
        kinds.map(|kind| Self::range_of(kind, &[])).to_vec()
    }

    /// The lowest and highest key of the directories of `database` in tablespaces: empty if it does not exist.
    pub fn directories_of(database: u32) -> (Key, Key) {
        Self::range_of(3, &database.to_be_bytes())
    }

    /// The lowest and highest key of directories of databases: what to scan for all databases.
    pub fn all_database_directories() -> (Key, Key) {
        Self::range_of(3, &[])
    }

    /// The lowest and highest key of the segments of `slru`.
    pub fn segments_of(slru: Slru) -> (Key, Key) {
        Self::range_of(6, &[slru.number()])
    }

    /// The lowest and highest key of plain files: their listing.
    pub fn all_plain_files() -> (Key, Key) {
        Self::range_of(10, &[])
    }

    fn range_of(kind: u8, prefix: &[u8]) -> (Key, Key) {
        let fill = |padding| {
            let mut writer = FieldWriter {
                bytes: [padding; KEY_BYTES],
                at: 0,
            };
            writer.put(&[kind]);
            writer.put(prefix);
            Key(writer.bytes)
        };
        (fill(0), fill(0xff))
    }

    fn kind(self) -> u8 {
        match self {
            PostgresKey::Block { .. } => 0,
            PostgresKey::RelationSize { .. } => 1,
            PostgresKey::RelationMap { .. } => 2,
            PostgresKey::DatabaseDirectory { .. } => 3,
            PostgresKey::Tablespace { .. } => 4,
            PostgresKey::SlruPage { .. } => 5,
            PostgresKey::SlruSegment { .. } => 6,
            PostgresKey::TwoPhase { .. } => 7,
            PostgresKey::ControlFile => 8,
            PostgresKey::CheckpointState => 9,
            PostgresKey::PlainFile { .. } => 10,
            PostgresKey::PlainFileChunk { .. } => 11,
            PostgresKey::BackupFacts => 12,
            PostgresKey::FormerBlocks { .. } => 13,
            PostgresKey::DatabaseBeginning { .. } => 14,
            PostgresKey::ClusterParameters => 15,
            PostgresKey::ReplicationOrigin { .. } => 16,
            PostgresKey::LatestEnd => 17,
        }
    }
}

/// FNV-1a, 64 bits, of the path as it is written in a data directory (`postgresql.conf`, `pg_logical/…`). Part
/// of the key layout. Two paths of one cluster with one hash are refused by the import.
pub fn path_hash(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[derive(Default)]
struct FieldWriter {
    bytes: [u8; KEY_BYTES],
    at: usize,
}

impl FieldWriter {
    fn put(&mut self, field: &[u8]) {
        let end = self.at + field.len();
        self.bytes[self.at..end].copy_from_slice(field);
        self.at = end;
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }
}

struct FieldReader<'a> {
    bytes: &'a [u8; KEY_BYTES],
    at: usize,
}

impl FieldReader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let field = self.bytes.get(self.at..self.at + N)?.try_into().ok()?;
        self.at += N;
        Some(field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// A relation as the keys of sizes have it, database first.
    fn relation_by_database(&mut self) -> Option<Relation> {
        let database = self.u32()?;
        let tablespace = self.u32()?;
        Some(Relation {
            tablespace,
            database,
            number: self.u32()?,
        })
    }

    fn fork(&mut self) -> Option<Fork> {
        let [number] = self.take()?;
        Fork::from_number(number)
    }

    fn slru(&mut self) -> Option<Slru> {
        let [number] = self.take()?;
        Slru::from_number(number)
    }
}

#[cfg(test)]
pub(crate) mod tests;
