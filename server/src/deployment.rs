//! An object store and the keys to it: what every command that touches data opens first, and what the engine starts from.
//! No server has to run, and none is in the way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use engine::catalog::{Catalog, CatalogParts};
use engine::crypto::entropy::Entropy;
use engine::crypto::key_provider::KeyProvider;
use engine::crypto::keyring::{Keyring, KeyringError};
use engine::io::store_thread::{StoreThreadError, StoreThreads};
use engine::io::tokio_clock::TokioClock;
use engine::store::probe::{ProbeError, probe_put_if_absent};
use engine::store::store_url::{StoreUrl, StoreUrlError};
use engine::store::{StoreClient, StoreConfig};
use engine::types::{Id, KeySpace};
use engine::{Engine, EngineConfig, EngineParts, SharedBranches, StartError};
use postgres::key_space::{KEY_SPACE_TAG, PostgresKeySpace};
use postgres::redo::PostgresRedo;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::catalog::ServerCatalog;
use crate::exit::{Exit, Failure};

/// What to open.
#[derive(Debug, Clone)]
pub struct DeploymentConfig {
    /// The object store.
    pub store_url: String,
    /// The environment, for its credentials.
    pub variables: BTreeMap<String, String>,
    /// The keyring's file.
    pub keyring: PathBuf,
    /// Where the keyring must not be.
    pub places_of_data: Vec<PathBuf>,
    /// Threads that talk to the store.
    pub store_threads: usize,
}

/// An opened store with its keys.
pub struct Deployment {
    threads: StoreThreads,
    /// The store.
    pub store: StoreClient,
    /// Its tenants and branches.
    pub catalog: ServerCatalog,
    entropy: Entropy,
    origin: Instant,
}

/// Why a store or its keys can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// No store is meant by the URL.
    #[error(transparent)]
    Url(#[from] StoreUrlError),
    /// The store can't be set up.
    #[error(transparent)]
    Store(#[from] StoreThreadError),
    /// The keyring can't be opened.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The store does not do what it must.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

impl From<DeploymentError> for Failure {
    fn from(error: DeploymentError) -> Failure {
        match error {
            DeploymentError::Url(_) => Failure::new(Exit::Config, error),
            DeploymentError::Store(_) => Failure::new(Exit::Unavailable, error),
            DeploymentError::Keyring(KeyringError::Io { .. }) => Failure::new(Exit::Refused, error)
                .hint("`pageserver init` makes a keyring, `pageserver key import` restores one"),
            DeploymentError::Keyring(_) => Failure::new(Exit::Refused, error),
            DeploymentError::Probe(ProbeError::Store(_)) => Failure::new(Exit::Unavailable, error),
            DeploymentError::Probe(ProbeError::NotConditional { .. }) => {
                Failure::new(Exit::Refused, error)
            }
        }
    }
}

impl Deployment {
    /// Opens keyring and store. Asks the store for nothing yet.
    pub fn open(config: &DeploymentConfig) -> Result<Deployment, DeploymentError> {
        let places: Vec<&Path> = config.places_of_data.iter().map(AsRef::as_ref).collect();
        let keyring = Keyring::open(&config.keyring, &places, Entropy::system())?;
        let provider: Arc<dyn KeyProvider> = Arc::new(keyring);
        let url = StoreUrl::parse(&config.store_url, &config.variables)?;
        let entropy = Entropy::system();
        let origin = now();
        let clock = TokioClock::since(origin);
        let threads = StoreThreads::start(
            config.store_threads.max(1),
            move || url.connect(),
            &StoreConfig::default(),
            clock,
            u64::from_le_bytes(entropy.draw()),
        )?;
        let store = threads.client().clone();
        let catalog = Catalog::new(
            store.clone(),
            CatalogParts {
                provider,
                entropy: entropy.clone(),
                key_space: key_space(),
                key_space_tag: KEY_SPACE_TAG,
            },
        );
        Ok(Deployment {
            threads,
            store,
            catalog,
            entropy,
            origin,
        })
    }

    /// Makes sure that the store honours put-if-absent. Five requests; before the first write only.
    pub async fn probe(&self) -> Result<(), DeploymentError> {
        Ok(probe(&self.store, &self.entropy).await?)
    }

    /// Starts an engine over this store. `server` names the owner of its cache; another's is not taken over.
    pub fn start_engine(&self, config: &EngineConfig, server: Id) -> Result<Engine, StartError> {
        Engine::start(
            config,
            EngineParts {
                store: self.store.clone(),
                key_space: key_space(),
                redo: Arc::new(PostgresRedo),
                branches: Arc::new(SharedBranches::new(self.catalog.clone())),
                server,
                origin: self.origin,
            },
        )
    }

    /// A fresh id.
    pub fn draw_id(&self) -> Id {
        Id(self.entropy.draw())
    }

    /// Ends the store threads.
    pub fn close(self) {
        drop(self.threads);
    }
}

/// Makes sure that a store honours put-if-absent.
pub(crate) async fn probe(store: &StoreClient, entropy: &Entropy) -> Result<(), ProbeError> {
    let mut random = ChaCha20Rng::from_seed(entropy.draw());
    probe_put_if_absent(store, &mut random).await
}

fn key_space() -> Arc<dyn KeySpace> {
    Arc::new(PostgresKeySpace)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the origin of this process's clocks"
)]
fn now() -> Instant {
    Instant::now()
}
