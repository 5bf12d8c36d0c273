//! A running cluster by its replication protocol: settings, connection, base backup.
//!
//! Blocking: a base backup is one long sequential read, and whoever wants it elsewhere gives it a thread.

mod base_backup;
mod connection;
mod passfile;
mod settings;
mod tls;
mod transport;

pub use base_backup::{BackupEnd, BackupOptions, BaseBackup, CheckpointPace, TablespaceFacts};
pub use connection::{Connection, ReplicationError, Row};
pub use settings::{ConnectionDefaults, ConnectionSettings, Host, SettingsError, SslMode};
