//! One connection to the primary, from its beginning to its end: receives, makes durable, acknowledges, takes in.

use std::time::{Duration, Instant, SystemTime};

use engine::ingest::Due;
use engine::types::Lsn;
use futures_util::FutureExt;
use postgres::replication::{
    Connection, ConnectionSettings, Keepalive, ReplicationStart, Report, TimelineHistory,
    TimelineSwitch, WalData, WalEvent, WalFacts, WalReceiver, WalReceiverConfig,
};
use tokio::time::MissedTickBehavior;

use super::error::FollowError;
use super::intake::Intake;
use super::log::BranchLog;
use super::slot_keeper::SlotKeeper;
use super::status::{FollowStatus, Phase};
use super::upkeep::Upkeep;
use super::writer_side::{WriterSide, Written};
use crate::cpu::BlockingThreads;

/// A branch that is open for writing: what lives longer than a connection.
pub(super) struct OpenBranch {
    pub(super) intake: Intake,
    pub(super) log: BranchLog,
    pub(super) writer: WriterSide,
    pub(super) upkeep: Upkeep,
    pub(super) limits: Limits,
    pub(super) status: FollowStatus,
    /// Timeline that the branch begins on, where no WAL of it was taken yet.
    pub(super) begins_on: Option<u32>,
    /// Since when there is something in memory.
    pub(super) unflushed_since: Option<Instant>,
    /// What the primary's clock said when it sent what was received last.
    pub(super) sent_at: SystemTime,
    pub(super) received_bytes: u64,
}

/// What a follower may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of versions in active memory layers: a flush begins at half of it, and what comes waits beyond it.
    pub(super) memory_bytes: usize,
    /// Memory layers are flushed when they are as old.
    pub(super) flush_after: Duration,
}

/// How a session ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// We were told to stop.
    Stopped,
    /// The primary shuts down.
    PrimaryShutDown,
    /// Its WAL goes on with another timeline.
    Switched,
}

/// The part of a session that ends with its connection.
struct Stream<'s> {
    receiver: WalReceiver,
    slot: &'s SlotKeeper,
    /// What was reported last.
    reported: Report,
    reported_at: Option<Instant>,
    /// End of its WAL, as the primary said last.
    server_end: Lsn,
    /// Since when nothing more could be taken.
    stalled_since: Option<Instant>,
    /// When the rate of receiving was measured last, and what had been received then.
    measured: (Instant, u64),
}

impl OpenBranch {
    /// Connects, and follows until the connection ends or `stop` is closed.
    pub(super) async fn follow(
        &mut self,
        settings: &ConnectionSettings,
        slot: &SlotKeeper,
        system_identifier: u64,
        stop: &async_channel::Receiver<()>,
    ) -> Result<SessionEnd, FollowError> {
        self.status.set_phase(Phase::Connecting);
        let from = StreamStart {
            at: self.log.end(),
            taken: self.taken_end(),
            timeline: self.intake.timeline().or(self.begins_on),
            system_identifier,
        };
        let connecting = connect(settings.clone(), from);
        let (receiver, timeline) = tokio::select! {
            connected = connecting => connected?,
            _ = stop.recv() => return Ok(SessionEnd::Stopped),
        };
        self.log.begin(timeline).await?;
        self.status.set_phase(Phase::Streaming);
        let mut stream = Stream {
            receiver,
            slot,
            reported: Report::default(),
            reported_at: None,
            stalled_since: None,
            server_end: Lsn::INVALID,
            measured: (now(), self.received_bytes),
        };
        let outcome = self.run(&mut stream, stop).await;
        match &outcome {
            Ok(SessionEnd::Stopped) => stream.receiver.close("the server stops").await,
            Ok(SessionEnd::PrimaryShutDown | SessionEnd::Switched) => {}
            Err(error) => stream.receiver.close(&error.to_string()).await,
        }
        outcome
    }

