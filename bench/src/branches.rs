//! Making branches, against a bare put of an object of that size into the same store: through the catalog, and by a request
//! to a server's admin API. The parents' history is synthetic: only their manifests know of it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::catalog::{
    Catalog, CatalogError, CommitFacts, InlineCpu, Parent, Tenant, WriterConfig,
};
use engine::crypto::page_seal::DekId;
use engine::io::store_thread::StoreThreads;
use engine::io::tokio_clock::TokioClock;
use engine::manifest::{Edit, LayerSection};
use engine::store::faulty::{FaultPlan, Faulty};
use engine::store::objects::{Objects, StoreError};
use engine::store::{StoreClient, StoreConfig};
use engine::types::{BranchId, Key, Lsn, ObjectId, PARTITIONS, Partition};
use pageserver::admin::AdminService;
use pageserver::config::{Config, Size};
use pageserver::data_dir::DataDir;
use pageserver::deployment::{Deployment, DeploymentConfig};
use pageserver::node::Node;
use tokio::runtime::Runtime;

use crate::clock::{now_ns, origin};
use crate::commands::subject;
use crate::counters::Used;
use crate::dataset::Place;
use crate::error::{BenchError, Doing, Result};
use crate::goals::{BRANCH_DISTANT_GROUP, BRANCH_GROUP, CATALOG, PUT, SERVER};
use crate::latency::Latencies;
use crate::options::BranchOptions;
use crate::rounds::{Contestant, Measured, Series, interleave};

/// Makes parents and branches in a folder below the options' `data`, measures, and removes everything again.
///
/// # Errors
/// What the store, the keys or the server say.
pub(crate) fn run(options: &BranchOptions, started_ns: u64) -> Result<Vec<Series>> {
    let folder = std::path::absolute(&options.data).doing(|| "find the folder")?;
    let folder = folder.join("branches");
    // What an earlier run that was broken off has left.
    let _ = fs::remove_dir_all(&folder);
    let outcome = measure(&folder, options, started_ns);
    fs::remove_dir_all(&folder).doing(|| format!("remove {}", folder.display()))?;
    outcome
}

fn measure(folder: &Path, options: &BranchOptions, started_ns: u64) -> Result<Vec<Series>> {
    let place = Place::below(folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "start a runtime")?;
    let near = Store::open(&place, Duration::ZERO)?;
    let first_byte = Duration::from_millis(options.store_first_byte_ms);
    let distant = Store::open(&place, first_byte)?;
    let server = runtime.block_on(Server::start(&place))?;
    let mut series = Vec::new();
    for (branches, layers, shape) in [
        (0, GIB_LAYERS, "1 GiB".to_owned()),
        (0, TIB_LAYERS, "100 TiB".to_owned()),
        (
            options.branches,
            TIB_LAYERS,
            format!("100 TiB, {}", options.branches),
        ),
    ] {
        tracing::info!("making a parent of {shape} branches");
        let mut tenant = runtime.block_on(Bench::make(&near, layers, branches))?;
        let creates = options.creates;
        for (group, store, with_server) in [
            (BRANCH_GROUP, &near, true),
            (BRANCH_DISTANT_GROUP, &distant, false),
        ] {
            let tenant = std::cell::RefCell::new(&mut tenant);
            let runtime = &runtime;
            let mut contestants: Vec<Contestant<'_>> = vec![
                (
                    subject(group, PUT, &shape, None),
                    Box::new(|| tenant.borrow_mut().puts(runtime, store, creates)),
                ),
                (
                    subject(group, CATALOG, &shape, Some(PUT)),
                    Box::new(|| tenant.borrow_mut().creates(runtime, store, creates)),
                ),
            ];
            if with_server {
                contestants.push((
                    subject(group, SERVER, &shape, Some(PUT)),
                    Box::new(|| tenant.borrow_mut().requests(&server, creates)),
                ));
            }
            series.extend(interleave(contestants, options.run.rounds, started_ns)?);
        }
    }
    runtime.block_on(server.node.stop(STOP_MAX));
    server.admin.stop();
    Ok(series)
}

