//! Opening a pagestream: PostgreSQL's startup, a token as password if asked for, and the command.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::{BenchError, Doing, Result};

/// How long any step of opening may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// No message before the stream is longer.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Whose pages are read.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// 32 hex digits.
    pub(crate) tenant: String,
    /// 32 hex digits.
    pub(crate) timeline: String,
    /// Travels as cleartext password.
    pub(crate) token: Option<String>,
}

/// Connects to `address` and starts a pagestream of version 3. The socket blocks and sends at once.
///
/// # Errors
/// Refused connections, a server that says no, or answers something else.
pub(crate) fn open(address: SocketAddr, session: &Session) -> Result<TcpStream> {
    let doing = || format!("open a pagestream at {address}");
    let mut stream = TcpStream::connect_timeout(&address, OPEN_TIMEOUT).doing(doing)?;
    stream.set_nodelay(true).doing(doing)?;
    stream.set_read_timeout(Some(OPEN_TIMEOUT)).doing(doing)?;

    let mut startup = Vec::new();
    startup.extend_from_slice(&[0, 3, 0, 0]);
    startup.extend_from_slice(b"client_encoding\0UTF8\0user\0bench\0\0");
    let length = u32::try_from(startup.len() + 4).expect("a short constant");
    stream
        .write_all(&[&length.to_be_bytes()[..], &startup].concat())
        .doing(doing)?;
    loop {
        match read_message(&mut stream).doing(doing)? {
            (b'R', body) => match body.get(..4) {
                Some([0, 0, 0, 0]) => {}
                Some([0, 0, 0, 3]) => {
                    let token = session.token.as_deref().unwrap_or_default();
                    send(&mut stream, b'p', token).doing(doing)?;
                }
                _ => return refuse("asks for an authentication other than cleartext password"),
            },
            (b'Z', _) => break,
            (b'E', body) => return refuse(&error_text(&body)),
            // Parameters, notices, the cancel key.
            _ => {}
        }
    }
    let command = format!("pagestream_v3 {} {}", session.tenant, session.timeline);
    send(&mut stream, b'Q', &command).doing(doing)?;
    loop {
        match read_message(&mut stream).doing(doing)? {
            (b'W', _) => return Ok(stream),
            (b'E', body) => return refuse(&error_text(&body)),
            (b'N' | b'S', _) => {}
            (tag, _) => return refuse(&format!("answers {command:?} with message {tag}")),
        }
    }
}

/// A message of one zero-terminated string.
fn send(stream: &mut TcpStream, tag: u8, text: &str) -> std::io::Result<()> {
    let length = u32::try_from(text.len() + 5).map_err(std::io::Error::other)?;
    let message = [&[tag][..], &length.to_be_bytes(), text.as_bytes(), &[0]].concat();
    stream.write_all(&message)
}

fn read_message(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = usize::try_from(u32::from_be_bytes([head[1], head[2], head[3], head[4]]))
        .map_err(std::io::Error::other)?;
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(std::io::Error::other(format!(
            "message {} of {length} bytes",
            head[0]
        )));
    }
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body)?;
    Ok((head[0], body))
}

/// The readable field of an ErrorResponse.
fn error_text(body: &[u8]) -> String {
    body.split(|&byte| byte == 0)
        .find_map(|field| field.strip_prefix(b"M"))
        .map_or_else(
            || "an error without text".to_owned(),
            |m| String::from_utf8_lossy(m).into_owned(),
        )
}

fn refuse<T>(text: &str) -> Result<T> {
    Err(BenchError::Protocol(format!("the server {text}")))
}
