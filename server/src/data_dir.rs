//! The data directory: what is local to one server. One server at a time: an advisory lock on `lock`, which the kernel
//! gives back however the process ends; the pid in it is for the error message only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use engine::types::Id;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Where things are in a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

/// The right to use a data directory; given back on drop.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// Why a data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another server has it.
    #[error("{path} is used by another pageserver{}", pid.map_or(String::new(), |p| format!(", process {p}")))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// That server, if it has written its pid already.
        pid: Option<u32>,
    },
    /// The operating system refused.
    #[error("{op} {path}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DataDir {
    /// The directory at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> DataDir {
        DataDir(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.0.join("pageserver.toml")
    }

    /// The object store, where none is configured.
    pub fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }

    /// The cache's files.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// What is written down of branches that follow a primary.
    pub fn attached(&self) -> PathBuf {
        self.0.join("attached")
    }

    /// Local WAL of branches that follow a primary: a directory each.
    pub fn wal(&self) -> PathBuf {
        self.0.join("wal")
    }

    /// Which server this is: drawn when the directory is used first, kept in `server-id`.
    pub fn server_id(&self, fresh: Id) -> Result<Id, DataDirError> {
        let path = self.0.join("server-id");
        let failed = |op| {
            let path = path.clone();
            move |source| DataDirError::Io { op, path, source }
        };
        match fs::read_to_string(&path) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|e| failed("read")(io::Error::new(io::ErrorKind::InvalidData, e))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::write(&path, format!("{fresh}\n")).map_err(failed("write"))?;
                Ok(fresh)
            }
            Err(e) => Err(failed("read")(e)),
        }
    }

    /// Makes the directory if it is not there, for its owner only.
    pub fn create(&self) -> Result<(), DataDirError> {
        self.make(&self.0)
    }

    /// Makes the cache's directory if it is not there.
    pub fn create_cache(&self) -> Result<(), DataDirError> {
        self.make(&self.cache())
    }

    /// Takes the directory for this process.
    /// # Errors
    /// `InUse`, if another has it; nothing waits.
    pub fn lock(&self) -> Result<DataDirLock, DataDirError> {
        let path = self.0.join("lock");
        let failed = |op| {
            let path = path.clone();
            move |source| DataDirError::Io { op, path, source }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let read = (&mut file).take(32).read_to_string(&mut text);
                return Err(DataDirError::InUse {
                    path: self.0.clone(),
                    pid: read.ok().and_then(|_| text.trim().parse().ok()),
                });
            }
            Err(e) => return Err(failed("lock")(e.into())),
        }
        file.set_len(0).map_err(failed("write"))?;
        file.rewind().map_err(failed("write"))?;
        writeln!(file, "{}", std::process::id()).map_err(failed("write"))?;
        Ok(DataDirLock { _file: file })
    }

    fn make(&self, path: &Path) -> Result<(), DataDirError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| DataDirError::Io {
                op: "make",
                path: path.to_owned(),
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_id() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::new(folder.path());
        let (first, second) = (Id([1; 16]), Id([2; 16]));
        assert_eq!(dir.server_id(first).expect("written"), first);
        assert_eq!(dir.server_id(second).expect("read"), first);
        fs::write(folder.path().join("server-id"), "nonsense").expect("written");
        assert!(dir.server_id(second).is_err());
    }

    #[test]
    fn one_holder_at_a_time_and_the_second_learns_who_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::new(folder.path().join("data"));
        assert!(matches!(dir.lock(), Err(DataDirError::Io { .. })));
        dir.create().expect("made");
        let held = dir.lock().expect("free");
        let refused = dir.lock().expect_err("held");
        assert!(
            matches!(refused, DataDirError::InUse { pid: Some(pid), .. } if pid == std::process::id()),
            "{refused}"
        );
        drop(held);
        dir.lock().expect("free again");
    }
}
