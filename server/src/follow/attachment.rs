//! What is written down of a branch that follows a primary: one file each in `attached/` of the data directory, for its
//! owner only.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use engine::types::{BranchId, TenantId};
use serde::{Deserialize, Serialize};

/// What an acknowledgement to the primary waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Ack {
    /// For the local disk: survives kill -9 and power loss, not the loss of this machine's disk.
    #[default]
    Local,
    /// For the object store: survives the loss of this machine.
    ObjectStore,
}

/// A branch that follows a primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Id of the tenant.
    pub tenant: String,
    /// Id of the branch.
    pub branch: String,
    /// tenant/branch, as it was attached; for people.
    pub name: String,
    /// How to connect to the primary, as it was given.
    pub connection: String,
    /// The slot that keeps WAL for us on the primary.
    pub slot: String,
    /// What acknowledgements wait for.
    #[serde(default)]
    pub ack: Ack,
}

/// Why attachments can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AttachmentError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no attachment.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Attachment {
    /// Tenant and branch.
    pub fn ids(&self) -> Option<(TenantId, BranchId)> {
        Some((self.tenant.parse().ok()?, self.branch.parse().ok()?))
    }

    /// All of them, by file name.
    /// # Errors
    /// A file that can't be read, or is no attachment: it is named.
    pub fn all(dir: &Path) -> Result<Vec<Attachment>, AttachmentError> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed(dir)(source)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed(dir))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                paths.push(path);
            }
        }
        paths.sort_unstable();
        paths.iter().map(|path| Attachment::read(path)).collect()
    }

    fn read(path: &Path) -> Result<Attachment, AttachmentError> {
        let text = fs::read_to_string(path).map_err(failed(path))?;
        let malformed = |reason: String| AttachmentError::Malformed {
            path: path.to_owned(),
            reason,
        };
        let attachment: Attachment =
            toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if attachment.ids().is_none() {
            return Err(malformed("tenant and branch have to be ids".to_owned()));
        }
        Ok(attachment)
    }

    /// Writes it down, durably; one of the same branch is replaced.
    /// # Errors
    /// The operating system's.
    pub fn save(&self, dir: &Path) -> Result<(), AttachmentError> {
        let path = self.path(dir);
        let unfinished = path.with_extension("new");
        let text = toml::to_string(self).map_err(|error| AttachmentError::Malformed {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let write = || {
            fs::DirBuilder::new().recursive(true).create(dir)?;
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            fs::File::open(dir)?.sync_all()
        };
        write().map_err(failed(&path))
    }

    /// Forgets it; one that is not there is no error.
    /// # Errors
    /// The operating system's.
    pub fn remove(&self, dir: &Path) -> Result<(), AttachmentError> {
        let path = self.path(dir);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path)(error)),
            _ => Ok(()),
        }
    }

    fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}-{}.toml", self.tenant, self.branch))
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> AttachmentError {
    let path = path.to_owned();
    move |source| AttachmentError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(branch: u8) -> Attachment {
        Attachment {
            tenant: format!("{:032x}", 1),
            branch: format!("{branch:032x}"),
            name: "shop/main".to_owned(),
            connection: "host=db1 user=replicator".to_owned(),
            slot: "pageserver_1".to_owned(),
            ack: Ack::ObjectStore,
        }
    }

    #[test]
    fn what_is_written_down_comes_back_until_it_is_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("attached");
        assert_eq!(Attachment::all(&dir).expect("none"), []);
        let (one, two) = (attachment(1), attachment(2));
        two.save(&dir).expect("saved");
        one.save(&dir).expect("saved");
        one.save(&dir).expect("saved again");
        assert_eq!(
            Attachment::all(&dir).expect("two"),
            [one.clone(), two.clone()]
        );
        one.remove(&dir).expect("removed");
        one.remove(&dir).expect("it is not there");
        assert_eq!(Attachment::all(&dir).expect("one"), [two]);
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.toml");
        for text in ["nonsense", "tenant = \"x\"", "unknown = 1"] {
            fs::write(&path, text).expect("written");
            let error = Attachment::all(folder.path()).expect_err(text).to_string();
            assert!(error.contains("x.toml"), "{error}");
        }
    }
}
