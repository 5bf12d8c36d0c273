//! The storage engine of pageserver: versioned pages in object storage, cached on the local disk as sealed
//! extents, read by one pinned executor per core. It knows no Postgres and no sockets.
//!
//! The modules, in the order in which a read passes them:
//!
//! - [`types`]: LSNs, keys, ids;
//! - `shard`: one core's share: the read path, and what runs behind it;
//! - [`memory`]: versions that are in no layer yet;
//! - `layer`, `manifest`: the two object formats;
//! - `cache`: extents on the local disk;
//! - `io`: the ring, aligned buffers, clocks: the only place with `unsafe` and with the name of a runtime;
//! - `store`: object storage: streaming misses, uploads, hedges;
//! - `crypto`: seals, keys and who provides them;
//!
//! and beside the path of a read:
//!
//! - [`wal`]: what was received and is not yet in a layer, on the local disk;
//! - [`redo`]: how deltas are applied, which whoever opens the engine says;
//! - [`catalog`]: tenants, branches, their names, and the writer that fills a new branch;
//! - [`ingest`]: the writer of a branch that is read meanwhile;
//! - [`check`]: opens all of a branch, and replays every version;
//! - [`scrub`]: finds damage in stored objects, without a key.
#![deny(unsafe_code)]

pub mod cache;
pub mod catalog;
pub mod check;
pub mod crypto;
mod engine;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod ingest;
pub mod io;
pub mod layer;
pub mod manifest;
pub mod memory;
mod merge;
pub mod planted;
pub mod redo;
pub mod scrub;
pub mod shard;
pub mod store;
pub mod types;
pub mod wal;

pub use crate::engine::{
    Core, Cores, Engine, EngineConfig, EngineParts, EngineStats, Reads, StartError,
};
pub use crate::error::{ErrorKind, ReadError};
pub use crate::shard::{Answer, BranchHandle, Order, SharedBranches};
