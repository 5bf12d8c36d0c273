//! What a manifest says: the last snapshot's root, and what the entries behind it changed. Entries are folded in
//! one by one, by writer and readers alike; whatever does not fit is an error and never guessed at.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures_util::future::try_join_all;

use super::entry::{self, Creation, Edit, Entry};
use super::error::ManifestError;
use super::key_tables::KeyTables;
use super::section::LayerSection;
use super::snapshot::{BranchFacts, SnapshotRoot};
use super::{ENTRIES_PER_SNAPSHOT, names};
use crate::crypto::sealed_record::{RecordPlace, SealedRecord};
use crate::store::objects::{Objects, StoreError};
use crate::types::{BranchId, ObjectId, Partition, TenantId};

/// A manifest up to one of its entries.
#[derive(Clone, Debug)]
pub(crate) struct ManifestState {
    branch: BranchId,
    /// Number of the entry that comes next.
    next_number: u64,
    /// The last snapshot's, with the facts of now.
    root: SnapshotRoot,
    /// Sections that came in since the snapshot.
    added: BTreeMap<Partition, Vec<LayerSection>>,
    /// Layers of the snapshot that went out since.
    removed: BTreeMap<Partition, HashSet<ObjectId>>,
}

impl ManifestState {
    /// The state behind `first`, which is a creation or a snapshot.
    fn begin(branch: BranchId, number: u64, first: Entry) -> Result<ManifestState, ManifestError> {
        let root = match (number, first) {
            (0, Entry::Create(creation)) => SnapshotRoot::empty(creation),
            (1.., Entry::Snapshot(root)) => root,
            _ => {
                return Err(ManifestError::Inconsistent {
                    branch,
                    number,
                    problem: "neither creation nor snapshot where one is due",
                });
            }
        };
        Ok(ManifestState {
            branch,
            next_number: number + 1,
            root,
            added: BTreeMap::new(),
            removed: BTreeMap::new(),
        })
    }

    /// The state of a branch behind its creation.
    pub(crate) fn created(
        branch: BranchId,
        creation: Creation,
    ) -> Result<ManifestState, ManifestError> {
        ManifestState::begin(branch, 0, Entry::Create(creation))
    }

    /// Folds in the next entry. On an error the state is as it was.
    pub(crate) fn apply(&mut self, entry: Entry) -> Result<(), ManifestError> {
        let snapshot_due = self.next_number.is_multiple_of(ENTRIES_PER_SNAPSHOT);
        match entry {
            Entry::Snapshot(root) if snapshot_due => {
                if root.facts != self.root.facts {
                    return Err(self.does_not_fit("snapshot of another state"));
                }
                self.root = root;
                self.added.clear();
                self.removed.clear();
            }
            _ if snapshot_due => return Err(self.does_not_fit("a snapshot was due")),
            Entry::Snapshot(_) | Entry::Create(_) => {
                return Err(self.does_not_fit("creation or snapshot out of turn"));
            }
            Entry::Claim { epoch } => {
                if epoch <= self.root.facts.epoch {
                    return Err(self.does_not_fit("claim of an epoch that was claimed before"));
                }
                self.root.facts.epoch = epoch;
            }
            Entry::Edit { epoch, edit } => {
                if epoch != self.root.facts.epoch {
                    return Err(self.does_not_fit("edit by a writer that lost its epoch"));
                }
                self.apply_edit(edit)?;
            }
        }
        self.next_number += 1;
        Ok(())
    }

    fn apply_edit(&mut self, edit: Edit) -> Result<(), ManifestError> {
        let facts = &self.root.facts;
        if edit.last_lsn < facts.last_lsn {
            return Err(self.does_not_fit("the last LSN goes back"));
        }
        let (came, came_bytes) = edit.added_layers();
        let went = u64::try_from(edit.removed.len()).expect("a count fits");
        let went_bytes: u64 = edit.removed.iter().map(|layer| layer.object_bytes).sum();
        let count = |now: u64, came: u64, went: u64| now.checked_add(came)?.checked_sub(went);
        let (Some(layers), Some(layer_bytes)) = (
            count(facts.layers, came, went),
            count(facts.layer_bytes, came_bytes, went_bytes),
        ) else {
            return Err(self.does_not_fit("more layers go out than there are"));
        };

        let facts = &mut self.root.facts;
        facts.layers = layers;
        facts.layer_bytes = layer_bytes;
        facts.last_lsn = edit.last_lsn;
        facts.readable_from = edit.readable_from.or(facts.readable_from);
        facts.base_backup = edit.base_backup.or(facts.base_backup);
        for section in edit.added {
            self.added
                .entry(section.partition)
                .or_default()
                .push(section);
        }
        for layer in edit.removed {
            for partition in layer.partitions {
                let added = self.added.entry(partition).or_default();
                let before = added.len();
                added.retain(|section| section.object != layer.object);
                if added.len() == before {
                    self.removed
                        .entry(partition)
                        .or_default()
                        .insert(layer.object);
                }
            }
        }
        Ok(())
    }

