//! A page server in this process: engine, listeners and catalog, started in order and stopped in reverse. `serve` and
//! `demo` run the same one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::cache::CacheConfig as EngineCacheConfig;
use engine::shard::ShardConfig;
use engine::{Core, EngineConfig, StartError};

use crate::access::{self, AccessError};
use crate::branch_maker::BranchMaker;
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError};
use crate::deployment::Deployment;
use crate::exit::{Exit, Failure};
use crate::follow::attachment::AttachmentError;
use crate::follow::followers::Followers;
use crate::pagestream::listener::{ListenError, PageService};
use crate::pagestream::startup::Access;
use crate::running::RunningServer;

/// A server that serves pages.
pub struct Node {
    deployment: Deployment,
    running: Arc<RunningServer>,
    /// Each core's listener tells here that it has ended.
    ended: async_channel::Receiver<()>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The page service's port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The page service's token or certificate.
    #[error("pages.access: {0}")]
    Access(#[from] AccessError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// What is written down of branches that follow a primary.
    #[error(transparent)]
    Attachments(#[from] AttachmentError),
    /// A core ended while it was starting.
    #[error("core {0} ended while it was starting")]
    CoreEnded(usize),
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Failure {
        let exit = match &error {
            NodeError::Listen(_) => Exit::InUse,
            NodeError::Access(_)
            | NodeError::Engine(StartError::Config(_))
            | NodeError::Attachments(_) => Exit::Config,
            NodeError::Engine(_) | NodeError::DataDir(_) | NodeError::CoreEnded(_) => Exit::Other,
        };
        Failure::new(exit, error)
    }
}

/// The engine's settings for `config`.
pub fn engine_config(config: &Config, data_dir: &DataDir) -> EngineConfig {
    let mut settings = EngineConfig::new(data_dir.cache());
    if config.runtime.cores > 0 {
        settings.cores = usize::try_from(config.runtime.cores).expect("validated: at most 256");
    }
    settings.spin = config.runtime.spin.0;
    let ram_bytes = usize::try_from(config.cache.ram.0).expect("validated: at most 1 TiB");
    settings.cache = EngineCacheConfig {
        cache_bytes: config.cache.size.0,
        ..EngineCacheConfig::default()
    };
    settings.shard = ShardConfig {
        ram_bytes_max: ram_bytes / settings.cores.max(1),
        refresh_every: Some(config.store.refresh_every.0).filter(|every| !every.is_zero()),
        ..ShardConfig::default()
    };
    settings
}

impl Node {
    /// Starts engine and listeners. Returns when all cores listen.
    pub async fn start(
        config: &Config,
        data_dir: &DataDir,
        deployment: Deployment,
        store_url: String,
        variables: BTreeMap<String, String>,
    ) -> Result<Node, NodeError> {
        let token = access::token(&config.pages.access)?;
        let tls = access::server_config(&config.pages.access)?;
        let tls_required = config.pages.access.tls_required(config.pages.listen.ip());
        let settings = engine_config(config, data_dir);
        let catalog = Arc::new(deployment.catalog.clone());
        let pages = PageService::new(
            config.pages.clone(),
            Access::new(token, tls.is_some(), tls_required),
            tls,
            Arc::clone(&catalog),
            settings.cores,
        );
        pages.probe()?;
        data_dir.create_cache()?;
        let server = data_dir.server_id(deployment.draw_id())?;
        let engine = Arc::new(deployment.start_engine(&settings, server)?);
        let (ended_sender, ended) = async_channel::bounded(engine.cores());
        let mut first = config.pages.listen;
        for number in 0..engine.cores() {
            let (bound, report) = async_channel::bounded(1);
            let (service, done) = (Arc::clone(&pages), ended_sender.clone());
            engine
                .run_on_core(number, async move |core: Core| {
                    service.run(core, first, bound).await;
                    // The channel has a place for every core.
                    let _ = done.send(()).await;
                })
                .await;
            let local = report
                .recv()
                .await
                .map_err(|_| NodeError::CoreEnded(number))??;
            if number == 0 {
                first = local;
            }
        }
        let engine_too = Arc::clone(&engine);
        let followers = Followers::new(engine_too, config.follow, data_dir, variables);
        followers.reload()?;
        let running = Arc::new(RunningServer {
            engine,
            pages,
            branches: BranchMaker::new(Arc::clone(&catalog)),
            catalog,
            followers: Arc::new(followers),
            pages_address: first,
            data_dir: PathBuf::from(data_dir.path()),
            store_url,
            cache_bytes_max: config.cache.size.0,
            started: now(),
        });
        Ok(Node {
            deployment,
            running,
            ended,
        })
    }

    /// The server as the admin service sees it.
    pub fn running(&self) -> &Arc<RunningServer> {
        &self.running
    }

    /// Stops: no new connections, what was taken is answered, the cache's index is saved. Whatever is not done within
    /// `limit` is dropped.
    pub async fn stop(self, limit: Duration) {
        self.running.pages.stop();
        let followers = Arc::clone(&self.running.followers);
        let followers = tokio::task::spawn_blocking(move || followers.stop());
        let cores = self.running.engine.cores();
        let drained = async {
            for _ in 0..cores {
                // An error means that all cores have ended.
                let _ = self.ended.recv().await;
            }
        };
        if tokio::time::timeout(limit, drained).await.is_err() {
            tracing::warn!(?limit, "connections were cut off: they did not end in time");
        }
        match tokio::time::timeout(FOLLOWERS_MAX, followers).await {
            Ok(Ok(())) => {}
            Ok(Err(panicked)) => {
                tracing::error!(error = %panicked, "the followers did not end well")
            }
            Err(_) => {
                tracing::warn!(
                    "followers were cut off: what they received last is in the local WAL only"
                );
            }
        }
        let engine = Arc::clone(&self.running.engine);
        let stopped = tokio::task::spawn_blocking(move || engine.stop());
        match tokio::time::timeout(SAVE_MAX, stopped).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(e))) => tracing::error!(error = %e, "a core did not end well"),
            Ok(Err(_)) | Err(_) => tracing::error!("the cores did not end in time"),
        }
        self.deployment.close();
    }
}

/// Time for what followers have under way, beyond that of the connections.
const FOLLOWERS_MAX: Duration = Duration::from_secs(2);
/// Time for saving the cache's index.
const SAVE_MAX: Duration = Duration::from_secs(3);

#[expect(
    clippy::disallowed_methods,
    reason = "the start of a process's service, for its uptime"
)]
fn now() -> Instant {
    Instant::now()
}
