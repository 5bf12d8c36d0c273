//! `pageserver wal`: what is in the WAL of a cluster, by its files or from the running server, and whether this server
//! replays it as Postgres does.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use engine::types::Lsn;
use postgres::control_file::ControlFile;
use postgres::replication::{ConnectionSettings, LiveWal, LiveWalError, ReplicationError};
use postgres::verify::{Report, Verifier, VerifyError};
use postgres::wal::{Record, SegmentFiles, SegmentFilesError, WalStats, WalVersion, WalVolume};
use serde_json::json;

use super::Context;
use super::import::{connection_settings, human};
use crate::exit::{Exit, Failure, OrExit};

const EXAMPLES: &str = "\
Examples:
  pageserver wal stats /var/lib/postgresql/15/main/pg_wal
  pageserver wal stats archive/ --json
  pageserver wal verify /var/lib/postgresql/15/main/pg_wal
  pageserver wal verify \"host=db1 user=replicator\" --from 0/3000000

verify replays every record onto pages in memory (8 KiB for each page that the WAL touches) and compares each with the
page that Postgres logged after it. For that the server has to run with wal_consistency_checking = 'all'; it makes
several times as much WAL, so do it on a copy. With full_page_writes = off more records are compared: the first one of a
page behind a checkpoint is otherwise an image, which shows nothing.

From a running server WAL comes over a replication connection without a slot, as far as it has it (wal_keep_size); the role
needs REPLICATION. Reading ends at --until, which may be yet to come, or with what was on its disk at the beginning.

