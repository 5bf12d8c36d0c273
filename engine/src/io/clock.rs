//! Time as a value. Three implementations: a core's timers, a miss thread's timers, the simulator's clock.
#![expect(
    async_fn_in_trait,
    reason = "the futures stay on the thread that made them: nobody needs them to be Send"
)]

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::planted::{PlantedBug, planted};

/// A moment on a monotonic clock: nanoseconds since the process (or the simulation) started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// How long after `earlier`; zero if it is not after.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment moved on by `wait`; saturates.
    pub fn after(self, wait: Duration) -> Moment {
        Moment(
            self.0
                .saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// A monotonic clock that can also wait. Belongs to one thread.
pub trait Clock: Clone + 'static {
    /// Now.
    fn now(&self) -> Moment;

    /// Completes after `wait`, not before. Dropping it cancels the wait.
    async fn sleep(&self, wait: Duration);
}

/// Starts tasks on the executor of this thread.
pub trait Spawner: Clone + 'static {
    /// Runs `task` in the background until it ends or the executor does.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
}

/// The output of `future`, or `None` after `wait`; the future is not dropped by a reference to it.
pub(crate) async fn within<F: Future>(
    clock: &impl Clock,
    wait: Duration,
    future: F,
) -> Option<F::Output> {
    let wait = if planted(PlantedBug::DeadlineForgotten) {
        Duration::MAX
    } else {
        wait
    };
    match select(pin!(future), pin!(clock.sleep(wait))).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}
