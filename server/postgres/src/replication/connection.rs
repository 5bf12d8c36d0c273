//! A connection to a server: startup, simple commands, messages. Blocking.
//!
//! Two kinds: one for physical replication, which takes replication commands and `SHOW`, and one to a database, which takes
//! SQL and no place among `max_wal_senders`. Dropping a connection closes it, which ends whatever command runs on the
//! server.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::{self, CopyData};

use super::authentication::{authenticate, is_loopback};
use super::frame_buffer::{Frame, FrameBuffer};
use super::message::{
    COPY_BOTH_RESPONSE, COPY_DATA, DATA_ROW, ERROR_RESPONSE, NOTICE_RESPONSE, PARAMETER_STATUS,
    ROW_DESCRIPTION, Row, decode_row,
};
use super::replication_error::{ReplicationError, closed, server_error, unexpected};
use super::settings::{ConnectionSettings, Host, SslMode};
use super::tls;
use super::transport::Transport;

/// What comes from a server in answer to a command.
pub(super) enum Incoming {
    /// CopyData, whose content is in [`Connection::copy_data`].
    CopyData,
    /// A row of a result.
    Row(Row),
    /// Anything else.
    Message(Message),
}

/// How a server answers the request for a stream.
#[derive(PartialEq, Eq)]
pub(super) enum StreamAnswer {
    /// The stream begins.
    Begins,
    /// There is none; a result says what there is instead.
    Result,
}

/// An authenticated connection, ready for a command.
pub struct Connection {
    transport: Transport,
    input: FrameBuffer,
    /// The message read last.
    frame: Frame,
    parameters: HashMap<String, String>,
    user: String,
}

impl Connection {
    /// Connects for physical replication and authenticates; blocks. No step of it takes longer than
    /// `connect_timeout`.
    /// # Errors
    /// See [`ReplicationError`].
    pub fn open(settings: &ConnectionSettings) -> Result<Connection, ReplicationError> {
        Self::start(settings, ("replication", "true"))
    }

    /// Connects to the settings' database for SQL; blocks. The role needs no REPLICATION for it, and a line of
    /// `pg_hba.conf` for that database.
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_database(settings: &ConnectionSettings) -> Result<Connection, ReplicationError> {
        Self::start(settings, ("database", &settings.database))
    }

    fn start(
        settings: &ConnectionSettings,
        kind: (&str, &str),
    ) -> Result<Connection, ReplicationError> {
        let transport = connect(settings)?;
        let is_private = !matches!(transport, Transport::Tcp(_)) || is_loopback(&settings.host);
        let mut connection = Connection {
            transport,
            input: FrameBuffer::new(),
            frame: Frame::default(),
            parameters: HashMap::new(),
            user: settings.user.clone(),
        };
        let mut out = BytesMut::new();
        let parameters = [
            ("user", settings.user.as_str()),
            kind,
            ("application_name", settings.application_name.as_str()),
            ("client_encoding", "UTF8"),
        ];
        frontend::startup_message(parameters, &mut out)?;
        connection.send(&out)?;
        authenticate(&mut connection, settings, is_private)?;
        connection.until_ready()?;
        connection.set_silence_max(ANSWER_WAIT_MAX)?;
        Ok(connection)
    }

    /// A parameter that the server reported, `server_version` for example.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The role.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Longest wait for the next bytes of the server, or for it to take ours: a minute, if it is not called.
    pub(super) fn set_silence_max(&self, silence_max: Duration) -> io::Result<()> {
        self.transport.set_timeouts(silence_max)
    }

