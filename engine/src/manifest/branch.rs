//! A branch as readers see it: opened once per process, shared by all cores.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::entry::BranchStart;
use super::error::ManifestError;
use super::key_tables::KeyTables;
use super::nodes::fetch_node;
use super::section::LayerSection;
use super::snapshot::BranchFacts;
use super::state::{FetchedLog, ManifestState};
use crate::crypto::page_seal::{Dek, DekId, Opener};
use crate::store::objects::Objects;
use crate::types::{BranchId, Lsn, ObjectId, PARTITIONS, Partition, TenantId};

/// A branch as of the manifest entry that was the last when it was opened. Holds the root of the last snapshot
/// (at most 64 KiB), what changed since, and at most [`NODES_MAX`] nodes.
pub struct Branch {
    tenant: TenantId,
    id: BranchId,
    state: ManifestState,
    keys: Arc<KeyTables>,
    /// The nodes used last, newest at the back, each with its place in the root.
    nodes: Mutex<VecDeque<(usize, Arc<Vec<LayerSection>>)>>,
}

/// A branch as others have written it since.
pub(crate) struct Later {
    pub(crate) branch: Branch,
    /// The layers that went out, unless that is too long ago.
    pub(crate) removed: Option<Vec<ObjectId>>,
}

impl Branch {
    /// Opens a branch whose tenant's keys are open. Three dependent round trips, whatever its size: names of the
    /// log, entries since the last snapshot, key tables.
    pub async fn open<O: Objects>(
        objects: &O,
        keys: Arc<KeyTables>,
        id: BranchId,
    ) -> Result<Branch, ManifestError> {
        let log = FetchedLog::fetch(objects, keys.tenant(), id).await?;
        Branch::open_fetched(objects, keys, id, &log).await
    }

    pub(crate) async fn open_fetched<O: Objects>(
        objects: &O,
        keys: Arc<KeyTables>,
        id: BranchId,
        log: &FetchedLog,
    ) -> Result<Branch, ManifestError> {
        let state = log.open(objects, &keys).await?;
        Ok(Branch::of_state(keys, id, state))
    }

    /// A branch that nobody has written to, so that it has no manifest.
    pub(crate) fn unwritten(keys: Arc<KeyTables>, id: BranchId, start: BranchStart) -> Branch {
        Branch::of_state(keys, id, ManifestState::unwritten(id, start))
    }

    fn of_state(keys: Arc<KeyTables>, id: BranchId, state: ManifestState) -> Branch {
        Branch {
            tenant: keys.tenant(),
            id,
            state,
            keys,
            nodes: Mutex::default(),
        }
    }

    /// How it began, if nobody had written to it when it was opened.
    pub(crate) fn unwritten_start(&self) -> Option<BranchStart> {
        let facts = self.facts();
        let readable_from = facts
            .readable_from
            .filter(|_| self.state.next_number() == 0)?;
        Some(BranchStart {
            creation: facts.creation.clone(),
            readable_from,
        })
    }

    /// The branch as its manifest says it is now, and the layers that went out, if that is known; `None` if nobody has written to
    /// it since. A GET of each entry that came, and one that is not found; of many entries those behind the last snapshot.
    ///
    /// # Cancellation
    /// Safe.
    pub(crate) async fn later<O: Objects>(
        &self,
        objects: &O,
    ) -> Result<Option<Later>, ManifestError> {
        let (mut state, mut removed) = (self.state.clone(), Vec::new());
        for came in 0..=ENTRIES_MAX {
            match state.fold_next(objects, self.tenant, &self.keys).await? {
                Some(went) => removed.extend(went),
                None if came == 0 => return Ok(None),
                None => {
                    let (branch, removed) = (self.with_state(state), Some(removed));
                    return Ok(Some(Later { branch, removed }));
                }
            }
        }
        let log = FetchedLog::fetch(objects, self.tenant, self.id).await?;
        let branch = self.with_state(log.open(objects, &self.keys).await?);
        let removed = None;
        Ok(Some(Later { branch, removed }))
    }

    /// Whether it has entries of the manifest that `other` has not.
    pub(crate) fn is_later_than(&self, other: &Branch) -> bool {
        self.state.next_number() > other.state.next_number()
    }

