//! One store thread's work: serves the queues with a fixed number of places. A place is a task that takes one job
//! after the other, so the number of places bounds what is in flight, and nothing needs counting.
//!
//! - Demand before read-ahead: only some places take read-ahead, and those take it only when no demand waits. A
//!   read-ahead under way pauses between its chunks while demand waits for a place.
//! - A fetch holds one chunk, its own fill buffer, and a bounded number of writes. A receiver that does not take
//!   its events holds up its own fetch only, and not for long: see `Delivery`.
//!
//! Runs unchanged on a tokio-uring thread and in the simulator.

use std::rc::Rc;

use async_channel::{Receiver, Sender, TrySendError};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use rand_core::RngCore;
use std::pin::pin;
use std::time::Duration;

use super::client::StoreQueues;
use super::config::StoreConfig;
use super::fill::{CacheDisk, Collector};
use super::miss_stream::MissStream;
use super::objects::Objects;
use super::reliable::Reliable;
use super::requests::{FetchEvent, FetchRequest, FillError, Job, Priority};
use super::stats::StoreStats;
use crate::io::clock::{Clock, Spawner, within};
use crate::io::disk::Disk;

/// What a store thread is made of.
#[derive(Debug)]
pub struct WorkerParts<O, C, S, D, R> {
    /// The bare store: one request per call.
    pub objects: O,
    /// This thread's clock.
    pub clock: C,
    /// This thread's executor.
    pub spawner: S,
    /// Where fills are written.
    pub disk: D,
    /// For jitter only.
    pub random: R,
}

/// Serves the queues until the clients closed them and all of it is done. Dropping it does not end the tasks it
/// started: they belong to the executor.
pub async fn run<O, C, S, D, R>(
    queues: StoreQueues,
    parts: WorkerParts<O, C, S, D, R>,
    config: StoreConfig,
) where
    O: Objects,
    C: Clock,
    S: Spawner,
    D: Disk,
    R: RngCore + 'static,
{
    let stats = std::sync::Arc::clone(&queues.stats);
    let worker = Rc::new(Worker {
        store: Reliable::new(
            parts.objects,
            parts.clock,
            parts.random,
            config.clone(),
            stats,
        ),
        cache_disk: CacheDisk::new(parts.disk, config.fill_buffer_bytes_max),
        queues,
    });
    // Never sent on: it closes when the last place has ended.
    let (busy, all_ended) = async_channel::bounded::<()>(1);
    let start = |serves: Serves| {
        let worker = Rc::clone(&worker);
        let busy = busy.clone();
        parts.spawner.spawn(async move {
            worker.place(serves).await;
            drop(busy);
        });
    };
    for place in 0..config.reads_in_flight_max {
        start(if place < config.ahead_in_flight_max {
            Serves::DemandAndAhead
        } else {
            Serves::Demand
        });
    }
    for _ in 0..config.background_in_flight_max {
        start(Serves::Background);
    }
    drop(busy);
    // An error is the news: nobody holds a sender any more.
    let _closed = all_ended.recv().await;
}

struct Worker<O, C, D: Disk, R> {
    store: Reliable<O, C, R>,
    cache_disk: CacheDisk<D>,
    queues: StoreQueues,
}

/// Which queues a place takes jobs from.
#[derive(Clone, Copy)]
enum Serves {
    Demand,
    DemandAndAhead,
    Background,
}

