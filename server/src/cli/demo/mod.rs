//! `pageserver demo`: the main job on this machine, with no other set-up, checked page by page and measured.

mod client;
mod pages;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use engine::Core;
use engine::catalog::{CommitFacts, WriterConfig};
use engine::crypto::entropy::Entropy;
use engine::crypto::keyring::Keyring;
use engine::layer::Value;
use engine::manifest::TimelineSpan;
use engine::types::{Lsn, PAGE_BYTES};
use hdrhistogram::Histogram;
use postgres::import::{ImportSource, REPLAY_BYTES_DEFAULT};
use postgres::key::{DEFAULT_TABLESPACE, Fork, PostgresKey, Relation};
use postgres::local_cluster::{
    Binaries, ClusterOptions, LocalCluster, LocalClusterError, StopMode,
};
use postgres::replication::{BackupOptions, ConnectionDefaults, ConnectionSettings};
use postgres::value::RelationSize;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use self::client::PageClient;
use self::pages::Run;
use super::Context;
use super::import::{Display, human, now, rate};
use crate::config::{Config, Size};
use crate::data_dir::DataDir;
use crate::deployment::{Deployment, DeploymentConfig};
use crate::exit::{Exit, Failure, OrExit};
use crate::import_job::{self, spawn_uploads};
use crate::node::Node;
use crate::running::on_core;

const EXAMPLES: &str = "\
Examples:
  pageserver demo
  pageserver demo --scale 100                a pgbench database of 1.5 GB
  pageserver demo --generated                without PostgreSQL

Makes a throw-away cluster with the PostgreSQL found on this machine, fills it with pgbench, imports it over the
replication protocol into sealed objects, serves it, and compares every page with the cluster's own files. Then empties
the cache and reads again through the object store. All of it in a temporary folder that is removed at the end.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DemoArguments {
    /// Scale of the pgbench database: 15 MB each.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    scale: u32,
    /// Generated pages instead of a cluster.
    #[arg(long)]
    generated: bool,
    /// Folder of PostgreSQL's programs [default: the newest found].
    #[arg(long, value_name = "DIR")]
    postgres: Option<PathBuf>,
    /// Where the temporary folder is made [default: the system's].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(super) fn run(context: &Context, arguments: &DemoArguments) -> Result<(), Failure> {
    let folder = match &arguments.folder {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    }
    .or_exit(Exit::Other)?;
    let mut steps = Steps::default();
    let cluster = if arguments.generated {
        None
    } else {
        make_cluster(context, arguments, folder.path(), &mut steps)?
    };
    let home = Home::make(folder.path())?;
    let deployment = Deployment::open(&home.deployment)?;
    let runtime = import_job::runtime().or_exit(Exit::Other)?;
    runtime.block_on(deployment.probe())?;
    runtime.block_on(deployment.catalog.create_tenant(TENANT))?;
    let runs = match cluster {
        Some(cluster) => import_cluster(&deployment, cluster, &mut steps)?,
        None => steps.timed("generate pages into sealed objects", || {
            generate(&deployment)
        })?,
    };
    let store_url = home.deployment.store_url.clone();
    let node = steps.timed("start the server", || {
        let (config, data_dir, nothing) = (&home.config, &home.data_dir, BTreeMap::new());
        let started = Node::start(config, data_dir, deployment, store_url, nothing);
        Ok(runtime.block_on(started)?)
    })?;
    let address = node.running().pages_address;
    let pages: u64 = runs.iter().map(|run| u64::from(run.blocks)).sum();
    steps.timed(
        &format!(
            "compare {pages} pages, read through port {}",
            address.port()
        ),
        || compare(address, &runs),
    )?;
    let mut table = Vec::new();
    let warm = steps.timed("read again from the local cache, one at a time", || {
        sample(address, &runs, WARM_SAMPLE)
    })?;
    table.push(("local cache", warm));
    empty_caches(&runtime, &node);
    let cold = steps.timed("empty the cache, read through the object store", || {
        sample(address, &runs, COLD_SAMPLE)
    })?;
    table.push(("object store, cache just emptied", cold));
    runtime.block_on(node.stop(Duration::from_secs(2)));
    print_table(&table);
    println!("\nevery one of {pages} pages was equal, byte for byte");
    Ok(())
}

/// Steps with what they took, told as they happen.
#[derive(Default)]
struct Steps {
    count: usize,
}

impl Steps {
    fn timed<T>(
        &mut self,
        what: &str,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.count += 1;
        eprintln!("{:>2}. {what} …", self.count);
        let begun = now();
        let result = work()?;
        eprintln!("    {:.1} s", begun.elapsed().as_secs_f64());
        Ok(result)
    }
}

/// The server's own folders, apart from each other as they should be.
struct Home {
    data_dir: DataDir,
    config: Config,
    deployment: DeploymentConfig,
}

