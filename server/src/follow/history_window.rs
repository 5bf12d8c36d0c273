//! How much history of a branch stays readable: by time, by bytes of WAL, whichever keeps more.

use std::sync::Arc;

use engine::types::{BranchId, Lsn, TenantId};
use engine::{BranchHandle, Core, Engine};

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
    /// Below this nothing has to be readable. Invalid (below everything) where all history stays, and where it can't be told now.
    pub(super) async fn begin(self) -> Lsn {
        let HistoryWindow {
            engine,
            place: (tenant, branch),
            time,
            wal_bytes,
        } = self;
        let found = on_core(&engine, 0, async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await?;
            let by_wal = wal_bytes.map(|bytes| Lsn(branch.last_lsn().0.saturating_sub(bytes)));
            let by_time = match time {
                Some(ago) => Some(begin_by_time(&core, &branch, ago).await?),
                None => None,
            };
            Ok(match (by_wal, by_time) {
                (Some(by_wal), Some(by_time)) => by_wal.min(by_time),
                (Some(only), None) | (None, Some(only)) => only,
                (None, None) => Lsn::INVALID,
            })
        });
        let found: Option<Result<Lsn, TimeError>> = found.await;
        match found {
            Some(Ok(lsn)) => lsn,
            Some(Err(TimeError::Read(error))) => {
                tracing::warn!(%error, "where the window of history begins is not known");
                Lsn::INVALID
            }
            // There is nothing so old.
            Some(Err(_)) | None => Lsn::INVALID,
        }
    }
}

/// So long before now, or before the last transaction: a clock that is ahead gives up nothing that way.
async fn begin_by_time(core: &Core, branch: &BranchHandle, ago: Span) -> Result<Lsn, TimeError> {
    let newest = times::time_of(core, branch, branch.last_lsn()).await?;
    let newest = newest.ok_or(TimeError::NoTimes)?;
    times::lsn_of(core, branch, newest.min(Time::now()).minus(ago)).await
}
