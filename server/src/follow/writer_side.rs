//! The writer of a branch's layers and manifest, which does one thing at a time while the session looks after its connection.

use std::sync::Arc;

use engine::Engine;
use engine::ingest::{Compaction, Due, Flushed, Flusher, IngestError, Retention};
use engine::manifest::WalPosition;
use engine::types::ObjectId;
use tokio::task::{JoinHandle, spawn_local};

use super::error::FollowError;
use super::log::{abandon, joined};

/// Writes, and gives the writer back. A task of its own: it may hold the lock on the branch's keys, which a piece of WAL and a
/// commit of the local WAL wait for, so it has to go on while nobody waits for it.
type Writing = JoinHandle<(Flusher<Arc<Engine>>, Result<Written, IngestError>)>;

/// The writer, or where it is.
pub(super) enum WriterSide {
    /// It has nothing to do.
    Idle(Box<Flusher<Arc<Engine>>>),
    /// It is at work.
    Busy(Writing),
    /// Between the two.
    Moving,
}

/// What was written.
pub(super) enum Written {
    /// Memory layers, and where the WAL goes on behind them.
    Flushed(Flushed, WalPosition),
    /// Layers that were merged, and those they were made of, each with its bytes.
    Compacted(Compaction, Vec<(ObjectId, u64)>),
    /// What retention wanted.
    Retained(Retention, Due),
}

impl WriterSide {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, WriterSide::Idle(_))
    }

    /// Begins a piece of work.
    ///
    /// # Panics
    /// If it is busy.
    pub(super) fn begin<W>(&mut self, work: W)
    where
        W: AsyncFnOnce(&mut Flusher<Arc<Engine>>) -> Result<Written, IngestError> + 'static,
    {
        let WriterSide::Idle(mut flusher) = std::mem::replace(self, WriterSide::Moving) else {
            panic!("work is begun by who saw the writer idle");
        };
        *self = WriterSide::Busy(spawn_local(async move {
            let written = work(&mut flusher).await;
            (*flusher, written)
        }));
    }

    /// Gives up the work under way, and waits until nothing of it can happen any more: before the branch is opened anew.
    pub(super) async fn abandon(self) {
        if let WriterSide::Busy(writing) = self {
            abandon(writing).await;
        }
    }

    /// Completes when the work under way is over; never, if there is none.
    ///
    /// # Cancellation
    /// Safe: the work goes on.
    pub(super) async fn written(&mut self) -> Result<Written, FollowError> {
        let WriterSide::Busy(writing) = self else {
            return std::future::pending().await;
        };
        let (flusher, outcome) = joined(writing.await);
        *self = WriterSide::Idle(Box::new(flusher));
        Ok(outcome?)
    }
}
