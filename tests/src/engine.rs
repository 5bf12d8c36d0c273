//! An engine on real cores over a store in memory that counts, delays, fails and can be tampered with.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use engine::cache::CacheConfig;
use engine::catalog::{Catalog, CatalogParts, CommitFacts, InlineCpu, WriterConfig};
use engine::crypto::entropy::Entropy;
use engine::crypto::kek::Kek;
use engine::crypto::key_provider::{EncryptionContext, KeyProvider, KeyProviderError, WrappedKek};
use engine::crypto::keyring::Keyring;
use engine::crypto::page_seal::DekId;
use engine::io::store_thread::StoreThreads;
use engine::io::tokio_clock::TokioClock;
use engine::layer::Value;
use engine::manifest::{ENTRIES_PER_SNAPSHOT, Edit, LayerSection, ManifestLog};
use engine::store::memory::MemoryObjects;
use engine::store::objects::{ListedObject, Objects, StoreError};
use engine::store::{StoreClient, StoreConfig};
use engine::types::{
    BranchId, Id, Key, KeySpace, Lsn, ObjectId, PAGE_BYTES, PARTITIONS, Partition, TenantId,
};
use engine::{Core, Engine, EngineConfig, EngineParts, SharedBranches};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, stream};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use simulation::redo::PatternRedo;

/// Keys are a relation and a block, both big-endian u32; stripes are 1,024 blocks.
pub struct BlockSpace;

impl KeySpace for BlockSpace {
    fn partition(&self, key: &Key) -> Partition {
        Partition::of_hash(crc32c::crc32c(&self.stripe(key).to_be_bytes()))
    }

    fn stripe(&self, key: &Key) -> u64 {
        let (relation, block) = (word(key, 0), word(key, 20));
        u64::from(relation) << 32 | u64::from(block / 1024)
    }
}

/// Whose cache it is.
pub const SERVER: Id = Id([9; 16]);

/// The key of a block. The block is in the last four bytes, as in Postgres's keys.
pub fn block_key(relation: u32, block: u32) -> Key {
    let mut key = [0; 24];
    key[..4].copy_from_slice(&relation.to_be_bytes());
    key[20..].copy_from_slice(&block.to_be_bytes());
    Key(key)
}

fn word(key: &Key, at: usize) -> u32 {
    u32::from_be_bytes(key.0[at..at + 4].try_into().expect("four bytes"))
}

/// The page that [`Site::write_branch`] gives a block: random bytes, the same for the same seed, key and LSN.
pub fn page_of(key: &Key, lsn: Lsn) -> Vec<u8> {
    let mut seed = [0; 32];
    seed[..24].copy_from_slice(&key.0);
    seed[24..].copy_from_slice(&lsn.0.to_le_bytes());
    let mut page = vec![0; PAGE_BYTES];
    ChaCha8Rng::from_seed(seed).fill_bytes(&mut page);
    page
}

/// What a store that has lost its mind answers to reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nonsense {
    /// Bodies as long as they should be, of other bytes.
    OtherBytes,
    /// Bodies that go on and on.
    TooMuch,
    /// Bodies that end at once.
    Nothing,
}

impl Nonsense {
    /// Every kind.
    pub const ALL: [Nonsense; 3] = [Nonsense::OtherBytes, Nonsense::TooMuch, Nonsense::Nothing];

    /// The body, where one of `len_bytes` was to come.
    fn body(self, len_bytes: u64) -> Bytes {
        let len_bytes = usize::try_from(len_bytes).expect("objects of tests are small");
        let len_bytes = match self {
            Nonsense::OtherBytes => len_bytes,
            Nonsense::TooMuch => 3 * len_bytes + 1,
            Nonsense::Nothing => 0,
        };
        Bytes::from(b"<html>nonsense</html>".repeat(len_bytes / 21 + 1)).slice(..len_bytes)
    }
}

/// What a test may do to the store while the engine uses it, and what it counted.
#[derive(Clone, Default)]
pub struct StoreControl {
    state: Arc<ControlState>,
}

