//! The engine as a library: open it, write versions of a page, branch off, and read at several LSNs, in `main`. What it is put
//! together from (here a keyring and a cache in a temporary folder, and a store in memory) is below.
//!
//! `cargo run --release -p pageserver-engine --example quickstart`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engine::catalog::{BranchWriter, Catalog, CatalogError, CatalogParts, CommitFacts};
use engine::catalog::{InlineCpu, LayerUploads, WriterConfig};
use engine::crypto::{entropy::Entropy, keyring::Keyring};
use engine::io::{store_thread::StoreThreads, tokio_clock::TokioClock};
use engine::layer::Value;
use engine::redo::ImagesOnly;
use engine::store::{StoreClient, StoreConfig, memory::MemoryObjects};
use engine::types::{BranchId, Id, Key, KeySpace, Lsn, PAGE_BYTES, Partition};
use engine::{Core, Engine, EngineConfig, EngineParts, SharedBranches};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let (engine, catalog, _store_threads) = open(dir.path())?;
    let tenant = catalog.create_tenant("shop").await?;

    // Two versions of one page on a branch, and a third one on a branch of that branch.
    let (key, ten, twenty, thirty) = (Key([7; 24]), Lsn(10), Lsn(20), Lsn(30));
    let config = WriterConfig::default();
    let begun = catalog.begin_branch(&tenant, "main", vec![], config.clone());
    let main = write(begun.await?, key, &[(ten, 1), (twenty, 2)]).await?;
    let parent = catalog.open_branch(tenant.id(), main).await?;
    let begun = catalog.begin_child(&tenant, "dev", &parent, ten, config);
    let dev = write(begun.await?, key, &[(thirty, 3)]).await?;

    // Read them through a pinned core.
    let (reply, answers) = async_channel::bounded(8);
    let tenant = tenant.id();
    let read = async move |core: Core| {
        for (branch, at) in [(main, ten), (main, twenty), (dev, twenty), (dev, thirty)] {
            let value = match core.open_branch(tenant, branch).await {
                Ok(open) => core.read(&open, key, at).await,
                Err(error) => Err(error),
            };
            let _ = reply.send(value.map(|page| page[0])).await;
        }
    };
    engine.run_on_core(0, read).await;
    for expected in [1, 2, 1, 3] {
        let version = answers.recv().await??;
        println!("page version {version}");
        assert_eq!(version, expected);
    }
    engine.stop()?;
    Ok(())
}

/// Puts versions of `key`, pages full of one byte each, and makes the branch visible.
async fn write(
    (mut branch, uploads): (BranchWriter<StoreClient>, LayerUploads<StoreClient>),
    key: Key,
    versions: &[(Lsn, u8)],
) -> Result<BranchId, CatalogError> {
    let writing = async {
        for (lsn, byte) in versions {
            let page = [*byte; PAGE_BYTES];
            branch.put(key, *lsn, Value::Image(&page)).await?;
        }
        branch
            .commit(CommitFacts {
                readable_from: Lsn(10),
                last_lsn: versions.last().map_or(Lsn(10), |(lsn, _)| *lsn),
                base_backup: None,
            })
            .await
    };
    // Layers are sealed and uploaded beside that.
    tokio::join!(writing, uploads.run(InlineCpu)).0
}

/// An engine with one core, the catalog of its store, and the threads that talk to that.
fn open(dir: &Path) -> Result<(Engine, Catalog<StoreClient>, StoreThreads), Box<dyn Error>> {
    #[expect(clippy::disallowed_methods, reason = "here clocks begin")]
    let origin = Instant::now();
    let objects = MemoryObjects::new(64 << 10);
    let connect = move || Ok(objects.clone());
    let clock = TokioClock::since(origin);
    let threads = StoreThreads::start(1, connect, &StoreConfig::default(), clock, 1)?;
    let key_space: Arc<dyn KeySpace> = Arc::new(OnePartition);
    let entropy = Entropy::system();
    let keyring = Keyring::create(&dir.join("keyring"), &[], entropy.clone())?;
    let parts = CatalogParts {
        provider: Arc::new(keyring),
        entropy,
        key_space: Arc::clone(&key_space),
        key_space_tag: *b"example1",
    };
    let catalog = Catalog::new(threads.client(), parts);
    let parts = EngineParts {
        store: threads.client(),
        key_space,
        redo: Arc::new(ImagesOnly),
        branches: Arc::new(SharedBranches::new(catalog.clone())),
        server: Id([0; 16]),
        origin,
    };
    let mut config = EngineConfig::new(dir.join("cache"));
    config.cores = 1;
    Ok((Engine::start(&config, parts)?, catalog, threads))
}

/// All keys in one partition: enough for an example.
struct OnePartition;

impl KeySpace for OnePartition {
    fn partition(&self, _: &Key) -> Partition {
        Partition::of_hash(0)
    }

    fn stripe(&self, _: &Key) -> u64 {
        0
    }
}
