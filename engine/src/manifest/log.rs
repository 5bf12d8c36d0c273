//! The writer's side of a manifest: claims the branch, commits edits, writes snapshots.
//!
//! Every entry is put if absent under the next number, so of two writers one loses its next put, learns that it is
//! fenced, and never writes again. A put with an unknown outcome (store away, deadline) leaves the log in doubt:
//! nothing more is written through it, whoever goes on claims the branch anew and reads what is there.
//!
//! Order within a commit: layers and their key tables are durable before the edit that names them; snapshot objects
//! before the entry that names them. A crash leaves objects that nothing names, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::lock::Mutex;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::dek_allocator::DekAllocator;
use super::entry::{BranchStart, Creation, Edit, Entry, KeptHistory};
use super::error::ManifestError;
use super::key_tables::KeyTables;
use super::nodes::fetch_node;
use super::section::{LayerSection, SECTION_BYTES};
use super::snapshot::{
    BranchFacts, NODE_BYTES_TARGET, NodeObject, NodeRef, SnapshotObjectWriter, SnapshotRoot,
};
use super::state::{FetchedLog, ManifestState};
use super::{ENTRIES_PER_SNAPSHOT, names};
use crate::crypto::entropy::Entropy;
use crate::crypto::page_seal::{Dek, DekId};
use crate::crypto::sealed_record::{RecordPlace, seal_under_dek};
use crate::planted::{PlantedBug, planted};
use crate::store::objects::{Objects, StoreError};
use crate::types::{BranchId, ObjectId, Partition};

/// The one writer of a branch's manifest, while its epoch lasts.
#[derive(Debug)]
pub struct ManifestLog<O> {
    objects: O,
    keys: Arc<KeyTables>,
    branch: BranchId,
    names: Arc<WriterNames<O>>,
    state: ManifestState,
    /// Set while a put is under way: if it never ends well, the outcome is unknown.
    in_doubt: bool,
}

/// Names and keys of the objects of one writer: shared by everybody who writes for it.
#[derive(Debug)]
pub(crate) struct WriterNames<O> {
    branch: BranchId,
    epoch: u32,
    next_sequence: AtomicU64,
    deks: Mutex<DekAllocator<O>>,
}

impl<O: Objects> WriterNames<O> {
    /// The name of an attempt to write an object, and the key for it; neither is given out again.
    pub(crate) async fn next(&self) -> Result<(ObjectId, DekId, Arc<Dek>), ManifestError> {
        let (id, dek) = self.next_dek().await?;
        let object = ObjectId {
            branch: self.branch,
            epoch: self.epoch,
            sequence: self.next_sequence.fetch_add(1, Ordering::Relaxed),
        };
        Ok((object, id, dek))
    }

    /// Whose objects.
    pub(crate) fn branch(&self) -> BranchId {
        self.branch
    }

    /// A key for an object that has another name.
    pub(crate) async fn next_dek(&self) -> Result<(DekId, Arc<Dek>), ManifestError> {
        self.deks.lock().await.next().await
    }
}

impl<O: Objects> ManifestLog<O> {
    /// Creates the branch and claims its first epoch. `branch` is fresh and random: `Fenced` means that it is not.
    pub async fn create(
        objects: O,
        keys: Arc<KeyTables>,
        branch: BranchId,
        creation: Creation,
        entropy: Entropy,
    ) -> Result<ManifestLog<O>, ManifestError> {
        let mut deks = DekAllocator::new(
            objects.clone(),
            Arc::clone(keys.keks()),
            branch,
            entropy.clone(),
        );
        let create = Entry::Create(creation);
        put_entry(&objects, &keys, branch, 0, &create, &mut deks).await?;
        let state = ManifestState::begin(branch, 0, create)?;
        ManifestLog::claim_from(objects, keys, branch, state, deks, &entropy).await
    }

    /// Claims the next epoch of a branch that had no manifest when it was looked at: begins it with `start`, unless
    /// somebody else has done so since. Readers see the same before and after.
    pub async fn claim_unwritten(
        objects: O,
        keys: Arc<KeyTables>,
        branch: BranchId,
        start: BranchStart,
        entropy: Entropy,
    ) -> Result<ManifestLog<O>, ManifestError> {
        let mut deks = DekAllocator::new(
            objects.clone(),
            Arc::clone(keys.keks()),
            branch,
            entropy.clone(),
        );
        let start = Entry::Start(start);
        match put_entry(&objects, &keys, branch, 0, &start, &mut deks).await {
            Ok(()) => {
                let state = ManifestState::begin(branch, 0, start)?;
                ManifestLog::claim_from(objects, keys, branch, state, deks, &entropy).await
            }
            Err(ManifestError::Fenced { .. }) => {
                ManifestLog::claim(objects, keys, branch, entropy).await
            }
            Err(other) => Err(other),
        }
    }

