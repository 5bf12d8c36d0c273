//! How a branch that follows a primary is: written by its thread, read by whoever asks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::types::Lsn;
use serde::Serialize;

use super::attachment::Ack;

/// What the follower of a branch is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Phase {
    /// Opens the branch and reads back what is above its layers.
    Recovering,
    /// Connects to the primary.
    Connecting,
    /// Receives WAL.
    Streaming,
    /// Waits before it tries again.
    Waiting {
        /// Why.
        reason: String,
    },
    /// Does nothing until somebody does something about it.
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Positions and amounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// End of the primary's WAL, as it said last.
    pub server_end: Lsn,
    /// Everything before was received.
    pub received: Lsn,
    /// Everything before is durable on the local disk.
    pub local: Lsn,
    /// Everything before is durable in the object store.
    pub stored: Lsn,
    /// Everything up to here can be read.
    pub readable: Lsn,
    /// Everything up to here is in layers.
    pub flushed: Lsn,
    /// Where the primary's slot is.
    pub slot: Lsn,
    /// What was acknowledged.
    pub acknowledged: Lsn,
    /// Bytes of versions in memory.
    pub memory_bytes: u64,
    /// Bytes of local WAL.
    pub wal_bytes: u64,
    /// Bytes that local WAL may still take.
    pub wal_bytes_free: u64,
    /// Bytes of WAL received since the start.
    pub received_bytes: u64,
    /// Records taken in since the start.
    pub records: u64,
    /// Bytes of layers written since the start.
    pub layer_bytes: u64,
    /// Flushes since the start.
    pub flushes: u64,
    /// Everything below is not shown any more.
    pub horizon: Lsn,
    /// Versions that compaction left out since the start.
    pub dropped_versions: u64,
    /// Compactions since the start,
    pub compactions: u64,
    /// bytes of the layers they merged,
    pub merged_bytes: u64,
    /// and of what came of them.
    pub compacted_bytes: u64,
    /// How long ago what was taken in last had been sent, if there is more to come.
    pub lag: Duration,
    /// Bytes of WAL received in the last seconds, per second.
    pub receive_rate: u64,
}

/// A branch that follows, as others see it. Cheap to clone.
#[derive(Clone)]
pub struct FollowStatus(Arc<Mutex<Inner>>);

struct Inner {
    phase: Phase,
    since: Instant,
    progress: Progress,
    connections: u64,
}

/// All of it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowSnapshot {
    /// What it does.
    pub phase: Phase,
    /// For how long.
    pub since: Duration,
    /// Positions and amounts.
    pub progress: Progress,
    /// Connections made since the start.
    pub connections: u64,
}

impl FollowStatus {
    /// Of a follower that begins.
    pub fn new() -> FollowStatus {
        FollowStatus(Arc::new(Mutex::new(Inner {
            phase: Phase::Recovering,
            since: now(),
            progress: Progress::default(),
            connections: 0,
        })))
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        let mut inner = self.inner();
        if inner.phase != phase {
            inner.connections += u64::from(phase == Phase::Streaming);
            inner.phase = phase;
            inner.since = now();
        }
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.inner().progress);
    }

    /// How it is now.
    pub fn snapshot(&self) -> FollowSnapshot {
        let inner = self.inner();
        FollowSnapshot {
            phase: inner.phase.clone(),
            since: inner.since.elapsed(),
            progress: inner.progress,
            connections: inner.connections,
        }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for FollowStatus {
    fn default() -> FollowStatus {
        FollowStatus::new()
    }
}

impl FollowSnapshot {
    /// Bytes of the primary's WAL that can't be read here yet.
    pub fn lag_bytes(&self) -> u64 {
        let progress = &self.progress;
        progress
            .server_end
            .bytes_since(progress.readable)
            .unwrap_or(0)
    }

    /// Bytes that the primary keeps for us.
    pub fn slot_bytes(&self) -> u64 {
        let progress = &self.progress;
        match progress.slot.is_valid() {
            true => progress.server_end.bytes_since(progress.slot).unwrap_or(0),
            false => 0,
        }
    }

    /// Seconds until local WAL is full, at the rate of the last seconds, if nothing of it were given back.
    pub fn seconds_until_full(&self) -> Option<u64> {
        let progress = &self.progress;
        progress.wal_bytes_free.checked_div(progress.receive_rate)
    }

    /// As JSON, with the names that `status` shows.
    pub fn to_json(&self, name: &str, ack: Ack) -> serde_json::Value {
        let progress = &self.progress;
        let (state, reason) = match &self.phase {
            Phase::Recovering => ("recovering", None),
            Phase::Connecting => ("connecting", None),
            Phase::Streaming => ("streaming", None),
            Phase::Waiting { reason } => ("waiting", Some(reason)),
            Phase::Stopped { reason } => ("stopped", Some(reason)),
        };
        serde_json::json!({
            "branch": name,
            "state": state,
            "reason": reason,
            "for_s": self.since.as_secs(),
            "ack": ack,
            "lag_bytes": self.lag_bytes(),
            "lag_s": progress.lag.as_secs_f64(),
            "slot_bytes": self.slot_bytes(),
            "wal_seconds_until_full": self.seconds_until_full(),
            "server_end": progress.server_end.to_string(),
            "received": progress.received.to_string(),
            "durable_local": progress.local.to_string(),
            "durable_store": progress.stored.to_string(),
            "acknowledged": progress.acknowledged.to_string(),
            "readable": progress.readable.to_string(),
            "in_layers": progress.flushed.to_string(),
            "slot": progress.slot.to_string(),
            "memory_bytes": progress.memory_bytes,
            "wal_bytes": progress.wal_bytes,
            "wal_bytes_free": progress.wal_bytes_free,
            "received_bytes": progress.received_bytes,
            "records": progress.records,
            "flushes": progress.flushes,
            "layer_bytes": progress.layer_bytes,
            "horizon": progress.horizon.to_string(),
            "dropped_versions": progress.dropped_versions,
            "compactions": progress.compactions,
            "merged_bytes": progress.merged_bytes,
            "compacted_bytes": progress.compacted_bytes,
            "connections": self.connections,
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "since when a state lasts")]
fn now() -> Instant {
    Instant::now()
}
