//! What a record makes, as versions of the engine: for a branch that follows a primary.
//!
//! [`touched`] says what a record does; here that becomes keys, LSNs and bytes. A reader of the branch needs to know no more
//! than the newest version of a key: a block that is cut off or dropped gets an empty value, and so does one that nobody
//! logged though its fork became longer. An empty value is zeros within the fork, also to a delta, and nothing elsewhere.
//!
//! Every record's versions are at its end, but for one: where a record changes a page that was behind the end of its fork,
//! without making it, zeros are put at the record's start, so that the change has something to change.
//!
//! Memory: [`ClusterState`], and the length of each fork and segment (about 100 bytes more each).

use std::collections::VecDeque;
use std::ops::Range;

use engine::layer::Value;
use engine::types::{Key, Lsn, PAGE_BYTES};

use crate::key::{Fork, PostgresKey, Relation, Slru};
use crate::lengths::{Changed, Lengths};
use crate::redo::{Delta, RedoFailure, redo};
use crate::touch::{ClusterState, StateError, TouchError, What, touched};
use crate::value::{RelationSize, SlruSegment, ValueError};
use crate::wal::Record;

/// Takes versions. Of those with one key and LSN the last counts.
pub trait VersionSink {
    /// A version of a key, at most 8,192 bytes.
    fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>);
}

/// Why a branch can't follow its primary any further. Everything before the record is readable.
#[derive(Debug, thiserror::Error)]
pub enum RecordVersionsError {
    /// A record that is cut short or of an unknown kind.
    #[error(transparent)]
    Touch(#[from] TouchError),
    /// A change that fits no stored version.
    #[error(
        "a change of {key:?} that ends at {end} has {bytes} bytes, more than a version may have"
    )]
    LongChange {
        /// Which page.
        key: PostgresKey,
        /// End of the record.
        end: Lsn,
        /// Bytes of the stored change.
        bytes: usize,
    },
    /// A page that a record makes can't be made.
    #[error("{key:?} can't be made at {end}: {source}")]
    Redo {
        /// Which page.
        key: PostgresKey,
        /// End of the record.
        end: Lsn,
        /// Why.
        source: RedoFailure,
    },
}

/// Databases (each with its tablespace) of which one began as a copy of the other's files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopiedDirectory {
    /// The copy.
    pub copy: (u32, u32),
    /// What was copied, as of the record's end.
    pub original: (u32, u32),
}

/// State of a cluster as of a position in its WAL, and what the next record makes of it.
#[derive(Debug)]
pub struct RecordVersions {
    state: ClusterState,
    lengths: Lengths,
    changed: Changed,
    stored: Vec<u8>,
    /// Blocks that went with the last record, and whose empty values are not put yet.
    emptied: VecDeque<Emptied>,
}

/// Blocks of a fork that went.
#[derive(Debug)]
struct Emptied {
    relation: Relation,
    fork: Fork,
    blocks: Range<u32>,
    /// End of the record.
    end: Lsn,
}

impl RecordVersions {
    /// An empty one, to be filled by [`load`](Self::load).
    pub fn new() -> RecordVersions {
        RecordVersions {
            state: ClusterState::new(XID_STEP),
            lengths: Lengths::default(),
            changed: Changed::default(),
            stored: Vec::with_capacity(PAGE_BYTES),
            emptied: VecDeque::new(),
        }
    }

    /// Takes over a stored value: all of [`PostgresKey::cluster_state_ranges`], and the sizes and former blocks of every
    /// database, at one LSN.
    /// # Errors
    /// A value that does not decode.
    pub fn load(&mut self, key: PostgresKey, value: &[u8]) -> Result<(), StateError> {
        let known = |error: ValueError| StateError::Value(error);
        match key {
            PostgresKey::RelationSize { relation, fork } if !value.is_empty() => {
                let blocks = RelationSize::decode(value).map_err(known)?.blocks;
                self.lengths.forks.insert((relation, fork), blocks);
            }
            PostgresKey::SlruSegment { slru, segment } if !value.is_empty() => {
                let pages = SlruSegment::decode(value).map_err(known)?.pages;
                self.lengths.segments.insert((slru, segment), pages);
            }
            // What is copied was put as versions of the copy's own.
            PostgresKey::DatabaseBeginning { .. } => return Ok(()),
            _ => {}
        }
        self.state.load(key, value)
    }

    /// What is known of the cluster as of the last record.
    pub fn state(&self) -> &ClusterState {
        &self.state
    }

    /// The forks in the directory of a database, with their blocks.
    pub fn forks_in(&self, directory: (u32, u32)) -> Vec<((Relation, Fork), u32)> {
        let forks = self.lengths.forks_in(directory).into_iter();
        forks
            .map(|of| (of, self.lengths.forks.get(&of).copied().unwrap_or(0)))
            .collect()
    }

    /// Notes a fork of a copied directory, which begins with so many blocks at `end`: key and value of its size, to be put.
    pub fn begin_copied(
        &mut self,
        relation: Relation,
        fork: Fork,
        blocks: u32,
        end: Lsn,
    ) -> (Key, Vec<u8>) {
        self.lengths.set_fork((relation, fork), Some(blocks));
        let size = RelationSize {
            blocks,
            generation: end,
        };
        let key = PostgresKey::RelationSize { relation, fork };
        (key.encode(), size.encode())
    }

