//! What this core knows of branches and layers: which layers have keys of a partition, and those that are open.
//!
//! Indexes are opened once per process and shared; a core finds them through tables of its own, so that a read
//! touches no memory that another core writes. Loading goes through [`SingleLoad`]: one request for all who need it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use crate::error::ReadError;
use crate::manifest::{Branch, KeptHistory, LayerSection, RemovedLayer};
use crate::memory::MemoryLayers;
use crate::types::{Key, Lsn, ObjectId, Partition};

use super::branches::manifest_error;
use super::images::ImagesDue;
use super::open_layer::OpenLayer;
use super::read_path::{Patience, Stop};
use super::request::BranchNumber;
use super::shared_branch::SharedBranch;
use super::single_load::SingleLoad;
use super::{Platform, ShardState};

/// A core's own handle on a shared layer: cloning it touches no count that other cores do.
#[derive(Clone)]
pub(super) struct LayerOnCore(Rc<SharedLayer>);

struct SharedLayer(Arc<OpenLayer>);

impl Deref for LayerOnCore {
    type Target = OpenLayer;

    fn deref(&self) -> &OpenLayer {
        &self.0.0
    }
}

/// An open branch as this core knows it.
pub(super) struct BranchOnCore {
    shared: Arc<SharedBranch>,
    partitions: RefCell<HashMap<Partition, Rc<PartitionSections>, ahash::RandomState>>,
    /// Grows when layers come in or go out: what is loaded meanwhile may not have them.
    generation: Cell<u64>,
    /// The commits of other processes that this core knows of.
    seen: Cell<u64>,
    /// Which history of it is there.
    kept: RefCell<Arc<KeptHistory>>,
    /// What of it is in no layer yet, of the keys that this core owns.
    pub(super) memory: RefCell<MemoryLayers>,
    /// Which of those want an image.
    pub(super) images: ImagesDue,
}

impl BranchOnCore {
    pub(super) fn number(&self) -> BranchNumber {
        self.shared.number
    }

    pub(super) fn readable_from(&self) -> Lsn {
        self.shared.readable_from()
    }

    pub(super) fn last_lsn(&self) -> Lsn {
        self.shared.last_lsn()
    }

    /// The commit of another process from which on nothing counts that was in memory.
    pub(super) fn memory_ended(&self) -> u64 {
        self.shared.memory_ended()
    }

    /// Notes that somebody asks for it.
    pub(super) fn want(&self) {
        self.shared.want();
    }

    /// What its manifest says.
    pub(super) fn manifest(&self) -> Arc<Branch> {
        self.shared.manifest()
    }

    pub(super) fn set_kept(&self, kept: Arc<KeptHistory>) {
        *self.kept.borrow_mut() = kept;
    }

    /// Refuses an LSN at which a branch left it, if that is not kept for it: it was made too late, or deleted.
    fn check_kept(&self, left_at: Lsn) -> Result<(), ReadError> {
        if self.kept.borrow().has(left_at) {
            return Ok(());
        }
        Err(ReadError::Gone {
            at: left_at,
            horizon: self.readable_from(),
        })
    }

    /// The branch it left, and where.
    pub(super) fn parent(&self) -> Option<(BranchNumber, Lsn)> {
        self.shared.parent
    }

    /// Refuses an LSN that the branch does not show any more.
    pub(super) fn check_horizon(&self, at: Lsn) -> Result<(), ReadError> {
        if at < self.readable_from() {
            return Err(ReadError::Gone {
                at,
                horizon: self.readable_from(),
            });
        }
        Ok(())
    }

    /// Refuses an LSN that the branch can't show.
    fn check_readable(&self, at: Lsn) -> Result<(), ReadError> {
        self.check_horizon(at)?;
        if at > self.last_lsn() {
            return Err(ReadError::NotYet {
                at,
                last: self.last_lsn(),
            });
        }
        Ok(())
    }
}