Exit code 7 if a page came out otherwise, or if the WAL is damaged: it ends and goes on behind.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct WalArguments {
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Debug, Subcommand)]
enum WalCommand {
    /// Replays WAL and compares every page with the one that Postgres logged.
    Verify {
        #[command(flatten)]
        source: Source,
        /// The cluster has data checksums [default: as the control file beside pg_wal says, or the server].
        #[arg(long, value_name = "BOOL")]
        data_checksums: Option<bool>,
        /// The cluster had wal_log_hints where the WAL begins [default: as the control file says, or the server].
        #[arg(long, value_name = "BOOL")]
        wal_log_hints: Option<bool>,
        /// The result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Counts records, bytes and page images: by resource manager, kind of record, relation.
    Stats {
        #[command(flatten)]
        source: Source,
        /// How many relations to list.
        #[arg(long, value_name = "COUNT", default_value_t = 20)]
        relations: usize,
        /// The result as JSON, with all relations.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Source {
    /// A folder of WAL segment files (pg_wal of a data directory, or an archive), or the connection string of a server.
    source: String,
    /// Of a folder: which timeline [default: the highest].
    #[arg(long, value_name = "NUMBER")]
    timeline: Option<u32>,
    /// Of a server: begins with the segment that has this [default: the one it is writing].
    #[arg(long, value_name = "LSN")]
    from: Option<Lsn>,
    /// Of a server: where to end [default: what it has written now].
    #[arg(long, value_name = "LSN")]
    until: Option<Lsn>,
}

pub(super) fn run(context: &Context, arguments: &WalArguments) -> Result<(), Failure> {
    match &arguments.command {
        WalCommand::Verify {
            source,
            data_checksums,
            wal_log_hints,
            json,
        } => {
            let wal = source.open(context)?;
            let (checksums, hints) = wal.hint_settings();
            let verifier = Verifier::new(
                wal.version(),
                data_checksums.unwrap_or(checksums),
                wal_log_hints.unwrap_or(hints),
            );
            verify(wal, verifier, *json)
        }
        WalCommand::Stats {
            source,
            relations,
            json,
        } => stats(source.open(context)?, *relations, *json),
    }
}

/// Where WAL comes from.
enum Wal {
    Files(PathBuf, Box<SegmentFiles>),
    Live(Box<LiveWal>, Lsn),
}

/// Where reading began and ended.
struct Stretch {
    start: Lsn,
    end: Lsn,
    why_end: String,
    /// The WAL is damaged at its end.
    damage: Option<Failure>,
}

impl Source {
    fn open(&self, context: &Context) -> Result<Wal, Failure> {
        if !ConnectionSettings::is_connection_string(&self.source) {
            for (option, value) in [("--from", self.from), ("--until", self.until)] {
                if value.is_some() {
                    let reason = format!("{option} is of a server, and this is a folder");
                    return Err(Failure::new(Exit::Usage, reason));
                }
            }
            let directory = PathBuf::from(&self.source);
            let files = SegmentFiles::open(&directory, self.timeline).map_err(|e| failure(&e))?;
            return Ok(Wal::Files(directory, Box::new(files)));
        }
        if self.timeline.is_some() {
            let reason = "--timeline is of a folder, and this is a server";
            return Err(Failure::new(Exit::Usage, reason));
        }
        let settings = connection_settings(context, &self.source).or_exit(Exit::Usage)?;
        let live = LiveWal::open(&settings, self.from).map_err(live_failure)?;
        let until = self.until.unwrap_or(live.flushed());
        Ok(Wal::Live(Box::new(live), until))
    }
}

impl Wal {
    fn version(&self) -> WalVersion {
        match self {
            Wal::Files(_, files) => files.version(),
            Wal::Live(live, _) => live.stream().version,
        }
    }

    /// Whether pages carry checksums, and whether hint bits are logged even without: as far as it is known.
    fn hint_settings(&self) -> (bool, bool) {
        match self {
            Wal::Files(directory, _) => match control_file(directory) {
                Some(control) => (control.has_data_checksums(), control.wal_log_hints),
                None => (false, false),
            },
            Wal::Live(live, _) => (live.has_data_checksums(), live.wal_log_hints()),
        }
    }

    /// Hands every record to `visit`.
    fn for_each(
        mut self,
        mut visit: impl FnMut(&Record<'_>) -> Result<(), VerifyError>,
    ) -> Result<Stretch, Failure> {
        let start = match &self {
            Wal::Files(_, files) => files.start(),
            Wal::Live(live, _) => live.start(),
        };
        let mut end = start;
        let visit = |record: &Record<'_>| -> Result<(), Failure> {
            end = record.end;
            visit(record).or_exit(Exit::Refused)
        };
        let (why_end, damage) = match &mut self {
            Wal::Files(_, files) => {
                files.for_each(visit)?;
                let damage = files.damage().cloned();
                let damage = damage.map(|damage| Failure::new(Exit::Corrupt, damage));
                (files.end().unwrap_or_default().to_owned(), damage)
            }
            Wal::Live(live, until) => match live.for_each(*until, visit) {
                Ok(()) => (format!("asked for up to {until}"), None),
                // What came before it is reported all the same.
                Err(damage) if damage.exit == Exit::Corrupt => (damage.to_string(), Some(damage)),
                Err(other) => return Err(other),
            },
        };
        Ok(Stretch {
            start,
            end,
            why_end,
            damage,
        })
    }
}

impl From<SegmentFilesError> for Failure {
    fn from(error: SegmentFilesError) -> Failure {
        failure(&error)
    }
}

impl From<LiveWalError> for Failure {
    fn from(error: LiveWalError) -> Failure {
        live_failure(error)
    }
}

fn live_failure(error: LiveWalError) -> Failure {
    let exit = match &error {
        LiveWalError::Wal(_) => Exit::Corrupt,
        LiveWalError::Ended { .. }
        | LiveWalError::Replication(ReplicationError::Connect { .. } | ReplicationError::Lost(_)) => {
            Exit::Unavailable
        }
        LiveWalError::Replication(_) => Exit::Refused,
    };
    Failure::new(exit, error)
}

/// The control file of the data directory that a `pg_wal` is in, if it is one and can be read.
fn control_file(pg_wal: &Path) -> Option<ControlFile> {
    let data_directory = fs::canonicalize(pg_wal).ok()?.parent()?.to_owned();
    let bytes = fs::read(data_directory.join("global/pg_control")).ok()?;
    ControlFile::decode(&bytes).ok()
}

fn failure(error: &SegmentFilesError) -> Failure {
    let exit = match error {
        SegmentFilesError::None(_) => Exit::NotFound,
        SegmentFilesError::NotWal(_) => Exit::Refused,
        SegmentFilesError::File { source, .. } => match source.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Other,
        },
    };
    let reason = std::error::Error::source(error).map(|source| format!(": {source}"));
    Failure::new(exit, format!("{error}{}", reason.unwrap_or_default()))
}

fn verify(wal: Wal, mut verifier: Verifier, json: bool) -> Result<(), Failure> {
    let stretch = wal.for_each(|record| verifier.observe(record))?;
    let report = verifier.into_report();
    if json {
        let rows: Vec<_> = report.rows().filter(|row| row.counts.records > 0).collect();
        let never: Vec<_> = report.never_compared().map(ToString::to_string).collect();
        let mismatches: Vec<_> = report.mismatches.iter().map(ToString::to_string).collect();
        println!(
            "{}",
            json!({
                "postgres_major": report.version().postgres_major(),
                "start": stretch.start.to_string(),
                "end": stretch.end.to_string(),
                "ended_because": stretch.why_end,
                "is_damaged": stretch.damage.is_some(),
                "kinds": rows,
                "unknown_records": report.unknown,
                "never_compared": never,
                "mismatches": mismatches,
            })
        );
    } else {
        print_report(&report);
        stretch.print();
    }
    if !report.is_clean() {
        let wrong: u64 = report.rows().map(|row| row.counts.mismatches).sum();
        return Err(Failure::new(
            Exit::Corrupt,
            format!(
                "{wrong} pages came out otherwise than Postgres logged them, {} records are unknown",
                report.unknown
            ),
        ));
    }
    stretch.damage.map_or(Ok(()), Err)
}

impl Stretch {
    fn print(&self) {
        println!("{} to {}; {}", self.start, self.end, self.why_end);
    }
}

fn print_report(report: &Report) {
    for mismatch in &report.mismatches {
        println!("{mismatch}");
    }
    print!("{report}");
    for kind in report.never_compared() {
        println!("seen, could have been compared, and never was: {kind}");
    }
    if report.rows().all(|row| row.counts.compared == 0) {
        println!("nothing was compared: did the server run with wal_consistency_checking = 'all'?");
    }
}

fn stats(wal: Wal, relations_max: usize, json: bool) -> Result<(), Failure> {
    let mut stats = WalStats::default();
    let stretch = wal.for_each(|record| {
        stats.observe(record);
        Ok(())
    })?;
    if json {
        println!("{}", stats_json(&stats, &stretch));
        return stretch.damage.map_or(Ok(()), Err);
    }
    println!(
        "{:<40} {:>10} {:>12} {:>7} {:>10} {:>7}",
        "", "records", "bytes", "share", "images", "of them"
    );
    let total = stats.total();
    for (manager, volume) in stats.managers() {
        print_volume(&manager.to_string(), &volume, &total);
        for (of, name, volume) in stats.kinds() {
            if of == manager {
                print_volume(&format!("  {name}"), &volume, &total);
            }
        }
    }
    print_volume("all", &total, &total);
    let relations = stats.relations();
    if !relations.is_empty() {
        println!("\ntablespace/database/relation: references to blocks, their images and data");
    }
    for (relation, volume) in relations.iter().take(relations_max) {
        print_volume(&relation.to_string(), volume, &total);
    }
    println!();
    stretch.print();
    stretch.damage.map_or(Ok(()), Err)
}

fn print_volume(name: &str, volume: &WalVolume, total: &WalVolume) {
    println!(
        "{name:<40} {:>10} {:>12} {:>7} {:>10} {:>7}",
        volume.records,
        human(volume.bytes),
        percent(volume.bytes, total.bytes),
        volume.images,
        percent(volume.image_bytes, volume.bytes),
    );
}

/// A share with one decimal.
fn percent(part: u64, whole: u64) -> String {
    let tenths = (u128::from(part) * 1000)
        .checked_div(u128::from(whole))
        .unwrap_or(0);
    format!("{}.{}%", tenths / 10, tenths % 10)
}

fn stats_json(stats: &WalStats, stretch: &Stretch) -> serde_json::Value {
    let managers: Vec<_> = stats
        .managers()
        .into_iter()
        .map(|(manager, volume)| json!({ "manager": manager.to_string(), "volume": volume }))
        .collect();
    let kinds: Vec<_> = stats
        .kinds()
        .map(|(manager, kind, volume)| {
            json!({ "manager": manager.to_string(), "kind": kind, "volume": volume })
        })
        .collect();
    let relations: Vec<_> = stats
        .relations()
        .into_iter()
        .map(|(relation, volume)| {
            json!({
                "tablespace": relation.tablespace,
                "database": relation.database,
                "relation": relation.number,
                "volume": volume,
            })
        })
        .collect();
    json!({
        "start": stretch.start.to_string(),
        "end": stretch.end.to_string(),
        "ended_because": stretch.why_end,
        "is_damaged": stretch.damage.is_some(),
        "total": stats.total(),
        "managers": managers,
        "kinds": kinds,
        "relations": relations,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_one_decimal_and_nothing_of_nothing_is_none() {
        assert_eq!(percent(1, 3), "33.3%");
        assert_eq!(percent(5, 5), "100.0%");
        assert_eq!(percent(0, 0), "0.0%");
    }
}