    /// Claims the next epoch of a branch: whoever wrote before is fenced from the moment this returns.
    pub async fn claim(
        objects: O,
        keys: Arc<KeyTables>,
        branch: BranchId,
        entropy: Entropy,
    ) -> Result<ManifestLog<O>, ManifestError> {
        let deks = DekAllocator::new(
            objects.clone(),
            Arc::clone(keys.keks()),
            branch,
            entropy.clone(),
        );
        let log = FetchedLog::fetch(&objects, keys.tenant(), branch).await?;
        let state = log.open(&objects, &keys).await?;
        ManifestLog::claim_from(objects, keys, branch, state, deks, &entropy).await
    }

    async fn claim_from(
        objects: O,
        keys: Arc<KeyTables>,
        branch: BranchId,
        mut state: ManifestState,
        mut deks: DekAllocator<O>,
        entropy: &Entropy,
    ) -> Result<ManifestLog<O>, ManifestError> {
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            let number = state.next_number();
            let Some(epoch) = state.facts().epoch.checked_add(1) else {
                break;
            };
            let entry = if number.is_multiple_of(ENTRIES_PER_SNAPSHOT) {
                // The epoch is not ours yet, so its sequence may be another claimer's as well: a random start,
                // far above every sequence that counts from zero, keeps the names apart.
                let start = UNCLAIMED_SEQUENCES | u64::from_le_bytes(entropy.draw()) >> 2;
                let names = WriterNames::new(branch, epoch, start, deks);
                let root = write_snapshot(&objects, &keys, &names, &state).await?;
                deks = names.deks.into_inner();
                Entry::Snapshot(root)
            } else {
                Entry::Claim { epoch }
            };
            let claims = matches!(entry, Entry::Claim { .. });
            match put_entry(&objects, &keys, branch, number, &entry, &mut deks).await {
                Ok(()) => state.apply(entry)?,
                Err(ManifestError::Fenced { .. }) => {
                    let log = FetchedLog::fetch(&objects, keys.tenant(), branch).await?;
                    state = log.open(&objects, &keys).await?;
                    continue;
                }
                Err(other) => return Err(other),
            }
            if claims {
                return Ok(ManifestLog {
                    names: Arc::new(WriterNames::new(branch, epoch, 0, deks)),
                    objects,
                    keys,
                    branch,
                    state,
                    in_doubt: false,
                });
            }
        }
        Err(ManifestError::Fenced {
            branch,
            number: state.next_number(),
        })
    }

    /// The branch as a whole, after the last commit.
    pub fn facts(&self) -> &BranchFacts {
        self.state.facts()
    }

    /// What the manifest says after the last commit.
    pub(crate) fn state(&self) -> &ManifestState {
        &self.state
    }

    /// Names and keys for the objects that edits will name.
    pub(crate) fn names(&self) -> &Arc<WriterNames<O>> {
        &self.names
    }

    /// Makes one edit durable and visible. One PUT, and at every 64th entry those of a snapshot before it.
    ///
    /// # Errors
    /// `Fenced`: another writer claimed the branch, nothing was written. `EditTooLarge`: split it. Any error of the
    /// store: the outcome is unknown, and every later call says so.
    ///
    /// # Cancellation
    /// Dropping the future leaves the outcome unknown, too.
    pub async fn commit(&mut self, edit: Edit) -> Result<(), ManifestError> {
        let entry = Entry::Edit {
            epoch: self.names.epoch,
            edit,
        };
        let edit_bytes = entry.encode().len();
        if edit_bytes > EDIT_BYTES_MAX {
            return Err(ManifestError::EditTooLarge {
                branch: self.branch,
                edit_bytes,
                bytes_max: EDIT_BYTES_MAX,
            });
        }
        self.append_next(entry).await
    }

    /// Says which history layers have from now on. As [`ManifestLog::commit`].
    pub async fn keep_history(&mut self, kept: KeptHistory) -> Result<(), ManifestError> {
        let epoch = self.names.epoch;
        self.append_next(Entry::History { epoch, kept }).await
    }

    /// Appends an entry, and a snapshot before it if one is due.
    async fn append_next(&mut self, entry: Entry) -> Result<(), ManifestError> {
        if self
            .state
            .next_number()
            .is_multiple_of(ENTRIES_PER_SNAPSHOT)
        {
            let root = write_snapshot(&self.objects, &self.keys, &self.names, &self.state).await?;
            self.append(Entry::Snapshot(root)).await?;
        }
        self.append(entry).await
    }

    async fn append(&mut self, entry: Entry) -> Result<(), ManifestError> {
        if self.in_doubt {
            return Err(ManifestError::OutcomeUnknown {
                branch: self.branch,
            });
        }
        // What does not fit is refused before it is written.
        self.state.check(&entry)?;
        self.in_doubt = true;
        let number = self.state.next_number();
        let mut deks = self.names.deks.lock().await;
        put_entry(
            &self.objects,
            &self.keys,
            self.branch,
            number,
            &entry,
            &mut deks,
        )
        .await?;
        self.in_doubt = false;
        self.state.apply(entry)
    }
}

