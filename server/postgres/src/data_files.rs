//! What each path of a data directory is. The same names stand in a directory, in the tar of a base backup, and,
//! below the version folder, in the tar of a tablespace.
//!
//! What is left out is what `pg_basebackup` leaves out (it is rebuilt at start: statistics, subtransactions,
//! notifications, snapshots, temporary files, caches), and besides: replication slots and what belongs to them,
//! the server's log, and cumulative statistics saved at shutdown, which every recovery discards as well. Anything
//! unknown is kept as a plain file: an unknown file is somebody's extension, and small.
//!
//! Whether a main fork belongs to an unlogged relation cannot be seen from its path: see
//! [`DataFile::Relation`].

use crate::key::{DEFAULT_TABLESPACE, Fork, GLOBAL_TABLESPACE, Relation, Slru};

/// What a file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataFile {
    /// A segment of a fork. Where the folder also has the relation's init fork, the relation is unlogged, and only
    /// the init fork is state.
    Relation {
        /// The relation.
        relation: Relation,
        /// Its fork.
        fork: Fork,
        /// Which run of 131,072 blocks.
        segment: u32,
    },
    /// `pg_filenode.map`.
    RelationMap {
        /// Database, 0 for the shared one.
        database: u32,
        /// Tablespace of the database.
        tablespace: u32,
    },
    /// `PG_VERSION` of a database.
    DatabaseVersion {
        /// Database.
        database: u32,
        /// Tablespace of the database.
        tablespace: u32,
    },
    /// `PG_VERSION` of the cluster.
    ClusterVersion,
    /// A segment of an SLRU.
    Slru {
        /// Which.
        slru: Slru,
        /// Number of the segment.
        segment: u64,
    },
    /// The state of a prepared transaction.
    TwoPhase {
        /// Transaction id, with epoch from 17 on.
        xid: u64,
    },
    /// `pg_logical/replorigin_checkpoint`: how far subscriptions have come.
    ReplicationOrigins,
    /// `global/pg_control`.
    ControlFile,
    /// `backup_label`.
    BackupLabel,
    /// `tablespace_map`.
    TablespaceMap,
    /// A segment of WAL.
    Wal {
        /// Timeline.
        timeline: u32,
        /// Number of the segment, of the size the control file tells.
        segment: WalSegmentName,
    },
    /// A part of an incremental backup.
    Incremental,
    /// Kept as it is.
    Plain,
    /// Not state; why.
    Ignored(&'static str),
}

/// The two halves of a WAL segment's name behind the timeline; what number that is depends on the segment size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalSegmentName {
    /// Upper 32 bits of the LSN.
    pub high: u32,
    /// Segment within these 4 GiB.
    pub low: u32,
}

/// Classifies `path`, relative to a data directory of major version `postgres_major`.
pub fn classify(path: &str, postgres_major: u16) -> DataFile {
    let path = path.strip_prefix("./").unwrap_or(path);
    let (folder, rest) = path.split_once('/').unwrap_or(("", path));
    match folder {
        "" => in_top_folder(rest),
        "global" if rest == "pg_control" => DataFile::ControlFile,
        "global" => in_database_folder(GLOBAL_TABLESPACE, 0, rest),
        "base" => in_databases_folder(DEFAULT_TABLESPACE, rest),
        "pg_tblspc" => match rest.split_once('/') {
            Some((oid, inside)) => match decimal(oid) {
                Some(oid) => classify_in_tablespace(oid, inside, postgres_major),
                None => DataFile::Plain,
            },
            None => DataFile::Ignored("link of a tablespace"),
        },
        "pg_xact" | "pg_multixact" | "pg_commit_ts" => slru_segment(path),
        "pg_twophase" => two_phase(rest, postgres_major),
        "pg_wal" => in_wal_folder(rest),
        "pg_logical" if rest == "replorigin_checkpoint" => DataFile::ReplicationOrigins,
        "pg_logical" => DataFile::Ignored("belongs to a logical slot"),
        "pg_replslot" => DataFile::Ignored("replication slots stay with their server"),
        "pg_stat" => DataFile::Ignored("statistics"),
        "pg_stat_tmp" => DataFile::Ignored("temporary statistics"),
        "pg_dynshmem" => DataFile::Ignored("shared memory"),
        "pg_notify" => DataFile::Ignored("notifications"),
        "pg_serial" => DataFile::Ignored("serializable transactions"),
        "pg_snapshots" => DataFile::Ignored("exported snapshots"),
        "pg_subtrans" => DataFile::Ignored("subtransactions"),
        "log" | "pg_log" => DataFile::Ignored("server log"),
        _ if is_temporary(path) => DataFile::Ignored("temporary"),
        _ => DataFile::Plain,
    }
}

/// Classifies `path`, relative to the directory of tablespace `oid`.
pub fn classify_in_tablespace(oid: u32, path: &str, postgres_major: u16) -> DataFile {
    let path = path.strip_prefix("./").unwrap_or(path);
    match path.split_once('/') {
        Some((version, inside)) if is_version_folder(version, postgres_major) => {
            in_databases_folder(oid, inside)
        }
        // What another major version keeps in the same place after pg_upgrade.
        _ => DataFile::Ignored("not of this version's folder of the tablespace"),
    }
}

