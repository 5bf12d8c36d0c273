//! Checks a branch as it is stored: that all its manifest names is there and opens, and that every version can be replayed.
//!
//! Reads behind all else, and needs keys, unlike [`scrub`](crate::scrub), which looks at checksums only. What a branch has of its
//! ancestors is theirs: where a value begins with a change of what an ancestor has, it is read as anybody would.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{CatalogError, Cpu, Window};
use crate::error::ReadError;
use crate::ingest::{IngestError, OnCores, read_piece};
use crate::io::clock::Clock;
use crate::layer::ValueKind;
use crate::manifest::{BranchFacts, KeptHistory, KeyTables, LayerSection, ManifestError, names};
use crate::merge::{MergeReader, begins, replay};
use crate::redo::Redo;
use crate::shard::{Platform, Shard, SharedBranch, SharedBranches};
use crate::store::StoreClient;
use crate::store::objects::{Objects, StoreError};
use crate::types::{BranchId, Key, Lsn, ObjectId, TenantId};

/// Looks at values that are read back.
pub trait Inspector: Send + Sync + 'static {
    /// What is wrong with the value that `key` has at `lsn`, which somebody may read.
    ///
    /// # Errors
    /// A message that names what is wrong, never content.
    fn inspect(&self, key: &Key, lsn: Lsn, value: &[u8]) -> Result<(), String>;

    /// How people write a key.
    fn name(&self, key: &Key) -> String;
}

/// How far a check goes.
#[derive(Clone)]
pub struct CheckConfig {
    /// Whether layers are read, every seal is opened and every version replayed; else only what is named and listed is compared.
    pub is_deep: bool,
    /// Bytes of layers that are in memory at once, opened.
    pub step_bytes: u64,
    /// Longest wait for the branch to open.
    pub open_deadline: Duration,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The object, or the key and LSN.
    pub place: String,
    /// What is wrong.
    pub reason: String,
}

/// What a check saw.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Where history that can be read begins; where it ends.
    pub readable: Option<(Lsn, Lsn)>,
    /// The branch that this one left, and where.
    pub parent: Option<(BranchId, Lsn)>,
    /// Layers that the manifest names,
    pub layers: u64,
    /// and their bytes.
    pub layer_bytes: u64,
    /// Bytes of layers that were read.
    pub read_bytes: u64,
    /// Pieces of WAL behind the layers,
    pub wal_pieces: u64,
    /// and the bytes of WAL in them.
    pub wal_bytes: u64,
    /// Layers of earlier writers that the manifest does not name, and their bytes: the next writer deletes them.
    pub orphans: (u64, u64),
    /// Keys that have a version in layers.
    pub keys: u64,
    /// Versions that were opened,
    pub versions: u64,
    /// changes that were replayed on the version before,
    pub replayed: u64,
    /// and versions below all that can be read, which were opened only.
    pub unread: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Findings that are not listed, since there are too many.
    pub more_findings: u64,
}

impl CheckReport {
    fn find(&mut self, place: impl ToString, reason: impl ToString) {
        if self.findings.len() == FINDINGS_MAX {
            self.more_findings += 1;
            return;
        }
        self.findings.push(Finding {
            place: place.to_string(),
            reason: reason.to_string(),
        });
    }
}

/// The branch that is checked.
pub(crate) struct CheckedBranch<'b> {
    pub(crate) branches: &'b Arc<SharedBranches>,
    pub(crate) place: (TenantId, BranchId),
}

