//! [`Disk`] through the ring of a glommio executor: direct IO, capped in flight.
//!
//! What glommio 0.9 does for each operation, read at its source:
//!
//! - a read takes a few small allocations (the reference-counted `Source` that owns buffer and result, a second count around
//!   it; `tests/tests/hot_path_allocations.rs` holds us to no more than these) and its
//!   buffer from a slab registered with the ring (`io_memory`, see `executor.rs`); when that slab is used up, an
//!   ordinary allocation of the buffer's size on top, and the read is not a registered one. The submission queue
//!   and the table of sources keep their memory. The buffer is allotted when the read is submitted, so at most
//!   [`GlommioDisk`]'s cap of them are taken by reads in flight, and more by answers still held.
//! - nothing is submitted at once: the executor's loop hands the ring everything queued since its last round
//!   in one `io_uring_enter`. Other than that it makes no system call while it has work; before it
//!   sleeps it makes one `membarrier`, and a wake from another core writes an eventfd if the core sleeps. Both are per
//!   sleep, not per read.
//! - a dropped future cancels the operation; the `Source`, with its buffer, stays in glommio's table until the kernel
//!   has completed it. The permit is free a moment earlier, when the future is dropped.
//! - a write needs a buffer of glommio's own: [`DiskFile::write_at`] copies once. On a core only
//!   blocks of the cache index are written this way; extents are filled by the thread that receives them.
//! - opening is not for the hot path: `statx`, `statfs` and sysfs are read by blocking calls.
//!
//! glommio finds out whether a device can be polled (IOPOLL) by reading the first block of the first file opened on
//! it. On an empty or a merely preallocated file that read never reaches the device, succeeds, and sends all
//! later reads to a ring on which they fail with EOPNOTSUPP. So the first file that glommio sees on each
//! device is one of ours, nameless and with real bytes in it.
//!
//! Positions and lengths obey what `statx` (`STATX_DIOALIGN`, Linux 6.1) reports for the file, since glommio itself only
//! knows the device's logical block size. Where nothing is reported the alignment is 4 KiB, which every
//! device accepts.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions, ReadResult};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::aligned_buffer::{AlignedBuffer, BUFFER_ALIGN_BYTES};
use super::disk::{Disk, DiskError, DiskFile};
use super::permits::Permits;

/// The local file system through the executor's own ring. Exists on a glommio executor only; clones share the cap.
#[derive(Clone, Debug)]
pub struct GlommioDisk {
    in_flight: Rc<Permits>,
    /// Devices that glommio has been shown a file with real bytes on; a handful at most.
    probed: Rc<RefCell<Vec<u64>>>,
}

impl GlommioDisk {
    /// A disk with at most `in_flight_max` reads and writes in the kernel at once; the rest waits its turn. Keep
    /// it below the device's queue (`nr_requests`, often 256), beyond which submitting blocks the core.
    pub fn new(in_flight_max: usize) -> GlommioDisk {
        GlommioDisk {
            in_flight: Permits::new(in_flight_max),
            probed: Rc::default(),
        }
    }

    /// Operations in the kernel now, and operations that wait for their turn.
    pub fn queue_depth(&self) -> (usize, usize) {
        (self.in_flight.in_use(), self.in_flight.waiting())
    }

    /// Lets glommio find out about polling on the device of `directory`, once.
    async fn probe(&self, directory: &Path) -> Result<(), DiskError> {
        let failed = |source| DiskError::Device {
            op: "probe the device",
            source,
        };
        let device_id = directory.metadata().map_err(failed)?.dev();
        if self.probed.borrow().contains(&device_id) {
            return Ok(());
        }
        let scratch = nameless_file(directory).map_err(failed)?;
        let path = format!("/proc/self/fd/{}", scratch.as_raw_fd());
        let probed = DmaFile::open(path)
            .await
            .map_err(|e| device("probe the device", e))?;
        probed
            .close()
            .await
            .map_err(|e| device("probe the device", e))?;
        self.probed.borrow_mut().push(device_id);
        Ok(())
    }
}

impl Disk for GlommioDisk {
    type File = GlommioFile;

    async fn open(
        &self,
        path: &Path,
        create_bytes: Option<u64>,
    ) -> Result<Rc<GlommioFile>, DiskError> {
        self.probe(directory_of(path)).await?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create_bytes.is_some())
            .mode(0o600)
            .dma_open(path)
            .await
            .map_err(|e| device("open", e))?;
        if let Some(bytes) = create_bytes {
            resize(&file, bytes).await?;
        }
        let size_bytes = file.file_size().await.map_err(|e| device("stat", e))?;
        Ok(Rc::new(GlommioFile {
            alignment_bytes: direct_io_alignment(path)?,
            size_bytes,
            file,
            in_flight: Rc::clone(&self.in_flight),
        }))
    }

    async fn remove(&self, path: &Path) -> Result<(), DiskError> {
        match glommio::io::remove(path).await {
            Ok(()) => Ok(()),
            Err(error) => match io_error(error) {
                source if source.kind() == io::ErrorKind::NotFound => Ok(()),
                source => Err(DiskError::Device {
                    op: "remove",
                    source,
                }),
            },
        }
    }
}

