//! A cluster as a stream of key versions, from a running server, a stopped data directory, or a backup tar.
//!
//! All sources speak to one [`ImportSink`], in one order: `begin` once, then pages and state in the order of the
//! source's files (in no particular order of keys), sizes and listings; then WAL, and what its records make of all that.
//! Code here blocks on files and sockets and wants a thread of its own. Memory: buffers of fixed size, a table of pages of fixed
//! size, and about two hundred bytes per file of the cluster; nothing grows with the files' length, nor with the WAL's.
//!
//! What the files give are versions at the start LSN of the backup: a backup of a cluster at work is torn, and of mixed
//! LSNs, until its WAL is replayed (`replay.rs`). Its versions are those of their records' ends, and the branch is readable from
//! the stop LSN on. Versions in between are written only where they are needed for that.
//!
//! What is refused: a cluster of another version or build, a directory that was not shut down, a backup whose WAL
//! is missing, a page whose checksum is wrong and which the WAL does not restore, and during the backup a database that is made
//! or moved by copying its files.

mod backup;
mod backup_label;
mod backup_tar;
mod cluster_files;
mod data_directory;
mod page_table;
mod replay;
mod replication_origins;
mod running_cluster;
mod tar_archive;
mod wal_stretch;

use std::path::{Path, PathBuf};

use engine::layer::Value;
use engine::types::{Key, Lsn};

use crate::control_file::{ClusterState, ControlFileError};
use crate::key::PostgresKey;
use crate::replication::{BackupOptions, ConnectionSettings, ReplicationError};
use crate::touch::{StateError, TouchError};
use crate::wal::{WalError, WalStream, WalVersion};

/// Where a cluster comes from.
#[derive(Clone, Debug)]
pub enum ImportSource {
    /// A running cluster, by its replication protocol.
    RunningCluster(ConnectionSettings, BackupOptions),
    /// The data directory of a cluster that was shut down.
    DataDirectory(PathBuf),
    /// What `pg_basebackup -Ft` wrote: its folder, or its `base.tar`, beside which the others are.
    BackupTar(PathBuf),
}

/// What is known before the first page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImportStart {
    /// Names the cluster.
    pub system_identifier: u64,
    /// Major version of Postgres, 15 to 18.
    pub postgres_major: u16,
    /// Timeline of the cluster.
    pub timeline: u32,
    /// LSN of all versions that come of files: redo begins here.
    pub start_lsn: Lsn,
    /// Bytes of a WAL segment file.
    pub wal_segment_bytes: u32,
    /// Whether pages carry checksums, which are verified.
    pub has_data_checksums: bool,
    /// Bytes that the source's files have, for progress; an estimate where the cluster is at work.
    pub total_bytes: Option<u64>,
}

/// What is known at the end of a successful import.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImportSummary {
    /// As at the beginning.
    pub start: ImportStart,
    /// The branch is readable from here on; never below the start.
    pub stop_lsn: Lsn,
    /// Bytes of the source's files.
    pub file_bytes: u64,
    /// Pages of relations (all forks).
    pub relation_pages: u64,
    /// Forks of relations.
    pub relation_forks: u64,
    /// Databases, templates included.
    pub databases: u64,
    /// Records of the WAL from start to stop, which are replayed.
    pub wal_records: u64,
}

/// What [`ImportSink::replay_bytes_max`] is unless a sink says otherwise.
pub const REPLAY_BYTES_DEFAULT: usize = 256 << 20;

/// Any error of whoever takes the versions; ends the import.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Takes what an import finds. An error from any call ends the import, which returns it in
/// [`ImportError::Sink`]: that is also the way to cancel one.
pub trait ImportSink {
    /// Called once, before anything else.
    /// # Errors
    /// Ends the import.
    fn begin(&mut self, start: &ImportStart) -> Result<(), SinkError>;

