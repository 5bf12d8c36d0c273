//! What unit tests run on: an executor whose time passes only when nothing else can happen. (The
//! simulator proper, with a seeded scheduler, is the tests crate's.)

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::io::clock::{Clock, Moment, Spawner};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Executor, spawner and clock in one.
#[derive(Clone, Default)]
pub(crate) struct TestRuntime {
    now: Rc<Cell<u64>>,
    timers: Rc<RefCell<BTreeMap<(u64, u64), Waker>>>,
    timers_made: Rc<Cell<u64>>,
    spawned: Rc<RefCell<Vec<Task>>>,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl TestRuntime {
    /// Runs `main` to its end, and spawned tasks along with it; those that have not ended go on at the next call.
    pub(crate) fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        self.block_on_pinned(pin!(main))
    }

    /// One copy of this code for all futures of the same output.
    fn block_on_pinned<T>(&self, mut main: Pin<&mut dyn Future<Output = T>>) -> T {
        let mut tasks: Vec<Task> = Vec::new();
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        loop {
            while woken.0.swap(false, SeqCst) || !self.spawned.borrow().is_empty() {
                if let Poll::Ready(output) = main.as_mut().poll(&mut context) {
                    self.spawned.borrow_mut().append(&mut tasks);
                    return output;
                }
                tasks.append(&mut self.spawned.borrow_mut());
                tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            }
            let first = self.timers.borrow_mut().pop_first();
            let ((at, _), waker) = first.expect("everything waits, and for nothing");
            self.now.set(at.max(self.now.get()));
            waker.wake();
        }
    }
}

impl Clock for TestRuntime {
    fn now(&self) -> Moment {
        Moment(self.now.get())
    }

    async fn sleep(&self, wait: Duration) {
        let id = self.timers_made.replace(self.timers_made.get() + 1);
        let key = (self.now().after(wait).0, id);
        /// A sleep that is dropped must not keep the clock going.
        struct Timer<'a>(&'a TestRuntime, (u64, u64));
        impl Drop for Timer<'_> {
            fn drop(&mut self) {
                self.0.timers.borrow_mut().remove(&self.1);
            }
        }
        let _timer = Timer(self, key);
        std::future::poll_fn(|context| {
            if self.now.get() >= key.0 {
                return Poll::Ready(());
            }
            let mut timers = self.timers.borrow_mut();
            timers.insert(key, context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Spawner for TestRuntime {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push(Box::pin(task));
    }
}
