//! The upkeep of a branch's layers while it follows: they are merged, history beyond the window is given up, and what nobody
//! needs any more is deleted. All of it gives way to flushes, and none of it ends the following when it fails: it is tried
//! again.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use engine::ingest::{Compacted, Compactor, Deleted, Due, Garbage, IngestError, Retention};
use engine::io::clock::{Clock, Moment};
use engine::io::tokio_clock::TokioClock;
use engine::manifest::RemovedLayer;
use tokio::task::{JoinHandle, spawn_local};

use super::history_window::HistoryWindow;
use super::log::{abandon, joined};
use super::writer_side::{WriterSide, Written};
use crate::import_job::BlockingThreads;

/// What keeps the layers of one branch in order.
pub(super) struct Upkeep {
    clock: TokioClock,
    compactor: Rc<Compactor<Arc<Engine>>>,
    compaction: Work<Option<Compacted>>,
    /// Merged, and not committed yet.
    ready: Option<Compacted>,
    /// Whether there are layers that were not looked at.
    is_stale: bool,
    compact_at: Moment,
    /// With whoever works with it, if somebody does.
    retention: Option<Retention>,
    window: HistoryWindow,
    retain_at: Moment,
    retain_every: Duration,
    garbage: Rc<futures_util::lock::Mutex<Garbage>>,
    deletion: Work<Deleted>,
    delete_at: Moment,
    looked_for_orphans: bool,
}

type Work<T> = Option<JoinHandle<Result<T, IngestError>>>;

impl Upkeep {
    /// Of a branch that was just opened.
    pub(super) fn new(
        clock: TokioClock,
        compactor: Compactor<Arc<Engine>>,
        garbage: Garbage,
        settle: Duration,
        window: HistoryWindow,
    ) -> Upkeep {
        let now = clock.now();
        Upkeep {
            clock,
            compactor: Rc::new(compactor),
            compaction: None,
            ready: None,
            is_stale: true,
            compact_at: now.after(QUIET),
            retention: Some(Retention::new(settle)),
            window,
            retain_every: settle.min(RETAIN_EVERY_MAX),
            retain_at: now.after(QUIET),
            garbage: Rc::new(futures_util::lock::Mutex::new(garbage)),
            deletion: None,
            delete_at: now.after(QUIET),
            looked_for_orphans: false,
        }
    }

    /// Gives up what is under way: before the branch is opened anew.
    pub(super) async fn abandon(self) {
        if let Some(compaction) = self.compaction {
            abandon(compaction).await;
        }
        if let Some(deletion) = self.deletion {
            abandon(deletion).await;
        }
    }

    /// There are layers that were not there before.
    pub(super) fn layers_came(&mut self) {
        self.is_stale = true;
    }

    /// What was merged is committed: what it was made of is to go.
    pub(super) async fn committed(&mut self, removed: Vec<RemovedLayer>) {
        let now = self.clock.now();
        self.garbage.lock().await.take(&removed, now);
        self.is_stale = true;
    }

    /// Retention did something, or found nothing to do.
    pub(super) fn retained(&mut self, retention: Retention, due: Due) {
        self.retention = Some(retention);
        if due != Due::Nothing {
            // There may be history now that can go.
            self.is_stale = true;
            tracing::info!(?due, "history");
        }
    }

    /// Begins what is due; what needs the writer waits until that has nothing to do.
    pub(super) async fn go_on(&mut self, writer: &mut WriterSide) {
        let now = self.clock.now();
        if let Some(outcome) = finished(&mut self.compaction).await {
            match outcome {
                Ok(compacted) => self.ready = compacted,
                Err(error) => {
                    tracing::warn!(%error, retry_in = ?RETRY, "layers are not merged");
                    self.is_stale = true;
                    self.compact_at = now.after(RETRY);
                }
            }
        }
        if let Some(outcome) = finished(&mut self.deletion).await {
            match outcome {
                Ok(deleted) if deleted.objects > 0 => {
                    tracing::info!(objects = deleted.objects, bytes = deleted.bytes, "deleted");
                }
                Ok(_) => self.delete_at = now.after(DELETE_EVERY),
                Err(error) => {
                    tracing::warn!(%error, retry_in = ?RETRY, "nothing is deleted");
                    self.delete_at = now.after(RETRY);
                }
            }
        }
        self.begin_compaction(now);
        self.begin_deletion(now);
        if writer.is_idle() {
            self.use_writer(writer, now);
        }
    }

    fn begin_compaction(&mut self, now: Moment) {
        let may_begin = self.compaction.is_none() && self.ready.is_none();
        if may_begin && self.is_stale && now >= self.compact_at {
            self.is_stale = false;
            let compactor = Rc::clone(&self.compactor);
            let compacting = async move { compactor.compact(&BlockingThreads).await };
            self.compaction = Some(spawn_local(compacting));
        }
    }

    fn begin_deletion(&mut self, now: Moment) {
        if self.deletion.is_some() || now < self.delete_at {
            return;
        }
        let garbage = Rc::clone(&self.garbage);
        let clock = self.clock;
        let look = !std::mem::replace(&mut self.looked_for_orphans, true);
        self.deletion = Some(spawn_local(async move {
            let mut garbage = garbage.lock().await;
            if look {
                let orphans = garbage.find_orphans(clock.now()).await?;
                if orphans > 0 {
                    tracing::info!(orphans, "objects that earlier writers left");
                }
            }
            garbage.delete_due(clock.now()).await
        }));
    }

    fn use_writer(&mut self, writer: &mut WriterSide, now: Moment) {
        if let Some(compacted) = self.ready.take() {
            let removed = compacted.removed().to_vec();
            writer.begin(async move |flusher| {
                let compaction = flusher.commit_compaction(compacted).await?;
                Ok(Written::Compacted(compaction, removed))
            });
        } else if now >= self.retain_at
            && let Some(mut retention) = self.retention.take()
        {
            self.retain_at = now.after(self.retain_every);
            let window = self.window.clone();
            writer.begin(async move |flusher| {
                let wanted = window.begin(flusher.durable_lsn()).await;
                let due = match flusher.retain(&mut retention, wanted, now).await {
                    Ok(due) => due,
                    Err(error) if flusher.is_sound() => {
                        tracing::warn!(%error, "no history is given up");
                        Due::Nothing
                    }
                    Err(error) => return Err(error),
                };
                Ok(Written::Retained(retention, due))
            });
        }
    }
}

/// What a piece of work came to, if it is over.
async fn finished<T>(work: &mut Work<T>) -> Option<Result<T, IngestError>> {
    let is_over = work.as_ref().is_some_and(JoinHandle::is_finished);
    let over = work.take_if(|_| is_over)?;
    Some(joined(over.await))
}

/// After an opening there is other work first.
const QUIET: Duration = Duration::from_secs(2);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(30);
/// How often it is looked whether something is due to be deleted.
const DELETE_EVERY: Duration = Duration::from_secs(10);
/// It is looked so often at least whether history is to be given up.
const RETAIN_EVERY_MAX: Duration = Duration::from_secs(60);
