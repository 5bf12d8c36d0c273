//! Where long computations of commands and followers run: never on a core, nor on the thread that waits for them.

use std::panic::resume_unwind;

use engine::catalog::Cpu;

/// Threads of the runtime for what somebody waits for: several windows are sealed at once, and layers are handed to the store
/// meanwhile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockingThreads;

impl Cpu for BlockingThreads {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match tokio::task::spawn_blocking(work).await {
            Ok(output) => output,
            // It is never cancelled: whoever waits for it is the runtime's own main task.
            Err(panicked) => resume_unwind(panicked.into_panic()),
        }
    }
}

/// A thread for each piece of work that can wait: it yields to reads and commits where there is not enough of the CPU for all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BackgroundThreads;

impl Cpu for BackgroundThreads {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, output) = async_channel::bounded(1);
        let thread = std::thread::Builder::new().name("background".to_owned());
        let spawned = thread.spawn(move || {
            // Linux takes a priority for the thread that asks; a lower one is never refused.
            let _ = rustix::process::nice(NICE);
            // Whoever waits may have gone.
            let _ = done.send_blocking(work());
        });
        let thread = spawned.expect("a thread can be started");
        match output.recv().await {
            Ok(output) => output,
            Err(_) => match thread.join() {
                Err(panicked) => resume_unwind(panicked),
                Ok(()) => unreachable!("it sends before it ends"),
            },
        }
    }
}

/// About a tenth of what a thread of normal priority gets.
const NICE: i32 = 10;
