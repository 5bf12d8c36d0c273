//! What commits cost that wait for a standby: pgbench on the primary, with a stock standby in `synchronous_standby_names`, and
//! with the pageserver there. Only the one that is waited for runs.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use postgres::local_cluster::{LocalCluster, StopMode};

use super::site::{Site, unfit};
use crate::clock::now_ns;
use crate::commands::subject;
use crate::counters::{Used, process_cpu};
use crate::error::{BenchError, Doing, Result};
use crate::goals::{PAGESERVER, STOCK_STANDBY, SYNCHRONOUS_GROUP};
use crate::latency::Latencies;
use crate::options::FollowOptions;
use crate::rounds::{Contestant, Measured, Series, interleave};

pub(super) fn measure(
    site: &Site,
    options: &FollowOptions,
    started_ns: u64,
) -> Result<Vec<Series>> {
    // It keeps the WAL that the standby misses while it does not run.
    site.sql(&format!(
        "select pg_create_physical_replication_slot('{STANDBY_NAME}', true)"
    ))?;
    let mut standby = standby_of(site)?;
    let shape = format!("{CLIENTS} clients");
    let contestants: Vec<Contestant<'_>> = vec![
        (
            subject(SYNCHRONOUS_GROUP, STOCK_STANDBY, &shape, None),
            Box::new(|| {
                standby.start().map_err(unfit)?;
                let measured = pgbench(site, STANDBY_NAME, options, None);
                standby.stop(StopMode::Fast).map_err(unfit)?;
                measured
            }),
        ),
        (
            subject(SYNCHRONOUS_GROUP, PAGESERVER, &shape, Some(STOCK_STANDBY)),
            Box::new(|| {
                let mut server = site.serve()?;
                site.catch_up(&mut server, site.end()?)?;
                let measured = pgbench(site, PAGESERVER_NAME, options, Some(server.pid()))?;
                server.stop()?;
                Ok(measured)
            }),
        ),
    ];
    interleave(contestants, options.run.rounds, started_ns)
}

/// Lets the primary wait for `standby`, and its clients work; CPU time is that of `pid`.
fn pgbench(
    site: &Site,
    standby: &str,
    options: &FollowOptions,
    pid: Option<u32>,
) -> Result<Measured> {
    site.sql("checkpoint")?;
    site.sql(&format!(
        "alter system set synchronous_standby_names = '{standby}'"
    ))?;
    site.sql("select pg_reload_conf()")?;
    let waited = wait_until_synchronous(site, standby);
    let outcome = waited.and_then(|()| {
        run(site, options.run.warm_up)?;
        let cpu = |pid: u32| process_cpu(pid).ok();
        let before = pid.and_then(cpu);
        let mut measured = run(site, options.run.seconds)?;
        let after = pid.and_then(cpu);
        measured.used.cpu = after.zip(before).map(|(after, before)| after - before);
        Ok(measured)
    });
    // Nothing may wait for one that is gone.
    site.sql("alter system reset synchronous_standby_names")?;
    site.sql("select pg_reload_conf()")?;
    outcome
}

fn wait_until_synchronous(site: &Site, standby: &str) -> Result<()> {
    let is_so = format!(
        "select count(*) from pg_stat_replication where application_name = '{standby}' and sync_state = 'sync' and state = 'streaming'"
    );
    let begun = now_ns();
    while site.sql(&is_so)? == "0" {
        if Duration::from_nanos(now_ns() - begun) > WAIT_MAX {
            let there =
                site.sql("select application_name, state, sync_state from pg_stat_replication")?;
            return Err(BenchError::Unfit(format!(
                "{standby} is no synchronous standby: {there:?}"
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// pgbench's own transactions for so long, each with its latency.
fn run(site: &Site, length: Duration) -> Result<Measured> {
    let folder = site.cluster.make_folder("pgbench").map_err(unfit)?;
    let prefix = folder.join("log");
    let mut command = site.cluster.command("pgbench");
    command.args([
        "--no-vacuum",
        "--jobs=2",
        "--log",
        "--client",
        &CLIENTS.to_string(),
    ]);
    command.arg(format!("--time={}", length.as_secs().max(1)));
    command
        .arg(format!("--log-prefix={}", prefix.display()))
        .arg("postgres");
    let output = command.output().doing(|| "run pgbench")?;
    let said = String::from_utf8_lossy(&output.stdout);
    // "tps = 1234.567 (without initial connection time)"
    let tps = said.lines().find_map(|line| {
        line.strip_prefix("tps = ")?
            .split(' ')
            .next()?
            .parse::<f64>()
            .ok()
    });
    let Some(tps) = tps.filter(|tps| output.status.success() && *tps > 0.0) else {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(BenchError::Unfit(format!("pgbench: {said}")));
    };
    let mut latencies = Latencies::new();
    for entry in fs::read_dir(&folder).doing(|| format!("read {}", folder.display()))? {
        let path: PathBuf = entry.doing(|| "read pgbench's logs")?.path();
        let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        // Client, number, microseconds, …
        let micros = text
            .lines()
            .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok());
        micros.for_each(|micros| latencies.record(micros * 1000));
    }
    fs::remove_dir_all(&folder).doing(|| format!("remove {}", folder.display()))?;
    Ok(Measured {
        ops: latencies.count(),
        elapsed: Duration::from_secs_f64(latencies.count() as f64 / tps),
        latencies,
        used: Used::default(),
        errors: 0,
    })
}

/// A stock standby of the primary, with a slot there, not started yet.
fn standby_of(site: &Site) -> Result<LocalCluster> {
    let folder = site.cluster.make_folder("standby").map_err(unfit)?;
    let standby = site.cluster.standby(&folder).map_err(unfit)?;
    let name = standby.data_directory().join("postgresql.conf");
    let lines = format!("cluster_name = '{STANDBY_NAME}'\nprimary_slot_name = '{STANDBY_NAME}'\n");
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(&name)
        .doing(|| format!("open {}", name.display()))?;
    file.write_all(lines.as_bytes())
        .doing(|| format!("write {}", name.display()))?;
    Ok(standby)
}

const CLIENTS: u32 = 8;
/// Its name as a slot, as a cluster, and so as a standby.
const STANDBY_NAME: &str = "stock";
/// As it introduces itself by default.
const PAGESERVER_NAME: &str = "pageserver";
const WAIT_MAX: Duration = Duration::from_secs(60);