    async fn run(
        &mut self,
        stream: &mut Stream<'_>,
        stop: &async_channel::Receiver<()>,
    ) -> Result<SessionEnd, FollowError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_room = self.has_room(stream)?;
            let has_work = self.intake.has_work();
            let taken = self.taken_end();
            let end = tokio::select! {
                () = std::future::ready(()), if has_work && has_room => {
                    // What it makes readable is durable first.
                    self.log.commit().await?;
                    self.intake.work().await?;
                    None
                }
                event = stream.receiver.next(), if has_room && !has_work => {
                    let heard = take_event(&mut self.log, &mut self.intake, event?, taken).await?;
                    self.hear(stream, heard)
                }
                stored = self.log.stored() => {
                    stored?;
                    self.log.trim().await?;
                    stream.slot.advance(self.log.stored_end());
                    None
                }
                written = self.writer.written() => {
                    self.after_write(written?).await;
                    None
                }
                advanced = self.intake.advanced() => {
                    advanced?;
                    None
                }
                _ = ticks.tick() => None,
                _ = stop.recv() => return Ok(SessionEnd::Stopped),
            };
            self.take_what_is_there(stream).await?;
            // Durable first, then acknowledged, then readable, while what comes next is made durable.
            self.log.commit().await?;
            self.report(stream).await?;
            self.intake.begin_advance()?;
            // On its way to the cores before anything else is waited for.
            if let Some(advanced) = self.intake.advanced().now_or_never() {
                advanced?;
            }
            // Between two pieces: else there might be one on its way at every look.
            self.flush_if_due().await?;
            self.upkeep.go_on(&mut self.writer).await;
            self.log.store_if_due();
            self.tell(stream);
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Goes on with what is there while the primary is away: makes it durable, readable, and stores it.
    pub(super) async fn meanwhile(&mut self, wait: Duration) -> Result<(), FollowError> {
        let until = now() + wait;
        loop {
            self.log.commit().await?;
            self.intake.work().await?;
            self.intake.advance().await?;
            self.flush_if_due().await?;
            self.upkeep.go_on(&mut self.writer).await;
            self.log.store_now();
            let left = until.saturating_duration_since(now());
            if left.is_zero() && !self.is_full() {
                return Ok(());
            }
            // Whatever comes first: it is looked at once more.
            tokio::select! {
                stored = self.log.stored() => {
                    stored?;
                    self.log.trim().await?;
                }
                written = self.writer.written() => self.after_write(written?).await,
                () = tokio::time::sleep(left.clamp(Duration::from_millis(1), TICK)) => {}
            }
        }
    }

    /// Makes all of it durable in the object store: what is received in pieces of WAL, what is in memory in layers.
    pub(super) async fn finish(&mut self) -> Result<(), FollowError> {
        self.log.commit().await?;
        while self.intake.has_work() {
            self.intake.work().await?;
        }
        self.intake.advance().await?;
        while self.log.stored_end() < self.log.end() {
            self.log.store_now();
            self.log.stored().await?;
        }
        self.limits.flush_after = Duration::ZERO;
        loop {
            if !self.writer.is_idle() {
                let written = self.writer.written().await?;
                self.after_write(written).await;
            } else if self.intake.memory_bytes() == 0 {
                return Ok(());
            }
            self.flush_if_due().await?;
        }
    }

    /// Gives up all that is under way, and waits until it is: what it was doing must not meet those who open the branch anew.
    pub(super) async fn abandon(mut self) {
        // Who opens the branch anew must not be met by what the cores still take.
        self.intake.settle().await;
        self.writer.abandon().await;
        self.upkeep.abandon().await;
        self.log.abandon().await;
    }

    /// Up to where there is something of the branch: received, or in layers without the WAL it came from.
    fn taken_end(&self) -> Lsn {
        self.log.end().max(self.intake.readable())
    }

    /// Whether nothing more can be taken.
    fn is_full(&self) -> bool {
        self.full().is_some()
    }

