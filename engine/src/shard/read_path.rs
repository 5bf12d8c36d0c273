//! One read: from `(branch, key, LSN)` to a page in memory. The one place where hit and miss meet.
//!
//! The owner of the key looks for the newest version at or below the LSN: in the branch's own layers, then in its
//! ancestors'. A layer's index names the extent, the extent's directory the block. A cached extent costs one read of
//! the device (two when its directory is not in memory). What is not here is fetched, once for all who wait. A version
//! that is a delta makes it a read of several versions, see `delta_chain.rs`.
//!
//! A reader task comes here with [`Patience::Hits`]: where the store would be needed it stops with
//! [`Stop::NeedsStore`], and the request goes on in a task of its own with [`Patience::Store`], from the start. So a
//! store that is away takes no reader from the hits.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use crate::cache::{SlotRead, SlotRef};
use crate::error::ReadError;
use crate::io::clock::Clock;
use crate::io::disk::DiskError;
use crate::layer::{
    BlockPlace, EXTENT_HEADER_BYTES, ExtentDirectory, LayerError, LayerErrorKind, ValueKind,
};
use crate::planted::{PlantedBug, planted};
use crate::types::{Key, Lsn};

use super::delta_chain::DeltaChain;
use super::layers::{BranchOnCore, Descent, LayerOnCore};
use super::page_pool::Page;
use super::request::BranchNumber;
use super::{Platform, ShardState};

/// Whether a read may wait for the object store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Patience {
    /// Only what is here.
    Hits,
    /// Whatever it takes, within the store's deadlines.
    Store,
}

/// Why a read stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// The store is needed, and the reader has no patience for it.
    NeedsStore,
    /// There is no answer but this.
    Failed(ReadError),
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Stop {
        Stop::Failed(error)
    }
}

/// A version that was found: the first `len` bytes of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) len: usize,
    pub(super) version: Lsn,
    pub(super) kind: ValueKind,
    /// Whether its extent came from the store.
    pub(super) fetched: bool,
}

/// What is wanted of an extent.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) layer: &'a LayerOnCore,
    pub(super) extent_no: u32,
    pub(super) key: &'a Key,
    pub(super) at: Lsn,
    /// Of a read that replays: where all versions of the key go that a block has.
    pub(super) chain: Option<&'a RefCell<DeltaChain>>,
}

impl<P: Platform> ShardState<P> {
    /// Reads the newest version of `key` at or below `at` into `page`.
    pub(super) async fn read(
        self: &Rc<Self>,
        branch: BranchNumber,
        key: &Key,
        at: Lsn,
        page: &mut Page,
        patience: Patience,
    ) -> Result<Found, Stop> {
        let branch = self.branch(branch);
        branch.want();
        loop {
            // Before the check: what ends behind it is seen below.
            let ended = branch.memory_ended();
            self.check_readable(&branch, at)?;
            let outcome = self
                .read_version(Rc::clone(&branch), key, at, page, patience)
                .await;
            if branch.memory_ended() != ended {
                // Some of it may be of what was lost to another process meanwhile.
                continue;
            }
            self.check_all_horizons(branch, at)?;
            return outcome;
        }
    }

    async fn read_version(
        self: &Rc<Self>,
        mut branch: Rc<BranchOnCore>,
        key: &Key,
        at: Lsn,
        page: &mut Page,
        patience: Patience,
    ) -> Result<Found, Stop> {
        let partition = self.key_space.partition(key);
        let mut descent = Descent::new(at);
        loop {
            let at_most = descent.at_most();
            // What is in memory is newer than what is in layers.
            match branch.newest_in_memory(key, at_most, page) {
                Some(found) if found.kind == ValueKind::Image => return Ok(found),
                Some(_) => {
                    let of = (branch, key, descent);
                    return Box::pin(self.replay(of, page, patience, self.read_limits())).await;
                }
                None => {}
            }
            let sections = self.sections(&branch, partition, patience).await?;
            let mut best: Option<Found> = None;
            for section in sections.candidates(key, at_most) {
                if best.is_some_and(|found| {
                    section.last_lsn() <= found.version || planted(PlantedBug::LayersNotCompared)
                }) {
                    break;
                }
                let layer = self.layer(&branch, section, patience).await?;
                let newest = self
                    .read_in_layer(&layer, key, at_most, page, best, patience)
                    .await?;
                best = newest.or(best);
            }
            if let Some(found) = best {
                return match found.kind {
                    ValueKind::Image => Ok(found),
                    // Apart, so that reads of images stay as small as they are.
                    ValueKind::Delta => {
                        let of = (branch, key, descent);
                        Box::pin(self.replay(of, page, patience, self.read_limits())).await
                    }
                };
            }
            let Some(ancestor) = self.descend(&branch, &mut descent)? else {
                return Err(ReadError::NotFound { at }.into());
            };
            branch = ancestor;
        }
    }

