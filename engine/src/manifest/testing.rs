//! Test doubles of this crate's manifest and catalog tests: a store that dies at a given put, and one that counts
//! dependent round trips.

use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;

use crate::store::memory::MemoryObjects;
use crate::store::objects::{ListedObject, Objects, StoreError};

/// Runs a future that waits for nothing but memory.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers")
        // The runtime is compiled once for all futures of the same output.
        .block_on(pin!(future) as Pin<&mut dyn Future<Output = T>>)
}

/// A store that goes away for good at the `n`-th put, having done that put or not.
#[derive(Clone)]
pub(crate) struct Dying {
    inner: MemoryObjects,
    puts_left: Arc<AtomicUsize>,
    last_put_happens: bool,
    dead: Arc<AtomicBool>,
}

impl Dying {
    pub(crate) fn at_put(inner: &MemoryObjects, puts: usize, last_put_happens: bool) -> Dying {
        Dying {
            inner: inner.clone(),
            puts_left: Arc::new(AtomicUsize::new(puts)),
            last_put_happens,
            dead: Arc::default(),
        }
    }

    pub(crate) fn died(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    fn alive(&self, path: &str) -> Result<(), StoreError> {
        if self.died() {
            Err(StoreError::Unavailable {
                path: path.to_owned(),
                reason: "gone".to_owned(),
            })
        } else {
            Ok(())
        }
    }
}

impl Objects for Dying {
    type Body = <MemoryObjects as Objects>::Body;

    async fn get(&self, path: &str, range: Range<u64>) -> Result<Self::Body, StoreError> {
        self.alive(path)?;
        self.inner.get(path, range).await
    }

    async fn get_all(&self, path: &str) -> Result<Bytes, StoreError> {
        self.alive(path)?;
        self.inner.get_all(path).await
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<(), StoreError> {
        self.alive(path)?;
        let left = self.puts_left.load(Ordering::Relaxed);
        if left > 0 {
            self.puts_left.store(left - 1, Ordering::Relaxed);
            return self.inner.put_if_absent(path, body).await;
        }
        if self.last_put_happens {
            self.inner.put_if_absent(path, body).await?;
        }
        self.dead.store(true, Ordering::Relaxed);
        self.alive(path)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<ListedObject>, StoreError> {
        self.alive(prefix)?;
        self.inner.list(prefix, after).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.alive(path)?;
        self.inner.delete(path).await
    }
}

/// A store in which every request takes one round, so that the rounds a future needs are its dependent round trips.
#[derive(Clone)]
pub(crate) struct Rounds {
    inner: MemoryObjects,
    clock: Arc<Mutex<RoundClock>>,
}

#[derive(Default)]
struct RoundClock {
    round: usize,
    requests: usize,
    waiting: Vec<Waker>,
}

impl Rounds {
    pub(crate) fn new(inner: &MemoryObjects) -> Rounds {
        Rounds {
            inner: inner.clone(),
            clock: Arc::default(),
        }
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.clock.lock().expect("no panic inside").requests
    }

    /// The future's output, and the rounds it took: the clock moves on only when nothing else can.
    pub(crate) fn count<T>(&self, future: impl Future<Output = T>) -> (T, usize) {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        let start = self.clock.lock().expect("no panic inside").round;
        loop {
            woken.0.store(false, Ordering::Relaxed);
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                let round = self.clock.lock().expect("no panic inside").round;
                return (output, round - start);
            }
            if !woken.0.load(Ordering::Relaxed) {
                let mut clock = self.clock.lock().expect("no panic inside");
                assert!(
                    !clock.waiting.is_empty(),
                    "waits for something but the store"
                );
                clock.round += 1;
                clock.waiting.drain(..).for_each(Waker::wake);
            }
        }
    }

    async fn round_trip(&self) {
        let asked = {
            let mut clock = self.clock.lock().expect("no panic inside");
            clock.requests += 1;
            clock.round
        };
        std::future::poll_fn(|context| {
            let mut clock = self.clock.lock().expect("no panic inside");
            if clock.round > asked {
                return Poll::Ready(());
            }
            clock.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Objects for Rounds {
    type Body = <MemoryObjects as Objects>::Body;

    async fn get(&self, path: &str, range: Range<u64>) -> Result<Self::Body, StoreError> {
        self.round_trip().await;
        self.inner.get(path, range).await
    }

    async fn get_all(&self, path: &str) -> Result<Bytes, StoreError> {
        self.round_trip().await;
        self.inner.get_all(path).await
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<(), StoreError> {
        self.round_trip().await;
        self.inner.put_if_absent(path, body).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<ListedObject>, StoreError> {
        self.round_trip().await;
        self.inner.list(prefix, after).await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.round_trip().await;
        self.inner.delete(path).await
    }
}
