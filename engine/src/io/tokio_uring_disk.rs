//! Direct IO through tokio-uring: the disk of store threads, which write fills with it, and of the threads that receive
//! WAL. A buffer belongs to its
//! operation until the kernel completes it, also when the future is dropped: tokio-uring keeps both.

use std::io;
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{FallocateFlags, OFlags};
use tokio_uring::buf::{IoBuf, IoBufMut};
use tokio_uring::fs::File;

use super::aligned_buffer::AlignedBuffer;
use super::directory;
use super::disk::{Disk, DiskError, DiskFile};
use super::ring_disk::direct_io_alignment;

/// Opens files for direct IO on a tokio-uring thread.
#[derive(Clone, Copy, Debug)]
pub struct TokioUringDisk;

/// A file open for direct IO.
#[derive(Debug)]
pub struct TokioUringFile {
    file: File,
    alignment_bytes: usize,
    size_bytes: u64,
}

/// An [`AlignedBuffer`] of which the kernel may hold the address.
struct KernelBuffer(AlignedBuffer);

// SAFETY: the buffer's memory is allocated once, does not move with the value, and is initialised from the start.
unsafe impl IoBuf for KernelBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.len()
    }

    fn bytes_total(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: as above; all of the memory is writable, and the value owns it.
unsafe impl IoBufMut for KernelBuffer {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    unsafe fn set_init(&mut self, _len: usize) {
        // All of it is initialised already.
    }
}

/// What a read returns.
#[derive(Debug)]
pub struct TokioUringRead(AlignedBuffer);

impl Deref for TokioUringRead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Disk for TokioUringDisk {
    type File = TokioUringFile;

    /// Opening blocks the thread for the few microseconds of the system calls; it happens once per file.
    async fn open(
        &self,
        path: &Path,
        create_bytes: Option<u64>,
    ) -> Result<Rc<TokioUringFile>, DiskError> {
        let (file, size_bytes) = open_direct(path, create_bytes)
            .map_err(|source| DiskError::Device { op: "open", source })?;
        Ok(Rc::new(TokioUringFile {
            file: File::from_std(file),
            alignment_bytes: direct_io_alignment(path)?,
            size_bytes,
        }))
    }

    async fn remove(&self, path: &Path) -> Result<(), DiskError> {
        directory::remove(path)
    }

    async fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        directory::list(dir)
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        directory::rename(from, to)
    }

    async fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        let dir = File::from_std(directory::open(dir)?);
        dir.sync_all().await.map_err(|source| DiskError::Device {
            op: "sync directory",
            source,
        })
    }
}

fn open_direct(path: &Path, create_bytes: Option<u64>) -> io::Result<(std::fs::File, u64)> {
    let direct = OFlags::DIRECT.bits().cast_signed();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(create_bytes.is_some())
        .mode(0o600)
        .custom_flags(direct)
        .open(path)?;
    if let Some(bytes) = create_bytes {
        file.set_len(bytes)?;
        if bytes > 0 {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        }
    }
    let size_bytes = file.metadata()?.len();
    Ok((file, size_bytes))
}

impl DiskFile for TokioUringFile {
    type ReadBuffer = TokioUringRead;

    fn alignment_bytes(&self) -> usize {
        self.alignment_bytes
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    async fn read_at(&self, at: u64, len_bytes: usize) -> Result<TokioUringRead, DiskError> {
        let buffer = KernelBuffer(AlignedBuffer::zeroed(len_bytes));
        let (read, KernelBuffer(buffer)) = self.file.read_at(buffer, at).await;
        complete("read", at, len_bytes, read).map(|()| TokioUringRead(buffer))
    }

    async fn write_at(&self, at: u64, buffer: AlignedBuffer) -> Result<AlignedBuffer, DiskError> {
        let len_bytes = buffer.len();
        let (written, KernelBuffer(buffer)) =
            self.file.write_at(KernelBuffer(buffer), at).submit().await;
        complete("write", at, len_bytes, written).map(|()| buffer)
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.file
            .sync_data()
            .await
            .map_err(|source| DiskError::Device { op: "sync", source })
    }
}

/// A part of the bytes is its own case, not success.
fn complete(
    op: &'static str,
    at: u64,
    want_bytes: usize,
    result: io::Result<usize>,
) -> Result<(), DiskError> {
    match result {
        Ok(got_bytes) if got_bytes == want_bytes => Ok(()),
        Ok(got_bytes) => Err(DiskError::Short {
            op,
            at,
            want_bytes,
            got_bytes,
        }),
        Err(source) => Err(DiskError::Device { op, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_end_of_the_file_is_short() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("file");
        tokio_uring::start(async {
            let file = TokioUringDisk
                .open(&path, Some(8192))
                .await
                .expect("direct IO works here");
            assert!(file.alignment_bytes().is_power_of_two());
            assert_eq!(file.size_bytes(), 8192);
            let mut buffer = AlignedBuffer::zeroed(4096);
            buffer.fill(7);
            let buffer = file.write_at(4096, buffer).await.expect("write");
            assert_eq!(buffer.len(), 4096);
            file.sync().await.expect("sync");
            let read = file.read_at(0, 8192).await.expect("read");
            assert!(read[..4096].iter().all(|b| *b == 0) && read[4096..].iter().all(|b| *b == 7));
            let short = file.read_at(4096, 8192).await;
            assert!(
                matches!(
                    short,
                    Err(DiskError::Short {
                        got_bytes: 4096,
                        ..
                    })
                ),
                "{short:?}"
            );
            let other = dir.path().join("another name");
            TokioUringDisk.rename(&path, &other).await.expect("rename");
            TokioUringDisk.sync_dir(dir.path()).await.expect("durable");
            let names = TokioUringDisk.list(dir.path()).await.expect("list");
            assert_eq!(names, ["another name"]);
            TokioUringDisk.rename(&other, &path).await.expect("back");
            assert!(TokioUringDisk.list(&other).await.is_err());
            assert!(TokioUringDisk.sync_dir(&other).await.is_err());
            TokioUringDisk.remove(&path).await.expect("remove");
            TokioUringDisk.remove(&path).await.expect("gone already");
            assert!(TokioUringDisk.open(&path, None).await.is_err());
        });
    }
}
