//! A running pagestream. All complete requests in the receive buffer become reads at once, up to the bounds; their
//! answers are written in order, as many in one write as are there. Nothing is allocated per page once the buffers have
//! grown.
//!
//! ```text
//! inbox ── decode ──► pending: Read (one key, in the window) ──► answer ──► out ──► socket
//!                             Later (several keys): read when it is its turn
//!                             Awaited (an LSN that is not there): as Later, once it is; others are read meanwhile
//! ```

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use engine::io::clock::{Clock, Moment};
use engine::types::{Lsn, TenantId};
use futures_util::future::{Either, select};

use super::answers::{self, Found, Reader, RequestError};
use super::codec::{self, Ask, Echo, Request, Version};
use super::connection::{ConnectionError, CoreContext, OUT_BYTES_MAX, Wire};
use super::frames;
use super::limits::RequestShare;
use super::lsn_rules::{self, ReadAt};
use super::patience::{Deadline, Ended, Patience, TICK};
use super::transport::Transport;
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
    asked: Asked,
    turn: Turn,
}

struct Asked {
    echo: Echo,
    ask: Ask,
    taken: Moment,
}

enum Turn {
    /// Its key is in the window, at this LSN.
    Read(Lsn),
    /// Read when everything before it is answered.
    Later(Lsn),
    /// The branch has not come so far; until the deadline it may.
    Awaited(Lsn, Deadline),
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
    /// There may be more to do than before.
    Look,
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
        S: Transport,
    {
        wire.out.bytes.reserve(OUT_BYTES_MAX);
        loop {
            let intake = self.take_requests(wire);
            self.answer_what_is_there(wire).await?;
            if self.pending.is_empty() {
                wire.flush().await?;
            } else {
                // There is more to do than to wait for the client.
                wire.post().await?;
            }
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
            match self.wait(wire, intake).await? {
                Event::Answer(Some(answer)) => self.answer(wire, answer).await,
                Event::Received(Ok(0)) => self.end = Some(End::Closed),
                Event::Received(Err(e)) => return Err(e.into()),
                Event::Answer(None) | Event::Received(Ok(_)) | Event::Look => {}
            }
        }
    }

