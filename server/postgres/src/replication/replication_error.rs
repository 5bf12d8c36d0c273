//! Why a server was not reached, or did not do what was asked.

use std::io;
use std::time::Duration;

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
    /// The connection is there, and nothing comes over it, not even an answer to a question.
    #[error("nothing was heard from the server for {} s", .0.as_secs_f64())]
    Silent(Duration),
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

impl ReplicationError {
    /// The SQLSTATE of what the server said no with.
    pub fn code(&self) -> Option<&str> {
        match self {
            ReplicationError::Server { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether the server goes on with the next command behind this error.
    pub(super) fn is_of_a_command(&self) -> bool {
        matches!(self, ReplicationError::Server { severity, .. } if severity == "ERROR")
    }
}

pub(super) fn unexpected(what: &str) -> ReplicationError {
    ReplicationError::Protocol(format!("unexpected message {what}"))
}

/// The server closed the connection.
pub(super) fn closed() -> ReplicationError {
    let reason = "the server closed the connection";
    ReplicationError::Lost(io::Error::new(io::ErrorKind::UnexpectedEof, reason))
}

/// The fields of an ErrorResponse's body: a type byte and a text with a NUL, each.
pub(super) fn server_error(body: &[u8]) -> ReplicationError {
    let (mut severity, mut code) = (String::new(), String::new());
    let mut parts = [String::new(), String::new(), String::new()];
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, text)) = field.split_first() else {
            continue;
        };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            // 'S' is the same in the server's language.
            b'V' => severity = text,
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
