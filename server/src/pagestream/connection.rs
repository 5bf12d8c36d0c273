//! One connection from its first byte to its last: opens the session, reads commands, hands over to the pagestream.
//! Generic over the stream, so that plain sockets pay nothing for TLS.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::io::glommio_clock::GlommioClock;
use futures_util::AsyncWriteExt;

use super::codec;
use super::counters::FrontendCounters;
use super::frames::{self, MalformedFrame, Severity};
use super::inbox::Inbox;
use super::latency::RequestLatency;
use super::limits::{ConnectionPermit, RequestLimits};
use super::outbox::Outbox;
use super::patience::{Deadline, Ended, Patience};
use super::session::{self, Pagestream, Session};
use super::startup::{self, Access, Startup};
use super::stream::{PageStream, StreamEnd};
use super::transport::Transport;
use crate::catalog::{self, ServerCatalog};
use crate::shards::{Core, ErrorKind};

/// What all connections of one core share.
pub(super) struct CoreContext {
    pub(super) core: Core,
    pub(super) settings: Settings,
    pub(super) access: Access,
    pub(super) tls: Option<futures_rustls::TlsAcceptor>,
    pub(super) requests: Rc<RequestLimits>,
    pub(super) counters: Arc<FrontendCounters>,
    pub(super) latency: Arc<RequestLatency>,
    pub(super) clock: GlommioClock,
    pub(super) catalog: Arc<ServerCatalog>,
}

/// Bounds of one connection.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) frame_bytes_max: usize,
    pub(super) requests_max: usize,
    pub(super) handshake_timeout: Duration,
    pub(super) open_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) lsn_wait_timeout: Duration,
}

/// Why a connection ended otherwise than by the client's leave.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// The socket failed, or the client went away: nothing unusual.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// The client sent what is not of the protocol.
    #[error("{0}")]
    Malformed(String),
    /// The client took too long, or the server stops.
    #[error("{0:?}")]
    Ended(Ended),
}

impl From<Ended> for ConnectionError {
    fn from(ended: Ended) -> Self {
        ConnectionError::Ended(ended)
    }
}

impl From<MalformedFrame> for ConnectionError {
    fn from(malformed: MalformedFrame) -> Self {
        ConnectionError::Malformed(malformed.to_string())
    }
}

/// Serves an accepted socket until it ends.
pub(super) async fn serve<S>(
    context: &CoreContext,
    mut stream: S,
    patience: &Patience,
    permit: ConnectionPermit,
) -> Result<(), ConnectionError>
where
    S: Transport,
{
    let mut startup = Startup::new(context.access.clone());
    // One for all that comes before the session, however many pieces it comes in.
    let deadline = patience.deadline(context.settings.handshake_timeout);
    let wire = Wire::new(&mut stream, context, patience);
    let (opened, leftover) = wire.open_session(&mut startup, deadline).await?;
    match opened {
        Opened::Closed => Ok(()),
        Opened::Session(wire) => wire.run_session(permit).await,
        Opened::StartTls => {
            if leftover {
                // Bytes sent before the handshake would be taken for encrypted ones.
                let text = "unencrypted bytes behind an SSLRequest".to_owned();
                return Err(ConnectionError::Malformed(text));
            }
            let tls = context.tls.as_ref();
            let acceptor = tls.expect("TLS is offered only where it is configured");
            let accepting = acceptor.accept(stream);
            let mut stream = patience.idle_until(deadline, accepting).await??;
            startup.tls_started();
            let wire = Wire::new(&mut stream, context, patience);
            match wire.open_session(&mut startup, deadline).await?.0 {
                Opened::Session(wire) => wire.run_session(permit).await,
                Opened::Closed | Opened::StartTls => Ok(()),
            }
        }
    }
}

enum Opened<'a, S> {
    Session(Wire<'a, S>),
    StartTls,
    Closed,
}

/// A stream with what was received and what is to be sent.
pub(super) struct Wire<'a, S> {
    pub(super) stream: &'a mut S,
    pub(super) context: &'a CoreContext,
    pub(super) patience: &'a Patience,
    pub(super) inbox: Inbox,
    pub(super) out: Outbox,
}

