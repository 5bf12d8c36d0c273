//! Fetching extents: one request for an extent whatever the number of its readers, widened for a scan, streamed to
//! those who wait and to the cache.

use std::collections::hash_map::Entry;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use crate::cache::{ExtentId, FillTicket};
use crate::error::ReadError;
use crate::io::clock::Spawner;
use crate::io::disk::Disk;
use crate::layer::scrub_extent;
use crate::planted::{PlantedBug, planted};
use crate::store::objects::StoreError;
use crate::store::{
    FETCH_BYTES_MAX, FetchEvent, FetchRequest, Fill, FillError, FillTarget, Priority,
};

use super::extent_flight::ExtentFlight;
use super::layers::LayerOnCore;
use super::{Platform, ShardState};

/// One extent of a run that is being fetched.
struct RunExtent<D: Disk> {
    id: ExtentId,
    end: u64,
    flight: Rc<ExtentFlight>,
    ticket: Option<FillTicket<D>>,
}

impl<P: Platform> ShardState<P> {
    /// The flight that brings `extent_no`: the one under way, or a new one.
    pub(super) fn flight(self: &Rc<Self>, layer: &LayerOnCore, extent_no: u32) -> Rc<ExtentFlight> {
        let id = layer.extent_id(extent_no);
        if let Some(flight) = self.flights.borrow().get(&id) {
            self.counters.single_flight_joined.add(1);
            return Rc::clone(flight);
        }
        let sequential = self
            .read_ahead
            .borrow_mut()
            .continues(layer.object(), extent_no);
        let last = if sequential {
            self.run_end(layer, extent_no)
        } else {
            extent_no
        };
        if sequential {
            self.read_ahead
                .borrow_mut()
                .fetched(layer.object(), extent_no, last + 1);
        }
        self.counters.extents_demanded.add(1);
        self.counters.extents_ahead.add(u64::from(last - extent_no));
        self.start_run(layer, extent_no, last)
    }

    /// The last extent of the run that a scan at `extent_no` fetches: up to the end of the partition, to the size
    /// of a fetch, and to the first extent that is here already or under way.
    fn run_end(&self, layer: &LayerOnCore, extent_no: u32) -> u32 {
        let start = layer.extent_range(extent_no).start;
        let partition_end = layer.partition_of(extent_no).1.end;
        let mut last = extent_no;
        while last + 1 < partition_end {
            let next = last + 1;
            let id = layer.extent_id(next);
            if layer.extent_range(next).end - start
                > self.config.ahead_bytes_max.min(FETCH_BYTES_MAX)
                || self.flights.borrow().contains_key(&id)
                || self.cache.contains(&id)
            {
                break;
            }
            last = next;
        }
        last
    }

    fn start_run(self: &Rc<Self>, layer: &LayerOnCore, first: u32, last: u32) -> Rc<ExtentFlight> {
        let mut run = Vec::with_capacity((last - first + 1) as usize);
        for extent_no in first..=last {
            let id = layer.extent_id(extent_no);
            let range = layer.extent_range(extent_no);
            let bytes = u32::try_from(range.end - range.start).expect("an extent fits the grid");
            let flight = ExtentFlight::new(bytes as usize);
            match self.flights.borrow_mut().entry(id) {
                Entry::Vacant(place) => place.insert(Rc::clone(&flight)),
                Entry::Occupied(_) => unreachable!("the run was cut at the first flight under way"),
            };
            let (partition, _) = layer.partition_of(extent_no);
            let ticket = self.cache.reserve(id, partition, bytes);
            run.push(RunExtent {
                id,
                end: range.end,
                flight,
                ticket,
            });
        }
        let demanded = Rc::clone(&run[0].flight);
        let state = Rc::clone(self);
        let layer = layer.clone();
        self.spawner
            .spawn(async move { state.drive(&layer, first, run).await });
        demanded
    }