/// Whether `name` is what Postgres of this version names its folder in a tablespace: `PG_15_202209061`.
pub fn is_version_folder(name: &str, postgres_major: u16) -> bool {
    let parts = name
        .strip_prefix("PG_")
        .and_then(|rest| rest.split_once('_'));
    parts.is_some_and(|(major, catalog)| {
        decimal(major) == Some(u32::from(postgres_major)) && decimal(catalog).is_some()
    })
}

fn in_top_folder(name: &str) -> DataFile {
    match name {
        "backup_label" => DataFile::BackupLabel,
        "tablespace_map" => DataFile::TablespaceMap,
        "PG_VERSION" => DataFile::ClusterVersion,
        "backup_manifest" => DataFile::Ignored("manifest of the backup"),
        "postmaster.pid" | "postmaster.opts" => DataFile::Ignored("of the running server"),
        "current_logfiles" | "current_logfiles.tmp" => DataFile::Ignored("server log"),
        "backup_label.old" | "tablespace_map.old" => DataFile::Ignored("of an older backup"),
        "postgresql.auto.conf.tmp" => DataFile::Ignored("temporary"),
        _ if is_temporary(name) => DataFile::Ignored("temporary"),
        _ => DataFile::Plain,
    }
}

fn in_databases_folder(tablespace: u32, path: &str) -> DataFile {
    let Some((folder, name)) = path.split_once('/') else {
        return DataFile::Plain;
    };
    if is_temporary(folder) {
        return DataFile::Ignored("temporary");
    }
    match decimal(folder) {
        Some(database) => in_database_folder(tablespace, database, name),
        None => DataFile::Plain,
    }
}

fn in_database_folder(tablespace: u32, database: u32, name: &str) -> DataFile {
    match name {
        "pg_filenode.map" => DataFile::RelationMap {
            database,
            tablespace,
        },
        "PG_VERSION" => DataFile::DatabaseVersion {
            database,
            tablespace,
        },
        _ if name.starts_with("pg_internal.init") => DataFile::Ignored("cache of catalogs"),
        _ if name.starts_with("INCREMENTAL.") => DataFile::Incremental,
        _ if is_temporary(name) || is_temporary_relation(name) => DataFile::Ignored("temporary"),
        _ => match relation_file(name) {
            Some((number, fork, segment)) => DataFile::Relation {
                relation: Relation {
                    tablespace,
                    database,
                    number,
                },
                fork,
                segment,
            },
            None => DataFile::Plain,
        },
    }
}

/// `16384`, `16384_fsm`, `16384.1`, `16384_vm.2`.
fn relation_file(name: &str) -> Option<(u32, Fork, u32)> {
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) => (name, decimal(segment).filter(|number| *number > 0)?),
        None => (name, 0),
    };
    let (number, fork) = match name.split_once('_') {
        Some((number, suffix)) => {
            let named = |fork: &&Fork| fork.suffix().strip_prefix('_') == Some(suffix);
            (number, Fork::ALL.iter().find(named).copied()?)
        }
        None => (name, Fork::Main),
    };
    let number = decimal(number).filter(|number| *number > 0)?;
    Some((number, fork, segment))
}

/// `t3_16384…`: of a session's temporary tables.
fn is_temporary_relation(name: &str) -> bool {
    let parts = name.strip_prefix('t').and_then(|rest| rest.split_once('_'));
    parts.is_some_and(|(backend, relation)| {
        decimal(backend).is_some() && relation.bytes().next().is_some_and(|b| b.is_ascii_digit())
    })
}

fn is_temporary(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with("pgsql_tmp"))
}

fn slru_segment(path: &str) -> DataFile {
    let found = Slru::ALL.into_iter().find_map(|slru| {
        let name = path.strip_prefix(slru.directory())?.strip_prefix('/')?;
        let segment = hex(name, 4..=15)?;
        Some(DataFile::Slru { slru, segment })
    });
    found.unwrap_or(DataFile::Plain)
}

fn two_phase(name: &str, postgres_major: u16) -> DataFile {
    let digits = if postgres_major >= 17 { 16 } else { 8 };
    match hex(name, digits..=digits) {
        Some(xid) => DataFile::TwoPhase { xid },
        None => DataFile::Plain,
    }
}

fn in_wal_folder(name: &str) -> DataFile {
    let part = |range| {
        let digits: &str = name.get(range)?;
        u32::try_from(hex(digits, 8..=8)?).ok()
    };
    match (part(0..8), part(8..16), part(16..24), name.len()) {
        (Some(timeline), Some(high), Some(low), 24) => DataFile::Wal {
            timeline,
            segment: WalSegmentName { high, low },
        },
        _ => DataFile::Ignored("not a WAL segment"),
    }
}

/// A decimal number without sign or leading zeros.
fn decimal(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let canonical = digits == "0" || !digits.starts_with('0');
    if plain && canonical {
        digits.parse().ok()
    } else {
        None
    }
}

