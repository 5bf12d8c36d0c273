//! Lengths of forks and SLRU segments as records change them, and what a record did that others have to be told of: which
//! blocks are cut off or come into being without a version, what is removed.

use std::collections::BTreeMap;

use crate::key::{Fork, PostgresKey, Relation, Slru};
use crate::touch::What;
use crate::value::{DatabaseBeginning, RelationSize, SlruSegment};

/// Blocks of each fork.
pub(crate) type ForkLengths = BTreeMap<(Relation, Fork), u32>;

/// Blocks of all forks and segments, as of the last record.
#[derive(Debug, Default)]
pub(crate) struct Lengths {
    pub(crate) forks: ForkLengths,
    pub(crate) segments: BTreeMap<(Slru, u64), u32>,
}

/// What one record did, besides to pages that were there.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// Pages that it has versions of.
    pub(crate) pages: Vec<PostgresKey>,
    /// Forks and their new lengths; none for those that are gone.
    pub(crate) forks: Vec<((Relation, Fork), Option<u32>)>,
    /// The same for segments.
    pub(crate) segments: Vec<((Slru, u64), Option<u32>)>,
    /// Small values that it removes.
    pub(crate) removed: Vec<PostgresKey>,
    /// Directories that it removes, of a database in a tablespace.
    pub(crate) directories: Vec<(u32, u32)>,
    /// A directory that it makes by copying the files of another one: the copy, the original.
    pub(crate) copied: Option<((u32, u32), (u32, u32))>,
}

impl Lengths {
    /// Whether a page is behind the end of its fork or segment.
    pub(crate) fn is_behind(&self, key: PostgresKey) -> bool {
        match key {
            PostgresKey::Block {
                relation,
                fork,
                block,
            } => self
                .forks
                .get(&(relation, fork))
                .is_none_or(|n| block >= *n),
            PostgresKey::SlruPage {
                slru,
                segment,
                block,
            } => self
                .segments
                .get(&(slru, segment))
                .is_none_or(|n| block >= *n),
            _ => false,
        }
    }
}

impl Lengths {
    /// The forks in a directory of a database.
    pub(crate) fn forks_in(&self, (database, tablespace): (u32, u32)) -> Vec<(Relation, Fork)> {
        let forks = self.forks.keys().filter(|(relation, _)| {
            (relation.database, relation.tablespace) == (database, tablespace)
        });
        forks.copied().collect()
    }

    /// Sets the length of a fork, or that it is gone; what it was before.
    pub(crate) fn set_fork(&mut self, of: (Relation, Fork), blocks: Option<u32>) -> u32 {
        let before = match blocks {
            Some(blocks) => self.forks.insert(of, blocks),
            None => self.forks.remove(&of),
        };
        before.unwrap_or(0)
    }

    /// Sets the length of a segment, or that it is gone; what it was before.
    pub(crate) fn set_segment(&mut self, of: (Slru, u64), pages: Option<u32>) -> u32 {
        let before = match pages {
            Some(pages) => self.segments.insert(of, pages),
            None => self.segments.remove(&of),
        };
        before.unwrap_or(0)
    }
}

impl Changed {
    /// Takes a version that the record makes.
    pub(crate) fn see(&mut self, key: PostgresKey, what: &What<'_>) {
        let value = match what {
            What::Delta(_) => return self.pages.push(key),
            What::Value(value) => Some(*value),
            What::Removed => {
                self.removed.push(key);
                None
            }
        };
        match key {
            PostgresKey::RelationSize { relation, fork } => {
                let size = value.map(|value| RelationSize::decode(value).expect("just encoded"));
                let blocks = size.map(|size| size.blocks);
                self.forks.push(((relation, fork), blocks));
            }
            PostgresKey::SlruSegment { slru, segment } => {
                let length = value.map(|value| SlruSegment::decode(value).expect("just encoded"));
                let pages = length.map(|length| length.pages);
                self.segments.push(((slru, segment), pages));
            }
            PostgresKey::DatabaseDirectory {
                database,
                tablespace,
            } if value.is_none() => self.directories.push((database, tablespace)),
            PostgresKey::DatabaseBeginning {
                database,
                tablespace,
            } => {
                let beginning = value.map(DatabaseBeginning::decode);
                let beginning = beginning.and_then(Result::ok);
                let from = beginning.and_then(|beginning| beginning.copied_from);
                let copy = from.map(|from| ((database, tablespace), from));
                self.copied = self.copied.or(copy);
            }
            _ => {}
        }
    }
}
