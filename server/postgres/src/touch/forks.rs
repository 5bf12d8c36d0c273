//! Forks of relations: which there are and how long they are.
//!
//! Extension is not logged. A block at or behind the end of its fork makes the fork longer if the record makes the page
//! (by an image, or anew); the blocks between are zeros. Where the fork was longer before and was truncated, those
//! blocks have older versions: they are written as zeros, and only those.

use std::collections::{BTreeMap, HashMap};

use engine::types::Lsn;

use super::{Out, put, put_delta, remove};
use crate::key::{BlockTag, Fork, PostgresKey, Relation};
use crate::redo::{Delta, Implied};
use crate::value::{DatabaseBeginning, DatabaseDirectory, FormerBlocks, RelationSize};

/// A fork's length.
#[derive(Clone, Copy, Debug)]
pub(super) struct ForkSize {
    size: RelationSize,
    /// Blocks it had before it was truncated; 0 if it has that many again.
    former_blocks: u32,
}

/// Forks of all relations, and the directories they are in.
#[derive(Debug, Default)]
pub(super) struct Forks {
    sizes: HashMap<Relation, [Option<ForkSize>; 4]>,
    /// By database and tablespace, whether it is the database's own tablespace.
    directories: BTreeMap<(u32, u32), bool>,
    /// Forks whose length the record changed, and how many former blocks they had before.
    changed: Vec<(Relation, Fork, u32)>,
}

impl Forks {
    /// As stored.
    pub(super) fn load_size(&mut self, relation: Relation, fork: Fork, size: RelationSize) {
        let slot = self.slot(relation, fork);
        let former_blocks = slot.map_or(0, |known| known.former_blocks);
        *slot = Some(ForkSize {
            size,
            former_blocks,
        });
    }

    /// There is no such fork.
    pub(super) fn unload_size(&mut self, relation: Relation, fork: Fork) {
        if let Some(forks) = self.sizes.get_mut(&relation) {
            forks[usize::from(fork.number())] = None;
            if forks.iter().all(Option::is_none) {
                self.sizes.remove(&relation);
            }
        }
    }

    /// As stored; behind the fork's size.
    pub(super) fn load_former(&mut self, relation: Relation, fork: Fork, former: FormerBlocks) {
        if let Some(known) = self.slot(relation, fork) {
            known.former_blocks = former.blocks;
        }
    }

    /// As stored.
    pub(super) fn load_directory(&mut self, directory: (u32, u32), is_own: bool) {
        self.directories.insert(directory, is_own);
    }

    /// Blocks of a fork; `None` if there is no such fork.
    pub(super) fn blocks(&self, relation: Relation, fork: Fork) -> Option<u32> {
        let slot = self.sizes.get(&relation)?[usize::from(fork.number())];
        slot.map(|known| known.size.blocks)
    }

    /// Makes a fork of no blocks, unless it is there.
    pub(super) fn create(&mut self, relation: Relation, fork: Fork, end: Lsn, out: Out<'_>) {
        if self.blocks(relation, fork).is_some() {
            return;
        }
        self.see_directory(relation, end, out);
        let size = RelationSize {
            blocks: 0,
            generation: end,
        };
        *self.slot(relation, fork) = Some(ForkSize {
            size,
            former_blocks: 0,
        });
        self.changed.push((relation, fork, 0));
    }

    /// Stores the lengths that the record changed, each once.
    pub(super) fn put(&mut self, out: Out<'_>) {
        for at in 0..self.changed.len() {
            let (relation, fork, former_before) = self.changed[at];
            let is_again =
                |(other, of, _): &(Relation, Fork, u32)| (*other, *of) == (relation, fork);
            if self.changed[..at].iter().any(is_again) {
                continue;
            }
            let Some(known) = *self.slot(relation, fork) else {
                continue;
            };
            if known.former_blocks != former_before {
                put_former(relation, fork, known.former_blocks, out);
            }
            let key = PostgresKey::RelationSize { relation, fork };
            put(key, &known.size.encode(), out);
        }
        self.changed.clear();
    }

    /// Makes a fork so long that it has the block of `tag`. Blocks between that once were there are written as zeros,
    /// and this one too; but not those of which a version `comes` with the same record.
    pub(super) fn extend(
        &mut self,
        tag: BlockTag,
        end: Lsn,
        comes: impl Fn(BlockTag) -> bool,
        out: Out<'_>,
    ) {
        let BlockTag {
            relation,
            fork,
            block,
        } = tag;
        if self.blocks(relation, fork).is_none() {
            self.see_directory(relation, end, out);
        }
        let known = self.slot(relation, fork).get_or_insert(ForkSize {
            size: RelationSize {
                blocks: 0,
                generation: end,
            },
            former_blocks: 0,
        });
        let former_before = known.former_blocks;
        let blocks = block.saturating_add(1);
        for block in known.size.blocks..blocks.min(former_before) {
            let page = BlockTag {
                relation,
                fork,
                block,
            };
            if !comes(page) {
                put_delta(page.key(), Delta::Implied(Implied::Zero), out);
            }
        }
        known.size.blocks = known.size.blocks.max(blocks);
        if blocks >= former_before {
            known.former_blocks = 0;
        }
        self.changed.push((relation, fork, former_before));
    }

