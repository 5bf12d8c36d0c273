//! Extents on the local disk, as the store has them: ciphertext. It does not know keys, the store, or branches; what it
//! needs of them the shard passes in.
//!
//! - [`CacheLayout`]: the files, made once per start, and [`Loader`], which deals what earlier runs left;
//! - [`ShardCache`]: one core's slots: lookup, pins, reservations, eviction, its part of the index;
//! - [`RamTier`]: opened pages in memory, optional;
//! - [`DirectoryCache`]: what is inside the extents, decoded, under a budget.
//!
//! A wrong page can't come out of here: whatever stands in a slot must open under the identity that the reader expects. What
//! does not is dropped (`drop_doubtful`) and counts as a miss.
//!
//! Memory of the cache, in bytes, all cores together:
//!
//! ```text
//! slots * SLOT_MEMORY_BYTES            slots = cache_bytes / 256 KiB; 150 each, 0.06 % of cache_bytes
//! + slots / 8 + 256 KiB                while the index is loaded
//! + cores * 4 KiB                      one index block on its way
//! + cores * ram_bytes                  what `RamTier` was given
//! + cores * directory_bytes            what `DirectoryCache` was given
//! ```
//!
//! The index on disk takes 65 bytes per slot and is part of `cache_bytes`.

mod config;
mod directory_cache;
mod eviction;
mod extent_id;
mod ghost;
mod index_format;
mod layout;
mod loader;
mod ram_tier;
mod shard_cache;
mod slot_files;
mod slot_ref;
mod slot_table;

pub use config::{CacheConfig, SLOT_BYTES};
pub use directory_cache::DirectoryCache;
pub use extent_id::ExtentId;
#[doc(hidden)]
pub use index_format::fuzz_index;
pub use layout::{CacheError, CacheLayout};
pub use loader::{Deal, Loader};
pub use ram_tier::{PageVersion, RamTier};
pub use shard_cache::{CacheStats, ShardCache};
pub use slot_ref::{FillTicket, SlotRead, SlotRef};

#[cfg(test)]
mod tests;
