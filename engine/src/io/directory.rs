//! Names of the local file system, for both disks of the kernel. The calls block for some microseconds.

use std::fs::File;
use std::io;
use std::path::Path;

use super::disk::DiskError;

/// Removes a file; one that is not there is no error.
pub(super) fn remove(path: &Path) -> Result<(), DiskError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(device("remove", source)),
        _ => Ok(()),
    }
}

/// Names of the files in `dir`, in their order.
pub(super) fn list(dir: &Path) -> Result<Vec<String>, DiskError> {
    let names = || {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    };
    names().map_err(|source| device("list", source))
}

/// Gives a file another name.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    std::fs::rename(from, to).map_err(|source| device("rename", source))
}

/// The directory itself, to be synced.
pub(super) fn open(dir: &Path) -> Result<File, DiskError> {
    File::open(dir).map_err(|source| device("open directory", source))
}

fn device(op: &'static str, source: io::Error) -> DiskError {
    DiskError::Device { op, source }
}