/// One file open for direct IO.
#[derive(Debug)]
pub struct GlommioFile {
    file: DmaFile,
    alignment_bytes: usize,
    size_bytes: u64,
    in_flight: Rc<Permits>,
}

/// What a read brought, in a buffer of the ring; the buffer is free again on drop.
#[derive(Debug)]
pub struct RingBuffer(ReadResult);

impl Deref for RingBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DiskFile for GlommioFile {
    type ReadBuffer = RingBuffer;

    fn alignment_bytes(&self) -> usize {
        self.alignment_bytes
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    async fn read_at(&self, at: u64, len_bytes: usize) -> Result<RingBuffer, DiskError> {
        self.assert_aligned(at, len_bytes);
        let _permit = self.in_flight.acquire().await;
        let bytes = self
            .file
            .read_at_aligned(at, len_bytes)
            .await
            .map_err(|e| device("read", e))?;
        if bytes.len() != len_bytes {
            return Err(DiskError::Short {
                op: "read",
                at,
                want_bytes: len_bytes,
                got_bytes: bytes.len(),
            });
        }
        Ok(RingBuffer(bytes))
    }

    async fn write_at(&self, at: u64, buffer: AlignedBuffer) -> Result<AlignedBuffer, DiskError> {
        self.assert_aligned(at, buffer.len());
        let _permit = self.in_flight.acquire().await;
        let mut dma = self.file.alloc_dma_buffer(buffer.len());
        dma.as_bytes_mut().copy_from_slice(&buffer);
        let got_bytes = self
            .file
            .write_at(dma, at)
            .await
            .map_err(|e| device("write", e))?;
        if got_bytes != buffer.len() {
            return Err(DiskError::Short {
                op: "write",
                at,
                want_bytes: buffer.len(),
                got_bytes,
            });
        }
        Ok(buffer)
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.file.fdatasync().await.map_err(|e| device("sync", e))
    }
}

impl GlommioFile {
    fn assert_aligned(&self, at: u64, len_bytes: usize) {
        let alignment = self.alignment_bytes;
        assert!(
            at.is_multiple_of(alignment as u64),
            "position {at} is aligned"
        );
        assert!(
            len_bytes > 0 && len_bytes.is_multiple_of(alignment),
            "length {len_bytes} is aligned and positive"
        );
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// A file of one block, written, that has no name any more.
fn nameless_file(directory: &Path) -> io::Result<File> {
    let name = format!(
        ".device-probe-{}-{}",
        std::process::id(),
        glommio::executor().id()
    );
    let path = directory.join(name);
    let mut file = File::create_new(&path)?;
    std::fs::remove_file(&path)?;
    file.write_all(&[1; BUFFER_ALIGN_BYTES])?;
    file.sync_data()?;
    Ok(file)
}

/// Makes the file exactly `bytes` long, with its space allotted where the file system can do that.
async fn resize(file: &DmaFile, bytes: u64) -> Result<(), DiskError> {
    let size_bytes = file.file_size().await.map_err(|e| device("stat", e))?;
    if size_bytes > bytes {
        return file.truncate(bytes).await.map_err(|e| device("cut", e));
    }
    match file.pre_allocate(bytes, false).await.map_err(io_error) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::Unsupported => file
            .truncate(bytes)
            .await
            .map_err(|e| device("lengthen", e)),
        Err(source) => Err(DiskError::Device {
            op: "preallocate",
            source,
        }),
    }
}

/// What positions and lengths of direct IO on this file must be multiples of.
pub(super) fn direct_io_alignment(path: &Path) -> Result<usize, DiskError> {
    let stat =
        rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::DIOALIGN).map_err(|e| {
            DiskError::Device {
                op: "statx",
                source: e.into(),
            }
        })?;
    let reported = if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        0
    } else {
        stat.stx_dio_offset_align.max(stat.stx_dio_mem_align)
    };
    Ok(usable_alignment(reported))
}

/// The reported alignment if it is one that our buffers satisfy, else 4 KiB.
fn usable_alignment(reported: u32) -> usize {
    match usize::try_from(reported) {
        Ok(bytes) if bytes.is_power_of_two() && bytes <= BUFFER_ALIGN_BYTES => bytes,
        _ => BUFFER_ALIGN_BYTES,
    }
}

fn device(op: &'static str, error: GlommioError<()>) -> DiskError {
    DiskError::Device {
        op,
        source: io_error(error),
    }
}

/// The system's own error, with its number, out of glommio's wrapping.
fn io_error(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. } => source,
        other => other.into(),
    }
}

#[cfg(test)]
mod tests;
