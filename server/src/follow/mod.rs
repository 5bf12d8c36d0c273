//! Branches that follow a running Postgres: `attach` writes down which, a thread per branch does it.
//!
//! ```text
//! primary ── stream ──► session ──► local WAL (durable) ──► acknowledged
//!                          │  └──► decoded: versions to the cores, readable
//!                          ├─► pieces of WAL to the object store
//!                          └─► flushes: memory layers become layers
//! ```
//!
//! - [`attachment`]: what is written down of a branch that follows, in the data directory;
//! - `intake`: WAL decoded into versions;
//! - `copied_database`: what a record copies without saying what it is;
//! - `log`: WAL made durable, here and in the object store, and found again;
//! - [`followers`]: all of a server;
//! - `session`: one connection, from its beginning to its end;
//! - [`follower`]: the thread: opens the branch, runs sessions, waits, tries again;
//! - `writer_side`: the writer of layers and manifest, a task of its own;
//! - `upkeep`: compaction, retention, deletion; `history_window`: how much history stays;
//! - `slot_keeper`: moves the primary's slot to what is durable in the object store;
//! - [`status`]: how it goes, for people and metrics.
//!
//! What is acknowledged is durable: on the local disk, or in the object store, as the attachment says. What is readable is
//! durable too. Everything that waits is bounded: where the store or the disk can't take more, the stream is not read, and
//! when that lasts the connection is closed, so that the primary can do without us.

pub mod attachment;
mod copied_database;
mod error;
pub mod follower;
pub mod followers;
mod history_window;
mod intake;
mod log;
mod session;
mod slot_keeper;
pub mod status;
mod stored_state;
mod upkeep;
mod writer_side;

pub use error::FollowError;
