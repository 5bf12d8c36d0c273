//! A stock primary with pgbench's tables, and a pageserver that follows it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use engine::types::Lsn;
use postgres::local_cluster::{Binaries, ClusterOptions, LocalCluster, LocalClusterError};
use serde_json::Value;

use crate::clock::now_ns;
use crate::error::{BenchError, Doing, Result};
use crate::server_child::{ServerChild, program};

/// Both of them, in a folder of their own.
pub(super) struct Site {
    pub(super) cluster: LocalCluster,
    data_dir: PathBuf,
    keyring: PathBuf,
    config: PathBuf,
}

impl Site {
    /// A primary that runs, with tables of pgbench's `scale`, and a pageserver that knows nothing of it yet.
    pub(super) fn make(folder: &Path, scale: u32) -> Result<Site> {
        let home = folder.join("cluster");
        fs::create_dir_all(&home).doing(|| format!("make {}", home.display()))?;
        let options = ClusterOptions {
            data_checksums: true,
            settings: SETTINGS.map(str::to_owned).to_vec(),
            ..ClusterOptions::default()
        };
        let binaries = Binaries::find(None, None).map_err(unfit)?;
        let mut cluster = LocalCluster::create(binaries, &home, &options).map_err(unfit)?;
        cluster.start().map_err(unfit)?;
        tracing::info!(scale, "pgbench fills a cluster");
        let scale = format!("--scale={scale}");
        let init = ["--initialize", "--quiet", &scale, "postgres"];
        cluster.run("pgbench", &init).map_err(unfit)?;
        let data_dir = folder.join("data");
        let site = Site {
            cluster,
            keyring: folder.join("keyring"),
            config: data_dir.join("pageserver.toml"),
            data_dir,
        };
        site.run(&["init"])?;
        let config = format!(
            "[pages]\nlisten = \"127.0.0.1:{PAGES_PORT}\"\n[admin]\nlisten = \"127.0.0.1:{}\"\n\
             [keys]\nkeyring = {:?}\n[cache]\nsize = \"2GiB\"\n",
            PAGES_PORT - 1,
            site.keyring.to_string_lossy(),
        );
        fs::write(&site.config, config).doing(|| format!("write {}", site.config.display()))?;
        Ok(site)
    }

    /// Starts the pageserver.
    pub(super) fn serve(&self) -> Result<ServerChild> {
        ServerChild::start(&self.data_dir, &self.config)
    }

    /// Lets the branch `bench/main` follow the primary from now on.
    pub(super) fn attach(&self, server: &mut ServerChild) -> Result<()> {
        wait_for(server, "takes requests", || {
            Ok(http("/v1/following").is_ok())
        })?;
        let source = self.cluster.connection_string();
        let url = format!("http://127.0.0.1:{}", PAGES_PORT - 1);
        self.run(&["attach", &source, BRANCH, "--create-tenant", "--url", &url])?;
        self.catch_up(server, self.end()?)
    }

    /// Waits until everything before `end` can be read.
    pub(super) fn catch_up(&self, server: &mut ServerChild, end: Lsn) -> Result<()> {
        wait_for(server, "catches up", || {
            // It may not listen yet.
            let readable = following().ok().and_then(|status| lsn(&status["readable"]));
            Ok(readable.is_some_and(|readable| readable >= end))
        })
    }

    /// Waits until nothing is left to be merged, and answers what `status` says then.
    pub(super) fn settle(&self, server: &mut ServerChild) -> Result<Value> {
        let mut last = (Value::Null, now_ns());
        wait_for(server, "comes to rest", || {
            let status = following()?;
            let work = [&status["flushes"], &status["compactions"]];
            let work = Value::from(work.map(Clone::clone).to_vec());
            if work != last.0 {
                last = (work, now_ns());
            }
            Ok(Duration::from_nanos(now_ns() - last.1) >= REST)
        })?;
        following()
    }

    /// Where the primary's WAL ends.
    pub(super) fn end(&self) -> Result<Lsn> {
        let text = self.sql("select pg_current_wal_flush_lsn()")?;
        text.parse()
            .map_err(|_| BenchError::Unfit(format!("an LSN from Postgres: {text:?}")))
    }

    pub(super) fn sql(&self, sql: &str) -> Result<String> {
        self.cluster.sql("postgres", sql).map_err(unfit)
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(program()?);
        command.arg("--data-dir").arg(&self.data_dir);
        command.arg("--keyring").arg(&self.keyring).args(arguments);
        let output = command
            .stdin(Stdio::null())
            .output()
            .doing(|| format!("run {command:?}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(BenchError::Unfit(format!("{command:?}: {said}")))
    }
}

/// What the server says of the branch.
pub(super) fn following() -> Result<Value> {
    let status: Value = serde_json::from_str(&http("/v1/following")?)
        .map_err(|e| BenchError::Protocol(format!("/v1/following: {e}")))?;
    Ok(status[0].clone())
}

fn http(path: &str) -> Result<String> {
    let url = format!("http://127.0.0.1:{}{path}", PAGES_PORT - 1);
    let answer = ureq::get(&url)
        .call()
        .and_then(|mut answer| answer.body_mut().read_to_string());
    answer.map_err(|e| BenchError::Protocol(format!("GET {url}: {e}")))
}

pub(super) fn lsn(value: &Value) -> Option<Lsn> {
    value.as_str()?.parse().ok()
}

/// Looks every millisecond.
fn wait_for(
    server: &mut ServerChild,
    what: &str,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let begun = now_ns();
    while !is_so()? {
        server.look()?;
        if Duration::from_nanos(now_ns() - begun) > WAIT_MAX {
            let status = following().unwrap_or_default();
            return Err(BenchError::Unfit(format!(
                "the server never {what}: {status}"
            )));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

pub(super) fn unfit(error: LocalClusterError) -> BenchError {
    BenchError::Unfit(format!("this takes a PostgreSQL: {error}"))
}

/// Of the primary: it commits durably, and makes no checkpoint by itself.
const SETTINGS: [&str; 6] = [
    "fsync = on",
    "shared_buffers = 512MB",
    "max_wal_size = 64GB",
    "checkpoint_timeout = 1h",
    "autovacuum = off",
    "wal_level = replica",
];

const BRANCH: &str = "bench/main";
/// The admin API is one below.
const PAGES_PORT: u16 = 64_090;
const LOOK: Duration = Duration::from_millis(10);
const WAIT_MAX: Duration = Duration::from_secs(600);
/// No flush and no compaction for so long.
const REST: Duration = Duration::from_secs(3);
