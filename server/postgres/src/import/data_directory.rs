//! The data directory of a cluster that was shut down.
//!
//! The shutdown checkpoint is the cluster's last WAL record: start is its position, stop its end. Nothing may run on
//! the directory meanwhile; that it did not is checked by the control file being the same at the end.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::cluster_files::{ClusterFiles, Source, SourceFile, is_state};
use super::wal_stretch::{Until, WalStretch};
use super::{ImportError, ImportSink, ImportStart, ImportSummary};
use crate::control_file::{ClusterState, ControlFile};
use crate::data_files::{DataFile, classify, is_version_folder};
use crate::key::{Fork, Relation};
use crate::wal::WalStream;

pub(super) fn import(
    directory: &Path,
    sink: &mut dyn ImportSink,
) -> Result<ImportSummary, ImportError> {
    let control = check(directory)?;
    let listing = Listing::of(directory, control.postgres_major)?;
    let start = ImportStart {
        system_identifier: control.system_identifier,
        postgres_major: control.postgres_major,
        timeline: control.checkpoint.timeline,
        start_lsn: control.checkpoint_lsn,
        wal_segment_bytes: control.wal_segment_bytes,
        has_data_checksums: control.has_data_checksums(),
        total_bytes: Some(listing.files.iter().map(|file| file.length).sum()),
    };
    sink.begin(&start).map_err(ImportError::Sink)?;
    let stop = wal(directory, &start, sink)?;
    let mut files = ClusterFiles::new(start, Source::Stopped, sink.replay_bytes_max());
    for (oid, target) in &listing.tablespaces {
        files.tablespace(*oid, target, sink)?;
    }
    for listed in &listing.files {
        let kind = classify(&listed.path, control.postgres_major);
        let path = directory.join(&listed.path);
        let mut reader = File::open(&path).map_err(ImportError::file(&path))?;
        let file = SourceFile {
            path: &listed.path,
            length: listed.length,
            mode: listed.mode,
        };
        files.file(kind, &file, &mut reader, sink)?;
    }
    if check(directory)? != control {
        return Err(ImportError::InUse {
            path: directory.to_owned(),
        });
    }
    files.finish(sink)?.complete(stop, sink)
}

/// The control file of a directory that nothing runs on.
fn check(directory: &Path) -> Result<ControlFile, ImportError> {
    let exists = |name: &str| directory.join(name).exists();
    for missing in ["PG_VERSION", "global/pg_control"] {
        if !exists(missing) {
            return Err(ImportError::NotDataDirectory {
                path: directory.to_owned(),
                missing,
            });
        }
    }
    let path = directory.join("global/pg_control");
    let control = ControlFile::decode(&fs::read(&path).map_err(ImportError::file(&path))?)?;
    let path = directory.to_owned();
    if exists("postmaster.pid") {
        return Err(ImportError::InUse { path });
    }
    if exists("backup_label") {
        return Err(ImportError::UnstartedBackup { path });
    }
    match control.state {
        ClusterState::ShutDown => Ok(control),
        state => Err(ImportError::NotShutDown { state }),
    }
}

fn wal(
    directory: &Path,
    start: &ImportStart,
    sink: &mut dyn ImportSink,
) -> Result<engine::types::Lsn, ImportError> {
    let stream = WalStream::of(start);
    let until = Until::ShutdownCheckpoint;
    let mut stretch = WalStretch::new(start.start_lsn, stream, until);
    // One record: two segments at most.
    for _ in 0..2 {
        let name = format!("pg_wal/{}", stretch.next_segment_name());
        let path = directory.join(&name);
        let mut reader = File::open(&path).map_err(ImportError::file(&path))?;
        if let DataFile::Wal { timeline, segment } = classify(&name, start.postgres_major)
            && stretch.wants(timeline, segment)
        {
            // It writes out what was logged before, and changes nothing.
            stretch.segment(segment, &mut reader, sink, &mut |_, _| Ok(()))?;
        }
        if stretch.stop().is_some() {
            break;
        }
    }
    stretch.finish()
}

