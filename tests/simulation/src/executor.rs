//! A single-threaded executor with virtual time. Which ready task runs next is drawn from the seed; time passes
//! only in tiny random steps, or in a jump to the next timer when nothing is ready.
//!
//! Tasks belong to a [`Process`]. Killing one drops all its tasks between two polls, as `kill -9` does: nothing in
//! them gets to say goodbye but destructors, which cannot reach the disk or the store.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use engine::io::clock::{Clock, Moment, Spawner};

use crate::rng::Rng;
use crate::trace::Trace;

/// Why a simulation did not come to its end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// Nothing is ready and no timer is set: somebody waits for what never comes.
    #[error("deadlock at {at_ns} ns: {tasks} tasks wait, no timer is set")]
    Deadlock {
        /// Virtual time.
        at_ns: u64,
        /// Tasks alive.
        tasks: usize,
    },
    /// More polls than any run needs: somebody spins.
    #[error("livelock at {at_ns} ns: {polls} polls")]
    Livelock {
        /// Virtual time.
        at_ns: u64,
        /// Polls so far.
        polls: u64,
    },
}

/// The simulated computer's executor. Clones share it.
#[derive(Clone)]
pub struct Simulator(Rc<Core>);

struct Core {
    now_ns: Cell<u64>,
    polls: Cell<u64>,
    polls_max: u64,
    rng: RefCell<Rng>,
    trace: Trace,
    tasks: RefCell<BTreeMap<u64, Task>>,
    next_task: Cell<u64>,
    next_process: Cell<u32>,
    ready: Arc<Ready>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    next_timer: Cell<u64>,
}

type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    /// `None` while it is being polled.
    future: Option<TaskFuture>,
    process: u32,
    wake: Arc<TaskWake>,
}

#[derive(Default)]
struct Ready(Mutex<Vec<u64>>);

struct TaskWake {
    task: u64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready
                .0
                .lock()
                .expect("no one panics with it")
                .push(self.task);
        }
    }
}

impl Simulator {
    /// An executor that draws its choices from `rng` and gives up after `polls_max` polls.
    pub fn new(rng: Rng, trace: Trace, polls_max: u64) -> Simulator {
        Simulator(Rc::new(Core {
            now_ns: Cell::new(0),
            polls: Cell::new(0),
            polls_max,
            rng: RefCell::new(rng),
            trace,
            tasks: RefCell::default(),
            next_task: Cell::new(0),
            next_process: Cell::new(0),
            ready: Arc::default(),
            timers: RefCell::default(),
            next_timer: Cell::new(0),
        }))
    }

    /// A new process: tasks that live and die together.
    pub fn process(&self) -> Process {
        let number = self.0.next_process.get();
        self.0.next_process.set(number + 1);
        Process {
            simulator: self.clone(),
            number,
        }
    }

    /// The trace of the run.
    pub fn trace(&self) -> &Trace {
        &self.0.trace
    }

    /// Notes an event, at the time that it is.
    pub fn event(&self, what: std::fmt::Arguments<'_>) {
        self.0.trace.event(self.0.now_ns.get(), what);
    }

