//! `global/pg_control` of Postgres 15 to 18: which cluster this is, in which state, and from where redo starts.
//!
//! Read only. The file is the C struct as the server's compiler lays it out (64-bit, little-endian), padded with
//! zeros to 8,192 bytes, with a CRC-32C over the struct right behind it. 15 and 16 (version 1300) and 17 (1700)
//! share one layout; 18 (1800) has one more byte before the nonce. The catalog version tells the major version.

use std::fmt;

use engine::types::{Lsn, PAGE_BYTES};

use crate::bytes_at::{array_at, u32_at, u64_at};
use crate::value::{CheckpointState, ClusterParameters};

/// Bytes of the file; also of its value in the engine.
pub const CONTROL_FILE_BYTES: usize = 8192;

/// Blocks of a relation's segment file, for ever 1 GiB in the builds supported here.
pub const SEGMENT_BLOCKS: u32 = 131_072;

/// What the cluster was doing when the file was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterState {
    /// Never ran.
    StartingUp,
    /// Stopped cleanly.
    ShutDown,
    /// A standby, stopped cleanly.
    ShutDownInRecovery,
    /// Was stopping.
    ShuttingDown,
    /// In crash recovery.
    InCrashRecovery,
    /// In archive recovery, or a standby at work.
    InArchiveRecovery,
    /// Running, or crashed.
    InProduction,
}

impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The words of pg_controldata.
        f.write_str(match self {
            ClusterState::StartingUp => "starting up",
            ClusterState::ShutDown => "shut down",
            ClusterState::ShutDownInRecovery => "shut down in recovery",
            ClusterState::ShuttingDown => "shutting down",
            ClusterState::InCrashRecovery => "in crash recovery",
            ClusterState::InArchiveRecovery => "in archive recovery",
            ClusterState::InProduction => "in production",
        })
    }
}

/// The decoded control file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlFile {
    /// Names the cluster; drawn by `initdb`.
    pub system_identifier: u64,
    /// Version of the catalogs, a date and a digit.
    pub catalog_version: u32,
    /// Major version of Postgres, from the catalog version.
    pub postgres_major: u16,
    /// What the cluster was doing.
    pub state: ClusterState,
    /// Position of the last checkpoint's record.
    pub checkpoint_lsn: Lsn,
    /// The last checkpoint.
    pub checkpoint: CheckpointState,
    /// Where a standby becomes consistent; 0 in a primary.
    pub min_recovery_lsn: Lsn,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
    /// Whether hint bits are logged even without checksums.
    pub wal_log_hints: bool,
    /// These two and the other settings that a standby has to know.
    pub parameters: ClusterParameters,
    /// Bytes of a WAL segment file: a power of two from 1 MiB to 1 GiB.
    pub wal_segment_bytes: u32,
    /// 0 if pages carry no checksums.
    pub data_checksum_version: u32,
}

/// Why a control file is not read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ControlFileError {
    /// Cut short.
    #[error("pg_control has {0} bytes, a whole one has 8192")]
    Length(usize),
    /// A version of the struct that is not known.
    #[error(
        "pg_control has version {0}; known are 1300 (PostgreSQL 15 and 16), 1700 (17) and 1800 (18)"
    )]
    Version(u32),
    /// Damaged.
    #[error("pg_control is damaged: its checksum is {stored:08x}, its content has {computed:08x}")]
    Crc {
        /// As stored.
        stored: u32,
        /// Over the content.
        computed: u32,
    },
    /// A release that is too old, too new, or never was one.
    #[error(
        "catalog version {0} is of no release supported: PostgreSQL 15 (202209061), 16 (202307071), 17 (202406281), 18 (202506291)"
    )]
    CatalogVersion(u32),
    /// An unknown state number.
    #[error("pg_control has cluster state {0}, which does not exist")]
    State(u32),
    /// A build with other sizes.
    #[error("the cluster was built with {what} {found}; only {wanted} is supported")]
    BuildOption {
        /// Which size.
        what: &'static str,
        /// As found.
        found: u32,
        /// What it must be.
        wanted: u32,
    },
    /// A segment size that Postgres does not allow.
    #[error(
        "pg_control has a WAL segment size of {0} bytes, not a power of two from 1 MiB to 1 GiB"
    )]
    WalSegmentSize(u32),
    /// An unknown checksum algorithm.
    #[error("pg_control has data checksum version {0}; only 0 (none) and 1 are known")]
    DataChecksumVersion(u32),
}

