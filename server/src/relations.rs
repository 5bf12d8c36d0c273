//! What relations a branch has: a scan of its size keys, database by database.

use engine::types::Lsn;
use engine::{BranchHandle, Core, ErrorKind, ReadError};
use postgres::control_file::ControlFile;
use postgres::key::{Fork, PostgresKey, Relation};
use postgres::value::RelationSize;

/// One fork and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForkSize {
    /// The relation.
    pub relation: Relation,
    /// Its fork.
    pub fork: Fork,
    /// Its blocks.
    pub blocks: u32,
}

/// Every fork at `at`, in the order of tablespace, database, relation, fork. Memory and time grow with the number of
/// relations.
pub async fn all(core: &Core, branch: &BranchHandle, at: Lsn) -> Result<Vec<ForkSize>, ReadError> {
    let (from, to) = PostgresKey::all_database_directories();
    let directories = core.scan(branch, from, to, at).await?;
    let mut databases: Vec<u32> = directories
        .iter()
        // Empty: it was dropped.
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(key, _)| match PostgresKey::decode(key) {
            Some(PostgresKey::DatabaseDirectory { database, .. }) => Some(database),
            _ => None,
        })
        .chain([SHARED])
        .collect();
    databases.sort_unstable();
    databases.dedup();
    let mut forks = Vec::new();
    for database in databases {
        let (from, to) = PostgresKey::relation_sizes_of(database);
        for (key, value) in core.scan(branch, from, to, at).await? {
            if value.is_empty() {
                continue;
            }
            let (Some(PostgresKey::RelationSize { relation, fork }), Ok(size)) =
                (PostgresKey::decode(&key), RelationSize::decode(&value))
            else {
                tracing::warn!(?key, "a relation's size is of no known form");
                continue;
            };
            forks.push(ForkSize {
                relation,
                fork,
                blocks: size.blocks,
            });
        }
    }
    forks.sort_unstable();
    Ok(forks)
}

/// The major version in the branch's control file, if it has one.
pub async fn postgres_major(core: &Core, branch: &BranchHandle) -> Result<Option<u16>, ReadError> {
    let key = PostgresKey::ControlFile.encode();
    match core.read(branch, key, branch.last_lsn()).await {
        Ok(file) => Ok(ControlFile::decode(&file)
            .ok()
            .map(|control| control.postgres_major)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The database of shared relations.
const SHARED: u32 = 0;