    /// Runs until `main` ends.
    /// # Errors
    /// [`Stuck`].
    pub fn run<T: 'static>(&self, main: impl Future<Output = T> + 'static) -> Result<T, Stuck> {
        let result: Rc<RefCell<Option<T>>> = Rc::default();
        let place = Rc::clone(&result);
        self.process().spawn(async move {
            let value = main.await;
            *place.borrow_mut() = Some(value);
        });
        loop {
            if let Some(value) = result.borrow_mut().take() {
                return Ok(value);
            }
            self.step()?;
        }
    }

    /// Drops all tasks of all processes: the end of the run. Tasks hold the world that holds this executor, so
    /// without this nothing would ever be freed.
    pub fn shut_down(&self) {
        loop {
            let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
            if tasks.is_empty() {
                return;
            }
            drop(tasks);
        }
    }

    /// Polls one ready task, or moves time on to the next timer.
    fn step(&self) -> Result<(), Stuck> {
        let core = &self.0;
        let next = {
            let mut ready = core.ready.0.lock().expect("no one panics with it");
            match ready.len() {
                0 => None,
                count => Some(ready.swap_remove(core.rng.borrow_mut().index(count))),
            }
        };
        let Some(number) = next else {
            return self.skip_to_timer();
        };
        // Not there: it ended, or its process was killed, after it was woken.
        let taken = core.tasks.borrow_mut().get_mut(&number).map(|task| {
            task.wake.queued.store(false, Ordering::Relaxed);
            (
                task.future
                    .take()
                    .expect("a task is polled by one loop only"),
                Arc::clone(&task.wake),
            )
        });
        let Some((mut future, wake)) = taken else {
            return Ok(());
        };
        core.polls.set(core.polls.get() + 1);
        if core.polls.get() > core.polls_max {
            return Err(Stuck::Livelock {
                at_ns: core.now_ns.get(),
                polls: core.polls.get(),
            });
        }
        core.now_ns
            .set(core.now_ns.get() + core.rng.borrow_mut().below(POLL_NS_MAX));
        let waker = Waker::from(wake);
        let ended = future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        let mut tasks = core.tasks.borrow_mut();
        if ended {
            tasks.remove(&number);
            // Its destructor may wake or spawn others.
            drop(tasks);
            drop(future);
        } else {
            let task = tasks
                .get_mut(&number)
                .expect("a process does not kill itself");
            task.future = Some(future);
        }
        Ok(())
    }

    fn skip_to_timer(&self) -> Result<(), Stuck> {
        let core = &self.0;
        let Some(((at_ns, _), waker)) = core.timers.borrow_mut().pop_first() else {
            let tasks = core.tasks.borrow().len();
            return Err(Stuck::Deadlock {
                at_ns: core.now_ns.get(),
                tasks,
            });
        };
        core.now_ns.set(core.now_ns.get().max(at_ns));
        waker.wake();
        Ok(())
    }

    fn spawn(&self, process: u32, future: TaskFuture) {
        let core = &self.0;
        let number = core.next_task.get();
        core.next_task.set(number + 1);
        let wake = Arc::new(TaskWake {
            task: number,
            queued: AtomicBool::new(false),
            ready: Arc::clone(&core.ready),
        });
        let task = Task {
            future: Some(future),
            process,
            wake: Arc::clone(&wake),
        };
        core.tasks.borrow_mut().insert(number, task);
        wake.wake();
    }
}

/// Tasks that live and die together, and their way to start more.
#[derive(Clone)]
pub struct Process {
    simulator: Simulator,
    number: u32,
}

impl Process {
    /// Drops all tasks of this process. To be called from another one.
    pub fn kill(&self) {
        let core = &self.simulator.0;
        loop {
            // Destructors may start tasks of the same process: they go as well.
            let mut tasks = core.tasks.borrow_mut();
            let numbers: Vec<u64> = tasks
                .iter()
                .filter(|(_, t)| t.process == self.number)
                .map(|(n, _)| *n)
                .collect();
            if numbers.is_empty() {
                return;
            }
            let dead: Vec<Task> = numbers
                .iter()
                .filter_map(|number| tasks.remove(number))
                .collect();
            drop(tasks);
            assert!(
                dead.iter().all(|task| task.future.is_some()),
                "a process does not kill itself"
            );
        }
    }

    /// Tasks alive.
    pub fn tasks(&self) -> usize {
        let tasks = self.simulator.0.tasks.borrow();
        tasks
            .values()
            .filter(|task| task.process == self.number)
            .count()
    }

