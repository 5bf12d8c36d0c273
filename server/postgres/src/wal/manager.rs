//! Resource managers: whose record it is. The same numbers from 15 to 18.

use std::fmt;

/// The number of a resource manager.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ResourceManager(pub u8);

impl ResourceManager {
    /// Checkpoints, images, switches.
    pub const XLOG: ResourceManager = ResourceManager(0);
    /// Commits and aborts, prepared ones too.
    pub const TRANSACTION: ResourceManager = ResourceManager(1);
    /// Relation files made and truncated.
    pub const STORAGE: ResourceManager = ResourceManager(2);
    /// Pages of commit status.
    pub const CLOG: ResourceManager = ResourceManager(3);
    /// Databases made and dropped.
    pub const DATABASE: ResourceManager = ResourceManager(4);
    /// Tablespaces made and dropped.
    pub const TABLESPACE: ResourceManager = ResourceManager(5);
    /// Sets of transactions that lock a row together.
    pub const MULTIXACT: ResourceManager = ResourceManager(6);
    /// Which files the mapped catalogs are in.
    pub const RELATION_MAP: ResourceManager = ResourceManager(7);
    /// Snapshots and locks for standbys.
    pub const STANDBY: ResourceManager = ResourceManager(8);
    /// Heap: pruning, freezing, visibility, many rows at once.
    pub const HEAP2: ResourceManager = ResourceManager(9);
    /// Heap: single rows.
    pub const HEAP: ResourceManager = ResourceManager(10);
    /// B-tree indexes.
    pub const BTREE: ResourceManager = ResourceManager(11);
    /// Hash indexes.
    pub const HASH: ResourceManager = ResourceManager(12);
    /// Inverted indexes.
    pub const GIN: ResourceManager = ResourceManager(13);
    /// Generalised search trees.
    pub const GIST: ResourceManager = ResourceManager(14);
    /// Sequences.
    pub const SEQUENCE: ResourceManager = ResourceManager(15);
    /// Space-partitioned search trees.
    pub const SPGIST: ResourceManager = ResourceManager(16);
    /// Block range indexes.
    pub const BRIN: ResourceManager = ResourceManager(17);
    /// Times of commits.
    pub const COMMIT_TIMESTAMP: ResourceManager = ResourceManager(18);
    /// How far a subscription has come.
    pub const REPLICATION_ORIGIN: ResourceManager = ResourceManager(19);
    /// Pages of extensions, byte by byte.
    pub const GENERIC: ResourceManager = ResourceManager(20);
    /// Messages for logical decoding; no state.
    pub const LOGICAL_MESSAGE: ResourceManager = ResourceManager(21);

    /// Whether it is a built-in one, or one an extension may have.
    pub fn is_valid(self) -> bool {
        self <= ResourceManager::LOGICAL_MESSAGE || self.0 >= CUSTOM_LEAST
    }

    /// The built-in ones, in the order of their numbers.
    pub fn built_in() -> impl Iterator<Item = ResourceManager> {
        (0..=ResourceManager::LOGICAL_MESSAGE.0).map(ResourceManager)
    }
}

impl fmt::Display for ResourceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "custom resource manager {}", self.0),
        }
    }
}

/// Extensions register numbers from here on.
const CUSTOM_LEAST: u8 = 128;

const NAMES: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];
