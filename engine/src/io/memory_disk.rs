//! Files in memory for unit tests, with faults on demand. (The simulator's disk, which draws its faults from a seed, is
//! the tests crate's.)

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use async_channel::{Receiver, Sender};

use super::aligned_buffer::AlignedBuffer;
use super::disk::{Disk, DiskError, DiskFile};

type Bytes = Rc<RefCell<Vec<u8>>>;

#[derive(Clone, Default)]
pub(crate) struct MemoryDisk {
    pub(crate) files: Rc<RefCell<BTreeMap<PathBuf, Bytes>>>,
    /// Bytes of all files together beyond which the disk is full; zero: no limit.
    pub(crate) size_max: Rc<Cell<u64>>,
    /// Files whose name contains this cannot be opened.
    pub(crate) refused: Rc<RefCell<Option<&'static str>>>,
    /// Writes fail.
    pub(crate) broken: Rc<Cell<bool>>,
    /// Files cannot be made durable.
    pub(crate) sync_broken: Rc<Cell<bool>>,
    /// Writes that were done.
    pub(crate) writes: Rc<Cell<u64>>,
    /// Writes that were begun and have not ended.
    pub(crate) writing: Rc<Cell<u32>>,
    /// Files opened so far.
    pub(crate) open_count: Rc<Cell<u32>>,
    held: Rc<RefCell<Option<Receiver<()>>>>,
}

pub(crate) struct MemoryFile {
    bytes: Bytes,
    disk: MemoryDisk,
}

impl MemoryDisk {
    /// A disk with one file of `len_bytes` bytes of 0xee.
    pub(crate) fn with_file(path: &str, len_bytes: usize) -> MemoryDisk {
        let disk = MemoryDisk::default();
        let bytes = Rc::new(RefCell::new(vec![0xee; len_bytes]));
        disk.files.borrow_mut().insert(path.into(), bytes);
        disk
    }

    /// A file, as it is and as it will be.
    pub(crate) fn bytes(&self, path: &Path) -> Bytes {
        Rc::clone(&self.files.borrow()[path])
    }

    /// What a file holds now.
    pub(crate) fn contents(&self, path: &str) -> Vec<u8> {
        self.bytes(Path::new(path)).borrow().clone()
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        let files = self.files.borrow();
        files.values().map(|f| f.borrow().len() as u64).sum()
    }

    /// From now on writes do not end before what this returns is dropped.
    pub(crate) fn hold_writes(&self) -> Sender<()> {
        let (release, held) = async_channel::bounded(1);
        *self.held.borrow_mut() = Some(held);
        release
    }
}

fn fails(op: &'static str, kind: io::ErrorKind) -> DiskError {
    DiskError::Device {
        op,
        source: kind.into(),
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    async fn open(
        &self,
        path: &Path,
        create_bytes: Option<u64>,
    ) -> Result<Rc<MemoryFile>, DiskError> {
        self.open_count.set(self.open_count.get() + 1);
        let name = path.to_str().expect("plain names");
        if self.refused.borrow().is_some_and(|r| name.contains(r)) {
            return Err(fails("open", io::ErrorKind::PermissionDenied));
        }
        let known = self.files.borrow().get(path).cloned();
        let bytes = match (known, create_bytes) {
            (None, None) => return Err(fails("open", io::ErrorKind::NotFound)),
            (Some(bytes), None) => bytes,
            (known, Some(size)) => {
                let bytes = known.unwrap_or_default();
                let more = size.saturating_sub(bytes.borrow().len() as u64);
                let max = self.size_max.get();
                if max > 0 && self.size_bytes() + more > max {
                    return Err(fails("preallocate", io::ErrorKind::StorageFull));
                }
                let size = usize::try_from(size).expect("small");
                if bytes.borrow().is_empty() {
                    // The allocator's zeros cost nothing until they are touched.
                    *bytes.borrow_mut() = vec![0; size];
                } else {
                    bytes.borrow_mut().resize(size, 0);
                }
                let mut files = self.files.borrow_mut();
                files.insert(path.to_owned(), Rc::clone(&bytes));
                bytes
            }
        };
        let disk = self.clone();
        Ok(Rc::new(MemoryFile { bytes, disk }))
    }

    async fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.files.borrow_mut().remove(path);
        Ok(())
    }

    async fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let files = self.files.borrow();
        let here = files.keys().filter(|path| path.parent() == Some(dir));
        let names = here.filter_map(|path| path.file_name()?.to_str());
        Ok(names.map(str::to_owned).collect())
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let mut files = self.files.borrow_mut();
        let file = files.remove(from);
        let file = file.ok_or_else(|| fails("rename", io::ErrorKind::NotFound))?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    async fn sync_dir(&self, _dir: &Path) -> Result<(), DiskError> {
        if self.sync_broken.get() {
            return Err(fails("sync directory", io::ErrorKind::Other));
        }
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    type ReadBuffer = Vec<u8>;

    fn alignment_bytes(&self) -> usize {
        512
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.borrow().len() as u64
    }

    async fn read_at(&self, at: u64, len_bytes: usize) -> Result<Vec<u8>, DiskError> {
        assert!(at.is_multiple_of(512) && len_bytes.is_multiple_of(512) && len_bytes > 0);
        let bytes = self.bytes.borrow();
        let start = usize::try_from(at).expect("small").min(bytes.len());
        let end = (start + len_bytes).min(bytes.len());
        if end - start < len_bytes {
            return Err(DiskError::Short {
                op: "read",
                at,
                want_bytes: len_bytes,
                got_bytes: end - start,
            });
        }
        Ok(bytes[start..end].to_vec())
    }

    async fn write_at(&self, at: u64, buffer: AlignedBuffer) -> Result<AlignedBuffer, DiskError> {
        assert!(at.is_multiple_of(512) && buffer.len().is_multiple_of(512));
        self.disk.writing.set(self.disk.writing.get() + 1);
        let held = self.disk.held.borrow().clone();
        if let Some(held) = held {
            // Never sent to: it ends when the other end is dropped.
            let _ = held.recv().await;
        }
        self.disk.writing.set(self.disk.writing.get() - 1);
        if self.disk.broken.get() {
            return Err(fails("write", io::ErrorKind::Other));
        }
        let start = usize::try_from(at).expect("small");
        self.bytes.borrow_mut()[start..start + buffer.len()].copy_from_slice(&buffer);
        self.disk.writes.set(self.disk.writes.get() + 1);
        Ok(buffer)
    }

    async fn sync(&self) -> Result<(), DiskError> {
        if self.disk.sync_broken.get() {
            return Err(fails("sync", io::ErrorKind::Other));
        }
        Ok(())
    }
}
