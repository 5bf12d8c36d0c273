//! The WAL of a primary for as long as it writes some: the receiving end of a physical stream, nonblocking, on one thread of
//! a tokio runtime.
//!
//! [`next`](WalReceiver::next) may be dropped at any moment: what has arrived of a message, and what was not sent of ours,
//! stays here. Bytes of WAL are handed out in order and without a gap, beginning with the one that was asked for.
//!
//! The receiver says nothing to the server by itself but a question, after half of `silence_max` without a word, with the
//! positions reported last: a server with `wal_sender_timeout = 0` says nothing while it is idle. What is reported, and
//! when, is up to the caller; with no report for its `wal_sender_timeout` (60 s) a server ends the connection, and a server
//! that shuts down waits for a report that all is flushed, or for the end of the connection. Feedback of a hot standby is
//! never sent: no snapshot here holds back vacuum.
//!
//! Memory: one buffer of 256 KiB, which a longer message lets grow to at most 1 MiB.

use std::io;
use std::time::{Duration, SystemTime};

use engine::types::Lsn;
use tokio::io::Interest;
use tokio::time::{Instant, timeout, timeout_at};

use super::frame_buffer::{Frame, FrameBuffer};
use super::message::{
    COMMAND_COMPLETE, COPY_DATA, COPY_DONE, DATA_ROW, ERROR_RESPONSE, NOTICE_RESPONSE,
    PARAMETER_STATUS, READY_FOR_QUERY, ROW_DESCRIPTION, decode_row,
};
use super::outgoing::Outgoing;
use super::replication_error::{ReplicationError, closed, server_error, unexpected};
use super::replication_start::{StartedReplication, TimelineSwitch, decode_switch};
use super::socket::Socket;
use super::wal_messages::{Report, WalMessage};

/// Limits of a receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalReceiverConfig {
    /// A server that says nothing for so long, though it was asked after half of it, is gone. Default 60 s.
    pub silence_max: Duration,
}

impl Default for WalReceiverConfig {
    fn default() -> WalReceiverConfig {
        WalReceiverConfig {
            silence_max: Duration::from_secs(60),
        }
    }
}

/// What came from the server.
#[derive(PartialEq, Eq, Debug)]
pub enum WalEvent<'a> {
    /// The next bytes.
    Wal(WalData<'a>),
    /// Nothing new, or a question.
    Keepalive(Keepalive),
    /// The timeline ended; a new connection goes on with the next one. So does every further call.
    EndOfTimeline(TimelineSwitch),
    /// The server has sent everything and shuts down. So does every further call.
    Shutdown,
}

/// The next bytes of WAL.
#[derive(PartialEq, Eq, Debug)]
pub struct WalData<'a> {
    /// Position of the first byte.
    pub start: Lsn,
    /// The bytes, at least one.
    pub bytes: &'a [u8],
    /// End of the server's WAL when it sent them.
    pub server_end: Lsn,
    /// When that was, by its clock.
    pub sent_at: SystemTime,
}

/// A sign of life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// End of the WAL that the server has sent.
    pub server_end: Lsn,
    /// The server wants a report at once; it ends the connection if none comes.
    pub wants_reply: bool,
    /// When it was sent, by the server's clock.
    pub sent_at: SystemTime,
}

/// A stream being received. Dropping it closes the connection; [`close`](Self::close) does so in good form.
pub struct WalReceiver {
    socket: Socket,
    input: FrameBuffer,
    output: Outgoing,
    /// The next byte of WAL.
    position: Lsn,
    silence_max: Duration,
    heard_at: Instant,
    /// When the server was asked whether it is there; nothing was heard since.
    asked_at: Option<Instant>,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Streaming,
    /// The server has ended the stream, and what follows was not read yet.
    Ending,
    Ended(End),
}

#[derive(Clone, Copy)]
enum End {
    Timeline(TimelineSwitch),
    Shutdown,
}

/// What a message of the server means to the caller.
enum Step {
    Nothing,
    /// It is in this frame.
    Wal(Frame),
    Keepalive(Keepalive),
}

