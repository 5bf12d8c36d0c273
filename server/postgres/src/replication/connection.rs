//! A physical replication connection: startup, authentication, simple commands, messages.
//!
//! Authentication: trust, cleartext, MD5, SCRAM-SHA-256. A password goes in the clear only over TLS or a Unix socket.
//! A message's length is checked against [`MESSAGE_BYTES_MAX`] before memory is taken. Dropping the connection closes
//! it, which ends whatever command runs on the server.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::{self, CopyData};

use super::settings::{ConnectionSettings, Host, SslMode};
use super::tls;
use super::transport::Transport;

/// Longest message accepted; a base backup's are 32 KiB.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Why a server was not reached or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// No connection.
    #[error("connect to {host}, port {port}")]
    Connect {
        /// Where.
        host: String,
        /// Which port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("connection to the server is lost")]
    Lost(#[from] io::Error),
    /// The server said no; its own words.
    #[error("server: {severity}: {message} (SQLSTATE {code})")]
    Server {
        /// ERROR or FATAL.
        severity: String,
        /// Five characters.
        code: String,
        /// What it said, with detail and hint.
        message: String,
    },
    /// `sslmode` wants TLS and the server has none.
    #[error("the server does not speak TLS, and sslmode wants it")]
    NoTls,
    /// A password is wanted and none is known.
    #[error(
        "the server wants a password; give it in the connection string, PGPASSWORD or the password file"
    )]
    NoPassword,
    /// The server wants something else than a password.
    #[error("the server wants an authentication method that is not supported: {0}")]
    Authentication(&'static str),
    /// The server broke the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
    /// Too old, or too new.
    #[error("the server is PostgreSQL {0}; versions 15 to 18 are supported")]
    Version(String),
}

/// What comes from a server in answer to a command.
pub(super) enum Incoming {
    /// CopyData, whose content is in [`Connection::copy_data`].
    CopyData,
    /// A row of a result.
    Row(Row),
    /// Anything else.
    Message(Message),
}

/// One row, as text.
pub type Row = Vec<Option<String>>;

/// An authenticated physical replication connection, ready for a command.
pub struct Connection {
    transport: BufReader<Transport>,
    parameters: HashMap<String, String>,
    /// Content of the message read last.
    body: Vec<u8>,
}

impl Connection {
    /// Connects and authenticates; blocks.
    /// # Errors
    /// See [`ReplicationError`].
    pub fn open(settings: &ConnectionSettings) -> Result<Connection, ReplicationError> {
        let transport = connect(settings)?;
        let is_private = !matches!(transport, Transport::Tcp(_)) || is_loopback(&settings.host);
        let mut connection = Connection {
            transport: BufReader::with_capacity(READ_BUFFER_BYTES, transport),
            parameters: HashMap::new(),
            body: Vec::new(),
        };
        let mut out = BytesMut::new();
        let parameters = [
            ("user", settings.user.as_str()),
            ("replication", "true"),
            ("application_name", "pageserver"),
            ("client_encoding", "UTF8"),
        ];
        frontend::startup_message(parameters, &mut out)?;
        connection.send(&out)?;
        connection.authenticate(settings, is_private)?;
        connection.until_ready()?;
        Ok(connection)
    }

