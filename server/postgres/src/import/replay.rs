//! The WAL of a backup, from its start to its stop, onto what the backup's files gave.
//!
//! What a record makes ([`touched`]) is kept in memory as far as possible and written once, at the end or when memory is used
//! up: pages by [`PageTable`], small values as they are last. The branch that comes of it holds nothing of former lives
//! of a fork: a block that is cut off or dropped gets an empty value, and so does a block that nobody logged though its fork
//! became longer than it. So a reader finds the newest version of a key and needs to know no more.
//!
//! A database made by copying files (strategy `file_copy`, or moved to another tablespace) is refused: its pages would be
//! another's as of a moment within the backup, and nothing in memory has those.

use std::collections::{BTreeMap, HashMap};

use engine::types::Lsn;

use super::cluster_files::{Behind, put};
use super::page_table::PageTable;
use super::{ImportError, ImportSink};
use crate::key::{Fork, PostgresKey, Relation, Slru};
use crate::lengths::{Changed, Lengths};
use crate::touch::{ClusterState, What, touched};
use crate::wal::Record;

/// Takes the records of the WAL, in order.
pub(super) struct Replay {
    state: ClusterState,
    pages: PageTable,
    /// Torn pages of the backup, until an image restores them.
    suspects: HashMap<PostgresKey, ImportError>,
    lengths: Lengths,
    /// Blocks of the files that are behind the end of their fork; those that are at the stop are put out of sight.
    behind: Vec<Behind>,
    /// Small values that are not written yet; what is removed is written at once, so that they do not grow with the WAL.
    values: BTreeMap<PostgresKey, (Lsn, Vec<u8>)>,
    changed: Changed,
    records: u64,
}

impl Replay {
    /// On what the files gave: their sizes and counters, pages kept of them, and those that may be torn.
    pub(super) fn new(
        state: ClusterState,
        lengths: Lengths,
        pages: PageTable,
        suspects: HashMap<PostgresKey, ImportError>,
        behind: Vec<Behind>,
    ) -> Replay {
        Replay {
            state,
            pages,
            suspects,
            behind,
            lengths,
            values: BTreeMap::new(),
            changed: Changed::default(),
            records: 0,
        }
    }

    /// Takes the next record.
    pub(super) fn record(
        &mut self,
        record: &Record<'_>,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        self.records += 1;
        let end = record.end;
        let Replay {
            state,
            pages,
            suspects,
            lengths,
            values,
            changed,
            ..
        } = self;
        touched(record, state, &mut |version| {
            let key = version.key;
            changed.see(key, &version.what);
            match version.what {
                What::Delta(delta) => {
                    if delta.begins_page() {
                        suspects.remove(&key);
                    }
                    pages.apply(key, end, &delta, lengths.is_behind(key));
                }
                What::Value(value) => {
                    values.insert(key, (end, value.to_vec()));
                }
                What::Removed => {}
            }
        })?;
        if let Some((copy, from)) = self.changed.copied.take() {
            return Err(ImportError::CopiedDatabase {
                database: copy.0,
                from: from.0,
                tablespace: from.1,
                at: record.start,
            });
        }
        for key in std::mem::take(&mut self.changed.removed) {
            self.remove(key, end, sink)?;
        }
        for directory in std::mem::take(&mut self.changed.directories) {
            self.drop_directory(directory, end, sink)?;
        }
        for (of, blocks) in std::mem::take(&mut self.changed.forks) {
            self.set_fork(of, blocks, end, sink)?;
        }
        for (of, pages) in std::mem::take(&mut self.changed.segments) {
            self.set_segment(of, pages, end, sink)?;
        }
        self.changed.pages.clear();
        self.pages.settle(sink)
    }