    fn does_not_fit(&self, problem: &'static str) -> ManifestError {
        ManifestError::Inconsistent {
            branch: self.branch,
            number: self.next_number,
            problem,
        }
    }

    /// Number of the entry that comes next.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// The branch as a whole.
    pub(crate) fn facts(&self) -> &BranchFacts {
        &self.root.facts
    }

    /// The last snapshot's root.
    pub(crate) fn root(&self) -> &SnapshotRoot {
        &self.root
    }

    /// Partitions whose sections are no longer as in the snapshot.
    pub(crate) fn changed_partitions(&self) -> BTreeSet<Partition> {
        self.added
            .keys()
            .chain(self.removed.keys())
            .copied()
            .collect()
    }

    /// The sections of `partition` now, if `in_snapshot` are those of the snapshot; by first key and LSN.
    pub(crate) fn sections_now(
        &self,
        partition: Partition,
        in_snapshot: &[LayerSection],
    ) -> Vec<LayerSection> {
        let removed = self.removed.get(&partition);
        let added = self.added.get(&partition);
        let mut sections: Vec<LayerSection> = in_snapshot
            .iter()
            .filter(|section| removed.is_none_or(|gone| !gone.contains(&section.object)))
            .chain(added.into_iter().flatten())
            .copied()
            .collect();
        sections.sort_by_key(|section| (section.first_key, section.first_lsn, section.object));
        sections
    }
}

/// The stored log of a branch from its newest snapshot on, not opened yet: reading it needs no key, so it can be
/// read while the key service unwraps the KEK.
#[derive(Debug)]
pub(crate) struct FetchedLog {
    branch: BranchId,
    /// Without holes; the first one is a creation or a snapshot.
    entries: Vec<(u64, SealedRecord)>,
}

impl FetchedLog {
    /// Two round trips: the newest names, then all entries from the newest snapshot on, at once. Every
    /// [`ENTRIES_PER_SNAPSHOT`]th entry is a snapshot, so its number follows from the newest one's.
    pub(crate) async fn fetch<O: Objects>(
        objects: &O,
        tenant: TenantId,
        branch: BranchId,
    ) -> Result<FetchedLog, ManifestError> {
        let directory = names::manifest(tenant, branch);
        let listed_max = usize::try_from(ENTRIES_PER_SNAPSHOT).expect("a small number");
        let newest = objects
            .list_first(&directory, listed_max)
            .await?
            .iter()
            .filter_map(|object| names::number_at_end(&object.path, 16))
            .map(|complement| !complement)
            .max()
            .ok_or(ManifestError::NoSuchBranch { branch })?;
        let first = newest - newest % ENTRIES_PER_SNAPSHOT;
        let gets = (first..=newest).map(|number| async move {
            let path = names::manifest_entry(tenant, branch, number);
            let bytes = objects.get_all(&path).await.map_err(|error| match error {
                StoreError::NotFound { .. } => ManifestError::Gap { branch, number },
                other => other.into(),
            })?;
            let place = RecordPlace {
                tenant,
                branch,
                number,
            };
            let record = SealedRecord::parse(&entry::FORMAT, &place, &path, &bytes)?;
            Ok::<_, ManifestError>((number, record))
        });
        let entries = try_join_all(gets).await?;
        Ok(FetchedLog { branch, entries })
    }

    /// The state behind the last entry. One round trip: the key tables that are not in memory, at once.
    pub(crate) async fn open<O: Objects>(
        &self,
        objects: &O,
        keys: &KeyTables,
    ) -> Result<ManifestState, ManifestError> {
        let ids = self
            .entries
            .iter()
            .map(|(_, record)| record.dek_id())
            .collect::<Result<Vec<_>, _>>()?;
        let tables: BTreeMap<u32, _> = ids.iter().map(|id| (id.table, *id)).collect();
        let branch = self.branch;
        try_join_all(tables.values().map(|id| keys.dek(objects, branch, *id))).await?;

        let mut state: Option<ManifestState> = None;
        for ((number, record), id) in self.entries.iter().zip(ids) {
            let dek = keys.dek(objects, branch, id).await?;
            let body = record.open(&dek)?;
            let entry = Entry::decode(&body).map_err(|problem| record.damaged(problem))?;
            match &mut state {
                None => state = Some(ManifestState::begin(branch, *number, entry)?),
                Some(state) => state.apply(entry)?,
            }
        }
        state.ok_or(ManifestError::NoSuchBranch { branch })
    }
}
