//! Makes branches in a running server. What a parent's name meant is remembered, and the branch itself is the one that
//! the engine has open, so that another child of the same parent asks the store for nothing before its put. Should the name
//! have been changed since, the catalog says so, and it is looked up anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use engine::ReadError;
use engine::catalog::{CatalogError, Child, FoundBranch, Parent, Tenant};
use engine::crypto::entropy::Entropy;
use engine::store::probe::ProbeError;
use tokio::sync::OnceCell;

use crate::address::Point;
use crate::catalog::ServerCatalog;
use crate::deployment;
use crate::running::RunningServer;
use crate::times::TimeError;

/// Makes branches, and remembers of which.
pub struct BranchMaker {
    catalog: Arc<ServerCatalog>,
    /// By tenant and branch, as they were asked for.
    seen: Mutex<HashMap<(String, String), Seen>>,
    /// Set once the store has shown that it honours put-if-absent.
    probed: OnceCell<()>,
}

/// A parent that was looked up.
#[derive(Clone)]
struct Seen {
    tenant: Arc<Tenant>,
    found: FoundBranch,
}

/// What is to be made. Tenant and parent go by name or id.
#[derive(Debug, Clone, Copy)]
pub struct NewBranch<'a> {
    /// Whose.
    pub tenant: &'a str,
    /// What it is to be called.
    pub name: &'a str,
    /// The branch that it continues.
    pub parent: &'a str,
    /// From when on; from the parent's last LSN, as this server knows it, if not given.
    pub at: Option<Point>,
}

/// Why a branch was not made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The parent can't be opened.
    #[error(transparent)]
    Parent(#[from] ReadError),
    /// There is no LSN of the time.
    #[error(transparent)]
    Time(#[from] TimeError),
    /// The store does not do what it must.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The engine is stopping.
    #[error("the server is shutting down")]
    Stopping,
}

impl BranchMaker {
    /// One that has seen nothing yet.
    pub fn new(catalog: Arc<ServerCatalog>) -> BranchMaker {
        BranchMaker {
            catalog,
            seen: Mutex::default(),
            probed: OnceCell::new(),
        }
    }

    /// Makes sure, before this server writes a name for the first time, that the store honours put-if-absent.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let entropy = Entropy::system();
        let probe = || deployment::probe(self.catalog.objects(), &entropy);
        self.probed.get_or_try_init(probe).await?;
        Ok(())
    }

    /// Makes a branch; with its tenant.
    pub async fn make(
        &self,
        server: &RunningServer,
        wanted: NewBranch<'_>,
    ) -> Result<(Arc<Tenant>, Child), MakeError> {
        self.probe().await?;
        let key = (wanted.tenant.to_owned(), wanted.parent.to_owned());
        if let Some(seen) = self.remembered(&key) {
            match self.make_of(server, &seen, wanted).await {
                Err(MakeError::Catalog(CatalogError::NameChanged { .. })) => self.forget(&key),
                made => return Ok((seen.tenant, made?)),
            }
        }
        let tenant = self.catalog.find_tenant(wanted.tenant).await?;
        let found = self.catalog.find(&tenant, wanted.parent).await?;
        let seen = Seen { tenant, found };
        let made = self.make_of(server, &seen, wanted).await?;
        self.remember(key, seen.clone());
        Ok((seen.tenant, made))
    }

    async fn make_of(
        &self,
        server: &RunningServer,
        seen: &Seen,
        wanted: NewBranch<'_>,
    ) -> Result<Child, MakeError> {
        let id = (seen.tenant.id(), seen.found.id());
        let at = match wanted.at {
            None => None,
            Some(Point::Lsn(lsn)) => Some(lsn),
            Some(time) => {
                let found = server.lsn_of(id.0, id.1, time).await;
                Some(found.ok_or(MakeError::Stopping)??)
            }
        };
        let opened = server.manifest(id.0, id.1);
        let branch = opened.await.ok_or(MakeError::Stopping)??;
        let parent = Parent::new(branch).found_by(&seen.found);
        let made = self
            .catalog
            .create_child(&seen.tenant, wanted.name, &parent, at);
        Ok(made.await?)
    }

    fn remembered(&self, key: &(String, String)) -> Option<Seen> {
        self.seen().get(key).cloned()
    }

    fn remember(&self, key: (String, String), seen: Seen) {
        let mut all = self.seen();
        if all.len() >= SEEN_MAX {
            all.clear();
        }
        all.insert(key, seen);
    }

    fn forget(&self, key: &(String, String)) {
        self.seen().remove(key);
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parents that are remembered; then all are looked up anew.
const SEEN_MAX: usize = 1024;
