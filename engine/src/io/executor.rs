//! Starting pinned glommio executors, one per core, and joining them with their errors.
//!
//! glommio's own `spawn` reports a failure to set up its rings only when it is joined; here the thread reports it before
//! `start_core` returns, so that a server that cannot run says so at once.
//!
//! Each runs on a ring of our own (`core_ring`), which carries all that tasks of the core ask of the kernel; glommio's own
//! rings are as small as they can be.
//!
//! Memory per core: 16 KiB for each of `read_buffers`, registered with the ring; 128 KiB of the rings; and 2 MiB of stack, of
//! which little is touched. Registered memory counts against `RLIMIT_MEMLOCK` for users without `CAP_IPC_LOCK`; beyond
//! the limit a warning is logged and reads go on without registration. glommio itself needs 512 KiB per core.

use std::any::Any;
use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use super::core_ring::{CoreRing, drive, kept, tracked};

/// How one core's executor is set up.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Name of the thread, at most 15 bytes are shown by the system.
    pub name: String,
    /// The CPU to be pinned to; `None` leaves it to the scheduler (tests).
    pub cpu: Option<usize>,
    /// How long the core spins for its device before it sleeps. Zero never spins. Default zero.
    pub spin: Duration,
    /// Buffers of 16 KiB registered for reads; more reads at once allocate. Range 1..=4096. Default 128.
    pub read_buffers: usize,
}

impl Default for CoreConfig {
    fn default() -> Self {
        CoreConfig {
            name: "core".to_owned(),
            cpu: None,
            spin: Duration::ZERO,
            read_buffers: 128,
        }
    }
}

/// Why a core did not start, or how it ended.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The system gave no thread.
    #[error("core {name}: start a thread: {source}")]
    Thread {
        /// The core's name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The rings or the pinning did not work out: locked memory, kernel, CPU number.
    #[error(
        "core {name}: set up the executor (io_uring of Linux 6.1 or later, 512 KiB of locked memory): {reason}"
    )]
    SetUp {
        /// The core's name.
        name: String,
        /// What glommio said.
        reason: String,
    },
    /// Its main task panicked.
    #[error("core {name} panicked: {reason}")]
    Panicked {
        /// The core's name.
        name: String,
        /// The panic's message.
        reason: String,
    },
}

/// A running core. Dropping it detaches the thread; [`CoreHandle::join`] waits for its end.
#[derive(Debug)]
pub struct CoreHandle<T> {
    name: String,
    /// `None` comes only from a thread whose executor was not set up, and such a one never gets a handle.
    thread: thread::JoinHandle<Option<T>>,
}

impl<T> CoreHandle<T> {
    /// Waits for the core's main task to return. Blocks the calling thread.
    pub fn join(self) -> Result<T, CoreError> {
        match self.thread.join() {
            Ok(value) => Ok(value.expect("the executor was set up, or there would be no handle")),
            Err(panic) => Err(CoreError::Panicked {
                name: self.name,
                reason: panic_message(panic.as_ref()),
            }),
        }
    }

    /// Whether the main task has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts an executor on a thread of its own and runs `main` on it until that returns; returns once the executor is
/// set up. What `main` holds need not be `Send`, what it is made from must.
pub fn start_core<T, F>(config: CoreConfig, main: F) -> Result<CoreHandle<T>, CoreError>
where
    F: AsyncFnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let name = config.name.clone();
    let (report, reported) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            let placement = config.cpu.map_or(Placement::Unbound, Placement::Fixed);
            let executor = LocalExecutorBuilder::new(placement)
                .name(&config.name)
                .ring_depth(GLOMMIO_RING_ENTRIES)
                .io_memory(GLOMMIO_MEMORY_BYTES)
                .make();
            let made = executor.map_err(|e| e.to_string()).and_then(|executor| {
                let ring = CoreRing::install(config.read_buffers).map_err(|e| e.to_string())?;
                Ok((executor, ring))
            });
            let (executor, ring) = match made {
                Ok(made) => made,
                Err(reason) => {
                    // The starter waits on the other end until it hears from us.
                    let _ = report.send(Some(reason));
                    return None;
                }
            };
            let _ = report.send(None);
            let running = Running {
                executor,
                _ring: ShutOnDrop(Some(Rc::clone(&ring))),
            };
            let value = running.executor.run(kept(async move {
                glommio::spawn_local(kept(drive(Rc::clone(&ring), config.spin))).detach();
                let value = tracked(main()).await;
                ring.stop();
                value
            }));
            Some(value)
        })
        .map_err(|source| CoreError::Thread {
            name: name.clone(),
            source,
        })?;
    match reported.recv() {
        Ok(None) => {}
        Ok(Some(reason)) => return Err(CoreError::SetUp { name, reason }),
        Err(mpsc::RecvError) => {
            let reason = match thread.join() {
                Ok(_) => "its thread ended without a word".to_owned(),
                Err(panic) => panic_message(panic.as_ref()),
            };
            return Err(CoreError::Panicked { name, reason });
        }
    }
    Ok(CoreHandle { name, thread })
}

