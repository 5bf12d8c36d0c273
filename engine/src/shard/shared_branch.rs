//! An open branch, as all cores of this process share it: its manifest, what of it can be read, and who writes it.
//!
//! Who publishes says first that there is something new ([`SharedBranch::generation`]), then that it can be read
//! ([`SharedBranch::last_lsn`]); who reads asks in the other order. So a core that may read an LSN knows of the layers it is in.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::manifest::{Branch, KeptHistory};
use crate::types::Lsn;

use super::request::BranchNumber;

/// An open branch.
pub(crate) struct SharedBranch {
    pub(crate) number: BranchNumber,
    /// The branch it left, and where.
    pub(super) parent: Option<(BranchNumber, Lsn)>,
    known: Mutex<Known>,
    /// From where on it can be read: its horizon. Grows.
    readable_from: AtomicU64,
    /// The last LSN that can be read: all cores have every version up to there, or load it when they need it.
    last_lsn: AtomicU64,
    /// Grows when commits of another process came in.
    generation: AtomicU64,
    /// The generation from which on nothing counts that was in memory: another process went on from the manifest without it.
    memory_ended: AtomicU64,
    /// Whether somebody has asked for it since that was looked at last.
    is_wanted: AtomicBool,
    /// When it was compared with the object store last.
    refreshed: AtomicU64,
}

struct Known {
    /// The manifest as this process knows it: replaced with each commit, and never asked for a hit.
    manifest: Arc<Branch>,
    /// Writers in this process: what they commit they show themselves.
    writers: u32,
    /// The last epoch that one of them claimed.
    own_epoch: u32,
}

impl SharedBranch {
    pub(super) fn new(
        number: BranchNumber,
        branch: Arc<Branch>,
        parent: Option<(BranchNumber, Lsn)>,
        readable_from: Lsn,
    ) -> SharedBranch {
        SharedBranch {
            number,
            parent,
            readable_from: AtomicU64::new(readable_from.0),
            last_lsn: AtomicU64::new(branch.last_lsn().0),
            known: Mutex::new(Known {
                manifest: branch,
                writers: 0,
                own_epoch: 0,
            }),
            generation: AtomicU64::new(0),
            memory_ended: AtomicU64::new(0),
            is_wanted: AtomicBool::new(false),
            refreshed: AtomicU64::new(0),
        }
    }

    /// The manifest as of now.
    pub(crate) fn manifest(&self) -> Arc<Branch> {
        Arc::clone(&self.known().manifest)
    }

    /// Replaces the manifest by a later one, of a writer in this process.
    pub(crate) fn set_manifest(&self, later: Arc<Branch>) {
        self.known().manifest = later;
    }

    /// The first LSN that can be read.
    pub(crate) fn readable_from(&self) -> Lsn {
        Lsn(self.readable_from.load(Ordering::Acquire))
    }

    /// Shows nothing below `lsn` any more, before what was there is given up.
    pub(crate) fn raise_horizon(&self, lsn: Lsn) {
        self.readable_from.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// The last LSN that can be read.
    pub(crate) fn last_lsn(&self) -> Lsn {
        Lsn(self.last_lsn.load(Ordering::Acquire))
    }

    /// Shows nothing above `lsn` any more: somebody else wrote the branch, and what was above is not what came of it.
    pub(crate) fn go_back_to(&self, lsn: Lsn) {
        self.last_lsn.store(lsn.0, Ordering::Release);
    }

    /// Shows everything up to `lsn`, which all cores have.
    pub(crate) fn advance(&self, lsn: Lsn) {
        self.last_lsn.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// How often commits of other processes came in.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// From which of them on nothing counts that was in memory.
    pub(super) fn memory_ended(&self) -> u64 {
        self.memory_ended.load(Ordering::Acquire)
    }

    /// Notes that somebody asks for the branch. Touches shared memory once until [`SharedBranch::was_wanted`].
    pub(super) fn want(&self) {
        if !self.is_wanted.load(Ordering::Relaxed) {
            self.is_wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether somebody asked for it since the last call.
    pub(super) fn was_wanted(&self) -> bool {
        self.is_wanted.swap(false, Ordering::Relaxed)
    }

    /// When it was compared with the object store last, in nanoseconds of the clock.
    pub(super) fn refreshed(&self) -> u64 {
        self.refreshed.load(Ordering::Relaxed)
    }

    pub(super) fn set_refreshed(&self, nanos: u64) {
        self.refreshed.store(nanos, Ordering::Relaxed);
    }

    /// Whether this process writes it.
    pub(super) fn is_written_here(&self) -> bool {
        self.known().writers > 0
    }

    /// Shows what another process has committed; whether that was anything new.
    pub(super) fn take_over(&self, later: Branch) -> bool {
        let mut known = self.known();
        let facts = later.facts();
        // What this process committed last is shown by who opens the branch anew.
        let is_own = known.own_epoch > 0 && facts.epoch <= known.own_epoch;
        if known.writers > 0 || is_own || !later.is_later_than(&known.manifest) {
            return false;
        }
        if let Some(horizon) = facts.readable_from {
            self.raise_horizon(horizon);
        }
        let (last_lsn, generation) = (facts.last_lsn, self.generation() + 1);
        if std::mem::take(&mut known.own_epoch) > 0 {
            self.go_back_to(last_lsn);
            self.memory_ended.store(generation, Ordering::Release);
        }
        known.manifest = Arc::new(later);
        self.generation.store(generation, Ordering::Release);
        self.advance(last_lsn);
        true
    }

    /// Which history of it is there.
    pub(super) fn kept(&self) -> Arc<KeptHistory> {
        Arc::new(self.known().manifest.facts().kept.clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A writer of a branch in this process: as long as there is one, nobody else's commits are looked for.
pub(crate) struct Writing(Arc<SharedBranch>);

impl Writing {
    /// Begins, before an epoch is claimed.
    pub(crate) fn begin(branch: &Arc<SharedBranch>) -> Writing {
        branch.known().writers += 1;
        Writing(Arc::clone(branch))
    }

    /// Notes the epoch that was claimed.
    pub(crate) fn claimed(&self, epoch: u32) {
        self.0.known().own_epoch = epoch;
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.known().writers -= 1;
    }
}
