//! Any store, with a given slowness and with faults from a seed or from a script. Which faults the engine must
//! survive is the list [`Fault`]. With [`FaultPlan::none`] it is the store it wraps; with a first-byte delay and a
//! bandwidth only, it is the distant store of benchmarks.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::objects::{ListedObject, Objects, StoreError};
use crate::io::clock::Clock;

/// What may go wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// `Unavailable`, and nothing happened.
    Error,
    /// The request takes [`FaultPlan::slow_delay`] longer.
    Slow,
    /// No answer, ever.
    Hang,
    /// A body ends before its range does. For other requests as `Error`.
    ShortBody,
    /// A body stops coming in the middle, without an end. For other requests as `Hang`.
    HangingBody,
    /// A body breaks with an error in the middle. For other requests as `Error`.
    BrokenBody,
    /// A bit of a body is flipped. Reads only; nothing happens to other requests.
    FlippedBit,
    /// A put is done, and its answer is `Unavailable`. For other requests as `Error`.
    LostAnswer,
    /// A put is done, and is never answered. For other requests as `Hang`.
    HangAfterPut,
}

impl Fault {
    /// All of them, in the order of [`FaultPlan::permille`] and [`Faulty::counts`].
    pub const ALL: [Fault; 9] = [
        Fault::Error,
        Fault::Slow,
        Fault::Hang,
        Fault::ShortBody,
        Fault::HangingBody,
        Fault::BrokenBody,
        Fault::FlippedBit,
        Fault::LostAnswer,
        Fault::HangAfterPut,
    ];
}

/// How slow and how faulty. The sum of `permille` is at most 1,000.
#[derive(Debug, Clone)]
pub struct FaultPlan {
    /// Faults per thousand requests, in the order of [`Fault::ALL`].
    pub permille: [u32; Fault::ALL.len()],
    /// Every request takes this long before it is answered (a read: before its first byte).
    pub first_byte_delay: Duration,
    /// Bodies come at this rate, each by itself; `None` is at once.
    pub bytes_per_second: Option<u64>,
    /// What [`Fault::Slow`] adds.
    pub slow_delay: Duration,
}

impl FaultPlan {
    /// Nothing goes wrong, nothing is slow.
    pub fn none() -> FaultPlan {
        FaultPlan {
            permille: [0; Fault::ALL.len()],
            first_byte_delay: Duration::ZERO,
            bytes_per_second: None,
            slow_delay: Duration::from_secs(1),
        }
    }

    /// A faultless store far away.
    pub fn distant(first_byte_delay: Duration, bytes_per_second: Option<u64>) -> FaultPlan {
        FaultPlan {
            first_byte_delay,
            bytes_per_second,
            ..FaultPlan::none()
        }
    }

    /// Every kind of fault equally often, `permille` each.
    pub fn even(permille: u32) -> FaultPlan {
        FaultPlan {
            permille: [permille; Fault::ALL.len()],
            ..FaultPlan::none()
        }
    }
}

/// A store with faults. Belongs to one thread; clones share plan, script and counts.
#[derive(Debug, Clone)]
pub struct Faulty<O, C> {
    objects: O,
    clock: C,
    shared: Rc<RefCell<Shared>>,
}

#[derive(Debug)]
struct Shared {
    plan: FaultPlan,
    script: VecDeque<Option<Fault>>,
    random: ChaCha8Rng,
    counts: [u64; Fault::ALL.len()],
    requests: u64,
}

impl<O: Objects, C: Clock> Faulty<O, C> {
    /// Wraps `objects`. The same seed, plan and sequence of requests has the same faults.
    pub fn new(objects: O, clock: C, plan: FaultPlan, seed: u64) -> Faulty<O, C> {
        assert!(
            plan.permille.iter().sum::<u32>() <= 1000,
            "faults are shares of a thousand"
        );
        Faulty {
            objects,
            clock,
            shared: Rc::new(RefCell::new(Shared {
                plan,
                script: VecDeque::new(),
                random: ChaCha8Rng::seed_from_u64(seed),
                counts: [0; Fault::ALL.len()],
                requests: 0,
            })),
        }
    }