impl WalReceiver {
    /// Takes a connection over. Wants a tokio runtime with IO and time around it.
    /// # Errors
    /// The socket could not be set up.
    pub fn new(
        started: StartedReplication,
        config: &WalReceiverConfig,
    ) -> Result<WalReceiver, ReplicationError> {
        let (transport, input) = started.connection.into_parts();
        Ok(WalReceiver {
            socket: Socket::new(transport)?,
            input,
            output: Outgoing::default(),
            position: started.at,
            silence_max: config.silence_max,
            heard_at: Instant::now(),
            asked_at: None,
            state: match started.switch {
                None => State::Streaming,
                Some(switch) => State::Ended(End::Timeline(switch)),
            },
        })
    }

    /// Where the next byte of WAL lies.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// What comes next.
    /// # Errors
    /// The connection is lost or silent, or the server ended the stream with an error. The receiver is of no use then: a new
    /// connection goes on at [`position`](Self::position).
    /// # Cancellation
    /// Nothing is lost by dropping the future.
    pub async fn next(&mut self) -> Result<WalEvent<'_>, ReplicationError> {
        let frame = loop {
            match self.state {
                State::Ended(End::Timeline(switch)) => return Ok(WalEvent::EndOfTimeline(switch)),
                State::Ended(End::Shutdown) => return Ok(WalEvent::Shutdown),
                State::Streaming | State::Ending => {}
            }
            match self.input.next()? {
                None => self.receive().await?,
                Some(frame) => match self.step(frame)? {
                    Step::Nothing => {}
                    Step::Wal(frame) => break frame,
                    Step::Keepalive(keepalive) => return Ok(WalEvent::Keepalive(keepalive)),
                },
            }
        };
        match WalMessage::decode(self.input.body(&frame)) {
            Some(WalMessage::Wal {
                start,
                server_end,
                sent_at,
                bytes,
            }) => Ok(WalEvent::Wal(WalData {
                start,
                bytes,
                server_end,
                sent_at,
            })),
            _ => unreachable!("it was decoded before"),
        }
    }

    /// Tells the server how far we are; does nothing once the stream has ended.
    /// # Errors
    /// The connection is lost, or the server takes nothing.
    /// # Panics
    /// The report names bytes that were not received, or says that something is flushed or applied that is not written:
    /// the server would believe it.
    /// # Cancellation
    /// What was not sent goes out with the next call of this or of [`next`](Self::next).
    pub async fn report(&mut self, report: Report) -> Result<(), ReplicationError> {
        assert!(report.write <= self.position, "{report:?}: not received");
        assert!(report.flush <= report.write, "{report:?}: not written");
        assert!(report.apply <= report.write, "{report:?}: not written");
        if !matches!(self.state, State::Streaming) {
            return Ok(());
        }
        self.output.put(report);
        timeout(self.silence_max, self.send())
            .await
            .map_err(|_| ReplicationError::Silent(self.silence_max))?
    }

    /// Ends the stream so that the server is free of it: it neither waits for us in a shutdown nor keeps the slot in use.
    /// Takes a few seconds at most, and the connection is closed in any case. `reason` goes to the log.
    pub async fn close(mut self, reason: &str) {
        let position = self.position;
        tracing::info!(%position, reason, "replication is ended");
        match timeout(CLOSE_WAIT_MAX, self.end()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the stream was cut off"),
            Err(_) => tracing::debug!("the stream was cut off: the server was not done in time"),
        }
    }

    /// Ends the stream, waits until the server has done so too, and takes leave.
    async fn end(&mut self) -> Result<(), ReplicationError> {
        if matches!(self.state, State::Streaming) {
            self.output.put_message(COPY_DONE);
            self.send().await?;
            loop {
                match self.input.next()? {
                    None => self.receive().await?,
                    Some(frame) => match frame.tag {
                        READY_FOR_QUERY => break,
                        ERROR_RESPONSE => return Err(server_error(self.input.body(&frame))),
                        _ => {}
                    },
                }
            }
        }
        self.output.put_message(TERMINATE);
        self.send().await
    }

    fn step(&mut self, frame: Frame) -> Result<Step, ReplicationError> {
        match (frame.tag, self.state) {
            (COPY_DATA, State::Streaming) => self.stream_message(frame),
            (COPY_DONE, State::Streaming) => {
                self.output.put_message(COPY_DONE);
                self.state = State::Ending;
                Ok(Step::Nothing)
            }
            (DATA_ROW, State::Ending) => {
                let row = decode_row(self.input.body(&frame));
                let row = row.ok_or_else(|| unexpected("as the next timeline"))?;
                self.state = State::Ended(End::Timeline(decode_switch(&row)?));
                Ok(Step::Nothing)
            }
            // In a shutdown there is nothing else.
            (COMMAND_COMPLETE, _) => {
                self.state = State::Ended(End::Shutdown);
                Ok(Step::Nothing)
            }
            (ERROR_RESPONSE, _) => Err(server_error(self.input.body(&frame))),
            (NOTICE_RESPONSE | PARAMETER_STATUS, _) | (ROW_DESCRIPTION, State::Ending) => {
                Ok(Step::Nothing)
            }
            _ => Err(unexpected("in a stream of WAL")),
        }
    }

    fn stream_message(&mut self, frame: Frame) -> Result<Step, ReplicationError> {
        match WalMessage::decode(self.input.body(&frame)) {
            Some(WalMessage::Wal { start, bytes, .. }) => {
                let wanted = self.position;
                let end = start.0.checked_add(bytes.len() as u64);
                match end {
                    Some(end) if start == wanted => self.position = Lsn(end),
                    _ => {
                        let gap = format!("WAL of {start} came where {wanted} was to come");
                        return Err(ReplicationError::Protocol(gap));
                    }
                }
                Ok(if self.position == wanted {
                    Step::Nothing
                } else {
                    Step::Wal(frame)
                })
            }
            Some(WalMessage::Keepalive {
                server_end,
                sent_at,
                wants_reply,
            }) => Ok(Step::Keepalive(Keepalive {
                server_end,
                wants_reply,
                sent_at,
            })),
            None => Err(unexpected("in a stream of WAL")),
        }
    }

    /// Waits until some bytes have arrived; sends what is to be sent meanwhile.
    async fn receive(&mut self) -> Result<(), ReplicationError> {
        // A stream that never runs dry does not keep the thread from everything else.
        tokio::task::consume_budget().await;
        loop {
            would_block(self.output.send(&mut self.socket))?;
            if let Some(count) = would_block(self.socket.read(self.input.space()?))? {
                return self.heard(count);
            }
            let mut interest = Interest::READABLE;
            if self.output.is_pending(&self.socket) {
                interest = interest.add(Interest::WRITABLE);
            }
            let half = self.silence_max / 2;
            let deadline = self.asked_at.unwrap_or(self.heard_at) + half;
            match timeout_at(deadline, self.socket.ready(interest)).await {
                Ok(ready) => ready?,
                Err(_) if self.asked_at.is_some() => {
                    return Err(ReplicationError::Silent(self.silence_max));
                }
                Err(_) => self.ask(),
            }
        }
    }

    fn heard(&mut self, count: usize) -> Result<(), ReplicationError> {
        if count == 0 {
            return Err(closed());
        }
        self.input.filled(count);
        self.heard_at = Instant::now();
        self.asked_at = None;
        Ok(())
    }

    /// Asks the server for an answer.
    fn ask(&mut self) {
        self.asked_at = Some(Instant::now());
        if matches!(self.state, State::Streaming) {
            let reply_requested = true;
            let last = self.output.last();
            self.output.put(Report {
                reply_requested,
                ..last
            });
        }
    }

    /// Sends all that is to be sent.
    async fn send(&mut self) -> Result<(), ReplicationError> {
        loop {
            if would_block(self.output.send(&mut self.socket))?.is_some() {
                return Ok(());
            }
            self.socket.ready(Interest::WRITABLE).await?;
        }
    }
}

/// `None` if the socket would have had to wait.
fn would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

const TERMINATE: u8 = b'X';
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(5);
