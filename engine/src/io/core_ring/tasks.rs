//! The tasks of a core, so that each is dropped when the core ends.
//!
//! glommio drops a task that is ready to run when its executor is dropped; one that waits is kept by nobody but its
//! wakers, and would stay, with all it holds, until the process ends. Whoever waits for the other end of a channel in it
//! would wait for ever. So a task's future lives in a place that the core's list knows too, and what is left in the list at
//! the end is dropped from there.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use super::CoreRing;

/// The tasks of one core that have not ended.
#[derive(Default)]
pub(super) struct Tasks {
    all: RefCell<Places>,
}

#[derive(Default)]
struct Places {
    places: Vec<Option<Rc<dyn Ends>>>,
    free: Vec<usize>,
}

impl Tasks {
    /// Drops every task that is left. To be called when the core's executor is gone: what is dropped may cancel other
    /// tasks, and those find nobody who would schedule them.
    pub(super) fn end(&self) {
        loop {
            // Dropping a task may take others off the list.
            let mut all = self.all.borrow_mut();
            all.free.clear();
            let Some(last) = all.places.pop() else {
                return;
            };
            drop(all);
            if let Some(task) = last {
                task.end();
            }
        }
    }

    fn enter(&self, task: Rc<dyn Ends>) -> usize {
        let mut all = self.all.borrow_mut();
        if let Some(number) = all.free.pop() {
            all.places[number] = Some(task);
            return number;
        }
        all.places.push(Some(task));
        all.places.len() - 1
    }

    fn leave(&self, number: usize) {
        let mut all = self.all.borrow_mut();
        // While the list is taken down there are no places to be given back.
        if let Some(place) = all.places.get_mut(number) {
            let left = place.take();
            all.free.push(number);
            drop(all);
            drop(left);
        }
    }
}

/// What can be dropped before its time.
trait Ends {
    fn end(&self);
}

/// Where a task's future is; empty once it was dropped.
struct Place<F>(RefCell<Option<Pin<Box<F>>>>);

impl<F> Ends for Place<F> {
    fn end(&self) {
        let task = self.0.borrow_mut().take();
        drop(task);
    }
}

/// A task's future, on the list of its core until it ends or is dropped.
struct Kept<F> {
    place: Rc<Place<F>>,
    number: usize,
    /// Weak: what glommio keeps of a task whose wakers are still somewhere must not keep the ring.
    ring: Weak<CoreRing>,
}

/// `task` as one that is dropped with this thread's core at the latest.
pub(in crate::io) fn kept<T, F>(task: F) -> impl Future<Output = T> + 'static
where
    F: Future<Output = T> + 'static,
{
    let ring = CoreRing::current();
    let place = Rc::new(Place(RefCell::new(Some(Box::pin(task)))));
    let listed: Rc<dyn Ends> = Rc::<Place<F>>::clone(&place);
    let number = ring.tasks.enter(listed);
    Kept {
        place,
        number,
        ring: Rc::downgrade(&ring),
    }
}

impl<F: Future> Future for Kept<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match &mut *self.place.0.borrow_mut() {
            Some(task) => task.as_mut().poll(cx),
            // The core has ended, and nobody polls any more.
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Kept<F> {
    fn drop(&mut self) {
        if let Some(ring) = self.ring.upgrade() {
            ring.tasks.leave(self.number);
        }
    }
}
