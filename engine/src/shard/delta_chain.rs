//! A read of a value whose newest version is a delta: the newest image at or below the LSN, and the deltas above it, oldest
//! first.
//!
//! They are collected from memory, then block by block, from the newest layer to the oldest, of the branch and then of its ancestors. Layers may
//! overlap in time, so that what one of them has of a key can lie between versions of another: the image found is the
//! *floor* below which nothing matters, a layer that ends at or below it is not opened, and deltas are sorted before they are
//! applied. A delta that begins its value is a floor too.
//!
//! Invariants: nothing at or below the floor is applied; a version is applied once; what is held in memory is bounded by
//! the config, and a value that would need more is an error; without a floor there is no answer.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::error::ReadError;
use crate::layer::ValueKind;
use crate::planted::{PlantedBug, planted};
use crate::redo::Redo;
use crate::types::{Key, Lsn};

use super::layers::{BranchOnCore, Descent, LayerOnCore};
use super::page_pool::Page;
use super::read_path::{Found, Patience, Stop, Wanted};
use super::{Platform, ShardState};

/// Deltas of one value, in the order in which they were found.
pub(super) struct DeltaChain {
    redo: Arc<dyn Redo>,
    limits: ChainLimits,
    bytes: Vec<u8>,
    deltas: Vec<(Lsn, Range<usize>)>,
    floor: Floor,
}

/// How long a chain may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainLimits {
    pub(super) deltas: usize,
    pub(super) bytes: usize,
}

/// Below which version nothing matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Floor {
    /// Not found yet.
    None,
    /// An image, of so many bytes.
    Image(Lsn, usize),
    /// A delta that needs nothing below it.
    Delta(Lsn),
}

impl Floor {
    /// Its version; invalid (below all others) if there is none.
    fn version(self) -> Lsn {
        match self {
            Floor::None => Lsn::INVALID,
            Floor::Image(version, _) | Floor::Delta(version) => version,
        }
    }

    /// Whether a delta of this version matters.
    fn needs(self, version: Lsn) -> bool {
        match self {
            Floor::None => true,
            Floor::Image(floor, _) => version > floor,
            Floor::Delta(floor) => version >= floor,
        }
    }
}

impl DeltaChain {
    fn new(redo: Arc<dyn Redo>, limits: ChainLimits) -> DeltaChain {
        DeltaChain {
            redo,
            limits,
            bytes: Vec::new(),
            deltas: Vec::new(),
            floor: Floor::None,
        }
    }

    /// Takes a delta, if it matters.
    pub(super) fn push(&mut self, version: Lsn, delta: &[u8]) {
        if !self.floor.needs(version) {
            return;
        }
        if version > self.floor.version() && self.redo.begins(delta) {
            self.raise(Floor::Delta(version));
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(delta);
        self.deltas.push((version, start..self.bytes.len()));
    }

    /// Takes what the branch has of a value in memory; an image goes to the front of `page`.
    fn take_from_memory(&mut self, branch: &BranchOnCore, key: &Key, at: Lsn, page: &mut Page) {
        for version in branch.memory.borrow().back_from(key, at) {
            if version.lsn <= self.floor.version() {
                return;
            }
            match version.kind {
                ValueKind::Delta => self.push(version.lsn, version.value),
                ValueKind::Image => {
                    page[..version.value.len()].copy_from_slice(version.value);
                    self.raise(Floor::Image(version.lsn, version.value.len()));
                }
            }
        }
    }

    /// Forgets what lies below a newer floor.
    fn raise(&mut self, floor: Floor) {
        self.floor = floor;
        let mut bytes = Vec::with_capacity(self.bytes.len());
        self.deltas.retain_mut(|(version, range)| {
            let stays = floor.needs(*version);
            if stays {
                let start = bytes.len();
                bytes.extend_from_slice(&self.bytes[range.clone()]);
                *range = start..bytes.len();
            }
            stays
        });
        self.bytes = bytes;
    }

    fn check_bounds(&self, at: Lsn) -> Result<(), ReadError> {
        let ChainLimits { deltas, bytes } = self.limits;
        if self.deltas.len() > deltas || self.bytes.len() > bytes {
            return Err(ReadError::ChainTooLong {
                at,
                deltas_max: deltas,
                bytes_max: bytes,
            });
        }
        Ok(())
    }

    /// Applies all of it to the front of `page`, which holds the image if that is the floor.
    fn apply(&mut self, key: &Key, page: &mut Page) -> Result<Found, ReadError> {
        if !planted(PlantedBug::DeltasNotSorted) {
            self.deltas.sort_unstable_by_key(|(version, _)| *version);
        }
        // A version that was found twice is one.
        self.deltas.dedup_by_key(|(version, _)| *version);
        if planted(PlantedBug::DeltaSkipped) && self.deltas.len() > 1 {
            self.deltas.remove(0);
        }
        if planted(PlantedBug::DeltaTwice) {
            self.deltas.extend(self.deltas.last().cloned());
        }
        let mut len = match self.floor {
            Floor::Image(_, len) => len,
            Floor::Delta(_) => 0,
            Floor::None => {
                let lowest = self.deltas.first().map_or(Lsn::INVALID, |(lsn, _)| *lsn);
                return Err(ReadError::NoImage { lowest });
            }
        };
        page[len..].fill(0);
        let mut newest = self.floor.version();
        for (version, range) in &self.deltas {
            let delta = &self.bytes[range.clone()];
            len = self
                .redo
                .apply(key, *version, delta, page, len)
                .map_err(|failed| ReadError::Redo {
                    at: *version,
                    reason: failed.0,
                })?;
            newest = *version;
        }
        Ok(Found {
            len,
            version: newest,
            kind: ValueKind::Image,
            fetched: false,
        })
    }
}

impl<P: Platform> ShardState<P> {
    /// How long the chains of reads may be.
    pub(super) fn read_limits(&self) -> ChainLimits {
        ChainLimits {
            deltas: self.config.deltas_max,
            bytes: self.config.delta_bytes_max,
        }
    }