    /// Whether the page of `tag`, which is behind the end of its fork, once was there.
    pub(super) fn is_former(&self, tag: BlockTag) -> bool {
        let forks = self.sizes.get(&tag.relation);
        let slot = forks.and_then(|forks| forks[usize::from(tag.fork.number())]);
        slot.is_some_and(|known| tag.block < known.former_blocks)
    }

    /// Cuts a fork off, if it is longer.
    pub(super) fn truncate(&mut self, relation: Relation, fork: Fork, blocks: u32, end: Lsn) {
        let Some(known) = self.slot(relation, fork) else {
            return;
        };
        if known.size.blocks <= blocks {
            return;
        }
        let had_former = known.former_blocks;
        if blocks == 0 {
            known.size.generation = end;
            known.former_blocks = 0;
        } else {
            known.former_blocks = known.former_blocks.max(known.size.blocks);
        }
        known.size.blocks = blocks;
        self.changed.push((relation, fork, had_former));
    }

    /// Drops all forks of a relation.
    pub(super) fn drop_relation(&mut self, relation: Relation, out: Out<'_>) {
        let Some(forks) = self.sizes.remove(&relation) else {
            return;
        };
        for fork in Fork::ALL {
            let Some(known) = forks[usize::from(fork.number())] else {
                continue;
            };
            if known.former_blocks > 0 {
                put_former(relation, fork, 0, out);
            }
            remove(PostgresKey::RelationSize { relation, fork }, out);
        }
    }

    /// Makes the directory of a database in a tablespace, with a copy of another's files or without.
    pub(super) fn make_directory(
        &mut self,
        (database, tablespace): (u32, u32),
        copied_from: Option<(u32, u32)>,
        end: Lsn,
        out: Out<'_>,
    ) {
        let is_own = match copied_from {
            Some(source) => self.directories.get(&source).copied().unwrap_or(false),
            None => true,
        };
        self.forget_directory((database, tablespace));
        if let Some((source_database, source_tablespace)) = copied_from {
            let copies: Vec<_> = self
                .sizes
                .iter()
                .filter(|(relation, _)| {
                    relation.database == source_database && relation.tablespace == source_tablespace
                })
                .map(|(relation, forks)| {
                    let copy = Relation {
                        database,
                        tablespace,
                        number: relation.number,
                    };
                    (copy, *forks)
                })
                .collect();
            self.sizes.extend(copies);
        }
        self.put_directory((database, tablespace), is_own, copied_from, end, out);
    }

    /// Drops the directory of a database in a tablespace, with all that is in it. The keys of its relations stay:
    /// without the directory they name nothing, and a later one begins above them.
    pub(super) fn drop_directory(&mut self, directory: (u32, u32), out: Out<'_>) {
        self.forget_directory(directory);
        let (database, tablespace) = directory;
        remove(
            PostgresKey::DatabaseDirectory {
                database,
                tablespace,
            },
            out,
        );
    }

    /// Drops all directories of databases in a tablespace.
    pub(super) fn drop_directories_of(&mut self, tablespace: u32, out: Out<'_>) {
        let dropped: Vec<_> = self
            .directories
            .keys()
            .filter(|(_, of)| *of == tablespace)
            .copied()
            .collect();
        for directory in dropped {
            self.drop_directory(directory, out);
        }
    }

    fn forget_directory(&mut self, directory: (u32, u32)) {
        if self.directories.remove(&directory).is_some() {
            self.sizes
                .retain(|relation, _| (relation.database, relation.tablespace) != directory);
        }
    }

    /// A relation is made in a tablespace where its database has nothing yet: that makes its directory.
    fn see_directory(&mut self, relation: Relation, end: Lsn, out: Out<'_>) {
        let directory = (relation.database, relation.tablespace);
        if relation.database != 0 && !self.directories.contains_key(&directory) {
            self.put_directory(directory, false, None, end, out);
        }
    }

    fn put_directory(
        &mut self,
        (database, tablespace): (u32, u32),
        is_own_tablespace: bool,
        copied_from: Option<(u32, u32)>,
        end: Lsn,
        out: Out<'_>,
    ) {
        self.directories
            .insert((database, tablespace), is_own_tablespace);
        let directory = PostgresKey::DatabaseDirectory {
            database,
            tablespace,
        };
        put(
            directory,
            &DatabaseDirectory { is_own_tablespace }.encode(),
            out,
        );
        let beginning = DatabaseBeginning {
            generation: end,
            copied_from,
        };
        let key = PostgresKey::DatabaseBeginning {
            database,
            tablespace,
        };
        put(key, &beginning.encode(), out);
    }

    fn slot(&mut self, relation: Relation, fork: Fork) -> &mut Option<ForkSize> {
        &mut self.sizes.entry(relation).or_default()[usize::from(fork.number())]
    }
}

fn put_former(relation: Relation, fork: Fork, blocks: u32, out: Out<'_>) {
    let key = PostgresKey::FormerBlocks { relation, fork };
    put(key, &FormerBlocks { blocks }.encode(), out);
}
