//! A base backup in tar files, as `pg_basebackup -Ft` leaves them: `base.tar`, one for each further tablespace, and
//! `pg_wal.tar` unless the WAL is in `base.tar` (`-X fetch`).
//!
//! `base.tar` is read twice: first only the headers and three small files (what has to be known before the first page
//! stands at its end), then all of it.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::backup::Backup;
use super::backup_label::{BackupLabel, parse_tablespace_map};
use super::tar_archive::{Archive, read_archive};
use super::{ImportError, ImportSink, ImportStart, ImportSummary};
use crate::control_file::ControlFile;

pub(super) fn import(path: &Path, sink: &mut dyn ImportSink) -> Result<ImportSummary, ImportError> {
    let folder = if path.is_dir() {
        path.to_owned()
    } else {
        path.parent().unwrap_or(Path::new(".")).to_owned()
    };
    let base = if path.is_dir() {
        base_in(path)?
    } else {
        path.to_owned()
    };
    let base = &base;
    let preview = Preview::of(base)?;
    let archives = preview.archives(&folder, base)?;
    let mut total = 0;
    for (_, path) in &archives {
        total += fs::metadata(path).map_err(ImportError::file(path))?.len();
    }
    let start = ImportStart {
        system_identifier: preview.control.system_identifier,
        postgres_major: preview.control.postgres_major,
        timeline: preview.label.timeline,
        start_lsn: preview.label.start_lsn,
        wal_segment_bytes: preview.control.wal_segment_bytes,
        has_data_checksums: preview.control.has_data_checksums(),
        total_bytes: Some(total),
    };
    sink.begin(&start).map_err(ImportError::Sink)?;
    let mut backup = Backup::new(start, sink.replay_bytes_max());
    for (oid, path) in &preview.tablespaces {
        backup.tablespace(*oid, path, sink)?;
    }
    for (archive, path) in archives {
        let mut reader = BufReader::new(File::open(&path).map_err(ImportError::file(&path))?);
        read_archive(archive, &mut reader, &mut backup, sink)?;
    }
    backup.finish(sink)
}

/// `base.tar` of a folder; a compressed one is refused.
fn base_in(folder: &Path) -> Result<PathBuf, ImportError> {
    let base = folder.join("base.tar");
    if base.is_file() {
        return Ok(base);
    }
    for suffix in ["gz", "lz4", "zst"] {
        let compressed = folder.join(format!("base.tar.{suffix}"));
        if compressed.exists() {
            return Err(ImportError::MalformedFile {
                file: compressed.display().to_string(),
                reason: "compressed archives are not read; decompress all of them first".to_owned(),
            });
        }
    }
    Err(ImportError::Missing(format!("{}", base.display())))
}

/// What the first pass over `base.tar` finds.
struct Preview {
    control: ControlFile,
    label: BackupLabel,
    tablespaces: Vec<(u32, String)>,
    has_wal: bool,
}

impl Preview {
    fn of(base: &Path) -> Result<Preview, ImportError> {
        let (mut control, mut label, mut map) = (None, None, None);
        let mut has_wal = false;
        let file = File::open(base).map_err(ImportError::file(base))?;
        let mut tar = tar::Archive::new(file);
        let mut entries = tar.entries_with_seek().map_err(ImportError::Archive)?;
        let first = entries.next().transpose();
        // What the archive's reader says of the bytes of any other file is of no use to anybody.
        let first = first.map_err(|_| ImportError::MalformedFile {
            file: base.display().to_string(),
            reason: "not a tar archive".to_owned(),
        })?;
        for entry in first.map(Ok).into_iter().chain(entries) {
            let mut entry = entry.map_err(ImportError::Archive)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = entry.path().map_err(ImportError::Archive)?;
            let path = path.to_string_lossy().into_owned();
            let mut content = || -> Result<Vec<u8>, ImportError> {
                let mut bytes = Vec::new();
                let mut limited = (&mut entry).take(PREVIEW_BYTES_MAX);
                limited
                    .read_to_end(&mut bytes)
                    .map_err(ImportError::Archive)?;
                Ok(bytes)
            };
            match path.strip_prefix("./").unwrap_or(&path) {
                "global/pg_control" => control = Some(content()?),
                "backup_label" => label = Some(content()?),
                "tablespace_map" => map = Some(content()?),
                path => has_wal |= is_wal_segment(path),
            }
        }
        let missing = |what: &str| {
            let base = base.display();
            ImportError::Missing(format!("{what} in {base}: not a base backup"))
        };
        let control = control.ok_or_else(|| missing("global/pg_control"))?;
        let label = label.ok_or_else(|| missing("backup_label"))?;
        let map = map.unwrap_or_default();
        Ok(Preview {
            control: ControlFile::decode(&control)?,
            label: BackupLabel::parse(&String::from_utf8_lossy(&label))?,
            tablespaces: parse_tablespace_map(&String::from_utf8_lossy(&map))?,
            has_wal,
        })
    }

    /// The archives of the backup in the order of reading: WAL last.
    fn archives(&self, folder: &Path, base: &Path) -> Result<Vec<(Archive, PathBuf)>, ImportError> {
        let mut archives = Vec::new();
        for (oid, _) in &self.tablespaces {
            let path = folder.join(format!("{oid}.tar"));
            if !path.is_file() {
                return Err(ImportError::Missing(format!("{}", path.display())));
            }
            archives.push((Archive::Tablespace(*oid), path));
        }
        archives.push((Archive::Base, base.to_owned()));
        let wal = folder.join("pg_wal.tar");
        if !self.has_wal {
            if !wal.is_file() {
                return Err(ImportError::NoWal);
            }
            archives.push((Archive::Wal, wal));
        }
        Ok(archives)
    }
}

fn is_wal_segment(path: &str) -> bool {
    let name = path.strip_prefix("pg_wal/").unwrap_or("");
    name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// More than any of the previewed files has.
const PREVIEW_BYTES_MAX: u64 = 1 << 20;
