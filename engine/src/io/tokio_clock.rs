//! [`Clock`] and [`Spawner`] on a tokio thread: the miss threads (tokio-uring runs tokio's local tasks) and tests.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use futures_util::FutureExt;

use super::clock::{Clock, Moment, Spawner};
use super::executor::panic_message;

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
///
/// The runtime keeps a task's panic to itself. So whoever made the spawner holds the other end of `panicked`, which gets
/// the message of the first one, and decides what becomes of the thread.
#[derive(Clone, Debug)]
pub struct TokioSpawner {
    panicked: Sender<String>,
}

impl TokioSpawner {
    /// A spawner, and the end that hears of the first task that panics. It never closes while the spawner or a task of
    /// it is there.
    pub fn new() -> (TokioSpawner, Receiver<String>) {
        let (panicked, heard) = async_channel::bounded(1);
        (TokioSpawner { panicked }, heard)
    }
}

impl Spawner for TokioSpawner {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let panicked = self.panicked.clone();
        // Nothing of the task is looked at after its panic but the message.
        let task = AssertUnwindSafe(task).catch_unwind();
        // The task goes on without its handle.
        drop(tokio::task::spawn_local(async move {
            if let Err(panic) = task.await {
                // The first one is told; it is full then.
                let _ = panicked.try_send(panic_message(&*panic));
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_panic_of_a_task_is_heard_of() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let local = tokio::task::LocalSet::new();
        let message = local.block_on(&runtime.expect("runtime"), async {
            let (spawner, heard) = TokioSpawner::new();
            spawner.spawn(async {});
            spawner.spawn(async { panic!("on purpose") });
            heard.recv().await
        });
        assert_eq!(message.as_deref(), Ok("on purpose"));
    }
}