/// A way to the object store, through store threads as a server has it.
struct Store {
    catalog: Catalog<StoreClient>,
    _threads: StoreThreads,
}

impl Store {
    /// Every answer takes `delay` longer than the local directory does.
    fn open(place: &Place, delay: Duration) -> Result<Store> {
        let url = place.store_url()?;
        let clock = TokioClock::since(origin());
        let connect = move || {
            let plan = FaultPlan::distant(delay, None);
            Ok(Faulty::new(url.connect()?, clock, plan, 1))
        };
        let config = StoreConfig::default();
        let threads = StoreThreads::start(1, connect, &config, clock, 1)
            .map_err(|e| BenchError::Unfit(e.to_string()))?;
        Ok(Store {
            catalog: Catalog::new(threads.client(), place.catalog_parts()?),
            _threads: threads,
        })
    }
}

/// A server in this process, and its admin API.
struct Server {
    node: Node,
    admin: AdminService,
    agent: ureq::Agent,
}

impl Server {
    async fn start(place: &Place) -> Result<Server> {
        let unfit = |e: String| BenchError::Unfit(format!("server: {e}"));
        let mut config = Config::default();
        config.runtime.cores = 1;
        config.cache.size = Size(64 << 20);
        config.pages.listen.set_port(0);
        config.admin.listen.set_port(0);
        let store_url = format!("file://{}", place.objects.display());
        let deployment = DeploymentConfig {
            store_url: store_url.clone(),
            variables: std::collections::BTreeMap::new(),
            keyring: place.keyring.clone(),
            places_of_data: vec![place.objects.clone()],
            store_threads: 1,
        };
        let deployment = Deployment::open(&deployment).map_err(|e| unfit(e.to_string()))?;
        let data_dir = DataDir::new(&place.served);
        let nothing = std::collections::BTreeMap::new();
        let node = Node::start(&config, &data_dir, deployment, store_url, nothing).await;
        let node = node.map_err(|e| unfit(e.to_string()))?;
        let admin = AdminService::start(&config.admin, Arc::clone(node.running()));
        Ok(Server {
            node,
            admin: admin.map_err(|e| unfit(e.to_string()))?,
            agent: ureq::Agent::new_with_defaults(),
        })
    }
}

/// A tenant with a parent of some size.
struct Bench {
    tenant: Arc<Tenant>,
    parent: Parent,
    /// For names that nobody has used.
    made: u64,
}

impl Bench {
    /// Makes the tenant, the parent, and as many branches of it.
    async fn make(store: &Store, layers: u32, branches: u32) -> Result<Bench> {
        let catalog = &store.catalog;
        let name = format!("t-{layers}-{branches}");
        let tenant = catalog.create_tenant(&name).await.map_err(failed)?;
        let id = make_parent(catalog, &tenant, layers)
            .await
            .map_err(failed)?;
        let parent = catalog.find_parent(&tenant, PARENT).await.map_err(failed)?;
        assert_eq!(parent.id(), id, "it was just made");
        let mut bench = Bench {
            tenant,
            parent,
            made: 0,
        };
        for _ in 0..branches {
            bench.create(store).await?;
        }
        Ok(bench)
    }

    fn next_name(&mut self) -> String {
        self.made += 1;
        format!("branch-{}", self.made)
    }

    async fn create(&mut self, store: &Store) -> Result<()> {
        let name = self.next_name();
        let create = store
            .catalog
            .create_child(&self.tenant, &name, &self.parent, None);
        create.await.map_err(failed)?;
        Ok(())
    }

    fn creates(&mut self, runtime: &Runtime, store: &Store, count: u32) -> Result<Measured> {
        timed(count, || runtime.block_on(self.create(store)))
    }

