//! One archive of a base backup, read in one pass.

use std::io::Read;

use super::backup::Backup;
use super::cluster_files::{SourceFile, is_state};
use super::{ImportError, ImportSink};
use crate::data_files::{DataFile, classify, classify_in_tablespace};

/// What an archive holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Archive {
    /// The data directory.
    Base,
    /// A tablespace.
    Tablespace(u32),
    /// WAL that was streamed besides.
    Wal,
}

impl Archive {
    /// By the name that server and `pg_basebackup` give it.
    pub(super) fn named(name: &str) -> Result<Archive, ImportError> {
        let archive = match name.strip_suffix(".tar") {
            Some("base") => Some(Archive::Base),
            Some("pg_wal") => Some(Archive::Wal),
            Some(oid) => oid.parse().ok().map(Archive::Tablespace),
            None => None,
        };
        archive.ok_or_else(|| ImportError::MalformedFile {
            file: name.to_owned(),
            reason: "not an archive of a base backup (base.tar, OID.tar, pg_wal.tar)".to_owned(),
        })
    }

    /// What an entry is, and its path as in a data directory.
    pub(super) fn classify(self, path: &str, postgres_major: u16) -> (DataFile, String) {
        let path = path.strip_prefix("./").unwrap_or(path);
        match self {
            Archive::Base => (classify(path, postgres_major), path.to_owned()),
            Archive::Tablespace(oid) => {
                let kind = classify_in_tablespace(oid, path, postgres_major);
                (kind, format!("pg_tblspc/{oid}/{path}"))
            }
            Archive::Wal => {
                let path = format!("pg_wal/{path}");
                (classify(&path, postgres_major), path)
            }
        }
    }
}

/// Hands every file of the archive on.
pub(super) fn read_archive(
    archive: Archive,
    reader: &mut dyn Read,
    backup: &mut Backup,
    sink: &mut dyn ImportSink,
) -> Result<(), ImportError> {
    let mut tar = tar::Archive::new(reader);
    for entry in tar.entries().map_err(ImportError::Archive)? {
        let mut entry = entry.map_err(ImportError::Archive)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(ImportError::Archive)?;
        let Some(path) = path.to_str() else {
            return Err(ImportError::MalformedFile {
                file: path.display().to_string(),
                reason: "its name is not UTF-8".to_owned(),
            });
        };
        let (kind, path) = archive.classify(path, backup.postgres_major());
        match kind {
            DataFile::Wal { timeline, segment } => {
                backup.segment(timeline, segment, &mut entry, sink)?;
            }
            kind if is_state(&kind) => {
                let file = SourceFile {
                    path: &path,
                    length: entry.size(),
                    mode: entry.header().mode().map_err(ImportError::Archive)?,
                };
                backup.file(kind, &file, &mut entry, sink)?;
            }
            _ => {}
        }
    }
    Ok(())
}
