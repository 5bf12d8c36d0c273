//! A branch that is written while it is read: versions come in by LSN, are readable at once, and become layers later.
//!
//! ```text
//!  VersionWriter ── batches ──► memory layers of the cores ── freeze ──► Flusher: one layer, manifest edit, exchange
//!  WalStore      ── pieces of WAL ──► object store                        (durable up to the frozen LSN)
//!  Compactor     ── layers merged ──► Flusher: manifest edit, exchange ── former layers ──► Garbage, and old WAL
//! ```
//!
//! [`open`] claims the branch's next epoch: from then on any other writer fails its next put. The WAL is the log: what is
//! above the manifest's last LSN is in no layer, and comes back by decoding the stored WAL again, which
//! [`WalReplay`] gives back piece by piece; whoever opens the engine decodes it.
//!
//! The parts run side by side on one thread off the cores, so that versions come in while a flush is at work. Bounds:
//! the caller freezes when the active memory layers are as large as it allows, and waits for the flush before it freezes
//! again; so memory is at most twice that, and whoever delivers WAL waits.

mod compaction;
mod error;
mod flusher;
mod made_layers;
mod old_wal;
mod on_cores;
mod open;
mod retention;
mod version_writer;
mod wal_replay;
mod wal_store;

pub use compaction::{Compacted, Compaction, CompactionConfig, Compactor, Deleted, Garbage};
pub use error::IngestError;
pub use flusher::{Flushed, Flusher};
pub use on_cores::{LocalCores, OnCores};
pub use open::{Ingest, IngestConfig, IngestKeys, open};
pub use retention::{Due, Retention};
pub use version_writer::{Frozen, VersionWriter};
pub use wal_replay::WalReplay;
pub(crate) use wal_replay::read_piece;
pub use wal_store::WalStore;