#[derive(Default)]
struct ControlState {
    away: AtomicBool,
    panics: AtomicBool,
    delay_us: AtomicU64,
    nonsense: Mutex<Option<Nonsense>>,
    /// While somebody has the other end, bodies of ranged reads stop half way.
    held: Mutex<Option<Receiver<()>>>,
    reads: Mutex<Vec<(String, Range<u64>)>>,
    requests: AtomicU64,
    in_flight: AtomicU64,
    rounds: AtomicU64,
    key_calls: AtomicU64,
}

impl StoreControl {
    /// Makes every request fail, or work again.
    pub fn set_away(&self, away: bool) {
        self.state.away.store(away, Ordering::SeqCst);
    }

    /// Makes the next request panic in its thread.
    pub fn panic_at_next_request(&self) {
        self.state.panics.store(true, Ordering::SeqCst);
    }

    /// Delays every request by this much.
    pub fn set_delay(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).expect("a short delay");
        self.state.delay_us.store(micros, Ordering::SeqCst);
    }

    /// Makes the store answer reads with nonsense, or with what it has again.
    pub fn set_nonsense(&self, nonsense: Option<Nonsense>) {
        *self.state.nonsense.lock().expect("no test panics with it") = nonsense;
    }

    fn nonsense(&self) -> Option<Nonsense> {
        *self.state.nonsense.lock().expect("no test panics with it")
    }

    /// From now on the second half of every body of a ranged read comes when what this returns is dropped.
    pub fn hold_second_halves(&self) -> Sender<()> {
        let (release, held) = async_channel::bounded(1);
        *self.state.held.lock().expect("no test panics with it") = Some(held);
        release
    }

    /// Ranged reads of objects whose path contains `part`, so far.
    pub fn reads_of(&self, part: &str) -> Vec<(String, Range<u64>)> {
        let reads = self.state.reads.lock().expect("no test panics with it");
        reads
            .iter()
            .filter(|(path, _)| path.contains(part))
            .cloned()
            .collect()
    }

    /// Requests of any kind so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Dependent round trips so far: how often the store went from idle to busy. Exact while every request is
    /// delayed for longer than it takes to issue those that do not depend on it.
    pub fn rounds(&self) -> u64 {
        self.state.rounds.load(Ordering::SeqCst)
    }

    /// Calls to the key provider so far.
    pub fn key_calls(&self) -> u64 {
        self.state.key_calls.load(Ordering::SeqCst)
    }

    async fn pass(&self, path: &str) -> Result<(), StoreError> {
        self.state.requests.fetch_add(1, Ordering::SeqCst);
        let panics = self.state.panics.swap(false, Ordering::SeqCst);
        assert!(!panics, "the test asked for it");
        if self.state.in_flight.fetch_add(1, Ordering::SeqCst) == 0 {
            self.state.rounds.fetch_add(1, Ordering::SeqCst);
        }
        let outcome = self.answer(path).await;
        self.state.in_flight.fetch_sub(1, Ordering::SeqCst);
        outcome
    }

    async fn answer(&self, path: &str) -> Result<(), StoreError> {
        let delay = self.state.delay_us.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
        if self.state.away.load(Ordering::SeqCst) {
            let reason = "the test took the store away".to_owned();
            return Err(StoreError::Unavailable {
                path: path.to_owned(),
                reason,
            });
        }
        Ok(())
    }
}

/// [`MemoryObjects`] under a [`StoreControl`].
#[derive(Clone)]
pub struct ControlledObjects {
    objects: MemoryObjects,
    control: StoreControl,
}

impl Objects for ControlledObjects {
    type Body = BoxStream<'static, Result<Bytes, StoreError>>;