/// The way of a read at an LSN from a branch to its ancestors: what each of them shows of itself ends where the branch left it.
///
/// An ancestor may have given up what lies below its horizon, but for what its branches see where they left it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descent {
    /// The read's.
    at: Lsn,
    /// The lowest LSN at which one of the branches so far left its parent.
    left_at: Lsn,
}

impl Descent {
    pub(super) fn new(at: Lsn) -> Descent {
        Descent {
            at,
            left_at: Lsn::MAX,
        }
    }

    /// Versions above are not seen.
    pub(super) fn at_most(self) -> Lsn {
        self.at.min(self.left_at)
    }
}

/// The parts of layers that hold keys of one partition, newest first.
pub(super) struct PartitionSections(Vec<SectionOnCore>);

/// One of them, and its layer once it is open.
#[derive(Clone)]
pub(super) struct SectionOnCore {
    section: LayerSection,
    layer: OnceCell<LayerOnCore>,
}

impl PartitionSections {
    fn new(sections: Vec<LayerSection>) -> PartitionSections {
        let on_core = |section| SectionOnCore {
            section,
            layer: OnceCell::new(),
        };
        PartitionSections::sorted(sections.into_iter().map(on_core).collect())
    }

    fn sorted(mut sections: Vec<SectionOnCore>) -> PartitionSections {
        let newest_first =
            |part: &SectionOnCore| std::cmp::Reverse((part.section.last_lsn, part.section.object));
        sections.sort_by_key(newest_first);
        PartitionSections(sections)
    }

    /// With the sections `added`, and without those of the layers in `removed`.
    fn changed(&self, added: &[LayerSection], removed: &[ObjectId]) -> PartitionSections {
        let stays = |part: &&SectionOnCore| {
            let object = part.section.object;
            !removed.contains(&object) && !added.iter().any(|new| new.object == object)
        };
        let mut sections: Vec<SectionOnCore> = self.0.iter().filter(stays).cloned().collect();
        sections.extend(PartitionSections::new(added.to_vec()).0);
        PartitionSections::sorted(sections)
    }

    /// Those that may hold a version of `key` at or below `at`, newest first.
    pub(super) fn candidates(&self, key: &Key, at: Lsn) -> impl Iterator<Item = &SectionOnCore> {
        self.between(key, key, at)
    }

    /// Those that may hold versions of keys in `from..=to` at or below `at`, newest first.
    pub(super) fn between(
        &self,
        from: &Key,
        to: &Key,
        at: Lsn,
    ) -> impl Iterator<Item = &SectionOnCore> {
        let (from, to) = (*from, *to);
        self.0.iter().filter(move |part| {
            let section = &part.section;
            section.first_key <= to && from <= section.last_key && section.first_lsn <= at
        })
    }
}

impl SectionOnCore {
    pub(super) fn last_lsn(&self) -> Lsn {
        self.section.last_lsn
    }
}

/// What this core has open.
#[derive(Default)]
pub(super) struct LayerTable {
    branches: RefCell<Vec<Option<Rc<BranchOnCore>>>>,
    layers: RefCell<HashMap<ObjectId, LayerOnCore, ahash::RandomState>>,
    section_loads: SingleLoad<(BranchNumber, Partition)>,
    layer_loads: SingleLoad<ObjectId>,
}

impl LayerTable {
    /// Memory of the indexes this core uses (other cores may use the same ones), of its lists of sections, and of what is in
    /// no layer yet.
    pub(super) fn resident_bytes(&self) -> usize {
        let layers = self.layers.borrow();
        let indexes: usize = layers
            .values()
            .map(|layer| layer.index().resident_bytes())
            .sum();
        let branches = self.branches.borrow();
        let lists = branches.iter().flatten().flat_map(|branch| {
            let partitions = branch.partitions.borrow();
            let bytes = partitions
                .values()
                .map(|list| size_of_val(&list.0[..]))
                .sum::<usize>();
            Some(bytes + branch.memory.borrow().bytes())
        });
        indexes + lists.sum::<usize>()
    }
}

