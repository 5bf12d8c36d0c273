//! Waking tasks of one core: an event that many tasks await, each for its own threshold.
//!
//! A fill that streams in calls [`Progress::advance`]; a waiter for the block that ends at byte n wakes when n
//! bytes are there, not at every chunk. Nothing here is shared between threads.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::planted::{PlantedBug, planted};

/// A number that only grows, and the tasks that wait for it to reach theirs.
#[derive(Default)]
pub(crate) struct Progress {
    reached: Cell<u64>,
    waiters: RefCell<Vec<(u64, Waker)>>,
}

impl Progress {
    /// Moves on to `to` and wakes whoever waited for that or less.
    pub(crate) fn advance(&self, to: u64) {
        assert!(to >= self.reached.get(), "progress never goes back");
        self.reached.set(to);
        let mut waiters = self.waiters.borrow_mut();
        let mut index = 0;
        while index < waiters.len() {
            if waiters[index].0 <= to {
                let (_, waiter) = waiters.swap_remove(index);
                if waiters.is_empty() || !planted(PlantedBug::WaiterForgotten) {
                    waiter.wake();
                }
            } else {
                index += 1;
            }
        }
    }

    /// The end: everyone wakes, and no one waits any more.
    pub(crate) fn finish(&self) {
        self.advance(u64::MAX);
    }

    /// Tasks that wait now.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.waiters.borrow().len()
    }

    /// Completes when `wanted` is reached. A dropped waiter leaves one waker behind, until then.
    pub(crate) async fn wait_for(&self, wanted: u64) {
        poll_fn(|cx| {
            if self.reached.get() >= wanted {
                return Poll::Ready(());
            }
            let mut waiters = self.waiters.borrow_mut();
            let known = waiters
                .iter()
                .rev()
                .take(4)
                .any(|(at, w)| *at == wanted && w.will_wake(cx.waker()));
            if !known {
                waiters.push((wanted, cx.waker().clone()));
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::rc::Rc;
    use std::task::Context;

    use futures_util::task::noop_waker;

    use super::*;

    #[test]
    fn a_waiter_wakes_at_its_threshold_and_not_before() {
        let progress = Rc::new(Progress::default());
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut early = pin!(progress.wait_for(10));
        let mut late = pin!(progress.wait_for(20));
        assert!(early.as_mut().poll(&mut cx).is_pending());
        assert!(late.as_mut().poll(&mut cx).is_pending());
        progress.advance(10);
        assert_eq!(progress.waiting(), 1);
        assert!(early.as_mut().poll(&mut cx).is_ready());
        assert!(late.as_mut().poll(&mut cx).is_pending());
        progress.finish();
        assert!(late.as_mut().poll(&mut cx).is_ready());
    }
}
