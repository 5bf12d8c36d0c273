//! One core's share of the cache: its slots, the files they are in, and its part of the index.
//!
//! It finds, pins, reserves and forgets extents, and writes its index blocks behind that. It does not fetch, does not open
//! seals, and does not write slots: the thread that receives an extent from the store writes it, to the place that
//! the [`FillTicket`] names. Owned by one core; the handle is cheap to clone.
//!
//! Ordering: an extent enters the index only after `filled`, which its writer calls when the write has completed. A
//! slot leaves the table before it is filled anew; its stale entry may be on disk for another `index_delay`, or for ever
//! after a kill, and then names an extent that will not open: a miss.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, Range};
use std::path::PathBuf;
use std::rc::Rc;

use tracing::warn;

use crate::io::aligned_buffer::AlignedBuffer;
use crate::io::clock::Clock;
use crate::io::disk::{Disk, DiskError, DiskFile};
use crate::io::permits::Permits;
use crate::types::Partition;

use super::config::SLOT_BYTES;
use super::extent_id::ExtentId;
use super::index_format::{BLOCK_BYTES, write_block};
use super::layout::CacheLayout;
use super::loader::{Deal, Dealt};
use super::slot_table::SlotTable;

/// One core's share of the cache.
pub struct ShardCache<D: Disk>(Rc<Shared<D>>);

struct Shared<D: Disk> {
    disk: D,
    layout: CacheLayout,
    /// Slot files by number; `None` where one could not be opened.
    files: Vec<Option<Rc<D::File>>>,
    table: RefCell<SlotTable>,
    index: RefCell<IndexPart<D>>,
    load: Cell<Load>,
    /// One flush at a time.
    flushing: Rc<Permits>,
    doubtful: Cell<u64>,
    index_errors: Cell<u64>,
}

/// The blocks of the index that this core owns.
struct IndexPart<D: Disk> {
    file: Option<Rc<D::File>>,
    /// Number in the file of each of the table's blocks.
    blocks: Vec<u32>,
    /// The buffer of the write to come.
    buffer: Option<AlignedBuffer>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    Dealing,
    Dealt,
    Written,
}

/// What a core's cache has done and holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Lookups that found the extent.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Extents that made room for others.
    pub evictions: u64,
    /// Extents that were dropped because they did not open.
    pub doubtful: u64,
    /// Index blocks whose writing failed; they are tried again.
    pub index_errors: u64,
    /// Slots of this core.
    pub slots: u32,
    /// Slots that hold an extent or are being filled with one.
    pub slots_used: u32,
}

impl CacheStats {
    /// Adds another core's.
    pub fn merge(&mut self, other: &CacheStats) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.evictions += other.evictions;
        self.doubtful += other.doubtful;
        self.index_errors += other.index_errors;
        self.slots += other.slots;
        self.slots_used += other.slots_used;
    }
}

impl<D: Disk> Clone for ShardCache<D> {
    fn clone(&self) -> Self {
        ShardCache(Rc::clone(&self.0))
    }
}

impl<D: Disk> fmt::Debug for ShardCache<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ShardCache").field(&self.stats()).finish()
    }
}

impl<D: Disk> ShardCache<D> {
    /// Opens the cache's files on this core. It owns no slot yet: those come by [`ShardCache::accept`]. A file that does
    /// not open is logged, and its slots are not used by this core.
    pub async fn open(disk: &D, layout: &CacheLayout) -> ShardCache<D> {
        let mut files = Vec::new();
        for number in 0..layout.slot_file_count() {
            files.push(open_or_warn(disk, layout.slot_file_path(number)).await);
        }
        let file = match layout.index_path() {
            Some(path) => open_or_warn(disk, path).await,
            None => None,
        };
        ShardCache(Rc::new(Shared {
            disk: disk.clone(),
            layout: layout.clone(),
            files,
            table: RefCell::default(),
            index: RefCell::new(IndexPart {
                file,
                blocks: Vec::new(),
                buffer: Some(AlignedBuffer::zeroed(BLOCK_BYTES)),
            }),
            load: Cell::new(Load::Dealing),
            flushing: Permits::new(1),
            doubtful: Cell::new(0),
            index_errors: Cell::new(0),
        }))
    }

    /// Takes over slots that the loader dealt to this core. The only call that makes the tables grow.
    pub fn accept(&self, deal: Deal) {
        let shared = &*self.0;
        let mut table = shared.table.borrow_mut();
        match deal.0 {
            Dealt::Filled(entries) => {
                let mut usable = entries;
                usable.retain(|entry| shared.has_file(entry.slot));
                table.adopt(usable.into_iter());
            }
            Dealt::Empty { first, count } => {
                let end = first + count;
                let mut start = first;
                while start < end {
                    let usable = shared.has_file(start);
                    let mut run_end = start;
                    while run_end < end && shared.has_file(run_end) == usable {
                        run_end = shared.layout.file_end(run_end).min(end);
                    }
                    if usable {
                        table.add(start, run_end - start);
                    }
                    start = run_end;
                }
            }
            Dealt::Complete => shared.load.set(Load::Dealt),
        }
        shared
            .index
            .borrow_mut()
            .claim_blocks(&table, &shared.layout);
    }

