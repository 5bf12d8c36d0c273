//! What the store threads count. Counters are relaxed atomics, histograms are behind a lock held for
//! nanoseconds: one entry per request, and requests take milliseconds.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::objects::StoreError;

/// What was asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// A read, ranged or whole.
    Get,
    /// A put-if-absent.
    Put,
    /// A listing.
    List,
    /// A deletion.
    Delete,
}

impl RequestKind {
    /// All of them, in the order of [`StoreStatsSnapshot::requests`].
    pub const ALL: [RequestKind; 4] = [
        RequestKind::Get,
        RequestKind::Put,
        RequestKind::List,
        RequestKind::Delete,
    ];

    /// Its label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            RequestKind::Get => "get",
            RequestKind::Put => "put",
            RequestKind::List => "list",
            RequestKind::Delete => "delete",
        }
    }
}

/// How one request to the store ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered; for a read: its first byte came.
    Answered,
    /// No such object.
    NotFound,
    /// The name was taken.
    AlreadyExists,
    /// The body, or the object, was shorter than what was asked for.
    ShortBody,
    /// Refused for good.
    Refused,
    /// An error worth a retry.
    Unavailable,
    /// Given up: its deadline passed, its hedge was faster, or nobody waits any more.
    GivenUp,
}

impl Outcome {
    /// All of them, in the order of [`StoreStatsSnapshot::requests`].
    pub const ALL: [Outcome; 7] = [
        Outcome::Answered,
        Outcome::NotFound,
        Outcome::AlreadyExists,
        Outcome::ShortBody,
        Outcome::Refused,
        Outcome::Unavailable,
        Outcome::GivenUp,
    ];

    /// Its label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::NotFound => "not_found",
            Outcome::AlreadyExists => "already_exists",
            Outcome::ShortBody => "short_body",
            Outcome::Refused => "refused",
            Outcome::Unavailable => "unavailable",
            Outcome::GivenUp => "given_up",
        }
    }

    fn of<T>(result: &Result<T, StoreError>) -> Outcome {
        match result {
            Ok(_) => Outcome::Answered,
            Err(StoreError::NotFound { .. }) => Outcome::NotFound,
            Err(StoreError::AlreadyExists { .. }) => Outcome::AlreadyExists,
            Err(StoreError::Deadline { .. }) => Outcome::GivenUp,
            Err(StoreError::ShortBody { .. } | StoreError::Truncated { .. }) => Outcome::ShortBody,
            Err(StoreError::Refused { .. }) => Outcome::Refused,
            Err(StoreError::Unavailable { .. }) => Outcome::Unavailable,
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Default)]
        struct Counters {
            $($name: AtomicU64,)*
        }

        /// Plain counters, since the start.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct StoreCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl StoreCounters {
            /// Each counter's name and value.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }

        impl Counters {
            fn snapshot(&self) -> StoreCounters {
                StoreCounters { $($name: self.$name.load(Relaxed),)* }
            }
        }

        impl StoreStats {
            $(pub(super) fn $name(&self, count: u64) {
                self.counters.$name.fetch_add(count, Relaxed);
            })*
        }
    };
}

counters! {
    /// Bytes of bodies received.
    bytes_read,
    /// Bytes of objects put, once per successful put.
    bytes_written,
    /// Hedges sent.
    hedges_sent,
    /// Hedges that answered before the request they doubled.
    hedges_won,
    /// Hedges that were due but beyond their budget.
    hedges_over_budget,
    /// Attempts after the first.
    retries,
    /// Retries not made because the budget was used up.
    retries_over_budget,
    /// Bodies that were resumed at the first missing byte.
    bodies_resumed,
    /// First bytes that did not come in time.
    first_byte_deadlines,
    /// Bodies, writes, listings and deletions that did not end in time.
    body_deadlines,
    /// Puts found to be our own after an answer was lost.
    ambiguous_puts_ours,
    /// Fetches that went on without a receiver that was too slow.
    slow_receivers,
    /// Extents written to the cache.
    fills,
    /// Bytes of those, padding included.
    fill_bytes,
    /// Extents not cached for want of a buffer.
    fills_without_buffer,
    /// Extents not cached because their checksum failed.
    fills_bad_extent,
    /// Extents not cached because the disk refused.
    fills_disk_error,
}

