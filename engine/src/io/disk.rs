//! What the engine asks of a disk: whole aligned reads and writes, names, and durability. The kernel's disk is bound twice
//! (through the ring of a core, and through tokio-uring), the simulator has its own.
#![expect(
    async_fn_in_trait,
    reason = "the futures stay on the thread that made them: nobody needs them to be Send"
)]

use std::io;
use std::ops::Deref;
use std::path::Path;
use std::rc::Rc;

use super::aligned_buffer::AlignedBuffer;

/// Why the disk did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The device or the file system refused `op`.
    #[error("{op}: {source}")]
    Device {
        /// Which operation.
        op: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Fewer bytes than asked for, and not a retryable case: the file ends there.
    #[error("short {op} at byte {at}: {got_bytes} of {want_bytes} bytes")]
    Short {
        /// Which operation.
        op: &'static str,
        /// Position in the file.
        at: u64,
        /// Bytes asked for.
        want_bytes: usize,
        /// Bytes done.
        got_bytes: usize,
    },
}

/// Opens files. Cheap to clone; belongs to one core.
pub trait Disk: Clone + 'static {
    /// An open file.
    type File: DiskFile;

    /// Opens the file at `path` for direct reads and writes. With `create_bytes`, makes it first if it is not
    /// there and preallocates (or cuts) it to exactly that many bytes. Opening makes nothing durable.
    async fn open(
        &self,
        path: &Path,
        create_bytes: Option<u64>,
    ) -> Result<Rc<Self::File>, DiskError>;

    /// Removes a file; one that is not there is no error.
    async fn remove(&self, path: &Path) -> Result<(), DiskError>;

    /// Names of the files in the directory `dir`, in their order. Names that are no UTF-8 are left out: nobody here
    /// gives such.
    async fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError>;

    /// Gives the file `from` the name `to`, in the same directory, at once: whatever comes between, it has one of the
    /// two names. A file that was called `to` is gone.
    async fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;

    /// Returns once the names in the directory `dir` are durable: files made, renamed and removed there.
    async fn sync_dir(&self, dir: &Path) -> Result<(), DiskError>;
}

/// One open file. All positions, lengths and buffers are multiples of [`DiskFile::alignment_bytes`].
///
/// Dropping a future gives up the answer only: the buffer and the file stay with the ring until the kernel is
/// done with them.
pub trait DiskFile: 'static {
    /// Bytes that were read; the buffer behind it goes back to its pool on drop.
    type ReadBuffer: Deref<Target = [u8]>;

    /// What positions and lengths must be multiples of, as `statx` said when the file was opened.
    fn alignment_bytes(&self) -> usize;

    /// The file's size when it was opened, in bytes.
    fn size_bytes(&self) -> u64;

    /// Reads exactly `len_bytes` from `at`. A part of it is [`DiskError::Short`].
    async fn read_at(&self, at: u64, len_bytes: usize) -> Result<Self::ReadBuffer, DiskError>;

    /// Writes all of `buffer` at `at`; the buffer comes back for reuse.
    async fn write_at(&self, at: u64, buffer: AlignedBuffer) -> Result<AlignedBuffer, DiskError>;

    /// Returns once everything written before is durable. A file that was just made may still lose its name:
    /// see [`Disk::sync_dir`].
    async fn sync(&self) -> Result<(), DiskError>;
}
