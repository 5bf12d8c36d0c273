//! [`Clock`] and [`Spawner`] on a tokio thread: the miss threads (tokio-uring runs tokio's local tasks) and tests.

use std::time::{Duration, Instant};

use super::clock::{Clock, Moment, Spawner};

/// The monotonic clock, seen from a tokio thread.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    origin: Instant,
}

impl TokioClock {
    /// A clock that counts from `origin`: the same for all threads of a process, so that moments compare.
    pub fn since(origin: Instant) -> TokioClock {
        TokioClock { origin }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Moment {
        Moment::default().after(self.origin.elapsed())
    }

    async fn sleep(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
    }
}

/// Starts tasks in the thread's `LocalSet`; panics where there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioSpawner;

impl Spawner for TokioSpawner {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        // The task goes on without its handle.
        drop(tokio::task::spawn_local(task));
    }
}