impl<'a, S> Wire<'a, S>
where
    S: Transport,
{
    fn new(stream: &'a mut S, context: &'a CoreContext, patience: &'a Patience) -> Self {
        // Room for the longest frame, and for a full window of requests to come in one read.
        let window_bytes = context.settings.requests_max * REQUEST_FRAME_BYTES;
        let capacity = (context.settings.frame_bytes_max + 5).max(window_bytes);
        Wire {
            stream,
            context,
            patience,
            inbox: Inbox::new(capacity.max(frames::STARTUP_PACKET_BYTES_MAX)),
            out: Outbox::default(),
        }
    }

    /// Says whether unread bytes are left over, too.
    async fn open_session(
        mut self,
        startup: &mut Startup,
        deadline: Deadline,
    ) -> Result<(Opened<'a, S>, bool), ConnectionError> {
        let patience = self.patience;
        loop {
            let (used, next) = startup.packet(self.inbox.received(), &mut self.out.bytes)?;
            self.inbox.consume(used);
            patience.idle_until(deadline, self.send()).await??;
            match next {
                startup::Next::More if used > 0 => {}
                startup::Next::More => {
                    if patience.idle_until(deadline, self.receive()).await?? == 0 {
                        return Ok((Opened::Closed, false));
                    }
                }
                startup::Next::StartTls => {
                    let leftover = !self.inbox.received().is_empty();
                    return Ok((Opened::StartTls, leftover));
                }
                startup::Next::Open => return Ok((Opened::Session(self), false)),
                startup::Next::Close => {
                    self.context.counters.connections_unauthorized.add(1);
                    return Ok((Opened::Closed, false));
                }
            }
        }
    }

    async fn run_session(mut self, mut permit: ConnectionPermit) -> Result<(), ConnectionError> {
        let outcome = self.commands(&mut permit).await;
        let farewell = match &outcome {
            Ok(()) | Err(ConnectionError::Socket(_)) => None,
            Err(ConnectionError::Malformed(text)) => Some(("08P01", text.as_str())),
            Err(ConnectionError::Ended(Ended::TimedOut)) => {
                Some(("57P05", "the connection was idle for too long"))
            }
            Err(ConnectionError::Ended(Ended::Draining)) => {
                Some(("57P01", "the server is shutting down"))
            }
        };
        if let Some((code, text)) = farewell
            && !self.out.is_cut_off()
        {
            frames::put_error(&mut self.out.bytes, Severity::Fatal, code, text);
            let patience = self.patience;
            // The client may be gone or not listening: then it misses a message, no more.
            let _ = patience.within(FAREWELL_TIMEOUT, self.send()).await;
        }
        outcome
    }

    async fn commands(&mut self, permit: &mut ConnectionPermit) -> Result<(), ConnectionError> {
        let mut session = Session::default();
        loop {
            let limit = self.context.settings.frame_bytes_max;
            let Some(frame) = frames::next_frame(self.inbox.received(), limit)? else {
                self.flush().await?;
                let (patience, limit) = (self.patience, self.context.settings.idle_timeout);
                if patience.idle(limit, self.receive()).await?? == 0 {
                    return Ok(());
                }
                continue;
            };
            let consumed = frame.consumed_bytes;
            let next = session.message(frame, &mut self.out.bytes)?;
            self.inbox.consume(consumed);
            match next {
                session::Next::More => {}
                session::Next::Close => return Ok(()),
                session::Next::Pagestream(ask) => {
                    let limit = self.context.settings.open_timeout;
                    let opening = self.open_pagestream(&ask, permit);
                    let opened = match self.patience.idle(limit, opening).await {
                        Ok(opened) => opened,
                        Err(Ended::TimedOut) => {
                            let (tenant, branch) = (&ask.tenant, &ask.branch);
                            let text = format!("{tenant}/{branch} was not open after {limit:?}");
                            Err(("57P03", text))
                        }
                        Err(Ended::Draining) => return Err(Ended::Draining.into()),
                    };
                    let mut pages = match opened {
                        Ok(pages) => pages,
                        Err((code, text)) => {
                            session.refuse_pagestream(&ask, code, &text, &mut self.out.bytes);
                            continue;
                        }
                    };
                    frames::put_copy_both(&mut self.out.bytes);
                    match pages.run(self).await? {
                        StreamEnd::Done => session.pagestream_done(&ask, &mut self.out.bytes),
                        StreamEnd::Closed => return Ok(()),
                    }
                }
            }
        }
    }

    async fn open_pagestream(
        &self,
        ask: &Pagestream,
        permit: &mut ConnectionPermit,
    ) -> Result<PageStream, (&'static str, String)> {
        let found = catalog::find(&self.context.catalog, &ask.tenant, &ask.branch);
        let (tenant, branch) = found
            .await
            .map_err(|e| (catalog::sql_state(&e), e.to_string()))?;
        if !permit.move_to_tenant(tenant) {
            let text = format!("too many connections of tenant {}", ask.tenant);
            return Err(("53300", text));
        }
        let opened = self.context.core.open_branch(tenant, branch).await;
        let branch = opened.map_err(|e| {
            let code = match e.kind() {
                ErrorKind::NotFound => "3D000",
                ErrorKind::Unavailable => "57P03",
                ErrorKind::Corrupt => "XX001",
                ErrorKind::Gone | ErrorKind::NotYet | ErrorKind::Refused => "55000",
            };
            (code, format!("{}/{}: {e}", ask.tenant, ask.branch))
        })?;
        Ok(PageStream::new(self.context, ask.version, tenant, branch))
    }

    async fn receive(&mut self) -> io::Result<usize> {
        let Wire { stream, inbox, .. } = self;
        poll_fn(|cx| inbox.poll_receive(*stream, cx)).await
    }

    /// Sends all output; the client has to take it in time.
    pub(super) async fn flush(&mut self) -> Result<(), ConnectionError> {
        let (patience, limit) = (self.patience, self.context.settings.write_timeout);
        Ok(patience.within(limit, self.send()).await??)
    }

    /// Puts all output on its way, and waits no longer than until the client has taken what was sent before.
    pub(super) async fn post(&mut self) -> Result<(), ConnectionError> {
        let (patience, limit) = (self.patience, self.context.settings.write_timeout);
        Ok(patience.within(limit, self.start_sending()).await??)
    }

    async fn send(&mut self) -> io::Result<()> {
        self.start_sending().await?;
        self.stream.flush().await
    }

    async fn start_sending(&mut self) -> io::Result<()> {
        if self.out.bytes.is_empty() {
            return Ok(());
        }
        let sent = self.out.post(self.stream).await?;
        let counters = &self.context.counters;
        counters.batches_written.add(1);
        counters
            .bytes_written
            .add(u64::try_from(sent).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// A request of version 3 in its frame.
const REQUEST_FRAME_BYTES: usize = 47;
/// Output is sent at the latest when it has grown to this.
pub(super) const OUT_BYTES_MAX: usize = 32 * codec::PAGE_ANSWER_BYTES_MAX;
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);
