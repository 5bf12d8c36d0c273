//! The cache's files: which there are, how long they may be, and which generation of the index is written.
//!
//! ```text
//! <dir>/slots-000 …     slots, preallocated; only the last one is shorter than `slots_per_file`
//! <dir>/index-0 … -3    generations of the index, see `index_format.rs`
//! ```
//!
//! **Who writes which index block.** Shards share nothing, so no block of an index may be written by two cores. But
//! after a start with another number of cores, neighbouring slots belong to different cores. Therefore every start writes a
//! new generation: each core takes blocks of the new file one by one, from one shared counter, as slots are dealt to it,
//! and packs the entries of its own slots into its own blocks; an entry names its slot. The older generations are
//! only read, and are removed when every core has made durable all it took over. A kill in between leaves
//! several generations; the next start reads them newest first, and the first to claim a slot has it. There
//! are four names. When all are taken, three starts in a row were broken off while they loaded, and the oldest generation
//! is the only complete one: the next younger one makes room, with the extents that it alone names.
//!
//! The header of a generation is written before any of its blocks, and a block names its generation, so that nothing an
//! older file left on the disk is taken for an entry.
//!
//! What cannot be made (disk full, no permission, a read-only file system) makes the cache smaller, down to none,
//! with a warning; serving goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tracing::{info, warn};

use crate::io::aligned_buffer::AlignedBuffer;
use crate::io::disk::{Disk, DiskError, DiskFile};
use crate::types::Id;

use super::config::{CacheConfig, SLOT_BYTES};
use super::index_format::{BLOCK_BYTES, ENTRIES_PER_BLOCK, Header, HeaderRead};
use super::loader::{Loader, OldIndex};
use super::slot_files::{SlotFiles, slot_file_path};
use super::slot_table::SLOT_MEMORY_BYTES;

/// Why a cache directory is not touched.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CacheError {
    /// It was written by a newer release. Run that, or remove the directory: a cache holds nothing of its own.
    #[error("cache index {path}: version {version} is newer than this server knows (1)")]
    NewerIndex {
        /// The index file.
        path: PathBuf,
        /// Its version.
        version: u16,
    },
}

/// The cache's files as all cores see them. Cheap to clone; one per start of the server.
#[derive(Clone, Debug)]
pub struct CacheLayout(Arc<Layout>);

#[derive(Debug)]
struct Layout {
    dir: PathBuf,
    config: CacheConfig,
    slot_count: u32,
    cores: u32,
    /// Number of the index file that is written, if one could be made.
    index: Option<u32>,
    generation: u64,
    block_count: u32,
    /// The next block of the index that belongs to nobody.
    next_block: AtomicU32,
    /// Cores that have not yet written all they took over from older generations.
    cores_loading: AtomicU32,
}

/// Generations that are kept at most.
const INDEX_FILES: u32 = 4;

impl CacheLayout {
    /// Makes or resizes the cache's files below `dir`, which must exist, starts a new generation of the index, and
    /// returns what every core needs to open its part, with the loader of what earlier runs left. To be called on
    /// one core, before the others open. `server` identifies the server instance.
    ///
    /// The files take at most `cache_bytes`, while older generations are loaded up to 0.1 % more. Costs a few
    /// operations per file; on a first start the space is allotted.
    /// # Errors
    /// Only an index of a newer version. Whatever else is wrong with the files makes the cache smaller or empty.
    pub async fn prepare<D: Disk>(
        disk: &D,
        dir: &Path,
        config: &CacheConfig,
        server: Id,
        cores: usize,
    ) -> Result<(CacheLayout, Loader<D>), CacheError> {
        let cores = u32::try_from(cores).expect("cores are few");
        assert!(cores > 0, "somebody has to own the slots");
        let mut old = Vec::new();
        let mut free_names = Vec::new();
        let mut generation = 0;
        for number in 0..INDEX_FILES {
            let index = read_header(disk, dir, number).await?;
            generation = generation.max(index.as_ref().map_or(0, |i| i.header.generation));
            match index {
                Some(index) if is_ours(&index.header, config, server, &index.path) => {
                    old.push((number, index));
                }
                _ => free_names.push(number),
            }
        }
        old.sort_by_key(|(_, index)| std::cmp::Reverse(index.header.generation));
        let number = match free_names.first() {
            Some(&number) => number,
            None => old.remove(old.len() - 2).0,
        };

        let files = SlotFiles {
            disk,
            dir,
            slots_per_file: config.slots_per_file,
        };
        let index_bytes = |slots| u64::from(blocks_for(slots, cores)) * BLOCK_BYTES as u64;
        let slot_count = files.make(slots_within(config, cores), index_bytes).await;
        let mut layout = Layout {
            dir: dir.to_owned(),
            config: config.clone(),
            slot_count,
            cores,
            index: None,
            generation: generation.saturating_add(1),
            block_count: blocks_for(slot_count, cores),
            next_block: AtomicU32::new(0),
            cores_loading: AtomicU32::new(cores),
        };
        if slot_count > 0 {
            match make_index(disk, &layout, number, server).await {
                Ok(()) => layout.index = Some(number),
                Err(error) => warn!(
                    %error,
                    dir = %dir.display(),
                    "the cache index cannot be written: the cache will be empty after a restart"
                ),
            }
        }
        let layout = CacheLayout(Arc::new(layout));
        let old = old.into_iter().map(|(_, index)| index).collect();
        Ok((layout.clone(), Loader::new(layout, old)))
    }

    /// Slots of the whole cache.
    pub fn slot_count(&self) -> u32 {
        self.0.slot_count
    }