struct ListedFile {
    /// Relative to the data directory, tablespaces by their links.
    path: String,
    length: u64,
    mode: u32,
}

/// All files that are state, and the tablespaces.
struct Listing {
    files: Vec<ListedFile>,
    tablespaces: Vec<(u32, String)>,
}

impl Listing {
    fn of(directory: &Path, postgres_major: u16) -> Result<Listing, ImportError> {
        let mut listing = Listing {
            files: Vec::new(),
            tablespaces: Vec::new(),
        };
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let absolute = directory.join(&folder);
            for entry in fs::read_dir(&absolute).map_err(ImportError::file(&absolute))? {
                let entry = entry.map_err(ImportError::file(&absolute))?;
                let relative = folder.join(entry.file_name());
                let absolute = directory.join(&relative);
                let Some(path) = relative.to_str() else {
                    return Err(ImportError::MalformedFile {
                        file: relative.display().to_string(),
                        reason: "its name is not UTF-8".to_owned(),
                    });
                };
                // Links are followed: tablespaces, pg_wal elsewhere, configuration kept elsewhere.
                let metadata = fs::metadata(&absolute).map_err(ImportError::file(&absolute))?;
                if metadata.is_dir() {
                    if let Some(oid) = listing.tablespace_link(path, &absolute)? {
                        folders.extend(version_folders(&absolute, &relative, postgres_major)?);
                        tracing::debug!(oid, "tablespace found");
                    } else if path != "pg_wal" {
                        folders.push(relative);
                    }
                } else if metadata.is_file() && is_state(&classify(path, postgres_major)) {
                    listing.files.push(ListedFile {
                        path: path.to_owned(),
                        length: metadata.len(),
                        mode: metadata.permissions().mode(),
                    });
                }
            }
        }
        listing.drop_unlogged(postgres_major);
        listing.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        listing.tablespaces.sort_unstable();
        Ok(listing)
    }

    /// Notes a tablespace; answers its oid if `path` is one.
    fn tablespace_link(&mut self, path: &str, absolute: &Path) -> Result<Option<u32>, ImportError> {
        let Some(oid) = path
            .strip_prefix("pg_tblspc/")
            .and_then(|oid| oid.parse().ok())
        else {
            return Ok(None);
        };
        // A tablespace made in place (for tests of Postgres) is a directory and no link.
        let target = match fs::read_link(absolute) {
            Ok(target) => target.display().to_string(),
            Err(_) => path.to_owned(),
        };
        self.tablespaces.push((oid, target));
        Ok(Some(oid))
    }

    /// Of unlogged relations only the init forks are state: after a restore everything else is remade from them.
    fn drop_unlogged(&mut self, postgres_major: u16) {
        let fork_of = |file: &ListedFile| match classify(&file.path, postgres_major) {
            DataFile::Relation { relation, fork, .. } => Some((relation, fork)),
            _ => None,
        };
        let unlogged: HashSet<Relation> = self
            .files
            .iter()
            .filter_map(fork_of)
            .filter(|(_, fork)| *fork == Fork::Init)
            .map(|(relation, _)| relation)
            .collect();
        self.files.retain(|file| match fork_of(file) {
            Some((relation, fork)) => fork == Fork::Init || !unlogged.contains(&relation),
            None => true,
        });
    }
}

/// This version's folder in a tablespace; those of other versions stay out.
fn version_folders(
    absolute: &Path,
    relative: &Path,
    postgres_major: u16,
) -> Result<Vec<PathBuf>, ImportError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(absolute).map_err(ImportError::file(absolute))? {
        let name = entry.map_err(ImportError::file(absolute))?.file_name();
        if name
            .to_str()
            .is_some_and(|name| is_version_folder(name, postgres_major))
        {
            found.push(relative.join(name));
        }
    }
    Ok(found)
}
