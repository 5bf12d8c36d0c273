//! The thread of a branch that follows: opens it, runs sessions, waits, tries again.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use engine::Engine;
use engine::ingest::Ingest;
use engine::io::ring_thread::run_with_ring;
use engine::io::tokio_clock::TokioClock;
use engine::types::{BranchId, TenantId};
use engine::wal::WalConfig;
use postgres::replication::{ConnectionSettings, SlotName};

use super::attachment::{Ack, Attachment};
use super::error::FollowError;
use super::history_window::HistoryWindow;
use super::intake::Intake;
use super::log::BranchLog;
use super::session::{Limits, OpenBranch, SessionEnd};
use super::slot_keeper::SlotKeeper;
use super::status::{FollowSnapshot, FollowStatus, Phase};
use super::stored_state;
use super::upkeep::Upkeep;
use super::writer_side::WriterSide;
use crate::config::FollowConfig;

/// What a follower is made of.
pub struct FollowerParts {
    /// The engine that the branch is read from.
    pub engine: Arc<Engine>,
    /// tenant/branch, for people.
    pub name: String,
    /// Tenant and branch.
    pub place: (TenantId, BranchId),
    /// How to connect to the primary.
    pub settings: ConnectionSettings,
    /// The slot there.
    pub slot: SlotName,
    /// Where local WAL goes: a directory of this branch alone.
    pub wal_dir: PathBuf,
    /// What acknowledgements wait for.
    pub ack: Ack,
    /// Limits.
    pub config: FollowConfig,
}

/// A branch that follows a primary in a thread of its own.
pub struct Follower {
    attachment: Attachment,
    status: FollowStatus,
    stop: async_channel::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts it. What goes wrong from then on is in its status, and in the log.
    /// # Errors
    /// The system gave no thread.
    pub fn start(attachment: Attachment, parts: FollowerParts) -> std::io::Result<Follower> {
        let status = FollowStatus::new();
        let (stop, stopped) = async_channel::bounded(1);
        let (theirs, name) = (status.clone(), parts.name.clone());
        let thread = std::thread::Builder::new()
            .name(format!("follow {name}"))
            .spawn(move || {
                let span = tracing::info_span!("follow", branch = name.as_str());
                let _entered = span.enter();
                let ran = run_with_ring(RING_ENTRIES, async || {
                    run(&parts, &theirs, &stopped).await;
                });
                if let Err(error) = ran {
                    let reason = format!("no ring for its WAL: {error}");
                    tracing::error!(reason, "the branch does not follow its primary");
                    theirs.set_phase(Phase::Stopped { reason });
                }
            })?;
        Ok(Follower {
            attachment,
            status,
            stop,
            thread: Some(thread),
        })
    }

    /// What was written down of it.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// How it is.
    pub fn snapshot(&self) -> FollowSnapshot {
        let mut snapshot = self.status.snapshot();
        let has_ended = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
        if has_ended && !matches!(snapshot.phase, Phase::Stopped { .. }) {
            let reason = "its thread has ended, as the log says".to_owned();
            snapshot.phase = Phase::Stopped { reason };
        }
        snapshot
    }

    /// Whether its thread has ended, by itself or because it was told to.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Tells it to stop, without waiting for that.
    pub fn stop(&self) {
        self.stop.close();
    }

    /// Waits until it has stopped.
    pub fn join(mut self) {
        self.stop.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(branch = self.attachment.name, "a follower panicked");
        }
    }
}