impl<O: Objects> WriterNames<O> {
    fn new(branch: BranchId, epoch: u32, start: u64, deks: DekAllocator<O>) -> WriterNames<O> {
        WriterNames {
            branch,
            epoch,
            next_sequence: AtomicU64::new(start),
            deks: Mutex::new(deks),
        }
    }
}

/// Puts one entry under its number, or finds out that it is there already (by a retry below us), or that another
/// one is (`Fenced`).
async fn put_entry<O: Objects>(
    objects: &O,
    keys: &KeyTables,
    branch: BranchId,
    number: u64,
    entry: &Entry,
    deks: &mut DekAllocator<O>,
) -> Result<(), ManifestError> {
    let (id, dek) = deks.next().await?;
    let place = RecordPlace {
        tenant: keys.tenant(),
        branch,
        number,
    };
    let bytes = seal_under_dek(&entry.format(), &place, id, &dek, &entry.encode());
    let path = names::manifest_entry(keys.tenant(), branch, number);
    match put_once(objects, &path, bytes).await? {
        PutOnce::Ours => Ok(()),
        PutOnce::Taken => Err(ManifestError::Fenced { branch, number }),
    }
}

/// Whose object is under a name after a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PutOnce {
    /// Ours: by this put, or by a try of it whose answer got lost.
    Ours,
    /// Another writer's.
    Taken,
}

/// Puts if absent; a name that is taken is read back and compared.
pub(crate) async fn put_once<O: Objects>(
    objects: &O,
    path: &str,
    bytes: Bytes,
) -> Result<PutOnce, StoreError> {
    match objects.put_if_absent(path, bytes.clone()).await {
        Ok(()) => Ok(PutOnce::Ours),
        Err(StoreError::AlreadyExists { .. }) => {
            let there = objects.get_all(path).await?;
            Ok(if there == bytes || planted(PlantedBug::TakenIsOurs) {
                PutOnce::Ours
            } else {
                PutOnce::Taken
            })
        }
        Err(other) => Err(other),
    }
}

/// Writes the nodes that changed since the last snapshot and returns the root of the next one. Memory: the nodes
/// being read ahead, and one object.
async fn write_snapshot<O: Objects>(
    objects: &O,
    keys: &KeyTables,
    names: &WriterNames<O>,
    state: &ManifestState,
) -> Result<SnapshotRoot, ManifestError> {
    let plan = plan_snapshot(state);
    let mut parts = stream::iter(plan.into_iter().map(|part| async move {
        let sections = match part.old {
            Some(node) if part.changed => {
                fetch_node(objects, keys, names.branch, state.root(), &node).await?
            }
            _ => Vec::new(),
        };
        Ok::<_, ManifestError>((part, sections))
    }))
    .buffered(NODES_AHEAD_MAX);

    let mut writer = SnapshotWriter::new(objects, keys, names, state);
    while let Some((part, sections)) = parts.try_next().await? {
        match part.old {
            Some(node) if !part.changed => writer.keep(&node).await?,
            _ => {
                for partition in part.partitions() {
                    let start = sections.partition_point(|section| section.partition < partition);
                    let end = sections.partition_point(|section| section.partition <= partition);
                    writer
                        .add(&state.sections_now(partition, &sections[start..end]))
                        .await?;
                }
            }
        }
    }
    writer.finish().await
}

/// A part of the partitions, and where its sections are so far.
struct SnapshotPart {
    first: u16,
    last: u16,
    old: Option<NodeRef>,
    changed: bool,
}

impl SnapshotPart {
    fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (self.first..=self.last).filter_map(Partition::new)
    }
}