    /// Makes the value of `key` of its versions in `branch` and its ancestors, in `page`: as a read sees it that came as far as
    /// `descent`.
    pub(super) async fn replay(
        self: &Rc<Self>,
        (branch, key, descent): (Rc<BranchOnCore>, &Key, Descent),
        page: &mut Page,
        patience: Patience,
        limits: ChainLimits,
    ) -> Result<Found, Stop> {
        let chain = RefCell::new(DeltaChain::new(Arc::clone(&self.redo), limits));
        let mut other = self.pool.take();
        let pages = (&mut *page, &mut other);
        let of = (branch, key, descent);
        let collected = self.collect(of, pages, &chain, patience).await;
        self.pool.put(other);
        let fetched = collected?;
        let mut chain = chain.into_inner();
        let found = chain.apply(key, page)?;
        self.counters.reads_replayed.add(1);
        self.counters.deltas_replayed.add(chain.deltas.len() as u64);
        Ok(Found { fetched, ..found })
    }

    /// Collects until there is a floor; whether something came from the store. The image is in the first of the pages then, the
    /// other is for blocks on their way.
    async fn collect(
        self: &Rc<Self>,
        (mut branch, key, mut descent): (Rc<BranchOnCore>, &Key, Descent),
        (page, other): (&mut Page, &mut Page),
        chain: &RefCell<DeltaChain>,
        patience: Patience,
    ) -> Result<bool, Stop> {
        let partition = self.key_space.partition(key);
        let at = descent.at_most();
        let mut fetched = false;
        loop {
            let at_most = descent.at_most();
            {
                let mut chain = chain.borrow_mut();
                chain.take_from_memory(&branch, key, at_most, page);
                chain.check_bounds(at)?;
            }
            let sections = self.sections(&branch, partition, patience).await?;
            for section in sections.candidates(key, at_most) {
                if section.last_lsn() <= chain.borrow().floor.version() {
                    break;
                }
                let layer = self.layer(&branch, section, patience).await?;
                let mut below = at_most;
                while let Some(found) = self
                    .versions_in_layer(&layer, key, below, other, chain, patience)
                    .await?
                {
                    fetched |= found.fetched;
                    let mut chain = chain.borrow_mut();
                    if found.kind == ValueKind::Image && found.version > chain.floor.version() {
                        std::mem::swap(page, other);
                        chain.raise(Floor::Image(found.version, found.len));
                    }
                    chain.check_bounds(at)?;
                    if found.version <= chain.floor.version() {
                        break;
                    }
                    below = Lsn(found.version.0 - 1);
                }
            }
            if chain.borrow().floor != Floor::None {
                return Ok(fetched);
            }
            // Without a floor and an ancestor, `apply` says that there is none.
            let Some(ancestor) = self.descend(&branch, &mut descent)? else {
                return Ok(fetched);
            };
            branch = ancestor;
        }
    }

    /// The versions of the next block of a layer that has some at or below `at`.
    async fn versions_in_layer(
        self: &Rc<Self>,
        layer: &LayerOnCore,
        key: &Key,
        at: Lsn,
        page: &mut Page,
        chain: &RefCell<DeltaChain>,
        patience: Patience,
    ) -> Result<Option<Found>, Stop> {
        let partition = self.key_space.partition(key);
        for extent_no in layer.index().candidates(partition, key, at) {
            let wanted = Wanted {
                layer,
                extent_no,
                key,
                at,
                chain: Some(chain),
            };
            let found = self.read_in_extent(wanted, page, patience).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}
