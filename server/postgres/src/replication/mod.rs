//! A running cluster by its replication protocol: settings, connection, base backup, WAL as it is written, slots, and
//! whether it can be followed.
//!
//! Blocking, but for the receiver: a base backup is one long sequential read, as WAL is that is read to a given end, and
//! whoever wants it elsewhere gives it a thread. [`WalReceiver`] takes a connection over that was begun so.

mod authentication;
mod base_backup;
mod connection;
mod connection_string;
mod frame_buffer;
mod live_wal;
mod message;
mod outgoing;
mod passfile;
mod primary_checks;
mod primary_facts;
mod replication_error;
mod replication_start;
mod settings;
mod slot_name;
mod slots;
mod socket;
mod stop_consequences;
mod synchronous_standbys;
mod timeline_history;
mod tls;
mod transport;
mod wal_facts;
mod wal_messages;
mod wal_receiver;

pub use base_backup::{BackupEnd, BackupOptions, BaseBackup, CheckpointPace, TablespaceFacts};
pub use connection::Connection;
pub use live_wal::{LiveWal, LiveWalError};
pub use message::Row;
pub(crate) use message::bytes_of_size;
pub use primary_checks::{
    FollowRequest, Primary, PrimaryCheckError, PrimaryProblem, check_new_primary, check_primary,
};
pub use primary_facts::PrimaryFacts;
pub use replication_error::ReplicationError;
pub use replication_start::{ReplicationStart, StartedReplication, TimelineSwitch};
pub use settings::{ConnectionDefaults, ConnectionSettings, Host, SettingsError, SslMode};
pub use slot_name::{SlotName, SlotNameError};
pub use slots::{
    SlotCreation, SlotError, SlotFacts, SlotPosition, SlotWal, advance_slot, create_slot,
    drop_slot, read_slot, slot_facts,
};
pub use stop_consequences::stop_consequences;
pub use synchronous_standbys::SynchronousStandbys;
pub use timeline_history::{TimelineHistory, TimelineHistoryError, TimelineSpan};
pub use wal_facts::WalFacts;
pub use wal_messages::Report;
pub use wal_receiver::{Keepalive, WalData, WalEvent, WalReceiver, WalReceiverConfig};