    /// Why nothing more can be taken.
    fn full(&self) -> Option<&'static str> {
        if self.intake.memory_bytes() >= self.limits.memory_bytes {
            Some("memory layers are full, and the object store does not take them")
        } else if !self.log.has_room() {
            Some("the object store does not take the WAL")
        } else if self.log.usage().bytes_free < GROUP_BYTES {
            Some("the local WAL is full")
        } else {
            None
        }
    }

    /// Takes what has arrived already, so that one write of the local WAL makes much of it durable.
    async fn take_what_is_there(&mut self, stream: &mut Stream<'_>) -> Result<(), FollowError> {
        let begun = self.log.end();
        while self.log.end().0 - begun.0 < GROUP_BYTES
            && !self.intake.has_work()
            && self.has_room(stream)?
        {
            let taken = self.taken_end();
            let Some(event) = stream.receiver.next().now_or_never() else {
                break;
            };
            let event = event?;
            if !matches!(event, WalEvent::Wal(_) | WalEvent::Keepalive(_)) {
                // It is answered again by the next call.
                break;
            }
            let heard = take_event(&mut self.log, &mut self.intake, event, taken).await?;
            self.hear(stream, heard);
        }
        Ok(())
    }

    /// Notes what was heard; the end of the stream, if it was that.
    fn hear(&mut self, stream: &mut Stream<'_>, heard: Heard) -> Option<SessionEnd> {
        match heard {
            Heard::Wal {
                sent_at,
                server_end,
                bytes,
            } => {
                self.sent_at = sent_at;
                self.received_bytes += bytes;
                stream.server_end = stream.server_end.max(server_end);
                None
            }
            Heard::Keepalive {
                server_end,
                wants_reply,
            } => {
                stream.server_end = stream.server_end.max(server_end);
                if wants_reply {
                    stream.reported_at = None;
                }
                None
            }
            Heard::Ended(end) => Some(end),
        }
    }

    /// Whether more may be taken. Where that is not so for long, the connection is better closed.
    fn has_room(&self, stream: &mut Stream<'_>) -> Result<bool, FollowError> {
        let Some(what) = self.full() else {
            stream.stalled_since = None;
            return Ok(true);
        };
        let since = *stream.stalled_since.get_or_insert_with(now);
        if since.elapsed() > STALL_MAX {
            return Err(FollowError::Stalled(what.to_owned()));
        }
        Ok(false)
    }

    async fn report(&mut self, stream: &mut Stream<'_>) -> Result<(), FollowError> {
        let received = stream.receiver.position();
        let report = Report {
            write: received,
            flush: self.log.acknowledged().min(received),
            apply: self.intake.readable().min(received),
            ..Report::default()
        };
        let is_due = stream
            .reported_at
            .is_none_or(|reported_at| reported_at.elapsed() >= REPORT_EVERY);
        if is_due || report != stream.reported {
            stream.receiver.report(report).await?;
            stream.reported = report;
            stream.reported_at = Some(now());
        }
        Ok(())
    }

    /// Begins a flush, if there is enough in memory or it is old enough, and none is at work.
    async fn flush_if_due(&mut self) -> Result<(), FollowError> {
        let bytes = self.intake.memory_bytes();
        if bytes == 0 {
            self.unflushed_since = None;
            return Ok(());
        }
        let since = *self.unflushed_since.get_or_insert_with(now);
        let is_due =
            bytes >= self.limits.memory_bytes / 2 || since.elapsed() >= self.limits.flush_after;
        if !is_due || !self.writer.is_idle() {
            return Ok(());
        }
        // While a piece is on its way it can't be told where the WAL goes on; the next tick comes soon.
        let Some(wal) = self.log.position(self.intake.readable()) else {
            return Ok(());
        };
        let frozen = self.intake.freeze().await?;
        self.unflushed_since = None;
        self.writer.begin(async move |flusher| {
            let flushed = flusher.flush(frozen, wal, &BlockingThreads).await?;
            Ok(Written::Flushed(flushed, wal))
        });
        Ok(())
    }

    async fn after_write(&mut self, written: Written) {
        match written {
            Written::Flushed(flushed, wal) => {
                self.log.forget_before(wal);
                self.upkeep.layers_came();
                self.status.update(|progress| {
                    progress.flushed = flushed.durable_lsn;
                    progress.flushes += 1;
                    progress.layer_bytes += flushed.layer_bytes;
                });
            }
            Written::Compacted(compaction, removed) => {
                tracing::info!(?compaction, "layers were merged");
                self.upkeep.committed(removed);
                self.status.update(|progress| {
                    progress.compactions += 1;
                    progress.dropped_versions += compaction.dropped;
                    progress.merged_bytes += compaction.bytes_in;
                    progress.compacted_bytes += compaction.bytes_out;
                });
            }
            Written::Retained(retention, due) => {
                if let Due::Raise(horizon) = due {
                    self.status.update(|progress| progress.horizon = horizon);
                }
                self.upkeep.retained(retention, due);
            }
        }
    }

    fn tell(&self, stream: &mut Stream<'_>) {
        let usage = self.log.usage();
        let (since, before) = stream.measured;
        let rate = (since.elapsed() >= RATE_OVER).then(|| {
            stream.measured = (now(), self.received_bytes);
            (self.received_bytes - before) / since.elapsed().as_secs().max(1)
        });
        self.status.update(|progress| {
            progress.receive_rate = rate.unwrap_or(progress.receive_rate);
            progress.received = stream.receiver.position();
            progress.local = self.log.local_end();
            progress.stored = self.log.stored_end();
            progress.readable = self.intake.readable();
            progress.acknowledged = stream.reported.flush;
            progress.server_end = stream.server_end.max(stream.receiver.position());
            progress.slot = stream.slot.position();
            progress.memory_bytes = self.intake.memory_bytes() as u64;
            progress.wal_bytes = usage.bytes_used;
            progress.wal_bytes_free = usage.bytes_free;
            progress.records = self.intake.taken();
            progress.received_bytes = self.received_bytes;
            let behind = wall_time().duration_since(self.sent_at);
            let is_behind = progress.server_end > progress.readable && self.received_bytes > 0;
            progress.lag = behind.ok().filter(|_| is_behind).unwrap_or_default();
        });
    }
}

