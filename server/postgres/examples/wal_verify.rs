//! `wal_verify DIR [--checksums] [--wal-log-hints]`: replays the WAL files of a directory that were written
//! under `wal_consistency_checking = 'all'`, and compares; what `pageserver wal verify` does, without the server.

use std::path::PathBuf;
use std::process::ExitCode;

use postgres::verify::Verifier;
use postgres::wal::SegmentFiles;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let Some(directory) = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"))
    else {
        eprintln!("usage: wal_verify DIR [--checksums] [--wal-log-hints]");
        return ExitCode::from(2);
    };
    match verify(
        &PathBuf::from(directory),
        has("--checksums"),
        has("--wal-log-hints"),
    ) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("wal_verify: {error}");
            ExitCode::from(3)
        }
    }
}

fn verify(
    directory: &std::path::Path,
    has_checksums: bool,
    wal_log_hints: bool,
) -> Result<bool, Box<dyn std::error::Error>> {
    let mut files = SegmentFiles::open(directory, None)?;
    let mut verifier = Verifier::new(files.version(), has_checksums, wal_log_hints);
    let mut last = files.start();
    files.for_each(|record| {
        last = record.end;
        verifier
            .observe(record)
            .map_err(Box::<dyn std::error::Error>::from)
    })?;
    let report = verifier.into_report();
    for mismatch in &report.mismatches {
        println!("{mismatch}");
    }
    print!("{report}");
    for kind in report.never_compared() {
        println!("seen and never compared: {kind}");
    }
    println!(
        "{} to {last}; {}",
        files.start(),
        files.end().unwrap_or_default()
    );
    Ok(report.is_clean())
}