    /// Whether everything that earlier runs left was dealt to this core.
    pub fn is_loaded(&self) -> bool {
        self.0.load.get() != Load::Dealing
    }

    /// Finds an extent and pins its slot until the answer is dropped. Notes a hit or a miss. No allocation.
    pub fn lookup(&self, id: &ExtentId) -> Option<SlotRef<D>> {
        let mut table = self.0.table.borrow_mut();
        let position = table.lookup(id)?;
        table.pin(position);
        Some(self.slot_ref(&table, position))
    }

    /// Whether an extent is here or being filled; not a use of it.
    pub fn contains(&self, id: &ExtentId) -> bool {
        self.0.table.borrow().contains(id)
    }

    /// Makes room for an extent of `extent_bytes`, 1..=[`SLOT_BYTES`], evicting another if need be. `None`: do not cache it
    /// (it is here or on its way, or there is no slot that is not in use). No allocation.
    pub fn reserve(
        &self,
        id: ExtentId,
        partition: Partition,
        extent_bytes: u32,
    ) -> Option<FillTicket<D>> {
        let mut table = self.0.table.borrow_mut();
        let position = table.reserve(id, partition, extent_bytes)?;
        let (file_number, at) = self.0.layout.place(table.number(position));
        Some(FillTicket {
            shared: Rc::clone(&self.0),
            id,
            position,
            file_number,
            at,
            extent_bytes,
        })
    }

    /// The extent of this ticket is in its slot, whole; `crc32c` is over its bytes. It may be found from now on.
    pub fn filled(&self, ticket: FillTicket<D>, crc32c: u32) {
        self.check_owner(&ticket);
        self.0.table.borrow_mut().filled(ticket.position, crc32c);
    }

    /// The extent did not come, or could not be written, and nobody writes to the slot any more: it is free again.
    pub fn abandon(&self, ticket: FillTicket<D>) {
        self.check_owner(&ticket);
        self.0.table.borrow_mut().abandon(ticket.position);
    }

    /// Forgets an extent whose block did not open; the slot is free when its last reader is gone. Counts, and logs:
    /// whoever asks again gets a miss.
    pub fn drop_doubtful(&self, id: &ExtentId) {
        if self.0.table.borrow_mut().drop_extent(id) {
            self.0.doubtful.set(self.0.doubtful.get() + 1);
            warn!(
                tenant = %id.tenant, branch = %id.object.branch, epoch = id.object.epoch,
                sequence = id.object.sequence, extent = id.extent_no,
                "a cached extent does not open: it is fetched again"
            );
        }
    }

    /// Forgets every extent that nobody reads at this moment (the demo's cold run; operators). How many those were.
    pub fn clear(&self) -> u32 {
        let mut table = self.0.table.borrow_mut();
        let (mut from, mut dropped) = (0, 0);
        while let Some((position, id)) = table.filled_from(from) {
            dropped += u32::from(table.drop_extent(&id));
            from = position + 1;
        }
        dropped
    }

    /// The first extent at or after a position in this core's table, pinned, and the position behind it: a scrubber's
    /// walk over all of them starts at 0. Not a use of the extent. Cost: the positions passed over.
    pub fn scrub_from(&self, position: u32) -> Option<(ExtentId, SlotRef<D>, u32)> {
        let mut table = self.0.table.borrow_mut();
        let (found, id) = table.filled_from(position)?;
        table.pin(found);
        Some((id, self.slot_ref(&table, found), found + 1))
    }

    /// What it has done and holds.
    pub fn stats(&self) -> CacheStats {
        let table = self.0.table.borrow();
        let (slots, slots_used) = table.counts();
        CacheStats {
            hits: table.hits,
            misses: table.misses,
            evictions: table.evictions,
            doubtful: self.0.doubtful.get(),
            index_errors: self.0.index_errors.get(),
            slots,
            slots_used,
        }
    }

    /// Writes dirty index blocks every `index_delay`, for ever; to be spawned once, in the background. Ends with its
    /// task; [`ShardCache::flush`] writes the rest at shutdown.
    pub async fn run_index_writer(self, clock: impl Clock) {
        loop {
            clock.sleep(self.0.layout.config().index_delay).await;
            self.flush().await;
        }
    }

    /// Writes every index block that is dirty now, one after another. A block that cannot be written is logged and
    /// stays dirty. Waits for a flush that is at work. Whether everything was written that was dirty at the call.
    ///
    /// Dropping the future leaves a block dirty at most; the index stays whole.
    pub async fn flush(&self) -> bool {
        let shared = &*self.0;
        let _turn = shared.flushing.acquire().await;
        let blocks = shared.table.borrow().block_count();
        for _ in 0..blocks {
            let Some(block) = shared.table.borrow_mut().take_dirty() else {
                break;
            };
            let mut unwritten = Unwritten {
                table: &shared.table,
                block: Some(block),
            };
            if let Err(error) = shared.write_index_block(block).await {
                let errors = shared.index_errors.get() + 1;
                shared.index_errors.set(errors);
                if errors.is_power_of_two() {
                    warn!(%error, errors, "a block of the cache index cannot be written");
                }
                return false;
            }
            unwritten.block = None;
        }
        if shared.load.get() == Load::Dealt {
            shared.load.set(Load::Written);
            shared.layout.core_loaded(&shared.disk).await;
        }
        true
    }

