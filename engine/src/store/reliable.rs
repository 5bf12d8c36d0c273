//! Deadlines, bounded retries and hedges over a bare [`Objects`], as an [`Objects`] again. What each operation is
//! allowed to cost is stated in [`StoreConfig`]; nothing waits without a deadline, nothing is repeated without a
//! bound.
//!
//! | operation | deadline per attempt | hedged | repeated after |
//! | --- | --- | --- | --- |
//! | read | first byte; then the whole body | once, at the live p95 | anything transient, from the first missing byte |
//! | put-if-absent | whole | never | anything transient; then `AlreadyExists` is read back and compared |
//! | list, delete | whole | never | anything transient |
//!
//! Transient are `Deadline`, `ShortBody` and `Unavailable`; an object that is itself too short (`Truncated`) stays so. Retries come from the thread's `RetryBudget` and wait
//! an exponential backoff with full jitter.
//!
//! **Ambiguous puts.** A put whose answer was lost may have created the object. So its repetition may be told
//! `AlreadyExists` by its own first attempt: the object is read back, and if it is byte for byte ours, the put
//! succeeded. Two writers never put the same bytes (bodies are sealed under fresh keys, or carry a random mark), so
//! equal bytes are our bytes. If all attempts fail, the caller gets the transient error and must read the object to
//! learn what holds.

use std::cell::RefCell;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt};
use rand_core::RngCore;

use super::config::StoreConfig;
use super::hedge::HedgePolicy;
use super::miss_stream::MissStream;
use super::objects::{ListedObject, Objects, StoreError};
use super::retry_budget::RetryBudget;
use super::stats::{RequestKind, StoreStats};
use crate::io::clock::{Clock, Moment, within};

/// An [`Objects`] that keeps deadlines, retries and hedges. Belongs to one thread; clones share budgets.
#[derive(Debug)]
pub struct Reliable<O, C, R> {
    shared: Rc<Shared<O, C, R>>,
}

#[derive(Debug)]
struct Shared<O, C, R> {
    objects: O,
    clock: C,
    random: RefCell<R>,
    config: StoreConfig,
    stats: Arc<StoreStats>,
    retries: RefCell<RetryBudget>,
    hedge: RefCell<HedgePolicy>,
}

/// Attempts of one operation so far.
#[derive(Debug)]
pub(super) struct Attempts {
    count: u32,
    progress_at: Moment,
}

impl Attempts {
    /// Bytes came: the operation's deadline starts anew, its count of attempts does not.
    pub(super) fn progressed(&mut self, now: Moment) {
        self.progress_at = now;
    }
}

/// An answered read: its first bytes and what follows.
pub(super) struct Opened<B> {
    pub(super) first: Bytes,
    pub(super) rest: B,
}

impl<O, C, R> Clone for Reliable<O, C, R> {
    fn clone(&self) -> Self {
        Reliable {
            shared: Rc::clone(&self.shared),
        }
    }
}

