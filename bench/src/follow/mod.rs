//! A pageserver that follows a stock primary: how fast it takes WAL in, against `pg_receivewal`, which does nothing but store
//! the same WAL; and what commits cost that wait for it, against a stock standby in the same place.

mod site;
mod synchronous;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use engine::types::Lsn;

use self::site::{Site, following, unfit};
use crate::clock::{as_ns, now_ns};
use crate::commands::subject;
use crate::counters::{Used, peak_memory_mib, process_cpu};
use crate::error::{BenchError, Doing, Result};
use crate::goals::{CATCH_UP_GROUP, COPY, PAGESERVER, PG_RECEIVEWAL, PGBENCH};
use crate::latency::Latencies;
use crate::options::FollowOptions;
use crate::rounds::{Contestant, Measured, Series, interleave};

/// What was measured.
pub(crate) struct Followed {
    pub(crate) series: Vec<Series>,
    /// Memory and write amplification.
    pub(crate) notes: Vec<String>,
}

/// Makes a primary and a pageserver in a folder below the options' `data`, measures, and removes everything again.
///
/// # Errors
/// No Postgres on this machine, or one of the programs failed.
pub(crate) fn run(options: &FollowOptions, started_ns: u64) -> Result<Followed> {
    let data = std::path::absolute(&options.data).doing(|| "find the folder")?;
    let folder = data.join("follow");
    // What an earlier run that was broken off has left.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).doing(|| format!("make {}", folder.display()))?;
    let outcome = measure(&folder, options, started_ns);
    fs::remove_dir_all(&folder).doing(|| format!("remove {}", folder.display()))?;
    outcome
}

fn measure(folder: &Path, options: &FollowOptions, started_ns: u64) -> Result<Followed> {
    let site = Site::make(folder, options.scale)?;
    let mut server = site.serve()?;
    site.attach(&mut server)?;
    server.stop()?;
    let (mut series, mut notes) = (Vec::new(), Vec::new());
    for work in [Work::Copy, Work::Pgbench] {
        let contestants: Vec<Contestant<'_>> = vec![
            (
                subject(CATCH_UP_GROUP, PG_RECEIVEWAL, work.name(), None),
                Box::new(|| receive_wal(&site, work, options)),
            ),
            (
                subject(CATCH_UP_GROUP, PAGESERVER, work.name(), Some(PG_RECEIVEWAL)),
                Box::new(|| {
                    let (measured, note) = ingest(&site, work, options)?;
                    notes.push(note);
                    Ok(measured)
                }),
            ),
        ];
        series.extend(interleave(contestants, options.run.rounds, started_ns)?);
    }
    series.extend(synchronous::measure(&site, options, started_ns)?);
    Ok(Followed { series, notes })
}

/// What the primary does while nobody follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// `COPY` of narrow rows into a table without indexes.
    Copy,
    /// pgbench's own transactions.
    Pgbench,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Work::Copy => COPY,
            Work::Pgbench => PGBENCH,
        }
    }

    /// Does it; where the WAL was before, and where it is now.
    fn run(self, site: &Site, options: &FollowOptions) -> Result<(Lsn, Lsn)> {
        tracing::info!("the primary works: {}", self.name());
        match self {
            Work::Copy => {
                site.sql("create table if not exists copied (id bigint, a int, b int, t text)")?;
                site.sql("truncate copied")?;
            }
            Work::Pgbench => {
                site.sql("checkpoint")?;
            }
        }
        let begin = site.end()?;
        match self {
            Work::Copy => {
                let rows = u64::from(options.wal_mib) * ROWS_PER_MIB;
                let file = site.cluster.folder().join("rows");
                let file = file.display();
                site.sql(&format!(
                    "copy (select n, n % 1000, n % 7, md5(n::text) from generate_series(1, {rows}) n) to '{file}'"
                ))?;
                site.sql(&format!("copy copied from '{file}'"))?;
            }
            Work::Pgbench => {
                let end = Lsn(begin.0 + (u64::from(options.wal_mib) << 20));
                while site.end()? < end {
                    let work = ["-n", "-c", "8", "-j", "2", "-t", "2000", "postgres"];
                    let run = site
                        .cluster
                        .command("pgbench")
                        .args(work)
                        .env("PGOPTIONS", ASYNCHRONOUS)
                        .output();
                    let output = run.doing(|| "run pgbench")?;
                    if !output.status.success() {
                        let said = String::from_utf8_lossy(&output.stderr).into_owned();
                        return Err(BenchError::Unfit(format!("pgbench: {said}")));
                    }
                }
            }
        }
        let end = site.end()?;
        // Who waits for a byte behind the end gets one.
        site.sql("select pg_switch_wal()")?;
        Ok((begin, end))
    }
}