    /// Walks all tables and asserts what must always hold; for tests and simulations.
    pub fn check_invariants(&self) {
        self.0.table.borrow().check_invariants();
    }

    fn slot_ref(&self, table: &SlotTable, position: u32) -> SlotRef<D> {
        let (file_number, at) = self.0.layout.place(table.number(position));
        SlotRef {
            shared: Rc::clone(&self.0),
            position,
            file_number,
            at,
            extent_bytes: table.extent_bytes(position),
        }
    }

    fn check_owner(&self, ticket: &FillTicket<D>) {
        assert!(
            Rc::ptr_eq(&self.0, &ticket.shared),
            "a ticket comes back to the core that gave it"
        );
    }
}

impl<D: Disk> Shared<D> {
    fn has_file(&self, slot: u32) -> bool {
        let (number, _) = self.layout.place(slot);
        matches!(self.files.get(number as usize), Some(Some(_)))
    }

    fn file(&self, number: u32) -> &Rc<D::File> {
        self.files[number as usize]
            .as_ref()
            .expect("slots in files that did not open are never taken over")
    }

    async fn write_index_block(&self, block: u32) -> Result<(), DiskError> {
        let (file, number, mut buffer) = {
            let mut index = self.index.borrow_mut();
            let Some(file) = index.file.clone() else {
                return Ok(());
            };
            let Some(&number) = index.blocks.get(block as usize) else {
                return Ok(());
            };
            let buffer = index.buffer.take();
            let buffer = buffer.unwrap_or_else(|| AlignedBuffer::zeroed(BLOCK_BYTES));
            (file, number, buffer)
        };
        let generation = self.layout.generation();
        {
            let table = self.table.borrow();
            write_block(&mut buffer, number, generation, table.entries(block));
        }
        let at = (u64::from(number) + 1) * BLOCK_BYTES as u64;
        let buffer = file.write_at(at, buffer).await?;
        self.index.borrow_mut().buffer = Some(buffer);
        Ok(())
    }
}

impl<D: Disk> IndexPart<D> {
    /// Takes blocks of the file until every slot has a place. Blocks that are not to be had leave slots out of the index.
    fn claim_blocks(&mut self, table: &SlotTable, layout: &CacheLayout) {
        while self.blocks.len() < table.block_count() as usize {
            let Some(number) = layout.claim_block() else {
                return;
            };
            self.blocks.push(number);
        }
    }
}

/// A pinned slot: what it holds stays there until this is dropped.
pub struct SlotRef<D: Disk> {
    shared: Rc<Shared<D>>,
    position: u32,
    file_number: u32,
    at: u64,
    extent_bytes: u32,
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

/// The right to fill one slot. Give it back with [`ShardCache::filled`] or [`ShardCache::abandon`] once nobody writes to the
/// slot any more. One that is merely dropped leaves its slot unused until the next start: nobody knows
/// whether it is still written to.
#[must_use = "a ticket that is dropped costs a slot"]
pub struct FillTicket<D: Disk> {
    shared: Rc<Shared<D>>,
    id: ExtentId,
    position: u32,
    file_number: u32,
    at: u64,
    extent_bytes: u32,
}

impl<D: Disk> FillTicket<D> {
    /// What is to be written.
    pub fn id(&self) -> &ExtentId {
        &self.id
    }

    /// Number of the slot file, for [`CacheLayout::slot_file_path`].
    pub fn file_number(&self) -> u32 {
        self.file_number
    }

    /// Where in the file the extent's first byte goes. [`SLOT_BYTES`] from there on are the ticket's, so that the last write
    /// may be padded to the alignment.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes of the extent.
    pub fn extent_bytes(&self) -> u32 {
        self.extent_bytes
    }
}

impl<D: Disk> fmt::Debug for FillTicket<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FillTicket(file {}, at {})", self.file_number, self.at)
    }
}

/// Marks a block dirty again if its writing did not come to a good end.
struct Unwritten<'a> {
    table: &'a RefCell<SlotTable>,
    block: Option<u32>,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        if let Some(block) = self.block {
            self.table.borrow_mut().mark_block_dirty(block);
        }
    }
}

async fn open_or_warn<D: Disk>(disk: &D, path: PathBuf) -> Option<Rc<D::File>> {
    match disk.open(&path, None).await {
        Ok(file) => Some(file),
        Err(error) => {
            warn!(%error, path = %path.display(), "a cache file does not open: it is not used");
            None
        }
    }
}

const _: () = assert!(SLOT_BYTES.is_multiple_of(4096));