impl<O: Objects, C: Clock, R: RngCore + 'static> Reliable<O, C, R> {
    /// Wraps `objects`. `random` is used for jitter only. Counts into `stats`.
    pub fn new(
        objects: O,
        clock: C,
        random: R,
        config: StoreConfig,
        stats: Arc<StoreStats>,
    ) -> Self {
        let retries = RefCell::new(RetryBudget::new(config.retry_budget_max));
        let hedge = RefCell::new(HedgePolicy::new(
            config.hedge_percent_max,
            config.hedge_delay_min,
        ));
        Reliable {
            shared: Rc::new(Shared {
                objects,
                clock,
                random: RefCell::new(random),
                config,
                stats,
                retries,
                hedge,
            }),
        }
    }

    pub(super) fn clock(&self) -> &C {
        &self.shared.clock
    }

    pub(super) fn config(&self) -> &StoreConfig {
        &self.shared.config
    }

    pub(super) fn stats(&self) -> &StoreStats {
        &self.shared.stats
    }

    /// A fresh count, its first attempt included.
    pub(super) fn first_attempt(&self) -> Attempts {
        Attempts {
            count: 1,
            progress_at: self.clock().now(),
        }
    }

    /// An operation ended well.
    pub(super) fn succeeded(&self) {
        self.shared.retries.borrow_mut().give_back();
    }

    /// Decides about an attempt that ended in `error`: waits and returns if another one may be made, else gives the
    /// error back.
    pub(super) async fn again(
        &self,
        attempts: &mut Attempts,
        error: StoreError,
    ) -> Result<(), StoreError> {
        let config = self.config();
        let backoff = self.backoff(attempts.count);
        let late = self
            .clock()
            .now()
            .after(backoff)
            .since(attempts.progress_at)
            > config.operation_deadline;
        if !is_transient(&error) || attempts.count >= config.attempts_max || late {
            return Err(error);
        }
        if !self.shared.retries.borrow_mut().take() {
            self.stats().retries_over_budget(1);
            return Err(error);
        }
        tracing::debug!(%error, attempt = attempts.count, ?backoff, "store request is repeated");
        attempts.count += 1;
        self.stats().retries(1);
        self.clock().sleep(backoff).await;
        Ok(())
    }

    /// One attempt of a ranged read, up to its first bytes; hedged.
    pub(super) async fn open(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> Result<Opened<O::Body>, StoreError> {
        let shared = &*self.shared;
        self.hedged(path, || {
            shared.stats.counted(RequestKind::Get, async {
                let mut rest = shared.objects.get(path, range.clone()).await?;
                while let Some(first) = rest.next().await.transpose()? {
                    if !first.is_empty() {
                        return Ok(Opened { first, rest });
                    }
                }
                Err(StoreError::ShortBody {
                    path: path.to_owned(),
                    want_bytes: range.end - range.start,
                    got_bytes: 0,
                })
            })
        })
        .await
    }

    /// Runs a read to its first answer within the deadline, doubled once if it is slow and the budget allows.
    async fn hedged<T, F>(&self, path: &str, start: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let shared = &*self.shared;
        let began = shared.clock.now();
        let deadline = shared.config.first_byte_deadline;
        let left = || deadline.saturating_sub(shared.clock.now().since(began));
        let delay = shared.hedge.borrow_mut().on_request();

        let mut primary = pin!(start());
        if let Some(delay) = delay.filter(|delay| *delay < deadline) {
            if let Some(result) = within(&shared.clock, delay, primary.as_mut()).await {
                self.answered(began, result.is_ok());
                return result;
            }
            if shared.hedge.borrow_mut().take() {
                shared.stats.hedges_sent(1);
                let hedge_began = shared.clock.now();
                let hedge = pin!(start());
                let race = race(primary, hedge);
                let Some((result, hedge_won)) = within(&shared.clock, left(), race).await else {
                    return Err(self.no_first_byte(path, began));
                };
                if hedge_won {
                    shared.stats.hedges_won(1);
                    let now = shared.clock.now();
                    // What the slower one had waited by then: see `hedge`.
                    shared.hedge.borrow_mut().record(now, now.since(began));
                    self.answered(hedge_began, result.is_ok());
                } else {
                    self.answered(began, result.is_ok());
                }
                return result;
            }
            shared.stats.hedges_over_budget(1);
        }
        let Some(result) = within(&shared.clock, left(), primary).await else {
            return Err(self.no_first_byte(path, began));
        };
        self.answered(began, result.is_ok());
        result
    }

    fn answered(&self, began: Moment, well: bool) {
        if well {
            let now = self.clock().now();
            let latency = now.since(began);
            self.shared.hedge.borrow_mut().record(now, latency);
            self.stats().record_first_byte(latency);
        }
    }

    fn no_first_byte(&self, path: &str, began: Moment) -> StoreError {
        let now = self.clock().now();
        self.shared.hedge.borrow_mut().record(now, now.since(began));
        self.stats().first_byte_deadlines(1);
        StoreError::Deadline {
            path: path.to_owned(),
            after: self.config().first_byte_deadline,
        }
    }

    /// An attempt without a body to stream, within `deadline`.
    async fn whole<T>(
        &self,
        kind: RequestKind,
        path: &str,
        deadline: Duration,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let counted = self.stats().counted(kind, request);
        match within(self.clock(), deadline, counted).await {
            Some(result) => result,
            None => {
                self.stats().body_deadlines(1);
                Err(StoreError::Deadline {
                    path: path.to_owned(),
                    after: deadline,
                })
            }
        }
    }

    /// Whether the object is byte for byte `body`.
    async fn holds(&self, path: &str, body: &Bytes) -> Result<bool, StoreError> {
        let len_bytes = body.len() as u64;
        let compare = async { Ok(self.shared.objects.get_all(path).await? == *body) };
        let deadline = self.config().body_deadline + self.transfer_allowance(len_bytes);
        self.whole(RequestKind::Get, path, deadline, compare).await
    }

    /// How long `len_bytes` may take on the slowest link that is not called late.
    pub(super) fn transfer_allowance(&self, len_bytes: u64) -> Duration {
        let millis = len_bytes.saturating_mul(1000) / self.config().slowest_bytes_per_second;
        Duration::from_millis(millis)
    }

    /// Exponential in the number of attempts, with full jitter: anything from nothing to the whole.
    fn backoff(&self, attempts: u32) -> Duration {
        let config = self.config();
        let doubled = 1_u32.checked_shl(attempts - 1).unwrap_or(u32::MAX);
        let whole = config
            .backoff_first
            .saturating_mul(doubled)
            .min(config.backoff_max);
        let share = f64::from(self.shared.random.borrow_mut().next_u32()) / f64::from(u32::MAX);
        whole.mul_f64(share)
    }
}