/// Nodes of the old snapshot, and partitions that came in between them, in order of partition.
fn plan_snapshot(state: &ManifestState) -> Vec<SnapshotPart> {
    let changed = state.changed_partitions();
    let nodes = &state.root().nodes;
    let covered = |partition: &Partition| state.root().node_of(*partition).is_some();
    let fresh = changed
        .iter()
        .filter(|partition| !covered(partition))
        .map(|partition| SnapshotPart {
            first: partition.number(),
            last: partition.number(),
            old: None,
            changed: true,
        });
    let mut parts: Vec<SnapshotPart> = nodes
        .iter()
        .map(|node| SnapshotPart {
            first: node.first.number(),
            last: node.last.number(),
            old: Some(*node),
            changed: changed.range(node.first..=node.last).next().is_some(),
        })
        .chain(fresh)
        .collect();
    parts.sort_by_key(|part| part.first);
    parts
}

/// Packs sections into nodes, nodes into objects, and makes the objects durable.
struct SnapshotWriter<'a, O> {
    objects: &'a O,
    keys: &'a KeyTables,
    names: &'a WriterNames<O>,
    old: &'a SnapshotRoot,
    new: SnapshotRoot,
    /// Where the old root's objects are in the new root's list.
    kept_objects: BTreeMap<u16, u16>,
    /// Of the node that is being filled.
    pending: Vec<LayerSection>,
    open: Option<(u16, ObjectId, SnapshotObjectWriter)>,
}

impl<'a, O: Objects> SnapshotWriter<'a, O> {
    fn new(
        objects: &'a O,
        keys: &'a KeyTables,
        names: &'a WriterNames<O>,
        state: &'a ManifestState,
    ) -> Self {
        SnapshotWriter {
            objects,
            keys,
            names,
            old: state.root(),
            new: SnapshotRoot {
                facts: state.facts().clone(),
                objects: Vec::new(),
                nodes: Vec::new(),
            },
            kept_objects: BTreeMap::new(),
            pending: Vec::new(),
            open: None,
        }
    }

    /// Refers to a node where it is.
    async fn keep(&mut self, node: &NodeRef) -> Result<(), ManifestError> {
        self.close_node().await?;
        let object = match self.kept_objects.get(&node.object) {
            Some(place) => *place,
            None => {
                let place = self.place_object(*self.old.object_of(node));
                self.kept_objects.insert(node.object, place);
                place
            }
        };
        self.new.nodes.push(NodeRef { object, ..*node });
        Ok(())
    }

    /// Adds the sections of one partition.
    async fn add(&mut self, sections: &[LayerSection]) -> Result<(), ManifestError> {
        let sections_max = NODE_BYTES_TARGET / SECTION_BYTES;
        if self.pending.len() + sections.len() > sections_max {
            self.close_node().await?;
        }
        self.pending.extend_from_slice(sections);
        Ok(())
    }

    async fn close_node(&mut self) -> Result<(), ManifestError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let sections = std::mem::take(&mut self.pending);
        if self.open.is_none() {
            let (object, id, dek) = self.names.next().await?;
            let writer = SnapshotObjectWriter::new(self.keys.tenant(), object, id, &dek);
            let place = self.place_object(writer.object());
            self.open = Some((place, object, writer));
        }
        let (place, _, writer) = self.open.as_mut().expect("opened above");
        self.new.nodes.push(writer.push(*place, &sections));
        if writer.len_bytes() >= OBJECT_BYTES_TARGET {
            self.close_object().await?;
        }
        Ok(())
    }

    async fn close_object(&mut self) -> Result<(), ManifestError> {
        if let Some((_, object, writer)) = self.open.take() {
            let path = names::snapshot(self.keys.tenant(), object);
            if put_once(self.objects, &path, writer.finish()).await? == PutOnce::Taken {
                return Err(StoreError::AlreadyExists { path }.into());
            }
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<SnapshotRoot, ManifestError> {
        self.close_node().await?;
        self.close_object().await?;
        Ok(self.new)
    }

    fn place_object(&mut self, object: NodeObject) -> u16 {
        let place = u16::try_from(self.new.objects.len())
            .expect("no more objects than nodes, no more nodes than partitions");
        self.new.objects.push(object);
        place
    }
}

/// Other claimers that may win before we give up.
const CLAIM_ATTEMPTS_MAX: u32 = 16;

/// Largest body of an edit; about 33,000 sections.
pub const EDIT_BYTES_MAX: usize = 4 << 20;

/// Nodes being read at once while a snapshot is written.
const NODES_AHEAD_MAX: usize = 8;

/// A snapshot object is closed at this size.
const OBJECT_BYTES_TARGET: usize = 32 << 20;

/// Sequences of objects written before the epoch was claimed.
const UNCLAIMED_SEQUENCES: u64 = 1 << 63;

#[cfg(test)]
mod tests;
