//! How much history of a branch stays readable: by time, by bytes of WAL, whichever keeps more.

use std::sync::Arc;

use engine::types::{BranchId, Lsn, TenantId};
use engine::{Core, Engine};

use crate::config::Span;
use crate::running::on_core;
use crate::times::{self, Time, TimeError};

/// The window of one branch. Cheap to clone.
#[derive(Clone)]
pub(super) struct HistoryWindow {
    pub(super) engine: Arc<Engine>,
    pub(super) place: (TenantId, BranchId),
    pub(super) time: Option<Span>,
    pub(super) wal_bytes: Option<u64>,
}

impl HistoryWindow {
    /// Below this nothing has to be readable, of a branch that is durable up to `last`. Invalid (below everything) where all
    /// history stays, and where it can't be told now.
    pub(super) async fn begin(&self, last: Lsn) -> Lsn {
        let by_wal = self
            .wal_bytes
            .map(|bytes| Lsn(last.0.saturating_sub(bytes)));
        let by_time = match self.time {
            Some(ago) => Some(self.begin_by_time(Time::ago(ago), last).await),
            None => None,
        };
        match (by_wal, by_time) {
            (Some(by_wal), Some(by_time)) => by_wal.min(by_time),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => Lsn::INVALID,
        }
    }

    async fn begin_by_time(&self, time: Time, last: Lsn) -> Lsn {
        let (tenant, branch) = self.place;
        let found = on_core(&self.engine, 0, async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await?;
            times::lsn_of(&core, &branch, time).await
        });
        match found.await {
            Some(Ok(lsn)) => lsn.min(last),
            // All that there was is older.
            Some(Err(TimeError::TooLate { .. })) => last,
            Some(Err(TimeError::TooEarly { .. } | TimeError::NoTimes)) | None => Lsn::INVALID,
            Some(Err(TimeError::Read(error))) => {
                tracing::warn!(%error, "where the window of history begins is not known");
                Lsn::INVALID
            }
        }
    }
}