impl Home {
    fn make(folder: &Path) -> Result<Home, Failure> {
        let data_dir = DataDir::new(folder.join("pageserver-data"));
        data_dir.create().or_exit(Exit::Other)?;
        let keyring = folder.join("keys").join("keyring");
        let places = vec![data_dir.path().to_owned()];
        let data: Vec<&Path> = places.iter().map(AsRef::as_ref).collect();
        Keyring::create(&keyring, &data, Entropy::system()).or_exit(Exit::Other)?;
        let mut config = Config::default();
        config.pages.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.cache.size = Size(4 << 30);
        let deployment = DeploymentConfig {
            store_url: format!("file://{}", data_dir.objects().display()),
            variables: BTreeMap::new(),
            keyring,
            places_of_data: places,
            store_threads: 1,
        };
        Ok(Home {
            data_dir,
            config,
            deployment,
        })
    }
}

fn make_cluster(
    context: &Context,
    arguments: &DemoArguments,
    folder: &Path,
    steps: &mut Steps,
) -> Result<Option<LocalCluster>, Failure> {
    let search_path = context
        .surroundings
        .variables
        .get("PATH")
        .map(AsRef::as_ref);
    let binaries = match Binaries::find(arguments.postgres.as_deref(), search_path) {
        Ok(binaries) => binaries,
        Err(e @ LocalClusterError::NoBinaries { .. }) if arguments.postgres.is_none() => {
            eprintln!("{e}\n(apt-get install postgresql; generated pages are used instead)");
            return Ok(None);
        }
        Err(e) => return Err(Failure::new(Exit::NotFound, e)),
    };
    let has_pgbench = binaries.has("pgbench");
    let options = ClusterOptions {
        data_checksums: true,
        // What writes by itself would make the files, which pages are compared with, others than were imported.
        settings: [
            "autovacuum = off",
            "wal_level = replica",
            "max_wal_senders = 4",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..ClusterOptions::default()
    };
    let cluster_folder = folder.join("cluster");
    std::fs::create_dir(&cluster_folder).or_exit(Exit::Other)?;
    // The cluster's user has to reach its own folder below ours.
    open_to_others(folder)?;
    open_to_others(&cluster_folder)?;
    let cluster = steps.timed("make a throw-away cluster", || {
        let mut cluster =
            LocalCluster::create(binaries, &cluster_folder, &options).or_exit(Exit::Other)?;
        cluster.start().or_exit(Exit::Other)?;
        Ok(cluster)
    })?;
    let scale = arguments.scale.to_string();
    steps.timed(&format!("fill it: pgbench, scale {scale}"), || {
        if has_pgbench {
            cluster
                .run("pgbench", &["-i", "-q", "-s", &scale, "postgres"])
                .or_exit(Exit::Other)?;
            cluster
                .run("pgbench", &["-n", "-t", "500", "-c", "2", "postgres"])
                .or_exit(Exit::Other)?;
        } else {
            let rows = u64::from(arguments.scale) * 100_000;
            let sql = format!(
                "create table accounts as select i as aid, 0 as balance, repeat(' ', 84) as filler \
                 from generate_series(1, {rows}) i; create unique index on accounts (aid)"
            );
            cluster.sql("postgres", &sql).or_exit(Exit::Other)?;
        }
        cluster.sql("postgres", "vacuum").or_exit(Exit::Other)?;
        cluster.sql("postgres", "checkpoint").or_exit(Exit::Other)?;
        Ok(())
    })?;
    Ok(Some(cluster))
}

fn open_to_others(folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, mode).or_exit(Exit::Other)
}

fn import_cluster(
    deployment: &Deployment,
    mut cluster: LocalCluster,
    steps: &mut Steps,
) -> Result<Vec<Run>, Failure> {
    let connection = cluster.connection_string();
    let settings = ConnectionSettings::parse(&connection, &ConnectionDefaults::default());
    let source =
        ImportSource::RunningCluster(settings.or_exit(Exit::Other)?, BackupOptions::default());
    let begun = now();
    let imported = steps.timed("import it over the replication protocol", || {
        let mut display = Display::new("imported");
        let imported = import_job::run(
            &deployment.catalog,
            TENANT,
            BRANCH,
            &source,
            REPLAY_BYTES_DEFAULT,
            &mut |done, total| display.show(done, total),
        );
        display.finish();
        Ok(imported?)
    })?;
    let summary = imported.summary;
    eprintln!(
        "    {} of files, {} pages, {}/s",
        human(summary.file_bytes),
        summary.relation_pages,
        human(rate(summary.file_bytes, begun.elapsed()))
    );
    steps.timed("shut the cluster down", || {
        cluster.stop(StopMode::Fast).or_exit(Exit::Other)?;
        pages::of_data_directory(&cluster.data_directory(), summary.start.postgres_major)
            .or_exit(Exit::Other)
    })
}

