//! What PostgreSQL's files, WAL and replication protocol look like, and how a cluster becomes versions of keys.
//! Knows nothing of the network protocols this project serves, nor of how the engine stores what it is given.
//!
//! - [`key`], [`value`]: which engine key means which page or piece of state, and what the small values hold;
//!   [`key_space`] deals them to partitions and stripes;
//! - [`page`]: headers and data checksums of pages, and the changes access methods make to their items;
//! - [`control_file`], [`data_files`]: `pg_control`, and what each path of a data directory is;
//! - [`wal`]: the WAL stream cut into records;
//! - [`redo`]: one logged change onto one page;
//! - [`touch`]: every key of which a record makes a new version;
//! - [`record_versions`]: that as versions of the engine, for a branch that follows a primary;
//! - [`inspect`]: whether a stored value can be what its key says;
//! - [`verify`]: redo proved against the pages that Postgres logged;
//! - [`replication`]: connection and base backup of a running cluster;
//! - [`import`]: running cluster, stopped data directory or backup tar, each as the same stream of versions, and the WAL of the backup replayed onto them;
//! - [`local_cluster`]: a throw-away cluster of the stock binaries, for the demo and for tests.
#![forbid(unsafe_code)]

pub mod control_file;
pub mod data_files;
pub mod import;
pub mod inspect;
pub mod key;
pub mod key_space;
pub mod local_cluster;
pub mod page;
pub mod record_versions;
pub mod redo;
pub mod replication;
pub mod touch;
pub mod value;
pub mod verify;
pub mod wal;

mod bytes_at;
mod lengths;