    async fn get(&self, path: &str, range: Range<u64>) -> Result<Self::Body, StoreError> {
        self.control
            .state
            .reads
            .lock()
            .expect("no test panics with it")
            .push((path.to_owned(), range.clone()));
        self.control.pass(path).await?;
        if let Some(nonsense) = self.control.nonsense() {
            let body = nonsense.body(range.end - range.start);
            return Ok(stream::iter([Ok(body)]).boxed());
        }
        let mut chunks: Vec<_> = self.objects.get(path, range).await?.collect().await;
        let held = self.control.state.held.lock();
        let held = held.expect("no test panics with it").clone();
        let rest = chunks.split_off(chunks.len() / 2);
        let rest = async move {
            if let Some(held) = held {
                // Nothing is ever sent: it ends when the other end is dropped.
                let _closed = held.recv().await;
            }
            stream::iter(rest)
        };
        Ok(stream::iter(chunks).chain(rest.flatten_stream()).boxed())
    }

    async fn get_all(&self, path: &str) -> Result<Bytes, StoreError> {
        self.control.pass(path).await?;
        let whole = self.objects.get_all(path).await?;
        let nonsense = self.control.nonsense();
        Ok(nonsense.map_or(whole.clone(), |nonsense| nonsense.body(whole.len() as u64)))
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<(), StoreError> {
        self.control.pass(path).await?;
        self.objects.put_if_absent(path, body).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<ListedObject>, StoreError> {
        self.control.pass(prefix).await?;
        self.objects.list(prefix, after).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.control.pass(path).await?;
        self.objects.delete(path).await
    }
}

/// A keyring under a [`StoreControl`], which counts its calls.
struct CountedProvider {
    keyring: Keyring,
    control: StoreControl,
}

impl KeyProvider for CountedProvider {
    fn name(&self) -> &'static str {
        self.keyring.name()
    }

    fn wrap<'a>(
        &'a self,
        kek: &'a Kek,
        context: &'a EncryptionContext,
    ) -> BoxFuture<'a, Result<WrappedKek, KeyProviderError>> {
        self.control.state.key_calls.fetch_add(1, Ordering::SeqCst);
        self.keyring.wrap(kek, context)
    }

    fn unwrap<'a>(
        &'a self,
        wrapped: &'a WrappedKek,
        context: &'a EncryptionContext,
    ) -> BoxFuture<'a, Result<Kek, KeyProviderError>> {
        self.control.state.key_calls.fetch_add(1, Ordering::SeqCst);
        self.keyring.unwrap(wrapped, context)
    }
}

/// Store, keys and a data directory: what outlives an engine.
pub struct Site {
    dir: tempfile::TempDir,
    keyring: PathBuf,
    /// The store's content.
    pub objects: MemoryObjects,
    /// The store's behaviour.
    pub control: StoreControl,
    /// The only tenant.
    pub tenant: TenantId,
}

impl Site {
    /// A site with a tenant and nothing else. Direct IO needs a real file system: it lies under `target/`.
    pub async fn new() -> Site {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp");
        std::fs::create_dir_all(&root).expect("target can be written");
        let dir = tempfile::tempdir_in(root).expect("target/tmp can be written");
        let keyring = dir.path().join("keyring");
        Keyring::create(&keyring, &[], Entropy::system()).expect("a new keyring");
        let mut site = Site {
            dir,
            keyring,
            objects: MemoryObjects::new(16 << 10),
            control: StoreControl::default(),
            tenant: TenantId(Id([0; 16])),
        };
        let tenant = site
            .catalog(site.objects())
            .create_tenant("shop")
            .await
            .expect("a new tenant");
        site.tenant = tenant.id();
        site
    }

    /// The store as clients see it.
    pub fn objects(&self) -> ControlledObjects {
        ControlledObjects {
            objects: self.objects.clone(),
            control: self.control.clone(),
        }
    }

    /// A catalog over any way to the store.
    pub fn catalog<O: Objects>(&self, objects: O) -> Catalog<O> {
        let keyring =
            Keyring::open(&self.keyring, &[], Entropy::system()).expect("its own keyring");
        let parts = CatalogParts {
            provider: Arc::new(CountedProvider {
                keyring,
                control: self.control.clone(),
            }),
            entropy: Entropy::system(),
            key_space: Arc::new(BlockSpace),
            key_space_tag: *b"blocks v",
        };
        Catalog::new(objects, parts)
    }

