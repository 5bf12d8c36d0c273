//! A running cluster, by a base backup over the replication protocol; nothing of it touches a disk here.

use super::backup::Backup;
use super::tar_archive::{Archive, read_archive};
use super::{ImportError, ImportSink, ImportStart, ImportSummary};
use crate::control_file::{SEGMENT_BLOCKS, SUPPORTED_MAJORS, is_wal_segment_size};
use crate::replication::{
    BackupOptions, BaseBackup, Connection, ConnectionSettings, ReplicationError, bytes_of_size,
};

pub(super) fn import(
    settings: &ConnectionSettings,
    options: BackupOptions,
    sink: &mut dyn ImportSink,
) -> Result<ImportSummary, ImportError> {
    let mut connection = Connection::open(settings)?;
    let server = ServerFacts::ask(&mut connection)?;
    let mut backup = BaseBackup::start(connection, options)?;
    let start = ImportStart {
        system_identifier: server.system_identifier,
        postgres_major: server.postgres_major,
        timeline: backup.timeline,
        start_lsn: backup.start_lsn,
        wal_segment_bytes: server.wal_segment_bytes,
        has_data_checksums: server.has_data_checksums,
        total_bytes: Some(backup.estimated_bytes),
    };
    sink.begin(&start).map_err(ImportError::Sink)?;
    let mut taken = Backup::new(start, sink.replay_bytes_max());
    for tablespace in &backup.tablespaces {
        taken.tablespace(tablespace.oid, &tablespace.path, sink)?;
    }
    while let Some(name) = backup.next_archive()? {
        let archive = Archive::named(&name)?;
        read_archive(archive, &mut backup, &mut taken, sink)?;
    }
    let end = backup.finish()?;
    let summary = taken.finish(sink)?;
    let stop = summary.stop_lsn;
    if stop != end.stop_lsn || end.timeline != start.timeline {
        return Err(ImportError::MalformedFile {
            file: "base backup".to_owned(),
            reason: format!(
                "its WAL ends at {stop}, the server says {} on timeline {}",
                end.stop_lsn, end.timeline
            ),
        });
    }
    Ok(summary)
}

/// What the server says of itself before the backup; its control file comes last and has to agree.
struct ServerFacts {
    system_identifier: u64,
    postgres_major: u16,
    wal_segment_bytes: u32,
    has_data_checksums: bool,
}

impl ServerFacts {
    fn ask(connection: &mut Connection) -> Result<ServerFacts, ImportError> {
        let version = connection.parameter("server_version").unwrap_or("unknown");
        let postgres_major = version
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|major| major.parse().ok())
            .filter(|major| SUPPORTED_MAJORS.contains(major))
            .ok_or_else(|| ReplicationError::Version(version.to_owned()))?;
        if connection.parameter("in_hot_standby") == Some("on") {
            return Err(ImportError::Standby);
        }
        let wanted = [("block_size", 8192), ("wal_block_size", 8192)];
        for (setting, wanted) in wanted {
            let found = connection.show(setting)?;
            if found != wanted.to_string() {
                return Err(ImportError::Setting {
                    setting,
                    found,
                    wanted: wanted.to_string(),
                });
            }
        }
        let segment = connection.show("segment_size")?;
        if bytes_of_size(&segment) != Some(u64::from(SEGMENT_BLOCKS) * 8192) {
            return Err(ImportError::Setting {
                setting: "segment_size",
                found: segment,
                wanted: "1GB".to_owned(),
            });
        }
        let found = connection.show("wal_segment_size")?;
        let wal_segment_bytes = bytes_of_size(&found)
            .and_then(|bytes| u32::try_from(bytes).ok())
            .filter(|bytes| is_wal_segment_size(*bytes))
            .ok_or(ImportError::Setting {
                setting: "wal_segment_size",
                found,
                wanted: "a power of two from 1MB to 1GB".to_owned(),
            })?;
        let has_data_checksums = connection.show("data_checksums")? == "on";
        let identity = connection.query("IDENTIFY_SYSTEM")?;
        let system_identifier = identity
            .first()
            .and_then(|row| row.first()?.as_deref()?.parse().ok())
            .ok_or_else(|| ImportError::Missing("system identifier".to_owned()))?;
        Ok(ServerFacts {
            system_identifier,
            postgres_major,
            wal_segment_bytes,
            has_data_checksums,
        })
    }
}
