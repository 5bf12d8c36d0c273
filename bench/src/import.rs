//! Imports of a running cluster that pgbench filled, against `pg_basebackup` of the same cluster to the same disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use postgres::local_cluster::{Binaries, ClusterOptions, LocalCluster, LocalClusterError};

use crate::clock::now_ns;
use crate::commands::subject;
use crate::counters::{Used, peak_memory_mib, process_cpu};
use crate::error::{BenchError, Doing, Result};
use crate::goals::{IMPORT, IMPORT_GROUP, PG_BASEBACKUP};
use crate::latency::Latencies;
use crate::pagestream::codec::PAGE_BYTES;
use crate::rounds::{Contestant, Measured, Series, interleave};
use crate::server_child::program;

/// What was measured.
pub(crate) struct Imports {
    pub(crate) series: Vec<Series>,
    /// How much memory an import took at two sizes.
    pub(crate) notes: Vec<String>,
}

/// Makes a cluster of pgbench's `scale` in a folder below `data`, measures, then doubles it to see whether an import takes
/// more memory. Everything is removed again.
///
/// # Errors
/// No Postgres on this machine, or one of the programs failed.
pub(crate) fn run(data: &Path, scale: u32, rounds: u32, started_ns: u64) -> Result<Imports> {
    let data = std::path::absolute(data).doing(|| format!("find {}", data.display()))?;
    let folder = data.join("import");
    // What an earlier run that was broken off has left.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).doing(|| format!("make {}", folder.display()))?;
    let outcome = measure(&folder, scale, rounds, started_ns);
    fs::remove_dir_all(&folder).doing(|| format!("remove {}", folder.display()))?;
    outcome
}

fn measure(folder: &Path, scale: u32, rounds: u32, started_ns: u64) -> Result<Imports> {
    let bench = Bench::make(folder, scale)?;
    let pages = bench.pages()?;
    let mut peaks = Vec::new();
    let shape = scale.to_string();
    let contestants: Vec<Contestant<'_>> = vec![
        (
            subject(IMPORT_GROUP, PG_BASEBACKUP, &shape, None),
            Box::new(|| bench.base_backup(pages)),
        ),
        (
            subject(IMPORT_GROUP, IMPORT, &shape, Some(PG_BASEBACKUP)),
            Box::new(|| {
                let (measured, peak_mib) = bench.import(pages)?;
                peaks.push(peak_mib);
                Ok(measured)
            }),
        ),
    ];
    let series = interleave(contestants, rounds, started_ns)?;
    bench.fill(scale * 2)?;
    let twice = bench.pages()?;
    let (_, peak_of_twice) = bench.import(twice)?;
    let gib = |pages: u64| pages as f64 * PAGE_BYTES as f64 / f64::from(1u32 << 30);
    let peak = peaks.into_iter().max().unwrap_or_default();
    Ok(Imports {
        series,
        notes: vec![format!(
            "peak memory of an import: {peak} MiB at {:.1} GiB, {peak_of_twice} MiB at {:.1} GiB",
            gib(pages),
            gib(twice)
        )],
    })
}

struct Bench {
    cluster: LocalCluster,
    folder: PathBuf,
    program: PathBuf,
}

impl Bench {
    fn make(folder: &Path, scale: u32) -> Result<Bench> {
        let home = folder.join("cluster");
        fs::create_dir(&home).doing(|| format!("make {}", home.display()))?;
        let options = ClusterOptions {
            data_checksums: true,
            settings: vec!["max_wal_size = 16GB".to_owned()],
            ..ClusterOptions::default()
        };
        let binaries = Binaries::find(None, None).map_err(unfit)?;
        let mut cluster = LocalCluster::create(binaries, &home, &options).map_err(unfit)?;
        cluster.start().map_err(unfit)?;
        let bench = Bench {
            cluster,
            folder: folder.to_owned(),
            program: program()?,
        };
        bench.fill(scale)?;
        Ok(bench)
    }

    /// Tables of pgbench at this scale, in which nothing changes any more.
    fn fill(&self, scale: u32) -> Result<()> {
        tracing::info!(scale, "pgbench fills a cluster");
        let scale = format!("--scale={scale}");
        let init = ["--initialize", "--quiet", &scale, "postgres"];
        self.cluster.run("pgbench", &init).map_err(unfit)?;
        for sql in ["vacuum freeze", "checkpoint"] {
            self.cluster.sql("postgres", sql).map_err(unfit)?;
        }
        Ok(())
    }

    fn pages(&self) -> Result<u64> {
        let sql = "select sum(pg_database_size(oid)) / 8192 from pg_database";
        let text = self.cluster.sql("postgres", sql).map_err(unfit)?;
        let whole = text.split('.').next().unwrap_or_default();
        whole
            .parse()
            .map_err(|_| BenchError::Unfit(format!("a size from Postgres: {text:?}")))
    }

    fn base_backup(&self, pages: u64) -> Result<Measured> {
        let target = self.cluster.folder().join("backup");
        let mut command = self.cluster.command("pg_basebackup");
        command.args(["--checkpoint=fast", "--wal-method=stream", "--pgdata"]);
        let (measured, _) = timed(command.arg(&target), pages)?;
        fs::remove_dir_all(&target).doing(|| format!("remove {}", target.display()))?;
        Ok(measured)
    }

    /// The measurement, and the most memory it had, in MiB.
    fn import(&self, pages: u64) -> Result<(Measured, u64)> {
        let data_dir = self.folder.join("imported");
        let program = |arguments: &[&str]| {
            let mut command = Command::new(&self.program);
            command.arg("--data-dir").arg(&data_dir);
            command.arg("--keyring").arg(self.folder.join("keyring"));
            command.args(arguments);
            command
        };
        timed(&mut program(&["init"]), 0)?;
        let source = self.cluster.connection_string();
        let mut import = program(&["import", "--create-tenant", &source, "bench/import"]);
        let measured = timed(&mut import, pages)?;
        fs::remove_dir_all(&data_dir).doing(|| format!("remove {}", data_dir.display()))?;
        Ok(measured)
    }
}

/// Runs a command to its end, as a measurement of so many pages; and the most memory it had, in MiB.
fn timed(command: &mut Command, pages: u64) -> Result<(Measured, u64)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let started_ns = now_ns();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .doing(|| format!("start {name}"))?;
    let (mut cpu, mut peak_mib) = (None, 0);
    let status = loop {
        if let Some(status) = child.try_wait().doing(|| format!("wait for {name}"))? {
            break status;
        }
        // Counters of a process that has just ended are gone: those of a look ago stand.
        cpu = process_cpu(child.id()).ok().or(cpu);
        peak_mib = peak_memory_mib(child.id()).unwrap_or(peak_mib);
        std::thread::sleep(LOOK);
    };
    if !status.success() {
        return Err(BenchError::Unfit(format!(
            "{command:?} ended with {status}"
        )));
    }
    let elapsed = Duration::from_nanos(now_ns() - started_ns);
    let mut latencies = Latencies::new();
    latencies.record(crate::clock::as_ns(elapsed));
    let measured = Measured {
        ops: pages,
        elapsed,
        latencies,
        used: Used {
            cpu,
            ..Used::default()
        },
        errors: 0,
    };
    Ok((measured, peak_mib))
}

fn unfit(error: LocalClusterError) -> BenchError {
    BenchError::Unfit(format!("measuring imports takes a PostgreSQL: {error}"))
}

/// Time between two looks at a program that runs.
const LOOK: Duration = Duration::from_millis(20);