    /// A version of a key, at most 8,192 bytes; of each key, later ones have higher LSNs. An empty image says that what the
    /// key names is not there (any more), or (of the last chunk of a file) that nothing more comes.
    /// # Errors
    /// Ends the import.
    fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) -> Result<(), SinkError>;

    /// Bytes of pages that the WAL changed which may be in memory; asked once. Default 256 MiB.
    fn replay_bytes_max(&self) -> usize {
        REPLAY_BYTES_DEFAULT
    }

    /// The next bytes of WAL: without gaps from the WAL page (8 KiB) that holds the start LSN to the stop LSN.
    /// # Errors
    /// Ends the import.
    fn wal(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), SinkError>;

    /// So many bytes of the source's files have been read; called after each file and within long ones.
    /// # Errors
    /// Ends the import.
    fn progress(&mut self, file_bytes_done: u64) -> Result<(), SinkError>;
}

impl ImportSource {
    /// A path as the source that is there: a data directory, or the tar files of a base backup.
    /// # Errors
    /// Nothing of both is there.
    pub fn of_path(path: &Path) -> Result<ImportSource, ImportError> {
        if path.join("global/pg_control").exists() {
            return Ok(ImportSource::DataDirectory(path.to_owned()));
        }
        let has_tar = ["base.tar", "base.tar.gz", "base.tar.lz4", "base.tar.zst"]
            .iter()
            .any(|name| path.join(name).exists());
        if has_tar || path.is_file() {
            return Ok(ImportSource::BackupTar(path.to_owned()));
        }
        let path = path.to_owned();
        if !path.exists() {
            return Err(ImportError::NoSource { path });
        }
        Err(ImportError::NotDataDirectory {
            path,
            missing: "global/pg_control (nor base.tar)",
        })
    }

    /// Imports the cluster into `sink`; blocks until all of it went there. If it fails, or the sink ends it, nothing
    /// of the source was changed and it can be run again.
    /// # Errors
    /// See [`ImportError`].
    pub fn import(&self, sink: &mut dyn ImportSink) -> Result<ImportSummary, ImportError> {
        match self {
            ImportSource::RunningCluster(settings, options) => {
                running_cluster::import(settings, *options, sink)
            }
            ImportSource::DataDirectory(path) => data_directory::import(path, sink),
            ImportSource::BackupTar(path) => backup_tar::import(path, sink),
        }
    }
}

