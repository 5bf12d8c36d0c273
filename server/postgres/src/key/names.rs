//! What Postgres names its pages by: relations, their forks and blocks, SLRUs.

use std::fmt;

use super::PostgresKey;

/// A relation, named as its files are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Relation {
    /// Tablespace oid.
    pub tablespace: u32,
    /// Database oid; 0 for shared relations.
    pub database: u32,
    /// File number (relfilenode); never 0.
    pub number: u32,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.number)
    }
}

/// A block of a fork of a relation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockTag {
    /// The relation.
    pub relation: Relation,
    /// Its fork.
    pub fork: Fork,
    /// Number of the block in the fork, across segment files.
    pub block: u32,
}

impl BlockTag {
    /// Its key.
    pub fn key(self) -> PostgresKey {
        PostgresKey::Block {
            relation: self.relation,
            fork: self.fork,
            block: self.block,
        }
    }
}

impl fmt::Display for BlockTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = self.fork.suffix();
        write!(f, "block {} of {}{suffix}", self.block, self.relation)
    }
}

/// A fork of a relation, numbered as Postgres does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fork {
    /// The rows, or the index.
    Main,
    /// Free space map.
    FreeSpaceMap,
    /// Visibility map.
    VisibilityMap,
    /// What an unlogged relation is reset to.
    Init,
}

impl Fork {
    /// All forks, in the order of their numbers.
    pub const ALL: [Fork; 4] = [
        Fork::Main,
        Fork::FreeSpaceMap,
        Fork::VisibilityMap,
        Fork::Init,
    ];

    /// The fork's number in keys, WAL and protocols.
    pub fn number(self) -> u8 {
        match self {
            Fork::Main => 0,
            Fork::FreeSpaceMap => 1,
            Fork::VisibilityMap => 2,
            Fork::Init => 3,
        }
    }

    /// The fork with this number.
    pub fn from_number(number: u8) -> Option<Fork> {
        Fork::ALL.get(usize::from(number)).copied()
    }

    /// What file names carry behind the relation's number.
    pub fn suffix(self) -> &'static str {
        match self {
            Fork::Main => "",
            Fork::FreeSpaceMap => "_fsm",
            Fork::VisibilityMap => "_vm",
            Fork::Init => "_init",
        }
    }
}

/// A family of SLRU files that is state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Slru {
    /// `pg_xact`: commit status of transactions.
    Clog,
    /// `pg_multixact/members`.
    MultixactMembers,
    /// `pg_multixact/offsets`.
    MultixactOffsets,
    /// `pg_commit_ts`.
    CommitTimestamps,
}

impl Slru {
    /// All SLRUs, in the order of their numbers.
    pub const ALL: [Slru; 4] = [
        Slru::Clog,
        Slru::MultixactMembers,
        Slru::MultixactOffsets,
        Slru::CommitTimestamps,
    ];

    /// The number in keys; the first three are also the pagestream protocol's.
    pub fn number(self) -> u8 {
        match self {
            Slru::Clog => 0,
            Slru::MultixactMembers => 1,
            Slru::MultixactOffsets => 2,
            Slru::CommitTimestamps => 3,
        }
    }

    /// The SLRU with this number.
    pub fn from_number(number: u8) -> Option<Slru> {
        Slru::ALL.get(usize::from(number)).copied()
    }

    /// Its folder in a data directory.
    pub fn directory(self) -> &'static str {
        match self {
            Slru::Clog => "pg_xact",
            Slru::MultixactMembers => "pg_multixact/members",
            Slru::MultixactOffsets => "pg_multixact/offsets",
            Slru::CommitTimestamps => "pg_commit_ts",
        }
    }
}
