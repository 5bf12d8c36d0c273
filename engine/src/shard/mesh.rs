//! Queues between cores: one bounded single-producer ring for each ordered pair, and one bell per core.
//!
//! Sending is wait-free and never blocks. When a ring is full its sender keeps what it could not send in a queue of
//! its own, in order, and goes on when the receiver has made room; how much there can be is bounded by the reads in
//! flight, which the windows bound. A bell wakes a sleeping core once, however many messages follow.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use rtrb::{Consumer, Producer, RingBuffer};

use super::request::Message;

/// One core's end of the mesh.
pub struct MeshEnd {
    core: usize,
    /// The peer that is heard first next time.
    first_heard: Cell<usize>,
    lines: Vec<Option<Line>>,
    bells: Arc<[AtomicWaker]>,
}

/// The two rings between this core and one peer.
struct Line {
    outgoing: RefCell<Producer<Message>>,
    overflow: RefCell<VecDeque<Message>>,
    incoming: RefCell<Consumer<Message>>,
    /// Set by us when our outgoing ring was full: the peer rings us after it has taken something out.
    outgoing_stuck: Arc<AtomicBool>,
    /// The same, set by the peer.
    incoming_stuck: Arc<AtomicBool>,
}

impl MeshEnd {
    /// The ends of a mesh of `cores` cores, in order, with rings of `ring_messages` each.
    pub fn mesh(cores: usize, ring_messages: usize) -> Vec<MeshEnd> {
        let bells: Arc<[AtomicWaker]> = (0..cores).map(|_| AtomicWaker::new()).collect();
        let mut ends: Vec<MeshEnd> = (0..cores)
            .map(|core| MeshEnd {
                core,
                first_heard: Cell::new(0),
                lines: (0..cores).map(|_| None).collect(),
                bells: Arc::clone(&bells),
            })
            .collect();
        for a in 0..cores {
            for b in a + 1..cores {
                let (a_out, b_in) = RingBuffer::new(ring_messages);
                let (b_out, a_in) = RingBuffer::new(ring_messages);
                let a_stuck = Arc::new(AtomicBool::new(false));
                let b_stuck = Arc::new(AtomicBool::new(false));
                ends[a].lines[b] = Some(Line::new(a_out, a_in, &a_stuck, &b_stuck));
                ends[b].lines[a] = Some(Line::new(b_out, b_in, &b_stuck, &a_stuck));
            }
        }
        ends
    }

    /// Cores in the mesh, this one included.
    pub fn cores(&self) -> usize {
        self.lines.len()
    }

    /// This core's number.
    pub fn core(&self) -> usize {
        self.core
    }

    /// Sends `message` to another core.
    pub(crate) fn send(&self, to: usize, message: Message) {
        let line = self.lines[to]
            .as_ref()
            .expect("a core does not send to itself");
        line.overflow.borrow_mut().push_back(message);
        line.flush();
        self.bells[to].wake();
    }

    /// Takes what has arrived, at most [`RECEIVE_MAX`] messages, and hands it on; says how many. Peers take turns at being
    /// heard first, so that none is kept waiting by the others.
    pub(crate) fn receive(&self, mut take: impl FnMut(Message)) -> usize {
        let peers = self.lines.len();
        let first = self.first_heard.get();
        self.first_heard.set((first + 1) % peers);
        let mut count = 0;
        for peer in (first..peers).chain(0..first) {
            let Some(line) = &self.lines[peer] else {
                continue;
            };
            let arrived = line.incoming.borrow().slots().min(RECEIVE_MAX - count);
            for _ in 0..arrived {
                let message = line.incoming.borrow_mut().pop();
                take(message.expect("that many had arrived"));
            }
            count += arrived;
            if arrived > 0 && line.incoming_stuck.swap(false, Ordering::AcqRel) {
                self.bells[peer].wake();
            }
            if line.flush() {
                self.bells[peer].wake();
            }
        }
        count
    }