    /// Puts objects of about the size of a branch's record, each into a directory of its own.
    fn puts(&mut self, runtime: &Runtime, store: &Store, count: u32) -> Result<Measured> {
        timed(count, || {
            let path = format!("bench/{}/{}/00000000", self.tenant.id(), self.next_name());
            let body = Bytes::from(vec![0x5a; RECORD_BYTES]);
            let put = store.catalog.objects().put_if_absent(&path, body);
            runtime
                .block_on(put)
                .map_err(|e: StoreError| BenchError::Unfit(format!("store: {e}")))
        })
    }

    /// Asks the server, which knows the parent after the first request.
    fn requests(&mut self, server: &Server, count: u32) -> Result<Measured> {
        self.request(server)?;
        timed(count, || self.request(server))
    }

    fn request(&mut self, server: &Server) -> Result<()> {
        let (tenant, address) = (self.tenant.name(), server.admin.address());
        let url = format!("http://{address}/v1/tenants/{tenant}/branches");
        let body = serde_json::json!({ "name": self.next_name(), "parent": PARENT });
        let asked = server.agent.post(&url).send_json(&body);
        let answered = asked.and_then(|mut answer| answer.body_mut().read_to_vec());
        answered
            .map(|_| ())
            .map_err(|e| BenchError::Unfit(format!("POST {url}: {e}")))
    }
}

/// A branch that has `layers` of 128 MiB by its manifest.
async fn make_parent(
    catalog: &Catalog<StoreClient>,
    tenant: &Arc<Tenant>,
    layers: u32,
) -> std::result::Result<BranchId, CatalogError> {
    let begun = catalog.begin_branch(tenant, PARENT, vec![], WriterConfig::default());
    let (writer, uploads) = begun.await?;
    let facts = CommitFacts {
        readable_from: LSN,
        last_lsn: LSN,
        base_backup: None,
    };
    let (id, ()) = futures_util::join!(writer.commit(facts), uploads.run(InlineCpu));
    let id = id?;
    let mut log = catalog.claim_branch(tenant, id).await?;
    let section = |number: u32| LayerSection {
        partition: Partition::of_hash(number % u32::from(PARTITIONS)),
        first_key: Key([0; 24]),
        last_key: Key::MAX,
        first_lsn: LSN,
        last_lsn: LSN,
        object: ObjectId {
            branch: id,
            epoch: u32::MAX,
            sequence: u64::from(number),
        },
        dek: DekId { table: 0, slot: 0 },
        index_at: 127 << 20,
        index_bytes: 1 << 20,
        object_bytes: 128 << 20,
    };
    let mut numbers = 0..layers;
    while !numbers.is_empty() {
        let edit = Edit {
            last_lsn: LSN,
            added: numbers
                .by_ref()
                .take(SECTIONS_PER_EDIT)
                .map(section)
                .collect(),
            ..Edit::default()
        };
        log.commit(edit).await?;
    }
    Ok(id)
}

/// The same operation so often, one after the other.
fn timed(count: u32, mut operation: impl FnMut() -> Result<()>) -> Result<Measured> {
    let mut latencies = Latencies::new();
    let start_ns = now_ns();
    let mut now = start_ns;
    for _ in 0..count {
        operation()?;
        let end = now_ns();
        latencies.record(end - now);
        now = end;
    }
    Ok(Measured {
        ops: u64::from(count),
        elapsed: Duration::from_nanos(now - start_ns),
        latencies,
        used: Used::default(),
        errors: 0,
    })
}

fn failed(error: CatalogError) -> BenchError {
    BenchError::Unfit(format!("catalog: {error}"))
}

const PARENT: &str = "main";
const LSN: Lsn = Lsn(0x1000_0000);
/// Layers of 128 MiB.
const GIB_LAYERS: u32 = 8;
const TIB_LAYERS: u32 = 800_000;
/// They fit one entry of the manifest.
const SECTIONS_PER_EDIT: usize = 25_000;
/// Bytes of the record of a branch with a short name.
const RECORD_BYTES: usize = 256;
/// For what the server has not answered.
const STOP_MAX: Duration = Duration::from_secs(2);
