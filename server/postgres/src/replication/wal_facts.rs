//! Which WAL a server has: what has to be known before the first byte of it is decoded.

use engine::types::Lsn;

use super::connection::Connection;
use super::message::bytes_of_size;
use super::replication_error::{ReplicationError, unexpected};
use crate::control_file::is_wal_segment_size;
use crate::wal::{WalStream, WalVersion};

/// A server's WAL, as a connection for replication tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalFacts {
    /// Cluster, version, current timeline, size of segments.
    pub stream: WalStream,
    /// What the server had on its disk when it was asked.
    pub flushed: Lsn,
    /// Whether pages carry checksums.
    pub has_data_checksums: bool,
    /// Whether the server logs hint bits even without checksums. It may not have been so where older WAL begins.
    pub wal_log_hints: bool,
}

impl WalFacts {
    /// Asks the server.
    /// # Errors
    /// A version that is not supported, or the server's.
    pub fn read(connection: &mut Connection) -> Result<WalFacts, ReplicationError> {
        let version = version(connection)?;
        let segment_bytes = bytes_of_size(&connection.show("wal_segment_size")?)
            .and_then(|bytes| u32::try_from(bytes).ok())
            .filter(|bytes| is_wal_segment_size(*bytes))
            .ok_or_else(|| unexpected("as the size of WAL segments"))?;
        let has_data_checksums = connection.show("data_checksums")? == "on";
        let wal_log_hints = connection.show("wal_log_hints")? == "on";
        let (system_identifier, timeline, flushed) = identity(connection)?;
        Ok(WalFacts {
            stream: WalStream {
                system_identifier,
                version,
                timeline,
                segment_bytes,
            },
            flushed,
            has_data_checksums,
            wal_log_hints,
        })
    }
}

/// The server's version, of those that are supported.
pub(super) fn version(connection: &Connection) -> Result<WalVersion, ReplicationError> {
    let release = connection.parameter("server_version").unwrap_or("unknown");
    let major = release.split(|c: char| !c.is_ascii_digit()).next();
    major
        .and_then(|major| major.parse().ok())
        .and_then(WalVersion::from_postgres_major)
        .ok_or_else(|| ReplicationError::Version(release.to_owned()))
}

/// System identifier, timeline and what is flushed.
fn identity(connection: &mut Connection) -> Result<(u64, u32, Lsn), ReplicationError> {
    let rows = connection.query("IDENTIFY_SYSTEM")?;
    let identity = match rows.first().map(Vec::as_slice) {
        Some([Some(system), Some(timeline), Some(flushed), ..]) => system
            .parse()
            .ok()
            .zip(timeline.parse().ok())
            .zip(flushed.parse().ok()),
        _ => None,
    };
    let ((system, timeline), flushed) =
        identity.ok_or_else(|| unexpected("in answer to IDENTIFY_SYSTEM"))?;
    Ok((system, timeline, flushed))
}