/// See [`Engine::check_branch`](crate::Engine::check_branch).
pub(crate) async fn check_branch<C: OnCores>(
    CheckedBranch { branches, place }: CheckedBranch<'_>,
    cores: &C,
    clock: &impl Clock,
    (config, inspector): (&CheckConfig, &Arc<dyn Inspector>),
    cpu: &impl Cpu,
    mut progress: impl FnMut(&CheckReport),
) -> Result<CheckReport, IngestError> {
    let number = branches.open(place, clock, config.open_deadline).await?;
    let of_tenant = branches.catalog().tenant(place.0).await?;
    let redo = cores.on_core(0, async |shard: Shard<C::Platform>| shard.redo());
    let checking = Checking {
        place,
        branches,
        shared: branches.get(number),
        keys: Arc::clone(of_tenant.keys()),
        store: branches.catalog().objects().clone(),
        redo: redo.await.ok_or(IngestError::CoreStopped)?,
        inspector,
    };
    let manifest = checking.shared.manifest();
    let facts = manifest.facts();
    let mut report = CheckReport {
        readable: facts.readable_from.map(|from| (from, facts.last_lsn)),
        parent: facts.creation.parent,
        ..CheckReport::default()
    };
    let sections = manifest.all_sections(&checking.store).await?;
    let sections = sections.into_iter().flat_map(|(_, sections)| sections);
    // One of each layer.
    let layers: HashMap<ObjectId, LayerSection> =
        sections.map(|section| (section.object, section)).collect();
    let mut layers: Vec<LayerSection> = layers.into_values().collect();
    layers.sort_by_key(|section| section.object);
    let there = checking.compare_listing(&layers, &mut report).await?;
    checking.check_wal(facts, &mut report).await?;
    progress(&report);
    if !config.is_deep {
        return Ok(report);
    }
    let mut opened = Vec::new();
    for section in layers.iter().filter(|layer| there.contains(&layer.object)) {
        match branches.layer(&checking.shared, section).await {
            Ok(layer) => opened.push(layer),
            Err(error @ ReadError::Unavailable { .. }) => return Err(error.into()),
            Err(error) => report.find(names::layer(place.0, section.object), error),
        }
    }
    let mut reader = MergeReader {
        layers: opened,
        store: checking.store.clone(),
        key_space: Arc::clone(branches.catalog().key_space()),
    };
    for step in reader.steps(config.step_bytes) {
        let fetched = loop {
            match reader.fetch(&step).await {
                Ok(fetched) => break fetched,
                Err((
                    gone,
                    error @ (StoreError::NotFound { .. } | StoreError::Truncated { .. }),
                )) => {
                    report.find(gone.path(), error);
                    reader
                        .layers
                        .retain(|layer| layer.object() != gone.object());
                }
                Err((_, error)) => return Err(error.into()),
            }
        };
        report.read_bytes += fetched.bytes();
        let (redo, inspector) = (Arc::clone(&checking.redo), Arc::clone(inspector));
        let readable = Readable::of(facts);
        let work = move || {
            let mut window = Window::for_reading();
            let damaged = fetched.open_into(&mut window);
            let seen = look_at_all(&mut window, &readable, &*redo, &*inspector);
            (seen, damaged)
        };
        let (seen, damaged) = cpu.run(work).await;
        for damaged in &damaged {
            let reason = damaged.explain(&checking.store).await;
            report.find(damaged.layer.path(), reason);
        }
        checking.take(seen, (cores, facts), &mut report).await?;
        progress(&report);
    }
    Ok(report)
}

/// What a check works with.
struct Checking<'c> {
    place: (TenantId, BranchId),
    branches: &'c Arc<SharedBranches>,
    shared: Arc<SharedBranch>,
    keys: Arc<KeyTables>,
    store: StoreClient,
    redo: Arc<dyn Redo>,
    inspector: &'c Arc<dyn Inspector>,
}

