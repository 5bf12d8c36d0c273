//! `BASE_BACKUP` as a stream of archives.
//!
//! The server sends a row with the start, rows of tablespaces, then one copy in which each message is tagged: a new
//! archive begins, data, progress, manifest; then a row with the end. All archives but the last are of tablespaces, the
//! last is of the data directory, ends with `pg_control`, and has the WAL behind it.
//!
//! The reader of an archive holds one message in memory. Dropping the backup drops the connection, and the server gives
//! the backup up.

use std::io::{self, Read};

use engine::types::Lsn;
use postgres_protocol::message::backend::Message;

use super::connection::{Connection, Incoming, SILENCE_MAX};
use super::message::Row;
use super::replication_error::{ReplicationError, unexpected};

/// How hard the server hurries with the checkpoint that a backup begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CheckpointPace {
    /// At once.
    #[default]
    Fast,
    /// Spread over its `checkpoint_completion_target`: minutes.
    Spread,
}

/// What to ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackupOptions {
    /// Pace of the first checkpoint.
    pub checkpoint: CheckpointPace,
}

/// A tablespace made by a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TablespaceFacts {
    /// Its oid.
    pub oid: u32,
    /// Where the server has it.
    pub path: String,
}

/// What the server says at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupEnd {
    /// Consistent from here.
    pub stop_lsn: Lsn,
    /// Timeline at the end.
    pub timeline: u32,
}

/// A backup under way.
pub struct BaseBackup {
    connection: Connection,
    /// Redo would begin here.
    pub start_lsn: Lsn,
    /// Timeline at the start.
    pub timeline: u32,
    /// Tablespaces besides the default one.
    pub tablespaces: Vec<TablespaceFacts>,
    /// Estimate of all files' bytes.
    pub estimated_bytes: u64,
    state: State,
}

enum State {
    /// Archive data from here on in the connection's last message.
    Data { at: usize },
    /// The next archive has begun.
    Archive(String),
    /// The copy is over.
    Over,
}

impl BaseBackup {
    /// Starts a backup with its WAL; blocks until the server's first checkpoint is done.
    /// # Errors
    /// The server's, for a role without REPLICATION, no free `max_wal_senders`, or `wal_level = minimal`.
    pub fn start(
        mut connection: Connection,
        options: BackupOptions,
    ) -> Result<BaseBackup, ReplicationError> {
        let pace = match options.checkpoint {
            CheckpointPace::Fast => "fast",
            CheckpointPace::Spread => "spread",
        };
        connection.set_silence_max(SILENCE_MAX)?;
        connection.send_query(&format!(
            "BASE_BACKUP (LABEL 'pageserver import', PROGRESS, CHECKPOINT '{pace}', WAIT 0, WAL, \
             MANIFEST 'no', TABLESPACE_MAP)"
        ))?;
        let start = rows(&mut connection)?;
        let (start_lsn, timeline) = position(&start)?;
        let mut tablespaces = Vec::new();
        let mut estimated_kib = 0u64;
        for row in rows(&mut connection)? {
            let [oid, path, kib] = row.as_slice() else {
                return Err(unexpected("as a row of tablespaces"));
            };
            let kib = kib.as_deref().and_then(|kib| kib.parse::<u64>().ok());
            estimated_kib = estimated_kib.saturating_add(kib.unwrap_or(0));
            if let (Some(oid), Some(path)) = (oid, path) {
                let oid = oid
                    .parse()
                    .map_err(|_| unexpected("as the oid of a tablespace"))?;
                let path = path.clone();
                tablespaces.push(TablespaceFacts { oid, path });
            }
        }
        match connection.receive()? {
            Incoming::Message(Message::CopyOutResponse(_)) => {}
            _ => return Err(unexpected("instead of the backup")),
        }
        let mut backup = BaseBackup {
            connection,
            start_lsn,
            timeline,
            tablespaces,
            estimated_bytes: estimated_kib.saturating_mul(1024),
            state: State::Data { at: usize::MAX },
        };
        backup.next_message()?;
        Ok(backup)
    }

    /// The name of the next archive (`base.tar`, `16384.tar`), whose content this backup then reads as; what was
    /// not read of the one before is passed over. `None` behind the last.
    /// # Errors
    /// The server's, or a lost connection.
    pub fn next_archive(&mut self) -> Result<Option<String>, ReplicationError> {
        loop {
            match &mut self.state {
                State::Data { .. } => self.next_message()?,
                State::Archive(name) => {
                    let name = std::mem::take(name);
                    self.state = State::Data { at: usize::MAX };
                    return Ok(Some(name));
                }
                State::Over => return Ok(None),
            }
        }
    }

    /// Ends the backup, behind the last archive.
    /// # Errors
    /// The server's: not all of the backup is good then.
    pub fn finish(mut self) -> Result<BackupEnd, ReplicationError> {
        let end = rows(&mut self.connection)?;
        let (stop_lsn, timeline) = position(&end)?;
        self.connection.until_ready()?;
        Ok(BackupEnd { stop_lsn, timeline })
    }

    /// Receives until there is data, an archive begins, or the copy is over.
    fn next_message(&mut self) -> Result<(), ReplicationError> {
        loop {
            match self.connection.receive()? {
                Incoming::CopyData => match self.connection.copy_data() {
                    [b'd', _, ..] => {
                        self.state = State::Data { at: 1 };
                        return Ok(());
                    }
                    [b'n', names @ ..] => {
                        let name = names.split(|byte| *byte == 0).next().unwrap_or(&[]);
                        let name = String::from_utf8_lossy(name).into_owned();
                        self.state = State::Archive(name);
                        return Ok(());
                    }
                    // Progress, which we count ourselves, and an empty piece of data.
                    [b'p', ..] | [b'd'] => {}
                    _ => return Err(unexpected("in the backup's copy")),
                },
                Incoming::Message(Message::CopyDone) => {
                    self.state = State::Over;
                    return Ok(());
                }
                Incoming::Row(_) | Incoming::Message(_) => {
                    return Err(unexpected("within the backup's copy"));
                }
            }
        }
    }
}

impl Read for BaseBackup {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let State::Data { at } = &mut self.state else {
                return Ok(0);
            };
            let data = self.connection.copy_data().get(*at..).unwrap_or(&[]);
            if !data.is_empty() {
                let taken = data.len().min(buffer.len());
                buffer[..taken].copy_from_slice(&data[..taken]);
                *at += taken;
                return Ok(taken);
            }
            self.next_message().map_err(io::Error::other)?;
        }
    }
}

/// The rows of one result.
fn rows(connection: &mut Connection) -> Result<Vec<Row>, ReplicationError> {
    let mut rows = Vec::new();
    loop {
        match connection.receive()? {
            Incoming::Message(Message::RowDescription(_)) => {}
            Incoming::Row(row) => rows.push(row),
            Incoming::Message(Message::CommandComplete(_)) => return Ok(rows),
            Incoming::CopyData | Incoming::Message(_) => {
                return Err(unexpected("instead of a result"));
            }
        }
    }
}

/// The LSN and timeline of a backup's start or end.
fn position(rows: &[Row]) -> Result<(Lsn, u32), ReplicationError> {
    let position = match rows {
        [row] => match row.as_slice() {
            [Some(lsn), Some(timeline)] => lsn.parse().ok().zip(timeline.parse().ok()),
            _ => None,
        },
        _ => None,
    };
    position.ok_or_else(|| unexpected("as a position of the backup"))
}