    /// Runs one fetch to its end.
    async fn drive(
        self: Rc<Self>,
        layer: &LayerOnCore,
        first: u32,
        mut run: Vec<RunExtent<P::Disk>>,
    ) {
        let (events, arrivals) = async_channel::bounded(EVENTS_MAX);
        let mut filled = Vec::with_capacity(run.len());
        let mut fills = Vec::with_capacity(run.len());
        for (index, extent) in run.iter().enumerate() {
            if let Some(ticket) = &extent.ticket {
                let number = first + u32::try_from(index).expect("a run is short");
                let target = FillTarget {
                    file: self.cache_file(ticket.file_number()),
                    at: ticket.at(),
                };
                fills.push(Fill {
                    extent: layer.extent_range(number),
                    target,
                });
                filled.push(index);
            }
        }
        let request = FetchRequest {
            path: layer.path(),
            range: layer.extent_range(first).start
                + u64::from(planted(PlantedBug::ReadAheadRange) && run.len() > 1)
                ..run.last().expect("a run is not empty").end,
            fills,
            verify: verify_extent,
            events,
            priority: Priority::Demand,
        };
        let mut failure = match self.store.fetch(request).await {
            Ok(()) => None,
            Err(error) => Some(ReadError::unavailable(error)),
        };
        let mut current = 0;
        while failure.is_none() {
            match arrivals.recv().await {
                Ok(FetchEvent::Chunk { at, bytes }) => deliver(&run, &mut current, at, &bytes),
                Ok(FetchEvent::Filled { fill, crc32c }) => {
                    let extent = &mut run[filled[fill]];
                    if let Some(ticket) = extent.ticket.take() {
                        self.cache.filled(ticket, crc32c);
                        self.counters.fills.add(1);
                        self.forget_flight(&extent.id, &extent.flight);
                    }
                }
                Ok(FetchEvent::FillFailed { fill, .. })
                    if planted(PlantedBug::FailedFillCounts) =>
                {
                    if let Some(ticket) = run[filled[fill]].ticket.take() {
                        self.cache.filled(ticket, 0);
                    }
                }
                Ok(FetchEvent::FillFailed { fill, error }) => {
                    tracing::warn!(%error, "extent not cached");
                    if matches!(error, FillError::BadExtent { .. }) {
                        self.counters.checksum_failures.add(1);
                    }
                    self.abandon(&mut run[filled[fill]]);
                }
                Ok(FetchEvent::Failed(error)) => failure = Some(store_error(layer, error)),
                Ok(FetchEvent::Done) => break,
                Err(async_channel::RecvError) => {
                    failure = Some(ReadError::unavailable("the fetch was given up"));
                }
            }
        }
        // The channel closes when no write into a slot is under way any more: only then may slots be reused.
        while arrivals.recv().await.is_ok() {}
        let cut = ReadError::unavailable("the body ended early");
        for extent in &mut run {
            extent
                .flight
                .fail(failure.clone().unwrap_or_else(|| cut.clone()));
            self.abandon(extent);
            if !planted(PlantedBug::FailedFlightKept) {
                self.forget_flight(&extent.id, &extent.flight);
            }
        }
    }

    /// Makes the next read of an extent fetch it anew, though `flight` may still be under way.
    pub(super) fn forget_flight(&self, id: &ExtentId, flight: &Rc<ExtentFlight>) {
        let mut flights = self.flights.borrow_mut();
        if flights
            .get(id)
            .is_some_and(|known| Rc::ptr_eq(known, flight))
        {
            flights.remove(id);
        }
    }

    fn cache_file(&self, number: u32) -> Arc<Path> {
        Arc::clone(&self.cache_files[number as usize])
    }

    /// Gives a slot back that was not filled.
    fn abandon(&self, extent: &mut RunExtent<P::Disk>) {
        if let Some(ticket) = extent.ticket.take() {
            self.cache.abandon(ticket);
            self.counters.fills_skipped.add(1);
        }
    }
}

/// Hands a chunk to the flights it belongs to. Chunks come in order, so `current` only grows.
fn deliver<D: Disk>(run: &[RunExtent<D>], current: &mut usize, mut at: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let extent = run
            .get(*current)
            .expect("chunks lie inside the range asked for");
        let left = usize::try_from(extent.end - at).expect("an extent fits the grid");
        let (now, later) = bytes.split_at(left.min(bytes.len()));
        extent.flight.append(now);
        at += now.len() as u64;
        bytes = later;
        if at == extent.end {
            *current += 1;
        }
    }
}

/// A missing layer, or one that is stored shorter than its index says, is damage; everything else may pass, a body that
/// was cut off on its way too.
pub(super) fn store_error(layer: &LayerOnCore, error: StoreError) -> ReadError {
    match error {
        StoreError::NotFound { .. } | StoreError::Truncated { .. } => ReadError::Corrupt {
            object: layer.object(),
            reason: error.to_string().into(),
        },
        other => ReadError::unavailable(other),
    }
}

/// Judges a whole extent by its own checksum; its number is in its header.
pub(super) fn verify_extent(extent: &[u8]) -> Option<u32> {
    let number = extent
        .get(EXTENT_NO_AT..EXTENT_NO_AT + 4)?
        .try_into()
        .ok()?;
    let header = scrub_extent(u32::from_le_bytes(number), extent).ok()?;
    Some(header.checksum)
}

/// Where an extent's header has its number.
const EXTENT_NO_AT: usize = 4;
/// Events of one fetch that may wait for the shard.
const EVENTS_MAX: usize = 16;
