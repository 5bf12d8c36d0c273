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
    idle: RefCell<Vec<Waker>>,
}

impl ReaderQueue {
    /// An empty queue for `readers` tasks.
    pub(crate) fn new(readers: usize) -> ReaderQueue {
        ReaderQueue {
            waiting: RefCell::new(VecDeque::with_capacity(readers)),
            idle: RefCell::new(Vec::with_capacity(readers)),
        }
    }

    /// Adds a request and wakes one idle reader.
    pub(crate) fn push(&self, request: ReadRequest) {
        self.waiting.borrow_mut().push_back(request);
        if let Some(reader) = self.idle.borrow_mut().pop() {
            reader.wake();
        }
    }

    /// The next request, once there is one.
    pub(crate) async fn pop(&self) -> ReadRequest {
        poll_fn(|cx| {
            if let Some(request) = self.waiting.borrow_mut().pop_front() {
                return Poll::Ready(request);
            }
            let mut idle = self.idle.borrow_mut();
            if !idle.iter().any(|reader| reader.will_wake(cx.waker())) {
                idle.push(cx.waker().clone());
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