    /// A parameter that the server reported, `server_version` for example.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Runs a command and answers its rows.
    /// # Errors
    /// The server's, or a lost connection.
    pub fn query(&mut self, command: &str) -> Result<Vec<Row>, ReplicationError> {
        self.send_query(command)?;
        let mut rows = Vec::new();
        loop {
            match self.receive()? {
                Incoming::Row(row) => rows.push(row),
                Incoming::Message(Message::ReadyForQuery(_)) => return Ok(rows),
                Incoming::Message(
                    Message::RowDescription(_)
                    | Message::CommandComplete(_)
                    | Message::EmptyQueryResponse,
                ) => {}
                Incoming::CopyData | Incoming::Message(_) => {
                    return Err(unexpected("in answer to a command"));
                }
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

    /// Sends a command that is answered by messages in both directions, up to where they begin.
    pub(super) fn start_copy_both(&mut self, command: &str) -> Result<(), ReplicationError> {
        self.send_query(command)?;
        loop {
            match self.read_message()? {
                COPY_BOTH_RESPONSE => return Ok(()),
                ERROR_RESPONSE => return Err(server_error(&self.body)),
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
        &self.body
    }

    /// The next message that is not a notice or parameter.
    pub(super) fn receive(&mut self) -> Result<Incoming, ReplicationError> {
        loop {
            let tag = self.read_message()?;
            match tag {
                COPY_DATA => return Ok(Incoming::CopyData),
                ERROR_RESPONSE => return Err(server_error(&self.body)),
                DATA_ROW => {
                    let row = decode_row(&self.body);
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

    fn send(&mut self, bytes: &[u8]) -> Result<(), ReplicationError> {
        let transport = self.transport.get_mut();
        transport.write_all(bytes)?;
        Ok(transport.flush()?)
    }

    /// Reads one message into `body`; answers its tag.
    fn read_message(&mut self) -> Result<u8, ReplicationError> {
        let mut header = [0; 5];
        self.transport.read_exact(&mut header)?;
        let [tag, length @ ..] = header;
        let length = usize::try_from(u32::from_be_bytes(length))
            .ok()
            .and_then(|length| length.checked_sub(4))
            .filter(|length| *length <= MESSAGE_BYTES_MAX)
            .ok_or_else(|| ReplicationError::Protocol("a message of impossible length".into()))?;
        self.body.resize(length, 0);
        self.transport.read_exact(&mut self.body)?;
        Ok(tag)
    }

    fn parse(&self, tag: u8) -> Result<Message, ReplicationError> {
        let length = u32::try_from(self.body.len() + 4).expect("at most a MiB");
        let mut whole = BytesMut::with_capacity(self.body.len() + 5);
        whole.extend_from_slice(&[tag]);
        whole.extend_from_slice(&length.to_be_bytes());
        whole.extend_from_slice(&self.body);
        Message::parse(&mut whole)?.ok_or_else(|| unexpected("cut short"))
    }

    fn authenticate(
        &mut self,
        settings: &ConnectionSettings,
        is_private: bool,
    ) -> Result<(), ReplicationError> {
        let password = || {
            let known = settings.password.as_deref();
            known.ok_or(ReplicationError::NoPassword)
        };
        let mut scram: Option<ScramSha256> = None;
        // SCRAM is the longest exchange: start, continue, final, ok.
        for _ in 0..4 {
            let mut out = BytesMut::new();
            let Incoming::Message(message) = self.receive()? else {
                return Err(unexpected("during authentication"));
            };
            match message {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword if is_private => {
                    frontend::password_message(password()?.as_bytes(), &mut out)?;
                }
                Message::AuthenticationCleartextPassword => {
                    return Err(ReplicationError::Authentication(
                        "a password in the clear over a connection without TLS",
                    ));
                }
                Message::AuthenticationMd5Password(body) => {
                    let user = settings.user.as_bytes();
                    let hash = md5_hash(user, password()?.as_bytes(), body.salt());
                    frontend::password_message(hash.as_bytes(), &mut out)?;
                }
                Message::AuthenticationSasl(_) => {
                    let password = password()?.as_bytes();
                    let exchange = ScramSha256::new(password, ChannelBinding::unsupported());
                    let first = exchange.message();
                    frontend::sasl_initial_response(SCRAM_SHA_256, first, &mut out)?;
                    scram = Some(exchange);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let exchange = scram.as_mut();
                    let exchange = exchange.ok_or_else(|| unexpected("SCRAM out of order"))?;
                    exchange.update(body.data())?;
                    frontend::sasl_response(exchange.message(), &mut out)?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let exchange = scram.as_mut();
                    let exchange = exchange.ok_or_else(|| unexpected("SCRAM out of order"))?;
                    exchange.finish(body.data())?;
                    continue;
                }
                Message::AuthenticationGss | Message::AuthenticationSspi => {
                    return Err(ReplicationError::Authentication("GSSAPI or SSPI"));
                }
                Message::AuthenticationKerberosV5 | Message::AuthenticationScmCredential => {
                    return Err(ReplicationError::Authentication("Kerberos 5 or SCM"));
                }
                _ => return Err(unexpected("during authentication")),
            }
            self.send(&out)?;
        }
        Err(unexpected("authentication without an end"))
    }
}

fn connect(settings: &ConnectionSettings) -> Result<Transport, ReplicationError> {
    let failed = |source| ReplicationError::Connect {
        host: settings.host.to_string(),
        port: settings.port,
        source,
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
    stream.write_all(&request)?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
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

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
    }
}

/// The columns of a DataRow's body: a count, then length (-1 for null) and text of each.
fn decode_row(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut row = Row::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        row.push(match i32::from_be_bytes(*length) {
            -1 => None,
            length => {
                let (text, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                rest = after;
                Some(String::from_utf8_lossy(text).into_owned())
            }
        });
    }
    rest.is_empty().then_some(row)
}

pub(super) fn unexpected(what: &str) -> ReplicationError {
    ReplicationError::Protocol(format!("unexpected message {what}"))
}

/// The fields of an ErrorResponse's body: a type byte and a text with a NUL, each.
fn server_error(body: &[u8]) -> ReplicationError {
    let (mut severity, mut code) = (String::new(), String::new());
    let mut parts = [String::new(), String::new(), String::new()];
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, text)) = field.split_first() else {
            continue;
        };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'S' => severity = text,
            b'C' => code = text,
            b'M' => parts[0] = text,
            b'D' => parts[1] = text,
            b'H' => parts[2] = text,
            _ => {}
        }
    }
    let said: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    ReplicationError::Server {
        severity,
        code,
        message: said.join("; "),
    }
}

/// A size as `SHOW` prints it: `16MB`, `1GB`.
pub(crate) fn bytes_of_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().ok()?;
    let unit = match text.get(digits.len()..)? {
        "B" | "" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

const DATA_ROW: u8 = b'D';
const COPY_BOTH_RESPONSE: u8 = b'W';
const NOTICE_RESPONSE: u8 = b'N';
const PARAMETER_STATUS: u8 = b'S';
const ERROR_RESPONSE: u8 = b'E';
const COPY_DATA: u8 = b'd';
const READ_BUFFER_BYTES: usize = 256 << 10;
