//! `pageserver import`: a PostgreSQL cluster becomes a branch.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use postgres::import::{ImportSource, REPLAY_BYTES_DEFAULT, SinkError};
use postgres::replication::{BackupOptions, CheckpointPace, ConnectionSettings, SettingsError};

use super::Context;
use crate::address::BranchAddress;
use crate::config::Size;
use crate::deployment::Deployment;
use crate::exit::{Exit, Failure, OrExit};
use crate::import_job::{self, runtime};
use crate::primary_connection;

const EXAMPLES: &str = "\
Examples:
  pageserver import \"host=db1 user=replicator\" acme/main         a running server, by its replication protocol
  pageserver import postgresql://replicator@db1/ acme/main
  pageserver import /var/lib/postgresql/15/main acme/main        a data directory that was shut down
  pageserver import /backups/base.tar acme/main                  what pg_basebackup -Ft wrote
  pageserver import --create-tenant \"host=db1\" acme/main

The running server needs wal_level replica or more, a free walsender, and a role with REPLICATION. PGHOST, PGPORT,
PGUSER, PGPASSWORD, PGPASSFILE, PGSSLMODE and PGSSLROOTCERT fill in what the connection string leaves out.

The cluster may be at work: the WAL from the start to the end of the backup is replayed, and the branch is readable from that
end on. Only CREATE DATABASE ... STRATEGY file_copy and ALTER DATABASE ... SET TABLESPACE must not run meanwhile: an import that
meets one is refused and says so.

Talks to the object store and the keyring only: a server may run beside it on the same store, or none. An import that
breaks off leaves nothing visible and can be run again.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImportArguments {
    /// Connection string, data directory, or backup tar.
    source: String,
    /// The new branch: tenant/branch.
    branch: BranchAddress,
    /// Makes the tenant if it is not there.
    #[arg(long)]
    create_tenant: bool,
    /// Lets the server take its time for the first checkpoint, instead of hurrying it.
    #[arg(long)]
    spread_checkpoint: bool,
    /// Memory for pages that the WAL of the backup changed.
    #[arg(long, value_name = "SIZE", default_value_t = Size(REPLAY_BYTES_DEFAULT as u64))]
    replay_memory: Size,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(context: &Context, arguments: &ImportArguments) -> Result<(), Failure> {
    let source = source(context, arguments)?;
    let deployment = Deployment::open(&context.deployment()?)?;
    let runtime = runtime().or_exit(Exit::Other)?;
    runtime.block_on(deployment.probe())?;
    let BranchAddress { tenant, branch } = &arguments.branch;
    if arguments.create_tenant
        && let Err(engine::catalog::CatalogError::NoSuchTenant(_)) =
            runtime.block_on(deployment.catalog.find_tenant(tenant))
    {
        runtime.block_on(deployment.catalog.create_tenant(tenant))?;
    }
    let begun = now();
    let mut display = Display::new("imported");
    let imported = import_job::run(
        &deployment.catalog,
        tenant,
        branch,
        &source,
        usize::try_from(arguments.replay_memory.0).unwrap_or(usize::MAX),
        &mut |done, total| display.show(done, total),
    );
    display.finish();
    let imported = imported.map_err(|e| {
        let failure = Failure::from(e);
        match failure.exit {
            Exit::NotFound => failure.hint(format!(
                "`pageserver tenant create {tenant}`, or --create-tenant"
            )),
            _ => failure,
        }
    })?;
    deployment.close();
    let (summary, took) = (imported.summary, begun.elapsed());
    if arguments.json {
        println!(
            "{}",
            serde_json::json!({
                "branch": imported.branch.to_string(),
                "start_lsn": summary.start.start_lsn.to_string(),
                "stop_lsn": summary.stop_lsn.to_string(),
                "postgres": summary.start.postgres_major,
                "file_bytes": summary.file_bytes,
                "pages": summary.relation_pages,
                "forks": summary.relation_forks,
                "databases": summary.databases,
                "wal_records": summary.wal_records,
                "seconds": took.as_secs_f64(),
            })
        );
        return Ok(());
    }
    println!(
        "{}  {}  readable from {}\n\
         PostgreSQL {}: {} databases, {} forks, {} pages, {} of files in {:.1} s ({}/s), \
         {} records of WAL replayed",
        imported.branch,
        arguments.branch,
        summary.stop_lsn,
        summary.start.postgres_major,
        summary.databases,
        summary.relation_forks,
        summary.relation_pages,
        human(summary.file_bytes),
        took.as_secs_f64(),
        human(rate(summary.file_bytes, took)),
        summary.wal_records,
    );
    Ok(())
}

fn source(context: &Context, arguments: &ImportArguments) -> Result<ImportSource, Failure> {
    let text = &arguments.source;
    if !ConnectionSettings::is_connection_string(text) {
        return ImportSource::of_path(Path::new(text)).or_exit(Exit::NotFound);
    }
    let settings = connection_settings(context, text).or_exit(Exit::Usage)?;
    let checkpoint = if arguments.spread_checkpoint {
        CheckpointPace::Spread
    } else {
        CheckpointPace::Fast
    };
    Ok(ImportSource::RunningCluster(
        settings,
        BackupOptions { checkpoint },
    ))
}

/// How to connect to the server of a connection string, with what libpq takes from its environment.
pub(super) fn connection_settings(
    context: &Context,
    text: &str,
) -> Result<ConnectionSettings, SettingsError> {
    primary_connection::connection_settings(&context.surroundings.variables, text)
}

/// Progress: a bar on a terminal, a line now and then elsewhere.
pub(super) struct Display {
    /// What is being done, as a participle.
    what: &'static str,
    bar: Option<ProgressBar>,
    begun: Instant,
    told: Instant,
}

impl Display {
    pub(super) fn new(what: &'static str) -> Display {
        Display {
            what,
            bar: std::io::stderr().is_terminal().then(ProgressBar::no_length),
            begun: now(),
            told: now(),
        }
    }

    pub(super) fn show(&mut self, done: u64, total: Option<u64>) -> Result<(), SinkError> {
        if let Some(bar) = &self.bar {
            if let Some(total) = total
                && bar.length() != Some(total)
            {
                bar.set_length(total);
                bar.set_style(ProgressStyle::with_template(BAR)?);
            }
            bar.set_position(done);
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = now();
            let rate_now = rate(done, self.begun.elapsed());
            let left = total.map_or(String::new(), |total| {
                let seconds = total.saturating_sub(done) / rate_now.max(1);
                format!(" of {}, {seconds} s left", human(total))
            });
            let (what, done, rate) = (self.what, human(done), human(rate_now));
            eprintln!("{what} {done}{left} ({rate}/s)");
        }
        Ok(())
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Bytes as people read them: three digits or so.
pub(super) fn human(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >> shift > 0 {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    Size(bytes).to_string()
}

pub(super) fn rate(bytes: u64, took: Duration) -> u64 {
    let per_second = u128::from(bytes) * 1000 / took.as_millis().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command tells how long it took"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}

const BAR: &str = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
const LINE_EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_rates_read_well() {
        assert_eq!(human(0), "0B");
        assert_eq!(human(1023), "1023B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(7 << 30), "7.0 GiB");
        assert_eq!(rate(1000, Duration::from_secs(2)), 500);
        assert_eq!(rate(1000, Duration::ZERO), 1_000_000);
    }
}
