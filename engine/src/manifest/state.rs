//! What a manifest says: the last snapshot's root, and what the entries behind it changed. Entries are folded in
//! one by one, by writer and readers alike; whatever does not fit is an error and never guessed at.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures_util::future::try_join_all;

use super::entry::{self, BranchStart, Edit, Entry};
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
    /// The state behind `first`, which is a creation, a start or a snapshot.
    pub(crate) fn begin(
        branch: BranchId,
        number: u64,
        first: Entry,
    ) -> Result<ManifestState, ManifestError> {
        let root = match (number, first) {
            (0, Entry::Create(creation)) => SnapshotRoot::empty(creation),
            (0, Entry::Start(start)) => SnapshotRoot::started(start),
            (1.., Entry::Snapshot(root)) => root,
            _ => {
                return Err(ManifestError::Inconsistent {
                    branch,
                    number,
                    problem: "neither creation nor snapshot where one is due",
                });
            }
        };
        Ok(ManifestState::behind(branch, number + 1, root))
    }

    /// The state of a branch whose manifest has no entry yet.
    pub(crate) fn unwritten(branch: BranchId, start: BranchStart) -> ManifestState {
        ManifestState::behind(branch, 0, SnapshotRoot::started(start))
    }

    fn behind(branch: BranchId, next_number: u64, root: SnapshotRoot) -> ManifestState {
        ManifestState {
            branch,
            next_number,
            root,
            added: BTreeMap::new(),
            removed: BTreeMap::new(),
        }
    }

    /// Whether `entry` may come next.
    pub(crate) fn check(&self, entry: &Entry) -> Result<(), ManifestError> {
        let facts = &self.root.facts;
        let snapshot_due = self.next_number.is_multiple_of(ENTRIES_PER_SNAPSHOT);
        let problem = match entry {
            Entry::Snapshot(root) if snapshot_due && root.facts == *facts => return Ok(()),
            Entry::Snapshot(_) if snapshot_due => "snapshot of another state",
            _ if snapshot_due => "a snapshot was due",
            Entry::Snapshot(_) | Entry::Create(_) | Entry::Start(_) => {
                "creation or snapshot out of turn"
            }
            Entry::Claim { epoch } if *epoch > facts.epoch => return Ok(()),
            Entry::Claim { .. } => "claim of an epoch that was claimed before",
            Entry::Edit { epoch, .. } if *epoch != facts.epoch => {
                "edit by a writer that lost its epoch"
            }
            Entry::Edit { edit, .. } if edit.last_lsn < facts.last_lsn => "the last LSN goes back",
            Entry::Edit { edit, .. } if self.totals_after(edit).is_none() => {
                "more layers go out than there are"
            }
            Entry::Edit { .. } => return Ok(()),
            Entry::History { epoch, .. } if *epoch != facts.epoch => {
                "history by a writer that lost its epoch"
            }
            Entry::History { kept, .. } if !facts.kept.covers(kept) => {
                "history comes back that was given up"
            }
            Entry::History { kept, .. }
                if facts.readable_from.is_none_or(|from| kept.from > from) =>
            {
                "history is given up that can be read"
            }
            Entry::History { .. } => return Ok(()),
        };
        Err(ManifestError::Inconsistent {
            branch: self.branch,
            number: self.next_number,
            problem,
        })
    }

    /// Folds in the next entry. On an error the state is as it was.
    pub(crate) fn apply(&mut self, entry: Entry) -> Result<(), ManifestError> {
        self.check(&entry)?;
        match entry {
            Entry::Snapshot(root) => {
                self.root = root;
                self.added.clear();
                self.removed.clear();
            }
            Entry::Claim { epoch } => self.root.facts.epoch = epoch,
            Entry::Edit { edit, .. } => self.apply_edit(edit),
            Entry::History { kept, .. } => self.root.facts.kept = kept,
            Entry::Create(_) | Entry::Start(_) => unreachable!("checked above"),
        }
        self.next_number += 1;
        Ok(())
    }

    /// Fetches the next entry and folds it in; the layers that went out by it, `None` if there is no such entry yet.
    pub(crate) async fn fold_next<O: Objects>(
        &mut self,
        objects: &O,
        tenant: TenantId,
        keys: &KeyTables,
    ) -> Result<Option<Vec<ObjectId>>, ManifestError> {
        let (branch, number) = (self.branch, self.next_number);
        let path = names::manifest_entry(tenant, branch, number);
        let bytes = match objects.get_all(&path).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let place = RecordPlace {
            tenant,
            branch,
            number,
        };
        let record = SealedRecord::parse(&entry::FORMAT, &place, &path, &bytes)?;
        let dek = keys.dek(objects, branch, record.dek_id()?).await?;
        let body = record.open(&dek)?;
        let entry = Entry::decode(&body).map_err(|problem| record.damaged(problem))?;
        let went = match &entry {
            Entry::Edit { edit, .. } => edit.removed.iter().map(|layer| layer.object).collect(),
            _ => Vec::new(),
        };
        match number {
            0 => *self = ManifestState::begin(branch, 0, entry)?,
            _ => self.apply(entry)?,
        }
        Ok(Some(went))
    }

    /// Number and bytes of all layers after `edit`.
    fn totals_after(&self, edit: &Edit) -> Option<(u64, u64)> {
        let facts = &self.root.facts;
        let (came, came_bytes) = edit.added_layers();
        let went = u64::try_from(edit.removed.len()).ok()?;
        let went_bytes = edit
            .removed
            .iter()
            .try_fold(0u64, |sum, layer| sum.checked_add(layer.object_bytes))?;
        let layers = facts.layers.checked_add(came)?.checked_sub(went)?;
        let layer_bytes = facts.layer_bytes.checked_add(came_bytes)?;
        Some((layers, layer_bytes.checked_sub(went_bytes)?))
    }

    fn apply_edit(&mut self, edit: Edit) {
        let (layers, layer_bytes) = self.totals_after(&edit).expect("checked before");
        let facts = &mut self.root.facts;
        facts.layers = layers;
        facts.layer_bytes = layer_bytes;
        facts.last_lsn = edit.last_lsn;
        facts.readable_from = edit.readable_from.or(facts.readable_from);
        facts.base_backup = edit.base_backup.or(facts.base_backup);
        facts.wal = edit.wal.or(facts.wal);
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
    /// Without holes; the first one is a creation, a start or a snapshot.
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
            .list_first(&directory, None, listed_max)
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
