//! A window of reads in flight: what a connection pushes comes back in the order in which it was pushed.
//!
//! Pushing and taking allocate nothing: the window's places are made with it, pages come from the core's pool, and
//! requests carry their page to the owner of the key and back. Dropping a window forgets its reads: their answers
//! are thrown away when they come, their pages return to the pool.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::error::ReadError;
use crate::types::PAGE_BYTES;

use super::page_pool::{Page, PagePool};
use super::request::{Origin, ReadAnswer};

/// The answer to one read. The value is the first `result` bytes of the answer's page; `Deref` gives all of it.
pub struct Answer {
    /// Length of the value, or why there is none.
    pub result: Result<usize, ReadError>,
    page: Option<Page>,
    pool: PagePool,
}

impl Answer {
    /// The value's bytes, if there is a value.
    pub fn value(&self) -> Option<&[u8]> {
        self.result.as_ref().ok().and_then(|len| self.get(..*len))
    }
}

impl Deref for Answer {
    type Target = [u8; PAGE_BYTES];

    fn deref(&self) -> &Self::Target {
        self.page.as_ref().expect("only drop takes the page")
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(page) = self.page.take() {
            self.pool.put(page);
        }
    }
}

/// The places of one window.
pub(crate) struct Window {
    generation: u32,
    head: Cell<u64>,
    places: RefCell<VecDeque<Option<ReadAnswer>>>,
    reader: RefCell<Option<Waker>>,
}

impl Window {
    /// Which window of those that had its slot.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Takes the next place; says its position.
    pub(crate) fn reserve(&self) -> u64 {
        let mut places = self.places.borrow_mut();
        places.push_back(None);
        self.head.get() + places.len() as u64 - 1
    }

    /// Reads in flight or answered and not yet taken.
    pub(crate) fn len(&self) -> usize {
        self.places.borrow().len()
    }

    /// The answer at the head, if it has come.
    pub(crate) fn try_take(&self, pool: &PagePool) -> Option<Answer> {
        let mut places = self.places.borrow_mut();
        if !matches!(places.front(), Some(Some(_))) {
            return None;
        }
        let answer = places.pop_front().flatten()?;
        self.head.set(self.head.get() + 1);
        Some(Answer {
            result: answer.result,
            page: Some(answer.page),
            pool: pool.clone(),
        })
    }

    /// The answer at the head, once it has come; `None` when nothing is in flight.
    pub(crate) async fn take(&self, pool: &PagePool) -> Option<Answer> {
        poll_fn(|cx| {
            if let Some(answer) = self.try_take(pool) {
                return Poll::Ready(Some(answer));
            }
            if self.places.borrow().is_empty() {
                return Poll::Ready(None);
            }
            let mut reader = self.reader.borrow_mut();
            if !reader.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                *reader = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn complete(&self, answer: ReadAnswer) {
        let index = answer.origin.position.checked_sub(self.head.get());
        let index = index.expect("an answer comes once, before its place is passed");
        let mut places = self.places.borrow_mut();
        let place = usize::try_from(index)
            .ok()
            .and_then(|index| places.get_mut(index));
        let place = place.expect("an answer has a place that was reserved for it");
        assert!(place.is_none(), "an answer comes once");
        *place = Some(answer);
        if index == 0
            && let Some(reader) = self.reader.borrow_mut().take()
        {
            reader.wake();
        }
    }
}

/// All windows of a core.
#[derive(Default)]
pub(crate) struct Windows {
    slots: RefCell<Vec<Option<Rc<Window>>>>,
    free: RefCell<Vec<u32>>,
    generation: Cell<u32>,
}

impl Windows {
    /// A new window with room for `capacity` reads, and its slot.
    pub(crate) fn open(&self, capacity: usize) -> (u32, Rc<Window>) {
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let window = Rc::new(Window {
            generation,
            head: Cell::new(0),
            places: RefCell::new(VecDeque::with_capacity(capacity)),
            reader: RefCell::new(None),
        });
        let mut slots = self.slots.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(None);
            u32::try_from(slots.len() - 1).expect("windows are bounded by connections")
        });
        slots[slot as usize] = Some(Rc::clone(&window));
        (slot, window)
    }

    /// Forgets a window; answers still under way to it are thrown away when they come.
    pub(crate) fn close(&self, slot: u32) {
        let window = self.slots.borrow_mut()[slot as usize].take();
        assert!(window.is_some(), "a window is closed once");
        self.free.borrow_mut().push(slot);
    }

    /// Puts an answer into its place, or its page back into the pool when the window is gone.
    pub(crate) fn complete(&self, answer: ReadAnswer, pool: &PagePool) {
        let Origin {
            window: slot,
            generation,
            ..
        } = answer.origin;
        let slots = self.slots.borrow();
        match slots.get(slot as usize) {
            Some(Some(window)) if window.generation == generation => window.complete(answer),
            _ => pool.put(answer.page),
        }
    }
}