impl<O: Objects, C: Clock, D: Disk, R: RngCore + 'static> Worker<O, C, D, R> {
    async fn place(&self, serves: Serves) {
        while let Some(job) = self.next_job(serves).await {
            let _in_flight = self.store.stats().enter();
            self.serve(job).await;
        }
    }

    /// The next job; `None` once the queues are closed and empty.
    async fn next_job(&self, serves: Serves) -> Option<Job> {
        let queues = &self.queues;
        match serves {
            Serves::Demand => queues.demand.recv().await.ok(),
            Serves::Background => queues.background.recv().await.ok(),
            Serves::DemandAndAhead => first_of(&queues.demand, &queues.ahead).await,
        }
    }

    async fn serve(&self, job: Job) {
        // A reply nobody waits for any more is dropped: the asker gave up the answer.
        match job {
            Job::Fetch(request) => self.fetch(request).await,
            Job::GetAll { path, reply } => {
                let _unheard = reply.try_send(self.store.get_all(&path).await);
            }
            Job::Put { path, body, reply } => {
                let _unheard = reply.try_send(self.store.put_if_absent(&path, body).await);
            }
            Job::List {
                prefix,
                after,
                reply,
            } => {
                let _unheard = reply.try_send(self.store.list(&prefix, after.as_deref()).await);
            }
            Job::ListFirst {
                prefix,
                after,
                count_max,
                reply,
            } => {
                let first = self.store.list_first(&prefix, after.as_deref(), count_max);
                let _unheard = reply.try_send(first.await);
            }
            Job::Delete { path, reply } => {
                let _unheard = reply.try_send(self.store.delete(&path).await);
            }
        }
    }

    async fn fetch(&self, request: FetchRequest) {
        let mut delivery = Delivery::new(request.events, &self.store);
        let mut at = request.range.start;
        let mut stream = MissStream::new(self.store.clone(), request.path, request.range);
        if let Err(error) = stream.open().await {
            return delivery.send(FetchEvent::Failed(error)).await;
        }
        let mut chunks = stream.into_chunks();
        let mut fills = Collector::new(self.cache_disk.clone(), request.fills, request.verify);
        let mut writes = FuturesUnordered::new();
        let writes_max = self.store.config().fill_writes_in_flight_max;

        let last = loop {
            let is_unwanted = delivery.is_abandoned() && !fills.is_wanting();
            if is_unwanted || delivery.gave_up {
                break FetchEvent::Done;
            }
            if request.priority == Priority::Ahead {
                self.yield_to_demand().await;
            }
            let chunk = if writes.is_empty() {
                chunks.next().await
            } else {
                match select(chunks.next(), writes.next()).await {
                    Either::Left((chunk, _)) => chunk,
                    Either::Right((written, _)) => {
                        if let Some((fill, result)) = written {
                            delivery.send(self.report(fill, result)).await;
                        }
                        continue;
                    }
                }
            };
            let chunk = match chunk {
                None => break FetchEvent::Done,
                Some(Err(error)) => break FetchEvent::Failed(error),
                Some(Ok(chunk)) => chunk,
            };
            let chunk_at = at;
            at += chunk.len() as u64;
            // Waiters first: the cache can wait.
            let event = FetchEvent::Chunk {
                at: chunk_at,
                bytes: chunk.clone(),
            };
            delivery.send(event).await;
            let mut complete = Vec::new();
            fills.collect(chunk_at, &chunk, |fill, ready| complete.push((fill, ready)));
            for (fill, ready) in complete {
                match ready {
                    Err(error) => delivery.send(self.report(fill, Err(error))).await,
                    Ok(ready) => {
                        while writes.len() >= writes_max
                            && let Some((fill, result)) = writes.next().await
                        {
                            delivery.send(self.report(fill, result)).await;
                        }
                        self.store.stats().fill_bytes(ready.len_bytes() as u64);
                        writes.push(ready.write());
                    }
                }
            }
        };
        // The channel closes with `delivery`, at the end: no write into a slot outlives it.
        while let Some((fill, result)) = writes.next().await {
            delivery.send(self.report(fill, result)).await;
        }
        delivery.send(last).await;
    }

    /// Counts what became of a fill, and puts it into an event.
    fn report(&self, fill: usize, result: Result<u32, FillError>) -> FetchEvent {
        let stats = self.store.stats();
        match result {
            Ok(crc32c) => {
                stats.fills(1);
                FetchEvent::Filled { fill, crc32c }
            }
            Err(error) => {
                match &error {
                    FillError::NoBuffer => stats.fills_without_buffer(1),
                    FillError::BadExtent { .. } => stats.fills_bad_extent(1),
                    FillError::Disk(_) => stats.fills_disk_error(1),
                }
                FetchEvent::FillFailed { fill, error }
            }
        }
    }

    /// While demand waits for a place, read-ahead leaves it the network, but not for ever: it holds a place itself.
    async fn yield_to_demand(&self) {
        for _ in 0..AHEAD_PAUSES_MAX {
            if self.queues.demand.is_empty() {
                return;
            }
            self.store.clock().sleep(AHEAD_PAUSE).await;
        }
    }
}

/// The events of one fetch on their way to its receiver. One that is gone gets nothing more; the fetch goes on for the
/// cache's sake as long as it has fills. One that leaves its channel full for `event_wait_max` is given up, and the
/// fetch with it: it misses events from then on, so it must hear of the end, and it hears that by the closing of the
/// channel. The sender is kept until the fetch drops this, since a closed channel also says that its slots are not
/// written to any more.
struct Delivery<'a, C> {
    events: Sender<FetchEvent>,
    gave_up: bool,
    clock: &'a C,
    stats: &'a StoreStats,
    wait_max: Duration,
}

impl<'a, C: Clock> Delivery<'a, C> {
    fn new<O: Objects, R: RngCore + 'static>(
        events: Sender<FetchEvent>,
        store: &'a Reliable<O, C, R>,
    ) -> Delivery<'a, C> {
        Delivery {
            events,
            gave_up: false,
            clock: store.clock(),
            stats: store.stats(),
            wait_max: store.config().event_wait_max,
        }
    }

    fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    async fn send(&mut self, event: FetchEvent) {
        if self.gave_up {
            return;
        }
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            let sent = within(self.clock, self.wait_max, self.events.send(event)).await;
            // A receiver that went meanwhile is as good as one that took it.
            if sent.is_none() {
                self.gave_up = true;
                self.stats.slow_receivers(1);
                tracing::warn!(waited = ?self.wait_max, "receiver of a fetch is too slow");
            }
        }
    }
}

/// A job of `first` if it has one, else of `second`; `None` once both are closed and empty.
async fn first_of(first: &Receiver<Job>, second: &Receiver<Job>) -> Option<Job> {
    if let Ok(job) = first.try_recv().or_else(|_| second.try_recv()) {
        return Some(job);
    }
    // The futures are dropped with this call: a wake-up meant for them goes to another place then.
    match select(pin!(first.recv()), pin!(second.recv())).await {
        Either::Left((Ok(job), _)) | Either::Right((Ok(job), _)) => Some(job),
        Either::Left((Err(_), second)) => second.await.ok(),
        Either::Right((Err(_), first)) => first.await.ok(),
    }
}

/// How long read-ahead waits before it looks again whether demand still waits.
const AHEAD_PAUSE: Duration = Duration::from_millis(1);
/// How often it does so before each chunk.
const AHEAD_PAUSES_MAX: u32 = 20;

#[cfg(test)]
mod tests;