    /// Writes a branch with these blocks, each as [`page_of`] says, readable from the lowest LSN to the highest.
    pub async fn write_branch(&self, name: &str, versions: &[(Key, Lsn)]) -> BranchId {
        let catalog = self.catalog(self.objects());
        let tenant = catalog.tenant(self.tenant).await.expect("the tenant");
        let config = WriterConfig {
            window_bytes: 8 << 20,
            ..WriterConfig::default()
        };
        let begun = catalog.begin_branch(&tenant, name, vec![], config).await;
        let (mut writer, uploads) = begun.expect("a new branch");
        let writing = async {
            for (key, lsn) in versions {
                writer
                    .put(*key, *lsn, Value::Image(&page_of(key, *lsn)))
                    .await?;
            }
            let lsns = versions.iter().map(|(_, lsn)| *lsn);
            let facts = CommitFacts {
                readable_from: lsns.clone().min().expect("a version"),
                last_lsn: lsns.max().expect("a version"),
                base_backup: None,
            };
            writer.commit(facts).await
        };
        tokio::join!(writing, uploads.run(InlineCpu))
            .0
            .expect("committed")
    }

    /// Writes a branch that leaves `parent` at `at`, with these blocks on top.
    pub async fn write_child(
        &self,
        name: &str,
        (parent, at): (BranchId, Lsn),
        versions: &[(Key, Lsn)],
        last_lsn: Lsn,
    ) -> BranchId {
        let catalog = self.catalog(self.objects());
        let tenant = catalog.tenant(self.tenant).await.expect("the tenant");
        let parent = catalog
            .open_branch(self.tenant, parent)
            .await
            .expect("the parent");
        let config = WriterConfig::default();
        let begun = catalog
            .begin_child(&tenant, name, &parent, at, config)
            .await;
        let (mut writer, uploads) = begun.expect("a new branch");
        let writing = async {
            for (key, lsn) in versions {
                writer
                    .put(*key, *lsn, Value::Image(&page_of(key, *lsn)))
                    .await?;
            }
            let facts = CommitFacts {
                readable_from: parent.readable_from().expect("a complete parent"),
                last_lsn,
                base_backup: None,
            };
            writer.commit(facts).await
        };
        tokio::join!(writing, uploads.run(InlineCpu))
            .0
            .expect("committed")
    }

    /// Gives a branch `layers` more layers of 128 MiB, all of other relations than tests read. Only the manifest knows of
    /// them: there are no objects. It ends a few entries behind a snapshot that has them all.
    pub async fn name_layers(&self, branch: BranchId, layers: u32) {
        let catalog = self.catalog(self.objects());
        let tenant = catalog.tenant(self.tenant).await.expect("the tenant");
        let keys = Arc::clone(tenant.keys());
        let claimed = ManifestLog::claim(self.objects(), keys, branch, Entropy::system()).await;
        let mut log = claimed.expect("nobody else writes");
        let last_lsn = log.facts().last_lsn;
        let section = |number: u32| LayerSection {
            partition: Partition::of_hash(number % u32::from(PARTITIONS)),
            first_key: block_key(u32::MAX, number),
            last_key: Key::MAX,
            first_lsn: last_lsn,
            last_lsn,
            object: ObjectId {
                branch,
                epoch: u32::MAX,
                sequence: u64::from(number),
            },
            dek: DekId { table: 0, slot: 0 },
            index_at: 127 << 20,
            index_bytes: 1 << 20,
            object_bytes: 128 << 20,
        };
        let mut numbers = 0..layers;
        for _ in 0..ENTRIES_PER_SNAPSHOT + 4 {
            let added = numbers.by_ref().take(25_000).map(section).collect();
            let edit = Edit {
                last_lsn,
                added,
                ..Edit::default()
            };
            log.commit(edit).await.expect("a commit");
        }
        assert!(numbers.is_empty(), "more than the entries take");
    }