impl BranchOnCore {
    /// Forgets the lists of sections: they are loaded anew.
    pub(super) fn forget_sections(&self) {
        self.generation.set(self.generation.get() + 1);
        self.partitions.borrow_mut().clear();
    }

    /// Brings the lists of sections up to date with a commit: the sections of `added` that this core may have loaded come
    /// in, those of layers in `removed` go out.
    pub(super) fn exchange_sections(&self, added: &[LayerSection], removed: &[RemovedLayer]) {
        self.generation.set(self.generation.get() + 1);
        let gone: Vec<ObjectId> = removed.iter().map(|layer| layer.object).collect();
        let mut came: HashMap<Partition, Vec<LayerSection>, ahash::RandomState> =
            HashMap::default();
        for section in added {
            came.entry(section.partition).or_default().push(*section);
        }
        for (partition, list) in self.partitions.borrow_mut().iter_mut() {
            let came = came.get(partition).map_or(&[][..], Vec::as_slice);
            let has_gone = removed
                .iter()
                .any(|layer| layer.partitions.contains(partition));
            if has_gone || !came.is_empty() {
                *list = Rc::new(list.changed(came, &gone));
            }
        }
    }
}

impl LayerTable {
    /// Takes over layers that were written in this process, and forgets those that went out.
    pub(super) fn exchange(&self, added: &[Arc<OpenLayer>], removed: &[RemovedLayer]) {
        let mut layers = self.layers.borrow_mut();
        for layer in added {
            let layer = LayerOnCore(Rc::new(SharedLayer(Arc::clone(layer))));
            layers.insert(layer.object(), layer);
        }
        for layer in removed {
            layers.remove(&layer.object);
        }
    }
}

impl<P: Platform> ShardState<P> {
    /// An open branch by its number.
    pub(super) fn branch(&self, number: BranchNumber) -> Rc<BranchOnCore> {
        let slot = number as usize;
        let mut branches = self.layers.branches.borrow_mut();
        if branches.len() <= slot {
            branches.resize_with(slot + 1, || None);
        }
        let branch = branches[slot].get_or_insert_with(|| {
            let shared = self.branches.get(number);
            let seen = shared.generation();
            Rc::new(BranchOnCore {
                kept: RefCell::new(shared.kept()),
                shared,
                seen: Cell::new(seen),
                partitions: RefCell::default(),
                generation: Cell::new(0),
                memory: RefCell::default(),
                images: ImagesDue::default(),
            })
        });
        Rc::clone(branch)
    }

    /// Refuses an LSN that the branch can't show, as this core knows it from here on.
    pub(super) fn check_readable(&self, branch: &BranchOnCore, at: Lsn) -> Result<(), ReadError> {
        loop {
            let generation = branch.shared.generation();
            branch.check_readable(at)?;
            self.look_again(branch);
            // Else the last LSN may be of another state than the layers that are loaded.
            if branch.shared.generation() == generation {
                return Ok(());
            }
        }
    }

    /// Takes notice of what other processes committed.
    pub(super) fn look_again(&self, branch: &BranchOnCore) {
        let generation = branch.shared.generation();
        let seen = branch.seen.replace(generation);
        if seen == generation {
            return;
        }
        branch.forget_sections();
        // Those that are still there are found again in the process's table.
        let id = branch.manifest().id();
        let mut layers = self.layers.layers.borrow_mut();
        layers.retain(|object, _| object.branch != id);
        drop(layers);
        branch.set_kept(branch.shared.kept());
        if seen < branch.shared.memory_ended() {
            self.forget_memory(branch);
        }
    }

    /// Forgets what is in memory of a branch that another process has gone on with, and what was read of it.
    pub(super) fn forget_memory(&self, branch: &BranchOnCore) {
        branch.memory.borrow_mut().thaw(Lsn::MAX);
        self.ram.borrow_mut().clear();
    }

