//! Extents on their way from a body into the cache: collected in aligned memory, judged, written by the thread that
//! received them, byte for byte as they came.
//!
//! Memory for them is one bounded pool per store thread. If it is empty, the extent is not cached and the fetch goes
//! on: waiters are never held up by the cache's disk.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::requests::{Fill, FillError, FillTarget, VerifyExtent};
use crate::io::aligned_buffer::{AlignedBuffer, BUFFER_ALIGN_BYTES};
use crate::io::disk::{Disk, DiskError, DiskFile};

/// What the fetches of one store thread share: the disk, its open files, and memory. Cheap to clone.
pub(super) struct CacheDisk<D: Disk> {
    shared: Rc<Shared<D>>,
}

struct Shared<D: Disk> {
    disk: D,
    /// As many as there are cache files; a file that failed is opened anew.
    files: RefCell<HashMap<Arc<Path>, Rc<D::File>>>,
    pool: RefCell<Pool>,
}

/// Fill buffers: those in use and one list of free ones count against the bound.
struct Pool {
    free: Vec<AlignedBuffer>,
    allocated_bytes: usize,
    allocated_bytes_max: usize,
}

/// A buffer of the pool; goes back when dropped.
struct FillBuffer<D: Disk> {
    buffer: Option<AlignedBuffer>,
    len_bytes: usize,
    shared: Rc<Shared<D>>,
}

/// An extent that is whole and acceptable, ready to be written.
pub(super) struct ReadyFill<D: Disk> {
    /// Index in the request.
    pub(super) fill: usize,
    crc32c: u32,
    target: FillTarget,
    buffer: FillBuffer<D>,
}

/// The fills of one fetch, filled front to back as its chunks pass.
pub(super) struct Collector<D: Disk> {
    cache_disk: CacheDisk<D>,
    fills: Vec<Fill>,
    verify: VerifyExtent,
    /// Index of the first fill that is not complete.
    next: usize,
    /// Memory of `next`, from its first byte on.
    buffer: Option<FillBuffer<D>>,
}

impl<D: Disk> Clone for CacheDisk<D> {
    fn clone(&self) -> Self {
        CacheDisk {
            shared: Rc::clone(&self.shared),
        }
    }
}

impl<D: Disk> CacheDisk<D> {
    /// Writes through `disk`, with at most `buffer_bytes_max` of memory.
    pub(super) fn new(disk: D, buffer_bytes_max: usize) -> CacheDisk<D> {
        CacheDisk {
            shared: Rc::new(Shared {
                disk,
                files: RefCell::default(),
                pool: RefCell::new(Pool {
                    free: Vec::new(),
                    allocated_bytes: 0,
                    allocated_bytes_max: buffer_bytes_max,
                }),
            }),
        }
    }

    fn take_buffer(&self, len_bytes: usize) -> Option<FillBuffer<D>> {
        let buffer = self.shared.pool.borrow_mut().take(len_bytes)?;
        Some(FillBuffer {
            buffer: Some(buffer),
            len_bytes,
            shared: Rc::clone(&self.shared),
        })
    }

    async fn file(&self, path: &Arc<Path>) -> Result<Rc<D::File>, DiskError> {
        if let Some(file) = self.shared.files.borrow().get(path) {
            return Ok(Rc::clone(file));
        }
        let file = self.shared.disk.open(path, None).await?;
        let mut files = self.shared.files.borrow_mut();
        // Another fetch may have opened it meanwhile; either handle will do.
        Ok(Rc::clone(files.entry(Arc::clone(path)).or_insert(file)))
    }
}

impl Pool {
    fn take(&mut self, len_bytes: usize) -> Option<AlignedBuffer> {
        if let Some(at) = self.free.iter().position(|free| free.len() == len_bytes) {
            return Some(self.free.swap_remove(at));
        }
        while self.allocated_bytes + len_bytes > self.allocated_bytes_max {
            self.allocated_bytes -= self.free.pop()?.len();
        }
        self.allocated_bytes += len_bytes;
        Some(AlignedBuffer::zeroed(len_bytes))
    }
}