impl ControlFile {
    /// Decodes and checks a whole control file.
    /// # Errors
    /// Anything that keeps the cluster from being read by this build of the project; see the variants.
    pub fn decode(file: &[u8]) -> Result<ControlFile, ControlFileError> {
        if file.len() != CONTROL_FILE_BYTES {
            return Err(ControlFileError::Length(file.len()));
        }
        let word = |at| u32_at(file, at).expect("length checked");
        let long = |at| u64_at(file, at).expect("length checked");
        let flag = |at: usize| file[at] != 0;

        let crc_at = match word(VERSION_AT) {
            1300 | 1700 => CRC_AT_1300,
            1800 => CRC_AT_1800,
            other => return Err(ControlFileError::Version(other)),
        };
        let (stored, computed) = (word(crc_at), crc32c::crc32c(&file[..crc_at]));
        if stored != computed {
            return Err(ControlFileError::Crc { stored, computed });
        }
        let catalog_version = word(CATALOG_VERSION_AT);
        let postgres_major = major_of_catalog_version(catalog_version)
            .ok_or(ControlFileError::CatalogVersion(catalog_version))?;
        let sizes: [(&'static str, usize, u32); 3] = [
            ("a block size of", BLOCK_BYTES_AT, 8192),
            ("blocks per segment file", SEGMENT_BLOCKS_AT, SEGMENT_BLOCKS),
            ("a WAL block size of", WAL_BLOCK_BYTES_AT, 8192),
        ];
        for (what, at, wanted) in sizes {
            let found = word(at);
            if found != wanted {
                return Err(ControlFileError::BuildOption {
                    what,
                    found,
                    wanted,
                });
            }
        }
        let wal_segment_bytes = word(WAL_SEGMENT_BYTES_AT);
        if !is_wal_segment_size(wal_segment_bytes) {
            return Err(ControlFileError::WalSegmentSize(wal_segment_bytes));
        }
        let data_checksum_version = word(DATA_CHECKSUM_VERSION_AT);
        if data_checksum_version > 1 {
            return Err(ControlFileError::DataChecksumVersion(data_checksum_version));
        }
        let checkpoint = array_at::<CHECKPOINT_BYTES>(file, CHECKPOINT_AT).expect("length checked");
        Ok(ControlFile {
            system_identifier: long(SYSTEM_IDENTIFIER_AT),
            catalog_version,
            postgres_major,
            state: state_of(word(STATE_AT))?,
            checkpoint_lsn: Lsn(long(CHECKPOINT_LSN_AT)),
            checkpoint: decode_checkpoint(&checkpoint),
            min_recovery_lsn: Lsn(long(MIN_RECOVERY_LSN_AT)),
            wal_level: word(WAL_LEVEL_AT),
            wal_log_hints: flag(WAL_LOG_HINTS_AT),
            parameters: ClusterParameters {
                max_connections: word(MAX_CONNECTIONS_AT),
                max_worker_processes: word(MAX_CONNECTIONS_AT + 4),
                max_wal_senders: word(MAX_CONNECTIONS_AT + 8),
                max_prepared_transactions: word(MAX_CONNECTIONS_AT + 12),
                max_locks_per_transaction: word(MAX_CONNECTIONS_AT + 16),
                wal_level: word(WAL_LEVEL_AT),
                wal_log_hints: flag(WAL_LOG_HINTS_AT),
                track_commit_timestamp: flag(TRACK_COMMIT_TIMESTAMP_AT),
            },
            wal_segment_bytes,
            data_checksum_version,
        })
    }

    /// Whether pages carry checksums.
    pub fn has_data_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }
}

/// Bytes of Postgres's `CheckPoint` struct, in the control file and in checkpoint records.
pub const CHECKPOINT_BYTES: usize = 88;

/// Decodes Postgres's `CheckPoint` struct. (18 put `wal_level` into what was padding; it is of no use here.)
pub fn decode_checkpoint(bytes: &[u8; CHECKPOINT_BYTES]) -> CheckpointState {
    let word = |at| u32_at(bytes, at).expect("within the array");
    let long = |at| u64_at(bytes, at).expect("within the array");
    CheckpointState {
        redo: Lsn(long(0)),
        timeline: word(8),
        previous_timeline: word(12),
        full_page_writes: u8::from(bytes[16] != 0),
        next_xid: long(24),
        next_oid: word(32),
        next_multixact: word(36),
        next_multixact_offset: word(40),
        oldest_xid: word(44),
        oldest_xid_database: word(48),
        oldest_multixact: word(52),
        oldest_multixact_database: word(56),
        time: long(64),
        oldest_commit_timestamp_xid: word(72),
        newest_commit_timestamp_xid: word(76),
        oldest_active_xid: word(80),
    }
}

/// Whether Postgres allows WAL segments of this size.
pub fn is_wal_segment_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)
}

/// The first and last major version that can be imported.
pub const SUPPORTED_MAJORS: std::ops::RangeInclusive<u16> = 15..=18;