impl<O: Objects, C: Clock, R: RngCore + 'static> Objects for Reliable<O, C, R> {
    type Body = Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>>>>;

    /// Returns with the first bytes at hand. The body resumes at the first missing byte when it breaks off.
    async fn get(&self, path: &str, range: Range<u64>) -> Result<Self::Body, StoreError> {
        if range.is_empty() {
            return Ok(Box::pin(futures_util::stream::empty()));
        }
        let mut stream = MissStream::new(self.clone(), path.into(), range);
        stream.open().await?;
        Ok(stream.into_chunks())
    }

    /// Small objects: the first-byte deadline applies to all of it.
    async fn get_all(&self, path: &str) -> Result<Bytes, StoreError> {
        let began = self.clock().now();
        let mut attempts = self.first_attempt();
        loop {
            let start = || {
                let request = self.shared.objects.get_all(path);
                self.stats().counted(RequestKind::Get, request)
            };
            match self.hedged(path, start).await {
                Ok(body) => {
                    self.succeeded();
                    self.stats().bytes_read(body.len() as u64);
                    self.stats().record_read(self.clock().now().since(began));
                    return Ok(body);
                }
                Err(error) => self.again(&mut attempts, error).await?,
            }
        }
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<(), StoreError> {
        let began = self.clock().now();
        let deadline = self.config().write_deadline + self.transfer_allowance(body.len() as u64);
        let mut attempts = self.first_attempt();
        let mut may_be_ours = false;
        loop {
            let put = self.shared.objects.put_if_absent(path, body.clone());
            let put = self.whole(RequestKind::Put, path, deadline, put).await;
            let error = match put {
                Ok(()) => break,
                Err(taken @ StoreError::AlreadyExists { .. }) if may_be_ours => {
                    match self.holds(path, &body).await {
                        Ok(true) => {
                            self.stats().ambiguous_puts_ours(1);
                            break;
                        }
                        Ok(false) => return Err(taken),
                        // The store answered a conflict while the first attempt was still under way.
                        Err(StoreError::NotFound { path }) => StoreError::Unavailable {
                            path,
                            reason: "said to exist, but is not there".to_owned(),
                        },
                        Err(error) => error,
                    }
                }
                Err(error) => {
                    may_be_ours |= is_transient(&error);
                    error
                }
            };
            self.again(&mut attempts, error).await?;
        }
        self.succeeded();
        self.stats().bytes_written(body.len() as u64);
        self.stats().record_put(self.clock().now().since(began));
        Ok(())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let deadline = self.config().write_deadline;
        let mut attempts = self.first_attempt();
        loop {
            let list = self.shared.objects.list(prefix, after);
            match self.whole(RequestKind::List, prefix, deadline, list).await {
                Ok(listed) => {
                    self.succeeded();
                    return Ok(listed);
                }
                Err(error) => self.again(&mut attempts, error).await?,
            }
        }
    }

    async fn list_first(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let deadline = self.config().write_deadline;
        let mut attempts = self.first_attempt();
        loop {
            let list = self.shared.objects.list_first(prefix, after, count_max);
            match self.whole(RequestKind::List, prefix, deadline, list).await {
                Ok(listed) => {
                    self.succeeded();
                    return Ok(listed);
                }
                Err(error) => self.again(&mut attempts, error).await?,
            }
        }
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let deadline = self.config().write_deadline;
        let mut attempts = self.first_attempt();
        loop {
            let delete = self.shared.objects.delete(path);
            match self
                .whole(RequestKind::Delete, path, deadline, delete)
                .await
            {
                Ok(()) => {
                    self.succeeded();
                    return Ok(());
                }
                Err(error) => self.again(&mut attempts, error).await?,
            }
        }
    }
}

/// Whether the same request may succeed later.
pub(super) fn is_transient(error: &StoreError) -> bool {
    match error {
        StoreError::Deadline { .. }
        | StoreError::ShortBody { .. }
        | StoreError::Unavailable { .. } => true,
        StoreError::NotFound { .. }
        | StoreError::AlreadyExists { .. }
        | StoreError::Truncated { .. }
        | StoreError::Refused { .. } => false,
    }
}

/// The first answer of two identical requests, and whether it is the second's. A transient error of one waits for
/// the other.
async fn race<T>(
    primary: Pin<&mut impl Future<Output = Result<T, StoreError>>>,
    hedge: Pin<&mut impl Future<Output = Result<T, StoreError>>>,
) -> (Result<T, StoreError>, bool) {
    match select(primary, hedge).await {
        Either::Left((Err(error), hedge)) if is_transient(&error) => (hedge.await, true),
        Either::Left((result, _)) => (result, false),
        Either::Right((Err(error), primary)) if is_transient(&error) => (primary.await, false),
        Either::Right((result, _)) => (result, true),
    }
}

#[cfg(test)]
mod tests;
