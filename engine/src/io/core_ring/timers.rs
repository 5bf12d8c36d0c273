//! Sleepers of a core, in the order in which they are due. The driver wakes them; none has an operation of its own in the kernel.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::CoreRing;

#[derive(Default)]
pub(super) struct Timers {
    pub(super) by_due: BTreeMap<(Duration, u64), Waker>,
    next_number: u64,
}

/// The future of [`CoreRing::sleep`].
pub(in crate::io) struct Sleep {
    pub(super) ring: Rc<CoreRing>,
    /// Since the ring's origin.
    pub(super) due: Duration,
    pub(super) number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let ring = Rc::clone(&self.ring);
        let mut timers = ring.timers.borrow_mut();
        if let Some(number) = self.number {
            if let Some(waker) = timers.by_due.get_mut(&(self.due, number)) {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            self.number = None;
            return Poll::Ready(());
        }
        if ring.since_origin() >= self.due {
            return Poll::Ready(());
        }
        let number = timers.next_number;
        timers.next_number += 1;
        timers.by_due.insert((self.due, number), cx.waker().clone());
        self.number = Some(number);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.ring
                .timers
                .borrow_mut()
                .by_due
                .remove(&(self.due, number));
        }
    }
}
