//! The way from an ingest to the cores.

use std::sync::Arc;

use crate::engine::{Cores, Engine};
use crate::shard::{Platform, Shard};

/// Runs work on cores, each of which has a shard. Two implementations: the running engine, and shards that are on this
/// thread already.
#[expect(
    async_fn_in_trait,
    reason = "the futures stay on the thread that made them: nobody needs them to be Send"
)]
pub trait OnCores: Clone + 'static {
    /// What the shards run on.
    type Platform: Platform;

    /// How many cores there are.
    fn count(&self) -> usize;

    /// Runs `work` on a core and answers what it does; `None` if the core has stopped. Work that was sent to a core runs
    /// in the order in which it was sent, up to its first wait.
    async fn on_core<T, F>(&self, core: usize, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: AsyncFnOnce(Shard<Self::Platform>) -> T + Send + 'static;
}

impl OnCores for Arc<Engine> {
    type Platform = Cores;

    fn count(&self) -> usize {
        self.cores()
    }

    async fn on_core<T, F>(&self, core: usize, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: AsyncFnOnce(Shard<Cores>) -> T + Send + 'static,
    {
        let (reply, answer) = async_channel::bounded(1);
        self.run_on_core(core, async move |shard: Shard<Cores>| {
            // Whoever asked may have gone.
            let _ = reply.send(work(shard).await).await;
        })
        .await;
        answer.recv().await.ok()
    }
}

/// The shards of all cores, on the thread of whoever asks: in the simulator and in tests.
pub struct LocalCores<P: Platform>(Vec<Shard<P>>);

impl<P: Platform> LocalCores<P> {
    /// These shards, by the number of their core.
    pub fn new(shards: Vec<Shard<P>>) -> LocalCores<P> {
        LocalCores(shards)
    }
}

impl<P: Platform> Clone for LocalCores<P> {
    fn clone(&self) -> LocalCores<P> {
        LocalCores(self.0.clone())
    }
}

impl<P: Platform> OnCores for LocalCores<P> {
    type Platform = P;

    fn count(&self) -> usize {
        self.0.len()
    }

    async fn on_core<T, F>(&self, core: usize, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: AsyncFnOnce(Shard<P>) -> T + Send + 'static,
    {
        Some(work(self.0.get(core)?.clone()).await)
    }
}
