//! Everything before a session is open: encryption requests, the startup packet, the password. A state machine over
//! packets that does no input or output of its own, so that it can be tested and fuzzed byte by byte.
//!
//! Whoever owns the socket feeds it [`Startup::packet`] until the answer is not [`Next::More`]:
//!
//! ```text
//! SSLRequest  ──► S (then TLS, then again from the start) or N
//! GSSENCRequest ► N
//! CancelRequest ► closed without an answer, as Postgres does
//! StartupMessage ─┬─ trust ───────────────────────────────► AuthenticationOk, parameters, ReadyForQuery
//!                 └─ cleartext password ──► PasswordMessage ► the same, or an error
//! ```

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::frames::{self, Fields, MalformedFrame, Severity};

/// Who may open a session.
#[derive(Clone)]
pub struct Access {
    /// The password that every client must send; none means trust.
    token: Option<Zeroizing<String>>,
    /// A TLS acceptor is configured.
    tls_offered: bool,
    /// Refuse clients that did not ask for TLS.
    tls_required: bool,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Access {
            token,
            tls_offered,
            tls_required,
        } = self;
        write!(
            f,
            "Access(password {}, tls offered {tls_offered}, required {tls_required})",
            token.is_some()
        )
    }
}

impl Access {
    /// Access by `token` (or for anybody, without one).
    pub fn new(token: Option<Zeroizing<String>>, tls_offered: bool, tls_required: bool) -> Access {
        Access {
            token,
            tls_offered,
            tls_required,
        }
    }
}

/// What the owner of the socket does next, after sending what was appended to the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait for another packet.
    More,
    /// Accept TLS on this socket, then go on with the same state machine.
    StartTls,
    /// The session is open: commands follow.
    Open,
    /// Close the connection.
    Close,
}

/// The state of one connection that is not open yet.
#[derive(Debug)]
pub struct Startup {
    access: Access,
    encrypted: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Packet,
    Password,
}

impl Startup {
    /// A connection that has sent nothing yet.
    pub fn new(access: Access) -> Startup {
        Startup {
            access,
            encrypted: false,
            state: State::Packet,
        }
    }

    /// TLS was accepted after [`Next::StartTls`].
    pub fn tls_started(&mut self) {
        self.encrypted = true;
    }

    /// Takes the first complete packet of `received`, appends the answer to `out`; returns how many bytes were
    /// used (0: nothing complete yet, nothing was done) and what to do next.
    /// # Errors
    /// The bytes are not of the protocol; the connection ends.
    pub fn packet(
        &mut self,
        received: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, Next), MalformedFrame> {
        match self.state {
            State::Packet => {
                let Some(body) = frames::next_startup_packet(received)? else {
                    return Ok((0, Next::More));
                };
                Ok((4 + body.len(), self.startup(body, out)?))
            }
            State::Password => {
                let Some(frame) = frames::next_frame(received, PASSWORD_FRAME_BYTES_MAX)? else {
                    return Ok((0, Next::More));
                };
                if frame.tag != b'p' {
                    return Err(MalformedFrame::Fields("password"));
                }
                let mut fields = Fields::new("password", frame.body);
                let password = fields.text()?;
                fields.end()?;
                Ok((frame.consumed_bytes, self.password(password, out)))
            }
        }
    }

