//! Waking a core's tasks from other threads, and seeing whether its tasks have run or are to run.
//!
//! A task of a core is polled with a waker of ours around glommio's. Woken on its own core, it wakes glommio's at once.
//! Woken elsewhere, it queues itself at the core's bell; the core's driver takes it from there. Only when the core
//! sleeps does that cost a system call, and only the first time.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use super::CoreRing;
use async_channel::{Receiver, Sender, TrySendError};

thread_local! {
    /// The bell of the core that runs on this thread.
    static HOME: Cell<*const Bell> = const { Cell::new(std::ptr::null()) };
    /// Polls and wakes of tracked tasks on this thread.
    static ACTIVITY: Cell<u64> = const { Cell::new(0) };
}

/// A core's bell.
pub(super) struct Bell {
    sleeping: AtomicBool,
    eventfd: OwnedFd,
    /// Tasks woken elsewhere; each at most once.
    woken: (Sender<Arc<TaskWaker>>, Receiver<Arc<TaskWaker>>),
    /// Those for which there was no room.
    spilled: Mutex<Vec<Arc<TaskWaker>>>,
    has_spilled: AtomicBool,
}

impl Bell {
    /// The bell of this thread.
    pub(super) fn hang() -> io::Result<Arc<Bell>> {
        // SAFETY: the call takes numbers only.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it has just been made, for us.
        let eventfd = unsafe { OwnedFd::from_raw_fd(raw) };
        let bell = Arc::new(Bell {
            sleeping: AtomicBool::new(false),
            eventfd,
            woken: async_channel::bounded(WOKEN_MAX),
            spilled: Mutex::default(),
            has_spilled: AtomicBool::new(false),
        });
        HOME.set(Arc::as_ptr(&bell));
        Ok(bell)
    }

    pub(super) fn eventfd(&self) -> &OwnedFd {
        &self.eventfd
    }

    /// Says that the core is about to sleep. If that returns false, it must not: somebody has been woken.
    pub(super) fn lie_down(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        // Pairs with the one in `ring`: either we see what was queued, or its sender sees that we sleep.
        fence(Ordering::SeqCst);
        if self.is_awaited() {
            self.get_up();
            return false;
        }
        true
    }

    pub(super) fn get_up(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Whether tasks were woken elsewhere that have not been told yet.
    pub(super) fn is_awaited(&self) -> bool {
        !self.woken.1.is_empty() || self.has_spilled.load(Ordering::Acquire)
    }

    /// Wakes those tasks; says whether there were any.
    pub(super) fn wake_tasks(&self) -> bool {
        let mut any = false;
        while let Ok(task) = self.woken.1.try_recv() {
            task.wake_at_home();
            any = true;
        }
        if self.has_spilled.load(Ordering::Acquire) {
            let mut spilled = self.spilled.lock().unwrap_or_else(PoisonError::into_inner);
            self.has_spilled.store(false, Ordering::Release);
            for task in spilled.drain(..) {
                task.wake_at_home();
                any = true;
            }
        }
        any
    }

    fn queue(&self, task: Arc<TaskWaker>) {
        match self.woken.0.try_send(task) {
            Ok(()) => {}
            Err(TrySendError::Full(task) | TrySendError::Closed(task)) => {
                let mut spilled = self.spilled.lock().unwrap_or_else(PoisonError::into_inner);
                spilled.push(task);
                self.has_spilled.store(true, Ordering::Release);
            }
        }
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            // It blocks only after 2^64 rings that nobody heard, and fails for no reason that could be handled here.
            let _ = rustix::io::write(&self.eventfd, &1u64.to_le_bytes());
        }
    }
}

/// The waker of a tracked task.
struct TaskWaker {
    glommio: Waker,
    bell: Arc<Bell>,
    /// It is queued at the bell.
    queued: AtomicBool,
}

impl TaskWaker {
    fn wake_at_home(&self) {
        // Read and written as one: whoever still finds it queued has then made its change before the poll that follows.
        self.queued.swap(false, Ordering::AcqRel);
        self.glommio.wake_by_ref();
    }

    fn is_home(&self) -> bool {
        HOME.get() == Arc::as_ptr(&self.bell)
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if self.is_home() {
            count_activity();
            self.glommio.wake_by_ref();
        } else if !self.queued.swap(true, Ordering::AcqRel) {
            let bell = Arc::clone(&self.bell);
            bell.queue(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_home() {
            count_activity();
            self.glommio.wake_by_ref();
        } else if !self.queued.swap(true, Ordering::AcqRel) {
            self.bell.queue(Arc::clone(self));
        }
    }
}

/// Grows with every poll of a tracked task on this thread, and with every wake of one by another. A wake may come without
/// a poll: glommio drops a cancelled task, and tells who waits for that.
pub(super) fn activity() -> u64 {
    ACTIVITY.get()
}

fn count_activity() {
    ACTIVITY.set(ACTIVITY.get().wrapping_add(1));
}

/// `task` as a task of this thread's core: the driver sees it run, and other threads wake it through the bell.
pub(in crate::io) async fn tracked<T>(task: impl Future<Output = T>) -> T {
    let bell = Arc::clone(&CoreRing::current().bell);
    let mut task = pin!(task);
    // glommio's waker of this task, and ours around it.
    let mut wakers: Option<(Waker, Waker)> = None;
    poll_fn(|cx| {
        count_activity();
        let ours = match &mut wakers {
            Some((glommio, ours)) if glommio.will_wake(cx.waker()) => ours,
            other => {
                let ours = Waker::from(Arc::new(TaskWaker {
                    glommio: cx.waker().clone(),
                    bell: Arc::clone(&bell),
                    queued: AtomicBool::new(false),
                }));
                &mut other.insert((cx.waker().clone(), ours)).1
            }
        };
        task.as_mut().poll(&mut Context::from_waker(ours))
    })
    .await
}

/// Tasks of one core that may be queued without a lock.
const WOKEN_MAX: usize = 1024;