    /// The branch as its writer knows it, with the nodes that this one has in memory.
    pub(crate) fn with_state(&self, state: ManifestState) -> Branch {
        let (now, before) = (state.root(), self.state.root());
        let nodes = if (&now.nodes, &now.objects) == (&before.nodes, &before.objects) {
            self.nodes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        } else {
            VecDeque::new()
        };
        Branch {
            tenant: self.tenant,
            id: self.id,
            state,
            keys: Arc::clone(&self.keys),
            nodes: Mutex::new(nodes),
        }
    }

    /// Whose branch.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Its id.
    pub fn id(&self) -> BranchId {
        self.id
    }

    /// From where on it can be read, inclusive; `None` while it can't (an import that is not complete).
    pub fn readable_from(&self) -> Option<Lsn> {
        self.facts().readable_from
    }

    /// The last LSN of the branch.
    pub fn last_lsn(&self) -> Lsn {
        self.facts().last_lsn
    }

    /// All that the manifest says about the branch as a whole.
    pub fn facts(&self) -> &BranchFacts {
        self.state.facts()
    }

    /// The parts of layers that hold versions of keys of `partition`, by first key. Costs nothing but a copy if the
    /// partition's node is in memory or there is none; else one round trip (and no more, at any size).
    ///
    /// # Cancellation
    /// Safe.
    pub async fn sections_of<O: Objects>(
        &self,
        objects: &O,
        partition: Partition,
    ) -> Result<Vec<LayerSection>, ManifestError> {
        let root = self.state.root();
        let Some((place, node)) = root.node_of(partition) else {
            return Ok(self.state.sections_now(partition, &[]));
        };
        let sections = match self.cached_node(place) {
            Some(sections) => sections,
            None => {
                let sections = fetch_node(objects, &self.keys, self.id, root, node).await?;
                self.keep_node(place, sections)
            }
        };
        let start = sections.partition_point(|section| section.partition < partition);
        let end = sections.partition_point(|section| section.partition <= partition);
        Ok(self.state.sections_now(partition, &sections[start..end]))
    }

    /// The same of all partitions that have some, in their order. Costs the nodes of the branch's snapshot that are not in
    /// memory, one after the other.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn all_sections<O: Objects>(
        &self,
        objects: &O,
    ) -> Result<Vec<(Partition, Vec<LayerSection>)>, ManifestError> {
        let mut all = Vec::new();
        for partition in (0..PARTITIONS).filter_map(Partition::new) {
            let sections = self.sections_of(objects, partition).await?;
            if !sections.is_empty() {
                all.push((partition, sections));
            }
        }
        Ok(all)
    }

    /// The key of an object, from the tables of the branch that wrote it. One round trip if its table is not in
    /// memory; it depends on nothing but the section, so it can run beside the read of the layer's index.
    pub async fn dek<O: Objects>(
        &self,
        objects: &O,
        object: ObjectId,
        id: DekId,
    ) -> Result<Arc<Dek>, ManifestError> {
        self.keys.dek(objects, object.branch, id).await
    }

    /// A key of this branch's own objects.
    pub(crate) async fn own_dek<O: Objects>(
        &self,
        objects: &O,
        id: DekId,
    ) -> Result<Arc<Dek>, ManifestError> {
        self.keys.dek(objects, self.id, id).await
    }

    /// An opener for the layer of `section`; cost as [`Branch::dek`].
    pub async fn opener<O: Objects>(
        &self,
        objects: &O,
        section: &LayerSection,
    ) -> Result<Opener, ManifestError> {
        let dek = self.dek(objects, section.object, section.dek).await?;
        Ok(Opener::new(&dek))
    }

    fn cached_node(&self, place: usize) -> Option<Arc<Vec<LayerSection>>> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let at = nodes.iter().position(|(cached, _)| *cached == place)?;
        let entry = nodes.remove(at)?;
        let sections = Arc::clone(&entry.1);
        nodes.push_back(entry);
        Some(sections)
    }

    fn keep_node(&self, place: usize, sections: Vec<LayerSection>) -> Arc<Vec<LayerSection>> {
        let sections = Arc::new(sections);
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if !nodes.iter().any(|(cached, _)| *cached == place) {
            nodes.push_back((place, Arc::clone(&sections)));
        }
        while nodes.len() > NODES_MAX {
            nodes.pop_front();
        }
        sections
    }
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Branch({}/{})", self.tenant, self.id)
    }
}

/// Most nodes that an open branch keeps in memory: about 1 MiB of them at usual sizes.
pub const NODES_MAX: usize = 16;
/// Entries that are read one after the other; beyond that all are read at once.
const ENTRIES_MAX: usize = 16;
