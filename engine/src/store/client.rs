//! The way from any thread of any runtime to the store threads: three bounded queues. Owns the rule which request
//! waits in which queue; everything behind the queues is `worker`'s.
//!
//! A full queue is back-pressure: the asking task waits, nothing grows.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use async_channel::{Receiver, Sender, TrySendError};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

use super::config::StoreConfig;
use super::objects::{ListedObject, Objects, StoreError};
use super::requests::{FetchEvent, FetchRequest, Job, Priority};
use super::stats::{StoreStats, StoreStatsSnapshot};

/// A handle on the store threads. `Send`, `Sync`, cheap to clone; every call may be awaited on any runtime.
///
/// It is an [`Objects`] itself, with the deadlines, retries and hedges of the store threads behind it, so that
/// generic code over `Objects` runs on shards. Dropping a future of it gives up the answer only: a write that was
/// queued still happens.
#[derive(Clone, Debug)]
pub struct StoreClient {
    demand: Sender<Job>,
    ahead: Sender<Job>,
    background: Sender<Job>,
    stats: Arc<StoreStats>,
    lost_thread: Arc<AtomicBool>,
}

/// The other end of the queues, taken by `worker::run`. Cloned for each store thread: all of them serve the same
/// queues.
#[derive(Clone, Debug)]
pub struct StoreQueues {
    pub(super) demand: Receiver<Job>,
    pub(super) ahead: Receiver<Job>,
    pub(super) background: Receiver<Job>,
    pub(super) stats: Arc<StoreStats>,
}

impl StoreQueues {
    /// Closes the queues and drops what waits in them: who asked hears that the store threads stopped.
    pub(crate) fn discard(&self) {
        for queue in [&self.demand, &self.ahead, &self.background] {
            queue.close();
            while queue.try_recv().is_ok() {}
        }
    }
}

/// Why a fetch was not queued at once.
#[derive(Debug)]
pub enum TryFetchError {
    /// The queue is full; the request comes back.
    Full(FetchRequest),
    /// The store threads stopped.
    Stopped,
}

/// Both ends of the queues to the store threads.
pub fn queues(config: &StoreConfig) -> (StoreClient, StoreQueues) {
    let (demand, demand_queue) = async_channel::bounded(config.demand_queue_max);
    let (ahead, ahead_queue) = async_channel::bounded(config.ahead_queue_max);
    let (background, background_queue) = async_channel::bounded(config.background_queue_max);
    let stats = Arc::new(StoreStats::default());
    (
        StoreClient {
            demand,
            ahead,
            background,
            stats: Arc::clone(&stats),
            lost_thread: Arc::default(),
        },
        StoreQueues {
            demand: demand_queue,
            ahead: ahead_queue,
            background: background_queue,
            stats,
        },
    )
}

impl StoreClient {
    /// Queues a fetch; completes once it is queued, which waits while the queue is full. What comes of it is told
    /// on `request.events`.
    /// # Errors
    /// `Unavailable`: the store threads stopped.
    /// # Panics
    /// If the request breaks what its fields promise.
    pub async fn fetch(&self, request: FetchRequest) -> Result<(), StoreError> {
        request.assert_sound();
        self.queue_fetch(request).await
    }

