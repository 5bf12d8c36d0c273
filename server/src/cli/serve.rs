//! `pageserver serve`: runs until SIGTERM or SIGINT.

use clap::Args;
use engine::Engine;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use crate::admin::AdminService;
use crate::deployment::Deployment;
use crate::exit::{Exit, Failure, OrExit};
use crate::node::Node;

const EXAMPLES: &str = "\
Examples:
  pageserver serve
  pageserver serve --data-dir /var/lib/pageserver --log-format json

Pages are served on 127.0.0.1:64000, the admin API on 127.0.0.1:9898 (GET /openapi.json), unless the configuration says
otherwise. SIGTERM and SIGINT stop it: requests that were taken are answered, the cache's index is saved; within ten
seconds it is gone. One server has a data directory at a time.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ServeArguments {}

pub(super) fn run(context: Context, _: &ServeArguments) -> Result<(), Failure> {
    if context.config_missing && !context.data_dir.path().exists() {
        let error = format!("{} does not exist", context.data_dir.path().display());
        return Err(Failure::new(Exit::Config, error).hint("`pageserver init` makes it"));
    }
    let _lock = context.lock()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_exit(Exit::Other)?;
    let outcome = runtime.block_on(serve(&context));
    // Saving the index of a large cache has a limit; what is still at it then must not hold up the end of the process.
    runtime.shutdown_background();
    outcome
}

async fn serve(context: &Context) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).or_exit(Exit::Other)?;
    let mut interrupt = signal(SignalKind::interrupt()).or_exit(Exit::Other)?;
    let config = &context.config;
    let deployment = Deployment::open(&context.deployment()?)?;
    let node = Node::start(
        config,
        &context.data_dir,
        deployment,
        context.store_url(),
        context.surroundings.variables.clone(),
    )
    .await?;
    let running = node.running();
    let admin = AdminService::start(&config.admin, running.clone()).or_exit(Exit::InUse)?;
    tracing::info!(
        pages = %running.pages_address,
        admin = %admin.address(),
        cores = running.engine.cores(),
        store = running.store_url,
        "serving"
    );
    let lost_core = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = core_lost(&running.engine) => true,
    };
    tracing::info!("stopping");
    let limit = config.runtime.stop_timeout.0;
    node.stop(limit.saturating_sub(SAVE_TIME)).await;
    // It joins a thread, which ends within two seconds.
    let _ = tokio::task::spawn_blocking(move || admin.stop()).await;
    tracing::info!("stopped");
    if lost_core {
        let error = "a core or store thread panicked, as the log says; the server ends rather than serve without it";
        return Err(Failure::new(Exit::Other, error));
    }
    Ok(())
}

/// Completes when a core or store thread has ended by itself.
async fn core_lost(engine: &Engine) {
    while !engine.has_lost_thread() {
        tokio::time::sleep(CORES_CHECKED_EVERY).await;
    }
}

/// How often it is looked whether all threads still run.
const CORES_CHECKED_EVERY: std::time::Duration = std::time::Duration::from_millis(250);

/// Kept back from the stop's time for saving the cache's index and ending the admin service.
const SAVE_TIME: std::time::Duration = std::time::Duration::from_secs(4);
