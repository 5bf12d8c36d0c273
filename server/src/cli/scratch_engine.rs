//! An engine for one question: on the same store and keys as the server's, with a small cache of its own that is gone
//! afterwards. No server has to run, and none is asked: what it has in memory only is not seen.

use std::sync::Arc;

use engine::ingest::IngestError;
use engine::types::{BranchId, Lsn, TenantId};
use engine::{BranchHandle, Core, Engine, ReadError};

use super::Context;
use super::get::read_failure;
use crate::address::{BranchAddress, Point};
use crate::catalog;
use crate::config::{Config, Size};
use crate::data_dir::DataDir;
use crate::deployment::Deployment;
use crate::exit::{Exit, Failure, OrExit};
use crate::import_job::runtime;
use crate::node::engine_config;
use crate::running::on_core;
use crate::times::{self, TimeError};

/// Opens a branch, and answers what `work` finds in it.
pub(super) fn ask<T, E>(
    context: &Context,
    address: &BranchAddress,
    work: impl AsyncFnOnce(&Core, &BranchHandle) -> Result<T, E> + Send + 'static,
) -> Result<T, Failure>
where
    T: Send + 'static,
    E: From<ReadError> + Into<Failure> + Send + 'static,
{
    with(context, address, async move |engine, (tenant, branch)| {
        let asking = on_core(engine, 0, async move |core: Core| {
            let branch = core.open_branch(tenant, branch).await?;
            work(&core, &branch).await
        });
        let stopped = || Failure::new(Exit::Other, "the engine ended early");
        asking.await.ok_or_else(stopped)?.map_err(Into::into)
    })
}

/// Finds a branch, and does some work on an engine of one core.
pub(super) fn with<T>(
    context: &Context,
    address: &BranchAddress,
    work: impl AsyncFnOnce(&Arc<Engine>, (TenantId, BranchId)) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let deployment = Deployment::open(&context.deployment()?)?;
    let runtime = runtime().or_exit(Exit::Other)?;
    let found = catalog::find(&deployment.catalog, &address.tenant, &address.branch);
    let place = runtime.block_on(found)?;
    let scratch = tempfile::tempdir().or_exit(Exit::Other)?;
    let mut config = Config::default();
    config.runtime.cores = 1;
    config.cache.size = Size(SCRATCH_CACHE_BYTES);
    let data_dir = DataDir::new(scratch.path());
    data_dir.create_cache().or_exit(Exit::Other)?;
    let engine = deployment
        .start_engine(&engine_config(&config, &data_dir), deployment.draw_id())
        .or_exit(Exit::Other)?;
    let engine = Arc::new(engine);
    let outcome = runtime.block_on(work(&engine, place));
    engine.stop().or_exit(Exit::Other)?;
    deployment.close();
    outcome
}

/// The LSN that is meant.
pub(super) fn lsn_of(
    context: &Context,
    address: &BranchAddress,
    point: Point,
) -> Result<Lsn, Failure> {
    let time = match point.lsn_or_time() {
        Ok(lsn) => return Ok(lsn),
        Err(time) => time,
    };
    ask(
        context,
        address,
        async move |core: &Core, branch: &BranchHandle| times::lsn_of(core, branch, time).await,
    )
}

impl From<TimeError> for Failure {
    fn from(error: TimeError) -> Failure {
        match error {
            TimeError::Read(error) => read_failure(error),
            outside => Failure::new(Exit::Refused, outside),
        }
    }
}

impl From<IngestError> for Failure {
    fn from(error: IngestError) -> Failure {
        match error {
            IngestError::Catalog(error) => error.into(),
            IngestError::Open(error) => read_failure(error),
            other => Failure::new(Exit::Other, other),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        read_failure(error)
    }
}

/// Enough for the extents of a few questions.
const SCRATCH_CACHE_BYTES: u64 = 16 << 20;
