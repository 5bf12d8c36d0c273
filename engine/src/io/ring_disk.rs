//! [`Disk`] through the core's own ring: direct IO, capped in flight.
//!
//! - A read takes a buffer that is registered with the ring, and allocates nothing; beyond their number, or for more than
//!   one of them holds, it allocates a buffer of its own. What was read is handed out in that buffer.
//! - Nothing is submitted at once: the core's driver hands the ring everything that was queued in one call.
//! - A dropped future asks the kernel to cancel; buffer and file stay with the ring until the kernel has completed the
//!   operation. The permit is free a moment earlier, when the future is dropped.
//! - A write owns its buffer until it is done and gives it back.
//! - Opening, sizing, and everything about names blocks the core: they are for the start and the end.
//!
//! Positions and lengths obey what `statx` (`STATX_DIOALIGN`, Linux 6.1) reports for the file. Where nothing is reported the
//! alignment is 4 KiB, which every device accepts.

use std::cmp::Ordering;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, StatxFlags};

use super::aligned_buffer::{AlignedBuffer, BUFFER_ALIGN_BYTES};
use super::core_ring::{CoreRing, Memory, PoolBuffer};
use super::directory;
use super::disk::{Disk, DiskError, DiskFile};
use super::permits::Permits;

/// The local file system through the ring of a core. Exists on a core that `start_core` started; clones share the cap.
#[derive(Clone)]
pub struct RingDisk {
    ring: Rc<CoreRing>,
    in_flight: Rc<Permits>,
}

impl RingDisk {
    /// A disk with at most `in_flight_max` reads and writes in the kernel at once; the rest waits its turn. Keep
    /// it below the device's queue (`nr_requests`, often 256), beyond which submitting blocks the core.
    /// # Panics
    /// On a thread that runs no core.
    pub fn new(in_flight_max: usize) -> RingDisk {
        RingDisk {
            ring: CoreRing::current(),
            in_flight: Permits::new(in_flight_max),
        }
    }

    /// Operations in the kernel now, and operations that wait for their turn.
    pub fn queue_depth(&self) -> (usize, usize) {
        (self.in_flight.in_use(), self.in_flight.waiting())
    }
}

impl Disk for RingDisk {
    type File = RingFile;

    async fn open(
        &self,
        path: &Path,
        create_bytes: Option<u64>,
    ) -> Result<Rc<RingFile>, DiskError> {
        let mut flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        flags.set(OFlags::CREATE, create_bytes.is_some());
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::open(path, flags, mode).map_err(|e| device("open", e.into()))?;
        if let Some(bytes) = create_bytes {
            resize(&file, bytes)?;
        }
        Ok(Rc::new(RingFile {
            alignment_bytes: direct_io_alignment(path)?,
            size_bytes: size_bytes(&file)?,
            file: Rc::new(file),
            disk: self.clone(),
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
        let dir = directory::open(dir)?;
        dir.sync_all().map_err(|e| device("sync directory", e))
    }
}

/// One file open for direct IO.
pub struct RingFile {
    file: Rc<OwnedFd>,
    alignment_bytes: usize,
    size_bytes: u64,
    disk: RingDisk,
}

/// What a read brought; its buffer is free again on drop.
pub struct RingBuffer {
    held: Held,
    len_bytes: usize,
}

enum Held {
    Pooled(PoolBuffer),
    Own(AlignedBuffer),
}

impl Deref for RingBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.held {
            Held::Pooled(buffer) => &buffer[..self.len_bytes],
            Held::Own(buffer) => &buffer[..self.len_bytes],
        }
    }
}

impl fmt::Debug for RingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingFile({} bytes)", self.size_bytes)
    }
}

impl fmt::Debug for RingBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingBuffer({} bytes)", self.len_bytes)
    }
}

impl DiskFile for RingFile {
    type ReadBuffer = RingBuffer;

    fn alignment_bytes(&self) -> usize {
        self.alignment_bytes
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    async fn read_at(&self, at: u64, len_bytes: usize) -> Result<RingBuffer, DiskError> {
        self.assert_aligned(at, len_bytes);
        let _permit = self.disk.in_flight.acquire().await;
        let done = self.disk.ring.read(&self.file, at, len_bytes).await;
        whole("read", at, len_bytes, done.result)?;
        let held = match done.memory {
            Memory::Pooled(buffer) => Held::Pooled(buffer),
            Memory::Aligned(buffer) => Held::Own(buffer),
            Memory::None | Memory::Bytes(_) | Memory::Descriptor => {
                unreachable!("a read has a buffer")
            }
        };
        Ok(RingBuffer { held, len_bytes })
    }

    async fn write_at(&self, at: u64, buffer: AlignedBuffer) -> Result<AlignedBuffer, DiskError> {
        let len_bytes = buffer.len();
        self.assert_aligned(at, len_bytes);
        let _permit = self.disk.in_flight.acquire().await;
        let done = self.disk.ring.write(&self.file, at, buffer).await;
        whole("write", at, len_bytes, done.result)?;
        match done.memory {
            Memory::Aligned(buffer) => Ok(buffer),
            _ => unreachable!("a write has the buffer it was given"),
        }
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let done = self.disk.ring.sync(&self.file).await;
        done.result.map(drop).map_err(|e| device("sync", e))
    }
}

impl RingFile {
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

/// Judges the completion of an operation that was to move `want_bytes`.
fn whole(
    op: &'static str,
    at: u64,
    want_bytes: usize,
    result: io::Result<u32>,
) -> Result<(), DiskError> {
    let got_bytes = result.map_err(|source| device(op, source))? as usize;
    if got_bytes == want_bytes {
        return Ok(());
    }
    Err(DiskError::Short {
        op,
        at,
        want_bytes,
        got_bytes,
    })
}

fn size_bytes(file: &OwnedFd) -> Result<u64, DiskError> {
    let stat = rustix::fs::fstat(file).map_err(|e| device("stat", e.into()))?;
    u64::try_from(stat.st_size).map_err(|e| device("stat", io::Error::other(e)))
}

/// Makes the file exactly `bytes` long, with its space allotted where the file system can do that. A file that has this
/// length stays as it is: it was made by an earlier start, or, sparse, by somebody who wanted it so.
fn resize(file: &OwnedFd, bytes: u64) -> Result<(), DiskError> {
    match size_bytes(file)?.cmp(&bytes) {
        Ordering::Equal => return Ok(()),
        Ordering::Greater => {
            return rustix::fs::ftruncate(file, bytes).map_err(|e| device("cut", e.into()));
        }
        Ordering::Less => {}
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            rustix::fs::ftruncate(file, bytes).map_err(|e| device("lengthen", e.into()))
        }
        Err(e) => Err(device("preallocate", e.into())),
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

fn device(op: &'static str, source: io::Error) -> DiskError {
    DiskError::Device { op, source }
}

#[cfg(test)]
mod tests;
