//! The WAL of a running server, as it is written: `START_REPLICATION` without a slot.
//!
//! Nothing keeps the server from removing WAL that was not read yet, and nothing waits for us: answers to its questions
//! say what was received and never that anything is safe, so that no commit counts it as a standby's word.

use engine::types::Lsn;
use postgres_protocol::message::backend::Message;

use super::connection::{Connection, Incoming, SILENCE_MAX};
use super::replication_error::{ReplicationError, unexpected};
use super::replication_start::ReplicationStart;
use super::settings::ConnectionSettings;
use super::wal_facts::WalFacts;
use super::wal_messages::{Report, WalMessage};
use crate::wal::{Decoded, Record, WalDecoder, WalError, WalStream, first_record_of_segment};

/// Why the WAL of a server was not read to where it should have been.
#[derive(Debug, thiserror::Error)]
pub enum LiveWalError {
    /// The server, or the way to it.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// What it sent.
    #[error("the server sent WAL that is damaged")]
    Wal(#[from] WalError),
    /// It stopped sending: it shuts down, or went on to another timeline.
    #[error("the server ended its WAL at {at}, before {until}")]
    Ended {
        /// Where.
        at: Lsn,
        /// What was wanted.
        until: Lsn,
    },
}

/// A server's WAL from the first record of a segment on.
pub struct LiveWal {
    connection: Connection,
    decoder: WalDecoder,
    facts: WalFacts,
    start: Lsn,
}

impl LiveWal {
    /// Connects, and asks for the WAL from the segment on that holds `from`: the one that the server is writing, if
    /// that is `None`.
    /// # Errors
    /// The server's: for a role without REPLICATION, no free `max_wal_senders`, WAL that it has removed.
    pub fn open(settings: &ConnectionSettings, from: Option<Lsn>) -> Result<LiveWal, LiveWalError> {
        let mut connection = Connection::open(settings)?;
        let facts = WalFacts::read(&mut connection)?;
        // At the end of a segment the next one has nothing yet.
        let from = from.unwrap_or(Lsn(facts.flushed.0.saturating_sub(1)));
        let segment = Lsn(from.0 - from.0 % u64::from(facts.stream.segment_bytes));
        let start = ReplicationStart {
            slot: None,
            timeline: facts.stream.timeline,
            at: segment,
        };
        let connection = start.begin(connection)?.connection;
        connection
            .set_silence_max(SILENCE_MAX)
            .map_err(ReplicationError::from)?;
        let mut live = LiveWal {
            connection,
            decoder: WalDecoder::new(facts.stream, segment),
            facts,
            start: segment,
        };
        live.receive_first(segment)?;
        Ok(live)
    }

    /// Which WAL it is.
    pub fn stream(&self) -> WalStream {
        self.facts.stream
    }

    /// Where the first record begins.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// What the server had on its disk when it was asked.
    pub fn flushed(&self) -> Lsn {
        self.facts.flushed
    }

    /// Whether pages carry checksums.
    pub fn has_data_checksums(&self) -> bool {
        self.facts.has_data_checksums
    }

    /// Whether the server logs hint bits even without checksums. It may not have been so where the WAL begins.
    pub fn wal_log_hints(&self) -> bool {
        self.facts.wal_log_hints
    }

    /// Hands every record that ends at or before `until` to `visit`; waits until the server has written that far.
    /// # Errors
    /// The server's, WAL that is damaged, or what `visit` answers.
    pub fn for_each<E: From<LiveWalError>>(
        &mut self,
        until: Lsn,
        mut visit: impl FnMut(&Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        // The message with the start is there.
        loop {
            let message = self.connection.copy_data();
            let Some((at, mut rest)) = wal_data(message) else {
                return Err(LiveWalError::from(unexpected("as WAL")).into());
            };
            let wanted = self.decoder.position();
            // The first record may be further on.
            let before = wanted.bytes_since(at);
            let before = before.and_then(|before| usize::try_from(before).ok());
            let Some(before) = before else {
                return Err(LiveWalError::from(unexpected("behind a gap of WAL")).into());
            };
            rest = rest.get(before..).unwrap_or(&[]);
            while !rest.is_empty() {
                let Decoded { consumed, record } =
                    self.decoder.decode(rest).map_err(LiveWalError::from)?;
                if let Some(record) = record {
                    if record.end <= until {
                        visit(&record)?;
                    }
                    if record.end >= until {
                        return Ok(());
                    }
                }
                rest = &rest[consumed..];
            }
            let position = self.decoder.position();
            if position >= until {
                return Ok(());
            }
            if !self.receive().map_err(LiveWalError::from)? {
                let ended = LiveWalError::Ended {
                    at: position,
                    until,
                };
                return Err(ended.into());
            }
        }
    }

    /// Receives until the beginning of the segment is there, and finds its first record.
    fn receive_first(&mut self, segment: Lsn) -> Result<(), LiveWalError> {
        if !self.receive()? {
            return Err(unexpected("instead of WAL").into());
        }
        let first = wal_data(self.connection.copy_data())
            .filter(|(at, _)| *at == segment)
            .and_then(|(_, data)| first_record_of_segment(data));
        self.start = first.ok_or_else(|| unexpected("at the beginning of a WAL segment"))?;
        self.decoder = WalDecoder::new(self.facts.stream, self.start);
        Ok(())
    }

    /// Receives the next WAL and answers what the server asks; no if the server has ended it.
    fn receive(&mut self) -> Result<bool, ReplicationError> {
        loop {
            match self.connection.receive()? {
                Incoming::CopyData => match WalMessage::decode(self.connection.copy_data()) {
                    Some(WalMessage::Wal { .. }) => return Ok(true),
                    Some(WalMessage::Keepalive { wants_reply, .. }) => {
                        if wants_reply {
                            self.report()?;
                        }
                    }
                    None => return Err(unexpected("in a stream of WAL")),
                },
                // At the end of its timeline, and in a shutdown.
                Incoming::Message(Message::CopyDone | Message::CommandComplete(_)) => {
                    return Ok(false);
                }
                Incoming::Row(_) | Incoming::Message(_) => {
                    return Err(unexpected("within a stream of WAL"));
                }
            }
        }
    }

    /// Tells the server what was received. Nothing of it is flushed or applied anywhere.
    fn report(&mut self) -> Result<(), ReplicationError> {
        let report = Report {
            write: self.decoder.position(),
            ..Report::default()
        };
        self.connection.send_copy_data(&report.encode())
    }
}

/// Position and bytes of a message of WAL.
fn wal_data(message: &[u8]) -> Option<(Lsn, &[u8])> {
    match WalMessage::decode(message)? {
        WalMessage::Wal { start, bytes, .. } => Some((start, bytes)),
        WalMessage::Keepalive { .. } => None,
    }
}
