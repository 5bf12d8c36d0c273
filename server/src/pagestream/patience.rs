//! How long the server waits for a client, and how it stops waiting when it is told to end.
//!
//! One clock tick per core looks after all its connections: a wait on the hot path costs two stores, no timer. So
//! deadlines are met to a tick, which is fine for timeouts of a tenth of a second and more.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Time between two calls of [`Watch::tick`].
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Why a wait ended before what it waited for came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client took too long.
    TimedOut,
    /// The server stops.
    Draining,
}

/// All connections of one core.
#[derive(Debug, Default)]
pub(super) struct Watch {
    now: Cell<u64>,
    draining: Cell<bool>,
    connections: RefCell<Vec<Weak<Seat>>>,
}

impl Watch {
    /// Watches a new connection.
    pub(super) fn patience(self: &Rc<Self>) -> Patience {
        let seat = Rc::new(Seat::default());
        self.connections.borrow_mut().push(Rc::downgrade(&seat));
        Patience {
            watch: Rc::clone(self),
            seat,
        }
    }

    /// Moves time on by [`TICK`] and wakes those whose time is up.
    pub(super) fn tick(&self) {
        let now = self.now.get() + 1;
        self.now.set(now);
        self.connections.borrow_mut().retain(|seat| {
            let Some(seat) = seat.upgrade() else {
                return false;
            };
            if seat.deadline.get() <= now {
                seat.wake();
            }
            true
        });
    }

    /// From now on waits for clients end at once.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        let connections = self.connections.borrow();
        connections
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|seat| seat.wake());
    }

    /// Connections there are.
    pub(super) fn connections(&self) -> usize {
        let connections = self.connections.borrow();
        connections
            .iter()
            .filter(|seat| seat.strong_count() > 0)
            .count()
    }
}

/// One connection's waits.
#[derive(Debug)]
pub(super) struct Patience {
    watch: Rc<Watch>,
    seat: Rc<Seat>,
}

#[derive(Debug)]
struct Seat {
    /// The tick at which the current wait ends.
    deadline: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

impl Default for Seat {
    fn default() -> Self {
        Seat {
            deadline: Cell::new(NEVER),
            waker: RefCell::default(),
        }
    }
}

impl Seat {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// When a wait is over, to a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadline(u64);

impl Patience {
    /// The moment `limit` from now.
    pub(super) fn deadline(&self, limit: Duration) -> Deadline {
        Deadline(self.watch.now.get().saturating_add(ticks(limit)))
    }

    /// Whether `deadline` has passed.
    pub(super) fn is_past(&self, deadline: Deadline) -> bool {
        self.watch.now.get() >= deadline.0
    }

    /// Whether the server is ending.
    pub(super) fn draining(&self) -> bool {
        self.watch.draining.get()
    }

    /// Waits for what only the client can bring about: at most `limit`, and not while the server ends.
    pub(super) async fn idle<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Ended> {
        self.idle_until(self.deadline(limit), work).await
    }

    /// The same with a deadline that several waits share.
    pub(super) async fn idle_until<T>(
        &self,
        deadline: Deadline,
        work: impl Future<Output = T>,
    ) -> Result<T, Ended> {
        self.wait(deadline, true, work).await
    }

    /// Waits for the client to take an answer: at most `limit`.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Ended> {
        self.wait(self.deadline(limit), false, work).await
    }

    async fn wait<T>(
        &self,
        deadline: Deadline,
        ends_by_drain: bool,
        work: impl Future<Output = T>,
    ) -> Result<T, Ended> {
        self.seat.deadline.set(deadline.0);
        let mut work = pin!(work);
        let result = poll_fn(|cx| {
            if let Poll::Ready(value) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            if ends_by_drain && self.watch.draining.get() {
                return Poll::Ready(Err(Ended::Draining));
            }
            if self.is_past(deadline) {
                return Poll::Ready(Err(Ended::TimedOut));
            }
            let mut waker = self.seat.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
        self.seat.deadline.set(NEVER);
        result
    }
}

/// The current tick may be about to end, so one more.
fn ticks(limit: Duration) -> u64 {
    u64::try_from(limit.as_nanos().div_ceil(TICK.as_nanos())).map_or(NEVER, |t| t + 1)
}

const NEVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::task::Context;

    use futures_util::task::noop_waker;

    use super::*;

    #[test]
    fn a_wait_ends_after_its_limit_and_not_before() {
        let watch = Rc::new(Watch::default());
        let patience = watch.patience();
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut wait = pin!(patience.within(TICK * 3, pending::<()>()));
        assert!(wait.as_mut().poll(&mut cx).is_pending());
        for _ in 0..3 {
            watch.tick();
            assert!(wait.as_mut().poll(&mut cx).is_pending());
        }
        watch.tick();
        assert_eq!(
            wait.as_mut().poll(&mut cx),
            Poll::Ready(Err(Ended::TimedOut))
        );
    }

    #[test]
    fn waits_that_share_a_deadline_end_together() {
        let watch = Rc::new(Watch::default());
        let patience = watch.patience();
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let deadline = patience.deadline(TICK * 2);
        for _ in 0..2 {
            let mut wait = pin!(patience.idle_until(deadline, pending::<()>()));
            assert!(wait.as_mut().poll(&mut cx).is_pending());
            watch.tick();
        }
        assert!(!patience.is_past(deadline));
        watch.tick();
        assert!(patience.is_past(deadline));
        let mut wait = pin!(patience.idle_until(deadline, pending::<()>()));
        let ended = wait.as_mut().poll(&mut cx);
        assert_eq!(ended, Poll::Ready(Err(Ended::TimedOut)));
    }

    #[test]
    fn draining_ends_idle_waits_only() {
        let watch = Rc::new(Watch::default());
        let (idle, busy) = (watch.patience(), watch.patience());
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut idling = pin!(idle.idle(TICK * 100, pending::<()>()));
        let mut writing = pin!(busy.within(TICK * 100, pending::<()>()));
        assert!(idling.as_mut().poll(&mut cx).is_pending());
        assert!(writing.as_mut().poll(&mut cx).is_pending());
        watch.drain();
        assert_eq!(
            idling.as_mut().poll(&mut cx),
            Poll::Ready(Err(Ended::Draining))
        );
        assert!(writing.as_mut().poll(&mut cx).is_pending());
        assert_eq!(watch.connections(), 2);
    }

    #[test]
    fn what_is_there_already_is_taken_even_when_time_is_up() {
        let watch = Rc::new(Watch::default());
        let patience = watch.patience();
        watch.drain();
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut wait = pin!(patience.idle(Duration::ZERO, async { 7 }));
        assert_eq!(wait.as_mut().poll(&mut cx), Poll::Ready(Ok(7)));
    }
}