    /// Puts empty values of blocks that went with the last record, at most `values_max` of them; whether some are left. One
    /// record may drop a whole database: its caller puts them bit by bit, and all of them before it takes the next record.
    pub fn put_emptied(&mut self, values_max: u32, sink: &mut dyn VersionSink) -> bool {
        let mut left = values_max;
        while let Some(emptied) = self.emptied.front_mut() {
            let now = emptied.blocks.len().min(left as usize);
            let until = emptied.blocks.start + u32::try_from(now).expect("at most what is left");
            for block in emptied.blocks.start..until {
                let key = PostgresKey::Block {
                    relation: emptied.relation,
                    fork: emptied.fork,
                    block,
                };
                sink.put(key.encode(), emptied.end, Value::Image(&[]));
            }
            left -= until - emptied.blocks.start;
            emptied.blocks.start = until;
            if !emptied.blocks.is_empty() {
                return true;
            }
            self.emptied.pop_front();
        }
        false
    }

    /// Puts the versions that the next record makes, but for what [`put_emptied`](Self::put_emptied) puts. Records come in order,
    /// none left out. Answers a directory whose files
    /// the record copies: the caller puts versions of all that is in it, at the record's end.
    /// # Errors
    /// See [`RecordVersionsError`]; nothing behind the record can be taken in then.
    pub fn record(
        &mut self,
        record: &Record<'_>,
        sink: &mut dyn VersionSink,
    ) -> Result<Option<CopiedDirectory>, RecordVersionsError> {
        let end = record.end;
        let RecordVersions {
            state,
            lengths,
            changed,
            stored,
            ..
        } = self;
        let mut failed = None;
        touched(record, state, &mut |version| {
            let key = version.key;
            changed.see(key, &version.what);
            match version.what {
                What::Delta(delta) => {
                    if lengths.is_behind(key) && !delta.begins_page() {
                        sink.put(key.encode(), record.start, Value::Image(&[]));
                    }
                    if let Err(error) = put_delta(key, end, &delta, stored, sink) {
                        failed = Some(error);
                    }
                }
                What::Value(value) => sink.put(key.encode(), end, Value::Image(value)),
                What::Removed => sink.put(key.encode(), end, Value::Image(&[])),
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.settle(end, sink);
        let copied = self.changed.copied.take();
        self.changed.pages.clear();
        self.changed.removed.clear();
        Ok(copied.map(|(copy, original)| CopiedDirectory { copy, original }))
    }

    /// Puts what follows of lengths that changed.
    fn settle(&mut self, end: Lsn, sink: &mut dyn VersionSink) {
        for (database, tablespace) in std::mem::take(&mut self.changed.directories) {
            for (relation, fork) in self.lengths.forks_in((database, tablespace)) {
                self.changed.forks.push(((relation, fork), None));
                let size = PostgresKey::RelationSize { relation, fork };
                sink.put(size.encode(), end, Value::Image(&[]));
            }
            let map = PostgresKey::RelationMap {
                database,
                tablespace,
            };
            sink.put(map.encode(), end, Value::Image(&[]));
        }
        for (of, blocks) in std::mem::take(&mut self.changed.forks) {
            self.set_fork(of, blocks, end, sink);
        }
        for (of, pages) in std::mem::take(&mut self.changed.segments) {
            self.set_segment(of, pages, end, sink);
        }
    }

    fn set_fork(
        &mut self,
        (relation, fork): (Relation, Fork),
        blocks: Option<u32>,
        end: Lsn,
        sink: &mut dyn VersionSink,
    ) {
        let before = self.lengths.set_fork((relation, fork), blocks);
        let after = blocks.unwrap_or(0);
        if after < before {
            self.emptied.push_back(Emptied {
                relation,
                fork,
                blocks: after..before,
                end,
            });
        }
        for block in before..after {
            let key = PostgresKey::Block {
                relation,
                fork,
                block,
            };
            if !self.changed.pages.contains(&key) {
                sink.put(key.encode(), end, Value::Image(&[]));
            }
        }
    }

    fn set_segment(
        &mut self,
        (slru, segment): (Slru, u64),
        pages: Option<u32>,
        end: Lsn,
        sink: &mut dyn VersionSink,
    ) {
        let before = self.lengths.set_segment((slru, segment), pages);
        let (first, after) = match pages {
            Some(pages) => (before, pages),
            None => (0, before),
        };
        for block in first..after {
            let key = PostgresKey::SlruPage {
                slru,
                segment,
                block,
            };
            if pages.is_none() || !self.changed.pages.contains(&key) {
                sink.put(key.encode(), end, Value::Image(&[]));
            }
        }
    }
}

impl Default for RecordVersions {
    fn default() -> RecordVersions {
        RecordVersions::new()
    }
}

/// Puts a change; one that makes its page, and is too long for a version, as the page it makes.
fn put_delta(
    key: PostgresKey,
    end: Lsn,
    delta: &Delta<'_>,
    stored: &mut Vec<u8>,
    sink: &mut dyn VersionSink,
) -> Result<(), RecordVersionsError> {
    stored.clear();
    delta.encode(stored);
    if stored.len() <= PAGE_BYTES {
        sink.put(key.encode(), end, Value::Delta(stored));
        return Ok(());
    }
    if !delta.begins_page() {
        let bytes = stored.len();
        return Err(RecordVersionsError::LongChange { key, end, bytes });
    }
    let mut page = [0; PAGE_BYTES];
    redo(delta, &mut page).map_err(|source| RecordVersionsError::Redo { key, end, source })?;
    sink.put(key.encode(), end, Value::Image(&page));
    Ok(())
}

/// How far apart the stored next transaction ids are.
const XID_STEP: u32 = 1024;
