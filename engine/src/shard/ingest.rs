//! What an ingest does to a core: versions come into memory, memory layers are frozen, and give way to the layers that
//! come of them.
//!
//! Invariants: batches of a branch come in the order of their LSNs, from one writer; a frozen memory layer goes in the same
//! step in which its layer can be found, so that every version up to the branch's last LSN is found at any moment.

use std::sync::Arc;

use crate::layer::ValueKind;
use crate::manifest::{KeptHistory, LayerSection, RemovedLayer};
use crate::memory::{MemoryLayer, VersionBatch};
use crate::types::{Key, Lsn};

use super::fetch::verify_extent;
use super::layers::BranchOnCore;
use super::open_layer::OpenLayer;
use super::page_pool::Page;
use super::read_path::Found;
use super::request::BranchNumber;
use super::{Platform, Shard};

/// A commit of a branch's manifest, as its readers have to hear of it.
pub(crate) struct LayerExchange {
    /// All sections of the layers that came in.
    pub(crate) added: Vec<LayerSection>,
    /// Those layers, opened.
    pub(crate) opened: Vec<Arc<OpenLayer>>,
    /// The layers that went out.
    pub(crate) removed: Vec<RemovedLayer>,
    /// Whether what came in are the versions of the oldest frozen memory layer.
    pub(crate) is_flush: bool,
}

impl<P: Platform> Shard<P> {
    /// Takes versions of keys that this core owns; how many bytes it has of the branch in its active memory layer then.
    pub(crate) fn take_versions(&self, branch: BranchNumber, batch: VersionBatch) -> usize {
        let branch = self.0.branch(branch);
        self.0.count_chains(&branch, &batch);
        let bytes = {
            let mut memory = branch.memory.borrow_mut();
            memory.take(batch);
            memory.active_bytes()
        };
        self.0.make_images(branch);
        bytes
    }

    /// Forgets which layers there are, since another writer may have changed them. What is in memory above an LSN stays, all of
    /// it active.
    pub(crate) fn reopen(&self, branch: BranchNumber, above: Lsn) {
        let branch = self.0.branch(branch);
        // What was lost to another process has to be gone before anything comes.
        self.0.look_again(&branch);
        branch.forget_sections();
        branch.set_kept(Arc::new(branch.manifest().facts().kept.clone()));
        match above {
            Lsn::MAX => self.0.forget_memory(&branch),
            above => branch.memory.borrow_mut().thaw(above),
        }
    }

    /// Knows which history of a branch is there from now on.
    pub(crate) fn keep(&self, branch: BranchNumber, kept: Arc<KeptHistory>) {
        self.0.branch(branch).set_kept(kept);
    }

    /// Freezes what is in memory of the branch, which readers go on finding, and begins another memory layer.
    pub(crate) fn freeze(&self, branch: BranchNumber) -> Arc<MemoryLayer> {
        self.0.branch(branch).memory.borrow_mut().freeze()
    }

    /// Puts a layer that was just written into the cache, byte for byte as it was stored: those of its extents that this core
    /// owns. So what was in memory is not fetched from the store when it is read next. What can't be cached is left out.
    pub(crate) async fn fill(&self, layer: &OpenLayer, object: &[u8]) {
        let state = &self.0;
        for section in layer.index().sections() {
            if usize::from(section.partition.number()) % state.mesh.cores() != state.mesh.core() {
                continue;
            }
            for extent_no in section.extents.clone() {
                let range = layer.extent_range(extent_no);
                let narrow = |at: u64| usize::try_from(at).expect("the object is in memory");
                let extent = &object[narrow(range.start)..narrow(range.end)];
                let bytes = u32::try_from(extent.len()).expect("an extent fits the grid");
                let id = layer.extent_id(extent_no);
                let Some(ticket) = state.cache.reserve(id, section.partition, bytes) else {
                    continue;
                };
                match (ticket.write(extent).await, verify_extent(extent)) {
                    (Ok(()), Some(crc32c)) => {
                        state.cache.filled(ticket, crc32c);
                        state.counters.fills.add(1);
                    }
                    (written, _) => {
                        let error = written.err();
                        tracing::warn!(?error, "an extent that was just written is not cached");
                        state.cache.abandon(ticket);
                    }
                }
            }
        }
    }

    /// Shows a commit to the readers of this core.
    pub(crate) fn exchange(&self, branch: BranchNumber, exchange: &LayerExchange) {
        let state = &self.0;
        let branch = state.branch(branch);
        state.layers.exchange(&exchange.opened, &exchange.removed);
        branch.exchange_sections(&exchange.added, &exchange.removed);
        if exchange.is_flush {
            branch.memory.borrow_mut().drop_oldest_frozen();
        }
    }
}

impl BranchOnCore {
    /// The newest version of `key` at or below `at` in memory; an image goes to the front of `page`.
    pub(super) fn newest_in_memory(&self, key: &Key, at: Lsn, page: &mut Page) -> Option<Found> {
        let memory = self.memory.borrow();
        let newest = memory.back_from(key, at).next()?;
        if newest.kind == ValueKind::Image {
            page[..newest.value.len()].copy_from_slice(newest.value);
        }
        Some(Found {
            len: newest.value.len(),
            version: newest.lsn,
            kind: newest.kind,
            fetched: false,
        })
    }
}
