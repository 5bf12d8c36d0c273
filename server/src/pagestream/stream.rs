//! A running pagestream. All complete requests in the receive buffer become reads at once, up to the bounds; their
//! answers are written in order, as many in one write as are there. Nothing is allocated per page once the buffers have
//! grown.
//!
//! ```text
//! inbox ── decode ──► pending: Read (one key, in the window) ──► answer ──► out ──► socket
//!                             Later (several keys, or an LSN to wait for): read when it is its turn
//! ```

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use engine::types::{Lsn, TenantId};
use futures_util::{AsyncRead, AsyncWrite};

use super::answers::{self, Found, Reader, RequestError};
use super::codec::{self, Ask, Echo, Request, Version};
use super::connection::{ConnectionError, CoreContext, OUT_BYTES_MAX, Wire};
use super::frames;
use super::limits::RequestShare;
use super::lsn_rules::{self, ReadAt};
use super::patience::{Ended, TICK};
use crate::shards::{Answer, BranchHandle, Reads};

/// How a pagestream ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// The client sent CopyDone: commands may follow.
    Done,
    /// The client is gone.
    Closed,
}

/// What is read for one connection.
pub(super) struct PageStream {
    version: Version,
    branch: BranchHandle,
    reads: Reads,
    share: RequestShare,
    pending: VecDeque<Pending>,
    pending_max: usize,
    /// No more requests are taken; set once.
    end: Option<End>,
}

/// A request that was taken and not answered, in order.
struct Pending {
    echo: Echo,
    ask: Ask,
    turn: Turn,
}

enum Turn {
    /// Its key is in the window, at this LSN.
    Read(Lsn),
    /// Read when everything before it is answered.
    Later(ReadAt),
    /// Refused already.
    Refused(RequestError),
}

enum End {
    Done,
    Closed,
    Malformed(String),
    Draining,
}

enum Event {
    Answer(Option<Answer>),
    Received(io::Result<usize>),
    Room,
}

impl PageStream {
    pub(super) fn new(
        context: &CoreContext,
        version: Version,
        tenant: TenantId,
        branch: BranchHandle,
    ) -> PageStream {
        let pending_max = context.settings.requests_max;
        PageStream {
            version,
            branch,
            reads: context.core.reads(pending_max),
            share: context.requests.share(tenant),
            pending: VecDeque::with_capacity(pending_max),
            pending_max,
            end: None,
        }
    }

