//! When the ring is entered.
//!
//! The driver is a task among the others, in glommio's one first-in-first-out queue. Each time it is its turn, all that
//! were ready have run since. It wakes those whose operations have completed; then
//!
//! - if any task has run or was woken since its last turn, it goes to the end of the queue: more may follow, and be
//!   submitted together. After a few such turns it submits what there is, without waiting;
//! - if not, nothing is left to do but to wait: one `io_uring_enter` submits, sleeps until the first completion (or ring
//!   of the bell, or timer), and brings the completions.
//!
//! So glommio's loop, which enters its own rings several times per round, runs only when its preemption timer fires, ten
//! times a second, and when the core has had nothing to do for a while: what other code asks of glommio itself is
//! served then.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{CoreRing, bell, now};

/// Runs the core's ring until [`CoreRing::stop`]. Before it sleeps it spins for `spin`, if operations are under way.
pub(in crate::io) async fn drive(ring: Rc<CoreRing>, spin: Duration) {
    let mut driver = Driver {
        ring,
        spin,
        activity_seen: u64::MAX,
        turns_held: 0,
    };
    loop {
        poll_fn(|cx| driver.turn(cx)).await;
        if driver.ring.stopped.get() {
            return;
        }
        glommio::timer::sleep(GLOMMIO_TURN).await;
    }
}

struct Driver {
    ring: Rc<CoreRing>,
    spin: Duration,
    /// What tasks had done at the end of the last turn.
    activity_seen: u64,
    /// Turns since entries are waiting to be submitted.
    turns_held: u32,
}

impl Driver {
    /// One turn; ready when glommio should have one.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ring = &*self.ring;
        if ring.stopped.get() {
            return Poll::Ready(());
        }
        let mut woke = Self::land(ring) | ring.bell.wake_tasks();
        let (due, next_due) = ring.wake_sleepers();
        woke |= due;
        let ran = std::mem::replace(&mut self.activity_seen, bell::activity()) != bell::activity();
        if woke || ran {
            if ring.queued() > 0 || ring.has_deferred() {
                self.turns_held += 1;
                if self.turns_held > TURNS_HELD_MAX {
                    self.turns_held = 0;
                    ring.enter(0, None);
                }
            }
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.turns_held = 0;
        let began = ring.since_origin();
        let limit = next_due.map_or(IDLE_MAX, |due| due.min(IDLE_MAX));
        if !self.spin_for_work(limit) {
            let limit = limit.saturating_sub(ring.since_origin() - began);
            if ring.bell.lie_down() {
                ring.enter(1, Some(limit));
                ring.bell.get_up();
            }
            if ring.since_origin() - began >= IDLE_MAX {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes completions, as many as make a good batch; says whether there were any.
    fn land(ring: &CoreRing) -> bool {
        let mut any = false;
        for _ in 0..BATCH {
            if !ring.land_one() {
                break;
            }
            any = true;
        }
        any
    }

    /// Waits a little without sleeping, no longer than `limit`; says whether there is something to do.
    fn spin_for_work(&self, limit: Duration) -> bool {
        let ring = &*self.ring;
        if self.spin.is_zero() || !ring.is_busy() {
            return false;
        }
        let spin = self.spin.min(limit);
        if ring.queued() > 0 {
            ring.enter(0, None);
        }
        let began = now();
        loop {
            if ring.has_completions() || ring.bell.is_awaited() {
                return true;
            }
            if ring.has_deferred() {
                ring.enter(0, None);
                return true;
            }
            if began.elapsed() >= spin {
                return false;
            }
            std::hint::spin_loop();
        }
    }
}

/// Longest sleep before glommio has its turn.
const IDLE_MAX: Duration = Duration::from_millis(100);
/// How long glommio has then. A shorter sleep would be over before it is first asked, so that nobody else would run.
const GLOMMIO_TURN: Duration = Duration::from_micros(50);
/// Turns for which entries may wait for others to be submitted with. A page that was asked for takes two: the connection's
/// and the reader's.
const TURNS_HELD_MAX: u32 = 2;
/// Completions taken in one turn: enough to share an enter among them, few enough that the device is not left idle
/// while their pages are opened.
const BATCH: usize = 16;
