//! The name of an extent.

use std::hash::Hash;

use crate::types::{ObjectId, TenantId};

/// One extent of one object of one tenant. Objects are immutable and their names never come back, so an extent's bytes
/// never change either.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExtentId {
    /// Whose it is.
    pub tenant: TenantId,
    /// The object it is a part of.
    pub object: ObjectId,
    /// Which extent of the object, from 0.
    pub extent_no: u32,
}

/// Hashes `value` the same way in every process: caches decide alike in a simulation and in its repetition.
/// Names of objects are made by us, so nobody can aim at a bucket.
pub(super) fn stable_hash(value: &impl Hash) -> u64 {
    ahash::RandomState::with_seeds(
        0x5265_6164_206f_6e65,
        0x7061_6765_2061_7420,
        0x7468_6520_7269_6768,
        0x7420_4c53_4e2e_2e2e,
    )
    .hash_one(value)
}