    /// Runs until the client ends it. Every request taken is answered before that.
    pub(super) async fn run<S>(
        &mut self,
        wire: &mut Wire<'_, S>,
    ) -> Result<StreamEnd, ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        wire.out.reserve(OUT_BYTES_MAX);
        loop {
            let out_of_step = self.take_requests(wire);
            self.answer_what_is_there(wire).await?;
            wire.flush().await?;
            if self.pending.is_empty()
                && let Some(end) = &self.end
            {
                return match end {
                    End::Done => Ok(StreamEnd::Done),
                    End::Closed => Ok(StreamEnd::Closed),
                    End::Malformed(text) => Err(ConnectionError::Malformed(text.clone())),
                    End::Draining => Err(Ended::Draining.into()),
                };
            }
            match self.wait(wire, out_of_step).await? {
                Event::Answer(Some(answer)) => self.answer(wire, answer).await,
                Event::Received(Ok(0)) => self.end = Some(End::Closed),
                Event::Received(Err(e)) => return Err(e.into()),
                Event::Answer(None) | Event::Received(Ok(_)) | Event::Room => {}
            }
        }
    }

    /// Takes requests off the inbox while there is room for them. Says whether it stopped for more bytes.
    fn take_requests<S>(&mut self, wire: &mut Wire<'_, S>) -> Intake {
        if wire.patience.draining() && self.end.is_none() {
            self.end = Some(End::Draining);
        }
        while self.end.is_none() {
            if self.pending.len() == self.pending_max || !self.share.has_room() {
                return Intake::Full;
            }
            let limit = wire.context.settings.frame_bytes_max;
            let frame = match frames::next_frame(wire.inbox.received(), limit) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Intake::Hungry,
                Err(malformed) => {
                    self.end = Some(End::Malformed(malformed.to_string()));
                    break;
                }
            };
            let consumed = frame.consumed_bytes;
            match frame.tag {
                b'd' => match codec::decode(self.version, frame.body) {
                    Ok(request) => {
                        wire.inbox.consume(consumed);
                        self.push(wire.context, request);
                    }
                    Err(malformed) => self.end = Some(End::Malformed(malformed.to_string())),
                },
                b'c' => {
                    wire.inbox.consume(consumed);
                    self.end = Some(End::Done);
                }
                // CopyFail and Terminate: the client leaves.
                b'f' | b'X' => self.end = Some(End::Closed),
                // Flush and Sync mean nothing inside a COPY.
                b'H' | b'S' => wire.inbox.consume(consumed),
                _ => {
                    let text = "only CopyData, CopyDone and CopyFail make sense in a pagestream";
                    self.end = Some(End::Malformed(text.to_owned()));
                }
            }
        }
        Intake::Full
    }

    fn push(&mut self, context: &CoreContext, request: Request) {
        let Request {
            ask,
            request_lsn,
            not_modified_since,
            echo,
        } = request;
        match ask {
            Ask::GetPage(..) => context.counters.requests_get_page.add(1),
            _ => context.counters.requests_other.add(1),
        }
        self.share.take();
        let last = self.branch.last_lsn();
        let turn = match lsn_rules::read_at(request_lsn, not_modified_since, last) {
            Err(bad) => Turn::Refused(bad.into()),
            Ok(after @ ReadAt::After(_)) => Turn::Later(after),
            Ok(ReadAt::Now(at)) => match answers::single_key(ask) {
                Err(refused) => Turn::Refused(refused),
                Ok(None) => Turn::Later(ReadAt::Now(at)),
                Ok(Some(key)) => {
                    self.reads.push(&self.branch, key, at);
                    Turn::Read(at)
                }
            },
        };
        self.pending.push_back(Pending { echo, ask, turn });
    }

    /// Answers from the head of the order until one is not there yet.
    async fn answer_what_is_there<S>(
        &mut self,
        wire: &mut Wire<'_, S>,
    ) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        while let Some(head) = self.pending.front() {
            if matches!(head.turn, Turn::Read(_)) {
                let Some(answer) = self.reads.try_next() else {
                    return Ok(());
                };
                self.answer(wire, answer).await;
            } else {
                // What comes now may take long, so what was answered goes out first.
                wire.flush().await?;
                self.answer_late(wire).await;
            }
            if wire.out.len() >= OUT_BYTES_MAX {
                wire.flush().await?;
            }
        }
        Ok(())
    }

    /// Writes the answer to the head of the order, whose key was read.
    async fn answer<S>(&mut self, wire: &mut Wire<'_, S>, answer: Answer) {
        let head = self.pending.pop_front().expect("an answer has its request");
        let Turn::Read(at) = head.turn else {
            unreachable!("the window answers what was pushed, in order");
        };
        let reader = Reader {
            core: &wire.context.core,
            branch: &self.branch,
            at,
        };
        let put = answers::put_single(&reader, &mut wire.out, &head.echo, head.ask, &answer);
        let outcome = put.await;
        self.finish(wire, &head.echo, outcome);
    }

    /// Reads and answers the head of the order, which waits for its turn.
    async fn answer_late<S>(&mut self, wire: &mut Wire<'_, S>) {
        let head = self.pending.pop_front().expect("the caller looked at it");
        let outcome = match head.turn {
            Turn::Refused(refused) => Err(refused),
            Turn::Later(when) => match self.arrival(wire.context, when).await {
                Err(late) => Err(late),
                Ok(at) => {
                    let reader = Reader {
                        core: &wire.context.core,
                        branch: &self.branch,
                        at,
                    };
                    reader.put(&mut wire.out, &head.echo, head.ask).await
                }
            },
            Turn::Read(_) => unreachable!("the caller looked at it"),
        };
        self.finish(wire, &head.echo, outcome);
    }

    fn finish<S>(
        &mut self,
        wire: &mut Wire<'_, S>,
        echo: &Echo,
        outcome: Result<Found, RequestError>,
    ) {
        self.share.give_back();
        match outcome {
            Ok(Found::Value) => {}
            Ok(Found::PastEnd) => wire.context.counters.pages_past_end.add(1),
            Err(refused) => {
                wire.context.counters.requests_failed.add(1);
                codec::put_error(&mut wire.out, echo, &refused.to_string());
            }
        }
    }

    /// Waits, bounded, until the branch has come as far as a request wants.
    async fn arrival(&self, context: &CoreContext, when: ReadAt) -> Result<Lsn, RequestError> {
        let wanted = match when {
            ReadAt::Now(at) => return Ok(at),
            ReadAt::After(wanted) => wanted,
        };
        let waited = context.settings.lsn_wait_timeout;
        let steps = waited.as_millis().div_ceil(LSN_POLL.as_millis());
        for _ in 0..steps {
            if self.branch.last_lsn() >= wanted {
                return Ok(wanted);
            }
            glommio::timer::sleep(LSN_POLL).await;
        }
        let last = self.branch.last_lsn();
        if last >= wanted {
            return Ok(wanted);
        }
        Err(RequestError::NotYet {
            at: wanted,
            last,
            waited,
        })
    }

    /// Waits for the next answer or, with room for it, the next bytes of the client.
    async fn wait<S>(
        &mut self,
        wire: &mut Wire<'_, S>,
        intake: Intake,
    ) -> Result<Event, ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Wire {
            stream,
            inbox,
            patience,
            context,
            ..
        } = wire;
        let in_flight = !self.pending.is_empty();
        let hungry = intake == Intake::Hungry && self.end.is_none();
        let PageStream { reads, share, .. } = self;
        let mut answer = pin!(reads.next());
        let mut room = pin!(share.room());
        let event = poll_fn(|cx| {
            if in_flight && let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Event::Answer(answer));
            }
            if hungry && let Poll::Ready(received) = inbox.poll_receive(*stream, cx) {
                return Poll::Ready(Event::Received(received));
            }
            if !in_flight && !hungry && room.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Room);
            }
            Poll::Pending
        });
        if in_flight || !hungry {
            return Ok(event.await);
        }
        match patience.idle(context.settings.idle_timeout, event).await {
            Ok(event) => Ok(event),
            Err(Ended::Draining) => {
                self.end = Some(End::Draining);
                Ok(Event::Room)
            }
            Err(Ended::TimedOut) => Err(Ended::TimedOut.into()),
        }
    }
}

/// Why no more requests were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    /// The rest of the next one has not come.
    Hungry,
    /// There is no room for more, or the stream is ending.
    Full,
}

/// How often a branch is asked whether it has come as far as a request wants.
const LSN_POLL: std::time::Duration = std::time::Duration::from_millis(10);
const _: () = assert!(LSN_POLL.as_millis() < TICK.as_millis());