    /// Completes when something has arrived, or when a full ring has room again; never before the other tasks of this
    /// core had their turn, so that a stream of messages does not keep it from them.
    pub(crate) async fn wait(&self) {
        let mut first = true;
        poll_fn(|cx| {
            if !first {
                return Poll::Ready(());
            }
            first = false;
            self.bells[self.core].register(cx.waker());
            if self.has_work() {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }

    /// Messages that wait in this core for room in a ring.
    pub(crate) fn overflow(&self) -> usize {
        self.lines
            .iter()
            .flatten()
            .map(|line| line.overflow.borrow().len())
            .sum()
    }

    fn has_work(&self) -> bool {
        self.lines.iter().flatten().any(|line| {
            let arrived = line.incoming.borrow().slots() > 0;
            let room = line.outgoing.borrow().slots() > 0 && !line.overflow.borrow().is_empty();
            arrived || room
        })
    }
}

impl Line {
    fn new(
        outgoing: Producer<Message>,
        incoming: Consumer<Message>,
        outgoing_stuck: &Arc<AtomicBool>,
        incoming_stuck: &Arc<AtomicBool>,
    ) -> Line {
        Line {
            overflow: RefCell::new(VecDeque::with_capacity(outgoing.buffer().capacity())),
            outgoing: RefCell::new(outgoing),
            incoming: RefCell::new(incoming),
            outgoing_stuck: Arc::clone(outgoing_stuck),
            incoming_stuck: Arc::clone(incoming_stuck),
        }
    }

    /// Moves what waits into the ring; says whether anything moved.
    fn flush(&self) -> bool {
        let mut overflow = self.overflow.borrow_mut();
        let mut outgoing = self.outgoing.borrow_mut();
        let mut moved = false;
        while let Some(message) = overflow.pop_front() {
            match outgoing.push(message) {
                Ok(()) => moved = true,
                Err(rtrb::PushError::Full(message)) => {
                    overflow.push_front(message);
                    if self.outgoing_stuck.swap(true, Ordering::AcqRel) || outgoing.slots() == 0 {
                        break;
                    }
                    // Room came between the push and the flag: the peer may not have seen it.
                    self.outgoing_stuck.store(false, Ordering::Release);
                }
            }
        }
        moved
    }
}

/// Messages taken at once, before other tasks have their turn: a few hundred microseconds of them.
const RECEIVE_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::page_pool::Page;
    use crate::shard::request::{Origin, ReadAnswer};

    fn answer(position: u64) -> Message {
        let origin = Origin {
            core: 0,
            window: 0,
            generation: 0,
            position,
        };
        Message::Answer(ReadAnswer {
            origin,
            result: Ok(0),
            page: Page::zeroed(),
        })
    }

    #[test]
    fn messages_arrive_in_order_also_when_the_ring_overflows() {
        let ends = MeshEnd::mesh(2, 4);
        for position in 0..10 {
            ends[0].send(1, answer(position));
        }
        assert_eq!(ends[0].overflow(), 6);
        let mut seen = Vec::new();
        while seen.len() < 10 {
            let before = seen.len();
            ends[1].receive(|message| match message {
                Message::Answer(answer) => seen.push(answer.origin.position),
                _ => panic!("nobody asked"),
            });
            ends[0].receive(|_| panic!("nothing was sent back"));
            assert!(seen.len() > before, "the queue is stuck after {before}");
        }
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        assert_eq!(ends[0].overflow(), 0);
    }

    #[test]
    fn two_threads_lose_nothing_through_a_tiny_ring() {
        const MESSAGES: u64 = 20_000;
        let mut ends = MeshEnd::mesh(2, 2);
        let receiver = ends.pop().expect("two ends");
        let sender = ends.pop().expect("two ends");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                tokio::runtime::Builder::new_current_thread()
                    .build()
                    .expect("runtime")
                    .block_on(async {
                        for position in 0..MESSAGES {
                            sender.send(1, answer(position));
                        }
                        while sender.overflow() > 0 {
                            sender.wait().await;
                            sender.receive(|_| panic!("nothing was sent back"));
                        }
                    });
            });
            scope.spawn(move || {
                tokio::runtime::Builder::new_current_thread()
                    .build()
                    .expect("runtime")
                    .block_on(async {
                        let mut next = 0;
                        while next < MESSAGES {
                            receiver.wait().await;
                            receiver.receive(|message| match message {
                                Message::Answer(answer) => {
                                    assert_eq!(answer.origin.position, next);
                                    next += 1;
                                }
                                _ => panic!("nobody asked"),
                            });
                        }
                    });
            });
        });
    }

    #[test]
    fn a_flood_is_taken_in_bounded_parts_and_from_all_peers_in_turn() {
        let ends = MeshEnd::mesh(3, RECEIVE_MAX);
        for position in 0..RECEIVE_MAX as u64 {
            ends[1].send(0, answer(position));
            ends[2].send(0, answer(1_000_000 + position));
        }
        let heard = || {
            let mut heard = Vec::new();
            let count = ends[0].receive(|message| match message {
                Message::Answer(answer) => heard.push(answer.origin.position >= 1_000_000),
                _ => panic!("nobody asked"),
            });
            assert_eq!(count, heard.len());
            heard
        };
        let (first, second) = (heard(), heard());
        assert_eq!((first.len(), second.len()), (RECEIVE_MAX, RECEIVE_MAX));
        assert!(heard().is_empty());
        // Nobody is starved by one peer that never pauses.
        for position in 0..RECEIVE_MAX as u64 {
            ends[1].send(0, answer(position));
        }
        ends[2].send(0, answer(1_000_000));
        let mut rounds = 0;
        while !heard().contains(&true) {
            (0..RECEIVE_MAX).for_each(|_| ends[1].send(0, answer(0)));
            rounds += 1;
            assert!(rounds < 3, "the third core is not heard");
        }
    }

    /// While messages kept coming, the task that takes them never let another one run.
    #[test]
    fn other_tasks_have_their_turn_while_messages_keep_coming() {
        let mut ends = MeshEnd::mesh(2, 4);
        let receiver = ends.pop().expect("two ends");
        let sender = ends.pop().expect("two ends");
        sender.send(1, answer(0));
        let other_ran = Cell::new(false);
        let pump = async {
            let mut turns = 0;
            while !other_ran.get() {
                receiver.wait().await;
                receiver.receive(|_| sender.send(1, answer(0)));
                turns += 1;
                assert!(turns < 1000, "the other task waits");
            }
        };
        let other = async { other_ran.set(true) };
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("runtime")
            .block_on(futures_util::future::join(pump, other));
    }
}