/// What comes of WAL that was taken in by a process within some time.
fn measured(begin: Lsn, end: Lsn, elapsed: Duration, cpu: Option<Duration>) -> Measured {
    let mut latencies = Latencies::new();
    latencies.record(as_ns(elapsed));
    Measured {
        ops: (end.0 - begin.0) >> 10,
        elapsed,
        latencies,
        used: Used {
            cpu,
            ..Used::default()
        },
        errors: 0,
    }
}

fn receive_wal(site: &Site, work: Work, options: &FollowOptions) -> Result<Measured> {
    site.sql("select pg_create_physical_replication_slot('bench_receiver', true)")?;
    let (begin, end) = work.run(site, options)?;
    let folder = site.cluster.make_folder("received").map_err(unfit)?;
    let mut receive = site.cluster.command("pg_receivewal");
    receive.args(["--slot=bench_receiver", "--no-loop", "--directory"]);
    receive.arg(&folder).arg(format!("--endpos={end}"));
    let started_ns = now_ns();
    let mut child = receive
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .doing(|| "start pg_receivewal")?;
    let mut cpu = None;
    let status = loop {
        if let Some(status) = child.try_wait().doing(|| "wait for pg_receivewal")? {
            break status;
        }
        cpu = process_cpu(child.id()).ok().or(cpu);
        std::thread::sleep(Duration::from_millis(1));
    };
    let elapsed = Duration::from_nanos(now_ns() - started_ns);
    if !status.success() {
        return Err(BenchError::Unfit(format!(
            "pg_receivewal ended with {status}"
        )));
    }
    fs::remove_dir_all(&folder).doing(|| format!("remove {}", folder.display()))?;
    site.sql("select pg_drop_replication_slot('bench_receiver')")?;
    Ok(measured(begin, end, elapsed, cpu))
}

/// From the start of the server until all of it can be read; and what it had cost when nothing was left to be merged.
fn ingest(site: &Site, work: Work, options: &FollowOptions) -> Result<(Measured, String)> {
    // What others were measured with is not counted.
    let mut server = site.serve()?;
    site.catch_up(&mut server, site.end()?)?;
    server.stop()?;
    let (begin, end) = work.run(site, options)?;
    let started_ns = now_ns();
    let mut server = site.serve()?;
    site.catch_up(&mut server, end)?;
    let elapsed = Duration::from_nanos(now_ns() - started_ns);
    let cpu = process_cpu(server.pid()).ok();
    let peak_mib = peak_memory_mib(server.pid()).unwrap_or_default();
    let measured = measured(begin, end, elapsed, cpu);
    let at_once = following()?;
    let rested = site.settle(&mut server)?;
    let total_cpu = process_cpu(server.pid()).ok();
    server.stop()?;
    let figure = |status: &serde_json::Value, name: &str| status[name].as_f64().unwrap_or_default();
    let wal = figure(&at_once, "received_bytes").max(1.0);
    let written = figure(&rested, "layer_bytes") + figure(&rested, "compacted_bytes");
    let note = format!(
        "{}: {:.0} MB of WAL, {:.0} MB/s, {:.0} MB/s per core used; at rest {:.0} MB/s per core used; \
         layers written {:.2} times the WAL ({:.2} flushed, {:.2} merged); {peak_mib} MiB at most",
        work.name(),
        wal / 1e6,
        wal / elapsed.as_secs_f64() / 1e6,
        wal / cpu.unwrap_or_default().as_secs_f64() / 1e6,
        wal / total_cpu.unwrap_or_default().as_secs_f64() / 1e6,
        written / wal,
        figure(&rested, "layer_bytes") / wal,
        figure(&rested, "compacted_bytes") / wal,
    );
    Ok((measured, note))
}

/// Rows of `COPY` that make a mebibyte of WAL.
const ROWS_PER_MIB: u64 = 10_000;
/// The work itself need not wait for the disk.
const ASYNCHRONOUS: &str = "-c synchronous_commit=off";
