//! `pageserver wal`: what is in the WAL files of a cluster, and whether this server replays them as Postgres does.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use postgres::control_file::ControlFile;
use postgres::verify::{Report, Verifier, VerifyError};
use postgres::wal::{SegmentFiles, SegmentFilesError, WalStats, WalVolume};
use serde_json::json;

use super::import::human;
use crate::exit::{Exit, Failure};

const EXAMPLES: &str = "\
Examples:
  pageserver wal stats /var/lib/postgresql/15/main/pg_wal
  pageserver wal stats archive/ --json
  pageserver wal verify /var/lib/postgresql/15/main/pg_wal

verify replays every record onto pages in memory (8 KiB for each page that the WAL touches) and compares each with the
page that Postgres logged after it. For that the server has to run with wal_consistency_checking = 'all'; it makes
several times as much WAL, so do it on a copy. With full_page_writes = off more records are compared: the first one of a
page behind a checkpoint is otherwise an image, which shows nothing. Exit code 7 if a page came out otherwise.";

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
        /// The cluster has data checksums [default: as the control file beside pg_wal says].
        #[arg(long, value_name = "BOOL")]
        data_checksums: Option<bool>,
        /// The cluster had wal_log_hints where the WAL begins [default: as the control file says].
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
    /// A folder of WAL segment files: pg_wal of a data directory, or an archive.
    directory: PathBuf,
    /// Which timeline [default: the highest].
    #[arg(long, value_name = "NUMBER")]
    timeline: Option<u32>,
}

pub(super) fn run(arguments: &WalArguments) -> Result<(), Failure> {
    match &arguments.command {
        WalCommand::Verify {
            source,
            data_checksums,
            wal_log_hints,
            json,
        } => {
            let control = control_file(&source.directory);
            let of_control = |field: fn(&ControlFile) -> bool| control.as_ref().is_some_and(field);
            let data_checksums =
                data_checksums.unwrap_or_else(|| of_control(ControlFile::has_data_checksums));
            let wal_log_hints = wal_log_hints.unwrap_or_else(|| of_control(|c| c.wal_log_hints));
            verify(source, data_checksums, wal_log_hints, *json)
        }
        WalCommand::Stats {
            source,
            relations,
            json,
        } => stats(source, *relations, *json),
    }
}

/// The control file of the data directory that a `pg_wal` is in, if it is one and can be read.
fn control_file(pg_wal: &Path) -> Option<ControlFile> {
    let data_directory = fs::canonicalize(pg_wal).ok()?.parent()?.to_owned();
    let bytes = fs::read(data_directory.join("global/pg_control")).ok()?;
    ControlFile::decode(&bytes).ok()
}

impl Source {
    fn open(&self) -> Result<SegmentFiles, Failure> {
        SegmentFiles::open(&self.directory, self.timeline).map_err(|e| failure(&e))
    }
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

fn verify(
    source: &Source,
    data_checksums: bool,
    wal_log_hints: bool,
    json: bool,
) -> Result<(), Failure> {
    let mut files = source.open()?;
    let start = files.start();
    let mut end = start;
    let mut verifier = Verifier::new(files.version(), data_checksums, wal_log_hints);
    let visited = files.for_each(|record| {
        end = record.end;
        verifier.observe(record).map_err(Stop::from)
    });
    match visited {
        Ok(()) => {}
        Err(Stop::Files(error)) => return Err(failure(&error)),
        Err(Stop::Verify(error)) => return Err(Failure::new(Exit::Refused, error)),
    }
    let report = verifier.into_report();
    let why_end = files.end().unwrap_or_default();
    if json {
        let rows: Vec<_> = report.rows().filter(|row| row.counts.records > 0).collect();
        let never: Vec<_> = report.never_compared().map(ToString::to_string).collect();
        let mismatches: Vec<_> = report.mismatches.iter().map(ToString::to_string).collect();
        println!(
            "{}",
            json!({
                "postgres_major": report.version().postgres_major(),
                "start": start.to_string(),
                "end": end.to_string(),
                "ended_because": why_end,
                "kinds": rows,
                "unknown_records": report.unknown,
                "never_compared": never,
                "mismatches": mismatches,
            })
        );
    } else {
        print_report(&report);
        println!("{start} to {end}; {why_end}");
    }
    if report.is_clean() {
        Ok(())
    } else {
        let wrong: u64 = report.rows().map(|row| row.counts.mismatches).sum();
        Err(Failure::new(
            Exit::Corrupt,
            format!(
                "{wrong} pages came out otherwise than Postgres logged them, {} records are unknown",
                report.unknown
            ),
        ))
    }
}

/// Why the reading of WAL ended early.
enum Stop {
    Files(SegmentFilesError),
    Verify(VerifyError),
}

impl From<SegmentFilesError> for Stop {
    fn from(error: SegmentFilesError) -> Stop {
        Stop::Files(error)
    }
}

impl From<VerifyError> for Stop {
    fn from(error: VerifyError) -> Stop {
        Stop::Verify(error)
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

fn stats(source: &Source, relations_max: usize, json: bool) -> Result<(), Failure> {
    let mut files = source.open()?;
    let start = files.start();
    let mut end = start;
    let mut stats = WalStats::default();
    files
        .for_each(|record| {
            end = record.end;
            stats.observe(record);
            Ok::<(), SegmentFilesError>(())
        })
        .map_err(|e| failure(&e))?;
    if json {
        println!(
            "{}",
            stats_json(&stats, &start.to_string(), &end.to_string())
        );
        return Ok(());
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
    println!("\n{start} to {end}; {}", files.end().unwrap_or_default());
    Ok(())
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

fn stats_json(stats: &WalStats, start: &str, end: &str) -> serde_json::Value {
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
        "start": start,
        "end": end,
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