    /// The newest version in one layer, if it is newer than `best`; `page` changes only then.
    async fn read_in_layer(
        self: &Rc<Self>,
        layer: &LayerOnCore,
        key: &Key,
        at: Lsn,
        page: &mut Page,
        best: Option<Found>,
        patience: Patience,
    ) -> Result<Option<Found>, Stop> {
        let partition = self.key_space.partition(key);
        for extent_no in layer.index().candidates(partition, key, at) {
            let wanted = Wanted {
                layer,
                extent_no,
                key,
                at,
                chain: None,
            };
            let Some(best) = best else {
                match self.read_in_extent(wanted, page, patience).await? {
                    Some(found) => return Ok(Some(found)),
                    None => continue,
                }
            };
            // Layers that overlap in time are rare: only then is there a second page.
            let mut other = self.pool.take();
            let found = self.read_in_extent(wanted, &mut other, patience).await?;
            if let Some(found) = found {
                let newer = found.version > best.version;
                if newer {
                    std::mem::swap(page, &mut other);
                }
                self.pool.put(other);
                return Ok(newer.then_some(found));
            }
            self.pool.put(other);
        }
        Ok(None)
    }

    /// The newest version in one extent, from the cache or from the store.
    pub(super) async fn read_in_extent(
        self: &Rc<Self>,
        wanted: Wanted<'_>,
        page: &mut Page,
        patience: Patience,
    ) -> Result<Option<Found>, Stop> {
        let id = wanted.layer.extent_id(wanted.extent_no);
        let known = self
            .directories
            .borrow_mut()
            .get(&id)
            .map(|directory| directory.find(wanted.key, wanted.at));
        if let Some(None) = known {
            return Ok(None);
        }
        let known = known.flatten();
        if let Some(slot) = self.cache.lookup(&id) {
            match self.read_cached(&slot, known, wanted, page).await {
                Ok(found) => return Ok(found),
                Err(doubt) => {
                    self.cache.drop_doubtful(&id, &doubt);
                    self.directories.borrow_mut().remove(&id);
                }
            }
        }
        match patience {
            Patience::Hits => Err(Stop::NeedsStore),
            Patience::Store => {
                let found = self.read_fetched(wanted, page).await?;
                Ok(found.map(|found| Found {
                    fetched: true,
                    ..found
                }))
            }
        }
    }

    /// A hit: the block out of its slot; where it is there, is `known` if the extent's directory is in memory. Any error
    /// means that the slot is not to be trusted, or can't be read.
    async fn read_cached(
        &self,
        slot: &SlotRef<P::Disk>,
        known: Option<BlockPlace>,
        wanted: Wanted<'_>,
        page: &mut Page,
    ) -> Result<Option<Found>, Doubt> {
        let range = wanted.layer.extent_range(wanted.extent_no);
        if u64::from(slot.extent_bytes()) != range.end - range.start {
            return Err(Doubt::OtherLength);
        }
        let place = match known {
            Some(place) => Some(place),
            None => {
                let directory = self.read_directory(slot, wanted).await?;
                directory.find(wanted.key, wanted.at)
            }
        };
        let Some(place) = place else {
            return Ok(None);
        };
        let started = self.clock.now();
        let block = self.read_slot(slot, place.range()).await?;
        self.counters.device_block_reads.add(1);
        let opening = self.clock.now();
        let found = self
            .open_value(wanted, &place, &block, page)
            .map_err(|error| {
                self.counters.seal_failures_cache.add(1);
                Doubt::Layer(error)
            })?;
        self.histograms
            .borrow_mut()
            .record_hit(started, opening, self.clock.now());
        Ok(found)
    }

    /// A directory out of its slot: one read, or two for a long one. It is kept in memory from then on.
    async fn read_directory(
        &self,
        slot: &SlotRef<P::Disk>,
        wanted: Wanted<'_>,
    ) -> Result<Rc<ExtentDirectory>, Doubt> {
        let extent_bytes = slot.extent_bytes() as usize;
        let guess = DIRECTORY_GUESS_BYTES.min(extent_bytes);
        let mut head = self.read_slot(slot, 0..guess).await?;
        self.counters.device_directory_reads.add(1);
        let end = wanted.layer.directory_end(wanted.extent_no, &head)?;
        if end > guess {
            head = self.read_slot(slot, 0..end.min(extent_bytes)).await?;
            self.counters.device_directory_reads.add(1);
        }
        self.open_directory(wanted, &head).map_err(|error| {
            self.counters.seal_failures_cache.add(1);
            Doubt::Layer(error)
        })
    }