    /// Memory that the tables of all cores take together once everything is dealt, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.0.slot_count) * SLOT_MEMORY_BYTES as u64
            + u64::from(self.0.cores) * BLOCK_BYTES as u64
    }

    /// Cores that share them.
    pub fn cores(&self) -> usize {
        self.0.cores as usize
    }

    /// The settings the cache was made with.
    pub fn config(&self) -> &CacheConfig {
        &self.0.config
    }

    /// Files that hold slots.
    pub fn slot_file_count(&self) -> u32 {
        self.0.slot_count.div_ceil(self.0.config.slots_per_file)
    }

    /// Where the slots of file `number` are.
    pub fn slot_file_path(&self, number: u32) -> PathBuf {
        slot_file_path(&self.0.dir, number)
    }

    /// The file of a slot, and its position there.
    pub(super) fn place(&self, slot: u32) -> (u32, u64) {
        let per_file = self.0.config.slots_per_file;
        (slot / per_file, u64::from(slot % per_file) * SLOT_BYTES)
    }

    /// The first slot behind the file that `slot` is in.
    pub(super) fn file_end(&self, slot: u32) -> u32 {
        let per_file = self.0.config.slots_per_file;
        (slot / per_file + 1).saturating_mul(per_file)
    }

    /// The index file of this generation.
    pub(super) fn index_path(&self) -> Option<PathBuf> {
        Some(index_path(&self.0.dir, self.0.index?))
    }

    pub(super) fn generation(&self) -> u64 {
        self.0.generation
    }

    /// Gives a block of the index to the caller alone; `None` if there is none left.
    pub(super) fn claim_block(&self) -> Option<u32> {
        let block = self.0.next_block.fetch_add(1, Ordering::Relaxed);
        (block < self.0.block_count).then_some(block)
    }

    /// A core has written all that was dealt to it, durably. The last one to do so removes the older generations.
    pub(super) async fn core_loaded<D: Disk>(&self, disk: &D) {
        // Release and acquire: what the other cores wrote is done before anything is removed.
        if self.0.cores_loading.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        // Without a generation of our own the older ones are still the best there is.
        let Some(ours) = self.0.index else {
            return;
        };
        for number in (0..INDEX_FILES).filter(|n| *n != ours) {
            let path = index_path(&self.0.dir, number);
            if let Err(error) = disk.remove(&path).await {
                warn!(%error, path = %path.display(), "an old cache index stays");
            }
        }
    }
}

/// Slots that fit into the configured bytes together with their index.
fn slots_within(config: &CacheConfig, cores: u32) -> u32 {
    let index_bytes = |slots| (u64::from(blocks_for(slots, cores)) + 1) * BLOCK_BYTES as u64;
    let mut slots = u32::try_from(config.cache_bytes / SLOT_BYTES).unwrap_or(u32::MAX - 1);
    while slots > 0 && u64::from(slots) * SLOT_BYTES + index_bytes(slots) > config.cache_bytes {
        let over = u64::from(slots) * SLOT_BYTES + index_bytes(slots) - config.cache_bytes;
        let excess = u32::try_from(over.div_ceil(SLOT_BYTES)).unwrap_or(u32::MAX);
        slots = slots.saturating_sub(excess);
    }
    slots
}

/// Index blocks that hold the entries of `slots` however they are dealt: each core may leave one block unfilled.
fn blocks_for(slots: u32, cores: u32) -> u32 {
    let per_block = u32::try_from(ENTRIES_PER_BLOCK).expect("63");
    slots.div_ceil(per_block).saturating_add(cores)
}

/// Starts the file of this generation: its header, and room for the blocks.
async fn make_index<D: Disk>(
    disk: &D,
    layout: &Layout,
    number: u32,
    server: Id,
) -> Result<(), DiskError> {
    let path = index_path(&layout.dir, number);
    disk.remove(&path).await?;
    let file_bytes = (u64::from(layout.block_count) + 1) * BLOCK_BYTES as u64;
    let file = disk.open(&path, Some(file_bytes)).await?;
    let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
    Header {
        slots_per_file: layout.config.slots_per_file,
        slot_count: layout.slot_count,
        generation: layout.generation,
        server,
        block_count: layout.block_count,
    }
    .write(&mut block);
    file.write_at(0, block).await?;
    Ok(())
}

/// The index of that number, if there is one that can be read.
async fn read_header<D: Disk>(
    disk: &D,
    dir: &Path,
    number: u32,
) -> Result<Option<OldIndex<D>>, CacheError> {
    let path = index_path(dir, number);
    let Ok(file) = disk.open(&path, None).await else {
        return Ok(None);
    };
    let read = match file.read_at(0, BLOCK_BYTES).await {
        Ok(block) => Header::read(&block),
        Err(_) => HeaderRead::Void,
    };
    match read {
        HeaderRead::Known(header) => Ok(Some(OldIndex { path, header, file })),
        HeaderRead::Newer(version) => Err(CacheError::NewerIndex { path, version }),
        HeaderRead::Void => {
            warn!(path = %path.display(), "a damaged cache index is passed over");
            Ok(None)
        }
    }
}

fn is_ours(header: &Header, config: &CacheConfig, server: Id, path: &Path) -> bool {
    if header.server != server {
        info!(
            path = %path.display(), theirs = %header.server, ours = %server,
            "the cache index is another server's: starting empty"
        );
        return false;
    }
    if header.slots_per_file != config.slots_per_file {
        info!(
            path = %path.display(),
            theirs = header.slots_per_file, ours = config.slots_per_file,
            "the cache has files of another size: starting empty"
        );
        return false;
    }
    true
}

fn index_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("index-{number}"))
}
