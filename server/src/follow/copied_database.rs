//! What a database is copied from, where a record says only that its files are (`CREATE DATABASE ... STRATEGY file_copy`,
//! `ALTER DATABASE ... SET TABLESPACE`): read back from the branch itself, as of before the record.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use engine::layer::Value;
use engine::types::{BranchId, Lsn, TenantId};
use engine::{Core, Engine, ErrorKind, ReadError};
use postgres::key::{Fork, PostgresKey, Relation};
use postgres::record_versions::{CopiedDirectory, RecordVersions, VersionSink};

use super::error::FollowError;
use crate::running::on_core;

/// Where the original is read.
pub(super) struct Original<'e> {
    pub(super) engine: &'e Arc<Engine>,
    pub(super) place: (TenantId, BranchId),
    pub(super) at: Lsn,
}

/// A copy under way.
pub(super) struct Copying {
    directories: CopiedDirectory,
    /// Whether its map was put.
    has_map: bool,
    /// Forks of the original that are not copied yet, or not wholly; the first from `next_block` on.
    forks: VecDeque<((Relation, Fork), u32)>,
    next_block: u32,
}

impl Copying {
    /// Of all that is in the original now.
    pub(super) fn begin(directories: CopiedDirectory, records: &RecordVersions) -> Copying {
        Copying {
            directories,
            has_map: false,
            forks: records.forks_in(directories.original).into(),
            next_block: 0,
        }
    }

    /// Puts the next versions of the copy, at `end`; whether more are left.
    pub(super) async fn some(
        &mut self,
        original: &Original<'_>,
        end: Lsn,
        records: &mut RecordVersions,
        sink: &mut dyn VersionSink,
    ) -> Result<bool, FollowError> {
        let CopiedDirectory {
            copy,
            original: from,
        } = self.directories;
        if !self.has_map {
            if let Some(map) = original.relation_map(from).await? {
                sink.put(relation_map(copy).encode(), end, Value::Image(&map));
            }
            self.has_map = true;
        }
        let Some(((relation, fork), blocks)) = self.forks.front().copied() else {
            return Ok(false);
        };
        let made = Relation {
            database: copy.0,
            tablespace: copy.1,
            number: relation.number,
        };
        if self.next_block == 0 {
            let (key, size) = records.begin_copied(made, fork, blocks, end);
            sink.put(key, end, Value::Image(&size));
        }
        let until = blocks.min(self.next_block.saturating_add(COPIED_AT_ONCE));
        let range = self.next_block..until;
        for (block, page) in original.pages(relation, fork, range).await? {
            let key = PostgresKey::Block {
                relation: made,
                fork,
                block,
            };
            sink.put(key.encode(), end, Value::Image(&page));
        }
        self.next_block = until;
        if until == blocks {
            self.forks.pop_front();
            self.next_block = 0;
        }
        Ok(!self.forks.is_empty())
    }
}

/// Pages read and put at once.
const COPIED_AT_ONCE: u32 = 128;

/// The map of a database's catalogs, in one of its tablespaces.
fn relation_map((database, tablespace): (u32, u32)) -> PostgresKey {
    PostgresKey::RelationMap {
        database,
        tablespace,
    }
}

impl Original<'_> {
    /// The directory's map, if it has one.
    async fn relation_map(&self, directory: (u32, u32)) -> Result<Option<Vec<u8>>, FollowError> {
        let (place, at) = (self.place, self.at);
        let read = on_core(self.engine, 0, async move |core: Core| {
            let branch = core.open_branch(place.0, place.1).await?;
            match core
                .read(&branch, relation_map(directory).encode(), at)
                .await
            {
                Ok(map) => Ok(Some(map).filter(|map| !map.is_empty())),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        });
        Ok(read.await.ok_or(FollowError::Stopping)??)
    }

    /// Some blocks of a fork; a block that nobody logged is empty.
    async fn pages(
        &self,
        relation: Relation,
        fork: Fork,
        blocks: Range<u32>,
    ) -> Result<Vec<(u32, Vec<u8>)>, FollowError> {
        let (place, at) = (self.place, self.at);
        let read = on_core(self.engine, 0, async move |core: Core| {
            let branch = core.open_branch(place.0, place.1).await?;
            let mut reads = core.reads(COPIED_AT_ONCE as usize);
            for block in blocks.clone() {
                let key = PostgresKey::Block {
                    relation,
                    fork,
                    block,
                };
                reads.push(&branch, key.encode(), at);
            }
            let mut pages = Vec::with_capacity(blocks.len());
            for block in blocks {
                let answer = reads.next().await.expect("so many were asked for");
                let page = match &answer.result {
                    Ok(len) => answer[..*len].to_vec(),
                    Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                    Err(error) => return Err::<_, ReadError>(error.clone()),
                };
                pages.push((block, page));
            }
            Ok(pages)
        });
        Ok(read.await.ok_or(FollowError::Stopping)??)
    }
}
