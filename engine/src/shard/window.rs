//! A window of reads in flight: what a connection pushes comes back in the order in which it was pushed; or, for those
//! who would rather not wait for the slowest, as it comes.
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
    number: u64,
    /// Length of the value, or why there is none.
    pub result: Result<usize, ReadError>,
    page: Option<Page>,
    pool: PagePool,
}

impl Answer {
    /// What [`push`](super::Reads::push) returned for this read.
    pub fn number(&self) -> u64 {
        self.number
    }

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

/// The order in which a window's answers are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// As they were pushed.
    Pushed,
    /// As they come.
    Arrived,
}

/// The places of one window.
pub(crate) struct Window {
    generation: u32,
    places: RefCell<Places>,
    reader: RefCell<Option<Waker>>,
}

enum Places {
    /// Numbers count from the first push; `head` is the first place's.
    Pushed {
        head: u64,
        places: VecDeque<Option<ReadAnswer>>,
    },
    /// Numbers are reused: those below the capacity.
    Arrived {
        free: Vec<u64>,
        capacity: usize,
        here: VecDeque<ReadAnswer>,
    },
}

impl Places {
    fn new(order: Order, capacity: usize) -> Places {
        match order {
            Order::Pushed => Places::Pushed {
                head: 0,
                places: VecDeque::with_capacity(capacity),
            },
            Order::Arrived => Places::Arrived {
                free: (0..capacity as u64).rev().collect(),
                capacity,
                here: VecDeque::with_capacity(capacity),
            },
        }
    }

    fn len(&self) -> usize {
        match self {
            Places::Pushed { places, .. } => places.len(),
            Places::Arrived { free, capacity, .. } => capacity - free.len(),
        }
    }

    fn take(&mut self) -> Option<ReadAnswer> {
        match self {
            Places::Pushed { head, places } => {
                if !matches!(places.front(), Some(Some(_))) {
                    return None;
                }
                *head += 1;
                places.pop_front().flatten()
            }
            Places::Arrived { free, here, .. } => {
                let answer = here.pop_front()?;
                free.push(answer.origin.position);
                Some(answer)
            }
        }
    }

    /// Puts an answer into its place; says whether it can be taken now.
    fn put(&mut self, answer: ReadAnswer) -> bool {
        match self {
            Places::Pushed { head, places } => {
                let index = answer.origin.position.checked_sub(*head);
                let index = index.expect("an answer comes once, before its place is passed");
                let place = usize::try_from(index)
                    .ok()
                    .and_then(|index| places.get_mut(index));
                let place = place.expect("an answer has a place that was reserved for it");
                assert!(place.is_none(), "an answer comes once");
                *place = Some(answer);
                index == 0
            }
            Places::Arrived { here, .. } => {
                here.push_back(answer);
                true
            }
        }
    }
}

impl Window {
    /// Which window of those that had its slot.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Takes the next place; says its position.
    pub(crate) fn reserve(&self) -> u64 {
        match &mut *self.places.borrow_mut() {
            Places::Pushed { head, places } => {
                places.push_back(None);
                *head + places.len() as u64 - 1
            }
            Places::Arrived { free, .. } => free.pop().expect("the caller saw that there is room"),
        }
    }

    /// Reads in flight or answered and not yet taken.
    pub(crate) fn len(&self) -> usize {
        self.places.borrow().len()
    }

    /// The next answer, if it has come.
    pub(crate) fn try_take(&self, pool: &PagePool) -> Option<Answer> {
        let answer = self.places.borrow_mut().take()?;
        Some(Answer {
            number: answer.origin.position,
            result: answer.result,
            page: Some(answer.page),
            pool: pool.clone(),
        })
    }

    /// The next answer, once it has come; `None` when nothing is in flight.
    pub(crate) async fn take(&self, pool: &PagePool) -> Option<Answer> {
        poll_fn(|cx| {
            if let Some(answer) = self.try_take(pool) {
                return Poll::Ready(Some(answer));
            }
            if self.len() == 0 {
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
        if self.places.borrow_mut().put(answer)
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
    pub(crate) fn open(&self, capacity: usize, order: Order) -> (u32, Rc<Window>) {
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let window = Rc::new(Window {
            generation,
            places: RefCell::new(Places::new(order, capacity)),
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