fn major_of_catalog_version(catalog_version: u32) -> Option<u16> {
    match catalog_version {
        202_209_061 => Some(15),
        202_307_071 => Some(16),
        202_406_281 => Some(17),
        202_506_291 => Some(18),
        _ => None,
    }
}

fn state_of(number: u32) -> Result<ClusterState, ControlFileError> {
    Ok(match number {
        0 => ClusterState::StartingUp,
        1 => ClusterState::ShutDown,
        2 => ClusterState::ShutDownInRecovery,
        3 => ClusterState::ShuttingDown,
        4 => ClusterState::InCrashRecovery,
        5 => ClusterState::InArchiveRecovery,
        6 => ClusterState::InProduction,
        other => return Err(ControlFileError::State(other)),
    })
}

const SYSTEM_IDENTIFIER_AT: usize = 0;
const VERSION_AT: usize = 8;
const CATALOG_VERSION_AT: usize = 12;
const STATE_AT: usize = 16;
const CHECKPOINT_LSN_AT: usize = 32;
const CHECKPOINT_AT: usize = 40;
const MIN_RECOVERY_LSN_AT: usize = 136;
const WAL_LEVEL_AT: usize = 172;
const WAL_LOG_HINTS_AT: usize = 176;
const MAX_CONNECTIONS_AT: usize = 180;
const TRACK_COMMIT_TIMESTAMP_AT: usize = MAX_CONNECTIONS_AT + 20;
const BLOCK_BYTES_AT: usize = 216;
const SEGMENT_BLOCKS_AT: usize = 220;
const WAL_BLOCK_BYTES_AT: usize = 224;
const WAL_SEGMENT_BYTES_AT: usize = 228;
const DATA_CHECKSUM_VERSION_AT: usize = 252;
const CRC_AT_1300: usize = 288;
const CRC_AT_1800: usize = 292;
const _: () = assert!(CHECKPOINT_AT + CHECKPOINT_BYTES == 128);
const _: () = assert!(CONTROL_FILE_BYTES <= PAGE_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    /// A control file with the given version fields and sizes, and a right checksum.
    fn file(version: u32, catalog: u32, patch: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut file = vec![0; CONTROL_FILE_BYTES];
        let mut put =
            |at: usize, value: u32| file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(SYSTEM_IDENTIFIER_AT, 77);
        put(VERSION_AT, version);
        put(CATALOG_VERSION_AT, catalog);
        put(STATE_AT, 1);
        put(CHECKPOINT_LSN_AT, 0x1000);
        put(CHECKPOINT_AT, 0x0f00);
        put(BLOCK_BYTES_AT, 8192);
        put(SEGMENT_BLOCKS_AT, SEGMENT_BLOCKS);
        put(WAL_BLOCK_BYTES_AT, 8192);
        put(WAL_SEGMENT_BYTES_AT, 16 << 20);
        patch(&mut file);
        let crc_at = if version == 1800 {
            CRC_AT_1800
        } else {
            CRC_AT_1300
        };
        let crc = crc32c::crc32c(&file[..crc_at]);
        file[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        file
    }

    #[test]
    fn releases_15_to_18_are_read() {
        for (version, catalog, major) in [
            (1300, 202_209_061, 15),
            (1300, 202_307_071, 16),
            (1700, 202_406_281, 17),
            (1800, 202_506_291, 18),
        ] {
            let control = ControlFile::decode(&file(version, catalog, |_| {})).expect("good file");
            assert_eq!(control.postgres_major, major);
            assert_eq!(control.system_identifier, 77);
            assert_eq!(control.state, ClusterState::ShutDown);
            assert_eq!(control.checkpoint.redo, Lsn(0x0f00));
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_reason() {
        let decode = |file: &[u8]| ControlFile::decode(file).expect_err("refused");
        let good = file(1300, 202_209_061, |_| {});
        assert_eq!(decode(&good[..296]), ControlFileError::Length(296));
        let mut flipped = good.clone();
        flipped[5] ^= 1;
        assert!(matches!(decode(&flipped), ControlFileError::Crc { .. }));
        assert_eq!(
            decode(&file(1201, 1, |_| {})),
            ControlFileError::Version(1201)
        );
        assert_eq!(
            decode(&file(1300, 202_107_181, |_| {})),
            ControlFileError::CatalogVersion(202_107_181)
        );
        let other_blocks = file(1300, 202_209_061, |f| f[BLOCK_BYTES_AT + 1] = 0x40);
        assert_eq!(
            decode(&other_blocks).to_string(),
            "the cluster was built with a block size of 16384; only 8192 is supported"
        );
        let other_segments = file(1300, 202_209_061, |f| f[SEGMENT_BLOCKS_AT] = 1);
        assert!(matches!(
            decode(&other_segments),
            ControlFileError::BuildOption { .. }
        ));
    }
}