    /// Changes the plan from the next request on.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.shared.borrow_mut().plan = plan;
    }

    /// What happens to the next requests, before the plan applies again; `None` is no fault.
    pub fn script(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.shared.borrow_mut().script.extend(faults);
    }

    /// How often each fault happened, in the order of [`Fault::ALL`].
    pub fn counts(&self) -> [u64; Fault::ALL.len()] {
        self.shared.borrow().counts
    }

    /// Requests so far, failed ones included.
    pub fn requests(&self) -> u64 {
        self.shared.borrow().requests
    }

    /// Draws the fault of one request and waits for its slowness.
    async fn arrive(&self, path: &str) -> Result<Option<Fault>, StoreError> {
        let (fault, delay) = self.shared.borrow_mut().draw();
        if !delay.is_zero() {
            self.clock.sleep(delay).await;
        }
        match fault {
            Some(Fault::Error) => Err(injected(path)),
            Some(Fault::Hang) => std::future::pending().await,
            other => Ok(other),
        }
    }

    /// [`Faulty::arrive`] for requests without a body and without a lasting effect of their own.
    async fn arrive_plain(&self, path: &str) -> Result<(), StoreError> {
        match self.arrive(path).await? {
            None | Some(Fault::Slow | Fault::FlippedBit) => Ok(()),
            Some(Fault::HangingBody | Fault::HangAfterPut | Fault::Hang) => {
                std::future::pending().await
            }
            Some(Fault::Error | Fault::ShortBody | Fault::BrokenBody | Fault::LostAnswer) => {
                Err(injected(path))
            }
        }
    }
}

impl Shared {
    fn draw(&mut self) -> (Option<Fault>, Duration) {
        self.requests += 1;
        let fault = match self.script.pop_front() {
            Some(scripted) => scripted,
            None => self.draw_from_plan(),
        };
        let mut delay = self.plan.first_byte_delay;
        if let Some(fault) = fault {
            self.counts[fault as usize] += 1;
            if fault == Fault::Slow {
                delay += self.plan.slow_delay;
            }
        }
        (fault, delay)
    }

    fn draw_from_plan(&mut self) -> Option<Fault> {
        let mut draw = self.random.next_u32() % 1000;
        for (fault, permille) in Fault::ALL.into_iter().zip(self.plan.permille) {
            if draw < permille {
                return Some(fault);
            }
            draw -= permille;
        }
        None
    }
}

/// A body under way: what its fault does to it, and where.
struct SlowBody<B, C> {
    body: B,
    clock: C,
    bytes_per_second: Option<u64>,
    fault: Option<Fault>,
    /// Bytes until the fault.
    until_fault: u64,
    ended: bool,
    path: String,
}

impl<B, C> SlowBody<B, C>
where
    B: Stream<Item = Result<Bytes, StoreError>> + Unpin,
    C: Clock,
{
    async fn next(&mut self) -> Option<Result<Bytes, StoreError>> {
        if self.ended {
            return None;
        }
        if self.until_fault == 0 {
            match self.fault {
                Some(Fault::ShortBody) => {
                    self.ended = true;
                    return None;
                }
                Some(Fault::BrokenBody) => {
                    self.ended = true;
                    return Some(Err(injected(&self.path)));
                }
                Some(Fault::HangingBody) => std::future::pending::<()>().await,
                _ => {}
            }
        }
        let mut chunk = match self.body.next().await? {
            Ok(chunk) => chunk,
            error => return Some(error),
        };
        let cut = usize::try_from(self.until_fault).unwrap_or(usize::MAX);
        match self.fault {
            Some(Fault::ShortBody | Fault::BrokenBody | Fault::HangingBody) => {
                chunk.truncate(cut);
                self.until_fault -= chunk.len() as u64;
            }
            Some(Fault::FlippedBit) if cut < chunk.len() => {
                let mut bytes = chunk.to_vec();
                bytes[cut] ^= 1 << (cut % 8);
                chunk = bytes.into();
                self.fault = None;
            }
            _ => self.until_fault = self.until_fault.saturating_sub(chunk.len() as u64),
        }
        if let Some(rate) = self.bytes_per_second {
            let nanos = (chunk.len() as u64).saturating_mul(1_000_000_000) / rate.max(1);
            self.clock.sleep(Duration::from_nanos(nanos)).await;
        }
        Some(Ok(chunk))
    }
}

