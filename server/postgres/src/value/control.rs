//! What the control file tells and redo advances: counters of the last checkpoint, parameters of the primary.

use engine::types::Lsn;

use super::ValueError;
use super::stored::{Writer, decode, flag};

/// The counters of a checkpoint: what redo advances and a start at any LSN needs. Stored in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckpointState {
    /// Where redo from this checkpoint begins.
    pub redo: Lsn,
    /// Timeline.
    pub timeline: u32,
    /// The timeline before it.
    pub previous_timeline: u32,
    /// Next transaction id, with epoch.
    pub next_xid: u64,
    /// Next oid.
    pub next_oid: u32,
    /// Next multixact id.
    pub next_multixact: u32,
    /// Next member offset.
    pub next_multixact_offset: u32,
    /// Cluster-wide oldest transaction id.
    pub oldest_xid: u32,
    /// The database that holds it back.
    pub oldest_xid_database: u32,
    /// Cluster-wide oldest multixact id.
    pub oldest_multixact: u32,
    /// The database that holds it back.
    pub oldest_multixact_database: u32,
    /// Seconds since 1970.
    pub time: u64,
    /// Oldest transaction id with a commit timestamp; 0 if none.
    pub oldest_commit_timestamp_xid: u32,
    /// Newest transaction id with a commit timestamp; 0 if none.
    pub newest_commit_timestamp_xid: u32,
    /// Oldest transaction id still running; 0 in a shutdown checkpoint.
    pub oldest_active_xid: u32,
    /// Whether full page writes were on: 0 or 1.
    pub full_page_writes: u8,
}

/// Settings of the primary that a standby has to know, as `pg_control` has them. Stored in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClusterParameters {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
    /// Whether hint bits are logged even without checksums.
    pub wal_log_hints: bool,
    /// Whether commit timestamps are kept.
    pub track_commit_timestamp: bool,
}

impl CheckpointState {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new()
            .u64(self.redo.0)
            .u32(self.timeline)
            .u32(self.previous_timeline)
            .u64(self.next_xid)
            .u32(self.next_oid)
            .u32(self.next_multixact)
            .u32(self.next_multixact_offset)
            .u32(self.oldest_xid)
            .u32(self.oldest_xid_database)
            .u32(self.oldest_multixact)
            .u32(self.oldest_multixact_database)
            .u64(self.time)
            .u32(self.oldest_commit_timestamp_xid)
            .u32(self.newest_commit_timestamp_xid)
            .u32(self.oldest_active_xid)
            .u8(self.full_page_writes)
            .0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version or length, or an unknown flag.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("checkpoint state", bytes, |r| {
            Some(CheckpointState {
                redo: Lsn(r.u64()?),
                timeline: r.u32()?,
                previous_timeline: r.u32()?,
                next_xid: r.u64()?,
                next_oid: r.u32()?,
                next_multixact: r.u32()?,
                next_multixact_offset: r.u32()?,
                oldest_xid: r.u32()?,
                oldest_xid_database: r.u32()?,
                oldest_multixact: r.u32()?,
                oldest_multixact_database: r.u32()?,
                time: r.u64()?,
                oldest_commit_timestamp_xid: r.u32()?,
                newest_commit_timestamp_xid: r.u32()?,
                oldest_active_xid: r.u32()?,
                full_page_writes: r.u8().filter(|flag| *flag <= 1)?,
            })
        })
    }
}

impl ClusterParameters {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new()
            .u32(self.max_connections)
            .u32(self.max_worker_processes)
            .u32(self.max_wal_senders)
            .u32(self.max_prepared_transactions)
            .u32(self.max_locks_per_transaction)
            .u32(self.wal_level)
            .u8(u8::from(self.wal_log_hints))
            .u8(u8::from(self.track_commit_timestamp))
            .0
    }

    /// From the stored bytes.
    /// # Errors
    /// Another version or length, or an unknown flag.
    pub fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode("parameters of the cluster", bytes, |r| {
            Some(ClusterParameters {
                max_connections: r.u32()?,
                max_worker_processes: r.u32()?,
                max_wal_senders: r.u32()?,
                max_prepared_transactions: r.u32()?,
                max_locks_per_transaction: r.u32()?,
                wal_level: r.u32()?,
                wal_log_hints: flag(r)?,
                track_commit_timestamp: flag(r)?,
            })
        })
    }
}