    /// Starts a task and hands back what it ends with; `None` if its process was killed first.
    pub async fn call<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Option<T> {
        let result: Rc<Reply<T>> = Rc::new(Reply {
            value: RefCell::new(None),
            waker: RefCell::new(None),
        });
        let filler = Filler(Rc::downgrade(&result));
        self.spawn(async move {
            let filler = filler;
            let value = task.await;
            if let Some(reply) = filler.0.upgrade() {
                *reply.value.borrow_mut() = Some(value);
            }
        });
        poll_fn(|cx| {
            if let Some(value) = result.value.borrow_mut().take() {
                return Poll::Ready(Some(value));
            }
            if Rc::weak_count(&result) == 0 {
                return Poll::Ready(None);
            }
            *result.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The simulator it runs on.
    pub fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    /// Runs a task that nobody waits for and whose panic is the run's.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.simulator.spawn(self.number, Box::pin(task));
    }
}

impl Spawner for Process {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        Process::spawn(self, task);
    }
}

struct Reply<T> {
    value: RefCell<Option<T>>,
    waker: RefCell<Option<Waker>>,
}

/// Wakes the caller when the task ended, or was dropped.
struct Filler<T>(std::rc::Weak<Reply<T>>);

impl<T> Drop for Filler<T> {
    fn drop(&mut self) {
        if let Some(reply) = std::mem::take(&mut self.0).upgrade()
            && let Some(waker) = reply.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

impl Clock for Simulator {
    fn now(&self) -> Moment {
        Moment(self.0.now_ns.get())
    }

    async fn sleep(&self, wait: Duration) {
        let core = Rc::clone(&self.0);
        let at_ns = self.now().after(wait).0;
        let number = core.next_timer.get();
        core.next_timer.set(number + 1);
        let timer = Timer {
            core,
            at: (at_ns, number),
        };
        poll_fn(|cx| {
            if timer.core.now_ns.get() >= at_ns {
                return Poll::Ready(());
            }
            timer
                .core
                .timers
                .borrow_mut()
                .insert(timer.at, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

struct Timer {
    core: Rc<Core>,
    at: (u64, u64),
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.core.timers.borrow_mut().remove(&self.at);
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without text".to_owned())
}

/// Virtual time of one poll, exclusive.
const POLL_NS_MAX: u64 = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn simulator(seed: u64) -> Simulator {
        Simulator::new(Rng::split(seed, "scheduler"), Trace::new(true), 100_000)
    }

    /// Three tasks that sleep and note their steps; the trace's hash.
    fn interleaving(seed: u64) -> u64 {
        let sim = simulator(seed);
        let process = sim.process();
        let main = sim.clone();
        sim.run(async move {
            for task in 0..3_u64 {
                let sim = main.clone();
                process.spawn(async move {
                    for step in 0..5_u64 {
                        sim.sleep(Duration::from_micros(step % 2)).await;
                        sim.event(format_args!("task {task} step {step}"));
                    }
                });
            }
            main.sleep(Duration::from_millis(1)).await;
            assert_eq!(process.tasks(), 0, "all tasks ended");
        })
        .expect("nothing is stuck");
        assert_eq!(sim.trace().events(), 15);
        sim.trace().hash()
    }

    #[test]
    fn a_seed_gives_one_interleaving_and_seeds_give_many() {
        assert_eq!(interleaving(1), interleaving(1));
        let different: std::collections::BTreeSet<u64> = (0..20).map(interleaving).collect();
        assert!(
            different.len() > 15,
            "{} interleavings of 20 seeds",
            different.len()
        );
    }

    #[test]
    fn time_jumps_to_the_next_timer_and_a_dropped_sleep_leaves_none() {
        let sim = simulator(1);
        let clock = sim.clone();
        sim.run(async move {
            let hour = Duration::from_secs(3600);
            {
                let nap = std::pin::pin!(clock.sleep(Duration::from_millis(5)));
                let long = std::pin::pin!(clock.sleep(hour));
                let first = futures_util::future::select(long, nap).await;
                let nap_was_first = matches!(first, futures_util::future::Either::Right(_));
                assert!(nap_was_first, "the short one ends first");
            }
            let waited = clock.now().since(Moment(0));
            assert!(waited >= Duration::from_millis(5) && waited < hour);
        })
        .expect("nothing is stuck");
        assert!(sim.0.timers.borrow().is_empty());
    }

    #[test]
    fn killing_a_process_ends_its_tasks_and_its_callers_hear_of_it() {
        let sim = simulator(3);
        let process = sim.process();
        let clock = sim.clone();
        let ended = sim.run(async move {
            let victim = process.clone();
            let killer = clock.process();
            let at = clock.clone();
            killer.spawn(async move {
                at.sleep(Duration::from_millis(1)).await;
                victim.kill();
            });
            let slow = clock.clone();
            let answer = process
                .call(async move { slow.sleep(Duration::from_secs(1)).await })
                .await;
            assert_eq!(
                process.call(async { 5 }).await,
                Some(5),
                "a process may be started again"
            );
            answer
        });
        assert_eq!(ended, Ok(None));
    }

    #[test]
    fn deadlock_and_livelock_are_told() {
        let sim = simulator(1);
        let stuck = sim.run(std::future::pending::<()>());
        assert!(
            matches!(stuck, Err(Stuck::Deadlock { tasks: 1, .. })),
            "{stuck:?}"
        );
        let sim = simulator(1);
        let stuck = sim.run(poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        assert!(matches!(stuck, Err(Stuck::Livelock { .. })), "{stuck:?}");
    }
}
