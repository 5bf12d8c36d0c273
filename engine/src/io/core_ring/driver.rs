//! When the ring is entered.
//!
//! The driver is a task among the others, in glommio's one first-in-first-out queue. Each time it is its turn, all that
//! were ready have run since. It wakes those whose operations have completed; then
//!
//! - if any task has run or was woken since its last turn, it submits what they asked for, without waiting, and goes to the
//!   end of the queue. To hold entries back for others to join them saves calls and costs the device its work: at depth
//!   32, with reads held for two turns, the engine did 0.7 of the device's rate instead of 0.8;
//! - if not, nothing is left to do but to wait: one `io_uring_enter` submits, sleeps until the first completion (or ring
//!   of the bell, or timer), and brings the completions.
//!
//! Before it sleeps it may look for completions for a while (`spin`): a core that slept pays for waking up, and finds its
//! caches cold. It does so only while the device works for it, and only if the last wait for the device was no longer than
//! the spin may be: a slow device is waited for asleep.
//!
//! So glommio's loop, which enters its own rings several times per round, runs only when its preemption timer fires, ten
//! times a second, and when the core has had nothing to do for a while: what other code asks of glommio itself is
//! served then.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{CoreRing, bell, now};

/// Runs the core's ring until [`CoreRing::stop`]. Before it sleeps it spins for at most `spin`, if that is worth it.
pub(in crate::io) async fn drive(ring: Rc<CoreRing>, spin: Duration) {
    let mut driver = Driver {
        ring,
        spin,
        spin_pays: true,
        activity_seen: u64::MAX,
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
    /// Whether the last wait for the device ended within `spin`.
    spin_pays: bool,
    /// What tasks had done at the end of the last turn.
    activity_seen: u64,
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
                ring.enter(0, None);
            }
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let limit = next_due.map_or(IDLE_MAX, |due| due.min(IDLE_MAX));
        if self.wait(limit) >= IDLE_MAX {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits for a completion, the bell, or the end of `limit`; says how long that took.
    fn wait(&mut self, limit: Duration) -> Duration {
        let ring = &*self.ring;
        let began = ring.since_origin();
        let for_device = ring.device_works();
        let spin = if for_device && self.spin_pays {
            self.spin.min(limit)
        } else {
            Duration::ZERO
        };
        if !Self::spin_for_work(ring, spin) {
            let limit = limit.saturating_sub(ring.since_origin() - began);
            if ring.bell.lie_down() {
                ring.enter(1, Some(limit));
                ring.bell.get_up();
            }
        }
        let waited = ring.since_origin() - began;
        if for_device {
            self.spin_pays = waited <= self.spin;
        }
        waited
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

    /// Waits for `spin` at most without sleeping; says whether there is something to do.
    fn spin_for_work(ring: &CoreRing, spin: Duration) -> bool {
        if spin.is_zero() {
            return false;
        }
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
/// Completions taken in one turn: enough to share an enter among them, few enough that the device is not left idle
/// while their pages are opened.
const BATCH: usize = 8;