    /// Writes a branch of any values, in this order, in windows so small that its layers overlap in time; as a child of another
    /// branch if it leaves one. Readable from the lowest LSN (or from where the parent is) to the highest.
    pub async fn write_values(
        &self,
        name: &str,
        parent: Option<(BranchId, Lsn)>,
        versions: &[(Key, Lsn, Value<'_>)],
    ) -> BranchId {
        let catalog = self.catalog(self.objects());
        let tenant = catalog.tenant(self.tenant).await.expect("the tenant");
        let config = WriterConfig {
            window_bytes: 64 << 10,
            ..WriterConfig::default()
        };
        let lsns = versions.iter().map(|(_, lsn, _)| *lsn);
        let mut readable_from = lsns.clone().min().expect("a version");
        let begun = match parent {
            None => catalog.begin_branch(&tenant, name, vec![], config).await,
            Some((parent, at)) => {
                let parent = catalog.open_branch(self.tenant, parent).await;
                let parent = parent.expect("the parent");
                readable_from = parent.readable_from().expect("a complete parent");
                catalog
                    .begin_child(&tenant, name, &parent, at, config)
                    .await
            }
        };
        let (mut writer, uploads) = begun.expect("a new branch");
        let writing = async {
            for (key, lsn, value) in versions {
                writer.put(*key, *lsn, *value).await?;
            }
            let facts = CommitFacts {
                readable_from,
                last_lsn: lsns.max().expect("a version"),
                base_backup: None,
            };
            writer.commit(facts).await
        };
        tokio::join!(writing, uploads.run(InlineCpu))
            .0
            .expect("committed")
    }

    /// Where the engine keeps its cache.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The cache it has there, if a test does not adjust it.
    pub fn cache_config(&self) -> CacheConfig {
        CacheConfig {
            cache_bytes: 64 << 20,
            ..CacheConfig::default()
        }
    }

    /// Starts an engine on this site.
    pub fn start(&self, cores: usize, adjust: impl FnOnce(&mut EngineConfig)) -> RunningEngine {
        #[expect(
            clippy::disallowed_methods,
            reason = "the origin of this engine's clocks"
        )]
        let origin = Instant::now();
        std::fs::create_dir_all(self.data_dir()).expect("the data directory");
        let objects = self.objects();
        let store = StoreConfig {
            first_byte_deadline: Duration::from_millis(500),
            body_deadline: Duration::from_millis(500),
            operation_deadline: Duration::from_secs(1),
            attempts_max: 2,
            hedge_percent_max: 0,
            ..StoreConfig::default()
        };
        let connect = move || Ok(objects.clone());
        let clock = TokioClock::since(origin);
        let threads = StoreThreads::start(1, connect, &store, clock, 1).expect("store threads");
        let mut config = EngineConfig {
            cores,
            cache: self.cache_config(),
            ..EngineConfig::new(self.data_dir())
        };
        // No request but those of a test.
        config.shard.refresh_every = None;
        adjust(&mut config);
        let client = threads.client();
        let parts = EngineParts {
            store: client.clone(),
            key_space: Arc::new(BlockSpace),
            redo: Arc::new(PatternRedo),
            branches: Arc::new(SharedBranches::new(self.catalog(client))),
            server: SERVER,
            origin,
        };
        let engine = Arc::new(Engine::start(&config, parts).expect("the engine starts"));
        RunningEngine { engine, threads }
    }
}

/// An engine and its store threads.
pub struct RunningEngine {
    /// The engine.
    pub engine: Arc<Engine>,
    threads: StoreThreads,
}

impl RunningEngine {
    /// Runs `task` on a core and returns what it returns.
    pub async fn on_core<T, F>(&self, core: usize, task: F) -> T
    where
        T: Send + 'static,
        F: AsyncFnOnce(Core) -> T + Send + 'static,
    {
        let (reply, answer) = async_channel::bounded(1);
        self.engine
            .run_on_core(core, async move |core: Core| {
                let value = task(core).await;
                // The test waits for it.
                let _ = reply.send(value).await;
            })
            .await;
        answer.recv().await.expect("the task ends")
    }

    /// The way to the store that the engine uses.
    pub fn store(&self) -> StoreClient {
        self.threads.client()
    }

    /// Stops the engine as a server does.
    pub fn stop(self) {
        self.engine.stop().expect("no core panicked");
        self.threads.shutdown(Duration::from_secs(5));
    }
}