    /// Queues a fetch if there is room: what read-ahead uses, which is better left than waited for.
    /// # Errors
    /// [`TryFetchError`].
    /// # Panics
    /// If the request breaks what its fields promise.
    pub fn try_fetch(&self, request: FetchRequest) -> Result<(), TryFetchError> {
        request.assert_sound();
        match self
            .queue_of(request.priority)
            .try_send(Job::Fetch(request))
        {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(Job::Fetch(request))) => Err(TryFetchError::Full(request)),
            Err(_) => Err(TryFetchError::Stopped),
        }
    }

    /// The bytes `range` of an object, whole: for small things like layer indexes.
    /// # Errors
    /// As the store says, after all retries; `Unavailable` if the store threads stopped.
    pub async fn read(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let body = self.get(path, range).await?;
        StoreClient::whole(body).await
    }

    /// As [`StoreClient::read`], for work that nobody waits for: it gives way to what is demanded.
    /// # Errors
    /// As [`StoreClient::read`].
    /// # Panics
    /// If the range is longer than [`FETCH_BYTES_MAX`](super::FETCH_BYTES_MAX).
    pub async fn read_behind(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let body = self.begin(path, range, Priority::Ahead).await?;
        StoreClient::whole(body).await
    }

    async fn whole(mut body: StoreBody) -> Result<Bytes, StoreError> {
        let Some(first) = body.next().await.transpose()? else {
            return Ok(Bytes::new());
        };
        let Some(second) = body.next().await.transpose()? else {
            return Ok(first);
        };
        let mut whole = BytesMut::from(&first[..]);
        whole.extend_from_slice(&second);
        while let Some(chunk) = body.next().await.transpose()? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// What the store threads did since they started. Costs microseconds; takes no lock a request waits for
    /// longer than that.
    pub fn stats(&self) -> StoreStatsSnapshot {
        self.stats
            .snapshot(self.demand.len() + self.ahead.len() + self.background.len())
    }

    /// Lets the store threads finish what is queued and then end; later calls fail as `Unavailable`. Idempotent.
    pub fn close(&self) {
        self.demand.close();
        self.ahead.close();
        self.background.close();
    }

    /// Whether a store thread has ended by a panic. What it was doing is lost, and what it had in hand is never answered:
    /// the process is better ended than kept.
    pub fn has_lost_thread(&self) -> bool {
        self.lost_thread.load(Ordering::Acquire)
    }

    /// Remembers that a store thread panicked.
    pub(crate) fn note_lost_thread(&self) {
        self.lost_thread.store(true, Ordering::Release);
    }

    /// Begins a read; failures come on the body.
    async fn begin(
        &self,
        path: &str,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<StoreBody, StoreError> {
        let path: Arc<str> = path.into();
        let (events, receiver) = async_channel::bounded(BODY_CHUNKS_MAX);
        if range.is_empty() {
            drop(events);
            return Ok(StoreBody::new(path, receiver, true));
        }
        self.queue_fetch(FetchRequest {
            path: Arc::clone(&path),
            range,
            fills: Vec::new(),
            verify: |_| None,
            events,
            priority,
        })
        .await?;
        Ok(StoreBody::new(path, receiver, false))
    }

    async fn queue_fetch(&self, request: FetchRequest) -> Result<(), StoreError> {
        let path = Arc::clone(&request.path);
        self.queue_of(request.priority)
            .send(Job::Fetch(request))
            .await
            .map_err(|_| stopped(&path))
    }

    fn queue_of(&self, priority: Priority) -> &Sender<Job> {
        match priority {
            Priority::Demand => &self.demand,
            Priority::Ahead => &self.ahead,
        }
    }
}

impl Objects for StoreClient {
    type Body = StoreBody;

    /// Queued as demand. Returns when queued: failures come on the body.
    async fn get(&self, path: &str, range: Range<u64>) -> Result<StoreBody, StoreError> {
        self.begin(path, range, Priority::Demand).await
    }

    async fn get_all(&self, path: &str) -> Result<Bytes, StoreError> {
        let (reply, answer) = async_channel::bounded(1);
        let path = path.to_owned();
        ask(
            &self.demand,
            path.clone(),
            Job::GetAll { path, reply },
            answer,
        )
        .await
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<(), StoreError> {
        let (reply, answer) = async_channel::bounded(1);
        let path = path.to_owned();
        let job = Job::Put {
            path: path.clone(),
            body,
            reply,
        };
        ask(&self.background, path, job, answer).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let (reply, answer) = async_channel::bounded(1);
        let prefix = prefix.to_owned();
        let job = Job::List {
            prefix: prefix.clone(),
            after: after.map(str::to_owned),
            reply,
        };
        ask(&self.background, prefix, job, answer).await
    }

    async fn list_first(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let (reply, answer) = async_channel::bounded(1);
        let prefix = prefix.to_owned();
        let job = Job::ListFirst {
            prefix: prefix.clone(),
            after: after.map(str::to_owned),
            count_max,
            reply,
        };
        ask(&self.background, prefix, job, answer).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let (reply, answer) = async_channel::bounded(1);
        let path = path.to_owned();
        let job = Job::Delete {
            path: path.clone(),
            reply,
        };
        ask(&self.background, path, job, answer).await
    }
}

/// The body of a ranged read through the store threads.
#[derive(Debug)]
pub struct StoreBody {
    path: Arc<str>,
    events: Pin<Box<Receiver<FetchEvent>>>,
    ended: bool,
}

impl StoreBody {
    fn new(path: Arc<str>, events: Receiver<FetchEvent>, ended: bool) -> StoreBody {
        StoreBody {
            path,
            events: Box::pin(events),
            ended,
        }
    }
}

impl Stream for StoreBody {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let body = &mut *self;
        while !body.ended {
            match ready!(body.events.as_mut().poll_next(cx)) {
                Some(FetchEvent::Chunk { bytes, .. }) => return Poll::Ready(Some(Ok(bytes))),
                Some(FetchEvent::Filled { .. } | FetchEvent::FillFailed { .. }) => {}
                Some(FetchEvent::Done) => body.ended = true,
                Some(FetchEvent::Failed(error)) => {
                    body.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    body.ended = true;
                    return Poll::Ready(Some(Err(stopped(&body.path))));
                }
            }
        }
        Poll::Ready(None)
    }
}

async fn ask<T>(
    queue: &Sender<Job>,
    path: String,
    job: Job,
    answer: Receiver<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    if queue.send(job).await.is_err() {
        return Err(stopped(&path));
    }
    answer.recv().await.unwrap_or_else(|_| Err(stopped(&path)))
}

fn stopped(path: &str) -> StoreError {
    StoreError::Unavailable {
        path: path.to_owned(),
        reason: "the store threads stopped, or this read was not consumed in time".to_owned(),
    }
}

/// Chunks of one [`StoreBody`] that may wait for its reader.
const BODY_CHUNKS_MAX: usize = 16;
