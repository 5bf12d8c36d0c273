//! Where work goes that computes for long (sealing a layer: a tenth of a second) and must not hold up a reactor.

/// Runs work that computes for long. The server's sends it to a blocking thread, [`InlineCpu`] does it in place.
pub trait Cpu {
    /// The result of `work`, which runs somewhere else, or here.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T;
}

/// Does the work where it is called: for the simulator, for tests, and where there is a thread to spare.
#[derive(Clone, Copy, Debug, Default)]
pub struct InlineCpu;

impl Cpu for InlineCpu {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        work()
    }
}