/// Shared by clients and store threads.
#[derive(Debug)]
pub struct StoreStats {
    counters: Counters,
    requests: [[AtomicU64; Outcome::ALL.len()]; RequestKind::ALL.len()],
    in_flight: AtomicU64,
    latencies: Mutex<Latencies>,
}

#[derive(Debug, Clone)]
struct Latencies {
    first_byte_us: Histogram<u64>,
    read_us: Histogram<u64>,
    put_us: Histogram<u64>,
}

/// The state of the store threads at one moment; all counts since their start.
#[derive(Debug, Clone)]
pub struct StoreStatsSnapshot {
    /// Plain counters.
    pub counters: StoreCounters,
    /// Requests by [`RequestKind::ALL`] and [`Outcome::ALL`].
    pub requests: [[u64; Outcome::ALL.len()]; RequestKind::ALL.len()],
    /// Operations being served.
    pub in_flight: u64,
    /// Operations that wait for a place.
    pub queue_depth: usize,
    /// Request to first byte of a read, in microseconds, of attempts that got one.
    pub first_byte_us: Histogram<u64>,
    /// Request to last byte of a read, retries and waiting for its reader included, in microseconds.
    pub read_us: Histogram<u64>,
    /// Successful put-if-absent, retries included, in microseconds.
    pub put_us: Histogram<u64>,
}

impl StoreStatsSnapshot {
    /// Requests of one kind with one outcome.
    pub fn requests_of(&self, kind: RequestKind, outcome: Outcome) -> u64 {
        self.requests[kind as usize][outcome as usize]
    }

    /// Requests of one kind, whatever came of them.
    pub fn requests_of_kind(&self, kind: RequestKind) -> u64 {
        self.requests[kind as usize].iter().sum()
    }
}

impl Default for StoreStats {
    fn default() -> StoreStats {
        let histogram = || {
            Histogram::new_with_max(LATENCY_US_MAX, 2).expect("two digits up to an hour are valid")
        };
        StoreStats {
            counters: Counters::default(),
            requests: Default::default(),
            in_flight: AtomicU64::new(0),
            latencies: Mutex::new(Latencies {
                first_byte_us: histogram(),
                read_us: histogram(),
                put_us: histogram(),
            }),
        }
    }
}

impl StoreStats {
    pub(super) fn snapshot(&self, queue_depth: usize) -> StoreStatsSnapshot {
        let latencies = self.latencies().clone();
        StoreStatsSnapshot {
            counters: self.counters.snapshot(),
            requests: std::array::from_fn(|kind| {
                std::array::from_fn(|outcome| self.requests[kind][outcome].load(Relaxed))
            }),
            in_flight: self.in_flight.load(Relaxed),
            queue_depth,
            first_byte_us: latencies.first_byte_us,
            read_us: latencies.read_us,
            put_us: latencies.put_us,
        }
    }

    /// Runs one request and counts how it ends, also when it is dropped.
    pub(super) async fn counted<T>(
        &self,
        kind: RequestKind,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut count = CountOnDrop {
            slots: &self.requests[kind as usize],
            outcome: Outcome::GivenUp,
        };
        let result = request.await;
        count.outcome = Outcome::of(&result);
        result
    }

    /// Counts an operation as in flight until the guard is dropped.
    pub(super) fn enter(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(&self.in_flight)
    }

    pub(super) fn record_first_byte(&self, latency: Duration) {
        self.latencies()
            .first_byte_us
            .saturating_record(micros(latency));
    }

    pub(super) fn record_read(&self, latency: Duration) {
        self.latencies().read_us.saturating_record(micros(latency));
    }

    pub(super) fn record_put(&self, latency: Duration) {
        self.latencies().put_us.saturating_record(micros(latency));
    }

    fn latencies(&self) -> std::sync::MutexGuard<'_, Latencies> {
        // A histogram has no state in between that a panic could leave behind.
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts down when dropped.
pub(super) struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

struct CountOnDrop<'a> {
    slots: &'a [AtomicU64; Outcome::ALL.len()],
    outcome: Outcome,
}

impl Drop for CountOnDrop<'_> {
    fn drop(&mut self) {
        self.slots[self.outcome as usize].fetch_add(1, Relaxed);
    }
}

fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}

const LATENCY_US_MAX: u64 = 3_600_000_000;