    /// Takes requests off the inbox while there is room for them. Says why it stopped.
    fn take_requests<S>(&mut self, wire: &mut Wire<'_, S>) -> Intake {
        if wire.patience.draining() && self.end.is_none() {
            self.end = Some(End::Draining);
        }
        let mut now = None;
        while self.end.is_none() {
            if self.pending.len() == self.pending_max {
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
                b'd' if !self.share.has_room() => return Intake::NoRoom,
                b'd' => match codec::decode(self.version, frame.body) {
                    Ok(request) => {
                        wire.inbox.consume(consumed);
                        let taken = *now.get_or_insert_with(|| wire.context.clock.now());
                        self.push(wire.context, wire.patience, request, taken);
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

    fn push(
        &mut self,
        context: &CoreContext,
        patience: &Patience,
        request: Request,
        taken: Moment,
    ) {
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
        let in_flight = self.share.in_flight_on_core();
        context.counters.requests_in_flight.set(in_flight.into());
        let last = self.branch.last_lsn();
        let turn = match lsn_rules::read_at(request_lsn, not_modified_since, last) {
            Err(bad) => Turn::Refused(bad.into()),
            Ok(ReadAt::After(wanted)) => {
                let limit = context.settings.lsn_wait_timeout;
                Turn::Awaited(wanted, patience.deadline(limit))
            }
            Ok(ReadAt::Now(at)) => match answers::single_key(ask) {
                Err(refused) => Turn::Refused(refused),
                Ok(None) => Turn::Later(at),
                Ok(Some(key)) => {
                    self.reads.push(&self.branch, key, at);
                    Turn::Read(at)
                }
            },
        };
        let asked = Asked { echo, ask, taken };
        self.pending.push_back(Pending { asked, turn });
    }

    /// Answers from the head of the order until one is not there yet.
    async fn answer_what_is_there<S>(
        &mut self,
        wire: &mut Wire<'_, S>,
    ) -> Result<(), ConnectionError>
    where
        S: Transport,
    {
        while let Some(head) = self.pending.front_mut() {
            match head.turn {
                Turn::Read(_) => {
                    let Some(answer) = self.reads.try_next() else {
                        return Ok(());
                    };
                    self.answer(wire, answer).await;
                }
                Turn::Awaited(wanted, deadline) => {
                    let last = self.branch.last_lsn();
                    head.turn = if last >= wanted {
                        Turn::Later(wanted)
                    } else if wire.patience.draining() {
                        Turn::Refused(RequestError::Stopping { at: wanted, last })
                    } else if wire.patience.is_past(deadline) {
                        Turn::Refused(RequestError::NotYet {
                            at: wanted,
                            last,
                            waited: wire.context.settings.lsn_wait_timeout,
                        })
                    } else {
                        self.branch.want();
                        return Ok(());
                    };
                }
                Turn::Later(_) => {
                    // What comes now may take long, so what was answered goes out first.
                    wire.post().await?;
                    self.answer_late(wire).await;
                }
                Turn::Refused(_) => self.answer_late(wire).await,
            }
            if wire.out.bytes.len() >= OUT_BYTES_MAX {
                wire.post().await?;
            }
        }
        Ok(())
    }

    /// Writes the answer to the head of the order, whose key was read.
    async fn answer<S>(&mut self, wire: &mut Wire<'_, S>, answer: Answer) {
        let Pending { asked, turn } = self.pending.pop_front().expect("an answer has its request");
        let Turn::Read(at) = turn else {
            unreachable!("the window answers what was pushed, in order");
        };
        let reader = Reader {
            core: &wire.context.core,
            branch: &self.branch,
            at,
        };
        let out = &mut wire.out.bytes;
        let put = answers::put_single(&reader, out, &asked.echo, asked.ask, &answer);
        let outcome = put.await;
        self.finish(wire, &asked, outcome);
    }

    /// Reads and answers the head of the order, which waits for its turn.
    async fn answer_late<S>(&mut self, wire: &mut Wire<'_, S>) {
        let Pending { asked, turn } = self.pending.pop_front().expect("the caller looked at it");
        let outcome = match turn {
            Turn::Refused(refused) => Err(refused),
            Turn::Later(at) => {
                let reader = Reader {
                    core: &wire.context.core,
                    branch: &self.branch,
                    at,
                };
                let out = &mut wire.out.bytes;
                reader.put(out, &asked.echo, asked.ask).await
            }
            Turn::Read(_) | Turn::Awaited(..) => unreachable!("the caller looked at it"),
        };
        self.finish(wire, &asked, outcome);
    }

    fn finish<S>(
        &mut self,
        wire: &mut Wire<'_, S>,
        asked: &Asked,
        outcome: Result<Found, RequestError>,
    ) {
        self.share.give_back();
        let context = wire.context;
        let in_flight = self.share.in_flight_on_core();
        context.counters.requests_in_flight.set(in_flight.into());
        let took = context.clock.now().0.saturating_sub(asked.taken.0);
        context.latency.record(asked.ask, took);
        match outcome {
            Ok(Found::Value) => {}
            Ok(Found::PastEnd) => context.counters.pages_past_end.add(1),
            Err(refused) => {
                context.counters.requests_failed.add(1);
                codec::put_error(&mut wire.out.bytes, &asked.echo, &refused.to_string());
            }
        }
    }

    /// Waits for the next answer or, with room for it, the next bytes of the client.
    async fn wait<S>(
        &mut self,
        wire: &mut Wire<'_, S>,
        intake: Intake,
    ) -> Result<Event, ConnectionError>
    where
        S: Transport,
    {
        let Wire {
            stream,
            inbox,
            patience,
            context,
            ..
        } = wire;
        let head = self.pending.front();
        let reading = head.is_some_and(|head| matches!(head.turn, Turn::Read(_)));
        let awaiting = head.is_some_and(|head| matches!(head.turn, Turn::Awaited(..)));
        let idle = head.is_none();
        if idle && intake == Intake::Full {
            // All it could have is answered meanwhile: there may be more to take.
            return Ok(Event::Look);
        }
        let hungry = intake == Intake::Hungry && self.end.is_none();
        // With something in flight its own answers make room.
        let starved = intake == Intake::NoRoom && idle;
        let PageStream { reads, share, .. } = self;
        let mut answer = pin!(reads.next());
        let event = poll_fn(|cx| {
            if reading && let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Event::Answer(answer));
            }
            if hungry && let Poll::Ready(received) = inbox.poll_receive(*stream, cx) {
                return Poll::Ready(Event::Received(received));
            }
            if starved && share.poll_room(cx).is_ready() {
                return Poll::Ready(Event::Look);
            }
            Poll::Pending
        });
        if awaiting {
            let poll = pin!(engine::io::glommio_clock::sleep_on_core(LSN_POLL));
            return Ok(match select(event, poll).await {
                Either::Left((event, _)) => event,
                Either::Right(_) => Event::Look,
            });
        }
        if !idle {
            return Ok(event.await);
        }
        let waiting = &context.counters.connections_waiting;
        if starved {
            waiting.add(1);
        }
        let event = patience.idle(context.settings.idle_timeout, event).await;
        if starved {
            waiting.set(waiting.get().saturating_sub(1));
        }
        match event {
            Ok(event) => Ok(event),
            Err(Ended::Draining) => {
                self.end = Some(End::Draining);
                Ok(Event::Look)
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
    /// There is none that may be read now.
    NoRoom,
    /// This connection has all it may have, or the stream is ending.
    Full,
}

/// How often a branch is asked whether it has come as far as a request wants.
const LSN_POLL: std::time::Duration = std::time::Duration::from_millis(10);
const _: () = assert!(LSN_POLL.as_millis() < TICK.as_millis());
