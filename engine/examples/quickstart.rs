//! The engine as a library: write versions of a page, branch off, and read at several LSNs.
//!
//! `cargo run --release -p pageserver-engine --example quickstart`

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::catalog::{Catalog, CatalogParts, CommitFacts, InlineCpu, WriterConfig};
use engine::crypto::{entropy::Entropy, keyring::Keyring};
use engine::io::{store_thread::StoreThreads, tokio_clock::TokioClock};
use engine::layer::Value;
use engine::redo::ImagesOnly;
use engine::store::{StoreConfig, memory::MemoryObjects};
use engine::types::{Id, Key, KeySpace, Lsn, Partition};
use engine::{Core, Engine, EngineConfig, EngineParts, SharedBranches};

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

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[expect(clippy::disallowed_methods, reason = "main is where clocks begin")]
    let origin = Instant::now();
    let dir = tempfile::tempdir()?;
    let provider = Arc::new(Keyring::create(
        &dir.path().join("keyring"),
        &[],
        Entropy::system(),
    )?);
    let key_space: Arc<dyn KeySpace> = Arc::new(OnePartition);
    let parts = CatalogParts {
        provider,
        entropy: Entropy::system(),
        key_space: Arc::clone(&key_space),
        key_space_tag: *b"example1",
    };
    let objects = MemoryObjects::new(64 << 10);
    let connect = move || Ok(objects.clone());
    let clock = TokioClock::since(origin);
    let threads = StoreThreads::start(1, connect, &StoreConfig::default(), clock, 1)?;
    let catalog = Catalog::new(threads.client(), parts);

    // Two versions of one page on a branch, and a third one on a branch of that branch.
    let (key, ten, twenty, thirty) = (Key([7; 24]), Lsn(10), Lsn(20), Lsn(30));
    let tenant = catalog.create_tenant("shop").await?;
    let config = WriterConfig::default();
    let (mut main, uploads) = catalog
        .begin_branch(&tenant, "main", vec![], config.clone())
        .await?;
    let writing = async {
        main.put(key, ten, Value::Image(&[1; 8192])).await?;
        main.put(key, twenty, Value::Image(&[2; 8192])).await?;
        main.commit(CommitFacts {
            readable_from: ten,
            last_lsn: twenty,
            base_backup: None,
        })
        .await
    };
    let main = tokio::join!(writing, uploads.run(InlineCpu)).0?;
    let parent = catalog.open_branch(tenant.id(), main).await?;
    let (mut dev, uploads) = catalog
        .begin_child(&tenant, "dev", &parent, ten, config)
        .await?;
    let writing = async {
        dev.put(key, thirty, Value::Image(&[3; 8192])).await?;
        dev.commit(CommitFacts {
            readable_from: ten,
            last_lsn: thirty,
            base_backup: None,
        })
        .await
    };
    let dev = tokio::join!(writing, uploads.run(InlineCpu)).0?;

    // Read them through a pinned core.
    let engine = Engine::start(
        &EngineConfig {
            cores: 1,
            ..EngineConfig::new(dir.path().join("data"))
        },
        EngineParts {
            store: threads.client(),
            key_space,
            redo: Arc::new(ImagesOnly),
            branches: Arc::new(SharedBranches::new(catalog)),
            server: Id([0; 16]),
            origin,
        },
    )?;
    let (reply, answers) = async_channel::bounded(8);
    let tenant = tenant.id();
    let read = async move |core: Core| {
        for (branch, at) in [
            (main, ten),
            (main, twenty),
            (dev, ten),
            (dev, twenty),
            (dev, thirty),
        ] {
            let value = match core.open_branch(tenant, branch).await {
                Ok(open) => core.read(&open, key, at).await,
                Err(error) => Err(error),
            };
            let _ = reply.send(value.map(|page| page[0])).await;
        }
    };
    engine.run_on_core(0, read).await;
    for expected in [1, 2, 1, 1, 3] {
        let version = answers.recv().await??;
        println!("page version {version}");
        assert_eq!(version, expected);
    }
    engine.stop()?;
    threads.shutdown(Duration::from_secs(5));
    Ok(())
}
