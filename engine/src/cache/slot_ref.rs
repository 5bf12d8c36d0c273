//! Handles on one slot: to read what it holds, and to fill it.

use std::fmt;
use std::ops::{Deref, Range};
use std::rc::Rc;

use crate::io::aligned_buffer::{AlignedBuffer, BUFFER_ALIGN_BYTES};
use crate::io::disk::{Disk, DiskError, DiskFile};

use super::extent_id::ExtentId;
use super::shard_cache::Shared;

/// A pinned slot: what it holds stays there until this is dropped.
pub struct SlotRef<D: Disk> {
    pub(super) shared: Rc<Shared<D>>,
    pub(super) position: u32,
    pub(super) file_number: u32,
    pub(super) at: u64,
    pub(super) extent_bytes: u32,
}

impl<D: Disk> SlotRef<D> {
    /// The file the slot is in.
    pub fn file(&self) -> &Rc<D::File> {
        self.shared.file(self.file_number)
    }

    /// Where the slot begins in its file.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes of the extent; what is behind them in the slot means nothing.
    pub fn extent_bytes(&self) -> u32 {
        self.extent_bytes
    }

    /// The checksum of the extent's bytes, as its writer gave it.
    pub fn crc32c(&self) -> u32 {
        self.shared.table.borrow().crc32c(self.position)
    }

    /// Reads `range` of the extent, which must lie within it and not be empty: one direct read, aligned outwards.
    /// # Errors
    /// What the disk says; a file cut short is a short read. The caller takes it for a doubtful extent.
    pub async fn read(&self, range: Range<u32>) -> Result<SlotRead<D>, DiskError> {
        assert!(
            range.start < range.end && range.end <= self.extent_bytes,
            "{range:?} lies within {} bytes",
            self.extent_bytes
        );
        let file = self.file();
        let alignment = u32::try_from(file.alignment_bytes()).expect("at most 4 KiB");
        let start = range.start - range.start % alignment;
        let end = range.end.next_multiple_of(alignment);
        let buffer = file
            .read_at(self.at + u64::from(start), (end - start) as usize)
            .await?;
        Ok(SlotRead {
            buffer,
            range: (range.start - start) as usize..(range.end - start) as usize,
        })
    }
}

impl<D: Disk> Drop for SlotRef<D> {
    fn drop(&mut self) {
        self.shared.table.borrow_mut().unpin(self.position);
    }
}

impl<D: Disk> fmt::Debug for SlotRef<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotRef(file {}, at {})", self.file_number, self.at)
    }
}

/// Bytes read from a slot: derefs to exactly the range asked for.
pub struct SlotRead<D: Disk> {
    buffer: <D::File as DiskFile>::ReadBuffer,
    range: Range<usize>,
}

impl<D: Disk> SlotRead<D> {
    /// Bytes that the device delivered for it, the alignment included.
    pub fn device_bytes(&self) -> usize {
        self.buffer.len()
    }
}

impl<D: Disk> Deref for SlotRead<D> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

impl<D: Disk> fmt::Debug for SlotRead<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotRead({} bytes)", self.range.len())
    }
}

/// The right to fill one slot. Give it back with [`filled`](super::ShardCache::filled) or
/// [`abandon`](super::ShardCache::abandon) once nobody writes to the slot any more. One that is merely dropped leaves its slot unused until the next start: nobody knows
/// whether it is still written to.
#[must_use = "a ticket that is dropped costs a slot"]
pub struct FillTicket<D: Disk> {
    pub(super) shared: Rc<Shared<D>>,
    pub(super) id: ExtentId,
    pub(super) position: u32,
    pub(super) file_number: u32,
    pub(super) at: u64,
    pub(super) extent_bytes: u32,
}

impl<D: Disk> FillTicket<D> {
    /// What is to be written.
    pub fn id(&self) -> &ExtentId {
        &self.id
    }

    /// Number of the slot file, for [`slot_file_path`](super::CacheLayout::slot_file_path).
    pub fn file_number(&self) -> u32 {
        self.file_number
    }

    /// Where in the file the extent's first byte goes. [`SLOT_BYTES`](super::SLOT_BYTES) from there on are the ticket's, so that the last write
    /// may be padded to the alignment.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes of the extent.
    pub fn extent_bytes(&self) -> u32 {
        self.extent_bytes
    }

    /// Writes the extent, whole, by this core's own disk; it may be found once [`filled`](super::ShardCache::filled) says so.
    ///
    /// # Cancellation
    /// The write goes on: the ticket has to be dropped then.
    pub async fn write(&self, extent: &[u8]) -> Result<(), DiskError> {
        let mut buffer = AlignedBuffer::zeroed(extent.len().next_multiple_of(BUFFER_ALIGN_BYTES));
        buffer[..extent.len()].copy_from_slice(extent);
        let file = Rc::clone(self.shared.file(self.file_number));
        file.write_at(self.at, buffer).await?;
        Ok(())
    }
}

impl<D: Disk> fmt::Debug for FillTicket<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FillTicket(file {}, at {})", self.file_number, self.at)
    }
}
