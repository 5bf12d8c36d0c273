//! Identities and positions, as newtypes without policy.

mod ids;
mod key;
mod lsn;

pub(crate) use ids::NameHash;
pub use ids::{BranchId, Id, IdParseError, ObjectId, TenantId};
pub use key::{KEY_BYTES, Key, KeySpace, PARTITIONS, Partition};
pub use lsn::{Lsn, LsnParseError};

/// Bytes of one page: the largest value a key may have, and Postgres's default block size.
pub const PAGE_BYTES: usize = 8192;