/// Upper-case hex digits, as many as allowed.
fn hex(digits: &str, lengths: std::ops::RangeInclusive<usize>) -> Option<u64> {
    let plain = digits
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    if plain && lengths.contains(&digits.len()) {
        u64::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(tablespace: u32, database: u32, number: u32, fork: Fork, segment: u32) -> DataFile {
        DataFile::Relation {
            relation: Relation {
                tablespace,
                database,
                number,
            },
            fork,
            segment,
        }
    }

    #[test]
    fn relation_files_of_all_forks_segments_and_tablespaces_are_found() {
        for (path, file) in [
            ("base/5/16384", relation(1663, 5, 16384, Fork::Main, 0)),
            (
                "./base/5/16384.12",
                relation(1663, 5, 16384, Fork::Main, 12),
            ),
            (
                "base/5/1259_fsm",
                relation(1663, 5, 1259, Fork::FreeSpaceMap, 0),
            ),
            (
                "base/5/1259_vm.1",
                relation(1663, 5, 1259, Fork::VisibilityMap, 1),
            ),
            ("base/5/1259_init", relation(1663, 5, 1259, Fork::Init, 0)),
            (
                "base/5/4294967295",
                relation(1663, 5, u32::MAX, Fork::Main, 0),
            ),
            ("global/1262", relation(1664, 0, 1262, Fork::Main, 0)),
            (
                "pg_tblspc/24576/PG_15_202209061/5/24577",
                relation(24576, 5, 24577, Fork::Main, 0),
            ),
        ] {
            assert_eq!(classify(path, 15), file, "{path}");
        }
        assert_eq!(
            classify_in_tablespace(9, "PG_15_202209061/5/24577_vm", 15),
            relation(9, 5, 24577, Fork::VisibilityMap, 0)
        );
    }

    #[test]
    fn state_that_is_not_a_relation_is_found() {
        for (path, file) in [
            ("global/pg_control", DataFile::ControlFile),
            (
                "global/pg_filenode.map",
                DataFile::RelationMap {
                    database: 0,
                    tablespace: 1664,
                },
            ),
            (
                "base/5/pg_filenode.map",
                DataFile::RelationMap {
                    database: 5,
                    tablespace: 1663,
                },
            ),
            (
                "base/5/PG_VERSION",
                DataFile::DatabaseVersion {
                    database: 5,
                    tablespace: 1663,
                },
            ),
            ("PG_VERSION", DataFile::ClusterVersion),
            ("backup_label", DataFile::BackupLabel),
            (
                "pg_xact/001F",
                DataFile::Slru {
                    slru: Slru::Clog,
                    segment: 0x1f,
                },
            ),
            (
                "pg_multixact/offsets/12345",
                DataFile::Slru {
                    slru: Slru::MultixactOffsets,
                    segment: 0x12345,
                },
            ),
            ("pg_twophase/000002E5", DataFile::TwoPhase { xid: 0x2e5 }),
            (
                "pg_wal/000000010000000A000000FE",
                DataFile::Wal {
                    timeline: 1,
                    segment: WalSegmentName {
                        high: 10,
                        low: 0xfe,
                    },
                },
            ),
            ("postgresql.conf", DataFile::Plain),
            (
                "pg_logical/replorigin_checkpoint",
                DataFile::ReplicationOrigins,
            ),
            ("base/5/INCREMENTAL.16384", DataFile::Incremental),
            ("base/5/16384_foo", DataFile::Plain),
            ("base/5/016384", DataFile::Plain),
            ("server.crt", DataFile::Plain),
        ] {
            assert_eq!(classify(path, 15), file, "{path}");
        }
    }

    #[test]
    fn two_phase_files_have_sixteen_digits_from_17_on() {
        let xid = 0x1_0000_02E5;
        let long = "pg_twophase/00000001000002E5";
        assert_eq!(classify(long, 17), DataFile::TwoPhase { xid });
        assert_eq!(classify(long, 16), DataFile::Plain);
        assert_eq!(classify("pg_twophase/000002E5", 17), DataFile::Plain);
    }

    #[test]
    fn what_a_base_backup_leaves_out_is_ignored() {
        for path in [
            "base/pgsql_tmp/pgsql_tmp123.0",
            "base/5/pgsql_tmp1",
            "base/5/t3_16384",
            "base/5/t12_16384_fsm",
            "base/5/pg_internal.init",
            "global/pg_internal.init.77",
            "pg_subtrans/0000",
            "pg_stat_tmp/global.stat",
            "pg_stat/pgstat.stat",
            "pg_replslot/s/state",
            "pg_notify/0000",
            "postmaster.pid",
            "backup_manifest",
            "pg_wal/00000002.history",
            "pg_wal/archive_status/000000010000000A000000FE.done",
            "pg_tblspc/24576",
            "pg_tblspc/24576/PG_14_202107181/5/24577",
            "log/postgresql.log",
        ] {
            let found = classify(path, 15);
            assert!(matches!(found, DataFile::Ignored(_)), "{path}: {found:?}");
        }
    }
}
