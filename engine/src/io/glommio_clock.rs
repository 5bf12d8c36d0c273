//! [`Clock`] and [`Spawner`] on a core: a glommio executor with a ring of ours.
//!
//! Reading the clock makes no system call (vDSO). A sleep is an entry in the ring's list of timers; the core's wait for
//! completions ends when the earliest is due.

use std::time::{Duration, Instant};

use super::clock::{Clock, Moment, Spawner};
use super::core_ring::{CoreRing, kept, tracked};

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
        sleep_on_core(wait).await;
    }
}

/// Starts tasks on this core, all in one queue: the core's driver has to see them all.
#[derive(Clone, Copy, Debug, Default)]
pub struct GlommioSpawner;

impl Spawner for GlommioSpawner {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        glommio::spawn_local(kept(tracked(task))).detach();
    }
}

/// Starts a task on this core; dropping or cancelling what it returns ends the task.
/// # Panics
/// On a thread that runs no core.
pub fn spawn_on_core<T: 'static>(task: impl Future<Output = T> + 'static) -> glommio::Task<T> {
    glommio::spawn_local(kept(tracked(task)))
}

/// Completes after `wait`, on the ring of this core.
/// # Panics
/// On a thread that runs no core.
pub async fn sleep_on_core(wait: Duration) {
    CoreRing::current().sleep(wait).await;
}
