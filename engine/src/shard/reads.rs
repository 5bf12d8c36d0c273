//! What a connection reads through: a window on one core.

use std::rc::Rc;

use crate::io::clock::Clock;
use crate::types::{Key, Lsn};

use super::request::{Origin, ReadRequest};
use super::window::{Answer, Order, Window};
use super::{BranchHandle, Platform, ShardState};

/// A window of reads in flight on one core: answers come in the order of the pushes, or as they come. Allocates nothing
/// per read.
/// Dropping it gives up the answers; the reads run to their end.
pub struct Reads<P: Platform> {
    state: Rc<ShardState<P>>,
    slot: u32,
    window: Rc<Window>,
    capacity: usize,
}

impl<P: Platform> Reads<P> {
    pub(super) fn open(state: &Rc<ShardState<P>>, capacity: usize, order: Order) -> Reads<P> {
        let (slot, window) = state.windows.open(capacity, order);
        Reads {
            state: Rc::clone(state),
            slot,
            window,
            capacity,
        }
    }

    /// Whether another read may be pushed.
    pub fn has_room(&self) -> bool {
        self.window.len() < self.capacity
    }

    /// Reads pushed whose answers were not taken yet.
    pub fn in_flight(&self) -> usize {
        self.window.len()
    }

    /// Asks for the newest version of `key` at or below `at`. It is under way at once. The number is that of its
    /// [`Answer`]; in order of arrival it is below the capacity and used again.
    /// # Panics
    /// If there is no room.
    pub fn push(&mut self, branch: &BranchHandle, key: Key, at: Lsn) -> u64 {
        assert!(self.has_room(), "a window takes what it was made for");
        let number = self.window.reserve();
        let origin = Origin {
            core: u16::try_from(self.state.mesh.core()).expect("cores are few"),
            window: self.slot,
            generation: self.window.generation(),
            position: number,
        };
        self.state.submit(ReadRequest {
            branch: branch.0.number(),
            key,
            at,
            origin,
            started: self.state.clock.now(),
            page: self.state.pool.take(),
        });
        number
    }

    /// The next answer, once it is there; `None` if nothing is in flight.
    ///
    /// Its errors: `NotFound`, no version at or below the LSN; `Gone`, the branch is readable from a later LSN on;
    /// `NotYet`, it has not come that far; `Unavailable`, store or device did not answer in time, retrying is safe;
    /// `Corrupt`, a fresh copy from the store does not open.
    pub async fn next(&mut self) -> Option<Answer> {
        self.window.take(&self.state.pool).await
    }

    /// The next answer if it is there already.
    pub fn try_next(&mut self) -> Option<Answer> {
        self.window.try_take(&self.state.pool)
    }
}

impl<P: Platform> Drop for Reads<P> {
    fn drop(&mut self) {
        self.state.windows.close(self.slot);
    }
}