    /// Writes what is left; how many records there were.
    pub(super) fn finish(
        mut self,
        stop: Lsn,
        sink: &mut dyn ImportSink,
    ) -> Result<u64, ImportError> {
        if let Some((_, damaged)) = self.suspects.drain().next() {
            return Err(damaged);
        }
        if self.pages.failures() > 0 {
            tracing::warn!(
                changes = self.pages.failures(),
                "the backup's WAL has changes that can't be replayed: their pages can't be read"
            );
        }
        self.pages.finish(sink)?;
        for Behind {
            relation,
            fork,
            blocks,
        } in &self.behind
        {
            let length = self.lengths.forks.get(&(*relation, *fork));
            for block in blocks.start.max(length.copied().unwrap_or(0))..blocks.end {
                let key = PostgresKey::Block {
                    relation: *relation,
                    fork: *fork,
                    block,
                };
                put(sink, key, stop, &[])?;
            }
        }
        let counters = self.state.checkpoint().encode();
        self.values
            .insert(PostgresKey::CheckpointState, (stop, counters));
        for (key, (lsn, value)) in &self.values {
            put(sink, *key, *lsn, value)?;
        }
        Ok(self.records)
    }

    /// A small value is gone; of a prepared transaction's file, all parts.
    fn remove(
        &mut self,
        key: PostgresKey,
        end: Lsn,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        self.values.remove(&key);
        if let PostgresKey::TwoPhase { xid, .. } = key {
            let part = |chunk| PostgresKey::TwoPhase { xid, chunk };
            let parts = self.values.range(part(0)..=part(u32::MAX));
            let parts: Vec<_> = parts.map(|(key, _)| *key).collect();
            for part in parts {
                self.values.remove(&part);
            }
        }
        put(sink, key, end, &[])
    }

    /// A directory of a database goes, and all that is in it.
    fn drop_directory(
        &mut self,
        (database, tablespace): (u32, u32),
        end: Lsn,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        for (relation, fork) in self.lengths.forks_in((database, tablespace)) {
            self.changed.forks.push(((relation, fork), None));
            let key = PostgresKey::RelationSize { relation, fork };
            self.remove(key, end, sink)?;
        }
        let map = PostgresKey::RelationMap {
            database,
            tablespace,
        };
        self.remove(map, end, sink)
    }

    /// A fork has another length, or is gone.
    fn set_fork(
        &mut self,
        (relation, fork): (Relation, Fork),
        blocks: Option<u32>,
        end: Lsn,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        let page = |block| PostgresKey::Block {
            relation,
            fork,
            block,
        };
        let before = self.lengths.set_fork((relation, fork), blocks);
        let after = blocks.unwrap_or(0);
        if after < before {
            self.pages.remove(page(after), page(u32::MAX));
            self.suspects.retain(
                |key, _| !matches!(*key, PostgresKey::Block { block, .. } if *key == page(block) && block >= after),
            );
            for block in after..before {
                put(sink, page(block), end, &[])?;
            }
        }
        for block in before..after {
            let key = page(block);
            if self.changed.pages.contains(&key) {
                continue;
            }
            // Changes of maps are logged without what they change.
            if matches!(fork, Fork::VisibilityMap | Fork::FreeSpaceMap) {
                self.pages.begin(key, end);
            } else {
                put(sink, key, end, &[])?;
            }
        }
        Ok(())
    }

    /// A segment of an SLRU has another length, or is gone.
    fn set_segment(
        &mut self,
        (slru, segment): (Slru, u64),
        pages: Option<u32>,
        end: Lsn,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        let page = |block| PostgresKey::SlruPage {
            slru,
            segment,
            block,
        };
        let before = self.lengths.set_segment((slru, segment), pages);
        let Some(after) = pages else {
            self.pages.remove(page(0), page(u32::MAX));
            for block in 0..before {
                put(sink, page(block), end, &[])?;
            }
            return Ok(());
        };
        for block in before..after {
            if !self.changed.pages.contains(&page(block)) {
                self.pages.begin(page(block), end);
            }
        }
        Ok(())
    }
}
