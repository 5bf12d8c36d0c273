//! [`Clock`] and [`Spawner`] on a glommio executor.
//!
//! Reading the clock makes no system call (vDSO). A sleep is an entry in the executor's timer wheel, one
//! allocation; the ring carries one timeout for the earliest.

use std::time::{Duration, Instant};

use glommio::TaskQueueHandle;

use super::clock::{Clock, Moment, Spawner};

/// The monotonic clock, seen from a core.
#[derive(Clone, Copy, Debug)]
pub struct GlommioClock {
    origin: Instant,
}

impl GlommioClock {
    /// A clock that counts from `origin`: the same for all threads of a process, so that moments compare.
    pub fn since(origin: Instant) -> GlommioClock {
        GlommioClock { origin }
    }
}

impl Clock for GlommioClock {
    fn now(&self) -> Moment {
        Moment::default().after(self.origin.elapsed())
    }

    async fn sleep(&self, wait: Duration) {
        glommio::timer::sleep(wait).await;
    }
}

/// Starts tasks in one task queue of the executor: in the queue of the caller, or in the background one.
#[derive(Clone, Copy, Debug)]
pub struct GlommioSpawner {
    queue: Option<TaskQueueHandle>,
}

impl GlommioSpawner {
    /// Tasks share the queue of whoever spawns them.
    pub fn foreground() -> GlommioSpawner {
        GlommioSpawner { queue: None }
    }

    /// Tasks go to a queue of their own with a tenth of the shares of the default one, so that they yield to reads. To be
    /// called on the executor, once.
    pub fn background() -> GlommioSpawner {
        let queue = glommio::executor().create_task_queue(
            glommio::Shares::Static(BACKGROUND_SHARES),
            glommio::Latency::NotImportant,
            "background",
        );
        GlommioSpawner { queue: Some(queue) }
    }
}

impl Spawner for GlommioSpawner {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        match self.queue {
            None => {
                glommio::spawn_local(task).detach();
            }
            Some(queue) => {
                glommio::spawn_local_into(task, queue)
                    .expect("task queues live as long as their executor")
                    .detach();
            }
        }
    }
}

/// The default queue has 1,000.
const BACKGROUND_SHARES: usize = 100;
