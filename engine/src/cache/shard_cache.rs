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
use super::slot_ref::{FillTicket, SlotRef};
use super::slot_table::SlotTable;

/// One core's share of the cache.
pub struct ShardCache<D: Disk>(Rc<Shared<D>>);

/// What the handles of one core share.
pub(super) struct Shared<D: Disk> {
    disk: D,
    layout: CacheLayout,
    /// Slot files by number; `None` where one could not be opened.
    files: Vec<Option<Rc<D::File>>>,
    pub(super) table: RefCell<SlotTable>,
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
    /// Writes of index blocks, or of what makes them durable, that failed; they are tried again.
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

    /// Forgets an extent whose block did not open; the slot is free when its last reader is gone. Counts, and logs, once for
    /// all who read it at the time: whoever asks again gets a miss.
    pub fn drop_doubtful(&self, id: &ExtentId, doubt: &dyn fmt::Display) {
        if self.0.table.borrow_mut().drop_extent(id) {
            self.0.doubtful.set(self.0.doubtful.get() + 1);
            warn!(
                tenant = %id.tenant, branch = %id.object.branch, epoch = id.object.epoch,
                sequence = id.object.sequence, extent = id.extent_no, %doubt,
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
    /// The first flush that began when all was dealt also makes the new generation durable, and says so: not before
    /// that may the older ones go, which name the same extents.
    ///
    /// Dropping the future leaves a block dirty at most; the index stays whole.
    pub async fn flush(&self) -> bool {
        let shared = &*self.0;
        let _turn = shared.flushing.acquire().await;
        // What is dealt while this writes is dirty too late to be written here.
        let all_dealt = shared.load.get() == Load::Dealt;
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
                shared.index_failed(&error);
                return false;
            }
            unwritten.block = None;
        }
        if all_dealt {
            if let Err(error) = shared.sync_index().await {
                shared.index_failed(&error);
                return false;
            }
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

    pub(super) fn file(&self, number: u32) -> &Rc<D::File> {
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

    async fn sync_index(&self) -> Result<(), DiskError> {
        let file = self.index.borrow().file.clone();
        match file {
            Some(file) => file.sync().await,
            None => Ok(()),
        }
    }

    fn index_failed(&self, error: &DiskError) {
        let errors = self.index_errors.get() + 1;
        self.index_errors.set(errors);
        if errors.is_power_of_two() {
            warn!(%error, errors, "the cache index cannot be written");
        }
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