impl Checking<'_> {
    /// Compares what the manifest names with what is there; the layers that are.
    async fn compare_listing(
        &self,
        layers: &[LayerSection],
        report: &mut CheckReport,
    ) -> Result<HashSet<ObjectId>, IngestError> {
        let (tenant, branch) = self.place;
        let epoch = self.shared.manifest().facts().epoch;
        let listed = self
            .store
            .list(&names::layers(tenant, branch), None)
            .await?;
        let listed: HashMap<ObjectId, u64> = listed
            .iter()
            .filter_map(|object| Some((names::layer_at(branch, &object.path)?, object.size_bytes)))
            .collect();
        let mut there = HashSet::new();
        for layer in layers {
            report.layers += 1;
            report.layer_bytes += layer.object_bytes;
            let path = names::layer(tenant, layer.object);
            // One that another branch wrote is not in this listing.
            let found = match listed.get(&layer.object) {
                Some(bytes) => Some(*bytes),
                None if layer.object.branch == branch => None,
                None => Some(layer.object_bytes),
            };
            match found {
                Some(bytes) if bytes == layer.object_bytes => {
                    there.insert(layer.object);
                }
                Some(bytes) => {
                    let wanted = layer.object_bytes;
                    report.find(path, format_args!("has {bytes} bytes instead of {wanted}"));
                }
                None => report.find(path, "is not there"),
            }
        }
        let named: HashSet<ObjectId> = layers.iter().map(|layer| layer.object).collect();
        for (object, bytes) in listed {
            if object.epoch < epoch && !named.contains(&object) {
                report.orphans.0 += 1;
                report.orphans.1 += bytes;
            }
        }
        Ok(there)
    }

    /// Opens the WAL behind the layers, which the next writer begins with.
    async fn check_wal(
        &self,
        facts: &BranchFacts,
        report: &mut CheckReport,
    ) -> Result<(), IngestError> {
        let (tenant, branch) = self.place;
        // Where the next writer begins.
        let imported = facts.base_backup.map_or(0, |backup| backup.wal_objects);
        let mut number = facts.wal.map_or(imported, |wal| wal.piece);
        let mut end = facts.wal.map(|wal| wal.lsn);
        let mut is_second_try = false;
        loop {
            let path = names::wal(tenant, branch, number);
            let read = read_piece(&self.store, &self.keys, self.place, number);
            match read.await {
                Ok(piece) => {
                    if let Some(end) = end.filter(|end| *end != piece.start) {
                        let reason = format_args!("begins at {}, not at {end}", piece.start);
                        report.find(&path, reason);
                    }
                    // An empty one on a branch without WAL says nothing of where it will begin.
                    if !piece.bytes.is_empty() || end.is_some() {
                        end = Some(piece.end());
                    }
                    report.wal_pieces += 1;
                    report.wal_bytes += piece.bytes.len() as u64;
                    is_second_try = false;
                }
                Err(IngestError::Catalog(CatalogError::Manifest(ManifestError::Store(
                    StoreError::NotFound { .. },
                )))) => {
                    let directory = names::all_wal(tenant, branch);
                    let later = self.store.list_first(&directory, Some(&path), 1).await?;
                    if later.is_empty() {
                        return Ok(());
                    }
                    if is_second_try {
                        report.find(&path, "is not there, and there is WAL behind it");
                        return Ok(());
                    }
                    // Somebody may be writing.
                    is_second_try = true;
                    continue;
                }
                Err(error) if is_damage(&error) => {
                    report.find(&path, error);
                    end = None;
                }
                Err(error) => return Err(error),
            }
            number += 1;
        }
    }

    /// Takes what was seen of a step, and reads what could not be judged by the layers alone.
    async fn take<C: OnCores>(
        &self,
        seen: Seen,
        (cores, facts): (&C, &BranchFacts),
        report: &mut CheckReport,
    ) -> Result<(), IngestError> {
        report.keys += seen.keys;
        report.versions += seen.versions;
        report.replayed += seen.replayed;
        report.unread += seen.unread;
        for (key, lsn, reason) in seen.wrong {
            let place = format_args!("{} at {lsn}", self.inspector.name(&key)).to_string();
            report.find(place, reason);
        }
        let horizon = facts.readable_from.unwrap_or(facts.last_lsn);
        let place = self.place;
        for (key, lsn, next) in seen.continued {
            // The last moment at which this version is the newest: it may have come before the horizon.
            let at = next.map_or(facts.last_lsn, |next| Lsn(next.0 - 1));
            if at < horizon {
                report.unread += 1;
                continue;
            }
            let partition = self.branches.catalog().key_space().partition(&key);
            let core = usize::from(partition.number()) % cores.count();
            let read = cores.on_core(core, async move |shard: Shard<C::Platform>| {
                read_value(&shard, place, key, at).await
            });
            let read = read.await.ok_or(IngestError::CoreStopped)?;
            let found = match read {
                Ok(value) => self.inspector.inspect(&key, lsn, &value),
                Err(error @ ReadError::Unavailable { .. }) => return Err(error.into()),
                // The horizon was raised meanwhile.
                Err(ReadError::Gone { .. }) => {
                    report.unread += 1;
                    continue;
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = found {
                let place = format_args!("{} at {lsn}", self.inspector.name(&key)).to_string();
                report.find(place, reason);
            }
        }
        Ok(())
    }
}

async fn read_value<P: Platform>(
    shard: &Shard<P>,
    (tenant, branch): (TenantId, BranchId),
    key: Key,
    at: Lsn,
) -> Result<Vec<u8>, ReadError> {
    let branch = shard.open_branch(tenant, branch).await?;
    shard.read(&branch, key, at).await
}

/// What the versions of a step are.
#[derive(Default)]
struct Seen {
    keys: u64,
    versions: u64,
    replayed: u64,
    unread: u64,
    wrong: Vec<(Key, Lsn, String)>,
    /// Versions whose beginning is somewhere else, the newest of each key before its first beginning here; with the LSN of the next
    /// version, if there is one.
    continued: Vec<(Key, Lsn, Option<Lsn>)>,
}

/// What of a branch somebody may read.
struct Readable {
    horizon: Lsn,
    /// Below the horizon: where branches left.
    kept: KeptHistory,
}

impl Readable {
    fn of(facts: &BranchFacts) -> Readable {
        Readable {
            horizon: facts.readable_from.unwrap_or(facts.last_lsn),
            kept: facts.kept.clone(),
        }
    }

    /// Whether a version at `lsn` can be the newest to anybody; `next` is the one behind it.
    fn has(&self, lsn: Lsn, next: Option<Lsn>) -> bool {
        let Some(next) = next else { return true };
        next > self.horizon || self.kept.at.iter().any(|at| (lsn..next).contains(at))
    }
}

/// Replays all versions of all keys, and inspects those that somebody may read.
fn look_at_all(
    window: &mut Window,
    readable: &Readable,
    redo: &dyn Redo,
    inspector: &dyn Inspector,
) -> Seen {
    let mut seen = Seen::default();
    for group in window.groups() {
        let end = group.end;
        let lsn_of = |place: usize| window.version(place).2;
        let next_of = |place: usize| (place + 1 < end).then(|| lsn_of(place + 1));
        let can_be_read = |place: usize| readable.has(lsn_of(place), next_of(place));
        seen.keys += 1;
        seen.versions += group.len() as u64;
        let begin_from = |from: usize| (from..end).find(|place| begins(window, *place, redo));
        let first = begin_from(group.start);
        let continued = first.unwrap_or(end);
        if continued > group.start {
            let (_, key, lsn) = window.version(continued - 1);
            seen.continued.push((key, lsn, next_of(continued - 1)));
        }
        // From one version that needs none before it on; behind one that can't be replayed, from the next.
        let mut start = first;
        while let Some(from) = start {
            let (mut replayed, mut wrong) = (0, Vec::new());
            let outcome = replay(window, from..end, redo, |place, value| {
                let (_, key, lsn) = window.version(place);
                replayed += u64::from(window.kind(place) == ValueKind::Delta);
                if can_be_read(place)
                    && let Err(reason) = inspector.inspect(&key, lsn, value)
                {
                    wrong.push((key, lsn, reason));
                }
            });
            seen.replayed += replayed;
            seen.wrong.append(&mut wrong);
            start = match outcome {
                Ok(_) => None,
                Err((place, failed)) => {
                    let next = begin_from(place + 1);
                    let lost = place..next.unwrap_or(end);
                    if lost.clone().any(can_be_read) {
                        let (_, key, lsn) = window.version(place);
                        let reason = format!("can't be replayed: {failed}");
                        seen.wrong.push((key, lsn, reason));
                    } else {
                        seen.unread += lost.count() as u64;
                    }
                    next
                }
            };
        }
    }
    seen
}

/// Whether an object is there and is not what it should be.
fn is_damage(error: &IngestError) -> bool {
    matches!(
        error,
        IngestError::Catalog(CatalogError::Manifest(ManifestError::Record(_)))
    )
}

/// Findings that are listed.
const FINDINGS_MAX: usize = 1000;
