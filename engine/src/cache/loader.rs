//! Streams what earlier runs left in the index, and deals it to the cores while they serve.
//!
//! One loader runs on one core; it knows neither queues nor cores, it only says which core a piece is for. An entry goes
//! to the core that owns its partition now; slots that no entry claims are dealt at the end, so that all cores come as
//! close to an equal share as can be. Nothing is dealt twice: a bit per slot remembers the claims. A block that
//! does not hold together is passed over, and its slots are among the free ones.
//!
//! Memory: one chunk of 256 KiB, a bit per slot, and the pieces of one chunk.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use tracing::{info, warn};

use crate::io::disk::{Disk, DiskFile};
use crate::types::Partition;

use super::index_format::{BLOCK_BYTES, Entry, Header, read_block};
use super::layout::CacheLayout;

/// An index of an earlier run.
pub(super) struct OldIndex<D: Disk> {
    pub(super) path: PathBuf,
    pub(super) header: Header,
    pub(super) file: Rc<D::File>,
}

/// Slots for one core to take over; can be sent to it. To be given to `ShardCache::accept`, in the order in which the
/// loader made them.
#[derive(Debug)]
pub struct Deal(pub(super) Dealt);

#[derive(Debug)]
pub(super) enum Dealt {
    /// Slots that hold extents.
    Filled(Vec<Entry>),
    /// Empty slots `first..first + count`.
    Empty { first: u32, count: u32 },
    /// That was all; the core may hold older generations dispensable once it has written its own.
    Complete,
}

/// The reader of the old indexes. Made by [`CacheLayout::prepare`].
pub struct Loader<D: Disk> {
    layout: CacheLayout,
    /// Newest first.
    old: VecDeque<OldIndex<D>>,
    next_block: u32,
    claimed: Vec<u64>,
    /// Slots dealt to each core so far.
    dealt: Vec<u32>,
    ready: VecDeque<(usize, Deal)>,
    entries: u64,
    void_blocks: u64,
    finished: bool,
}

/// Blocks read at once.
const CHUNK_BLOCKS: u32 = 64;

impl<D: Disk> Loader<D> {
    pub(super) fn new(layout: CacheLayout, old: Vec<OldIndex<D>>) -> Loader<D> {
        let slots = layout.slot_count() as usize;
        Loader {
            claimed: vec![0; slots.div_ceil(64)],
            dealt: vec![0; layout.cores()],
            old: old.into(),
            layout,
            next_block: 0,
            ready: VecDeque::new(),
            entries: 0,
            void_blocks: 0,
            finished: false,
        }
    }

    /// The next piece and the core it is for, or `None` when everything was dealt. `core_of` names the core, below
    /// the number of cores, that owns a partition. Each call reads at most 256 KiB, so other tasks get their turn
    /// in between. Errors of the disk are logged and passed over: what cannot be read is not cached.
    pub async fn next(
        &mut self,
        mut core_of: impl FnMut(Partition) -> usize,
    ) -> Option<(usize, Deal)> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            if self.finished {
                return None;
            }
            match self.old.front() {
                Some(index) if self.next_block < index.header.block_count => {
                    self.read_chunk(&mut core_of).await;
                }
                Some(_) => {
                    self.old.pop_front();
                    self.next_block = 0;
                }
                None => {
                    self.deal_empty();
                    self.finished = true;
                    info!(
                        entries = self.entries,
                        void_blocks = self.void_blocks,
                        slots = self.layout.slot_count(),
                        "the cache index is loaded"
                    );
                }
            }
        }
    }

    async fn read_chunk(&mut self, core_of: &mut impl FnMut(Partition) -> usize) {
        let index = self.old.front().expect("called with an index to read");
        let first = self.next_block;
        let blocks = CHUNK_BLOCKS.min(index.header.block_count - first);
        let at = (u64::from(first) + 1) * BLOCK_BYTES as u64;
        let chunk = match index.file.read_at(at, blocks as usize * BLOCK_BYTES).await {
            Ok(chunk) => chunk,
            Err(error) => {
                // A file cut short, or a bad spot: what is behind it may still be there, but is not worth more errors.
                warn!(%error, path = %index.path.display(), "the rest of a cache index is lost");
                self.next_block = index.header.block_count;
                return;
            }
        };
        self.next_block += blocks;
        let generation = index.header.generation;
        let mut pieces: Vec<Vec<Entry>> = vec![Vec::new(); self.dealt.len()];
        for (number, block) in (first..).zip(chunk.chunks_exact(BLOCK_BYTES)) {
            let Some(entries) = read_block(block, number, generation) else {
                self.void_blocks += 1;
                continue;
            };
            for entry in entries {
                if claim(&mut self.claimed, self.layout.slot_count(), entry.slot) {
                    let core = core_of(entry.partition);
                    pieces[core].push(entry);
                    self.dealt[core] += 1;
                    self.entries += 1;
                }
            }
        }
        let pieces = pieces.into_iter().enumerate();
        self.ready.extend(
            pieces
                .filter(|(_, piece)| !piece.is_empty())
                .map(|(core, piece)| (core, Deal(Dealt::Filled(piece)))),
        );
    }

    /// Deals the slots that nobody claimed, in runs, always to the core that has least until it has its share.
    fn deal_empty(&mut self) {
        let slot_count = self.layout.slot_count();
        let mut at = 0;
        while at < slot_count {
            if is_claimed(&self.claimed, at) {
                at += 1;
                continue;
            }
            let free_from = |start: u32| {
                (start..slot_count)
                    .take_while(|&s| !is_claimed(&self.claimed, s))
                    .count()
            };
            let mut run = u32::try_from(free_from(at)).expect("at most all slots");
            while run > 0 {
                let (core, has) = self
                    .dealt
                    .iter()
                    .copied()
                    .enumerate()
                    .min_by_key(|&(_, has)| has)
                    .expect("there is at least one core");
                let cores = u32::try_from(self.dealt.len()).expect("cores are few");
                let share = slot_count.div_ceil(cores);
                let count = run.min(share.saturating_sub(has).max(1));
                self.ready
                    .push_back((core, Deal(Dealt::Empty { first: at, count })));
                self.dealt[core] += count;
                at += count;
                run -= count;
            }
        }
        let cores = 0..self.dealt.len();
        self.ready
            .extend(cores.map(|core| (core, Deal(Dealt::Complete))));
    }
}

impl<D: Disk> fmt::Debug for Loader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Loader({} entries so far)", self.entries)
    }
}

/// Claims a slot; whether it exists and was not claimed before.
fn claim(claimed: &mut [u64], slot_count: u32, slot: u32) -> bool {
    if slot >= slot_count || is_claimed(claimed, slot) {
        return false;
    }
    claimed[slot as usize / 64] |= 1 << (slot % 64);
    true
}

fn is_claimed(claimed: &[u64], slot: u32) -> bool {
    claimed[slot as usize / 64] & 1 << (slot % 64) != 0
}
