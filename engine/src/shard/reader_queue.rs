//! Requests that wait for a reader, and readers that wait for a request.
//!
//! A shard runs a fixed number of reader tasks, started once, so that a read costs no task of its own. A reader
//! never waits for the object store (the read path hands such a request to a task that may), so readers only ever
//! wait for the device, and hits go on while the store is away.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::request::ReadRequest;

/// First in, first out; its length is bounded by the reads in flight in all windows.
pub(crate) struct ReaderQueue {
    waiting: RefCell<VecDeque<ReadRequest>>,
    readers: RefCell<Readers>,
}

/// The last reader to go idle is the first to be woken: its memory is the warmest. Going idle and being woken cost the
/// same however many readers there are.
struct Readers {
    idle: Vec<usize>,
    /// By the reader's number; `is_idle` exactly for those in `idle`.
    known: Vec<Reader>,
}

#[derive(Clone, Default)]
struct Reader {
    is_idle: bool,
    waker: Option<Waker>,
}

impl ReaderQueue {
    /// An empty queue for readers `0..readers`.
    pub(crate) fn new(readers: usize) -> ReaderQueue {
        ReaderQueue {
            waiting: RefCell::new(VecDeque::with_capacity(readers)),
            readers: RefCell::new(Readers {
                idle: Vec::with_capacity(readers),
                known: vec![Reader::default(); readers],
            }),
        }
    }

    /// Adds a request and wakes one idle reader.
    pub(crate) fn push(&self, request: ReadRequest) {
        self.waiting.borrow_mut().push_back(request);
        let mut readers = self.readers.borrow_mut();
        if let Some(number) = readers.idle.pop() {
            let reader = &mut readers.known[number];
            reader.is_idle = false;
            let waker = reader.waker.as_ref();
            waker.expect("idle readers left a waker").wake_by_ref();
        }
    }

    /// The next request for reader `number`, once there is one.
    pub(crate) async fn pop(&self, number: usize) -> ReadRequest {
        poll_fn(|cx| {
            let readers = &mut *self.readers.borrow_mut();
            let reader = &mut readers.known[number];
            if let Some(request) = self.waiting.borrow_mut().pop_front() {
                // Polled without being woken from here: it must not be taken for idle while it reads.
                if std::mem::take(&mut reader.is_idle) {
                    readers.idle.retain(|idle| *idle != number);
                }
                return Poll::Ready(request);
            }
            match &mut reader.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => reader.waker = Some(cx.waker().clone()),
            }
            if !std::mem::replace(&mut reader.is_idle, true) {
                readers.idle.push(number);
            }
            Poll::Pending
        })
        .await
    }

    /// Requests that no reader has taken yet.
    pub(crate) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use super::*;
    use crate::io::clock::Moment;
    use crate::shard::page_pool::Page;
    use crate::shard::request::Origin;
    use crate::types::{Key, Lsn};

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn request(position: u64) -> ReadRequest {
        ReadRequest {
            branch: 0,
            key: Key::MIN,
            at: Lsn(1),
            origin: Origin {
                core: 0,
                window: 0,
                generation: 0,
                position,
            },
            started: Moment::default(),
            page: Page::zeroed(),
        }
    }

    #[test]
    fn every_request_wakes_a_reader_that_is_idle_and_none_that_reads() {
        let queue = ReaderQueue::new(2);
        let woken: [Arc<Woken>; 2] = Default::default();
        let poll = |number: usize| {
            let waker = Waker::from(Arc::clone(&woken[number]));
            let popped = pin!(queue.pop(number)).poll(&mut Context::from_waker(&waker));
            match popped {
                Poll::Ready(request) => Some(request.origin.position),
                Poll::Pending => None,
            }
        };
        let counts = || [0, 1].map(|number: usize| woken[number].0.load(Ordering::Relaxed));
        assert_eq!((poll(0), poll(1), poll(1)), (None, None, None));
        queue.push(request(1));
        assert_eq!(counts(), [0, 1], "the last to go idle, once");
        queue.push(request(2));
        assert_eq!(counts(), [1, 1]);
        queue.push(request(3));
        assert_eq!(counts(), [1, 1], "nobody is idle");
        assert_eq!((poll(1), poll(0), poll(0)), (Some(1), Some(2), Some(3)));

        // Reader 1 is idle, and is polled for another reason just as a request has come that woke reader 0.
        assert_eq!((poll(1), poll(0)), (None, None));
        queue.push(request(4));
        assert_eq!((counts(), poll(1)), ([2, 1], Some(4)));
        queue.push(request(5));
        assert_eq!(counts(), [2, 1], "reader 0 is on its way, reader 1 reads");
        assert_eq!((poll(0), queue.len()), (Some(5), 0));
    }
}
