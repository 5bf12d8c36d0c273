//! The threads under the store: tokio with a ring of its own, so that a miss is received and its extent written by
//! the same thread. Owns their start and their end; what they do is `store::worker`'s.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::{Either, select};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::clock::Clock;
use super::ring_thread::run_with_ring;
use super::tokio_clock::{TokioClock, TokioSpawner};
use super::tokio_uring_disk::TokioUringDisk;
use crate::store::client::{StoreClient, StoreQueues, queues};
use crate::store::config::StoreConfig;
use crate::store::objects::{Objects, StoreError};
use crate::store::worker::{self, WorkerParts};

/// Why the store threads did not start.
#[derive(Debug, thiserror::Error)]
pub enum StoreThreadError {
    /// The system gave no thread or no ring.
    #[error("store thread: {0}")]
    System(#[from] io::Error),
    /// The store cannot be set up.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The running store threads. Dropping it makes them drop what they are doing, without waiting for that;
/// [`StoreThreads::shutdown`] is the orderly end.
///
/// A task that panics ends its thread: the place it held and what it had promised to others are lost, and nobody can
/// tell what it left undone. [`StoreClient::has_lost_thread`] tells of it, as the engine does of a core.
#[derive(Debug)]
pub struct StoreThreads {
    client: StoreClient,
    threads: Vec<JoinHandle<()>>,
    clock: TokioClock,
    /// Closed to make the threads end at once.
    stop: async_channel::Sender<()>,
    ended: std::sync::mpsc::Receiver<()>,
}

impl StoreThreads {
    /// Starts `count` threads (at least one), each with its own connections: `connect` is called once on each, inside
    /// its runtime. Returns when all of them are ready. `clock` is the process's; `seed` is for the jitter of backoffs.
    /// # Errors
    /// The first that any thread met; the others are stopped.
    pub fn start<O: Objects>(
        count: usize,
        connect: impl Fn() -> Result<O, StoreError> + Send + Sync + 'static,
        config: &StoreConfig,
        clock: TokioClock,
        seed: u64,
    ) -> Result<StoreThreads, StoreThreadError> {
        assert!(count > 0, "at least one store thread");
        let (client, queues) = queues(config);
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let (ended_sender, ended) = std::sync::mpsc::sync_channel(count);
        let (ready_sender, ready) = std::sync::mpsc::sync_channel(count);
        let connect = Arc::new(connect);
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let (queues, stopped, config) = (queues.clone(), stopped.clone(), config.clone());
            let (connect, ready, ended) = (
                Arc::clone(&connect),
                ready_sender.clone(),
                ended_sender.clone(),
            );
            let random = ChaCha8Rng::seed_from_u64(seed.wrapping_add(index as u64));
            let lost = LostThread(client.clone(), queues.clone());
            let body = move || {
                let lost = lost;
                run_thread(
                    &ready,
                    || (*connect)(),
                    stopped,
                    |objects, spawner| {
                        let parts = WorkerParts {
                            objects,
                            clock,
                            spawner,
                            disk: TokioUringDisk,
                            random,
                        };
                        worker::run(queues, parts, config)
                    },
                );
                drop(lost);
                // Nobody may be waiting for the end.
                let _unheard = ended.try_send(());
            };
            let name = format!("store-{index}");
            threads.push(std::thread::Builder::new().name(name).spawn(body)?);
        }
        drop(ready_sender);
        let started = StoreThreads {
            client,
            threads,
            clock,
            stop,
            ended,
        };
        for _ in 0..count {
            let died = || Err(io::Error::other("it ended at its start").into());
            // On an error the threads that did start are stopped by the drop of `started`.
            ready.recv().unwrap_or_else(|_| died())?;
        }
        Ok(started)
    }

    /// A handle on them; cheap to clone.
    pub fn client(&self) -> StoreClient {
        self.client.clone()
    }

    /// Lets the threads finish what is queued, for at most `grace`, then makes them drop the rest. Returns whether
    /// all was finished.
    pub fn shutdown(mut self, grace: Duration) -> bool {
        self.client.close();
        // One timeout per thread would add up; the last one to end is the one that counts.
        let (clock, began) = (self.clock, self.clock.now());
        let left = || grace.saturating_sub(clock.now().since(began));
        let finished = (0..self.threads.len()).all(|_| self.ended.recv_timeout(left()).is_ok());
        self.stop.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ended = thread.join();
        }
        finished
    }
}

impl Drop for StoreThreads {
    fn drop(&mut self) {
        self.client.close();
    }
}

/// One thread: sets up the ring, connects, says so, and works until done or stopped.
fn run_thread<O, F: Future<Output = ()>>(
    ready: &std::sync::mpsc::SyncSender<Result<(), StoreThreadError>>,
    connect: impl FnOnce() -> Result<O, StoreError>,
    stopped: async_channel::Receiver<()>,
    work: impl FnOnce(O, TokioSpawner) -> F,
) {
    let ran = run_with_ring(RING_ENTRIES, async || {
        let objects = match connect() {
            Ok(objects) => objects,
            Err(error) => return drop(ready.try_send(Err(error.into()))),
        };
        drop(ready.try_send(Ok(())));
        let (spawner, panicked) = TokioSpawner::new();
        let work = std::pin::pin!(work(objects, spawner));
        let stop = std::pin::pin!(stopped.recv());
        let panicked = std::pin::pin!(panicked.recv());
        // A task's panic goes on here and takes the thread down. A channel that is closed is the work's end.
        if let Either::Right((Ok(message), _)) = select(select(work, stop), panicked).await {
            panic!("a task of this store thread panicked: {message}");
        }
    });
    if let Err(error) = ran {
        drop(ready.try_send(Err(error.into())));
    }
}

/// Tells of a thread that ends by a panic, and those who wait in the queues with it: nobody may be left to serve them.
struct LostThread(StoreClient, StoreQueues);

impl Drop for LostThread {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.note_lost_thread();
            self.1.discard();
        }
    }
}

/// Fills under way are bounded far below this by the buffers they need.
const RING_ENTRIES: u32 = 512;