impl<O: Objects, C: Clock> Objects for Faulty<O, C> {
    type Body = Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>>>>;

    async fn get(&self, path: &str, range: Range<u64>) -> Result<Self::Body, StoreError> {
        let fault = match self.arrive(path).await? {
            Some(Fault::LostAnswer) => return Err(injected(path)),
            Some(Fault::HangAfterPut) => std::future::pending().await,
            other => other,
        };
        let len_bytes = range.end.saturating_sub(range.start);
        let body = self.objects.get(path, range).await?;
        let mut shared = self.shared.borrow_mut();
        let state = SlowBody {
            body,
            clock: self.clock.clone(),
            bytes_per_second: shared.plan.bytes_per_second,
            fault,
            until_fault: shared.random.next_u64() % len_bytes.max(1),
            ended: false,
            path: path.to_owned(),
        };
        Ok(Box::pin(futures_util::stream::unfold(
            state,
            |mut state| async { state.next().await.map(|chunk| (chunk, state)) },
        )))
    }

    async fn get_all(&self, path: &str) -> Result<Bytes, StoreError> {
        let fault = self.arrive(path).await?;
        let body = self.objects.get_all(path).await?;
        let position = self.shared.borrow_mut().random.next_u64();
        match fault {
            None | Some(Fault::Slow) => Ok(body),
            Some(Fault::FlippedBit) => Ok(flip_bit(&body, position)),
            Some(Fault::ShortBody) => Err(StoreError::ShortBody {
                path: path.to_owned(),
                want_bytes: body.len() as u64,
                got_bytes: position % (body.len() as u64).max(1),
            }),
            Some(Fault::HangingBody | Fault::HangAfterPut | Fault::Hang) => {
                std::future::pending().await
            }
            Some(Fault::BrokenBody | Fault::LostAnswer | Fault::Error) => Err(injected(path)),
        }
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<(), StoreError> {
        match self.arrive(path).await? {
            None | Some(Fault::Slow | Fault::FlippedBit) => {
                self.objects.put_if_absent(path, body).await
            }
            Some(Fault::LostAnswer) => {
                self.objects.put_if_absent(path, body).await?;
                Err(injected(path))
            }
            Some(Fault::HangAfterPut) => {
                self.objects.put_if_absent(path, body).await?;
                std::future::pending().await
            }
            Some(Fault::HangingBody | Fault::Hang) => std::future::pending().await,
            Some(Fault::ShortBody | Fault::BrokenBody | Fault::Error) => Err(injected(path)),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<ListedObject>, StoreError> {
        self.arrive_plain(prefix).await?;
        self.objects.list(prefix, after).await
    }

    async fn list_first(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> Result<Vec<ListedObject>, StoreError> {
        self.arrive_plain(prefix).await?;
        self.objects.list_first(prefix, after, count_max).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.arrive_plain(path).await?;
        self.objects.delete(path).await
    }
}

fn flip_bit(body: &Bytes, position: u64) -> Bytes {
    let mut bytes = body.to_vec();
    if !bytes.is_empty() {
        let at = usize::try_from(position % (bytes.len() as u64)).expect("below a length");
        bytes[at] ^= 1 << (at % 8);
    }
    bytes.into()
}

fn injected(path: &str) -> StoreError {
    StoreError::Unavailable {
        path: path.to_owned(),
        reason: "injected fault".to_owned(),
    }
}