/// Opens the branch again and again, until it is told to stop or there is no use in it.
async fn run(parts: &FollowerParts, status: &FollowStatus, stop: &async_channel::Receiver<()>) {
    let mut pause = PAUSE_MIN;
    loop {
        status.set_phase(Phase::Recovering);
        let begun = status.snapshot().progress.received;
        let Err(error) = follow(parts, status, stop).await else {
            return;
        };
        let reason = error.reason(&parts.name);
        if error.is_final() {
            tracing::error!(reason, "the branch does not follow its primary any more");
            status.set_phase(Phase::Stopped { reason });
            return;
        }
        // Something that was received starts the waiting anew.
        if status.snapshot().progress.received > begun {
            pause = PAUSE_MIN;
        }
        tracing::warn!(reason, retry_in = ?pause, "the branch does not follow its primary");
        status.set_phase(Phase::Waiting { reason });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.recv() => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Opens the branch and runs sessions until one fails in a way after which the branch has to be opened anew.
async fn follow(
    parts: &FollowerParts,
    status: &FollowStatus,
    stop: &async_channel::Receiver<()>,
) -> Result<(), FollowError> {
    let (mut branch, system_identifier) = tokio::select! {
        opened = open(parts, status) => opened?,
        _ = stop.recv() => return Ok(()),
    };
    let slot = SlotKeeper::start(parts.settings.clone(), parts.slot.clone())
        .map_err(FollowError::Directory)?;
    slot.advance(branch.log.stored_end());
    let outcome = sessions(parts, &mut branch, &slot, system_identifier, status, stop).await;
    // Where the primary has left our history the branch is sound: what it has is kept.
    if matches!(outcome, Ok(()) | Err(FollowError::Forked { .. })) {
        finish(&mut branch).await;
    }
    branch.abandon().await;
    outcome
}

/// Runs sessions until one fails in a way after which the branch has to be opened anew, or it is told to stop.
async fn sessions(
    parts: &FollowerParts,
    branch: &mut OpenBranch,
    slot: &SlotKeeper,
    system_identifier: u64,
    status: &FollowStatus,
    stop: &async_channel::Receiver<()>,
) -> Result<(), FollowError> {
    let mut pause = PAUSE_MIN;
    loop {
        let before = status.snapshot().progress.received;
        let followed = branch.follow(&parts.settings, slot, system_identifier, stop);
        let reason = match followed.await {
            Ok(SessionEnd::Stopped) => return Ok(()),
            Ok(SessionEnd::Switched) => {
                "the primary's WAL goes on with another timeline".to_owned()
            }
            Ok(SessionEnd::PrimaryShutDown) => "the primary was shut down".to_owned(),
            // The branch itself is fine: only the connection has to be made anew.
            Err(
                error @ (FollowError::Replication(_)
                | FollowError::OtherCluster { .. }
                | FollowError::Stalled(_)),
            ) => error.reason(&parts.name),
            Err(other) => return Err(other),
        };
        if status.snapshot().progress.received > before {
            pause = PAUSE_MIN;
        }
        tracing::warn!(reason, retry_in = ?pause, "the primary is away");
        status.set_phase(Phase::Waiting { reason });
        tokio::select! {
            went_on = branch.meanwhile(pause) => went_on?,
            _ = stop.recv() => return Ok(()),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Stores all that was received, so that nothing of it is needed from here, nor decoded again.
async fn finish(branch: &mut OpenBranch) {
    match tokio::time::timeout(FINISH_MAX, branch.finish()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "what was received is not all in the object store")
        }
        Err(_) => {
            tracing::warn!(limit = ?FINISH_MAX, "what was received is not all in the object store")
        }
    }
}

/// Claims the branch and takes in what is above its layers. Answers its cluster's system identifier, too.
async fn open(
    parts: &FollowerParts,
    status: &FollowStatus,
) -> Result<(OpenBranch, u64), FollowError> {
    let Ingest {
        facts,
        versions,
        flusher,
        compactor,
        garbage,
        replay,
        keys,
    } = parts
        .engine
        .ingest(parts.place, parts.config.ingest())
        .await?;
    let state = stored_state::load(&parts.engine, parts.place, facts.last_lsn).await?;
    let system_identifier = state.stream.system_identifier;
    let mut intake = Intake::new(
        (state.stream, state.records),
        facts.last_lsn,
        versions,
        (&parts.engine, parts.place),
    );
    let wal = WalConfig {
        bytes_max: parts.config.wal_size.0,
        ..WalConfig::default()
    };
    let log = BranchLog::recover(
        replay,
        keys,
        (parts.place, facts.epoch),
        (&parts.wal_dir, wal),
        parts.ack,
        &mut intake,
    )
    .await?;
    tracing::info!(
        layers = %facts.last_lsn,
        readable = %intake.readable(),
        records = intake.taken(),
        "the branch is open for its primary's WAL"
    );
    status.update(|progress| {
        progress.flushed = facts.last_lsn;
        progress.horizon = facts.readable_from.unwrap_or_default();
        progress.readable = intake.readable();
        progress.stored = log.stored_end();
        progress.local = log.local_end();
    });
    let branch = OpenBranch {
        intake,
        log,
        writer: WriterSide::Idle(Box::new(flusher)),
        upkeep: Upkeep::new(
            TokioClock::since(now()),
            compactor,
            garbage,
            parts.config.history_grace.0,
            HistoryWindow {
                engine: Arc::clone(&parts.engine),
                place: parts.place,
                time: parts.config.retain_time,
                wal_bytes: parts.config.retain_wal.map(|size| size.0),
            },
        ),
        limits: Limits {
            memory_bytes: usize::try_from(parts.config.memory.0).unwrap_or(usize::MAX),
            flush_after: parts.config.flush_after.0,
        },
        status: status.clone(),
        // With WAL in the store the page that it goes on from says it.
        begins_on: match facts.wal {
            Some(_) => None,
            None => facts.creation.timelines.last().map(|span| span.timeline),
        },
        unflushed_since: None,
        sent_at: SystemTime::UNIX_EPOCH,
        received_bytes: 0,
    };
    Ok((branch, system_identifier))
}

#[expect(clippy::disallowed_methods, reason = "since when the branch is open")]
fn now() -> Instant {
    Instant::now()
}

/// Time for what is left to do when it stops.
const FINISH_MAX: Duration = Duration::from_secs(30);
/// Pause before the first new try, doubled up to the last.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Writes of local WAL are few at once.
const RING_ENTRIES: u32 = 64;
