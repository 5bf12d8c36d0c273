//! A cap on what is in flight, for one core: a counting semaphore that is first come, first served.
//!
//! It owns a count and a queue of waiting tasks. The queue keeps its memory, so that in the steady state neither
//! waiting nor releasing allocates. A waiter that is dropped gives up its place; if it had been woken, the next one
//! is woken in its stead, so a permit is never lost.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A number of permits shared by the tasks of one core.
#[derive(Debug)]
pub struct Permits {
    free: Cell<usize>,
    max: usize,
    queue: RefCell<Queue>,
}

/// Waiting tasks in order of arrival; a place that was given up is `None`. The place with ticket `t` is at
/// `t - first_ticket`.
#[derive(Debug, Default)]
struct Queue {
    places: VecDeque<Option<Waker>>,
    first_ticket: u64,
}

impl Permits {
    /// `max` permits, all free. `max` must be positive.
    pub fn new(max: usize) -> Rc<Permits> {
        assert!(max > 0, "a cap of zero would wait for ever");
        Rc::new(Permits {
            free: Cell::new(max),
            max,
            queue: RefCell::default(),
        })
    }

    /// Waits for a permit; it is free again when the returned value is dropped. Dropping the future gives up
    /// the place in the queue.
    pub fn acquire(self: &Rc<Self>) -> Acquire {
        Acquire {
            permits: Rc::clone(self),
            ticket: None,
        }
    }

    /// Permits in use now.
    pub fn in_use(&self) -> usize {
        self.max - self.free.get()
    }

    /// Tasks that wait now.
    pub fn waiting(&self) -> usize {
        self.queue.borrow().places.iter().flatten().count()
    }

    fn release(&self) {
        self.free.set(self.free.get() + 1);
        assert!(self.free.get() <= self.max, "a permit is released once");
        self.wake_first();
    }

    /// Wakes the first in the queue if there is a permit for it.
    fn wake_first(&self) {
        if self.free.get() > 0
            && let Some(Some(waker)) = self.queue.borrow().places.front()
        {
            waker.wake_by_ref();
        }
    }
}

impl Queue {
    fn push(&mut self, waker: &Waker) -> u64 {
        self.places.push_back(Some(waker.clone()));
        self.first_ticket + self.places.len() as u64 - 1
    }

    fn place(&mut self, ticket: u64) -> &mut Option<Waker> {
        let at = usize::try_from(ticket - self.first_ticket).expect("a queue fits in memory");
        &mut self.places[at]
    }

    /// Takes a ticket out, and empty places before the first waiting one.
    fn leave(&mut self, ticket: u64) {
        *self.place(ticket) = None;
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.first_ticket += 1;
        }
    }
}

/// The future of [`Permits::acquire`].
#[derive(Debug)]
pub struct Acquire {
    permits: Rc<Permits>,
    ticket: Option<u64>,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let this = self.get_mut();
        let permits = &this.permits;
        let free = permits.free.get();
        let mut queue = permits.queue.borrow_mut();
        match this.ticket {
            None if free > 0 && queue.places.is_empty() => {}
            None => {
                this.ticket = Some(queue.push(cx.waker()));
                return Poll::Pending;
            }
            Some(ticket) if free > 0 && ticket == queue.first_ticket => {
                queue.leave(ticket);
                this.ticket = None;
            }
            Some(ticket) => {
                match queue.place(ticket) {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => unreachable!("a waiting task has a place"),
                }
                return Poll::Pending;
            }
        }
        drop(queue);
        permits.free.set(free - 1);
        permits.wake_first();
        Poll::Ready(Permit {
            permits: Rc::clone(permits),
        })
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.permits.queue.borrow_mut().leave(ticket);
            self.permits.wake_first();
        }
    }
}

/// The right to one operation; given back on drop.
#[derive(Debug)]
pub struct Permit {
    permits: Rc<Permits>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.release();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Task {
        woken: Arc<Woken>,
        acquire: Option<Acquire>,
    }

    impl Task {
        fn new(permits: &Rc<Permits>) -> Task {
            Task {
                woken: Arc::default(),
                acquire: Some(permits.acquire()),
            }
        }

        fn poll(&mut self) -> Option<Permit> {
            let waker = Waker::from(Arc::clone(&self.woken));
            let mut cx = Context::from_waker(&waker);
            match Pin::new(self.acquire.as_mut().expect("still waiting")).poll(&mut cx) {
                Poll::Ready(permit) => Some(permit),
                Poll::Pending => None,
            }
        }

        fn woken(&self) -> usize {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn permits_are_given_in_order_and_never_more_than_there_are() {
        let permits = Permits::new(2);
        let first = Task::new(&permits).poll().expect("free");
        let second = Task::new(&permits).poll().expect("free");
        let (mut third, mut fourth) = (Task::new(&permits), Task::new(&permits));
        assert!(third.poll().is_none() && fourth.poll().is_none());
        assert_eq!((permits.in_use(), permits.waiting()), (2, 2));

        drop(first);
        assert_eq!((third.woken(), fourth.woken()), (1, 0));
        assert!(fourth.poll().is_none(), "it is the third one's turn");
        assert!(Task::new(&permits).poll().is_none(), "nobody overtakes");
        let third = third.poll().expect("its turn");
        drop(second);
        assert_eq!(fourth.woken(), 1);
        let fourth = fourth.poll().expect("its turn");
        drop((third, fourth));
        assert_eq!((permits.in_use(), permits.waiting()), (0, 0));
    }

    #[test]
    fn a_woken_task_that_is_dropped_passes_its_turn_on() {
        let permits = Permits::new(1);
        let held = Task::new(&permits).poll().expect("free");
        let (mut second, mut third, mut fourth) = (
            Task::new(&permits),
            Task::new(&permits),
            Task::new(&permits),
        );
        assert!(second.poll().is_none() && third.poll().is_none() && fourth.poll().is_none());
        drop(third);
        drop(held);
        assert_eq!((second.woken(), fourth.woken()), (1, 0));
        drop(second);
        assert_eq!(fourth.woken(), 1);
        drop(fourth.poll().expect("the only one left"));
        assert_eq!((permits.in_use(), permits.waiting()), (0, 0));
    }
}
