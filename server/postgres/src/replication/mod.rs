//! A running cluster by its replication protocol: settings, connection, base backup, WAL as it is written.
//!
//! Blocking: a base backup, as WAL, is one long sequential read, and whoever wants it elsewhere gives it a thread.

mod base_backup;
mod connection;
mod live_wal;
mod passfile;
mod settings;
mod tls;
mod transport;

pub use base_backup::{BackupEnd, BackupOptions, BaseBackup, CheckpointPace, TablespaceFacts};
pub(crate) use connection::bytes_of_size;
pub use connection::{Connection, ReplicationError, Row};
pub use live_wal::{LiveWal, LiveWalError};
pub use settings::{ConnectionDefaults, ConnectionSettings, Host, SettingsError, SslMode};
