//! The versions of Postgres whose WAL is read: one per major version, told by the magic number of each WAL page.
//! The one place that knows magics; what else differs between versions is said where it is decoded, by comparing
//! with these.

/// A version of the WAL's content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WalVersion {
    /// Postgres 15.
    V15,
    /// Postgres 16: relation locators in new records, snapshot conflict horizons for logical decoding.
    V16,
    /// Postgres 17: pruning, freezing and vacuuming of heap pages in one family of records.
    V17,
    /// Postgres 18: compressed in-place updates, wider multi-purpose flags.
    V18,
}

impl WalVersion {
    /// All versions, oldest first.
    pub const ALL: [WalVersion; 4] = [
        WalVersion::V15,
        WalVersion::V16,
        WalVersion::V17,
        WalVersion::V18,
    ];

    /// The version whose WAL pages begin with `magic`; `None` if it is unknown.
    pub fn from_magic(magic: u16) -> Option<WalVersion> {
        WalVersion::ALL
            .into_iter()
            .find(|version| version.magic() == magic)
    }

    /// What WAL pages of this version begin with.
    pub fn magic(self) -> u16 {
        match self {
            WalVersion::V15 => 0xD110,
            WalVersion::V16 => 0xD113,
            WalVersion::V17 => 0xD116,
            WalVersion::V18 => 0xD118,
        }
    }

    /// The major version of Postgres.
    pub fn postgres_major(self) -> u16 {
        match self {
            WalVersion::V15 => 15,
            WalVersion::V16 => 16,
            WalVersion::V17 => 17,
            WalVersion::V18 => 18,
        }
    }

    /// The version that a major version of Postgres writes; `None` if it is not supported.
    pub fn from_postgres_major(major: u16) -> Option<WalVersion> {
        WalVersion::ALL
            .into_iter()
            .find(|version| version.postgres_major() == major)
    }
}
