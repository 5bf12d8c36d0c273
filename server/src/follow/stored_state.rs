//! What a branch says of its cluster, read back: which WAL belongs to it, and what has to be known to take records in.

use std::sync::Arc;

use engine::types::{BranchId, Key, Lsn, TenantId};
use engine::{BranchHandle, Core, Engine, ErrorKind, ReadError};
use postgres::control_file::ControlFile;
use postgres::key::PostgresKey;
use postgres::record_versions::RecordVersions;
use postgres::wal::{WalStream, WalVersion};

use super::error::FollowError;
use crate::running::on_core;

/// The cluster of a branch as of an LSN.
pub(super) struct StoredState {
    /// Which WAL belongs to it; of whatever timeline.
    pub(super) stream: WalStream,
    /// What records are taken in on.
    pub(super) records: RecordVersions,
}

/// Reads it. Costs the extents that hold sizes and small values, and memory with the number of relations.
pub(super) async fn load(
    engine: &Arc<Engine>,
    (tenant, branch): (TenantId, BranchId),
    at: Lsn,
) -> Result<StoredState, FollowError> {
    let loaded = on_core(engine, 0, async move |core: Core| {
        let branch = core.open_branch(tenant, branch).await?;
        let control = match core
            .read(&branch, PostgresKey::ControlFile.encode(), at)
            .await
        {
            Ok(file) => ControlFile::decode(&file)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(FollowError::NotACluster);
            }
            Err(error) => return Err(error.into()),
        };
        let records = load_records(&core, &branch, at).await?;
        let version = WalVersion::from_postgres_major(control.postgres_major)
            .ok_or(FollowError::NotACluster)?;
        let stream = WalStream {
            system_identifier: control.system_identifier,
            version,
            timeline: u32::MAX,
            segment_bytes: control.wal_segment_bytes,
        };
        Ok(StoredState { stream, records })
    });
    loaded.await.ok_or(FollowError::Stopping)?
}

async fn load_records(
    core: &Core,
    branch: &BranchHandle,
    at: Lsn,
) -> Result<RecordVersions, FollowError> {
    let mut records = RecordVersions::new();
    let mut databases = vec![SHARED];
    for range in PostgresKey::cluster_state_ranges() {
        for (key, value) in scan(core, branch, range, at).await? {
            if let PostgresKey::DatabaseDirectory { database, .. } = key
                && !value.is_empty()
            {
                databases.push(database);
            }
            records.load(key, &value)?;
        }
    }
    databases.sort_unstable();
    databases.dedup();
    for database in databases {
        let ranges = [
            PostgresKey::relation_sizes_of(database),
            PostgresKey::former_blocks_of(database),
        ];
        for range in ranges {
            for (key, value) in scan(core, branch, range, at).await? {
                records.load(key, &value)?;
            }
        }
    }
    Ok(records)
}

async fn scan(
    core: &Core,
    branch: &BranchHandle,
    (from, to): (Key, Key),
    at: Lsn,
) -> Result<Vec<(PostgresKey, Vec<u8>)>, FollowError> {
    let found = core.scan(branch, from, to, at).await?;
    let known = found.into_iter().map(|(key, value)| {
        let unknown = || ReadError::Metadata {
            reason: format!("a key of no known layout: {key:?}").into(),
        };
        Ok((PostgresKey::decode(&key).ok_or_else(unknown)?, value))
    });
    known
        .collect::<Result<_, ReadError>>()
        .map_err(FollowError::from)
}

/// The database of shared relations.
const SHARED: u32 = 0;
