//! Operations that the kernel works on: a slot for each, with what it owns, and the future of whoever waits for it.
//!
//! ```text
//!          take              land             taken by its waiter
//!   Free ────────► Flying ────────► Landed ─────────────────────► Free
//!                    │ its waiter is gone
//!                    └──────────► Abandoned ── land ──► Free
//! ```

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{cqueue, opcode};

use super::pool::PoolBuffer;
use super::{CoreRing, IGNORED};
use crate::io::aligned_buffer::AlignedBuffer;

/// Operations under way, and free places.
#[derive(Default)]
pub(super) struct Slots {
    pub(super) all: Vec<Slot>,
    pub(super) free: Vec<u32>,
    /// Operations that the kernel has or is about to get, the bell's included.
    pub(super) flying: usize,
    /// Those of them that read or write a device.
    pub(super) at_device: usize,
}

pub(super) enum Slot {
    Free,
    Flying {
        keep: Keep,
        waker: Option<Waker>,
    },
    /// Nobody waits for it any more.
    Abandoned {
        keep: Keep,
    },
    Landed {
        keep: Keep,
        completed: Completed,
    },
}

/// What a completion says.
#[derive(Clone, Copy)]
pub(super) struct Completed {
    result: i32,
    flags: u32,
}

pub(super) enum Landing {
    Awaited(Option<Waker>),
    Abandoned(Keep),
}

impl Slots {
    pub(super) fn take(&mut self, keep: Keep) -> u32 {
        self.flying += 1;
        self.at_device += usize::from(keep.memory.is_of_device());
        let flying = Slot::Flying { keep, waker: None };
        if let Some(number) = self.free.pop() {
            self.all[number as usize] = flying;
            return number;
        }
        self.all.push(flying);
        u32::try_from(self.all.len() - 1).expect("operations are bounded by reads and connections")
    }

    pub(super) fn land(&mut self, number: u32, completion: &cqueue::Entry) -> Landing {
        self.flying -= 1;
        let slot = &mut self.all[number as usize];
        match std::mem::replace(slot, Slot::Free) {
            Slot::Flying { keep, waker } => {
                self.at_device -= usize::from(keep.memory.is_of_device());
                let completed = Completed {
                    result: completion.result(),
                    flags: completion.flags(),
                };
                *slot = Slot::Landed { keep, completed };
                Landing::Awaited(waker)
            }
            Slot::Abandoned { keep } => {
                self.at_device -= usize::from(keep.memory.is_of_device());
                self.free.push(number);
                Landing::Abandoned(keep)
            }
            Slot::Free | Slot::Landed { .. } => unreachable!("an operation completes once"),
        }
    }
}

/// What an operation owns while the kernel works on it.
pub(in crate::io) struct Keep {
    pub(in crate::io) memory: Memory,
    _file: Rc<OwnedFd>,
}

/// The memory that an operation reads or writes.
pub(in crate::io) enum Memory {
    None,
    Pooled(PoolBuffer),
    Aligned(AlignedBuffer),
    Bytes(Vec<u8>),
    /// The result is a new descriptor.
    Descriptor,
}

impl Memory {
    /// Whether it is the memory of reads and writes of a device.
    fn is_of_device(&self) -> bool {
        matches!(self, Memory::Pooled(_) | Memory::Aligned(_))
    }
}

impl Keep {
    pub(super) fn new(file: &Rc<OwnedFd>, memory: Memory) -> Keep {
        Keep {
            memory,
            _file: Rc::clone(file),
        }
    }

    /// The operation completed and nobody wants what it brought.
    pub(super) fn give_up(self, result: i32) {
        if matches!(self.memory, Memory::Descriptor) && result >= 0 {
            drop(descriptor(result));
        }
    }
}

/// Takes over a descriptor that the kernel has just made.
fn descriptor(result: i32) -> OwnedFd {
    // SAFETY: an accept that succeeded gives a new descriptor to its submitter, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(result) }
}

/// An operation under way, as its waiter has it. Gives the completion and what the operation owned.
pub(in crate::io) struct Operation {
    pub(super) ring: Rc<CoreRing>,
    /// `None` once the result was taken.
    pub(super) slot: Option<u32>,
}

/// A completed operation.
pub(in crate::io) struct Done {
    pub(in crate::io) result: io::Result<u32>,
    pub(in crate::io) memory: Memory,
    /// For a receive: more was there than the buffer took.
    pub(in crate::io) more: bool,
}

impl Done {
    /// The descriptor that an accept brought.
    pub(in crate::io) fn into_descriptor(self) -> io::Result<OwnedFd> {
        let raw = self.result?;
        Ok(descriptor(
            i32::try_from(raw).expect("it was an i32 before"),
        ))
    }
}

impl Future for Operation {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let number = self.slot.expect("not polled after completion");
        let mut slots = self.ring.slots.borrow_mut();
        let slot = &mut slots.all[number as usize];
        match std::mem::replace(slot, Slot::Free) {
            Slot::Landed { keep, completed } => {
                slots.free.push(number);
                drop(slots);
                self.slot = None;
                let result = u32::try_from(completed.result)
                    .map_err(|_| io::Error::from_raw_os_error(-completed.result));
                Poll::Ready(Done {
                    result,
                    memory: keep.memory,
                    more: cqueue::sock_nonempty(completed.flags),
                })
            }
            Slot::Flying { keep, waker } => {
                let waker = match waker {
                    Some(known) if known.will_wake(cx.waker()) => known,
                    _ => cx.waker().clone(),
                };
                *slot = Slot::Flying {
                    keep,
                    waker: Some(waker),
                };
                Poll::Pending
            }
            Slot::Free | Slot::Abandoned { .. } => unreachable!("its waiter is here"),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let Some(number) = self.slot else { return };
        let mut slots = self.ring.slots.borrow_mut();
        let slot = &mut slots.all[number as usize];
        match std::mem::replace(slot, Slot::Free) {
            Slot::Landed { keep, completed } => {
                slots.free.push(number);
                drop(slots);
                keep.give_up(completed.result);
            }
            Slot::Flying { keep, .. } => {
                *slot = Slot::Abandoned { keep };
                drop(slots);
                let cancel = opcode::AsyncCancel::new(number.into()).build();
                self.ring.push(cancel.user_data(IGNORED));
            }
            Slot::Free | Slot::Abandoned { .. } => unreachable!("its waiter is here"),
        }
    }
}