/// What an event said.
enum Heard {
    Wal {
        sent_at: SystemTime,
        server_end: Lsn,
        bytes: u64,
    },
    Keepalive {
        server_end: Lsn,
        wants_reply: bool,
    },
    Ended(SessionEnd),
}

/// Takes in what has come.
async fn take_event(
    log: &mut BranchLog,
    intake: &mut Intake,
    event: WalEvent<'_>,
    taken: Lsn,
) -> Result<Heard, FollowError> {
    match event {
        WalEvent::Wal(WalData {
            start,
            bytes,
            server_end,
            sent_at,
        }) => {
            log.append(start, bytes).await?;
            intake.take(start, bytes)?;
            Ok(Heard::Wal {
                sent_at,
                server_end,
                bytes: bytes.len() as u64,
            })
        }
        WalEvent::Keepalive(Keepalive {
            server_end,
            wants_reply,
            ..
        }) => Ok(Heard::Keepalive {
            server_end,
            wants_reply,
        }),
        WalEvent::EndOfTimeline(TimelineSwitch { timeline, at }) => {
            if at < taken {
                let end = taken;
                return Err(FollowError::Forked { timeline, at, end });
            }
            Ok(Heard::Ended(SessionEnd::Switched))
        }
        WalEvent::Shutdown => Ok(Heard::Ended(SessionEnd::PrimaryShutDown)),
    }
}

/// Where a stream begins, and what it has to go on from.
#[derive(Debug, Clone, Copy)]
struct StreamStart {
    at: Lsn,
    /// Up to where there is something of the branch already, perhaps in layers only.
    taken: Lsn,
    /// Timeline of the last WAL that was taken, if that is known.
    timeline: Option<u32>,
    system_identifier: u64,
}

/// Connects and asks for the WAL; on which timeline it comes.
async fn connect(
    settings: ConnectionSettings,
    from: StreamStart,
) -> Result<(WalReceiver, u32), FollowError> {
    let connecting = tokio::task::spawn_blocking(move || {
        let mut connection = Connection::open(&settings)?;
        let facts = WalFacts::read(&mut connection)?;
        let found = facts.stream.system_identifier;
        if found != from.system_identifier {
            return Err(FollowError::OtherCluster {
                found,
                wanted: from.system_identifier,
            });
        }
        let history = TimelineHistory::read(&mut connection, facts.stream.timeline)?;
        let timeline = history.timeline_at(from.at);
        check_history(&history, &from, timeline)?;
        let start = ReplicationStart {
            slot: None,
            timeline,
            at: from.at,
        };
        Ok((start.begin(connection)?, timeline))
    });
    let (started, timeline) = match connecting.await {
        Ok(connected) => connected?,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    let receiver = WalReceiver::new(started, &WalReceiverConfig::default())?;
    Ok((receiver, timeline))
}

/// Whether the byte before the start is one of the server's history.
fn check_history(
    history: &TimelineHistory,
    from: &StreamStart,
    timeline: u32,
) -> Result<(), FollowError> {
    let Some(ours) = from.timeline else {
        return Ok(());
    };
    let left_at = match history.span_of(ours) {
        Some(span) => span.end,
        // Its way never was on our timeline.
        None => Some(Lsn::INVALID),
    };
    match left_at.filter(|left_at| *left_at < from.taken) {
        Some(at) => Err(FollowError::Forked {
            timeline,
            at,
            end: from.taken,
        }),
        None => Ok(()),
    }
}

/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_millis(100);
/// The primary hears of us so often at least.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Time over which the rate of receiving is measured.
const RATE_OVER: Duration = Duration::from_secs(5);
/// WAL that is made durable at once.
const GROUP_BYTES: u64 = 1 << 20;
/// How long nothing may be taken before the connection is closed.
const STALL_MAX: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "since when something lasts")]
fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "compared with the primary's clock, for a figure of the lag"
)]
fn wall_time() -> SystemTime {
    SystemTime::now()
}
