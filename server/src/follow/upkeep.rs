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
use engine::types::{Lsn, ObjectId};
use tokio::task::{JoinHandle, spawn_local};

use super::history_window::HistoryWindow;
use super::log::{abandon, joined};
use super::writer_side::{WriterSide, Written};
use crate::cpu::BackgroundThreads;

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
    compact_pause: Duration,
    /// Where the window begins, being found out.
    wanted: Option<JoinHandle<Lsn>>,
    /// With whoever works with it, if somebody does.
    retention: Option<Retention>,
    window: HistoryWindow,
    retain_at: Moment,
    retain_every: Duration,
    /// With whoever deletes, if somebody does.
    garbage: Option<Garbage>,
    /// Objects that nobody names any more, each with its bytes, and since when: for the next deletion.
    to_delete: Vec<(Moment, Vec<(ObjectId, u64)>)>,
    deletion: Option<JoinHandle<(Garbage, Result<Deleted, IngestError>)>>,
    delete_at: Moment,
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
            compact_pause: RETRY,
            wanted: None,
            retention: Some(Retention::new(settle)),
            window,
            retain_every: settle.min(RETAIN_EVERY_MAX),
            retain_at: now.after(QUIET),
            garbage: Some(garbage),
            to_delete: Vec::new(),
            deletion: None,
            delete_at: now.after(QUIET),
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
        if let Some(wanted) = self.wanted {
            abandon(wanted).await;
        }
    }

    /// There are layers that were not there before.
    pub(super) fn layers_came(&mut self) {
        self.is_stale = true;
    }

    /// What was merged is committed: what it was made of is to go.
    pub(super) fn committed(&mut self, removed: Vec<(ObjectId, u64)>) {
        self.to_delete.push((self.clock.now(), removed));
        self.is_stale = true;
        self.compact_pause = RETRY;
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
                    let pause = self.compact_pause;
                    tracing::warn!(%error, retry_in = ?pause, "layers are not merged");
                    self.is_stale = true;
                    self.compact_at = now.after(pause);
                    self.compact_pause = (pause * 2).min(RETRY_MAX);
                    self.to_delete.push((now, self.compactor.take_unfinished()));
                }
            }
        }
        if let Some((garbage, outcome)) = finished(&mut self.deletion).await {
            self.garbage = Some(garbage);
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
        if now >= self.retain_at && self.retention.is_some() && self.wanted.is_none() {
            self.retain_at = now.after(self.retain_every);
            let window = self.window.clone();
            self.wanted = Some(spawn_local(async move { window.begin().await }));
        }
        if writer.is_idle() {
            self.use_writer(writer, now).await;
        }
    }

    fn begin_compaction(&mut self, now: Moment) {
        let may_begin = self.compaction.is_none() && self.ready.is_none();
        if may_begin && self.is_stale && now >= self.compact_at {
            self.is_stale = false;
            let compactor = Rc::clone(&self.compactor);
            let compacting = async move { compactor.compact(&BackgroundThreads).await };
            self.compaction = Some(spawn_local(compacting));
        }
    }

    fn begin_deletion(&mut self, now: Moment) {
        if now < self.delete_at {
            return;
        }
        let Some(mut garbage) = self.garbage.take() else {
            return;
        };
        for (since, objects) in self.to_delete.drain(..) {
            garbage.take(&objects, since);
        }
        let clock = self.clock;
        self.deletion = Some(spawn_local(async move {
            let outcome = async {
                let orphans = garbage.find_orphans_once(clock.now()).await?;
                if orphans > 0 {
                    tracing::info!(orphans, "objects that earlier writers left");
                }
                garbage.delete_due(clock.now()).await
            };
            let deleted = outcome.await;
            (garbage, deleted)
        }));
    }

    async fn use_writer(&mut self, writer: &mut WriterSide, now: Moment) {
        if let Some(compacted) = self.ready.take() {
            let removed = compacted.removed();
            writer.begin(async move |flusher| {
                let compaction = flusher.commit_compaction(compacted).await?;
                Ok(Written::Compacted(compaction, removed))
            });
        } else if let Some(wanted) = finished(&mut self.wanted).await
            && let Some(mut retention) = self.retention.take()
        {
            writer.begin(async move |flusher| {
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
async fn finished<T>(work: &mut Option<JoinHandle<T>>) -> Option<T> {
    let is_over = work.as_ref().is_some_and(JoinHandle::is_finished);
    let over = work.take_if(|_| is_over)?;
    Some(joined(over.await))
}

/// After an opening there is other work first.
const QUIET: Duration = Duration::from_secs(2);
/// Pause after a failure, doubled up to the second with each.
const RETRY: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// How often it is looked whether something is due to be deleted.
const DELETE_EVERY: Duration = Duration::from_secs(10);
/// It is looked so often at least whether history is to be given up.
const RETAIN_EVERY_MAX: Duration = Duration::from_secs(60);
