//! New images of values that were changed often, made in memory while they are written: so a read replays a bounded number of
//! deltas, of the present and of the past alike.
//!
//! A few tasks per branch and core make them; so many keys may wait for them ([`DUE_MAX`]). An image takes the place of the
//! delta that is the newest version when it is begun, if that is in the active memory layer still. What got none, for whatever
//! reason, comes again with its next delta.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::io::clock::Spawner;
use crate::memory::{ChainBounds, Chains, VersionBatch};
use crate::types::Key;

use super::delta_chain::ChainLimits;
use super::layers::{BranchOnCore, Descent};
use super::read_path::Patience;
use super::{Platform, ShardState};

/// Values of one branch and core that want an image.
#[derive(Default)]
pub(super) struct ImagesDue {
    chains: RefCell<Chains>,
    due: RefCell<VecDeque<Key>>,
    at_work: Cell<usize>,
}

impl<P: Platform> ShardState<P> {
    /// Counts deltas of a batch that comes; which values want an image then is kept.
    pub(super) fn count_chains(&self, branch: &BranchOnCore, batch: &VersionBatch) {
        let bounds = ChainBounds {
            deltas: self.config.image_after_deltas,
            bytes: self.config.image_after_bytes,
        };
        let mut due = branch.images.due.borrow_mut();
        let mut chains = branch.images.chains.borrow_mut();
        chains.count(batch, &*self.redo, bounds, (&mut due, DUE_MAX));
    }

    /// Makes the images that are due, in the background.
    pub(super) fn make_images(self: &Rc<Self>, branch: Rc<BranchOnCore>) {
        let images = &branch.images;
        let wanted = images.due.borrow().len().min(AT_ONCE_MAX);
        // Counted once: a task may come to its end within its spawning.
        for _ in images.at_work.get()..wanted {
            images.at_work.set(images.at_work.get() + 1);
            let (state, branch) = (Rc::clone(self), Rc::clone(&branch));
            self.spawner.spawn(async move {
                loop {
                    let next = branch.images.due.borrow_mut().pop_front();
                    let Some(key) = next else { break };
                    let was_made = state.make_image(&branch, &key).await;
                    branch.images.chains.borrow_mut().settle(&key, was_made);
                }
                let at_work = &branch.images.at_work;
                at_work.set(at_work.get() - 1);
            });
        }
    }

    /// Makes an image; whether it was made.
    async fn make_image(self: &Rc<Self>, branch: &Rc<BranchOnCore>, key: &Key) -> bool {
        let newest = branch.memory.borrow().newest_active(key);
        let Some(lsn) = newest else { return false };
        let mut page = self.pool.take();
        // More than a reader would, so that a chain which became too long for those is mended.
        let limits = ChainLimits {
            deltas: self.config.deltas_max.saturating_mul(IMAGE_CHAIN_FACTOR),
            bytes: self
                .config
                .delta_bytes_max
                .saturating_mul(IMAGE_CHAIN_FACTOR),
        };
        let of = (Rc::clone(branch), key, Descent::new(lsn));
        let replayed = self.replay(of, &mut page, Patience::Store, limits).await;
        // What can't be replayed is told to whoever reads it.
        let was_made = replayed.is_ok_and(|found| {
            let mut memory = branch.memory.borrow_mut();
            memory.replace_by_image(key, lsn, &page[..found.len])
        });
        self.counters.images_made.add(u64::from(was_made));
        self.pool.put(page);
        was_made
    }
}

/// Keys that may wait.
const DUE_MAX: usize = 4096;
/// Images made at once.
const AT_ONCE_MAX: usize = 8;
/// How much longer than a reader's chain an image's may be.
const IMAGE_CHAIN_FACTOR: usize = 16;
