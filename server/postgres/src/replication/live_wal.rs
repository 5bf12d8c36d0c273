//! The WAL of a running server, as it is written: `START_REPLICATION` without a slot.
//!
//! Nothing keeps the server from removing WAL that was not read yet, and nothing waits for us: answers to its questions
//! say what was received and never that anything is safe, so that no commit counts it as a standby's word.

use engine::types::Lsn;
use postgres_protocol::message::backend::Message;

use super::connection::{Connection, Incoming, ReplicationError, bytes_of_size, unexpected};
use super::settings::ConnectionSettings;
use crate::bytes_at::array_at;
use crate::control_file::is_wal_segment_size;
use crate::wal::{
    Decoded, Record, WalDecoder, WalError, WalStream, WalVersion, first_record_of_segment,
};

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
    stream: WalStream,
    start: Lsn,
    flushed: Lsn,
    has_data_checksums: bool,
    wal_log_hints: bool,
}

impl LiveWal {
    /// Connects, and asks for the WAL from the segment on that holds `from`: the one that the server is writing, if
    /// that is `None`.
    /// # Errors
    /// The server's: for a role without REPLICATION, no free `max_wal_senders`, WAL that it has removed.
    pub fn open(settings: &ConnectionSettings, from: Option<Lsn>) -> Result<LiveWal, LiveWalError> {
        let mut connection = Connection::open(settings)?;
        let release = connection.parameter("server_version").unwrap_or("unknown");
        let major = release.split(|c: char| !c.is_ascii_digit()).next();
        let version = major
            .and_then(|major| major.parse().ok())
            .and_then(WalVersion::from_postgres_major)
            .ok_or_else(|| ReplicationError::Version(release.to_owned()))?;
        let segment_bytes = bytes_of_size(&connection.show("wal_segment_size")?)
            .and_then(|bytes| u32::try_from(bytes).ok())
            .filter(|bytes| is_wal_segment_size(*bytes))
            .ok_or_else(|| unexpected("as the size of WAL segments"))?;
        let has_data_checksums = connection.show("data_checksums")? == "on";
        let wal_log_hints = connection.show("wal_log_hints")? == "on";
        let (system_identifier, timeline, flushed) = identity(&mut connection)?;
        // At the end of a segment the next one has nothing yet.
        let from = from.unwrap_or(Lsn(flushed.0.saturating_sub(1)));
        let segment = Lsn(from.0 - from.0 % u64::from(segment_bytes));
        connection.start_copy_both(&format!(
            "START_REPLICATION PHYSICAL {segment} TIMELINE {timeline}"
        ))?;
        let stream = WalStream {
            system_identifier,
            version,
            timeline,
            segment_bytes,
        };
        let mut live = LiveWal {
            connection,
            decoder: WalDecoder::new(stream, segment),
            stream,
            start: segment,
            flushed,
            has_data_checksums,
            wal_log_hints,
        };
        live.receive_first(segment)?;
        Ok(live)
    }

    /// Which WAL it is.
    pub fn stream(&self) -> WalStream {
        self.stream
    }

    /// Where the first record begins.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// What the server had on its disk when it was asked.
    pub fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// Whether pages carry checksums.
    pub fn has_data_checksums(&self) -> bool {
        self.has_data_checksums
    }

    /// Whether the server logs hint bits even without checksums. It may not have been so where the WAL begins.
    pub fn wal_log_hints(&self) -> bool {
        self.wal_log_hints
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
        self.decoder = WalDecoder::new(self.stream, self.start);
        Ok(())
    }

    /// Receives the next WAL and answers what the server asks; no if the server has ended it.
    fn receive(&mut self) -> Result<bool, ReplicationError> {
        loop {
            match self.connection.receive()? {
                Incoming::CopyData => match self.connection.copy_data() {
                    [b'w', ..] => return Ok(true),
                    keepalive @ [b'k', ..] => {
                        if keepalive.get(KEEPALIVE_ASKS_AT) == Some(&1) {
                            self.report()?;
                        }
                    }
                    _ => return Err(unexpected("in a stream of WAL")),
                },
                Incoming::Message(Message::CopyDone) => return Ok(false),
                Incoming::Row(_) | Incoming::Message(_) => {
                    return Err(unexpected("within a stream of WAL"));
                }
            }
        }
    }

    /// Tells the server what was received. Nothing of it is flushed or applied anywhere.
    fn report(&mut self) -> Result<(), ReplicationError> {
        let mut report = vec![b'r'];
        report.extend(self.decoder.position().0.to_be_bytes());
        // Flushed, applied, our time; and no question of ours.
        report.extend([0; 8 + 8 + 8 + 1]);
        self.connection.send_copy_data(&report)
    }
}

/// Position and bytes of a message of WAL.
fn wal_data(message: &[u8]) -> Option<(Lsn, &[u8])> {
    let at = array_at(message, 1).map(u64::from_be_bytes)?;
    Some((Lsn(at), message.get(WAL_DATA_AT..)?))
}

/// System identifier, timeline and what is flushed.
fn identity(connection: &mut Connection) -> Result<(u64, u32, Lsn), ReplicationError> {
    let rows = connection.query("IDENTIFY_SYSTEM")?;
    let identity = match rows.first().map(Vec::as_slice) {
        Some([Some(system), Some(timeline), Some(flushed), ..]) => system
            .parse()
            .ok()
            .zip(timeline.parse().ok())
            .zip(flushed.parse().ok()),
        _ => None,
    };
    let ((system, timeline), flushed) =
        identity.ok_or_else(|| unexpected("in answer to IDENTIFY_SYSTEM"))?;
    Ok((system, timeline, flushed))
}

/// Behind the tag, the position, the server's end of WAL and its time.
const WAL_DATA_AT: usize = 1 + 8 + 8 + 8;
/// Behind the tag, the server's end of WAL and its time.
const KEEPALIVE_ASKS_AT: usize = 1 + 8 + 8;