    /// Runs a command and answers its rows.
    /// # Errors
    /// The server's, after which the connection takes the next command, or a lost connection.
    pub fn query(&mut self, command: &str) -> Result<Vec<Row>, ReplicationError> {
        self.send_query(command)?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            match self.receive() {
                Ok(Incoming::Row(row)) => rows.push(row),
                Ok(Incoming::Message(Message::ReadyForQuery(_))) => {
                    return match failed {
                        None => Ok(rows),
                        Some(error) => Err(error),
                    };
                }
                Ok(Incoming::Message(
                    Message::RowDescription(_)
                    | Message::CommandComplete(_)
                    | Message::EmptyQueryResponse,
                )) => {}
                Ok(Incoming::CopyData | Incoming::Message(_)) => {
                    return Err(unexpected("in answer to a command"));
                }
                Err(error) if error.is_of_a_command() => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
    }

    /// The value of a setting.
    /// # Errors
    /// As [`query`](Self::query).
    pub fn show(&mut self, setting: &str) -> Result<String, ReplicationError> {
        let rows = self.query(&format!("SHOW {setting}"))?;
        match rows.into_iter().flatten().next() {
            Some(Some(value)) => Ok(value),
            _ => Err(unexpected("in answer to SHOW")),
        }
    }

    pub(super) fn send_query(&mut self, command: &str) -> Result<(), ReplicationError> {
        let mut out = BytesMut::new();
        frontend::query(command, &mut out)?;
        self.send(&out)
    }

    /// Sends a command that is answered by messages in both directions, up to where they begin, or by a result, whose
    /// rows are then the next messages.
    pub(super) fn start_copy_both(
        &mut self,
        command: &str,
    ) -> Result<StreamAnswer, ReplicationError> {
        self.send_query(command)?;
        loop {
            match self.read_message()? {
                COPY_BOTH_RESPONSE => return Ok(StreamAnswer::Begins),
                ROW_DESCRIPTION => return Ok(StreamAnswer::Result),
                ERROR_RESPONSE => return Err(server_error(self.body())),
                NOTICE_RESPONSE | PARAMETER_STATUS => {}
                _ => return Err(unexpected("instead of a stream")),
            }
        }
    }

    /// Sends a message of a stream in both directions.
    pub(super) fn send_copy_data(&mut self, content: &[u8]) -> Result<(), ReplicationError> {
        let mut out = BytesMut::new();
        CopyData::new(content)?.write(&mut out);
        self.send(&out)
    }

    /// Content of the CopyData received last.
    pub(super) fn copy_data(&self) -> &[u8] {
        self.body()
    }

    /// The next message that is not a notice or parameter.
    pub(super) fn receive(&mut self) -> Result<Incoming, ReplicationError> {
        loop {
            let tag = self.read_message()?;
            match tag {
                COPY_DATA => return Ok(Incoming::CopyData),
                ERROR_RESPONSE => return Err(server_error(self.body())),
                DATA_ROW => {
                    let row = decode_row(self.body());
                    return Ok(Incoming::Row(row.ok_or_else(|| unexpected("as a row"))?));
                }
                _ => {}
            }
            match self.parse(tag)? {
                Message::NoticeResponse(_) | Message::BackendKeyData(_) => {}
                Message::ParameterStatus(status) => {
                    let (name, value) = (status.name()?.to_owned(), status.value()?.to_owned());
                    self.parameters.insert(name, value);
                }
                other => return Ok(Incoming::Message(other)),
            }
        }
    }

    /// Reads up to the next ReadyForQuery.
    pub(super) fn until_ready(&mut self) -> Result<(), ReplicationError> {
        loop {
            match self.receive()? {
                Incoming::Message(Message::ReadyForQuery(_)) => return Ok(()),
                Incoming::Message(Message::CommandComplete(_)) => {}
                Incoming::CopyData | Incoming::Row(_) | Incoming::Message(_) => {
                    return Err(unexpected("before ready for query"));
                }
            }
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), ReplicationError> {
        self.transport.write_all(bytes).map_err(in_time)?;
        self.transport.flush().map_err(in_time)?;
        Ok(())
    }

    /// The stream of bytes, and what has arrived of it and was not read.
    pub(super) fn into_parts(self) -> (Transport, FrameBuffer) {
        (self.transport, self.input)
    }

    fn body(&self) -> &[u8] {
        self.input.body(&self.frame)
    }

    /// Reads one message; answers its tag.
    fn read_message(&mut self) -> Result<u8, ReplicationError> {
        loop {
            if let Some(frame) = self.input.next()? {
                let tag = frame.tag;
                self.frame = frame;
                return Ok(tag);
            }
            match self.transport.read(self.input.space()?) {
                Ok(0) => return Err(closed()),
                Ok(count) => self.input.filled(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(in_time(error).into()),
            }
        }
    }

    fn parse(&self, tag: u8) -> Result<Message, ReplicationError> {
        let body = self.body();
        let length = u32::try_from(body.len() + 4).expect("at most a MiB");
        let mut whole = BytesMut::with_capacity(body.len() + 5);
        whole.extend_from_slice(&[tag]);
        whole.extend_from_slice(&length.to_be_bytes());
        whole.extend_from_slice(body);
        Message::parse(&mut whole)?.ok_or_else(|| unexpected("cut short"))
    }
}

/// What a socket says when its timeout is over, in words.
fn in_time(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
        }
        _ => error,
    }
}

fn connect(settings: &ConnectionSettings) -> Result<Transport, ReplicationError> {
    let failed = |source| ReplicationError::Connect {
        host: settings.host.to_string(),
        port: settings.port,
        source: in_time(source),
    };
    let (mut stream, host) = match (
        Transport::connect(settings).map_err(failed)?,
        &settings.host,
    ) {
        (Transport::Tcp(stream), Host::Tcp(host)) if settings.ssl_mode != SslMode::Disable => {
            (stream, host)
        }
        // Over a Unix socket libpq uses no TLS either, whatever sslmode says.
        (plain, _) => return Ok(plain),
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).map_err(failed)?;
    let mut answer = [0];
    stream.read_exact(&mut answer).map_err(failed)?;
    match answer {
        [b'S'] => {
            let stream = tls::wrap(stream, host, settings).map_err(failed)?;
            Ok(Transport::Tls(Box::new(stream)))
        }
        [b'N'] if settings.ssl_mode == SslMode::Prefer => Ok(Transport::Tcp(stream)),
        [b'N'] => Err(ReplicationError::NoTls),
        _ => Err(unexpected("in answer to a request for TLS")),
    }
}

/// Longest wait for the answer to a command.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
/// The same where an answer may take its time: a base backup begins with a checkpoint, and WAL comes when there is some.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(900);