    /// Reads a range of an extent out of its slot: one read of the device.
    async fn read_slot(
        &self,
        slot: &SlotRef<P::Disk>,
        range: Range<usize>,
    ) -> Result<SlotRead<P::Disk>, DiskError> {
        let narrow = |at| u32::try_from(at).expect("positions in an extent are below 256 KiB");
        let read = slot
            .read(narrow(range.start)..narrow(range.end))
            .await
            .inspect_err(|_| {
                self.counters.device_errors.add(1);
            })?;
        self.counters
            .device_read_bytes
            .add(read.device_bytes() as u64);
        Ok(read)
    }

    /// A miss: the block out of a fetch, as soon as it has arrived. What does not open is fetched once more before
    /// the object is called corrupt: a body can be damaged on its way.
    async fn read_fetched(
        self: &Rc<Self>,
        wanted: Wanted<'_>,
        page: &mut Page,
    ) -> Result<Option<Found>, ReadError> {
        let mut fetches = 1;
        loop {
            match self.read_arriving(wanted, page).await {
                Ok(found) => return Ok(found),
                Err(Arriving::Store(error)) => return Err(error),
                Err(Arriving::Layer(error)) => {
                    if error.kind() == LayerErrorKind::Damaged {
                        self.counters.seal_failures_store.add(1);
                    }
                    self.directories
                        .borrow_mut()
                        .remove(&wanted.layer.extent_id(wanted.extent_no));
                    if fetches == FETCHES_MAX {
                        let object = wanted.layer.object();
                        let reason = wanted.layer.diagnose(error, &self.store).await.into();
                        return Err(ReadError::Corrupt { object, reason });
                    }
                    fetches += 1;
                }
            }
        }
    }

    /// One try of [`ShardState::read_fetched`].
    async fn read_arriving(
        self: &Rc<Self>,
        wanted: Wanted<'_>,
        page: &mut Page,
    ) -> Result<Option<Found>, Arriving> {
        let id = wanted.layer.extent_id(wanted.extent_no);
        let flight = self.flight(wanted.layer, wanted.extent_no);
        let known = self.directories.borrow_mut().get(&id).cloned();
        let outcome = async {
            let directory = match known {
                Some(directory) => directory,
                None => {
                    flight.wait_for(EXTENT_HEADER_BYTES).await?;
                    let end = wanted
                        .layer
                        .directory_end(wanted.extent_no, &flight.bytes())?;
                    flight.wait_for(end).await?;
                    // Others may have waited for the same bytes: the first to run opens it for all.
                    let known = self.directories.borrow_mut().get(&id).cloned();
                    match known {
                        Some(directory) => directory,
                        None => self.open_directory(wanted, &flight.bytes())?,
                    }
                }
            };
            let Some(place) = directory.find(wanted.key, wanted.at) else {
                return Ok(None);
            };
            flight.wait_for(place.range().end).await?;
            Ok(self.open_value(wanted, &place, &flight.bytes()[place.range()], page)?)
        }
        .await;
        if let Err(Arriving::Layer(_)) = &outcome {
            self.forget_flight(&id, &flight);
        }
        outcome
    }

    fn open_directory(
        &self,
        wanted: Wanted<'_>,
        head: &[u8],
    ) -> Result<Rc<ExtentDirectory>, LayerError> {
        let directory = Rc::new(wanted.layer.open_directory(wanted.extent_no, head)?);
        let id = wanted.layer.extent_id(wanted.extent_no);
        let bytes = directory.resident_bytes();
        self.directories
            .borrow_mut()
            .insert(id, Rc::clone(&directory), bytes);
        Ok(directory)
    }

    fn open_value(
        &self,
        wanted: Wanted<'_>,
        place: &BlockPlace,
        sealed: &[u8],
        page: &mut Page,
    ) -> Result<Option<Found>, LayerError> {
        let mut scratch = self.scratch.borrow_mut();
        if let Some(chain) = wanted.chain {
            let (of, chain) = ((wanted.key, wanted.at), &mut chain.borrow_mut());
            return wanted
                .layer
                .open_versions(place, sealed, of, &mut scratch, page, chain);
        }
        wanted
            .layer
            .open_value(place, sealed, wanted.key, wanted.at, &mut scratch, page)
    }
}

/// Why a slot can't be used.
#[derive(Debug, thiserror::Error)]
enum Doubt {
    #[error("the cache's index gives it another length than the layer's")]
    OtherLength,
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why a fetched block can't be used.
enum Arriving {
    /// It does not open: worth one more fetch.
    Layer(LayerError),
    /// It did not come, after all the store's retries.
    Store(ReadError),
}

impl From<LayerError> for Arriving {
    fn from(error: LayerError) -> Arriving {
        Arriving::Layer(error)
    }
}

impl From<ReadError> for Arriving {
    fn from(error: ReadError) -> Arriving {
        Arriving::Store(error)
    }
}

/// Bytes read to get a directory: enough for an extent of full pages.
const DIRECTORY_GUESS_BYTES: usize = 4096;
/// Times an extent is fetched for one read before its object is called corrupt.
const FETCHES_MAX: u32 = 2;