/// What a core's thread runs. Also when a task panicked the executor goes first, with the tasks that are ready to run, and
/// then the ring, with those that wait: who waits for one of them from outside sees its channels close.
struct Running {
    executor: LocalExecutor,
    _ring: ShutOnDrop,
}

/// Ends the core's tasks, and waits for the ring's operations.
struct ShutOnDrop(Option<Rc<CoreRing>>);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        if let Some(ring) = self.0.take() {
            ring.shut();
        }
    }
}

/// The CPUs this process may run on, lowest first.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

/// glommio's rings carry its own timers only.
const GLOMMIO_RING_ENTRIES: usize = 16;
const GLOMMIO_MEMORY_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::StreamExt;

    use super::*;
    use crate::io::clock::{Clock, Spawner};
    use crate::io::glommio_clock::{GlommioClock, GlommioSpawner, sleep_on_core, spawn_on_core};

    #[test]
    fn a_core_is_pinned_runs_tasks_and_hands_its_value_back() {
        let cpu = *allowed_cpus().expect("known").last().expect("at least one");
        let config = CoreConfig {
            cpu: Some(cpu),
            ..CoreConfig::default()
        };
        #[expect(clippy::disallowed_methods, reason = "the origin of a clock")]
        let clock = GlommioClock::since(Instant::now());
        let core = start_core(config, async move || {
            let (done, waiting) = async_channel::bounded(2);
            for spawner in [GlommioSpawner, GlommioSpawner] {
                let done = done.clone();
                spawner.spawn(async move {
                    let before = clock.now();
                    clock.sleep(Duration::from_millis(5)).await;
                    done.send(clock.now().since(before)).await.expect("awaited");
                });
            }
            drop(done);
            let waits: Vec<Duration> = waiting.collect().await;
            (waits, allowed_cpus().expect("known"))
        });
        let (waits, cpus) = core.expect("starts").join().expect("no panic");
        assert_eq!(cpus, [cpu]);
        assert_eq!(waits.len(), 2);
        assert!(waits.iter().all(|&w| w >= Duration::from_millis(5)));
    }

    #[test]
    fn a_core_that_cannot_start_and_one_that_panics_are_errors() {
        let config = CoreConfig {
            cpu: Some(1_000_000),
            ..CoreConfig::default()
        };
        match start_core(config, async || ()) {
            Err(CoreError::SetUp { .. }) => {}
            other => panic!("pinned to a CPU that is not there: {other:?}"),
        }
        let core = start_core(CoreConfig::default(), async || {
            assert!(allowed_cpus().is_err(), "on purpose");
        });
        match core.expect("starts").join() {
            Err(CoreError::Panicked { reason, .. }) => assert_eq!(reason, "on purpose"),
            other => panic!("a panic was lost: {other:?}"),
        }
    }

    #[test]
    fn tasks_that_wait_are_dropped_with_their_core() {
        // What a caller outside waits for is held by the main task, and by one more; a third panics or not.
        for panics in [false, true] {
            let (report, reported) = mpsc::sync_channel::<()>(2);
            let core = start_core(CoreConfig::default(), async move || {
                let another = report.clone();
                GlommioSpawner.spawn(async move {
                    std::future::pending::<()>().await;
                    drop(another);
                });
                GlommioSpawner.spawn(async move {
                    assert!(!panics, "on purpose");
                });
                sleep_on_core(Duration::from_millis(5)).await;
                if panics {
                    std::future::pending::<()>().await;
                }
                drop(report);
            });
            let heard = reported.recv_timeout(Duration::from_secs(20));
            assert_eq!(heard, Err(mpsc::RecvTimeoutError::Disconnected));
            assert_eq!(core.expect("starts").join().is_err(), panics);
        }
    }

    #[test]
    fn tasks_that_hold_each_other_are_dropped_with_their_core() {
        let (held, holders) = mpsc::sync_channel::<()>(1);
        let core = start_core(CoreConfig::default(), async move || {
            let inner = spawn_on_core(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
            GlommioSpawner.spawn(async move {
                std::future::pending::<()>().await;
                drop(inner);
            });
            sleep_on_core(Duration::from_millis(5)).await;
        });
        core.expect("starts").join().expect("no panic");
        assert_eq!(holders.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }
}