fn generate(deployment: &Deployment) -> Result<Vec<Run>, Failure> {
    let runtime = import_job::runtime().or_exit(Exit::Other)?;
    let relation = Relation {
        tablespace: DEFAULT_TABLESPACE,
        database: 5,
        number: 16384,
    };
    runtime.block_on(async {
        let catalog = &deployment.catalog;
        let tenant = catalog.find_tenant(TENANT).await?;
        let timelines = vec![TimelineSpan {
            timeline: 1,
            from: GENERATED_LSN,
            to: Lsn::MAX,
        }];
        let begin = catalog.begin_branch(&tenant, BRANCH, timelines, WriterConfig::default());
        let (mut writer, uploads) = begin.await?;
        spawn_uploads(uploads).or_exit(Exit::Other)?;
        let fork = Fork::Main;
        for block in 0..GENERATED_PAGES {
            let key = PostgresKey::Block {
                relation,
                fork,
                block,
            }
            .encode();
            let page = pages::made_page(block);
            writer
                .put(key, GENERATED_LSN, Value::Image(page.as_slice()))
                .await?;
        }
        let size = RelationSize {
            blocks: GENERATED_PAGES,
            generation: Lsn::INVALID,
        };
        let key = PostgresKey::RelationSize { relation, fork }.encode();
        writer
            .put(key, GENERATED_LSN, Value::Image(&size.encode()))
            .await?;
        let facts = CommitFacts {
            readable_from: GENERATED_LSN,
            last_lsn: GENERATED_LSN,
            base_backup: None,
        };
        writer.commit(facts).await?;
        Ok::<(), Failure>(())
    })?;
    Ok(vec![Run::made(relation, GENERATED_PAGES)])
}

/// Reads every page and compares it; several at once, as a compute would.
fn compare(server: SocketAddr, runs: &[Run]) -> Result<(), Failure> {
    let mut client = PageClient::open(server, TENANT, BRANCH).or_exit(Exit::Unavailable)?;
    let mut right = vec![0; PAGE_BYTES];
    for run in runs {
        let mut truth = run.truth().or_exit(Exit::Other)?;
        let blocks = run.first_block..run.first_block + run.blocks;
        for first in blocks.clone().step_by(BATCH) {
            let last = blocks
                .end
                .min(first.saturating_add(u32::try_from(BATCH).expect("a few")));
            client
                .ask(run.rel, first..last)
                .or_exit(Exit::Unavailable)?;
            for block in first..last {
                let page = client.page().or_exit(Exit::Unavailable)?;
                truth.read_exact(&mut right).or_exit(Exit::Other)?;
                if page != right {
                    let text = format!("{} block {block} differs from the cluster's own", run.rel);
                    return Err(Failure::new(Exit::Corrupt, text));
                }
            }
        }
    }
    Ok(())
}

/// Latencies of single reads of random pages, in nanoseconds.
fn sample(server: SocketAddr, runs: &[Run], count: u64) -> Result<Histogram<u64>, Failure> {
    let mut client = PageClient::open(server, TENANT, BRANCH).or_exit(Exit::Unavailable)?;
    let mut histogram = Histogram::new(3).expect("three digits are possible");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let pages: u64 = runs.iter().map(|run| u64::from(run.blocks)).sum();
    for _ in 0..count.min(pages) {
        let mut nth = random.next_u64() % pages;
        let run = runs
            .iter()
            .find(|run| {
                let here = nth < u64::from(run.blocks);
                if !here {
                    nth -= u64::from(run.blocks);
                }
                here
            })
            .expect("the number is below the sum");
        let block = run.first_block + u32::try_from(nth).expect("below the run's blocks");
        let begun: Instant = now();
        client
            .ask(run.rel, std::iter::once(block))
            .or_exit(Exit::Unavailable)?;
        client.page().or_exit(Exit::Unavailable)?;
        let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        histogram.record(nanos).expect("it grows as needed");
    }
    Ok(histogram)
}

fn empty_caches(runtime: &tokio::runtime::Runtime, node: &Node) {
    let engine = &node.running().engine;
    for core in 0..engine.cores() {
        runtime.block_on(on_core(engine, core, async |core: Core| core.empty_cache()));
    }
}

fn print_table(rows: &[(&str, Histogram<u64>)]) {
    println!(
        "\n{:<34} {:>6}  {:>9} {:>9} {:>9} {:>9} {:>9}",
        "microseconds per page", "pages", "p50", "p90", "p99", "p99.9", "p99.99"
    );
    for (name, histogram) in rows {
        let us = |quantile: f64| histogram.value_at_quantile(quantile) / 1000;
        println!(
            "{name:<34} {:>6}  {:>9} {:>9} {:>9} {:>9} {:>9}",
            histogram.len(),
            us(0.5),
            us(0.9),
            us(0.99),
            us(0.999),
            us(0.9999)
        );
    }
}

const TENANT: &str = "demo";
const BRANCH: &str = "main";
/// Requests in flight while comparing.
const BATCH: usize = 32;
const WARM_SAMPLE: u64 = 20_000;
const COLD_SAMPLE: u64 = 2_000;
const GENERATED_PAGES: u32 = 32_768;
const GENERATED_LSN: Lsn = Lsn(0x0100_0000);