impl<D: Disk> Drop for FillBuffer<D> {
    fn drop(&mut self) {
        let mut pool = self.shared.pool.borrow_mut();
        match self.buffer.take() {
            Some(buffer) if pool.free.len() < FREE_BUFFERS_MAX => pool.free.push(buffer),
            // Freed here, or lost with a failed write: no longer the pool's either way.
            _ => pool.allocated_bytes -= self.len_bytes,
        }
    }
}

impl<D: Disk> ReadyFill<D> {
    /// Writes the extent; its CRC-32C once it is written.
    pub(super) async fn write(mut self) -> (usize, Result<u32, FillError>) {
        let cache_disk = CacheDisk {
            shared: Rc::clone(&self.buffer.shared),
        };
        let buffer = self.buffer.buffer.take().expect("taken once, here");
        let path = &self.target.file;
        let result = async {
            let file = cache_disk.file(path).await?;
            file.write_at(self.target.at, buffer).await
        };
        let result = match result.await {
            Ok(buffer) => {
                self.buffer.buffer = Some(buffer);
                Ok(self.crc32c)
            }
            Err(error) => {
                cache_disk.shared.files.borrow_mut().remove(path);
                Err(FillError::Disk(error))
            }
        };
        (self.fill, result)
    }

    /// Bytes that will be written, padding included.
    pub(super) fn len_bytes(&self) -> usize {
        self.buffer.len_bytes
    }
}

impl<D: Disk> Collector<D> {
    /// Collects `fills`, which are sound.
    pub(super) fn new(cache_disk: CacheDisk<D>, fills: Vec<Fill>, verify: VerifyExtent) -> Self {
        Collector {
            cache_disk,
            fills,
            verify,
            next: 0,
            buffer: None,
        }
    }

    /// Whether some fill is not complete yet.
    pub(super) fn is_wanting(&self) -> bool {
        self.next < self.fills.len()
    }

    /// Takes what it wants of a chunk that starts at byte `at` of the object. Chunks come in order, without gaps.
    /// Complete extents are handed to `on_complete`, good or bad.
    pub(super) fn collect(
        &mut self,
        at: u64,
        chunk: &[u8],
        mut on_complete: impl FnMut(usize, Result<ReadyFill<D>, FillError>),
    ) {
        let chunk_end = at + chunk.len() as u64;
        while let Some(fill) = self.fills.get(self.next) {
            let extent = fill.extent.clone();
            let wanted = extent.start.max(at)..extent.end.min(chunk_end);
            if wanted.is_empty() {
                return;
            }
            if wanted.start == extent.start {
                self.buffer = self.cache_disk.take_buffer(padded_bytes(&extent));
            }
            if let Some(buffer) = &mut self.buffer {
                buffer.bytes_mut()[span(&wanted, extent.start)]
                    .copy_from_slice(&chunk[span(&wanted, at)]);
            }
            if wanted.end < extent.end {
                return;
            }
            let complete = match self.buffer.take() {
                Some(buffer) => self.judge(&extent, buffer),
                None => Err(FillError::NoBuffer),
            };
            on_complete(self.next, complete);
            self.next += 1;
        }
    }

    fn judge(
        &self,
        extent: &Range<u64>,
        mut buffer: FillBuffer<D>,
    ) -> Result<ReadyFill<D>, FillError> {
        let (ciphertext, padding) = buffer.bytes_mut().split_at_mut(len_of(extent));
        // The buffer may be a used one.
        padding.fill(0);
        let crc32c = (self.verify)(ciphertext).ok_or(FillError::BadExtent { at: extent.start })?;
        Ok(ReadyFill {
            fill: self.next,
            crc32c,
            target: self.fills[self.next].target.clone(),
            buffer,
        })
    }
}

impl<D: Disk> FillBuffer<D> {
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer
            .as_mut()
            .expect("the buffer is there until it is written")
    }
}

fn len_of(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("extents are small, asserted on entry")
}

fn padded_bytes(extent: &Range<u64>) -> usize {
    len_of(extent).next_multiple_of(BUFFER_ALIGN_BYTES)
}

/// `range` as indexes from `origin`.
fn span(range: &Range<u64>, origin: u64) -> Range<usize> {
    let start = len_of(&(origin..range.start));
    start..start + len_of(range)
}

/// Free buffers that are kept; beyond that they go back to the allocator.
const FREE_BUFFERS_MAX: usize = 64;
