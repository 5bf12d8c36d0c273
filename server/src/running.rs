//! A server at work, as the admin service sees it: the engine, the page service, the catalog, and the few questions that
//! need a core to answer them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::manifest::Branch;
use engine::types::{BranchId, Lsn, TenantId};
use engine::{Core, Engine, ReadError};

use crate::address::Point;
use crate::branch_maker::BranchMaker;
use crate::catalog::ServerCatalog;
use crate::follow::followers::Followers;
use crate::pagestream::listener::PageService;
use crate::relations::{self, ForkSize};
use crate::times::{self, TimeError};

/// The parts of a running server.
pub struct RunningServer {
    /// Cores and shards.
    pub engine: Arc<Engine>,
    /// The page listeners.
    pub pages: Arc<PageService>,
    /// Names and ids.
    pub catalog: Arc<ServerCatalog>,
    /// Branches that follow a primary.
    pub followers: Arc<Followers>,
    /// Makes branches of branches.
    pub branches: BranchMaker,
    /// Where core 0 listens.
    pub pages_address: SocketAddr,
    /// What is local.
    pub data_dir: PathBuf,
    /// Where objects are; no credentials are in it.
    pub store_url: String,
    /// Size limit of the cache.
    pub cache_bytes_max: u64,
    /// When it began to serve.
    pub started: Instant,
}

/// What LSNs of a branch can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BranchSpan {
    /// The first.
    pub readable_from: Lsn,
    /// The last.
    pub last_lsn: Lsn,
}

impl RunningServer {
    /// How long it has been serving.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// What LSNs of a branch can be read; `None` if the engine is stopping, here and below.
    pub async fn branch_span(
        &self,
        tenant: TenantId,
        branch: BranchId,
    ) -> Option<Result<BranchSpan, ReadError>> {
        on_core(&self.engine, 0, async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await?;
            Ok(BranchSpan {
                readable_from: branch.readable_from(),
                last_lsn: branch.last_lsn(),
            })
        })
        .await
    }

    /// The LSN that is meant, as this server knows the branch.
    pub async fn lsn_of(
        &self,
        tenant: TenantId,
        branch: BranchId,
        point: Point,
    ) -> Option<Result<Lsn, TimeError>> {
        let time = match point.lsn_or_time() {
            Ok(lsn) => return Some(Ok(lsn)),
            Err(time) => time,
        };
        on_core(&self.engine, 0, async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await?;
            times::lsn_of(&core, &branch, time).await
        })
        .await
    }

    /// What the manifest of a branch says, as the engine has it.
    pub async fn manifest(
        &self,
        tenant: TenantId,
        branch: BranchId,
    ) -> Option<Result<Arc<Branch>, ReadError>> {
        on_core(&self.engine, 0, async move |core: Core| {
            Ok(core.open_branch(tenant, branch).await?.manifest())
        })
        .await
    }

    /// Every fork of a branch's last LSN with its size, in the order of their keys, and that LSN.
    pub async fn relations(
        &self,
        tenant: TenantId,
        branch: BranchId,
    ) -> Option<Result<(Vec<ForkSize>, Lsn), ReadError>> {
        on_core(&self.engine, 0, async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await?;
            let at = branch.last_lsn();
            Ok((relations::all(&core, &branch, at).await?, at))
        })
        .await
    }

    /// The major version of the cluster that a branch came from.
    pub async fn postgres_major(
        &self,
        tenant: TenantId,
        branch: BranchId,
    ) -> Option<Result<Option<u16>, ReadError>> {
        on_core(&self.engine, 0, async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await?;
            relations::postgres_major(&core, &branch).await
        })
        .await
    }
}

/// Runs `work` on a core and waits for what it says; `None` if the engine stops first.
pub async fn on_core<T, F>(engine: &Engine, core: usize, work: F) -> Option<T>
where
    T: Send + 'static,
    F: AsyncFnOnce(Core) -> T + Send + 'static,
{
    let (reply, answer) = async_channel::bounded(1);
    engine
        .run_on_core(core, async move |core: Core| {
            // Whoever asked may have gone.
            let _ = reply.send(work(core).await).await;
        })
        .await;
    answer.recv().await.ok()
}