    fn startup(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<Next, MalformedFrame> {
        let (code, parameters) = body
            .split_first_chunk()
            .ok_or(MalformedFrame::Fields("startup"))?;
        match u32::from_be_bytes(*code) {
            CANCEL_REQUEST => Ok(Next::Close),
            GSS_ENCRYPTION_REQUEST => {
                out.push(b'N');
                Ok(Next::More)
            }
            SSL_REQUEST if self.access.tls_offered && !self.encrypted => {
                out.push(b'S');
                Ok(Next::StartTls)
            }
            SSL_REQUEST => {
                out.push(b'N');
                Ok(Next::More)
            }
            version if version >> 16 == PROTOCOL_MAJOR => {
                self.startup_message(version & 0xffff, parameters, out)
            }
            version => {
                let text = format!(
                    "unsupported frontend protocol {}.{}: this server supports 3.0",
                    version >> 16,
                    version & 0xffff
                );
                frames::put_error(out, Severity::Fatal, "0A000", &text);
                Ok(Next::Close)
            }
        }
    }

    fn startup_message(
        &mut self,
        minor: u32,
        parameters: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Next, MalformedFrame> {
        let mut unknown_options = Vec::new();
        let mut fields = Fields::new("startup", parameters);
        loop {
            let name = fields.text()?;
            if name.is_empty() {
                break;
            }
            fields.text()?;
            if name.starts_with("_pq_.") {
                unknown_options.push(name);
            }
        }
        fields.end()?;
        if self.access.tls_required && !self.encrypted {
            let text = "this server accepts TLS connections only (sslmode=require)";
            frames::put_error(out, Severity::Fatal, "28000", text);
            return Ok(Next::Close);
        }
        if minor > 0 || !unknown_options.is_empty() {
            put_negotiate_version(out, &unknown_options);
        }
        if self.access.token.is_some() {
            frames::put(out, b'R', |out| out.extend_from_slice(&3_u32.to_be_bytes()));
            self.state = State::Password;
            return Ok(Next::More);
        }
        put_welcome(out);
        Ok(Next::Open)
    }

    fn password(&mut self, password: &str, out: &mut Vec<u8>) -> Next {
        let right = self
            .access
            .token
            .as_ref()
            .is_none_or(|token| bool::from(token.as_bytes().ct_eq(password.as_bytes())));
        if right {
            put_welcome(out);
            return Next::Open;
        }
        frames::put_error(
            out,
            Severity::Fatal,
            "28P01",
            "password authentication failed",
        );
        Next::Close
    }
}

fn put_negotiate_version(out: &mut Vec<u8>, unknown_options: &[&str]) {
    frames::put(out, b'v', |out| {
        out.extend_from_slice(&(PROTOCOL_MAJOR << 16).to_be_bytes());
        let count = u32::try_from(unknown_options.len()).expect("packets are at most 10,000 bytes");
        out.extend_from_slice(&count.to_be_bytes());
        for name in unknown_options {
            frames::put_text(out, name);
        }
    });
}

fn put_welcome(out: &mut Vec<u8>) {
    frames::put(out, b'R', |out| out.extend_from_slice(&0_u32.to_be_bytes()));
    for (name, value) in [
        ("client_encoding", "UTF8"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("server_version", SERVER_VERSION),
    ] {
        frames::put(out, b'S', |out| {
            frames::put_text(out, name);
            frames::put_text(out, value);
        });
    }
    frames::put_ready(out);
}

/// Drivers read the major from it; no command depends on it.
const SERVER_VERSION: &str = "15.0 (pageserver)";
const PROTOCOL_MAJOR: u32 = 3;
const CANCEL_REQUEST: u32 = (1234 << 16) | 5678;
const SSL_REQUEST: u32 = (1234 << 16) | 5679;
const GSS_ENCRYPTION_REQUEST: u32 = (1234 << 16) | 5680;
/// A token may be long (a signed one is about 1 KiB), but it fits into the buffer of the startup packet: a client that is
/// not known yet gets no more memory.
const PASSWORD_FRAME_BYTES_MAX: usize = 8 << 10;
const _: () = assert!(PASSWORD_FRAME_BYTES_MAX < frames::STARTUP_PACKET_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(8 + rest.len()).expect("small");
        [&length.to_be_bytes(), &code.to_be_bytes(), rest].concat()
    }

    fn hello() -> Vec<u8> {
        packet(3 << 16, b"client_encoding\0UTF8\0user\0me\0\0")
    }

    fn access(token: Option<&str>, tls_offered: bool, tls_required: bool) -> Access {
        Access::new(
            token.map(|t| Zeroizing::new(t.to_owned())),
            tls_offered,
            tls_required,
        )
    }

    fn step(startup: &mut Startup, received: &[u8]) -> (Next, Vec<u8>) {
        let mut out = Vec::new();
        for cut in 0..received.len() {
            let partial = startup.packet(&received[..cut], &mut out);
            assert_eq!(partial, Ok((0, Next::More)));
        }
        let (used, next) = startup.packet(received, &mut out).expect("well formed");
        assert_eq!(used, received.len());
        (next, out)
    }

    #[test]
    fn without_a_token_the_session_opens_at_once() {
        let mut startup = Startup::new(access(None, false, false));
        assert_eq!(
            step(&mut startup, &packet(SSL_REQUEST, b"")),
            (Next::More, b"N".to_vec())
        );
        assert_eq!(
            step(&mut startup, &packet(GSS_ENCRYPTION_REQUEST, b"")),
            (Next::More, b"N".to_vec())
        );
        let (next, out) = step(&mut startup, &hello());
        assert_eq!(next, Next::Open);
        assert!(out.starts_with(b"R\0\0\0\x08\0\0\0\0S\0\0\0\x19client_encoding\0UTF8\0"));
        assert!(out.ends_with(b"Z\0\0\0\x05I"));
    }

    #[test]
    fn a_token_is_asked_for_and_compared() {
        for (sent, opens) in [("secret", true), ("secre", false), ("", false)] {
            let mut startup = Startup::new(access(Some("secret"), false, false));
            let (next, out) = step(&mut startup, &hello());
            assert_eq!(
                (next, out.as_slice()),
                (Next::More, &b"R\0\0\0\x08\0\0\0\x03"[..])
            );
            let mut message = Vec::new();
            frames::put(&mut message, b'p', |out| frames::put_text(out, sent));
            let (next, out) = step(&mut startup, &message);
            if opens {
                assert_eq!(next, Next::Open);
            } else {
                assert_eq!(next, Next::Close);
                assert!(out.windows(5).any(|w| w == b"28P01"));
            }
        }
    }

    #[test]
    fn tls_is_started_once_and_can_be_required() {
        let mut startup = Startup::new(access(None, true, true));
        let (next, out) = step(&mut startup, &hello());
        assert_eq!(next, Next::Close);
        assert!(out.windows(5).any(|w| w == b"28000"));

        let mut startup = Startup::new(access(None, true, true));
        assert_eq!(
            step(&mut startup, &packet(SSL_REQUEST, b"")),
            (Next::StartTls, b"S".to_vec())
        );
        startup.tls_started();
        assert_eq!(
            step(&mut startup, &packet(SSL_REQUEST, b"")),
            (Next::More, b"N".to_vec())
        );
        assert_eq!(step(&mut startup, &hello()).0, Next::Open);
    }

    #[test]
    fn newer_minors_are_negotiated_and_other_majors_refused() {
        let mut startup = Startup::new(access(None, false, false));
        let newer = packet((3 << 16) | 2, b"user\0me\0_pq_.x\x001\0\0");
        let (next, out) = step(&mut startup, &newer);
        assert_eq!(next, Next::Open);
        assert!(out.starts_with(b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0"));

        let mut startup = Startup::new(access(None, false, false));
        let (next, out) = step(&mut startup, &packet(2 << 16, b"user\0me\0\0"));
        assert_eq!(next, Next::Close);
        assert!(out.windows(5).any(|w| w == b"0A000"));
        assert_eq!(
            step(&mut startup, &packet(CANCEL_REQUEST, &[0; 8])),
            (Next::Close, Vec::new())
        );
    }

    #[test]
    fn malformed_packets_are_refused() {
        for rest in [
            &b"user\0me\0"[..],
            b"user\0me",
            b"\xff\0me\0\0",
            b"\0trailing",
        ] {
            let mut startup = Startup::new(access(None, false, false));
            let mut out = Vec::new();
            assert!(startup.packet(&packet(3 << 16, rest), &mut out).is_err());
        }
        let mut startup = Startup::new(access(Some("x"), false, false));
        step(&mut startup, &hello());
        let mut out = Vec::new();
        assert!(startup.packet(b"Q\0\0\0\x05\0", &mut out).is_err());
    }

    #[test]
    fn debug_shows_no_token() {
        let shown = format!("{:?}", Startup::new(access(Some("secret"), true, false)));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