    /// How many commits of other processes this core knows of, of a branch and its ancestors.
    pub(super) fn seen(&self, branch: BranchNumber) -> u64 {
        self.lineage(branch, |branch| branch.seen.get())
    }

    /// How many of them there were.
    pub(super) fn generations(&self, branch: BranchNumber) -> u64 {
        self.lineage(branch, |branch| branch.shared.generation())
    }

    fn lineage(&self, branch: BranchNumber, count: impl Fn(&BranchOnCore) -> u64) -> u64 {
        let (mut next, mut sum) = (Some(branch), 0);
        while let Some(number) = next {
            let branch = self.branch(number);
            next = branch.parent().map(|(parent, _)| parent);
            sum += count(&branch);
        }
        sum
    }

    /// Goes on to the branch that `branch` left; `None` if it left none.
    pub(super) fn descend(
        &self,
        branch: &BranchOnCore,
        descent: &mut Descent,
    ) -> Result<Option<Rc<BranchOnCore>>, ReadError> {
        let Some((parent, left_at)) = branch.parent() else {
            return Ok(None);
        };
        descent.left_at = descent.left_at.min(left_at);
        let parent = self.branch(parent);
        self.look_again(&parent);
        if descent.at < descent.left_at {
            parent.check_horizon(descent.at)?;
        } else {
            parent.check_kept(descent.left_at)?;
        }
        Ok(Some(parent))
    }

    /// Refuses an LSN that the branch or one of its ancestors does not show any more: to be asked behind a read, too, since what it
    /// found is right only if nothing was given up meanwhile.
    pub(super) fn check_all_horizons(
        &self,
        branch: Rc<BranchOnCore>,
        at: Lsn,
    ) -> Result<(), ReadError> {
        branch.check_horizon(at)?;
        let mut descent = Descent::new(at);
        let mut next = self.descend(&branch, &mut descent)?;
        while let Some(branch) = next {
            next = self.descend(&branch, &mut descent)?;
        }
        Ok(())
    }

    /// The sections of a partition; asks the store the first time.
    pub(super) async fn sections(
        &self,
        branch: &BranchOnCore,
        partition: Partition,
        patience: Patience,
    ) -> Result<Rc<PartitionSections>, Stop> {
        loop {
            if let Some(known) = branch.partitions.borrow().get(&partition) {
                return Ok(Rc::clone(known));
            }
            if patience == Patience::Hits {
                return Err(Stop::NeedsStore);
            }
            let load = async {
                let generation = branch.generation.get();
                let manifest = branch.shared.manifest();
                let sections = manifest.sections_of(&self.store, partition).await;
                let sections = PartitionSections::new(sections.map_err(manifest_error)?);
                // Of an older generation they are loaded once more.
                if branch.generation.get() == generation {
                    branch
                        .partitions
                        .borrow_mut()
                        .insert(partition, Rc::new(sections));
                }
                Ok(())
            };
            self.layers
                .section_loads
                .run((branch.number(), partition), load)
                .await?;
        }
    }

    /// The layer of a section, its index in memory; asks the store the first time.
    pub(super) async fn layer(
        &self,
        branch: &BranchOnCore,
        part: &SectionOnCore,
        patience: Patience,
    ) -> Result<LayerOnCore, Stop> {
        loop {
            if let Some(layer) = part.layer.get() {
                return Ok(layer.clone());
            }
            let object = part.section.object;
            if let Some(layer) = self.layers.layers.borrow().get(&object) {
                return Ok(part.layer.get_or_init(|| layer.clone()).clone());
            }
            if patience == Patience::Hits {
                return Err(Stop::NeedsStore);
            }
            let load = async {
                let layer = self.branches.layer(&branch.shared, &part.section).await?;
                self.layers
                    .layers
                    .borrow_mut()
                    .insert(object, LayerOnCore(Rc::new(SharedLayer(layer))));
                Ok(())
            };
            self.layers.layer_loads.run(object, load).await?;
        }
    }
}