/// Why a cluster was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The operating system refused.
    #[error("{}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Neither file nor folder.
    #[error(
        "{} does not exist (nor is it a connection string, like \"host=db1 user=replicator\" or postgresql://db1/)", path.display()
    )]
    NoSource {
        /// What was given.
        path: PathBuf,
    },
    /// Not a data directory.
    #[error("{} is not a data directory of PostgreSQL: it has no {missing}", path.display())]
    NotDataDirectory {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        missing: &'static str,
    },
    /// A server owns the directory.
    #[error(
        "{} is in use, or its server crashed: postmaster.pid exists; stop the server (pg_ctl stop -m fast), or import the running server by its connection string", path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Not shut down cleanly.
    #[error(
        "the cluster was not shut down: its control file says {state:?} ({state}), wanted \"shut down\"; start it and stop it with pg_ctl stop -m fast"
    )]
    NotShutDown {
        /// What the control file says.
        state: ClusterState,
    },
    /// A restored base backup that was never started.
    #[error(
        "{} holds a base backup that was never started (backup_label exists): start and stop a server on it first", path.display()
    )]
    UnstartedBackup {
        /// The directory.
        path: PathBuf,
    },
    /// Unreadable, of another version or another build.
    #[error(transparent)]
    ControlFile(#[from] ControlFileError),
    /// The version file contradicts the control file.
    #[error("{file} says version {found:?}, the cluster is of {wanted}")]
    VersionFile {
        /// Which.
        file: String,
        /// Its content.
        found: String,
        /// From the control file.
        wanted: u16,
    },
    /// A page is damaged.
    #[error(
        "{file}: page of block {block} is damaged: its checksum is {stored:04x}, its content has {computed:04x} (page lsn {lsn})"
    )]
    CorruptPage {
        /// File of the source.
        file: String,
        /// Block in the fork, across segment files.
        block: u32,
        /// LSN as the page has it.
        lsn: Lsn,
        /// Checksum in the page.
        stored: u16,
        /// Checksum of the page.
        computed: u16,
    },
    /// A file has not the shape its kind has.
    #[error("{file}: {reason}")]
    MalformedFile {
        /// File of the source.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something every cluster has is not there.
    #[error("the source has no {0}")]
    Missing(String),
    /// The server was not reached, or did not do what was asked.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// A standby, or a backup of one.
    #[error("the cluster is a standby; import its primary, or a backup of its primary")]
    Standby,
    /// A server built or set up in a way that is not supported.
    #[error("the server has {setting} {found}; wanted is {wanted}")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// As found.
        found: String,
        /// What it must be.
        wanted: String,
    },
    /// A tar cannot be read.
    #[error("archive of the backup")]
    Archive(#[source] std::io::Error),
    /// A backup without its WAL.
    #[error(
        "the backup has no WAL (neither in base.tar nor in pg_wal.tar): take it with -X stream or -X fetch"
    )]
    NoWal,
    /// A record changes the cluster in a way that is not known.
    #[error("the WAL of the backup can't be replayed")]
    Record(#[from] TouchError),
    /// A value of the cluster that WAL can't begin with.
    #[error("state of the cluster")]
    State(#[from] StateError),
    /// A database was made or moved by copying files.
    #[error(
        "database {database} was made during the backup by copying the files of database {from} in tablespace {tablespace} (record at {at}), which an import can't follow: take it again when no CREATE DATABASE ... STRATEGY file_copy and no ALTER DATABASE ... SET TABLESPACE runs"
    )]
    CopiedDatabase {
        /// The new directory's database.
        database: u32,
        /// The database that was copied.
        from: u32,
        /// Its tablespace.
        tablespace: u32,
        /// Where the record begins.
        at: Lsn,
    },
    /// A page has too many changes since its last image.
    #[error(
        "{key:?} was changed {count} times until {end} since its last image, and there was no room to keep it in memory: take the backup at a quieter time, or allow more memory"
    )]
    LongChain {
        /// Which page.
        key: PostgresKey,
        /// End of the last record.
        end: Lsn,
        /// How often.
        count: usize,
    },
    /// A change that fits no stored version, of a page that is not in memory.
    #[error(
        "a change of {key:?} that ends at {end} has {bytes} bytes, more than a version may have, and there was no room to keep the page in memory: take the backup at a quieter time, or allow more memory"
    )]
    LongChange {
        /// Which page.
        key: PostgresKey,
        /// End of the record.
        end: Lsn,
        /// Bytes of the stored change.
        bytes: usize,
    },
    /// More pages were changed again and again than fit the memory.
    #[error(
        "more pages were changed during the backup, and again after they had been written, than {bytes_max} bytes of memory can tell of: take the backup at a quieter time, or allow more memory"
    )]
    TooManyChanges {
        /// How much memory there is.
        bytes_max: usize,
    },
    /// WAL of the backup does not reach its stop.
    #[error("the WAL of the backup, from {start}, does not reach its end")]
    Wal {
        /// Where it starts.
        start: Lsn,
        /// Where and why it stops.
        source: WalError,
    },
    /// The sink refused or cancelled.
    #[error("import stopped")]
    Sink(#[source] SinkError),
}

impl WalStream {
    fn of(start: &ImportStart) -> WalStream {
        WalStream {
            system_identifier: start.system_identifier,
            version: WalVersion::from_postgres_major(start.postgres_major)
                .expect("control files of other versions were refused"),
            timeline: start.timeline,
            segment_bytes: start.wal_segment_bytes,
        }
    }
}

impl ImportError {
    fn file(path: &Path) -> impl FnOnce(std::io::Error) -> ImportError {
        let path = path.to_owned();
        move |source| ImportError::File { path, source }
    }
}
